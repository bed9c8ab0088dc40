//! Connection tracking and NAT through the whole pipeline, byte for byte.

use crate::kit::*;
use crate::packets::*;
use sluice_dataplane::action::Action;
use sluice_dataplane::conntrack::NatKind;
use sluice_dataplane::packet::build::PacketBuilder;
use sluice_dataplane::packet::field::Field;

const OUTSIDE: [u8; 4] = [203, 0, 113, 1];
const FAR: [u8; 4] = [8, 8, 8, 8];

/// Source NAT from 1 to 2; only what was asked for comes back.
fn gateway() -> Vec<Flow> {
    let commit = ct(1).commit().nat_to(NatKind::Src, OUTSIDE, Some((5000, 5009)));
    vec![
        flow(0, 5).is(Field::InPort, 1).is(Field::EthType, 0x0800).does([commit.table(1).go()]),
        flow(0, 5)
            .is(Field::InPort, 2)
            .is(Field::EthType, 0x0800)
            .does([ct(1).nat().table(2).go()]),
        flow(1, 1).does([out(2)]),
        flow(2, 2).masked(Field::CtState, 0x22, 0x22).does([out(1)]),
        flow(2, 2).masked(Field::CtState, 0x24, 0x24).does([out(1)]),
    ]
}

fn ports_of(p: &[u8]) -> (u16, u16) {
    (u16::from_be_bytes([p[34], p[35]]), u16::from_be_bytes([p[36], p[37]]))
}

#[test]
fn source_nat_there_and_back() {
    let mut s = Switch::sized(&Net::of(gateway()), 64, 64);
    let there = eth().ipv4(IP_A, FAR).udp(1000, 53).payload(b"query").build();
    let sent = s.twice(1, &there);
    let port = ports_of(&sent[0].1).0;
    assert!((5000..=5009).contains(&port));
    let expect = eth().ipv4(OUTSIDE, FAR).udp(port, 53).payload(b"query").build();
    assert_eq!(sent, [(2, expect)]);
    let back = PacketBuilder::eth(B, A).ipv4(FAR, OUTSIDE).udp(53, port).payload(b"reply").build();
    let home = PacketBuilder::eth(B, A).ipv4(FAR, IP_A).udp(53, 1000).payload(b"reply").build();
    assert_eq!(s.twice(2, &back), [(1, home)]);
    assert_eq!(s.twice(1, &there), sent, "established now, the translation stays");
    let stranger = PacketBuilder::eth(B, A).ipv4([9, 9, 9, 9], OUTSIDE).udp(53, port).build();
    assert_eq!(s.twice(2, &stranger), []);
    assert!(s.hits() >= 2, "{}", s.hits());
}

#[test]
fn an_icmp_error_arrives_as_if_there_were_no_nat() {
    let mut s = Switch::new(&Net::of(gateway()));
    let there = eth().ipv4(IP_A, FAR).udp(1000, 53).payload(b"query").build();
    let sent = s.send(1, &there).remove(0).1;
    let router = [10, 1, 1, 1];
    let error = |dst, quoted: &[u8]| {
        PacketBuilder::eth(B, A).ipv4(router, dst).icmp_error(11, 0, [0; 4], quoted).build()
    };
    assert_eq!(s.twice(2, &error(OUTSIDE, &sent)), [(1, error(IP_A, &there))]);
    let about_nothing = eth().ipv4(OUTSIDE, FAR).udp(4, 5).build();
    assert_eq!(s.twice(2, &error(OUTSIDE, &about_nothing)), []);
}

#[test]
fn an_error_is_translated_in_one_zone_after_the_other() {
    let snat = |zone, to| ct(zone).commit().nat_to(NatKind::Src, to, Some((5000, 5000)));
    let between = [10, 7, 7, 7];
    let mut s = Switch::new(&Net::of([
        flow(0, 5).is(Field::InPort, 1).does([snat(1, between).table(1).go()]),
        flow(1, 1).does([snat(2, OUTSIDE).table(2).go()]),
        flow(2, 1).does([out(2)]),
        flow(0, 4).does([ct(2).nat().table(3).go()]),
        flow(3, 1).is(Field::CtState, 0xa4 | 8).does([ct(1).nat().table(4).go()]),
        flow(4, 1).is(Field::CtState, 0xa4 | 8).does([out(1)]),
    ]));
    let there = eth().ipv4(IP_A, FAR).udp(1000, 53).payload(b"query").build();
    let sent = s.send(1, &there).remove(0).1;
    assert_eq!(sent[26..30], OUTSIDE);
    let error = |dst, quoted: &[u8]| {
        PacketBuilder::eth(B, A).ipv4([10, 1, 1, 1], dst).icmp_error(11, 0, [0; 4], quoted).build()
    };
    assert_eq!(s.twice(2, &error(OUTSIDE, &sent)), [(1, error(IP_A, &there))]);
}

