//! Stack, action set, ranges and cut copies, queues: what Open vSwitch 3.1 makes of them. The
//! expectations that could be doubted were asked of it with `ofproto/trace`.

use crate::kit::*;
use crate::packets::*;
use sluice_dataplane::action::{Action, HashFields, port};
use sluice_dataplane::action::{Bundle, BundleAlgorithm, Multipath, MultipathAlgorithm};
use sluice_dataplane::counters::Drop;
use sluice_dataplane::packet::build::PacketBuilder;
use sluice_dataplane::packet::field::{Field, Subfield};

fn switch(flows: impl IntoIterator<Item = Flow>) -> Switch {
    Switch::new(&Net::of(flows))
}

fn leaves(flows: impl IntoIterator<Item = Flow>) -> Vec<u16> {
    switch(flows).twice(1, &udp()).into_iter().map(|(p, _)| p).collect()
}

fn range(f: Field, lo: u8, hi: u8) -> Subfield {
    f.info().range(lo, hi).unwrap()
}

fn whole(f: Field) -> Subfield {
    f.info().whole()
}

fn push(f: Field) -> Action {
    Action::Push { src: whole(f), zeros: 0 }
}

fn pop(f: Field) -> Action {
    Action::Pop { dst: whole(f), prereq: f.info().prereq, skip: 0 }
}

fn write(list: impl IntoIterator<Item = Action>) -> Action {
    Action::WriteActions(list.into_iter().collect())
}

fn clone(list: impl IntoIterator<Item = Action>) -> Action {
    Action::Clone(list.into_iter().collect())
}

/// A packet like `udp()` with another TOS byte and TTL.
fn udp_with(tos: u8, ttl: u8) -> Vec<u8> {
    v4().tos(tos).ttl(ttl).udp(1000, 2000).payload(b"hello").build()
}

/// To a port, with `reg1` in the DSCP bits of the packet.
fn show_reg1(to: u32) -> [Action; 2] {
    let (src, dst) = (range(Field::Reg1, 0, 5), range(Field::IpTos, 2, 7));
    let dst_prereq = Field::IpTos.info().prereq;
    [Action::Move { src, src_prereq: Field::Reg1.info().prereq, dst, dst_prereq }, out(to)]
}

#[test]
fn a_stack_gives_back_what_was_put_last_cut_or_filled_up() {
    let mut acts = vec![set(Field::Reg0, 7), push(Field::Reg0), set(Field::Reg0, 0x105)];
    acts.extend([
        push(Field::Reg0),
        Action::Pop { dst: range(Field::Reg1, 0, 7), prereq: Field::Reg1.info().prereq, skip: 0 },
    ]);
    acts.extend(show_reg1(2));
    acts.push(pop(Field::Reg1));
    acts.extend(show_reg1(3));
    acts.extend([set(Field::Reg1, 9), pop(Field::Reg1)]);
    acts.extend(show_reg1(4));
    let sent = switch([always(acts)]).twice(1, &udp());
    let expected =
        [(2, udp_with(5 << 2, 64)), (3, udp_with(7 << 2, 64)), (4, udp_with(9 << 2, 64))];
    assert_eq!(sent, expected, "cut to 8 bits, whole, and nothing from an empty stack");
}

#[test]
fn a_wide_value_is_cut_and_a_narrow_one_filled_up() {
    let mut acts = vec![set(Field::Xxreg0, 3 << 64 | 0x0b), push(Field::Xxreg0), pop(Field::Reg5)];
    acts.extend([mv(Field::Reg5, Field::Reg1)]);
    acts.extend(show_reg1(2));
    acts.extend([set(Field::Reg0, 0xff), Action::Push { src: range(Field::Reg0, 0, 2), zeros: 0 }]);
    acts.extend([set(Field::Reg1, u128::MAX), pop(Field::Reg1)]);
    acts.extend(show_reg1(3));
    let sent = switch([always(acts)]).twice(1, &udp());
    assert_eq!(sent, [(2, udp_with(0x0b << 2, 64)), (3, udp_with(7 << 2, 64))]);
}

