//! Which tier is asked first.
//!
//! Tier 1 finds a walk by one line, which is near as long as the flows are few. Each of many flows
//! has a line of its own, far away: then tier 2 finds the walk cheaper, if it has few megaflows,
//! all of them near, under one or two masks. Both are measured:
//!
//! - *How many flows.* One of `SAMPLED` batches sets a bit of a sketch for each packet, by its
//!   flow's hash. From the bits that are set after a window follows how many different flows were
//!   met (linear counting: K. Whang et al., "A linear-time probabilistic counting algorithm for
//!   database applications", 1990); `MANY` of the packets sampled being of flows met once means
//!   some 60 k flows that come by turns, `FEW` some 27 k. Where connection tracking is asked, that
//!   is not enough: an entry of tier 1 knows its connection, which tier 2 has to look for, in a
//!   line of its index. Then a good part of the packets must miss tier 1, too: a miss costs some
//!   eight times what a hit saves. And where tier 1 has room, not in one window only: flows that
//!   all are new, or whose entries all have gone with a change of rules, miss once and no more.
//! - *What tier 2 could do.* If there were many flows in the last window, the sampled batches are
//!   looked up in tier 2 as well, for the count of masks tried and of hits.
//!
//! What misses tier 1 is not known while tier 2 is first, and the time in which a table of
//! connections is set up, or flooded, tells little of the time after it. So where connections are
//! tracked tier 1 has its turn again after `TRIAL` windows, then `LOOK` to be filled and met again;
//! each time that this was in vain, the next turn comes after twice as many windows. If tier 1 is
//! full and still misses, there are more flows than it holds: its turn ends, and the next one comes
//! after `TRIAL_FULL` times as many.
//!
//! While tier 2 is first, nothing enters tier 1 that tier 2 has, and packets that tier 2 does not
//! have are looked up in tier 1 as ever. Both the bits and the hits go on being counted, and
//! `missed` ends it early. The outcome of a packet never depends on this.
//!
//! Batches that are taken for crowds of first packets (`crowd`) are left out of all this.

use super::crowd::Crowds;

/// One batch in so many is looked at.
const SAMPLED: u32 = 64;
/// Sampled packets to a window.
const WINDOW: u32 = 16_384;
/// Words of the sketch, and its bits.
const WORDS: usize = 512;
const BITS: u32 = 64 * WORDS as u32;
/// Different flows to a window's packets: from that on there are many; below that there are not.
const MANY: f64 = 7.0 / 8.0;
const FEW: f64 = 3.0 / 4.0;
/// Megaflows that are near together: a line each.
const NEAR: usize = 2048;
/// Windows that tier 2 is not put first after it did badly; doubled each time, up to the second.
const REST: u32 = 4;
const REST_MAX: u32 = 1024;
/// Windows that tier 2 is first where connections are tracked; doubled each time, up to the second.
const TRIAL: u32 = 2;
const TRIAL_MAX: u32 = 1024;
/// Windows that tier 1 has then.
const LOOK: u32 = 4;
/// A trial is so many times as long if tier 1 was full.
const TRIAL_FULL: u32 = 8;
/// One packet in so many may miss tier 1 where connections are tracked and it is first.
const MISSES_OF: u32 = 8;
/// Windows in a row in which more do, while it is not full, before tier 2 has a trial.
const LASTING: u32 = 2;

/// Which tier is asked first.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum First {
    /// What pays under the present traffic.
    #[default]
    Measured,
    /// Always tier 2.
    Tier2,
    /// The same, and every batch is taken for a crowd of first packets.
    Crowds,
}

/// What was measured, and what follows from it.
#[derive(Debug)]
pub(super) struct Choice {
    first: First,
    tier2: bool,
    /// Batches until the next that is looked at.
    until: u32,
    sketch: Box<[u64; WORDS]>,
    packets: u32,
    /// Lookups of tier 2, masks that they tried, and hits.
    lookups: u32,
    tried: u32,
    hits: u32,
    /// Sampled packets of which connection tracking was asked.
    tracked: u32,
    /// Sampled packets that tier 1 did not have.
    missed: u32,
    /// There were many flows in the last window.
    many: bool,
    /// Windows left until tier 2 may be first again.
    resting: u32,
    rest: u32,
    /// Windows left until tier 1 has its turn again, and of the next trial.
    trial: u32,
    next_trial: u32,
    /// Tier 1 has its turn after one.
    looking: bool,
    /// Windows in a row in which too many packets missed tier 1.
    lasted: u32,
    pub crowds: Crowds,
}