#[test]
fn pings_are_translated_by_identifier_and_the_next_zone_sees_it() {
    let mut flows = gateway();
    flows.push(flow(1, 9).does([ct(2).commit().table(3).go()]));
    flows.push(flow(3, 1).does([out(2)]));
    let mut s = Switch::new(&Net::of(flows));
    let there = eth().ipv4(IP_A, FAR).echo_request(7, 1).payload(b"ping").build();
    let sent = s.twice(1, &there);
    let id = u16::from_be_bytes([sent[0].1[38], sent[0].1[39]]);
    assert!((5000..=5009).contains(&id));
    let expect = eth().ipv4(OUTSIDE, FAR).echo_request(id, 1).payload(b"ping").build();
    assert_eq!(sent, [(2, expect)]);
    let zone_2 = s.see().conns.into_iter().find(|c| c.zone == 2).unwrap();
    assert_eq!(zone_2.orig.sport, id, "tracked as translated");
    let back = PacketBuilder::eth(B, A).ipv4(FAR, OUTSIDE).echo_reply(id, 1).build();
    let home = PacketBuilder::eth(B, A).ipv4(FAR, IP_A).echo_reply(7, 1).build();
    assert_eq!(s.twice(2, &back), [(1, home)]);
}

#[test]
fn an_answer_to_a_ping_that_nobody_sent_is_invalid() {
    let state = |bits| flow(1, 5).masked(Field::CtState, bits, bits);
    let mut s = Switch::new(&Net::of([
        flow(0, 1).does([ct(1).commit().table(1).go()]),
        state(0x30).does([out(3)]),
        state(0x21).does([out(2)]),
        state(0x2a).does([out(4)]),
    ]));
    let (there, back) = (eth().ipv4(IP_A, FAR), eth().ipv4(FAR, IP_A));
    let six = |from: u8, to: u8| eth().ipv6([from; 16], [to; 16]);
    for (request, reply) in [
        (there.clone().echo_request(7, 1).build(), back.clone().echo_reply(7, 1).build()),
        (six(1, 2).echo_request(7, 1).build(), six(2, 1).echo_reply(7, 1).build()),
        (there.icmp(13, 0, [0, 7, 0, 1]).build(), back.icmp(14, 0, [0, 7, 0, 1]).build()),
    ] {
        assert_eq!(s.ports(1, &reply), [3]);
        assert_eq!(s.ports(1, &request), [2]);
        assert_eq!(s.ports(1, &reply), [4]);
    }
}

#[test]
fn a_packet_that_is_cut_is_invalid() {
    let mut s = Switch::new(&Net::of([
        flow(0, 1).does([ct(1).commit().table(1).go()]),
        flow(1, 5).masked(Field::CtState, 0x30, 0x30).does([out(3)]),
        flow(1, 1).does([out(2)]),
    ]));
    let six = eth().ipv6([1; 16], [2; 16]);
    let others = [six.clone().udp(7, 8), six.icmp(1, 0, [0; 4]), eth().ipv4(IP_A, FAR).udp(7, 8)];
    for p in others.map(|p| p.payload(&[0; 60]).build()) {
        assert_eq!(s.ports(1, &p[..p.len() - 40]), [3]);
    }
    assert!(s.see().conns.is_empty());
}

/// Looks up, and what is new goes to `commit` in table 1. What was translated leaves by 2, the rest
/// by 3; answers come home by 1.
fn in_two_steps(commit: Action) -> Vec<Flow> {
    let first = ct(1).nat();
    vec![
        flow(0, 5).is(Field::InPort, 1).does([first.clone().table(1).go()]),
        flow(0, 5).is(Field::InPort, 2).does([first.table(3).go()]),
        flow(1, 5).masked(Field::CtState, 0x21, 0x21).does([commit]),
        flow(1, 4).does([resubmit(2)]),
        flow(2, 5).masked(Field::CtState, 0x40, 0x40).does([out(2)]),
        flow(2, 4).masked(Field::CtState, 0x80, 0x80).does([out(2)]),
        flow(2, 1).does([out(3)]),
        flow(3, 5).masked(Field::CtState, 0x28, 0x28).does([out(1)]),
        flow(3, 1).does([out(3)]),
    ]
}

