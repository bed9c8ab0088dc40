//! ARP and RARP for IPv4 over Ethernet (RFC 826, RFC 903).

use zerocopy::network_endian::U16;
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

pub const OP_REQUEST: u16 = 1;
pub const OP_REPLY: u16 = 2;
pub const OP_RARP_REQUEST: u16 = 3;
pub const OP_RARP_REPLY: u16 = 4;

/// An ARP packet with Ethernet and IPv4 addresses.
#[derive(
    Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned,
)]
#[repr(C)]
pub struct ArpEthIpv4 {
    /// Send 1 (Ethernet). With another value of one of the first four the addresses lie
    /// elsewhere, so the receiver must not read on.
    pub hw_type: U16,
    /// Send 0x0800.
    pub proto_type: U16,
    /// Send 6.
    pub hw_len: u8,
    /// Send 4.
    pub proto_len: u8,
    /// Request or reply. Matching sees the low byte only, and zero when the high one is set.
    pub op: U16,
    /// Sender's addresses: what the receiver learns from.
    pub sha: [u8; 6],
    pub spa: [u8; 4],
    /// Target's addresses; `tha` of a request is zero by custom and ignored.
    pub tha: [u8; 6],
    pub tpa: [u8; 4],
}

const _: () = assert!(size_of::<ArpEthIpv4>() == 28 && align_of::<ArpEthIpv4>() == 1);

impl ArpEthIpv4 {
    /// The first four fields, for Ethernet and IPv4.
    pub const KIND: [u8; 6] = [0, 1, 8, 0, 6, 4];

    /// Whether the addresses are where this view reads them.
    #[inline]
    pub fn is_eth_ipv4(&self) -> bool {
        (self.hw_type.get(), self.proto_type.get(), self.hw_len, self.proto_len)
            == (1, super::ether::TYPE_IPV4, 6, 4)
    }
}
