//! `--fresh-turns`: fresh packets stay away for some time, come for as long, and so on.
//!
//! What they cost the others is a small difference between two costs. Two runs differ by more: in
//! the processor's clock, in what else the machine does, in where their memory lies. Two turns of
//! some milliseconds one after the other in one run have all this in common, so each pair of them
//! gives a ratio of its own, and the median of many pairs is steady.
//!
//! Turns do not tell what fresh packets leave behind that costs the others later (a fuller table,
//! caches with more in them): that is in both. A run that never had any tells it.

use serde::Serialize;
use sluice_dataplane::clock::Now;
use std::fmt;

/// Pairs of turns that are kept.
const PAIRS_MAX: usize = 1 << 16;

/// Costs in nanoseconds for each packet that is not fresh.
#[derive(Clone, Copy, Debug)]
struct Pair {
    without: f64,
    with: f64,
}

#[derive(Debug)]
pub(super) struct Turns {
    length_ns: u64,
    have_fresh: bool,
    /// When this turn began, and packets since that are not fresh.
    began: Option<u64>,
    others: u64,
    /// Of the turn before, if that was one without.
    without: Option<f64>,
    pairs: Vec<Pair>,
}

impl Turns {
    /// For a bench of so many seconds.
    pub fn new(length_ms: u64, seconds: f64) -> Self {
        let length_ns = length_ms * 1_000_000;
        // All room at once: nothing is allocated while we measure.
        let room = (seconds * 1e9) as usize / (2 * length_ns).max(1) as usize + 1;
        let pairs = Vec::with_capacity(room.min(PAIRS_MAX));
        Self { length_ns, have_fresh: false, began: None, others: 0, without: None, pairs }
    }

    /// Whether fresh packets come in this turn.
    pub fn have_fresh(&self) -> bool {
        self.have_fresh
    }

    /// A burst of so many packets that are not fresh came at this time, and is done.
    #[inline]
    pub fn note(&mut self, came: Now, others: u64) {
        let began = *self.began.get_or_insert(came.ns);
        let lasted = came.ns.saturating_sub(began);
        if lasted >= self.length_ns && self.others > 0 {
            self.end(lasted as f64 / self.others as f64);
            (self.began, self.others) = (Some(came.ns), 0);
        }
        self.others += others;
    }

    fn end(&mut self, cost: f64) {
        match self.without.take().filter(|_| self.have_fresh) {
            Some(without) if self.pairs.len() < self.pairs.capacity() => {
                self.pairs.push(Pair { without, with: cost });
            }
            _ => {}
        }
        self.without = Some(cost).filter(|_| !self.have_fresh);
        self.have_fresh = !self.have_fresh;
    }

    /// `None` if the time was too short for a pair.
    pub fn report(&self) -> Option<TurnsReport> {
        let sorted = |f: fn(&Pair) -> f64| {
            let mut all: Vec<f64> = self.pairs.iter().map(f).collect();
            all.sort_by(f64::total_cmp);
            all
        };
        let at =
            |all: &[f64], percent| all.get((all.len().checked_sub(1)?) * percent / 100).copied();
        let ratios = sorted(|p| p.without / p.with);
        Some(TurnsReport {
            pairs: self.pairs.len(),
            without_ns: at(&sorted(|p| p.without), 50)?,
            with_ns: at(&sorted(|p| p.with), 50)?,
            ratio: at(&ratios, 50)?,
            ratio_p5: at(&ratios, 5)?,
            ratio_p95: at(&ratios, 95)?,
        })
    }
}

/// Turns without fresh packets against turns with them; costs are of a packet that is not fresh.
#[derive(Clone, Copy, Debug, Serialize)]
pub struct TurnsReport {
    pub pairs: usize,
    /// Medians.
    pub without_ns: f64,
    pub with_ns: f64,
    /// Of each pair the cost without by that with: 1 if fresh packets cost the others nothing.
    pub ratio: f64,
    pub ratio_p5: f64,
    pub ratio_p95: f64,
}

impl fmt::Display for TurnsReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { pairs, without_ns, with_ns, ratio, ratio_p5, ratio_p95 } = self;
        write!(
            f,
            "each of the others {without_ns:.1} ns without fresh ones, {with_ns:.1} ns with: "
        )?;
        write!(f, "{ratio:.3} ({ratio_p5:.3}-{ratio_p95:.3} in nine of ten of {pairs} pairs)")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: u64 = 1_000_000;

    /// Bursts of ten others, `costs` apart, in turns with and without.
    fn play(t: &mut Turns, now: &mut u64, bursts: usize, (without, with): (u64, u64)) {
        for _ in 0..bursts {
            t.note(Now::from_ns(*now), 10);
            *now += if t.have_fresh() { with } else { without };
        }
    }

    #[test]
    fn each_pair_is_a_ratio_and_the_median_is_told() {
        let (mut t, mut now) = (Turns::new(1, 1.0), 7 * MS);
        assert!(!t.have_fresh());
        play(&mut t, &mut now, 10, (100_000, 125_000));
        assert!(t.report().is_none(), "no pair yet");
        play(&mut t, &mut now, 18 * 20, (100_000, 125_000));
        let calm = t.report().unwrap();
        assert!(calm.pairs >= 19, "{calm:?}");
        assert!((calm.ratio - 0.8).abs() < 0.01, "{calm:?}");
        assert_eq!((calm.without_ns, calm.with_ns), (10_000.0, 12_500.0));
        // Somebody took the processor for a while: a pair is wrong, the median is not.
        now += 50 * MS;
        play(&mut t, &mut now, 18, (100_000, 125_000));
        let disturbed = t.report().unwrap();
        assert!((disturbed.ratio - 0.8).abs() < 0.01, "{disturbed:?}");
        assert!(disturbed.ratio_p5 <= disturbed.ratio && disturbed.ratio <= disturbed.ratio_p95);
    }

    #[test]
    fn there_is_room_for_the_time_and_no_more() {
        let (mut t, mut now) = (Turns::new(1, 0.01), 0);
        let room = t.pairs.capacity();
        play(&mut t, &mut now, 10_000, (100_000, 100_000));
        assert_eq!((t.pairs.len(), t.pairs.capacity()), (room, room));
        assert!(Turns::new(1, 86_400.0).pairs.capacity() <= PAIRS_MAX);
    }
}
