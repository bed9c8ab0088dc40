//! The flows of one bridge, as the operator wrote them.
//!
//! A change (add, modify, delete, replace; one flow or a file of them) is made in place with a
//! journal, and taken back by it if any part is refused: whole or not at all, at the cost of what
//! it touches. What it made of the rules goes to the program as a list ([`Outcome::changes`]).
//!
//! **Memory.** A flow is its rule in the program, 40 bytes beside it, and what it shares with
//! others (`packed`); a file is packed line by line (`batch`). 100 k rules of 5 fields take 235
//! bytes each in the whole process and 473 at the peak of the load; routes
//! take 271 and 510, an access list of a dozen masks 308 and 537, flows with actions of their own
//! 264 and 473.
//!
//! Rules of change: OpenFlow 1.0 section 4.6, 1.5.1 section 6.4 and Open vSwitch
//! (`ovs-ofctl(8)`): adding a flow with the table, priority and match of another replaces that and
//! starts its counters anew; modifying keeps counters and timeouts; a modification that matches
//! nothing adds.

mod backends;
mod batch;
mod draft;
mod learn;
mod numbered;
mod packed;
#[cfg(test)]
mod tests;

use crate::flow::{Flow, FlowFilter, FlowMod, PortNames, print_flow, uses_group, uses_meter};
pub use backends::Backends;
pub use batch::{Additions, Batch};
use draft::Draft;
pub(crate) use draft::Pending;
use hashbrown::HashTable;
pub use learn::Wish;
use numbered::Numbered;
use packed::place_hash;
pub use packed::{Manner, Packed, Pool, Step, flow_of, form_of, manner_of, match_of};
use sluice_dataplane::classify::CompactMatch;
use sluice_dataplane::limits::RULES_PER_TABLE_MAX;
use sluice_dataplane::pipeline::{Rule, RuleChange, RuleIds};
use std::borrow::Cow;
use std::collections::{HashMap, HashSet};
use std::sync::Arc;

/// A flow: its rule, which has all that was written, and when it came.
#[derive(Clone, Debug)]
pub struct Stored {
    pub rule: Arc<Rule>,
    /// Time of the worker clock; later than that of every flow that came before, which keeps dumps
    /// in order.
    pub created_ns: u64,
    pub modified_ns: u64,
    /// The rule's number in the program.
    pub number: u32,
}

const _: () = assert!(size_of::<Option<Stored>>() == 32, "there may be a million of them");

impl Stored {
    /// What it is besides, with 0 for each value of its actions that was taken out.
    pub fn form(&self) -> &Manner {
        form_of(&self.rule.actions)
    }

    pub fn uses_group(&self, id: u32) -> bool {
        uses_group(&self.form().actions, id)
    }

    pub fn uses_meter(&self, id: u32) -> bool {
        uses_meter(&self.form().actions, id)
    }

    /// The flow as it was written.
    pub fn flow(&self) -> Flow {
        flow_of(&self.rule)
    }

    /// The flow as text.
    pub fn text(&self, names: &dyn PortNames) -> String {
        print_flow(&self.flow(), names)
    }

    fn is_selected(&self, filter: &FlowFilter) -> bool {
        let r = &self.rule;
        filter.selects_but_match(r.table, r.cookie, &|| {
            Cow::Owned(manner_of(&r.actions).actions.into())
        }) && filter.selects_match(r.priority, &match_of(r))
    }
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

impl Site<'_> {
    fn again(&mut self) -> Site<'_> {
        let Site { bridge, names, version, now_ns, .. } = *self;
        Site { bridge, names, ids: self.ids, version, now_ns }
    }
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
    all: Numbered,
    /// Numbers, by the hash of table, priority and match.
    by_place: HashTable<u32>,
    pool: Pool,
    counts: HashMap<u8, usize>,
    limits: HashMap<u8, TableLimit>,
    /// Flows that can time out.
    timed: usize,
    /// When the last flow was made.
    last_ns: u64,
    /// Table and cookie of each `learn(delete_learned)`, and how many flows have it.
    learners: HashMap<(u8, u64), usize>,
    /// Flows with a `learn(limit=)`.
    limited: HashSet<u32>,
    backends: Backends,
}

fn hash_of(rule: &Rule) -> u64 {
    place_hash(rule.table, rule.priority, &rule.matching)
}

impl Flows {
    pub fn len(&self) -> usize {
        self.all.len()
    }

    pub fn is_empty(&self) -> bool {
        self.all.len() == 0
    }

    /// All flows: by table, then falling priority, then in order of arrival.
    pub fn sorted(&self) -> Vec<&Stored> {
        let mut all: Vec<&Stored> = self.all.iter().collect();
        all.sort_by_key(|s| (s.rule.table, u16::MAX - s.rule.priority, s.created_ns));
        all
    }

    /// The flow of a rule.
    pub fn by_number(&self, number: u32) -> Option<&Stored> {
        self.all.get(number)
    }

    /// The flow with the same table, priority and match.
    pub fn find(&self, flow: &Flow) -> Option<&Stored> {
        let shape = self.pool.known_shape(&flow.match_.mask)?;
        let matching = CompactMatch::new(shape.clone(), &flow.match_.key, None);
        self.find_at(flow.table, flow.priority, &matching)
    }

