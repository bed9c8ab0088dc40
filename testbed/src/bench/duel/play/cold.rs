//! The way from cold to steady, and how fast new flows are set up.

use std::path::PathBuf;
use std::thread::sleep;
use std::time::{Duration, Instant};

use super::{Outcome, Player, no_steady, play_once};
use crate::bench::duel::case::{Case, Load};
use crate::bench::duel::ours;
use crate::bench::duel::peer::{Ovs, Replay};
use crate::{Error, Result};

/// How long a cold start may take; then it counts as that.
const COLD_LIMIT: Duration = Duration::from_secs(40);
const COLD_SAMPLE: Duration = Duration::from_millis(10);
/// Without a miss for so long it is steady, and so long it is looked at to know the steady rate.
const COLD_QUIET: Duration = Duration::from_millis(500);
/// A rate is that of so long.
const RATE_OVER_NS: u64 = 20_000_000;

impl Player<'_> {
    pub(super) fn cold(&self, case: &Case, out: &mut Outcome) -> Result<()> {
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
        let mut ovs = Ovs::start(build, &self.memrx, 1)?;
        ovs.load_rules(&self.files.rules(load.rules)?)?;
        ovs.add_null_port(2)?;
        ovs.clear_stats()?;
        let delay = Duration::from_secs(1);
        ovs.add_replay_port(&self.only(load)?, 1, &Replay { delay, ..Replay::forever() })?;
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

    /// The file of a load that has one stream.
    fn only(&self, load: &Load) -> Result<PathBuf> {
        let nothing = || Error::Unexpected("no packets".to_owned());
        self.files.packets(&load.measured().ok_or_else(nothing)?)
    }

    /// How long each measured packet of a load takes to come once, in a cold switch.
    fn first_pass_ns(&self, load: &Load) -> Result<f64> {
        let run = ours::bench(&self.files, load, 2.0, &["--cold"])?;
        match run.bench.cold.map_or(0, |c| c.first_pass_ns) {
            0 => Err(Error::Unexpected("the first pass took longer than 2 s".to_owned())),
            ns => Ok(ns as f64),
        }
    }

    pub(super) fn own_set_up(&self, case: &Case, other: &Load, out: &mut Outcome) -> Result<()> {
        let flows = |load: &Load| load.measured().map_or(0, |s| s.flows) as f64;
        for _ in 0..self.options.rounds {
            let (b, a) = (self.first_pass_ns(other)?, self.first_pass_ns(&case.load)?);
            out.own.push(flows(&case.load) / a * 1e3);
            out.own_cycles.push(a * self.tsc_hz / 1e9 / flows(&case.load));
            out.rival.push(flows(other) / b * 1e3);
            out.rival_cycles.push(b * self.tsc_hz / 1e9 / flows(other));
        }
        Ok(())
    }

    pub(super) fn set_up(&self, case: &Case, out: &mut Outcome) -> Result<()> {
        let build = self.builds.first().ok_or_else(no_steady)?;
        let flows = case.load.flows as f64;
        let packets = self.only(&case.load)?;
        let mut ovs = Ovs::start(build, &self.memrx, 1)?;
        ovs.load_rules(&self.files.rules(case.load.rules)?)?;
        ovs.add_null_port(2)?;
        for _ in 0..self.options.rounds {
            let first_pass_ns = ovs.pause(|| self.first_pass_ns(&case.load))?;
            ovs.purge()?;
            ovs.lift_flow_limit()?;
            let stats = play_once(&mut ovs, &packets, 1, flows)?;
            out.own.push(flows / first_pass_ns * 1e3);
            out.rival.push(stats.misses / (stats.busy_cycles / self.tsc_hz) / 1e6);
            out.own_cycles.push(first_pass_ns * self.tsc_hz / 1e9 / flows);
            out.rival_cycles.push(stats.busy_cycles / stats.packets);
        }
        Ok(())
    }
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
