//! A change under way: made in place, with a journal to take it back by.

use super::{
    Flows, Manner, Outcome, Packed, Removed, RemovedReason, Site, StoreError, Stored, form_of,
    manner_of,
};
use crate::compile::lower;
use crate::flow::{Command, Flow, FlowMod};
use sluice_dataplane::action::Action;
use sluice_dataplane::pipeline::{Actions, FlowStats, Rule, RuleChange, RuleIds};
use std::collections::{HashMap, HashSet};
use std::sync::Arc;

/// What to do to take a change back, the last first.
#[derive(Debug)]
enum Undo {
    Added(u32),
    Gone(Box<Stored>),
    /// The flow as it was; its number is the same.
    Rewritten(Box<Stored>),
}

/// A change that is made and can be taken back.
#[derive(Debug)]
#[must_use = "settle it or take it back"]
pub(crate) struct Pending {
    journal: Vec<Undo>,
    /// Counters to start anew once the change is made.
    resets: Vec<Arc<Rule>>,
    out: Outcome,
    version: u64,
}

impl Pending {
    /// Numbers of flows that went are free from the next program on.
    pub fn settle(self, flows: &mut Flows, ids: &mut RuleIds) -> Outcome {
        self.resets.iter().for_each(|r| r.stats.reset());
        for undo in &self.journal {
            if let Undo::Gone(s) = undo {
                ids.give_back(s.number, self.version);
            }
        }
        drop(self.journal);
        flows.tidy();
        self.out
    }

    pub fn take_back(self, flows: &mut Flows, ids: &mut RuleIds) {
        drop(self.out);
        for undo in self.journal.into_iter().rev() {
            match undo {
                Undo::Added(number) => {
                    flows.unlink(number);
                    ids.give_back(number, 0);
                }
                Undo::Gone(s) => flows.link(*s),
                Undo::Rewritten(s) => {
                    flows.unlink(s.number);
                    flows.link(*s);
                }
            }
        }
        flows.tidy();
    }
}

/// A change under way.
pub(super) struct Draft<'a> {
    pub(super) flows: &'a mut Flows,
    site: Site<'a>,
    journal: Vec<Undo>,
    resets: Vec<Arc<Rule>>,
    out: Outcome,
    /// Table and cookie of flows whose last learner may have gone.
    pub(super) orphans: Vec<(u8, u64)>,
    /// Flows by table and cookie, from the first time on that orphans are looked for.
    pub(super) by_cookie: Option<HashMap<(u8, u64), Vec<u32>>>,
}

