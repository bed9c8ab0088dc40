//! `--churn`: rules change while a worker is measured.
//!
//! The rules of a file are added one after the other, then deleted one after the other, and so on,
//! at a rate. Each change takes the road that it takes in the daemon: parsed flow, store, program,
//! and the worker takes the program between two batches and sends the old one back, to be freed
//! here. What is due when the worker has taken the last program goes into the next one, so a slow
//! worker or compiler means bigger steps and not a longer queue.

use super::ReplayError;
use crate::flow::{Command, FlowError, FlowMod, parse_flow_mod};
use crate::model::{Model, ModelError};
use serde::Serialize;
use sluice_dataplane::clock::Now;
use sluice_dataplane::pipeline::{Lane, Program};
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::time::{Duration, Instant};

/// What to change, and how often.
#[derive(Clone, Debug, PartialEq)]
pub struct ChurnOptions {
    /// Flows that are added and deleted, for the first bridge.
    pub flows: PathBuf,
    /// Changes a second.
    pub rate: u32,
}

/// What was changed.
#[derive(Clone, Copy, Debug, Default, Serialize)]
pub struct Churn {
    pub changes: u64,
    pub changes_per_second: f64,
    /// Programs that carried them.
    pub programs: u64,
    /// The longest from the start of a change until the worker judged by it.
    pub slowest_ms: f64,
}

/// Changes that one program may carry.
const STEP_MAX: u64 = 4096;
/// Between two looks at what is due, when nothing is.
const IDLE: Duration = Duration::from_micros(100);

/// The worker's end.
pub(super) struct Inbox {
    programs: Receiver<Arc<Program>>,
    old: SyncSender<(Arc<Program>, u64)>,
}

impl Inbox {
    /// Takes a program if one is there; one is under way at most, so the answer has room.
    pub fn take(&self, lane: &mut Lane, now: Now) {
        if let Ok(program) = self.programs.try_recv() {
            let old = lane.set_program(program, now);
            // Nobody hears it when control has failed; it says so itself.
            _ = self.old.try_send((old, lane.swept()));
        }
    }
}

/// Control's end.
pub(super) struct Control {
    programs: SyncSender<Arc<Program>>,
    old: Receiver<(Arc<Program>, u64)>,
    changes: Vec<FlowMod>,
    rate: u32,
}

/// Reads the flows to change and makes both ends.
pub(super) fn churn(
    options: &ChurnOptions,
    model: &Model,
) -> Result<(Control, Inbox), ReplayError> {
    let file = || options.flows.clone();
    let text = std::fs::read_to_string(&options.flows)
        .map_err(|error| ReplayError::Open { file: file(), error })?;
    let wrong = |error: FlowError| ModelError::Flow { file: file(), error: error.into() };
    let bridge = model.bridges.first().ok_or(ReplayError::NoInput)?;
    let lines = text.lines().map(str::trim).enumerate();
    let lines: Vec<_> = lines.filter(|(_, l)| !l.is_empty() && !l.starts_with('#')).collect();
    let parse = |command, text: &str, at: usize| {
        parse_flow_mod(text, Some(command), bridge).map_err(|e| wrong(e.on_line(at + 1)))
    };
    let mut changes = Vec::with_capacity(2 * lines.len());
    for (at, line) in &lines {
        changes.push(parse(Command::Add, line, *at)?);
    }
    for (at, line) in &lines {
        // A deletion names the match alone.
        let fields = line.split_once("actions=").map_or(*line, |(fields, _)| fields);
        changes.push(parse(Command::DeleteStrict, fields.trim_end_matches([',', ' ']), *at)?);
    }
    let (programs, take) = sync_channel(1);
    let (tell, old) = sync_channel(1);
    let control = Control { programs, old, changes, rate: options.rate };
    Ok((control, Inbox { programs: take, old: tell }))
}

