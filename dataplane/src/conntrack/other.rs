//! UDP, ICMP queries, SCTP and all other protocols: no more is known than who has spoken.
//!
//! A connection is new until a packet of the reply direction was seen, however many its
//! originator sends; that packet and all after it are established.

use super::expire::Class;

/// The class of a connection's first packet.
pub fn first(icmp: bool) -> Class {
    if icmp { Class::IcmpFirst } else { Class::OtherFirst }
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
