//! Behaviour, case by case: what a flow table sees of each kind of packet.

use super::ct_state::{DNAT, EST, NEW, RPL, SNAT};
use super::tcp::{ACK, FIN, PSH, RST, SYN};
use super::*;
use crate::packet::key::FlowKey;

const A: u32 = 0x0a00_0001;
const B: u32 = 0x0a00_0002;
const C: u32 = 0xc0a8_0001;

fn secs(s: u64) -> Now {
    Now::from_secs(1_000_000 + s)
}

fn small() -> Conntrack {
    Conntrack::new(&CtConfig { conns_max: 64, seed: 7, ..CtConfig::default() })
}

pub(super) fn key(proto: u8, src: u32, dst: u32, sport: u16, dport: u16) -> FlowKey {
    let mut k = FlowKey::ZERO;
    (k.eth_type, k.ip_proto) = (0x0800, proto);
    (k.ip_src, k.ip_dst, k.tp_src, k.tp_dst) = (src, dst, sport, dport);
    k
}

fn udp(src: u32, dst: u32, sport: u16, dport: u16) -> CtPacket {
    CtPacket::from_key(&key(17, src, dst, sport, dport), &[0, 0, 0, 0, 0, 8, 0, 0], 1)
}

fn echo(src: u32, dst: u32, kind: u8, id: u16) -> CtPacket {
    let [a, b] = id.to_be_bytes();
    let key = FlowKey { icmp_id: id, ..key(1, src, dst, kind.into(), 0) };
    CtPacket::from_key(&key, &[kind, 0, 0, 0, a, b, 0, 1], 1)
}

pub(super) fn segment_bytes(seq: u32, ack: u32, flags: u8, win: u16, len: usize) -> Vec<u8> {
    let mut b = vec![0; 20 + len];
    b[4..8].copy_from_slice(&seq.to_be_bytes());
    b[8..12].copy_from_slice(&ack.to_be_bytes());
    (b[12], b[13]) = (0x50, flags);
    b[14..16].copy_from_slice(&win.to_be_bytes());
    b
}

fn tcp(from_a: bool, flags: u8, seq: u32, ack: u32, len: usize) -> CtPacket {
    let k = if from_a { key(6, A, B, 4000, 80) } else { key(6, B, A, 80, 4000) };
    CtPacket::from_key(&k, &segment_bytes(seq, ack, flags, 1000, len), 1)
}

fn commit(ct: &mut Conntrack, p: &CtPacket, c: &Commit, s: u64) -> CtResult {
    let r = ct.lookup(p, secs(s));
    ct.commit(p, &r, c, secs(s)).unwrap()
}

fn state(ct: &mut Conntrack, p: &CtPacket, s: u64) -> u8 {
    ct.lookup(p, secs(s)).state
}

fn snat(lo: u32, hi: u32, ports: Option<(u16, u16)>) -> Commit {
    nat(NatKind::Src, lo, hi, ports)
}

fn nat(kind: NatKind, lo: u32, hi: u32, ports: Option<(u16, u16)>) -> Commit {
    let (addr_min, addr_max) = (lo.into(), hi.into());
    let spec = NatSpec { kind, v6: false, addr_min, addr_max, ports, mode: NatMode::Hash };
    Commit { nat: Some(spec), ..Commit::default() }
}

#[test]
fn uncommitted_is_new_every_time() {
    let mut ct = small();
    for s in 0..3 {
        assert_eq!(state(&mut ct, &udp(A, B, 1, 2), s), TRK | NEW);
        assert_eq!(state(&mut ct, &tcp(true, SYN, 1, 0, 0), s), TRK | NEW);
    }
    assert!(ct.is_empty());
}

#[test]
fn udp_is_new_until_answered() {
    let mut ct = small();
    commit(&mut ct, &udp(A, B, 1, 2), &Commit::default(), 0);
    for s in 0..3 {
        assert_eq!(state(&mut ct, &udp(A, B, 1, 2), s), TRK | NEW);
    }
    assert_eq!(state(&mut ct, &udp(B, A, 2, 1), 4), TRK | EST | RPL);
    assert_eq!(state(&mut ct, &udp(A, B, 1, 2), 5), TRK | EST);
    let other_zone = CtPacket { zone: 2, ..udp(A, B, 1, 2) };
    assert_eq!(state(&mut ct, &other_zone, 5), TRK | NEW);
}

