//! Packets by hand, then etherparse as the independent reader of built and mutated ones.

use super::super::build::PacketBuilder;
use super::*;
use crate::packet::key::FlowKey;
use proptest::collection::vec;
use proptest::prelude::*;

const A: [u8; 6] = [2, 0, 0, 0, 0, 1];
const B: [u8; 6] = [2, 0, 0, 0, 0, 2];
const V6A: [u8; 16] = [0x20, 1, 0xd, 0xb8, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1];
const V6B: [u8; 16] = [0x20, 1, 0xd, 0xb8, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 2];

fn eth() -> PacketBuilder {
    PacketBuilder::eth(A, B)
}

/// Parses into lines full of old bytes, so that whatever is read but not written shows.
fn parsed(bytes: &[u8], stale: u8) -> (PacketKey, Layers) {
    parsed_limited(bytes, VLAN_LIMIT_DEFAULT, stale)
}

fn parsed_limited(bytes: &[u8], limit: u8, stale: u8) -> (PacketKey, Layers) {
    let fill = |n: usize| vec![stale; n];
    let mut key = PacketKey {
        base: KeyBase::read_from_bytes(&fill(40)).unwrap(),
        l3: KeyL3::read_from_bytes(&fill(64)).unwrap(),
        stack: KeyStack::read_from_bytes(&fill(64)).unwrap(),
        ..PacketKey::default()
    };
    let mut layers = Layers { l3: 1, l4: 2, payload: 3, end: 4, flags: 0xffff };
    parse_limited(bytes, PortIx(7), limit, &mut key, &mut layers).unwrap();
    (key, layers)
}

fn flow(bytes: &[u8]) -> (FlowKey, Layers) {
    flow_limited(bytes, VLAN_LIMIT_DEFAULT)
}

fn flow_limited(bytes: &[u8], limit: u8) -> (FlowKey, Layers) {
    let (key, layers) = parsed_limited(bytes, limit, 0xa5);
    let (other, same) = parsed_limited(bytes, limit, 0x5a);
    assert_eq!((key, layers), (other, same), "stale bytes show");
    (FlowKey::from_packet(&key, 7), layers)
}

fn at(l3: u16, l4: u16, payload: u16, end: u16, flags: u16) -> Layers {
    Layers { l3, l4, payload, end, flags }
}

#[test]
fn plain_udp_and_tcp() {
    let udp = eth().ipv4([10, 0, 0, 1], [10, 0, 0, 2]).tos(0xb9).ttl(9).udp(1000, 2000);
    let (k, layers) = flow(&udp.payload(b"hello").padded());
    assert_eq!((k.eth_src, k.eth_dst, k.eth_type), (0x0200_0000_0001, 0x0200_0000_0002, 0x0800));
    assert_eq!((k.ip_src, k.ip_dst, k.ip_proto), (0x0a00_0001, 0x0a00_0002, 17));
    assert_eq!((k.ip_tos, k.ip_ttl, k.ip_frag), (0xb9, 9, 0));
    assert_eq!((k.tp_src, k.tp_dst, k.tcp_flags, k.vlan_tci), (1000, 2000, 0, 0));
    assert_eq!(layers, at(14, 34, 42, 47, 0));

    let tcp = eth().ipv4([10, 0, 0, 1], [10, 0, 0, 2]).tcp(80, 81).flags(tcp::SYN | tcp::ECE);
    let (k, layers) = flow(&tcp.tcp_options(&[2, 4, 5, 0xb4]).build());
    assert_eq!((k.tp_src, k.tp_dst, k.tcp_flags), (80, 81, tcp::SYN | tcp::ECE));
    assert_eq!(layers, at(14, 34, 58, 58, 0));
}

