//! What a lane does between batches: crediting rules, ageing, freeing stale entries; and `explain`.
//!
//! Hits count on their cache entry, not on the rules: one line is dirty instead of one for each
//! rule of the walk. What is owed so is credited when the entry goes, before the program changes,
//! and by `settle`.

use super::delta::Dirty;
use super::lane::Lane;
use super::miss::walk;
use super::program::Program;
use super::trace::Observer;
use super::world::{Subject, World};
use crate::action::step::Step;
use crate::cache::Microflows;
use crate::cache::entry::NONE;
use crate::cache::traversal::{Item, Traversals, WHOLE_GROUP};
use crate::clock::Now;
use crate::counters::{Drop, Stat};
use crate::packet::key::{FlowKey, PacketKey, PortIx};
use crate::packet::parse::{self, Layers};
use crate::prefetch::prefetch;

impl Lane {
    /// Credits all that cache hits owe to rules. Called before a dump, and before a program comes
    /// that may number its rules otherwise.
    pub fn settle(&mut self, now: Now) {
        // What is left of a round, and then all that came since.
        self.settle_some(now, usize::MAX);
        self.begin_settling();
        self.settle_some(now, usize::MAX);
    }

    /// Begins a round of crediting what is owed now, if the last is over.
    pub fn begin_settling(&mut self) {
        self.carry_conntrack();
        self.owing.begin();
        self.mega_owing.begin();
    }

    /// Credits what up to `most` entries of either tier owe. True: the round is over.
    pub fn settle_some(&mut self, now: Now, most: usize) -> bool {
        for _ in 0..most {
            let Some((at, _)) = self.mega_owing.next() else { break };
            self.settle_mega(at, now);
        }
        for _ in 0..most {
            let Some((at, soon)) = self.owing.next() else { break };
            self.cache.slot(soon).into_iter().for_each(prefetch);
            let Some(entry) = self.cache.slot_mut(at) else { continue };
            entry.set_owes(false);
            let (p, b) = entry.take_counts();
            if p > 0 && entry.traversal != NONE {
                let traversal = entry.traversal;
                credit(&self.traversals, &self.program, traversal, (p, b), now);
            }
        }
        self.owing.is_over() && self.mega_owing.is_over()
    }

    /// Brings what conntrack has counted since the last time into the worker's counters.
    fn carry_conntrack(&mut self) {
        let (now, seen) = (self.conntrack.stats(), self.ct_seen);
        self.counters.add(Stat::CtCreated, now.created - seen.created);
        self.counters.add(Stat::CtExpired, now.expired - seen.expired);
        self.counters.add(Stat::CtEvicted, now.evicted - seen.evicted);
        self.counters.add(Stat::CtInvalid, now.invalid - seen.invalid);
        self.counters.add(Stat::CtExpected, now.expected - seen.expected);
        self.counters.add(Stat::CtUnexpected, now.unexpected - seen.unexpected);
        self.counters.add(Stat::CtRedirectsLate, now.redirects_late - seen.redirects_late);
        self.counters.add(Stat::CtRedirectsLost, now.redirects_lost - seen.redirects_lost);
        self.ct_seen = now;
    }

    /// Bounded upkeep, to be called between batches: ages connections and MAC addresses, frees
    /// entries that no longer hold.
    pub fn housekeep(&mut self, now: Now, budget: usize) {
        self.conntrack.age(now);
        self.packet_ins.holds.expire(now, budget, &self.counters);
        self.pieces.expire(now, budget, &self.counters);
        for b in &self.program.bridges {
            let mut cursor = self.fdb_cursor;
            b.fdb.expire(&mut cursor, budget, now);
        }
        self.fdb_cursor = self.fdb_cursor.wrapping_add(budget as u32);
        self.sweep(now, budget);
    }

