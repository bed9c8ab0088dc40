//! ICMP errors of translated connections: found by direction, and rewritten exactly.
//!
//! The oracle builds the packet that the receiver should see from nothing, checksums summed word
//! by word, and compares all bytes.

use super::tests::key;
use super::*;
use crate::wire::checksum::reference_sum;
use proptest::prelude::*;

fn sum_of(parts: &[&[u8]]) -> [u8; 2] {
    (!reference_sum(&parts.concat())).to_be_bytes()
}

/// An address as bytes of its version.
fn address(v6: bool, a: u128) -> Vec<u8> {
    if v6 { a.to_be_bytes().to_vec() } else { (a as u32).to_be_bytes().to_vec() }
}

fn ip_packet(v6: bool, proto: u8, src: u128, dst: u128, l4: &[u8]) -> Vec<u8> {
    let (src, dst) = (address(v6, src), address(v6, dst));
    if v6 {
        let mut h = vec![0x60, 0, 0, 0];
        h.extend((l4.len() as u16).to_be_bytes());
        h.extend([proto, 61]);
        return [h, src, dst, l4.to_vec()].concat();
    }
    let mut h = vec![0x45, 0];
    h.extend((20 + l4.len() as u16).to_be_bytes());
    h.extend([0x12, 0x34, 0, 0, 61, proto, 0, 0]);
    h.extend([src, dst].concat());
    let sum = sum_of(&[&h]);
    h[10..12].copy_from_slice(&sum);
    h.extend(l4);
    h
}

fn with_checksum(v6: bool, proto: u8, src: u128, dst: u128, mut l4: Vec<u8>) -> Vec<u8> {
    let at = match proto {
        6 => 16,
        17 => 6,
        _ => 2,
    };
    let len = (l4.len() as u16).to_be_bytes();
    let (src, dst) = (address(v6, src), address(v6, dst));
    let pseudo = [&src[..], &dst, &[0, proto], &len].concat();
    l4[at..at + 2].fill(0);
    let mut sum = if proto == 1 { sum_of(&[&l4]) } else { sum_of(&[&pseudo, &l4]) };
    if proto == 17 && sum == [0, 0] {
        sum = [0xff, 0xff];
    }
    l4[at..at + 2].copy_from_slice(&sum);
    l4
}

/// A query, segment or datagram of a flow.
fn flow_packet(v6: bool, proto: u8, t: (u128, u128, u16, u16), payload: &[u8]) -> Vec<u8> {
    let (src, dst, sport, dport) = t;
    let ports = [sport.to_be_bytes(), dport.to_be_bytes()].concat();
    let l4 = match proto {
        6 => [&ports[..], &[0, 0, 0, 1, 0, 0, 0, 2, 0x50, 0x10, 3, 0xe8, 0, 0, 0, 0], payload]
            .concat(),
        17 => [&ports[..], &((8 + payload.len()) as u16).to_be_bytes(), &[0, 0], payload].concat(),
        _ => {
            let kind = if proto == 1 { 8 } else { 128 };
            [&[kind, 0, 0, 0][..], &sport.to_be_bytes(), &[0, 9], payload].concat()
        }
    };
    ip_packet(v6, proto, src, dst, &with_checksum(v6, proto, src, dst, l4))
}

/// "Destination unreachable" from `router` about `quoted`.
fn error_packet(v6: bool, router: u128, to: u128, quoted: &[u8]) -> Vec<u8> {
    let head: &[u8] = if v6 { &[1, 4, 0, 0, 0, 0, 0, 0] } else { &[3, 1, 0, 0, 0, 0, 0, 0] };
    let proto = if v6 { 58 } else { 1 };
    let l4 = with_checksum(v6, proto, router, to, [head, quoted].concat());
    ip_packet(v6, proto, router, to, &l4)
}

fn read(packet: &[u8], zone: u16) -> CtPacket {
    let v6 = packet[0] >> 4 == 6;
    let l4 = if v6 { 40 } else { 20 };
    let proto = if v6 { packet[6] } else { packet[9] };
    let word = |at: usize| u16::from_be_bytes([packet[at], packet[at + 1]]);
    let mut k = key(proto, 0, 0, word(l4), word(l4 + 2));
    if matches!(proto, 1 | 58) {
        (k.tp_src, k.tp_dst) = (packet[l4].into(), packet[l4 + 1].into());
        k.icmp_id = u16::from_be_bytes([packet[l4 + 4], packet[l4 + 5]]);
    }
    if v6 {
        k.eth_type = 0x86dd;
        k.ipv6_src = u128::from_be_bytes(packet[8..24].try_into().unwrap());
        k.ipv6_dst = u128::from_be_bytes(packet[24..40].try_into().unwrap());
    } else {
        k.ip_src = u32::from_be_bytes(packet[12..16].try_into().unwrap());
        k.ip_dst = u32::from_be_bytes(packet[16..20].try_into().unwrap());
    }
    CtPacket {
        checksum_ok: l4_checksum_ok(packet, l4, proto),
        ..CtPacket::from_key(&k, &packet[l4..], zone)
    }
}

/// The original packet as it leaves after translation.
fn translated(t: (u128, u128, u16, u16), w: &NatRewrite) -> (u128, u128, u16, u16) {
    let sport = w.new_sport.or(w.new_icmp_id).unwrap_or(t.2);
    (w.new_src.unwrap_or(t.0), w.new_dst.unwrap_or(t.1), sport, w.new_dport.unwrap_or(t.3))
}

const PROTOS: [(bool, u8); 6] =
    [(false, 6), (false, 17), (false, 1), (true, 6), (true, 17), (true, 58)];

