//! Checksums of whole packets: checking them, and completing partial ones.
//!
//! # Partial checksums
//! A sender whose device computes checksums (a veth does: nothing is computed, the receiver is
//! told "fine") leaves in TCP's and UDP's field the folded sum of the pseudo-header, not
//! complemented, and says so beside the packet. AF_XDP does not hand that on, so a packet from a
//! container arrives with a field that is right only in the kernel's eyes.
//!
//! The test for it reads no payload: compute the pseudo-header's sum P and compare it with the
//! field. If they are equal, the checksum is the complement of the sum from the transport header
//! to the datagram's end with the field as it is, because the field holds exactly the P that the
//! sum lacks.
//!
//! *A complete checksum that happens to equal P* (1 packet in 65536) is completed again. That does
//! no harm: the result depends only on the bytes covered, and for an undamaged packet it is the
//! value that is there. A damaged packet is thereby repaired on paper with probability 1/65536,
//! the share of damage that the checksum misses anyway; and the road from a veth has no wire that
//! could damage it. Ports that are real NICs need not ask.
//!
//! P is never zero (RFC 1071 sums of bytes that are not all zero fold to 1..=ffff), so UDP's "no
//! checksum" is never taken for partial.
//!
//! SCTP's field of a partial packet is zero; a right checksum is zero once in 2^32 packets, and is
//! then computed to zero again.
//!
//! Not completed: fragments (a sender computes before it fragments), and the inner packet of a
//! tunnel that a container itself built.

use super::key::{FRAG_ANY, KeyBase, PacketKey, shape};
use super::parse::Layers;
use crate::wire::checksum::{Sum, pseudo_v4, pseudo_v6};
use crate::wire::{ether, icmp, ipv4, ipv6, proto, sctp, tcp, udp};
use zerocopy::FromBytes;

/// The pseudo-header's sum, from the packet's own addresses: the key may be an edited packet's.
#[inline]
fn pseudo(bytes: &[u8], layers: &Layers, base: &KeyBase, len: u16) -> Option<Sum> {
    let l3 = bytes.get(usize::from(layers.l3)..)?;
    match u16::from_be_bytes(base.eth_type) {
        ether::TYPE_IPV4 => {
            let (ip, _) = ipv4::Ipv4::ref_from_prefix(l3).ok()?;
            Some(pseudo_v4(&ip.src, &ip.dst, base.ip_proto, len))
        }
        ether::TYPE_IPV6 => {
            let (ip, _) = ipv6::Ipv6::ref_from_prefix(l3).ok()?;
            Some(pseudo_v6(&ip.src, &ip.dst, base.ip_proto, len))
        }
        _ => None,
    }
}

/// The bytes that the transport checksum covers. `None`: no transport header, or a fragment, or a
/// UDP length that does not fit.
#[inline]
fn covered(bytes: &[u8], layers: &Layers, base: &KeyBase) -> Option<(usize, usize)> {
    if base.shape & shape::L4_VALID == 0 || base.ip_frag & FRAG_ANY != 0 {
        return None;
    }
    let (from, mut to) = (usize::from(layers.l4), usize::from(layers.end));
    let l4 = bytes.get(from..to)?;
    if base.ip_proto == proto::UDP {
        let (header, _) = udp::Udp::ref_from_prefix(l4).ok()?;
        let len = usize::from(header.len.get());
        if len < udp::HEADER_BYTES || len > l4.len() {
            return None;
        }
        to = from + len;
    }
    Some((from, to))
}

/// Computes the transport checksum of a packet whose sender left it partial, and says whether it
/// did. `key` and `layers` are those that parsing these bytes gave.
#[inline]
pub fn complete_partial_checksum(bytes: &mut [u8], layers: &Layers, key: &PacketKey) -> bool {
    let base = &key.base;
    let field_at = match base.ip_proto {
        proto::TCP => tcp::CHECKSUM_AT,
        proto::UDP => udp::CHECKSUM_AT,
        proto::SCTP => return complete_sctp(bytes, layers, base),
        _ => return false,
    };
    let Some((from, to)) = covered(bytes, layers, base) else { return false };
    let Some(partial) = pseudo(bytes, layers, base, (to - from) as u16) else { return false };
    let Some(l4) = bytes.get_mut(from..to) else { return false };
    let Some(&field) = l4.get(field_at..).and_then(|f| f.first_chunk::<2>()) else { return false };
    if field != partial.folded_bytes() {
        return false;
    }
    let sum = Sum::of(l4);
    if let Some(field) = l4.get_mut(field_at..).and_then(|f| f.first_chunk_mut::<2>()) {
        *field = if base.ip_proto == proto::UDP { sum.udp_checksum() } else { sum.checksum() };
    }
    true
}

#[cold]
fn complete_sctp(bytes: &mut [u8], layers: &Layers, base: &KeyBase) -> bool {
    let Some((from, to)) = covered(bytes, layers, base) else { return false };
    let Some(l4) = bytes.get_mut(from..to) else { return false };
    let crc = sctp::crc32c(l4);
    match sctp::Sctp::mut_from_prefix(l4) {
        Ok((header, _)) if header.checksum == [0; 4] => header.checksum = crc,
        _ => return false,
    }
    true
}

