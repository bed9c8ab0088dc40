//! What the classifier needs of a rule.

use super::CompactMatch;
use crate::packet::key::{FlowKey, Mask};

/// The match of a rule. A rule's number is not part of it: callers choose numbers freely.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RuleMatch {
    /// Zero wherever `mask` is zero.
    pub value: FlowKey,
    pub mask: Mask,
    pub priority: u16,
    /// The conjunctions that this rule is a part of; `None` for an ordinary rule. A rule with
    /// clauses never wins by itself.
    pub clauses: Option<Box<[Clause]>>,
}

/// One `conjunction(id, clause + 1 / n_clauses)` of a rule.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Clause {
    /// The `conj_id` that the search is repeated with.
    pub id: u32,
    /// From 0 on, below `n_clauses`.
    pub clause: u8,
    /// 2 to 64.
    pub n_clauses: u8,
}

impl RuleMatch {
    /// An ordinary rule.
    pub fn new(value: FlowKey, mask: Mask, priority: u16) -> Self {
        Self { value: value.and(&mask), mask, priority, clauses: None }
    }
}

/// A match in either form, for tables that are built of many.
#[derive(Clone, Copy, Debug)]
pub(super) enum AnyMatch<'a> {
    Full(&'a RuleMatch),
    Compact(&'a CompactMatch, u16),
}

impl<'a> AnyMatch<'a> {
    pub(super) fn mask(self) -> &'a Mask {
        match self {
            Self::Full(m) => &m.mask,
            Self::Compact(m, _) => m.mask(),
        }
    }

    pub(super) fn value(self) -> FlowKey {
        match self {
            Self::Full(m) => m.value,
            Self::Compact(m, _) => m.value(),
        }
    }

    pub(super) fn priority(self) -> u16 {
        match self {
            Self::Full(m) => m.priority,
            Self::Compact(_, priority) => priority,
        }
    }

    pub(super) fn has_clauses(self) -> bool {
        match self {
            Self::Full(m) => m.clauses.is_some(),
            Self::Compact(m, _) => m.clauses().is_some(),
        }
    }

    pub(super) fn full(self) -> RuleMatch {
        match self {
            Self::Full(m) => m.clone(),
            Self::Compact(m, priority) => m.full(priority),
        }
    }
}
