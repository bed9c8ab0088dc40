//! The packets of every scenario: pure functions of a packet's number, without chance or clock.
//!
//! A flow's number goes through splitmix64's finaliser (Steele, Lea, Flood: "Fast splittable
//! pseudorandom number generators"), so flows next to each other have nothing in common and
//! whoever wants the same packets elsewhere needs no file. Every frame has 64 bytes, as counted
//! without the frame check sequence: Ethernet, IPv4 (DF, identification 0, TTL 64), UDP or TCP with
//! checksum, zeros.

use std::collections::HashSet;
use std::fs::File;
use std::io::BufWriter;
use std::path::Path;

use sluice_dataplane::port::pcap::PcapWriter;

use super::rules::{ACL_RULES, acl_flow};
use crate::{Error, Result};

pub const FRAME_BYTES: usize = 64;
/// Ethernet destination, source, and the type of IPv4.
const ETHERNET: [u8; 14] = [2, 0, 0, 0, 0, 2, 2, 0, 0, 0, 0, 1, 8, 0];
const L4_BYTES: u16 = FRAME_BYTES as u16 - 34;
const UDP: u8 = 17;
const TCP: u8 = 6;
/// Flags of TCP.
pub const SYN: u8 = 2;
pub const ACK: u8 = 16;
const DST_PORTS: [u16; 8] = [53, 80, 123, 443, 5001, 6379, 8080, 9000];
/// Next hops that the routes lead to.
const NEXT_HOPS: u64 = 64;

pub type Frame = [u8; FRAME_BYTES];

/// Addresses and ports.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Flow {
    pub src: u32,
    pub dst: u32,
    pub src_port: u16,
    pub dst_port: u16,
}

impl Flow {
    /// The other direction.
    pub fn back(&self) -> Self {
        let Self { src, dst, src_port, dst_port } = *self;
        Self { src: dst, dst: src, src_port: dst_port, dst_port: src_port }
    }
}

pub fn splitmix64(i: u64) -> u64 {
    let mut z = i.wrapping_add(1).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

/// Flow `i`: a source in 10/8 that is its own for `i` below 2^24, a destination in 198.18/15, one
/// of 64512 source ports, one of 8 destination ports.
pub fn flow(i: u64) -> Flow {
    let h = splitmix64(i);
    Flow {
        src: 10 << 24 | (i.wrapping_mul(0x9e37_79b1).wrapping_add(1) & 0xff_ffff) as u32,
        dst: (198 << 24 | 18 << 16) + (h & 0x1_ffff) as u32,
        src_port: 1024 + ((h >> 17 & 0xff_ffff) % 64512) as u16,
        dst_port: DST_PORTS[(h >> 41 & 7) as usize],
    }
}

/// A prefix and the number of its next hop.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Route {
    pub prefix: u32,
    pub len: u32,
    pub next_hop: u8,
}

/// 10000 prefixes: 100 of /16 (20.0/16 to 20.99/16), 8900 of /24 (half of them inside those, half
/// in 30/8), 1000 of /32 (inside the first 1000 of /24).
pub fn routes() -> Vec<Route> {
    let mut list: Vec<(u32, u32)> = (0..100).map(|j| (20 << 24 | j << 16, 16)).collect();
    let inside = |j: u32| 20 << 24 | (j % 100) << 16 | (j / 100 * 5 % 256) << 8;
    list.extend((0..4450).map(|j| (inside(j), 24)));
    list.extend((0..4450).map(|j| (30 << 24 | j << 8, 24)));
    let host = |j: u32| inside(j) | (1 + splitmix64(u64::from(j)) % 254) as u32;
    list.extend((0..1000).map(|j| (host(j), 32)));
    let hop = |k: usize| (splitmix64(k as u64) % NEXT_HOPS) as u8;
    let numbered = list.into_iter().enumerate();
    numbered.map(|(k, (prefix, len))| Route { prefix, len, next_hop: hop(k) }).collect()
}

/// Flow `i` to a host inside prefix number `splitmix64(i)` of `routes`: 1 % of flows meet a /16,
/// 89 % a /24, 10 % a /32.
pub fn routed_flow(i: u64, routes: &[Route]) -> Flow {
    let h = splitmix64(i);
    let Route { prefix, len, .. } = routes[(h % routes.len() as u64) as usize];
    let host = ((h >> 20) & ((1u64 << (32 - len)) - 1)) as u32;
    Flow { dst: prefix | host, ..flow(i) }
}

