//! When the dead are collected: between two batches, in bounded work that keeps up with what comes.
//!
//! A connection past its deadline is dead at once (`find_live` removes it when it is met); the
//! wheel finds those that nobody meets any more. A worker calls `keep_up` after a batch and `age`
//! between two; what one call leaves the next ones find.

use super::Conntrack;
use super::expire::ticks;
use super::wheel::RANKS;
use crate::clock::Now;

/// Connections made since the last collection that call for the next.
const KEEP_UP_AFTER: u64 = 16;

/// Steps of one `age`, at some 100 cycles each: for what is there, and for what is new.
const AGE_STEPS_MIN: usize = 32;
const AGE_STEPS_MAX: u64 = 1024;

impl Conntrack {
    /// Collects after a batch that made many.
    #[inline]
    pub fn keep_up(&mut self, now: Now) {
        if self.stats.created.wrapping_sub(self.aged) >= KEEP_UP_AFTER {
            self.age(now);
        }
    }

    /// Collects dead connections between two batches, in bounded work that keeps up with whatever
    /// comes: two steps for each connection made since the last call (each costs one when it dies,
    /// and now and then one when its life was prolonged), and some for those of before. True:
    /// there is more to do; who is idle calls again before it sleeps.
    pub fn age(&mut self, now: Now) -> bool {
        let tick = ticks(now);
        let fresh = self.stats.created.wrapping_sub(self.aged);
        (self.aged, self.aged_at) = (self.stats.created, tick);
        let budget = AGE_STEPS_MIN + fresh.saturating_mul(2).min(AGE_STEPS_MAX) as usize;
        self.collect(tick, budget, usize::MAX);
        self.wheels.is_behind(tick)
    }

    /// Collects dead connections, in at most `budget` steps. Says how many went.
    pub fn expire(&mut self, now: Now, budget: usize) -> usize {
        self.collect(ticks(now), budget, usize::MAX)
    }

    pub(super) fn collect(&mut self, tick: u64, mut budget: usize, gone_max: usize) -> usize {
        let mut gone = 0;
        for rank in RANKS {
            while gone < gone_max
                && let Some(ix) = self.wheels.take_due(&mut self.table, rank, tick, &mut budget)
            {
                self.bury(ix);
                gone += 1;
            }
        }
        self.stats.expired += gone as u64;
        gone
    }

    /// Whether `expire` has slots before it whose time has come.
    pub fn wheel_behind(&self, now: Now) -> bool {
        self.wheels.is_behind(ticks(now))
    }
}
