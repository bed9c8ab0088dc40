//! `cargo xtask bench`: ours against others end to end, and each room by itself.
//!
//! `rooms` runs the criterion benches of the package `sluice-benches` one after the other, briefly
//! unless told otherwise, and gathers their figures into one table. Criterion prints per bench
//!
//! ```text
//! parse/udp4              time:   [10.1 ns 10.2 ns 10.4 ns]
//! ```
//! with the name on a line of its own when it is long; the three are the bounds of the estimate and
//! the estimate between them. Cycles of the time stamp counter come from our own line.

use std::io::{BufRead, BufReader};
use std::process::Stdio;

use crate::shell::cargo;
use crate::{play, setup};

#[derive(clap::Args)]
pub struct Args {
    #[command(subcommand)]
    what: What,
}

#[derive(clap::Subcommand)]
enum What {
    /// veth, a forwarder, veth: sluice, a bare AF_XDP loop and Open vSwitch in turn (as root)
    E2e(play::Args),
    /// The pipeline on packets from memory against Open vSwitch with DPDK in turn (as root)
    Pipeline(play::Args),
    /// Connection tracking and translation against the same peer in turn (as root)
    Conntrack(play::Args),
    /// What each room costs by itself, in nanoseconds and cycles
    Rooms(Rooms),
}

#[derive(clap::Args)]
struct Rooms {
    /// Only this bench file
    #[arg(long)]
    bench: Option<String>,
    /// Measure as long as each bench asks for, instead of briefly
    #[arg(long)]
    long: bool,
    /// Only benches whose name holds this
    filter: Option<String>,
}

pub fn run(args: &Args) -> Result<(), String> {
    match &args.what {
        What::E2e(rest) => {
            let packages = ["sluice-control", "sluice-testbed", "sluice-benches"];
            play::run("sluice-bench", &packages, rest)
        }
        What::Pipeline(rest) => duel("sluice-bench-pipeline", rest),
        What::Conntrack(rest) => duel("sluice-bench-conntrack", rest),
        What::Rooms(rooms) => run_rooms(rooms),
    }
}

/// Ours against the peer from memory.
fn duel(program: &str, rest: &play::Args) -> Result<(), String> {
    let missing = setup::ensure_peer()?;
    if !missing.is_empty() {
        return Err(format!("still missing: {}", missing.join(", ")));
    }
    play::run(program, &["sluice-control", "sluice-testbed"], rest)
}

/// The figures of one bench.
#[derive(Debug, Default, PartialEq, Eq)]
struct Row {
    name: String,
    time: String,
    cycles: String,
}

/// Reads criterion's lines as they come.
#[derive(Default)]
struct Reader {
    rows: Vec<Row>,
    /// A line that may be the name of the figures on the next one.
    name: String,
}

impl Reader {
    fn take(&mut self, line: &str) {
        if let Some((name, figures)) = line.split_once("time:") {
            let name = if name.trim().is_empty() { self.name.as_str() } else { name.trim() };
            // Not what criterion says of a change since the last run.
            if figures.contains('%') {
                return;
            }
            let inner = figures.trim().trim_start_matches('[').trim_end_matches(']');
            let words: Vec<&str> = inner.split_whitespace().collect();
            let time = words.get(2..4).map_or_else(String::new, |middle| middle.join(" "));
            self.rows.push(Row { name: name.to_owned(), time, cycles: String::new() });
        } else if let Some((name, cycles)) = line.split_once(" tsc cycles") {
            let name = name.trim();
            let cycles = cycles.trim_start_matches([':', ' ']).to_owned();
            match self.rows.iter_mut().rev().find(|row| row.name == name) {
                Some(row) => row.cycles = cycles,
                None => self.rows.push(Row { name: name.to_owned(), cycles, ..Row::default() }),
            }
        } else {
            line.trim().clone_into(&mut self.name);
        }
    }

    fn table(&self) -> String {
        let width = self.rows.iter().map(|row| row.name.len()).max().unwrap_or(0).max(5);
        let head = format!("{:<width$} {:>12}  tsc cycles\n", "bench", "time");
        let lines = self.rows.iter().map(|row| {
            let line = format!("{:<width$} {:>12}  {}", row.name, row.time, row.cycles);
            line.trim_end().to_owned() + "\n"
        });
        std::iter::once(head).chain(lines).collect()
    }
}

fn run_rooms(rooms: &Rooms) -> Result<(), String> {
    let mut command = cargo();
    command.args(["bench", "--quiet", "--package", "sluice-benches"]);
    match &rooms.bench {
        Some(bench) => command.args(["--bench", bench]),
        None => command.arg("--benches"),
    };
    command.arg("--").args(rooms.filter.iter()).arg("--noplot");
    if !rooms.long {
        command.args(["--warm-up-time", "0.1", "--measurement-time", "0.5"]);
    }
    let mut child = command.stdout(Stdio::piped()).spawn().map_err(|e| format!("cargo: {e}"))?;
    let mut reader = Reader::default();
    if let Some(out) = child.stdout.take() {
        for line in BufReader::new(out).lines() {
            let line = line.map_err(|e| format!("output of the benches: {e}"))?;
            let before = reader.rows.len();
            reader.take(&line);
            if let Some(row) = reader.rows.get(before) {
                eprintln!("{}: {}{}", row.name, row.time, row.cycles);
            }
        }
    }
    let status = child.wait().map_err(|e| format!("cargo bench: {e}"))?;
    print!("{}", reader.table());
    if !status.success() {
        Err("a bench did not build or did not finish; see above".into())
    } else if reader.rows.is_empty() {
        Err("no bench ran: no name holds the filter".into())
    } else {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const OUTPUT: &str = "Benchmarking parse/udp4: Collecting 20 samples\n\
        parse/udp4              time:   [10.1 ns 10.2 ns 10.4 ns]\n\
        \u{20}                       change: [-1.0% +0.1% +1.2%] (p = 0.9 > 0.05)\n\
        parse/udp4                       tsc cycles: 26.5 (least 26.1)\n\
        conntrack/established_snat/100k\n\
        \u{20}                       time:   [1.10 us 1.20 us 1.30 us]\n\
        \u{20}                       thrpt:  [50 Melem/s 52 Melem/s 53 Melem/s]\n\
        \u{20}                change:\n\
        \u{20}                       time:   [-1.0% +0.1% +1.2%] (p = 0.9 > 0.05)\n";

    #[test]
    fn figures_are_read_with_their_names() {
        let mut reader = Reader::default();
        OUTPUT.lines().for_each(|line| reader.take(line));
        let row = |name: &str, time: &str, cycles: &str| Row {
            name: name.to_owned(),
            time: time.to_owned(),
            cycles: cycles.to_owned(),
        };
        let want = [
            row("parse/udp4", "10.2 ns", "26.5 (least 26.1)"),
            row("conntrack/established_snat/100k", "1.20 us", ""),
        ];
        assert_eq!(reader.rows, want);
        assert_eq!(reader.table().lines().count(), 3);
    }
}
