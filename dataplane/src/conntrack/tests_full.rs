//! A full table, and dead connections at any rate: who goes, who stays, and that it keeps up.

use super::tcp::{ACK, FIN, RST, SYN};
use super::*;

const CONNS: usize = 64;

fn table(conns_max: usize) -> Conntrack {
    Conntrack::new(&CtConfig { conns_max, seed: 11, ..CtConfig::default() })
}

fn packet(n: u32, proto: u8, flags: u8, reply: bool) -> CtPacket {
    let sport = 1024 + (n & 0x3fff) as u16;
    let src = u128::from(0x0a00_0000 + (n >> 14));
    let tuple = Tuple { src, dst: 9, sport, dport: 80, proto, v6: false };
    let tuple = if reply { tuple.reversed() } else { tuple };
    // Each side sends nothing, and acknowledges the other's SYN.
    let seq = u32::from(flags & SYN == 0);
    let seg = Segment { seq, ack: 1, win: 1000, flags, ..Segment::default() };
    CtPacket { tuple, zone: 3, kind: Kind::Normal, seg, checksum_ok: true }
}

fn open(ct: &mut Conntrack, p: &CtPacket, now: Now) -> Result<CtResult, CtError> {
    let r = ct.lookup(p, now);
    ct.commit(p, &r, &Commit::default(), now)
}

fn handshake(ct: &mut Conntrack, n: u32, now: Now) {
    open(ct, &packet(n, 6, SYN, false), now).unwrap();
    for (flags, reply) in [(SYN | ACK, true), (ACK, false), (ACK, true)] {
        let r = ct.lookup(&packet(n, 6, flags, reply), now);
        assert_eq!(r.state & ct_state::EST, ct_state::EST, "{n}");
    }
}

fn answered(ct: &mut Conntrack, n: u32, now: Now) {
    open(ct, &packet(n, 17, 0, false), now).unwrap();
    ct.lookup(&packet(n, 17, 0, true), now);
}

fn is_there(ct: &mut Conntrack, p: &CtPacket, now: Now) -> bool {
    ct.lookup(p, now).conn.is_some()
}

/// A flood of SYNs, and one of datagrams, at a full table: they push out each other, oldest first,
/// and whoever is established stays.
#[test]
fn a_flood_pushes_out_itself() {
    for (proto, flags) in [(6, SYN), (17, 0)] {
        let mut ct = table(CONNS);
        let now = Now::from_secs(100);
        (0..20).for_each(|n| handshake(&mut ct, n, now));
        (20..40).for_each(|n| answered(&mut ct, n, now));
        let half = CONNS as u32 - 40;
        for n in 0..5000 {
            let now = now.plus_ms(u64::from(n) / 100);
            open(&mut ct, &packet(1000 + n, proto, flags, false), now).unwrap();
            // The youngest of the half-open ones that there is room for.
            let youngest = n.saturating_sub(half - 1)..=n;
            for m in n.saturating_sub(half + 3)..=n {
                let tuple = packet(1000 + m, proto, flags, false).tuple;
                let there = ct.table.taken(&tuple, 3);
                // Eight lists in turn are one queue.
                assert_eq!(there, youngest.contains(&m), "{m} after {n}");
            }
        }
        let now = now.plus_ms(50);
        for n in 0..20 {
            assert!(is_there(&mut ct, &packet(n, 6, ACK, true), now), "{n}");
            assert!(is_there(&mut ct, &packet(20 + n, 17, 0, true), now), "{n}");
        }
        let s = ct.stats();
        assert_eq!((s.evicted, s.table_full), (5000 - u64::from(half), 0));
        assert_eq!(ct.zones().count(3) as usize, CONNS);
    }
}

