//! TCP (RFC 9293 section 3.1).

use zerocopy::network_endian::{U16, U32};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

pub const HEADER_MIN_BYTES: usize = 20;
/// Offset of the checksum from the first byte of the header.
pub const CHECKSUM_AT: usize = 16;

pub const FIN: u16 = 0x001;
pub const SYN: u16 = 0x002;
pub const RST: u16 = 0x004;
pub const PSH: u16 = 0x008;
pub const ACK: u16 = 0x010;
pub const URG: u16 = 0x020;
pub const ECE: u16 = 0x040;
pub const CWR: u16 = 0x080;
/// What a match on `tcp_flags` sees: the flags and the reserved bits before them.
pub const FLAGS_MASK: u16 = 0x0fff;

/// The fixed part of the TCP header.
#[derive(
    Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned,
)]
#[repr(C)]
pub struct Tcp {
    pub src: U16,
    pub dst: U16,
    pub seq: U32,
    /// Meaningful with `ACK`.
    pub ack: U32,
    /// Header length in words of four bytes (upper 4 bits), reserved (send 0, ignore), flags.
    pub offset_flags: U16,
    pub window: U16,
    /// Over pseudo-header, header and data. Always there.
    pub checksum: [u8; 2],
    /// Meaningful with `URG`.
    pub urgent: U16,
}

const _: () = assert!(size_of::<Tcp>() == HEADER_MIN_BYTES && align_of::<Tcp>() == 1);

impl Tcp {
    /// Header length in bytes, options included; sane from 20 on.
    #[inline]
    pub fn header_len(&self) -> usize {
        usize::from(self.offset_flags.get() >> 12) * 4
    }

    #[inline]
    pub fn flags(&self) -> u16 {
        self.offset_flags.get() & FLAGS_MASK
    }
}
