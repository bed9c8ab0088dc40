//! IPv6 (RFC 8200) and the extension headers that may stand before the transport header.

use zerocopy::network_endian::{U16, U32};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

pub const HEADER_BYTES: usize = 40;
pub const FLOW_LABEL_MASK: u32 = 0x000f_ffff;

/// The IPv6 header.
#[derive(
    Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned,
)]
#[repr(C)]
pub struct Ipv6 {
    /// Version (6), traffic class (8 bits: DSCP and ECN), flow label (20). Section 3.
    pub version_class_label: U32,
    /// Bytes behind this header, extension headers included. Zero would be a jumbogram
    /// (RFC 2675), which no port here can carry.
    pub payload_len: U16,
    pub next_header: u8,
    pub hop_limit: u8,
    pub src: [u8; 16],
    pub dst: [u8; 16],
}

const _: () = assert!(size_of::<Ipv6>() == HEADER_BYTES && align_of::<Ipv6>() == 1);

impl Ipv6 {
    #[inline]
    pub fn version(&self) -> u8 {
        (self.version_class_label.get() >> 28) as u8
    }

    #[inline]
    pub fn traffic_class(&self) -> u8 {
        (self.version_class_label.get() >> 20) as u8
    }

    #[inline]
    pub fn set_traffic_class(&mut self, class: u8) {
        let rest = self.version_class_label.get() & 0xf00f_ffff;
        self.version_class_label.set(rest | u32::from(class) << 20);
    }

    #[inline]
    pub fn flow_label(&self) -> u32 {
        self.version_class_label.get() & FLOW_LABEL_MASK
    }

    #[inline]
    pub fn set_flow_label(&mut self, label: u32) {
        let rest = self.version_class_label.get() & !FLOW_LABEL_MASK;
        self.version_class_label.set(rest | label & FLOW_LABEL_MASK);
    }
}

/// The start that hop-by-hop, routing and destination options share (sections 4.3, 4.4, 4.6); the
/// authentication header too, with another unit of length (RFC 4302 section 2.2).
#[derive(
    Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned,
)]
#[repr(C)]
pub struct Extension {
    pub next_header: u8,
    /// Units of eight bytes beyond the first eight. Authentication: of four bytes, minus two.
    pub len: u8,
    /// No extension header is shorter than eight bytes.
    pub data: [u8; 6],
}

const _: () = assert!(size_of::<Extension>() == 8 && align_of::<Extension>() == 1);

pub const FRAGMENT_OFFSET: u16 = 0xfff8;
pub const MORE_FRAGMENTS: u16 = 0x0001;

/// The fragment header (section 4.5).
#[derive(
    Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned,
)]
#[repr(C)]
pub struct Fragment {
    pub next_header: u8,
    /// Send 0, ignore.
    pub reserved: u8,
    /// Offset in units of eight bytes in the upper 13 bits, then two reserved, then "more". All
    /// zero is an atomic fragment: whole, and treated as not fragmented (RFC 6946).
    pub offset_more: U16,
    pub id: U32,
}

const _: () = assert!(size_of::<Fragment>() == 8 && align_of::<Fragment>() == 1);
