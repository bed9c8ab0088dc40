//! A connection in memory: 128 bytes all told for IPv4, of which the hit path reads 64.
//!
//! - `Hot`, one cache line: both tuples (the difference between them *is* the NAT), zone, the
//!   TCP state of both sides, the deadline. A hit reads a line of the index, and reads and writes
//!   this one.
//! - `Cold`, half a line: mark, label, the links of a timer wheel.
//! - four index slots of 8 bytes, of which it uses one, or two if it is translated (`index.rs`).
//! - IPv6 addresses lie in a second line that an IPv4 connection never touches.
//!
//! All zero is a free, never used connection: untouched pages cost nothing.

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

use super::alg::bit;
use super::expire::Term;
use super::key::{ICMP, ICMPV6, Narrow, TCP, Tuple, UDP};
use super::nat::NarrowRewrite;
use super::tcp;
use super::wheel::Rank;

/// Bits of `Hot::flags`.
pub mod flag {
    pub const LIVE: u8 = 0x01;
    pub const V6: u8 = 0x02;
    /// The commit asked for source NAT.
    pub const SNAT: u8 = 0x04;
    /// The commit asked for destination NAT.
    pub const DNAT: u8 = 0x08;
    /// A packet of the reply direction was seen.
    pub const ANSWERED: u8 = 0x10;
    /// Holds a port of a NAT pool.
    pub const POOL: u8 = 0x20;
    /// Mark or label are not zero: worth a look into `Cold`.
    pub const MARKED: u8 = 0x40;
    /// The reply tuple is not the reverse of the original one, and has an entry of its own in the
    /// index.
    pub const TURNED: u8 = 0x80;
}

/// One side of a TCP connection.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, KnownLayout, Immutable,
)]
#[repr(C)]
pub struct Peer {
    /// Highest sequence number sent, plus one.
    pub seqlo: u32,
    /// Highest sequence number that the other side allows.
    pub seqhi: u32,
    /// Largest window offered, in units of the scale.
    pub max_win: u16,
    pub wscale: u8,
    pub state: u8,
}

/// The line of the hit path.
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, KnownLayout, Immutable)]
#[repr(C)]
pub struct Hot {
    /// IPv4: source and destination of the original direction, then of the reply direction.
    pub addresses: [u32; 4],
    pub ports: [u16; 4],
    pub zone: u16,
    pub proto: u8,
    pub flags: u8,
    /// Counts the uses of this place, and changes of mark and label: a `ConnRef` with another
    /// number is stale.
    pub gen_no: u32,
    /// Tick after which the connection is dead.
    pub deadline: u32,
    pub peers: [Peer; 2],
    /// Timeout class (`expire::Class`).
    pub class: u8,
    /// Which timeouts are those of its zone (`expire::Timeouts`), as of its commit.
    pub policy: u8,
    /// Bits of `alg::bit`.
    pub alg: u8,
    /// Bits of `home::told`.
    pub told: u8,
}

/// What is needed when the connection changes, not when it is hit.
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, KnownLayout, Immutable)]
#[repr(C)]
pub struct Cold {
    /// Low half first.
    pub label: [u64; 2],
    pub mark: u32,
    /// Links of a wheel slot's list, or of the free list: index plus one, zero for none.
    pub next: u32,
    pub prev: u32,
    /// Wheel slot that holds the connection.
    pub slot: u16,
    pub spare: u16,
}

/// IPv6 addresses, in the order of `Hot::addresses`; low half first.
pub type WideAddresses = [[u64; 2]; 4];

const _: () = assert!(size_of::<Hot>() == 64 && align_of::<Hot>() <= 8);
const _: () = assert!(size_of::<Cold>() == 32 && align_of::<Cold>() <= 8);
const _: () = assert!(size_of::<WideAddresses>() == 64);

fn halves(v: u128) -> [u64; 2] {
    [v as u64, (v >> 64) as u64]
}

fn whole([low, high]: [u64; 2]) -> u128 {
    u128::from(high) << 64 | u128::from(low)
}

impl Cold {
    pub fn label(&self) -> u128 {
        whole(self.label)
    }

