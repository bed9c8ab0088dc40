//! Transport checksums: a wrong one makes a packet invalid.
//!
//! Conntrack must not let a damaged segment move a window, so it looks at the whole datagram
//! unless somebody vouches for the checksum (the device, or the sender's own kernel on a veth).

use super::key::{ICMP, ICMPV6, TCP, UDP};
use crate::wire::checksum::{Sum, pseudo_v4, pseudo_v6};

/// Whether the checksum of a datagram's transport header is right. `ip` begins at the IP header
/// as it was received, before any edit, and ends with the datagram; `l4` is the offset of the
/// transport header. UDP over IPv4 may go without (RFC 768). Protocols whose checksum is none of
/// the internet's (SCTP) or unknown are taken for good.
pub fn l4_checksum_ok(ip: &[u8], l4: usize, proto: u8) -> bool {
    let v6 = ip.first().is_some_and(|b| b >> 4 == 6);
    let Some(transport) = ip.get(l4..) else { return false };
    let len = transport.len() as u16;
    let pseudo = if v6 {
        let addresses = ip.get(8..24).and_then(|s| s.first_chunk::<16>());
        let Some((src, dst)) = addresses.zip(ip.get(24..40).and_then(|d| d.first_chunk::<16>()))
        else {
            return false;
        };
        pseudo_v6(src, dst, proto, len)
    } else {
        let addresses = ip.get(12..16).and_then(|s| s.first_chunk::<4>());
        let Some((src, dst)) = addresses.zip(ip.get(16..20).and_then(|d| d.first_chunk::<4>()))
        else {
            return false;
        };
        pseudo_v4(src, dst, proto, len)
    };
    match proto {
        UDP if !v6 && matches!(transport, [_, _, _, _, _, _, 0, 0, ..]) => true,
        TCP | UDP => pseudo.plus(Sum::of(transport)).is_valid(),
        ICMP if !v6 => Sum::of(transport).is_valid(),
        ICMPV6 if v6 => pseudo.plus(Sum::of(transport)).is_valid(),
        ICMP | ICMPV6 => false,
        _ => true,
    }
}
