//! The flows of one bridge, as the operator wrote them.
//!
//! A change (add, modify, delete, replace; one flow or a file of them) is made in place with a
//! journal, and taken back by it if any part is refused: whole or not at all, at the cost of what
//! it touches. What it made of the rules goes to the program as a list ([`Outcome::changes`]).
//!
//! Rules of change: OpenFlow 1.0 section 4.6, 1.5.1 section 6.4 and Open vSwitch
//! (`ovs-ofctl(8)`): adding a flow with the table, priority and match of another replaces that and
//! starts its counters anew; modifying keeps counters and timeouts; a modification that matches
//! nothing adds.

mod draft;
mod learn;
#[cfg(test)]
mod tests;

use crate::flow::{Flow, FlowAction, FlowFilter, FlowMod, PortNames};
use draft::Draft;
pub use learn::Wish;
use sluice_dataplane::limits::RULES_PER_TABLE_MAX;
use sluice_dataplane::pipeline::{Rule, RuleChange, RuleIds};
use std::collections::{HashMap, HashSet};
use std::hash::{DefaultHasher, Hash, Hasher};
use std::sync::Arc;

/// A flow with what was made of it.
#[derive(Clone, Debug)]
pub struct Stored {
    pub flow: Arc<Flow>,
    pub rule: Arc<Rule>,
    /// The rule's number in the program.
    pub number: u32,
    /// Time of the worker clock.
    pub created_ns: u64,
    pub modified_ns: u64,
    /// Place in the order of arrival: keeps dumps stable.
    order: u64,
    /// The next flow whose match has the same hash.
    next: Option<u32>,
}

/// How many flows a change touched.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Changed {
    pub added: u64,
    pub modified: u64,
    pub deleted: u64,
}

/// Why a flow went (OpenFlow 1.5.1 section 7.4.2).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RemovedReason {
    IdleTimeout,
    HardTimeout,
    Delete,
    GroupDelete,
    MeterDelete,
    Eviction,
}

/// A flow with `send_flow_rem` that went.
#[derive(Clone, Debug)]
pub struct Removed {
    pub stored: Stored,
    pub reason: RemovedReason,
}

/// What a change came to.
#[derive(Debug, Default)]
pub struct Outcome {
    pub changed: Changed,
    /// For the program.
    pub changes: Vec<RuleChange>,
    pub removed: Vec<Removed>,
}

/// Why a change was refused; nothing has changed then.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum StoreError {
    #[error("table {table} is full: it holds {max} flows")]
    TableFull { table: u8, max: usize },
    #[error(
        "the flow overlaps with \"{with}\": same priority, and a packet could match both; \
         change one priority, or leave check_overlap out"
    )]
    Overlap { with: String },
}

/// What a change needs to know of the switch around the flows.
pub struct Site<'a> {
    /// The bridge's place in the program.
    pub bridge: u16,
    pub names: &'a dyn PortNames,
    pub ids: &'a mut RuleIds,
    /// The first program that will have the change.
    pub version: u64,
    pub now_ns: u64,
}

/// What a table holds at most, and what happens beyond (OpenFlow 1.5.1 section 6.5).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TableLimit {
    pub flows_max: usize,
    /// The least important flow that can time out makes room; else the new one is refused.
    pub evicts: bool,
}

impl Default for TableLimit {
    fn default() -> Self {
        Self { flows_max: RULES_PER_TABLE_MAX, evicts: false }
    }
}

/// The flows of a bridge.
#[derive(Debug, Default)]
pub struct Flows {
    by_number: HashMap<u32, Stored>,
    /// Hash of table, priority and match to the first flow that has it.
    by_match: HashMap<u64, u32>,
    counts: HashMap<u8, usize>,
    limits: HashMap<u8, TableLimit>,
    /// Flows that can time out.
    timed: usize,
    next_order: u64,
    /// Table and cookie of each `learn(delete_learned)`, and how many flows have it.
    learners: HashMap<(u8, u64), usize>,
    /// Flows with a `learn(limit=)`.
    limited: HashSet<u32>,
}

fn place_hash(flow: &Flow) -> u64 {
    let mut h = DefaultHasher::new();
    (flow.table, flow.priority).hash(&mut h);
    let (key, mask) = (flow.match_.key.words(), flow.match_.mask.words());
    for (at, (k, m)) in key.iter().zip(mask).enumerate().filter(|(_, (_, m))| **m != 0) {
        (at, k, m).hash(&mut h);
    }
    h.finish()
}

/// Whether both have the same table, priority and match: then they are the same flow.
fn same_place(a: &Flow, b: &Flow) -> bool {
    (a.table, a.priority) == (b.table, b.priority) && a.match_ == b.match_
}

fn can_time_out(flow: &Flow) -> bool {
    let shortens = |a: &FlowAction| matches!(a, FlowAction::FinTimeout { .. });
    flow.idle_timeout_s > 0 || flow.hard_timeout_s > 0 || flow.actions.iter().any(shortens)
}

impl Flows {
    pub fn len(&self) -> usize {
        self.by_number.len()
    }

    pub fn is_empty(&self) -> bool {
        self.by_number.is_empty()
    }

    /// All flows: by table, then falling priority, then in order of arrival.
    pub fn sorted(&self) -> Vec<&Stored> {
        let mut all: Vec<&Stored> = self.by_number.values().collect();
        all.sort_by_key(|s| (s.flow.table, u16::MAX - s.flow.priority, s.order));
        all
    }

    /// The flow of a rule.
    pub fn by_number(&self, number: u32) -> Option<&Stored> {
        self.by_number.get(&number)
    }

