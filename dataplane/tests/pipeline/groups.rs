//! Groups: which buckets run, what they may change, and what is counted.

use crate::kit::*;
use crate::packets::*;
use sluice_dataplane::action::Action;
use sluice_dataplane::action::group::{Bucket, GroupKind, Selection};
use sluice_dataplane::counters::Drop;
use sluice_dataplane::packet::build::PacketBuilder;
use sluice_dataplane::packet::field::Field;

fn to_group(id: u32) -> Vec<Flow> {
    vec![always([Action::Group(id), out(4)])]
}

fn weighted(id: u32, weight: u16, to: u32) -> Bucket {
    Bucket { weight, ..bucket(id, [out(to)]) }
}

fn udp_with(tos: u8, ttl: u8) -> Vec<u8> {
    v4().tos(tos).ttl(ttl).udp(1000, 2000).payload(b"hello").build()
}

/// Many flows, forth and back.
fn flows(n: u16) -> impl Iterator<Item = (Vec<u8>, Vec<u8>)> {
    (0..n).map(|i| {
        let (a, b) = ([10, 0, (i >> 8) as u8, i as u8], [10, 1, 0, 1]);
        let forth = PacketBuilder::eth(A, B).ipv4(a, b).tcp(1000 + i, 80).build();
        let back = PacketBuilder::eth(B, A).ipv4(b, a).tcp(80, 1000 + i).build();
        (forth, back)
    })
}

#[test]
fn all_buckets_run_in_action_set_order_and_give_nothing_back() {
    let buckets = [
        bucket(1, [out(2), Action::DecTtl, set(Field::IpTtl, 9)]),
        bucket(2, [Action::DecTtl]),
        bucket(3, [set(Field::IpTos, 4), resubmit(7)]),
    ];
    let mut rules = to_group(1);
    rules.push(flow(7, 1).does([out(3), Action::Exit, out(2)]));
    let net = Net::of(rules).group(group(1, GroupKind::All, buckets));
    let mut s = Switch::new(&net);
    assert_eq!(s.twice(1, &udp()), [(2, udp_with(0, 9)), (3, udp_with(4, 64)), (4, udp())]);
    let n = udp().len() as u64;
    assert_eq!(s.see().groups[0], [(2, 2 * n); 4], "the group and each of its buckets");
}

#[test]
fn a_label_too_many_ends_its_bucket_alone() {
    let label = || Action::PushMpls(0x8847);
    let buckets = [bucket(1, [out(2)]), bucket(2, [resubmit(7)]), bucket(3, [out(2)])];
    let mut rules = to_group(1);
    rules.push(flow(7, 1).does([out(3), label(), label(), label(), label(), out(1)]));
    let net = Net::of(rules).group(group(1, GroupKind::All, buckets));
    let mut s = Switch::new(&net);
    assert_eq!(s.twice(1, &udp()), [2, 3, 2, 4].map(|port| (port, udp())));
    assert_eq!(s.dropped(Drop::MplsTooMany), 2);
    // Without a group it voids all, also what left before.
    let all = [out(2), label(), label(), label(), label(), out(3)];
    assert_eq!(Switch::new(&Net::of([always(all)])).twice(1, &udp()), []);
}

#[test]
fn what_a_bucket_resubmits_to_does_to_the_action_set_stays() {
    let mut rules = to_group(1);
    rules.push(flow(7, 1).does([Action::WriteActions([out(2)].into())]));
    let net = Net::of(rules).group(group(1, GroupKind::Indirect, [bucket(0, [resubmit(7)])]));
    assert_eq!(Switch::new(&net).ports(1, &udp()), [4, 2]);
}

