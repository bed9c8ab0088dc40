//! `--bench`: how fast one worker judges these packets.
//!
//! Packets come from memory and are copied into fresh frames, as a device would deliver them, so
//! each pass rewrites unspoilt headers. What leaves is freed at the port. Packets of one port are
//! taken in bursts of the batch size. Several workers share the packets by a symmetric hash of the
//! flow, so both directions of a connection stay together.

use super::engine::Engine;
use super::report::{BenchReport, Settings, Tiers, drops, tiers};
use super::{Packet, ReplayError};
use crate::config::Config;
use sluice_dataplane::clock::Now;
use sluice_dataplane::limits::BATCH_MAX;
use sluice_dataplane::packet::frame::Frame;
use sluice_dataplane::packet::key::{PacketKey, PortIx};
use sluice_dataplane::packet::parse::{Layers, parse};
use sluice_dataplane::pipeline::Egress;
use sluice_dataplane::sys::wait::{self, tsc};
use sluice_dataplane::tunnel::entropy;
use sluice_dataplane::xsk::pool::FramePool;
use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::{Duration, Instant};

#[derive(Clone, Debug, PartialEq)]
pub struct BenchOptions {
    pub seconds: f64,
    pub workers: usize,
    /// First processor; further workers take the next ones. `None`: not bound.
    pub cpu: Option<usize>,
}

impl Default for BenchOptions {
    fn default() -> Self {
        Self { seconds: 5.0, workers: 1, cpu: None }
    }
}

/// Batches between two looks at the clock.
const BATCHES_PER_LOOK: usize = 256;

/// How often the process has called its allocator; a binary that counts sets this up.
pub static ALLOCATIONS: AtomicU64 = AtomicU64::new(0);

/// Frees what it is given.
struct Discard;

impl Egress for Discard {
    #[inline]
    fn output(&mut self, _: PortIx, frame: Frame, pool: &mut FramePool) {
        pool.free(frame);
    }
}

/// Packets in one block of memory, in bursts of one port each.
struct Load {
    bytes: Vec<u8>,
    /// Start and length of each packet.
    packets: Vec<(usize, usize)>,
    /// Port and packets of each burst.
    bursts: Vec<(PortIx, std::ops::Range<usize>)>,
}

impl Load {
    fn new<'a>(list: impl Iterator<Item = &'a Packet>) -> Self {
        let mut load = Self { bytes: Vec::new(), packets: Vec::new(), bursts: Vec::new() };
        for p in list {
            // A packet starts a cache line, as in a frame.
            let at = load.bytes.len().next_multiple_of(64);
            load.bytes.resize(at, 0);
            load.bytes.extend_from_slice(&p.bytes);
            load.packets.push((at, p.bytes.len()));
            let n = load.packets.len();
            match load.bursts.last_mut() {
                Some((port, range)) if *port == p.port && range.len() < BATCH_MAX => range.end = n,
                _ => load.bursts.push((p.port, n - 1..n)),
            }
        }
        load
    }
}

/// One worker's part of the result.
struct Lap {
    packets: u64,
    elapsed: Duration,
    cycles: u64,
    allocations: u64,
    tiers: Tiers,
    drops: BTreeMap<&'static str, u64>,
}

pub(super) fn run(
    options: &BenchOptions,
    config: &Config,
    first: Engine,
    packets: &[Packet],
) -> Result<BenchReport, ReplayError> {
    let allowed = wait::cpus_allowed();
    let cpus: Vec<usize> = options.cpu.map_or(Vec::new(), |c| (c..c + options.workers).collect());
    if let Some(cpu) = cpus.iter().find(|c| !allowed.contains(c)) {
        return Err(ReplayError::NoCpu(*cpu));
    }
    let microflows = first.lane.microflows();
    let engines = engines(options, config, first, packets)?;
    let laps: Vec<Lap> = std::thread::scope(|scope| {
        let threads: Vec<_> = engines
            .into_iter()
            .enumerate()
            .map(|(i, (engine, load))| {
                let cpu = cpus.get(i).copied();
                scope.spawn(move || lap(engine, &load, cpu, options.seconds))
            })
            .collect();
        threads.into_iter().filter_map(|t| t.join().ok()).collect()
    });
    let settings = Settings {
        batch: BATCH_MAX,
        microflows,
        conns_max: config.conntrack.conns_max,
        cpus,
        distinct_packets: packets.len(),
        debug_build: cfg!(debug_assertions),
    };
    Ok(sum(&laps, settings))
}

