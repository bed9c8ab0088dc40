//! Rules with clauses: parts of conjunctive matches. See the room's head for the semantics.
//!
//! They lie in a tuple space of their own, so that tables and templates of ordinary rules know
//! nothing of them. The payload of a rule there is not its number (such a rule never wins) but
//! the place of its clauses.

use super::subtable::{id_of, priority_of};
use super::tuples::Tuples;
use super::{Clause, RuleMatch};
use crate::packet::key::{FlowKey, Mask};
use std::sync::Arc;

/// Rules of one priority whose clauses are looked up once; those of more are looked up again for
/// each conjunction.
const LISTS: usize = 64;
const PAGE: usize = 64;
const NONE: u32 = u32::MAX;

#[derive(Clone, Debug)]
enum Slot {
    /// The next free slot, or `NONE`.
    Free(u32),
    /// A rule's number, and its clauses in order.
    Used(u32, Arc<[Clause]>),
}

#[derive(Clone, Debug)]
pub(super) struct Soft {
    tuples: Tuples,
    pages: Arc<[Arc<[Slot]>]>,
    free: u32,
}

impl Default for Soft {
    fn default() -> Self {
        Self { tuples: Tuples::default(), pages: Arc::default(), free: NONE }
    }
}

/// The second search, with this `conj_id`; what it depended on goes into the mask.
pub(super) type Again<'a> = &'a mut dyn FnMut(u32, Option<&mut Mask>) -> Option<u64>;

impl Soft {
    /// Adds a rule with its clauses.
    pub(super) fn insert(&mut self, id: u32, m: &RuleMatch) {
        if self.free == NONE {
            let from = (self.pages.len() * PAGE) as u32;
            let slots = (from + 1..).take(PAGE - 1).map(Slot::Free).chain([Slot::Free(NONE)]);
            let page: Arc<[Slot]> = slots.collect();
            self.pages = self.pages.iter().cloned().chain([page]).collect();
            self.free = from;
        }
        let mut clauses = m.clauses.as_deref().unwrap_or_default().to_vec();
        clauses.sort_by_key(|c| (c.id, c.n_clauses, c.clause));
        let place = self.free;
        let slot = self.slot_mut(place);
        if let Slot::Free(next) = std::mem::replace(slot, Slot::Used(id, clauses.into())) {
            self.free = next;
        }
        self.tuples.insert(place, m);
    }

    /// Takes a rule out; false if it is not there.
    pub(super) fn remove(&mut self, id: u32, m: &RuleMatch) -> bool {
        let Some(place) = self.tuples.rank_of(m).map(id_of) else { return false };
        if !matches!(self.slot(place), Some(Slot::Used(n, _)) if *n == id) {
            return false;
        }
        let free = self.free;
        *self.slot_mut(place) = Slot::Free(free);
        self.free = place;
        self.tuples.remove(place, m)
    }

    fn slot(&self, place: u32) -> Option<&Slot> {
        self.pages.get(place as usize / PAGE)?.get(place as usize % PAGE)
    }

    fn slot_mut(&mut self, place: u32) -> &mut Slot {
        let page = &mut Arc::make_mut(&mut self.pages)[place as usize / PAGE];
        &mut Arc::make_mut(page)[place as usize % PAGE]
    }

    fn clauses(&self, rank: u64) -> &[Clause] {
        match self.slot(id_of(rank)) {
            Some(Slot::Used(_, clauses)) => clauses,
            _ => &[],
        }
    }

    pub(super) fn len(&self) -> usize {
        self.tuples.len()
    }

    pub(super) fn masks(&self) -> usize {
        self.tuples.masks().len()
    }

    /// What a conjunction of a higher priority than `hard` finds. `seen` gets the bits of the key
    /// that the answer depended on.
    pub(super) fn lookup(
        &self,
        key: &FlowKey,
        hard: Option<u64>,
        mut seen: Option<&mut Mask>,
        again: Again<'_>,
    ) -> Option<u64> {
        let above = hard.map_or(-1, |r| i32::from(priority_of(r)));
        let mut below = i32::from(u16::MAX) + 1;
        while let Some(p) = self.tuples.priority_between(key, above, below, seen.as_deref_mut()) {
            let level = Level::new(self, key, p);
            let mut after = None;
            while let Some(conjunction) = level.next(after) {
                let found = if level.is_complete(conjunction) {
                    again(conjunction.0, seen.as_deref_mut())
                } else {
                    None
                };
                if found.is_some() {
                    return found;
                }
                after = Some(conjunction);
            }
            below = p.into();
        }
        None
    }

    pub(super) fn bytes(&self) -> usize {
        let clauses = |s: &Slot| match s {
            Slot::Free(_) => 0,
            Slot::Used(_, c) => size_of_val(&**c) + 16,
        };
        let slots = self.pages.iter().flat_map(|p| p.iter());
        slots.map(|s| size_of::<Slot>() + clauses(s)).sum::<usize>() + self.tuples.bytes()
    }
}

/// Number and clauses of a conjunction.
type Conjunction = (u32, u8);

/// Rules of one priority that match the key.
struct Level<'a> {
    soft: &'a Soft,
    key: &'a FlowKey,
    priority: u16,
    lists: [&'a [Clause]; LISTS],
    rules: usize,
}

impl<'a> Level<'a> {
    fn new(soft: &'a Soft, key: &'a FlowKey, priority: u16) -> Self {
        let mut lists: [&[Clause]; LISTS] = [&[]; LISTS];
        let mut rules = 0;
        soft.tuples.each_of(key, priority, |r| {
            if let Some(list) = lists.get_mut(rules) {
                *list = soft.clauses(r);
            }
            rules += 1;
        });
        Self { soft, key, priority, lists, rules }
    }

    fn each(&self, mut f: impl FnMut(&[Clause])) {
        if let Some(lists) = self.lists.get(..self.rules) {
            lists.iter().for_each(|l| f(l));
        } else {
            self.soft.tuples.each_of(self.key, self.priority, |r| f(self.soft.clauses(r)));
        }
    }

    /// The next conjunction that has as many clauses as there are rules here, or fewer.
    fn next(&self, after: Option<Conjunction>) -> Option<Conjunction> {
        if self.rules < 2 {
            return None;
        }
        let mut next: Option<Conjunction> = None;
        self.each(|list| {
            let from = list.partition_point(|c| Some((c.id, c.n_clauses)) <= after);
            let rest = list.get(from..).unwrap_or_default();
            if let Some(c) = rest.iter().find(|c| usize::from(c.n_clauses) <= self.rules) {
                let c = (c.id, c.n_clauses);
                next = Some(next.map_or(c, |n| n.min(c)));
            }
        });
        next
    }

    fn is_complete(&self, conjunction: Conjunction) -> bool {
        let mut met = 0u64;
        self.each(|list| {
            let from = list.partition_point(|c| (c.id, c.n_clauses) < conjunction);
            let rest = list.get(from..).unwrap_or_default();
            for c in rest.iter().take_while(|c| (c.id, c.n_clauses) == conjunction) {
                met |= 1u64.checked_shl(c.clause.into()).unwrap_or(0);
            }
        });
        let all = u64::MAX >> (64 - u32::from(conjunction.1.clamp(1, 64)));
        met & all == all
    }
}
