//! Flows as they are kept: what is equal in many is there once.
//!
//! A typed flow has a key and a mask of 800 bytes and a list of actions of its own; a table has a
//! hundred thousand flows of a handful of masks and action lists. So a flow is kept as a rule of
//! the dataplane, which shares its mask and its actions with others, and the list carries along
//! what it was made from ([`Manner`]). The text is written when somebody asks. A [`Pool`] finds
//! the mask and the list that are there already.
//!
//! What no flow uses any more goes from the pool when that has doubled since the last look, or
//! when most of it may be unused: so a pool costs no more than twice what it is for.

use crate::compile::lower;
use crate::flow::refers_to;
use crate::flow::{Command, Flow, FlowAction, FlowFlags, FlowMod, Match};
use hashbrown::HashTable;
use sluice_dataplane::action::Action;
use sluice_dataplane::classify::{CompactMatch, Shape};
use sluice_dataplane::packet::key::Mask;
use sluice_dataplane::pipeline::{Actions, Rule};
use std::hash::{DefaultHasher, Hash, Hasher};
use std::sync::{Arc, LazyLock};

/// What a flow is besides its table, priority, match and cookie.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct Manner {
    pub idle_timeout_s: u16,
    pub hard_timeout_s: u16,
    pub importance: u16,
    pub flags: FlowFlags,
    /// As written.
    pub actions: Box<[FlowAction]>,
}

impl Manner {
    /// Whether a flow of this kind may go by itself.
    pub fn can_time_out(&self) -> bool {
        let shortens = |a: &FlowAction| matches!(a, FlowAction::FinTimeout { .. });
        self.idle_timeout_s > 0 || self.hard_timeout_s > 0 || self.actions.iter().any(shortens)
    }
}

/// Of rules that were not made from flows.
static NO_MANNER: LazyLock<Manner> = LazyLock::new(Manner::default);

/// What a list of actions was made from.
pub fn manner_of(actions: &Actions) -> &Manner {
    let source = actions.source().and_then(|s| s.downcast_ref::<Source>());
    source.map_or_else(|| &*NO_MANNER, |s| &s.manner)
}

/// Rides along with the dataplane's list.
#[derive(Debug)]
struct Source {
    manner: Manner,
    /// The list is not what the actions as written come to, but what a `learn` made.
    is_learned: bool,
    hash: u64,
}

/// The flow that a rule is.
pub fn flow_of(rule: &Rule) -> Flow {
    let manner = manner_of(&rule.actions);
    Flow {
        table: rule.table,
        priority: rule.priority,
        cookie: rule.cookie,
        idle_timeout_s: manner.idle_timeout_s,
        hard_timeout_s: manner.hard_timeout_s,
        importance: manner.importance,
        flags: manner.flags,
        match_: match_of(rule),
        actions: manner.actions.to_vec(),
    }
}

/// The match of the flow that a rule is.
pub fn match_of(rule: &Rule) -> Match {
    Match { key: rule.matching.value(), mask: *rule.matching.mask() }
}

/// A flow to be added.
#[derive(Clone, Debug)]
pub struct Packed {
    pub table: u8,
    pub priority: u16,
    pub cookie: u64,
    pub matching: CompactMatch,
    pub actions: Actions,
}

impl Packed {
    pub fn manner(&self) -> &Manner {
        manner_of(&self.actions)
    }
}

/// A command in a list of many.
#[derive(Clone, Debug)]
pub enum Step {
    Add(Packed),
    Other(Box<FlowMod>),
}

/// Masks and action lists that are in use.
#[derive(Debug, Default)]
pub struct Pool {
    shapes: HashTable<Arc<Shape>>,
    lists: HashTable<Actions>,
    /// The last mask: the next one is mostly the same.
    last: Option<Arc<Shape>>,
    /// Sizes at which to look for what is unused.
    look_at: usize,
}

/// Entries below which nobody looks.
const FEW: usize = 64;

fn source_hash(list: &Actions) -> u64 {
    list.source().and_then(|s| s.downcast_ref::<Source>()).map_or(0, |s| s.hash)
}

