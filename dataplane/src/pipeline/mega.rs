//! The second tier on the road: serving what missed tier 1 from a megaflow, and keeping walks.
//!
//! It stands behind tier 1 and off the hot path: a packet that hits tier 1 never comes here.

use super::delta::Dirty;
use super::execute::{Hand, Sent};
use super::guards;
use super::keymask;
use super::run::{Egress, Lane};
use super::upkeep::{credit, vacate};
use crate::cache::microflow::Kept;
use crate::cache::traversal::Item;
use crate::clock::Now;
use crate::counters::Stat;
use crate::packet::frame::Frame;
use crate::xsk::pool::FramePool;

/// A megaflow's byte count is credited before it passes this.
const BYTES_OWED_MAX: u32 = 1 << 31;

impl Lane {
    /// Whether tier 2 is there and pays.
    #[inline]
    pub(super) fn uses_tier2(&self) -> bool {
        self.mega.capacity() > 0 && self.adapt.uses_tier2()
    }

    /// Serves packet `i` from a megaflow if there is one whose guards hold.
    #[inline(never)]
    pub(super) fn serve_mega<E: Egress>(
        &mut self,
        i: usize,
        now: Now,
        sent: &mut Sent,
        pool: &mut FramePool,
        egress: &mut E,
    ) -> bool {
        let Some(slot) = self.batch.get_mut(i) else { return false };
        let (found, tried) = self.mega.find(&slot.key);
        self.adapt.tier2_lookup(tried, found.is_some());
        let Some(at) = found else { return false };
        if !self.mega_holds(i, at, now) {
            self.counters.add(Stat::Tier2Stale, 1);
            self.vacate_mega(at, now);
            return false;
        }
        let Some(slot) = self.batch.get_mut(i) else { return false };
        let Some(frame) = slot.frame.take() else { return false };
        let Some(entry) = self.mega.get_mut(at) else { return false };
        let traversal = entry.traversal;
        let Some(head) = self.traversals.get(traversal).map(|t| t.head) else { return false };
        entry.used = (now.ns >> 20) as u32;
        entry.epoch = self.recent.epoch();
        entry.packets += 1;
        entry.bytes += frame.len() as u32;
        let due = entry.bytes >= BYTES_OWED_MAX;
        if !std::mem::replace(&mut entry.owes, true) {
            self.mega_owing.push(at);
        }
        if due {
            self.settle_mega(at, now);
        }
        let Some(slot) = self.batch.get(i) else { return false };
        let mut hand = Hand {
            translations: &[],
            punts: None,
            packet_ins: &mut self.packet_ins,
            program: &self.program,
            now,
            chance: &mut self.chance,
            templates: &self.templates,
            counters: &self.counters,
            sent,
            pool,
            egress,
        };
        let items = self.traversals.items(traversal).skip(head.guards as usize);
        let steps = items.take(head.steps as usize).map_while(|item| match item {
            Item::Do(s) => Some(s),
            _ => None,
        });
        hand.execute(steps, usize::from(head.steps), frame, &slot.key, slot.layers);
        if self.cache_on && self.adapt.keeps_tier1() {
            self.traversals.share(traversal);
            self.put_micro(i, traversal, now);
        }
        true
    }

    fn mega_holds(&mut self, i: usize, at: u32, now: Now) -> bool {
        let Some(slot) = self.batch.get(i) else { return false };
        let Some(entry) = self.mega.get(at) else { return false };
        let Some(head) = self.traversals.get(entry.traversal).map(|t| t.head) else { return false };
        let len = slot.frame.as_ref().map_or(0, Frame::len);
        let fits = (usize::from(head.len_min)..=usize::from(head.len_max)).contains(&len);
        let guards = self.traversals.items(entry.traversal).take(head.guards as usize);
        fits && self.mega_is_current(at)
            && guards::hold(guards, &mut self.conntrack, &self.program, slot, now)
    }

