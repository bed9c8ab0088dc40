//! Huge pages, which DPDK needs, for the while of a run.

use crate::cleanup::Ticket;
use crate::{Error, Result};

const COUNT: &str = "/proc/sys/vm/nr_hugepages";
/// Of 2 MiB: buffers for 262144 packets, and DPDK's own.
const WANTED: u64 = 640;

/// Gives back what was taken on drop.
#[derive(Debug)]
pub struct HugePages {
    before: u64,
    _ticket: Ticket,
}

impl HugePages {
    /// Raises the number so that enough are free.
    pub fn take() -> Result<Self> {
        let (before, free) = (meminfo("HugePages_Total:")?, meminfo("HugePages_Free:")?);
        let held = Self { before, _ticket: Ticket::setting(COUNT, &before.to_string()) };
        let wanted = before + WANTED.saturating_sub(free);
        std::fs::write(COUNT, wanted.to_string()).map_err(Error::io(format!("write {COUNT}")))?;
        let free = meminfo("HugePages_Free:")?;
        if free < WANTED {
            let text = format!(
                "the kernel gave {free} of {WANTED} huge pages of 2 MiB that DPDK needs: memory is \
                 short or in pieces"
            );
            return Err(Error::Unexpected(text));
        }
        Ok(held)
    }
}

impl Drop for HugePages {
    fn drop(&mut self) {
        if let Err(error) = std::fs::write(COUNT, self.before.to_string()) {
            eprintln!("{COUNT} could not be set back to {}: {error}", self.before);
        }
    }
}

fn meminfo(name: &str) -> Result<u64> {
    let path = "/proc/meminfo";
    let text = std::fs::read_to_string(path).map_err(Error::io(path))?;
    let line = text.lines().find_map(|l| l.strip_prefix(name));
    let value = line.and_then(|l| l.split_whitespace().next()?.parse().ok());
    value.ok_or_else(|| Error::Unexpected(format!("{path} has no {name}")))
}
