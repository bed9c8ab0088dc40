//! Tunnels: headers that go in front of a frame, and come off.
//!
//! # Encapsulation is a template
//! All outer headers of one (tunnel port, remote, network identifier, route, neighbour) are equal
//! but for lengths, the entropy source port, congestion bits and checksums. So they are built once
//! ([`EncapTemplate`]) and sending is one copy into the headroom and a short list of patches. The
//! checksums start from sums over the constant bytes, taken when the template was built; the IPv4
//! one never reads the header again, the UDP one reads the inner frame and nothing else.
//!
//! # Entropy
//! Routers and receivers spread tunnel packets over paths and queues by the outer UDP source port,
//! so it carries a hash of the inner flow ([`entropy`]): one value per flow keeps the flow in
//! order. It is the same in both directions, and in fragments it leaves the ports out, since later
//! ones have none. The range is 49152..=65535 (RFC 8926 section 3.3, RFC 6335 section 6).
//!
//! # Congestion marks (RFC 6040, and what Open vSwitch 3.1 makes of it)
//! Outward the inner ECN bits are always copied, but "congestion" becomes ECT(0), so that a mark
//! seen outside was made outside. The DSCP is copied only with `tos=inherit`. Inward a congestion
//! mark must reach the inner packet; an inner packet that does not know marks is dropped, because
//! dropping is the signal that its sender understands ([`ecn_decap`]).
//!
//! # More kinds
//! What differs between kinds is the header behind the outer IP; VXLAN and GRE are further
//! variants of [`Kind`] with a build function of their own and the same push.

mod config;
pub mod geneve;
pub mod options;
mod template;

pub use config::{TunnelConfig, TunnelKey, TunnelRemote};
pub use geneve::{GeneveParams, Popped, geneve_pop};
pub use options::{GeneveOptions, TlvError, TlvMap, TlvMapping};
pub use template::{EncapError, EncapTemplate, Inherit};

use crate::counters::Drop;
use crate::packet::key::{FlowKey, KeyBase, PacketKey};
use crate::packet::parse::Layers;
use crate::wire::checksum::Delta;
use crate::wire::{ecn, ether, ipv4, ipv6, proto};
use zerocopy::FromBytes;

/// What stands between the outer IP header and the inner frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Kind {
    /// UDP and Geneve (RFC 8926).
    Geneve,
}

/// Bits of `KeyTunnel::tun_flags`, numbered as Open vSwitch does.
pub mod flag {
    /// A control packet of the tunnel.
    pub const OAM: u16 = 1;
    /// The outer UDP checksum was there and right.
    pub const CSUM: u16 = 4;
    /// The header had a network identifier.
    pub const KEY: u16 = 8;
}

/// First of the source ports that carry entropy; the range ends at 65535.
pub const SOURCE_PORT_MIN: u16 = 0xc000;

/// The source port for an entropy value.
#[inline]
pub fn source_port(entropy: u16) -> u16 {
    SOURCE_PORT_MIN | entropy
}

#[inline]
fn mix(x: u64) -> u64 {
    let x = x.wrapping_mul(0x9e37_79b9_7f4a_7c15);
    (x ^ (x >> 32)).wrapping_mul(0xd6e8_feb8_6659_fd93)
}

/// Adding the two ends makes it symmetric; mixing them before keeps equal differences apart.
#[inline]
fn spread(src: (u64, u16), dst: (u64, u16), ip_proto: u8) -> u16 {
    let end = |(addr, port): (u64, u16)| mix(addr ^ (u64::from(port) << 40));
    let both = end(src).wrapping_add(end(dst)) ^ u64::from(ip_proto);
    (mix(both) >> 48) as u16
}

#[inline]
fn halves(addr: u128) -> u64 {
    (addr >> 64) as u64 ^ (addr as u64).rotate_left(17)
}

#[inline]
fn has_ports(ip_proto: u8, ip_frag: u8) -> bool {
    ip_frag == 0 && matches!(ip_proto, proto::TCP | proto::UDP | proto::SCTP)
}

