//! The flows of one bridge, as the operator wrote them.
//!
//! A change (add, modify, delete, replace; one flow or a file of them) is made on a draft and taken
//! over whole or not at all. What a flow has counted lives as long as the flow: a rule's
//! statistics are carried from program to program, also when its actions change.
//!
//! Rules of change: OpenFlow 1.0 section 4.6 and Open vSwitch (`ovs-ofctl(8)`): adding a flow with
//! the table, priority and match of another replaces that and starts its counters anew; modifying
//! keeps counters and timeouts; a modification that matches nothing adds.

use crate::compile::lower;
use crate::flow::{Command, Flow, FlowFilter, FlowMod, Match, PortNames, print_flow};
use sluice_dataplane::classify::RuleMatch;
use sluice_dataplane::limits::RULES_PER_TABLE_MAX;
use sluice_dataplane::packet::key::FlowKey;
use sluice_dataplane::pipeline::{Rule, RuleStats};
use std::collections::HashMap;
use std::sync::Arc;

/// A flow with what was made of it.
#[derive(Clone, Debug)]
pub struct Stored {
    pub flow: Arc<Flow>,
    pub rule: Arc<Rule>,
    /// Time of the worker clock.
    pub created_ns: u64,
    pub modified_ns: u64,
    /// Place in the order of arrival: keeps dumps stable.
    order: u64,
}

/// What makes a flow that flow.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct Id {
    table: u8,
    priority: u16,
    key: FlowKey,
    mask: FlowKey,
}

impl Id {
    fn of(flow: &Flow) -> Self {
        let Match { key, mask } = flow.match_;
        Self { table: flow.table, priority: flow.priority, key, mask }
    }
}

/// How many flows a change touched.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Changed {
    pub added: u64,
    pub modified: u64,
    pub deleted: u64,
}

/// Why a change was refused; nothing has changed then.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum StoreError {
    #[error("table {table} is full: it holds {RULES_PER_TABLE_MAX} flows")]
    TableFull { table: u8 },
    #[error(
        "the flow overlaps with \"{with}\": same priority, and a packet could match both; \
         change one priority, or leave check_overlap out"
    )]
    Overlap { with: String },
}

/// The flows of a bridge.
#[derive(Clone, Debug, Default)]
pub struct Flows {
    by_id: HashMap<Id, Stored>,
    next_order: u64,
}

impl Flows {
    pub fn len(&self) -> usize {
        self.by_id.len()
    }

    pub fn is_empty(&self) -> bool {
        self.by_id.is_empty()
    }

    /// All flows: by table, then falling priority, then in order of arrival.
    pub fn sorted(&self) -> Vec<&Stored> {
        let mut all: Vec<&Stored> = self.by_id.values().collect();
        all.sort_by_key(|s| (s.flow.table, u16::MAX - s.flow.priority, s.order));
        all
    }

    /// The rules in the order that ties are decided by: older first.
    pub fn rules(&self) -> Vec<Arc<Rule>> {
        let mut all: Vec<&Stored> = self.by_id.values().collect();
        all.sort_by_key(|s| s.order);
        all.into_iter().map(|s| s.rule.clone()).collect()
    }

    /// Applies commands in order.
    pub fn apply(
        &mut self,
        mods: &[FlowMod],
        names: &dyn PortNames,
        now_ns: u64,
    ) -> Result<Changed, StoreError> {
        let mut draft = Draft { flows: self.clone(), names, now_ns, changed: Changed::default() };
        for m in mods {
            draft.apply(m)?;
        }
        draft.check_room()?;
        let Draft { flows, changed, .. } = draft;
        *self = flows;
        Ok(changed)
    }

    /// Adds flows.
    pub fn add_all(
        &mut self,
        flows: &[Flow],
        names: &dyn PortNames,
        now_ns: u64,
    ) -> Result<Changed, StoreError> {
        let mut draft = Draft { flows: self.clone(), names, now_ns, changed: Changed::default() };
        for flow in flows {
            draft.add(flow)?;
        }
        draft.check_room()?;
        let Draft { flows, changed, .. } = draft;
        *self = flows;
        Ok(changed)
    }

    /// Makes the flows those of the list; what is equal stays, with its counters.
    pub fn replace(
        &mut self,
        flows: &[Flow],
        names: &dyn PortNames,
        now_ns: u64,
    ) -> Result<Changed, StoreError> {
        let mut draft = Draft { flows: self.clone(), names, now_ns, changed: Changed::default() };
        let wanted: HashMap<Id, &Flow> = flows.iter().map(|f| (Id::of(f), f)).collect();
        draft.flows.by_id.retain(|id, _| wanted.contains_key(id));
        draft.changed.deleted = (self.by_id.len() - draft.flows.by_id.len()) as u64;
        for flow in flows {
            match draft.flows.by_id.get(&Id::of(flow)) {
                Some(have) if *have.flow == *flow => {}
                Some(_) => draft.rewrite(&Id::of(flow), flow.clone()),
                None => draft.put(flow.clone()),
            }
        }
        draft.check_room()?;
        let Draft { flows, changed, .. } = draft;
        *self = flows;
        Ok(changed)
    }

