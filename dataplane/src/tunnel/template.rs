//! The prebuilt outer headers, and putting them in front of a frame.

use super::options::OPTIONS_BYTES_MAX;
use super::{Kind, ecn_encap, source_port};
use crate::limits::ENCAP_MAX_BYTES;
use crate::wire::checksum::{Sum, pseudo_v4, pseudo_v6};
use crate::wire::ether::{self, Ethernet};
use crate::wire::ipv4::{self, Ipv4};
use crate::wire::ipv6::Ipv6;
use crate::wire::udp::{self, Udp};
use crate::wire::vlan::{TAG_BYTES, VlanTag, is_tpid};
use crate::wire::{ecn, geneve, proto};
use std::net::IpAddr;
use zerocopy::{FromBytes, FromZeros, IntoBytes};

/// A header field that a tunnel port fixes or takes from the inner packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Inherit {
    Fixed(u8),
    /// From the inner packet if it is IP, else this.
    Else(u8),
}

impl Inherit {
    #[inline]
    fn default_value(self) -> u8 {
        match self {
            Inherit::Fixed(value) | Inherit::Else(value) => value,
        }
    }

    #[inline]
    fn is_inherited(self) -> bool {
        matches!(self, Inherit::Else(_))
    }
}

/// Why a template cannot be built.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum EncapError {
    #[error(
        "tunnel from {src} to {dst}: one address is IPv4, the other IPv6; \
         give local_ip and remote_ip of the same family"
    )]
    MixedFamilies { src: IpAddr, dst: IpAddr },
    #[error("tunnel headers of {len} bytes are longer than {ENCAP_MAX_BYTES}; use fewer options")]
    TooLong { len: usize },
}

/// The outer headers up to UDP, that all kinds share.
pub(super) struct Outer {
    pub src_mac: [u8; 6],
    pub dst_mac: [u8; 6],
    pub vlan: Option<u16>,
    pub src_ip: IpAddr,
    pub dst_ip: IpAddr,
    pub tos: Inherit,
    pub ttl: Inherit,
    pub df: bool,
    pub csum: bool,
    pub dst_port: u16,
}

/// Outer headers with zero in the places that depend on the packet, and the sums over the rest.
#[derive(Clone, Debug)]
pub struct EncapTemplate {
    bytes: [u8; ENCAP_MAX_BYTES],
    len: u8,
    /// Offsets of the IP and the UDP header.
    l3: u8,
    udp: u8,
    kind: Kind,
    is_v6: bool,
    has_csum: bool,
    tos: Inherit,
    ttl: Inherit,
    /// Sum of the IPv4 header with length, TOS, TTL and checksum zero.
    ip_sum: Sum,
    /// Sum of pseudo-header, UDP header and tunnel header, with lengths and source port zero.
    udp_sum: Sum,
}

impl EncapTemplate {
    /// Builds the headers: `outer`, UDP, then `tunnel_header` in parts of whole words. Does not
    /// allocate: with `remote_ip=flow` workers build templates.
    pub(super) fn build(
        kind: Kind,
        outer: &Outer,
        tunnel_header: &[&[u8]],
    ) -> Result<Self, EncapError> {
        let is_v6 = outer.src_ip.is_ipv6();
        let ip_type = if is_v6 { ether::TYPE_IPV6 } else { ether::TYPE_IPV4 };
        let eth_type = if outer.vlan.is_some() { ether::TYPE_VLAN } else { ip_type };
        let eth = Ethernet { dst: outer.dst_mac, src: outer.src_mac, eth_type: eth_type.into() };
        let mut udp = Udp::new_zeroed();
        udp.dst.set(outer.dst_port);

        let mut out = Writer { bytes: [0; ENCAP_MAX_BYTES], len: 0 };
        out.put(eth.as_bytes())?;
        if let Some(tci) = outer.vlan {
            out.put(VlanTag { tci: tci.into(), eth_type: ip_type.into() }.as_bytes())?;
        }
        let l3 = out.len;
        let (ip_sum, pseudo) = outer.put_ip(&mut out)?;
        let udp_at = out.len;
        out.put(udp.as_bytes())?;
        let mut sum = pseudo.plus(Sum::of(udp.as_bytes()));
        for part in tunnel_header {
            out.put(part)?;
            sum = sum.plus(Sum::of(part));
        }
        Ok(Self {
            bytes: out.bytes,
            len: out.len as u8,
            l3: l3 as u8,
            udp: udp_at as u8,
            kind,
            is_v6,
            // RFC 8200 section 8.1 wants one; RFC 6935 lets tunnels do without, but not all
            // receivers do.
            has_csum: outer.csum || is_v6,
            tos: outer.tos,
            ttl: outer.ttl,
            ip_sum,
            udp_sum: sum,
        })
    }

    /// Bytes that go in front of a frame.
    #[inline]
    pub fn len(&self) -> usize {
        usize::from(self.len)
    }

    #[inline]
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    #[inline]
    pub fn kind(&self) -> Kind {
        self.kind
    }

    /// Bytes of the outer IP packet around an inner frame: what the underlay's MTU bounds.
    #[inline]
    pub fn packet_len(&self, inner_len: usize) -> usize {
        inner_len + usize::from(self.len) - usize::from(self.l3)
    }

    /// Writes the outer headers of `inner` into `room`, the [`Self::len`] bytes in front of it.
    /// `false`, with `room` in any state, if `room` has another length or the packet would be
    /// longer than IP can say.
    #[inline]
    pub fn push(&self, room: &mut [u8], inner: &[u8], entropy: u16) -> bool {
        let room_len = room.len();
        let Some(template) = self.bytes.get(..usize::from(self.len)) else { return false };
        if room_len != template.len() {
            return false;
        }
        room.copy_from_slice(template);
        self.patch(room, inner, entropy).is_some()
    }

