//! `--bench`: how fast one worker judges these packets.
//!
//! Packets come from memory and are copied into fresh frames, as a device would deliver them, so
//! each pass rewrites unspoilt headers. What leaves is freed at the port. Packets of one port are
//! taken in bursts of the batch size. Several workers share the packets by a symmetric hash of the
//! flow, so both directions of a connection stay together.
//!
//! What the replay itself costs (a frame taken, the copy, the frame given back) is measured too and
//! told as the *floor* beside the whole; no figure is diminished by it. A *cold* bench begins with
//! empty caches and connections, but for those of `--warm`, and tells how the rate comes up.
//!
//! With fresh packets, those that are not fresh come once more at the end, to see whether their
//! connections are all there still; `turns` says what the fresh ones cost them.

use super::churn::{Churn, ChurnOptions, Inbox, churn};
use super::engine::{Caches, Engine};
use super::gate::{Gate, Pass};
use super::load::{Load, Order};
use super::passes::Passes;
use super::report::{BenchReport, Cold, Cost, Settings, Tiers, drops, stats, tiers};
use super::turns::Turns;
use super::{Fresh, Packet, ReplayError};
use crate::config::Config;
use crate::model::Model;
use sluice_dataplane::clock::Now;
use sluice_dataplane::limits::BATCH_MAX;
use sluice_dataplane::packet::key::PacketKey;
use sluice_dataplane::packet::parse::{Layers, parse};
use sluice_dataplane::pipeline::Lane;
use sluice_dataplane::sys::wait::{self, tsc};
use sluice_dataplane::tunnel::entropy;
use std::collections::BTreeMap;
use std::panic::resume_unwind;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::{Duration, Instant};

#[derive(Clone, Debug, PartialEq)]
pub struct BenchOptions {
    pub seconds: f64,
    /// Before measuring.
    pub settle_seconds: f64,
    pub workers: usize,
    /// First processor; further workers take the next ones. `None`: not bound.
    pub cpu: Option<usize>,
    pub order: Order,
    /// Begin with nothing cached and tell how the rate comes up; for one worker.
    pub cold: bool,
    /// Change rules meanwhile; for one worker.
    pub churn: Option<ChurnOptions>,
    /// Fresh packets come in every second turn of this length; for one worker.
    pub fresh_turns_ms: Option<u64>,
}

impl Default for BenchOptions {
    fn default() -> Self {
        Self {
            seconds: 5.0,
            settle_seconds: 0.0,
            workers: 1,
            cpu: None,
            order: Order::File,
            cold: false,
            churn: None,
            fresh_turns_ms: None,
        }
    }
}

/// Batches between two looks at the clock, and at the mailbox.
const BATCHES_PER_LOOK: usize = 256;
/// The same for a cold bench, where a batch of misses takes long, and for one with changes.
const BATCHES_PER_LOOK_SHORT: usize = 8;
/// Part of the time that is spent on the floor.
const FLOOR_SHARE: f64 = 0.1;

/// How often the process has called its allocator; a binary that counts sets this up.
pub static ALLOCATIONS: AtomicU64 = AtomicU64::new(0);

/// What is played.
#[derive(Clone, Copy)]
pub(super) struct Packets<'a> {
    /// Once, first.
    pub warm: &'a [Packet],
    pub measured: &'a [Packet],
}

/// One worker's part of the result.
struct Lap {
    packets: u64,
    elapsed: Duration,
    cycles: u64,
    allocations: u64,
    tiers: Tiers,
    drops: BTreeMap<&'static str, u64>,
    stats: BTreeMap<&'static str, u64>,
    connections: u64,
    fresh: Option<Fresh>,
    floor: Cost,
    cold: Option<Cold>,
}

pub(super) fn run(
    options: &BenchOptions,
    config: &Config,
    first: Engine,
    packets: Packets<'_>,
    model: &mut Model,
) -> Result<BenchReport, ReplayError> {
    let allowed = wait::cpus_allowed();
    let cpus: Vec<usize> = options.cpu.map_or(Vec::new(), |c| (c..c + options.workers).collect());
    if let Some(cpu) = cpus.iter().find(|c| !allowed.contains(c)) {
        return Err(ReplayError::NoCpu(*cpu));
    }
    let (microflows, megaflows) = (first.lane.microflows(), first.lane.megaflows());
    let engines = engines(options, config, first, packets)?;
    let (control, mut inbox) = match &options.churn {
        Some(wish) => churn(wish, model).map(|(control, inbox)| (Some(control), Some(inbox)))?,
        None => (None, None),
    };
    let gate = &Gate::new(engines.len());
    let (laps, churned) = std::thread::scope(|scope| {
        let threads: Vec<_> = engines
            .into_iter()
            .enumerate()
            .map(|(i, (engine, load))| {
                let (cpu, mail) = (cpus.get(i).copied(), inbox.take());
                let pass = gate.pass();
                scope.spawn(move || lap(engine, &load, cpu, options, mail, &pass))
            })
            .collect();
        let churned: Option<Result<Churn, ReplayError>> = control.map(|c| c.drive(model));
        // A worker's panic goes on here: what the others have done is no result.
        let joined = threads.into_iter().map(std::thread::ScopedJoinHandle::join);
        let laps: Vec<Lap> =
            joined.map(|lap| lap.unwrap_or_else(|panic| resume_unwind(panic))).collect();
        (laps, churned)
    });
    let settings = Settings {
        batch: BATCH_MAX,
        microflows,
        megaflows,
        conns_max: config.conntrack.conns_max,
        cpus,
        order: options.order,
        distinct_packets: packets.measured.len(),
        debug_build: cfg!(debug_assertions),
    };
    let churn = churned.transpose()?;
    Ok(BenchReport { churn, ..sum(&laps, settings) })
}