#[test]
fn bits_below_a_range_count_and_are_neither_read_nor_written() {
    let dscp = range(Field::IpTos, 2, 7);
    let prereq = Field::IpTos.info().prereq;
    let mut acts = vec![Action::Push { src: dscp, zeros: 2 }, pop(Field::Reg1)];
    acts.extend([
        Action::Move {
            src: range(Field::Reg1, 0, 3),
            src_prereq: Field::Reg1.info().prereq,
            dst: range(Field::IpTtl, 0, 3),
            dst_prereq: Field::IpTtl.info().prereq,
        },
        set(Field::Reg1, 0x1b7),
        push(Field::Reg1),
        Action::Pop { dst: dscp, prereq, skip: 2 },
        out(2),
    ]);
    let sent = switch([always(acts)]).twice(1, &udp_with(0x0d << 2 | 1, 64));
    assert_eq!(sent, [(2, udp_with(0xb4 | 1, 64 | 4))]);
}

#[test]
fn a_clone_sees_the_stack_and_takes_nothing_from_it() {
    let inside = [pop(Field::Reg1)].into_iter().chain(show_reg1(2));
    let mut acts = vec![set(Field::Reg0, 7), push(Field::Reg0), clone(inside), pop(Field::Reg1)];
    acts.extend(show_reg1(3));
    let tos = udp_with(7 << 2, 64);
    assert_eq!(switch([always(acts)]).twice(1, &udp()), [(2, tos.clone()), (3, tos)]);
}

#[test]
fn the_fork_of_ct_sees_the_stack_and_a_bridge_beyond_a_cable_does_not() {
    let mut acts = vec![set(Field::Reg0, 7), push(Field::Reg0), ct(1).table(1).go()];
    acts.extend([out(CABLE.into()), pop(Field::Reg1)]);
    acts.extend(show_reg1(3));
    let behind = |to| {
        [set(Field::Reg1, 1), pop(Field::Reg1), push(Field::Reg2)].into_iter().chain(show_reg1(to))
    };
    let net = Net::of([always(acts), flow(1, 1).does(behind(2))]).flows(1, [always(behind(2))]);
    let sent = Switch::new(&net).twice(1, &udp());
    let (seven, one) = (udp_with(7 << 2, 64), udp_with(1 << 2, 64));
    assert_eq!(sent, [(2, seven.clone()), (FAR_2, one), (3, seven)]);
}

#[test]
fn sixty_four_kibibytes_of_stack_are_the_limit() {
    // 17 bytes each: 3855 fit.
    let acts = |n: usize| (0..n).map(|_| push(Field::Xxreg0)).chain([out(2)]);
    assert_eq!(leaves([always(acts(3855))]), [2]);
    let mut s = switch([always([out(3)].into_iter().chain(acts(3856)))]);
    assert_eq!(s.ports(1, &udp()), [], "all actions are discarded");
    assert_eq!(s.dropped(Drop::StackFull), 1);
}

#[test]
fn output_to_a_range_knows_reserved_numbers() {
    let to = |n: u32| [set(Field::Reg0, n.into()), Action::OutputField(whole(Field::Reg0))];
    let mut acts = Vec::new();
    for n in [2, 1, port::IN_PORT, 0x1_0002, 77, 0xffff] {
        acts.extend(to(n));
    }
    let mut s = switch([always(acts)]);
    assert_eq!(s.ports(1, &udp()), [2, 1], "1 is the in_port, by name only");
    assert_eq!(s.dropped(Drop::NoSuchPort), 1, "77 is no port");
    let mut net = Net::of([always(to(port::FLOOD)), flow(0, 9).is(Field::Reg0, 1).does([out(4)])]);
    (2..=4).chain([TUNNEL, CABLE]).for_each(|p| net.port(p).flood = p == 3);
    assert_eq!(Switch::new(&net).ports(1, &udp()), [3]);
    let again =
        [always([set(Field::Reg1, port::TABLE.into()), Action::OutputField(whole(Field::Reg1))])];
    let other = flow(0, 9).is(Field::Reg1, port::TABLE.into()).does([out(4)]);
    assert_eq!(leaves(again.into_iter().chain([other])), [4]);
}

#[test]
fn normal_by_its_number_looks_at_addresses_that_no_mask_names() {
    let acts = [set(Field::Reg0, port::NORMAL.into()), Action::OutputField(whole(Field::Reg0))];
    let mut net = Net::of([always(acts)]);
    [TUNNEL, CABLE].into_iter().for_each(|p| net.port(p).flood = false);
    let mut s = Switch::new(&net);
    let from = |src, dst| PacketBuilder::eth(src, dst).ipv4(IP_A, IP_B).udp(1, 2).build();
    s.send(2, &from(B, A));
    assert_eq!(s.ports(1, &from(A, BROADCAST)), [2, 3, 4]);
    assert_eq!(s.ports(1, &from(A, B)), [2]);
}

