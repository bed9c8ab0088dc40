//! The benches against the peer: the same packets and rules through sluice and through Open vSwitch
//! with DPDK, both from memory, in turn on the same core.
//!
//! `cargo xtask bench pipeline` and `cargo xtask bench conntrack` install the peer from Debian's
//! packages and run this as root; they differ in their table of cases.
//!
//! - `packets`, `stream`, `rules`: what is played, as pure functions; `files` writes it down for
//!   both sides.
//! - `case`: what a case is; `tables`: the cases, with what each asks for.
//! - `ours`, `peer`, `loading`: how a side is driven. `same` compares what both deliver.
//! - `play`: the rounds. `report`, `page`, `plot`: text, JSON, and a page that stands alone.
//!
//! What makes it fair: 64-byte frames, each copied into a fresh buffer by either side and freed at
//! the port (`control/src/replay/load.rs`, `benches/peer/memrx.c`), in the same order, which no
//! prefetcher can follow from flow to flow; the peer at the best of its settings, found anew for
//! each case; figures gross, with the cost of the replay included on both sides. What it does not
//! show: devices. The end-to-end bench does that.

mod case;
mod files;
mod loading;
mod ours;
mod packets;
mod page;
mod peer;
mod play;
mod plot;
mod report;
mod rules;
mod same;
mod stream;
mod tables;

use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};
use std::time::Instant;

use case::{Case, Depth};
use peer::Build;
use play::Player;
use report::Report;
pub use tables::Bench;

use crate::Result;
use crate::netns::run_command;

/// Where the measured thread of either side runs.
pub const WORKER_CPU: usize = 1;

/// sluice and Open vSwitch with DPDK on the same packets and rules from memory, in turn.
#[derive(Clone, Debug, clap::Parser)]
pub struct Options {
    /// How often each takes its turn
    #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(u32).range(1..=100))]
    pub rounds: u32,
    /// Length of a window
    #[arg(long, default_value_t = 1.0, value_parser = seconds)]
    pub seconds: f64,
    /// Only cases of these numbers (P1) or whose title holds such a text
    #[arg(long, value_delimiter = ',', value_name = "P1,P3,...")]
    pub only: Vec<String>,
    /// Where results.json and report.html go; target/bench-NAME if absent
    #[arg(long, value_name = "DIR")]
    pub out: Option<PathBuf>,
    /// Only the cases that something is asked of; shorter windows
    #[arg(long, conflicts_with = "full")]
    pub quick: bool,
    /// Every case and every setting of the peer
    #[arg(long)]
    pub full: bool,
    /// A further build of ovs-vswitchd, and the replay device for its DPDK; may be repeated
    #[arg(long = "peer", value_name = "NAME=PATH[:MEMRX.so]", value_parser = Build::parse)]
    pub peers: Vec<Build>,
}

fn seconds(text: &str) -> Result<f64, String> {
    match text.parse::<f64>() {
        Ok(s) if (0.05..=60.0).contains(&s) => Ok(s),
        _ => Err("seconds are a number from 0.05 to 60".to_owned()),
    }
}

impl Options {
    /// Shorter windows where it is to be quick, unless they were asked for.
    fn resolved(mut self) -> Self {
        if self.quick {
            self.seconds = self.seconds.min(0.5);
        }
        self
    }

    fn cases(&self, bench: Bench) -> Vec<Case> {
        let depth = match (self.quick, self.full) {
            (true, _) => Depth::Quick,
            (_, true) => Depth::Full,
            _ => Depth::Normal,
        };
        let named = |c: &Case| {
            self.only.is_empty() || self.only.iter().any(|w| c.id == w || c.title.contains(w))
        };
        bench.cases().into_iter().filter(|c| c.depth <= depth && named(c)).collect()
    }
}

/// Runs the bench; 1 if a case could not be played or the sides delivered different packets. A goal
/// that is missed is no failure: it is a figure.
pub fn main(bench: Bench, options: &Options) -> ExitCode {
    match run(bench, &options.clone().resolved()) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("error: {error}");
            ExitCode::FAILURE
        }
    }
}

fn run(bench: Bench, options: &Options) -> Result<bool> {
    let refuse = |text: &str| Err(crate::Error::Unexpected(text.to_owned()));
    let cases = options.cases(bench);
    if cases.is_empty() {
        let numbers = bench.numbers();
        return refuse(&format!("no case has such a number or title; there are {numbers}"));
    }
    if !crate::is_root() {
        return refuse("the bench needs root: namespaces, huge pages and DPDK");
    }
    if !sluice_dataplane::sys::wait::cpus_allowed().contains(&WORKER_CPU) {
        return refuse("the bench needs processor 1, which this process may not use");
    }
    crate::scratch::remove_stale();
    let builds = [vec![Build::debian()], options.peers.clone()].concat();
    if let Some(why) = builds.iter().find_map(Build::missing) {
        return refuse(&why);
    }
    let memrx = build_memrx()?;
    let start = Instant::now();
    let player = Player::new(options, builds, memrx)?;
    let mut report = Report::new(bench, options);
    println!("{}", report.head());
    for case in &cases {
        let outcome = player.play(case);
        report.add(case, outcome);
        println!("{}", report.last_line());
    }
    report.end(start.elapsed());
    println!("\n{}", report.summary());
    report.write(&options.out.clone().unwrap_or_else(|| bench.folder()))?;
    Ok(!report.has_failures())
}

/// Builds the peer's replay device, unless it is newer than its sources.
fn build_memrx() -> Result<PathBuf> {
    let sources = Path::new(env!("CARGO_MANIFEST_DIR")).join("../benches/peer");
    let target = std::env::current_exe().unwrap_or_default();
    let target = target.parent().and_then(Path::parent).unwrap_or(Path::new("target"));
    let out = target.join("bench-peer");
    let made = out.join("librte_net_memrx.so");
    let time = |path: &Path| path.metadata().and_then(|m| m.modified()).ok();
    let is_new = |name: &str| time(&made) > time(&sources.join(name));
    if !["memrx.c", "packets.c", "packets.h", "build.sh"].into_iter().all(is_new) {
        println!("building the peer's replay device against Debian's DPDK (its sources: 16 MB)");
        run_command(Command::new("sh").arg(sources.join("build.sh")).arg(&out))?;
    }
    Ok(made)
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::Parser;

    fn options(words: &[&str]) -> Options {
        let words = std::iter::once("x").chain(words.iter().copied());
        Options::try_parse_from(words).unwrap().resolved()
    }

    #[test]
    fn cases_are_chosen_by_number_title_and_depth() {
        let ids = |o: &Options| o.cases(Bench::Pipeline).iter().map(|c| c.id).collect::<Vec<_>>();
        assert!(ids(&options(&["--only", "P4,P9"])).iter().all(|i| ["P4", "P9"].contains(i)));
        assert_eq!(options(&["--only", "prefixes", "--quick"]).cases(Bench::Pipeline).len(), 1);
        assert!(options(&["--only", "P77"]).cases(Bench::Pipeline).is_empty());
        for bench in [Bench::Pipeline, Bench::Conntrack] {
            let count = |words: &[&str]| options(words).cases(bench).len();
            assert!(count(&["--quick"]) < count(&[]) && count(&[]) < count(&["--full"]));
        }
        assert!(options(&["--quick"]).cases(Bench::Pipeline).iter().any(|c| c.goal.is_some()));
        assert_eq!(options(&["--quick"]).seconds, 0.5);
        assert!(Options::try_parse_from(["x", "--seconds", "0"]).is_err());
    }
}