fn is_steady(ct: &Conntrack, p: &CtPacket, s: u64) -> bool {
    ct.judge(p, ct.hash_of(p), secs(s)).is_steady
}

#[test]
fn tcp_handshake_data_and_close() {
    let mut ct = small();
    commit(&mut ct, &tcp(true, SYN, 100, 0, 0), &Commit::default(), 0);
    assert_eq!(state(&mut ct, &tcp(true, SYN, 100, 0, 0), 1), TRK | NEW, "repeated SYN");
    assert_eq!(state(&mut ct, &tcp(false, SYN | ACK, 500, 101, 0), 1), TRK | EST | RPL);
    assert_eq!(state(&mut ct, &tcp(true, ACK, 101, 501, 0), 1), TRK | EST);
    let data = tcp(true, ACK | PSH, 101, 501, 10);
    let r = ct.lookup(&data, secs(1));
    assert!(is_steady(&ct, &data, 1) && r.state == TRK | EST);
    assert_eq!(state(&mut ct, &tcp(true, ACK, 90_000, 501, 10), 1), TRK | INV, "out of window");
    assert_eq!(state(&mut ct, &tcp(false, RST, 77_000, 0, 0), 1), TRK | INV, "blind reset");
    assert_eq!(state(&mut ct, &tcp(false, ACK, 501, 111, 0), 2), TRK | EST | RPL);
    assert_eq!(state(&mut ct, &tcp(true, FIN | ACK, 111, 501, 0), 2), TRK | EST);
    assert_eq!(state(&mut ct, &tcp(false, FIN | ACK, 501, 112, 0), 2), TRK | EST | RPL);
    let last = tcp(true, ACK, 112, 502, 0);
    assert!(!is_steady(&ct, &last, 2));
    assert_eq!(state(&mut ct, &last, 2), TRK | EST);
    let mut states = vec![];
    ct.dump(secs(2), |i| states.push((i.tcp_state, i.timeout_s)));
    assert_eq!(states, [(Some("TIME_WAIT"), 30)]);
    assert_eq!(state(&mut ct, &tcp(true, SYN, 9000, 0, 0), 3), TRK | NEW, "opened anew");
    assert!(ct.is_empty());
}

#[test]
fn tcp_nonsense_is_invalid_and_syn_ack_opens_nothing() {
    let mut ct = small();
    for flags in [0, SYN | FIN, SYN | RST, FIN, PSH, SYN | ACK] {
        assert_eq!(state(&mut ct, &tcp(true, flags, 1, 1, 0), 0), TRK | INV, "{flags:#x}");
    }
    assert_eq!(state(&mut ct, &tcp(true, ACK, 1, 1, 0), 0), TRK | NEW, "mid-stream");
    let bad = CtPacket { checksum_ok: false, ..tcp(true, SYN, 1, 0, 0) };
    assert_eq!(state(&mut ct, &bad, 0), TRK | INV);
    assert_eq!(ct.stats().invalid, 7);
}

#[test]
fn mid_stream_is_picked_up() {
    let mut ct = small();
    commit(&mut ct, &tcp(true, ACK, 0xffff_fff0, 77, 30), &Commit::default(), 0);
    assert_eq!(state(&mut ct, &tcp(false, ACK, 77, 14, 100), 0), TRK | EST | RPL);
    assert_eq!(state(&mut ct, &tcp(true, ACK, 14, 177, 30), 0), TRK | EST);
    assert!(is_steady(&ct, &tcp(true, ACK, 44, 177, 30), 0));
}

#[test]
fn simultaneous_open_establishes() {
    let mut ct = small();
    commit(&mut ct, &tcp(true, SYN, 100, 0, 0), &Commit::default(), 0);
    assert_eq!(state(&mut ct, &tcp(false, SYN, 500, 0, 0), 0), TRK | EST | RPL);
    assert_eq!(state(&mut ct, &tcp(true, SYN | ACK, 100, 501, 0), 0), TRK | EST);
    assert_eq!(state(&mut ct, &tcp(false, SYN | ACK, 500, 101, 0), 0), TRK | EST | RPL);
    assert_eq!(state(&mut ct, &tcp(true, ACK, 101, 501, 10), 0), TRK | EST);
}