/// An engine and its packets for each worker. The first has played everything already; the others
/// play their part now. A cold one plays nothing.
fn engines(
    options: &BenchOptions,
    config: &Config,
    first: Engine,
    packets: Packets<'_>,
) -> Result<Vec<(Engine, Load)>, ReplayError> {
    let all: Vec<&Packet> = packets.measured.iter().collect();
    if options.cold {
        let mut engine = Engine::new(config, first.lane.program().clone(), caches_of(&first.lane))?;
        packets.warm.iter().try_for_each(|p| engine.play(p, &mut |_| {}))?;
        return Ok(vec![(engine, Load::new(&all, options.order))]);
    }
    if options.workers <= 1 {
        return Ok(vec![(first, Load::new(&all, options.order))]);
    }
    let mut out = Vec::new();
    for w in 0..options.workers {
        let mine = |p: &&Packet| {
            let (mut key, mut layers) = (PacketKey::default(), Layers::default());
            let parsed = parse(&p.bytes, p.port, &mut key, &mut layers);
            parsed.is_ok() && usize::from(entropy(&key)) % options.workers == w
        };
        let warm = packets.warm.iter().filter(mine);
        let mine: Vec<&Packet> = packets.measured.iter().filter(mine).collect();
        let program = first.lane.program().clone();
        let mut engine = Engine::new(config, program, caches_of(&first.lane))?;
        warm.chain(mine.iter().copied()).try_for_each(|p| engine.play(p, &mut |_| {}))?;
        out.push((engine, Load::new(&mine, options.order)));
    }
    Ok(out)
}

fn caches_of(lane: &Lane) -> Caches {
    Caches {
        microflows: Some(lane.microflows()),
        megaflows: Some(lane.megaflows()),
        self_check: None,
    }
}

fn lap(
    mut e: Engine,
    load: &Load,
    cpu: Option<usize>,
    options: &BenchOptions,
    mail: Option<Inbox>,
    gate: &Pass<'_>,
) -> Lap {
    if let Some(cpu) = cpu {
        let _ = wait::pin_to_cpu(cpu);
    }
    let mut passes = Passes::new(load, e.now());
    let mut cold = options.cold.then(|| Cold::new(options.seconds));
    let is_short = options.cold || mail.is_some();
    let look = if is_short { BATCHES_PER_LOOK_SHORT } else { BATCHES_PER_LOOK };
    let take = |lane: &mut Lane, now: Now| mail.iter().for_each(|m| m.take(lane, now));
    make_ready(&mut e, load, &mut passes, options, &take);
    passes.turns = options.fresh_turns_ms.map(|ms| Turns::new(ms, options.seconds));
    let before = Counted::of(&e);
    let mut fresh = load.has_fresh().then(Fresh::default);
    let mut packets = 0;
    // The allocator is everybody's: nobody counts while another one makes ready, or reports.
    gate.wait();
    let allocations = ALLOCATIONS.load(Relaxed);
    let (start, cycles) = (Instant::now(), tsc());
    let limit = Duration::from_secs_f64(options.seconds);
    let mut elapsed = Duration::ZERO;
    while elapsed < limit && !load.is_empty() {
        let done = passes.pass(&mut e, look, &mut |lane, now, done| {
            take(lane, now);
            let elapsed = start.elapsed();
            cold.iter_mut().for_each(|c| c.note(elapsed, packets + done));
            elapsed < limit
        });
        packets += done.packets;
        fresh.iter_mut().for_each(|f| f.packets += done.fresh);
        // A pass may be shorter than the way to the next look.
        take(&mut e.lane, passes.now());
        elapsed = start.elapsed();
        cold.iter_mut().for_each(|c| c.end_of_pass(elapsed));
    }
    let cycles = tsc().saturating_sub(cycles);
    let elapsed = start.elapsed();
    let allocations = ALLOCATIONS.load(Relaxed) - allocations;
    gate.wait();
    // What conntrack has counted is carried over with it.
    e.lane.settle(passes.now());
    let Counted { tiers, drops, stats } = Counted::of(&e).since(&before);
    let connections = e.lane.conntrack_ref().len() as u64;
    fresh.iter_mut().for_each(|f| {
        f.others_lost = passes.lost(&mut e);
        f.turns = passes.turns.as_ref().and_then(Turns::report);
    });
    // Control ends with it.
    drop(mail);
    let floor = passes.floor(&mut e, options.seconds * FLOOR_SHARE);
    Lap {
        packets,
        elapsed,
        cycles,
        allocations,
        tiers,
        drops,
        stats,
        connections,
        fresh,
        floor,
        cold,
    }
}