#[test]
fn tags() {
    let frame = |b: PacketBuilder| b.ipv4([10, 0, 0, 1], [10, 0, 0, 2]).udp(1, 2).padded();
    let (k, layers) = flow(&frame(eth().vlan(100, 5)));
    assert_eq!((k.vlan_tci, k.vlan_tpid, k.eth_type, k.tp_dst), (0xb064, 0x8100, 0x0800, 2));
    assert_eq!(layers, at(18, 38, 46, 46, layer::VLAN));
    let (k, _) = flow(&frame(eth().vlan(0, 0)));
    assert_eq!(k.vlan_tci, VLAN_PRESENT, "priority tag");
    let (k, layers) = flow(&frame(eth().tag(0x88a8, 200).vlan(100, 0)));
    assert_eq!((k.vlan_tci, k.vlan_tpid, k.eth_type), (0x10c8, 0x88a8, 0x8100));
    assert_eq!((k.ip_proto, layers), (0, at(18, 0, 0, 0, layer::VLAN)));
    // Too short for its tag: the type stays the tag's.
    let (k, layers) = flow(&frame(eth().vlan(100, 5))[..17]);
    assert_eq!((k.vlan_tci, k.vlan_tpid, k.eth_type), (0, 0, 0x8100));
    assert_eq!(layers, at(14, 0, 0, 0, 0));
}

#[test]
fn lengths_instead_of_types() {
    let (k, _) = flow(&eth().eth_type(46).payload(&[0x42, 0x42, 3, 0, 0, 0, 0, 0]).padded());
    assert_eq!(k.eth_type, ether::TYPE_NONE);
    let (k, _) = flow(&eth().eth_type(3).payload(&[0xaa, 0xaa, 3]).build());
    assert_eq!(k.eth_type, ether::TYPE_NONE);
    for (length, seen) in [(0x05dd, ether::TYPE_NONE), (0x05ff, ether::TYPE_NONE), (0x0600, 0x0600)]
    {
        assert_eq!(flow(&eth().eth_type(length).build()).0.eth_type, seen);
    }
    // SNAP carries a type, and what it names is parsed.
    let udp = eth().ipv4([10, 0, 0, 1], [10, 0, 0, 2]).udp(1, 2).payload(b"hi").build();
    let snap = [&[0xaa, 0xaa, 3, 0, 0, 0, 8, 0], &udp[14..]].concat();
    let (k, layers) = flow(&eth().eth_type(snap.len() as u16).payload(&snap).build());
    assert_eq!((k.eth_type, k.tp_dst, layers), (0x0800, 2, at(22, 42, 50, 52, 0)));
}

#[test]
fn arp_and_rarp() {
    let arp = eth().arp(1, (A, [10, 0, 0, 1]), ([0; 6], [10, 0, 0, 2]));
    let (k, layers) = flow(&arp.clone().padded());
    assert_eq!((k.eth_type, k.ip_proto, k.ip_src, k.ip_dst), (0x0806, 1, 0x0a00_0001, 0x0a00_0002));
    assert_eq!((k.arp_sha, k.arp_tha, layers), (0x0200_0000_0001, 0, at(14, 0, 42, 0, 0)));
    let (k, _) = flow(&arp.clone().eth_type(ether::TYPE_RARP).build());
    assert_eq!((k.eth_type, k.ip_proto), (0x8035, 1));
    let (k, _) = flow(&eth().arp(0x101, (A, [1; 4]), (B, [2; 4])).build());
    assert_eq!((k.ip_proto, k.ip_src), (0, 0x0101_0101), "an operation of two bytes");
    for (at, value) in [(14, 1), (16, 9), (18, 8), (19, 16)] {
        let mut bytes = arp.clone().build();
        bytes[at] = value;
        let (k, layers) = flow(&bytes);
        assert_eq!((k.ip_proto, k.ip_src, k.arp_sha, layers.payload), (0, 0, 0, 0));
    }
    let short = arp.build();
    assert_eq!(flow(&short[..41]).0.ip_src, 0);
}

