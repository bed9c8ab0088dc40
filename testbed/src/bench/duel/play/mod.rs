//! Plays a case: ours and the rival in turn, round by round.
//!
//! The peer is started once per case, finds its packets in its caches before anything is measured,
//! and stands still while ours runs. Ours starts anew each round, with what that brings of other
//! places in memory. Both have the same core to themselves in their turn.

mod changes;
mod cold;
mod connections;

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::thread::sleep;
use std::time::{Duration, Instant};

use serde::Serialize;
use serde_json::Value;
use sluice_dataplane::sys::wait::tsc;

pub use self::connections::Churning;
use super::case::{Case, Load, Measure, Rival};
use super::files::Files;
use super::peer::{Build, Ovs, PmdStats, Replay, SETTINGS, Setting};
use super::stream::{Role, Stream, Traffic};
use super::{Options, ours, same};
use crate::process::wait_until;
use crate::{Error, Result};

/// Turns with and without a flood, and how long they go on.
const TURN_MS: &str = "40";
const TURNS_SECONDS_MIN: f64 = 2.0;
/// What a device may be there before packets come: the switch polls it sooner than it knows it.
const DELAY: Duration = Duration::from_millis(300);
const SETTLE_STEP: Duration = Duration::from_millis(250);
const SETTLE_LIMIT: Duration = Duration::from_secs(30);
/// Of its packets, so many may still miss in a steady state.
const SETTLED_MISSES: f64 = 1e-5;
const SCAN_WINDOW: Duration = Duration::from_millis(250);
const WARM_UP: Duration = Duration::from_millis(300);
/// The exact-match cache takes up one of a hundred packets: more time to fill.
const WARM_UP_FIRST: Duration = Duration::from_millis(1000);
/// The least share of its packets that a side must have sent; what the two counts are apart in time
/// makes the rest.
const SENT_SHARE_MIN: f64 = 0.95;
/// Fewer packets are no rate, unless there have been no more for so long.
const COUNTED_MIN: f64 = 1000.0;
const COUNT_LIMIT: Duration = Duration::from_secs(15);
/// How long a file's packets may take to come once.
const ONCE_LIMIT: Duration = Duration::from_secs(30);

/// What came out of a case.
#[derive(Debug, Default, Serialize)]
pub struct Outcome {
    /// A figure a round, in the measure's unit.
    pub own: Vec<f64>,
    pub rival: Vec<f64>,
    /// Cycles of the time stamp counter a packet, of rates.
    pub own_cycles: Vec<f64>,
    pub rival_cycles: Vec<f64>,
    /// Cycles of our replay without a dataplane in it.
    pub floor_cycles: Vec<f64>,
    /// Packets by tier in the last round.
    pub own_tiers: Value,
    pub own_settings: Value,
    /// Counters that moved in the last round, and connections at its end.
    pub own_stats: BTreeMap<String, u64>,
    pub own_connections: u64,
    pub peer: Option<PeerFacts>,
    /// Frames whose bytes were compared.
    pub compared: usize,
    pub failure: Option<String>,
}

/// What the peer did in the last window, and how it was set.
#[derive(Debug, Default, Serialize)]
pub struct PeerFacts {
    pub build: String,
    pub setting: String,
    /// Mpps of each build and setting in the scan.
    pub scan: Vec<(String, f64)>,
    pub stats: PmdStats,
    pub megaflows: u64,
    /// Whether its caches knew every packet before the first round.
    pub settled: bool,
    /// Connections that it has at the end, where it tracks any.
    pub connections: u64,
    /// What it does with new connections without end.
    pub churning: Option<Churning>,
}

pub struct Player<'a> {
    pub options: &'a Options,
    pub files: Files,
    pub builds: Vec<Build>,
    /// The replay device for Debian's DPDK.
    pub memrx: PathBuf,
    tsc_hz: f64,
}

/// The peer with a load on it.
struct Session {
    ovs: Ovs,
    settled: bool,
    compared: usize,
}

impl<'a> Player<'a> {
    pub fn new(options: &'a Options, builds: Vec<Build>, memrx: PathBuf) -> Result<Self> {
        Ok(Self { options, files: Files::new()?, builds, memrx, tsc_hz: tsc_hz() })
    }

