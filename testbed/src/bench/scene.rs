//! One window: generator, forwarder and sink in three namespaces, and the count at the sink.
//!
//! ```text
//!   gen0 --[veth]-- p1  forwarder  p2 --[veth]-- sink0
//!   core 0               core 1
//! ```
//! Every window gets fresh namespaces and devices: no forwarder inherits another's settings.
//! Frames that a forwarder sends are sk_buffs and reach the sink's stack, which drops them: their
//! destination address is nobody's. The sink counts what its device received.
//!
//! Nothing here gets another priority: half of the work on each core is the kernel's, in softirqs
//! that a favoured generator or forwarder would starve.

use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use rustix::thread::{CpuSet, sched_setaffinity};
use sluice_dataplane::sys::if_index;

use super::bpf::{Answer, Program};
use super::forwarder::Forwarder;
use super::{Options, Sink};
use crate::netns::{Handle, Namespace};
use crate::process::wait_until;
use crate::veth::{End, VethOptions, join};
use crate::{Error, Result};

pub const GENERATOR_CPU: usize = 0;
pub const FORWARDER_CPU: usize = 1;
/// How long a forwarder may take to deliver its first packet.
const START_LIMIT: Duration = Duration::from_secs(15);
const WARM_UP: Duration = Duration::from_millis(700);
/// Packets per system call of the generator: some 50 ms.
const RUN_PACKETS: u32 = 200_000;

/// Ethernet to nobody, IPv4 10.0.0.1 -> 10.0.0.2, UDP 1024 -> 9 without checksum, then zeros.
const HEADERS: [u8; 42] = [
    0x02, 0, 0, 0, 0, 0x02, 0x02, 0, 0, 0, 0, 0x01, 0x08, 0x00, // Ethernet
    0x45, 0, 0, 46, 0, 0, 0, 0, 64, 17, 0x66, 0xbd, 10, 0, 0, 1, 10, 0, 0, 2, // IPv4
    0x04, 0x00, 0, 9, 0, 26, 0, 0, // UDP
];
/// The shortest Ethernet frame, 64 bytes with its check sequence, which a veth does not have.
pub const FRAME_BYTES: usize = 60;

/// What one window showed.
#[derive(Clone, Debug)]
pub struct Window {
    pub mpps: f64,
    /// How the forwarder's XDP program was attached, as iproute2 shows it.
    pub attached: String,
}

/// Plays one window with one forwarder.
pub fn play(which: Forwarder, options: &Options) -> Result<Window> {
    let make = |label| -> Result<Namespace> {
        let ns = Namespace::new(label)?;
        ns.quiet()?;
        Ok(ns)
    };
    let (source, middle, sink) = (make("gen")?, make("fwd")?, make("sink")?);
    let end = |ns, dev| End { ns, dev };
    join(end(&source, "gen0"), end(&middle, "p1"), VethOptions::default())?;
    join(end(&middle, "p2"), end(&sink, "sink0"), VethOptions::default())?;
    let _dropping = match options.sink {
        Sink::Stack => None,
        Sink::Drop => Some(drop_all(&sink)?),
    };
    let mut running = which.start(&middle)?;
    let generator = Generator::start(&source.handle())?;
    let before = received(&sink)?;
    let first = wait_until("first packet at the sink", START_LIMIT, || {
        let ended = running.ended().map(Err);
        ended.or_else(|| (received(&sink).ok()? > before).then_some(Ok(())))
    });
    let refused = |why: String| Error::Unexpected(format!("{why}\n{}", running.log()));
    first.map_err(|error| refused(error.to_string()))?.map_err(refused)?;
    std::thread::sleep(WARM_UP);
    let (start, from) = (Instant::now(), received(&sink)?);
    std::thread::sleep(Duration::from_secs_f64(options.seconds));
    let (count, seconds) = (received(&sink)? - from, start.elapsed().as_secs_f64());
    let attached = attached(&middle)?;
    generator.stop()?;
    running.stop();
    Ok(Window { mpps: count as f64 / seconds / 1e6, attached })
}

/// Packets that the sink's device has received.
fn received(sink: &Namespace) -> Result<u64> {
    let read = || std::fs::read_to_string("/proc/thread-self/net/dev");
    let text = sink.run(read).map_err(Error::io("read /proc/net/dev"))?;
    let missing = || Error::Unexpected(format!("no counts of sink0 in\n{text}"));
    let line = text.lines().find_map(|l| l.trim_start().strip_prefix("sink0:"));
    let packets = line.and_then(|l| l.split_whitespace().nth(1)?.parse().ok());
    packets.ok_or_else(missing)
}

/// iproute2 says `xdp` of a program in the driver and `xdpgeneric` of one in the stack.
fn attached(middle: &Namespace) -> Result<String> {
    let line = middle.ip("-o link show dev p2")?;
    let has = |word| line.split_whitespace().any(|w| w == word);
    let mode = if has("xdpgeneric") { "generic" } else { "native" };
    Ok(if line.contains("prog/xdp") { mode } else { "none" }.to_owned())
}

fn drop_all(sink: &Namespace) -> Result<(Program, OwnedFd)> {
    let attach = || {
        let program = Program::load(Answer::Drop)?;
        let link = program.attach(if_index("sink0")?)?;
        Ok((program, link))
    };
    sink.run(attach).map_err(Error::io("attach the sink's XDP program"))
}

/// Sends as fast as the kernel can, from a thread of its own, until it is stopped.
struct Generator {
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<std::io::Result<()>>>,
}

impl Generator {
    fn start(source: &Handle) -> Result<Self> {
        let stop = Arc::new(AtomicBool::new(false));
        let told = Arc::clone(&stop);
        let thread = source.spawn(move || {
            let mut cpus = CpuSet::new();
            cpus.set(GENERATOR_CPU);
            sched_setaffinity(None, &cpus)?;
            let program = Program::load(Answer::Tx)?;
            let index = if_index("gen0")?;
            let mut packet = [0u8; FRAME_BYTES];
            packet[..HEADERS.len()].copy_from_slice(&HEADERS);
            while !told.load(Ordering::Relaxed) {
                match program.run_live(&packet, index, RUN_PACKETS) {
                    // Not ours to judge: a signal for another thread may interrupt a run.
                    Err(e) if e.kind() == std::io::ErrorKind::Interrupted => {}
                    other => other?,
                }
            }
            Ok(())
        });
        Ok(Self { stop, thread: Some(thread) })
    }

    fn stop(mut self) -> Result<()> {
        self.end().map_err(Error::io("the generator (BPF_PROG_RUN with live frames)"))
    }

    fn end(&mut self) -> std::io::Result<()> {
        self.stop.store(true, Ordering::Relaxed);
        let joined = self.thread.take().map(JoinHandle::join);
        joined.unwrap_or(Ok(Ok(()))).unwrap_or_else(|_| Err(std::io::Error::other("it panicked")))
    }
}

impl Drop for Generator {
    fn drop(&mut self) {
        if let Err(error) = self.end() {
            eprintln!("generator: {error}");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_packet_is_whole() {
        let ip = &HEADERS[14..34];
        let sum: u32 = ip.chunks(2).map(|c| u32::from(u16::from_be_bytes([c[0], c[1]]))).sum();
        assert_eq!((sum & 0xffff) + (sum >> 16), 0xffff, "IPv4 header checksum");
        assert_eq!(usize::from(ip[3]), FRAME_BYTES - 14);
        assert_eq!(usize::from(HEADERS[39]), FRAME_BYTES - 34);
    }
}