#[test]
fn icmp_and_sctp() {
    let v4 = |b: PacketBuilder| b.ipv4([10, 0, 0, 1], [10, 0, 0, 2]);
    let (k, layers) = flow(&v4(eth()).echo_request(1, 2).payload(&[0; 8]).build());
    assert_eq!((k.ip_proto, k.tp_src, k.tp_dst, layers), (1, 8, 0, at(14, 34, 42, 50, 0)));
    let id = |b: PacketBuilder| parsed(&b.build(), 0).0.base.icmp_id;
    assert_eq!(id(v4(eth()).echo_reply(0x1234, 2)), [0x12, 0x34]);
    assert_eq!(id(eth().ipv6(V6A, V6B).echo_request(0x1234, 2)), [0x12, 0x34]);
    assert_eq!(id(eth().ipv6(V6A, V6B).icmp(8, 0, [1; 4])), [0; 2]);
    let inner = v4(eth()).udp(1, 2).payload(&[0; 64]).build();
    let (k, layers) = flow(&v4(eth()).icmp_error(3, 4, [0, 0, 5, 0xdc], &inner).build());
    assert_eq!((k.tp_src, k.tp_dst, layers.payload, layers.end), (3, 4, 42, 70));
    let (k, layers) = flow(&v4(eth()).sctp(5, 6, 7).payload(&[0; 20]).build());
    assert_eq!((k.ip_proto, k.tp_src, k.tp_dst, layers), (132, 5, 6, at(14, 34, 46, 66, 0)));
}

#[test]
fn ipv4_that_is_not_sane_shows_only_its_type() {
    let good = eth().ipv4([10, 0, 0, 1], [10, 0, 0, 2]).udp(1, 2).payload(&[0; 20]).build();
    for (at, value) in [(14, 0x44), (14, 0x65), (14, 0x4f), (17, 49), (17, 19), (16, 1)] {
        let mut bad = good.clone();
        bad[at] = value;
        let (k, layers) = flow(&bad);
        assert_eq!((k.eth_type, k.ip_src, k.ip_proto, k.tp_dst), (0x0800, 0, 0, 0), "{at} {value}");
        assert_eq!((layers.l3, layers.l4, layers.payload, layers.end), (14, 0, 0, 0));
    }
    // Room for the IP header and nothing else.
    let mut short = good.clone();
    short[17] = 27;
    let (key, layers) = parsed(&short, 0);
    assert_eq!(key.base.shape, shape::L3_VALID);
    assert_eq!((key.base.tp_dst, key.base.ip_proto, layers), ([0; 2], 17, at(14, 0, 34, 41, 0)));
}

#[test]
fn tcp_with_a_bad_header_length_has_neither_ports_nor_payload() {
    for offset in [4u8, 15] {
        let mut bytes = eth().ipv4([1; 4], [2; 4]).tcp(80, 81).payload(&[0; 20]).build();
        bytes[46] = offset << 4;
        let (k, layers) = flow(&bytes);
        assert_eq!((k.ip_proto, k.ip_src), (6, 0x0101_0101));
        assert_eq!((k.tp_src, k.tp_dst, k.tcp_flags), (0, 0, 0));
        assert_eq!(layers, at(14, 34, 0, 74, 0));
    }
}

#[test]
fn fragments() {
    for (b, later_proto, l3) in
        [(eth().ipv4([1; 4], [2; 4]), 17, 20), (eth().ipv6(V6A, V6B), 44, 48)]
    {
        let all = b.udp(1, 2).payload(&[9; 100]).fragments(77, 64);
        assert_eq!(all.len(), 2);
        let (k, layers) = flow(&all[0]);
        assert_eq!((k.ip_frag, k.ip_proto, k.tp_src, k.tp_dst), (FRAG_ANY, 17, 1, 2));
        assert_eq!((layers.l4, layers.payload, layers.end), (14 + l3, 22 + l3, 78 + l3));
        let (k, layers) = flow(&all[1]);
        assert_eq!((k.ip_frag, k.ip_proto), (FRAG_ANY | FRAG_LATER, later_proto));
        assert_eq!((k.tp_src, k.tp_dst, layers.l4, layers.payload), (0, 0, 0, 14 + l3));
    }
    // An atomic fragment is none.
    let (k, _) = flow(&eth().ipv6(V6A, V6B).fragment(5, 0, false).udp(1, 2).build());
    assert_eq!((k.ip_frag, k.ip_proto, k.tp_dst), (0, 17, 2));
}

