//! Our side: `sluice replay` as a program of its own, its JSON read.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::process::Command;

use serde::Deserialize;
use serde_json::Value;

use super::WORKER_CPU;
use super::case::Load;
use super::files::Files;
use super::stream::{Role, Stream};
use crate::bench::forwarder::own_program;
use crate::netns::run_command;
use crate::{Error, Result};

/// One run.
#[derive(Debug)]
pub struct Run {
    pub bench: Bench,
    /// Packets of the load.
    pub packets: u64,
    /// Of them, those that left when each was played once.
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
    pub stats: BTreeMap<String, u64>,
    pub connections: u64,
    pub fresh: Option<Fresh>,
    pub seconds: f64,
    pub packets: u64,
    pub allocations: u64,
    pub settings: Value,
}

impl Bench {
    /// Without packets of new connections.
    pub fn steady_mpps(&self) -> f64 {
        let fresh = self.fresh.map_or(0, |f| f.packets) as f64;
        self.mpps * (1.0 - fresh / self.packets.max(1) as f64)
    }
}

#[derive(Debug, Deserialize)]
pub struct Cost {
    pub tsc_cycles_per_packet: f64,
}

#[derive(Clone, Copy, Debug, Deserialize)]
pub struct Fresh {
    pub packets: u64,
    pub others_lost: u64,
    pub turns: Option<Turns>,
}

/// Costs of a packet that is not fresh, in turns without fresh ones and with them.
#[derive(Clone, Copy, Debug, Deserialize)]
pub struct Turns {
    pub without_ns: f64,
    pub with_ns: f64,
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

fn replay(
    files: &Files,
    load: &Load,
    inputs: &[(String, PathBuf)],
    more: &[&str],
) -> Result<Value> {
    let mut command = Command::new(own_program("sluice"));
    command.args(["--json", "replay", "--flows"]).arg(files.rules(load.rules)?);
    command.arg("--config").arg(files.config(load)?);
    for (word, file) in inputs {
        let (option, port) = word.split_once(' ').unwrap_or((word, ""));
        command.arg(option).arg(format!("{port}={}", file.display()));
    }
    let text = run_command(command.args(more))?;
    serde_json::from_str(&text).map_err(|e| Error::Unexpected(format!("sluice replay: {e}")))
}

/// What left by all ports when each packet was played once.
fn sent(report: &Value) -> u64 {
    let out = report["out"].as_object();
    out.map_or(0, |ports| ports.values().filter_map(|p| p["packets"].as_u64()).sum())
}

/// The option of a stream and its port, and its file.
fn input(files: &Files, stream: &Stream) -> Result<(String, PathBuf)> {
    let option = match stream.role {
        Role::Warm => "--warm",
        Role::Measured => "--in",
        Role::Fresh => "--fresh",
    };
    Ok((format!("{option} p{}", stream.port), files.packets(stream)?))
}

/// Measures for `seconds`; every packet must come out, and none be dropped.
pub fn bench(files: &Files, load: &Load, seconds: f64, more: &[&str]) -> Result<Run> {
    let inputs: Vec<_> = load.streams().iter().map(|s| input(files, s)).collect::<Result<_>>()?;
    // Several workers have all processors from the first one on.
    let first = if load.workers == 1 { WORKER_CPU } else { 0 };
    let (cpu, seconds) = (first.to_string(), seconds.to_string());
    let mut words = vec!["--bench", "--cpu", &cpu, "--seconds", &seconds, "--order", "stride"];
    let workers = load.workers.to_string();
    if load.workers > 1 {
        words.extend(["--workers", &workers]);
    }
    let mut report = replay(files, load, &inputs, &[&words[..], more].concat())?;
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
    let lost = run.bench.fresh.map_or(0, |f| f.others_lost);
    if lost > 0 {
        return Err(wrong(format!("{lost} packets of established connections are lost")));
    }
    Ok(run)
}

/// Plays samples of a load's streams once; the files of what left.
pub fn capture(files: &Files, load: &Load) -> Result<Vec<PathBuf>> {
    let folder = files.folder().join("captured");
    let what = || Error::io(format!("make {}", folder.display()));
    // Ports that send nothing would leave the file of the load before.
    drop(std::fs::remove_dir_all(&folder));
    std::fs::create_dir_all(&folder).map_err(what())?;
    let to = folder.to_string_lossy();
    let streams = load.streams();
    let sample = |s: &Stream| Ok((format!("--in p{}", s.port), files.sample(s)?));
    let inputs: Vec<_> = streams.iter().map(sample).collect::<Result<_>>()?;
    replay(files, load, &inputs, &["--out-dir", &to])?;
    let made = (1..=4).map(|n| folder.join(format!("p{n}.pcap")));
    Ok(made.filter(|path| path.exists()).collect())
}
