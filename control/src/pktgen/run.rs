//! The sending and the receiving loop.

use std::fs::File;
use std::io::{self, BufWriter};
use std::path::Path;
use std::time::Duration;

use serde::Serialize;
use sluice_dataplane::port::pcap::{PcapError, PcapWriter};

use super::device::Device;
use super::now_ns;
use super::socket::BATCH;
use super::stream::Stream;
use super::tally::{SinkReport, Tally};

const NS_PER_S: u64 = 1_000_000_000;
/// How far a sender that was held up may fall behind its rate and still catch up; the rest of the
/// time is forgiven, so that no burst follows a pause.
const CATCH_UP_NS: u64 = 1_000_000;
/// Shorter waits are spent spinning: a sleep takes about this long.
const SLEEP_MIN_NS: u64 = 100_000;
/// Between two looks at the clock of a sink that hears nothing.
const SINK_WAIT: Duration = Duration::from_millis(20);

/// When to stop sending, and how fast to go.
#[derive(Clone, Copy, Debug)]
pub struct SendOptions {
    /// Packets at most.
    pub count: Option<u64>,
    pub duration: Duration,
    pub packets_per_s: Option<u64>,
}

/// What was sent.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct SendReport {
    pub sent: u64,
    pub bytes: u64,
    pub seconds: f64,
    pub packets_per_s: f64,
    pub bits_per_s: f64,
    /// Times that the device took nothing because it was full; sent again later.
    pub device_full: u64,
    /// Time by which the sender fell behind its rate.
    pub behind_seconds: f64,
}

/// How many packets are due, by a clock that is handed in.
#[derive(Debug)]
struct Pace {
    packets_per_s: Option<u64>,
    start_ns: u64,
    forgiven_ns: u64,
}

impl Pace {
    /// Packets due now, when `sent` have gone; or how long to wait for the next.
    fn due(&mut self, sent: u64, now_ns: u64) -> Result<usize, u64> {
        let Some(rate) = self.packets_per_s else { return Ok(BATCH) };
        let rate = rate.max(1);
        // The time at which packet number `sent` is due.
        let offset = (u128::from(sent) * u128::from(NS_PER_S) / u128::from(rate)) as u64;
        let due_ns = self.start_ns + self.forgiven_ns + offset;
        if now_ns < due_ns {
            return Err(due_ns - now_ns);
        }
        let mut behind_ns = now_ns - due_ns;
        if behind_ns > CATCH_UP_NS {
            self.forgiven_ns += behind_ns - CATCH_UP_NS;
            behind_ns = CATCH_UP_NS;
        }
        let more = u128::from(behind_ns) * u128::from(rate) / u128::from(NS_PER_S);
        Ok((more as usize + 1).min(BATCH))
    }
}

/// Sends until the count or the time is over. Packets that the device refused are sent again, so
/// that numbers have no holes but those the network made.
pub fn send(
    device: &mut Device,
    stream: &mut Stream,
    options: SendOptions,
) -> io::Result<SendReport> {
    let start_ns = now_ns();
    let end_ns = start_ns.saturating_add(options.duration.as_nanos() as u64);
    let most = options.count.unwrap_or(u64::MAX);
    let mut pace = Pace { packets_per_s: options.packets_per_s, start_ns, forgiven_ns: 0 };
    let mut packets: Vec<Vec<u8>> = vec![Vec::new(); BATCH];
    let (mut sent, mut bytes, mut device_full) = (0, 0, 0);
    loop {
        let now = now_ns();
        if sent >= most || now >= end_ns {
            break;
        }
        let wanted = match pace.due(sent, now) {
            Ok(due) => due.min(usize::try_from(most - sent).unwrap_or(usize::MAX)),
            Err(wait_ns) => {
                pause(wait_ns.min(end_ns - now));
                continue;
            }
        };
        let burst = packets.get_mut(..wanted).unwrap_or_default();
        burst.iter_mut().for_each(|packet| stream.next_into(now, packet));
        let mut left: &[Vec<u8>] = burst;
        while !left.is_empty() && now_ns() < end_ns {
            let refs: [&[u8]; BATCH] =
                std::array::from_fn(|i| left.get(i).map_or(&[][..], Vec::as_slice));
            let taken = device.send_burst(refs.get(..left.len()).unwrap_or(&refs))?;
            let (gone, rest) = left.split_at(taken.min(left.len()));
            sent += gone.len() as u64;
            bytes += gone.iter().map(|packet| packet.len() as u64).sum::<u64>();
            left = rest;
            if taken == 0 {
                device_full += 1;
                std::thread::yield_now();
            }
        }
    }
    let seconds = (now_ns() - start_ns) as f64 / 1e9;
    device.drain(Duration::from_millis(200));
    Ok(SendReport {
        sent,
        bytes,
        seconds,
        packets_per_s: sent as f64 / seconds.max(1e-9),
        bits_per_s: bytes as f64 * 8.0 / seconds.max(1e-9),
        device_full,
        behind_seconds: pace.forgiven_ns as f64 / 1e9,
    })
}

