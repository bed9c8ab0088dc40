//! The runtime self-check: of every so many packets, one that hit the tier asked first is walked
//! too.
//!
//! The walk is dry (it learns, commits and counts nothing) and its steps are compared with those
//! that the cache is about to run. A difference is a flaw of ours: it is counted, control logs
//! it, and the entry is given up, so that the packet goes the tables' way.
//!
//! A walk through connection tracking asks it, and changes nothing there. What a commit would make
//! of a new connection is not known before it happens, so walks that commit are not checked.

use super::delta::Dirty;
use super::freeze::Punts;
use super::guards::Ground;
use super::lane::Lane;
use super::miss::walk;
use super::punt::Punt;
use super::trace::Observer;
use super::upkeep::vacate;
use super::world::{Subject, World};
use crate::action::group::{Bucket, Group};
use crate::action::learn::Learn;
use crate::cache::Entry;
use crate::cache::recording::Recording;
use crate::cache::traversal::{Item, NO_COMMIT};
use crate::clock::Now;
use crate::counters::Stat;
use crate::packet::frame::Frame;
use crate::packet::key::FlowKey;

/// The dry walk asks conntrack; nobody else wants to know.
#[derive(Debug, Default)]
struct Asking;

impl Observer for Asking {
    fn asks_conntrack(&self) -> bool {
        true
    }
    fn group(&mut self, _: &Group, _: Option<&Bucket>) {}
    fn meter(&mut self, _: u32) {}
    fn learn(&mut self, _: &Learn, _: &FlowKey, _: bool) {}
    fn controller(&mut self, _: &Punt) {}
    fn queue(&mut self, _: Option<u32>) {}
}

/// What the check needs of its own.
#[derive(Debug)]
pub(super) struct Check {
    /// Packets to a check; 0: none.
    every: u32,
    since: u32,
    recording: Recording,
    punts: Punts,
}

impl Check {
    pub fn new(every: u32) -> Self {
        Self { every, since: 0, recording: Recording::new(), punts: Punts::default() }
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
            if self.first.is_tier2() {
                self.vacate_mega(at, now);
            } else {
                vacate(&mut self.cache, &mut self.traversals, &self.program, at, now);
            }
        }
    }

    /// The slot of a packet's entry, if it would be served now.
    fn checkable(&mut self, i: usize, now: Now) -> Option<u32> {
        let at = self.answer_of(i, now)?;
        let slot = self.batch.get(i)?;
        let entry = self.found(at)?;
        let head = self.traversals.get(entry.traversal)?.head;
        let len = slot.frame.as_ref().map_or(0, Frame::len);
        let guards = self.traversals.items(entry.traversal).take(head.guards as usize);
        let is_current = if self.first.is_tier2() {
            self.mega_is_current(at)
        } else {
            self.recent.holds(entry.epoch, &entry.key, head.tables, Dirty(head.dirty))
        };
        let commits = |g: Item| matches!(g, Item::Ct(t) if t.commit != NO_COMMIT);
        if !head.fits(len) || !is_current || guards.clone().any(commits) {
            return None;
        }
        let mut ground = Ground {
            conntrack: &mut self.conntrack,
            program: &self.program,
            commits: &self.commits,
            counters: &self.counters,
            asked: &mut self.asked,
            now,
        };
        ground.would_hold(guards, slot).then_some(at)
    }

    /// The place of the entry that serves packet `i`, as things stand.
    fn answer_of(&mut self, i: usize, now: Now) -> Option<u32> {
        let at = self.batch.get(i)?.hit;
        if !self.first.is_tier2() || !self.mega.get(at)?.is_question() {
            return Some(at);
        }
        self.find_answer(i, now)
    }

    /// The entry at a place of the tier that is asked first.
    fn found(&self, at: u32) -> Option<&Entry> {
        if self.first.is_tier2() { self.mega.get(at) } else { self.cache.slot(at) }
    }

    fn walks_alike(&mut self, i: usize, at: u32, now: Now) -> bool {
        let held = self.found(at).map(|entry| entry.traversal);
        let (Some(slot), Some(traversal)) = (self.batch.get(i), held) else {
            return true;
        };
        let Some(frame) = slot.frame.as_ref() else { return true };
        let Some(head) = self.traversals.get(traversal).map(|t| t.head) else { return true };
        let mut world = World {
            program: &self.program,
            conntrack: &mut self.conntrack,
            counters: &self.counters,
            templates: &mut self.templates,
            commits: &mut self.commits,
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
        walk(&mut world, subject, record, &mut Asking, true);
        self.check.punts.clear();
        let kept = self.traversals.items(traversal).skip(head.guards as usize);
        let kept = kept.take(head.steps as usize).map_while(|item| match item {
            Item::Do(step) => Some(step),
            _ => None,
        });
        kept.eq(self.check.recording.steps.iter().copied())
    }
}
