//! Meters: rate limits that flows share (OpenFlow 1.5.1 section 5.11).

use crate::counters::RuleStats;
use std::sync::Arc;

/// What a meter counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MeterUnit {
    /// Packets per second.
    Pktps,
    /// Kilobits (1000 bits) per second.
    Kbps,
}

/// A drop band: what exceeds it is dropped.
#[derive(Clone, Debug)]
pub struct Band {
    pub rate: u32,
    /// Packets or kilobits that may come at once; 0: as many as in a second.
    pub burst: u32,
    pub stats: Arc<RuleStats>,
}

/// A meter as the dataplane has it.
#[derive(Clone, Debug)]
pub struct Meter {
    pub id: u32,
    pub unit: MeterUnit,
    pub bands: Box<[Band]>,
    pub stats: Arc<RuleStats>,
}
