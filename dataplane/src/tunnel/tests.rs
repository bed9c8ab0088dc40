//! Entropy and congestion marks.

use super::*;
use crate::packet::build::PacketBuilder;
use crate::packet::key::{PortIx, shape};
use crate::packet::parse::parse;
use crate::wire::checksum::Sum;
use std::collections::HashSet;

const A: [u8; 6] = [2, 0, 0, 0, 0, 1];
const B: [u8; 6] = [2, 0, 0, 0, 0, 2];

fn parsed(bytes: &[u8]) -> (PacketKey, Layers) {
    let (mut key, mut layers) = (PacketKey::default(), Layers::default());
    parse(bytes, PortIx(1), &mut key, &mut layers).unwrap();
    (key, layers)
}

fn both(bytes: &[u8]) -> u16 {
    let (key, _) = parsed(bytes);
    let value = entropy(&key);
    assert_eq!(value, flow_entropy(&FlowKey::from_packet(&key, 1)));
    value
}

#[test]
fn entropy_is_symmetric_and_spreads() {
    let mut ports = HashSet::new();
    for n in 0..1000u16 {
        let (x, y) = ([10, 0, (n >> 8) as u8, n as u8], [10, 1, 0, 1]);
        let there = both(&PacketBuilder::eth(A, B).ipv4(x, y).udp(1000 + n, 53).build());
        let back = both(&PacketBuilder::eth(B, A).ipv4(y, x).udp(53, 1000 + n).build());
        assert_eq!(there, back);
        ports.insert(source_port(there));
        let swapped = both(&PacketBuilder::eth(A, B).ipv4(x, y).udp(53, 1000 + n).build());
        assert_ne!(there, swapped, "which end has which port matters");
    }
    // 1000 balls in 16384 bins: 970 distinct expected.
    assert!(ports.len() > 940 && ports.iter().all(|p| *p >= SOURCE_PORT_MIN), "{}", ports.len());
    let v6 = |s: u8, d: u8, sp, dp| {
        both(&PacketBuilder::eth(A, B).ipv6([s; 16], [d; 16]).tcp(sp, dp).build())
    };
    assert_eq!(v6(1, 2, 80, 81), v6(2, 1, 81, 80));
    assert_ne!(v6(1, 2, 80, 81), v6(1, 2, 80, 82));
    let arp =
        |src, dst| both(&PacketBuilder::eth(src, dst).arp(1, (A, [0; 4]), (B, [0; 4])).build());
    assert_eq!(arp(A, B), arp(B, A));
    assert_ne!(arp(A, B), arp(A, [2, 0, 0, 0, 0, 3]));
}

#[test]
fn fragments_of_a_packet_share_their_entropy() {
    let b = PacketBuilder::eth(A, B).ipv4([1; 4], [2; 4]).udp(1, 2).payload(&[0; 200]);
    let values: HashSet<_> = b.fragments(1, 64).iter().map(|f| both(f)).collect();
    assert_eq!(values.len(), 1);
}

#[test]
fn marks_outward() {
    assert_eq!([0x00, 0x01, 0x02, 0x03, 0xb9].map(ecn_encap), [0, 1, 2, 2, 1]);
}

#[test]
fn marks_inward() {
    for outer in [0u8, 1, 2, 0xb8, 0xfe] {
        for inner in [0u8, 1, 2, 3] {
            assert_eq!(ecn_decap(outer, inner), Ok(None));
        }
    }
    assert_eq!(ecn_decap(3, 0xb8), Err(Drop::TunnelEcn));
    assert_eq!(ecn_decap(0xb7, 0x01), Ok(Some(3)));
    assert_eq!(ecn_decap(3, 0xba), Ok(Some(0xbb)));
    assert_eq!(ecn_decap(3, 0xbb), Ok(None));
}

#[test]
fn marks_reach_bytes_checksum_and_key() {
    let v4 = PacketBuilder::eth(A, B).vlan(1, 0).ipv4([1; 4], [2; 4]).tos(0xba).udp(1, 2).build();
    let v6 = PacketBuilder::eth(A, B).ipv6([1; 16], [2; 16]).tos(0xba).udp(1, 2).build();
    for packet in [v4, v6] {
        let mut bytes = packet.clone();
        let (mut key, layers) = parsed(&bytes);
        key.base.shape |= shape::TUNNEL;
        assert_eq!(ecn_inward(&mut bytes, &layers, &mut key), Ok(()));
        assert_eq!(bytes, packet, "no mark outside");
        key.tunnel.tun_tos = 3;
        assert_eq!(ecn_inward(&mut bytes, &layers, &mut key), Ok(()));
        let (again, _) = parsed(&bytes);
        assert_eq!((again.base.ip_tos, key.base.ip_tos), (0xbb, 0xbb));
        if let Some(header) = bytes.get(18..38).filter(|h| h[0] == 0x45) {
            assert!(Sum::of(header).is_valid());
        }
        key.base.ip_tos = 0;
        assert_eq!(ecn_inward(&mut bytes, &layers, &mut key), Err(Drop::TunnelEcn));
    }
    // Nothing to mark in what is not IP.
    let mut arp = PacketBuilder::eth(A, B).arp(1, (A, [0; 4]), (B, [0; 4])).build();
    let (mut key, layers) = parsed(&arp);
    key.tunnel.tun_tos = 3;
    assert_eq!(ecn_inward(&mut arp, &layers, &mut key), Ok(()));
}
