//! Our side: `sluice replay` as a program of its own, its JSON read.

use std::path::{Path, PathBuf};
use std::process::Command;

use serde::Deserialize;
use serde_json::Value;

use super::WORKER_CPU;
use super::case::Load;
use super::files::Files;
use crate::bench::forwarder::own_program;
use crate::netns::run_command;
use crate::{Error, Result};

/// One run.
#[derive(Debug)]
pub struct Run {
    pub bench: Bench,
    /// Packets of the load.
    pub packets: u64,
    /// Of them, those that port 2 sent when each was played once.
    pub sent: u64,
}

/// What `replay --bench --json` says; what is not read here is kept as it came.
#[derive(Debug, Deserialize)]
pub struct Bench {
    pub mpps: f64,
    pub tsc_cycles_per_packet: f64,
    pub floor: Cost,
    pub cold: Option<Cold>,
    pub churn: Option<Churn>,
    pub tiers: Value,
    pub drops: serde_json::Map<String, Value>,
    pub allocations: u64,
    pub settings: Value,
}

#[derive(Debug, Deserialize)]
pub struct Cost {
    pub tsc_cycles_per_packet: f64,
}

#[derive(Debug, Deserialize)]
pub struct Cold {
    pub first_pass_ns: u64,
    pub samples: Vec<(u64, u64)>,
}

#[derive(Debug, Deserialize)]
pub struct Churn {
    pub changes_per_second: f64,
}

fn replay(rules: &Path, packets: &Path, more: &[&str]) -> Result<Value> {
    let mut command = Command::new(own_program("sluice"));
    command.args(["--json", "replay", "--flows"]).arg(rules);
    command.arg("--in").arg(format!("p1={}", packets.display())).args(["--out", "p2"]).args(more);
    let text = run_command(&mut command)?;
    serde_json::from_str(&text).map_err(|e| Error::Unexpected(format!("sluice replay: {e}")))
}

fn sent(report: &Value) -> u64 {
    report["out"]["p2"]["packets"].as_u64().unwrap_or(0)
}

/// Measures for `seconds`; every packet must come out, and none be dropped.
pub fn bench(files: &Files, load: &Load, seconds: f64, more: &[&str]) -> Result<Run> {
    let (rules, packets) = (files.rules(load.rules)?, files.packets(load.traffic, load.flows)?);
    let (cpu, seconds) = (WORKER_CPU.to_string(), seconds.to_string());
    let words = ["--bench", "--cpu", &cpu, "--seconds", &seconds, "--order", "stride"];
    let mut report = replay(&rules, &packets, &[&words[..], more].concat())?;
    let wrong = |text: String| Error::Unexpected(format!("{}: {text}", load.describe()));
    let bench: Bench = serde_json::from_value(report["bench"].take())
        .map_err(|e| wrong(format!("sluice's report: {e}")))?;
    let run = Run { bench, packets: report["packets"].as_u64().unwrap_or(0), sent: sent(&report) };
    // A cold lane is filled for the first time, and control allocates while it changes rules.
    let may_allocate = ["--cold", "--churn"].iter().any(|word| more.contains(word));
    if run.bench.allocations > 0 && !may_allocate {
        return Err(wrong(format!("{} allocations while measuring", run.bench.allocations)));
    }
    if run.sent != run.packets || !run.bench.drops.is_empty() {
        let drops = &run.bench.drops;
        return Err(wrong(format!("{} of {} packets sent, {drops:?}", run.sent, run.packets)));
    }
    Ok(run)
}

/// Plays a load's sample once; the file of what left.
pub fn capture(files: &Files, load: &Load) -> Result<PathBuf> {
    let folder = files.folder().join("captured");
    let what = || Error::io(format!("make {}", folder.display()));
    std::fs::create_dir_all(&folder).map_err(what())?;
    let to = folder.to_string_lossy();
    replay(&files.rules(load.rules)?, &files.sample(load)?, &["--out-dir", &to])?;
    Ok(folder.join("p2.pcap"))
}
