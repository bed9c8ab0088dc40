//! What sees a translation: the bytes at once, flows behind `table=` or the next look at the
//! packet. The first test's outcomes are those of Open vSwitch 3.1 on the same flows and packets.

use crate::fragments::{cut, join, of_whole};
use crate::kit::*;
use crate::packets::*;
use crate::punts::pause;
use sluice_dataplane::action::group::{GroupKind, Selection};
use sluice_dataplane::action::{Action, Nat};
use sluice_dataplane::conntrack::{NatKind, NatMode, NatSpec};
use sluice_dataplane::packet::build::PacketBuilder;
use sluice_dataplane::packet::field::Field;

const INSIDE: [u8; 4] = [10, 9, 9, 9];
const OTHER: [u8; 4] = [10, 8, 8, 8];

fn dnat(zone: u16) -> CtSpec {
    ct(zone).commit().nat_to(NatKind::Dst, INSIDE, Some((99, 99)))
}

fn to(port: u128, actions: impl IntoIterator<Item = Action>) -> Flow {
    flow(0, 9).is(Field::EthType, 0x0800).is(Field::UdpDst, port).does(actions)
}

fn is_to(table: u8, priority: u16, dst: [u8; 4]) -> Flow {
    flow(table, priority).is(Field::EthType, 0x0800).is(Field::IpDst, number(&dst))
}

fn number(address: &[u8; 4]) -> u128 {
    u32::from_be_bytes(*address).into()
}

fn set_dst(dst: [u8; 4]) -> Action {
    set(Field::IpDst, number(&dst))
}

/// A packet to this port, and the same on its way to `dst`.
fn udp_to(port: u16) -> Vec<u8> {
    udp_seen(port, IP_B, port)
}

fn udp_seen(from: u16, dst: [u8; 4], port: u16) -> Vec<u8> {
    eth().ipv4(IP_A, dst).udp(100 + from, port).payload(b"x").build()
}

fn tables() -> Vec<Flow> {
    vec![
        is_to(1, 9, INSIDE).does([out(2)]),
        is_to(1, 8, IP_B).does([out(3)]),
        is_to(2, 8, INSIDE).is(Field::UdpDst, 99).does([out(2)]),
        is_to(2, 7, INSIDE).is(Field::UdpDst, 77).does([out(3)]),
        flow(2, 1).does([out(4)]),
        flow(3, 9).is(Field::Reg0, number(&INSIDE)).does([out(2)]),
        flow(3, 9).is(Field::Reg0, number(&IP_B)).does([out(3)]),
    ]
}

#[test]
fn flows_see_the_packet_as_it_came_until_it_is_looked_at_anew() {
    let snat = ct(2).commit().nat_to(NatKind::Src, OTHER, Some((88, 88)));
    let mut s = Switch::new(&Net::of(tables().into_iter().chain([
        to(1, [dnat(1).go(), resubmit(1)]),
        to(2, [dnat(1).go(), set_dst(IP_B), out(2)]),
        to(3, [dnat(1).go(), set_dst(OTHER), out(2), set_dst(IP_B), out(3)]),
        to(4, [dnat(1).table(2).go(), resubmit(1)]),
        to(5, [dnat(1).go(), snat.table(2).go(), resubmit(1)]),
        to(6, [dnat(1).go(), mv(Field::IpDst, Field::Reg0), resubmit(3)]),
        to(7, [dnat(1).go(), Action::WriteActions([out(2)].into())]),
        to(9, [dnat(1).go(), set(Field::UdpDst, 77), ct(2).commit().table(2).go(), out(4)]),
        to(14, [dnat(1).go(), ct(1).table(2).go()]),
        to(15, [dnat(1).go(), ct(1).nat().table(2).go()]),
    ])));
    let turned = |n| udp_seen(n, INSIDE, 99);
    let both = eth().ipv4(OTHER, INSIDE).udp(88, 99).payload(b"x").build();
    let expected = [
        (1, vec![(3, turned(1))]),
        (2, vec![(2, turned(2))]),
        (3, vec![(2, udp_seen(3, OTHER, 99)), (3, udp_seen(3, IP_B, 99))]),
        (4, vec![(2, turned(4)), (3, turned(4))]),
        (5, vec![(2, both.clone()), (3, both)]),
        (6, vec![(3, turned(6))]),
        (7, vec![(2, turned(7))]),
        (9, vec![(3, udp_seen(9, INSIDE, 77)), (4, udp_seen(9, INSIDE, 77))]),
        (14, vec![(2, turned(14))]),
        (15, vec![(2, turned(15))]),
    ];
    for (port, sent) in expected {
        assert_eq!(s.twice(1, &udp_to(port)), sent, "{port}");
    }
}

