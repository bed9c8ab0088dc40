//! Flows that packets make, and when they go with the flow that made them.
//!
//! A worker tells of a packet that met a `learn` (`pipeline::events`); what it asks for is added
//! here as by a strict modify that adds what is not there (ovs-actions(7)). The rule gets exactly
//! the actions that the worker would compare with, so that it knows the flow again.
//!
//! `limit`: flows of the learn's table and cookie are counted when one is to be added. A learner
//! that found no room says so to its packets (`result_dst`) until one of those flows goes.
//!
//! `delete_learned`: the flows of a table and cookie go with the last flow that has such a learn
//! for this table and cookie.

use super::draft::Draft;
use super::{Flows, Outcome, RemovedReason, Site, StoreError, Stored, form_of, manner_of};
use crate::flow::{self, Flow, FlowAction, Match, SubField};
use sluice_dataplane::action::learn::{Learn, LearnTarget, learned, nth};
use sluice_dataplane::action::{Action, PORT_LOCAL};
use sluice_dataplane::packet::field::{Field, ones};
use sluice_dataplane::packet::key::FlowKey;
use sluice_dataplane::pipeline::{Actions, Rule};
use std::collections::HashMap;

/// What a packet asks for.
#[derive(Clone, Debug)]
pub struct Wish<'a> {
    /// The rule that the packet met, and which of its learns.
    pub rule: &'a Rule,
    pub nth: u16,
    pub key: &'a FlowKey,
}

/// Calls `f` for each learn of a list, those in other actions included.
pub(super) fn each_learn(list: &[FlowAction], f: &mut dyn FnMut(&flow::Learn)) {
    for a in list {
        match a {
            FlowAction::Learn(l) => f(l),
            FlowAction::Clone(inner) | FlowAction::WriteActions(inner) => each_learn(inner, f),
            _ => {}
        }
    }
}

impl Flows {
    /// Adds, or makes young again, the flow that a packet asks for.
    pub fn learn(&mut self, wish: &Wish<'_>, site: Site<'_>) -> Result<Outcome, StoreError> {
        let Some(learn) = nth(&wish.rule.actions, wish.nth) else { return Ok(Outcome::default()) };
        let made = learned(learn, wish.key);
        let flow = Flow {
            table: made.table,
            priority: made.priority,
            cookie: made.cookie,
            idle_timeout_s: made.idle_timeout_s,
            hard_timeout_s: made.hard_timeout_s,
            flags: flow::FlowFlags { send_flow_rem: made.send_flow_rem, ..Default::default() },
            match_: Match { key: made.matching.value, mask: made.matching.mask },
            actions: written(learn, wish.key, &made.actions),
            ..Flow::default()
        };
        let now_ns = site.now_ns;
        if let Some(have) = self.find(&flow) {
            have.rule.stats.learn_again(now_ns);
            let (number, cookie) = (have.number, flow.cookie);
            if *manner_of(&have.rule.actions).actions == *flow.actions && have.rule.cookie == cookie
            {
                return Ok(Outcome::default());
            }
            return Draft::run(self, site, |draft| {
                let list = manner_of(&draft.pack(flow).actions);
                let list = draft.list(list, Some(made.actions.into()));
                draft.rewrite(number, cookie, list);
                Ok(())
            });
        }
        if learn.limit > 0 {
            let same = |s: &&Stored| (s.rule.table, s.rule.cookie) == (flow.table, flow.cookie);
            if self.all.iter().filter(same).count() >= learn.limit as usize {
                wish.rule.stats.set_learn_full(true);
                return Ok(Outcome::default());
            }
        }
        Draft::run(self, site, |draft| {
            let mut flow = draft.pack(flow);
            flow.actions = draft.list(manner_of(&flow.actions), Some(made.actions.into()));
            draft.add_new(flow)
        })
    }
}

