//! Headers as they lie on the wire.
//!
//! A header is a `repr(C)` struct of bytes and big-endian numbers with alignment one, taken over a
//! slice by zerocopy's `ref_from_prefix` or `mut_from_prefix`: one length check gives a view whose
//! fields are then read and written in place, so there is no copy that could differ from the
//! packet and no second check per field. Fields narrower than a byte have accessors. Options and
//! extension headers lie behind the fixed part and are walked by the room that wants them.
//!
//! Every field says where it is specified and what a sender puts in and a receiver does with it,
//! because that is where implementations differ. Nothing here decides anything: what is sane is
//! `packet::parse`'s business, what is right is conntrack's or the tunnel's.

pub mod arp;
pub mod checksum;
pub mod ether;
pub mod geneve;
pub mod icmp;
pub mod ipv4;
pub mod ipv6;
pub mod mpls;
pub mod sctp;
pub mod tcp;
pub mod udp;
pub mod vlan;

/// IP protocol numbers (IANA "Protocol Numbers"), shared by IPv4 and IPv6.
pub mod proto {
    pub const HOPOPTS: u8 = 0;
    pub const ICMP: u8 = 1;
    pub const IGMP: u8 = 2;
    pub const TCP: u8 = 6;
    pub const UDP: u8 = 17;
    pub const ROUTING: u8 = 43;
    pub const FRAGMENT: u8 = 44;
    pub const GRE: u8 = 47;
    pub const ESP: u8 = 50;
    pub const AH: u8 = 51;
    pub const ICMPV6: u8 = 58;
    pub const NO_NEXT: u8 = 59;
    pub const DSTOPTS: u8 = 60;
    pub const SCTP: u8 = 132;
}

/// The explicit congestion notification bits of a TOS byte or traffic class (RFC 3168 section 5).
pub mod ecn {
    pub const MASK: u8 = 3;
    /// The sender does not understand marks.
    pub const NOT_ECT: u8 = 0;
    pub const ECT_1: u8 = 1;
    pub const ECT_0: u8 = 2;
    /// Congestion was met on the way.
    pub const CE: u8 = 3;
}

#[cfg(test)]
mod tests;
