//! First packets of connections in crowds: what opened the last connection is tried for the next,
//! and is not for a packet that goes another way. `Switch` compares lanes with either tier first,
//! with tier 2 alone, and without.

use crate::kit::*;
use crate::packets::*;
use sluice_dataplane::action::Action;
use sluice_dataplane::conntrack::NatKind;
use sluice_dataplane::counters::Stat;
use sluice_dataplane::packet::build::PacketBuilder;
use sluice_dataplane::packet::field::Field;
use sluice_dataplane::tunnel::{TunnelConfig, TunnelKey};

/// Connections that there is room for.
const CONNS: usize = 64;
const FAR: [u8; 4] = [198, 51, 100, 7];

/// UDP of client `n`, which nobody has seen before.
fn first(n: u16) -> PacketBuilder {
    eth().ipv4([10, 0, (n >> 8) as u8, n as u8], FAR).udp(1000 + n, 53)
}

fn ip() -> Flow {
    flow(0, 5).is(Field::EthType, 0x0800)
}

fn is_new() -> Flow {
    flow(1, 9).masked(Field::CtState, 0x21, 0x21)
}

/// Crowds of twelve, by a port; `kind` says which of two kinds each packet is of, and that is where
/// it leaves: 2 or 3. First one of each kind, which walks; then all of one, all of the other, and
/// by turns; then all of one until crowds are expected there, all of the other, and by turns again.
fn crowds(s: &mut Switch, port: u16, make: impl Fn(u16, bool) -> Vec<u8>) {
    let mut n = 0;
    type Kind = fn(u16) -> bool;
    let turns: [Kind; 5] = [|i| i == 0, |_| false, |_| true, |i| i % 2 == 0, |i| i > 5];
    let row: [Kind; 6] = [|_| true; 6];
    let expected: [Kind; 4] = [|_| false, |i| i == 5, |i| i % 2 == 0, |i| i > 5];
    for kind in turns.into_iter().chain(row).chain(expected) {
        let kinds: Vec<bool> = (0..12).map(kind).collect();
        let packets: Vec<Vec<u8>> = (n..).zip(&kinds).map(|(n, kind)| make(n, *kind)).collect();
        n += 12;
        let wanted: Vec<u16> = kinds.iter().map(|k| 2 + u16::from(*k)).collect();
        assert_eq!(ports(&s.batch(port, &packets)), wanted);
    }
    assert_eq!(n, 15 * 12);
    assert_eq!(s.see().conns.len(), CONNS, "the later ones took the places of the first");
    assert!(s.walks() < 40, "{} walks", s.walks());
}

#[test]
fn of_two_tunnels() {
    let config = TunnelConfig { key: TunnelKey::Flow, ..tunnel_config() };
    let in_tunnel =
        |id: u128, to| is_new().is(Field::TunId, id).does([ct(1).commit().go(), out(to)]);
    let list = [ip().does([ct(1).table(1).go()]), in_tunnel(8, 2), in_tunnel(9, 3)];
    let mut s = Switch::sized(&Net::of(list).tunnel(config), 64, 512);
    crowds(&mut s, NIC, |n, kind| {
        let outer = PacketBuilder::eth(PEER_MAC, NIC_MAC).ipv4(PEER_IP, LOCAL_IP);
        let outer = outer.udp(50_000, 6081).no_checksum();
        outer.geneve(if kind { 9 } else { 8 }, &first(n).build()).build()
    });
}

#[test]
fn of_two_lengths() {
    let dst = Field::Reg0;
    let bit = dst.info().range(0, 0).unwrap();
    let long = Action::CheckPktLarger { len: 100, dst: bit };
    let then =
        |large: u128, to| flow(2, 1).masked(dst, large, 1).does([ct(1).commit().go(), out(to)]);
    let list = [
        ip().does([ct(1).table(1).go()]),
        is_new().does([long, resubmit(2)]),
        then(0, 2),
        then(1, 3),
    ];
    let mut s = Switch::sized(&Net::of(list), 64, 512);
    crowds(&mut s, 1, |n, long| first(n).payload(&[7; 100][..if long { 100 } else { 5 }]).build());
}

