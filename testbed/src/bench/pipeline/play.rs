//! Plays a case: ours and the rival in turn, round by round.
//!
//! The peer is started once per case, finds its packets in its caches before anything is measured,
//! and stands still while ours runs. Ours starts anew each round, with what that brings of other
//! places in memory. Both have the same core to themselves in their turn.

use std::path::PathBuf;
use std::thread::sleep;
use std::time::{Duration, Instant};

use serde::Serialize;
use serde_json::Value;
use sluice_dataplane::sys::wait::tsc;

use super::case::{Case, Load, Measure, Rival};
use super::files::Files;
use super::peer::{Build, Ovs, PmdStats, SETTINGS, Setting};
use super::rules::Rules;
use super::{Options, loading, ours, same};
use crate::process::wait_until;
use crate::{Error, Result};

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
/// How long a cold start may take; then it counts as that.
const COLD_LIMIT: Duration = Duration::from_secs(40);
const COLD_SAMPLE: Duration = Duration::from_millis(10);
/// Without a miss for so long it is steady, and so long it is looked at to know the steady rate.
const COLD_QUIET: Duration = Duration::from_millis(500);
/// Rules that come and go, and how many a second.
const CHURN_RULES: Rules = Rules::Absent(1000);
const CHURN_RATE: u32 = 10_000;
/// A rate is that of so long.
const RATE_OVER_NS: u64 = 20_000_000;

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
            (Measure::Rate, Rival::Peer) => self.rate(case, &mut out),
            (Measure::Rate, Rival::Own(other)) => self.own_rate(case, &other, &mut out),
            (Measure::Cold, _) => self.cold(case, &mut out),
            (Measure::SetUp, _) => self.set_up(case, &mut out),
            (Measure::LoadRules, _) => self.load_rules(case, &mut out),
            (Measure::Churn, _) => self.churn(case, &mut out),
        };
        out.failure = played.err().map(|e| e.to_string());
        out
    }

    fn own_round(&self, load: &Load, out: &mut Outcome) -> Result<ours::Bench> {
        let bench = ours::bench(&self.files, load, self.options.seconds, &[])?.bench;
        out.floor_cycles.push(bench.floor.tsc_cycles_per_packet);
        out.own_tiers = bench.tiers.clone();
        out.own_settings = bench.settings.clone();
        Ok(bench)
    }

    fn own_rate(&self, case: &Case, other: &Load, out: &mut Outcome) -> Result<()> {
        for _ in 0..self.options.rounds {
            let b = ours::bench(&self.files, other, self.options.seconds, &[])?.bench;
            let a = self.own_round(&case.load, out)?;
            out.own.push(a.mpps);
            out.own_cycles.push(a.tsc_cycles_per_packet);
            out.rival.push(b.mpps);
            out.rival_cycles.push(b.tsc_cycles_per_packet);
        }
        Ok(())
    }

    fn rate(&self, case: &Case, out: &mut Outcome) -> Result<()> {
        let (mut session, build, setting, mut facts) = self.best(&case.load)?;
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
            out.own.push(own.mpps);
            out.own_cycles.push(own.tsc_cycles_per_packet);
            out.rival.push(self.mpps(&stats));
            out.rival_cycles.push(stats.cycles() / stats.packets);
            facts.stats = stats;
        }
        facts.megaflows = session.ovs.megaflows();
        out.peer = Some(facts);
        Ok(())
    }

    /// By its own count of cycles, which leaves out what others took of its core.
    fn mpps(&self, stats: &PmdStats) -> f64 {
        stats.packets / (stats.cycles() / self.tsc_hz) / 1e6
    }

    /// The build and setting that is fastest on this load, with a session of that build.
    fn best(&self, load: &Load) -> Result<(Session, &Build, Setting, PeerFacts)> {
        let mut facts = PeerFacts::default();
        let mut best: Option<(f64, &Build, Setting)> = None;
        let mut last = None;
        for build in &self.builds {
            // Each needs the huge pages of the one before.
            drop(last.take());
            let mut session = self.session(build, load)?;
            let count = if self.options.full { SETTINGS.len() } else { 8 };
            let avx512 = session.ovs.has_avx512();
            for setting in SETTINGS.iter().take(count).filter(|s| avx512 || !s.needs_avx512()) {
                let mpps = self.scan(&mut session.ovs, setting)?;
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
            self.session(build, load)?
        };
        Ok((session, build, setting, facts))
    }

    fn scan(&self, ovs: &mut Ovs, setting: &Setting) -> Result<f64> {
        ovs.apply(setting)?;
        sleep(if setting.fills_slowly() { WARM_UP_FIRST } else { WARM_UP });
        Ok(self.mpps(&count(ovs, SCAN_WINDOW)?))
    }

    /// A peer that forwards a load: the bytes compared, its caches filled.
    fn session(&self, build: &Build, load: &Load) -> Result<Session> {
        let mut ovs = Ovs::start(build, &self.memrx)?;
        ovs.load_rules(&self.files.rules(load.rules)?)?;
        let compared = self.compare(&mut ovs, load)?;
        ovs.add_null_port()?;
        ovs.lift_flow_limit()?;
        ovs.add_replay_port(&self.files.packets(load.traffic, load.flows)?, true, DELAY)?;
        let settled = settle(&mut ovs)?;
        Ok(Session { ovs, settled, compared })
    }

    /// Plays the load's sample through both and compares what left.
    fn compare(&self, ovs: &mut Ovs, load: &Load) -> Result<usize> {
        let ours = ours::capture(&self.files, load)?;
        let peers = self.files.folder().join("peer.pcap");
        let sample = self.files.sample(load)?;
        let wanted = sample_len(&sample)?;
        ovs.add_pcap_port(&peers)?;
        ovs.clear_stats()?;
        ovs.add_replay_port(&sample, false, DELAY)?;
        let done = || match ovs.stats() {
            Ok(stats) if stats.packets >= wanted => Some(Ok(())),
            Ok(_) => None,
            Err(error) => Some(Err(error)),
        };
        wait_until("the sample through the peer", Duration::from_secs(15), done)??;
        ovs.delete_port("in")?;
        // The file is written out when its device goes.
        ovs.delete_port("out")?;
        same::compare(&ours, &peers)
    }

    fn cold(&self, case: &Case, out: &mut Outcome) -> Result<()> {
        for _ in 0..self.options.rounds {
            let run = ours::bench(&self.files, &case.load, 1.0, &["--cold"])?;
            let cold = run.bench.cold.ok_or_else(|| Error::Unexpected("no cold part".into()))?;
            out.own_tiers = run.bench.tiers;
            let own = time_to_steady(&cold.samples).ok_or_else(no_steady)?;
            // A new process: its flow limit has grown after a first time.
            let samples = self.cold_peer(&case.load)?;
            let rival = time_to_steady(&samples).ok_or_else(no_steady)?;
            out.own.push(own / 1e6);
            out.rival.push(rival / 1e6);
        }
        Ok(())
    }

    /// Time since the first packet, and packets; as the peer comes from its package.
    fn cold_peer(&self, load: &Load) -> Result<Vec<(u64, u64)>> {
        let build = self.builds.first().ok_or_else(no_steady)?;
        let mut ovs = Ovs::start(build, &self.memrx)?;
        ovs.load_rules(&self.files.rules(load.rules)?)?;
        ovs.add_null_port()?;
        ovs.clear_stats()?;
        let packets = self.files.packets(load.traffic, load.flows)?;
        ovs.add_replay_port(&packets, true, Duration::from_secs(1))?;
        let (start, mut samples) = (Instant::now(), Vec::new());
        let (mut misses, mut quiet_since) = (0.0, Instant::now());
        while start.elapsed() < COLD_LIMIT {
            let stats = ovs.stats()?;
            samples.push((start.elapsed().as_nanos() as u64, stats.packets as u64));
            if stats.misses > misses || stats.packets == 0.0 {
                (misses, quiet_since) = (stats.misses, Instant::now());
            } else if quiet_since.elapsed() >= 2 * COLD_QUIET {
                break;
            }
            sleep(COLD_SAMPLE);
        }
        let first = samples.iter().rposition(|s| s.1 == 0).unwrap_or(0);
        let zero_ns = samples[first].0;
        Ok(samples[first..].iter().map(|s| (s.0 - zero_ns, s.1)).collect())
    }

    fn set_up(&self, case: &Case, out: &mut Outcome) -> Result<()> {
        let build = self.builds.first().ok_or_else(no_steady)?;
        let flows = case.load.flows as f64;
        let packets = self.files.packets(case.load.traffic, case.load.flows)?;
        let mut ovs = Ovs::start(build, &self.memrx)?;
        ovs.load_rules(&self.files.rules(case.load.rules)?)?;
        ovs.add_null_port()?;
        for _ in 0..self.options.rounds {
            let run = ovs.pause(|| ours::bench(&self.files, &case.load, 2.0, &["--cold"]))?;
            let first_pass_ns = run.bench.cold.map_or(0, |c| c.first_pass_ns);
            if first_pass_ns == 0 {
                return Err(Error::Unexpected("the first pass took longer than 2 s".to_owned()));
            }
            ovs.purge()?;
            ovs.lift_flow_limit()?;
            ovs.clear_stats()?;
            ovs.add_replay_port(&packets, false, DELAY)?;
            let done = || ovs.stats().ok().filter(|s| s.packets >= flows);
            let stats = wait_until("each flow through the peer", COLD_LIMIT, done)?;
            ovs.delete_port("in")?;
            out.own.push(flows / first_pass_ns as f64 * 1e3);
            out.rival.push(stats.misses / (stats.busy_cycles / self.tsc_hz) / 1e6);
            out.own_cycles.push(first_pass_ns as f64 * self.tsc_hz / 1e9 / flows);
            out.rival_cycles.push(stats.busy_cycles / stats.packets);
        }
        Ok(())
    }

    fn churn(&self, case: &Case, out: &mut Outcome) -> Result<()> {
        let file = self.files.rules(CHURN_RULES)?;
        let (file, rate) = (file.to_string_lossy(), CHURN_RATE.to_string());
        let more = ["--churn", &file, "--churn-rate", &rate];
        for _ in 0..self.options.rounds {
            let calm = self.own_round(&case.load, out)?;
            let bench = ours::bench(&self.files, &case.load, self.options.seconds, &more)?.bench;
            let reached = bench.churn.map_or(0.0, |c| c.changes_per_second);
            if reached < 0.9 * f64::from(CHURN_RATE) {
                let text = format!("only {reached:.0} of {CHURN_RATE} changes a second were made");
                return Err(Error::Unexpected(text));
            }
            out.own.push(bench.mpps);
            out.own_cycles.push(bench.tsc_cycles_per_packet);
            out.rival.push(calm.mpps);
            out.rival_cycles.push(calm.tsc_cycles_per_packet);
        }
        Ok(())
    }

    fn load_rules(&self, case: &Case, out: &mut Outcome) -> Result<()> {
        let build = self.builds.first().ok_or_else(no_steady)?;
        let rules = self.files.rules(case.load.rules)?;
        let ovs = Ovs::start(build, &self.memrx)?;
        for _ in 0..self.options.rounds {
            let own = ovs.pause(|| loading::load(&rules))?;
            let rival = ovs.load_rules(&rules)?;
            ovs.delete_rules()?;
            out.own.push(own.as_secs_f64() * 1e3);
            out.rival.push(rival.as_secs_f64() * 1e3);
        }
        Ok(())
    }
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

/// Nanoseconds until the rate is nine tenths of that at the end: `samples` are times and packets
/// until then. A rate is that of 20 ms or of one step, whichever is longer.
fn time_to_steady(samples: &[(u64, u64)]) -> Option<f64> {
    let rate = |from: &(u64, u64), to: &(u64, u64)| {
        (to.1 - from.1) as f64 / (to.0.saturating_sub(from.0)).max(1) as f64
    };
    let last = samples.last()?;
    let tail_ns = (last.0 / 4).min(COLD_QUIET.as_nanos() as u64);
    let tail = samples.iter().find(|s| s.0 + tail_ns >= last.0)?;
    let steady = rate(tail, last);
    let all = std::iter::once(&(0, 0)).chain(samples);
    let mut found = None;
    for from in all {
        let Some(to) = samples.iter().find(|s| s.0 >= from.0 + RATE_OVER_NS) else { break };
        if rate(from, to) >= 0.9 * steady {
            found = Some(from.0 as f64);
            break;
        }
    }
    found.filter(|_| steady > 0.0)
}

/// Cycles of the time stamp counter in a second, by the clock.
fn tsc_hz() -> f64 {
    let (start, cycles) = (Instant::now(), tsc());
    sleep(Duration::from_millis(100));
    (tsc() - cycles) as f64 / start.elapsed().as_secs_f64()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A sample a millisecond; `rate` gives the packets of each.
    fn series(ms: u64, rate: impl Fn(u64) -> u64) -> Vec<(u64, u64)> {
        let mut packets = 0;
        (1..=ms)
            .map(|t| {
                packets += rate(t - 1);
                (t * 1_000_000, packets)
            })
            .collect()
    }

    #[test]
    fn steady_is_where_the_rate_comes_near_that_of_the_end() {
        let at = |list: &[(u64, u64)]| time_to_steady(list).unwrap() / 1e6;
        assert_eq!(at(&series(1000, |_| 100)), 0.0);
        assert_eq!(at(&series(1000, |t| if t < 300 { 10 } else { 100 })), 298.0);
        // A slope: nine tenths of 1000 over the next 20 ms.
        let slope = at(&series(4000, |t| t.min(1000)));
        assert!((885.0..=895.0).contains(&slope), "{slope}");
        assert_eq!(time_to_steady(&[]), None);
        assert_eq!(time_to_steady(&series(1000, |_| 0)), None);
    }
}
