//! `sluice replay`: the whole dataplane on packets from files, without I/O and without root.
//!
//! Two uses, one road. *Functional*: each packet once, in the order of time stamps over all
//! inputs, time taken from the stamps; what leaves a port goes to that port's pcap file, and the
//! report says what happened. *Bench*: the same packets from memory in a loop for some seconds,
//! each copied into a fresh frame, judged and really rewritten, discarded at the port; the report
//! says how fast. Before a bench every packet is played once functionally, so connections and
//! caches stand. What must come before and not again, as the three segments that open a TCP
//! connection, is given as `--warm`: played once, first, and not part of what is measured. What
//! must never be the same is given as `--fresh`: in each pass a new connection (`fresh`).
//!
//! The flow file may hold groups and meters too, as `group add ...` and `meter add ...`
//! (`control/src/flow/file.rs`).
//!
//! Without a configuration there is one bridge `br0` whose ports are the inputs and the `--out`
//! names, numbered 1, 2, ... in their order.

mod bench;
mod churn;
pub mod cli;
mod engine;
mod fresh;
mod gate;
mod load;
mod passes;
mod report;
mod turns;

pub use bench::{ALLOCATIONS, BenchOptions};
pub use churn::{Churn, ChurnOptions};
pub use engine::{Caches, Engine, Sent, lane_config};
pub use load::Order;
pub use report::{BenchReport, Cold, Cost, FlowReport, Fresh, Report};
pub use turns::TurnsReport;

#[cfg(test)]
mod tests;

use crate::config::{self, Config, PortType};
use crate::model::{Model, ModelError};
use crate::netlink::underlay::Underlay;
use sluice_dataplane::packet::key::PortIx;
use sluice_dataplane::port::pcap::{PcapError, PcapReader, PcapWriter};
use std::collections::BTreeMap;
use std::collections::btree_map::Entry;
use std::fs::File;
use std::io::{BufReader, BufWriter};
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// What to replay.
#[derive(Clone, Debug, Default)]
pub struct Options {
    pub flows: PathBuf,
    pub config: Option<PathBuf>,
    /// Port name and pcap file.
    pub inputs: Vec<(String, PathBuf)>,
    /// Played once before all others.
    pub warm: Vec<(String, PathBuf)>,
    /// Inputs whose packets have another source port in each pass of a bench.
    pub fresh: Vec<(String, PathBuf)>,
    /// Ports without input, when there is no configuration.
    pub outputs: Vec<String>,
    /// Where `NAME.pcap` of each port that sent something goes.
    pub out_dir: Option<PathBuf>,
    /// Entries of tier 1; `None`: the default; 0: off.
    pub caches: Caches,
    pub bench: Option<BenchOptions>,
}

