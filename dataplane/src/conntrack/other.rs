//! UDP, ICMP queries, SCTP and all other protocols: no more is known than who has spoken.
//!
//! A connection is new until a packet of the reply direction was seen, however many its
//! originator sends; that packet and all after it are established.

use super::expire::Class;

/// The class of a connection's first packet.
pub fn first(icmp: bool) -> Class {
    if icmp { Class::IcmpFirst } else { Class::OtherFirst }
}

/// Whether one more packet leaves the connection in its class.
#[inline(always)]
pub fn is_steady(class: u8, answered: bool) -> bool {
    // ICMP has classes of its own, which its connections stay in.
    let classes = if answered {
        1 << Class::OtherBidir as u32 | 1 << Class::IcmpReply as u32
    } else {
        1 << Class::OtherMultiple as u32 | 1 << Class::IcmpFirst as u32
    };
    1u32.wrapping_shl(u32::from(class)) & classes != 0
}

/// The class after one more packet.
#[inline]
pub fn next(icmp: bool, answered: bool) -> Class {
    match (icmp, answered) {
        (true, true) => Class::IcmpReply,
        (true, false) => Class::IcmpFirst,
        (false, true) => Class::OtherBidir,
        (false, false) => Class::OtherMultiple,
    }
}