/// A hash of the flow, equal for both directions.
#[inline]
pub fn entropy(key: &PacketKey) -> u16 {
    let b = &key.base;
    let has_ports = has_ports(b.ip_proto, b.ip_frag);
    let port = |p: [u8; 2]| if has_ports { u16::from_be_bytes(p) } else { 0 };
    let (sp, dp) = (port(b.tp_src), port(b.tp_dst));
    match u16::from_be_bytes(b.eth_type) {
        ether::TYPE_IPV4 => {
            let addr = |a: [u8; 4]| u64::from(u32::from_be_bytes(a));
            spread((addr(b.ip_src), sp), (addr(b.ip_dst), dp), b.ip_proto)
        }
        ether::TYPE_IPV6 if key.has_l3() => {
            let addr = |a: [u8; 16]| halves(u128::from_be_bytes(a));
            spread((addr(key.l3.ipv6_src), sp), (addr(key.l3.ipv6_dst), dp), b.ip_proto)
        }
        _ => spread((mac(b.eth_src), 0), (mac(b.eth_dst), 0), 0),
    }
}

#[inline]
fn mac(m: [u8; 6]) -> u64 {
    crate::packet::key::mac_number(m)
}

/// The same hash from a walk's key, with whatever edits it has seen.
#[inline]
pub fn flow_entropy(key: &FlowKey) -> u16 {
    let has_ports = has_ports(key.ip_proto, key.ip_frag);
    let (sp, dp) = if has_ports { (key.tp_src, key.tp_dst) } else { (0, 0) };
    match key.eth_type {
        ether::TYPE_IPV4 => spread((key.ip_src.into(), sp), (key.ip_dst.into(), dp), key.ip_proto),
        ether::TYPE_IPV6 if key.ipv6_src | key.ipv6_dst != 0 => {
            spread((halves(key.ipv6_src), sp), (halves(key.ipv6_dst), dp), key.ip_proto)
        }
        _ => spread((key.eth_src, 0), (key.eth_dst, 0), 0),
    }
}

/// The outer ECN bits for an inner TOS byte.
#[inline]
pub fn ecn_encap(inner_tos: u8) -> u8 {
    match inner_tos & ecn::MASK {
        ecn::CE => ecn::ECT_0,
        bits => bits,
    }
}

/// What the outer congestion mark does to an inner IP packet: `None` nothing, `Some` its new TOS
/// byte. Only the mark itself is carried inward, as in Open vSwitch: ECT(1) outside over ECT(0)
/// inside, which RFC 6040 would copy, is left.
#[inline]
pub fn ecn_decap(outer_tos: u8, inner_tos: u8) -> Result<Option<u8>, Drop> {
    if outer_tos & ecn::MASK != ecn::CE {
        return Ok(None);
    }
    match inner_tos & ecn::MASK {
        ecn::NOT_ECT => Err(Drop::TunnelEcn),
        ecn::CE => Ok(None),
        _ => Ok(Some(inner_tos | ecn::CE)),
    }
}

/// Applies [`ecn_decap`] to a packet that just came out of a tunnel: bytes, checksum and key.
/// `bytes`, `layers` and `key` are the inner packet's; the key's tunnel part is set.
#[inline]
pub fn ecn_inward(bytes: &mut [u8], layers: &Layers, key: &mut PacketKey) -> Result<(), Drop> {
    if key.tunnel.tun_tos & ecn::MASK != ecn::CE || !is_ip(&key.base) {
        return Ok(());
    }
    let Some(tos) = ecn_decap(key.tunnel.tun_tos, key.base.ip_tos)? else { return Ok(()) };
    let l3 = bytes.get_mut(usize::from(layers.l3)..).ok_or(Drop::EditFailed)?;
    if key.base.eth_type == ether::TYPE_IPV4.to_be_bytes() {
        let (ip, _) = ipv4::Ipv4::mut_from_prefix(l3).map_err(|_| Drop::EditFailed)?;
        let old = [ip.version_ihl, ip.tos];
        ip.tos = tos;
        Delta::NONE.change_2(old, [ip.version_ihl, tos]).apply(&mut ip.checksum);
    } else {
        let (ip, _) = ipv6::Ipv6::mut_from_prefix(l3).map_err(|_| Drop::EditFailed)?;
        ip.set_traffic_class(tos);
    }
    key.base.ip_tos = tos;
    Ok(())
}

#[inline]
fn is_ip(base: &KeyBase) -> bool {
    let eth_type = u16::from_be_bytes(base.eth_type);
    base.shape & crate::packet::key::shape::L3_VALID != 0
        && (eth_type == ether::TYPE_IPV4 || eth_type == ether::TYPE_IPV6)
}

#[cfg(test)]
mod tests;
