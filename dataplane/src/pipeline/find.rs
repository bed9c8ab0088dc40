//! The stage that finds each packet's entry of tier 1, and asks for what the entry's hit will read.
//!
//! Homes were asked for when the keys were hashed. What is not at home is asked for in stages as
//! well: all of the batch's, before the first is looked at.

use super::run::{Lane, Tracking, UNHASHED};
use crate::cache::Microflows;
use crate::cache::entry::NONE;
use crate::cache::traversal::{Item, Traversal, Traversals};
use crate::conntrack::{CtPacket, Narrow};
use crate::prefetch::prefetch;

/// The places of the ones in a word.
fn ones(mut word: u64) -> impl Iterator<Item = usize> {
    std::iter::from_fn(move || {
        let at = word.trailing_zeros();
        word &= word.wrapping_sub(1);
        (at < u64::BITS).then_some(at as usize)
    })
}

/// Asks for what an entry's hit reads first.
#[inline]
fn ask_traversal(cache: &Microflows, traversals: &Traversals, at: u32) {
    let Some(entry) = cache.slot(at) else { return };
    if let Some(t) = traversals.get(entry.traversal) {
        prefetch(t);
        if entry.is_long() {
            prefetch(t.rest());
        }
    }
}

impl Lane {
    /// Finds each packet's entry in the tier that is asked first, and asks for its traversal, then
    /// for its connections.
    #[inline]
    pub(super) fn find(&mut self, n: usize) {
        if self.first.is_tier2() {
            (0..n).for_each(|i| self.find_mega(i));
        } else if self.cache_on {
            self.find_micros(n);
        }
        if self.tracks {
            self.find_connections(n);
        }
    }

    /// Counts the flows of this batch, and what tier 2 could do for it. Another tier may be first
    /// from now on, so the batch is over by then: its keys were hashed for the one that was.
    #[cold]
    #[inline(never)]
    pub(super) fn sample(&mut self, n: usize) {
        for slot in self.batch.iter().take(n) {
            self.first.met(self.cache.flow_hash(&slot.key));
            if self.first.probes() {
                let (found, tried) = self.mega.find(&slot.key);
                self.first.looked_up(tried, found.is_some());
            }
        }
        self.first.sampled(self.mega.live(), self.uses_tier2());
    }

    /// Finds a packet's megaflow.
    #[inline]
    pub(super) fn find_mega(&mut self, i: usize) {
        let Some(slot) = self.batch.get_mut(i) else { return };
        let is_common = slot.home == UNHASHED;
        let (found, tried) =
            if is_common { self.mega.find_words(&slot.masked) } else { self.mega.find(&slot.key) };
        self.first.looked_up(tried, found.is_some());
        slot.hit = found.unwrap_or(NONE);
    }

    /// Looks for a packet in tier 1 that tier 2, which was asked first, does not have.
    #[cold]
    #[inline(never)]
    pub(super) fn find_behind(&mut self, i: usize) {
        let Some(slot) = self.batch.get_mut(i) else { return };
        slot.hit = NONE;
        if self.cache_on {
            slot.home = self.cache.hash(&slot.key, &mut slot.masked);
            let found = self.cache.find(slot.home, &slot.key, &slot.masked);
            slot.hit = found.unwrap_or(NONE);
        }
    }

    /// Finds each packet's microflow.
    #[inline]
    fn find_micros(&mut self, n: usize) {
        let mut away = 0u64;
        for (i, slot) in self.batch.iter_mut().take(n).enumerate() {
            if self.cache.is_at(slot.home, &slot.key, &slot.masked) {
                slot.hit = slot.home;
                ask_traversal(&self.cache, &self.traversals, slot.hit);
            } else {
                slot.hit = NONE;
                away |= u64::from(self.cache.ask_elsewhere(slot.home)) << i;
            }
        }
        if away != 0 {
            self.find_away(away);
        }
    }

    /// Finds the entries of these packets of the batch, which may be beside their homes. Not
    /// inlined: few are, and what they need is asked for in stages as well.
    #[inline(never)]
    fn find_away(&mut self, away: u64) {
        let mut rest = 0;
        for i in ones(away) {
            let Some(slot) = self.batch.get_mut(i) else { break };
            if let Some(at) = self.cache.find_elsewhere(slot.home, &slot.key, &slot.masked) {
                slot.hit = at;
                ask_traversal(&self.cache, &self.traversals, at);
            } else if let Some(again) = self.cache.second_home(slot.home, &slot.key) {
                slot.hit = again;
                self.cache.ask_group(again);
                rest |= 1 << i;
            }
        }
        for i in ones(rest) {
            let Some(slot) = self.batch.get_mut(i) else { break };
            let found = self.cache.find_in_group(slot.hit, &slot.key, &slot.masked);
            slot.hit = found.unwrap_or(NONE);
            ask_traversal(&self.cache, &self.traversals, slot.hit);
        }
    }

    /// Hashes what connection tracking will be asked of the batch's packets, and asks for its
    /// memory: the places of the index first, then the connections that they name.
    fn find_connections(&mut self, n: usize) {
        let tier2 = self.first.is_tier2();
        let mut any = false;
        for slot in self.batch.iter_mut().take(n) {
            slot.ct = None;
            let entry = if tier2 { self.mega.get(slot.hit) } else { self.cache.slot(slot.hit) };
            let Some(entry) = entry else { continue };
            let first = self.traversals.get(entry.traversal).and_then(Traversal::first_item);
            if let Some(Item::Ct(t)) = first {
                let hash = match Narrow::of(&slot.key.base) {
                    Some(narrow) => self.conntrack.hash_of_narrow(&narrow, t.zone),
                    None => match CtPacket::tuple_of(&slot.key) {
                        Some(tuple) => self.conntrack.hash_of_tuple(&tuple, t.zone),
                        None => continue,
                    },
                };
                self.conntrack.prefetch_index(hash);
                slot.ct = Some(Tracking { zone: t.zone, hash, guess: None });
                any = true;
            }
        }
        if any {
            for slot in self.batch.iter_mut().take(n) {
                let Some(ct) = &mut slot.ct else { continue };
                ct.guess = self.conntrack.prefetch_guess(ct.hash);
                if ct.guess.is_none()
                    && let Some(tuple) = CtPacket::tuple_of(&slot.key)
                {
                    // It may open a connection, which its replies are to find.
                    let reply = self.conntrack.hash_of_tuple(&tuple.reversed(), ct.zone);
                    self.conntrack.prefetch_index(reply);
                }
            }
        }
    }
}