#[test]
fn a_cut_copy_is_cut_alone() {
    let cut = |port, max_len| Action::OutputTruncated { port, max_len };
    let acts = [cut(2, 30), Action::DecTtl, cut(3, 20), out(4), cut(2, 14)];
    let sent = switch([always(acts)]).twice(1, &udp());
    let less = udp_with(0, 63);
    let expected = [
        (2, udp()[..30].to_vec()),
        (3, less[..20].to_vec()),
        (4, less.clone()),
        (2, less[..14].to_vec()),
    ];
    assert_eq!(sent, expected);
    let whole = [cut(2, 1000), cut(CABLE.into(), 20), cut(port::FLOOD, 20), cut(1, 20)];
    let mut s = switch([always(whole)]);
    assert_eq!(s.send(1, &udp()), [(2, udp())], "longer than the frame; the in_port; no such");
    assert_eq!(s.dropped(Drop::TruncateUnsupported), 2);
}

#[test]
fn what_is_cut_goes_into_a_tunnel_whole_or_not() {
    let long = v4().udp(1, 2).frame_len(1500).build();
    let acts = [
        Action::OutputTruncated { port: 5, max_len: 100 },
        Action::OutputTruncated { port: 5, max_len: 1499 },
    ];
    let mut s = switch([always(acts)]);
    let sent = s.twice(1, &long);
    assert_eq!(sent.len(), 1, "cut to 1499 it is still too long for the tunnel");
    assert_eq!(sent[0].1.len(), 100 + 14 + 20 + 8 + 8);
    assert_eq!(s.dropped(Drop::TooBig), 2);
    assert_eq!(s.ports(1, &udp()), [NIC, NIC], "a short one is not cut at all");
}

#[test]
fn queues_change_no_byte() {
    let acts =
        [Action::SetQueue(7), out(2), Action::PopQueue, Action::Enqueue { port: 3, queue: 1 }];
    let more =
        [Action::Enqueue { port: 1, queue: 1 }, Action::Enqueue { port: port::IN_PORT, queue: 1 }];
    let sent = switch([always(acts.into_iter().chain(more))]).twice(1, &udp());
    assert_eq!(sent, [(2, udp()), (3, udp()), (1, udp())]);
}

#[test]
fn an_action_set_runs_at_the_end_in_its_own_order() {
    let written = [out(2), set(Field::IpTtl, 9), Action::DecTtl, set(Field::IpTos, 4)];
    let flows =
        [always([write(written), Action::Goto(1)]), flow(1, 1).does([out(3), write([out(4)])])];
    let sent = switch(flows).twice(1, &udp());
    assert_eq!(sent, [(3, udp()), (4, udp_with(4, 9))], "dec_ttl comes before what sets the TTL");
}

#[test]
fn of_ways_out_the_best_counts_and_without_one_nothing_runs() {
    let to_table = |t| Action::Resubmit { in_port: None, table: Some(t), with_ct: false };
    let flows =
        |list: Vec<Action>| [always([write(list)]), flow(7, 1).does([out(4), write([out(3)])])];
    assert_eq!(leaves(flows(vec![out(2), to_table(7)])), [2]);
    assert_eq!(leaves(flows(vec![to_table(7)])), [4], "what it writes comes too late");
    assert_eq!(leaves(flows(vec![out(2), out(3)])), [3], "the last of equals");
    let one = group(1, sluice_dataplane::action::group::GroupKind::Indirect, [bucket(0, [out(3)])]);
    let net = Net::of(flows(vec![Action::Group(1), out(2)])).group(one);
    assert_eq!(Switch::new(&net).ports(1, &udp()), [3], "a group beats an output");
    let mut s =
        switch(flows(vec![set(Field::IpTtl, 9), Action::Learn(Box::new(crate::learn::mac()))]));
    assert_eq!(s.ports(1, &udp()), []);
    assert_eq!(s.dropped(Drop::NoOutput), 1);
}

#[test]
fn clear_actions_forgets_and_exit_leaves_the_set_unrun() {
    let flows = [
        always([write([out(2)]), Action::Goto(1)]),
        flow(1, 1).does([Action::ClearActions, write([out(3)])]),
    ];
    assert_eq!(leaves(flows), [3]);
    let flows =
        [always([write([out(2)]), Action::Goto(1)]), flow(1, 1).does([out(4), Action::Exit])];
    assert_eq!(leaves(flows), [4]);
}