impl Choice {
    pub fn new(first: First) -> Self {
        Self {
            first,
            tier2: first != First::Measured,
            until: SAMPLED,
            sketch: Box::new([0; WORDS]),
            packets: 0,
            lookups: 0,
            tried: 0,
            hits: 0,
            tracked: 0,
            missed: 0,
            many: false,
            resting: 0,
            rest: REST,
            trial: 0,
            next_trial: TRIAL,
            looking: false,
            lasted: 0,
            crowds: Crowds::new(first == First::Crowds),
        }
    }

    /// Whether tier 2 is asked first, of the batch in hand.
    #[inline]
    pub fn is_tier2(&self) -> bool {
        self.tier2 || self.crowds.is_expected()
    }

    /// Whether the batch in hand is one to look at. What is taken for a crowd tells nothing.
    #[inline]
    pub fn samples(&mut self) -> bool {
        self.until -= 1;
        if self.until == 0 {
            self.until = SAMPLED;
        }
        self.until == SAMPLED && !self.crowds.is_expected()
    }

    /// Whether sampled batches should be looked up in tier 2 though tier 1 is first.
    pub fn probes(&self) -> bool {
        self.many && !self.tier2 && self.resting == 0
    }

    /// A lookup of tier 2 tried so many masks.
    #[inline]
    pub fn looked_up(&mut self, tried: usize, hit: bool) {
        if self.crowds.is_expected() {
            return;
        }
        self.lookups += 1;
        self.tried += tried as u32;
        self.hits += u32::from(hit);
    }

    /// So many packets were served by what was tried for them first.
    #[inline]
    pub fn served_at_once(&mut self, packets: u32) {
        if !self.crowds.is_expected() {
            self.lookups += packets;
            self.tried += packets;
            self.hits += packets;
        }
    }

    /// A sampled packet, by its flow's hash, and whether connection tracking is asked of it.
    #[inline]
    pub fn met(&mut self, hash: u32, is_tracked: bool) {
        self.tracked += u32::from(is_tracked);
        let bit = hash.wrapping_mul(0x9e37_79b1) >> (u32::BITS - BITS.trailing_zeros());
        if let Some(word) = self.sketch.get_mut(bit as usize / 64) {
            *word |= 1 << (bit % 64);
        }
        self.packets += 1;
    }

    /// A sampled batch is over: so many of its packets tier 1 did not have, which is full or not,
    /// there are so many megaflows, and tier 2 is in use or not.
    pub fn sampled(&mut self, (missed, full): (usize, bool), megaflows: usize, in_use: bool) {
        self.missed += missed as u32;
        if self.packets < WINDOW {
            return;
        }
        let different = self.different() / f64::from(self.packets);
        let is_tracked = 2 * self.tracked >= self.packets;
        let fit = is_tracked && MISSES_OF * self.missed <= self.packets;
        let too_many = full && 4 * self.missed > self.packets;
        self.many = different >= MANY && !fit;
        self.lasted = if is_tracked && !fit { self.lasted.saturating_add(1) } else { 0 };
        let lasts = !is_tracked || full || self.lasted >= LASTING;
        self.resting = self.resting.saturating_sub(1);
        if self.first == First::Measured {
            let near = in_use && megaflows <= NEAR;
            if self.tier2 {
                self.tier2 = near && different >= FEW;
                if !self.hits_of(8) || self.tried > 4 * self.lookups {
                    self.leave();
                } else if self.tier2 {
                    self.rest = REST;
                    self.try_on(is_tracked);
                }
            } else if near && self.looking && too_many {
                self.begin_trial(full);
            } else if near && self.many && lasts && self.resting == 0 && self.lookups > 0 {
                if self.hits_of(16) && 2 * self.tried <= 5 * self.lookups {
                    self.begin_trial(full);
                }
            } else if fit && self.resting == 0 {
                self.next_trial = TRIAL;
            }
        }
        self.sketch.fill(0);
        (self.packets, self.lookups, self.tried) = (0, 0, 0);
        (self.hits, self.tracked, self.missed) = (0, 0, 0);
    }

