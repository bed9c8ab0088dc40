//! Tags and labels, as Open vSwitch 3.1 showed them by `ofproto/trace` for the same flows.

use crate::kit::*;
use crate::packets::*;
use sluice_dataplane::action::Action;
use sluice_dataplane::counters::Drop;
use sluice_dataplane::packet::build::PacketBuilder;
use sluice_dataplane::packet::field::Field;

const PRESENT: u128 = 0x1000;

fn push_vlan(tpid: u16, vid: u128) -> [Action; 2] {
    [Action::PushVlan { tpid }, set(Field::VlanVid, PRESENT | vid)]
}

fn payload(b: PacketBuilder) -> Vec<u8> {
    b.ipv4(IP_A, IP_B).udp(1000, 2000).payload(b"hello").build()
}

/// What becomes of a packet that comes in at 1.
fn becomes(flows: impl IntoIterator<Item = Flow>, packet: &[u8]) -> Vec<(u16, Vec<u8>)> {
    Switch::new(&Net::of(flows)).twice(1, packet)
}

fn with_limit(limit: u8, flows: impl IntoIterator<Item = Flow>, packet: &[u8]) -> Vec<u16> {
    let net = Net { vlan_limit: limit, ..Net::of(flows) };
    Switch::new(&net).twice(1, packet).into_iter().map(|(p, _)| p).collect()
}

#[test]
fn a_second_tag_goes_in_front_and_a_third_forgets_the_innermost() {
    let tagged = payload(eth().vlan(10, 0));
    let two = push_vlan(0x88a8, 1);
    let sent = becomes([always(two.into_iter().chain([out(2)]))], &tagged);
    assert_eq!(sent, [(2, payload(eth().tag(0x88a8, 1).vlan(10, 0)))]);
    let three = [push_vlan(0x8100, 1), push_vlan(0x8100, 2)].concat();
    let sent = becomes([always(three.into_iter().chain([out(2)]))], &tagged);
    assert_eq!(sent, [(2, payload(eth().vlan(2, 0).vlan(1, 0)))]);
    // With one tag known of a packet of two, the second is payload and stays.
    let double = payload(eth().vlan(10, 0).vlan(20, 0));
    let one = push_vlan(0x8100, 1);
    let sent = becomes([always(one.into_iter().chain([out(2)]))], &double);
    assert_eq!(sent, [(2, payload(eth().vlan(1, 0).vlan(10, 0).vlan(20, 0)))]);
}

#[test]
fn a_pop_shows_the_second_tag_if_the_limit_is_two() {
    let double = payload(eth().tag(0x88a8, 10).vlan(20, 0));
    let flows = || {
        [
            always([Action::PopVlan, resubmit(1)]),
            flow(1, 2).is(Field::DlVlan, 20).is(Field::EthType, 0x0800).does([out(3)]),
            flow(1, 1).does([out(2)]),
        ]
    };
    assert_eq!(with_limit(1, flows(), &double), [2]);
    assert_eq!(with_limit(2, flows(), &double), [3]);
    assert_eq!(with_limit(0, flows(), &double), [3], "0 is as many as can be");
    let sent = becomes(flows(), &double);
    assert_eq!(sent, [(2, payload(eth().vlan(20, 0)))]);
    // Matching goes by the outer tag.
    let outer = || [flow(0, 1).is(Field::DlVlan, 10).does([out(2)])];
    assert_eq!(with_limit(2, outer(), &double), [2]);
}

#[test]
fn the_first_label_takes_over_what_ip_says_and_the_next_are_copies() {
    let three = [push_mpls(), Action::PushMpls(0x8848), push_mpls(), out(2)];
    let sent = becomes([always(three.clone())], &payload(eth()));
    let null = |b: PacketBuilder| b.mpls(0, 0, 64);
    assert_eq!(sent, [(2, payload(null(null(null(eth())))))]);
    let marked = v4().tos(0xb9).ttl(9).udp(1, 2);
    let one = || [always([push_mpls(), out(2)])];
    let sent = becomes(one(), &marked.clone().build());
    assert_eq!(sent, [(2, marked.mpls(0, 0x2e & 7, 9).build())]);
    let sent = becomes(one(), &v6().udp(1, 2).build());
    assert_eq!(sent, [(2, v6().mpls(2, 0, 64).udp(1, 2).build())]);
    let sent = becomes(one(), &arp());
    let request = PacketBuilder::eth(A, BROADCAST).mpls(0, 0, 64);
    assert_eq!(sent, [(2, request.arp(1, (A, IP_A), ([0; 6], IP_B)).build())]);
}

#[test]
fn labels_go_behind_tags_that_were_there_and_tags_in_front_of_labels() {
    let tagged = payload(eth().vlan(10, 3));
    let sent = becomes([always([push_mpls(), out(2)])], &tagged);
    assert_eq!(sent, [(2, payload(eth().vlan(10, 3).mpls(0, 0, 64)))]);
    let both = push_vlan(0x8100, 5).into_iter();
    let sent = becomes([always([push_mpls()].into_iter().chain(both).chain([out(2)]))], &tagged);
    assert_eq!(sent, [(2, payload(eth().vlan(5, 0).vlan(10, 3).mpls(0, 0, 64)))]);
    let labelled = payload(eth().vlan(10, 3).mpls(16, 1, 64));
    let sent = becomes([always([Action::PopMpls(0x0800), out(2)])], &labelled);
    assert_eq!(sent, [(2, tagged)]);
}