/// A flow that agrees with the values of an access list's rule on as many leading bits of each
/// field as the dice say, disagrees on the next, and is random behind it.
///
/// This is what explodes the masks of a megaflow cache: a lookup that ends at bit `k` of a prefix
/// tree leaves `k + 1` bits to be matched, so with four fields each flow wants a mask of its own,
/// out of 25 x 33 x 17 x 17 (Csikor et al.: "Tuple space explosion", CoNEXT 2019). Sources stay
/// inside 10/8, which an earlier table asks for.
fn exploding_flow(dice: u64) -> Flow {
    let (h, noise) = (splitmix64(dice), splitmix64(dice ^ 0x5bd1_e995_0000_0000));
    let like = acl_flow(h % ACL_RULES);
    let part = |shift: u32, values: u64| ((h >> shift & 0xff) * values) >> 8;
    let diverge = |value: u32, width: u32, at: u64, noise: u64| {
        let at = at as u32;
        if at >= width {
            return value;
        }
        let rest = u64::from(width - at - 1);
        let low = (1u64 << rest) - 1;
        let flipped = u64::from(value) ^ (1 << rest);
        ((flipped & !low) | (noise & low)) as u32
    };
    Flow {
        src: diverge(like.src, 32, 8 + part(16, 25), noise),
        dst: diverge(like.dst, 32, part(24, 33), noise >> 32),
        src_port: diverge(u32::from(like.src_port), 16, part(32, 17), noise >> 13) as u16,
        dst_port: diverge(u32::from(like.dst_port), 16, part(40, 17), noise >> 29) as u16,
    }
}

/// The first `n` exploding flows, each another than those before it.
pub fn exploding_flows(n: u64) -> Vec<Flow> {
    let mut seen = HashSet::with_capacity(n as usize);
    (0..).map(exploding_flow).filter(|f| seen.insert(*f)).take(n as usize).collect()
}

/// The sum of 16-bit words, carries folded in (RFC 1071).
fn folded(words: impl IntoIterator<Item = u32>) -> u16 {
    let mut sum: u32 = words.into_iter().sum();
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    sum as u16
}

fn halves(address: u32) -> [u32; 2] {
    [address >> 16, address & 0xffff]
}

/// Ethernet and IPv4 of a flow, and its ports; the sum of the pseudo header without the protocol.
fn headers(f: &Flow, proto: u8) -> (Frame, u16) {
    let total = FRAME_BYTES as u16 - 14;
    let addresses = halves(f.src).into_iter().chain(halves(f.dst));
    let fixed = [0x4500, u32::from(total), 0x4000, 64 << 8 | u32::from(proto)];
    let ip_sum = !folded(addresses.clone().chain(fixed));
    let mut frame = [0; FRAME_BYTES];
    frame[..14].copy_from_slice(&ETHERNET);
    frame[14..16].copy_from_slice(&[0x45, 0]);
    frame[20] = 0x40;
    frame[22..24].copy_from_slice(&[64, proto]);
    put(&mut frame, &[(16, total), (24, ip_sum), (34, f.src_port), (36, f.dst_port)]);
    frame[26..30].copy_from_slice(&f.src.to_be_bytes());
    frame[30..34].copy_from_slice(&f.dst.to_be_bytes());
    (frame, folded(addresses.chain([u32::from(proto), u32::from(L4_BYTES)])))
}

fn put(frame: &mut Frame, words: &[(usize, u16)]) {
    for (at, value) in words {
        frame[*at..at + 2].copy_from_slice(&value.to_be_bytes());
    }
}

/// The checksum of layer 4, whose own place is still zero.
fn checksum(frame: &Frame, pseudo: u16) -> u16 {
    let words = frame[34..].chunks_exact(2).map(|w| u32::from(u16::from_be_bytes([w[0], w[1]])));
    !folded(words.chain([u32::from(pseudo)]))
}

/// The frame of a flow.
pub fn udp_frame(f: &Flow) -> Frame {
    let (mut frame, pseudo) = headers(f, UDP);
    put(&mut frame, &[(38, L4_BYTES)]);
    let sum = match checksum(&frame, pseudo) {
        0 => 0xffff,
        sum => sum,
    };
    put(&mut frame, &[(40, sum)]);
    frame
}

