//! The files that both sides read, made when they are first asked for.

use std::path::{Path, PathBuf};

use super::case::Load;
use super::packets::write_pcap;
use super::rules::Rules;
use super::stream::Stream;
use crate::scratch::Scratch;
use crate::{Error, Result};

/// Packets of a stream whose bytes are compared, spread evenly over its flows.
const SAMPLE_PACKETS: usize = 500;

#[derive(Debug)]
pub struct Files {
    folder: Scratch,
}

impl Files {
    pub fn new() -> Result<Self> {
        Ok(Self { folder: Scratch::new("duel")? })
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

    fn text(&self, name: &str, text: &str) -> Result<PathBuf> {
        self.once(name, |path| {
            std::fs::write(path, text).map_err(Error::io(format!("write {}", path.display())))
        })
    }

    pub fn rules(&self, rules: Rules) -> Result<PathBuf> {
        self.text(&format!("{}.txt", rules.name()), &(rules.lines().join("\n") + "\n"))
    }

    /// Our configuration for a load: its ports, and how connections are kept. First packets'
    /// connections last a second where they are what is measured.
    pub fn config(&self, load: &Load) -> Result<PathBuf> {
        let ports = load.streams().iter().map(|s| s.port.max(s.leaves_by())).max().unwrap_or(2);
        let mut text = String::new();
        if let Some(max) = load.conns_max {
            text += &format!("[conntrack]\nconns_max = {max}\n");
        }
        if load.traffic.is_new() {
            text += "[conntrack.timeouts_s]\nudp_first = 1\ntcp_syn_sent = 1\n";
        }
        text += "[[bridge]]\nname = \"br0\"\nlocal = false\n";
        for n in 1..=ports {
            text += &format!("[[bridge.port]]\nname = \"p{n}\"\nnumber = {n}\ntype = \"memory\"\n");
        }
        let (max, is_new) = (load.conns_max.unwrap_or(0), load.traffic.is_new());
        self.text(&format!("config-{ports}-{max}-{is_new}.toml"), &text)
    }

    pub fn packets(&self, stream: &Stream) -> Result<PathBuf> {
        self.once(&format!("{}.pcap", stream.name()), |path| write_pcap(stream.frames(), path))
    }

    /// Some packets of a stream.
    pub fn sample(&self, stream: &Stream) -> Result<PathBuf> {
        self.once(&format!("{}-sample.pcap", stream.name()), |path| {
            let step = (stream.flows as usize).div_ceil(SAMPLE_PACKETS).max(1);
            write_pcap(stream.frames().step_by(step), path)
        })
    }
}
