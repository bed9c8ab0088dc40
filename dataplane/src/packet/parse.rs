//! From bytes to offsets and the packet's key: lengths are checked once, here.
//!
//! # What it finds
//! The key is the one that Open vSwitch extracts (`miniflow_extract`, with `vlan-limit=1`, the
//! default), so that a table matches the same packets. Parsing never refuses a packet for what is
//! behind its Ethernet header: it stops where sense ends and leaves the rest of the key zero.
//!
//! - Tags: as many as the switch's `vlan-limit` says (Open vSwitch's default is one, its most
//!   two), the outermost in `vlan_tci`. What is beyond stays: `eth_type` is the next one's TPID.
//! - MPLS: three labels. If the bottom of the stack is among them, the payload is read as IPv4,
//!   IPv6 or ARP as its first four bits suggest, for flows that pop the labels (`key.rs` says
//!   why); the shape of the packet does not show it.
//! - A length instead of a type: SNAP's type if there is one, else 0x05ff.
//! - IPv4 and IPv6: a wrong version, header length or total length leaves all L3 fields zero, as
//!   if only the Ethernet header were there. (Open vSwitch does not look at the version.)
//! - TCP with a header length below 20 or beyond the datagram: no ports, no flags.
//! - Fragments: the first one is parsed on, later ones have no ports. A later IPv6 fragment has
//!   protocol 44, as in Open vSwitch, since the fragment header is not passed.
//! - IPv6 extension headers: hop-by-hop, routing, destination, authentication, fragment. At most
//!   `EXTENSIONS_MAX` of them, so that a packet made of them costs no more than another.
//! - ARP and RARP only with Ethernet and IPv4 addresses; the operation only below 256.
//! - Neighbour discovery with code 0: target and link-layer addresses; the same option twice
//!   leaves all three zero.
//!
//! # What it leaves behind
//! [`Layers`] are offsets from the frame's first byte; later rooms take their header view there and
//! do not walk again. `PacketKey::l3` is written only if `shape` says so, `PacketKey::tunnel`
//! never: who took the packet out of a tunnel adds it ([`crate::packet::key::PacketKey`]).
//!
//! # Two roads
//! Untagged IPv4 without options or fragments, with TCP or UDP, is most traffic: one length check
//! against the sum of these headers makes every load a fixed offset. Everything else takes the
//! walk, whose code stays out of the hot lines.

mod lists;

use super::key::{FRAG_ANY, FRAG_LATER, KeyBase, KeyL3, KeyStack, PacketKey, PortIx, payload};
use super::key::{VLAN_PRESENT, is_mpls, shape};
use crate::counters::Drop;
use crate::wire::ether::{Ethernet, LlcSnap};
use crate::wire::{arp, ether, icmp, ipv4, ipv6, mpls, proto, sctp, tcp, udp, vlan};
pub use lists::{EXTENSIONS_MAX, ND_OPTIONS_MAX};
use lists::{neighbour_discovery, skip_extensions};
use zerocopy::FromBytes;

/// Tags that are taken unless the switch says otherwise (Open vSwitch: `vlan-limit`).
pub const VLAN_LIMIT_DEFAULT: u8 = 1;
/// Tags that can be taken.
pub const VLAN_LIMIT_MAX: u8 = 2;

/// Bits of `Layers::flags`.
pub mod layer {
    /// IPv4 options or IPv6 extension headers lie between the L3 header and what follows it.
    pub const L3_OPTIONS: u16 = 1;
    /// A tag was taken.
    pub const VLAN: u16 = 2;
}

/// Where the headers are: offsets from the frame's first byte, 0 if absent.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
pub struct Layers {
    /// What `eth_type` names. Always set: with an unknown type, the first byte behind Ethernet;
    /// with MPLS, the outermost label. What follows is then of the payload behind the labels.
    pub l3: u16,
    /// Transport header: TCP, UDP, SCTP, ICMP or ICMPv6, complete in its fixed part. Set when the
    /// innermost shape has `L4_VALID`, and for TCP whose header length is not sane.
    pub l4: u16,
    /// First byte behind the last header that was understood, TCP options included; 0 if L3 is not
    /// valid, or TCP's header length is not sane. Of a later fragment: its data.
    pub payload: u16,
    /// End of the IP datagram: behind it only Ethernet padding. 0 if L3 is not valid IP.
    pub end: u16,
    /// Bits of `layer`.
    pub flags: u16,
}

