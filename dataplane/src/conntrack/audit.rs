//! Counting everything again, slowly, to see that nothing got lost.
//!
//! Whatever conntrack keeps, it keeps in several places: a connection has a place of the table,
//! slots of the index, a link in a timer wheel, a place in its zone's count, perhaps a NAT port and
//! redirects at other workers. What goes wrong there shows late, as a table that is full of nobody.
//! So everything that can be counted is counted anew from the places themselves, and held against
//! the counts and links that the code keeps. Each structure looks at its own memory (`table`,
//! `index`, `wheel`, `nat_ports`, `redirect`, each with a file `audit`); here they are held against
//! one another.
//!
//! It changes nothing, but takes time and memory by the size of the table: for tests and soaks.

use super::alg::bit;
use super::conn::flag;
use super::expire::ticks;
use super::home::told;
use super::key::{IpKey, Tuple};
use super::{Conntrack, Notice, nat_ports};
use crate::clock::Now;
use std::collections::{BTreeMap, HashMap};

/// What is wrong is told so often; the rest is counted.
const TOLD_MAX: usize = 12;

/// What does not add up.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Findings {
    list: Vec<String>,
    count: usize,
}

impl Findings {
    pub(super) fn wrong(&mut self, what: impl FnOnce() -> String) {
        self.count += 1;
        if self.list.len() < TOLD_MAX {
            self.list.push(what());
        }
    }

    /// Two counts of the same.
    pub(super) fn same(&mut self, what: &str, kept: usize, counted: usize) {
        if kept != counted {
            self.wrong(|| format!("{what}: {kept} by its own count, {counted} when counted"));
        }
    }

    pub fn is_empty(&self) -> bool {
        self.count == 0
    }

    /// The first of them.
    pub fn told(&self) -> &[String] {
        &self.list
    }

    /// All of them, those included that are not told.
    pub fn count(&self) -> usize {
        self.count
    }
}

/// What was counted, over all workers.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Audit {
    /// Places of the table, and which of them are in use or on the free list; the others were never
    /// used.
    pub places: usize,
    pub live: usize,
    pub freed: usize,
    /// Entries of the index, and links in timer wheels.
    pub index_entries: usize,
    pub queued: usize,
    /// NAT ports and identifiers that live connections hold.
    pub nat_ports: usize,
    pub expected: usize,
    pub helped: usize,
    pub children: usize,
    /// Redirects that workers have of each other.
    pub redirects: usize,
    /// Live connections by zone.
    pub zones: BTreeMap<u16, usize>,
    pub findings: Findings,
}

/// Users of each port, by pool (address, zone, protocol, IPv6).
pub(super) type Ports = HashMap<(IpKey, u16, u8, bool), Vec<u16>>;

/// Uses by tuple, and by who is redirected to.
pub(super) type Redirected = HashMap<(Tuple, u8), u64>;

impl Audit {
    /// Nothing is left: no connection, and nothing that one had.
    pub fn is_bare(&self) -> bool {
        let Self { places: _, freed: _, findings: _, zones, .. } = self;
        let left = [self.live, self.index_entries, self.queued, self.nat_ports, self.expected];
        let more = [self.helped, self.children, self.redirects, zones.len()];
        left.iter().chain(&more).all(|n| *n == 0)
    }

    /// Counts workers of one switch, between two batches, with no notice on its way from one to
    /// another. Redirects that were lost for want of room make findings.
    pub fn of(workers: &[&Conntrack], now: Now) -> Self {
        let mut a = Self::default();
        workers.iter().for_each(|ct| ct.audit(&mut a, now));
        for (zone, counted) in zone_counts(workers, &a.zones) {
            let kept = workers.first().map_or(0, |ct| ct.zones.count(zone));
            a.findings.same(&format!("connections of zone {zone}"), kept as usize, counted);
        }
        audit_redirects(workers, &mut a);
        a
    }
}

/// Each zone's live connections; zones that have none, too.
fn zone_counts(workers: &[&Conntrack], live: &BTreeMap<u16, usize>) -> Vec<(u16, usize)> {
    let used = |z: &u16| live.contains_key(z) || workers.iter().any(|ct| ct.zones.count(*z) > 0);
    (0..=u16::MAX).filter(used).map(|z| (z, live.get(&z).copied().unwrap_or(0))).collect()
}

