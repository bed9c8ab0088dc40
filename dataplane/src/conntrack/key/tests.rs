//! Tuples, their hash, and what is read from bytes.

use super::*;

fn key(proto: u8) -> FlowKey {
    let mut k = FlowKey::ZERO;
    k.eth_type = 0x0800;
    (k.ip_src, k.ip_dst, k.ip_proto) = (0x0a000001, 0x0a000002, proto);
    (k.tp_src, k.tp_dst) = (1000, 2000);
    k
}

#[test]
fn reversing_twice_is_nothing() {
    for (proto, v6, dport) in
        [(TCP, false, 80), (ICMP, false, 8 << 8), (ICMPV6, true, 128 << 8), (47, false, 0)]
    {
        let t = Tuple { src: 1, dst: 2, sport: 7, dport, proto, v6 };
        assert_eq!(t.reversed().reversed(), t);
        assert_ne!(t.reversed(), t);
    }
}

#[test]
fn a_tuple_hashes_like_its_reverse_and_like_nothing_else() {
    let key = HashKey::new(7);
    let mut seen = std::collections::HashMap::new();
    for n in 0..20_000u64 {
        let pick = |shift: u32, of: u64| n.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> shift & of;
        let (v6, proto) = (n % 3 == 0, [TCP, UDP, ICMP, 47][n as usize % 4]);
        let dport = if proto == ICMP { 8 << 8 } else { pick(32, 0xff) as u16 };
        let wide = u128::from(v6) << 100;
        let (src, dst) = (wide + u128::from(pick(8, 0xf)), wide + u128::from(pick(4, 0xf)));
        let t = Tuple { src, dst, sport: pick(40, 0xff) as u16, dport, proto, v6 };
        for zone in [0, 1, 0xffff] {
            let hash = key.of(&t, zone);
            assert_eq!(hash, key.of(&t.reversed(), zone), "{t:?}");
            // Requests of both sides with one identifier are told apart by their tuples.
            let far = if t.is_icmp() { t.sport } else { t.dport };
            let mut ends = [(t.src, t.sport), (t.dst, far)];
            ends.sort_unstable();
            let what = (ends, proto, v6, zone);
            let before = seen.insert(hash, what);
            assert!(before.is_none_or(|b| b == what), "{t:?} and {before:?}");
        }
    }
    assert!(seen.len() > 40_000, "{}", seen.len());
}

#[test]
fn a_narrow_tuple_hashes_like_the_tuple() {
    for (n, zone) in [(1, 0), (77, 9), (u64::MAX, 65535)] {
        let key = HashKey::new(n);
        let narrow = Narrow { addresses: n << 32 | 5, ports: 0x1234_0050, proto: UDP };
        assert_eq!(key.of_narrow(&narrow, zone), key.of(&narrow.tuple(), zone));
    }
}

#[test]
fn requests_of_both_sides_with_one_identifier_differ() {
    let a = Tuple { src: 1, dst: 2, sport: 7, dport: 8 << 8, proto: ICMP, v6: false };
    let from_b = Tuple { src: 2, dst: 1, ..a };
    assert_ne!(a.reversed(), from_b);
    assert_eq!(a.tp(), (8, 0));
    assert_eq!(a.reversed().tp(), (0, 0));
}

#[test]
fn bad_transport_headers_are_invalid() {
    let udp = [3, 0xe8, 7, 0xd0, 0, 8, 0, 0];
    let kind = |k: &FlowKey, l4: &[u8]| CtPacket::from_key(k, l4, 0).kind;
    assert_eq!(kind(&key(UDP), &udp), Kind::Normal);
    assert_eq!(kind(&key(UDP), &udp[..7]), Kind::Invalid);
    assert_eq!(kind(&key(UDP), &[3, 0xe8, 7, 0xd0, 0, 9, 0, 0]), Kind::Invalid);
    assert_eq!(kind(&key(UDP), &[3, 0xe8, 7, 0xd0, 0, 7, 0, 0]), Kind::Invalid);
    let mut zero = key(UDP);
    zero.tp_src = 0;
    assert_eq!(kind(&zero, &udp), Kind::Invalid);
    let mut piece = key(UDP);
    piece.ip_frag = FRAG_ANY;
    assert_eq!(kind(&piece, &udp), Kind::Invalid);
    let query = |proto, kind_of: u8, code: u8| {
        let ports = (kind_of.into(), code.into());
        let key = FlowKey { tp_src: ports.0, tp_dst: ports.1, ..key(proto) };
        // What the bytes say of type and code may be what was before an edit.
        kind(&key, &[3, 3, 0, 0, 0, 1, 0, 1])
    };
    assert_eq!(query(ICMP, 8, 0), Kind::Normal);
    assert_eq!(query(ICMP, 8, 1), Kind::Invalid);
    assert_eq!(query(ICMP, 9, 0), Kind::Invalid);
    assert_eq!(query(ICMPV6, 128, 0), Kind::Invalid, "v6 in v4");
    assert_eq!(kind(&key(47), &[]), Kind::Normal);
    assert_eq!(kind(&key(TCP), &[0; 19]), Kind::Invalid);
}
