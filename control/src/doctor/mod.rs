//! What on this host would stop sluice, and what to do about it.
//!
//! Each check looks at one thing and gives one finding: what, why it matters, what to do. Checks
//! change nothing. The host's files are reached through roots that a test can replace.

mod device;
mod host;
#[cfg(test)]
mod tests;

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use crate::config::{Afxdp, Config, PortMode, PortType};

/// Findings, in the order of the checks.
#[derive(Clone, Debug, Default, Deserialize, Serialize, PartialEq, Eq)]
pub struct Report {
    pub findings: Vec<Finding>,
}

#[derive(Clone, Debug, Deserialize, Serialize, PartialEq, Eq)]
pub struct Finding {
    pub level: Level,
    /// What was looked at: `kernel`, `eth0 queues`.
    pub what: String,
    /// What was found, and why it matters.
    pub why: String,
    /// What to do; empty when nothing is.
    pub fix: String,
}

#[derive(Clone, Copy, Debug, Deserialize, Serialize, PartialEq, Eq, PartialOrd, Ord)]
#[serde(rename_all = "lowercase")]
pub enum Level {
    Ok,
    Warn,
    Fail,
}

impl Report {
    /// The worst level; `Ok` if there are no findings.
    pub fn worst(&self) -> Level {
        self.findings.iter().map(|f| f.level).max().unwrap_or(Level::Ok)
    }

    fn ok(&mut self, what: impl Into<String>, why: impl Into<String>) {
        self.add(Level::Ok, what, why, "");
    }

    fn add(
        &mut self,
        level: Level,
        what: impl Into<String>,
        why: impl Into<String>,
        fix: impl Into<String>,
    ) {
        let (what, why, fix) = (what.into(), why.into(), fix.into());
        self.findings.push(Finding { level, what, why, fix });
    }
}

/// What is to be run here.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Wish {
    pub umem_bytes: u64,
    pub frame_size_bytes: u32,
    pub hugepages: bool,
    pub workers: usize,
    pub cpus: Vec<usize>,
    pub taps: bool,
    pub netns: Vec<PathBuf>,
    pub devices: Vec<DeviceWish>,
    /// The question comes from the running daemon: a steering program on a device is its own.
    pub running: bool,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DeviceWish {
    pub name: String,
    /// 0: as many as there are.
    pub queues: u16,
    pub mode: PortMode,
    /// False: only that it is there (AF_PACKET).
    pub afxdp: bool,
}

impl Wish {
    /// For these devices, with the defaults of the configuration.
    pub fn of_devices(devices: &[String]) -> Self {
        let umem = sluice_dataplane::xsk::umem::UmemConfig::default();
        let device = |name: &String| DeviceWish {
            name: name.clone(),
            queues: 0,
            mode: PortMode::All,
            afxdp: true,
        };
        Self {
            umem_bytes: u64::from(umem.frames) * u64::from(umem.frame_size_bytes),
            frame_size_bytes: umem.frame_size_bytes,
            hugepages: umem.hugepages,
            workers: 1,
            cpus: Vec::new(),
            taps: true,
            netns: Vec::new(),
            devices: devices.iter().map(device).collect(),
            running: false,
        }
    }

    pub fn of_config(config: &Config) -> Self {
        let mut wish = Self::of_devices(&[]);
        wish.frame_size_bytes = config.umem.frame_size_bytes;
        wish.umem_bytes = u64::from(config.umem.frames) * u64::from(wish.frame_size_bytes);
        wish.hugepages = config.umem.hugepages;
        wish.workers = config.daemon.workers;
        wish.cpus.clone_from(&config.daemon.cpus);
        wish.taps = false;
        for port in config.bridges.iter().flat_map(|bridge| &bridge.ports) {
            match &port.kind {
                PortType::Internal(internal) => {
                    wish.taps = true;
                    wish.netns.extend(internal.netns.clone());
                }
                PortType::Tap(_) => wish.taps = true,
                PortType::Afxdp(Afxdp { device, queues, mode, .. }) => {
                    let (name, queues, mode) = (device.clone(), *queues, *mode);
                    wish.devices.push(DeviceWish { name, queues, mode, afxdp: true });
                }
                PortType::Packet { device } => {
                    let (name, mode) = (device.clone(), PortMode::All);
                    wish.devices.push(DeviceWish { name, queues: 0, mode, afxdp: false });
                }
                PortType::Memory | PortType::Geneve(_) | PortType::Patch { .. } => {}
            }
        }
        wish
    }
}

/// Looks at this host, in the network namespace of the calling thread.
pub fn examine(wish: &Wish) -> Report {
    let mut report = Report::default();
    host::Host::this().examine(wish, &mut report);
    device::examine(wish, &mut report);
    report
}
