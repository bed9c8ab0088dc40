//! A packet by hand, both ways; every truncation; random bytes; what must be refused.

use super::*;
use crate::packet::build::PacketBuilder;
use crate::packet::key::PortIx;
use crate::packet::l4sum::{verify_ipv4_header, verify_l4};
use crate::packet::parse::parse;
use crate::wire::udp::PORT_GENEVE;
use proptest::collection::vec;
use proptest::prelude::*;

const A: [u8; 6] = [2, 0, 0, 0, 0, 1];
const B: [u8; 6] = [2, 0, 0, 0, 0, 2];

fn low(v4: [u8; 4]) -> [u8; 16] {
    u128::from(u32::from_be_bytes(v4)).to_be_bytes()
}

fn params(v6: bool) -> GeneveParams {
    let ip = |n: u8| -> IpAddr { if v6 { [n; 16].into() } else { [10, 0, 0, n].into() } };
    GeneveParams {
        src_mac: A,
        dst_mac: B,
        vlan: None,
        src_ip: ip(1),
        dst_ip: ip(2),
        vni: 0x123456,
        tos: Inherit::Fixed(0),
        ttl: Inherit::Fixed(64),
        df: true,
        csum: false,
        dst_port: PORT_GENEVE,
        options: GeneveOptions::NONE,
    }
}

fn push(params: &GeneveParams, inner: &[u8], entropy: u16) -> Vec<u8> {
    let template = EncapTemplate::geneve(params).unwrap();
    let mut room = vec![0xee; template.len()];
    assert!(template.push(&mut room, inner, entropy));
    [room, inner.to_vec()].concat()
}

fn parsed(bytes: &[u8]) -> (PacketKey, Layers) {
    let (mut key, mut layers) = (PacketKey::default(), Layers::default());
    parse(bytes, PortIx(1), &mut key, &mut layers).unwrap();
    (key, layers)
}

fn pop(bytes: &[u8]) -> Result<Popped, Drop> {
    let (mut key, layers) = parsed(bytes);
    let popped = geneve_pop(bytes, &layers, &mut key)?;
    popped.options(bytes, &TlvMap::default())?;
    Ok(popped)
}

/// The tunnel that a packet came out of; what was in the key before must not show.
fn tunnel(bytes: &[u8]) -> KeyTunnel {
    let (mut key, layers) = parsed(bytes);
    key.tunnel = KeyTunnel::read_from_bytes(&[0xa5; 64][..]).unwrap();
    geneve_pop(bytes, &layers, &mut key).unwrap();
    key.tunnel
}

fn inner() -> PacketBuilder {
    PacketBuilder::eth(B, A)
        .ipv4([192, 168, 0, 1], [192, 168, 0, 2])
        .ttl(7)
        .udp(1, 2)
        .payload(b"hi")
}

/// Written by hand from RFC 791, 768 and 8926.
fn by_hand(inner: &[u8]) -> Vec<u8> {
    let ip = 36 + inner.len() as u8;
    let mut out = vec![2, 0, 0, 0, 0, 2, 2, 0, 0, 0, 0, 1, 8, 0];
    out.extend([0x45, 0, 0, ip, 0, 0, 0x40, 0, 64, 17, 0, 0, 10, 0, 0, 1, 10, 0, 0, 2]);
    let sum = crate::wire::checksum::reference_sum(&out[14..]);
    out[24..26].copy_from_slice(&(!sum).to_be_bytes());
    out.extend([0xc0, 0x2a, 0x17, 0xc1, 0, ip - 20, 0, 0]);
    out.extend([0, 0, 0x65, 0x58, 0x12, 0x34, 0x56, 0]);
    out.extend(inner);
    out
}

#[test]
fn a_packet_by_hand() {
    let inner = inner().build();
    assert_eq!(push(&params(false), &inner, 0x2a), by_hand(&inner));
    let popped = pop(&by_hand(&inner)).unwrap();
    assert_eq!((popped.inner_offset, popped.inner_end), (50, 50 + inner.len() as u16));
    let found = tunnel(&by_hand(&inner));
    assert_eq!((popped.shape, found.tun_flags), (shape::TUNNEL, flag::KEY));
    assert_eq!((found.tun_id, found.tun_ttl), (0x123456_u64.to_be_bytes(), 64));
    assert_eq!((found.tun_src, found.tun_dst), (low([10, 0, 0, 1]), low([10, 0, 0, 2])));
    assert_eq!((found.present, found.pad, found.options), (0, [0; 2], [0; 16]));
    let (mut key, _) = parsed(&inner);
    popped.mark(&mut key);
    assert!(key.has_tunnel());
}