#[test]
fn mark_and_label_last_and_make_handles_stale() {
    let mut ct = small();
    let c =
        Commit { mark: Some((0xab, 0xff)), label: Some((7 << 90, 0xf << 90)), ..Commit::default() };
    let r = commit(&mut ct, &udp(A, B, 1, 2), &c, 0);
    assert_eq!((r.state, r.mark, r.label), (TRK | NEW, 0xab, 7 << 90));
    let r = ct.lookup(&udp(B, A, 2, 1), secs(0));
    assert_eq!((r.mark, r.label, r.orig), (0xab, 7 << 90, udp(A, B, 1, 2).tuple));
    let r = ct.lookup(&udp(B, A, 2, 1), secs(0));
    let same = ct.commit(&udp(B, A, 2, 1), &r, &c, secs(0)).unwrap();
    assert_eq!(same, r, "nothing new was said");
    let c = Commit { mark: Some((0x100, 0xf00)), ..Commit::default() };
    let other = ct.commit(&udp(B, A, 2, 1), &r, &c, secs(0)).unwrap();
    assert_eq!(other.mark, 0x1ab);
    assert!(ct.live(r.conn.unwrap()).is_none() && ct.live(other.conn.unwrap()).is_some());
}

#[test]
fn force_turns_a_connection_round() {
    let mut ct = small();
    commit(&mut ct, &udp(A, B, 1, 2), &Commit::default(), 0);
    let c = Commit { force: true, ..Commit::default() };
    assert_eq!(commit(&mut ct, &udp(A, B, 1, 2), &c, 0).orig.src, A.into());
    let r = commit(&mut ct, &udp(B, A, 2, 1), &c, 0);
    assert_eq!((r.state, r.orig.src, ct.len()), (TRK | NEW, B.into(), 1));
}

#[test]
fn connections_die_in_time() {
    let mut ct = small();
    commit(&mut ct, &udp(A, B, 1, 2), &Commit::default(), 0);
    commit(&mut ct, &echo(A, B, 8, 5), &Commit::default(), 0);
    assert_eq!(state(&mut ct, &udp(A, B, 1, 2), 59), TRK | NEW);
    assert_eq!(ct.expire(secs(66), 10_000), 0);
    assert_eq!(ct.expire(secs(69), 10_000), 1, "the echo");
    assert_eq!(ct.len(), 1);
    assert!(ct.lookup(&udp(B, A, 2, 1), secs(59 + 59)).conn.is_some());
    assert!(ct.lookup(&udp(B, A, 2, 1), secs(59 + 59 + 35)).conn.is_none(), "30 s when answered");
    assert_eq!((ct.len(), ct.stats().expired), (0, 2));
}

/// A zone's timeouts are its own, for look-ups and for hits; what it does not say is as elsewhere;
/// and the sequence check can be switched while connections live.
#[test]
fn zones_have_timeouts_of_their_own() {
    let mut own = DEFAULT_TIMEOUTS_S;
    own[Class::OtherFirst as usize] = 5;
    own[Class::OtherBidir as usize] = 600;
    let zone = |zone, timeouts_s| CtZoneConfig { zone, limit: None, timeouts_s };
    let zones = vec![zone(7, Some(own)), zone(8, None), zone(9, Some(own))];
    let cfg = CtConfig { conns_max: 64, zones, ..CtConfig::default() };
    let mut ct = Conntrack::new(&cfg);
    for z in [7, 8, 9] {
        let packet = |reply: bool, port| CtPacket {
            zone: z,
            ..if reply { udp(B, A, port, 1) } else { udp(A, B, 1, port) }
        };
        for port in [2, 3] {
            commit(&mut ct, &packet(false, port), &Commit::default(), 0);
        }
        ct.lookup(&packet(true, 3), secs(0));
        let mut left = vec![];
        ct.dump(secs(0), |i| left.push((i.zone, i.timeout_s)));
        left.retain(|(zone, _)| *zone == z);
        assert_eq!(left, if z == 8 { [(8, 60), (8, 30)] } else { [(z, 5), (z, 600)] });
        assert!(ct.lookup(&packet(true, 3), secs(29)).conn.is_some());
        assert!(ct.lookup(&packet(true, 3), secs(29 + 31)).conn.is_some() || z == 8);
        assert_eq!(ct.lookup(&packet(true, 3), secs(600)).conn.is_some(), z != 8, "{z}");
        // Half-open, and not in the way of the others.
        assert_eq!(ct.lookup(&packet(true, 2), secs(10)).conn.is_some(), z == 8, "{z}");
    }
    commit(&mut ct, &tcp(true, SYN, 100, 0, 0), &Commit::default(), 0);
    state(&mut ct, &tcp(false, SYN | ACK, 500, 101, 0), 0);
    state(&mut ct, &tcp(true, ACK, 101, 501, 0), 0);
    let far = tcp(true, ACK, 900_000, 501, 10);
    assert_eq!(state(&mut ct, &far, 1), TRK | INV);
    ct.set(&CtSettings { tcp_seq_check: Some(false), ..CtSettings::default() });
    assert_eq!(state(&mut ct, &far, 1), TRK | EST);
}