#[test]
fn a_clone_and_a_fork_run_their_copy_of_the_set() {
    let first = [always([write([out(2)]), Action::Goto(1)])];
    let clones = flow(1, 1).does([clone([set(Field::Reg0, 1)]), out(3)]);
    assert_eq!(leaves(first.clone().into_iter().chain([clones])), [2, 3, 2]);
    let other = flow(1, 1).does([clone([resubmit(2)]), out(3)]);
    let rewrites = flow(2, 1).does([Action::ClearActions, write([out(4)])]);
    assert_eq!(leaves(first.clone().into_iter().chain([other, rewrites])), [4, 3, 2]);
    let forks = flow(1, 1).does([ct(1).table(2).go(), out(3)]);
    let tracked = flow(2, 1).does([out(4)]);
    assert_eq!(leaves(first.into_iter().chain([forks, tracked])), [4, 2, 3, 2]);
}

#[test]
fn each_bridge_has_its_own_set() {
    let here = [write([out(2)]), out(CABLE.into())];
    let net = Net::of([always(here)]).flows(1, [always([write([out(3)])])]);
    assert_eq!(Switch::new(&net).ports(1, &udp()), [FAR_3, 2]);
    let net =
        Net::of([always([write([out(2)]), out(CABLE.into())])]).flows(1, [always([Action::Exit])]);
    assert_eq!(Switch::new(&net).ports(1, &udp()), [2]);
}

#[test]
fn too_many_lists_in_a_set_are_an_error_with_a_name() {
    let flows =
        |n: u8| (0..n).map(move |t| flow(t, 1).does([write([out(2)]), Action::Goto(t + 1)]));
    assert_eq!(leaves(flows(64)), [2]);
    let mut s = switch(flows(65));
    assert_eq!(s.ports(1, &udp()), []);
    assert_eq!(s.dropped(Drop::ActionSetFull), 1);
}

#[test]
fn write_metadata_writes_its_bits() {
    let meta = |value, mask| Action::WriteMetadata { value, mask };
    let flows = [
        always([meta(0xffff, 0xff0f), meta(0x20, 0x60), Action::Goto(1)]),
        flow(1, 1).is(Field::Metadata, 0xff2f).does([out(2)]),
    ];
    assert_eq!(leaves(flows), [2]);
}

#[test]
fn exit_in_a_clone_ends_what_led_to_it() {
    assert_eq!(leaves([always([clone([out(2), Action::Exit]), out(3)])]), [2]);
}

#[test]
fn an_error_in_the_fork_of_ct_discards_the_fork_alone() {
    let flows = [
        always([out(2), ct(1).table(1).go(), Action::DecTtl, out(3)]),
        flow(1, 1).does([set(Field::UdpDst, 9), out(4), resubmit(1)]),
    ];
    let mut s = switch(flows);
    assert_eq!(s.twice(1, &udp()), [(2, udp()), (3, udp_with(0, 63))]);
    assert_eq!(s.dropped(Drop::ResubmitDepth), 2);
}

#[test]
fn a_resubmit_with_ct_looks_up_the_first_packet_of_the_connection() {
    let to = |t| Action::Resubmit { in_port: None, table: Some(t), with_ct: true };
    let flows = [
        always([to(3), ct(1).commit().table(1).go()]),
        flow(1, 1).does([to(2)]),
        flow(2, 2)
            .is(Field::EthType, 0x800)
            .is(Field::IpProto, 17)
            .is(Field::UdpSrc, 1000)
            .does([out(3)]),
        flow(2, 1).does([out(4)]),
        flow(3, 1).does([out(2)]),
    ];
    let mut s = switch(flows);
    assert_eq!(s.twice(1, &udp()), [(3, udp())], "not tracked: not run");
    let reply = PacketBuilder::eth(B, A).ipv4(IP_B, IP_A).udp(2000, 1000).payload(b"hi").build();
    assert_eq!(s.twice(2, &reply), [(3, reply.clone())], "its first packet came from port 1000");
    assert_eq!(s.ports(1, &arp()), []);
}

fn multipath(links: u32) -> Action {
    let dst = whole(Field::Reg0);
    let (fields, algorithm) = (HashFields::SymmetricL4, MultipathAlgorithm::HighestRandomWeight);
    Action::Multipath(Box::new(Multipath { fields, basis: 3, algorithm, links, arg: 0, dst }))
}

#[test]
fn multipath_gives_every_flow_one_link() {
    let links = (0..3).map(|n| flow(1, 1).is(Field::Reg0, n).does([out(2 + n as u32)]));
    let mut s = switch([always([multipath(3), resubmit(1)])].into_iter().chain(links));
    let mut seen = [0; 5];
    for n in 0..60 {
        let packet = v4().tcp(n, 80).build();
        let to = s.twice(1, &packet);
        seen[usize::from(to[0].0)] += 1;
    }
    assert!(seen[2..].iter().all(|n| *n > 5), "{seen:?}");
}

