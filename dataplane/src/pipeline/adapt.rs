//! Which tiers pay for themselves under the present traffic.
//!
//! A lookup that seldom hits only delays the walk behind it, and an entry that nobody meets again
//! only pushes out one that somebody would. Both are measured over windows of packets:
//!
//! - *Tier 2* is looked up and filled while its hits save more than its probes cost. A probe
//!   costs about a tenth of a short walk (`PROBES_A_WALK`), so what counts is hits times ten
//!   against masks tried. A tier that lost is left alone for a while, then tried again.
//! - *Tier 1* is looked up first (it costs one line that is asked for early) unless tier 2 is
//!   (`first`), but filled for one of `SPARSE` misses only while few of its entries are met again.
//!
//! The outcome of a packet never depends on any of this, only its cost.

/// Packets that missed tier 1 to a window.
const WINDOW: u32 = 4096;
/// Windows that a tier which did not pay is left alone; doubled each time, up to the second.
const REST: u32 = 4;
const REST_MAX: u32 = 256;
/// Masks that may be tried for the price of one walk.
const PROBES_A_WALK: u32 = 10;
/// Of misses, one in so many makes an entry of tier 1 when entries are seldom met again.
const SPARSE: u32 = 16;
/// Hits for each insertion below which entries are seldom met again, in quarters.
const REUSE_QUARTERS: u32 = 1;

/// What was measured, and what follows from it.
#[derive(Debug)]
pub struct Adapt {
    /// Packets that missed tier 1 in this window.
    misses: u32,
    hits1: u32,
    inserts1: u32,
    probes2: u32,
    hits2: u32,
    sparse: bool,
    /// Windows left until tier 2 is tried again; 0: it is in use.
    resting: u32,
    rest: u32,
    tick: u32,
}

impl Default for Adapt {
    fn default() -> Self {
        Self {
            misses: 0,
            hits1: 0,
            inserts1: 0,
            probes2: 0,
            hits2: 0,
            sparse: false,
            resting: 0,
            rest: REST,
            tick: 0,
        }
    }
}

impl Adapt {
    /// Whether tier 2 is in use.
    #[inline]
    pub fn uses_tier2(&self) -> bool {
        self.resting == 0
    }

    /// Whether this miss shall make an entry of tier 1.
    #[inline]
    pub fn keeps_tier1(&mut self) -> bool {
        self.tick = self.tick.wrapping_add(1);
        let keeps = !self.sparse || self.tick.is_multiple_of(SPARSE);
        self.inserts1 += u32::from(keeps);
        keeps
    }

    /// A batch had so many hits of tier 1.
    #[inline]
    pub fn tier1_hits(&mut self, n: u32) {
        self.hits1 = self.hits1.saturating_add(n);
    }

    /// A lookup of tier 2 tried so many masks.
    #[inline]
    pub fn tier2_lookup(&mut self, tried: usize, hit: bool) {
        self.probes2 = self.probes2.saturating_add(tried as u32);
        self.hits2 += u32::from(hit);
    }

    /// A packet missed tier 1. True: a window is over and was judged.
    #[inline]
    pub fn missed(&mut self) -> bool {
        self.misses += 1;
        self.misses >= WINDOW && self.judge()
    }

    #[cold]
    fn judge(&mut self) -> bool {
        self.sparse = self.hits1 < self.inserts1 / 4 * REUSE_QUARTERS;
        if self.resting > 0 {
            self.resting -= 1;
        } else if self.hits2.saturating_mul(PROBES_A_WALK) < self.probes2 {
            self.resting = self.rest;
            self.rest = (self.rest * 2).min(REST_MAX);
        } else {
            self.rest = REST;
        }
        (self.misses, self.hits1, self.inserts1) = (0, 0, 0);
        (self.probes2, self.hits2) = (0, 0);
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A window of misses in which tier 2 is asked as long as it is in use.
    fn window(a: &mut Adapt, tried: usize, hit: bool) -> u32 {
        let mut asked = 0;
        loop {
            if a.uses_tier2() {
                asked += 1;
                a.tier2_lookup(tried, hit);
            }
            if a.missed() {
                return asked;
            }
        }
    }

    #[test]
    fn a_tier_that_pays_stays() {
        let mut a = Adapt::default();
        (0..50).for_each(|_| assert_eq!(window(&mut a, 9, true), WINDOW));
    }

    #[test]
    fn a_tier_that_does_not_pay_rests_ever_longer_and_comes_back() {
        let mut a = Adapt::default();
        let asked: u32 = (0..200).map(|_| u32::from(window(&mut a, 32, false) > 0)).sum();
        assert!((2..12).contains(&asked), "{asked} windows of 200");
        while !a.uses_tier2() {
            window(&mut a, 1, true);
        }
        assert_eq!(window(&mut a, 1, true), WINDOW);
    }

    #[test]
    fn entries_that_nobody_meets_again_are_made_seldom() {
        let mut a = Adapt::default();
        let made = |a: &mut Adapt| {
            let mut made = 0;
            loop {
                made += u32::from(a.keeps_tier1());
                if a.missed() {
                    return made;
                }
            }
        };
        assert_eq!(made(&mut a), WINDOW);
        assert_eq!(made(&mut a), WINDOW / SPARSE);
        a.tier1_hits(WINDOW);
        made(&mut a);
        assert_eq!(made(&mut a), WINDOW, "they are met again");
    }
}
