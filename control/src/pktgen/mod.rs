//! `sluice pktgen`: a packet generator and a sink, to load a switch and to see what it lost.
//!
//! Theory. Each packet is UDP and carries a 16-byte probe: a mark, the number of its flow, its
//! number in the flow, and when it was sent. The sink needs nothing else to tell loss, order,
//! duplicates and one-way latency, as long as both ends share a clock (CLOCK_MONOTONIC is one for
//! all network namespaces of a machine). Sizes count a frame's bytes without check sequence, so a
//! "64-byte packet" of a hardware tester is 60 here.
//!
//! `stream` makes the packets, `tally` counts them, `device` moves them over AF_PACKET or AF_XDP,
//! `run` has the two loops, `cli` the words. Every run ends by count or by time.

mod cli;
mod device;
mod histogram;
mod probe;
mod run;
pub mod socket;
mod stream;
mod tally;
#[cfg(test)]
mod tests;

pub use cli::{Args, Outcome, run_command};
pub use device::{Device, DeviceKind};
pub use histogram::{Histogram, Percentiles};
pub use run::{SendOptions, SendReport, SinkOptions, receive, send, write_pcap};
pub use stream::{Stream, StreamConfig, StreamError};
pub use tally::{SinkReport, Tally};

/// Nanoseconds of the clock that stamps probes.
pub fn now_ns() -> u64 {
    let now = rustix::time::clock_gettime(rustix::time::ClockId::Monotonic);
    now.tv_sec.cast_unsigned() * 1_000_000_000 + now.tv_nsec.cast_unsigned()
}
