//! ICMP (RFC 792), ICMPv6 (RFC 4443) and neighbour discovery (RFC 4861).

use zerocopy::network_endian::U16;
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

pub const HEADER_BYTES: usize = 8;
/// Offset of the checksum from the first byte of the header.
pub const CHECKSUM_AT: usize = 2;

pub const V4_ECHO_REPLY: u8 = 0;
pub const V4_UNREACHABLE: u8 = 3;
pub const V4_REDIRECT: u8 = 5;
pub const V4_ECHO_REQUEST: u8 = 8;
pub const V4_TIME_EXCEEDED: u8 = 11;
pub const V4_PARAMETER: u8 = 12;
/// Code of `V4_UNREACHABLE`: fragmentation needed; the second half of `rest` is the next MTU.
pub const V4_CODE_TOO_BIG: u8 = 4;

pub const V6_UNREACHABLE: u8 = 1;
pub const V6_TOO_BIG: u8 = 2;
pub const V6_TIME_EXCEEDED: u8 = 3;
pub const V6_PARAMETER: u8 = 4;
pub const V6_ECHO_REQUEST: u8 = 128;
pub const V6_ECHO_REPLY: u8 = 129;
pub const ND_SOLICIT: u8 = 135;
pub const ND_ADVERT: u8 = 136;

pub const ND_OPT_SOURCE_LINK: u8 = 1;
pub const ND_OPT_TARGET_LINK: u8 = 2;

/// The header of ICMP and ICMPv6.
#[derive(
    Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned,
)]
#[repr(C)]
pub struct Icmp {
    pub icmp_type: u8,
    pub code: u8,
    /// ICMP: over the message. ICMPv6: over pseudo-header and message (RFC 4443 section 2.3).
    pub checksum: [u8; 2],
    /// By type: echo has identifier and sequence number; errors have zero, an MTU or a pointer,
    /// and behind it the packet that caused them.
    pub rest: [u8; 4],
}

const _: () = assert!(size_of::<Icmp>() == HEADER_BYTES && align_of::<Icmp>() == 1);

impl Icmp {
    /// Identifier of an echo request or reply.
    #[inline]
    pub fn echo_id(&self) -> u16 {
        u16::from_be_bytes([self.rest[0], self.rest[1]])
    }

    #[inline]
    pub fn set_echo_id(&mut self, id: u16) {
        [self.rest[0], self.rest[1]] = id.to_be_bytes();
    }
}

/// Neighbour solicitation and advertisement behind `Icmp` (RFC 4861 sections 4.3 and 4.4).
#[derive(
    Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned,
)]
#[repr(C)]
pub struct NdTarget {
    /// The address that is asked for, or spoken of; must not be multicast.
    pub target: [u8; 16],
}

const _: () = assert!(size_of::<NdTarget>() == 16 && align_of::<NdTarget>() == 1);

/// A neighbour discovery option with a link-layer address (RFC 4861 section 4.6.1).
#[derive(
    Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned,
)]
#[repr(C)]
pub struct NdOption {
    pub option_type: u8,
    /// In units of eight bytes, this start included; 0 makes the packet invalid.
    pub len: u8,
    /// Link-layer address when the type says so and `len` is 1.
    pub mac: [u8; 6],
}

const _: () = assert!(size_of::<NdOption>() == 8 && align_of::<NdOption>() == 1);

/// Sequence number as a number, for builders and readers of echo.
#[inline]
pub fn echo_rest(id: u16, seq: u16) -> [u8; 4] {
    let ([a, b], [c, d]) = (id.to_be_bytes(), seq.to_be_bytes());
    [a, b, c, d]
}

/// Whether a message of this protocol is a query or its answer, with an identifier: echo, and over
/// IPv4 also timestamp, information and address mask (RFC 792, RFC 950).
#[inline]
pub fn is_query(ip_proto: u8, icmp_type: u8) -> bool {
    match ip_proto {
        super::proto::ICMP => matches!(icmp_type, V4_ECHO_REQUEST | V4_ECHO_REPLY | 13..=18),
        super::proto::ICMPV6 => matches!(icmp_type, V6_ECHO_REQUEST | V6_ECHO_REPLY),
        _ => false,
    }
}

/// Whether a type of ICMP quotes another packet.
#[inline]
pub fn is_v4_error(icmp_type: u8) -> bool {
    matches!(icmp_type, V4_UNREACHABLE | V4_REDIRECT | V4_TIME_EXCEEDED | V4_PARAMETER)
}

/// Whether a type of ICMPv6 quotes another packet (RFC 4443 section 2.1: those below 128; of the
/// assigned ones).
#[inline]
pub fn is_v6_error(icmp_type: u8) -> bool {
    (V6_UNREACHABLE..=V6_PARAMETER).contains(&icmp_type)
}

/// Next-hop MTU in `Icmp::rest` of "fragmentation needed" (RFC 1191 section 4).
#[derive(
    Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned,
)]
#[repr(C)]
pub struct NextMtu {
    /// Send 0, ignore.
    pub unused: U16,
    pub mtu: U16,
}

const _: () = assert!(size_of::<NextMtu>() == 4 && align_of::<NextMtu>() == 1);