/// Ethernet 14, IPv4 20, TCP 20: what the short road reads.
const FAST_BYTES: usize = 54;
const IP_AT: usize = 14;
const L4_AT: usize = IP_AT + ipv4::HEADER_MIN_BYTES;

/// Parses a frame. The only error is a frame that ends inside its Ethernet header.
#[inline]
pub fn parse(
    bytes: &[u8],
    in_port: PortIx,
    key: &mut PacketKey,
    layers: &mut Layers,
) -> Result<(), Drop> {
    parse_limited(bytes, in_port, VLAN_LIMIT_DEFAULT, key, layers)
}

/// The same where another number of tags is taken.
#[inline]
pub fn parse_limited(
    bytes: &[u8],
    in_port: PortIx,
    vlan_limit: u8,
    key: &mut PacketKey,
    layers: &mut Layers,
) -> Result<(), Drop> {
    match parse_common(bytes, in_port) {
        Some(common) => {
            common.write(key, layers);
            Ok(())
        }
        None => parse_any(bytes, in_port, vlan_limit, key, layers),
    }
}

/// What the short road finds. The key is in words of 64 bits: a hash reads words, and of single
/// fields that were just stored it would stall on store forwarding longer than all of parsing
/// takes. The two roads give the same key; a test compares them.
#[derive(Clone, Copy, Debug)]
pub struct Common {
    /// `KeyBase`, whose shape says that there is no other line.
    pub words: [u64; 5],
    pub layers: Layers,
}

impl Common {
    #[inline]
    pub fn write(&self, key: &mut PacketKey, layers: &mut Layers) {
        let words: &mut [u64; 5] = zerocopy::transmute_mut!(&mut key.base);
        *words = self.words;
        *layers = self.layers;
    }
}

#[inline]
fn be16(head: &[u8; FAST_BYTES], at: usize) -> u16 {
    u16::from_be_bytes([head[at], head[at + 1]])
}

/// The short road. `None` if the packet is of another kind.
#[inline(always)]
pub fn parse_common(bytes: &[u8], in_port: PortIx) -> Option<Common> {
    let head = bytes.first_chunk::<FAST_BYTES>()?;
    let frame_len = bytes.len();
    let Ok((eth, rest)) = Ethernet::ref_from_prefix(head) else { return None };
    let Ok((ip, _)) = ipv4::Ipv4::ref_from_prefix(rest) else { return None };
    let is_plain = eth.eth_type.get() == ether::TYPE_IPV4
        && ip.version_ihl == ipv4::VERSION_IHL
        && !ip.is_fragment();
    if !is_plain {
        return None;
    }
    // 64 KiB and a header need 17 bits.
    let end = IP_AT + usize::from(ip.total_len.get());
    if end > frame_len.min(usize::from(u16::MAX)) {
        return None;
    }
    let (payload, flags) = match ip.proto {
        proto::UDP => (L4_AT + udp::HEADER_BYTES, 0),
        proto::TCP => {
            let offset_flags = be16(head, L4_AT + 12);
            let header = usize::from(offset_flags >> 12) * 4;
            if header < tcp::HEADER_MIN_BYTES {
                return None;
            }
            (L4_AT + header, offset_flags & tcp::FLAGS_MASK)
        }
        _ => return None,
    };
    if payload > end {
        return None;
    }
    let layers = Layers {
        l3: IP_AT as u16,
        l4: L4_AT as u16,
        payload: payload as u16,
        end: end as u16,
        flags: 0,
    };
    Some(Common { words: common_words(head, in_port, flags), layers })
}

