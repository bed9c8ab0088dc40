//! Flows as they are kept: what is equal in many is there once.
//!
//! A typed flow has a key and a mask of 800 bytes and a list of actions of its own; a table has a
//! hundred thousand flows of a handful of masks and action lists. So a flow is kept as a rule of
//! the dataplane, which shares its mask and its actions with others, and the list carries along
//! what it was made from ([`Manner`]). Lists that differ in values alone share their outline
//! (`compile::outline`), and what that was made from has 0 in their place. The text is written
//! when somebody asks. A [`Pool`] finds the mask, the list and the outline that are there already.
//!
//! What no flow uses any more goes from the pool when that has doubled since the last look, or
//! when most of it may be unused: so a pool costs no more than twice what it is for.

use crate::compile::{lower, outline};
use crate::flow::refers_to;
use crate::flow::{Command, Flow, FlowAction, FlowFlags, FlowMod, Match};
use hashbrown::HashTable;
use sluice_dataplane::action::Action;
use sluice_dataplane::classify::{CompactMatch, Shape};
use sluice_dataplane::packet::key::Mask;
use sluice_dataplane::pipeline::actions::take_values;
use sluice_dataplane::pipeline::{Actions, Outline, Rule};
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

/// What a list of actions was made from, with 0 for each value that was taken out.
pub fn form_of(actions: &Actions) -> &Manner {
    source(actions.outline()).map_or_else(|| &*NO_MANNER, |s| &s.form)
}

/// What a list of actions was made from.
pub fn manner_of(actions: &Actions) -> Manner {
    let mut manner = form_of(actions).clone();
    outline::put(&mut manner.actions, actions.values());
    manner
}

/// Rides along with the dataplane's outline.
#[derive(Debug)]
struct Source {
    form: Manner,
    /// How many values were taken out.
    values: usize,
    /// The list is not what the actions as written come to, but what a `learn` made. Its values
    /// come after those of the actions as written.
    is_learned: bool,
    hash: u64,
}

fn source(outline: &Outline) -> Option<&Source> {
    outline.source().and_then(|s| s.downcast_ref::<Source>())
}

/// The hash of an outline; all outlines here have a source.
fn outline_hash(outline: &Outline) -> u64 {
    source(outline).map_or(0, |s| s.hash)
}

/// The values of a list, and no zeros behind them.
fn values_of(list: &Actions) -> &[u64] {
    let n = source(list.outline()).map_or(0, |s| s.values);
    list.values().get(..n).unwrap_or_default()
}

/// The hash of a list.
fn list_hash(outline: u64, values: &[u64]) -> u64 {
    values.iter().fold(outline, |h, v| {
        let p = u128::from(h ^ v) * 0x9e37_79b9_7f4a_7c15;
        (p as u64) ^ ((p >> 64) as u64)
    })
}

