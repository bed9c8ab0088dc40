//! What names a connection, and what conntrack takes from a packet.
//!
//! A `Tuple` is the five-tuple of one direction. `reversed()` is what the other side's packets
//! carry. ICMP echo has no ports: the identifier is the same in both directions and the message
//! type changes (8 and 0), so `sport` holds the identifier and `dport` the type and code. A
//! request from B is therefore never mistaken for the reply to a request from A.
//!
//! The hash is keyed by secrets of this start: who cannot guess them cannot choose packets that
//! meet in one place of the table. It is symmetric, so that a connection that is not translated is
//! found from both sides by one entry: each end is hashed by itself, and what they add up to once
//! more, by folded 64 x 64 bit multiplications, as in wyhash.

use super::icmp_error;
use super::tcp::{self, Segment};
use crate::packet::key::{FRAG_ANY, FlowKey, KeyBase, PacketKey, shape};

/// An address as a number; IPv4 in the low 32 bits.
pub type IpKey = u128;

pub const ICMP: u8 = 1;
pub const TCP: u8 = 6;
pub const UDP: u8 = 17;
pub const ICMPV6: u8 = 58;
pub const SCTP: u8 = 132;

/// One direction of a connection.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Tuple {
    pub src: IpKey,
    pub dst: IpKey,
    /// Source port; ICMP: identifier.
    pub sport: u16,
    /// Destination port; ICMP: type in the high byte, code in the low one.
    pub dport: u16,
    pub proto: u8,
    pub v6: bool,
}

/// The message type that answers an ICMP query type.
fn icmp_answer(v6: bool, kind: u8) -> Option<u8> {
    Some(match (v6, kind) {
        (false, 8) => 0,
        (false, 0) => 8,
        (false, 13 | 15 | 17) => kind + 1,
        (false, 14 | 16 | 18) => kind - 1,
        (true, 128) => 129,
        (true, 129) => 128,
        _ => return None,
    })
}

impl Tuple {
    pub fn is_icmp(&self) -> bool {
        self.proto == if self.v6 { ICMPV6 } else { ICMP }
    }

    /// Whether NAT can tell connections apart by a port or an ICMP identifier.
    pub fn has_ports(&self) -> bool {
        matches!(self.proto, TCP | UDP | SCTP) || self.is_icmp()
    }

    /// Whether who expects a connection may leave its source port open, by a port of 0, which no
    /// packet of these has.
    pub(super) fn has_free_port(&self) -> bool {
        matches!(self.proto, TCP | UDP)
    }

    /// The tuple of packets that travel the other way.
    pub fn reversed(&self) -> Tuple {
        let swapped = Tuple { src: self.dst, dst: self.src, ..*self };
        if self.is_icmp() {
            let kind = (self.dport >> 8) as u8;
            let answer = icmp_answer(self.v6, kind).unwrap_or(kind);
            return Tuple { dport: u16::from(answer) << 8 | (self.dport & 0xff), ..swapped };
        }
        Tuple { sport: self.dport, dport: self.sport, ..swapped }
    }

    /// `ct_tp_src` and `ct_tp_dst`: the ports, or ICMP type and code.
    pub fn tp(&self) -> (u16, u16) {
        if self.is_icmp() { (self.dport >> 8, self.dport & 0xff) } else { (self.sport, self.dport) }
    }

    /// The port (or identifier) that a packet of this tuple is sent *to*, which SNAT chooses in
    /// the reply tuple.
    pub(super) fn dest_port(&self) -> u16 {
        if self.is_icmp() { self.sport } else { self.dport }
    }

    pub(super) fn set_dest_port(&mut self, port: u16) {
        if self.is_icmp() { self.sport = port } else { self.dport = port }
    }
}

/// Secrets of the hash.
#[derive(Clone, Copy, Debug)]
pub struct HashKey([u64; 4]);

#[inline]
fn fold(a: u64, b: u64) -> u64 {
    let wide = u128::from(a) * u128::from(b);
    (wide as u64) ^ (wide >> 64) as u64
}