#[inline(always)]
fn common_words(head: &[u8; FAST_BYTES], in_port: PortIx, tcp_flags: u16) -> [u64; 5] {
    let h = |at: usize| head[at];
    let [port_a, port_b] = in_port.0.to_ne_bytes();
    let [type_a, type_b] = ether::TYPE_IPV4.to_be_bytes();
    let [flags_a, flags_b] = tcp_flags.to_be_bytes();
    let shape = shape::L3_VALID | shape::L4_VALID;
    let (tos, ttl, ip_proto) = (h(IP_AT + 1), h(IP_AT + 8), h(IP_AT + 9));
    [
        word([h(0), h(1), h(2), h(3), h(4), h(5), h(6), h(7)]),
        word([h(8), h(9), h(10), h(11), type_a, type_b, 0, 0]),
        word([port_a, port_b, shape, 0, ip_proto, tos, ttl, 0]),
        word([h(26), h(27), h(28), h(29), h(30), h(31), h(32), h(33)]),
        word([h(34), h(35), h(36), h(37), flags_a, flags_b, 0, 0]),
    ]
}

/// Bytes in memory order, put together in a register (an array of bytes would be stored as such).
#[inline(always)]
fn word(bytes: [u8; 8]) -> u64 {
    let [a, b, c, d, e, f, g, h] = bytes.map(u64::from);
    let low = a | (b << 8) | (c << 16) | (d << 24);
    let high = e | (f << 8) | (g << 16) | (h << 24);
    (low | (high << 32)).to_le()
}

/// The walk: every kind of frame, also those of the short road.
#[inline(never)]
pub fn parse_any(
    bytes: &[u8],
    in_port: PortIx,
    vlan_limit: u8,
    key: &mut PacketKey,
    layers: &mut Layers,
) -> Result<(), Drop> {
    // Offsets are 16 bits; no port has longer frames.
    let bytes = bytes.get(..usize::from(u16::MAX)).unwrap_or(bytes);
    let Ok((eth, rest)) = Ethernet::ref_from_prefix(bytes) else {
        return Err(Drop::ParseTruncated);
    };
    let PacketKey { base, l3, tunnel: _, stack } = key;
    *base = KeyBase::default();
    base.eth_dst = eth.dst;
    base.eth_src = eth.src;
    base.in_port = in_port.0;
    *layers = Layers::default();
    let mut walk = Walk { base, layers };
    let (mut eth_type, mut rest) = walk.tags(eth.eth_type.get(), rest, vlan_limit, stack);
    if eth_type < ether::TYPE_MIN {
        let snap = LlcSnap::ref_from_prefix(rest).ok();
        match snap.and_then(|(s, behind)| Some((s.ethernet_type()?, behind))) {
            Some((carried, behind)) => (eth_type, rest) = (carried, behind),
            None => eth_type = ether::TYPE_NONE,
        }
    }
    walk.base.eth_type = eth_type.to_be_bytes();
    walk.layers.l3 = (bytes.len() - rest.len()) as u16;
    match eth_type {
        ether::TYPE_IPV4 => walk.ipv4(rest),
        ether::TYPE_IPV6 => walk.ipv6(rest, l3),
        ether::TYPE_ARP | ether::TYPE_RARP => walk.arp(rest, l3),
        _ if is_mpls(eth_type) => walk.mpls(rest, l3, stack),
        _ => {}
    }
    Ok(())
}

/// What the walk fills. In place: a copy at the end would read as words what was just written as
/// bytes, and stall.
struct Walk<'a> {
    base: &'a mut KeyBase,
    layers: &'a mut Layers,
}

