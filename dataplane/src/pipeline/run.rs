//! The stages of a batch, in order, on one screen: `Lane::run`.
//!
//! All packets of a batch came in by one port. Each stage goes over the whole batch before the
//! next begins, so that the memory a later stage needs is on its way while the earlier one still
//! works: parse and hash all (and ask for the cache lines), find all (and ask for the
//! traversals), then judge in order of arrival.
//!
//! **Order.** Packets are judged and sent in the order in which they came, hits and misses alike,
//! so no flow is ever reordered. What missed may change the cache; from the first packet of a batch
//! on that did, what was found before is looked up again.

use super::execute::{Hand, Sent};
use super::hit::Hit;
use super::home::tell_due;
use super::lane::{Egress, Lane, Slot};
use super::miss::walk;
use super::receive::receive;
use super::trace::Silent;
use super::upkeep::credit_item;
use super::world::{Subject, World};
use crate::cache::entry::NONE;
use crate::clock::Now;
use crate::counters::Stat;
use crate::limits::BATCH_MAX;
use crate::packet::key::PortIx;
use crate::xsk::burst::RxBurst;
use crate::xsk::pool::FramePool;

impl Lane {
    /// Judges a batch that came in by `in_port`. Takes all frames out of `burst`. Of several
    /// workers, packets that are another one's are handed over.
    pub fn run<E: Egress>(
        &mut self,
        burst: &mut RxBurst,
        in_port: PortIx,
        now: Now,
        pool: &mut FramePool,
        egress: &mut E,
    ) {
        self.run_batches((burst, in_port), true, now, pool, egress);
    }

    /// Judges frames that another worker has handed over, all of which came in by `in_port`. What
    /// was told before they were handed over must have been heard.
    pub fn run_at_home<E: Egress>(
        &mut self,
        burst: &mut RxBurst,
        in_port: PortIx,
        now: Now,
        pool: &mut FramePool,
        egress: &mut E,
    ) {
        self.run_batches((burst, in_port), false, now, pool, egress);
    }

    /// `fresh`: from a port, and not handed over.
    fn run_batches<E: Egress>(
        &mut self,
        (burst, in_port): (&mut RxBurst, PortIx),
        fresh: bool,
        now: Now,
        pool: &mut FramePool,
        egress: &mut E,
    ) {
        if self.has_homes {
            self.see_rooms(egress);
        }
        let mut rest = burst.drain();
        loop {
            self.begin_batch(in_port);
            let cache = (!self.first.is_tier2()).then_some(&self.cache);
            let mut n = receive(
                &mut self.batch,
                &self.program,
                &self.counters,
                cache,
                &mut rest,
                (in_port, fresh),
                pool,
            );
            if n == 0 {
                break;
            }
            if self.has_homes {
                n = self.go_home(n, (in_port, fresh), now, pool, egress);
            }
            if n > 0 {
                self.run_batch((n, in_port), now, pool, egress);
            }
        }
        if self.has_homes {
            self.end_at_home(now, pool, egress);
        }
        // Of the last round, which brought none.
        self.first.crowds.end(in_port, 0);
        if self.templates.is_full() {
            self.forget();
        }
    }

    /// A batch comes: how it is looked up is settled before its keys are hashed.
    #[inline(always)]
    fn begin_batch(&mut self, in_port: PortIx) {
        let opens = self.tracks && self.uses_tier2();
        self.first.crowds.begin(in_port, opens);
    }

    /// Judges the packets that `receive` has brought.
    #[inline(always)]
    fn run_batch<E: Egress>(
        &mut self,
        (n, in_port): (usize, PortIx),
        now: Now,
        pool: &mut FramePool,
        egress: &mut E,
    ) {
        self.find(n);
        let missed = self.judge(n, now, pool, egress);
        if self.first.samples() {
            self.sample(n, missed);
        }
        self.first.crowds.end(in_port, n);
        if self.cache.is_crowded() {
            self.grow();
        }
        if self.tracks {
            self.conntrack.keep_up(now);
        }
    }

    /// Judges fragments that have waited for another one of this burst, and tells other workers
    /// what they need no longer know.
    #[inline(never)]
    fn end_at_home<E: Egress>(&mut self, now: Now, pool: &mut FramePool, egress: &mut E) {
        while self.pieces.are_ready()
            && let Some((frame, in_port)) = self.next_part(pool)
        {
            self.begin_batch(in_port);
            let cache = (!self.first.is_tier2()).then_some(&self.cache);
            let mut one = std::iter::once(frame);
            let from = (in_port, false);
            let (batch, program, counters) = (&mut self.batch, &self.program, &self.counters);
            let n = receive(batch, program, counters, cache, &mut one, from, pool);
            if n > 0 {
                self.run_batch((n, in_port), now, pool, egress);
            }
        }
        self.tell(egress);
    }

    /// Gives the cache the room that the last batch's new entries ask for: two groups each.
    #[cold]
    fn grow(&mut self) {
        for _ in 0..2 * BATCH_MAX {
            if self.cache.is_crowded() {
                self.cache.grow(|at| self.owing.push(at));
            }
        }
    }

    /// Judges the batch. Says how many packets the tier that is asked first did not have.
    fn judge<E: Egress>(
        &mut self,
        n: usize,
        now: Now,
        pool: &mut FramePool,
        egress: &mut E,
    ) -> usize {
        if self.check.is_due(n) {
            self.self_check(n, now);
        }
        if self.first.is_tier2() {
            self.judge_as::<E, true>(n, now, pool, egress)
        } else {
            self.judge_as::<E, false>(n, now, pool, egress)
        }
    }

