//! SCTP's common header and its checksum (RFC 9260 section 3.1 and appendix A).
//!
//! The checksum is CRC-32C (polynomial 0x1edc6f41, bits reflected) over the whole packet with the
//! field as zero, sent with the lowest byte first. It has no pseudo-header, so address translation
//! leaves it alone.

use zerocopy::network_endian::{U16, U32};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

pub const HEADER_BYTES: usize = 12;
/// Offset of the checksum from the first byte of the header.
pub const CHECKSUM_AT: usize = 8;

/// The SCTP common header; chunks follow.
#[derive(
    Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned,
)]
#[repr(C)]
pub struct Sctp {
    pub src: U16,
    pub dst: U16,
    /// Zero only in a packet with an INIT chunk; otherwise the receiver's tag.
    pub tag: U32,
    pub checksum: [u8; 4],
}

const _: () = assert!(size_of::<Sctp>() == HEADER_BYTES && align_of::<Sctp>() == 1);

const fn crc_table() -> [u32; 256] {
    let mut table = [0u32; 256];
    let mut n = 0;
    while n < 256 {
        let mut crc = n as u32;
        let mut bit = 0;
        while bit < 8 {
            crc = if crc & 1 != 0 { crc >> 1 ^ 0x82f6_3b78 } else { crc >> 1 };
            bit += 1;
        }
        table[n] = crc;
        n += 1;
    }
    table
}

static TABLE: [u32; 256] = crc_table();

#[inline]
fn step(crc: u32, byte: u8) -> u32 {
    crc >> 8 ^ TABLE[usize::from(crc as u8 ^ byte)]
}

/// The checksum field's value for an SCTP packet, ready to be stored; what the field holds now
/// does not matter. Byte by byte: SCTP is rare.
pub fn crc32c(packet: &[u8]) -> [u8; 4] {
    let mut crc = u32::MAX;
    for (at, &byte) in packet.iter().enumerate() {
        let is_field = (CHECKSUM_AT..HEADER_BYTES).contains(&at);
        crc = step(crc, if is_field { 0 } else { byte });
    }
    (!crc).to_le_bytes()
}

/// The checksum that follows `checksum` when the packet's first word (the ports) changes by `flip`
/// (old xor new) in a packet of `len` bytes. A CRC is linear: what the change adds does not depend
/// on the other bytes, so no payload is read, and a wrong checksum stays as wrong as it was.
pub fn change_ports(checksum: [u8; 4], flip: [u8; 4], len: usize) -> [u8; 4] {
    let changed = flip.iter().fold(0, |crc, byte| step(crc, *byte));
    let difference = (flip.len()..len).fold(changed, |crc, _| step(crc, 0));
    (u32::from_le_bytes(checksum) ^ difference).to_le_bytes()
}