impl Walk<'_> {
    /// Takes up to `limit` tags. Returns the type behind them, and what it names.
    #[inline]
    fn tags<'b>(
        &mut self,
        mut eth_type: u16,
        mut rest: &'b [u8],
        limit: u8,
        stack: &mut KeyStack,
    ) -> (u16, &'b [u8]) {
        for n in 0..limit.min(VLAN_LIMIT_MAX) {
            if !vlan::is_tpid(eth_type) {
                break;
            }
            let Ok((tag, behind)) = vlan::VlanTag::ref_from_prefix(rest) else { break };
            let stag = if eth_type == ether::TYPE_QINQ { shape::STAG } else { 0 };
            let tci = (tag.tci.get() | VLAN_PRESENT).to_be_bytes();
            if n == 0 {
                self.base.shape |= stag;
                self.base.vlan_tci = tci;
                self.layers.flags |= layer::VLAN;
            } else {
                *stack = KeyStack { inner_tci: tci, shape: stag, ..KeyStack::default() };
                self.base.shape |= shape::STACK;
            }
            eth_type = tag.eth_type.get();
            rest = behind;
        }
        (eth_type, rest)
    }

    /// Labels, and what is behind them if their end is known.
    #[cold]
    fn mpls(&mut self, mut rest: &[u8], l3: &mut KeyL3, stack: &mut KeyStack) {
        if self.base.shape & shape::STACK == 0 {
            *stack = KeyStack::default();
            self.base.shape |= shape::STACK;
        }
        let labels_at = self.layers.l3;
        let mut is_bottom = false;
        for lse in &mut stack.mpls {
            let Some((entry, behind)) = rest.split_first_chunk::<4>() else { return };
            *lse = *entry;
            rest = behind;
            self.layers.l3 += 4;
            is_bottom = mpls::is_bottom(*entry);
            if is_bottom {
                break;
            }
        }
        if is_bottom {
            match rest.first().map(|b| b >> 4) {
                Some(payload::IPV4) => self.ipv4(rest),
                Some(payload::IPV6) => self.ipv6(rest, l3),
                // The hardware type's first bits.
                Some(0) => self.arp(rest, l3),
                _ => {}
            }
        }
        self.layers.l3 = labels_at;
        let good = shape::L3_VALID | shape::L4_VALID;
        stack.payload = match (self.base.shape & (shape::L3 | shape::L3_VALID), rest.first()) {
            (0, _) | (_, None) => payload::OTHER,
            (_, Some(first)) => (first >> 4).max(payload::ARP),
        };
        stack.shape |= self.base.shape & good;
        self.base.shape &= !good;
    }

    fn ipv4(&mut self, rest: &[u8]) {
        let Ok((ip, _)) = ipv4::Ipv4::ref_from_prefix(rest) else { return };
        let header = ip.header_len();
        let total = usize::from(ip.total_len.get());
        if ip.version() != 4 || header < ipv4::HEADER_MIN_BYTES {
            return;
        }
        // Also refuses a total length that is longer than the frame or shorter than the header.
        let Some(data) = rest.get(header..total) else { return };
        self.base.shape |= shape::L3_VALID;
        self.base.ip_proto = ip.proto;
        self.base.ip_tos = ip.tos;
        self.base.ip_ttl = ip.ttl;
        self.base.ip_src = ip.src;
        self.base.ip_dst = ip.dst;
        if header > ipv4::HEADER_MIN_BYTES {
            self.layers.flags |= layer::L3_OPTIONS;
        }
        if ip.is_fragment() {
            let later = if ip.is_later_fragment() { FRAG_LATER } else { 0 };
            self.base.ip_frag = FRAG_ANY | later;
        }
        let at = self.layers.l3 + header as u16;
        self.layers.payload = at;
        self.layers.end = self.layers.l3 + total as u16;
        if !ip.is_later_fragment() && ip.proto != proto::ICMPV6 {
            self.transport(data, at, ip.proto, None);
        }
    }

    fn ipv6(&mut self, rest: &[u8], l3: &mut KeyL3) {
        let Ok((ip, behind)) = ipv6::Ipv6::ref_from_prefix(rest) else { return };
        let Some(data) = behind.get(..usize::from(ip.payload_len.get())) else { return };
        if ip.version() != 6 {
            return;
        }
        self.base.shape |= shape::L3;
        *l3 = KeyL3 { ipv6_src: ip.src, ipv6_dst: ip.dst, ..KeyL3::default() };
        let Some(found) = skip_extensions(data, ip.next_header) else { return };
        self.base.shape |= shape::L3_VALID;
        self.base.ip_proto = found.proto;
        self.base.ip_tos = ip.traffic_class();
        self.base.ip_ttl = ip.hop_limit;
        self.base.ip_frag = found.ip_frag;
        l3.ipv6_label = ip.flow_label().to_be_bytes();
        if found.at > 0 {
            self.layers.flags |= layer::L3_OPTIONS;
        }
        let start = self.layers.l3 + ipv6::HEADER_BYTES as u16;
        let at = start + found.at as u16;
        self.layers.payload = at;
        self.layers.end = start + data.len() as u16;
        if found.ip_frag & FRAG_LATER == 0 && found.proto != proto::ICMP {
            let data = data.get(found.at..).unwrap_or(&[]);
            self.transport(data, at, found.proto, Some(l3));
        }
    }

    fn arp(&mut self, rest: &[u8], l3: &mut KeyL3) {
        let Ok((arp, _)) = arp::ArpEthIpv4::ref_from_prefix(rest) else { return };
        if !arp.is_eth_ipv4() {
            return;
        }
        self.base.shape |= shape::L3 | shape::L3_VALID;
        self.base.ip_src = arp.spa;
        self.base.ip_dst = arp.tpa;
        // An operation beyond a byte is none.
        self.base.ip_proto = u8::try_from(arp.op.get()).unwrap_or(0);
        *l3 = KeyL3 { arp_sha: arp.sha, arp_tha: arp.tha, ..KeyL3::default() };
        self.layers.payload = self.layers.l3 + size_of::<arp::ArpEthIpv4>() as u16;
    }

    /// `data` is the datagram from the transport header, at offset `at`, to its end.
    fn transport(&mut self, data: &[u8], at: u16, ip_proto: u8, l3: Option<&mut KeyL3>) {
        let (src, dst, header) = match ip_proto {
            proto::TCP => {
                let Ok((tcp, _)) = tcp::Tcp::ref_from_prefix(data) else { return };
                if !(tcp::HEADER_MIN_BYTES..=data.len()).contains(&tcp.header_len()) {
                    // No ports for flows; its checksum still covers the addresses.
                    self.layers.l4 = at;
                    self.layers.payload = 0;
                    return;
                }
                self.base.tcp_flags = tcp.flags().to_be_bytes();
                (tcp.src, tcp.dst, tcp.header_len())
            }
            proto::UDP => {
                let Ok((udp, _)) = udp::Udp::ref_from_prefix(data) else { return };
                (udp.src, udp.dst, udp::HEADER_BYTES)
            }
            proto::SCTP => {
                let Ok((sctp, _)) = sctp::Sctp::ref_from_prefix(data) else { return };
                (sctp.src, sctp.dst, sctp::HEADER_BYTES)
            }
            proto::ICMP | proto::ICMPV6 => {
                let Ok((icmp, body)) = icmp::Icmp::ref_from_prefix(data) else { return };
                if let Some(l3) = l3
                    && matches!(icmp.icmp_type, icmp::ND_SOLICIT | icmp::ND_ADVERT)
                    && icmp.code == 0
                {
                    neighbour_discovery(body, l3);
                }
                if icmp::is_query(ip_proto, icmp.icmp_type) {
                    self.base.icmp_id = icmp.echo_id().to_be_bytes();
                }
                let [kind, code] = [icmp.icmp_type, icmp.code].map(|v| u16::from(v).into());
                (kind, code, icmp::HEADER_BYTES)
            }
            _ => return,
        };
        self.base.shape |= shape::L4_VALID;
        self.base.tp_src = src.to_bytes();
        self.base.tp_dst = dst.to_bytes();
        self.layers.l4 = at;
        self.layers.payload = at + header as u16;
    }
}

#[cfg(test)]
mod tests;
