//! The files that both sides read, made when they are first asked for.

use std::path::{Path, PathBuf};

use super::case::Load;
use super::packets::{Traffic, write_pcap};
use super::rules::Rules;
use crate::scratch::Scratch;
use crate::{Error, Result};

/// Packets whose bytes are compared, spread evenly over a load's flows.
const SAMPLE_PACKETS: usize = 500;

#[derive(Debug)]
pub struct Files {
    folder: Scratch,
}

impl Files {
    pub fn new() -> Result<Self> {
        Ok(Self { folder: Scratch::new("pipeline")? })
    }

    pub fn folder(&self) -> &Path {
        self.folder.path()
    }

    fn once(&self, name: &str, make: impl FnOnce(&Path) -> Result<()>) -> Result<PathBuf> {
        let path = self.folder.path().join(name);
        if !path.exists() {
            make(&path)?;
        }
        Ok(path)
    }

    pub fn rules(&self, rules: Rules) -> Result<PathBuf> {
        self.once(&format!("{}.txt", rules.name()), |path| {
            let text = rules.lines().join("\n") + "\n";
            std::fs::write(path, text).map_err(Error::io(format!("write {}", path.display())))
        })
    }

    pub fn packets(&self, traffic: Traffic, flows: u64) -> Result<PathBuf> {
        let name = format!("{}-{flows}.pcap", traffic.name());
        self.once(&name, |path| write_pcap(traffic.flows(flows), path))
    }

    /// Some packets of a load.
    pub fn sample(&self, load: &Load) -> Result<PathBuf> {
        let name = format!("{}-{}-sample.pcap", load.traffic.name(), load.flows);
        self.once(&name, |path| {
            let flows = load.traffic.flows(load.flows);
            let step = flows.len().div_ceil(SAMPLE_PACKETS).max(1);
            write_pcap(flows.into_iter().step_by(step), path)
        })
    }
}