#[test]
fn every_form_comes_back() {
    let inners = [
        inner().build(),
        inner().vlan(5, 0).build(),
        PacketBuilder::eth(A, B).ipv6([3; 16], [4; 16]).tcp(1, 2).payload(&[7; 99]).build(),
        PacketBuilder::eth(A, B).arp(1, (A, [1; 4]), (B, [2; 4])).build(),
        vec![0; 14],
    ];
    for inner in &inners {
        for (v6, vlan, csum) in [
            (false, None, false),
            (false, Some(0x2064), true),
            (true, None, false),
            (true, Some(100), true),
        ] {
            let packet = push(&GeneveParams { vlan, csum, ..params(v6) }, inner, 0x1234);
            let (key, layers) = parsed(&packet);
            assert!(
                verify_ipv4_header(&packet, &layers, &key) && verify_l4(&packet, &layers, &key)
            );
            assert_eq!(key.base.vlan_tci, vlan.map_or([0; 2], |v| (v | 0x1000).to_be_bytes()));
            assert_eq!((key.base.tp_src, key.base.tp_dst), ([0xd2, 0x34], [0x17, 0xc1]));
            assert_eq!(usize::from(layers.end), packet.len());
            let popped = pop(&packet).unwrap();
            let range = usize::from(popped.inner_offset)..usize::from(popped.inner_end);
            assert_eq!(&packet[range], &inner[..]);
            let csum_flag = if csum || v6 { flag::CSUM } else { 0 };
            assert_eq!(tunnel(&packet).tun_flags, flag::KEY | csum_flag);
            assert_eq!(popped.shape & shape::TUNNEL_V6 != 0, v6);
            let template = EncapTemplate::geneve(&params(v6)).unwrap();
            assert_eq!(template.packet_len(inner.len()), usize::from(layers.end - layers.l3));
        }
    }
}

#[test]
fn tos_and_ttl() {
    let outer = |p: GeneveParams, inner: PacketBuilder| {
        let (key, _) = parsed(&push(&p, &inner.build(), 1));
        (key.base.ip_tos, key.base.ip_ttl)
    };
    let inherit = |v6| GeneveParams { tos: Inherit::Else(0), ttl: Inherit::Else(64), ..params(v6) };
    for v6 in [false, true] {
        let fixed = GeneveParams { tos: Inherit::Fixed(0x20), ..params(v6) };
        assert_eq!(outer(fixed.clone(), inner().tos(0xb8)), (0x20, 64));
        assert_eq!(outer(fixed.clone(), inner().tos(0xb9)), (0x21, 64));
        assert_eq!(outer(fixed, inner().tos(0xbb)), (0x22, 64), "a mark does not go outward");
        assert_eq!(outer(inherit(v6), inner().tos(0xb9)), (0xb9, 7));
        assert_eq!(outer(inherit(v6), inner().vlan(1, 0).tos(0xb9)), (0xb9, 7));
        let six = PacketBuilder::eth(A, B).ipv6([3; 16], [4; 16]).tos(0xb9).ttl(9).udp(1, 2);
        assert_eq!(outer(inherit(v6), six), (0xb9, 9));
        let arp = PacketBuilder::eth(A, B).arp(1, (A, [1; 4]), (B, [2; 4]));
        assert_eq!(outer(inherit(v6), arp), (0, 64));
    }
}

#[test]
fn what_cannot_be_sent() {
    let mixed = GeneveParams { src_ip: [1; 16].into(), ..params(false) };
    let error = EncapTemplate::geneve(&mixed).unwrap_err();
    assert!(error.to_string().contains("10.0.0.2"), "{error}");
    let template = EncapTemplate::geneve(&params(false)).unwrap();
    assert!(!template.push(&mut [0; 49], &[0; 60], 1));
    assert!(!template.push(&mut [0; 51], &[0; 60], 1));
    assert!(template.push(&mut [0; 50], &[0; 65_535 - 36], 1));
    assert!(!template.push(&mut [0; 50], &[0; 65_536 - 36], 1));
}

#[test]
fn every_truncation_is_refused() {
    for v6 in [false, true] {
        let whole = push(&params(v6), &inner().build(), 1);
        for len in 14..whole.len() {
            // Shorter than its own lengths say.
            assert_eq!(pop(&whole[..len]), Err(Drop::TunnelMalformed), "{len}");
        }
        // And consistent in IP and UDP, but cut inside Geneve.
        let geneve = [0u8, 0, 0x65, 0x58, 0, 0, 1, 0];
        for len in 0..8 {
            let b = PacketBuilder::eth(A, B).ipv4([1; 4], [2; 4]).udp(1, PORT_GENEVE);
            let cut = b.payload(&geneve[..len]).build();
            assert_eq!(pop(&cut), Err(Drop::TunnelMalformed));
        }
    }
}