proptest! {
    #![proptest_config(ProptestConfig {
        failure_persistence: None, ..ProptestConfig::with_cases(600)
    })]
    #[test]
    fn errors_arrive_as_if_there_were_no_nat(
        which in 0..PROTOS.len(), snat: bool, seed: u64, cut in 0usize..40,
        ports in (1u16.., 1u16..), payload in prop::collection::vec(any::<u8>(), 0..40),
        addresses: [u128; 4],
    ) {
        let (v6, proto) = PROTOS[which];
        let [client, server, nat, router] = addresses
            .map(|a| if v6 { a | 1 } else { u128::from(a as u32 | 1) });
        prop_assume!(client != server && nat != server && nat != client);
        let l4 = if v6 { 40 } else { 20 };
        let mut ct = Conntrack::new(&CtConfig { conns_max: 4, seed, ..CtConfig::default() });
        let now = Now::from_secs(5);
        let kind = if snat { NatKind::Src } else { NatKind::Dst };
        let range = Some((700, 900));
        let spec =
            NatSpec { kind, v6, addr_min: nat, addr_max: nat, ports: range, mode: NatMode::Hash };
        let sent = (client, server, ports.0, ports.1);
        let first = flow_packet(v6, proto, sent, &payload);
        let p = read(&first, 3);
        prop_assert!(p.checksum_ok && p.kind == Kind::Normal);
        let r = ct.lookup(&p, now);
        let r = ct.commit(&p, &r, &Commit { nat: Some(spec), ..Commit::default() }, now).unwrap();
        let w = ct.nat_rewrite(&r).unwrap();
        let left = translated(sent, &w);
        prop_assert_eq!(if snat { left.0 } else { left.1 }, nat);

        // The far side is told that the packet did not arrive; the quote may be cut.
        let out = flow_packet(v6, proto, left, &payload);
        // Of a checksum cut in half, half cannot be known.
        let cut = if proto == 6 && cut == 9 { 10 } else { cut };
        let keep = (l4 + 8 + cut).min(out.len());
        let mut error = error_packet(v6, router, left.0, &out[..keep]);
        let p = read(&error, 3);
        prop_assert_eq!((p.kind, p.checksum_ok), (Kind::Related, true));
        let r = ct.lookup(&p, now);
        prop_assert_eq!(r.state, ct_state::TRK | ct_state::REL | ct_state::RPL);
        prop_assert!(r.conn.is_some());
        let w = ct.nat_rewrite(&r).unwrap();
        prop_assert!(w.related);
        prop_assert_eq!(w.ct_state, if snat { ct_state::DNAT } else { ct_state::SNAT });
        rewrite_icmp_error(&mut error, l4, &w).unwrap();
        // Destination NAT shows the router as the address that the client knows.
        let from = if snat { router } else { server };
        let wanted = error_packet(v6, from, client, &first[..keep]);
        prop_assert_eq!(&error, &wanted);
        // Of every shorter one there is an answer and no panic.
        for n in 0..error.len() {
            let mut short = wanted[..n].to_vec();
            let _ = rewrite_icmp_error(&mut short, l4, &w);
        }
        prop_assert_eq!(ct.len(), 1);
    }

    #[test]
    fn echo_identifiers_are_rewritten_exactly(
        v6: bool,
        ids: (u16, u16),
        payload in prop::collection::vec(any::<u8>(), 0..30),
    ) {
        let (proto, l4) = if v6 { (58, 40) } else { (1, 20) };
        let mut packet = flow_packet(v6, proto, (1, 2, ids.0, 0), &payload);
        rewrite_echo_id(&mut packet[l4..], ids.1).unwrap();
        prop_assert_eq!(packet, flow_packet(v6, proto, (1, 2, ids.1, 0), &payload));
        prop_assert!(rewrite_echo_id(&mut [8, 0, 0, 0, 1], 1).is_err());
    }
}

#[test]
fn errors_about_nothing_or_from_nowhere_are_invalid() {
    let mut ct = Conntrack::new(&CtConfig { conns_max: 4, ..CtConfig::default() });
    let now = Now::from_secs(5);
    let sent = flow_packet(false, 17, (1, 2, 3, 4), &[]);
    let invalid = ct_state::TRK | ct_state::INV;
    assert_eq!(ct.lookup(&read(&error_packet(false, 9, 1, &sent), 0), now).state, invalid);
    let p = read(&sent, 0);
    let r = ct.lookup(&p, now);
    ct.commit(&p, &r, &Commit::default(), now).unwrap();
    let related = ct_state::TRK | ct_state::REL | ct_state::RPL;
    assert_eq!(ct.lookup(&read(&error_packet(false, 9, 1, &sent), 0), now).state, related);
    assert_eq!(ct.lookup(&read(&error_packet(false, 9, 1, &sent), 1), now).state, invalid, "zone");
    assert_eq!(ct.lookup(&read(&error_packet(false, 9, 8, &sent), 0), now).state, invalid, "to 8");
    let mut damaged = error_packet(false, 9, 1, &sent);
    damaged[22] ^= 1;
    assert_eq!(ct.lookup(&read(&damaged, 0), now).state, invalid, "checksum");
    let nested = error_packet(false, 9, 1, &error_packet(false, 1, 2, &sent));
    assert_eq!(ct.lookup(&read(&nested, 0), now).state, invalid, "error about an error");
    // The reply's sender hears of it in the original direction.
    let back = flow_packet(false, 17, (2, 1, 4, 3), &[]);
    let r = ct.lookup(&read(&error_packet(false, 1, 2, &back), 0), now);
    assert_eq!(r.state, ct_state::TRK | ct_state::REL);
    assert!(ct.nat_rewrite(&r).is_none());
}