impl Pool {
    /// The shape of a mask, if it is there.
    pub fn known_shape(&self, mask: &Mask) -> Option<&Arc<Shape>> {
        if let Some(last) = self.last.as_ref().filter(|s| s.mask() == mask) {
            return Some(last);
        }
        self.shapes.find(Shape::hash_of(mask), |s| s.mask() == mask)
    }

    fn shape(&mut self, mask: &Mask) -> Arc<Shape> {
        let known = self.known_shape(mask).cloned();
        let shape = known.unwrap_or_else(|| {
            let new = Arc::new(Shape::new(mask));
            self.keep_shape(new.clone());
            new
        });
        self.last = Some(shape.clone());
        shape
    }

    fn keep_shape(&mut self, shape: Arc<Shape>) {
        self.make_room();
        self.shapes.insert_unique(shape.hash(), shape, |s| s.hash());
    }

    /// The list for flows of this kind; `learned`: with these actions in place of what it comes
    /// to.
    pub fn list(&mut self, manner: Manner, learned: Option<Box<[Action]>>) -> Actions {
        let hash = manner_hash(&manner);
        let is_it = |l: &Actions| {
            let source = l.source().and_then(|s| s.downcast_ref::<Source>());
            source.is_some_and(|s| {
                s.is_learned == learned.is_some()
                    && s.manner == manner
                    && learned.as_ref().is_none_or(|list| **list == **l)
            })
        };
        if let Some(have) = self.lists.find(hash, is_it) {
            return have.clone();
        }
        let is_learned = learned.is_some();
        let list = learned.unwrap_or_else(|| lower::actions(&manner.actions));
        let new = Actions::new(list, Some(Box::new(Source { manner, is_learned, hash })));
        self.keep_list(new.clone());
        new
    }

    fn keep_list(&mut self, list: Actions) {
        self.make_room();
        self.lists.insert_unique(source_hash(&list), list, source_hash);
    }

    /// Packs a flow.
    pub fn pack(&mut self, flow: Flow) -> Packed {
        let Flow { table, priority, cookie, match_, .. } = flow;
        let clauses = lower::clauses(&flow.actions);
        let shape = self.shape(&match_.mask);
        let matching = CompactMatch::new(shape, &match_.key, clauses);
        let manner = Manner {
            idle_timeout_s: flow.idle_timeout_s,
            hard_timeout_s: flow.hard_timeout_s,
            importance: flow.importance,
            flags: flow.flags,
            actions: flow.actions.into(),
        };
        let actions = self.list(manner, None);
        Packed { table, priority, cookie, matching, actions }
    }

    /// Packs the flow of a command to add one.
    pub fn step(&mut self, m: FlowMod) -> Step {
        match m.command {
            Command::Add => Step::Add(self.pack(m.flow)),
            _ => Step::Other(Box::new(m)),
        }
    }

    /// Has a flow of another pool share what is here.
    pub fn adopt(&mut self, p: &mut Packed) {
        if !self.last.as_ref().is_some_and(|s| Arc::ptr_eq(s, p.matching.shape())) {
            let theirs = p.matching.shape().clone();
            if let Some(ours) = self.known_shape(theirs.mask()) {
                let ours = ours.clone();
                p.matching.share(&ours);
                self.last = Some(ours);
            } else {
                self.keep_shape(theirs.clone());
                self.last = Some(theirs);
            }
        }
        let hash = source_hash(&p.actions);
        let same = |l: &Actions| l.is_same(&p.actions) || is_equal(l, &p.actions);
        match self.lists.find(hash, same) {
            Some(ours) => p.actions = ours.clone(),
            None => self.keep_list(p.actions.clone()),
        }
    }

    /// The groups and meters that the flows cannot be without.
    pub fn refers_to(&self) -> impl Iterator<Item = (Vec<u32>, Vec<u32>)> {
        self.lists.iter().map(|l| refers_to(&manner_of(l).actions))
    }

    fn make_room(&mut self) {
        if self.shapes.len() + self.lists.len() >= self.look_at {
            self.forget_unused();
        }
    }

