//! Cached walks through connection tracking serve the connections that they are right for, and no
//! others. `Switch` compares lanes with either tier first, with tier 2 alone, and without.

use crate::kit::*;
use crate::packets::*;
use sluice_dataplane::action::Action;
use sluice_dataplane::conntrack::NatKind;
use sluice_dataplane::counters::Stat;
use sluice_dataplane::packet::build::PacketBuilder;
use sluice_dataplane::packet::field::Field;

const VIP: [u8; 4] = [10, 96, 0, 1];
const CLIENTS: u16 = 40;

/// Client `n` to an address.
fn to(n: u16, dst: [u8; 4]) -> Vec<u8> {
    eth().ipv4([10, 0, 1, n as u8], dst).udp(1000 + n, 53).payload(b"query").build()
}

fn ip() -> Flow {
    flow(0, 5).is(Field::EthType, 0x0800)
}

fn is_new(table: u8) -> Flow {
    flow(table, 9).masked(Field::CtState, 0x21, 0x21)
}

/// All clients in one batch, three times; then their answers; then all again.
fn converse(s: &mut Switch, dst: [u8; 4]) -> Vec<Vec<(u16, Vec<u8>)>> {
    let first: Vec<Vec<u8>> = (0..CLIENTS).map(|n| to(n, dst)).collect();
    let mut rounds: Vec<_> = (0..3).map(|_| s.batch(1, &first)).collect();
    let answers: Vec<Vec<u8>> = rounds[0].iter().map(|(_, p)| answer_to(p)).collect();
    rounds.push(s.batch(2, &answers));
    rounds.push(s.batch(2, &answers));
    rounds.push(s.batch(1, &first));
    s.see();
    rounds
}

/// The TTL of each packet.
fn ttls(round: &[(u16, Vec<u8>)]) -> Vec<u8> {
    round.iter().map(|(_, p)| p[22]).collect()
}

/// A stateful pair that gives marks, or labels, by the client's port.
fn classed(exec: impl Fn(u16) -> Action, of: Field, value: impl Fn(u16) -> u128) -> Vec<Flow> {
    let mut list = vec![ip().does([ct(1).table(1).go()]), flow(1, 1).does([])];
    for class in 0..4u16 {
        let commit = ct(1).commit().exec([exec(class)]).go();
        let low = u128::from(1000 + class) & 3;
        list.push(is_new(1).masked(Field::UdpSrc, low, 3).does([commit, out(2)]));
        let est = flow(1, 20 + class).masked(Field::CtState, 0x22, 0x22).is(of, value(class));
        list.push(est.does([set(Field::IpTtl, 40 + u128::from(class)), out(2)]));
    }
    list
}

#[test]
fn connections_with_other_marks_take_other_walks() {
    let mark = |class: u16| 0x10 + u128::from(class);
    let net = Net::of(classed(|c| set(Field::CtMark, mark(c)), Field::CtMark, mark));
    let mut s = Switch::sized(&net, 64, 512);
    let rounds = converse(&mut s, FAR);
    let wanted: Vec<u8> = (0..CLIENTS as u8).map(|n| 40 + (n & 3)).collect();
    assert_eq!(ttls(&rounds[5]), wanted, "by the mark of each");
    assert!(s.mega_hits() > 100, "{}", s.mega_hits());
}

#[test]
fn connections_with_other_labels_take_other_walks() {
    let label = |class: u16| 1u128 << [3, 70, 3, 71][usize::from(class)];
    let net = Net::of(classed(|c| set(Field::CtLabel, label(c)), Field::CtLabel, label));
    let mut s = Switch::sized(&net, 64, 512);
    let rounds = converse(&mut s, FAR);
    // Classes 0 and 2 have one label: the higher priority is 2's.
    let wanted = (0..CLIENTS as u8).map(|n| [42, 41, 42, 43][usize::from(n & 3)]);
    assert_eq!(ttls(&rounds[5]), wanted.collect::<Vec<u8>>(), "by the label of each");
    assert!(s.mega_hits() > 100, "{}", s.mega_hits());
}