#[test]
fn behind_a_label_nothing_of_ip_matches() {
    let flows = [
        flow(0, 3).is(Field::EthType, 0x0800).does([push_mpls(), resubmit(1)]),
        flow(1, 2).is(Field::EthType, 0x0800).does([out(3)]),
        flow(1, 1).does([
            set(Field::MplsLabel, 77),
            set(Field::MplsTc, 5),
            Action::DecMplsTtl,
            set(Field::IpTtl, 1),
            out(2),
        ]),
    ];
    let sent = becomes(flows, &payload(eth()));
    assert_eq!(sent, [(2, payload(eth().mpls(77, 5, 63)))]);
}

#[test]
fn what_a_pop_brings_to_light_is_seen_and_edited() {
    let flows = || {
        [
            always([Action::PopMpls(0x0800), resubmit(1)]),
            flow(1, 2)
                .is(Field::EthType, 0x0800)
                .is(Field::IpDst, u32::from_be_bytes(IP_B).into())
                .is(Field::IpProto, 17)
                .is(Field::UdpDst, 2000)
                .does([Action::DecTtl, set(Field::UdpDst, 53), out(3)]),
            flow(1, 1).does([out(2)]),
        ]
    };
    let plain = v4().ttl(63).udp(1000, 53).payload(b"hello").build();
    // Popping to a type that is not MPLS takes all labels off.
    for labels in 1..4 {
        let stack = (0..labels).fold(eth(), |b, n| b.mpls(16 + n, 0, 7));
        assert_eq!(becomes(flows(), &payload(stack)), [(3, plain.clone())]);
    }
    // Another payload than is claimed: only the type is there to match.
    let six = v6().mpls(16, 0, 7).udp(1000, 2000).build();
    let mut bytes = v6().udp(1000, 2000).build();
    bytes[12..14].copy_from_slice(&[8, 0]);
    assert_eq!(becomes(flows(), &six), [(2, bytes)]);
    let one = [
        always([Action::PopMpls(0x8848), resubmit(1)]),
        flow(1, 1).is(Field::EthType, 0x8848).is(Field::MplsLabel, 17).does([out(2)]),
    ];
    let sent = becomes(one, &payload(eth().mpls(16, 0, 64).mpls(17, 0, 9)));
    assert_eq!(sent, [(2, payload(eth().eth_type(0x8848).mpls(17, 0, 9)))]);
}

#[test]
fn a_clone_gives_labels_and_payload_back() {
    let inner = [Action::PopMpls(0x0800), Action::DecTtl, out(2)];
    let labelled = payload(eth().vlan(1, 0).mpls(16, 0, 64).mpls(17, 3, 9));
    let sent = becomes([always([Action::Clone(inner.into()), out(3)])], &labelled);
    let routed = eth().vlan(1, 0).ipv4(IP_A, IP_B).ttl(63).udp(1000, 2000).payload(b"hello");
    assert_eq!(sent, [(2, routed.build()), (3, labelled)]);
    let plain = payload(eth());
    let inner = [Action::DecTtl, push_mpls(), out(2)];
    let sent = becomes([always([Action::Clone(inner.into()), push_mpls(), out(3)])], &plain);
    let routed = v4().ttl(63).mpls(0, 0, 63).udp(1000, 2000).payload(b"hello").build();
    assert_eq!(sent, [(2, routed), (3, payload(eth().mpls(0, 0, 64)))]);
}

#[test]
fn a_ttl_of_a_label_ends_like_that_of_ip() {
    let dec = || [always([Action::DecMplsTtl, out(2)])];
    assert_eq!(becomes(dec(), &payload(eth().mpls(1, 0, 1))), []);
    let sent = becomes(dec(), &payload(eth().mpls(1, 0, 2)));
    assert_eq!(sent, [(2, payload(eth().mpls(1, 0, 1)))]);
    assert_eq!(becomes(dec(), &udp()), [], "without a label the list ends too");
    let to = [always([Action::SetMplsTtl(5), out(2)])];
    assert_eq!(
        becomes(to.clone(), &payload(eth().mpls(1, 0, 2)))[0].1,
        payload(eth().mpls(1, 0, 5))
    );
    assert_eq!(becomes(to, &udp()), [(2, udp())]);
}

#[test]
fn more_than_three_labels_are_payload() {
    let deep = payload(eth().mpls(1, 0, 9).mpls(2, 0, 9).mpls(3, 0, 9).mpls(4, 0, 9));
    let mut s = Switch::new(&Net::of([always([out(2), Action::PopMpls(0x0800), out(3)])]));
    assert_eq!(s.twice(1, &deep), [], "an error voids what was output before");
    assert_eq!(s.dropped(Drop::MplsTooMany), 2);
    let sent = becomes([always([set(Field::MplsLabel, 7), out(2)])], &deep);
    let other = payload(eth().mpls(7, 0, 9).mpls(2, 0, 9).mpls(3, 0, 9).mpls(4, 0, 9));
    assert_eq!(sent, [(2, other)]);
    assert_eq!(becomes([always([Action::PopMpls(0x0800), out(2)])], &udp()), [(2, udp())]);
}

#[test]
fn connection_tracking_sees_what_a_pop_brought_to_light() {
    let flows = || {
        [
            always([Action::PopMpls(0x0800), ct(1).commit().table(1).go()]),
            flow(1, 2).masked(Field::CtState, 0x21, 0x21).does([out(2)]),
            flow(1, 2).masked(Field::CtState, 0x30, 0x30).does([out(3)]),
        ]
    };
    let labelled = payload(eth().mpls(16, 0, 64));
    assert_eq!(becomes(flows(), &labelled), [(2, udp())]);
    let mut bad = labelled;
    let last = bad.len() - 1;
    bad[last] ^= 1;
    let sent = becomes(flows(), &bad);
    assert_eq!(sent.iter().map(|s| s.0).collect::<Vec<_>>(), [3], "the checksum is looked at");
}
