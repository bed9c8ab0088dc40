//! A change under way: made in place, with a journal to take it back by.

use super::{Flows, Outcome, Removed, RemovedReason, Site, StoreError, Stored, can_time_out};
use crate::compile::lower;
use crate::flow::{Command, Flow, FlowMod, print_flow};
use sluice_dataplane::action::Action;
use sluice_dataplane::pipeline::{Rule, RuleChange, RuleStats};
use std::collections::HashSet;
use std::sync::Arc;

/// What to do to take a change back, the last first.
enum Undo {
    Added(u32),
    Gone(Box<Stored>),
    /// The flow as it was; its number is the same.
    Rewritten(Box<Stored>),
}

/// A change under way.
pub(super) struct Draft<'a> {
    pub(super) flows: &'a mut Flows,
    site: Site<'a>,
    journal: Vec<Undo>,
    /// Counters to start anew once the change is made.
    resets: Vec<Arc<RuleStats>>,
    out: Outcome,
}

impl<'a> Draft<'a> {
    /// Makes a change, all of it or nothing.
    pub fn run(
        flows: &'a mut Flows,
        site: Site<'a>,
        make: impl FnOnce(&mut Draft<'_>) -> Result<(), StoreError>,
    ) -> Result<Outcome, StoreError> {
        let (journal, resets, out) = (Vec::new(), Vec::new(), Outcome::default());
        let mut draft = Draft { flows, site, journal, resets, out };
        match make(&mut draft) {
            Ok(()) => Ok(draft.commit()),
            Err(error) => {
                draft.take_back();
                Err(error)
            }
        }
    }

    /// Numbers of flows that went are free from the next program on.
    fn commit(self) -> Outcome {
        self.resets.iter().for_each(|s| s.reset());
        for undo in &self.journal {
            if let Undo::Gone(s) = undo {
                self.site.ids.give_back(s.number, self.site.version);
            }
        }
        self.out
    }

    fn take_back(self) {
        for undo in self.journal.into_iter().rev() {
            match undo {
                Undo::Added(number) => {
                    self.flows.unlink(number);
                    self.site.ids.give_back(number, 0);
                }
                Undo::Gone(s) => self.flows.link(*s),
                Undo::Rewritten(s) => {
                    self.flows.unlink(s.number);
                    self.flows.link(*s);
                }
            }
        }
    }

    pub fn apply(&mut self, m: &FlowMod) -> Result<(), StoreError> {
        match m.command {
            Command::Add => self.add(&m.flow),
            Command::Modify | Command::ModifyStrict => self.modify(m),
            Command::Delete | Command::DeleteStrict => {
                for number in self.selected(m) {
                    self.take(number, RemovedReason::Delete);
                    self.out.changed.deleted += 1;
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
            let found = self.flows.find(&named).filter(|s| f.selects(&s.flow));
            return found.map(|s| s.number).into_iter().collect();
        }
        let all = self.flows.by_number.values().filter(|s| f.selects(&s.flow));
        let mut list: Vec<(u64, u32)> = all.map(|s| (s.order, s.number)).collect();
        list.sort_unstable();
        list.into_iter().map(|(_, number)| number).collect()
    }

    pub fn add(&mut self, flow: &Flow) -> Result<(), StoreError> {
        if flow.flags.check_overlap
            && let Some(other) = self.overlapping(flow)
        {
            let with = print_flow(&other.flow, self.site.names);
            return Err(StoreError::Overlap { with });
        }
        if let Some(number) = self.flows.find(flow).map(|s| s.number) {
            self.drop_flow(number);
        }
        self.add_as(flow.clone(), None)
    }

    /// Adds a flow that is not there; with these actions instead of what its own come to.
    pub fn add_as(&mut self, flow: Flow, as_: Option<Box<[Action]>>) -> Result<(), StoreError> {
        self.make_room(flow.table)?;
        self.put(flow, as_);
        Ok(())
    }

    fn overlapping(&self, flow: &Flow) -> Option<&Stored> {
        self.flows.by_number.values().find(|s| {
            let (a, b) = (&s.flow.match_, &flow.match_);
            s.flow.table == flow.table
                && s.flow.priority == flow.priority
                && a.key.matches(&b.key, &a.mask.and(&b.mask))
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
        let all = self.flows.by_number.values();
        all.filter(|s| s.flow.table == table && can_time_out(&s.flow))
            .min_by_key(|s| (s.flow.importance, due_ns(s), s.order))
            .map(|s| s.number)
    }

    fn modify(&mut self, m: &FlowMod) -> Result<(), StoreError> {
        let numbers = self.selected(m);
        if numbers.is_empty() {
            return if m.filter.cookie.is_none() { self.add(&m.flow) } else { Ok(()) };
        }
        for number in numbers {
            let Some(have) = self.flows.by_number(number) else { continue };
            let mut flow = Flow::clone(&have.flow);
            flow.actions.clone_from(&m.flow.actions);
            if m.sets_cookie {
                flow.cookie = m.flow.cookie;
            }
            self.rewrite(number, flow, m.flow.flags.reset_counts);
        }
        Ok(())
    }

    /// Makes the flows those of the list.
    pub fn replace(&mut self, flows: &[Flow]) -> Result<(), StoreError> {
        let mut stays = HashSet::new();
        for flow in flows {
            let have = self.flows.find(flow).map(|s| (s.number, *s.flow == *flow));
            match have {
                Some((number, is_equal)) => {
                    stays.insert(number);
                    if !is_equal {
                        self.rewrite(number, flow.clone(), false);
                    }
                }
                None => {
                    self.put(flow.clone(), None);
                    stays.insert(self.flows.find(flow).map_or(0, |s| s.number));
                }
            }
        }
        let all = self.flows.by_number.keys().copied();
        let gone: Vec<u32> = all.filter(|n| !stays.contains(n)).collect();
        for number in gone {
            self.take(number, RemovedReason::Delete);
            self.out.changed.deleted += 1;
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
        let gone: Vec<_> = self.flows.by_number.values().filter_map(why).collect();
        for (number, why) in gone {
            self.take(number, why);
            self.out.changed.deleted += 1;
        }
        Ok(())
    }

    /// A flow that was not there.
    fn put(&mut self, flow: Flow, as_: Option<Box<[Action]>>) {
        let order = self.flows.next_order;
        self.flows.next_order += 1;
        self.out.changed.added += 1;
        let number = self.site.ids.take();
        let rule = self.compile(&flow, Arc::default(), as_);
        self.out.changes.push(RuleChange::Put { number, rule: rule.clone() });
        self.flows.link(Stored {
            flow: Arc::new(flow),
            rule,
            number,
            created_ns: self.site.now_ns,
            modified_ns: self.site.now_ns,
            order,
            next: None,
        });
        self.journal.push(Undo::Added(number));
    }

    /// A flow that stays and does something else from now on.
    fn rewrite(&mut self, number: u32, flow: Flow, resets: bool) {
        if let Some(s) = self.flows.by_number(number).filter(|_| resets) {
            self.resets.push(s.rule.stats.clone());
        }
        self.rewrite_as(number, flow, None);
    }

    /// The same, with these actions instead of what the flow's own come to.
    pub fn rewrite_as(&mut self, number: u32, flow: Flow, as_: Option<Box<[Action]>>) {
        let Some(before) = self.flows.unlink(number) else { return };
        self.out.changed.modified += 1;
        let rule = self.compile(&flow, before.rule.stats.clone(), as_);
        if before.rule.matching.full() != rule.matching.full() {
            // Other clauses: in its table it is another rule.
            self.out.changes.push(RuleChange::Remove { number });
        }
        self.out.changes.push(RuleChange::Put { number, rule: rule.clone() });
        let flow = Arc::new(flow);
        let after = Stored { flow, rule, modified_ns: self.site.now_ns, ..before.clone() };
        self.flows.link(after);
        let was = before.flow.clone();
        self.journal.push(Undo::Rewritten(Box::new(before)));
        self.forget_learned(&was);
    }

    fn compile(&self, flow: &Flow, stats: Arc<RuleStats>, as_: Option<Box<[Action]>>) -> Arc<Rule> {
        Arc::new(Rule {
            bridge: self.site.bridge,
            table: flow.table,
            cookie: flow.cookie,
            matching: (&lower::matching(flow)).into(),
            actions: as_.unwrap_or_else(|| lower::actions(&flow.actions)),
            stats,
            text: print_flow(flow, self.site.names).into(),
        })
    }

    /// Takes a flow away and says so to whom it may concern.
    pub fn take(&mut self, number: u32, reason: RemovedReason) {
        let Some(s) = self.drop_flow(number) else { return };
        if s.flow.flags.send_flow_rem {
            self.out.removed.push(Removed { stored: s, reason });
        }
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
        self.forget_learned(&s.flow);
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
    s.rule.stats.timeouts_s(s.flow.idle_timeout_s, s.flow.hard_timeout_s)
}

/// When the flow was made, modified or learned again.
fn young_ns(s: &Stored) -> u64 {
    s.modified_ns.max(s.rule.stats.learned_ns())
}
