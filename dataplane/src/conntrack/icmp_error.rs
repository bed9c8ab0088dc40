//! ICMP and ICMPv6 errors: the packet that they quote.
//!
//! An error belongs to the connection of the packet in its payload (RFC 792; RFC 4443, section
//! 2.4). Eight bytes of that packet's transport header are all that IPv4 promises (RFC 1122,
//! section 3.2.2), and all that is asked for here: ports, or an ICMP identifier. The quoted
//! packet may be cut anywhere after that, so its length fields are not judged.
//!
//! Through NAT the quoted packet must look to the receiver as the one it sent (RFC 5508, section
//! 4.2): addresses, ports or identifier, and the checksums of the quoted headers. All are changed
//! by differences (RFC 1624), so a quote that was damaged or cut stays what it was.

use super::key::{ICMP, ICMPV6, IpKey, SCTP, TCP, Tuple, UDP};
use super::nat::NatRewrite;
use crate::wire::checksum::Delta;

/// Whether the ICMP type is an error that quotes a packet.
pub fn is_error(v6: bool, kind: u8) -> bool {
    if v6 { matches!(kind, 1..=4) } else { matches!(kind, 3 | 4 | 5 | 11 | 12) }
}

/// Where things are in a quoted packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Quoted {
    pub proto: u8,
    /// Offset of the transport header.
    pub l4: usize,
}

/// Finds the transport header of a quoted packet. `None` if it is not reached, or if the packet
/// is a fragment without one.
pub(super) fn parse(ip: &[u8], v6: bool) -> Option<Quoted> {
    let quoted = if v6 { parse_v6(ip)? } else { parse_v4(ip)? };
    (ip.len() >= quoted.l4 + 8).then_some(quoted)
}

fn parse_v4(ip: &[u8]) -> Option<Quoted> {
    let h = ip.first_chunk::<20>()?;
    let l4 = usize::from(h[0] & 0x0f) * 4;
    let offset = u16::from_be_bytes([h[6], h[7]]) & 0x1fff;
    (h[0] >> 4 == 4 && l4 >= 20 && offset == 0).then_some(Quoted { proto: h[9], l4 })
}

/// Extension headers that a quoted packet may have before its transport header.
const EXTENSIONS_MAX: usize = 8;

fn parse_v6(ip: &[u8]) -> Option<Quoted> {
    let h = ip.first_chunk::<40>()?;
    if h[0] >> 4 != 6 {
        return None;
    }
    let (mut proto, mut l4) = (h[6], 40);
    for _ in 0..EXTENSIONS_MAX {
        let &[next, len, a, b] = ip.get(l4..)?.first_chunk::<4>()?;
        match proto {
            // Hop-by-hop, routing, destination options: length in units of 8 after the first 8.
            0 | 43 | 60 => l4 += 8 + usize::from(len) * 8,
            // Fragment: only the first one has a transport header.
            44 if u16::from_be_bytes([a, b]) & 0xfff8 == 0 => l4 += 8,
            44 => return None,
            _ => return Some(Quoted { proto, l4 }),
        }
        proto = next;
    }
    None
}

/// The tuple of the quoted packet, as it travelled.
pub(super) fn quoted_tuple(ip: &[u8], v6: bool) -> Option<Tuple> {
    let Quoted { proto, l4 } = parse(ip, v6)?;
    let (src, dst) = if v6 {
        let address = |at| ip.get(at..)?.first_chunk::<16>().map(|b| u128::from_be_bytes(*b));
        (address(8)?, address(24)?)
    } else {
        let address = |at| ip.get(at..)?.first_chunk::<4>().map(|b| u32::from_be_bytes(*b));
        (u128::from(address(12)?), u128::from(address(16)?))
    };
    let &[a, b, c, d, e, f, _, _] = ip.get(l4..)?.first_chunk::<8>()?;
    let (sport, dport) = match proto {
        TCP | UDP | SCTP => (u16::from_be_bytes([a, b]), u16::from_be_bytes([c, d])),
        // An error about an error has no connection (RFC 1122, section 3.2.2 forbids it).
        ICMP | ICMPV6 if is_error(v6, a) => return None,
        ICMP if !v6 => (u16::from_be_bytes([e, f]), u16::from(a) << 8 | u16::from(b)),
        ICMPV6 if v6 => (u16::from_be_bytes([e, f]), u16::from(a) << 8 | u16::from(b)),
        ICMP | ICMPV6 => return None,
        _ => (0, 0),
    };
    Some(Tuple { src, dst, sport, dport, proto, v6 })
}

/// The packet is too short or inconsistent for what is to be written.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the packet is too short or inconsistent to be translated: it is to be dropped")]
pub struct Malformed;

fn bytes_at<const N: usize>(bytes: &mut [u8], at: usize) -> Result<&mut [u8; N], Malformed> {
    bytes.get_mut(at..).and_then(|b| b.first_chunk_mut()).ok_or(Malformed)
}

