//! Ethernet II and 802.3 with LLC/SNAP (IEEE 802.3 clause 3, RFC 894, RFC 1042).
//!
//! The frame check sequence never reaches us: the device adds and removes it.

use zerocopy::network_endian::U16;
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

/// Numbers from here on are types, those below are 802.3 lengths.
pub const TYPE_MIN: u16 = 0x0600;
/// What a frame without a type shows as (OpenFlow 1.0 section 3.4; 802.3 without SNAP).
pub const TYPE_NONE: u16 = 0x05ff;
pub const TYPE_IPV4: u16 = 0x0800;
pub const TYPE_ARP: u16 = 0x0806;
/// Geneve's and GRE's word for "an Ethernet frame follows" (transparent Ethernet bridging).
pub const TYPE_TEB: u16 = 0x6558;
pub const TYPE_RARP: u16 = 0x8035;
pub const TYPE_VLAN: u16 = 0x8100;
pub const TYPE_IPV6: u16 = 0x86dd;
pub const TYPE_MPLS: u16 = 0x8847;
/// MPLS whose outermost label was assigned upstream, once "multicast" (RFC 5332).
pub const TYPE_MPLS_MULTICAST: u16 = 0x8848;
pub const TYPE_QINQ: u16 = 0x88a8;

/// Shortest frame a wire carries, without the check sequence; shorter payloads are padded.
pub const FRAME_MIN_BYTES: usize = 60;

pub const BROADCAST: [u8; 6] = [0xff; 6];

/// The Ethernet header.
#[derive(
    Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned,
)]
#[repr(C)]
pub struct Ethernet {
    /// Receiver. The lowest bit of the first byte says group (multicast, broadcast).
    pub dst: [u8; 6],
    /// Sender; must not be a group address, which a receiver is free to ignore.
    pub src: [u8; 6],
    /// Type, or length when below `TYPE_MIN`; the TPID of a tag when one follows.
    pub eth_type: U16,
}

const _: () = assert!(size_of::<Ethernet>() == 14 && align_of::<Ethernet>() == 1);

/// LLC and SNAP behind an 802.3 length (RFC 1042): only this form carries a type.
#[derive(
    Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned,
)]
#[repr(C)]
pub struct LlcSnap {
    /// Send aa aa 03; anything else is another protocol than SNAP.
    pub llc: [u8; 3],
    /// Organisation; zero means that `eth_type` is an Ethernet type.
    pub oui: [u8; 3],
    pub eth_type: U16,
}

const _: () = assert!(size_of::<LlcSnap>() == 8 && align_of::<LlcSnap>() == 1);

impl LlcSnap {
    /// The type it carries, if it carries one.
    #[inline]
    pub fn ethernet_type(&self) -> Option<u16> {
        let is_snap = self.llc == [0xaa, 0xaa, 0x03] && self.oui == [0; 3];
        (is_snap && self.eth_type.get() >= TYPE_MIN).then(|| self.eth_type.get())
    }
}