impl Control {
    /// Changes rules until the worker has gone.
    pub fn drive(self, model: &mut Model) -> Result<Churn, ReplayError> {
        let mut done = Churn::default();
        let start = Instant::now();
        let count = self.changes.len() as u64;
        loop {
            let due = (start.elapsed().as_secs_f64() * f64::from(self.rate)) as u64;
            let until = due.min(done.changes + STEP_MAX);
            if until == done.changes || count == 0 {
                std::thread::sleep(IDLE);
                if self.is_abandoned() {
                    break;
                }
                continue;
            }
            let began = Instant::now();
            let step: Vec<FlowMod> = (done.changes..until)
                .filter_map(|k| self.changes.get((k % count) as usize).cloned())
                .collect();
            let now_ns = start.elapsed().as_nanos() as u64;
            model
                .change_flows(0, now_ns, |flows, site| flows.apply(&step, site))
                .map_err(ModelError::Store)?;
            if self.programs.send(model.program()).is_err() {
                break;
            }
            let Ok((_old, swept)) = self.old.recv() else { break };
            model.swept(swept);
            done.changes = until;
            done.programs += 1;
            done.slowest_ms = done.slowest_ms.max(began.elapsed().as_secs_f64() * 1e3);
        }
        done.changes_per_second = done.changes as f64 / start.elapsed().as_secs_f64();
        Ok(done)
    }

    /// Whether the worker has gone while nothing was under way.
    fn is_abandoned(&self) -> bool {
        matches!(self.old.try_recv(), Err(std::sync::mpsc::TryRecvError::Disconnected))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::replay::{BenchOptions, Options, Report, run};
    use sluice_dataplane::packet::build::PacketBuilder;
    use sluice_dataplane::port::pcap::PcapWriter;

    /// A replay of one packet with the flows of `text` coming and going.
    fn churned(name: &str, text: &str) -> Result<Report, ReplayError> {
        let dir = std::env::temp_dir().join(format!("churn-{}-{name}", std::process::id()));
        std::fs::create_dir_all(&dir).unwrap();
        let file = |name: &str| dir.join(name);
        std::fs::write(file("flows"), "priority=5,udp,actions=output:2\n").unwrap();
        std::fs::write(file("churn"), text).unwrap();
        let packet = PacketBuilder::eth([2, 0, 0, 0, 0, 1], [2, 0, 0, 0, 0, 2]);
        let packet = packet.ipv4([10, 0, 0, 1], [10, 0, 0, 2]).udp(1, 2).padded();
        let mut pcap = PcapWriter::new(Vec::new()).unwrap();
        pcap.write(0, &packet).unwrap();
        std::fs::write(file("in.pcap"), pcap.finish().unwrap()).unwrap();
        let churn = Some(ChurnOptions { flows: file("churn"), rate: 2000 });
        let bench = Some(BenchOptions { seconds: 0.2, churn, ..BenchOptions::default() });
        let options = Options {
            flows: file("flows"),
            inputs: vec![("p1".to_owned(), file("in.pcap"))],
            outputs: vec!["p2".to_owned()],
            bench,
            ..Options::default()
        };
        let report = run(&options);
        std::fs::remove_dir_all(&dir).unwrap();
        report
    }

    #[test]
    fn rules_come_and_go_and_the_worker_sees_them() {
        // Half of the time a rule above drops what the other one lets pass.
        let drop = "# comes and goes\npriority=9,udp,actions=drop\n";
        let bench = churned("drop", drop).unwrap().bench.unwrap();
        let churn = bench.churn.unwrap();
        assert!(churn.changes > 20 && churn.programs > 0 && churn.slowest_ms > 0.0, "{churn:?}");
        let dropped: u64 = bench.drops.values().sum();
        assert!(dropped > 0 && dropped < bench.packets, "{:?} of {}", bench.drops, bench.packets);
        let absent = "table=3,priority=9,udp,tp_dst=7,actions=drop\n";
        let bench = churned("absent", absent).unwrap().bench.unwrap();
        assert!(bench.drops.is_empty() && bench.churn.unwrap().changes > 20);
    }

    #[test]
    fn a_wrong_line_is_named() {
        let error = churned("wrong", "udp,actions=drop\nudp,actions=fly\n").err().unwrap();
        assert!(error.to_string().contains("line 2"), "{error}");
    }
}