const FAR: [u8; 4] = [8, 8, 8, 8];

#[test]
fn what_looks_at_a_translated_address_goes_by_its_own_connection() {
    // Two backends, by the client's port; the way is chosen by the backend's address.
    let vip = |n: u8| ct(1).commit().nat_to(NatKind::Dst, [10, 244, 0, n], None).table(2).go();
    let mut list = vec![
        ip().is(Field::InPort, 1).does([ct(1).nat().table(1).go()]),
        ip().is(Field::InPort, 2).does([ct(1).nat().table(3).go()]),
        ip().is(Field::InPort, 3).does([ct(1).nat().table(3).go()]),
        flow(1, 1).does([resubmit(2)]),
        flow(3, 1).masked(Field::CtState, 0x2a, 0x2a).does([out(1)]),
    ];
    for n in [0u8, 1] {
        let port = if n == 0 { 2 } else { 3 };
        list.push(is_new(1).masked(Field::UdpSrc, u128::from(n), 1).does([vip(n)]));
        let dst = u32::from_be_bytes([10, 244, 0, n]);
        let to_it = flow(2, 5).is(Field::EthType, 0x0800).is(Field::IpDst, dst.into());
        list.push(to_it.does([out(port)]));
    }
    let mut s = Switch::sized(&Net::of(list), 64, 512);
    let rounds = converse(&mut s, VIP);
    let by_port: Vec<u16> = (0..CLIENTS).map(|n| if n & 1 == 0 { 2 } else { 3 }).collect();
    for round in [0, 1, 2, 5] {
        assert_eq!(ports(&rounds[round]), by_port, "round {round}");
    }
    for (n, (_, p)) in (0u8..).zip(&rounds[5]) {
        assert_eq!(p[30..34], [10, 244, 0, n & 1]);
    }
}

/// Port 1 goes out by port 2 from this address.
fn behind_nat(outside: [u8; 4], ports: Option<(u16, u16)>) -> Switch {
    let commit = ct(1).commit().nat_to(NatKind::Src, outside, ports);
    let list = [
        ip().is(Field::InPort, 1).does([ct(1).nat().table(1).go()]),
        is_new(1).does([commit.go(), out(2)]),
        flow(1, 1).masked(Field::CtState, 0x22, 0x22).does([out(2)]),
        ip().is(Field::InPort, 2).does([ct(1).nat().table(2).go()]),
        flow(2, 1).masked(Field::CtState, 0x2a, 0x2a).does([out(1)]),
    ];
    Switch::sized(&Net::of(list), 64, 512)
}

#[test]
fn every_connection_gets_its_own_translation_from_one_walk() {
    let outside = [203, 0, 113, 9];
    let mut s = behind_nat(outside, Some((5000, 5999)));
    let walks = s.walks();
    let rounds = converse(&mut s, FAR);
    let mut given: Vec<&[u8]> = rounds[0].iter().map(|(_, p)| &p[34..36]).collect();
    given.sort_unstable();
    given.dedup();
    assert_eq!(given.len(), usize::from(CLIENTS), "a port each");
    assert!(rounds[0].iter().all(|(_, p)| p[26..30] == outside));
    assert_eq!(rounds[5], rounds[0], "and keeps it");
    for (n, (port, p)) in (0u16..).zip(&rounds[4]) {
        assert_eq!((*port, &p[30..34]), (1, &[10, 0, 1, n as u8][..]));
        assert_eq!(p[36..38], (1000 + n).to_be_bytes());
    }
    assert!(s.walks() - walks < 60, "{} walks of 240 packets", s.walks() - walks);
}