#[test]
fn a_closed_connection_does_not_wait_for_its_day() {
    let mut ct = small();
    commit(&mut ct, &tcp(true, SYN, 100, 0, 0), &Commit::default(), 0);
    state(&mut ct, &tcp(false, SYN | ACK, 500, 101, 0), 0);
    state(&mut ct, &tcp(true, ACK, 101, 501, 0), 0);
    for s in 1..100 {
        assert_eq!(ct.expire(secs(s), 1000), 0, "established: 24 hours");
    }
    assert_eq!(state(&mut ct, &tcp(true, RST, 101, 0, 0), 100), TRK | EST);
    assert_eq!(ct.expire(secs(100 + 36), 1000), 1, "closed: 30 s");
}

#[test]
fn full_table_and_full_zone_refuse() {
    let mut ct = small();
    ct.zones_mut().set_limit(1, Some(3));
    let one = |ct: &mut Conntrack, n: u16, zone: u16, s: u64| {
        let p = CtPacket { zone, ..udp(A, B, n, 9) };
        let r = ct.lookup(&p, secs(s));
        ct.commit(&p, &r, &Commit::default(), secs(s)).map(|_| ())
    };
    for n in 1..=3 {
        one(&mut ct, n, 1, 0).unwrap();
    }
    assert_eq!(one(&mut ct, 4, 1, 0), Err(CtError::ZoneFull));
    assert_eq!((ct.stats().zone_full, ct.stats().table_full), (1, 0));
    for n in 1..=61 {
        one(&mut ct, n, 2, 0).unwrap();
        state(&mut ct, &CtPacket { zone: 2, ..udp(B, A, 9, n) }, 0);
    }
    (1..=3).for_each(|n| _ = state(&mut ct, &udp(B, A, 9, n), 0));
    assert_eq!(one(&mut ct, 62, 2, 0), Err(CtError::TableFull));
    assert_eq!(one(&mut ct, 62, 2, 200), Ok(()), "room is made from the dead");
    assert_eq!(ct.flush(secs(200), |i| i.zone == 2), 1);
}

#[test]
fn source_nat_both_ways_and_states() {
    let mut ct = small();
    let r = commit(&mut ct, &udp(A, B, 1000, 53), &snat(C, C, None), 0);
    let w = ct.nat_rewrite(&r).unwrap();
    assert_eq!((w.new_src, w.new_dst, w.new_sport, w.ct_state), (Some(C.into()), None, None, SNAT));
    let back = ct.lookup(&udp(B, C, 53, 1000), secs(0));
    assert_eq!(back.state, TRK | EST | RPL);
    let w = ct.nat_rewrite(&back).unwrap();
    assert_eq!((w.new_src, w.new_dst, w.new_dport, w.ct_state), (None, Some(A.into()), None, DNAT));
    // The same port of another host has to give way, and stays in its class.
    let r = commit(&mut ct, &udp(A + 100, B, 1000, 53), &snat(C, C, None), 0);
    let w = ct.nat_rewrite(&r).unwrap();
    assert!(w.new_sport.is_some_and(|p| (600..1024).contains(&p) || p >= 1024));
    assert_eq!(ct.nat_ports_used(), 2);
    assert_eq!(ct.expire(secs(500), 10_000), 2);
    assert_eq!(ct.nat_ports_used(), 0);
}

