//! IPv4 (RFC 791; TOS byte: RFC 2474 and 3168; identification: RFC 6864).

use zerocopy::network_endian::U16;
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

/// Version 4 and five words: a header without options.
pub const VERSION_IHL: u8 = 0x45;
pub const DONT_FRAGMENT: u16 = 0x4000;
pub const MORE_FRAGMENTS: u16 = 0x2000;
/// Offset of a fragment, in units of eight bytes.
pub const FRAGMENT_OFFSET: u16 = 0x1fff;
pub const HEADER_MIN_BYTES: usize = 20;

/// The fixed part of the IPv4 header.
#[derive(
    Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned,
)]
#[repr(C)]
pub struct Ipv4 {
    /// Version (4) and header length in words of four bytes (5 or more). Section 3.1.
    pub version_ihl: u8,
    /// DSCP (6 bits) and ECN (2). A forwarder may set both; who does not know a codepoint
    /// treats it as zero but carries it on.
    pub tos: u8,
    /// Header and data in bytes. A frame may be longer (Ethernet padding), never shorter.
    pub total_len: U16,
    /// Joins fragments; without meaning in a packet that is not fragmented (RFC 6864 section 4).
    pub id: U16,
    /// Reserved bit (send 0, ignore), don't fragment, more fragments, offset.
    pub flags_fragment: U16,
    /// Hops left. A router that would send 0 drops instead and says so by ICMP.
    pub ttl: u8,
    pub proto: u8,
    /// Over the header alone with this field as zero; a router updates it with the TTL.
    pub checksum: [u8; 2],
    pub src: [u8; 4],
    pub dst: [u8; 4],
}

const _: () = assert!(size_of::<Ipv4>() == HEADER_MIN_BYTES && align_of::<Ipv4>() == 1);

impl Ipv4 {
    #[inline]
    pub fn version(&self) -> u8 {
        self.version_ihl >> 4
    }

    /// Header length in bytes, options included; sane from 20 on.
    #[inline]
    pub fn header_len(&self) -> usize {
        usize::from(self.version_ihl & 0x0f) * 4
    }

    /// A fragment, the first one included.
    #[inline]
    pub fn is_fragment(&self) -> bool {
        self.flags_fragment.get() & (MORE_FRAGMENTS | FRAGMENT_OFFSET) != 0
    }

    /// A fragment that does not start with the transport header.
    #[inline]
    pub fn is_later_fragment(&self) -> bool {
        self.flags_fragment.get() & FRAGMENT_OFFSET != 0
    }
}
