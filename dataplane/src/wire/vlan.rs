//! VLAN tags (IEEE 802.1Q clause 9).
//!
//! On the wire a tag is TPID and TCI in front of the type. The TPID takes the place of the
//! Ethernet header's type, so the view starts behind it.

use super::ether::{TYPE_QINQ, TYPE_VLAN};
use zerocopy::network_endian::U16;
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

/// Bytes that a tag adds to a frame.
pub const TAG_BYTES: usize = 4;

pub const VID_MASK: u16 = 0x0fff;
/// Drop eligible indicator, once "canonical format".
pub const DEI: u16 = 0x1000;
pub const PCP_SHIFT: u16 = 13;

/// A tag behind its TPID.
#[derive(
    Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned,
)]
#[repr(C)]
pub struct VlanTag {
    /// Priority (3 bits), drop eligible (1), VLAN (12); VLAN 0 carries only a priority, 4095 is
    /// reserved and must not be sent.
    pub tci: U16,
    /// What follows; another TPID when tags are stacked.
    pub eth_type: U16,
}

const _: () = assert!(size_of::<VlanTag>() == TAG_BYTES && align_of::<VlanTag>() == 1);

/// Whether a type announces a tag.
#[inline]
pub fn is_tpid(eth_type: u16) -> bool {
    eth_type == TYPE_VLAN || eth_type == TYPE_QINQ
}