#[derive(Debug, thiserror::Error)]
pub enum ReplayError {
    #[error("{0}")]
    Config(#[from] config::ConfigErrors),
    #[error("{0}")]
    Model(#[from] ModelError),
    #[error("{file}: {error}", file = file.display())]
    Pcap { file: PathBuf, error: PcapError },
    #[error("cannot open {file}: {error}", file = file.display())]
    Open { file: PathBuf, error: std::io::Error },
    #[error("no bridge has a port \"{0}\"; name a port of the configuration with --in NAME=FILE")]
    NoPort(String),
    #[error("port \"{0}\" is a {1} port; packets come in by a port with a device")]
    NotADevice(String, &'static str),
    #[error("there is nothing to replay: give --in NAME=FILE.pcap")]
    NoInput,
    #[error("only UDP and TCP over IPv4 can be made fresh; give other packets with --in")]
    NotFresh,
    #[error("\"{0}\" names two ports")]
    Twice(String),
    #[error("cannot get packet memory: {0}")]
    Memory(String),
    #[error("a packet of {len} bytes is longer than a frame: set [umem] frame_size_bytes = 4096")]
    TooLong { len: usize },
    #[error("--cpu {0} is not among the processors this process may use")]
    NoCpu(usize),
}

/// A packet to come in.
#[derive(Clone, Debug)]
pub struct Packet {
    pub ts_ns: u64,
    pub port: PortIx,
    /// Another connection in each pass of a bench.
    pub is_fresh: bool,
    pub bytes: Vec<u8>,
}

/// Replays and reports.
pub fn run(options: &Options) -> Result<Report, ReplayError> {
    let config = configuration(options)?;
    let mut model = model_of(&config, options)?;
    let warm = read_inputs(&model, &options.warm, &[])?;
    let packets = read_inputs(&model, &options.inputs, &options.fresh)?;
    if packets.is_empty() {
        return Err(ReplayError::NoInput);
    }
    let mut engine = Engine::new(&config, model.program(), options.caches)?;
    for p in &warm {
        engine.play(p, &mut |_| {})?;
        engine.follow(&mut model);
    }
    let mut sink = Sink::new(&model, options.out_dir.clone());
    for p in &packets {
        engine.play(p, &mut |sent| sink.take(&sent))?;
        engine.follow(&mut model);
        if let Some(error) = sink.error.take() {
            return Err(error);
        }
    }
    engine.finish();
    let mut report = report::report(&model, &engine, &packets, sink.finish()?);
    if let Some(bench) = &options.bench {
        let all = bench::Packets { warm: &warm, measured: &packets };
        report.bench = Some(bench::run(bench, &config, engine, all, &mut model)?);
    }
    Ok(report)
}

/// The switch's configuration: the file's, or the one made of the inputs.
fn configuration(options: &Options) -> Result<Config, ReplayError> {
    if let Some(file) = &options.config {
        return Ok(Config::load(file)?);
    }
    let mut names: Vec<&str> = options.inputs.iter().map(|i| i.0.as_str()).collect();
    names.extend(options.outputs.iter().map(String::as_str));
    if let Some((_, name)) = names.iter().enumerate().find(|(i, name)| names[..*i].contains(name)) {
        return Err(ReplayError::Twice((*name).to_owned()));
    }
    for (name, _) in options.fresh.iter().chain(&options.warm) {
        if !names.contains(&name.as_str()) {
            names.push(name);
        }
    }
    let mut text = String::from("[[bridge]]\nname = \"br0\"\n");
    for (i, name) in names.iter().enumerate() {
        let number = i + 1;
        text +=
            &format!("[[bridge.port]]\nname = {name:?}\nnumber = {number}\ntype = \"memory\"\n");
    }
    Ok(Config::parse(Path::new("replay"), &text)?)
}

/// The model with every device replaced by memory, all of them up.
fn model_of(config: &Config, options: &Options) -> Result<Model, ReplayError> {
    let net = Underlay::of_config(config);
    let mut memory = config.clone();
    for port in memory.bridges.iter_mut().flat_map(|b| b.ports.iter_mut()) {
        if port.device().is_some() {
            port.kind = PortType::Memory;
        }
    }
    // A fixed seed: two replays of the same files do the same.
    let mut model = Model::new(&memory, 0x5107)?;
    model.set_net(Arc::new(net));
    for bridge in &mut model.bridges {
        bridge.ports.iter_mut().for_each(|p| p.up = true);
    }
    let first = model.bridges.first().map_or(String::new(), |b| b.config.name.clone());
    let text = std::fs::read_to_string(&options.flows).map_err(|error| {
        let file = options.flows.clone();
        ReplayError::Open { file, error }
    })?;
    model.load_flows(options.flows.clone(), &text, &first, 0)?;
    Ok(model)
}

/// All packets of all inputs in order of time; equal times in order of the inputs, fresh ones last.
fn read_inputs(
    model: &Model,
    inputs: &[(String, PathBuf)],
    fresh: &[(String, PathBuf)],
) -> Result<Vec<Packet>, ReplayError> {
    let mut packets = Vec::new();
    let inputs = inputs.iter().map(|i| (i, false)).chain(fresh.iter().map(|i| (i, true)));
    for ((name, file), is_fresh) in inputs {
        let port = model.ports().find(|(_, p)| p.config.name == *name);
        let (_, port) = port.ok_or_else(|| ReplayError::NoPort(name.clone()))?;
        if !matches!(port.config.kind, PortType::Memory) {
            return Err(ReplayError::NotADevice(name.clone(), port.config.kind.name()));
        }
        let open =
            File::open(file).map_err(|error| ReplayError::Open { file: file.clone(), error })?;
        let wrong = |error| ReplayError::Pcap { file: file.clone(), error };
        for p in PcapReader::new(BufReader::new(open)).map_err(wrong)? {
            let p = p.map_err(wrong)?;
            packets.push(Packet { ts_ns: p.ts_ns, port: port.ix, is_fresh, bytes: p.bytes });
        }
    }
    packets.iter().filter(|p| p.is_fresh).try_for_each(fresh::check)?;
    packets.sort_by_key(|p| p.ts_ns);
    Ok(packets)
}

/// What left, per port.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Serialize)]
pub struct Out {
    pub packets: u64,
    pub bytes: u64,
}

/// Counts what leaves and writes it to files.
struct Sink {
    names: BTreeMap<u16, String>,
    dir: Option<PathBuf>,
    files: BTreeMap<u16, PcapWriter<BufWriter<File>>>,
    out: BTreeMap<String, Out>,
    error: Option<ReplayError>,
}

impl Sink {
    fn new(model: &Model, dir: Option<PathBuf>) -> Self {
        let names = model.ports().map(|(_, p)| (p.ix.0, p.config.name.clone())).collect();
        Self { names, dir, files: BTreeMap::new(), out: BTreeMap::new(), error: None }
    }

    fn take(&mut self, sent: &Sent<'_>) {
        let name = self.names.get(&sent.port.0).cloned().unwrap_or_default();
        let out = self.out.entry(name.clone()).or_default();
        out.packets += 1;
        out.bytes += sent.bytes.len() as u64;
        if self.error.is_none()
            && let Err(error) = self.write(sent, &name)
        {
            self.error = Some(error);
        }
    }

    fn write(&mut self, sent: &Sent<'_>, name: &str) -> Result<(), ReplayError> {
        let Some(dir) = &self.dir else { return Ok(()) };
        let file = dir.join(format!("{name}.pcap"));
        let wrong = |error| ReplayError::Pcap { file: file.clone(), error };
        let writer = match self.files.entry(sent.port.0) {
            Entry::Occupied(have) => have.into_mut(),
            Entry::Vacant(place) => {
                let open = File::create(&file)
                    .map_err(|error| ReplayError::Open { file: file.clone(), error })?;
                place.insert(PcapWriter::new(BufWriter::new(open)).map_err(wrong)?)
            }
        };
        writer.write(sent.ts_ns, sent.bytes).map_err(wrong)
    }

    fn finish(self) -> Result<BTreeMap<String, Out>, ReplayError> {
        for (port, writer) in self.files {
            let file = PathBuf::from(self.names.get(&port).cloned().unwrap_or_default());
            writer.finish().map_err(|error| ReplayError::Pcap { file, error })?;
        }
        Ok(self.out)
    }
}
