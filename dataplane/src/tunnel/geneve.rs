//! Geneve (RFC 8926): building its template, and taking it off.
//!
//! Received: version 0 only; the payload must be Ethernet. Options are read when it is known whose
//! packet it is (`options.rs`). The critical bit of the header is not believed, the options are
//! looked at. A control packet (OAM) goes the same way with its flag in the key, for flows to
//! decide.
//!
//! The outer UDP checksum is checked when there is one. Zero is taken as none over IPv4 (RFC 768)
//! and over IPv6 as well (RFC 6935 for tunnels; so does Open vSwitch, in both its datapaths).
//!
//! Not an endpoint's business: fragments of the outer packet. They have no reliable UDP header, and
//! a tunnel that needs them has a wrong MTU; they are malformed here.

use super::options::{GeneveOptions, Metadata, TlvMap};
use super::template::Outer;
use super::{EncapError, EncapTemplate, Inherit, Kind, flag};
use crate::counters::Drop;
use crate::packet::key::{FRAG_ANY, KeyTunnel, PacketKey, shape};
use crate::packet::l4sum::verify_l4;
use crate::packet::parse::Layers;
use crate::wire::geneve::{CRITICAL, Geneve, OAM};
use crate::wire::udp::{self, Udp};
use crate::wire::{ether, proto};
use std::net::IpAddr;
use zerocopy::{FromBytes, FromZeros, IntoBytes};

/// All that the outer headers of a Geneve packet depend on, but the packet.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct GeneveParams {
    /// The underlay port's address, and the next hop's.
    pub src_mac: [u8; 6],
    pub dst_mac: [u8; 6],
    /// Tag of the underlay, if it has one.
    pub vlan: Option<u16>,
    pub src_ip: IpAddr,
    pub dst_ip: IpAddr,
    /// Network identifier; the low 24 bits are sent.
    pub vni: u32,
    pub tos: Inherit,
    pub ttl: Inherit,
    /// "Don't fragment" over IPv4.
    pub df: bool,
    /// Outer checksum over IPv4; over IPv6 there always is one.
    pub csum: bool,
    pub dst_port: u16,
    pub options: GeneveOptions,
}

impl EncapTemplate {
    /// The headers of Geneve.
    pub fn geneve(params: &GeneveParams) -> Result<Self, EncapError> {
        let [_, a, b, c] = params.vni.to_be_bytes();
        let mut header = Geneve::new_zeroed();
        header.proto.set(ether::TYPE_TEB);
        header.vni = [a, b, c];
        let options = params.options.bytes();
        header.version_opt_len = (options.len() / 4) as u8;
        header.flags = if params.options.is_critical() { CRITICAL } else { 0 };
        let outer = Outer {
            src_mac: params.src_mac,
            dst_mac: params.dst_mac,
            vlan: params.vlan,
            src_ip: params.src_ip,
            dst_ip: params.dst_ip,
            tos: params.tos,
            ttl: params.ttl,
            df: params.df,
            csum: params.csum,
            dst_port: params.dst_port,
        };
        Self::build(Kind::Geneve, &outer, &[header.as_bytes(), options])
    }
}

/// What came off.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Popped {
    /// The inner frame: offsets from the outer frame's first byte. What is behind the end (there
    /// may be padding) is not part of it.
    pub inner_offset: u16,
    pub inner_end: u16,
    /// Bytes of options, which end where the inner frame begins.
    pub options_len: u16,
    /// Bits to add to the inner key's shape.
    pub shape: u8,
}

impl Popped {
    /// Reads the options of the packet that this came off, as the bridge it is for maps them.
    /// `None`: there are none.
    #[inline]
    pub fn options(&self, bytes: &[u8], map: &TlvMap) -> Result<Option<Metadata>, Drop> {
        if self.options_len == 0 {
            return Ok(None);
        }
        let end = usize::from(self.inner_offset);
        let options = bytes.get(end - usize::from(self.options_len)..end);
        Metadata::read(options.ok_or(Drop::TunnelMalformed)?, map).map(Some)
    }

    /// Makes the tunnel part of the inner packet's key, after parsing.
    #[inline]
    pub fn mark(&self, key: &mut PacketKey) {
        key.base.shape |= self.shape;
    }
}

/// Checks the Geneve packet that `key` and `layers` (as parsed) describe and says where the inner
/// frame is. That it is for us is the caller's knowledge.
///
/// `key.tunnel` is written in place: parsing the inner frame into the same key leaves it alone, and
/// [`Popped::mark`] then says that it counts. (Returned by value it would be stored in halves and
/// copied in wholes, which stalls longer than all the checks take.)
#[inline]
pub fn geneve_pop(bytes: &[u8], layers: &Layers, key: &mut PacketKey) -> Result<Popped, Drop> {
    let base = &key.base;
    let is_udp = base.ip_proto == proto::UDP && base.shape & shape::L4_VALID != 0;
    if !is_udp || base.ip_frag & FRAG_ANY != 0 {
        return Err(Drop::TunnelMalformed);
    }
    let (l4, end) = (usize::from(layers.l4), usize::from(layers.end));
    let datagram = bytes.get(l4..end).ok_or(Drop::TunnelMalformed)?;
    let (outer, _) = Udp::ref_from_prefix(datagram).map_err(|_| Drop::TunnelMalformed)?;
    // A length below the header's leaves less than the header needs, so it fails here or next.
    let len = usize::from(outer.len.get());
    let body = datagram.get(udp::HEADER_BYTES..len).ok_or(Drop::TunnelMalformed)?;
    let (header, rest) = Geneve::ref_from_prefix(body).map_err(|_| Drop::TunnelMalformed)?;
    if header.version() != 0 || header.proto.get() != ether::TYPE_TEB {
        return Err(Drop::TunnelMalformed);
    }
    let options_len = header.options_len();
    if options_len > 0 {
        rest.get(..options_len).ok_or(Drop::TunnelMalformed)?;
    }
    let mut tun_flags = flag::KEY;
    if header.flags & OAM != 0 {
        tun_flags |= flag::OAM;
    }
    if outer.checksum != [0; 2] {
        if !verify_l4(bytes, layers, key) {
            return Err(Drop::TunnelChecksum);
        }
        tun_flags |= flag::CSUM;
    }
    let inner = l4 + udp::HEADER_BYTES + size_of::<Geneve>() + options_len;
    let is_v6 = key.has_l3();
    key.tunnel = KeyTunnel {
        tun_id: u64::from(header.vni()).to_be_bytes(),
        tun_src: if is_v6 { key.l3.ipv6_src } else { in_low_bytes(base.ip_src) },
        tun_dst: if is_v6 { key.l3.ipv6_dst } else { in_low_bytes(base.ip_dst) },
        tun_flags,
        tun_tos: base.ip_tos,
        tun_ttl: base.ip_ttl,
        ..KeyTunnel::default()
    };
    Ok(Popped {
        inner_offset: inner as u16,
        inner_end: (l4 + len) as u16,
        options_len: options_len as u16,
        shape: if is_v6 { shape::TUNNEL | shape::TUNNEL_V6 } else { shape::TUNNEL },
    })
}

#[inline]
fn in_low_bytes(v4: [u8; 4]) -> [u8; 16] {
    u128::from(u32::from_be_bytes(v4)).to_be_bytes()
}

#[cfg(test)]
mod tests;