    /// Lets go of what no flow uses if the flows are far fewer than what is kept.
    pub fn fit(&mut self, flows: usize) {
        if self.lists.len() > FEW.max(2 * flows) {
            self.forget_unused();
        }
    }

    fn forget_unused(&mut self) {
        self.last = None;
        self.lists.retain(|l| !l.is_alone());
        self.shapes.retain(|s| Arc::strong_count(s) > 1);
        self.look_at = FEW.max(2 * (self.shapes.len() + self.lists.len()));
        if self.lists.capacity() > FEW.max(4 * self.lists.len()) {
            self.lists.shrink_to_fit(source_hash);
        }
    }

    #[cfg(test)]
    pub fn len(&self) -> (usize, usize) {
        (self.shapes.len(), self.lists.len())
    }
}

fn manner_hash(manner: &Manner) -> u64 {
    let mut h = DefaultHasher::new();
    manner.hash(&mut h);
    h.finish()
}

fn is_equal(a: &Actions, b: &Actions) -> bool {
    let source = |l: &Actions| {
        let s = l.source().and_then(|s| s.downcast_ref::<Source>());
        s.map(|s| (s.is_learned, s.hash))
    };
    source(a) == source(b) && manner_of(a) == manner_of(b) && **a == **b
}

/// Hash of a place: table, priority and match.
pub fn place_hash(table: u8, priority: u16, matching: &CompactMatch) -> u64 {
    let mut h = DefaultHasher::new();
    (table, priority, matching.shape().hash()).hash(&mut h);
    matching.packed().for_each(|word| word.hash(&mut h));
    h.finish()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::flow::{NoNames, parse_flow};

    fn flow(text: &str) -> Flow {
        parse_flow(text, &NoNames).unwrap()
    }

    #[test]
    fn flows_share_masks_and_actions_and_come_back() {
        let mut pool = Pool::default();
        let texts = [
            "table=3,priority=7,tcp,tp_dst=80,idle_timeout=5 actions=mod_nw_tos:4,output:1",
            "table=4,cookie=0x9,tcp,tp_dst=81,idle_timeout=5 actions=mod_nw_tos:4,output:1",
            "table=3,tcp,tp_dst=80 actions=mod_nw_tos:4,output:1",
            "arp actions=conjunction(4,1/2)",
        ];
        let packed: Vec<Packed> = texts.iter().map(|t| pool.pack(flow(t))).collect();
        assert!(packed[0].actions.is_same(&packed[1].actions));
        assert!(!packed[0].actions.is_same(&packed[2].actions), "another timeout");
        assert_eq!(pool.len(), (2, 3));
        for (p, text) in packed.iter().zip(texts) {
            let rule = Rule {
                bridge: 0,
                table: p.table,
                priority: p.priority,
                cookie: p.cookie,
                matching: p.matching.clone(),
                actions: p.actions.clone(),
                stats: Arc::default(),
            };
            assert_eq!(flow_of(&rule), flow(text));
        }
    }

    #[test]
    fn an_adopted_flow_shares_with_those_that_are_there() {
        let (mut ours, mut theirs) = (Pool::default(), Pool::default());
        let a = ours.pack(flow("udp,tp_dst=1 actions=output:1"));
        let mut b = theirs.pack(flow("udp,tp_dst=2 actions=output:1"));
        ours.adopt(&mut b);
        assert!(a.actions.is_same(&b.actions));
        assert!(Arc::ptr_eq(a.matching.shape(), b.matching.shape()));
        let mut c = theirs.pack(flow("arp actions=output:2"));
        ours.adopt(&mut c);
        assert_eq!(ours.len(), (2, 2));
    }

    #[test]
    fn what_no_flow_uses_does_not_stay() {
        let mut pool = Pool::default();
        let kept = pool.pack(flow("ip actions=output:1"));
        for n in 0..10_000 {
            pool.pack(flow(&format!("reg0=0/{:#x} actions=load:{n}->reg1", n % 5000 + 1)));
        }
        assert!(pool.len().1 <= 2 * FEW, "{:?}", pool.len());
        pool.fit(1);
        pool.forget_unused();
        assert_eq!(pool.len(), (1, 1));
        assert_eq!(kept.manner().actions.len(), 1);
    }
}
