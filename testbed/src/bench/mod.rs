//! The end-to-end bench: veth, a forwarder, veth, with the shortest UDP packets.
//!
//! sluice, a bare AF_XDP loop and the stock Open vSwitch take turns with the same generator, the
//! same sink and the same two rules. The generator offers about four times what a forwarder with
//! AF_XDP ports can take, so what the sink counts is the forwarder's most. `scene` plays a window,
//! `forwarder` starts the three, `report` does the arithmetic.
//!
//! On a veth nearly all of the time is the kernel's: one sk_buff, one copy and one trip through the
//! far device per packet, about a microsecond. So the ratios say whether a switch adds to that, by
//! system calls above all, and not how fast its tables are; `sluice replay --bench` says that.

mod bpf;
pub mod duel;
mod forwarder;
mod report;
mod scene;

use std::path::PathBuf;
use std::process::ExitCode;

use forwarder::Forwarder;
use report::{Machine, Spread};
use scene::{FORWARDER_CPU, FRAME_BYTES, GENERATOR_CPU};

/// veth to veth through sluice, a bare AF_XDP loop and Open vSwitch, in turn.
#[derive(Clone, Debug, clap::Parser)]
#[command(name = "cargo xtask bench e2e")]
pub struct Options {
    /// How often each takes its turn
    #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(u32).range(1..=1000))]
    pub rounds: u32,
    /// Length of a window, after its warm-up
    #[arg(long, default_value_t = 3.0)]
    pub seconds: f64,
    /// Where delivered packets end
    #[arg(long, value_enum, default_value_t)]
    pub sink: Sink,
    /// Also write everything to this file
    #[arg(long, value_name = "FILE")]
    pub json: Option<PathBuf>,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, clap::ValueEnum, serde::Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Sink {
    /// In the kernel's stack, which finds that they are nobody's
    #[default]
    Stack,
    /// In an XDP program on the device
    Drop,
}

/// One forwarder and its windows.
struct Column {
    which: Forwarder,
    mpps: Vec<f64>,
    attached: Vec<String>,
    failures: Vec<String>,
}

/// Runs the bench; 1 if a forwarder failed or delivered nothing.
pub fn main(options: &Options) -> ExitCode {
    if !crate::is_root() {
        eprintln!("the bench needs root: it makes network namespaces");
        return ExitCode::FAILURE;
    }
    let machine = Machine::look();
    if machine.cpus < 2 {
        eprintln!("the bench needs 2 processors: one to generate, one to forward");
        return ExitCode::FAILURE;
    }
    let (mut columns, mut notes) = (Vec::new(), Vec::new());
    for which in [Forwarder::Sluice, Forwarder::BareLoop, Forwarder::OpenVswitch] {
        match which.missing() {
            None => columns.push(Column::new(which)),
            Some(why) => notes.push(format!("skipped: {}: {why}", which.name())),
        }
    }
    println!("{}", settings(&machine, options));
    for round in 1..=options.rounds {
        play_round(&mut columns, options);
        let cells: Vec<String> = columns.iter().map(Column::last).collect();
        println!("round {round:>3}  {}", cells.join("   "));
    }
    print_table(&columns);
    notes.iter().for_each(|note| println!("{note}"));
    let mut failed = columns.iter().any(Column::failed) || columns.is_empty();
    if let Some(file) = &options.json {
        let text = format!("{:#}\n", to_json(&machine, options, &columns, &notes));
        if let Err(error) = std::fs::write(file, text) {
            eprintln!("{}: {error}", file.display());
            failed = true;
        }
    }
    if failed { ExitCode::FAILURE } else { ExitCode::SUCCESS }
}

/// A round in which one fails counts for none, so that the rounds stay pairs.
fn play_round(columns: &mut [Column], options: &Options) {
    let windows: Vec<_> = columns.iter().map(|column| scene::play(column.which, options)).collect();
    let whole = windows.iter().all(|w| w.as_ref().is_ok_and(|w| w.mpps > 0.0));
    for (column, window) in columns.iter_mut().zip(windows) {
        match window {
            Ok(window) if window.mpps <= 0.0 => {
                column.failures.push("delivered nothing".to_owned());
            }
            Ok(window) if whole => {
                column.mpps.push(window.mpps);
                column.attached.push(window.attached);
            }
            Ok(_) => {}
            Err(error) => {
                eprintln!("{}: {error}", column.which.name());
                column.failures.push(error.to_string());
            }
        }
    }
}

impl Column {
    fn new(which: Forwarder) -> Self {
        Self { which, mpps: Vec::new(), attached: Vec::new(), failures: Vec::new() }
    }