    /// Tier 2 is first.
    fn begin_trial(&mut self, full: bool) {
        let times = if full { TRIAL_FULL } else { 1 };
        (self.tier2, self.looking, self.resting) = (true, false, 0);
        self.trial = (self.next_trial * times).min(TRIAL_MAX);
        self.next_trial = (self.trial * 2).min(TRIAL_MAX);
    }

    /// Another window with tier 2 first. It may have been the last of the trial.
    fn try_on(&mut self, is_tracked: bool) {
        if !is_tracked {
            return;
        }
        self.trial = self.trial.saturating_sub(1);
        if self.trial == 0 {
            (self.tier2, self.looking) = (false, true);
            self.resting = LOOK;
        }
    }

    /// Whether at most one lookup in so many missed.
    fn hits_of(&self, one_in: u32) -> bool {
        (self.lookups - self.hits).saturating_mul(one_in) <= self.lookups
    }

    /// Thousands of packets missed both tiers since this was asked last. Tier 2 is not first any
    /// longer if they are a good part of all.
    pub fn missed(&mut self) {
        if self.tier2 && self.first == First::Measured && !self.hits_of(8) {
            self.leave();
        }
    }

    fn leave(&mut self) {
        self.tier2 = false;
        self.resting = self.rest;
        self.rest = (self.rest * 2).min(REST_MAX);
    }

