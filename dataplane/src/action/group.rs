//! Groups: sets of action lists that flows share (OpenFlow 1.5.1 section 5.10).
//!
//! **Select by table.** As Open vSwitch does for `dp_hash` and by default, where 256 slots suffice:
//! the low bits of a hash pick a slot, and slots are dealt to buckets by Webster's method (the next
//! slot goes to the bucket with the largest weight / (2 * slots so far + 1)). That is exact to
//! within a slot. When a bucket dies, its packets go on to other slots, each in an order of its own
//! (Open vSwitch goes on to the next one), which keeps the others' shares.
//!
//! **Select by score.** Where a table would be too large, and for `selection_method=hash`, each
//! live bucket scores hash(bucket, packet) * weight and the highest wins.

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
    /// Live only while this group has a live bucket. With both, either will do.
    pub watch_group: Option<u32>,
    /// Run in the order of an action set, whatever their order here.
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
    /// Buckets by the low bits of the hash; empty where scores decide.
    slots: Box<[u16]>,
}

/// Slots of a select group (Open vSwitch: `MAX_SELECT_GROUP_HASH_VALUES`).
const SLOTS_MAX: u64 = 256;

impl Group {
    pub fn new(
        id: u32,
        kind: GroupKind,
        selection: Selection,
        buckets: Box<[Bucket]>,
        stats: Arc<RuleStats>,
    ) -> Self {
        let by_table = matches!(selection, Selection::Default | Selection::DpHash { .. });
        let slots = match kind {
            GroupKind::Select if by_table => deal(&buckets),
            _ => Box::default(),
        };
        Self { id, kind, selection, buckets, stats, slots }
    }

    /// Buckets by the low bits of the hash: a power of two of them; none where scores decide.
    pub fn slots(&self) -> &[u16] {
        &self.slots
    }
}

/// Deals slots to buckets; none if more than there may be would be needed.
fn deal(buckets: &[Bucket]) -> Box<[u16]> {
    let weights: Vec<u64> = buckets.iter().map(|b| b.weight.into()).collect();
    let total: u64 = weights.iter().sum();
    let Some(least) = weights.iter().copied().filter(|w| *w > 0).min() else {
        return Box::default();
    };
    let roomy = (weights.len() as u64 * 4).min(SLOTS_MAX);
    let wanted = total.div_ceil(least).max(roomy).next_power_of_two().max(16);
    if wanted > SLOTS_MAX {
        return Box::default();
    }
    let mut divisors = vec![1u64; weights.len()];
    let mut next = || {
        // a / b > c / d without division; of equals the first.
        let mut best = 0;
        for (i, w) in weights.iter().enumerate().skip(1) {
            if w * divisors[best] > weights[best] * divisors[i] {
                best = i;
            }
        }
        divisors[best] += 2;
        best as u16
    };
    (0..wanted).map(|_| next()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn group(selection: Selection, weights: &[u16]) -> Group {
        let bucket = |(id, weight): (u32, &u16)| Bucket {
            id,
            weight: *weight,
            watch_port: None,
            watch_group: None,
            actions: Box::default(),
            stats: Arc::default(),
        };
        let buckets = (0..).zip(weights).map(bucket).collect();
        Group::new(1, GroupKind::Select, selection, buckets, Arc::default())
    }

    #[test]
    fn slots_are_dealt_by_weight_to_within_one() {
        for weights in [&[1, 1, 1][..], &[1, 2, 3], &[5, 0, 1], &[100, 100, 1], &[7]] {
            let g = group(Selection::Default, weights);
            let (n, total) = (g.slots().len(), weights.iter().map(|w| f64::from(*w)).sum::<f64>());
            assert!(n >= 16 && n.is_power_of_two());
            for (i, w) in weights.iter().enumerate() {
                let got = g.slots().iter().filter(|s| usize::from(**s) == i).count() as f64;
                let fair = n as f64 * f64::from(*w) / total;
                assert!((got - fair).abs() <= 1.0, "{weights:?}: {got} of {n} for {w}");
            }
        }
    }

    #[test]
    fn weights_far_apart_leave_it_to_scores() {
        assert!(group(Selection::Default, &[1000, 1]).slots().is_empty());
        let dp_hash = Selection::DpHash { basis: 0, symmetric: true };
        assert_eq!(group(dp_hash, &[200, 1]).slots().len(), 256);
        assert!(group(Selection::Default, &[1; 257]).slots().is_empty());
        assert!(group(Selection::Default, &[0, 0]).slots().is_empty());
        assert!(group(Selection::Default, &[]).slots().is_empty());
    }
}
