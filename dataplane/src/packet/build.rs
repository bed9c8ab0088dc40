//! Packets for tests, benches and tools, written as one would say them.
//!
//! ```
//! use sluice_dataplane::packet::build::PacketBuilder;
//! let frame = PacketBuilder::eth([2, 0, 0, 0, 0, 1], [2, 0, 0, 0, 0, 2])
//!     .vlan(100, 0)
//!     .ipv4([10, 0, 0, 1], [10, 0, 0, 2])
//!     .udp(1000, 2000)
//!     .payload(b"hello")
//!     .build();
//! ```
//!
//! Lengths and checksums are right unless asked otherwise. Frames are as long as their content:
//! `padded` adds what a wire would. Allocates; not for the road.

use crate::wire::arp::ArpEthIpv4;
use crate::wire::geneve::Geneve;
use crate::wire::icmp::{Icmp, echo_rest};
use crate::wire::ipv4::Ipv4;
use crate::wire::ipv6::Ipv6;
use crate::wire::sctp::Sctp;
use crate::wire::tcp::Tcp;
use crate::wire::udp::Udp;
use crate::wire::{ether, geneve, icmp, ipv4, mpls, proto, tcp, vlan};
use std::net::{Ipv4Addr, Ipv6Addr};
use zerocopy::{FromZeros, IntoBytes};

mod bytes;

#[derive(Clone, Debug)]
enum Net {
    None,
    V4(Ipv4, Vec<u8>),
    V6(Ipv6),
    Arp(ArpEthIpv4),
}

#[derive(Clone, Debug)]
enum Transport {
    None,
    /// A protocol number; the header is the payload's business.
    Other(u8),
    Tcp(Tcp, Vec<u8>),
    Udp(Udp),
    Sctp(Sctp),
    Icmp(Icmp),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Checksum {
    Full,
    Partial,
    None,
}

/// A packet in the making.
#[derive(Clone, Debug)]
pub struct PacketBuilder {
    src: [u8; 6],
    dst: [u8; 6],
    tags: Vec<(u16, u16)>,
    /// MPLS label stack entries without "bottom of stack".
    labels: Vec<u32>,
    eth_type: Option<u16>,
    net: Net,
    /// IPv6 extension headers: number and bytes; the first byte is set in `build`.
    extensions: Vec<(u8, Vec<u8>)>,
    transport: Transport,
    payload: Vec<u8>,
    checksum: Checksum,
}

impl PacketBuilder {
    /// An Ethernet frame from `src` to `dst`.
    pub fn eth(src: [u8; 6], dst: [u8; 6]) -> Self {
        Self {
            src,
            dst,
            tags: Vec::new(),
            labels: Vec::new(),
            eth_type: None,
            net: Net::None,
            extensions: Vec::new(),
            transport: Transport::None,
            payload: Vec::new(),
            checksum: Checksum::Full,
        }
    }

    /// Adds an 802.1Q tag inside those already there.
    pub fn vlan(self, vid: u16, pcp: u8) -> Self {
        self.tag(ether::TYPE_VLAN, u16::from(pcp) << vlan::PCP_SHIFT | vid & vlan::VID_MASK)
    }

    /// Adds any tag inside those already there.
    pub fn tag(mut self, tpid: u16, tci: u16) -> Self {
        self.tags.push((tpid, tci));
        self
    }

    /// Adds an MPLS label inside those already there; the last gets "bottom of stack".
    pub fn mpls(mut self, label: u32, tc: u8, ttl: u8) -> Self {
        self.labels.push(mpls::lse(label, tc, false, ttl));
        self
    }

    /// Sets the type (or length) instead of that of the network header.
    pub fn eth_type(mut self, eth_type: u16) -> Self {
        self.eth_type = Some(eth_type);
        self
    }

    /// IPv4, TTL 64, without options.
    pub fn ipv4(mut self, src: impl Into<Ipv4Addr>, dst: impl Into<Ipv4Addr>) -> Self {
        let mut ip = Ipv4::new_zeroed();
        ip.version_ihl = ipv4::VERSION_IHL;
        ip.ttl = 64;
        ip.src = src.into().octets();
        ip.dst = dst.into().octets();
        self.net = Net::V4(ip, Vec::new());
        self
    }

    /// IPv6, hop limit 64.
    pub fn ipv6(mut self, src: impl Into<Ipv6Addr>, dst: impl Into<Ipv6Addr>) -> Self {
        let mut ip = Ipv6::new_zeroed();
        ip.version_class_label.set(6 << 28);
        ip.hop_limit = 64;
        ip.src = src.into().octets();
        ip.dst = dst.into().octets();
        self.net = Net::V6(ip);
        self
    }

    /// ARP; `sha` and `tha` are the hardware addresses inside, not those of the frame.
    pub fn arp(
        mut self,
        op: u16,
        (sha, spa): ([u8; 6], [u8; 4]),
        (tha, tpa): ([u8; 6], [u8; 4]),
    ) -> Self {
        self.net = Net::Arp(ArpEthIpv4 {
            hw_type: 1.into(),
            proto_type: ether::TYPE_IPV4.into(),
            hw_len: 6,
            proto_len: 4,
            op: op.into(),
            sha,
            spa,
            tha,
            tpa,
        });
        self
    }

