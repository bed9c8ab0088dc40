//! What a replay says at its end; the JSON form is this very structure.

use super::churn::Churn;
use super::engine::Engine;
use super::load::Order;
use super::turns::TurnsReport;
use super::{Out, Packet};
use crate::model::Model;
use serde::Serialize;
use sluice_dataplane::counters::{Drop, Stat};
use std::collections::BTreeMap;
use std::fmt;
use std::time::Duration;

#[derive(Clone, Debug, Default, Serialize)]
pub struct Report {
    pub packets: u64,
    pub bytes: u64,
    /// Per port that sent something.
    pub out: BTreeMap<String, Out>,
    /// Drops by reason; reasons that did not occur are left out.
    pub drops: BTreeMap<&'static str, u64>,
    /// All other counters that moved.
    pub stats: BTreeMap<&'static str, u64>,
    pub tiers: Tiers,
    pub conntrack_entries: u64,
    pub flows: Vec<FlowReport>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub bench: Option<BenchReport>,
}

/// Packets by the tier that served them.
#[derive(Clone, Copy, Debug, Default, Serialize, PartialEq, Eq)]
pub struct Tiers {
    pub tier1: u64,
    pub tier2: u64,
    pub tier3: u64,
}

#[derive(Clone, Debug, Serialize)]
pub struct FlowReport {
    pub bridge: String,
    pub n_packets: u64,
    pub n_bytes: u64,
    pub flow: String,
}

/// Figures of `--bench`.
#[derive(Clone, Debug, Serialize)]
pub struct BenchReport {
    pub mpps: f64,
    pub ns_per_packet: f64,
    /// Of the time stamp counter, not of the core's clock; 0 where there is none.
    pub tsc_cycles_per_packet: f64,
    pub packets: u64,
    pub seconds: f64,
    pub workers: usize,
    pub tiers: Tiers,
    pub drops: BTreeMap<&'static str, u64>,
    /// Other counters that moved during the measurement, as those of connections made and expired.
    pub stats: BTreeMap<&'static str, u64>,
    /// Connections in the tables at its end.
    pub connections: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub fresh: Option<Fresh>,
    /// Calls of the allocator during the measurement, by all workers.
    pub allocations: u64,
    /// What the replay costs without a dataplane in it.
    pub floor: Cost,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cold: Option<Cold>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub churn: Option<Churn>,
    pub settings: Settings,
}

/// What a bench with fresh packets says of them and of the others.
#[derive(Clone, Copy, Debug, Default, Serialize)]
pub struct Fresh {
    /// Fresh ones among the packets.
    pub packets: u64,
    /// Of the others, played once after the measurement: those that did not leave.
    pub others_lost: u64,
    /// What they cost the others, where they came in turns.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub turns: Option<TurnsReport>,
}

/// Of one packet.
#[derive(Clone, Copy, Debug, Default, Serialize)]
pub struct Cost {
    pub ns_per_packet: f64,
    pub tsc_cycles_per_packet: f64,
}

impl Cost {
    pub(super) fn of(packets: u64, ns: f64, cycles: f64) -> Self {
        let per = |x: f64| if packets == 0 { 0.0 } else { x / packets as f64 };
        Self { ns_per_packet: per(ns), tsc_cycles_per_packet: per(cycles) }
    }
}

/// How a bench came up from empty caches.
#[derive(Clone, Debug, Serialize)]
pub struct Cold {
    /// When each packet had come once; 0 if the time did not suffice.
    pub first_pass_ns: u64,
    /// Time since the first packet and packets until then, a millisecond or more apart.
    pub samples: Vec<(u64, u64)>,
}

impl Cold {
    /// A minute of samples; then it stops taking them.
    const SAMPLES_MAX: usize = 60_000;
    const STEP_NS: u64 = 1_000_000;

    pub(super) fn new(seconds: f64) -> Self {
        // All room at once: nothing is allocated while we measure.
        let samples = (seconds * 1e9) as usize / Self::STEP_NS as usize + 1;
        let room = samples.min(Self::SAMPLES_MAX);
        Self { first_pass_ns: 0, samples: Vec::with_capacity(room) }
    }

    pub(super) fn note(&mut self, elapsed: Duration, packets: u64) {
        let ns = elapsed.as_nanos() as u64;
        let last = self.samples.last().map_or(0, |s| s.0);
        if ns >= last + Self::STEP_NS && self.samples.len() < self.samples.capacity() {
            self.samples.push((ns, packets));
        }
    }

    pub(super) fn end_of_pass(&mut self, elapsed: Duration) {
        if self.first_pass_ns == 0 {
            self.first_pass_ns = elapsed.as_nanos() as u64;
        }
    }
}

