//! Vectors: a folder per behaviour, with packets in, packets out and every counter that moved.
//!
//! ```text
//! why.txt        one sentence: what this proves
//! flows.txt      flows in ovs-ofctl's words
//! switch.toml    optional: bridges, ports, tunnels; without it bridge br0 with ports p1 to p4
//! in.txt         packets: `t=0.001 port=p1 eth(...)/ipv4(...)/udp(...)/"text"`; without `t=`
//!                a millisecond after the one before
//! out.txt        what must leave, per port in order: `port=p2 eth(...)/...`
//! counters.txt   every counter that must have moved: `3 drop no_match`
//! replay-only.txt  optional: why this cannot be played on real devices
//! one-worker.txt   optional: why several workers do something else
//! ```
//! Theory. A packet test that only looks at the packets misses half of what a switch does; so all
//! counters are compared, and one that moved and is not in the file is as wrong as one that did not
//! move. Bytes are exact: a packet is written as text only if that text builds the same bytes
//! again, else as `hex:`. The same folders run on every backend. `REGENERATE=1` writes the
//! expectations anew from what the backend gave; read the difference before you commit it.

mod describe;
mod diff;
mod live;
mod load;
mod packet_text;
mod replay;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

pub use describe::describe;
pub use live::Live;
pub use load::InputError;
pub use packet_text::{parse_packet, split_words};
pub use replay::Replay;

/// A packet that goes in.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct InPacket {
    pub at_ns: u64,
    pub port: String,
    pub bytes: Vec<u8>,
}

/// What a backend is given.
#[derive(Clone, Debug)]
pub struct Vector {
    pub name: String,
    pub why: String,
    pub flows: String,
    /// The configuration, when the folder has one.
    pub switch: Option<PathBuf>,
    /// In order of time.
    pub input: Vec<InPacket>,
    /// Why it cannot be played on real devices, in real time.
    pub replay_only: Option<String>,
    /// Why it cannot be played with several workers.
    pub one_worker: Option<String>,
    expected: Outcome,
}

const PORTS_MIN: u16 = 4;

/// Packets per port, in order.
pub type PortPackets = BTreeMap<String, Vec<Vec<u8>>>;

/// What came of it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Outcome {
    pub out: PortPackets,
    /// Counters, also those that stayed 0.
    pub counters: BTreeMap<String, u64>,
}

/// Something that can play a vector.
pub trait Backend {
    fn name(&self) -> &str;
    /// Runs from a fresh start. An error is a failure of the vector.
    fn run(&mut self, vector: &Vector) -> Result<Outcome, String>;
    /// Whether it plays on real devices in real time.
    fn is_live(&self) -> bool {
        false
    }
    /// Whether several workers share the packets.
    fn is_shared(&self) -> bool {
        false
    }
    /// Whether it counts; else the packets alone are compared.
    fn counts(&self) -> bool {
        !self.is_live()
    }
}

impl Vector {
    /// The ports of a switch without configuration: p1 to p4, and more if the packets say so.
    pub fn ports(&self) -> Vec<String> {
        let number = |port: &String| port.strip_prefix('p')?.parse::<u16>().ok();
        let named = self.input.iter().map(|p| &p.port).chain(self.expected.out.keys());
        let last = named.filter_map(number).max().unwrap_or(0).max(PORTS_MIN);
        (1..=last).map(|n| format!("p{n}")).collect()
    }

    /// How many packets must leave.
    pub fn expected_packets(&self) -> usize {
        self.expected.out.values().map(Vec::len).sum()
    }

    /// The packets that come in by this port.
    pub fn input_of(&self, port: &str) -> impl Iterator<Item = &InPacket> {
        self.input.iter().filter(move |packet| packet.port == port)
    }
}

/// Reads a folder.
pub fn load(dir: &Path) -> Result<Vector, InputError> {
    load::load(dir)
}

/// Plays every vector below `dir` on the backend; the report of all that went wrong, if anything.
pub fn run_all(dir: &Path, backend: &mut dyn Backend) -> Result<usize, String> {
    let entries = std::fs::read_dir(dir).map_err(|e| format!("{}: {e}", dir.display()))?;
    let mut folders: Vec<PathBuf> = entries.flatten().map(|entry| entry.path()).collect();
    folders.retain(|path| path.is_dir());
    folders.sort();
    let failures: Vec<String> =
        folders.iter().filter_map(|folder| run_one(folder, backend).err()).collect();
    if folders.is_empty() {
        return Err(format!("no vector in {}", dir.display()));
    }
    if failures.is_empty() { Ok(folders.len()) } else { Err(failures.join("\n")) }
}

/// Plays one vector.
pub fn run_one(folder: &Path, backend: &mut dyn Backend) -> Result<(), String> {
    let regenerate = std::env::var_os("REGENERATE").is_some_and(|v| v == "1");
    run_folder(folder, backend, regenerate)
}

fn run_folder(folder: &Path, backend: &mut dyn Backend, regenerate: bool) -> Result<(), String> {
    let vector = load(folder).map_err(|e| e.to_string())?;
    let not_live = vector.replay_only.as_ref().filter(|_| backend.is_live());
    let not_shared = vector.one_worker.as_ref().filter(|_| backend.is_shared());
    if let Some(why) = not_live.or(not_shared) {
        println!("vector {} is left out on {}: {why}", vector.name, backend.name());
        return Ok(());
    }
    let failed = format!("vector {} on {}: ", vector.name, backend.name());
    let outcome = backend.run(&vector).map_err(|text| failed.clone() + &text)?;
    if regenerate && !backend.is_live() {
        return load::write_expected(folder, &outcome)
            .map_err(|e| format!("{failed}cannot write what came of it: {e}"));
    }
    let differences = diff::compare(&vector.expected, &outcome, backend.counts());
    if differences.is_empty() {
        return Ok(());
    }
    let why = &vector.why;
    Err(format!("{failed}{}\n  (it proves: {why})", differences.join("\n")))
}