    /// The flow with the same table, priority and match.
    pub fn find(&self, flow: &Flow) -> Option<&Stored> {
        let mut at = self.by_match.get(&place_hash(flow)).copied();
        while let Some(s) = at.and_then(|n| self.by_number.get(&n)) {
            if same_place(&s.flow, flow) {
                return Some(s);
            }
            at = s.next;
        }
        None
    }

    /// The flows that a filter selects, as `sorted`.
    pub fn select(&self, filter: &FlowFilter) -> Vec<&Stored> {
        self.sorted().into_iter().filter(|s| filter.selects(&s.flow)).collect()
    }

    /// The numbers of the flows that `fits` chooses, in order.
    pub fn numbers(&self, fits: &dyn Fn(&Flow) -> bool) -> Vec<u32> {
        let chosen = self.by_number.values().filter(|s| fits(&s.flow));
        let mut all: Vec<u32> = chosen.map(|s| s.number).collect();
        all.sort_unstable();
        all
    }

    /// Whether any flow can time out.
    pub fn has_timeouts(&self) -> bool {
        self.timed > 0
    }

    /// What a table holds at most; flows that are there already stay.
    pub fn set_limit(&mut self, table: u8, limit: TableLimit) {
        self.limits.insert(table, limit);
    }

    fn limit(&self, table: u8) -> TableLimit {
        self.limits.get(&table).copied().unwrap_or_default()
    }

    fn count(&self, table: u8) -> usize {
        self.counts.get(&table).copied().unwrap_or(0)
    }

    /// Applies commands in order.
    pub fn apply(&mut self, mods: &[FlowMod], site: Site<'_>) -> Result<Outcome, StoreError> {
        Draft::run(self, site, |draft| mods.iter().try_for_each(|m| draft.apply(m)))
    }

    /// Adds flows.
    pub fn add_all(&mut self, flows: &[Flow], site: Site<'_>) -> Result<Outcome, StoreError> {
        Draft::run(self, site, |draft| flows.iter().try_for_each(|f| draft.add(f)))
    }

    /// Makes the flows those of the list; what is equal stays, with its counters.
    pub fn replace(&mut self, flows: &[Flow], site: Site<'_>) -> Result<Outcome, StoreError> {
        Draft::run(self, site, |draft| draft.replace(flows))
    }

    /// Takes flows away for other reasons than a command, then applies commands.
    pub fn bundle(
        &mut self,
        doomed: &[(Vec<u32>, RemovedReason)],
        mods: &[FlowMod],
        site: Site<'_>,
    ) -> Result<Outcome, StoreError> {
        Draft::run(self, site, |draft| {
            doomed.iter().for_each(|(numbers, why)| draft.take_all(numbers, *why));
            mods.iter().try_for_each(|m| draft.apply(m))
        })
    }

    /// Takes away what has timed out.
    pub fn expire(&mut self, site: Site<'_>) -> Outcome {
        // Taking away is never refused.
        Draft::run(self, site, |draft| draft.expire()).unwrap_or_default()
    }

    /// Takes away flows for another reason than a command.
    pub fn remove(&mut self, numbers: &[u32], why: RemovedReason, site: Site<'_>) -> Outcome {
        Draft::run(self, site, |draft| {
            draft.take_all(numbers, why);
            Ok(())
        })
        .unwrap_or_default()
    }

    /// Links a flow in under its number.
    fn link(&mut self, mut s: Stored) {
        s.next = self.by_match.insert(place_hash(&s.flow), s.number);
        *self.counts.entry(s.flow.table).or_default() += 1;
        self.timed += usize::from(can_time_out(&s.flow));
        let (learners, limited) = (&mut self.learners, &mut self.limited);
        learn::each_learn(&s.flow.actions, &mut |l| {
            if l.delete_learned {
                *learners.entry((l.table, l.cookie)).or_default() += 1;
            }
            if l.limit > 0 {
                limited.insert(s.number);
            }
        });
        self.by_number.insert(s.number, s);
    }

    /// A flow went: learners that found no room for its like may ask again.
    fn tell_learners(&self, gone: &Flow) {
        for s in self.limited.iter().filter_map(|n| self.by_number.get(n)) {
            learn::each_learn(&s.flow.actions, &mut |l| {
                if (l.table, l.cookie) == (gone.table, gone.cookie) {
                    s.rule.stats.set_learn_full(false);
                }
            });
        }
    }

    fn unlink(&mut self, number: u32) -> Option<Stored> {
        let s = self.by_number.remove(&number)?;
        let hash = place_hash(&s.flow);
        let first = self.by_match.get(&hash).copied();
        if first == Some(number) {
            match s.next {
                Some(next) => _ = self.by_match.insert(hash, next),
                None => _ = self.by_match.remove(&hash),
            }
        } else {
            let mut at = first;
            while let Some(before) = at.and_then(|n| self.by_number.get_mut(&n)) {
                if before.next == Some(number) {
                    before.next = s.next;
                    break;
                }
                at = before.next;
            }
        }
        if let Some(n) = self.counts.get_mut(&s.flow.table) {
            *n -= 1;
        }
        self.timed -= usize::from(can_time_out(&s.flow));
        self.limited.remove(&number);
        let learners = &mut self.learners;
        learn::each_learn(&s.flow.actions, &mut |l| {
            let pair = (l.table, l.cookie);
            let Some(n) = learners.get_mut(&pair).filter(|_| l.delete_learned) else { return };
            *n -= 1;
            if *n == 0 {
                learners.remove(&pair);
            }
        });
        self.tell_learners(&s.flow);
        Some(s)
    }
}