    pub fn play(&self, case: &Case) -> Outcome {
        let mut out = Outcome::default();
        let played = match (case.measure, case.rival) {
            (Measure::Rate | Measure::Flood, Rival::Peer) => self.rate(case, &mut out),
            (Measure::Rate | Measure::Flood, Rival::Own(other)) => {
                self.own_rate(case, &other, &mut out)
            }
            (Measure::Rate | Measure::Flood, Rival::Calm) => self.turns(case, &mut out),
            (Measure::Cold, _) => self.cold(case, &mut out),
            (Measure::SetUp, Rival::Own(other)) => self.own_set_up(case, &other, &mut out),
            (Measure::SetUp, _) => self.set_up(case, &mut out),
            (Measure::Connections, _) => self.connections(case, &mut out),
            (Measure::LoadRules, _) => self.load_rules(case, &mut out),
            (Measure::Churn, _) => self.churn(case, &mut out),
        };
        out.failure = played.err().map(|e| e.to_string());
        out
    }

    fn own_round(&self, load: &Load, out: &mut Outcome) -> Result<ours::Bench> {
        self.own_round_of(load, self.options.seconds, &[], out)
    }

    fn own_round_of(
        &self,
        load: &Load,
        seconds: f64,
        more: &[&str],
        out: &mut Outcome,
    ) -> Result<ours::Bench> {
        let settle = settling(load);
        let settle: &[&str] = if settle.is_empty() { &[] } else { &["--settle", settle] };
        let bench = ours::bench(&self.files, load, seconds, &[settle, more].concat())?.bench;
        out.floor_cycles.push(bench.floor.tsc_cycles_per_packet);
        out.own_tiers = bench.tiers.clone();
        out.own_settings = bench.settings.clone();
        out.own_stats.clone_from(&bench.stats);
        out.own_connections = bench.connections;
        Ok(bench)
    }

    fn own_rate(&self, case: &Case, other: &Load, out: &mut Outcome) -> Result<()> {
        for _ in 0..self.options.rounds {
            let b = ours::bench(&self.files, other, self.options.seconds, &[])?.bench;
            let a = self.own_round(&case.load, out)?;
            out.own.push(a.steady_mpps());
            out.own_cycles.push(a.tsc_cycles_per_packet);
            out.rival.push(b.mpps);
            out.rival_cycles.push(b.tsc_cycles_per_packet);
        }
        Ok(())
    }

    /// A round is one run of ours, long enough for many turns.
    fn turns(&self, case: &Case, out: &mut Outcome) -> Result<()> {
        let seconds = self.options.seconds.max(TURNS_SECONDS_MIN);
        for _ in 0..self.options.rounds {
            let bench = self.own_round_of(&case.load, seconds, &["--fresh-turns", TURN_MS], out)?;
            let turns = bench.fresh.and_then(|f| f.turns);
            let turns = turns.ok_or_else(|| Error::Unexpected("no pair of turns".to_owned()))?;
            let cycles = |ns: f64| ns * self.tsc_hz / 1e9;
            out.own.push(1e3 / turns.with_ns);
            out.own_cycles.push(cycles(turns.with_ns));
            out.rival.push(1e3 / turns.without_ns);
            out.rival_cycles.push(cycles(turns.without_ns));
        }
        Ok(())
    }

    fn rate(&self, case: &Case, out: &mut Outcome) -> Result<()> {
        let (mut session, build, setting, mut facts) = self
            .best(&|build| self.session(build, &case.load), &|ovs, setting| {
                self.scan(ovs, setting)
            })?;
        out.compared = session.compared;
        session.ovs.apply(&setting)?;
        facts.build.clone_from(&build.name);
        facts.setting = setting.name.to_owned();
        facts.settled = session.settled;
        sleep(WARM_UP_FIRST);
        for _ in 0..self.options.rounds {
            let own = session.ovs.pause(|| self.own_round(&case.load, out))?;
            sleep(WARM_UP);
            let stats = window(&mut session.ovs, Duration::from_secs_f64(self.options.seconds))?;
            out.own.push(own.steady_mpps());
            out.own_cycles.push(own.tsc_cycles_per_packet);
            out.rival.push(self.mpps(&stats) * case.load.traffic.steady_share());
            out.rival_cycles.push(stats.cycles() / stats.packets);
            facts.stats = stats;
        }
        facts.megaflows = session.ovs.megaflows();
        facts.connections = session.ovs.connections();
        out.peer = Some(facts);
        Ok(())
    }

