//! The second tier on the road: serving what missed tier 1 from a megaflow, and keeping walks.
//!
//! It stands behind tier 1, off the hot path, unless it is asked first (`first`): then what was
//! found goes the same short road as a hit of tier 1 (`hit`), and packets like the one before them
//! need not be looked for (`opening`, `settled`).

use super::delta::Dirty;
use super::execute::Sent;
use super::hit::Hit;
use super::keymask;
use super::lane::{Egress, Lane};
use super::upkeep::{credit, vacate};
use crate::cache::entry::{Kept, NONE, Tick};
use crate::cache::megaflow::{About, REFUSED};
use crate::cache::recording::Question;
use crate::cache::traversal::Item;
use crate::clock::Now;
use crate::counters::Stat;
use crate::packet::key::Mask;
use crate::xsk::pool::FramePool;

impl Lane {
    /// Whether tier 2 is there and pays.
    #[inline]
    pub(super) fn uses_tier2(&self) -> bool {
        self.mega.capacity() > 0 && self.adapt.uses_tier2()
    }

    /// Serves packet `i`, which tier 1 does not have, from a megaflow if there is one whose guards
    /// hold.
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
        slot.hit = at;
        let hit = self.serve_from_mega(i, now, sent, pool, egress);
        if hit == Hit::None {
            return false;
        }
        let served = self.batch.get(i).and_then(|slot| self.mega.get(slot.hit));
        let Some(traversal) = served.map(|e| e.traversal) else { return true };
        // The next packet of a connection that has begun goes another way, or none comes. One that
        // was refused is as likely as not of a flood, which is to push nobody out.
        if self.cache_on && hit != Hit::Opened && self.adapt.keeps_tier1() {
            self.traversals.share(traversal);
            self.put_micro(i, traversal, now);
        }
        true
    }

    /// Serves packet `i` from the megaflow that was found for it; frees that if it does not hold,
    /// and then there is none.
    #[inline(always)]
    pub(super) fn serve_from_mega<E: Egress>(
        &mut self,
        i: usize,
        now: Now,
        sent: &mut Sent,
        pool: &mut FramePool,
        egress: &mut E,
    ) -> Hit {
        let is_asked = match self.batch.get(i).and_then(|slot| self.mega.get(slot.hit)) {
            Some(entry) => entry.is_question(),
            None => return Hit::None,
        };
        let question = self.batch.get(i).map_or(NONE, |slot| slot.hit);
        if is_asked {
            let answer = self.find_answer(i, now);
            let Some(slot) = self.batch.get_mut(i) else { return Hit::None };
            slot.hit = answer.unwrap_or(NONE);
            if answer.is_none() {
                self.outdated(question, now);
                return Hit::None;
            }
        }
        let hit = self.serve::<E, true>(i, now, sent, pool, egress);
        let at = self.batch.get(i).map_or(NONE, |slot| slot.hit);
        match hit {
            Hit::Opened => self.asked.opener = at,
            Hit::Stale => return self.forget_mega(at, now),
            Hit::Refused => return self.serve_refused(i, now, sent, pool, egress),
            Hit::Served if is_asked => *self.asked.last_answer(question) = at,
            Hit::Served | Hit::None => {}
        }
        hit
    }

    /// Serves packet `i`, whose commit was refused, from the megaflow of such packets, if there is
    /// one.
    #[inline(never)]
    pub(super) fn serve_refused<E: Egress>(
        &mut self,
        i: usize,
        now: Now,
        sent: &mut Sent,
        pool: &mut FramePool,
        egress: &mut E,
    ) -> Hit {
        // As likely as not the next one is refused, too.
        self.asked.opener = NONE;
        let Some(slot) = self.batch.get_mut(i) else { return Hit::None };
        let (found, tried) = self.mega.find_answer(&slot.key, (REFUSED, 0, 0));
        self.first.looked_up(tried, found.is_some());
        let Some(at) = found else { return Hit::None };
        slot.hit = at;
        match self.serve::<E, true>(i, now, sent, pool, egress) {
            Hit::Stale | Hit::Refused => self.forget_mega(at, now),
            hit => hit,
        }
    }

    /// A megaflow does not hold: away with it.
    fn forget_mega(&mut self, at: u32, now: Now) -> Hit {
        self.counters.add(Stat::Tier2Stale, 1);
        self.vacate_mega(at, now);
        Hit::None
    }

    /// Asks connection tracking what packet `i`, which has a question, is. Its answer's place.
    #[inline]
    pub(super) fn find_answer(&mut self, i: usize, now: Now) -> Option<u32> {
        let slot = self.batch.get(i)?;
        let zone = match self.traversals.items(self.mega.get(slot.hit)?.traversal).next()? {
            Item::Ct(t) => t.zone,
            _ => return None,
        };
        self.zone_asked = Some(zone);
        let judged = self.asked.first(&self.conntrack, slot, zone, now)?;
        let told = self.conntrack.told(judged);
        let (found, tried) = self.mega.find_answer(&slot.key, told);
        self.first.looked_up(tried, found.is_some());
        found
    }

    /// There was a question and no answer: away with it if it need not be asked any more.
    #[cold]
    #[inline(never)]
    fn outdated(&mut self, question: u32, now: Now) {
        if !self.mega_is_current(question) {
            self.vacate_mega(question, now);
        }
    }

    /// Whether no change of rules since can concern the megaflow.
    pub(super) fn mega_is_current(&self, at: u32) -> bool {
        let Some(entry) = self.mega.get(at) else { return false };
        let known = (&entry.key, self.mega.mask_of(entry));
        self.traversals.get(entry.traversal).is_some_and(|t| {
            self.recent.holds_under(entry.epoch, known, t.head.tables, Dirty(t.head.dirty))
        })
    }

    /// Keeps the recording of packet `i`'s walk where it is of use.
    pub(super) fn keep(&mut self, i: usize, now: Now) {
        let tier2 = self.recording.wide && self.uses_tier2();
        let is_enough = tier2 && self.first.is_tier2() || self.recording.is_of_refused;
        let tier1 = self.cache_on && !is_enough && self.adapt.keeps_tier1();
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
        let (replaces, used) = (own.is_some(), Tick::of(now));
        let at = own.unwrap_or_else(|| self.cache.victim(slot.home, &slot.key, used));
        if vacate(&mut self.cache, &mut self.traversals, &self.program, at, now) && !replaces {
            self.counters.add(Stat::Tier1Evictions, 1);
        }
        let epoch = self.recent.epoch();
        self.cache.fill(at, &slot.key, &slot.masked, Kept { traversal, used, epoch });
        self.counters.add(Stat::Tier1Inserts, 1);
    }

    /// The same for tier 2.
    fn put_mega(&mut self, i: usize, traversal: u32, now: Now) {
        let rec = &self.recording;
        let (seen, asked) = (
            rec.seen,
            rec.question.map_or(About::Nothing, |q| About::Told {
                state: q.kind,
                mark: q.mark,
                label: q.label,
                mark_mask: rec.seen.ct_mark,
                label_mask: rec.seen.ct_label,
            }),
        );
        if self.put_as(i, (&seen, asked), traversal, now).is_some()
            && let Some(question) = self.recording.question
        {
            self.put_question(i, &question, now);
        }
    }

    /// Writes a megaflow; the reference to the traversal becomes its own. Its place.
    fn put_as(
        &mut self,
        i: usize,
        (seen, asked): (&Mask, About),
        traversal: u32,
        now: Now,
    ) -> Option<u32> {
        let slot = self.batch.get(i)?;
        let (mask, used) = (keymask::in_packet(seen, false), Tick::of(now));
        let Some(place) = self.mega.place(&slot.key, &mask, asked, used) else {
            self.counters.add(Stat::Tier2MasksFull, 1);
            self.traversals.release(traversal);
            return None;
        };
        self.vacate_mega(place.at, now);
        let epoch = self.recent.epoch();
        self.mega.fill(&place, Kept { traversal, used, epoch });
        self.counters.add(Stat::Tier2Inserts, 1);
        Some(place.at)
    }

    /// Writes the question that packet `i`'s walk came to first.
    fn put_question(&mut self, i: usize, question: &Question, now: Now) {
        let Some(traversal) = self.traversals.store_question(question) else { return };
        if let Some(at) = self.put_as(i, (&question.seen, About::Nothing), traversal, now) {
            self.mega.set_question(at);
        }
    }

    /// Credits what a megaflow owes that is in the list of those that do.
    pub(super) fn settle_mega(&mut self, at: u32, now: Now) {
        if let Some(entry) = self.mega.slot_mut(at) {
            entry.set_owes(false);
        }
        self.credit_mega(at, now);
    }

    /// Credits what a megaflow owes.
    fn credit_mega(&mut self, at: u32, now: Now) {
        let Some(entry) = self.mega.slot_mut(at) else { return };
        let counts = entry.take_counts();
        let traversal = entry.traversal;
        if counts.0 > 0 {
            credit(&self.traversals, &self.program, traversal, counts, now);
        }
    }

    pub(super) fn vacate_mega(&mut self, at: u32, now: Now) {
        self.credit_mega(at, now);
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
        if let Some(entry) = self.mega.slot_mut(at) {
            entry.epoch = epoch;
        }
    }
}