    #[inline]
    fn patch(&self, room: &mut [u8], inner: &[u8], entropy: u16) -> Option<()> {
        let (l3, udp_at) = (usize::from(self.l3), usize::from(self.udp));
        let udp_len = u16::try_from(usize::from(self.len) - udp_at + inner.len()).ok()?;
        let (tos, ttl) = self.tos_ttl(inner);
        let (_, l3_bytes) = room.split_at_mut_checked(l3)?;
        if self.is_v6 {
            let (ip, _) = Ipv6::mut_from_prefix(l3_bytes).ok()?;
            ip.set_traffic_class(tos);
            ip.hop_limit = ttl;
            ip.payload_len.set(udp_len);
        } else {
            let total = udp_len.checked_add(ipv4::HEADER_MIN_BYTES as u16)?;
            let (ip, _) = Ipv4::mut_from_prefix(l3_bytes).ok()?;
            ip.tos = tos;
            ip.ttl = ttl;
            ip.total_len.set(total);
            let patched = self.ip_sum.plus_u16(total).plus_u16(u16::from(tos));
            ip.checksum = patched.plus_u16(u16::from(ttl) << 8).checksum();
        }
        let (udp, _) = Udp::mut_from_prefix(l3_bytes.get_mut(udp_at - l3..)?).ok()?;
        let src = source_port(entropy);
        udp.src.set(src);
        udp.len.set(udp_len);
        if self.has_csum {
            // The length counts twice: in the header and in the pseudo-header.
            let headers = self.udp_sum.plus_u16(src).plus_u16(udp_len).plus_u16(udp_len);
            udp.checksum = headers.plus(Sum::of(inner)).udp_checksum();
        }
        Some(())
    }

    /// Outer TOS and TTL over an inner frame.
    #[inline]
    fn tos_ttl(&self, inner: &[u8]) -> (u8, u8) {
        let (tos, ttl) = (self.tos.default_value(), self.ttl.default_value());
        let Some((inner_tos, inner_ttl)) = inner_tos_ttl(inner) else { return (tos, ttl) };
        let dscp = if self.tos.is_inherited() { inner_tos } else { tos } & !ecn::MASK;
        let ttl = if self.ttl.is_inherited() { inner_ttl } else { ttl };
        // Fixed ECN bits stay in, as in Open vSwitch.
        (dscp | tos & ecn::MASK | ecn_encap(inner_tos), ttl)
    }
}

/// Appends headers to a fixed array.
struct Writer {
    bytes: [u8; ENCAP_MAX_BYTES],
    len: usize,
}

impl Writer {
    fn put(&mut self, header: &[u8]) -> Result<(), EncapError> {
        let len = self.len + header.len();
        let room = self.bytes.get_mut(self.len..len).ok_or(EncapError::TooLong { len })?;
        room.copy_from_slice(header);
        self.len = len;
        Ok(())
    }
}

impl Outer {
    /// Writes the IP header with zero for what depends on the packet; returns its sum (IPv4) and
    /// the pseudo-header's.
    fn put_ip(&self, out: &mut Writer) -> Result<(Sum, Sum), EncapError> {
        match (self.src_ip, self.dst_ip) {
            (IpAddr::V4(src), IpAddr::V4(dst)) => {
                let mut ip = Ipv4::new_zeroed();
                ip.version_ihl = ipv4::VERSION_IHL;
                ip.flags_fragment.set(if self.df { ipv4::DONT_FRAGMENT } else { 0 });
                ip.proto = proto::UDP;
                (ip.src, ip.dst) = (src.octets(), dst.octets());
                out.put(ip.as_bytes())?;
                Ok((Sum::of(ip.as_bytes()), pseudo_v4(&ip.src, &ip.dst, proto::UDP, 0)))
            }
            (IpAddr::V6(src), IpAddr::V6(dst)) => {
                let mut ip = Ipv6::new_zeroed();
                ip.version_class_label.set(6 << 28);
                ip.next_header = proto::UDP;
                (ip.src, ip.dst) = (src.octets(), dst.octets());
                out.put(ip.as_bytes())?;
                Ok((Sum::ZERO, pseudo_v6(&ip.src, &ip.dst, proto::UDP, 0)))
            }
            (src, dst) => Err(EncapError::MixedFamilies { src, dst }),
        }
    }
}

/// TOS and TTL of an inner IP packet behind at most one tag, from its bytes: the packet may have
/// been edited since it was parsed.
#[inline]
fn inner_tos_ttl(inner: &[u8]) -> Option<(u8, u8)> {
    let (eth, mut l3) = Ethernet::ref_from_prefix(inner).ok()?;
    let mut eth_type = eth.eth_type.get();
    if is_tpid(eth_type) {
        let (tag, behind) = l3.split_first_chunk::<TAG_BYTES>()?;
        (eth_type, l3) = (u16::from_be_bytes([tag[2], tag[3]]), behind);
    }
    match eth_type {
        ether::TYPE_IPV4 => {
            let (ip, _) = Ipv4::ref_from_prefix(l3).ok()?;
            Some((ip.tos, ip.ttl))
        }
        ether::TYPE_IPV6 => {
            let (ip, _) = Ipv6::ref_from_prefix(l3).ok()?;
            Some((ip.traffic_class(), ip.hop_limit))
        }
        _ => None,
    }
}

const _: () = assert!(
    size_of::<Ethernet>()
        + TAG_BYTES
        + size_of::<Ipv6>()
        + udp::HEADER_BYTES
        + geneve::HEADER_BYTES
        + OPTIONS_BYTES_MAX
        <= ENCAP_MAX_BYTES,
    "the longest header fits"
);