#[test]
fn a_port_range_is_used_up_exactly() {
    let mut ct = small();
    let c = snat(C, C, Some((32000, 32019)));
    let mut seen = std::collections::BTreeSet::new();
    for n in 0..20 {
        let p = if n % 2 == 0 { udp(A, B, 100 + n, 53) } else { echo(A, B, 8, n) };
        let r = commit(&mut ct, &p, &c, 0);
        let w = ct.nat_rewrite(&r).unwrap();
        let port = w.new_sport.or(w.new_icmp_id).unwrap();
        assert!((32000..=32019).contains(&port) && seen.insert((p.tuple.proto, port)));
    }
    for n in 20..30 {
        commit(&mut ct, &udp(A, B, 100 + n, 53), &c, 0);
    }
    let p = udp(A, B, 50, 53);
    let r = ct.lookup(&p, secs(0));
    for _ in 0..2 {
        assert_eq!(ct.commit(&p, &r, &c, secs(0)), Err(CtError::NatExhausted));
    }
    let elsewhere = commit(&mut ct, &udp(A, B + 1, 50, 53), &c, 0);
    assert!(elsewhere.conn.is_some(), "another remote end can share a port");
    assert_eq!(ct.len(), 31);
    assert_eq!(ct.flush(secs(0), |i| i.orig.sport == 104), 1);
    assert!(ct.commit(&p, &r, &c, secs(0)).is_ok());
}

#[test]
fn destination_nat_and_its_clash() {
    let mut ct = small();
    let vip = nat(NatKind::Dst, B, B, Some((8080, 8080)));
    let r = commit(&mut ct, &udp(A, C, 1000, 80), &vip, 0);
    let w = ct.nat_rewrite(&r).unwrap();
    assert_eq!((w.new_dst, w.new_dport, w.new_sport), (Some(B.into()), Some(8080), None));
    assert_eq!(w.ct_state, DNAT);
    let back = ct.lookup(&udp(B, A, 8080, 1000), secs(0));
    let w = ct.nat_rewrite(&back).unwrap();
    assert_eq!((w.new_src, w.new_sport, w.ct_state), (Some(C.into()), Some(80), SNAT));
    // Client to another VIP port, from the same port, to the same backend.
    let r = commit(&mut ct, &udp(A, C, 1000, 81), &vip, 0);
    assert!(ct.nat_rewrite(&r).unwrap().new_sport.is_some());
}

#[test]
fn address_zero_only_resolves_clashes() {
    let mut ct = small();
    let keep = snat(0, 0, None);
    let r = commit(&mut ct, &udp(A, B, 1, 2), &keep, 0);
    assert!(ct.nat_rewrite(&r).unwrap().is_identity());
    // C is translated to A's very tuple; then A itself speaks.
    commit(&mut ct, &udp(C, B, 3, 2), &snat(A, A, None), 0);
    let p = udp(A, B, 3, 2);
    let r = ct.lookup(&p, secs(0));
    assert_eq!(ct.commit(&p, &r, &Commit::default(), secs(0)), Err(CtError::TupleTaken));
    let r = ct.commit(&p, &r, &keep, secs(0)).unwrap();
    assert!(ct.nat_rewrite(&r).unwrap().new_sport.is_some());
}

#[test]
fn hits_keep_a_connection_alive_lazily() {
    let mut ct = small();
    commit(&mut ct, &udp(A, B, 1, 2), &Commit::default(), 0);
    let r = ct.lookup(&udp(B, A, 2, 1), secs(0));
    let p = udp(B, A, 2, 1);
    for s in 0..100 {
        assert_eq!(state(&mut ct, &p, s), r.state, "{s}");
        assert_eq!(ct.expire(secs(s), 100), 0);
    }
    assert_eq!(state(&mut ct, &p, 100 + 34), TRK | NEW, "dead");
}
