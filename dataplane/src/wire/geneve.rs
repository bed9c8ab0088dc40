//! Geneve (RFC 8926 section 3.4) and its options (section 3.5).

use zerocopy::network_endian::U16;
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

pub const HEADER_BYTES: usize = 8;
/// Control packet: for the endpoint itself, not for the network behind it.
pub const OAM: u8 = 0x80;
/// One of the options is critical: who does not know it must drop.
pub const CRITICAL: u8 = 0x40;
pub const VNI_MASK: u32 = 0x00ff_ffff;

/// The fixed part of the Geneve header.
#[derive(
    Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned,
)]
#[repr(C)]
pub struct Geneve {
    /// Version (2 bits; send 0, drop others) and length of the options in words of four bytes.
    pub version_opt_len: u8,
    /// `OAM`, `CRITICAL`, six reserved bits (send 0, ignore).
    pub flags: u8,
    /// Ethernet type of the payload; `TYPE_TEB` for frames.
    pub proto: U16,
    /// Virtual network identifier, highest byte first.
    pub vni: [u8; 3],
    /// Send 0, ignore.
    pub reserved: u8,
}

const _: () = assert!(size_of::<Geneve>() == HEADER_BYTES && align_of::<Geneve>() == 1);

impl Geneve {
    #[inline]
    pub fn version(&self) -> u8 {
        self.version_opt_len >> 6
    }

    /// Length of the options in bytes.
    #[inline]
    pub fn options_len(&self) -> usize {
        usize::from(self.version_opt_len & 0x3f) * 4
    }

    #[inline]
    pub fn vni(&self) -> u32 {
        u32::from_be_bytes([0, self.vni[0], self.vni[1], self.vni[2]])
    }
}

/// The start of an option; its data follows.
#[derive(
    Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned,
)]
#[repr(C)]
pub struct GeneveOption {
    /// Namespace of the type.
    pub class: U16,
    /// The highest bit marks a critical option.
    pub option_type: u8,
    /// Three reserved bits (send 0, ignore), then the data's length in words of four bytes.
    pub reserved_len: u8,
}

const _: () = assert!(size_of::<GeneveOption>() == 4 && align_of::<GeneveOption>() == 1);

impl GeneveOption {
    #[inline]
    pub fn is_critical(&self) -> bool {
        self.option_type & 0x80 != 0
    }

    /// Length of the data in bytes.
    #[inline]
    pub fn data_len(&self) -> usize {
        usize::from(self.reserved_len & 0x1f) * 4
    }
}