/// `false` if the packet has a wrong transport checksum, a UDP length that does not fit, or a TCP
/// header length that makes no sense (conntrack's `+inv`). Nothing to check (another protocol, a
/// fragment, UDP over IPv4 without a checksum) is `true`.
#[inline]
pub fn verify_l4(bytes: &[u8], layers: &Layers, key: &PacketKey) -> bool {
    let base = &key.base;
    if base.ip_frag & FRAG_ANY != 0 {
        return true;
    }
    if base.shape & shape::L4_VALID == 0 {
        return layers.l4 == 0;
    }
    let Some((from, to)) = covered(bytes, layers, base) else { return false };
    let Some(l4) = bytes.get(from..to) else { return false };
    let start = match base.ip_proto {
        proto::ICMP => Some(Sum::ZERO),
        proto::SCTP => return sctp_is_valid(l4),
        proto::UDP if no_udp_checksum(l4, base) => return true,
        _ => pseudo(bytes, layers, base, l4.len() as u16),
    };
    start.is_some_and(|pseudo| pseudo.plus(Sum::of(l4)).is_valid())
}

fn no_udp_checksum(l4: &[u8], base: &KeyBase) -> bool {
    let is_v4 = u16::from_be_bytes(base.eth_type) == ether::TYPE_IPV4;
    is_v4 && udp::Udp::ref_from_prefix(l4).is_ok_and(|(header, _)| header.checksum == [0; 2])
}

#[cold]
fn sctp_is_valid(l4: &[u8]) -> bool {
    let crc = sctp::crc32c(l4);
    sctp::Sctp::ref_from_prefix(l4).is_ok_and(|(header, _)| header.checksum == crc)
}

/// Whether the IPv4 header's checksum is right; `true` for packets that are not IPv4.
#[inline]
pub fn verify_ipv4_header(bytes: &[u8], layers: &Layers, key: &PacketKey) -> bool {
    if u16::from_be_bytes(key.base.eth_type) != ether::TYPE_IPV4 {
        return true;
    }
    let Some(l3) = bytes.get(usize::from(layers.l3)..) else { return false };
    let Ok((ip, _)) = ipv4::Ipv4::ref_from_prefix(l3) else { return false };
    match (ip.header_len(), l3.first_chunk::<20>()) {
        (20, Some(header)) => Sum::of_20(header).is_valid(),
        (len, _) => l3.get(..len).is_some_and(|header| Sum::of(header).is_valid()),
    }
}

/// Writes the checksum of a message that has just been built or edited at `l4`, whatever the field
/// holds. For tools and slow roads; edits on the road use [`crate::wire::checksum::Delta`].
pub fn write_l4(bytes: &mut [u8], layers: &Layers, key: &PacketKey) -> bool {
    let base = &key.base;
    let field_at = match base.ip_proto {
        proto::TCP => tcp::CHECKSUM_AT,
        proto::UDP => udp::CHECKSUM_AT,
        proto::ICMP | proto::ICMPV6 => icmp::CHECKSUM_AT,
        _ => return false,
    };
    let Some((from, to)) = covered(bytes, layers, base) else { return false };
    let start = match base.ip_proto {
        proto::ICMP => Some(Sum::ZERO),
        _ => pseudo(bytes, layers, base, (to - from) as u16),
    };
    let (Some(start), Some(l4)) = (start, bytes.get_mut(from..to)) else { return false };
    let Some(field) = l4.get_mut(field_at..field_at + 2) else { return false };
    field.fill(0);
    let sum = start.plus(Sum::of(l4));
    let checksum = if base.ip_proto == proto::UDP { sum.udp_checksum() } else { sum.checksum() };
    if let Some(field) = l4.get_mut(field_at..field_at + 2) {
        field.copy_from_slice(&checksum);
    }
    true
}

/// The same of a packet of IPv4 without options, with TCP or UDP and no fragment: `ip` is its
/// header, `l4` the rest up to the datagram's end. UDP's length field has been looked at.
#[inline(always)]
pub fn narrow_ok(ip: &[u8; 20], l4: &[u8], is_udp: bool) -> bool {
    if !is_udp {
        return both_ok(ip, l4);
    }
    match udp_covered(l4) {
        Some((_, [0, 0])) => Sum::of_20(ip).is_valid(),
        Some((covered, _)) => both_ok(ip, covered),
        None => both_ok(ip, l4),
    }
}

/// What UDP's checksum covers, and the checksum; `None` if the length field is wrong.
#[inline(always)]
pub fn udp_covered(l4: &[u8]) -> Option<(&[u8], [u8; 2])> {
    let &[_, _, _, _, a, b, sum @ ..] = l4.first_chunk::<8>()?;
    let len = usize::from(u16::from_be_bytes([a, b]));
    if len < udp::HEADER_BYTES {
        return None;
    }
    Some((l4.get(..len)?, sum))
}

/// Whether the checksums of an IPv4 header without options and of its payload are right.
#[inline(always)]
pub fn both_ok(ip: &[u8; 20], covered: &[u8]) -> bool {
    let [.., p, _, _, a, b, c, d, e, f, g, h] = *ip;
    let pseudo = pseudo_v4(&[a, b, c, d], &[e, f, g, h], p, covered.len() as u16);
    // Both at once: no branch between them.
    Sum::of_20(ip).is_valid() & pseudo.plus(Sum::of_short(covered)).is_valid()
}

/// Everything that connection tracking wants right: the IPv4 header's checksum and the transport's.
#[inline]
pub fn checksums_ok(bytes: &[u8], layers: &Layers, key: &PacketKey) -> bool {
    verify_ipv4_header(bytes, layers, key) && verify_l4(bytes, layers, key)
}

#[cfg(test)]
mod tests;