    /// Different flows that the sketch stands for.
    fn different(&self) -> f64 {
        let set: u32 = self.sketch.iter().map(|w| w.count_ones()).sum();
        let bits = f64::from(BITS);
        -bits * (1.0 - f64::from(set.min(BITS - 1)) / bits).ln()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Windows of packets of so many flows, in turn by a stride; with lookups of tier 2 where they
    /// are made, which try `tried` masks, and hit or do not.
    fn windows(c: &mut Choice, n: u32, flows: u32, megaflows: usize, tried: usize, hit: bool) {
        tracked_windows(c, n, (flows, false, 0), (megaflows, tried, hit));
    }

    fn tracked_windows(
        c: &mut Choice,
        n: u32,
        (flows, is_tracked, missed): (u32, bool, usize),
        (megaflows, tried, hit): (usize, usize, bool),
    ) {
        windows_of(c, n, (flows, is_tracked, (missed, false)), (megaflows, tried, hit));
    }

    fn windows_of(
        c: &mut Choice,
        n: u32,
        (flows, is_tracked, missed): (u32, bool, (usize, bool)),
        (megaflows, tried, hit): (usize, usize, bool),
    ) {
        let mut at = 0u32;
        for _ in 0..n * (WINDOW / 32) * SAMPLED {
            let looks = c.samples();
            for _ in 0..32 {
                at = (at + 618_033) % flows;
                if looks {
                    c.met(at.wrapping_mul(0x85eb_ca6b) ^ at >> 3, is_tracked);
                }
                if c.is_tier2() || looks && c.probes() {
                    c.looked_up(tried, hit);
                }
            }
            if looks {
                c.sampled(missed, megaflows, true);
            }
        }
    }

    #[test]
    fn many_flows_under_few_megaflows_go_to_tier_2_and_few_flows_back() {
        let mut c = Choice::new(First::Measured);
        windows(&mut c, 4, 1000, 10, 1, true);
        assert!(!c.is_tier2(), "few flows");
        windows(&mut c, 4, 1_000_003, 10, 2, true);
        assert!(c.is_tier2());
        windows(&mut c, 2, 1000, 10, 2, true);
        assert!(!c.is_tier2());
    }

    #[test]
    fn tracked_flows_stay_in_tier_1_as_long_as_it_has_them() {
        let mut c = Choice::new(First::Measured);
        tracked_windows(&mut c, 4, (1_000_003, true, 4), (10, 1, true));
        assert!(!c.is_tier2());
        tracked_windows(&mut c, 3, (1_000_003, true, 5), (10, 1, true));
        assert!(c.is_tier2(), "many miss");
        tracked_windows(&mut c, 4, (1000, true, 0), (10, 1, true));
        assert!(!c.is_tier2(), "few flows");
    }

    /// Entries are made, or made anew.
    #[test]
    fn one_window_of_misses_is_no_reason_for_a_trial() {
        let mut c = Choice::new(First::Measured);
        // What misses tier 1 is looked up in tier 2.
        let mut misses = |n| {
            (0..WINDOW).for_each(|_| c.looked_up(1, true));
            tracked_windows(&mut c, n, (1_000_003, true, 12), (10, 1, true));
            let begins = c.is_tier2();
            tracked_windows(&mut c, 1, (1_000_003, true, 0), (10, 1, true));
            begins
        };
        assert!((0..5).all(|_| !misses(1)));
        assert!(misses(2));
    }

    /// What was so while connections were set up need not be so after.
    #[test]
    fn tier_1_has_its_turn_again_where_connections_are_tracked() {
        let mut c = Choice::new(First::Measured);
        let mut turns = |missed, n| {
            (0..n)
                .filter(|_| {
                    let missed = if c.is_tier2() { 0 } else { missed };
                    tracked_windows(&mut c, 1, (1_000_003, true, missed), (10, 1, true));
                    c.is_tier2()
                })
                .count()
        };
        let all = turns(32, 150);
        assert!((116..=130).contains(&all), "in vain: {all} of 150");
        assert!(turns(0, 140) < 135, "in the end");
        assert_eq!(turns(0, 20), 0, "it has them all");
        let again = turns(32, 12);
        assert!((3..=7).contains(&again), "and a short trial again: {again} of 12");
        let mut c = Choice::new(First::Measured);
        windows(&mut c, 2, 1_000_003, 10, 1, true);
        for _ in 0..20 {
            assert!(c.is_tier2(), "not tracked");
            windows(&mut c, 1, 1_000_003, 10, 1, true);
        }
    }

    /// A table of a million entries and two million flows.
    #[test]
    fn a_full_tier_1_that_misses_has_few_and_short_turns() {
        let mut c = Choice::new(First::Measured);
        let mut turns = |n| -> u32 {
            let mut one = || {
                windows_of(&mut c, 1, (1_000_003, true, (12, true)), (10, 1, true));
                u32::from(!c.is_tier2())
            };
            (0..n).map(|_| one()).sum()
        };
        assert_eq!(turns(2), 1, "it is tried, and tier 2 is looked up beside");
        assert_eq!(turns(15), 0);
        assert_eq!(turns(1 + 200), 1, "a turn of one window, then none for long");
    }

    #[test]
    fn many_masks_or_megaflows_or_misses_keep_tier_1_first() {
        for (megaflows, tried, hit) in [(10, 5, true), (100_000, 1, true), (10, 1, false)] {
            let mut c = Choice::new(First::Measured);
            windows(&mut c, 6, 1_000_003, megaflows, tried, hit);
            assert!(!c.is_tier2(), "{megaflows} megaflows, {tried} masks, hit: {hit}");
        }
    }

    #[test]
    fn what_went_badly_is_tried_ever_less_often() {
        let mut c = Choice::new(First::Measured);
        let mut times = 0;
        for _ in 0..100 {
            windows(&mut c, 1, 1_000_003, 10, 1, true);
            if c.is_tier2() {
                times += 1;
                windows(&mut c, 1, 1_000_003, 10, 1, false);
                assert!(!c.is_tier2());
            }
        }
        assert!((2..=6).contains(&times), "{times} times");
        let mut c = Choice::new(First::Measured);
        windows(&mut c, 3, 1_000_003, 10, 1, true);
        (0..8000).for_each(|n| c.looked_up(1, n > 999));
        c.missed();
        assert!(c.is_tier2(), "few of all");
        (0..WINDOW * SAMPLED).for_each(|_| c.looked_up(1, false));
        c.missed();
        assert!(!c.is_tier2());
    }

    #[test]
    fn what_is_told_stays() {
        let mut c = Choice::new(First::Tier2);
        windows(&mut c, 3, 10, 1_000_000, 30, false);
        c.missed();
        assert!(c.is_tier2());
    }
}