    /// The flows that a filter selects, as `sorted`.
    pub fn select(&self, filter: &FlowFilter) -> Vec<&Stored> {
        self.sorted().into_iter().filter(|s| filter.selects(&s.flow)).collect()
    }

    /// Takes away what has timed out; says how many went.
    pub fn expire(&mut self, now_ns: u64) -> u64 {
        let before = self.by_id.len();
        let over = |since_ns: u64, limit_s: u16| {
            limit_s > 0 && now_ns.saturating_sub(since_ns) >= u64::from(limit_s) * 1_000_000_000
        };
        self.by_id.retain(|_, s| {
            let used_ns = s.rule.stats.used_ns().max(s.modified_ns);
            !over(s.modified_ns, s.flow.hard_timeout_s) && !over(used_ns, s.flow.idle_timeout_s)
        });
        (before - self.by_id.len()) as u64
    }

    /// Whether any flow can time out.
    pub fn has_timeouts(&self) -> bool {
        self.by_id.values().any(|s| s.flow.idle_timeout_s > 0 || s.flow.hard_timeout_s > 0)
    }
}

/// A change under way.
struct Draft<'a> {
    flows: Flows,
    names: &'a dyn PortNames,
    now_ns: u64,
    changed: Changed,
}

impl Draft<'_> {
    fn apply(&mut self, m: &FlowMod) -> Result<(), StoreError> {
        match m.command {
            Command::Add => self.add(&m.flow),
            Command::Modify | Command::ModifyStrict => self.modify(m),
            Command::Delete | Command::DeleteStrict => {
                let before = self.flows.by_id.len();
                self.flows.by_id.retain(|_, s| !m.filter.selects(&s.flow));
                self.changed.deleted += (before - self.flows.by_id.len()) as u64;
                Ok(())
            }
            Command::Show => Ok(()),
        }
    }

    fn add(&mut self, flow: &Flow) -> Result<(), StoreError> {
        if flow.flags.check_overlap
            && let Some(other) = self.overlapping(flow)
        {
            return Err(StoreError::Overlap { with: print_flow(&other.flow, self.names) });
        }
        self.flows.by_id.remove(&Id::of(flow));
        self.put(flow.clone());
        Ok(())
    }

    fn overlapping(&self, flow: &Flow) -> Option<&Stored> {
        self.flows.by_id.values().find(|s| {
            let (a, b) = (&s.flow.match_, &flow.match_);
            s.flow.table == flow.table
                && s.flow.priority == flow.priority
                && a.key.matches(&b.key, &a.mask.and(&b.mask))
        })
    }

    fn modify(&mut self, m: &FlowMod) -> Result<(), StoreError> {
        let ids: Vec<Id> = self
            .flows
            .by_id
            .iter()
            .filter(|(_, s)| m.filter.selects(&s.flow))
            .map(|(id, _)| id.clone())
            .collect();
        if ids.is_empty() {
            return if m.filter.cookie.is_none() { self.add(&m.flow) } else { Ok(()) };
        }
        for id in ids {
            let Some(have) = self.flows.by_id.get(&id) else { continue };
            let mut flow = Flow::clone(&have.flow);
            flow.actions.clone_from(&m.flow.actions);
            if m.sets_cookie {
                flow.cookie = m.flow.cookie;
            }
            self.rewrite(&id, flow);
        }
        Ok(())
    }

    /// A flow that was not there.
    fn put(&mut self, flow: Flow) {
        let order = self.flows.next_order;
        self.flows.next_order += 1;
        self.changed.added += 1;
        let rule = compile_rule(&flow, Arc::default(), self.names);
        let (created_ns, modified_ns) = (self.now_ns, self.now_ns);
        let id = Id::of(&flow);
        let stored = Stored { flow: Arc::new(flow), rule, created_ns, modified_ns, order };
        self.flows.by_id.insert(id, stored);
    }

    /// A flow that stays and does something else from now on.
    fn rewrite(&mut self, id: &Id, flow: Flow) {
        let Some(s) = self.flows.by_id.get_mut(id) else { return };
        self.changed.modified += 1;
        s.rule = compile_rule(&flow, s.rule.stats.clone(), self.names);
        s.flow = Arc::new(flow);
        s.modified_ns = self.now_ns;
    }

    fn check_room(&self) -> Result<(), StoreError> {
        let mut count = [0usize; 256];
        for id in self.flows.by_id.keys() {
            count[usize::from(id.table)] += 1;
        }
        match count.iter().position(|n| *n > RULES_PER_TABLE_MAX) {
            Some(table) => Err(StoreError::TableFull { table: table as u8 }),
            None => Ok(()),
        }
    }
}

