//! NAT as connections see it: every protocol and version, both kinds at once, hairpins, the choice
//! of an address, and a pool that is used up.

use super::tests_dump::fresh;
use super::*;
use std::collections::BTreeSet;

const NOW: Now = Now::from_secs(5);

fn packet(t: Tuple, zone: u16) -> CtPacket {
    let flags = if t.proto == 6 { tcp::SYN } else { 0 };
    let seg = Segment { seq: 1, win: 1000, flags, ..Segment::default() };
    CtPacket { tuple: t, zone, kind: Kind::Normal, seg, checksum_ok: true }
}

fn tuple(proto: u8, v6: bool, src: u128, dst: u128, sport: u16, dport: u16) -> Tuple {
    let net = if v6 { 0xfd00 << 112 } else { 0x0a00_0000 };
    Tuple { src: net + src, dst: net + dst, sport, dport, proto, v6 }
}

fn nat(kind: NatKind, to: &Tuple, ports: Option<(u16, u16)>) -> Commit {
    let address = if kind == NatKind::Src { to.src } else { to.dst };
    let (addr_min, addr_max, v6) = (address, address, to.v6);
    let spec = NatSpec { kind, v6, addr_min, addr_max, ports, mode: NatMode::Hash };
    Commit { nat: Some(spec), ..Commit::default() }
}

/// What a packet is after a `ct(commit,nat)` of a zone; the packet of before if nothing translates.
fn through(ct: &mut Conntrack, t: Tuple, zone: u16, c: &Commit) -> Tuple {
    let p = packet(t, zone);
    let r = ct.lookup(&p, NOW);
    let r = ct.commit(&p, &r, c, NOW).unwrap();
    ct.nat_rewrite(&r).map_or(t, |w| w.apply(&t))
}

/// What an answer is after a `ct(nat)` of a zone.
fn back(ct: &mut Conntrack, t: Tuple, zone: u16) -> Tuple {
    let p = packet(t, zone);
    let seg = Segment { flags: tcp::SYN | tcp::ACK, ack: 2, ..p.seg };
    let r = ct.lookup(&CtPacket { seg, ..p }, NOW);
    assert_eq!(r.state, ct_state::TRK | ct_state::EST | ct_state::RPL, "{t:?} in {zone}");
    ct.nat_rewrite(&r).map_or(t, |w| w.apply(&t))
}

#[test]
fn every_protocol_with_ports_is_translated_both_ways() {
    for proto in [6, 17, 132] {
        for v6 in [false, true] {
            let mut ct = fresh(64);
            let sent = tuple(proto, v6, 1, 2, 5000, 80);
            let outside = tuple(proto, v6, 77, 2, 40_000, 80);
            let snat = nat(NatKind::Src, &outside, Some((40_000, 40_000)));
            let left = through(&mut ct, sent, 1, &snat);
            assert_eq!(left, outside, "{proto}");
            assert_eq!(back(&mut ct, left.reversed(), 1), sent.reversed());
            let inside = tuple(proto, v6, 1, 99, 6000, 8080);
            let dnat = nat(NatKind::Dst, &inside, Some((8080, 8080)));
            let sent = tuple(proto, v6, 1, 2, 6000, 80);
            let left = through(&mut ct, sent, 1, &dnat);
            assert_eq!(left, inside, "{proto}");
            assert_eq!(back(&mut ct, left.reversed(), 1), sent.reversed());
        }
    }
}

/// A service's address in one zone and the way out in another: each zone undoes its own.
#[test]
fn both_at_once_in_two_zones() {
    let mut ct = fresh(64);
    let sent = tuple(6, false, 1, 200, 5000, 80);
    let backend = tuple(6, false, 1, 9, 5000, 8080);
    let inner = through(&mut ct, sent, 1, &nat(NatKind::Dst, &backend, Some((8080, 8080))));
    assert_eq!(inner, backend);
    let gateway = tuple(6, false, 77, 9, 1, 8080);
    let outer = through(&mut ct, inner, 2, &nat(NatKind::Src, &gateway, Some((30_000, 30_010))));
    assert_eq!((outer.src, outer.dst, outer.dport), (gateway.src, backend.dst, 8080));
    assert!((30_000..=30_010).contains(&outer.sport));
    // Home again: the zones in the other order.
    let inner_back = back(&mut ct, outer.reversed(), 2);
    assert_eq!(inner_back, inner.reversed());
    assert_eq!(back(&mut ct, inner_back, 1), sent.reversed());
    assert_eq!((ct.len(), ct.nat_ports_used()), (2, 1));
}

