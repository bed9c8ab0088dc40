//! UDP (RFC 768; over IPv6: RFC 8200 section 8.1, RFC 6935).

use zerocopy::network_endian::U16;
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

pub const HEADER_BYTES: usize = 8;
/// Offset of the checksum from the first byte of the header.
pub const CHECKSUM_AT: usize = 6;
/// Geneve's port (RFC 8926 section 3.3).
pub const PORT_GENEVE: u16 = 6081;
/// VXLAN's port (RFC 7348 section 8).
pub const PORT_VXLAN: u16 = 4789;

/// The UDP header.
#[derive(
    Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned,
)]
#[repr(C)]
pub struct Udp {
    pub src: U16,
    pub dst: U16,
    /// Header and data in bytes, 8 or more; not beyond the datagram.
    pub len: U16,
    /// Over pseudo-header, header and data. Zero: none was computed (IPv4, and tunnels over
    /// IPv6); a sum that comes out as zero is therefore sent as ffff.
    pub checksum: [u8; 2],
}

const _: () = assert!(size_of::<Udp>() == HEADER_BYTES && align_of::<Udp>() == 1);
