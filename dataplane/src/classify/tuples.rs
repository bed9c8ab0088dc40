//! Tuple space: subtables in falling order of the highest priority in them.

use super::RuleMatch;
use super::prefix::{Limits, Prefixes, TRACKED};
use super::subtable::{Subtable, priority_of, rank};
use crate::packet::key::{FlowKey, Mask};
use std::collections::HashMap;
use std::sync::Arc;

#[derive(Clone, Debug)]
struct Entry {
    /// Of the subtable; here so that the end of a search needs no load.
    bound: u16,
    mask_hash: u64,
    subtable: Arc<Subtable>,
}

#[derive(Clone, Debug, Default)]
pub(super) struct Tuples {
    order: Arc<[Entry]>,
    prefixes: Prefixes,
    len: usize,
}

fn mask_hash(mask: &Mask) -> u64 {
    mask.words().iter().fold(0, |h, w| {
        let p = u128::from(h ^ w) * 0x9e37_79b9_7f4a_7c15;
        (p as u64) ^ ((p >> 64) as u64)
    })
}

impl Entry {
    fn new(subtable: Subtable) -> Self {
        let (bound, mask_hash) = (subtable.bound(), mask_hash(subtable.mask()));
        Self { bound, mask_hash, subtable: Arc::new(subtable) }
    }
}