/// So does every ping: an identifier is translated as a port is, whoever pinged before.
#[test]
fn pings_get_their_own_translation_from_one_walk() {
    let outside = [203, 0, 113, 9];
    let mut s = behind_nat(outside, None);
    // Pairs of clients have one identifier, and each has two.
    let id_of = |n: u16, k: u16| 7 + n / 2 + 100 * k;
    let ping = |n: u16, k: u16| eth().ipv4([10, 0, 1, n as u8], FAR).echo_request(id_of(n, k), n);
    let all: Vec<(u16, u16)> = (0..CLIENTS / 2).flat_map(|n| [(n, 0), (n, 1)]).collect();
    let pings: Vec<Vec<u8>> = all.iter().map(|(n, k)| ping(*n, *k).build()).collect();
    let half = pings.len() / 2;
    let walks = s.walks();
    let round = |s: &mut Switch| [s.batch(1, &pings[..half]), s.batch(1, &pings[half..])].concat();
    let first = round(&mut s);
    let given: std::collections::BTreeSet<&[u8]> = first.iter().map(|(_, p)| &p[38..40]).collect();
    assert_eq!(given.len(), pings.len(), "an identifier each");
    for _ in 0..3 {
        assert_eq!(round(&mut s), first, "and keeps it");
        for ((n, k), (_, sent)) in all.iter().zip(&first) {
            let id = u16::from_be_bytes([sent[38], sent[39]]);
            let answer = PacketBuilder::eth(B, A).ipv4(FAR, outside).echo_reply(id, *n).build();
            let home = PacketBuilder::eth(B, A)
                .ipv4(FAR, [10, 0, 1, *n as u8])
                .echo_reply(id_of(*n, *k), *n)
                .build();
            assert_eq!(s.send(2, &answer), vec![(1, home)]);
        }
    }
    let walked = s.walks() - walks;
    assert!(walked < 60, "{walked} walks of {} packets", pings.len() * 7);
}

#[test]
fn a_copy_that_is_translated_leaves_the_packet_as_it_was() {
    let outside = [203, 0, 113, 9];
    let commit = ct(1).commit().nat_to(NatKind::Src, outside, Some((5000, 5999)));
    let copy = Action::Clone([commit.go(), out(2)].into());
    let mut s = Switch::sized(&Net::of([ip().does([copy, out(3)])]), 64, 512);
    for _ in 0..3 {
        let packets: Vec<Vec<u8>> = (0..CLIENTS).map(|n| to(n, FAR)).collect();
        let sent = s.batch(1, &packets);
        let own: Vec<&Vec<u8>> = sent.iter().filter(|(p, _)| *p == 3).map(|(_, b)| b).collect();
        assert_eq!(own, packets.iter().collect::<Vec<_>>());
        assert!(sent.iter().filter(|(p, _)| *p == 2).all(|(_, b)| b[26..30] == outside));
    }
    s.see();
}

#[test]
fn an_entry_that_knew_a_connection_asks_for_it_by_its_tuple() {
    let list = [
        ip().does([ct(1).table(1).go()]),
        is_new(1).does([ct(1).commit().go(), out(2)]),
        flow(1, 5).masked(Field::CtState, 0x22, 0x22).does([set(Field::IpTtl, 77), out(2)]),
    ];
    let mut s = Switch::sized(&Net::of(list), 64, 512);
    let wanted = |n: u8| vec![n; usize::from(CLIENTS)];
    assert_eq!(ttls(&converse(&mut s, FAR)[5]), wanted(77));
    let now = s.now;
    s.sides().iter_mut().for_each(|s| {
        assert_eq!(s.lane.conntrack().flush(now, |_| true), usize::from(CLIENTS));
    });
    // Each place is another connection's now, and half of them are established.
    let mut again: Vec<Vec<u8>> = (0..CLIENTS).map(|n| to(n, FAR)).collect();
    again.rotate_left(7);
    let new = s.batch(1, &again);
    assert_eq!(ttls(&new), wanted(64), "new again");
    let answers: Vec<Vec<u8>> = new.iter().step_by(2).map(|(_, p)| answer_to(p)).collect();
    s.batch(2, &answers);
    let states = (0..CLIENTS).map(|n| if n % 2 == 0 { 77 } else { 64 });
    assert_eq!(ttls(&s.batch(1, &again)), states.collect::<Vec<u8>>());
    s.see();
}