fn hash_of(list: &Actions) -> u64 {
    list_hash(outline_hash(list.outline()), values_of(list))
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
        actions: manner.actions.into(),
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
    pub fn form(&self) -> &Manner {
        form_of(&self.actions)
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
    outlines: HashTable<Arc<Outline>>,
    lists: HashTable<Actions>,
    /// Room for the values of a list.
    values: Vec<u64>,
    /// The last mask: the next one is mostly the same.
    last: Option<Arc<Shape>>,
    /// Sizes at which to look for what is unused.
    look_at: usize,
}

/// Entries below which nobody looks.
const FEW: usize = 64;

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
    pub fn list(&mut self, mut manner: Manner, mut learned: Option<Box<[Action]>>) -> Actions {
        let mut values = std::mem::take(&mut self.values);
        outline::take(&mut manner.actions, &mut values);
        if let Some(list) = &mut learned {
            take_values(list, &mut values);
        }
        let outline = self.outline(manner, learned, values.len());
        let list = self.shared(outline, &values, None);
        self.values = values;
        list
    }

    /// The outline for flows of this form.
    fn outline(
        &mut self,
        form: Manner,
        learned: Option<Box<[Action]>>,
        values: usize,
    ) -> Arc<Outline> {
        let hash = manner_hash(&form);
        let is_it = |o: &Arc<Outline>| {
            source(o).is_some_and(|s| {
                s.is_learned == learned.is_some()
                    && s.form == form
                    && learned.as_ref().is_none_or(|list| **list == *o.list())
            })
        };
        if let Some(have) = self.outlines.find(hash, is_it) {
            return have.clone();
        }
        let is_learned = learned.is_some();
        let list = learned.unwrap_or_else(|| outline::actions(&form.actions));
        let source = Source { form, values, is_learned, hash };
        let new = Arc::new(Outline::new(list, Some(Box::new(source))));
        self.keep_outline(new.clone());
        new
    }

    fn keep_outline(&mut self, outline: Arc<Outline>) {
        self.make_room();
        self.outlines.insert_unique(outline_hash(&outline), outline, |o| outline_hash(o));
    }

    /// The list of an outline of ours with these values; `new` is one to keep if none is there.
    fn shared(&mut self, outline: Arc<Outline>, values: &[u64], new: Option<Actions>) -> Actions {
        let hash = list_hash(outline_hash(&outline), values);
        let same = |l: &Actions| Arc::ptr_eq(l.outline(), &outline) && values_of(l) == values;
        if let Some(have) = self.lists.find(hash, same) {
            return have.clone();
        }
        let new = new.unwrap_or_else(|| Actions::new(outline, values));
        self.make_room();
        self.lists.insert_unique(hash, new.clone(), hash_of);
        new
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
        let theirs = p.actions.outline();
        let same = |o: &Arc<Outline>| Arc::ptr_eq(o, theirs) || is_equal(o, theirs);
        let ours = self.outlines.find(outline_hash(theirs), same).cloned();
        let outline = ours.unwrap_or_else(|| {
            self.keep_outline(theirs.clone());
            theirs.clone()
        });
        let new = Arc::ptr_eq(&outline, theirs).then(|| p.actions.clone());
        p.actions = self.shared(outline, values_of(&p.actions), new);
    }

    /// The groups and meters that the flows cannot be without.
    pub fn refers_to(&self) -> impl Iterator<Item = (Vec<u32>, Vec<u32>)> {
        let used = self.outlines.iter().filter_map(|o| source(o));
        used.map(|s| refers_to(&s.form.actions))
    }

    /// Entries.
    fn kept(&self) -> usize {
        self.shapes.len() + self.outlines.len() + self.lists.len()
    }

    fn make_room(&mut self) {
        if self.kept() >= self.look_at {
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
        self.outlines.retain(|o| Arc::strong_count(o) > 1);
        self.shapes.retain(|s| Arc::strong_count(s) > 1);
        self.look_at = FEW.max(2 * self.kept());
        if self.lists.capacity() > FEW.max(4 * self.lists.len()) {
            self.lists.shrink_to_fit(hash_of);
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

fn is_equal(a: &Outline, b: &Outline) -> bool {
    let both = source(a).zip(source(b));
    both.is_some_and(|(a, b)| (a.is_learned, a.hash) == (b.is_learned, b.hash) && a.form == b.form)
        && a.list() == b.list()
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
    use sluice_dataplane::pipeline::FlowStats;

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
                stats: FlowStats::default(),
            };
            assert_eq!(flow_of(&rule), flow(text));
        }
    }

    #[test]
    fn lists_that_differ_in_values_share_their_outline() {
        let mut pool = Pool::default();
        let [a, b] =
            [1, 2].map(|n| pool.pack(flow(&format!("ip actions=load:{n}->reg0,output:{n}"))));
        assert!(!a.actions.is_same(&b.actions));
        assert!(Arc::ptr_eq(a.actions.outline(), b.actions.outline()));
        // What packets made is not what the text comes to.
        let made = |n: u32| Some([Action::Output(n)].into());
        let of = |p: &Packed| manner_of(&p.actions);
        let (c, d) = (pool.list(of(&a), made(7)), pool.list(of(&b), made(8)));
        assert!(!Arc::ptr_eq(a.actions.outline(), c.outline()));
        assert!(Arc::ptr_eq(c.outline(), d.outline()));
        for (list, from, to) in [(&c, &a, 7), (&d, &b, 8)] {
            let spelled: Vec<Action> = list.spelled_out().map(|a| a.into_owned()).collect();
            assert_eq!(spelled, [Action::Output(to)]);
            assert_eq!(manner_of(list), of(from));
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
        assert_eq!((pool.len(), pool.outlines.len()), ((1, 1), 1));
        assert_eq!(kept.form().actions.len(), 1);
    }
}