#[test]
fn bundles_take_ports_that_are_up() {
    let bundle = |algorithm, dst| {
        let members = [2, 3, 4].into();
        let fields = HashFields::EthSrc;
        Action::Bundle(Box::new(Bundle { fields, basis: 0, algorithm, members, dst }))
    };
    let with_down = |down: &[u16], a: Action| {
        let mut net = Net::of([always([a, Action::OutputField(whole(Field::Reg0))])]);
        down.iter().for_each(|p| net.port(*p).up = false);
        Switch::new(&net).ports(1, &udp())
    };
    let backup = |dst| bundle(BundleAlgorithm::ActiveBackup, dst);
    let reg0 = Some(range(Field::Reg0, 0, 15));
    assert_eq!(with_down(&[], backup(None)), [2]);
    assert_eq!(with_down(&[2, 3], backup(None)), [4]);
    assert_eq!(with_down(&[2], backup(reg0)), [3]);
    assert_eq!(with_down(&[2, 3, 4], backup(None)), [], "no port is up");
    assert_eq!(with_down(&[2, 3, 4], backup(reg0)), [], "nobody's number is 0xffff");
    let weight = bundle(BundleAlgorithm::HighestRandomWeight, None);
    let best = with_down(&[], weight.clone());
    let second = with_down(&best, weight.clone());
    assert!(second.len() == 1 && second != best);
    let other = (2..=4).find(|p| *p != best[0]).unwrap();
    if other != second[0] {
        assert_eq!(with_down(&[other], weight), best, "a loser's fall moves nobody");
    }
}

#[test]
fn action_sets_that_fork_into_their_own_table_end_at_the_bound_of_depth() {
    let again = ct(1).table(0).go();
    let mut s = switch([always([out(2), write([again])])]);
    assert_eq!(s.ports(1, &udp()).len(), 65, "one for each level");
    assert_eq!(s.dropped(Drop::ResubmitDepth), 1);
    let there = [always([write([resubmit(0)]), out(2)])];
    let net = Net::of([always([write([out(CABLE.into())])])]).flows(1, there);
    assert_eq!(Switch::new(&net).ports(1, &udp()), [FAR_2, FAR_2], "what it writes comes too late");
}

#[test]
fn a_trace_tells_what_the_verbs_did_and_changes_nothing() {
    use sluice_dataplane::action::group::GroupKind;
    use sluice_dataplane::action::{Controller, PacketInReason};
    use sluice_dataplane::packet::key::PortIx;
    use sluice_dataplane::pipeline::trace::Story;
    let controller = Controller {
        reason: PacketInReason::Action,
        max_len: 9,
        controller_id: 3,
        userdata: [].into(),
        pause: true,
        meter: None,
    };
    let acts = [
        Action::Group(1),
        Action::Group(2),
        Action::Group(3),
        Action::Meter(4),
        Action::Learn(Box::new(crate::learn::mac())),
        Action::Enqueue { port: 2, queue: 6 },
        pop(Field::Reg0),
        write([out(3)]),
        Action::Controller(Box::new(controller)),
    ];
    let net = Net::of([always(acts)])
        .group(group(1, GroupKind::All, [bucket(1, [out(3)])]))
        .group(group(2, GroupKind::Select, [bucket(8, [out(3)])]))
        .group(group(3, GroupKind::FastFailover, []));
    let mut s = Switch::new(&net);
    let (mut story, now) = (Story::default(), s.now);
    s.plain.lane.explain(&udp(), PortIx(1), None, now, &mut story).unwrap();
    for said in [
        "group 1: all of 1 buckets",
        "group 2: bucket 8, by hash and weight",
        "group 3: no live bucket",
        "meter 4",
        "table=1, priority=10, {\"eth_dst\": 0x2000000000a}",
        "would be learned",
        "by queue 6",
        "pop from an empty stack",
        "to controller 3 (Action), and pauses: resumed as it is, it goes on as follows",
    ] {
        assert!(story.text.contains(said), "{said} in\n{}", story.text);
    }
    let seen = s.see();
    assert!(seen.events.is_empty() && seen.packet_ins.is_empty());
    assert_eq!((seen.rules[0], seen.groups[0][0]), ((0, 0), (0, 0)));
}
