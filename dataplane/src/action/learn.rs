//! `learn`: flows that packets make (ovs-actions(7)).
//!
//! A walk does not change tables. It says which flow is wanted (`pipeline::miss::Event::Learn`) and
//! control adds it: [`learned`] is the flow. Where the flow is there already ([`LearnedMatch`]
//! finds it, [`is_learned`] compares), the walk only refreshes it, and may be cached.

use super::{Action, PORT_LOCAL, Set, port};
use crate::packet::field::{Field, Prereq, Subfield, ones};
use crate::packet::key::{FlowKey, Mask};
use std::borrow::Cow;

/// Where a spec takes its bits from.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum LearnSource {
    Field { range: Subfield, prereq: Prereq },
    Value(u128),
}

/// Bits `lo..lo + bits` of a field.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LearnField {
    pub field: Field,
    pub lo: u8,
    pub bits: u8,
}

/// What a spec adds to the flow that is learned.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LearnTarget {
    /// To its match.
    Match(LearnField),
    /// A `load` to its actions.
    Load(LearnField),
    /// An `output` to its actions.
    Output,
}

/// One part of the flow that is learned.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct LearnSpec {
    pub source: LearnSource,
    pub target: LearnTarget,
}

/// `learn(...)`.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Learn {
    pub table: u8,
    pub priority: u16,
    pub cookie: u64,
    /// 0: none, as with all four.
    pub idle_timeout_s: u16,
    pub hard_timeout_s: u16,
    pub fin_idle_timeout_s: u16,
    pub fin_hard_timeout_s: u16,
    pub send_flow_rem: bool,
    /// The flows learned go when the last flow goes that can learn into this table and cookie.
    pub delete_learned: bool,
    /// Flows of this cookie in the table at most; 0: no limit.
    pub limit: u32,
    /// Becomes 1 if the flow is there afterwards, 0 if the limit kept it out.
    pub result: Option<Subfield>,
    pub specs: Box<[LearnSpec]>,
}

/// The match of a flow that is learned.
#[derive(Clone, Debug, PartialEq)]
pub struct LearnedMatch {
    /// Zero wherever `mask` is zero.
    pub value: FlowKey,
    pub mask: Mask,
}

/// A flow that is learned, to be added as by a strict modify that adds what is not there.
#[derive(Clone, Debug, PartialEq)]
pub struct LearnedFlow {
    pub table: u8,
    pub priority: u16,
    pub cookie: u64,
    pub idle_timeout_s: u16,
    pub hard_timeout_s: u16,
    pub send_flow_rem: bool,
    pub matching: LearnedMatch,
    pub actions: Vec<Action>,
}

impl LearnField {
    fn range(self) -> Subfield {
        let info = self.field.info();
        info.range(self.lo, self.lo + self.bits - 1).unwrap_or(info.whole())
    }
}

impl LearnTarget {
    /// Tells targets apart.
    fn number(self) -> u64 {
        let of = |f: LearnField| u64::from(f.field as u8) << 16 | u64::from(f.lo) << 8;
        match self {
            Self::Match(f) => 1 << 32 | of(f) | u64::from(f.bits),
            Self::Load(f) => 2 << 32 | of(f) | u64::from(f.bits),
            Self::Output => 3 << 32,
        }
    }
}

impl LearnSpec {
    fn value(&self, key: &FlowKey) -> u128 {
        match self.source {
            LearnSource::Field { range, .. } => range.get(key),
            LearnSource::Value(v) => v,
        }
    }

    fn action(&self, key: &FlowKey) -> Option<Action> {
        match self.target {
            LearnTarget::Match(_) => None,
            LearnTarget::Load(f) => Some(Action::Set(Set {
                dst: f.range(),
                prereq: f.field.info().prereq,
                value: self.value(key) & ones(f.bits),
                mask: ones(f.bits),
            })),
            LearnTarget::Output => output(self.value(key)),
        }
    }
}

