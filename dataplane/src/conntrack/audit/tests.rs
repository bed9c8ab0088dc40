//! The audit sees what it is there for: each structure is broken by hand.

use super::*;
use crate::conntrack::alg::Alg;
use crate::conntrack::{
    Commit, CtConfig, CtPacket, Homes, Kind, NatKind, NatMode, NatSpec, Seat, Segment, ZoneCounts,
};
use std::sync::Arc;

const NOW: Now = Now::from_secs(100);

fn tuple(n: u16, proto: u8) -> Tuple {
    Tuple { src: u128::from(n) + 1, dst: 99, sport: 1000 + n, dport: 80, proto, v6: n % 3 == 2 }
}

fn nat(n: u16) -> NatSpec {
    let (v6, mode) = (n % 3 == 2, NatMode::Hash);
    let ports = Some((2000, 2100));
    NatSpec { kind: NatKind::Src, v6, addr_min: 7, addr_max: 7, ports, mode }
}

fn open(ct: &mut Conntrack, n: u16, c: &Commit, proto: u8) -> u32 {
    let seg = Segment { flags: 2, ..Segment::default() };
    let p = CtPacket {
        tuple: tuple(n, proto),
        zone: n % 4,
        kind: Kind::Normal,
        seg,
        checksum_ok: true,
    };
    let r = ct.lookup(&p, NOW);
    ct.commit(&p, &r, c, NOW).unwrap().conn.unwrap().ix
}

fn two() -> [Conntrack; 2] {
    let zone_counts = Some(Arc::new(ZoneCounts::default()));
    [0, 1].map(|worker| {
        let cfg =
            CtConfig { conns_max: 64, zone_counts: zone_counts.clone(), ..Default::default() };
        let mut ct = Conntrack::new(&cfg);
        ct.sit(Seat { worker, workers: 2 }, 7);
        ct.homes_mut().set_room(1 - worker, 64);
        ct
    })
}

fn tell(workers: &mut [Conntrack; 2]) {
    for from in [0, 1] {
        let mut notices = Vec::new();
        workers[from].homes_mut().tell(|_, notice| {
            notices.push(notice);
            true
        });
        notices.iter().for_each(|n| workers[1 - from].hear(n));
    }
}

fn audit(workers: &[Conntrack; 2]) -> Audit {
    Audit::of(&[&workers[0], &workers[1]], NOW)
}

/// Two workers with connections of all kinds; some went again.
fn busy() -> [Conntrack; 2] {
    let mut workers = two();
    for n in 0..40 {
        let at = usize::from(n % 2);
        let c = match n % 5 {
            0 => Commit { alg: Some(Alg::Ftp), ..Commit::default() },
            1 | 2 => Commit { nat: Some(nat(n)), ..Commit::default() },
            _ => Commit::default(),
        };
        open(&mut workers[at], n, &c, if n % 5 == 0 { 6 } else { 17 });
    }
    workers[0].flush(NOW, |c| c.orig.sport % 3 == 0);
    tell(&mut workers);
    workers
}

#[test]
fn what_is_whole_is_found_whole_and_in_the_end_bare() {
    let mut workers = busy();
    let a = audit(&workers);
    assert_eq!(a.findings, Findings::default());
    assert!(a.live > 20 && a.freed > 3 && a.nat_ports > 10 && a.helped > 5 && a.redirects > 5);
    // NAT holds a port of each that it translates, and only these have two entries.
    assert_eq!((a.index_entries, a.queued), (a.live + a.nat_ports, a.live));
    assert!(!a.is_bare());
    let gone: usize = workers.iter_mut().map(|ct| ct.flush(NOW, |_| true)).sum();
    assert!(gone > 20);
    tell(&mut workers);
    let a = audit(&workers);
    assert!(a.is_bare() && a.findings.is_empty(), "{a:?}");
}

/// What is broken by hand, and a word of what is then said.
type Break = (fn(&mut [Conntrack; 2]), &'static str);

fn first_live(ct: &Conntrack, with: u8) -> u32 {
    ct.live_places().find(|ix| ct.table.hot(*ix).has(with)).unwrap()
}

fn breaks() -> [Break; 11] {
    [
        (|w| w[0].zones.leave(2), "connections of zone 2"),
        (|w| assert!(w[1].zones.enter(9)), "connections of zone 9"),
        (
            |w| {
                let ix = first_live(&w[1], flag::POOL);
                let reply = w[1].table.tuple(ix, 1);
                let zone = w[1].table.hot(ix).zone;
                w[1].release_port(&reply, zone);
            },
            "port 2",
        ),
        (
            |w| {
                let ix = first_live(&w[0], flag::POOL);
                w[0].table.hot_mut(ix).unwrap().flags &= !flag::POOL;
            },
            "users of",
        ),
        (
            |w| {
                let ix = first_live(&w[0], flag::LIVE);
                let Conntrack { wheels, table, .. } = &mut w[0];
                wheels.unqueue(table, ix);
            },
            "on no wheel",
        ),
        (
            |w| {
                let ix = first_live(&w[0], flag::LIVE);
                w[0].table.hot_mut(ix).unwrap().class = 2;
            },
            "does not belong",
        ),
        (
            |w| {
                let ix = first_live(&w[0], flag::LIVE);
                w[0].table.hot_mut(ix).unwrap().deadline -= 4000;
            },
            "after its time",
        ),
        (
            |w| {
                let ix = first_live(&w[0], flag::LIVE);
                w[0].table.unlink(ix);
                w[0].table.release(ix);
            },
            "hangs where it does not belong",
        ),
        (
            |w| {
                let ix = first_live(&w[0], flag::LIVE);
                w[0].table.hot_mut(ix).unwrap().ports[0] ^= 1;
            },
            "indexed as another",
        ),
        (|w| w[1].homes = Homes::new(Seat { worker: 1, workers: 2 }, 7, 64), "redirects"),
        (
            |w| {
                let ix = (w[0].live_places()).find(|ix| w[0].table.hot(*ix).alg != 0).unwrap();
                let Conntrack { algs, homes, .. } = &mut w[0];
                algs.forget(ix, homes);
            },
            "helped connections",
        ),
    ]
}

#[test]
fn whatever_is_broken_is_found() {
    for (break_it, word) in breaks() {
        let mut workers = busy();
        break_it(&mut workers);
        let a = audit(&workers);
        let said = a.findings.told();
        assert!(said.iter().any(|s| s.contains(word)), "{word:?} is not in {said:?}");
    }
}