/// The zone of the last question is what the next packets are hashed in.
#[test]
fn of_two_zones_one_of_which_was_asked_last() {
    let of = |src: u128| ip().masked(Field::IpSrc, src << 24, 0xff00_0000);
    let new = |zone: u128| {
        is_new().is(Field::CtZone, zone).does([ct(zone as u16).commit().go(), out(1 + zone as u32)])
    };
    let known = flow(1, 8).masked(Field::CtState, 0x21, 0x20).does([out(4)]);
    let list = [
        of(10).does([ct(1).table(1).go()]),
        of(11).does([ct(2).table(1).go()]),
        new(1),
        new(2),
        known,
    ];
    let mut s = Switch::sized(&Net::of(list), 4, 512);
    let other = |n: u16| eth().ipv4([11, 0, 0, n as u8], FAR).udp(1000 + n, 53).build();
    let others: Vec<Vec<u8>> = (0..10).map(other).collect();
    let answers: Vec<Vec<u8>> =
        (0..10).map(|n| eth().ipv4(FAR, [11, 0, 0, n as u8]).udp(53, 1000 + n).build()).collect();
    s.batch(1, &others);
    assert!(ports(&s.batch(2, &answers)).is_empty(), "no rule for them");
    for round in 0..5 {
        let own: Vec<Vec<u8>> = (0..10).map(|n| first(100 * round + n).build()).collect();
        assert_eq!(ports(&s.batch(1, &own)), [2; 10]);
        // Asked in zone 2, and nothing is opened.
        s.batch(1, &others[usize::from(round)..]);
    }
    assert_eq!(s.see().conns.len(), 60);
}

/// A change of rules holds for the next packet.
#[test]
fn between_two_changes() {
    let list = [ip().does([ct(1).table(1).go()]), is_new().does([ct(1).commit().go(), out(2)])];
    let mut s = Switch::sized(&Net::of(list), 64, 512);
    for round in 0..4u16 {
        let packets: Vec<Vec<u8>> = (0..15).map(|n| first(100 * round + n).build()).collect();
        let to = 2 + round % 2;
        assert_eq!(ports(&s.batch(1, &packets)), [to; 15]);
        let actions = vec![ct(1).commit().go(), out(5 - u32::from(to))];
        s.change(&[Edit::Modify { number: 1, actions }]);
    }
    assert_eq!(s.see().conns.len(), 60);
}

/// Connections of before a translation are new as well, and are not translated.
#[test]
fn among_those_of_before_a_translation() {
    let list = [ip().does([ct(1).table(1).go()]), is_new().does([ct(1).commit().go(), out(2)])];
    let mut s = Switch::sized(&Net::of(list), 64, 512);
    let outside = [203, 0, 113, 9];
    let of = |ns: std::ops::Range<u16>| ns.map(|n| first(n).build()).collect::<Vec<_>>();
    s.batch(1, &of(0..5));
    let nat = ct(1).commit().nat_to(NatKind::Src, outside, None).go();
    s.change(&[Edit::Modify { number: 1, actions: vec![nat, out(2)] }]);
    let mut is_outside = |ns| {
        let sent = s.batch(1, &of(ns));
        let of_all: Vec<bool> = sent.iter().map(|(_, b)| b[26..30] == outside).collect();
        assert!(of_all.iter().all(|is| *is == of_all[0]), "{of_all:?}");
        of_all[0]
    };
    for round in 0..3 {
        assert!(is_outside(100 + 10 * round..105 + 10 * round));
        assert!(!is_outside(0..5));
        assert!(is_outside(105 + 10 * round..110 + 10 * round));
    }
    s.see();
}

/// What leaves by more than the common steps, translated before it leaves or in between.
#[test]
fn by_steps_of_all_kinds() {
    let outside = [203, 0, 113, 9];
    let nat = || ct(1).commit().nat_to(NatKind::Src, outside, Some((5000, 5999))).go();
    for actions in [vec![nat(), out(2), out(3)], vec![out(4), nat(), out(2)]] {
        let list = [ip().does([ct(1).table(1).go()]), is_new().does(actions)];
        let mut s = Switch::sized(&Net::of(list), 64, 512);
        // The first batch has nothing to go by.
        for crowd in [0..4, 4..20, 20..40] {
            let packets: Vec<Vec<u8>> = crowd.map(|n| first(n).build()).collect();
            let sent = s.batch(1, &packets);
            assert_eq!(sent.len(), 2 * packets.len());
            assert!(sent.iter().all(|(port, b)| (*port == 4) != (b[26..30] == outside)));
        }
        s.see();
    }
}

