//! Meters: rate limits that flows share (OpenFlow 1.5.1 section 5.11).
//!
//! Each band is a token bucket of its own. A packet takes its volume out of every bucket that
//! holds as much; if one does not, the packet is dropped and counted on that band, or, of several
//! such bands, on the one of the highest rate (Open vSwitch's userspace datapath, which steps by
//! milliseconds where we step by nanoseconds).
//!
//! **Units.** A bucket counts in rate times time: for packets per second a packet is 10^9
//! (packets/s times ns), for kilobits per second a bit is 10^6 (kbit/s times ns). The largest
//! burst, 2^32 packets or kilobits, is 4.3 * 10^18 in both and fits a `u64`.
//!
//! A bucket is kept as what was *taken* and not yet refilled, so a new one is all zeros. A meter
//! that is modified is a new `Meter` and starts anew; one that is left alone stays the same `Arc`
//! through all programs, and its state with it.

use crate::clock::Now;
use crate::counters::RuleStats;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

/// What a meter counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MeterUnit {
    /// Packets per second.
    Pktps,
    /// Kilobits (1000 bits) per second.
    Kbps,
}

/// A drop band: what exceeds it is dropped.
#[derive(Debug)]
pub struct Band {
    pub rate: u32,
    /// Packets or kilobits that may come at once; 0: as many as in a second.
    pub burst: u32,
    pub stats: Arc<RuleStats>,
    /// Taken and not yet refilled.
    taken: AtomicU64,
}

/// A meter as the dataplane has it.
#[derive(Debug)]
pub struct Meter {
    pub id: u32,
    pub unit: MeterUnit,
    pub bands: Box<[Band]>,
    pub stats: Arc<RuleStats>,
    /// Up to when the buckets are refilled.
    filled_ns: AtomicU64,
}

/// A packet of a meter by packets, in units of its buckets.
const PACKET: u64 = 1_000_000_000;
/// A bit of a meter by kilobits.
const BIT: u64 = 1_000_000;

impl Band {
    pub fn new(rate: u32, burst: u32) -> Self {
        Self { rate, burst, stats: Arc::default(), taken: AtomicU64::new(0) }
    }

    /// What the full bucket holds.
    fn capacity(&self, unit: MeterUnit) -> u64 {
        let burst = if self.burst == 0 { self.rate } else { self.burst };
        let one = match unit {
            MeterUnit::Pktps => PACKET,
            MeterUnit::Kbps => 1000 * BIT,
        };
        u64::from(burst) * one
    }

    fn refill(&self, ns: u64) {
        let by = ns.saturating_mul(self.rate.into());
        let _ = self.taken.fetch_update(Relaxed, Relaxed, |t| Some(t.saturating_sub(by)));
    }

    /// Takes the volume if the bucket holds it.
    fn take(&self, volume: u64, unit: MeterUnit) -> bool {
        let room = self.capacity(unit);
        let taken = |t: u64| t.checked_add(volume).filter(|sum| *sum <= room);
        self.taken.fetch_update(Relaxed, Relaxed, taken).is_ok()
    }
}

impl Meter {
    pub fn new(id: u32, unit: MeterUnit, bands: impl IntoIterator<Item = Band>) -> Self {
        let bands = bands.into_iter().collect();
        Self { id, unit, bands, stats: Arc::default(), filled_ns: AtomicU64::new(0) }
    }

    /// Whether a frame of this length may pass.
    pub fn passes(&self, len: usize, now: Now) -> bool {
        self.stats.add(1, len as u64, now.ns);
        let filled_ns = self.filled_ns.fetch_max(now.ns, Relaxed);
        if filled_ns < now.ns {
            self.bands.iter().for_each(|b| b.refill(now.ns - filled_ns));
        }
        let volume = match self.unit {
            MeterUnit::Pktps => PACKET,
            MeterUnit::Kbps => len as u64 * 8 * BIT,
        };
        let mut exceeded: Option<&Band> = None;
        for band in &self.bands {
            let is_worse = exceeded.is_none_or(|e| band.rate > e.rate);
            if !band.take(volume, self.unit) && is_worse {
                exceeded = Some(band);
            }
        }
        if let Some(band) = exceeded {
            band.stats.add(1, len as u64, now.ns);
        }
        exceeded.is_none()
    }
}