fn compile_rule(flow: &Flow, stats: Arc<RuleStats>, names: &dyn PortNames) -> Arc<Rule> {
    Arc::new(Rule {
        table: flow.table,
        cookie: flow.cookie,
        matching: RuleMatch {
            value: flow.match_.key,
            mask: flow.match_.mask,
            priority: flow.priority,
            clauses: None,
        },
        actions: lower::actions(&flow.actions),
        stats,
        text: print_flow(flow, names).into(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::flow::{NoNames, parse_flow, parse_flow_mod};

    fn run(flows: &mut Flows, command: Command, text: &str) -> Result<Changed, StoreError> {
        let m = parse_flow_mod(text, Some(command), &NoNames).unwrap();
        flows.apply(&[m], &NoNames, 5)
    }

    fn texts(flows: &Flows) -> Vec<String> {
        flows.sorted().iter().map(|s| s.rule.text.to_string()).collect()
    }

    #[test]
    fn adding_again_replaces_and_resets_while_modifying_keeps() {
        let mut f = Flows::default();
        run(&mut f, Command::Add, "priority=5,ip,actions=output:1").unwrap();
        f.sorted()[0].rule.stats.add(3, 180, 9);
        let done = run(&mut f, Command::Modify, "ip,actions=output:2").unwrap();
        assert_eq!((done.modified, f.sorted()[0].rule.stats.packets()), (1, 3));
        run(&mut f, Command::Add, "priority=5,ip,actions=output:3").unwrap();
        assert_eq!(f.sorted()[0].rule.stats.packets(), 0);
        assert_eq!(texts(&f), ["priority=5,ip actions=output:3"]);
    }

    #[test]
    fn deleting_is_loose_unless_strict() {
        let mut f = Flows::default();
        for t in
            ["ip,actions=1", "priority=7,tcp,actions=1", "arp,actions=1", "table=3,udp,actions=2"]
        {
            run(&mut f, Command::Add, t).unwrap();
        }
        assert_eq!(run(&mut f, Command::DeleteStrict, "priority=1,tcp").unwrap().deleted, 0);
        assert_eq!(run(&mut f, Command::Delete, "ip,table=0").unwrap().deleted, 2);
        assert_eq!(run(&mut f, Command::Delete, "out_port=2").unwrap().deleted, 1);
        assert_eq!(f.len(), 1);
    }

    #[test]
    fn a_change_is_whole_or_not_at_all() {
        let mut f = Flows::default();
        run(&mut f, Command::Add, "priority=5,ip,actions=output:1").unwrap();
        let add = |t: &str| parse_flow_mod(t, Some(Command::Add), &NoNames).unwrap();
        let mods = [add("arp,actions=drop"), add("priority=5,tcp,check_overlap,actions=drop")];
        let refused = f.apply(&mods, &NoNames, 6).unwrap_err();
        assert!(matches!(refused, StoreError::Overlap { .. }), "{refused}");
        assert_eq!(texts(&f), ["priority=5,ip actions=output:1"]);
    }

    #[test]
    fn replacing_keeps_what_is_equal() {
        let mut f = Flows::default();
        run(&mut f, Command::Add, "priority=5,ip,actions=output:1").unwrap();
        run(&mut f, Command::Add, "priority=6,arp,actions=output:1").unwrap();
        f.sorted().iter().for_each(|s| s.rule.stats.add(1, 60, 9));
        let flow = |t: &str| parse_flow(t, &NoNames).unwrap();
        let new = [flow("priority=5,ip,actions=output:1"), flow("udp,actions=drop")];
        let done = f.replace(&new, &NoNames, 7).unwrap();
        assert_eq!((done.added, done.modified, done.deleted), (1, 0, 1));
        let kept: u64 = f.sorted().iter().map(|s| s.rule.stats.packets()).sum();
        assert_eq!(kept, 1);
    }

    #[test]
    fn timeouts_count_from_the_last_packet_or_the_start() {
        let mut f = Flows::default();
        let s = 1_000_000_000;
        run(&mut f, Command::Add, "idle_timeout=10,ip,actions=1").unwrap();
        run(&mut f, Command::Add, "hard_timeout=20,arp,actions=1").unwrap();
        assert!(f.has_timeouts());
        f.sorted().iter().for_each(|x| x.rule.stats.add(1, 60, 5 * s));
        assert_eq!(f.expire(14 * s), 0);
        assert_eq!(f.expire(15 * s), 1);
        assert_eq!(f.expire(20 * s + 5), 1);
        assert!(f.is_empty() && !f.has_timeouts());
    }
}