#[test]
fn what_a_copy_translates_is_translated_there_alone() {
    let inner = [dnat(1).go(), out(2)];
    let buckets = [bucket(1, [dnat(1).table(2).go()])];
    let mut s = Switch::new(
        &Net::of(tables().into_iter().chain([
            to(1, [Action::Clone(inner.into()), out(3)]),
            to(2, [Action::Group(1), out(3)]),
            to(3, [out(9), out(3)]),
            to(4, [dnat(1).go(), Action::Clone([set_dst(OTHER), out(2)].into()), out(3)]),
        ]))
        .flows(1, [always([dnat(1).go(), out(2)])])
        .group(group(1, GroupKind::All, buckets)),
    );
    for port in [1, 2] {
        let sent = [(2, udp_seen(port, INSIDE, 99)), (3, udp_to(port))];
        assert_eq!(s.twice(1, &udp_to(port)), sent, "{port}");
    }
    let sent = s.twice(1, &udp_to(3));
    assert_eq!((&sent[0].1, &sent[1].1), (&udp_seen(3, INSIDE, 99), &udp_to(3)));
    let sent = [(2, udp_seen(4, OTHER, 99)), (3, udp_seen(4, INSIDE, 99))];
    assert_eq!(s.twice(1, &udp_to(4)), sent, "and a clone's write is the clone's");
}

#[test]
fn a_choice_by_the_packets_hash_looks_at_it_anew() {
    let fields = [(Field::IpDst, u128::from(u32::MAX))].into();
    for (selection, port) in [(Selection::Default, 2), (Selection::Hash { basis: 0, fields }, 3)] {
        let mut choice = group(2, GroupKind::Select, [bucket(1, [resubmit(1)])]);
        choice.selection = selection;
        let flows = tables().into_iter().chain([to(1, [dnat(1).go(), Action::Group(2)])]);
        let mut s = Switch::new(&Net::of(flows).group(choice));
        assert_eq!(s.twice(1, &udp_to(1)), [(port, udp_seen(1, INSIDE, 99))]);
    }
}

#[test]
fn an_icmp_error_is_seen_as_it_came_too() {
    let snat = ct(1).commit().nat_to(NatKind::Src, OTHER, Some((5000, 5000)));
    let mut s = Switch::new(&Net::of([
        flow(0, 5).is(Field::InPort, 1).does([snat.go(), out(2)]),
        flow(0, 5).is(Field::InPort, 2).does([ct(1).nat().go(), resubmit(1)]),
        is_to(1, 9, IP_A).does([out(3)]),
        is_to(1, 8, OTHER).does([out(1)]),
    ]));
    let there = udp_to(1);
    let sent = s.send(1, &there).remove(0).1;
    let error = |dst, quoted: &[u8]| {
        PacketBuilder::eth(B, A).ipv4([10, 1, 1, 1], dst).icmp_error(11, 0, [0; 4], quoted).build()
    };
    assert_eq!(s.twice(2, &error(OTHER, &sent)), [(1, error(IP_A, &there))]);
}

/// A server says that nobody is there: one zone gives its address back, the other the client's.
#[test]
fn an_error_bears_what_two_zones_translated() {
    let snat = ct(1).commit().nat_to(NatKind::Src, OTHER, Some((88, 88)));
    let mut s = Switch::new(&Net::of([
        flow(0, 5).is(Field::InPort, 1).does([snat.go(), dnat(2).go(), out(2)]),
        flow(0, 5).is(Field::InPort, 2).does([ct(2).nat().go(), ct(1).nat().go(), out(1)]),
    ]));
    let there = udp_to(1);
    let sent = s.send(1, &there).remove(0).1;
    let error = |src, dst, quoted: &[u8]| {
        PacketBuilder::eth(B, A).ipv4(src, dst).icmp_error(3, 3, [0; 4], quoted).build()
    };
    assert_eq!(s.twice(2, &error(INSIDE, OTHER, &sent)), [(1, error(IP_B, IP_A, &there))]);
}