/// An engine and its packets for each worker. The first has played everything already; the others
/// play their part now.
fn engines(
    options: &BenchOptions,
    config: &Config,
    first: Engine,
    packets: &[Packet],
) -> Result<Vec<(Engine, Load)>, ReplayError> {
    if options.workers <= 1 {
        return Ok(vec![(first, Load::new(packets.iter()))]);
    }
    let mut out = Vec::new();
    for w in 0..options.workers {
        let mine = |p: &&Packet| {
            let (mut key, mut layers) = (PacketKey::default(), Layers::default());
            let parsed = parse(&p.bytes, p.port, &mut key, &mut layers);
            parsed.is_ok() && usize::from(entropy(&key)) % options.workers == w
        };
        let program = first.lane.program().clone();
        let mut engine = Engine::new(config, program, Some(first.lane.microflows()))?;
        for p in packets.iter().filter(mine) {
            engine.play(p, &mut |_| {})?;
        }
        out.push((engine, Load::new(packets.iter().filter(mine))));
    }
    Ok(out)
}

fn lap(mut e: Engine, load: &Load, cpu: Option<usize>, seconds: f64) -> Lap {
    if let Some(cpu) = cpu {
        let _ = wait::pin_to_cpu(cpu);
    }
    let base = e.now();
    // Caches of the processor, and entries whose first packets could not be kept.
    for _ in 0..3 {
        pass(&mut e, load, base, &mut || true);
    }
    e.lane.settle(base);
    let (tiers_before, drops_before) = (tiers(&e), drops(&e));
    let mut packets = 0;
    let allocations = ALLOCATIONS.load(Relaxed);
    let (start, cycles) = (Instant::now(), tsc());
    let limit = Duration::from_secs_f64(seconds);
    let mut elapsed = Duration::ZERO;
    while elapsed < limit && !load.packets.is_empty() {
        let now = Now::from_ns(base.ns + elapsed.as_nanos() as u64);
        packets += pass(&mut e, load, now, &mut || start.elapsed() < limit);
        e.lane.housekeep(now, 64);
        elapsed = start.elapsed();
    }
    let cycles = tsc().saturating_sub(cycles);
    let elapsed = start.elapsed();
    let allocations = ALLOCATIONS.load(Relaxed) - allocations;
    let after = tiers(&e);
    let mut drops = drops(&e);
    drops.iter_mut().for_each(|(k, v)| *v -= drops_before.get(k).copied().unwrap_or(0));
    drops.retain(|_, v| *v > 0);
    let tiers =
        Tiers { tier1: after.tier1 - tiers_before.tier1, tier3: after.tier3 - tiers_before.tier3 };
    Lap { packets, elapsed, cycles, allocations, tiers, drops }
}

/// All packets once, or until `go_on` says no. Says how many went.
fn pass(e: &mut Engine, load: &Load, now: Now, go_on: &mut dyn FnMut() -> bool) -> u64 {
    let mut done = 0;
    for (i, (port, range)) in load.bursts.iter().enumerate() {
        for (at, len) in &load.packets[range.clone()] {
            let Some(mut frame) = e.pool.alloc() else { continue };
            frame.copy_from(&load.bytes[*at..*at + *len]);
            if let Err(frame) = e.burst.push(frame) {
                e.pool.free(frame);
            }
        }
        done += range.len() as u64;
        e.lane.run(&mut e.burst, *port, now, &mut e.pool, &mut Discard);
        if i % BATCHES_PER_LOOK == BATCHES_PER_LOOK - 1 {
            e.lane.drain_events().for_each(drop);
            if !go_on() {
                break;
            }
        }
    }
    done
}

fn sum(laps: &[Lap], settings: Settings) -> BenchReport {
    let packets: u64 = laps.iter().map(|l| l.packets).sum();
    let mpps: f64 =
        laps.iter().map(|l| l.packets as f64 / l.elapsed.as_secs_f64().max(1e-9) / 1e6).sum();
    let workers = laps.len().max(1);
    let cycles: u64 = laps.iter().map(|l| l.cycles).sum();
    let mut drops = BTreeMap::new();
    let mut tiers = Tiers::default();
    for l in laps {
        tiers.tier1 += l.tiers.tier1;
        tiers.tier3 += l.tiers.tier3;
        l.drops.iter().for_each(|(k, v)| *drops.entry(*k).or_default() += v);
    }
    let per = |x: f64| if packets == 0 { 0.0 } else { x / packets as f64 };
    let busy_ns: f64 = laps.iter().map(|l| l.elapsed.as_nanos() as f64).sum();
    BenchReport {
        mpps,
        ns_per_packet: per(busy_ns),
        tsc_cycles_per_packet: per(cycles as f64),
        packets,
        seconds: laps.iter().map(|l| l.elapsed.as_secs_f64()).fold(0.0, f64::max),
        workers,
        tiers,
        drops,
        allocations: laps.iter().map(|l| l.allocations).max().unwrap_or(0),
        settings,
    }
}