    /// By its own count of cycles, which leaves out what others took of its core.
    fn mpps(&self, stats: &PmdStats) -> f64 {
        stats.packets / (stats.cycles() / stats.threads.max(1.0) / self.tsc_hz) / 1e6
    }

    /// The build and setting that is fastest by a scan, with a session of that build.
    fn best(
        &self,
        start: &dyn Fn(&Build) -> Result<Session>,
        scan: &dyn Fn(&mut Ovs, &Setting) -> Result<f64>,
    ) -> Result<(Session, &Build, Setting, PeerFacts)> {
        let mut facts = PeerFacts::default();
        let mut best: Option<(f64, &Build, Setting)> = None;
        let mut last = None;
        for build in &self.builds {
            // Each needs the huge pages of the one before.
            drop(last.take());
            let mut session = start(build)?;
            let count = if self.options.full { SETTINGS.len() } else { 8 };
            let avx512 = session.ovs.has_avx512();
            for setting in SETTINGS.iter().take(count).filter(|s| avx512 || !s.needs_avx512()) {
                let mpps = scan(&mut session.ovs, setting)?;
                facts.scan.push((format!("{}: {}", build.name, setting.name), mpps));
                if best.is_none_or(|(most, ..)| mpps > most) {
                    best = Some((mpps, build, *setting));
                }
            }
            last = Some((session, build));
        }
        let nothing = || Error::Unexpected("no build of the peer".to_owned());
        let (_, build, setting) = best.ok_or_else(nothing)?;
        let (session, on) = last.ok_or_else(nothing)?;
        let session = if on.name == build.name {
            session
        } else {
            drop(session);
            start(build)?
        };
        Ok((session, build, setting, facts))
    }

    fn scan(&self, ovs: &mut Ovs, setting: &Setting) -> Result<f64> {
        ovs.apply(setting)?;
        sleep(if setting.fills_slowly() { WARM_UP_FIRST } else { WARM_UP });
        Ok(self.mpps(&count(ovs, SCAN_WINDOW)?))
    }

    /// A peer with a load's rules: the bytes compared, its connections forgotten since.
    fn prepared(&self, build: &Build, load: &Load) -> Result<Session> {
        let mut ovs = Ovs::start(build, &self.memrx, load.workers)?;
        ovs.load_rules(&self.files.rules(load.rules)?)?;
        if let Some(max) = load.conns_max {
            ovs.limit_connections(max)?;
        }
        let compared = self.compare(&mut ovs, load)?;
        ovs.lift_flow_limit()?;
        Ok(Session { ovs, settled: true, compared })
    }

    /// A peer that forwards a load: its connections open, its caches filled.
    fn session(&self, build: &Build, load: &Load) -> Result<Session> {
        let mut session = self.prepared(build, load)?;
        let ovs = &mut session.ovs;
        let streams = load.streams();
        for stream in streams.iter().filter(|s| s.role == Role::Warm) {
            play_once(ovs, &self.files.packets(stream)?, stream.port, stream.flows as f64)?;
        }
        let running: Vec<_> = streams.iter().filter(|s| s.role != Role::Warm).collect();
        for port in running.iter().map(|s| s.leaves_by()) {
            if running.iter().all(|s| s.port != port) {
                ovs.add_null_port(port)?;
            }
        }
        for stream in running {
            ovs.add_replay_port(&self.files.packets(stream)?, stream.port, &forever(stream))?;
        }
        ovs.purge()?;
        session.settled = settle(ovs)?;
        Ok(session)
    }