impl<'a> Draft<'a> {
    /// Makes a change, all of it or nothing.
    pub fn run(
        flows: &mut Flows,
        mut site: Site<'_>,
        make: impl FnOnce(&mut Draft<'_>) -> Result<(), StoreError>,
    ) -> Result<Outcome, StoreError> {
        let pending = Draft::prepare(flows, site.again(), make)?;
        Ok(pending.settle(flows, site.ids))
    }

    /// Makes a change that can be taken back; if it is refused, nothing has changed.
    pub fn prepare(
        flows: &'a mut Flows,
        site: Site<'a>,
        make: impl FnOnce(&mut Draft<'_>) -> Result<(), StoreError>,
    ) -> Result<Pending, StoreError> {
        let (journal, resets, out) = (Vec::new(), Vec::new(), Outcome::default());
        let (orphans, by_cookie) = (Vec::new(), None);
        let mut draft = Draft { flows, site, journal, resets, out, orphans, by_cookie };
        let done = make(&mut draft);
        let Draft { flows, site, journal, resets, out, .. } = draft;
        let pending = Pending { journal, resets, out, version: site.version };
        match done {
            Ok(()) => Ok(pending),
            Err(error) => {
                pending.take_back(flows, site.ids);
                Err(error)
            }
        }
    }

    pub fn apply(&mut self, m: &FlowMod) -> Result<(), StoreError> {
        match m.command {
            Command::Add => {
                let flow = self.flows.pool.pack(m.flow.clone());
                self.add(flow)
            }
            Command::Modify | Command::ModifyStrict => self.modify(m),
            Command::Delete | Command::DeleteStrict => {
                for number in self.selected(m) {
                    if self.take(number, RemovedReason::Delete) {
                        self.out.changed.deleted += 1;
                    }
                }
                Ok(())
            }
            Command::Show => Ok(()),
        }
    }

    /// Numbers of the flows that a command is for, the oldest first. A strict one names its flow.
    fn selected(&self, m: &FlowMod) -> Vec<u32> {
        let f = &m.filter;
        if let (Some(priority), Some(table)) = (f.strict_priority, f.table) {
            let named = Flow { table, priority, match_: f.match_, ..Flow::default() };
            let found = self.flows.find(&named).filter(|s| s.is_selected(f));
            return found.map(|s| s.number).into_iter().collect();
        }
        let all = self.flows.all.iter().filter(|s| s.is_selected(f));
        let mut list: Vec<(u64, u32)> = all.map(|s| (s.created_ns, s.number)).collect();
        list.sort_unstable();
        list.into_iter().map(|(_, number)| number).collect()
    }

    pub fn add(&mut self, mut flow: Packed) -> Result<(), StoreError> {
        self.flows.pool.adopt(&mut flow);
        if flow.form().flags.check_overlap
            && let Some(other) = self.overlapping(&flow)
        {
            let with = other.text(self.site.names);
            return Err(StoreError::Overlap { with });
        }
        let there = self.flows.find_at(flow.table, flow.priority, &flow.matching);
        if let Some(number) = there.map(|s| s.number) {
            self.drop_flow(number);
            self.forget_orphans();
        }
        self.add_new(flow)
    }

    /// Adds a flow that is not there.
    pub fn add_new(&mut self, flow: Packed) -> Result<(), StoreError> {
        self.make_room(flow.table)?;
        self.put(flow);
        Ok(())
    }

    /// The list for flows of this kind ([`super::Pool::list`]).
    pub fn list(&mut self, manner: Manner, learned: Option<Box<[Action]>>) -> Actions {
        self.flows.pool.list(manner, learned)
    }

    pub fn pack(&mut self, flow: Flow) -> Packed {
        self.flows.pool.pack(flow)
    }

    fn overlapping(&self, flow: &Packed) -> Option<&Stored> {
        let (key, mask) = (flow.matching.value(), flow.matching.mask());
        self.flows.all.iter().find(|s| {
            let r = &s.rule;
            r.table == flow.table
                && r.priority == flow.priority
                && r.matching.value().matches(&key, &r.matching.mask().and(mask))
        })
    }

    /// Sees to it that the table can take one more flow.
    fn make_room(&mut self, table: u8) -> Result<(), StoreError> {
        let limit = self.flows.limit(table);
        while self.flows.count(table) >= limit.flows_max {
            let victim = limit.evicts.then(|| self.least_important(table)).flatten();
            let Some(number) = victim else {
                return Err(StoreError::TableFull { table, max: limit.flows_max });
            };
            self.take(number, RemovedReason::Eviction);
        }
        Ok(())
    }

    /// Of the flows that can time out the least important one, and of several the one that will
    /// be gone first anyway. Others are never evicted (Open vSwitch: `eviction_group_add_rule`).
    fn least_important(&self, table: u8) -> Option<u32> {
        let all = self.flows.all.iter();
        all.filter(|s| s.rule.table == table && s.form().can_time_out())
            .min_by_key(|s| (s.form().importance, due_ns(s), s.created_ns))
            .map(|s| s.number)
    }

    fn modify(&mut self, m: &FlowMod) -> Result<(), StoreError> {
        let numbers = self.selected(m);
        if numbers.is_empty() {
            return match m.filter.cookie {
                None => {
                    let flow = self.pack(m.flow.clone());
                    self.add(flow)
                }
                Some(_) => Ok(()),
            };
        }
        for number in numbers {
            let Some(have) = self.flows.by_number(number) else { continue };
            let actions = m.flow.actions.clone().into();
            let manner = Manner { actions, ..have.form().clone() };
            let cookie = if m.sets_cookie { m.flow.cookie } else { have.rule.cookie };
            if m.flow.flags.reset_counts {
                self.resets.push(have.rule.clone());
            }
            let list = self.list(manner, None);
            self.rewrite(number, cookie, list);
        }
        Ok(())
    }

    /// Makes the flows those of the list.
    pub fn replace(&mut self, flows: Vec<Packed>) -> Result<(), StoreError> {
        let mut stays = HashSet::with_capacity(flows.len());
        for mut flow in flows {
            self.flows.pool.adopt(&mut flow);
            let there = self.flows.find_at(flow.table, flow.priority, &flow.matching);
            match there.map(|s| (s.number, s.rule.cookie, s.rule.actions.clone())) {
                Some((number, cookie, actions)) => {
                    stays.insert(number);
                    let is_equal = actions.is_same(&flow.actions)
                        || manner_of(&actions) == manner_of(&flow.actions);
                    if !is_equal || cookie != flow.cookie {
                        self.rewrite(number, flow.cookie, flow.actions);
                    }
                }
                None => _ = stays.insert(self.put(flow)),
            }
        }
        let all = self.flows.all.iter().map(|s| s.number);
        let gone: Vec<u32> = all.filter(|n| !stays.contains(n)).collect();
        for number in gone {
            if self.take(number, RemovedReason::Delete) {
                self.out.changed.deleted += 1;
            }
        }
        let over = |t: &u8| self.flows.count(*t) > self.flows.limit(*t).flows_max;
        match self.flows.counts.keys().copied().find(over) {
            Some(table) => {
                Err(StoreError::TableFull { table, max: self.flows.limit(table).flows_max })
            }
            None => Ok(()),
        }
    }

    pub fn expire(&mut self) -> Result<(), StoreError> {
        let now_ns = self.site.now_ns;
        let over = |since_ns: u64, limit_s: u16| {
            limit_s > 0 && now_ns.saturating_sub(since_ns) >= u64::from(limit_s) * 1_000_000_000
        };
        let why = |s: &Stored| {
            let (idle_s, hard_s) = timeouts(s);
            if over(young_ns(s), hard_s) {
                return Some((s.number, RemovedReason::HardTimeout));
            }
            let used_ns = s.rule.stats.used_ns().max(young_ns(s));
            over(used_ns, idle_s).then_some((s.number, RemovedReason::IdleTimeout))
        };
        let gone: Vec<_> = self.flows.all.iter().filter_map(why).collect();
        for (number, why) in gone {
            if self.take(number, why) {
                self.out.changed.deleted += 1;
            }
        }
        Ok(())
    }

    /// A flow that was not there; gives its number.
    fn put(&mut self, flow: Packed) -> u32 {
        self.out.changed.added += 1;
        let number = self.site.ids.take();
        let created_ns = self.site.now_ns.max(self.flows.last_ns + 1);
        self.flows.last_ns = created_ns;
        let Packed { table, priority, cookie, matching, actions } = flow;
        let (bridge, stats) = (self.site.bridge, FlowStats::default());
        let rule = Rule { bridge, table, priority, cookie, matching, actions, stats };
        let rule = Arc::new(rule);
        self.out.changes.push(RuleChange::Put { number, rule: rule.clone() });
        if let Some(index) = &mut self.by_cookie {
            index.entry((table, cookie)).or_default().push(number);
        }
        let modified_ns = self.site.now_ns;
        self.flows.link(Stored { rule, created_ns, modified_ns, number });
        self.journal.push(Undo::Added(number));
        number
    }

    /// A flow that stays and does something else from now on.
    pub fn rewrite(&mut self, number: u32, cookie: u64, actions: Actions) {
        let Some(before) = self.flows.unlink(number) else { return };
        self.out.changed.modified += 1;
        let was = &before.rule;
        // Clauses of a conjunction come and go with the actions.
        let clauses = lower::clauses(&form_of(&actions).actions);
        let rule = Arc::new(Rule {
            bridge: was.bridge,
            table: was.table,
            priority: was.priority,
            cookie,
            matching: was.matching.with_clauses(clauses),
            actions,
            stats: FlowStats::of(was),
        });
        self.out.changes.push(RuleChange::Put { number, rule: rule.clone() });
        if let Some(index) = &mut self.by_cookie {
            index.entry((rule.table, cookie)).or_default().push(number);
        }
        let after = Stored { rule, modified_ns: self.site.now_ns, ..before.clone() };
        self.flows.link(after);
        self.note_orphans(&before.rule.actions);
        self.journal.push(Undo::Rewritten(Box::new(before)));
        self.forget_orphans();
    }

    /// Takes a flow away, with those that go with it, and says so to whom it may concern. False:
    /// it went with another one already.
    pub fn take(&mut self, number: u32, reason: RemovedReason) -> bool {
        let taken = self.take_one(number, reason);
        self.forget_orphans();
        taken
    }

    pub(super) fn take_one(&mut self, number: u32, reason: RemovedReason) -> bool {
        let Some(s) = self.drop_flow(number) else { return false };
        if s.form().flags.send_flow_rem {
            self.out.removed.push(Removed { stored: s, reason });
        }
        true
    }

    /// Takes away those that are still there.
    pub fn take_all(&mut self, numbers: &[u32], reason: RemovedReason) {
        for number in numbers {
            let before = self.flows.len();
            self.take(*number, reason);
            self.out.changed.deleted += u64::from(self.flows.len() < before);
        }
    }

    fn drop_flow(&mut self, number: u32) -> Option<Stored> {
        let s = self.flows.unlink(number)?;
        self.out.changes.push(RuleChange::Remove { number });
        self.journal.push(Undo::Gone(Box::new(s.clone())));
        self.note_orphans(&s.rule.actions);
        Some(s)
    }
}

/// When the flow times out at the latest.
fn due_ns(s: &Stored) -> u64 {
    let at = |since_ns: u64, limit_s: u16| match limit_s {
        0 => u64::MAX,
        s => since_ns + u64::from(s) * 1_000_000_000,
    };
    let (idle_s, hard_s) = timeouts(s);
    at(young_ns(s), hard_s).min(at(s.rule.stats.used_ns().max(young_ns(s)), idle_s))
}

/// Idle and hard timeout, after what `fin_timeout` made of them.
fn timeouts(s: &Stored) -> (u16, u16) {
    let manner = s.form();
    s.rule.stats.timeouts_s(manner.idle_timeout_s, manner.hard_timeout_s)
}

/// When the flow was made, modified or learned again.
fn young_ns(s: &Stored) -> u64 {
    s.modified_ns.max(s.rule.stats.learned_ns())
}
