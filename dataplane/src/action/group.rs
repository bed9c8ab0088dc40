//! Groups: sets of action lists that flows share (OpenFlow 1.5.1 section 5.10).

use super::Action;
use crate::counters::RuleStats;
use crate::packet::field::Field;
use std::sync::Arc;

/// Which buckets run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum GroupKind {
    /// All of them, each on its own copy.
    All,
    /// One, chosen by a hash and the weights.
    Select,
    /// The only one.
    Indirect,
    /// The first that is live.
    FastFailover,
}

/// How a select group hashes.
#[derive(Clone, Debug, PartialEq)]
pub enum Selection {
    /// By the packet's addresses and ports, both directions alike.
    Default,
    /// `selection_method=dp_hash`. `symmetric`: both directions alike.
    DpHash { basis: u32, symmetric: bool },
    /// `selection_method=hash`: fields with the bits of them that count.
    Hash { basis: u32, fields: Box<[(Field, u128)]> },
}

/// One action list of a group.
#[derive(Clone, Debug)]
pub struct Bucket {
    pub id: u32,
    /// Share of a select group; 0: unused.
    pub weight: u16,
    /// Live only while this port is up.
    pub watch_port: Option<u32>,
    /// Live only while this group has a live bucket.
    pub watch_group: Option<u32>,
    /// In the order of an action set.
    pub actions: Box<[Action]>,
    pub stats: Arc<RuleStats>,
}

/// A group as the dataplane has it.
#[derive(Clone, Debug)]
pub struct Group {
    pub id: u32,
    pub kind: GroupKind,
    pub selection: Selection,
    pub buckets: Box<[Bucket]>,
    pub stats: Arc<RuleStats>,
}
