//! The packets of a run: flows in turn, sizes in turn, each packet stamped when it is made.
//!
//! A template per size is built once; a packet is a copy of it with ports and probe written in and
//! the UDP checksum adjusted for just these bytes (RFC 1624), so that a packet costs a copy of its
//! length and little more.

use std::net::IpAddr;

use sluice_dataplane::packet::build::PacketBuilder;
use sluice_dataplane::wire::checksum::Delta;

use super::probe::{PROBE_BYTES, Probe};

/// Source ports a flow may have, from here up.
const FIRST_PORT: u16 = 1024;
const PORTS: u32 = 60_000;
/// More flows than a switch's tables hold, and 32 MB in the sink.
pub const FLOWS_MAX: u32 = 1 << 20;
/// The longest frame: what one UMEM frame of 4096 bytes could hold.
pub const SIZE_MAX_BYTES: usize = 3_498;

/// What to send.
#[derive(Clone, Debug)]
pub struct StreamConfig {
    pub src_mac: [u8; 6],
    pub dst_mac: [u8; 6],
    pub vlan: Option<u16>,
    pub src_ip: IpAddr,
    pub dst_ip: IpAddr,
    /// Flows beyond the first 60000 use the next destination ports.
    pub dst_port: u16,
    pub flows: u32,
    /// Frame lengths, taken in turn.
    pub sizes_bytes: Vec<usize>,
    pub checksum: bool,
}

#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum StreamError {
    #[error("source {src} and destination {dst} must both be IPv4 or both IPv6")]
    Families { src: IpAddr, dst: IpAddr },
    #[error("{0} flows: at least 1 and at most {FLOWS_MAX}")]
    Flows(u32),
    #[error("a frame of {asked} bytes: at least {least} (headers and probe), at most {most}")]
    Size { asked: usize, least: usize, most: usize },
    #[error("no frame size given")]
    NoSize,
}

/// An endless source of packets.
#[derive(Clone, Debug)]
pub struct Stream {
    templates: Vec<Template>,
    flows: u32,
    dst_port: u16,
    made: u64,
}

/// A frame with all ports and the probe zero.
#[derive(Clone, Debug)]
struct Template {
    bytes: Vec<u8>,
    udp_at: usize,
}

impl Stream {
    pub fn new(config: &StreamConfig) -> Result<Self, StreamError> {
        if config.flows == 0 || config.flows > FLOWS_MAX {
            return Err(StreamError::Flows(config.flows));
        }
        if config.sizes_bytes.is_empty() {
            return Err(StreamError::NoSize);
        }
        let templates = config.sizes_bytes.iter().map(|&size| Template::new(config, size));
        let templates = templates.collect::<Result<_, _>>()?;
        Ok(Self { templates, flows: config.flows, dst_port: config.dst_port, made: 0 })
    }

    /// Packets made so far.
    pub fn made(&self) -> u64 {
        self.made
    }

    /// How many packets there are before flows and sizes come in the same order again.
    pub fn period(&self) -> u64 {
        let (a, b) = (u64::from(self.flows), self.templates.len() as u64);
        a / gcd(a, b) * b
    }

    /// Writes the next packet over `out`.
    pub fn next_into(&mut self, now_ns: u64, out: &mut Vec<u8>) {
        let n = self.made;
        self.made += 1;
        let which = (n % self.templates.len() as u64) as usize;
        let Some(template) = self.templates.get(which) else { return };
        let flow = (n % u64::from(self.flows)) as u32;
        let number = (n / u64::from(self.flows)) as u32;
        let src = FIRST_PORT + (flow % PORTS) as u16;
        let dst = self.dst_port.wrapping_add((flow / PORTS) as u16);
        template.write(src, dst, Probe { flow, number, sent_ns: now_ns }, out);
    }
}

fn gcd(a: u64, b: u64) -> u64 {
    if b == 0 { a } else { gcd(b, a % b) }
}

impl Template {
    fn new(config: &StreamConfig, size: usize) -> Result<Self, StreamError> {
        let StreamConfig { src_ip, dst_ip, .. } = *config;
        let mut packet = PacketBuilder::eth(config.src_mac, config.dst_mac);
        if let Some(vid) = config.vlan {
            packet = packet.vlan(vid, 0);
        }
        packet = match (src_ip, dst_ip) {
            (IpAddr::V4(src), IpAddr::V4(dst)) => packet.ipv4(src, dst),
            (IpAddr::V6(src), IpAddr::V6(dst)) => packet.ipv6(src, dst),
            (src, dst) => return Err(StreamError::Families { src, dst }),
        };
        packet = packet.udp(0, 0);
        let udp_at = packet.clone().build().len() - 8;
        packet = packet.payload(&[0; PROBE_BYTES]);
        // Over IPv6 a checksum is a must (RFC 8200, 8.1).
        if !config.checksum && src_ip.is_ipv4() {
            packet = packet.no_checksum();
        }
        let least = udp_at + 8 + PROBE_BYTES;
        if size < least || size > SIZE_MAX_BYTES {
            return Err(StreamError::Size { asked: size, least, most: SIZE_MAX_BYTES });
        }
        Ok(Self { bytes: packet.frame_len(size).build(), udp_at })
    }

    fn write(&self, src: u16, dst: u16, probe: Probe, out: &mut Vec<u8>) {
        out.clear();
        out.extend_from_slice(&self.bytes);
        let Some(udp) = out.get_mut(self.udp_at..) else { return };
        let Some((header, payload)) = udp.split_first_chunk_mut::<8>() else { return };
        let Some(slot) = payload.first_chunk_mut::<PROBE_BYTES>() else { return };
        *slot = probe.encode();
        let ([s0, s1], [d0, d1]) = (src.to_be_bytes(), dst.to_be_bytes());
        let ports = [s0, s1, d0, d1];
        let change = Delta::NONE.change_16(&[0; PROBE_BYTES], slot).change_4([0; 4], ports);
        let [_, _, _, _, l0, l1, sum @ ..] = *header;
        let mut sum = sum;
        change.apply_udp(&mut sum);
        *header = [s0, s1, d0, d1, l0, l1, sum[0], sum[1]];
    }
}