#[test]
fn ipv6_and_its_extensions() {
    let v6 = || eth().ipv6(V6A, V6B).tos(0xb9).ttl(9).flow_label(0x12345);
    let (k, layers) = flow(&v6().tcp(80, 81).build());
    assert_eq!((k.ipv6_src, k.ipv6_dst), (u128::from_be_bytes(V6A), u128::from_be_bytes(V6B)));
    assert_eq!((k.ip_src, k.ip_dst, k.ip_proto, k.ipv6_label), (0, 0, 6, 0x12345));
    assert_eq!((k.ip_tos, k.ip_ttl, k.tp_src, k.tcp_flags), (0xb9, 9, 80, tcp::ACK));
    assert_eq!(layers, at(14, 54, 74, 74, 0));
    let long = [&[0u8, 1][..], &[0; 14]].concat();
    let ah = [&[0u8, 4][..], &[0; 22]].concat();
    let packet = v6()
        .extension(proto::HOPOPTS, &[0; 8])
        .extension(proto::ROUTING, &long)
        .extension(proto::AH, &ah)
        .extension(proto::DSTOPTS, &[0; 8])
        .udp(1, 2)
        .build();
    let (k, layers) = flow(&packet);
    assert_eq!((k.ip_proto, k.tp_dst), (17, 2));
    assert_eq!(layers, at(14, 54 + 56, 62 + 56, 62 + 56, layer::L3_OPTIONS));
    // Cut inside an extension: addresses, but nothing that they precede.
    let cut = v6().extension(proto::HOPOPTS, &[0, 9, 0, 0, 0, 0, 0, 0]).udp(1, 2).build();
    let (k, layers) = flow(&cut);
    assert_eq!((k.ipv6_src, k.ip_proto, k.ip_ttl), (u128::from_be_bytes(V6A), 0, 0));
    assert_eq!(layers, at(14, 0, 0, 0, 0));
    let many = (0..EXTENSIONS_MAX).fold(v6(), |b, _| b.extension(proto::DSTOPTS, &[0; 8]));
    assert_eq!(parsed(&many.udp(1, 2).build(), 0).0.base.shape, shape::L3);
    // ESP and unknown protocols end the walk.
    let (k, layers) = flow(&v6().proto(proto::ESP).payload(&[0; 20]).build());
    assert_eq!((k.ip_proto, layers), (50, at(14, 0, 54, 74, 0)));
}

#[test]
fn neighbour_discovery_fields() {
    let v6 = || eth().ipv6(V6A, V6B);
    let (k, _) = flow(&v6().nd_solicit(V6B, Some(A)).build());
    assert_eq!((k.ip_proto, k.tp_src, k.nd_target), (58, 135, u128::from_be_bytes(V6B)));
    assert_eq!((k.arp_sha, k.arp_tha, k.ip_ttl), (0x0200_0000_0001, 0, 255));
    let (k, _) = flow(&v6().nd_advert(V6B, Some(B)).build());
    assert_eq!((k.tp_src, k.arp_sha, k.arp_tha), (136, 0, 0x0200_0000_0002));
    let target = |options: &[u8]| {
        let body = [&V6B[..], options].concat();
        let (k, _) = flow(&v6().icmp(icmp::ND_SOLICIT, 0, [0; 4]).payload(&body).build());
        (k.nd_target != 0, k.arp_sha)
    };
    assert_eq!(target(&[]), (true, 0));
    assert_eq!(
        target(&[14, 1, 0, 0, 0, 0, 0, 0, 1, 1, 1, 1, 1, 1, 1, 1]),
        (true, 0x0101_0101_0101)
    );
    let twice = [1, 1, 1, 1, 1, 1, 1, 1].repeat(2);
    assert_eq!(target(&twice), (false, 0), "the same option twice");
    assert_eq!(target(&[1, 0, 1, 1, 1, 1, 1, 1]), (true, 0), "length zero");
    assert_eq!(target(&[1, 2, 1, 1, 1, 1, 1, 1]), (true, 0), "longer than the packet");
    let coded = v6().icmp(icmp::ND_SOLICIT, 1, [0; 4]).payload(&V6B).build();
    assert_eq!(flow(&coded).0.nd_target, 0, "only with code 0");
}