/// Where traffic goes one way all packets are new, and commit once more.
#[test]
fn met_again_by_a_commit_that_has_more_to_say() {
    let say = |mark| ct(1).commit().exec([set(Field::CtMark, mark)]).go();
    let list = [ip().does([ct(1).table(1).go()]), is_new().does([say(1), out(2)])];
    let mut s = Switch::sized(&Net::of(list), 64, 512);
    let all: Vec<Vec<u8>> = (0..20).map(|n| first(n).build()).collect();
    (0..4).for_each(|_| _ = s.batch(1, &all));
    s.change(&[Edit::Modify { number: 1, actions: vec![say(2), out(2)] }]);
    (0..2).for_each(|_| _ = s.batch(1, &all));
    let conns = s.see().conns;
    assert_eq!(conns.len(), 20);
    assert!(conns.iter().all(|c| c.mark == 2), "{conns:?}");
}

/// Packets that were met untranslated, by this look and this commit, of connections that now are.
fn met_again(look: Action, commit: Action) {
    let outside = [203, 0, 113, 9];
    let nat = ct(1).commit().nat_to(NatKind::Src, outside, None).go();
    let list = [
        ip().does([look]),
        is_new().is(Field::IpDscp, 1).does([nat, out(2)]),
        is_new().is(Field::IpDscp, 0).does([commit, out(2)]),
    ];
    let mut s = Switch::sized(&Net::of(list), 64, 512);
    let all = |tos| (0..20).map(|n| first(n).tos(tos).build()).collect::<Vec<_>>();
    (0..4).for_each(|_| _ = s.batch(1, &all(0)));
    let now = s.now;
    s.sides().iter_mut().for_each(|s| _ = s.lane.conntrack().flush(now, |_| true));
    for tos in [4, 0, 0] {
        let sent = s.batch(1, &all(tos));
        assert!(sent.iter().all(|(_, b)| b[26..30] == outside), "{tos}");
    }
    s.see();
}

#[test]
fn met_again_where_another_has_it_translated() {
    met_again(ct(1).table(1).go(), ct(1).commit().nat().go());
}

#[test]
fn met_again_by_a_look_that_translates() {
    met_again(ct(1).nat().table(1).go(), ct(1).commit().go());
}

/// Packets that are no first ones, or none at all, among those that are.
#[test]
fn among_others() {
    let list = [
        ip().does([ct(1).table(1).go()]),
        is_new().does([ct(1).commit().go(), out(2)]),
        flow(1, 5).does([out(3)]),
    ];
    let mut s = Switch::sized(&Net::of(list), 64, 512);
    let tcp = |n: u16, flags: u16| {
        eth().ipv4([10, 1, 0, n as u8], FAR).tcp(1000 + n, 80).flags(flags).build()
    };
    let broken = |n: u16| {
        let mut b = first(n).payload(b"query").build();
        b[45] ^= 0x55;
        b
    };
    let (syn, answer) = (0x02, 0x12);
    // An answer that nobody asked for, a broken datagram, one that comes twice.
    let udp = |n| first(n).payload(b"query").build();
    let packets = [
        vec![udp(1), udp(2), udp(3), broken(4), udp(5), udp(5), udp(2), udp(6)],
        vec![tcp(1, syn), tcp(2, syn), tcp(3, syn), tcp(4, answer), tcp(5, syn), tcp(5, syn)],
        vec![udp(7), tcp(6, syn), broken(8), tcp(7, answer), udp(9), tcp(8, syn)],
    ];
    let wanted: [&[u16]; 3] = [&[2, 2, 2, 3, 2, 2, 2, 2], &[2, 2, 2, 3, 2, 2], &[2, 2, 3, 3, 2, 2]];
    for (packets, wanted) in packets.iter().zip(wanted) {
        assert_eq!(ports(&s.batch(1, packets)), wanted);
    }
    assert_eq!(s.see().conns.len(), 5 + 4 + 4);
    assert!(s.cached.counters.stat(Stat::Tier2Hits) > 4);
}
