//! `learn`: flows that packets make (ovs-actions(7)).

use crate::packet::field::{Field, Prereq, Subfield};

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
#[derive(Clone, Debug, PartialEq)]
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
