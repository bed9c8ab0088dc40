//! `sluice pktgen send | sink | pcap`: the words of the command and what it prints.

use std::error::Error;
use std::net::IpAddr;
use std::path::PathBuf;
use std::time::Duration;

use clap::Subcommand;
use serde::Serialize;

use super::device::{Device, DeviceKind};
use super::run::{SendOptions, SendReport, SinkOptions, receive, send, write_pcap};
use super::stream::{Stream, StreamConfig};
use super::tally::SinkReport;
use crate::config::MacAddr;

#[derive(clap::Args, Clone, Debug)]
pub struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(Clone, Debug, Subcommand)]
enum Command {
    /// Send packets through a device
    Send {
        /// The device to send by
        #[arg(long)]
        dev: String,
        #[command(flatten)]
        packets: Packets,
        #[arg(long, value_enum, default_value_t)]
        via: DeviceKind,
        /// Stop after this time
        #[arg(long, default_value_t = 10.0)]
        seconds: f64,
        /// Also write the packets sent to a pcap, up to a million of them
        #[arg(long, value_name = "FILE")]
        pcap_out: Option<PathBuf>,
    },
    /// Receive what `send` sends, and say what is missing
    Sink {
        /// The device to receive from
        #[arg(long)]
        dev: String,
        #[arg(long, value_enum, default_value_t)]
        via: DeviceKind,
        /// Stop after this time
        #[arg(long, default_value_t = 10.0)]
        seconds: f64,
        /// Stop after this many packets
        #[arg(long)]
        count: Option<u64>,
        /// Stop when nothing has come for this long after the first packet
        #[arg(long, value_name = "SECONDS")]
        idle: Option<f64>,
    },
    /// Only write the packets to a file, for `sluice replay`; needs no rights
    Pcap {
        #[arg(long, value_name = "FILE")]
        out: PathBuf,
        #[command(flatten)]
        packets: Packets,
    },
}

/// What the packets are.
#[derive(clap::Args, Clone, Debug)]
struct Packets {
    #[arg(long, default_value = "02:00:00:00:00:01")]
    src_mac: MacAddr,
    #[arg(long, default_value = "02:00:00:00:00:02")]
    dst_mac: MacAddr,
    #[arg(long)]
    vlan: Option<u16>,
    #[arg(long, default_value = "10.0.0.1")]
    src: IpAddr,
    #[arg(long, default_value = "10.0.0.2")]
    dst: IpAddr,
    #[arg(long, default_value_t = 9)]
    dst_port: u16,
    /// Flows, told apart by their source port
    #[arg(long, default_value_t = 1)]
    flows: u32,
    /// Frame lengths in bytes without check sequence, taken in turn
    #[arg(long, value_delimiter = ',', default_value = "64")]
    sizes: Vec<usize>,
    /// Leave the UDP checksum out (IPv4)
    #[arg(long)]
    no_checksum: bool,
    /// Packets in all
    #[arg(long)]
    count: Option<u64>,
    /// Packets per second; as fast as it goes without
    #[arg(long)]
    rate: Option<u64>,
}

/// Packets that `--pcap-out` writes at most, and `pcap` when it has no count.
const PCAP_PACKETS_MAX: u64 = 1_000_000;

impl Packets {
    fn stream(&self) -> Result<Stream, Box<dyn Error>> {
        let config = StreamConfig {
            src_mac: self.src_mac.0,
            dst_mac: self.dst_mac.0,
            vlan: self.vlan,
            src_ip: self.src,
            dst_ip: self.dst,
            dst_port: self.dst_port,
            flows: self.flows,
            sizes_bytes: self.sizes.clone(),
            checksum: !self.no_checksum,
        };
        Ok(Stream::new(&config)?)
    }
}

/// What a command has to say.
#[derive(Clone, Debug, Serialize)]
#[serde(untagged)]
pub enum Outcome {
    Sent(SendReport),
    Received(SinkReport),
    Written { packets: u64 },
}

/// Runs the command to its end.
pub fn run_command(args: &Args) -> Result<Outcome, Box<dyn Error>> {
    Ok(match &args.command {
        Command::Send { dev, packets, via, seconds, pcap_out } => {
            let mut stream = packets.stream()?;
            let copy = stream.clone();
            let mut device = Device::open(dev, *via, false)?;
            let options = SendOptions {
                count: packets.count,
                duration: duration(*seconds)?,
                packets_per_s: packets.rate,
            };
            let report = send(&mut device, &mut stream, options)?;
            if let Some(path) = pcap_out {
                write_pcap(path, &mut { copy }, report.sent.min(PCAP_PACKETS_MAX), packets.rate)?;
            }
            Outcome::Sent(report)
        }
        Command::Sink { dev, via, seconds, count, idle } => {
            let mut device = Device::open(dev, *via, true)?;
            let idle = idle.map(duration).transpose()?;
            let options = SinkOptions { duration: duration(*seconds)?, count: *count, idle };
            // Whoever waits for the sink before sending waits for this line.
            eprintln!("receiving on {dev}");
            Outcome::Received(receive(&mut device, options)?)
        }
        Command::Pcap { out, packets } => {
            let mut stream = packets.stream()?;
            let count = packets.count.unwrap_or_else(|| stream.period());
            write_pcap(out, &mut stream, count, packets.rate)?;
            Outcome::Written { packets: count }
        }
    })
}

fn duration(seconds: f64) -> Result<Duration, Box<dyn Error>> {
    let wrong = |e| format!("{seconds} is no time in seconds: {e}");
    Ok(Duration::try_from_secs_f64(seconds).map_err(wrong)?)
}

impl Outcome {
    /// For people.
    pub fn text(&self) -> String {
        match self {
            Self::Sent(report) => report.text(),
            Self::Received(report) => report.text(),
            Self::Written { packets } => format!("{packets} packets written"),
        }
    }
}

impl SendReport {
    fn text(&self) -> String {
        format!(
            "sent {} packets, {} bytes in {:.3} s: {:.0} packets/s, {:.3} Gbit/s",
            self.sent,
            self.bytes,
            self.seconds,
            self.packets_per_s,
            self.bits_per_s / 1e9
        )
    }
}

impl SinkReport {
    fn text(&self) -> String {
        let mut text = format!(
            "received {} packets of {} flows in {:.3} s: {:.0} packets/s, {:.3} Gbit/s\n\
             lost {}, late {}, duplicates {}; {} other packets, {} dropped by the sink's own queue",
            self.received,
            self.flows,
            self.seconds,
            self.packets_per_s,
            self.bits_per_s / 1e9,
            self.lost,
            self.late,
            self.duplicates,
            self.foreign,
            self.queue_drops
        );
        if let Some(p) = self.latency_ns {
            let us = |ns: u64| ns as f64 / 1e3;
            text += &format!(
                "\nlatency in us: min {:.1}, median {:.1}, 90% {:.1}, 99% {:.1}, 99.9% {:.1}, \
                 max {:.1}",
                us(p.min),
                us(p.p50),
                us(p.p90),
                us(p.p99),
                us(p.p999),
                us(p.max)
            );
        }
        for flow in &self.worst_flows {
            text +=
                &format!("\nflow {}: {} received, {} lost", flow.flow, flow.received, flow.lost);
        }
        text
    }
}