#[test]
fn a_frame_without_ethernet_header_is_the_only_error() {
    let frame = eth().ipv4([1; 4], [2; 4]).udp(1, 2).build();
    let (mut key, mut layers) = (PacketKey::default(), Layers::default());
    for len in 0..14 {
        let got = parse(&frame[..len], PortIx(1), &mut key, &mut layers);
        assert_eq!(got, Err(Drop::ParseTruncated));
    }
    assert!(parse(&frame[..14], PortIx(1), &mut key, &mut layers).is_ok());
    // Offsets are 16 bits: a datagram that ends beyond is as one that does not fit.
    let huge = eth().ipv4([1; 4], [2; 4]).udp(1, 2).payload(&vec![0; 65_535 - 28]).build();
    assert_eq!(huge.len(), 65_549);
    consistent(&huge);
    assert_eq!(flow(&huge).1, at(14, 0, 0, 0, 0));
}

mod stacks;

/// One of each kind of packet.
fn samples() -> Vec<Vec<u8>> {
    let v4 = || eth().ipv4([10, 0, 0, 1], [10, 0, 0, 2]);
    let v6 = || eth().ipv6(V6A, V6B);
    vec![
        v4().udp(1, 2).payload(&[1; 30]).build(),
        v4().tcp(3, 4).tcp_options(&[1; 12]).payload(&[1; 30]).build(),
        v4().ip_options(&[1; 8]).tcp(3, 4).payload(&[1; 30]).build(),
        v4().vlan(5, 6).echo_request(7, 8).payload(&[1; 30]).build(),
        v4().tag(0x88a8, 9).vlan(5, 6).udp(1, 2).build(),
        v4().fragment(1, 64, true).proto(17).payload(&[1; 64]).build(),
        v4().sctp(1, 2, 3).payload(&[1; 30]).build(),
        eth().arp(2, (A, [1; 4]), (B, [2; 4])).build(),
        v6().udp(1, 2).payload(&[1; 30]).build(),
        v6().vlan(5, 0).tcp(3, 4).payload(&[1; 30]).build(),
        v6().extension(0, &[0; 8]).fragment(1, 0, true).udp(1, 2).payload(&[1; 30]).build(),
        v6().nd_solicit(V6B, Some(A)).build(),
        v4().mpls(16, 0, 64).tcp(1, 2).payload(&[1; 30]).build(),
        v6().vlan(5, 6).mpls(16, 0, 64).mpls(17, 0, 64).udp(1, 2).build(),
        eth().mpls(16, 0, 64).arp(2, (A, [1; 4]), (B, [2; 4])).build(),
        eth().eth_type(30).payload(&[0xaa, 0xaa, 3, 0, 0, 0, 8, 6, 1, 1, 1, 1]).build(),
    ]
}

/// Layers and shape agree with each other and lie inside the frame.
fn consistent(bytes: &[u8]) {
    (1..=VLAN_LIMIT_MAX).for_each(|limit| consistent_limited(bytes, limit));
}

