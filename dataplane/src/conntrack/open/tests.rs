//! The road of common openings comes to what the general one comes to.

use crate::clock::Now;
use crate::conntrack::audit::Audit;
use crate::conntrack::nat::NarrowRewrite;
use crate::conntrack::pass::Plain;
use crate::conntrack::{
    Commit, Conntrack, CtConfig, CtError, CtPacket, CtZoneConfig, Guess, Judged, Narrow, NatKind,
    NatMode, NatSpec, Segment, ZoneCounts,
};
use proptest::prelude::*;
use std::sync::Arc;

/// One step of a life.
#[derive(Clone, Copy, Debug)]
enum Step {
    /// A packet of a tuple, in a direction, with a commit of this number.
    Packet {
        src: u8,
        dst: u8,
        sport: u8,
        tcp: bool,
        reply: bool,
        commit: u8,
    },
    /// Seconds pass.
    Wait(u8),
    Flush(u8),
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let packet = (0u8..3, 0u8..2, 0u8..8, any::<bool>(), any::<bool>(), 0u8..8).prop_map(
        |(src, dst, sport, tcp, reply, commit)| Step::Packet {
            src,
            dst,
            sport,
            tcp,
            reply: reply && commit % 2 == 0,
            commit,
        },
    );
    let step = prop_oneof![
        30 => packet,
        2 => (1u8..40).prop_map(Step::Wait),
        1 => (0u8..3).prop_map(Step::Flush),
    ];
    prop::collection::vec(step, 1..200)
}

fn commits() -> [Commit; 8] {
    let spec = |kind, ports, mode, (addr_min, addr_max)| Commit {
        nat: Some(NatSpec { kind, v6: false, addr_min, addr_max, ports, mode }),
        ..Commit::default()
    };
    let (hash, out) = (NatMode::Hash, (700, 702));
    let marked = Commit { mark: Some((7, 0xff)), label: Some((9, 15)), ..Commit::default() };
    [
        Commit::default(),
        marked,
        spec(NatKind::Src, None, hash, out),
        spec(NatKind::Src, Some((4000, 4003)), hash, (700, 700)),
        spec(NatKind::Src, Some((5000, 5003)), NatMode::Persistent, out),
        spec(NatKind::Src, None, NatMode::Random, out),
        spec(NatKind::Dst, None, hash, (0x200, 0x201)),
        spec(NatKind::Dst, Some((80, 82)), hash, (0x200, 0x200)),
    ]
}

fn table(seed: u64, conns_max: usize) -> Conntrack {
    let zones = vec![CtZoneConfig { zone: 1, limit: Some(9), timeouts_s: None }];
    let zone_counts = Some(Arc::new(ZoneCounts::default()));
    Conntrack::new(&CtConfig { conns_max, seed, zones, zone_counts, ..CtConfig::default() })
}

/// The roads to a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Road {
    General,
    Words,
    OneGo,
}

/// The packet's header of layer 4, without ports: only its flags and lengths are looked at.
fn segment_bytes(n: &Narrow, seg: &Segment) -> Vec<u8> {
    if n.is_udp() {
        return vec![0, 0, 0, 0, 0, 8, 1, 1];
    }
    let mut b = vec![0; 20];
    (b[12], b[13]) = (5 << 4, seg.flags);
    b
}

/// Looks a packet up, and opens its connection if it is to have one: by this road if that will have
/// it. Says whether it had, and what came of it.
fn play(
    ct: &mut Conntrack,
    p: &(Narrow, Segment, u16),
    c: &Commit,
    now: Now,
    road: Road,
) -> (bool, Result<(), CtError>) {
    if road == Road::OneGo {
        let (ip, l4) = ([0; 20], segment_bytes(&p.0, &p.1));
        let plain = Plain { narrow: p.0, ip: &ip, l4: &l4, checksums_good: true };
        match ct.open_plain(&plain, (p.2, ct.hash_of_narrow(&p.0, p.2)), c, now) {
            Ok(None) => {}
            Ok(Some((guess, rewrite))) => {
                assert_is_at(ct, p, (guess, rewrite), now);
                return (true, Ok(()));
            }
            Err(e) => return (true, Err(e)),
        }
    }
    let packet = CtPacket::of_narrow(&p.0, &p.1, p.2);
    let mut j: Judged = ct.judge(&packet, ct.hash_of(&packet), now);
    ct.accept(&j, now);
    if !j.is_stranger() {
        return (false, Ok(()));
    }
    if road == Road::Words {
        match ct.open_narrow((&p.0, &p.1, p.2), &mut j, c, now) {
            Ok(false) => {}
            done => return (true, done.map(|_| ())),
        }
    }
    (false, ct.open(&packet, &mut j, c, now))
}

