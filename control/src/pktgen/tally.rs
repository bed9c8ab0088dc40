//! What came of a run: loss, order, duplicates and latency, per flow and in sum.
//!
//! Per flow the numbers 0, 1, 2, ... are expected. A jump counts as loss until a late packet
//! fills it; a window of the last 64 numbers tells a late packet from one that came twice. What is
//! lost after a flow's last packet the sink cannot see: compare with what the sender says.

use serde::Serialize;

use super::histogram::{Histogram, Percentiles};
use super::probe::{Probe, udp_payload};
use super::stream::FLOWS_MAX;

/// Flows named in a report.
const WORST_MAX: usize = 10;
const WINDOW: u32 = 64;

#[derive(Clone, Copy, Debug, Default)]
struct FlowTally {
    received: u64,
    /// One more than the highest number seen.
    next: u32,
    /// Bit n: the number `next - 1 - n` has come.
    window: u64,
    lost: u64,
    late: u64,
    duplicates: u64,
}

impl FlowTally {
    fn take(&mut self, number: u32) {
        self.received += 1;
        if let Some(ahead) = number.checked_sub(self.next) {
            self.lost += u64::from(ahead);
            self.window = match ahead + 1 {
                by if by < WINDOW => self.window << by | 1,
                _ => 1,
            };
            self.next = number.saturating_add(1);
            return;
        }
        let bit = self.next - 1 - number;
        if bit >= WINDOW {
            // Too far back to know whether it came before; as a late one it would lower the loss.
            self.duplicates += 1;
        } else if self.window >> bit & 1 == 1 {
            self.duplicates += 1;
        } else {
            self.window |= 1 << bit;
            self.late += 1;
            self.lost = self.lost.saturating_sub(1);
        }
    }
}

/// Counts packets as they come.
#[derive(Debug, Default)]
pub struct Tally {
    flows: Vec<FlowTally>,
    latency: Histogram,
    received: u64,
    bytes: u64,
    foreign: u64,
    first_ns: Option<u64>,
    last_ns: u64,
}

impl Tally {
    /// Takes a received frame.
    pub fn take(&mut self, frame: &[u8], now_ns: u64) {
        let Some(probe) = udp_payload(frame).and_then(Probe::decode) else {
            self.foreign += 1;
            return;
        };
        let index = probe.flow as usize;
        if probe.flow >= FLOWS_MAX {
            self.foreign += 1;
            return;
        }
        if index >= self.flows.len() {
            self.flows.resize(index + 1, FlowTally::default());
        }
        if let Some(flow) = self.flows.get_mut(index) {
            flow.take(probe.number);
        }
        self.received += 1;
        self.bytes += frame.len() as u64;
        self.latency.record(probe.latency_ns(now_ns));
        self.first_ns.get_or_insert(now_ns);
        self.last_ns = self.last_ns.max(now_ns);
    }

    /// Packets with a probe so far.
    pub fn received(&self) -> u64 {
        self.received
    }

    /// `queue_drops`: packets that the sink itself was too slow for.
    pub fn report(&self, queue_drops: u64) -> SinkReport {
        let sum = |f: fn(&FlowTally) -> u64| self.flows.iter().map(f).sum();
        let elapsed_ns = self.last_ns.saturating_sub(self.first_ns.unwrap_or(self.last_ns));
        // n packets have n - 1 gaps between them.
        let gaps = self.received.saturating_sub(1) as f64;
        let per_s = |n: f64| if elapsed_ns == 0 { 0.0 } else { n * 1e9 / elapsed_ns as f64 };
        let mut worst: Vec<FlowLoss> = (0..).zip(&self.flows).filter_map(FlowLoss::of).collect();
        worst.sort_by_key(|f| std::cmp::Reverse(f.lost));
        worst.truncate(WORST_MAX);
        SinkReport {
            received: self.received,
            bytes: self.bytes,
            flows: self.flows.iter().filter(|f| f.received > 0).count() as u64,
            lost: sum(|f| f.lost),
            late: sum(|f| f.late),
            duplicates: sum(|f| f.duplicates),
            foreign: self.foreign,
            queue_drops,
            seconds: elapsed_ns as f64 / 1e9,
            packets_per_s: per_s(gaps),
            bits_per_s: per_s(self.bytes as f64 * 8.0),
            latency_ns: self.latency.percentiles(),
            worst_flows: worst,
        }
    }
}

/// What the sink saw.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct SinkReport {
    /// Packets with a probe, each time they came.
    pub received: u64,
    pub bytes: u64,
    /// Flows of which anything came.
    pub flows: u64,
    /// Numbers missing below each flow's highest.
    pub lost: u64,
    /// Came after a later one of their flow.
    pub late: u64,
    pub duplicates: u64,
    /// Other packets on the device.
    pub foreign: u64,
    /// Packets the sink itself was too slow for.
    pub queue_drops: u64,
    /// From the first packet to the last.
    pub seconds: f64,
    pub packets_per_s: f64,
    pub bits_per_s: f64,
    pub latency_ns: Option<Percentiles>,
    /// The flows that lost most.
    pub worst_flows: Vec<FlowLoss>,
}

/// A flow that lost packets.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct FlowLoss {
    pub flow: u32,
    pub received: u64,
    pub lost: u64,
}

impl FlowLoss {
    fn of((flow, tally): (u32, &FlowTally)) -> Option<Self> {
        let FlowTally { received, lost, .. } = *tally;
        (lost > 0).then_some(Self { flow, received, lost })
    }
}