    fn find_at(&self, table: u8, priority: u16, matching: &CompactMatch) -> Option<&Stored> {
        let is_it = |n: &u32| {
            self.all.get(*n).is_some_and(|s| {
                (s.rule.table, s.rule.priority) == (table, priority)
                    && s.rule.matching.is_same_match(matching)
            })
        };
        let number = self.by_place.find(place_hash(table, priority, matching), is_it)?;
        self.all.get(*number)
    }

    /// The flows that a filter selects, as `sorted`.
    pub fn select(&self, filter: &FlowFilter) -> Vec<&Stored> {
        self.sorted().into_iter().filter(|s| s.is_selected(filter)).collect()
    }

    /// The numbers of the flows that `fits` chooses, in order.
    pub fn numbers(&self, fits: &dyn Fn(&Stored) -> bool) -> Vec<u32> {
        self.all.iter().filter(|s| fits(s)).map(|s| s.number).collect()
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

    /// The flows that tables hold, and what they hold at most: in order, of tables in use or with
    /// a limit of their own.
    pub fn tables(&self) -> Vec<(u8, usize, TableLimit)> {
        let in_use = self.counts.iter().filter(|(_, n)| **n > 0).map(|(t, _)| *t);
        let mut all: Vec<u8> = in_use.chain(self.limits.keys().copied()).collect();
        all.sort_unstable();
        all.dedup();
        all.into_iter().map(|t| (t, self.count(t), self.limit(t))).collect()
    }

    /// NAT's destinations.
    pub fn backends(&self) -> &Backends {
        &self.backends
    }

    pub fn backends_mut(&mut self) -> &mut Backends {
        &mut self.backends
    }

    /// Applies commands in order.
    pub fn apply(&mut self, mods: &[FlowMod], site: Site<'_>) -> Result<Outcome, StoreError> {
        Draft::run(self, site, |draft| mods.iter().try_for_each(|m| draft.apply(m)))
    }

    /// The same, of a list that is used up.
    pub fn run(&mut self, steps: Vec<Step>, site: Site<'_>) -> Result<Outcome, StoreError> {
        Draft::run(self, site, |draft| {
            steps.into_iter().try_for_each(|step| match step {
                Step::Add(flow) => draft.add(flow),
                Step::Other(m) => draft.apply(&m),
            })
        })
    }

    /// Adds flows, so that it can be taken back until it is settled.
    pub(crate) fn prepare(
        &mut self,
        flows: Vec<Packed>,
        site: Site<'_>,
    ) -> Result<Pending, StoreError> {
        Draft::prepare(self, site, |draft| flows.into_iter().try_for_each(|f| draft.add(f)))
    }

    /// Makes the flows those of the list; what is equal stays, with its counters.
    pub fn replace(&mut self, flows: Vec<Packed>, site: Site<'_>) -> Result<Outcome, StoreError> {
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
    fn link(&mut self, s: Stored) {
        let (rule, number) = (s.rule.clone(), s.number);
        *self.counts.entry(rule.table).or_default() += 1;
        let manner = form_of(&rule.actions);
        self.timed += usize::from(manner.can_time_out());
        self.backends.add(&manner.actions);
        let (learners, limited) = (&mut self.learners, &mut self.limited);
        learn::each_learn(&manner.actions, &mut |l| {
            if l.delete_learned {
                *learners.entry((l.table, l.cookie)).or_default() += 1;
            }
            if l.limit > 0 {
                limited.insert(number);
            }
        });
        self.all.insert(s);
        let all = &self.all;
        let hash = |n: &u32| all.get(*n).map_or(0, |s| hash_of(&s.rule));
        self.by_place.insert_unique(hash_of(&rule), number, hash);
    }

    /// A flow went: learners that found no room for its like may ask again.
    fn tell_learners(&self, gone: &Rule) {
        for s in self.limited.iter().filter_map(|n| self.all.get(*n)) {
            learn::each_learn(&s.form().actions, &mut |l| {
                if (l.table, l.cookie) == (gone.table, gone.cookie) {
                    s.rule.stats.set_learn_full(false);
                }
            });
        }
    }

    fn unlink(&mut self, number: u32) -> Option<Stored> {
        let s = self.all.remove(number)?;
        if let Ok(entry) = self.by_place.find_entry(hash_of(&s.rule), |n| *n == number) {
            entry.remove();
        }
        if let Some(n) = self.counts.get_mut(&s.rule.table) {
            *n -= 1;
        }
        let manner = form_of(&s.rule.actions);
        self.timed -= usize::from(manner.can_time_out());
        self.limited.remove(&number);
        self.backends.remove(&manner.actions);
        let learners = &mut self.learners;
        learn::each_learn(&manner.actions, &mut |l| {
            let pair = (l.table, l.cookie);
            let Some(n) = learners.get_mut(&pair).filter(|_| l.delete_learned) else { return };
            *n -= 1;
            if *n == 0 {
                learners.remove(&pair);
            }
        });
        self.tell_learners(&s.rule);
        Some(s)
    }

    /// A change was made or taken back: what only it used may go.
    fn tidy(&mut self) {
        self.pool.fit(self.all.len());
        if self.by_place.capacity() > 4096.max(4 * self.by_place.len()) {
            let all = &self.all;
            self.by_place.shrink_to_fit(|n| all.get(*n).map_or(0, |s| hash_of(&s.rule)));
        }
    }
}
