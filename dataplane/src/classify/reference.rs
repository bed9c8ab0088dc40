//! The oracle: look at every rule.
//!
//! Written from the semantics alone (the room's head), with none of the index's ideas in it.

use super::RuleMatch;
use crate::packet::key::FlowKey;
use std::collections::{BTreeMap, BTreeSet};

/// Number of the best rule that matches; ties go to the lower number.
pub fn lookup<'a>(
    rules: impl Iterator<Item = (u32, &'a RuleMatch)> + Clone,
    key: &FlowKey,
) -> Option<u32> {
    let hard = ordinary(rules.clone(), key);
    let hard_priority = hard.map(|(_, priority)| priority);
    let soft: Vec<&RuleMatch> = rules
        .clone()
        .filter(|(_, r)| r.clauses.is_some() && key.matches(&r.value, &r.mask))
        .map(|(_, r)| r)
        .collect();
    let priorities: BTreeSet<u16> = soft.iter().map(|r| r.priority).collect();
    for priority in priorities.into_iter().rev() {
        if hard_priority.is_some_and(|h| h >= priority) {
            break;
        }
        let level: Vec<&RuleMatch> =
            soft.iter().copied().filter(|r| r.priority == priority).collect();
        for conj_id in complete(&level) {
            let again = FlowKey { conj_id, ..*key };
            if let Some((n, _)) = ordinary(rules.clone(), &again) {
                return Some(n);
            }
        }
    }
    hard.map(|(n, _)| n)
}

/// The best rule without clauses, with its priority.
fn ordinary<'a>(
    rules: impl Iterator<Item = (u32, &'a RuleMatch)>,
    key: &FlowKey,
) -> Option<(u32, u16)> {
    rules
        .filter(|(_, r)| r.clauses.is_none() && key.matches(&r.value, &r.mask))
        .map(|(n, r)| (n, r.priority))
        .max_by_key(|(n, priority)| (*priority, u32::MAX - n))
}

/// Conjunctions of which every clause is met by one of these rules, in rising order of number.
fn complete(level: &[&RuleMatch]) -> Vec<u32> {
    let mut met: BTreeMap<(u32, u8), BTreeSet<u8>> = BTreeMap::new();
    for c in level.iter().flat_map(|r| r.clauses.iter().flatten()) {
        met.entry((c.id, c.n_clauses)).or_default().insert(c.clause);
    }
    met.into_iter()
        .filter(|((_, n), _)| usize::from(*n) <= level.len())
        .filter(|((_, n), clauses)| (0..*n).all(|c| clauses.contains(&c)))
        .map(|((id, _), _)| id)
        .collect()
}