    /// TOS byte or traffic class.
    pub fn tos(mut self, tos: u8) -> Self {
        match &mut self.net {
            Net::V4(ip, _) => ip.tos = tos,
            Net::V6(ip) => ip.set_traffic_class(tos),
            Net::None | Net::Arp(_) => {}
        }
        self
    }

    /// TTL or hop limit.
    pub fn ttl(mut self, ttl: u8) -> Self {
        match &mut self.net {
            Net::V4(ip, _) => ip.ttl = ttl,
            Net::V6(ip) => ip.hop_limit = ttl,
            Net::None | Net::Arp(_) => {}
        }
        self
    }

    /// IPv4 identification.
    pub fn ip_id(mut self, id: u16) -> Self {
        if let Net::V4(ip, _) = &mut self.net {
            ip.id.set(id);
        }
        self
    }

    /// IPv4 "don't fragment".
    pub fn df(mut self) -> Self {
        if let Net::V4(ip, _) = &mut self.net {
            ip.flags_fragment.set(ip.flags_fragment.get() | ipv4::DONT_FRAGMENT);
        }
        self
    }

    /// IPv4 options, a multiple of four bytes.
    pub fn ip_options(mut self, options: &[u8]) -> Self {
        assert!(options.len() <= 40 && options.len().is_multiple_of(4), "whole words, at most ten");
        if let Net::V4(ip, all) = &mut self.net {
            *all = options.to_vec();
            ip.version_ihl = ipv4::VERSION_IHL + (options.len() / 4) as u8;
        }
        self
    }

    /// IPv6 flow label.
    pub fn flow_label(mut self, label: u32) -> Self {
        if let Net::V6(ip) = &mut self.net {
            ip.set_flow_label(label);
        }
        self
    }

    /// An IPv6 extension header. Its first byte (next header) is overwritten; the length byte and
    /// the rest are the caller's.
    pub fn extension(mut self, kind: u8, bytes: &[u8]) -> Self {
        assert!(bytes.len() >= 8, "an extension header has eight bytes or more");
        self.extensions.push((kind, bytes.to_vec()));
        self
    }

    /// Marks the packet as a fragment, `offset` a multiple of eight bytes. A later one gets no
    /// transport header and, with [`Self::udp`] and the like, only the protocol number.
    pub fn fragment(mut self, id: u32, offset: u16, more: bool) -> Self {
        assert!(offset.is_multiple_of(8), "fragments start at a multiple of eight bytes");
        match &mut self.net {
            Net::V4(ip, _) => {
                let more = if more { ipv4::MORE_FRAGMENTS } else { 0 };
                ip.flags_fragment.set((offset / 8) | more);
                ip.id.set(id as u16);
            }
            Net::V6(_) => {
                let [a, b] = (offset | u16::from(more)).to_be_bytes();
                let [c, d, e, f] = id.to_be_bytes();
                self.extensions.push((proto::FRAGMENT, vec![0, 0, a, b, c, d, e, f]));
            }
            Net::None | Net::Arp(_) => {}
        }
        self
    }

    /// TCP with `ACK` set and a window of 65535.
    pub fn tcp(mut self, src: u16, dst: u16) -> Self {
        let mut header = Tcp::new_zeroed();
        header.src.set(src);
        header.dst.set(dst);
        header.offset_flags.set(5 << 12 | tcp::ACK);
        header.window.set(u16::MAX);
        self.transport = Transport::Tcp(header, Vec::new());
        self
    }

    fn with_tcp(mut self, edit: impl FnOnce(&mut Tcp)) -> Self {
        if let Transport::Tcp(header, _) = &mut self.transport {
            edit(header);
        }
        self
    }

    pub fn flags(self, flags: u16) -> Self {
        self.with_tcp(|t| t.offset_flags.set(t.offset_flags.get() & 0xf000 | flags & 0x0fff))
    }

    pub fn seq(self, seq: u32) -> Self {
        self.with_tcp(|t| t.seq.set(seq))
    }

    pub fn ack(self, ack: u32) -> Self {
        self.with_tcp(|t| t.ack.set(ack))
    }

    pub fn window(self, window: u16) -> Self {
        self.with_tcp(|t| t.window.set(window))
    }

    /// TCP options, a multiple of four bytes.
    pub fn tcp_options(mut self, options: &[u8]) -> Self {
        assert!(options.len() <= 40 && options.len().is_multiple_of(4), "whole words, at most ten");
        if let Transport::Tcp(header, all) = &mut self.transport {
            *all = options.to_vec();
            let words = 5 + (options.len() / 4) as u16;
            header.offset_flags.set(header.offset_flags.get() & 0x0fff | words << 12);
        }
        self
    }

    pub fn udp(mut self, src: u16, dst: u16) -> Self {
        let mut header = Udp::new_zeroed();
        header.src.set(src);
        header.dst.set(dst);
        self.transport = Transport::Udp(header);
        self
    }