/// First packets of connections, and what is said of them to those that are established.
fn opened_by(commit: impl Fn() -> Action, established: Vec<Action>) -> Switch {
    let list = [
        ip().does([ct(1).table(1).go()]),
        is_new(1).does([commit(), out(2)]),
        flow(1, 5).masked(Field::CtState, 0x22, 0x22).does(established),
    ];
    Switch::sized(&Net::of(list), 64, 512)
}

#[test]
fn a_connection_that_a_cached_walk_opens_has_its_mark_and_its_label() {
    let say = [set(Field::CtMark, 0x17), set(Field::CtLabel, 5 << 80)];
    let mut s = opened_by(|| ct(1).commit().exec(say.clone()).go(), vec![out(2)]);
    converse(&mut s, FAR);
    let conns = s.see().conns;
    assert_eq!(conns.len(), usize::from(CLIENTS));
    assert!(conns.iter().all(|c| (c.mark, c.label) == (0x17, 5 << 80)), "{conns:?}");
    assert!(s.mega_hits() > 100, "{}", s.mega_hits());
}

/// First packets do not push out of tier 1 what established connections have there.
#[test]
fn first_packets_leave_tier_1_to_others() {
    let mut s = opened_by(|| ct(1).commit().go(), vec![out(2)]);
    let all: Vec<Vec<u8>> = (0..CLIENTS).map(|n| to(n, FAR)).collect();
    s.batch(1, &all);
    let inserts = s.cached.counters.stat(Stat::Tier1Inserts);
    assert!(inserts < 4, "{inserts} of {CLIENTS}");
    assert_eq!(s.see().conns.len(), usize::from(CLIENTS));
}

#[test]
fn what_a_full_zone_refuses_a_cached_walk_is_counted_and_goes_on() {
    let mut s = opened_by(|| ct(1).commit().go(), vec![out(2)]);
    s.sides().iter_mut().for_each(|s| s.lane.conntrack().zones_mut().set_limit(1, Some(10)));
    let all: Vec<Vec<u8>> = (0..CLIENTS).map(|n| to(n, FAR)).collect();
    assert_eq!(ports(&s.batch(1, &all)), vec![2; all.len()]);
    let seen = s.see();
    let refused = seen.stats.iter().find(|(name, _)| *name == "ct_zone_full");
    assert_eq!((seen.conns.len(), refused), (10, Some(&("ct_zone_full", 30))));
    let inserts = s.cached.counters.stat(Stat::Tier1Inserts);
    assert!(inserts < 4, "what is refused pushes nobody out: {inserts} of {CLIENTS}");
}

#[test]
fn a_walk_of_established_packets_that_commits_is_not_for_new_ones() {
    let again = vec![ct(1).commit().go(), set(Field::IpTtl, 77), out(2)];
    let mut s = opened_by(|| ct(1).commit().go(), again);
    let wanted = |n: u8| vec![n; usize::from(CLIENTS)];
    assert_eq!(ttls(&converse(&mut s, FAR)[5]), wanted(77));
    let now = s.now;
    s.sides().iter_mut().for_each(|s| {
        s.lane.conntrack().flush(now, |_| true);
    });
    let all: Vec<Vec<u8>> = (0..CLIENTS).map(|n| to(n, FAR)).collect();
    assert_eq!(ttls(&s.batch(1, &all)), wanted(64), "new again");
    s.see();
}