#[test]
fn what_is_sent_before_the_first_answer_is_translated_alike() {
    let snat = ct(1).commit().nat_to(NatKind::Src, OUTSIDE, Some((5000, 5999)));
    let mut s = Switch::new(&Net::of(in_two_steps(snat.table(2).go())));
    let from = |id: u16, n: u16| {
        [
            eth().ipv4(IP_A, FAR).udp(id, 53).payload(&[n as u8]).build(),
            eth().ipv4(IP_A, FAR).tcp(id, 80).flags(2).seq(100).build(),
            eth().ipv4(IP_A, FAR).echo_request(id, n).build(),
        ]
    };
    for id in 1000..1020 {
        let first: Vec<_> = from(id, 0).iter().map(|p| s.send(1, p)).collect();
        assert!(first.iter().all(|sent| sent[0].0 == 2), "{first:?}");
        let again: Vec<_> = from(id, 1).iter().map(|p| s.send(1, p)).collect();
        assert_eq!(ports_of(&first[0][0].1), ports_of(&again[0][0].1));
        assert_eq!(first[1], again[1]);
        assert_eq!(first[2][0].1[38..40], again[2][0].1[38..40]);
        let port = ports_of(&first[0][0].1).0;
        let back = PacketBuilder::eth(B, A).ipv4(FAR, OUTSIDE).udp(53, port).build();
        let home = PacketBuilder::eth(B, A).ipv4(FAR, IP_A).udp(53, id).build();
        assert_eq!(s.twice(2, &back), [(1, home)]);
    }
    assert_eq!(s.see().conns.len(), 60, "one of each kind and number");
}

#[test]
fn a_packet_sent_on_to_a_server_meets_its_connection_again() {
    let dnat = ct(1).commit().nat_to(NatKind::Dst, FAR, Some((8080, 8080)));
    let mut s = Switch::new(&Net::of(in_two_steps(dnat.table(2).go())));
    let there = eth().ipv4(IP_A, OUTSIDE).tcp(1000, 80).flags(2).build();
    let sent = vec![(2, eth().ipv4(IP_A, FAR).tcp(1000, 8080).flags(2).build())];
    for _ in 0..3 {
        assert_eq!(s.twice(1, &there), sent);
    }
    assert_eq!(s.see().conns.len(), 1);
}

#[test]
fn a_packet_is_known_by_its_translation_until_another_zone_or_ct_clear() {
    let snat = |zone| ct(zone).commit().nat_to(NatKind::Src, OUTSIDE, None);
    let p = eth().ipv4(IP_A, FAR).udp(1000, 53).build();
    // What follows the translation; the connections that two packets make; where they leave. A
    // packet that is not known by its translation is a stranger with the tuple of another's reply.
    let keeps = ct(1).commit().table(2).go();
    let other_zone = ct(2).commit().table(4).go();
    let cases: [(&str, Vec<Action>, usize, u16); 5] = [
        ("without nat", vec![keeps.clone()], 1, 2),
        (
            "in a copy, and after it",
            vec![Action::Clone([keeps.clone()].into()), keeps.clone()],
            1,
            2,
        ),
        ("after ct_clear", vec![Action::CtClear, keeps.clone()], 1, 3),
        ("after another zone", vec![other_zone], 2, 3),
        ("changed since", vec![set(Field::UdpSrc, 7), keeps.clone()], 2, 2),
    ];
    for (name, behind, conns, port) in cases {
        let mut flows = vec![
            flow(0, 1).does([snat(1).table(1).go()]),
            flow(1, 1).does(behind),
            flow(2, 5).masked(Field::CtState, 0x40, 0x40).does([out(2)]),
            flow(2, 1).does([out(3)]),
        ];
        flows.push(flow(4, 1).does([keeps.clone()]));
        let mut s = Switch::new(&Net::of(flows));
        let sent = s.send(1, &p);
        assert!(sent.iter().all(|(to, _)| *to == port), "{name}: {sent:?}");
        assert_eq!(s.send(1, &p), sent, "{name}");
        assert_eq!(s.see().conns.len(), conns, "{name}: {:?}", s.see().conns);
    }
}