/// What was opened in one go is what is found.
fn assert_is_at(
    ct: &Conntrack,
    p: &(Narrow, Segment, u16),
    (guess, rewrite): (Guess, Option<NarrowRewrite>),
    now: Now,
) {
    let packet = CtPacket::of_narrow(&p.0, &p.1, p.2);
    let judged = ct.judge(&packet, ct.hash_of(&packet), now);
    assert_eq!((judged.guess(), ct.narrow_translation_of(&judged)), (guess, rewrite));
}

fn everything(ct: &Conntrack, now: Now) -> (Vec<String>, String) {
    let mut list = Vec::new();
    ct.dump(now, |c| list.push(format!("{c:?}")));
    list.sort_unstable();
    (list, format!("{:?}", ct.stats()))
}

/// Says how many connections were opened in words, and in one go.
fn live(seed: u64, conns_max: usize, steps: &[Step]) -> [usize; 2] {
    let mut all = [0; 3].map(|_| table(seed, conns_max));
    let (mut now, mut opened) = (Now::from_secs(10), [0; 2]);
    let commits = commits();
    for step in steps {
        match *step {
            Step::Wait(s) => {
                now = now.plus_ms(u64::from(s) * 1000);
                all.iter_mut().for_each(|ct| _ = ct.age(now));
            }
            Step::Flush(zone) => {
                all.iter_mut().for_each(|ct| _ = ct.flush(now, |c| c.zone == u16::from(zone)));
            }
            Step::Packet { src, dst, sport, tcp, reply, commit } => {
                let n = Narrow {
                    addresses: ((u64::from(src) + 0x100) << 32) | (0x200 + u64::from(dst)),
                    ports: ((4000 + u32::from(sport)) << 16) | 80,
                    proto: if tcp { 6 } else { 17 },
                };
                let n = if reply { n.reversed() } else { n };
                let seg = Segment { flags: if tcp { 2 } else { 0 }, ..Segment::default() };
                let p = (n, seg, u16::from(commit % 2));
                let c = &commits[usize::from(commit)];
                let (_, wanted) = play(&mut all[0], &p, c, now, Road::General);
                for (n, road) in [Road::Words, Road::OneGo].into_iter().enumerate() {
                    let (done, outcome) = play(&mut all[1 + n], &p, c, now, road);
                    assert_eq!(outcome, wanted, "{road:?}");
                    opened[n] += usize::from(done);
                }
            }
        }
        let [general, words, one_go] = all.each_ref().map(|ct| everything(ct, now));
        assert_eq!(general, words);
        assert_eq!(general, one_go);
    }
    let [general, words, one_go] = all.each_ref().map(|ct| Audit::of(&[ct], now));
    assert!(words.findings.is_empty(), "{:?}", words.findings);
    assert_eq!(general, words);
    assert_eq!(general, one_go);
    opened
}

proptest! {
    #![proptest_config(ProptestConfig {
        failure_persistence: None, ..ProptestConfig::with_cases(60)
    })]
    #[test]
    fn openings_in_words_are_openings(seed: u64, conns_max in 4usize..40, steps in steps()) {
        live(seed, conns_max, &steps);
    }
}

/// And it is not always left to the other.
#[test]
fn most_are_opened_in_words() {
    let steps: Vec<Step> = (0..240u8)
        .map(|n| Step::Packet {
            src: n % 3,
            dst: n / 3 % 2,
            sport: n / 6 % 8,
            tcp: n % 2 == 0,
            reply: false,
            commit: n % 5,
        })
        .collect();
    let opened = live(3, 300, &steps);
    assert!(opened[0] > 30 && opened[1] == opened[0], "{opened:?} in words, and in one go");
}

/// A table full of answered connections refuses by both roads, counts it once, and has as many of
/// the zone as before.
#[test]
fn a_full_table_refuses_in_words_as_well() {
    let packet =
        |sport, dst, reply| Step::Packet { src: 0, dst, sport, tcp: false, reply, commit: 0 };
    let mut steps: Vec<Step> =
        (0..8).flat_map(|n| [packet(n, 0, false), packet(n, 0, true)]).collect();
    steps.extend((0..8).map(|n| packet(n, 1, false)));
    assert_eq!(live(3, 8, &steps), [16; 2], "eight are opened, eight are refused");
}