    /// Whether no change of rules since can concern the megaflow.
    fn mega_is_current(&self, at: u32) -> bool {
        let (Some(entry), Some(known)) = (self.mega.get(at), self.mega.base_of(at)) else {
            return false;
        };
        self.traversals.get(entry.traversal).is_some_and(|t| {
            self.recent.holds_under(entry.epoch, known, t.head.tables, Dirty(t.head.dirty))
        })
    }

    /// Keeps the recording of packet `i`'s walk where it is of use.
    pub(super) fn keep(&mut self, i: usize, now: Now) {
        let tier1 = self.cache_on && self.adapt.keeps_tier1();
        let tier2 = self.recording.wide && !self.recording.has_ct && self.uses_tier2();
        if !tier1 && !tier2 {
            return;
        }
        let Some(traversal) = self.traversals.store(&self.recording) else {
            self.counters.add(Stat::Tier3Uncacheable, 1);
            return;
        };
        if tier2 {
            self.traversals.share(traversal);
            self.put_mega(i, traversal, now);
        }
        if tier1 {
            self.put_micro(i, traversal, now);
        } else {
            self.traversals.release(traversal);
        }
    }

    /// Writes an entry of tier 1; the reference to the traversal becomes the entry's.
    fn put_micro(&mut self, i: usize, traversal: u32, now: Now) {
        let Some(slot) = self.batch.get(i) else { return };
        let own = self.cache.find(slot.home, &slot.key, &slot.masked);
        let replaces = own.is_some();
        let at = own.unwrap_or_else(|| self.cache.victim(slot.home, &slot.key));
        if vacate(&mut self.cache, &mut self.traversals, &self.program, at, now) && !replaces {
            self.counters.add(Stat::Tier1Evictions, 1);
        }
        let (used, epoch) = ((now.ns >> 20) as u32, self.recent.epoch());
        self.cache.fill(at, &slot.key, &slot.masked, Kept { traversal, used, epoch });
        self.counters.add(Stat::Tier1Inserts, 1);
    }

    /// The same for tier 2.
    fn put_mega(&mut self, i: usize, traversal: u32, now: Now) {
        let Some(slot) = self.batch.get(i) else { return };
        let mask = keymask::in_packet(&self.recording.seen, false);
        let Some(place) = self.mega.place(&slot.key, &mask) else {
            self.counters.add(Stat::Tier2MasksFull, 1);
            self.traversals.release(traversal);
            return;
        };
        self.vacate_mega(place.at, now);
        self.mega.fill(&place, traversal, (now.ns >> 20) as u32, self.recent.epoch());
        self.counters.add(Stat::Tier2Inserts, 1);
    }

    /// Credits what a megaflow owes.
    fn settle_mega(&mut self, at: u32, now: Now) {
        let Some(entry) = self.mega.get_mut(at) else { return };
        let counts = (entry.packets, entry.bytes);
        (entry.packets, entry.bytes) = (0, 0);
        let traversal = entry.traversal;
        if counts.0 > 0 {
            credit(&self.traversals, &self.program, traversal, counts, now);
        }
    }

    /// Credits what all megaflows owe.
    pub(super) fn settle_megas(&mut self, now: Now) {
        while let Some(at) = self.mega_owing.pop() {
            if let Some(entry) = self.mega.get_mut(at) {
                entry.owes = false;
            }
            self.settle_mega(at, now);
        }
    }

    fn vacate_mega(&mut self, at: u32, now: Now) {
        self.settle_mega(at, now);
        if let Some(traversal) = self.mega.vacate(at) {
            self.traversals.release(traversal);
        }
    }

    /// Brings a megaflow up to date with the changes of rules, or frees it.
    pub(super) fn sweep_mega(&mut self, at: u32, now: Now) {
        if self.mega.get(at).is_none() {
            return;
        }
        if !self.mega_is_current(at) {
            return self.vacate_mega(at, now);
        }
        let epoch = self.recent.epoch();
        if let Some(entry) = self.mega.get_mut(at) {
            entry.epoch = epoch;
        }
    }
}
