//! The oracle: look at every rule.

use super::RuleMatch;
use crate::packet::key::FlowKey;

/// Number of the best rule that matches; ties go to the lower number.
pub fn lookup(rules: &[RuleMatch], key: &FlowKey) -> Option<u32> {
    let mut best: Option<(usize, u16)> = None;
    for (i, r) in rules.iter().enumerate() {
        if key.matches(&r.value, &r.mask) && best.is_none_or(|(_, p)| r.priority > p) {
            best = Some((i, r.priority));
        }
    }
    best.map(|(i, _)| i as u32)
}