    pub fn set_label(&mut self, v: u128) {
        self.label = halves(v);
    }
}

impl Hot {
    #[inline]
    pub fn term(&self) -> Term {
        Term { policy: self.policy, class: self.class }
    }

    #[inline]
    pub fn has(&self, flag: u8) -> bool {
        self.flags & flag != 0
    }

    /// The tuple of a direction (0 original, 1 reply).
    pub fn tuple(&self, wide: &WideAddresses, dir: usize) -> Tuple {
        let i = (dir & 1) * 2;
        let v6 = self.has(flag::V6);
        let address = |i: usize| {
            if v6 { whole(wide[i & 3]) } else { u128::from(self.addresses[i & 3]) }
        };
        Tuple {
            src: address(i),
            dst: address(i + 1),
            sport: self.ports[i],
            dport: self.ports[i + 1],
            proto: self.proto,
            v6,
        }
    }

    /// Whether packets of tuple `t` in `zone` belong to direction `dir`; of IPv6 connections
    /// the addresses remain to be compared.
    #[inline]
    pub fn matches_narrow(&self, t: &Tuple, zone: u16, dir: usize) -> bool {
        let i = (dir & 1) * 2;
        let same = self.ports[i] == t.sport
            && self.ports[i + 1] == t.dport
            && self.zone == zone
            && self.proto == t.proto
            && self.has(flag::V6) == t.v6;
        same && (t.v6
            || (u128::from(self.addresses[i]) == t.src
                && u128::from(self.addresses[i + 1]) == t.dst))
    }

    /// The direction that a narrow tuple is of.
    #[inline(always)]
    pub fn side_of_narrow(&self, n: &Narrow, zone: u16) -> Option<usize> {
        if self.is_narrow(n, zone, 0) {
            return Some(0);
        }
        if self.is_narrow(n, zone, 1) { Some(1) } else { None }
    }

    /// The same for a narrow tuple, and nothing remains.
    #[inline(always)]
    pub fn is_narrow(&self, n: &Narrow, zone: u16, dir: usize) -> bool {
        // Put together as it lies in memory: each is one load.
        let i = (dir & 1) * 2;
        let addresses = u64::from(self.addresses[i + 1]) << 32 | u64::from(self.addresses[i]);
        let ports = u32::from(self.ports[i + 1]) << 16 | u32::from(self.ports[i]);
        let rest = |zone: u16, proto: u8, flags: u8| {
            u32::from(flags) << 24 | u32::from(proto) << 16 | u32::from(zone)
        };
        let own = rest(self.zone, self.proto, self.flags & (flag::LIVE | flag::V6));
        (addresses == n.addresses.rotate_left(32))
            & (ports == n.ports.rotate_left(16))
            & (own == rest(zone, n.proto, flag::LIVE))
    }

    /// The tuple of a direction, if the connection is of TCP or UDP over IPv4.
    #[inline(always)]
    pub fn narrow(&self, dir: usize) -> Option<Narrow> {
        if self.has(flag::V6) || !matches!(self.proto, TCP | UDP) {
            return None;
        }
        let i = (dir & 1) * 2;
        Some(Narrow {
            addresses: u64::from(self.addresses[i]) << 32 | u64::from(self.addresses[i + 1]),
            ports: u32::from(self.ports[i]) << 16 | u32::from(self.ports[i + 1]),
            proto: self.proto,
        })
    }

    /// Writes both tuples, of TCP or UDP over IPv4.
    #[inline(always)]
    pub fn set_narrow(&mut self, orig: &Narrow, reply: &Narrow) {
        let halves = |a: u64| [(a >> 32) as u32, a as u32];
        let ([a, b], [c, d]) = (halves(orig.addresses), halves(reply.addresses));
        self.addresses = [a, b, c, d];
        let halves = |p: u32| [(p >> 16) as u16, p as u16];
        let ([a, b], [c, d]) = (halves(orig.ports), halves(reply.ports));
        self.ports = [a, b, c, d];
    }

