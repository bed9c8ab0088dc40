//! The backend without devices: `sluice replay` on files, as a user would call it.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::io::{BufReader, BufWriter};
use std::path::Path;

use sluice_control::replay::{Caches, Options, Report, run};
use sluice_dataplane::port::pcap::{PcapReader, PcapWriter};

use super::{Backend, Outcome, PortPackets, Vector};
use crate::scratch::Scratch;

/// Counters that say how a packet was served, not what became of it: they differ from one setting
/// of the caches to the next, and nothing else may.
pub(super) const ABOUT_SPEED: &[&str] = &[
    "tier1_hits",
    "tier1_stale",
    "tier1_inserts",
    "tier1_evictions",
    "tier2_hits",
    "tier2_stale",
    "tier2_inserts",
    "tier2_masks_full",
    "tier3_walks",
    "tier3_uncacheable",
    "batches",
    "polls",
    "events_lost",
    // Who served it, of several workers.
    "handed_over",
    "taken_over",
    "sent_over",
    "frames_given",
];

/// Replay with a setting of its caches.
#[derive(Clone, Copy, Debug)]
pub struct Replay {
    /// Entries of the caches.
    pub caches: Caches,
}

impl Backend for Replay {
    fn name(&self) -> &str {
        match (self.caches.microflows, self.caches.megaflows) {
            (None, _) => "replay",
            (Some(0), Some(0)) => "replay without caches",
            (Some(0), _) => "replay with megaflows alone",
            (Some(_), _) => "replay with a small cache",
        }
    }

    fn run(&mut self, vector: &Vector) -> Result<Outcome, String> {
        let dir = Scratch::new(&vector.name).map_err(|e| e.to_string())?;
        self.run_in(dir.path(), vector).map_err(|e| e.to_string())
    }
}

impl Replay {
    fn run_in(self, dir: &Path, vector: &Vector) -> Result<Outcome, Box<dyn std::error::Error>> {
        let flows = dir.join("flows.txt");
        std::fs::write(&flows, &vector.flows)?;
        let out_dir = dir.join("out");
        std::fs::create_dir(&out_dir)?;
        // Every port of the small switch is an input, so that their order numbers them; of a
        // configured one those that packets come in by.
        let ports = match vector.switch {
            None => vector.ports(),
            Some(_) => {
                let used: BTreeSet<_> = vector.input.iter().map(|p| p.port.clone()).collect();
                used.into_iter().collect()
            }
        };
        let mut inputs = Vec::new();
        for port in ports {
            let path = dir.join(format!("in-{port}.pcap"));
            let mut writer = PcapWriter::new(BufWriter::new(File::create(&path)?))?;
            for packet in vector.input_of(&port) {
                writer.write(packet.at_ns, &packet.bytes)?;
            }
            writer.finish()?;
            inputs.push((port, path));
        }
        let options = Options {
            flows,
            config: vector.switch.clone(),
            inputs,
            out_dir: Some(out_dir.clone()),
            caches: self.caches,
            ..Options::default()
        };
        let report = run(&options)?;
        Ok(Outcome { out: read_out(&out_dir)?, counters: counters(&report) })
    }
}

fn read_out(dir: &Path) -> Result<PortPackets, Box<dyn std::error::Error>> {
    let mut out = BTreeMap::new();
    for entry in std::fs::read_dir(dir)? {
        let path = entry?.path();
        let port = path.file_stem().unwrap_or_default().to_string_lossy().into_owned();
        let reader = PcapReader::new(BufReader::new(File::open(&path)?))?;
        let packets: Result<Vec<_>, _> = reader.map(|p| p.map(|p| p.bytes)).collect();
        out.insert(port, packets?);
    }
    Ok(out)
}

/// All that moved: drops by reason, statistics, entries left in conntrack, packets per flow.
fn counters(report: &Report) -> BTreeMap<String, u64> {
    let drops = report.drops.iter().map(|(name, n)| (format!("drop {name}"), *n));
    let stats = report.stats.iter().filter(|(name, _)| !ABOUT_SPEED.contains(name));
    let stats = stats.map(|(name, n)| (format!("stat {name}"), *n));
    let mut all: BTreeMap<_, _> = drops.chain(stats).collect();
    all.insert("conntrack entries".into(), report.conntrack_entries);
    for flow in &report.flows {
        // Two flows never have one text: that would be one flow.
        all.insert(format!("flow {} {}", flow.bridge, flow.flow), flow.n_packets);
    }
    all
}