#[test]
fn an_error_in_pieces_is_translated_in_each() {
    let snat = ct(1).commit().nat_to(NatKind::Src, OTHER, Some((5000, 5000)));
    let mut s = Switch::new(&Net::of([
        flow(0, 5).is(Field::InPort, 1).does([snat.go(), out(2)]),
        flow(0, 5).is(Field::InPort, 2).does([ct(1).nat().go(), out(1)]),
    ]));
    let there = v4().udp(1000, 53).payload(&[7; 1000]).build();
    let sent = s.send(1, &there).remove(0).1;
    // It quotes the whole packet.
    let error = |dst, quoted: &[u8]| {
        let error = PacketBuilder::eth(B, A).ipv4([10, 1, 1, 1], dst);
        error.icmp(11, 0, [0; 4]).payload(&quoted[14..]).build()
    };
    let back = s.batch(2, &cut(&error(OTHER, &sent), 0, 7, &[400]));
    assert_eq!(back.iter().map(|(port, _)| *port).collect::<Vec<_>>(), [1, 1]);
    let back: Vec<_> = back.into_iter().map(|(_, bytes)| bytes).collect();
    assert_eq!(join(&back), of_whole(&error(IP_A, &there), 0));
}

/// A lookup behind a translation is of the packet as it came: the walk is everyone's who comes so.
#[test]
fn what_is_looked_up_behind_a_translation_serves_other_connections() {
    let any = ct(1).commit().nat_to(NatKind::Src, OTHER, None);
    let mut s = Switch::sized(
        &Net::of(tables().into_iter().chain([to(1, [any.go(), resubmit(1)])])),
        64,
        64,
    );
    let from = |n: u16| eth().ipv4(IP_A, IP_B).udp(1000 + n, 1).payload(b"x").build();
    for n in 0..20 {
        assert_eq!(s.ports(1, &from(n)), [3]);
    }
    assert!(s.mega_hits() >= 10, "{}", s.mega_hits());
}

#[test]
fn ipv6_is_seen_as_it_came_too() {
    const INSIDE_6: [u8; 16] = [0xfd, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 9, 9];
    const OTHER_6: [u8; 16] = [0xfd, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 8, 8];
    let dnat = || {
        let address = u128::from_be_bytes(INSIDE_6);
        let mut ct = ct(1).commit();
        ct.0.nat = Some(Nat::New(NatSpec {
            kind: NatKind::Dst,
            v6: true,
            addr_min: address,
            addr_max: address,
            ports: Some((99, 99)),
            mode: NatMode::Hash,
        }));
        ct
    };
    let six = |table, priority| flow(table, priority).is(Field::EthType, 0x86dd);
    let to = |port| six(0, 9).is(Field::UdpDst, port);
    let is_to = |priority, dst| six(1, priority).is(Field::Ipv6Dst, u128::from_be_bytes(dst));
    let write = |dst| set(Field::Ipv6Dst, u128::from_be_bytes(dst));
    let from = |src| set(Field::Ipv6Src, u128::from_be_bytes(src));
    let mut s = Switch::new(&Net::of([
        is_to(9, INSIDE_6).is(Field::UdpDst, 99).does([out(2)]),
        is_to(8, V6_B).does([out(3)]),
        to(1).does([dnat().go(), resubmit(1)]),
        to(2).does([dnat().table(1).go(), resubmit(1)]),
        to(3).does([dnat().go(), write(OTHER_6), out(2), write(V6_B), out(3)]),
        to(4).does([dnat().go(), from(OTHER_6), write(V6_B), out(2), from(V6_A), out(3)]),
    ]));
    let sent =
        |port: u16, src, dst, to| eth().ipv6(src, dst).udp(100 + port, to).payload(b"x").build();
    let turned = |port| sent(port, V6_A, INSIDE_6, 99);
    let expected = [
        (1, vec![(3, turned(1))]),
        (2, vec![(2, turned(2)), (3, turned(2))]),
        (3, vec![(2, sent(3, V6_A, OTHER_6, 99)), (3, sent(3, V6_A, V6_B, 99))]),
        (4, vec![(2, sent(4, OTHER_6, INSIDE_6, 99)), (3, turned(4))]),
    ];
    for (port, expected) in expected {
        assert_eq!(s.twice(1, &sent(port, V6_A, V6_B, port)), expected, "{port}");
    }
}