    /// Judges the batch, with what was found in the tier that is asked first.
    #[inline(always)]
    fn judge_as<E: Egress, const TIER2: bool>(
        &mut self,
        n: usize,
        now: Now,
        pool: &mut FramePool,
        egress: &mut E,
    ) -> usize {
        let (mut stale, mut missed, mut hits2) = (0, 0, 0);
        let as_found = self.cache.changes();
        let mut sent = Sent::default();
        let mut next = 0;
        while next < n {
            if TIER2 {
                let span = (next, n);
                let served = if self.batch.get(next).is_some_and(Slot::has_guess) {
                    self.serve_settled(span, now, &mut sent, pool, egress)
                } else {
                    self.serve_firsts::<E, true>(span, now, &mut sent, pool, egress)
                };
                hits2 += served as u64;
                next += served;
                if next == n {
                    break;
                }
            }
            let i = next;
            next += 1;
            if TIER2 {
                if missed > 0 || self.first.crowds.is_expected() {
                    self.find_mega(i);
                }
                if self.serve_from_mega(i, now, &mut sent, pool, egress) != Hit::None {
                    hits2 += 1;
                    continue;
                }
                self.find_behind(i);
            } else if self.cache.changes() != as_found
                && self.cache_on
                && let Some(slot) = self.batch.get_mut(i)
            {
                // A packet before has taken or made entries.
                slot.hit = self.cache.find(slot.home, &slot.key, &slot.masked).unwrap_or(NONE);
            }
            match self.serve::<E, false>(i, now, &mut sent, pool, egress) {
                Hit::Served | Hit::Opened => continue,
                Hit::Stale | Hit::Refused => stale += 1,
                Hit::None => {}
            }
            let served = self.miss::<E, TIER2>((i, n), now, &mut sent, pool, egress);
            missed += served as u64;
            next = i + served;
        }
        self.counters.add(Stat::TxPackets, sent.packets);
        self.counters.add(Stat::TxBytes, sent.bytes);
        let hits = n as u64 - missed - hits2;
        self.counters.add(Stat::Tier1Hits, hits);
        self.counters.add(Stat::Tier1Stale, stale);
        self.counters.add(Stat::Tier2Hits, hits2);
        self.adapt.tier1_hits(hits as u32);
        missed as usize
    }

    /// Serves packet `i`, which the tier asked first does not have: from tier 2, or by a walk. If
    /// it is a first packet like the last one, those of the batch behind it that are such, too.
    /// How many.
    #[cold]
    #[inline(never)]
    fn miss<E: Egress, const TIER2: bool>(
        &mut self,
        (i, end): (usize, usize),
        now: Now,
        sent: &mut Sent,
        pool: &mut FramePool,
        egress: &mut E,
    ) -> usize {
        let mut served = 0;
        if !TIER2 && self.uses_tier2() {
            if !self.batch.get(i).is_some_and(Slot::has_guess) {
                served = self.serve_firsts::<E, false>((i, end), now, sent, pool, egress);
            }
            if served == 0 {
                served = usize::from(self.serve_mega(i, now, sent, pool, egress));
            }
            self.counters.add(Stat::Tier2Hits, served as u64);
        }
        if served == 0 {
            self.walk(i, now, sent, pool, egress);
            self.counters.add(Stat::Tier3Walks, 1);
            served = 1;
        }
        for _ in 0..served {
            if self.adapt.missed() {
                self.mega.rank();
                self.first.missed();
            }
        }
        served
    }

    /// Walks the tables for a packet, sends it, and keeps the traversal.
    fn walk<E: Egress>(
        &mut self,
        i: usize,
        now: Now,
        sent: &mut Sent,
        pool: &mut FramePool,
        egress: &mut E,
    ) {
        let wide = self.uses_tier2();
        let Some(slot) = self.batch.get_mut(i) else { return };
        let Some(frame) = slot.frame.take() else { return };
        let mut world = World {
            program: &self.program,
            conntrack: &mut self.conntrack,
            counters: &self.counters,
            templates: &mut self.templates,
            commits: &mut self.commits,
            events: &mut self.events,
            now,
            wide,
        };
        let subject = Subject {
            key: &slot.key,
            bytes: frame.bytes(),
            layers: &slot.layers,
            in_port: slot.in_port,
            checksums_good: slot.checksums_good,
        };
        let record = (&mut self.recording, &mut self.punts);
        walk(&mut world, subject, record, &mut Silent, false);
        tell_due(&mut self.conntrack, egress);
        let len = frame.len() as u64;
        for rule in &self.recording.rules {
            if let Some(r) = self.program.rules.get(*rule) {
                r.stats.add(1, len, now.ns);
            }
        }
        for item in &self.recording.credits {
            credit_item(&self.program, item, (1, len), now);
        }
        let mut hand = Hand {
            translations: &self.recording.translations,
            punts: Some(&self.punts),
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
        let steps = self.recording.steps.iter().copied();
        let count = self.recording.steps.len();
        hand.execute(steps, count, frame, &slot.key, slot.layers);
        self.punts.clear();
        self.release_fragments(now, pool, egress);
        if !self.recording.cacheable {
            self.counters.add(Stat::Tier3Uncacheable, 1);
        } else {
            self.keep(i, now);
        }
    }
}
