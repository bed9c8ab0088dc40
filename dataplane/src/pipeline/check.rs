//! The runtime self-check: of every so many packets, one that hit the tier asked first is walked
//! too.
//!
//! The walk is dry (it learns, commits and counts nothing) and its steps are compared with those
//! that the cache is about to run. A difference is a flaw of ours: it is counted, control logs
//! it, and the entry is given up, so that the packet goes the tables' way.
//!
//! A walk through connection tracking is told what the entry's connections stand for, each if the
//! packet is of its tuple and zone when the walk comes to it. Which state a connection takes up is
//! conntrack's to prove (its `hit` against its `lookup`); that the entry names the connections
//! that the walk would find, and does with them what the walk would do, is what is checked here.

use super::delta::Dirty;
use super::freeze::Punts;
use super::guards;
use super::miss::{Subject, World, walk};
use super::punt::Punt;
use super::run::Lane;
use super::trace::{Observer, unknown};
use super::upkeep::vacate;
use crate::action::Ct;
use crate::action::group::{Bucket, Group};
use crate::action::learn::Learn;
use crate::cache::Entry;
use crate::cache::traversal::{Item, Recording};
use crate::clock::Now;
use crate::conntrack::{Conntrack, CtPacket, CtResult, Tuple};
use crate::counters::Stat;
use crate::limits::TRAVERSAL_CONNS_MAX;
use crate::packet::frame::Frame;
use crate::packet::key::FlowKey;

/// What an entry relied on, told to the walk in its place.
#[derive(Debug, Default)]
struct Answers {
    list: [Option<(CtResult, Tuple, u16)>; TRAVERSAL_CONNS_MAX],
    next: usize,
}

impl Answers {
    fn new(guards: impl Iterator<Item = Item>, conntrack: &Conntrack) -> Self {
        let mut answers = Self::default();
        let tracked = guards.filter_map(|g| match g {
            Item::Ct(g) => Some(conntrack.standing(g.conn, g.reply, g.state)),
            _ => None,
        });
        answers.list.iter_mut().zip(tracked).for_each(|(place, answer)| *place = answer);
        answers
    }
}

impl Observer for Answers {
    fn ct(&mut self, zone: u16, _: &Ct, packet: &CtPacket) -> CtResult {
        let answer = self.list.get(self.next).copied().flatten();
        self.next += 1;
        let own = answer.filter(|(_, tuple, of)| *tuple == packet.tuple && *of == zone);
        own.map_or_else(|| unknown(packet), |(result, ..)| result)
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
    fn checkable(&self, i: usize, now: Now) -> Option<u32> {
        let slot = self.batch.get(i)?;
        let entry = self.found(slot.hit)?;
        let head = self.traversals.get(entry.traversal)?.head;
        let len = slot.frame.as_ref().map_or(0, Frame::len);
        let guards = self.traversals.items(entry.traversal).take(head.guards as usize);
        let is_current = if self.first.is_tier2() {
            self.mega_is_current(slot.hit)
        } else {
            self.recent.holds(entry.epoch, &entry.key, head.tables, Dirty(head.dirty))
        };
        let is_served = head.fits(len)
            && is_current
            && guards::would_hold(guards, &self.conntrack, &self.program, slot, now);
        is_served.then_some(slot.hit)
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
        let guards = self.traversals.items(traversal).take(head.guards as usize);
        let mut answers = Answers::new(guards, &self.conntrack);
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
        walk(&mut world, subject, record, &mut answers, true);
        self.check.punts.clear();
        let kept = self.traversals.items(traversal).skip(head.guards as usize);
        let kept = kept.take(head.steps as usize).map_while(|item| match item {
            Item::Do(step) => Some(step),
            _ => None,
        });
        kept.eq(self.check.recording.steps.iter().copied())
    }
}