    pub fn sctp(mut self, src: u16, dst: u16, tag: u32) -> Self {
        let mut header = Sctp::new_zeroed();
        header.src.set(src);
        header.dst.set(dst);
        header.tag.set(tag);
        self.transport = Transport::Sctp(header);
        self
    }

    /// Any ICMP or (over IPv6) ICMPv6 message; what follows `rest` is the payload.
    pub fn icmp(mut self, icmp_type: u8, code: u8, rest: [u8; 4]) -> Self {
        self.transport = Transport::Icmp(Icmp { icmp_type, code, checksum: [0; 2], rest });
        self
    }

    fn is_v6(&self) -> bool {
        matches!(self.net, Net::V6(_))
    }

    pub fn echo_request(self, id: u16, seq: u16) -> Self {
        let kind = if self.is_v6() { icmp::V6_ECHO_REQUEST } else { icmp::V4_ECHO_REQUEST };
        self.icmp(kind, 0, echo_rest(id, seq))
    }

    pub fn echo_reply(self, id: u16, seq: u16) -> Self {
        let kind = if self.is_v6() { icmp::V6_ECHO_REPLY } else { icmp::V4_ECHO_REPLY };
        self.icmp(kind, 0, echo_rest(id, seq))
    }

    /// An ICMP error about an untagged `frame`: quotes its IP header and what follows, eight bytes
    /// over IPv4 (RFC 792), as much as fits over IPv6 (RFC 4443 section 2.4).
    pub fn icmp_error(self, icmp_type: u8, code: u8, rest: [u8; 4], frame: &[u8]) -> Self {
        let packet = frame.get(14..).unwrap_or(&[]);
        let ihl = packet.first().map_or(0, |v| usize::from(v & 15) * 4);
        let keep = if self.is_v6() { 1232 } else { ihl + 8 };
        let quote = packet.get(..keep).unwrap_or(packet).to_vec();
        self.icmp(icmp_type, code, rest).payload(&quote)
    }

    /// Neighbour solicitation for `target`; sets the hop limit of 255 that it needs.
    pub fn nd_solicit(self, target: impl Into<Ipv6Addr>, source: Option<[u8; 6]>) -> Self {
        self.ttl(255).icmp(icmp::ND_SOLICIT, 0, [0; 4]).nd_body(
            target.into(),
            icmp::ND_OPT_SOURCE_LINK,
            source,
        )
    }

    /// Solicited, overriding neighbour advertisement of `target`.
    pub fn nd_advert(self, target: impl Into<Ipv6Addr>, link: Option<[u8; 6]>) -> Self {
        self.ttl(255).icmp(icmp::ND_ADVERT, 0, [0x60, 0, 0, 0]).nd_body(
            target.into(),
            icmp::ND_OPT_TARGET_LINK,
            link,
        )
    }

    fn nd_body(mut self, target: Ipv6Addr, option: u8, mac: Option<[u8; 6]>) -> Self {
        self.payload = target.octets().to_vec();
        if let Some(mac) = mac {
            self.payload.extend([option, 1]);
            self.payload.extend(mac);
        }
        self
    }

    /// A protocol whose header, if any, is in the payload.
    pub fn proto(mut self, number: u8) -> Self {
        self.transport = Transport::Other(number);
        self
    }

    pub fn payload(mut self, bytes: &[u8]) -> Self {
        self.payload = bytes.to_vec();
        self
    }

    /// A Geneve header without options and `inner` as payload; goes behind `udp(.., 6081)`.
    pub fn geneve(self, vni: u32, inner: &[u8]) -> Self {
        self.geneve_with(vni, &[], inner)
    }

    /// The same with options, a multiple of four bytes.
    pub fn geneve_with(mut self, vni: u32, options: &[u8], inner: &[u8]) -> Self {
        assert!(options.len() <= 252 && options.len().is_multiple_of(4), "whole words, at most 63");
        let [_, a, b, c] = vni.to_be_bytes();
        let mut header = Geneve::new_zeroed();
        header.proto.set(ether::TYPE_TEB);
        header.vni = [a, b, c];
        header.version_opt_len = (options.len() / 4) as u8;
        self.payload = [header.as_bytes(), options, inner].concat();
        debug_assert_eq!(size_of_val(&header), geneve::HEADER_BYTES);
        self
    }

    /// Grows the payload so that the frame has `len` bytes (without check sequence). A frame that
    /// is longer already stays as it is.
    pub fn frame_len(mut self, len: usize) -> Self {
        let now = self.clone().build().len();
        let fill = len.saturating_sub(now);
        self.payload.extend((0..fill).map(|i| i as u8));
        self
    }

    /// Leaves the TCP or UDP checksum as a veth sender does: the pseudo-header's folded sum.
    pub fn partial_checksum(mut self) -> Self {
        self.checksum = Checksum::Partial;
        self
    }

    /// Leaves the transport checksum zero.
    pub fn no_checksum(mut self) -> Self {
        self.checksum = Checksum::None;
        self
    }
}
