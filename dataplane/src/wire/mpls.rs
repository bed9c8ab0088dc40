//! MPLS label stack entries (RFC 3032 section 2.1, RFC 5462).
//!
//! The stack lies behind Ethernet and its tags. Each entry is 32 bits: label (20), traffic class
//! (3), bottom of stack (1), TTL (8). Nothing says what is behind the bottom: whoever assigned the
//! label knows. A receiver that guesses looks at the first four bits (RFC 4928 section 2).

/// Bytes of an entry.
pub const LSE_BYTES: usize = 4;

/// Reserved label "IPv4 explicit null": only at the bottom, the payload is IPv4.
pub const LABEL_IPV4_NULL: u32 = 0;
/// Reserved label "IPv6 explicit null".
pub const LABEL_IPV6_NULL: u32 = 2;

pub const LABEL_SHIFT: u32 = 12;
pub const TC_SHIFT: u32 = 9;
/// Bottom of stack.
pub const BOS: u32 = 0x100;
pub const TTL_MASK: u32 = 0xff;

/// An entry from its parts; what is too wide is cut.
#[inline]
pub const fn lse(label: u32, tc: u8, is_bottom: bool, ttl: u8) -> u32 {
    let bos = if is_bottom { BOS } else { 0 };
    label << LABEL_SHIFT | (tc as u32 & 7) << TC_SHIFT | bos | ttl as u32
}

/// Whether an entry, as it lies on the wire, is the last of its stack.
#[inline]
pub fn is_bottom(entry: [u8; 4]) -> bool {
    u32::from_be_bytes(entry) & BOS != 0
}