/// The actions of a learned flow as text has them.
fn written(learn: &Learn, key: &FlowKey, made: &[Action]) -> Vec<FlowAction> {
    let (idle_s, hard_s) = (learn.fin_idle_timeout_s, learn.fin_hard_timeout_s);
    let fin = (idle_s, hard_s) != (0, 0);
    let mut list: Vec<FlowAction> =
        fin.then_some(FlowAction::FinTimeout { idle_s, hard_s }).into_iter().collect();
    let mut values = made.iter().skip(usize::from(fin));
    for spec in &learn.specs {
        match spec.target {
            LearnTarget::Match(_) => {}
            LearnTarget::Load(f) => {
                let Some(Action::Set(set)) = values.next() else { continue };
                loads(f.field, f.lo, f.bits, set.value & ones(f.bits), &mut list);
            }
            LearnTarget::Output => {
                let said = spec_port(spec, key);
                // A port that may not stand in a flow made no action.
                if said.is_some() {
                    values.next();
                }
                list.extend(said);
            }
        }
    }
    list
}

fn spec_port(
    spec: &sluice_dataplane::action::learn::LearnSpec,
    key: &FlowKey,
) -> Option<FlowAction> {
    let one = Learn { specs: [*spec].into(), ..Learn::default() };
    one.actions(key).next().and_then(|a| match a {
        Action::Output(PORT_LOCAL) => Some(FlowAction::Local),
        Action::Output(n) => Some(FlowAction::Output(n)),
        Action::InPort => Some(FlowAction::InPort),
        Action::Flood => Some(FlowAction::Flood),
        Action::All => Some(FlowAction::All),
        _ => None,
    })
}

/// A `load` holds 64 bits at most: a wider one becomes several, the lowest first.
fn loads(field: Field, lo: u8, bits: u8, value: u128, list: &mut Vec<FlowAction>) {
    let mut at = 0;
    while at < bits {
        let n = (bits - at).min(64);
        let dst = SubField { lo: lo + at, bits: n, ..SubField::whole(field) };
        list.push(FlowAction::Load { value: (value >> at & ones(n)) as u64, dst });
        at += n;
    }
}