    /// What a translated connection of TCP or UDP over IPv4 makes of packets of one direction: what
    /// those of the other one are answers to.
    #[inline(always)]
    pub fn narrow_rewrite(&self, is_reply: bool) -> Option<NarrowRewrite> {
        let is_narrow = matches!(self.proto, TCP | UDP) && !self.has(flag::V6);
        if !is_narrow || !self.has(flag::SNAT | flag::DNAT) {
            return None;
        }
        let i = if is_reply { 0 } else { 2 };
        Some(NarrowRewrite {
            addresses: u64::from(self.addresses[i + 1]) << 32 | u64::from(self.addresses[i]),
            ports: u32::from(self.ports[i + 1]) << 16 | u32::from(self.ports[i]),
        })
    }

    #[inline]
    pub fn is_tcp(&self) -> bool {
        self.proto == TCP
    }

    #[inline]
    pub fn is_icmp(&self) -> bool {
        self.proto == if self.has(flag::V6) { ICMPV6 } else { ICMP }
    }

    /// Writes both tuples, but for the addresses of IPv6 (`wide_of`).
    #[inline]
    pub fn set_tuples(&mut self, orig: &Tuple, reply: &Tuple) {
        self.ports = [orig.sport, orig.dport, reply.sport, reply.dport];
        if !orig.v6 {
            self.addresses = [orig.src, orig.dst, reply.src, reply.dst].map(|a| a as u32);
        }
    }
}

/// The line of IPv6 addresses of a connection.
pub fn wide_of(orig: &Tuple, reply: &Tuple) -> WideAddresses {
    [orig.src, orig.dst, reply.src, reply.dst].map(halves)
}

/// States of a side of TCP, in the order of their numbers.
pub const TCP_STATES: [&str; 11] = [
    "CLOSED",
    "LISTEN",
    "SYN_SENT",
    "SYN_RECV",
    "ESTABLISHED",
    "CLOSE_WAIT",
    "FIN_WAIT_1",
    "CLOSING",
    "LAST_ACK",
    "FIN_WAIT_2",
    "TIME_WAIT",
];

fn state_name(state: u8) -> &'static str {
    TCP_STATES.get(usize::from(state)).copied().unwrap_or("TIME_WAIT")
}

/// One connection as a dump shows it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ConnInfo {
    pub orig: Tuple,
    /// As packets of the reply direction arrive, before their translation.
    pub reply: Tuple,
    pub zone: u16,
    pub mark: u32,
    pub label: u128,
    /// `protoinfo` state of a TCP connection, as `dpctl/dump-conntrack` names it.
    pub tcp_state: Option<&'static str>,
    /// State of either side of a TCP connection, as `dpctl/dump-conntrack -m` names them.
    pub tcp_states: Option<[&'static str; 2]>,
    /// Its helper: `ftp` or `tftp`.
    pub helper: Option<&'static str>,
    /// A full table would give it up first.
    pub half_open: bool,
    /// TCP: both sides have closed it, or one has reset it.
    pub closed: bool,
    /// Seconds until it is forgotten if nothing more comes.
    pub timeout_s: u32,
    pub answered: bool,
    pub snat: bool,
    pub dnat: bool,
}

impl ConnInfo {
    pub(super) fn of(hot: &Hot, cold: &Cold, wide: &WideAddresses, timeout_s: u32) -> Self {
        Self {
            orig: hot.tuple(wide, 0),
            reply: hot.tuple(wide, 1),
            zone: hot.zone,
            mark: cold.mark,
            label: cold.label(),
            tcp_state: hot.is_tcp().then(|| tcp::shown_state(&hot.peers)),
            tcp_states: hot.is_tcp().then(|| hot.peers.map(|p| state_name(p.state))),
            helper: match hot.alg & bit::HELPED {
                bit::FTP => Some("ftp"),
                bit::TFTP => Some("tftp"),
                _ => None,
            },
            half_open: Rank::of(hot.class) == Rank::HalfOpen,
            closed: Rank::of(hot.class) == Rank::Closed,
            timeout_s,
            answered: hot.has(flag::ANSWERED),
            snat: hot.has(flag::SNAT),
            dnat: hot.has(flag::DNAT),
        }
    }
}