    /// Plays samples of a load's streams through both and compares what left.
    fn compare(&self, ovs: &mut Ovs, load: &Load) -> Result<usize> {
        let ours = ours::capture(&self.files, load)?;
        let mut peers = Vec::new();
        for stream in load.streams() {
            let sample = self.files.sample(&stream)?;
            let to = self.files.folder().join(format!("peer{}.pcap", peers.len()));
            ovs.add_pcap_port(&to, stream.leaves_by())?;
            ovs.purge()?;
            play_once(ovs, &sample, stream.port, sample_len(&sample)?)?;
            // The file is written out when its device goes.
            ovs.delete_port(stream.leaves_by())?;
            peers.push(to);
        }
        ovs.forget_connections()?;
        same::compare(&ours, &peers, load.rules.free_bytes())
    }
}

/// How long ours runs before it is measured: until a flood has filled the table and the caches have
/// found their order, or as many connections expire as are made.
fn settling(load: &Load) -> &'static str {
    match load.traffic {
        Traffic::New(_) => "3",
        Traffic::Flooded(_) => "2",
        _ => "",
    }
}

/// How a stream comes that is measured.
fn forever(stream: &Stream) -> Replay {
    let burst = stream.burst.unwrap_or(0);
    Replay { forever: true, fresh: stream.role == Role::Fresh, burst, delay: DELAY }
}

/// Plays a file's packets through the peer once.
fn play_once(ovs: &mut Ovs, file: &std::path::Path, port: u32, packets: f64) -> Result<PmdStats> {
    ovs.clear_stats()?;
    ovs.add_replay_port(file, port, &Replay::once(DELAY))?;
    let done = || match ovs.stats() {
        Ok(stats) if stats.packets >= packets => Some(Ok(stats)),
        Ok(_) => None,
        Err(error) => Some(Err(error)),
    };
    let stats = wait_until("packets through the peer", ONCE_LIMIT, done)??;
    ovs.delete_port(port)?;
    Ok(stats)
}

fn no_steady() -> Error {
    Error::Unexpected("no steady rate was reached".to_owned())
}

/// Packets of a file that `write_pcap` made.
fn sample_len(path: &std::path::Path) -> Result<f64> {
    let bytes = std::fs::metadata(path).map_err(Error::io(path.display().to_string()))?.len();
    Ok(((bytes - 24) / (16 + super::packets::FRAME_BYTES as u64)) as f64)
}

/// Waits until its caches know every packet; whether they do.
fn settle(ovs: &mut Ovs) -> Result<bool> {
    let start = Instant::now();
    let mut quiet = 0;
    while start.elapsed() < SETTLE_LIMIT {
        ovs.clear_stats()?;
        sleep(SETTLE_STEP);
        let stats = ovs.stats()?;
        let is_quiet = stats.packets > 0.0 && stats.misses <= stats.packets * SETTLED_MISSES;
        quiet = if is_quiet { quiet + 1 } else { 0 };
        if quiet == 2 {
            return Ok(true);
        }
    }
    Ok(false)
}

/// What the peer did for some time. It counts once a round of its ports, and a round of packets
/// that all miss can take longer than a window: then it gets more time.
fn count(ovs: &mut Ovs, length: Duration) -> Result<PmdStats> {
    ovs.clear_stats()?;
    let start = Instant::now();
    loop {
        sleep(length);
        let stats = ovs.stats()?;
        let is_slow = start.elapsed() > COUNT_LIMIT;
        if stats.cycles() > 0.0 && (stats.packets >= COUNTED_MIN || is_slow) {
            return Ok(stats);
        }
        if is_slow {
            let text = format!("no round of the peer's ports ended: {stats:?}");
            return Err(Error::Unexpected(text));
        }
    }
}

/// The same; an error if packets came that did not leave.
fn window(ovs: &mut Ovs, length: Duration) -> Result<PmdStats> {
    let sent = ovs.sent()?;
    let stats = count(ovs, length)?;
    let sent = (ovs.sent()? - sent) as f64;
    if sent < stats.packets * SENT_SHARE_MIN {
        let text = format!("the peer sent {sent} of {} packets", stats.packets);
        return Err(Error::Unexpected(text));
    }
    Ok(stats)
}

/// Cycles of the time stamp counter in a second, by the clock.
fn tsc_hz() -> f64 {
    let (start, cycles) = (Instant::now(), tsc());
    sleep(Duration::from_millis(100));
    (tsc() - cycles) as f64 / start.elapsed().as_secs_f64()
}