#[test]
fn select_keeps_to_its_weights_and_both_directions_to_one_bucket() {
    for selection in [Selection::Default, Selection::DpHash { basis: 7, symmetric: true }] {
        for weights in [[1u16, 1, 1], [1, 2, 5], [300, 1, 300], [0, 3, 1]] {
            let buckets = [2, 3, 4].into_iter().zip(weights).map(|(p, w)| weighted(p, w, p));
            let mut g = group(1, GroupKind::Select, buckets);
            g.selection = selection.clone();
            let net = Net::of([always([set(Field::InPort, 0xffff), Action::Group(1)])]).group(g);
            let mut s = Switch::sized(&net, 64, 64);
            let total = 1200;
            let mut seen = [0u32; 5];
            for (forth, back) in flows(total) {
                let to = s.batch_seen(1, &[forth], None, false)[0].0;
                let from = s.batch_seen(1, &[back], None, false)[0].0;
                assert_eq!(to, from);
                seen[usize::from(to)] += 1;
            }
            let sum: u32 = weights.iter().map(|w| u32::from(*w)).sum();
            for (port, weight) in (2..).zip(weights) {
                let fair = u32::from(total) * u32::from(weight) / sum;
                let off = seen[port].abs_diff(fair);
                // Scores, taken where weights lie far apart, favour the heavy ones a little.
                assert!(off < 100 && (weight > 0 || seen[port] == 0), "{weights:?}: {seen:?}");
            }
            s.see();
        }
    }
}

#[test]
fn a_hash_over_fields_sees_those_fields_alone() {
    let mut g = group(1, GroupKind::Select, (2..=4).map(|p| weighted(p, 1, p)));
    g.selection =
        Selection::Hash { basis: 1, fields: [(Field::IpSrc, 0xff00), (Field::Ipv6Src, 1)].into() };
    let net = Net::of([always([set(Field::InPort, 0xffff), Action::Group(1)])]).group(g);
    let mut s = Switch::sized(&net, 64, 64);
    let mut of_third = [0; 8];
    for i in 0..200u8 {
        let packet = PacketBuilder::eth(A, B).ipv4([10, 0, i % 8, i], [10, i, 0, 1]);
        let to = s.send(1, &packet.tcp(u16::from(i), 80).build())[0].0;
        let before = std::mem::replace(&mut of_third[usize::from(i % 8)], to);
        assert!(before == 0 || before == to, "only the third byte of the address counts");
    }
    let mut used = of_third.to_vec();
    used.dedup();
    assert!(used.len() > 1);
    let two: Vec<u16> =
        [V6_A, V6_B].map(|a| s.ports(1, &eth().ipv6(a, V6_B).udp(1, 2).build())[0]).into();
    assert_eq!(s.ports(1, &eth().ipv6(V6_A, V6_A).udp(9, 9).build()), two[..1]);
}

#[test]
fn the_hash_takes_the_packet_as_it_is_edited() {
    let g = group(1, GroupKind::Select, (2..=4).map(|p| weighted(p, 1, p)));
    let same = [Field::IpSrc, Field::IpDst, Field::TcpSrc].map(|f| set(f, 5));
    let net = Net::of([always(same.into_iter().chain([Action::Group(1)]))]).group(g);
    let mut s = Switch::sized(&net, 64, 64);
    let to: Vec<u16> = flows(50).map(|(p, _)| s.send(1, &p)[0].0).collect();
    assert!(to.iter().all(|p| *p == to[0]), "{to:?}");
}

#[test]
fn a_dead_bucket_hands_over_its_flows_and_moves_no_others() {
    let buckets = (2..=4).map(|p| Bucket { watch_port: Some(p), ..weighted(p, 2, p) });
    let mut net = Net::of([always([Action::Group(1)])]).group(group(1, GroupKind::Select, buckets));
    let mut s = Switch::sized(&net, 64, 64);
    let all = |s: &mut Switch| -> Vec<u16> {
        flows(300).map(|(p, _)| s.batch_seen(1, &[p], None, false)[0].0).collect()
    };
    let before = all(&mut s);
    net.port(3).up = false;
    s.program(&net);
    let after = all(&mut s);
    let mut inherited = [0; 5];
    for (b, a) in before.iter().zip(&after) {
        assert!(*b == *a || *b == 3 && *a != 3);
        inherited[usize::from(*a)] += u32::from(*b == 3);
    }
    assert!(inherited[2] > 20 && inherited[4] > 20, "{inherited:?}");
    net.port(2).up = false;
    net.port(4).up = false;
    s.program(&net);
    assert_eq!(s.ports(1, &udp()), []);
    assert_eq!(s.dropped(Drop::NoLiveBucket), 1);
}

