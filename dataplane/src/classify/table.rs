//! A table's rules as ordered subtables.

use super::subtable::Subtable;
use super::{RuleMatch, reference};
use crate::packet::key::{FlowKey, KEY_WORDS, Mask};
use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;

/// The form that a table has at present.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Template {
    /// No rule.
    Empty,
    /// One mask: a hash table.
    Hash,
    /// Tuple space search.
    Tuples,
}

impl fmt::Display for Template {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Empty => "empty",
            Self::Hash => "hash",
            Self::Tuples => "tuple space",
        })
    }
}

/// The classifier of one table. A clone shares all and costs next to nothing; changing one
/// leaves the others as they were.
#[derive(Clone, Debug, Default)]
pub struct Table {
    rules: Arc<BTreeMap<u32, Arc<RuleMatch>>>,
    subtables: Arc<[Subtable]>,
    /// Rules with clauses.
    soft: usize,
}

impl Table {
    pub fn new() -> Self {
        Self::default()
    }

    /// Builds the table from its rules.
    pub fn build<'a>(rules: impl Iterator<Item = (u32, &'a RuleMatch)>) -> Self {
        let rules = rules.map(|(id, m)| (id, Arc::new(m.clone()))).collect();
        let mut table = Self { rules: Arc::new(rules), ..Self::default() };
        table.index();
        table
    }

    /// Adds a rule. Its number is free, and no rule has its match and priority: the caller sees
    /// to both.
    pub fn insert(&mut self, id: u32, m: &RuleMatch) {
        Arc::make_mut(&mut self.rules).insert(id, Arc::new(m.clone()));
        self.index();
    }

    /// Takes a rule out; false if it is not there.
    pub fn remove(&mut self, id: u32, m: &RuleMatch) -> bool {
        if self.rules.get(&id).is_none_or(|r| **r != *m) {
            return false;
        }
        Arc::make_mut(&mut self.rules).remove(&id);
        self.index();
        true
    }

    fn index(&mut self) {
        let mut by_mask: BTreeMap<[u64; KEY_WORDS], Vec<(u32, &RuleMatch)>> = BTreeMap::new();
        for (id, r) in self.rules.iter().filter(|(_, r)| r.clauses.is_none()) {
            by_mask.entry(*r.mask.words()).or_default().push((*id, r));
        }
        let mut subtables: Vec<Subtable> = by_mask
            .into_values()
            .map(|mut rules| {
                rules.sort_by_key(|(id, r)| (u16::MAX - r.priority, *id));
                let list: Vec<(&FlowKey, u16, u32)> =
                    rules.iter().map(|(id, r)| (&r.value, r.priority, *id)).collect();
                Subtable::new(&rules[0].1.mask, &list)
            })
            .collect();
        subtables.sort_by_key(|s| u16::MAX - s.priority_max);
        self.subtables = subtables.into();
        self.soft = self.rules.values().filter(|r| r.clauses.is_some()).count();
    }

    /// Number of the best rule that matches.
    #[inline]
    pub fn lookup(&self, key: &FlowKey) -> Option<u32> {
        if self.soft != 0 {
            return reference::lookup(self.rules.iter().map(|(id, r)| (*id, &**r)), key);
        }
        let mut best: Option<(u32, u16)> = None;
        for sub in self.subtables.iter() {
            if best.is_some_and(|(_, p)| p > sub.priority_max) {
                break;
            }
            let Some((rule, priority)) = sub.lookup(key) else { continue };
            let better = match best {
                None => true,
                Some((r, p)) => priority > p || (priority == p && rule < r),
            };
            if better {
                best = Some((rule, priority));
            }
        }
        best.map(|(rule, _)| rule)
    }

    /// As `lookup`; adds to `seen` the bits of the key that the answer depended on.
    pub fn lookup_wild(&self, key: &FlowKey, seen: &mut Mask) -> Option<u32> {
        let found = self.lookup(key);
        let beats = |r: &RuleMatch| {
            found.and_then(|n| self.rules.get(&n)).is_none_or(|b| r.priority >= b.priority)
        };
        for r in self.rules.values().filter(|r| self.soft != 0 || beats(r)) {
            seen.or_assign(&r.mask);
        }
        found
    }

    /// Rules.
    pub fn len(&self) -> usize {
        self.rules.len()
    }

    pub fn is_empty(&self) -> bool {
        self.rules.is_empty()
    }

    /// Number of masks, the cost driver.
    pub fn subtables(&self) -> usize {
        self.subtables.len()
    }

    /// The form in use.
    pub fn template(&self) -> Template {
        match self.subtables.len() {
            0 => Template::Empty,
            1 => Template::Hash,
            _ => Template::Tuples,
        }
    }

    /// Memory of the index.
    pub fn bytes(&self) -> usize {
        self.subtables.iter().map(Subtable::bytes).sum::<usize>()
            + self.rules.len() * (size_of::<RuleMatch>() + 16)
    }
}