fn consistent_limited(bytes: &[u8], limit: u8) {
    let (key, layers) = parsed_limited(bytes, limit, 0xa5);
    let (other, same) = parsed_limited(bytes, limit, 0x5a);
    assert_eq!((key, layers), (other, same), "stale bytes show");
    let mut slow = (PacketKey::default(), Layers::default());
    parse_any(bytes, PortIx(7), limit, &mut slow.0, &mut slow.1).unwrap();
    assert_eq!((key, layers), slow, "the two roads differ");
    let (_, shape) = key.innermost();
    let has = |bit| shape & bit != 0;
    let is_odd_tcp = key.base.ip_proto == proto::TCP && layers.payload == 0;
    assert_eq!(has(shape::L4_VALID), layers.l4 != 0 && !is_odd_tcp);
    assert!(has(shape::L3_VALID) || layers.end == 0);
    assert!(usize::from(layers.end) <= bytes.len() && usize::from(layers.payload) <= bytes.len());
    assert!(usize::from(layers.l3) <= bytes.len());
    assert!(layers.end == 0 || layers.payload <= layers.end);
    assert!(layers.l4 == 0 || layers.l3 < layers.l4 && layers.l4 < layers.end);
    assert_eq!(key.base.pad, 0);
}

#[test]
fn every_truncation() {
    for packet in samples() {
        for len in 14..=packet.len() {
            consistent(&packet[..len]);
        }
    }
}

#[test]
fn every_single_byte_changed() {
    for packet in samples() {
        for at in 0..packet.len() {
            for value in [0x00, 0x01, 0x05, 0x06, 0x2c, 0x3a, 0x46, 0x80, 0x81, 0xff] {
                let mut bytes = packet.clone();
                bytes[at] = value;
                consistent(&bytes);
            }
        }
    }
}

/// Compares with etherparse where it and Open vSwitch read a packet the same way.
fn agrees_with_etherparse(bytes: &[u8]) {
    use etherparse::{LinkExtSlice, NetSlice, SlicedPacket, TransportSlice};
    let (k, layers) = flow(bytes);
    let Ok(oracle) = SlicedPacket::from_ethernet(bytes) else { return };
    let tpid = u16::from_be_bytes([bytes[12], bytes[13]]);
    if oracle.link_exts.first().is_some_and(|_| !vlan::is_tpid(tpid)) {
        return; // 0x9100 and MACsec, which Open vSwitch does not take for tags
    }
    if let Some(LinkExtSlice::Vlan(tag)) = oracle.link_exts.first() {
        let tci = u16::from(tag.priority_code_point().value()) << 13
            | tag.vlan_identifier().value()
            | VLAN_PRESENT;
        assert_eq!(k.vlan_tci, tci);
    }
    if oracle.link_exts.len() > 1 {
        return;
    }
    let mut later = false;
    match &oracle.net {
        Some(NetSlice::Ipv4(ip)) => {
            let header = ip.header();
            assert_eq!(k.ip_src, u32::from(header.source_addr()));
            assert_eq!(k.ip_dst, u32::from(header.destination_addr()));
            assert_eq!((k.ip_ttl, k.ip_proto), (header.ttl(), header.protocol().0));
            assert_eq!(k.ip_tos, header.dcp().value() << 2 | header.ecn().value());
            assert_eq!(k.ip_frag & FRAG_ANY != 0, header.is_fragmenting_payload());
            assert_eq!(layers.end, layers.l3 + header.total_len());
            later = header.fragments_offset().value() != 0;
            assert_eq!(k.ip_frag & FRAG_LATER != 0, later);
        }
        Some(NetSlice::Ipv6(ip)) => {
            let header = ip.header();
            assert_eq!(k.ipv6_src, u128::from(header.source_addr()));
            assert_eq!(k.ipv6_dst, u128::from(header.destination_addr()));
            // A length of zero etherparse takes for "to the end of the frame".
            later = k.ip_frag & FRAG_LATER != 0 || header.payload_length() == 0;
            if k.ip_proto != 0 && !later {
                assert_eq!(k.ip_proto, ip.payload().ip_number.0);
                assert_eq!(
                    (k.ip_ttl, k.ipv6_label),
                    (header.hop_limit(), header.flow_label().value())
                );
            }
        }
        _ => {}
    }
    // Etherparse also reads each ICMP over the other IP.
    let foreign_icmp = matches!((k.eth_type, k.ip_proto), (0x0800, 58) | (0x86dd, 1));
    if later || k.ip_proto == 0 || foreign_icmp {
        return;
    }
    match &oracle.transport {
        Some(TransportSlice::Udp(udp)) => {
            assert_eq!((k.tp_src, k.tp_dst), (udp.source_port(), udp.destination_port()));
        }
        Some(TransportSlice::Tcp(tcp)) => {
            assert_eq!((k.tp_src, k.tp_dst), (tcp.source_port(), tcp.destination_port()));
            assert_eq!((k.tcp_flags & 2 != 0, k.tcp_flags & 16 != 0), (tcp.syn(), tcp.ack()));
            let payload = tcp.payload().as_ptr() as usize - bytes.as_ptr() as usize;
            assert_eq!(usize::from(layers.payload), payload);
        }
        Some(TransportSlice::Icmpv4(icmp)) => {
            assert_eq!((k.tp_src, k.tp_dst), (icmp.type_u8().into(), icmp.code_u8().into()));
        }
        Some(TransportSlice::Icmpv6(icmp)) => {
            assert_eq!((k.tp_src, k.tp_dst), (icmp.type_u8().into(), icmp.code_u8().into()));
        }
        Some(TransportSlice::Igmp(_)) | None => {}
    }
}

