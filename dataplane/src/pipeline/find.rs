//! The stage that finds each packet's entry of tier 1, and asks for what the entry's hit will read.
//!
//! Homes were asked for when the keys were hashed. What is not at home is asked for in stages as
//! well: all of the batch's, before the first is looked at.

use super::lane::{Lane, Slot, Tracking, UNHASHED};
use crate::cache::Microflows;
use crate::cache::entry::NONE;
use crate::cache::traversal::{Item, Traversal, Traversals};
use crate::conntrack::{Conntrack, CtPacket, Narrow};
use crate::limits::BATCH_MAX;
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

/// Asks for the connection that the last packet of the entry was of. False: there was none, or the
/// index is needed all the same.
#[inline(always)]
fn ask_known(cache: &Microflows, conntrack: &Conntrack, slot: &mut Slot) -> bool {
    let Some(entry) = cache.slot(slot.hit) else { return true };
    slot.ct = Tracking { hash: None, guess: entry.conn };
    conntrack.prefetch(entry.conn);
    !entry.conn.is_none() && entry.is_one_line()
}

/// The zone in which a traversal asks connection tracking first.
#[inline(always)]
fn first_zone(traversals: &Traversals, traversal: u32) -> Option<u16> {
    match traversals.get(traversal).and_then(Traversal::first_item) {
        Some(Item::Ct(t)) => Some(t.zone),
        _ => None,
    }
}

impl Lane {
    /// Finds each packet's entry in the tier that is asked first, and asks for its traversal, then
    /// for its connections.
    #[inline]
    pub(super) fn find(&mut self, n: usize) {
        if self.first.is_tier2() {
            if self.first.crowds.is_expected() {
                self.batch.iter_mut().take(n).for_each(|slot| slot.hit = NONE);
            } else {
                (0..n).for_each(|i| self.find_mega(i));
            }
            if self.tracks {
                self.find_connections(u64::MAX >> (u64::BITS as usize - n.clamp(1, BATCH_MAX)));
            }
        } else if self.cache_on {
            if self.tracks { self.find_micros::<true>(n) } else { self.find_micros::<false>(n) }
        }
    }

    /// Counts the flows of this batch, of which so many packets missed, and what tier 2 could do
    /// for it. Another tier may be first
    /// from now on, so the batch is over by then: its keys were hashed for the one that was.
    #[cold]
    #[inline(never)]
    pub(super) fn sample(&mut self, n: usize, missed: usize) {
        let tier2 = self.first.is_tier2();
        for slot in self.batch.iter().take(n) {
            let entry = match tier2 {
                true => self.mega.get(slot.hit),
                // What missed has the place of its megaflow by now.
                false => {
                    let own = self.cache.find(slot.home, &slot.key, &slot.masked);
                    own.and_then(|at| self.cache.slot(at))
                }
            };
            let walk = entry.and_then(|e| self.traversals.get(e.traversal));
            let is_tracked = matches!(walk.and_then(Traversal::first_item), Some(Item::Ct(_)));
            self.first.met(self.cache.flow_hash(&slot.key), is_tracked);
            if self.first.probes() {
                let (found, tried) = self.mega.find(&slot.key);
                self.first.looked_up(tried, found.is_some());
            }
        }
        let missed = (missed, self.cache.is_full());
        self.first.sampled(missed, self.mega.live(), self.uses_tier2());
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
    #[inline(always)]
    fn find_micros<const TRACKS: bool>(&mut self, n: usize) {
        let (mut away, mut strange) = (0u64, 0u64);
        for (i, slot) in self.batch.iter_mut().take(n).enumerate() {
            if self.cache.is_at(slot.home, &slot.key, &slot.masked) {
                slot.hit = slot.home;
                ask_traversal(&self.cache, &self.traversals, slot.hit);
                if TRACKS {
                    strange |= u64::from(!ask_known(&self.cache, &self.conntrack, slot)) << i;
                }
            } else {
                slot.hit = NONE;
                away |= u64::from(self.cache.ask_elsewhere(slot.home)) << i;
                if TRACKS {
                    strange |= 1 << i;
                }
            }
        }
        if away != 0 {
            strange &= !self.find_away::<TRACKS>(away);
        }
        if TRACKS && strange != 0 {
            self.find_connections(strange);
        }
    }

    /// Finds the entries of these packets of the batch, which may be beside their homes. Not
    /// inlined: few are, and what they need is asked for in stages as well. Says of which of them
    /// the connection is known.
    #[inline(never)]
    fn find_away<const TRACKS: bool>(&mut self, away: u64) -> u64 {
        let (mut rest, mut known) = (0, 0);
        for i in ones(away) {
            let Some(slot) = self.batch.get_mut(i) else { break };
            if let Some(at) = self.cache.find_elsewhere(slot.home, &slot.key, &slot.masked) {
                slot.hit = at;
                ask_traversal(&self.cache, &self.traversals, at);
                known |= 1 << i;
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
            known |= u64::from(found.is_some()) << i;
        }
        if TRACKS {
            for i in ones(known) {
                let Some(slot) = self.batch.get_mut(i) else { break };
                known ^= u64::from(!ask_known(&self.cache, &self.conntrack, slot)) << i;
            }
        }
        known
    }

    /// Hashes what connection tracking will be asked of these packets of the batch, and asks for
    /// its memory: the places of the index first, then the connections that they name.
    #[inline(never)]
    fn find_connections(&mut self, which: u64) {
        let tier2 = self.first.is_tier2();
        let mut any = 0;
        for i in ones(which) {
            let Some(slot) = self.batch.get_mut(i) else { break };
            slot.ct = Tracking::default();
            let entry = if tier2 { self.mega.get(slot.hit) } else { self.cache.slot(slot.hit) };
            let zone = match entry {
                Some(entry) => first_zone(&self.traversals, entry.traversal),
                // Tier 2 has a question for it, as likely as not the one that it had last.
                None => self.zone_asked,
            };
            let Some(zone) = zone else { continue };
            let hash = match Narrow::of(&slot.key.base) {
                Some(narrow) => self.conntrack.hash_of_narrow(&narrow, zone),
                None => match CtPacket::tuple_of(&slot.key) {
                    Some(tuple) => self.conntrack.hash_of_tuple(&tuple, zone),
                    None => continue,
                },
            };
            self.conntrack.prefetch_index(hash);
            slot.ct.hash = Some((zone, hash));
            any |= 1 << i;
        }
        let translates = self.commits.get(self.asked.last_commit).and_then(|c| c.nat.as_ref());
        if self.first.crowds.is_expected() && translates.is_none() {
            // They have no connections to be asked for.
            return;
        }
        for i in ones(any) {
            let Some(slot) = self.batch.get_mut(i) else { break };
            let Some((zone, hash)) = slot.ct.hash else { continue };
            slot.ct.guess = self.conntrack.prefetch_guess(hash);
            if slot.ct.guess.is_none()
                && let (Some(spec), Some(narrow)) = (translates, Narrow::of(&slot.key.base))
            {
                // It may open a connection, which its replies are to find.
                self.conntrack.prefetch_reply(&narrow, (hash, zone), spec);
            }
        }
    }
}