impl Tuples {
    pub(super) fn build<'a>(rules: impl Iterator<Item = (u32, &'a RuleMatch)>) -> Self {
        let mut groups: Vec<(&Mask, Vec<(&FlowKey, u64)>)> = Vec::new();
        let mut by_mask: HashMap<&[u64], usize> = HashMap::new();
        let mut at = 0;
        for (id, m) in rules {
            // Rules of one mask mostly come one after the other.
            if groups.get(at).is_none_or(|(mask, _)| **mask != m.mask) {
                at = *by_mask.entry(m.mask.words()).or_insert_with(|| {
                    groups.push((&m.mask, Vec::new()));
                    groups.len() - 1
                });
            }
            groups[at].1.push((&m.value, rank(m.priority, id)));
        }
        let mut tuples = Self::default();
        let mut entries: Vec<Entry> = Vec::new();
        let mut matches: Vec<(&FlowKey, [u8; TRACKED])> = Vec::new();
        for (mask, rules) in &groups {
            let mut subtable = Subtable::new(mask);
            let lengths = *subtable.lengths();
            matches.extend(subtable.fill(rules).into_iter().map(|v| (v, lengths)));
            tuples.len += rules.len();
            entries.push(Entry::new(subtable));
        }
        tuples.prefixes.fill(matches.into_iter());
        entries.sort_by_key(|e| u16::MAX - e.bound);
        tuples.order = entries.into();
        tuples
    }

    fn position(&self, mask: &Mask) -> Option<usize> {
        let hash = mask_hash(mask);
        self.order.iter().position(|e| e.mask_hash == hash && e.subtable.mask() == mask)
    }

    /// Rank of the rule with exactly this match and priority.
    pub(super) fn rank_of(&self, m: &RuleMatch) -> Option<u64> {
        let subtable = &self.order[self.position(&m.mask)?].subtable;
        subtable.matches(&m.value).find(|r| priority_of(*r) == m.priority)
    }

    /// Adds a rule.
    pub(super) fn insert(&mut self, id: u32, m: &RuleMatch) {
        let at = self.position(&m.mask).unwrap_or_else(|| {
            let new = std::iter::once(Entry::new(Subtable::new(&m.mask)));
            self.order = self.order.iter().cloned().chain(new).collect();
            self.order.len() - 1
        });
        let entry = &mut Arc::make_mut(&mut self.order)[at];
        let subtable = Arc::make_mut(&mut entry.subtable);
        if subtable.insert(&m.value, rank(m.priority, id)) {
            self.prefixes.add(&m.value, subtable.lengths());
        }
        self.len += 1;
        self.settle(at);
    }

    /// Takes a rule out; false if it is not there.
    pub(super) fn remove(&mut self, id: u32, m: &RuleMatch) -> bool {
        let rank = rank(m.priority, id);
        let Some(at) = self.position(&m.mask).filter(|_| self.rank_of(m) == Some(rank)) else {
            return false;
        };
        let entry = &mut Arc::make_mut(&mut self.order)[at];
        let subtable = Arc::make_mut(&mut entry.subtable);
        let Some(was_last) = subtable.remove(&m.value, rank) else { return false };
        if was_last {
            self.prefixes.sub(&m.value, subtable.lengths());
        }
        self.len -= 1;
        if self.order[at].subtable.len() == 0 {
            let keep = self.order.iter().enumerate().filter(|(n, _)| *n != at);
            self.order = keep.map(|(_, e)| e.clone()).collect();
        } else {
            self.settle(at);
        }
        true
    }

    /// Moves the entry to where its bound puts it now.
    fn settle(&mut self, at: usize) {
        let order = Arc::make_mut(&mut self.order);
        let bound = order[at].subtable.bound();
        if order[at].bound == bound && at + 1 < order.len() && order[at + 1].bound <= bound {
            return;
        }
        order[at].bound = bound;
        let earlier = order[..at].partition_point(|e| e.bound >= bound);
        order[earlier..=at].rotate_right(1);
        if earlier == at {
            let later = order[at + 1..].partition_point(|e| e.bound > bound);
            order[at..=at + later].rotate_left(1);
        }
    }

    /// Rank of the best rule that matches.
    #[inline]
    pub(super) fn lookup(&self, key: &FlowKey) -> Option<u64> {
        let mut best: Option<u64> = None;
        for e in self.order.iter() {
            if best.is_some_and(|b| priority_of(b) > e.bound) {
                break;
            }
            best = best.max(e.subtable.lookup(key));
        }
        best
    }

    /// As `lookup`; adds to `seen` what the answer depended on.
    pub(super) fn lookup_wild(&self, key: &FlowKey, seen: &mut Mask) -> Option<u64> {
        let mut limits = Limits::new(&self.prefixes, key);
        let mut best: Option<u64> = None;
        for e in self.order.iter() {
            if best.is_some_and(|b| priority_of(b) > e.bound) {
                break;
            }
            best = best.max(e.subtable.lookup_wild(key, &mut limits, seen));
        }
        best
    }

    /// The highest priority between `above` and `below` (both excluded) of a rule that matches.
    pub(super) fn priority_between(
        &self,
        key: &FlowKey,
        above: i32,
        below: i32,
        mut seen: Option<&mut Mask>,
    ) -> Option<u16> {
        let mut limits = Limits::new(&self.prefixes, key);
        let mut best = above;
        for e in self.order.iter() {
            // Those of the priority found are visited too, for `each_of` will look there.
            if i32::from(e.bound) < best || i32::from(e.bound) <= above {
                break;
            }
            if let Some(seen) = seen.as_deref_mut()
                && e.subtable.lookup_wild(key, &mut limits, seen).is_none()
            {
                continue;
            }
            let mut ranks = e.subtable.matches(key).map(|r| i32::from(priority_of(r)));
            best = best.max(ranks.find(|p| *p < below).unwrap_or(above));
        }
        u16::try_from(best).ok().filter(|_| best > above)
    }

    /// Calls `f` with the ranks of all rules of this priority that match; `priority_between` has
    /// seen what this depends on.
    pub(super) fn each_of(&self, key: &FlowKey, priority: u16, mut f: impl FnMut(u64)) {
        for e in self.order.iter().take_while(|e| e.bound >= priority) {
            if let Some(r) = e.subtable.matches(key).find(|r| priority_of(*r) == priority) {
                f(r);
            }
        }
    }

    /// Values, masks and ranks of all rules.
    pub(super) fn iter(&self) -> impl Iterator<Item = (FlowKey, &Mask, u64)> {
        self.order
            .iter()
            .flat_map(|e| e.subtable.iter().map(|(value, rank)| (value, e.subtable.mask(), rank)))
    }

    /// Masks with their number of rules.
    pub(super) fn masks(&self) -> impl ExactSizeIterator<Item = (&Mask, usize)> + Clone {
        self.order.iter().map(|e| (e.subtable.mask(), e.subtable.len()))
    }

    pub(super) fn len(&self) -> usize {
        self.len
    }

    /// Memory in bytes.
    pub(super) fn bytes(&self) -> usize {
        let subtables: usize = self.order.iter().map(|e| e.subtable.bytes()).sum();
        subtables + self.order.len() * size_of::<Entry>() + self.prefixes.bytes()
    }
}
