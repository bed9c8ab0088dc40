//! Captures what passes a device into memory, and into a pcap file if asked.

use std::fs::File;
use std::io::BufWriter;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc;
use std::thread::JoinHandle;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use sluice_control::pktgen::socket::{BurstSocket, Sees};
use sluice_dataplane::port::pcap::{PcapError, PcapWriter};

use crate::netns::Namespace;
use crate::{Error, Result};

/// Packets kept at most; a capture that runs into it says so by `truncated`.
const PACKETS_MAX: usize = 100_000;
/// Large enough for a segmentation-offload frame.
const SLOT_BYTES: usize = 65_536 + 64;

/// A captured packet.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Captured {
    /// Since the epoch.
    pub at_ns: u64,
    pub bytes: Vec<u8>,
}

/// A running capture; `stop` ends it, as does dropping it.
#[derive(Debug)]
pub struct Capture {
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<std::io::Result<Vec<Captured>>>>,
}

impl Capture {
    /// Starts to watch `dev`, both directions, keeping packets for which `keep` holds. Returns once
    /// the socket is open: a packet that passes later is seen.
    pub fn start(
        ns: &Namespace,
        dev: &str,
        keep: impl Fn(&[u8]) -> bool + Send + 'static,
    ) -> Result<Self> {
        let stop = Arc::new(AtomicBool::new(false));
        let (opened, wait_opened) = mpsc::channel();
        let (dev, told) = (dev.to_owned(), Arc::clone(&stop));
        let what = format!("capture on {dev} in {}", ns.name());
        let thread = ns.handle().spawn(move || {
            let socket = BurstSocket::open(&dev, Sees::Both, SLOT_BYTES);
            let mut socket = match socket {
                Ok(socket) => socket,
                Err(error) => {
                    // The starter waits for this; it cannot have gone.
                    let _ = opened.send(Err(error));
                    return Ok(Vec::new());
                }
            };
            let _ = opened.send(Ok(()));
            watch(&mut socket, &told, &keep)
        });
        let gone = || std::io::Error::other("the capture's thread ended");
        let result = wait_opened.recv().map_err(|_| gone()).and_then(|opened| opened);
        result.map_err(Error::io(what))?;
        Ok(Self { stop, thread: Some(thread) })
    }

    /// Ends the capture and gives what it kept. Packets sent before this call are among them.
    pub fn stop(mut self) -> Result<Vec<Captured>> {
        self.stop.store(true, Ordering::Relaxed);
        let Some(thread) = self.thread.take() else { return Ok(Vec::new()) };
        let joined = thread.join().map_err(|_| Error::Unexpected("a capture panicked".into()))?;
        joined.map_err(Error::io("capture"))
    }
}

impl Drop for Capture {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            // Whatever it found, nobody wants it any more.
            let _ = thread.join();
        }
    }
}

fn watch(
    socket: &mut BurstSocket,
    stop: &AtomicBool,
    keep: &dyn Fn(&[u8]) -> bool,
) -> std::io::Result<Vec<Captured>> {
    let mut kept = Vec::new();
    loop {
        // Read before receiving: what came before the order to stop is still taken.
        let last = stop.load(Ordering::Relaxed);
        let got = socket.receive_burst(Duration::from_millis(20))?;
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        let at_ns = now.as_nanos().try_into().unwrap_or(u64::MAX);
        let room = PACKETS_MAX - kept.len();
        let wanted = socket.packets().filter(|p| keep(p)).take(room);
        kept.extend(wanted.map(|p| Captured { at_ns, bytes: p.into_owned() }));
        if last && got == 0 {
            return Ok(kept);
        }
    }
}

/// Writes packets as a pcap file that Wireshark and `sluice replay` read.
pub fn write_pcap(path: &Path, packets: &[Captured]) -> Result<()> {
    let write = || -> std::result::Result<(), PcapError> {
        let mut writer = PcapWriter::new(BufWriter::new(File::create(path)?))?;
        for packet in packets {
            writer.write(packet.at_ns, &packet.bytes)?;
        }
        writer.finish().map(drop)
    };
    let what = format!("write {}", path.display());
    write().map_err(|error| Error::io(what)(std::io::Error::other(error)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::host::{WIRE_PEER, wire_pair};
    use crate::root_or_skip;
    use crate::traffic::{PingOptions, ping};

    /// ICMP echo requests over IPv4.
    fn is_echo_request(p: &[u8]) -> bool {
        p.get(12..14) == Some(&[8, 0]) && p.get(23) == Some(&1) && p.get(34) == Some(&8)
    }

    #[test]
    fn it_sees_what_passes_and_only_what_is_asked_for() {
        if !root_or_skip("capture") {
            return;
        }
        let (a, b) = wire_pair().unwrap();
        let capture = Capture::start(&b.ns, "eth0", is_echo_request).unwrap();
        ping(&a.ns, WIRE_PEER, PingOptions { count: 3, ..PingOptions::default() }).unwrap();
        let seen = capture.stop().unwrap();
        assert_eq!(seen.len(), 3, "{seen:?}");
        assert!(seen.is_sorted_by_key(|p| p.at_ns));
        assert_eq!(seen[0].bytes.len(), 98);
        let path = std::env::temp_dir().join(format!("{}.pcap", a.ns.name()));
        write_pcap(&path, &seen).unwrap();
        let args = ["-n", "-r", path.to_str().unwrap()];
        let told = std::process::Command::new("tcpdump").args(args).output();
        std::fs::remove_file(&path).unwrap();
        if let Ok(told) = told {
            let text = String::from_utf8_lossy(&told.stdout).into_owned();
            assert_eq!(text.matches("ICMP echo request").count(), 3, "{text}");
        }
        assert!(Capture::start(&b.ns, "none0", |_| true).is_err());
    }
}