impl Draft<'_> {
    /// A flow with these actions went or changed: so may flows go that were learned by its like.
    pub(super) fn note_orphans(&mut self, gone: &Actions) {
        each_learn(&form_of(gone).actions, &mut |l| {
            if l.delete_learned {
                self.orphans.push((l.table, l.cookie));
            }
        });
    }

    /// Takes away what was learned by flows of which none is left. What goes may have learned
    /// others in turn: they are taken from a list, for a chain of them may be long.
    pub(super) fn forget_orphans(&mut self) {
        while let Some(pair) = self.orphans.pop() {
            if self.flows.learners.contains_key(&pair) {
                continue;
            }
            let all = &self.flows.all;
            let index = self.by_cookie.get_or_insert_with(|| {
                let mut index: HashMap<(u8, u64), Vec<u32>> = HashMap::new();
                for s in all.iter() {
                    index.entry((s.rule.table, s.rule.cookie)).or_default().push(s.number);
                }
                index
            });
            // Numbers of flows that went or changed are still in the index.
            let there =
                |n: &u32| all.get(*n).is_some_and(|s| (s.rule.table, s.rule.cookie) == pair);
            let list = index.remove(&pair).unwrap_or_default();
            for number in list.into_iter().filter(there).collect::<Vec<u32>>() {
                self.take_one(number, RemovedReason::Delete);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::flow::{Command, NoNames, parse_flow_mod};
    use sluice_dataplane::pipeline::RuleIds;

    struct Bridge {
        flows: Flows,
        ids: RuleIds,
    }

    impl Bridge {
        fn new(flows: &[&str]) -> Self {
            let mut b = Self { flows: Flows::default(), ids: RuleIds::default() };
            flows.iter().for_each(|t| b.run(Command::Add, t));
            b
        }

        fn site(&mut self, now_ns: u64) -> (&mut Flows, Site<'_>) {
            let site = Site { bridge: 0, names: &NoNames, ids: &mut self.ids, version: 1, now_ns };
            (&mut self.flows, site)
        }

        fn run(&mut self, command: Command, text: &str) {
            let m = parse_flow_mod(text, Some(command), &NoNames).unwrap();
            let (flows, site) = self.site(5);
            flows.apply(&[m], site).unwrap();
        }

        /// A packet from this MAC meets the first flow of table 0 that learns.
        fn packet(&mut self, mac: u64, now_ns: u64) {
            let learner =
                self.flows.sorted().into_iter().find(|s| s.text(&NoNames).contains("learn("));
            let rule = learner.unwrap().rule.clone();
            let key = FlowKey { eth_src: mac, in_port: 3, ..FlowKey::ZERO };
            let (flows, site) = self.site(now_ns);
            flows.learn(&Wish { rule: &rule, nth: 0, key: &key }, site).unwrap();
        }

        fn texts(&self) -> Vec<String> {
            self.flows.sorted().iter().map(|s| s.text(&NoNames)).collect()
        }
    }

    const LEARN: &str = "actions=learn(table=10,cookie=0x7,hard_timeout=10,NXM_OF_ETH_DST[]=\
                         NXM_OF_ETH_SRC[],load:NXM_OF_IN_PORT[]->NXM_NX_REG0[0..15],\
                         output:NXM_OF_IN_PORT[]";

    #[test]
    fn a_learned_flow_is_there_once_with_its_actions_and_is_known_again() {
        let mut b = Bridge::new(&[&format!("{LEARN})")]);
        b.packet(0x0a, 10);
        b.packet(0x0a, 20);
        b.packet(0x0b, 30);
        let texts = b.texts();
        assert_eq!(texts.len(), 3);
        assert!(texts[1].contains("dl_dst=00:00:00:00:00:0a"), "{texts:?}");
        assert!(texts[1].contains("load:0x3->NXM_NX_REG0[0..15],output:3"), "{texts:?}");
        let learner = &b.flows.sorted()[0].rule.clone();
        let made = &b.flows.sorted()[1].rule.clone();
        let key = FlowKey { eth_src: 0x0a, in_port: 3, ..FlowKey::ZERO };
        let learn = nth(&learner.actions, 0).unwrap();
        let known = sluice_dataplane::action::learn::is_learned;
        assert!(known(learn, &key, made.cookie, made.actions.spelled_out()));
    }

    #[test]
    fn learning_again_keeps_a_flow_from_its_hard_timeout() {
        let mut b = Bridge::new(&[&format!("{LEARN})")]);
        let s = 1_000_000_000;
        b.packet(0x0a, s);
        b.packet(0x0a, 8 * s);
        let expire = |b: &mut Bridge, at| {
            let (flows, site) = b.site(at);
            flows.expire(site).changed.deleted
        };
        assert_eq!((expire(&mut b, 12 * s), expire(&mut b, 18 * s)), (0, 1));
    }

    #[test]
    fn a_limit_keeps_flows_out_until_one_goes() {
        let mut b = Bridge::new(&[&format!("{LEARN},limit=2)")]);
        (1..=3).for_each(|mac| b.packet(mac, 10));
        assert_eq!(b.flows.len(), 3);
        let learner = b.flows.sorted()[0].rule.clone();
        assert!(learner.stats.is_learn_full());
        b.run(Command::Delete, "table=10,dl_dst=00:00:00:00:00:01");
        assert!(!learner.stats.is_learn_full());
        b.packet(3, 20);
        assert_eq!(b.flows.len(), 3);
    }

    #[test]
    fn learned_flows_go_with_the_last_flow_that_could_learn_them() {
        let learner = format!("{LEARN},delete_learned)");
        let mut b =
            Bridge::new(&[&learner, &format!("ip,{learner}"), "table=10,cookie=9,actions=1"]);
        b.packet(0x0a, 10);
        assert_eq!(b.flows.len(), 4);
        b.run(Command::Delete, "table=0,ip");
        assert_eq!(b.flows.len(), 3);
        b.run(Command::Modify, "table=0,actions=drop");
        assert_eq!(b.texts().len(), 2, "{:?}", b.texts());
    }
}