#[test]
fn what_must_be_refused() {
    let good = by_hand(&inner().build());
    let with = |at: usize, bytes: &[u8]| {
        let mut bad = good.clone();
        bad[at..at + bytes.len()].copy_from_slice(bytes);
        pop(&bad)
    };
    let malformed = Err(Drop::TunnelMalformed);
    assert_eq!(with(42, &[0x40]), malformed, "version 1");
    assert_eq!(with(44, &[0x08, 0x00]), malformed, "IPv4 inside");
    assert_eq!(with(42, &[0x3f]), malformed, "options longer than the packet");
    assert_eq!(with(20, &[0x20]), malformed, "a fragment");
    assert_eq!(with(23, &[6]), malformed, "TCP");
    for len in [0u8, 7, 15, 255] {
        assert_eq!(with(39, &[len]), malformed, "UDP length {len}");
    }
    assert_eq!(with(40, &[0, 1]), Err(Drop::TunnelChecksum));
    let mut oam = good.clone();
    oam[43] = OAM;
    assert_eq!(tunnel(&oam).tun_flags, flag::KEY | flag::OAM);
    assert!(with(43, &[0x40]).is_ok(), "a critical bit without a critical option");
}

#[test]
fn options() {
    let packet = |options: &[u8]| {
        let mut body = vec![(options.len() / 4) as u8, 0, 0x65, 0x58, 0, 0, 1, 0];
        body.extend(options);
        body.extend(inner().build());
        let b = PacketBuilder::eth(A, B).ipv4([1; 4], [2; 4]).udp(1, PORT_GENEVE);
        pop(&b.payload(&body).build())
    };
    assert_eq!(packet(&[]).unwrap().inner_offset, 50);
    assert_eq!(packet(&[1, 2, 0, 1, 9, 9, 9, 9]).unwrap().inner_offset, 58);
    assert_eq!(packet(&[1, 2, 0, 0, 1, 2, 5, 0]).unwrap().inner_offset, 58);
    assert_eq!(packet(&[1, 2, 0x80, 1, 9, 9, 9, 9]), Err(Drop::TunnelCriticalOption));
    assert_eq!(packet(&[1, 2, 0, 0, 1, 2, 0x85, 0]), Err(Drop::TunnelCriticalOption));
    assert_eq!(packet(&[1, 2, 0, 2, 9, 9, 9, 9]), Err(Drop::TunnelMalformed));
}

#[test]
fn a_zero_checksum_is_none_over_both() {
    for v6 in [false, true] {
        let mut packet = push(&params(v6), &inner().build(), 1);
        let (_, layers) = parsed(&packet);
        let field = usize::from(layers.l4) + udp::CHECKSUM_AT;
        packet[field..field + 2].fill(0);
        assert_eq!(tunnel(&packet).tun_flags, flag::KEY);
        packet[field] = 1;
        assert_eq!(pop(&packet), Err(Drop::TunnelChecksum));
    }
}

#[test]
fn bytes_behind_the_datagram_are_not_inner() {
    let inner = inner().build();
    let mut packet = push(&params(false), &inner, 1);
    packet.extend([0xaa; 9]);
    let popped = pop(&packet).unwrap();
    assert_eq!(usize::from(popped.inner_end - popped.inner_offset), inner.len());
}

proptest! {
    #![proptest_config(ProptestConfig {
        failure_persistence: None,
        ..ProptestConfig::with_cases(512)
    })]

    #[test]
    fn any_inner_bytes_come_back(
        inner in vec(any::<u8>(), 0..300), v6: bool, csum: bool, vni in 0u32..1 << 24, entropy: u16,
    ) {
        let packet = push(&GeneveParams { csum, vni, ..params(v6) }, &inner, entropy);
        let popped = pop(&packet).unwrap();
        let range = usize::from(popped.inner_offset)..usize::from(popped.inner_end);
        prop_assert_eq!(&packet[range], &inner[..]);
        prop_assert_eq!(tunnel(&packet).tun_id, u64::from(vni).to_be_bytes());
        let (key, layers) = parsed(&packet);
        prop_assert!(verify_ipv4_header(&packet, &layers, &key));
    }

    #[test]
    fn any_bytes_are_refused_or_lie_inside(
        mut body in vec(any::<u8>(), 0..120), first in 0u8..4, csum: bool,
    ) {
        if let [a, _, c, d, ..] = &mut body[..] {
            (*a, *c, *d) = (first, 0x65, 0x58);
        }
        let b = PacketBuilder::eth(A, B).ipv4([1; 4], [2; 4]).udp(1, PORT_GENEVE).payload(&body);
        let packet = if csum { b } else { b.no_checksum() }.build();
        if let Ok(popped) = pop(&packet) {
            prop_assert!(popped.inner_offset >= 50 && popped.inner_offset <= popped.inner_end);
            prop_assert!(usize::from(popped.inner_end) <= packet.len());
        }
    }
}