impl HashKey {
    pub fn new(seed: u64) -> Self {
        // splitmix64: four well mixed words from one.
        let mut state = seed;
        Self(std::array::from_fn(|_| {
            state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
            let a = (state ^ (state >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
            let b = (a ^ (a >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
            b ^ (b >> 31)
        }))
    }

    /// Hash of a tuple in a zone, and of its reverse: what both ends add up to.
    #[inline]
    pub fn of(&self, t: &Tuple, zone: u16) -> u64 {
        let [a, _, c, _] = self.0;
        // Both ends of ICMP have its identifier.
        let dport = if t.is_icmp() { t.sport } else { t.dport };
        let end = |address: u128, port: u16| match t.v6 {
            true => {
                let address = fold((address >> 64) as u64 ^ a, address as u64 ^ c);
                self.of_end(address ^ u64::from(port))
            }
            false => self.of_end(u64::from(port) << 32 | address as u64),
        };
        self.of_ends(end(t.src, t.sport), end(t.dst, dport), (zone, t.proto))
    }

    /// The same of a narrow one.
    #[inline(always)]
    pub fn of_narrow(&self, n: &Narrow, zone: u16) -> u64 {
        let src = self.of_end(n.addresses >> 32 | u64::from(n.ports >> 16) << 32);
        let dst = self.of_end(n.addresses & 0xffff_ffff | u64::from(n.ports & 0xffff) << 32);
        self.of_ends(src, dst, (zone, n.proto))
    }

    #[inline(always)]
    fn of_ends(&self, one: u64, other: u64, (zone, proto): (u16, u8)) -> u64 {
        let [_, b, c, _] = self.0;
        fold(one.wrapping_add(other) ^ u64::from(zone) << 16 ^ u64::from(proto) ^ b, c)
    }

    #[inline(always)]
    fn of_end(&self, end: u64) -> u64 {
        let [a, _, _, d] = self.0;
        fold(end ^ a, d)
    }

    /// Hash of words, for choices that must be stable for a flow.
    pub(super) fn of_words(&self, x: u128, y: u64) -> u64 {
        let [a, b, c, d] = self.0;
        fold(fold(x as u64 ^ a, (x >> 64) as u64 ^ b) ^ y ^ c, d)
    }
}

/// The tuple of most packets, in words: IPv4 with TCP or UDP.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Narrow {
    /// Source above destination.
    pub addresses: u64,
    /// Source above destination.
    pub ports: u32,
    pub proto: u8,
}

impl Narrow {
    /// Of a packet that no action has changed; `None` if it is of another kind.
    #[inline(always)]
    pub fn of(base: &KeyBase) -> Option<Self> {
        const GOOD: u8 = shape::L3_VALID | shape::L4_VALID;
        let is_narrow = base.eth_type == 0x0800_u16.to_be_bytes()
            && base.shape & GOOD == GOOD
            && base.ip_frag == 0
            && matches!(base.ip_proto, TCP | UDP);
        let words: &[u64; 5] = zerocopy::transmute_ref!(base);
        is_narrow.then_some(Self {
            addresses: u64::from_be(words[3]),
            ports: (u64::from_be(words[4]) >> 32) as u32,
            proto: base.ip_proto,
        })
    }

    #[inline]
    pub fn is_udp(&self) -> bool {
        self.proto == UDP
    }

    /// The tuple of packets that travel the other way.
    #[inline(always)]
    pub fn reversed(&self) -> Self {
        Self {
            addresses: self.addresses.rotate_left(32),
            ports: self.ports.rotate_left(16),
            proto: self.proto,
        }
    }

    #[inline(always)]
    pub(super) fn with_src(&self, address: u32, port: u16) -> Self {
        Self {
            addresses: u64::from(address) << 32 | self.addresses & 0xffff_ffff,
            ports: u32::from(port) << 16 | self.ports & 0xffff,
            proto: self.proto,
        }
    }

    #[inline(always)]
    pub(super) fn with_dst(&self, address: u32, port: u16) -> Self {
        Self {
            addresses: self.addresses >> 32 << 32 | u64::from(address),
            ports: self.ports >> 16 << 16 | u32::from(port),
            proto: self.proto,
        }
    }

    pub fn tuple(&self) -> Tuple {
        Tuple {
            src: u128::from((self.addresses >> 32) as u32),
            dst: u128::from(self.addresses as u32),
            sport: (self.ports >> 16) as u16,
            dport: self.ports as u16,
            proto: self.proto,
            v6: false,
        }
    }
}

const _: () = assert!(std::mem::offset_of!(KeyBase, ip_src) == 24);
const _: () = assert!(std::mem::offset_of!(KeyBase, ip_dst) == 28);
const _: () = assert!(std::mem::offset_of!(KeyBase, tp_src) == 32);
const _: () = assert!(std::mem::offset_of!(KeyBase, tp_dst) == 34);

/// Source and destination of a packet that no action has changed.
#[inline(always)]
pub(super) fn addresses(key: &PacketKey, v6: bool) -> (IpKey, IpKey) {
    if v6 {
        return (u128::from_be_bytes(key.l3.ipv6_src), u128::from_be_bytes(key.l3.ipv6_dst));
    }
    let address = |a| u128::from(u32::from_be_bytes(a));
    (address(key.base.ip_src), address(key.base.ip_dst))
}

/// What the packet is to conntrack.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// `tuple` is the packet's own.
    Normal,
    /// An ICMP error: `tuple` is that of the quoted packet, reversed, so that it has the
    /// direction in which the error travels.
    Related,
    /// Malformed, or nothing that conntrack can look at.
    Invalid,
}

/// A packet as conntrack sees it.
#[derive(Clone, Copy, Debug)]
pub struct CtPacket {
    pub tuple: Tuple,
    pub zone: u16,
    pub kind: Kind,
    /// Meaningful for TCP.
    pub seg: Segment,
    /// Cleared by the caller when a checksum was found wrong.
    pub checksum_ok: bool,
}

impl CtPacket {
    /// Reads a packet. Addresses and ports come from the key, because actions before `ct` may
    /// have rewritten them; everything else from `l4`, the bytes from the transport header to
    /// the end of the datagram.
    pub fn from_key(key: &FlowKey, l4: &[u8], zone: u16) -> Self {
        let v6 = key.eth_type == 0x86dd;
        let (src, dst) = if v6 {
            (key.ipv6_src, key.ipv6_dst)
        } else {
            (u128::from(key.ip_src), u128::from(key.ip_dst))
        };
        let (proto, sport, dport) = (key.ip_proto, key.tp_src, key.tp_dst);
        let tuple = Tuple { src, dst, sport, dport, proto, v6 };
        let mut p =
            Self { tuple, zone, kind: Kind::Invalid, seg: Segment::default(), checksum_ok: true };
        let is_ip = v6 || key.eth_type == 0x0800;
        // A datagram in pieces is put together before it comes here; a piece is nothing.
        if is_ip && key.ip_frag & FRAG_ANY == 0 {
            p.kind = p.read_l4(l4);
            if p.kind == Kind::Normal && p.tuple.is_icmp() {
                // From the key: an earlier translation has not reached the bytes yet.
                p.tuple.sport = key.icmp_id;
            }
        }
        p
    }

    /// The tuple of a packet that no action has changed, where its key has it. `None`: it is a
    /// fragment, of ICMP, or not of IP.
    #[inline]
    pub fn tuple_of(key: &PacketKey) -> Option<Tuple> {
        let base = &key.base;
        let is_known = base.ip_frag == 0
            && base.shape & shape::L3_VALID != 0
            && !matches!(base.ip_proto, ICMP | ICMPV6);
        let v6 = base.eth_type == 0x86dd_u16.to_be_bytes();
        if !is_known || !v6 && base.eth_type != 0x0800_u16.to_be_bytes() {
            return None;
        }
        let (src, dst) = addresses(key, v6);
        let (mut sport, mut dport) =
            (u16::from_be_bytes(base.tp_src), u16::from_be_bytes(base.tp_dst));
        if !matches!(base.ip_proto, TCP | UDP | SCTP) {
            (sport, dport) = (0, 0);
        }
        Some(Tuple { src, dst, sport, dport, proto: base.ip_proto, v6 })
    }

    /// Reads such a packet, or one of ICMP that quotes no other. `None`: only
    /// [`CtPacket::from_key`] reads it.
    #[inline]
    pub fn from_packet(key: &PacketKey, l4: &[u8], zone: u16) -> Option<Self> {
        let Some(tuple) = Self::tuple_of(key) else { return Self::of_icmp(key, l4, zone) };
        let seg = Segment::default();
        let mut p = Self { tuple, zone, kind: Kind::Invalid, seg, checksum_ok: true };
        p.kind = p.read_l4(l4);
        Some(p)
    }

    #[inline(never)]
    fn of_icmp(key: &PacketKey, l4: &[u8], zone: u16) -> Option<Self> {
        let base = &key.base;
        let is_ip = base.eth_type == 0x0800_u16.to_be_bytes() && base.ip_proto == ICMP
            || base.eth_type == 0x86dd_u16.to_be_bytes() && base.ip_proto == ICMPV6;
        if !is_ip || base.ip_frag != 0 || base.shape & shape::L3_VALID == 0 {
            return None;
        }
        let v6 = base.ip_proto == ICMPV6;
        let (src, dst) = addresses(key, v6);
        let number = u16::from_be_bytes;
        let (sport, dport) = (number(base.tp_src), number(base.tp_dst));
        let tuple = Tuple { src, dst, sport, dport, proto: base.ip_proto, v6 };
        let seg = Segment::default();
        let mut p = Self { tuple, zone, kind: Kind::Invalid, seg, checksum_ok: true };
        p.kind = p.read_l4(l4);
        match p.kind {
            Kind::Related => return None,
            Kind::Normal => p.tuple.sport = number(*l4.get(4..)?.first_chunk()?),
            Kind::Invalid => {}
        }
        Some(p)
    }

    /// A narrow packet that is valid.
    pub fn of_narrow(n: &Narrow, seg: &Segment, zone: u16) -> Self {
        Self { tuple: n.tuple(), zone, kind: Kind::Normal, seg: *seg, checksum_ok: true }
    }

    /// What the transport header of a narrow packet says; `None` if the packet is invalid.
    #[inline(always)]
    pub fn narrow_segment(n: &Narrow, l4: &[u8]) -> Option<Segment> {
        if n.ports & 0xffff == 0 || n.ports >> 16 == 0 {
            return None;
        }
        match n.proto {
            UDP if udp_len_ok(l4) => Some(Segment::default()),
            UDP => None,
            _ => match Segment::parse(l4) {
                Some(seg) if !tcp::flags_impossible(seg.flags) => Some(seg),
                _ => None,
            },
        }
    }

    /// Whether a packet of no connection may begin one: what answers (a SYN with an ACK, the reply
    /// to a query) is invalid where nobody asked (Open vSwitch's `valid_new`, Linux
    /// `nf_conntrack_proto_icmp.c`).
    pub(super) fn may_open(&self) -> bool {
        match self.tuple.proto {
            TCP => tcp::may_open(&self.seg),
            _ if self.tuple.is_icmp() => {
                let kind = self.tuple.dport >> 8;
                if self.tuple.v6 { kind == 128 } else { matches!(kind, 8 | 13 | 15 | 17) }
            }
            _ => true,
        }
    }

    /// Checks the transport header and completes `tuple` and `seg`.
    fn read_l4(&mut self, l4: &[u8]) -> Kind {
        let normal_if = |good: bool| if good { Kind::Normal } else { Kind::Invalid };
        let ports = self.tuple.sport != 0 && self.tuple.dport != 0;
        match self.tuple.proto {
            TCP => match Segment::parse(l4) {
                Some(seg) if ports && !tcp::flags_impossible(seg.flags) => {
                    self.seg = seg;
                    Kind::Normal
                }
                _ => Kind::Invalid,
            },
            UDP => normal_if(ports && udp_len_ok(l4)),
            SCTP => normal_if(ports && l4.len() >= 12),
            _ if self.tuple.is_icmp() => self.read_icmp(l4),
            ICMP | ICMPV6 => Kind::Invalid,
            _ => {
                (self.tuple.sport, self.tuple.dport) = (0, 0);
                Kind::Normal
            }
        }
    }

    fn read_icmp(&mut self, l4: &[u8]) -> Kind {
        if l4.len() < 8 {
            return Kind::Invalid;
        }
        // From the key, as the ports are: what actions have changed has not reached the bytes yet.
        let (kind, code) = (self.tuple.sport as u8, self.tuple.dport as u8);
        if icmp_error::is_error(self.tuple.v6, kind) {
            let Some(quoted) = icmp_error::quoted_tuple(&l4[8..], self.tuple.v6) else {
                return Kind::Invalid;
            };
            // The error goes to the one who sent the quoted packet.
            if quoted.src != self.tuple.dst {
                return Kind::Invalid;
            }
            self.tuple = quoted.reversed();
            return Kind::Related;
        }
        if code != 0 || icmp_answer(self.tuple.v6, kind).is_none() {
            return Kind::Invalid;
        }
        self.tuple.dport = u16::from(kind) << 8;
        Kind::Normal
    }
}

/// The UDP length field covers its own header and no more than the datagram.
#[inline(always)]
fn udp_len_ok(l4: &[u8]) -> bool {
    let Some(&[_, _, _, _, a, b, _, _]) = l4.first_chunk::<8>() else { return false };
    let len = usize::from(u16::from_be_bytes([a, b]));
    (8..=l4.len()).contains(&len)
}

#[cfg(test)]
mod tests;