/// Brings the caches, of the processor too, and what comes with time to where they stay.
fn make_ready(
    e: &mut Engine,
    load: &Load,
    passes: &mut Passes<'_>,
    options: &BenchOptions,
    take: &dyn Fn(&mut Lane, Now),
) {
    // Three times: entries whose first packets could not be kept come later.
    for _ in 0..if options.cold { 0 } else { 3 } {
        passes.pass(e, BATCHES_PER_LOOK_SHORT, &mut |lane, now, _| {
            take(lane, now);
            true
        });
    }
    let settled = Duration::from_secs_f64(options.settle_seconds);
    let start = Instant::now();
    while start.elapsed() < settled && !load.is_empty() {
        passes.pass(e, BATCHES_PER_LOOK, &mut |lane, now, _| {
            take(lane, now);
            start.elapsed() < settled
        });
    }
    e.lane.settle(passes.now());
}

/// What a lane has counted.
struct Counted {
    tiers: Tiers,
    drops: BTreeMap<&'static str, u64>,
    stats: BTreeMap<&'static str, u64>,
}

impl Counted {
    fn of(e: &Engine) -> Self {
        Self { tiers: tiers(e), drops: drops(e), stats: stats(e) }
    }

    fn since(self, before: &Self) -> Self {
        Self {
            tiers: Tiers {
                tier1: self.tiers.tier1 - before.tiers.tier1,
                tier2: self.tiers.tier2 - before.tiers.tier2,
                tier3: self.tiers.tier3 - before.tiers.tier3,
            },
            drops: moved(self.drops, &before.drops),
            stats: moved(self.stats, &before.stats),
        }
    }
}

/// What counters have gained.
fn moved(
    mut now: BTreeMap<&'static str, u64>,
    before: &BTreeMap<&'static str, u64>,
) -> BTreeMap<&'static str, u64> {
    now.iter_mut().for_each(|(k, v)| *v -= before.get(k).copied().unwrap_or(0));
    now.retain(|_, v| *v > 0);
    now
}

fn sum(laps: &[Lap], settings: Settings) -> BenchReport {
    let packets: u64 = laps.iter().map(|l| l.packets).sum();
    let mpps: f64 =
        laps.iter().map(|l| l.packets as f64 / l.elapsed.as_secs_f64().max(1e-9) / 1e6).sum();
    let workers = laps.len().max(1);
    let cycles: u64 = laps.iter().map(|l| l.cycles).sum();
    let (mut drops, mut stats) = (BTreeMap::new(), BTreeMap::new());
    let mut tiers = Tiers::default();
    for l in laps {
        tiers.tier1 += l.tiers.tier1;
        tiers.tier2 += l.tiers.tier2;
        tiers.tier3 += l.tiers.tier3;
        l.drops.iter().for_each(|(k, v)| *drops.entry(*k).or_default() += v);
        l.stats.iter().for_each(|(k, v)| *stats.entry(*k).or_default() += v);
    }
    let busy_ns: f64 = laps.iter().map(|l| l.elapsed.as_nanos() as f64).sum();
    let cost = Cost::of(packets, busy_ns, cycles as f64);
    BenchReport {
        mpps,
        ns_per_packet: cost.ns_per_packet,
        tsc_cycles_per_packet: cost.tsc_cycles_per_packet,
        packets,
        seconds: laps.iter().map(|l| l.elapsed.as_secs_f64()).fold(0.0, f64::max),
        workers,
        tiers,
        drops,
        stats,
        connections: laps.iter().map(|l| l.connections).sum(),
        fresh: laps.iter().filter_map(|l| l.fresh).reduce(|a, b| Fresh {
            packets: a.packets + b.packets,
            others_lost: a.others_lost + b.others_lost,
            turns: a.turns.or(b.turns),
        }),
        allocations: laps.iter().map(|l| l.allocations).max().unwrap_or(0),
        floor: laps.first().map(|l| l.floor).unwrap_or_default(),
        churn: None,
        cold: laps.iter().find_map(|l| l.cold.clone()),
        settings,
    }
}