#[test]
fn fast_failover_takes_the_first_live_bucket() {
    let watch = |p: u32| Bucket { watch_port: Some(p), ..bucket(p, [out(p)]) };
    let by_group = Bucket { watch_group: Some(2), ..bucket(9, [Action::Group(2)]) };
    let mut net = Net::of(to_group(1))
        .group(group(1, GroupKind::FastFailover, [watch(2), by_group]))
        .group(group(2, GroupKind::FastFailover, [watch(3)]));
    let mut s = Switch::new(&net);
    assert_eq!(s.ports(1, &udp()), [2, 4]);
    net.port(2).up = false;
    s.program(&net);
    assert_eq!(s.ports(1, &udp()), [3, 4]);
    assert_eq!(s.ports(1, &udp()), [3, 4]);
    let n = udp().len() as u64;
    let (two, none) = ((2, 2 * n), (0, 0));
    assert_eq!(s.see().groups[..2], [vec![two, none, two], vec![two, two]]);
    net.port(3).up = false;
    s.program(&net);
    assert_eq!(s.ports(1, &udp()), [4], "no live bucket: nothing, and later actions run");
}

#[test]
fn a_bucket_that_watches_a_port_and_a_group_needs_one_of_them() {
    let either = Bucket { watch_port: Some(2), watch_group: Some(2), ..bucket(1, [out(3)]) };
    let mut net = Net::of([always([Action::Group(1)])])
        .group(group(1, GroupKind::FastFailover, [either]))
        .group(group(
            2,
            GroupKind::FastFailover,
            [Bucket { watch_port: Some(4), ..bucket(1, []) }],
        ));
    for (two, four, lives) in [(true, false, true), (false, true, true), (false, false, false)] {
        (net.port(2).up, net.port(4).up) = (two, four);
        assert_eq!(Switch::new(&net).ports(1, &udp()).len(), usize::from(lives));
    }
}

#[test]
fn groups_that_watch_each_other_in_a_circle_or_a_thicket_are_judged_in_time() {
    let watches = |id: u32, n: usize| {
        (0..n).map(move |_| Bucket { watch_group: Some(id), ..bucket(1, [out(2)]) })
    };
    let circle = Net::of([always([Action::Group(1)])])
        .group(group(1, GroupKind::FastFailover, watches(2, 1)))
        .group(group(2, GroupKind::FastFailover, watches(1, 1)));
    assert_eq!(Switch::new(&circle).ports(1, &udp()), []);
    let mut thicket = Net::of([always([Action::Group(0)])]);
    for id in 0..60 {
        thicket = thicket.group(group(id, GroupKind::FastFailover, watches(id + 1, 2)));
    }
    assert_eq!(Switch::new(&thicket).ports(1, &udp()), []);
}

#[test]
fn a_group_that_runs_itself_and_one_that_is_not_there() {
    let net = Net::of([always([out(2), Action::Group(1), out(3)])]).group(group(
        1,
        GroupKind::Indirect,
        [bucket(0, [Action::Group(1)])],
    ));
    let mut s = Switch::new(&net);
    assert_eq!(s.ports(1, &udp()), [], "an error discards all");
    assert_eq!(s.dropped(Drop::ResubmitDepth), 1);
    let rules =
        [always([resubmit(1), out(3)]), flow(1, 1).does([out(2), Action::Group(9), out(4)])];
    let mut s = Switch::new(&Net::of(rules));
    assert_eq!(s.ports(1, &udp()), [2, 3], "the list ends, what led to it goes on");
    assert_eq!(s.dropped(Drop::NoSuchGroup), 1);
}

#[test]
fn groups_that_double_end_at_the_bound_of_resubmits() {
    let mut net = Net::of([always([Action::Group(0)])]);
    for id in 0..40 {
        let twice = (0..2).map(|n| bucket(n, [Action::Group(id + 1)]));
        net = net.group(group(id, GroupKind::All, twice));
    }
    net = net.group(group(40, GroupKind::All, [bucket(0, [set(Field::Reg0, 1), resubmit(9)])]));
    let mut s = Switch::new(&net);
    assert_eq!(s.ports(1, &udp()), []);
    assert_eq!(s.dropped(Drop::ResubmitCount), 1);
}