/// What workers want of each other is what they have of each other.
fn audit_redirects(workers: &[&Conntrack], a: &mut Audit) {
    for at in workers {
        let me = at.homes.seat().worker;
        let mut want = Redirected::new();
        for ct in workers.iter().filter(|ct| ct.homes.seat().worker != me) {
            ct.wanted_of(me, &mut want);
        }
        let have = at.homes.audit_redirects(&mut a.findings);
        a.redirects += have.len();
        for (key, uses) in &want {
            let found = have.get(key).copied().unwrap_or(0);
            if found != *uses {
                a.findings.wrong(|| {
                    format!("worker {me} redirects {key:?} {found} times, wanted {uses}")
                });
            }
        }
        for key in have.keys().filter(|key| !want.contains_key(key)) {
            a.findings.wrong(|| format!("worker {me} redirects {key:?}, which nobody wants"));
        }
    }
}

impl Conntrack {
    fn live_places(&self) -> impl Iterator<Item = u32> {
        (0..self.table.places()).filter(|ix| self.table.hot(*ix).has(flag::LIVE))
    }

    fn audit(&self, a: &mut Audit, now: Now) {
        let f = &mut a.findings;
        let live = self.live_places().count();
        a.places += self.table.capacity();
        a.live += live;
        a.freed += self.table.audit(live, f);
        a.index_entries += self.table.audit_index(f);
        a.queued += self.wheels.audit(&self.table, ticks(now), f);
        let mut ports = Ports::new();
        for ix in self.live_places() {
            let hot = self.table.hot(ix);
            *a.zones.entry(hot.zone).or_default() += 1;
            if hot.has(flag::POOL) {
                let reply = self.table.tuple(ix, 1);
                let pool = (reply.dst, hot.zone, reply.proto, reply.v6);
                let pool = ports.entry(pool).or_insert_with(|| vec![0; nat_ports::PORTS]);
                pool[usize::from(reply.dest_port())] += 1;
            }
        }
        a.nat_ports += self.pools.audit(&ports, f);
        let helped = self.live_places().filter(|ix| self.table.hot(*ix).alg & bit::HELPED != 0);
        let bits = |ix: u32| {
            let hot = self.table.hot(ix);
            if hot.has(flag::LIVE) { hot.alg } else { 0 }
        };
        self.algs.audit(bits, helped.count(), a);
        let (claimed, owed) = (self.claims().len(), self.homes.owed().count());
        a.findings.same("redirects that others have of us", self.homes.given(), claimed + owed);
    }

    /// Tuples that others are told of, and whom.
    fn claims(&self) -> Vec<(u8, Tuple)> {
        let mut all = Vec::new();
        for ix in self.live_places() {
            for (bit, dir) in [(told::ORIG, 0), (told::REPLY, 1)] {
                if self.table.hot(ix).told & bit != 0 {
                    let tuple = self.table.tuple(ix, dir);
                    all.push((self.homes.of(&tuple), tuple));
                }
            }
        }
        let seat = self.homes.seat();
        for tuple in self.algs.awaited() {
            let others = (0..seat.workers).filter(|w| *w != seat.worker);
            all.extend(others.map(|w| (w, tuple)));
        }
        all
    }

    /// What this worker has had of another, by its own books: what it claims and has told, and what
    /// it has not withdrawn yet.
    fn wanted_of(&self, worker: u8, want: &mut Redirected) {
        let me = self.homes.seat().worker;
        let all = self.claims().into_iter().chain(self.homes.owed());
        for (_, tuple) in all.filter(|(w, _)| *w == worker) {
            *want.entry((tuple, me)).or_default() += 1;
        }
        for tuple in self.homes.untold(worker) {
            // Not told yet, and so not there.
            if let Some(n) = want.get_mut(&(tuple, me)) {
                *n -= 1;
            }
        }
        want.retain(|_, n| *n > 0);
    }
}

impl nat_ports::Key {
    pub(super) fn words(&self) -> (IpKey, u16, u8, bool) {
        (self.address, self.zone, self.proto, self.v6)
    }
}

/// The redirect of a notice to this worker.
pub(super) fn redirect_to(worker: u8, (to, notice): &(u8, Notice)) -> Option<Tuple> {
    match notice {
        Notice::Redirect { tuple, .. } if *to == worker => Some(*tuple),
        _ => None,
    }
}

#[cfg(test)]
mod tests;