/// The builder's checksums, by another's arithmetic.
#[test]
fn etherparse_confirms_the_builder() {
    use etherparse::{NetSlice, SlicedPacket, TransportSlice};
    for packet in samples() {
        let oracle = SlicedPacket::from_ethernet(&packet).unwrap();
        match (&oracle.net, &oracle.transport) {
            (Some(NetSlice::Ipv4(ip)), Some(TransportSlice::Udp(udp))) => {
                let want =
                    udp.to_header().calc_checksum_ipv4(&ip.header().to_header(), udp.payload());
                assert_eq!(udp.checksum(), want.unwrap());
                let header = ip.header().to_header();
                assert_eq!(header.header_checksum, header.calc_header_checksum());
            }
            (Some(NetSlice::Ipv4(ip)), Some(TransportSlice::Tcp(tcp))) => {
                let want = tcp
                    .calc_checksum_ipv4(ip.header().source(), ip.header().destination())
                    .unwrap();
                assert_eq!(tcp.checksum(), want);
            }
            (Some(NetSlice::Ipv6(ip)), Some(TransportSlice::Tcp(tcp))) => {
                let want =
                    tcp.to_header().calc_checksum_ipv6(&ip.header().to_header(), tcp.payload());
                assert_eq!(tcp.checksum(), want.unwrap());
            }
            (Some(NetSlice::Ipv6(ip)), Some(TransportSlice::Icmpv6(icmp))) => {
                let (src, dst) = (ip.header().source(), ip.header().destination());
                assert!(icmp.is_checksum_valid(src, dst));
            }
            _ => {}
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig {
        failure_persistence: None,
        ..ProptestConfig::with_cases(4096)
    })]

    #[test]
    fn mutated_packets(
        which: prop::sample::Index,
        edits in vec((any::<prop::sample::Index>(), any::<u8>()), 0..6),
        cut: prop::sample::Index,
        whole: bool,
    ) {
        let all = samples();
        let mut bytes = which.get(&all).clone();
        for (at, value) in edits {
            let at = at.index(bytes.len());
            bytes[at] = value;
        }
        if !whole {
            bytes.truncate(14 + cut.index(bytes.len() - 13));
        }
        consistent(&bytes);
        agrees_with_etherparse(&bytes);
    }

    #[test]
    fn random_bytes(
        kind in prop::sample::select(vec![0x0800u16, 0x86dd, 0x0806, 0x8100, 0x0010, 0x6558]),
        mut bytes in vec(any::<u8>(), 14..160),
    ) {
        bytes[12..14].copy_from_slice(&kind.to_be_bytes());
        consistent(&bytes);
        agrees_with_etherparse(&bytes);
    }
}