/// Only ports that may stand in a flow are output to.
fn output(number: u128) -> Option<Action> {
    match u32::try_from(number).ok()? {
        n @ (PORT_LOCAL | 0..port::MAX) => Some(Action::Output(n)),
        port::IN_PORT => Some(Action::InPort),
        port::FLOOD => Some(Action::Flood),
        port::ALL => Some(Action::All),
        _ => None,
    }
}

impl Learn {
    /// The match that a packet makes.
    pub fn matching(&self, key: &FlowKey) -> LearnedMatch {
        let mut m = LearnedMatch { value: FlowKey::ZERO, mask: FlowKey::ZERO };
        for spec in &self.specs {
            if let LearnTarget::Match(f) = spec.target {
                f.range().set(&mut m.value, spec.value(key));
                f.range().or_into(&mut m.mask);
            }
        }
        m
    }

    /// The actions that a packet makes.
    pub fn actions(&self, key: &FlowKey) -> impl Iterator<Item = Action> {
        let (idle_s, hard_s) = (self.fin_idle_timeout_s, self.fin_hard_timeout_s);
        let fin = (idle_s != 0 || hard_s != 0).then_some(Action::FinTimeout { idle_s, hard_s });
        fin.into_iter().chain(self.specs.iter().filter_map(move |s| s.action(key)))
    }

    /// A number, not 0, that packets have in common which would learn the same.
    pub fn hash(&self, key: &FlowKey) -> u64 {
        let mix = |h: u64, v: u64| (h ^ v).wrapping_mul(0x9e37_79b9_7f4a_7c15).rotate_left(29);
        let head = u64::from(self.table) << 16 | u64::from(self.priority);
        let specs = self.specs.iter().fold(mix(head, self.cookie), |h, spec| {
            let v = spec.value(key);
            mix(mix(mix(h, spec.target.number()), v as u64), (v >> 64) as u64)
        });
        mix(specs, specs >> 32) | 1
    }
}

/// The flow that a packet with this key makes.
pub fn learned(learn: &Learn, key: &FlowKey) -> LearnedFlow {
    LearnedFlow {
        table: learn.table,
        priority: learn.priority,
        cookie: learn.cookie,
        idle_timeout_s: learn.idle_timeout_s,
        hard_timeout_s: learn.hard_timeout_s,
        send_flow_rem: learn.send_flow_rem,
        matching: learn.matching(key),
        actions: learn.actions(key).collect(),
    }
}

/// Whether a flow with this cookie and these actions is what a packet would learn.
pub fn is_learned<'a>(
    learn: &Learn,
    key: &FlowKey,
    cookie: u64,
    mut there: impl Iterator<Item = Cow<'a, Action>>,
) -> bool {
    cookie == learn.cookie
        && learn.actions(key).all(|a| there.next().is_some_and(|b| same(&a, &b)))
        && there.next().is_none()
}

/// Whether two actions do the same; bits that a `Set` does not write are not compared.
fn same(a: &Action, b: &Action) -> bool {
    match (a, b) {
        (Action::Set(a), Action::Set(b)) => {
            let (am, bm) = (a.mask & ones(a.dst.bits), b.mask & ones(b.dst.bits));
            a.dst == b.dst && am == bm && a.value & am == b.value & bm
        }
        _ => a == b,
    }
}

/// The `nth` learn of a list, those in clones included.
pub fn nth(list: &[Action], nth: u16) -> Option<&Learn> {
    find(list, &mut |at, _| at == nth, &mut 0).map(|(_, l)| l)
}

/// The number of a learn in a list: the inverse of [`nth`].
pub fn place(list: &[Action], learn: &Learn) -> Option<u16> {
    find(list, &mut |_, l| std::ptr::eq(l, learn), &mut 0).map(|(at, _)| at)
}

fn find<'a>(
    list: &'a [Action],
    is_it: &mut dyn FnMut(u16, &Learn) -> bool,
    next: &mut u16,
) -> Option<(u16, &'a Learn)> {
    list.iter().find_map(|a| match a {
        Action::Clone(inner) => find(inner, is_it, next),
        Action::Learn(l) => {
            let at = *next;
            *next += 1;
            is_it(at, l).then_some((at, &**l))
        }
        _ => None,
    })
}