#[test]
fn a_resumed_pause_and_what_lies_open_below_a_label_are_looked_at_anew() {
    let mut s = Switch::new(&Net::of(tables().into_iter().chain([
        to(1, [dnat(1).go(), pause(), resubmit(1)]),
        to(2, [dnat(1).go(), push_mpls(), Action::PopMpls(0x0800), resubmit(1)]),
    ])));
    for _ in 0..2 {
        assert_eq!(s.send(1, &udp_to(1)), []);
        assert_eq!(s.resume(), Some(vec![(2, udp_seen(1, INSIDE, 99))]));
    }
    assert_eq!(s.twice(1, &udp_to(2)), [(2, udp_seen(2, INSIDE, 99))]);
}

/// The far side of a cable sees what the near one does, and its writes are its own.
#[test]
fn a_translation_is_not_seen_beyond_a_cable_either() {
    let flows = [to(1, [dnat(1).go(), out(CABLE.into()), out(2)])];
    let there = |dst, port| is_to(0, 9, dst).does([set(Field::UdpDst, 55), out(port)]);
    let mut s = Switch::new(&Net::of(flows).flows(1, [there(IP_B, 2), there(INSIDE, 3)]));
    let sent = [(FAR_2, udp_seen(1, INSIDE, 55)), (2, udp_seen(1, INSIDE, 99))];
    assert_eq!(s.twice(1, &udp_to(1)), sent);
}

/// Behind `table=` the address of before is one as any other.
#[test]
fn what_is_seen_may_be_written_back() {
    let mut s = Switch::new(&Net::of([
        to(1, [dnat(1).table(4).go(), set_dst(IP_B), out(4)]),
        flow(4, 9).is(Field::EthType, 0x0800).does([set_dst(IP_B), out(2), set_dst(OTHER), out(3)]),
    ]));
    let sent = [(2, IP_B), (3, OTHER), (4, INSIDE)].map(|(port, dst)| (port, udp_seen(1, dst, 99)));
    assert_eq!(s.twice(1, &udp_to(1)), sent);
}

/// A `ct` is of the packet as it is by now, also where flows do not see that yet.
#[test]
fn the_next_zone_tracks_what_the_packet_is_by_now() {
    let seen = |dst| flow(4, 9).is(Field::EthType, 0x0800).is(Field::CtNwDst, number(&dst));
    let mut s = Switch::new(&Net::of([
        to(1, [dnat(1).go(), ct(2).commit().table(4).go()]),
        to(2, [dnat(1).go(), set(Field::UdpDst, 77), ct(2).commit().go(), out(4)]),
        seen(INSIDE).does([out(2)]),
        seen(IP_B).does([out(3)]),
    ]));
    assert_eq!(s.twice(1, &udp_to(1)), [(2, udp_seen(1, INSIDE, 99))]);
    assert_eq!(s.twice(1, &udp_to(2)), [(4, udp_seen(2, INSIDE, 77))]);
    let conns = s.see().conns.into_iter().filter(|c| c.zone == 2);
    let mut ends: Vec<_> = conns.map(|c| (c.orig.dst, c.orig.dport)).collect();
    ends.sort_unstable();
    assert_eq!(ends, [(number(&INSIDE), 77), (number(&INSIDE), 99)]);
}

#[test]
fn two_translations_are_seen_together() {
    let snat = ct(2).commit().nat_to(NatKind::Src, OTHER, Some((88, 88)));
    let mut s = Switch::new(&Net::of(
        tables()
            .into_iter()
            .chain([to(1, [dnat(1).go(), snat.go(), resubmit(1), set(Field::UdpSrc, 66), out(4)])]),
    ));
    let both = |port| eth().ipv4(OTHER, INSIDE).udp(port, 99).payload(b"x").build();
    assert_eq!(s.twice(1, &udp_to(1)), [(3, both(88)), (4, both(66))]);
}