/// The settings in force.
#[derive(Clone, Debug, Serialize)]
pub struct Settings {
    pub batch: usize,
    pub microflows: usize,
    pub megaflows: usize,
    pub conns_max: u32,
    pub cpus: Vec<usize>,
    pub order: Order,
    pub distinct_packets: usize,
    pub debug_build: bool,
}

pub(super) fn tiers(engine: &Engine) -> Tiers {
    let c = engine.lane.counters();
    Tiers {
        tier1: c.stat(Stat::Tier1Hits),
        tier2: c.stat(Stat::Tier2Hits),
        tier3: c.stat(Stat::Tier3Walks),
    }
}

pub(super) fn drops(engine: &Engine) -> BTreeMap<&'static str, u64> {
    let c = engine.lane.counters();
    Drop::ALL.iter().map(|d| (d.name(), c.dropped(*d))).filter(|d| d.1 > 0).collect()
}

pub(super) fn stats(engine: &Engine) -> BTreeMap<&'static str, u64> {
    let c = engine.lane.counters();
    Stat::ALL.iter().map(|s| (s.name(), c.stat(*s))).filter(|s| s.1 > 0).collect()
}

pub(super) fn report(
    model: &Model,
    engine: &Engine,
    packets: &[Packet],
    out: BTreeMap<String, Out>,
) -> Report {
    let flows = model.bridges.iter().flat_map(|b| {
        b.flows.sorted().into_iter().map(move |s| FlowReport {
            bridge: b.config.name.clone(),
            n_packets: s.rule.stats.packets(),
            n_bytes: s.rule.stats.bytes(),
            flow: s.text(b),
        })
    });
    Report {
        packets: packets.len() as u64,
        bytes: packets.iter().map(|p| p.bytes.len() as u64).sum(),
        out,
        drops: drops(engine),
        stats: stats(engine),
        tiers: tiers(engine),
        conntrack_entries: engine.lane.conntrack_ref().len() as u64,
        flows: flows.collect(),
        bench: None,
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "in       {:>10} packets {:>14} bytes", self.packets, self.bytes)?;
        for (port, out) in &self.out {
            writeln!(f, "out      {:>10} packets {:>14} bytes  {port}", out.packets, out.bytes)?;
        }
        for (reason, n) in &self.drops {
            writeln!(f, "drop     {n:>10} {reason}")?;
        }
        let t = self.tiers;
        writeln!(f, "tiers    {:>10} tier 1, {} tier 2, {} tier 3", t.tier1, t.tier2, t.tier3)?;
        writeln!(f, "conns    {:>10}", self.conntrack_entries)?;
        for flow in self.flows.iter().filter(|flow| flow.n_packets > 0) {
            writeln!(f, "flow     {:>10} packets  {}: {}", flow.n_packets, flow.bridge, flow.flow)?;
        }
        if let Some(b) = &self.bench {
            write!(f, "{b}")?;
        }
        Ok(())
    }
}

impl fmt::Display for BenchReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(
            f,
            "bench    {:.2} Mpps, {:.1} ns and {:.0} TSC cycles a packet, {} worker(s), {:.1} s",
            self.mpps, self.ns_per_packet, self.tsc_cycles_per_packet, self.workers, self.seconds
        )?;
        let t = self.tiers;
        writeln!(
            f,
            "         tier 1 {}, tier 2 {}, tier 3 {}, allocations {}",
            t.tier1, t.tier2, t.tier3, self.allocations
        )?;
        let (ns, cycles) = (self.floor.ns_per_packet, self.floor.tsc_cycles_per_packet);
        writeln!(f, "         of it the replay's own copy: {ns:.1} ns and {cycles:.0} cycles")?;
        if let Some(fresh) = &self.fresh {
            let (n, lost, live) = (fresh.packets, fresh.others_lost, self.connections);
            let made = self.stats.get("ct_created").copied().unwrap_or(0) as f64 / self.seconds;
            writeln!(
                f,
                "         {n} fresh packets, {made:.0} connections made a second, {live} live"
            )?;
            writeln!(f, "         of the other packets {lost} do not come out any more")?;
            if let Some(turns) = &fresh.turns {
                writeln!(f, "         {turns}")?;
            }
        }
        if let Some(cold) = &self.cold {
            let ms = cold.first_pass_ns as f64 / 1e6;
            writeln!(f, "         from cold: each packet once in {ms:.2} ms")?;
        }
        if let Some(c) = &self.churn {
            let (rate, programs, ms) = (c.changes_per_second, c.programs, c.slowest_ms);
            let carried = format!("in {programs} programs, the slowest {ms:.2} ms");
            writeln!(f, "         {} rules changed, {rate:.0} a second, {carried}", c.changes)?;
        }
        for (reason, n) in &self.drops {
            writeln!(f, "         drop {n} {reason}")?;
        }
        if self.settings.debug_build {
            writeln!(f, "         this is a debug build: the figures mean nothing")?;
        }
        Ok(())
    }
}
