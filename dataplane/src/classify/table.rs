//! A table's rules as ordered subtables. Immutable: a change builds the table anew.

use super::subtable::Subtable;
use crate::packet::key::{FlowKey, Mask};
use std::collections::BTreeMap;

/// What the classifier needs of a rule. Its number is its place in the list given to
/// [`Table::new`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RuleMatch {
    /// Zero wherever `mask` is zero.
    pub value: FlowKey,
    pub mask: Mask,
    pub priority: u16,
}

/// The classifier of one table.
#[derive(Debug, Default)]
pub struct Table {
    subtables: Box<[Subtable]>,
}

impl Table {
    /// Builds the table from its rules.
    pub fn new(rules: &[RuleMatch]) -> Self {
        let mut by_mask: BTreeMap<[u64; crate::packet::key::KEY_WORDS], Vec<u32>> = BTreeMap::new();
        for (i, r) in rules.iter().enumerate() {
            by_mask.entry(*r.mask.words()).or_default().push(i as u32);
        }
        let mut subtables: Vec<Subtable> = by_mask
            .into_values()
            .map(|mut numbers| {
                numbers.sort_by_key(|n| (u16::MAX - rules[*n as usize].priority, *n));
                let list: Vec<(&FlowKey, u16, u32)> = numbers
                    .iter()
                    .map(|n| (&rules[*n as usize].value, rules[*n as usize].priority, *n))
                    .collect();
                Subtable::new(&rules[numbers[0] as usize].mask, &list)
            })
            .collect();
        subtables.sort_by_key(|s| u16::MAX - s.priority_max);
        Self { subtables: subtables.into() }
    }

    /// Number of the best rule that matches.
    #[inline]
    pub fn lookup(&self, key: &FlowKey) -> Option<u32> {
        let mut best: Option<(u32, u16)> = None;
        for sub in &self.subtables {
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

    /// Number of masks, the cost driver.
    pub fn subtables(&self) -> usize {
        self.subtables.len()
    }
}

#[cfg(test)]
mod tests {
    use super::super::reference;
    use super::*;
    use crate::packet::field::{FIELDS, ones};
    use proptest::prelude::*;

    /// Small value spaces make overlaps, ties and equal masks common.
    fn rule() -> impl Strategy<Value = RuleMatch> {
        let part =
            (0..6usize, 0u128..4, prop_oneof![Just(u128::MAX), Just(1), Just(0xff), Just(2)]);
        (proptest::collection::vec(part, 0..4), 0u16..4).prop_map(|(parts, priority)| {
            let (mut value, mut mask) = (FlowKey::ZERO, FlowKey::ZERO);
            for (f, v, m) in parts {
                let field = &FIELDS[[0, 1, 23, 24, 60, 77][f]];
                field.set(&mut value, v & m & ones(field.bits));
                field.set(&mut mask, m);
            }
            RuleMatch { value: value.and(&mask), mask, priority }
        })
    }

    fn key() -> impl Strategy<Value = FlowKey> {
        proptest::collection::vec(0u128..4, 6).prop_map(|v| {
            let mut k = FlowKey::ZERO;
            for (f, v) in [0, 1, 23, 24, 60, 77].iter().zip(v) {
                FIELDS[*f].set(&mut k, v);
            }
            k
        })
    }

    proptest! {
        #![proptest_config(ProptestConfig {
            failure_persistence: None,
            ..ProptestConfig::with_cases(400)
        })]
        #[test]
        fn agrees_with_the_linear_reference(
            rules in proptest::collection::vec(rule(), 0..60),
            keys in proptest::collection::vec(key(), 40),
        ) {
            let table = Table::new(&rules);
            for k in &keys {
                prop_assert_eq!(table.lookup(k), reference::lookup(&rules, k));
            }
        }
    }

    #[test]
    fn an_empty_table_matches_nothing_and_a_catch_all_everything() {
        assert_eq!(Table::new(&[]).lookup(&FlowKey::ZERO), None);
        let all = RuleMatch { value: FlowKey::ZERO, mask: FlowKey::ZERO, priority: 0 };
        let t = Table::new(&[all]);
        assert_eq!(t.lookup(&FlowKey { in_port: 7, ..FlowKey::ZERO }), Some(0));
    }
}