/// A client that asks for the service it is a backend of: without source NAT it would answer
/// itself.
#[test]
fn a_hairpin_comes_home() {
    let mut ct = fresh(64);
    let sent = tuple(17, false, 9, 200, 5000, 53);
    let to_itself = tuple(17, false, 9, 9, 5000, 53);
    let inner = through(&mut ct, sent, 1, &nat(NatKind::Dst, &to_itself, None));
    assert_eq!(inner, to_itself);
    let as_service = tuple(17, false, 200, 9, 5000, 53);
    let outer = through(&mut ct, inner, 2, &nat(NatKind::Src, &as_service, None));
    assert_eq!(outer, as_service);
    let inner_back = back(&mut ct, outer.reversed(), 2);
    assert_eq!(back(&mut ct, inner_back, 1), sent.reversed());
    // A connection with itself whose two ports are equal has one tuple only, and is fine too.
    let narcissus = tuple(17, false, 9, 9, 53, 53);
    assert_eq!(through(&mut ct, narcissus, 3, &Commit::default()), narcissus);
    ct.flush(NOW, |_| true);
    assert!(ct.is_empty());
}

/// `persistent`: one address for a source, whatever the connection, the zone and the start.
#[test]
fn a_persistent_choice_lasts() {
    let choose = |seed, mode, src, dport, zone| {
        let cfg = CtConfig { conns_max: 8, seed, ..CtConfig::default() };
        let mut ct = Conntrack::new(&cfg);
        let sent = tuple(6, false, src, 2, 5000, dport);
        let spec = NatSpec {
            kind: NatKind::Src,
            v6: false,
            addr_min: 1000,
            addr_max: 1063,
            ports: None,
            mode,
        };
        through(&mut ct, sent, zone, &Commit { nat: Some(spec), ..Commit::default() }).src
    };
    let addresses = |mode, src| -> BTreeSet<u128> {
        (0..40).map(|n| choose(n, mode, src, 80 + n as u16, n as u16 % 3)).collect()
    };
    assert_eq!(addresses(NatMode::Persistent, 1).len(), 1);
    // Fixed for good: a restart with another version keeps it.
    assert_eq!(choose(7, NatMode::Persistent, 1, 80, 0), PERSISTENT_OF_1);
    let all: BTreeSet<u128> =
        (0..300).map(|src| choose(1, NatMode::Persistent, src, 80, 0)).collect();
    assert!(all.len() > 50, "sources are spread: {}", all.len());
    for mode in [NatMode::Hash, NatMode::Random] {
        assert!(addresses(mode, 1).len() > 15, "{mode:?} depends on the start and the connection");
    }
}

const PERSISTENT_OF_1: u128 = 1051;

/// Exhaustion is certain: as long as a tuple is free it is found, and when there is none that is
/// said, counted and shown, whatever came and went before.
#[test]
fn a_pool_is_used_to_the_last_tuple() {
    let mut ct = fresh(400);
    let (lo, hi) = (40_000u16, 40_029);
    let outside = tuple(17, false, 77, 0, 0, 0);
    let c = nat(NatKind::Src, &outside, Some((lo, hi)));
    let mut live: Vec<(u16, Tuple)> = Vec::new();
    let (mut seed, mut refused) = (12345u64, 0);
    for n in 0..20_000u32 {
        seed ^= seed << 13;
        seed ^= seed >> 7;
        seed ^= seed << 17;
        let remote = (seed >> 8) as u16 % 4;
        if !live.is_empty() && seed % 100 < 35 {
            let (_, gone) = live.swap_remove((seed >> 20) as usize % live.len());
            assert_eq!(ct.flush(NOW, |i| i.orig == gone), 1);
            continue;
        }
        let sent = tuple(17, false, u128::from(n), 1000 + u128::from(remote), 5000, 53);
        let p = packet(sent, 1);
        let r = ct.lookup(&p, NOW);
        let in_use = live.iter().filter(|(r, _)| *r == remote).count();
        match ct.commit(&p, &r, &c, NOW) {
            Ok(_) => live.push((remote, sent)),
            Err(e) => {
                refused += 1;
                assert_eq!((e, in_use), (CtError::NatExhausted, 30), "after {n}");
            }
        }
        assert_eq!(ct.nat_ports_used() as usize, live.len());
    }
    assert!(refused > 300, "{refused}");
    let mut pools = Vec::with_capacity(4);
    ct.pools(&mut pools);
    let [pool] = pools[..] else { panic!("{pools:?}") };
    assert_eq!((pool.address, pool.zone, pool.proto), (outside.src, 1, 17));
    assert_eq!((pool.users as usize, pool.exhausted), (live.len(), refused));
    assert_eq!(ct.stats().nat_exhausted, refused);
}