/// The second zone sees what the first made of the packet, also where a cached walk of a connection
/// that there was meets one that has yet to be made.
#[test]
fn what_a_commit_has_yet_to_translate_is_not_asked_for_as_it_is() {
    let outside = [203, 0, 113, 9];
    let translate = ct(1).commit().nat_to(NatKind::Src, outside, Some((5000, 5999)));
    let list = [
        ip().does([translate.go(), ct(2).table(1).go()]),
        is_new(1).does([ct(2).commit().go(), out(2)]),
    ];
    let mut s = Switch::sized(&Net::of(list), 64, 512);
    let all: Vec<Vec<u8>> = (0..20).map(|n| to(n, FAR)).collect();
    (0..3).for_each(|_| _ = s.batch(1, &all));
    let now = s.now;
    s.sides().iter_mut().for_each(|s| _ = s.lane.conntrack().flush(now, |_| true));
    s.batch(1, &all);
    let conns = s.see().conns;
    let second: Vec<_> = conns.iter().filter(|c| c.zone == 2).collect();
    let outside = u128::from(u32::from_be_bytes(outside));
    assert_eq!(second.len(), 20);
    assert!(second.iter().all(|c| c.orig.src == outside), "{second:?}");
}

/// What conntrack itself has counted as refused, and the addresses that had no port; of all sides.
fn refusals(s: &mut Switch) -> [u64; 5] {
    let of = |s: &mut Side| {
        let ct = s.lane.conntrack();
        let mut pools = Vec::with_capacity(8);
        ct.pools(&mut pools);
        let c = ct.stats();
        let exhausted = pools.iter().map(|p| p.exhausted).sum();
        [c.nat_exhausted, exhausted, c.zone_full, c.table_full, c.tuple_taken]
    };
    let all = s.sides().map(of);
    assert_eq!(all, [all[3]; 4], "each side but the last has a cache");
    all[3]
}

/// A cached walk that is built on its commit is not for a packet whose commit is refused: that
/// leaves untranslated, by a cached walk of its own, and is counted once.
#[test]
fn what_is_refused_where_a_walk_is_built_on_it_goes_its_own_way_and_is_counted_once() {
    let nat = |ports| move || ct(1).commit().nat_to(NatKind::Src, [192, 0, 2, 1], Some(ports));
    let all: Vec<Vec<u8>> = (0..CLIENTS).map(|n| to(n, FAR)).collect();
    let is_own = |(_, p): &&(u16, Vec<u8>)| p[26] == 10;
    // Of four ports; and where the walk goes on in another table by what came out.
    let programs: [&dyn Fn() -> Vec<Flow>; 2] = [
        &|| {
            vec![
                ip().does([ct(1).table(1).go()]),
                is_new(1).does([nat((7000, 7003))().go(), out(2)]),
            ]
        },
        &|| {
            let then = flow(2, 1).does([out(2)]);
            let commit = nat((7000, 7003))().table(2).go();
            vec![ip().does([ct(1).table(1).go()]), is_new(1).does([commit]), then]
        },
    ];
    for program in programs {
        let mut s = Switch::sized(&Net::of(program()), 64, 512);
        let sent = s.batch(1, &all);
        assert_eq!((sent.len(), sent.iter().filter(is_own).count()), (40, 36));
        assert_eq!(refusals(&mut s), [36, 36, 0, 0, 0]);
        let refused = s.see().stats.iter().find(|(name, _)| *name == "ct_nat_exhausted").copied();
        assert_eq!(refused, Some(("ct_nat_exhausted", 36)));
        assert!(s.walks() < 6, "{} walks", s.walks());
        // Again, now that there is a walk for what is refused.
        let walks = s.walks();
        s.batch(1, &all);
        s.see();
        assert_eq!(refusals(&mut s), [72, 72, 0, 0, 0]);
        assert_eq!(s.walks(), walks + 4, "the four that are known");
        // There is room again, and then there is none.
        let now = s.now;
        s.sides().iter_mut().for_each(|s| _ = s.lane.conntrack().flush(now, |_| true));
        for wanted in [36, 36, 36] {
            let sent = s.batch(1, &all);
            assert_eq!((sent.len(), sent.iter().filter(is_own).count()), (40, wanted));
        }
        s.see();
        assert_eq!((refusals(&mut s), s.walks()), ([180, 180, 0, 0, 0], walks + 9));
        let inserts = s.cached.counters.stat(Stat::Tier1Inserts);
        assert!(inserts < 12, "what is refused pushes nobody out: {inserts}");
    }
    // A zone, and the whole table.
    let program = || {
        let tell = flow(1, 1).masked(Field::CtState, 0x20, 0x20).does([out(2)]);
        let first = ip().is(Field::InPort, 1).does([ct(1).table(1).go()]);
        let back = ip().is(Field::InPort, 2).does([ct(1).nat().table(1).go()]);
        let commit = nat((7000, 7999))().go();
        let new = is_new(1).is(Field::InPort, 1).does([commit, out(2)]);
        vec![first, back, new, tell]
    };
    let mut s = Switch::sized(&Net::of(program()), 64, 512);
    s.sides().iter_mut().for_each(|s| s.lane.conntrack().zones_mut().set_limit(1, Some(10)));
    s.batch(1, &all);
    assert_eq!((s.see().conns.len(), refusals(&mut s)), (10, [0, 0, 30, 0, 0]));
    s.sides().iter_mut().for_each(|s| s.lane.conntrack().zones_mut().set_limit(1, None));
    let many: Vec<Vec<u8>> = (0..100).map(|n| to(n, FAR)).collect();
    for part in many.chunks(16) {
        let sent = s.batch(1, part);
        let answers: Vec<Vec<u8>> = sent.iter().map(|(_, p)| answer_to(p)).collect();
        s.batch(2, &answers);
    }
    assert_eq!((s.see().conns.len(), refusals(&mut s)), (64, [0, 0, 30, 36, 0]));
}

