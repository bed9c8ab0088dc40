//! ICMP and ICMPv6 errors: the packet that they quote.
//!
//! An error belongs to the connection of the packet in its payload (RFC 792; RFC 4443, section
//! 2.4). Eight bytes of that packet's transport header are all that IPv4 promises (RFC 1122,
//! section 3.2.2), and all that is asked for here: ports, or an ICMP identifier. The quoted
//! packet may be cut anywhere after that, so its length fields are not judged.

use super::key::{ICMP, ICMPV6, SCTP, TCP, Tuple, UDP};

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