#[test]
fn established_ones_alone_are_never_given_up() {
    let mut ct = table(CONNS);
    let now = Now::from_secs(100);
    (0..CONNS as u32).for_each(|n| handshake(&mut ct, n, now));
    for n in 0..100 {
        let refused = open(&mut ct, &packet(1000 + n, 17, 0, false), now);
        assert_eq!(refused, Err(CtError::TableFull));
    }
    assert_eq!((ct.stats().evicted, ct.stats().table_full), (0, 100));
    (0..CONNS as u32).for_each(|n| assert!(is_there(&mut ct, &packet(n, 6, ACK, true), now)));
    // One that has been reset, or closed by both sides, gives way; one that has said all it had to
    // say while the other side goes on does not.
    ct.lookup(&packet(7, 6, RST | ACK, false), now);
    ct.lookup(&packet(8, 6, FIN | ACK, false), now);
    assert!(open(&mut ct, &packet(2000, 17, 0, false), now).is_ok());
    assert!(!is_there(&mut ct, &packet(7, 6, ACK, true), now));
    assert!(is_there(&mut ct, &packet(8, 6, ACK, true), now));
    // Now the half-open one is the first to go, though it dies later than the closing one.
    ct.lookup(&packet(9, 6, RST | ACK, false), now);
    assert!(open(&mut ct, &packet(2001, 17, 0, false), now).is_ok());
    assert!(!is_there(&mut ct, &packet(2000, 17, 0, false), now));
    assert!(is_there(&mut ct, &packet(9, 6, ACK, true), now));
}

/// Who is due goes before anyone that lives, and is no eviction.
#[test]
fn the_dead_give_way_first() {
    let mut ct = table(CONNS);
    let now = Now::from_secs(100);
    answered(&mut ct, 1, now);
    let later = now.plus_ms(40_000);
    (2..=CONNS as u32).for_each(|n| _ = open(&mut ct, &packet(n, 17, 0, false), later));
    assert!(open(&mut ct, &packet(1000, 17, 0, false), later).is_ok());
    assert_eq!((ct.stats().expired, ct.stats().evicted), (1, 0));
    assert!(ct.table.taken(&packet(2, 17, 0, false).tuple, 3));
}

/// A commit that is refused for another reason gives up nobody.
#[test]
fn a_refused_commit_gives_up_nobody() {
    let mut ct = table(CONNS);
    let now = Now::from_secs(100);
    (0..CONNS as u32).for_each(|n| _ = open(&mut ct, &packet(n, 17, 0, false), now));
    ct.zones_mut().set_limit(3, Some(CONNS as u32));
    assert_eq!(open(&mut ct, &packet(1000, 17, 0, false), now), Err(CtError::ZoneFull));
    let nat = NatSpec {
        kind: NatKind::Src,
        v6: false,
        addr_min: 77,
        addr_max: 77,
        ports: Some((5, 5)),
        mode: NatMode::Hash,
    };
    let commit = Commit { nat: Some(nat), ..Commit::default() };
    let other = |n: u32| CtPacket { zone: 4, ..packet(n, 17, 0, false) };
    let r = ct.lookup(&other(1), now);
    ct.commit(&other(1), &r, &commit, now).unwrap();
    assert_eq!(ct.stats().evicted, 1);
    let r = ct.lookup(&other(2), now);
    assert_eq!(ct.commit(&other(2), &r, &commit, now), Err(CtError::NatExhausted));
    assert_eq!((ct.stats().evicted, ct.len()), (1, CONNS));
}

/// Whatever the rate, dead connections are collected as fast as new ones come: the table holds
/// those of one lifetime, and of the half second that the wheel is coarse.
#[test]
fn ageing_keeps_up_with_any_rate() {
    // Timeouts of 1 s and an eighth.
    let (lifetime_ms, coarse_ms) = (1125, 2 * 537);
    for rate_per_ms in [1u64, 20, 150] {
        let timeouts_s = [1; CLASSES];
        let cfg = CtConfig { conns_max: 1 << 19, timeouts_s, ..CtConfig::default() };
        let mut ct = Conntrack::new(&cfg);
        let mut made = 0;
        let mut now = Now::from_secs(100);
        for _ in 0..4000 {
            now = now.plus_ms(1);
            for _ in 0..rate_per_ms {
                made += 1;
                open(&mut ct, &packet(made, 17, 0, false), now).unwrap();
            }
            ct.age(now);
            let alive = rate_per_ms * (lifetime_ms + coarse_ms);
            assert!(ct.len() as u64 <= alive, "{} of {alive} at {rate_per_ms}", ct.len());
        }
        let s = ct.stats();
        assert_eq!((s.created, s.evicted), (s.expired + ct.len() as u64, 0));
        now = now.plus_ms(lifetime_ms + 1000);
        while ct.age(now) {}
        assert_eq!((ct.len(), ct.zones().count(3)), (0, 0));
    }
}