    /// Looks through cache entries that nobody has used since rules changed: frees those that the
    /// changes concern, and brings the others up to date before the changes are forgotten.
    fn sweep(&mut self, now: Now, budget: usize) {
        // Tier 1 comes last: while it grows, no number of before means another entry.
        let megas = self.mega.capacity() as u32;
        let all = megas + self.cache.slots();
        for _ in 0..budget {
            if self.sweep_cursor == 0 {
                self.swept = self.sweep_version;
                if self.swept == self.program.version {
                    return;
                }
                self.sweep_version = self.program.version;
            }
            let at = self.sweep_cursor;
            self.sweep_cursor = (at + 1) % all;
            let Some(at) = at.checked_sub(megas) else {
                self.sweep_mega(at, now);
                continue;
            };
            let Some(entry) = self.cache.slot_mut(at) else { continue };
            let Some(head) = self.traversals.get(entry.traversal).map(|t| t.head) else { continue };
            if self.recent.holds(entry.epoch, &entry.key, head.tables, Dirty(head.dirty)) {
                entry.epoch = self.recent.epoch();
            } else {
                vacate(&mut self.cache, &mut self.traversals, &self.program, at, now);
            }
        }
    }

    /// Explains what would become of a frame; changes nothing.
    pub fn explain(
        &mut self,
        bytes: &[u8],
        in_port: PortIx,
        tunnel: Option<&FlowKey>,
        now: Now,
        seen: &mut dyn Observer,
    ) -> Result<Vec<Step>, Drop> {
        let (mut key, mut layers) = (PacketKey::default(), Layers::default());
        let limit = self.program.vlan_limit;
        parse::parse_limited(bytes, in_port, limit, &mut key, &mut layers)?;
        if let Some(came_by) = tunnel {
            key.came_by_tunnel(came_by);
        }
        let mut world = World {
            program: &self.program,
            conntrack: &mut self.conntrack,
            counters: &self.counters,
            templates: &mut self.templates,
            commits: &mut self.commits,
            events: &mut self.events,
            now,
            wide: true,
        };
        let subject = Subject { key: &key, bytes, layers: &layers, in_port, checksums_good: true };
        let record = (&mut self.recording, &mut self.punts);
        walk(&mut world, subject, record, seen, true);
        self.punts.clear();
        Ok(self.recording.steps.clone())
    }
}

/// Credits and releases what a cache slot holds. Says whether it held anything.
pub(super) fn vacate(
    cache: &mut Microflows,
    traversals: &mut Traversals,
    program: &Program,
    at: u32,
    now: Now,
) -> bool {
    let Some(held) = cache.take(at) else { return false };
    if held.packets > 0 {
        credit(traversals, program, held.traversal, (u32::from(held.packets), held.bytes), now);
    }
    traversals.release(held.traversal);
    true
}

/// Adds counts to the rules of a traversal.
pub(super) fn credit(
    all: &Traversals,
    program: &Program,
    traversal: u32,
    counts: (u32, u32),
    now: Now,
) {
    let Some(head) = all.get(traversal).map(|t| t.head) else { return };
    let skip = head.guards as usize + head.steps as usize;
    for item in all.items(traversal).skip(skip).take(head.credits as usize) {
        let counts = (u64::from(counts.0), u64::from(counts.1));
        credit_item(program, &item, counts, now);
    }
}

/// Adds counts to what an item names.
pub(super) fn credit_item(program: &Program, item: &Item, (p, b): (u64, u64), now: Now) {
    match *item {
        Item::Credit(rules) => {
            for rule in rules {
                if let Some(r) = program.rules.get(rule) {
                    r.stats.add(p, b, now.ns);
                }
            }
        }
        Item::Learned(rule) => {
            if let Some(r) = program.rules.get(rule) {
                r.stats.learn_again(now.ns);
            }
        }
        Item::Bucket { bridge, bucket, group } => {
            let bridge = program.bridges.get(usize::from(bridge));
            let Some(g) = bridge.and_then(|br| br.groups.get(&group)) else { return };
            g.stats.add(p, b, now.ns);
            let all = bucket == WHOLE_GROUP;
            let met = (0..).zip(&g.buckets).filter(|(at, _)| all || *at == bucket);
            met.for_each(|(_, one)| one.stats.add(p, b, now.ns));
        }
        Item::Do(_)
        | Item::Ct(_)
        | Item::LabelLow(_)
        | Item::LabelHigh(_)
        | Item::Pin(_)
        | Item::Fdb(_) => {}
    }
}
