//! Stacked headers: tags and labels.

use super::*;
use crate::packet::key::payload;

fn udp(b: PacketBuilder) -> Vec<u8> {
    b.ipv4([10, 0, 0, 1], [10, 0, 0, 2]).udp(1, 2).payload(&[7; 30]).build()
}

#[test]
fn the_limit_says_how_many_tags_are_taken() {
    let frame = udp(eth().tag(0x88a8, 200).vlan(100, 5));
    let (one, layers) = flow_limited(&frame, 1);
    assert_eq!((one.vlan_tci, one.vlan_tpid, one.eth_type), (0x10c8, 0x88a8, 0x8100));
    assert_eq!((one.inner_tci, one.inner_tpid, one.ip_src, layers.l3), (0, 0, 0, 18));
    let (two, layers) = flow_limited(&frame, 2);
    assert_eq!((two.vlan_tci, two.vlan_tpid, two.eth_type), (0x10c8, 0x88a8, 0x0800));
    assert_eq!((two.inner_tci, two.inner_tpid, two.ip_src), (0xb064, 0x8100, 0x0a00_0001));
    assert_eq!((two.tp_dst, layers), (2, at(22, 42, 50, 80, layer::VLAN)));
    // A third tag is payload, whatever the limit.
    let three = udp(eth().tag(0x88a8, 1).vlan(2, 0).vlan(3, 0));
    for limit in [2, 3, 255] {
        let (k, layers) = flow_limited(&three, limit);
        assert_eq!((k.vlan_tci, k.inner_tci, k.eth_type), (0x1001, 0x1002, 0x8100));
        assert_eq!((k.ip_src, layers.l3), (0, 22));
    }
    // Both TPIDs, both orders.
    let (k, _) = flow_limited(&udp(eth().vlan(1, 0).tag(0x88a8, 2)), 2);
    assert_eq!((k.vlan_tpid, k.inner_tpid), (0x8100, 0x88a8));
    // Cut inside the second tag: its TPID is the type.
    let (k, layers) = flow_limited(&frame[..21], 2);
    assert_eq!((k.vlan_tci, k.inner_tci, k.eth_type, layers.l3), (0x10c8, 0, 0x8100, 18));
    // No tags at all are taken.
    let (k, layers) = flow_limited(&frame, 0);
    assert_eq!((k.vlan_tci, k.eth_type, layers.l3), (0, 0x88a8, 14));
}

#[test]
fn labels_and_the_payload_behind_them() {
    let (k, layers) = flow(&udp(eth().mpls(0x12345, 5, 64).mpls(17, 0, 9)));
    assert_eq!(k.eth_type, ether::TYPE_MPLS);
    assert_eq!(k.mpls_lse, [0x1234_5a40, 0x0001_1109, 0]);
    assert_eq!((k.mpls_labels(), layers), (2, at(14, 42, 50, 80, 0)));
    let (key, _) = parsed(&udp(eth().mpls(16, 0, 64)), 0);
    assert_eq!(key.base.shape, shape::STACK, "what is behind the labels does not show");
    assert_eq!(key.innermost(), (0x0800, shape::L3_VALID | shape::L4_VALID));
    assert_eq!((k.ip_src, k.ip_ttl, k.tp_dst), (0x0a00_0001, 64, 2));
    let six = eth().ipv6(V6A, V6B).mpls(16, 0, 64).udp(1, 2).build();
    let (key, _) = parsed(&six, 0);
    assert_eq!((key.innermost().0, key.stack.payload), (0x86dd, payload::IPV6));
    let (key, layers) = parsed(&eth().mpls(16, 0, 64).arp(1, (A, [1; 4]), (B, [2; 4])).build(), 0);
    assert_eq!((key.innermost(), layers.payload), ((0x0806, shape::L3_VALID), 46));
    let tagged = udp(eth().vlan(100, 0).eth_type(0x8848).mpls(16, 0, 64));
    let (k, layers) = flow(&tagged);
    assert_eq!((k.vlan_tci, k.eth_type, layers.l3, layers.l4), (0x1064, 0x8848, 18, 42));
}

#[test]
fn payload_that_is_not_understood_is_none() {
    let other = |bytes: &[u8]| {
        let (key, layers) = parsed(bytes, 0);
        let nothing = (key.base.shape, key.stack.shape, key.stack.payload, layers.l4, layers.end);
        assert_eq!(nothing, (shape::STACK, 0, payload::OTHER, 0, 0));
        assert_eq!(key.innermost(), (0, 0));
        key.stack.mpls.map(u32::from_be_bytes)
    };
    other(&eth().mpls(16, 0, 64).payload(b"what is this").build());
    other(&eth().mpls(16, 0, 64).build());
    // Four labels: the third is not the last.
    let deep = udp(eth().mpls(1, 0, 1).mpls(2, 0, 2).mpls(3, 0, 3).mpls(4, 0, 4));
    assert_eq!(other(&deep), [0x1001, 0x2002, 0x3003]);
    // Cut before the bottom.
    let two = udp(eth().mpls(1, 0, 1).mpls(2, 0, 2));
    assert_eq!(other(&two[..21]), [0x1001, 0, 0]);
    assert_eq!(other(&two[..14]), [0; 3]);
    // IPv4 whose length lies.
    let mut bad = udp(eth().mpls(16, 0, 64));
    bad[18 + 2] = 0xff;
    other(&bad);
}