/// Writes an address and says how checksums over it change.
fn put_address(
    ip: &mut [u8],
    source: bool,
    v6: bool,
    new: Option<IpKey>,
) -> Result<Delta, Malformed> {
    let Some(new) = new else { return Ok(Delta::NONE) };
    if v6 {
        let field = bytes_at::<16>(ip, if source { 8 } else { 24 })?;
        let old = std::mem::replace(field, new.to_be_bytes());
        Ok(Delta::NONE.change_16(&old, field))
    } else {
        let field = bytes_at::<4>(ip, if source { 12 } else { 16 })?;
        let old = std::mem::replace(field, (new as u32).to_be_bytes());
        Ok(Delta::NONE.change_4(old, *field))
    }
}

fn put_u16(bytes: &mut [u8], at: usize, new: Option<u16>) -> Result<Delta, Malformed> {
    let Some(new) = new else { return Ok(Delta::NONE) };
    let field = bytes_at::<2>(bytes, at)?;
    let old = std::mem::replace(field, new.to_be_bytes());
    Ok(Delta::NONE.change_2(old, *field))
}

/// Applies a change to a checksum field, and says how checksums over that field change.
fn put_checksum(field: &mut [u8; 2], change: Delta, udp: bool) -> Delta {
    let old = *field;
    if udp {
        change.apply_udp(field);
    } else {
        change.apply(field);
    }
    Delta::NONE.change_2(old, *field)
}

/// Offset of a protocol's checksum in its header, and whether it covers the addresses.
fn checksum_of(proto: u8) -> Option<(usize, bool)> {
    match proto {
        TCP => Some((16, true)),
        UDP => Some((6, true)),
        ICMP => Some((2, false)),
        ICMPV6 => Some((2, true)),
        _ => None,
    }
}

/// Translates the quoted packet, which travelled against `rw`. Says how checksums over it
/// change.
fn rewrite_quoted(ip: &mut [u8], rw: &NatRewrite) -> Result<Delta, Malformed> {
    let Quoted { proto, l4 } = parse(ip, rw.v6).ok_or(Malformed)?;
    let addresses =
        put_address(ip, false, rw.v6, rw.new_src)?.and(put_address(ip, true, rw.v6, rw.new_dst)?);
    let mut changes = addresses;
    if !rw.v6 {
        changes = changes.and(put_checksum(bytes_at::<2>(ip, 10)?, addresses, false));
    }
    let transport = ip.get_mut(l4..).ok_or(Malformed)?;
    let ports = match proto {
        TCP | UDP | SCTP => {
            put_u16(transport, 2, rw.new_sport)?.and(put_u16(transport, 0, rw.new_dport)?)
        }
        ICMP | ICMPV6 => put_u16(transport, 4, rw.new_icmp_id)?,
        _ => Delta::NONE,
    };
    changes = changes.and(ports);
    if let Some((at, covers_addresses)) = checksum_of(proto) {
        let covered = if covers_addresses { addresses.and(ports) } else { ports };
        // The quote may end before the checksum; then there is none to keep.
        if let Ok(field) = bytes_at::<2>(transport, at) {
            changes = changes.and(put_checksum(field, covered, proto == UDP));
        }
    }
    Ok(changes)
}

/// Translates an ICMP or ICMPv6 error: the outer addresses, the quoted packet, and every
/// checksum that covers what changed. `ip` begins at the outer IP header, `l4` is the offset of
/// the ICMP header in it. On error the packet may be half written and is to be dropped.
pub fn rewrite_icmp_error(ip: &mut [u8], l4: usize, rw: &NatRewrite) -> Result<(), Malformed> {
    let outer =
        put_address(ip, true, rw.v6, rw.new_src)?.and(put_address(ip, false, rw.v6, rw.new_dst)?);
    if !rw.v6 {
        put_checksum(bytes_at::<2>(ip, 10)?, outer, false);
    }
    let icmp = ip.get_mut(l4..).ok_or(Malformed)?;
    let quoted = rewrite_quoted(icmp.get_mut(8..).ok_or(Malformed)?, rw)?;
    let covered = if rw.v6 { quoted.and(outer) } else { quoted };
    put_checksum(bytes_at::<2>(icmp, 2)?, covered, false);
    Ok(())
}

/// Writes the identifier of an ICMP or ICMPv6 query and keeps its checksum right. `icmp` begins
/// at the ICMP header. Addresses are the caller's, also in ICMPv6's checksum.
pub fn rewrite_echo_id(icmp: &mut [u8], id: u16) -> Result<(), Malformed> {
    let change = put_u16(icmp, 4, Some(id))?;
    put_checksum(bytes_at::<2>(icmp, 2)?, change, false);
    Ok(())
}
