//! Transport checksums: a wrong one makes a packet invalid.
//!
//! Conntrack must not let a damaged segment move a window, so it looks at the whole datagram
//! unless somebody vouches for the checksum (the device, or the sender's own kernel on a veth).
//! Packets in one piece are checked where they lie (`packet::l4sum`), datagrams of many fragments
//! here.

use super::key::{ICMP, ICMPV6, IpKey, SCTP, TCP, UDP};
use crate::wire::checksum::{Sum, pseudo_v4, pseudo_v6};
use crate::wire::sctp;

/// Whether the checksum of a datagram's transport header is right. `ip` begins at the IP header
/// as it was received, before any edit, and ends with the datagram; `l4` is the offset of the
/// transport header.
pub fn l4_checksum_ok(ip: &[u8], l4: usize, proto: u8) -> bool {
    let v6 = ip.first().is_some_and(|b| b >> 4 == 6);
    let Some(transport) = ip.get(l4..) else { return false };
    let address = |at: usize| {
        let bytes = ip.get(at..)?;
        Some(match v6 {
            true => IpKey::from_be_bytes(*bytes.first_chunk()?),
            false => u32::from_be_bytes(*bytes.first_chunk()?).into(),
        })
    };
    let (src, dst) = if v6 { (8, 24) } else { (12, 16) };
    let Some((src, dst)) = address(src).zip(address(dst)) else { return false };
    checksum_ok((v6, src, dst), proto, transport)
}

/// The same for a transport header and all that its checksum covers, sent between these addresses.
/// UDP over IPv4 may go without (RFC 768); protocols that are not known are taken for good.
pub(super) fn checksum_ok(
    (v6, src, dst): (bool, IpKey, IpKey),
    proto: u8,
    transport: &[u8],
) -> bool {
    let len = transport.len() as u16;
    let pseudo = || match v6 {
        true => pseudo_v6(&src.to_be_bytes(), &dst.to_be_bytes(), proto, len),
        false => pseudo_v4(&(src as u32).to_be_bytes(), &(dst as u32).to_be_bytes(), proto, len),
    };
    match proto {
        UDP if !v6 && matches!(transport, [_, _, _, _, _, _, 0, 0, ..]) => true,
        TCP | UDP => pseudo().plus(Sum::of(transport)).is_valid(),
        ICMP if !v6 => Sum::of(transport).is_valid(),
        ICMPV6 if v6 => pseudo().plus(Sum::of(transport)).is_valid(),
        ICMP | ICMPV6 => false,
        SCTP => {
            let field = transport.get(sctp::CHECKSUM_AT..).and_then(|f| f.first_chunk::<4>());
            field.is_some_and(|f| *f == sctp::crc32c(transport))
        }
        _ => true,
    }
}
