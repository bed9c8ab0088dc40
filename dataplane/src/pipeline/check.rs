//! The runtime self-check: of every so many packets, one that hit tier 1 is walked too.
//!
//! The walk is dry (it learns, commits and counts nothing) and its steps are compared with those
//! that the cache is about to run. A difference is a flaw of ours: it is counted, control logs
//! it, and the entry is given up, so that the packet goes the tables' way.
//!
//! Walks through connection tracking are left out: what they find depends on connections that
//! the packet itself is about to move on, so a dry walk would have to suppose the answer.

use super::delta::Dirty;
use super::guards;
use super::miss::{Subject, World, walk};
use super::punt::Punt;
use super::run::Lane;
use super::trace::Silent;
use super::upkeep::vacate;
use crate::cache::traversal::{Item, Recording};
use crate::clock::Now;
use crate::counters::Stat;
use crate::packet::frame::Frame;

/// What the check needs of its own.
#[derive(Debug)]
pub(super) struct Check {
    /// Packets to a check; 0: none.
    every: u32,
    since: u32,
    recording: Recording,
    punts: Vec<Punt>,
}

impl Check {
    pub fn new(every: u32) -> Self {
        Self { every, since: 0, recording: Recording::new(), punts: Vec::with_capacity(64) }
    }

    /// Whether a batch of `n` brings the next check.
    #[inline]
    pub fn is_due(&mut self, n: usize) -> bool {
        if self.every == 0 {
            return false;
        }
        self.since += n as u32;
        self.since >= self.every
    }
}

impl Lane {
    /// Checks the first packet of the batch that hit and can be checked.
    #[cold]
    #[inline(never)]
    pub(super) fn self_check(&mut self, n: usize, now: Now) {
        let Some((i, at)) = (0..n).find_map(|i| Some((i, self.checkable(i, now)?))) else { return };
        self.check.since = 0;
        self.counters.add(Stat::SelfChecks, 1);
        if !self.walks_alike(i, at, now) {
            self.counters.add(Stat::SelfCheckFailures, 1);
            vacate(&mut self.cache, &mut self.traversals, &self.program, at, now);
        }
    }

    /// The slot of a packet's entry, if that will be served and is not of a connection.
    fn checkable(&mut self, i: usize, now: Now) -> Option<u32> {
        let slot = self.batch.get(i)?;
        let entry = self.cache.slot(slot.hit)?;
        let head = self.traversals.get(entry.traversal)?.head;
        let len = slot.frame.as_ref().map_or(0, Frame::len);
        let fits = (usize::from(head.len_min)..=usize::from(head.len_max)).contains(&len);
        let mut guards = self.traversals.items(entry.traversal).take(head.guards as usize);
        let tracked = guards.clone().any(|g| matches!(g, Item::Ct(_)));
        let current = self.recent.holds(entry.epoch, &entry.key, head.tables, Dirty(head.dirty));
        let is_served = fits
            && !tracked
            && current
            && guards::hold(guards.by_ref(), &mut self.conntrack, &self.program, slot, now);
        is_served.then_some(slot.hit)
    }

    fn walks_alike(&mut self, i: usize, at: u32, now: Now) -> bool {
        let (Some(slot), Some(entry)) = (self.batch.get(i), self.cache.slot(at)) else {
            return true;
        };
        let Some(frame) = slot.frame.as_ref() else { return true };
        let mut world = World {
            program: &self.program,
            conntrack: &mut self.conntrack,
            counters: &self.counters,
            templates: &mut self.templates,
            events: &mut self.events,
            now,
            wide: false,
        };
        let subject = Subject {
            key: &slot.key,
            bytes: frame.bytes(),
            layers: &slot.layers,
            in_port: slot.in_port,
            checksums_good: slot.checksums_good,
        };
        let record = (&mut self.check.recording, &mut self.check.punts);
        walk(&mut world, subject, record, &mut Silent, true);
        self.check.punts.clear();
        let Some(head) = self.traversals.get(entry.traversal).map(|t| t.head) else { return true };
        let kept = self.traversals.items(entry.traversal).skip(head.guards as usize);
        let kept = kept.take(head.steps as usize).map_while(|item| match item {
            Item::Do(step) => Some(step),
            _ => None,
        });
        kept.eq(self.check.recording.steps.iter().copied())
    }
}
