//! Nobody can tell whether there is a cache.
//!
//! Random programs, random packets, answers to what was sent, damaged packets, time that passes,
//! programs that change: after each batch the lane with a cache of a few entries and the lane
//! without have sent the same bytes; and now and then all else that can be seen is compared.

use crate::chance::{Chance, answer, damage, look_behind, net, packet};
use crate::changes::Book;
use crate::kit::*;
use proptest::prelude::*;

const BATCHES: u32 = 60;

/// `behind`: flows look at packets behind translations more often than by chance alone.
fn live(seed: u64, behind: bool) -> (u64, u64) {
    let mut c = Chance(seed);
    let mut first = net(&mut c);
    if behind {
        look_behind(&mut first, &mut Chance(!seed));
    }
    let mut s = Switch::sized(&first, c.of(&[2, 8, 64]), 512);
    let mut book = Book::new(&first);
    let mut recent: Vec<(u16, Vec<u8>)> = vec![packet(&mut c)];
    for _ in 0..BATCHES {
        match c.below(40) {
            0 => {
                let next = net(&mut c);
                s.program(&next);
                book = Book::new(&next);
            }
            1 => s.wait(c.of(&[31_000, 61_000, 301_000, 86_400_000])),
            2..=5 => s.wait(c.of(&[1, 300, 5_000])),
            6 => s.housekeep(),
            7..=14 => book.change(&mut c, &mut s),
            _ => {}
        }
        let port = c.of(&recent).0;
        let mut packets = Vec::new();
        for _ in 0..1 + c.below(8) {
            let (_, mut p) = if c.one_in(3) { packet(&mut c) } else { c.of(&recent) };
            if c.one_in(5) && !p.is_empty() {
                // The next packet of a megaflow, or of another.
                let at = c.below(p.len().min(60) as u64) as usize;
                p[at] ^= 1 << c.below(8);
            }
            if c.one_in(15) {
                damage(&mut c, &mut p);
            }
            packets.push(p);
        }
        let (look, headroom) = (c.one_in(6), c.one_in(20).then(|| c.below(60) as u16));
        let sent = s.batch_seen(port, &packets, headroom, look);
        for (port, bytes) in sent.into_iter().take(4) {
            recent.extend(answer(&mut c, &bytes).map(|a| (port, a)));
        }
        recent.push(packet(&mut c));
        recent.extend(packets.into_iter().take(2).map(|p| (port, p)));
        if c.one_in(2) {
            book.learn(&mut s);
        }
        let old = recent.len().saturating_sub(12);
        recent.drain(..old);
    }
    s.see();
    (s.hits(), s.mega_hits())
}

proptest! {
    #![proptest_config(ProptestConfig {
        failure_persistence: None,
        cases: lives(200),
        max_shrink_iters: 0,
        ..ProptestConfig::default()
    })]
    #[test]
    fn caches_are_invisible(seed: u64, behind: bool) {
        // Panics print what differs; proptest prints the seed.
        live(seed, behind);
    }
}

#[test]
fn one_life_again() {
    again(|seed| [false, true].map(|behind| live(seed, behind)));
}

/// Lives that found flaws: a walk that ended in an error forgot what it had looked at of its
/// connections; a bucket's end did not say that the packet was no longer translated.
#[test]
fn lives_that_found_flaws() {
    for seed in [
        16_064_325_082_651_530_671,
        521_006_053_912_619_740,
        445_080_985_666_559_040,
        5_414_650_926_823_542_108,
    ] {
        live(seed, false);
    }
}

#[test]
fn the_random_life_does_hit_the_cache() {
    let (hits, megas) = (0..20)
        .map(|n| live(n, n % 2 == 1))
        .fold((0, 0), |(a, b), (hits, megas)| (a + hits, b + megas));
    assert!(hits > 200 && megas > 200, "{hits} and {megas} hits in 20 lives prove little");
}