/// A zone that is full after a range of ports was.
#[test]
fn what_is_refused_next_is_not_counted_as_what_was_refused_before() {
    let nat = ct(1).commit().nat_to(NatKind::Src, [192, 0, 2, 1], Some((7000, 7003)));
    let list = [ip().does([ct(1).table(1).go()]), is_new(1).does([nat.go(), out(2)])];
    let mut s = Switch::sized(&Net::of(list), 64, 512);
    let some = |range: std::ops::Range<u16>| range.map(|n| to(n, FAR)).collect::<Vec<_>>();
    s.batch(1, &some(0..5));
    assert_eq!(refusals(&mut s), [1, 1, 0, 0, 0]);
    s.sides().iter_mut().for_each(|s| s.lane.conntrack().zones_mut().set_limit(1, Some(4)));
    s.batch(1, &some(5..10));
    assert_eq!(refusals(&mut s), [1, 1, 5, 0, 0]);
    s.see();
}

/// Of kinds that are not opened in words, as well.
#[test]
fn pings_that_are_refused_have_a_walk_of_their_own() {
    let nat = ct(1).commit().nat_to(NatKind::Src, [192, 0, 2, 1], Some((7000, 7003)));
    let list = [ip().does([ct(1).table(1).go()]), is_new(1).does([nat.go(), out(2)])];
    let mut s = Switch::sized(&Net::of(list), 64, 512);
    let ping = |n: u16| eth().ipv4([10, 0, 1, n as u8], FAR).echo_request(100 + n, 1).build();
    let sent = s.batch(1, &(0..CLIENTS).map(ping).collect::<Vec<_>>());
    assert_eq!(sent.iter().filter(|(_, b)| b[26] == 10).count(), 36);
    assert_eq!(refusals(&mut s), [36, 36, 0, 0, 0]);
    assert!(s.walks() < 6, "{} walks", s.walks());
    s.see();
}