#[test]
fn a_translation_is_known_behind_a_cable() {
    let snat = || ct(1).commit().nat_to(NatKind::Src, OUTSIDE, None).table(1).go();
    let net = Net::of([always([snat()]), flow(1, 1).does([out(CABLE.into())])])
        .flows(1, [always([snat()]), flow(1, 1).masked(Field::CtState, 0x40, 0x40).does([out(2)])]);
    let mut s = Switch::new(&net);
    let p = eth().ipv4(IP_A, FAR).udp(1000, 53).build();
    let sent = vec![(FAR_2, eth().ipv4(OUTSIDE, FAR).udp(1000, 53).build())];
    assert_eq!(s.twice(1, &p), sent);
    assert_eq!(s.see().conns.len(), 1);
}

#[test]
fn an_error_is_known_by_its_translation_too() {
    let snat = ct(1).commit().nat_to(NatKind::Src, OUTSIDE, Some((5000, 5000)));
    let mut flows = in_two_steps(snat.table(2).go());
    flows.push(flow(3, 9).is(Field::CtState, 0xa4 | 8).does([ct(1).nat().table(4).go()]));
    flows.push(flow(4, 1).is(Field::CtState, 0xa4 | 8).does([out(1)]));
    let mut s = Switch::new(&Net::of(flows));
    let there = eth().ipv4(IP_A, FAR).udp(1000, 53).payload(b"query").build();
    let sent = s.send(1, &there).remove(0).1;
    let error = |dst, quoted: &[u8]| {
        PacketBuilder::eth(B, A).ipv4([10, 1, 1, 1], dst).icmp_error(11, 0, [0; 4], quoted).build()
    };
    assert_eq!(s.twice(2, &error(OUTSIDE, &sent)), [(1, error(IP_A, &there))]);
}

#[test]
fn a_translation_beyond_a_cable_does_not_come_back() {
    let nat = ct(1).commit().nat_to(NatKind::Src, OUTSIDE, Some((5000, 5000)));
    let net = Net::of([always([out(CABLE.into()), out(2)])])
        .flows(1, [always([nat.table(1).go()]), flow(1, 1).does([out(2)])]);
    let mut s = Switch::new(&net);
    for p in [
        eth().ipv4(IP_A, FAR).echo_request(7, 1).payload(b"ping").build(),
        eth().ipv4(IP_A, FAR).udp(7, 1).payload(b"datagram").build(),
        eth().ipv4(IP_A, FAR).tcp(7, 1).flags(2).build(),
    ] {
        let sent = s.twice(1, &p);
        assert_eq!(sent[1], (2, p.clone()));
        assert_ne!(sent[0], (FAR_2, p));
    }
}

#[test]
fn tcp_opens_lives_and_closes_through_nat() {
    let mut s = Switch::new(&Net::of(gateway()));
    let there = |flags, seq, ack, data: &[u8]| {
        eth().ipv4(IP_A, FAR).tcp(1000, 80).flags(flags).seq(seq).ack(ack).payload(data).build()
    };
    let port = ports_of(&s.send(1, &there(2, 100, 0, b""))[0].1).0;
    let back = |flags, seq, ack, data: &[u8]| {
        let p = PacketBuilder::eth(B, A).ipv4(FAR, OUTSIDE).tcp(80, port);
        p.flags(flags).seq(seq).ack(ack).payload(data).build()
    };
    assert_eq!(s.ports(2, &back(0x12, 500, 101, b"")), [1]);
    assert_eq!(s.ports(1, &there(0x10, 101, 501, b"")), [2]);
    for n in 0..20 {
        assert_eq!(s.ports(1, &there(0x18, 101 + n * 4, 501 + n * 4, b"data")), [2]);
        assert_eq!(s.ports(2, &back(0x18, 501 + n * 4, 105 + n * 4, b"data")), [1]);
    }
    assert!(s.hits() > 30);
    assert_eq!(s.ports(2, &back(0x18, 99_999_999, 181, b"data")), [], "far out of the window");
    let mut spoilt = there(0x18, 181, 581, b"data");
    *spoilt.last_mut().unwrap() ^= 1;
    assert_eq!(s.ports(1, &spoilt), [2], "untranslated, but this table does not ask");
    assert_eq!(s.ports(1, &there(0x11, 181, 581, b"")), [2]);
    assert_eq!(s.ports(2, &back(0x11, 581, 182, b"")), [1]);
    assert_eq!(s.ports(1, &there(0x10, 182, 582, b"")), [2]);
    assert_eq!(s.see().conns[0].tcp_state, Some("TIME_WAIT"));
    s.wait(60_000);
    assert!(s.see().conns.is_empty());
}