fn pause(ns: u64) {
    if ns >= SLEEP_MIN_NS {
        std::thread::sleep(Duration::from_nanos(ns - SLEEP_MIN_NS / 2));
    } else {
        std::hint::spin_loop();
    }
}

/// When to stop receiving.
#[derive(Clone, Copy, Debug)]
pub struct SinkOptions {
    pub duration: Duration,
    /// Packets after which there is nothing more to wait for.
    pub count: Option<u64>,
    /// Silence after the first packet that means the run is over.
    pub idle: Option<Duration>,
}

/// Receives until the time or the count is over, or the sender has fallen silent.
pub fn receive(device: &mut Device, options: SinkOptions) -> io::Result<SinkReport> {
    let mut tally = Tally::default();
    let mut queue_drops = 0;
    let end_ns = now_ns().saturating_add(options.duration.as_nanos() as u64);
    let idle_ns = options.idle.map(|idle| idle.as_nanos() as u64);
    let mut heard_ns = None;
    loop {
        let before = tally.received();
        device.receive_burst(SINK_WAIT, &mut |frame| tally.take(frame, now_ns()))?;
        queue_drops += device.take_drops()?;
        let now = now_ns();
        if tally.received() > before {
            heard_ns = Some(now);
        }
        let silent = heard_ns.zip(idle_ns).is_some_and(|(heard, idle)| now - heard >= idle);
        let enough = options.count.is_some_and(|count| tally.received() >= count);
        if now >= end_ns || silent || enough {
            return Ok(tally.report(queue_drops));
        }
    }
}

/// Writes the first `count` packets of the stream, spaced as a sender at `packets_per_s` would.
pub fn write_pcap(
    path: &Path,
    stream: &mut Stream,
    count: u64,
    packets_per_s: Option<u64>,
) -> Result<(), PcapError> {
    let mut writer = PcapWriter::new(BufWriter::new(File::create(path)?))?;
    let gap_ns = NS_PER_S / packets_per_s.unwrap_or(1_000_000).clamp(1, NS_PER_S);
    let mut packet = Vec::new();
    for n in 0..count {
        let at_ns = n * gap_ns;
        stream.next_into(at_ns, &mut packet);
        writer.write(at_ns, &packet)?;
    }
    writer.finish().map(drop)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_rate_is_kept_and_a_pause_is_forgiven() {
        let mut pace = Pace { packets_per_s: Some(1_000_000), start_ns: 0, forgiven_ns: 0 };
        assert_eq!(pace.due(0, 0), Ok(1));
        assert_eq!(pace.due(1, 0), Err(1000));
        assert_eq!(pace.due(1, 10_000), Ok(10));
        // Half a second too late: a burst and no more than a millisecond to make good.
        assert_eq!(pace.due(11, 500_000_000), Ok(BATCH));
        let behind = 500_000_000 - 11_000 - CATCH_UP_NS;
        assert_eq!(pace.forgiven_ns, behind);
        assert_eq!(pace.due(1012, 500_000_000), Err(1000));
        pace.packets_per_s = None;
        assert_eq!(pace.due(1 << 40, 0), Ok(BATCH));
    }
}