/// A segment of a flow with all the rest as data, without options, window 65535.
pub fn tcp_frame(f: &Flow, flags: u8, sequence: u32, acknowledged: u32) -> Frame {
    let (mut frame, pseudo) = headers(f, TCP);
    frame[38..42].copy_from_slice(&sequence.to_be_bytes());
    frame[42..46].copy_from_slice(&acknowledged.to_be_bytes());
    put(&mut frame, &[(46, 0x5000 | u16::from(flags)), (48, 0xffff)]);
    let sum = checksum(&frame, pseudo);
    put(&mut frame, &[(50, sum)]);
    frame
}

/// Writes frames, a microsecond apart.
pub fn write_pcap(frames: impl IntoIterator<Item = Frame>, path: &Path) -> Result<()> {
    let what = |e: &dyn std::fmt::Display| Error::Unexpected(format!("{}: {e}", path.display()));
    let file = File::create(path).map_err(|e| what(&e))?;
    let mut writer = PcapWriter::new(BufWriter::new(file)).map_err(|e| what(&e))?;
    for (at_us, frame) in frames.into_iter().enumerate() {
        writer.write(at_us as u64 * 1000, &frame).map_err(|e| what(&e))?;
    }
    writer.finish().map(drop).map_err(|e| what(&e))
}

#[cfg(test)]
mod tests {
    use super::super::stream::Flows;
    use super::*;
    use sha2::{Digest, Sha256};

    fn digest(flows: Flows, n: u64) -> String {
        let mut sha = Sha256::new();
        flows.list(0, n).iter().for_each(|f| sha.update(udp_frame(f)));
        sha.finalize().iter().map(|b| format!("{b:02x}")).collect()
    }

    /// The first packet of each set as another implementation made it, and digests of 5000 packets.
    #[test]
    fn packets_are_those_of_the_other_generator() {
        let hex = |f: &Frame| f.iter().map(|b| format!("{b:02x}")).collect::<String>();
        let first = |t: Flows| hex(&udp_frame(&t.list(0, 1)[0]));
        assert_eq!(first(Flows::Plain), PLAIN_FIRST);
        assert_eq!(first(Flows::Routed), ROUTED_FIRST);
        assert_eq!(digest(Flows::Plain, 5000), PLAIN_5000);
        assert_eq!(digest(Flows::Routed, 5000), ROUTED_5000);
    }

    #[test]
    fn exploding_flows_are_distinct_and_diverge_at_every_bit() {
        let flows = Flows::Exploding.list(0, 20_000);
        assert_eq!(flows.iter().collect::<HashSet<_>>().len(), 20_000);
        assert!(flows.iter().all(|f| f.src >> 24 == 10));
        // The longest agreement of a destination with any rule's value, in bits.
        let values: Vec<u32> = (0..ACL_RULES).map(|k| acl_flow(k).dst).collect();
        let agreed = |f: &Flow| values.iter().map(|v| (v ^ f.dst).leading_zeros()).max();
        let seen: HashSet<u32> = flows.iter().filter_map(agreed).collect();
        // The rules' values all begin alike and fill the bits behind; nearly every depth is met.
        assert!(seen.len() >= 25, "{seen:?}");
    }

    #[test]
    fn routes_are_distinct_and_every_routed_flow_meets_one() {
        let routes = routes();
        let keys: HashSet<_> = routes.iter().map(|r| (r.prefix, r.len)).collect();
        assert_eq!((routes.len(), keys.len()), (10_000, 10_000));
        let meets =
            |f: &Flow| routes.iter().any(|r| u64::from(f.dst ^ r.prefix) >> (32 - r.len) == 0);
        assert!(Flows::Routed.list(0, 500).iter().all(meets));
    }

    const PLAIN_FIRST: &str = "0200000000020200000000010800450000320000400040119cf70a000001c613\
        cdaf358e1389001e18d700000000000000000000000000000000000000000000";
    const ROUTED_FIRST: &str = "02000000000202000000000108004500003200004000401168fe0a0000011e0b\
        a9b1358e1389001ee4dd00000000000000000000000000000000000000000000";
    const PLAIN_5000: &str = "4aa19fc75deba18a415d7b06038ad9a1652d265baa5b4c9047d002afc9a944d9";
    const ROUTED_5000: &str = "7cc4318d2fefe4ad39d3bd4da4a13e0af142012f7b18fb1b7c998c4e48a33652";
}