    fn failed(&self) -> bool {
        !self.failures.is_empty() || self.mpps.is_empty()
    }

    fn last(&self) -> String {
        let mpps = self.mpps.last().map_or_else(|| "-".to_owned(), |mpps| format!("{mpps:.3}"));
        format!("{} {mpps}", self.which.letter())
    }

    fn modes(&self) -> String {
        let mut modes = self.attached.clone();
        modes.sort();
        modes.dedup();
        modes.join(", ")
    }
}

fn settings(machine: &Machine, options: &Options) -> String {
    let Machine { kernel, cpu, cpus, load_1min } = machine;
    let sink = match options.sink {
        Sink::Stack => "kernel's stack",
        Sink::Drop => "XDP_DROP",
    };
    format!(
        "Linux {kernel}, {cpus} x {cpu}, load {load_1min:.2}\n\
         UDP frames of {FRAME_BYTES} bytes, one flow; generator on core {GENERATOR_CPU} \
         (BPF_PROG_RUN, live frames),\nforwarder on core {FORWARDER_CPU} (one thread, AF_XDP copy \
         mode, queue 0), sink: {sink}; {} rounds of {} s",
        options.rounds, options.seconds,
    )
}

/// Each ratio, with its name.
fn ratios(columns: &[Column]) -> Vec<(String, Spread)> {
    let mut all = Vec::new();
    for (i, a) in columns.iter().enumerate() {
        for b in columns.iter().skip(i + 1) {
            let name = format!("{}/{}", a.which.letter(), b.which.letter());
            all.extend(Spread::of_ratio(&a.mpps, &b.mpps).map(|spread| (name, spread)));
        }
    }
    all
}

fn print_table(columns: &[Column]) {
    println!("\n{:<30} {:>8} {:>8} {:>8}  XDP", "Mpps delivered", "median", "min", "max");
    for column in columns {
        let name = format!("{} {}", column.which.letter(), column.which.name());
        match Spread::of(&column.mpps) {
            Some(spread) => println!("{name:<30} {spread}  {}", column.modes()),
            None if column.failures.is_empty() => {
                println!("{name:<30} (no round in which all delivered)");
            }
            None => println!("{name:<30} {}", column.failures.join("; ")),
        }
    }
    println!("{:<30} {:>8} {:>8} {:>8}", "ratio, round by round", "median", "min", "max");
    for (name, spread) in ratios(columns) {
        println!("{name:<30} {spread}");
    }
}

fn to_json(
    machine: &Machine,
    options: &Options,
    columns: &[Column],
    notes: &[String],
) -> serde_json::Value {
    let columns_json: Vec<_> = columns
        .iter()
        .map(|column| {
            serde_json::json!({
                "letter": column.which.letter(),
                "forwarder": column.which,
                "mpps": column.mpps,
                "spread": Spread::of(&column.mpps),
                "xdp": column.modes(),
                "failures": column.failures,
            })
        })
        .collect();
    let ratios: serde_json::Map<_, _> = ratios(columns)
        .into_iter()
        .map(|(name, spread)| (name, serde_json::json!(spread)))
        .collect();
    serde_json::json!({
        "machine": machine,
        "settings": {
            "rounds": options.rounds,
            "seconds": options.seconds,
            "sink": options.sink,
            "frame_bytes": FRAME_BYTES,
            "generator": "BPF_PROG_RUN live frames",
            "generator_cpu": GENERATOR_CPU,
            "forwarder_cpu": FORWARDER_CPU,
            "afxdp_mode": "copy",
        },
        "forwarders": columns_json,
        "ratios": ratios,
        "notes": notes,
    })
}
