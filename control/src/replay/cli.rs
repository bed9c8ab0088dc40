//! The words of `sluice replay`.

use super::{BenchOptions, Caches, ChurnOptions, Options, Order};
use clap::Args as ClapArgs;
use std::path::PathBuf;

/// Runs packets from files through flows, without devices and without root.
#[derive(Debug, ClapArgs)]
#[command(after_help = "Example: sluice replay --flows f.txt --in p1=a.pcap --out p2 --json")]
pub struct Args {
    /// Flows, in ovs-ofctl's words; `[bridge NAME]` lines choose the bridge
    #[arg(long)]
    flows: PathBuf,
    /// Bridges, tunnels, routes, neighbours; every device becomes memory
    #[arg(long)]
    config: Option<PathBuf>,
    /// A port and the packets that come in by it
    #[arg(long = "in", value_name = "NAME=FILE", required_unless_present = "fresh",
        value_parser = input)]
    inputs: Vec<(String, PathBuf)>,
    /// The same, but played once before all others, and not measured: what opens connections
    #[arg(long, value_name = "NAME=FILE", value_parser = input)]
    warm: Vec<(String, PathBuf)>,
    /// The same as --in, but each pass of a bench has its packets from another source port, so
    /// each is of a new connection
    #[arg(long, value_name = "NAME=FILE", value_parser = input)]
    fresh: Vec<(String, PathBuf)>,
    /// Fresh packets stay away and come by turns of so many milliseconds; tells what they cost the
    /// others
    #[arg(long, value_name = "MS", requires_all = ["bench", "fresh", "inputs"],
        conflicts_with_all = ["workers", "cold", "churn"],
        value_parser = clap::value_parser!(u64).range(1..=10_000))]
    fresh_turns: Option<u64>,
    /// A port without packets (without --config)
    #[arg(long = "out", value_name = "NAME", conflicts_with = "config")]
    outputs: Vec<String>,
    /// Write NAME.pcap for each port that sends something
    #[arg(long)]
    out_dir: Option<PathBuf>,
    /// Entries of the microflow cache; 0 switches it off
    #[arg(long, value_parser = clap::value_parser!(u32).range(0..=1 << 24))]
    microflows: Option<u32>,
    /// Entries of the megaflow cache; 0 switches it off
    #[arg(long, value_parser = clap::value_parser!(u32).range(0..=1 << 20))]
    megaflows: Option<u32>,
    /// Walk one of so many packets that the cache serves, and compare; 0: none
    #[arg(long, value_name = "N")]
    self_check: Option<u32>,
    /// Then run the same packets in a loop and measure
    #[arg(long)]
    bench: bool,
    /// How long to measure
    #[arg(long, default_value_t = 5.0, requires = "bench", value_parser = seconds)]
    seconds: f64,
    /// How long to run the packets before measuring, for what comes with time to be there
    #[arg(long, default_value_t = 0.0, requires = "bench", conflicts_with = "cold",
        value_parser = settle)]
    settle: f64,
    /// Threads, each with its share of the flows
    #[arg(long, default_value_t = 1, requires = "bench",
        value_parser = clap::value_parser!(u16).range(1..=256))]
    workers: u16,
    /// Processor of the first worker; the others take the next ones
    #[arg(long, requires = "bench")]
    cpu: Option<usize>,
    /// In which order the packets come while measuring
    #[arg(long, requires = "bench", value_enum, default_value_t)]
    order: Order,
    /// Begin with empty caches and tell how the rate comes up
    #[arg(long, requires = "bench", conflicts_with = "workers")]
    cold: bool,
    /// Add and delete this file's flows meanwhile, again and again
    #[arg(long, value_name = "FILE", requires = "bench", conflicts_with_all = ["workers", "cold"])]
    churn: Option<PathBuf>,
    /// Changes a second
    #[arg(long, default_value_t = 10_000, requires = "churn",
        value_parser = clap::value_parser!(u32).range(1..=1_000_000))]
    churn_rate: u32,
}

fn input(text: &str) -> Result<(String, PathBuf), String> {
    match text.split_once('=') {
        Some((name, file)) if !name.is_empty() && !file.is_empty() => {
            Ok((name.to_owned(), file.into()))
        }
        _ => Err("write NAME=FILE.pcap, as in p1=in.pcap".to_owned()),
    }
}

fn seconds(text: &str) -> Result<f64, String> {
    match text.parse::<f64>() {
        Ok(s) if s > 0.0 && s <= 86_400.0 => Ok(s),
        _ => Err("seconds are a number above 0, at most 86400".to_owned()),
    }
}

fn settle(text: &str) -> Result<f64, String> {
    if text == "0" { Ok(0.0) } else { seconds(text) }
}

impl Args {
    pub fn options(&self) -> Options {
        let bench = self.bench.then(|| BenchOptions {
            seconds: self.seconds,
            settle_seconds: self.settle,
            workers: usize::from(self.workers),
            cpu: self.cpu,
            order: self.order,
            cold: self.cold,
            fresh_turns_ms: self.fresh_turns,
            churn: self.churn.clone().map(|flows| ChurnOptions { flows, rate: self.churn_rate }),
        });
        Options {
            flows: self.flows.clone(),
            config: self.config.clone(),
            inputs: self.inputs.clone(),
            warm: self.warm.clone(),
            fresh: self.fresh.clone(),
            outputs: self.outputs.clone(),
            out_dir: self.out_dir.clone(),
            caches: Caches {
                microflows: self.microflows.map(|n| n as usize),
                megaflows: self.megaflows.map(|n| n as usize),
                self_check: self.self_check,
            },
            bench,
        }
    }
}
