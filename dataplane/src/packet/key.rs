//! The two keys of a packet.
//!
//! `PacketKey` is what parsing lifts from the bytes, packed for hashing and comparing: 40
//! bytes for the common packet, a second line (`KeyL3`) for IPv6, ARP and ND, a third
//! (`KeyTunnel`) for packets that came out of a tunnel, a fourth (`KeyStack`) for what is rare:
//! MPLS labels, a second tag, long tunnel options. It holds *everything* that tables can see of
//! a packet, so two packets with equal `PacketKey` take the same walk.
//!
//! `FlowKey` is what the walk works on: every field of the language in host order, also those
//! that no packet carries (registers, metadata, connection state). It is made from the
//! `PacketKey` alone ([`FlowKey::from_packet`]), never from the bytes: that is the proof that
//! the cache key is wide enough.
//!
//! **Behind MPLS labels** the key holds what a flow may bring to light by `pop_mpls`: the IP, ARP
//! and transport fields of the payload, read as its first bits suggest. Flows cannot see them
//! before, because each of those fields has an `eth_type` that it needs. So popping labels needs no
//! bytes and no second parse, and what was changed there before a push is still known after it.
//!
//! A `FlowKey` is also a `Mask`: a one bit says that the bit matters. Both are 50 words of 64
//! bits to the classifier; `field.rs` names the bit ranges.

use crate::wire::ether;
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

/// Index of a port in the switch; not the OpenFlow number, which is per bridge.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct PortIx(pub u16);

impl PortIx {
    pub const NONE: PortIx = PortIx(u16::MAX);
}

/// Bits of `KeyBase::shape`.
pub mod shape {
    /// `KeyL3` is part of the key: IPv6, ARP or RARP.
    pub const L3: u8 = 1;
    /// `KeyTunnel` is part of the key.
    pub const TUNNEL: u8 = 2;
    /// The tunnel's addresses are IPv6.
    pub const TUNNEL_V6: u8 = 4;
    /// The network header was there and sane (lengths, version), so L3 fields are set.
    pub const L3_VALID: u8 = 8;
    /// The transport header was there, so L4 fields are set.
    pub const L4_VALID: u8 = 16;
    /// The outer tag is a service tag (TPID 0x88a8); else, if there is one, 0x8100.
    pub const STAG: u8 = 32;
    /// `KeyStack` is part of the key.
    pub const STACK: u8 = 64;
}

/// What `KeyStack::payload` says of a packet with MPLS labels.
pub mod payload {
    /// Nothing that is understood.
    pub const OTHER: u8 = 0;
    /// ARP or RARP.
    pub const ARP: u8 = 1;
    pub const IPV4: u8 = 4;
    pub const IPV6: u8 = 6;
}

/// MPLS labels that are known; those behind them are payload (Open vSwitch:
/// `FLOW_MAX_MPLS_LABELS`).
pub const MPLS_LABELS_MAX: usize = 3;

/// Bytes of tunnel options that a bridge can map; in words of four.
pub const TUN_METADATA_BYTES: usize = 64;

/// Bits of `ip_frag`, as in OVS: a fragment; not the first one.
pub const FRAG_ANY: u8 = 1;
pub const FRAG_LATER: u8 = 2;

/// "A tag is present", in the place of the CFI bit (OpenFlow 1.2 `OFPVID_PRESENT`).
pub const VLAN_PRESENT: u16 = 0x1000;

/// First line: all of an untunnelled IPv4 packet. Multi-byte numbers are big-endian as on the
/// wire, so that parsing copies instead of converting.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, KnownLayout, Immutable,
)]
#[repr(C, align(8))]
pub struct KeyBase {
    pub eth_dst: [u8; 6],
    pub eth_src: [u8; 6],
    /// Type behind the tags; 802.3 length frames: 0x05ff, as in OpenFlow.
    pub eth_type: [u8; 2],
    /// Outer tag with `VLAN_PRESENT` set; 0 if untagged.
    pub vlan_tci: [u8; 2],
    /// `PortIx`, native order.
    pub in_port: u16,
    pub shape: u8,
    pub ip_frag: u8,
    /// IP protocol; ARP: low byte of the operation.
    pub ip_proto: u8,
    pub ip_tos: u8,
    pub ip_ttl: u8,
    pub pad: u8,
    /// IPv4 addresses; ARP: sender and target protocol address. Zero for IPv6.
    pub ip_src: [u8; 4],
    pub ip_dst: [u8; 4],
    /// TCP, UDP, SCTP ports; ICMP and ICMPv6: type and code in the low bytes.
    pub tp_src: [u8; 2],
    pub tp_dst: [u8; 2],
    pub tcp_flags: [u8; 2],
    /// Identifier of an ICMP or ICMPv6 query (echo and its kin); 0 for all else. No flow can match
    /// it, but connection tracking tells pings apart by it.
    pub icmp_id: [u8; 2],
}

/// Second line: IPv6 with neighbour discovery, or ARP hardware addresses.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, KnownLayout, Immutable,
)]
#[repr(C, align(8))]
pub struct KeyL3 {
    pub ipv6_src: [u8; 16],
    pub ipv6_dst: [u8; 16],
    pub nd_target: [u8; 16],
    /// ARP sender, or ND source link-layer address.
    pub arp_sha: [u8; 6],
    /// ARP target, or ND target link-layer address.
    pub arp_tha: [u8; 6],
    pub ipv6_label: [u8; 4],
}

/// Tunnel option bytes that fit the third line; the others are in the fourth.
pub const OPTIONS_IN_TUNNEL: usize = 16;
const OPTIONS_IN_STACK: usize = TUN_METADATA_BYTES - OPTIONS_IN_TUNNEL;

/// Third line: the tunnel that the packet came out of. IPv4 addresses are in the last four
/// bytes, the rest zero.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, KnownLayout, Immutable,
)]
#[repr(C, align(8))]
pub struct KeyTunnel {
    pub tun_id: [u8; 8],
    pub tun_src: [u8; 16],
    pub tun_dst: [u8; 16],
    /// Tunnel flags as OVS shows them: OAM, checksum, key (native order).
    pub tun_flags: u16,
    pub tun_tos: u8,
    pub tun_ttl: u8,
    /// `FlowKey::tun_present`, native order.
    pub present: u16,
    pub pad: [u8; 2],
    /// The first bytes of `FlowKey::tun_metadata`.
    pub options: [u8; OPTIONS_IN_TUNNEL],
}

/// Fourth line: stacked headers.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, KnownLayout, Immutable,
)]
#[repr(C, align(8))]
pub struct KeyStack {
    /// MPLS label stack entries, outermost first; zero behind the last.
    pub mpls: [[u8; 4]; MPLS_LABELS_MAX],
    /// Second tag, with `VLAN_PRESENT`; 0 if there is none.
    pub inner_tci: [u8; 2],
    /// What is behind the labels: a value of [`payload`].
    pub payload: u8,
    /// `STAG` of the second tag; `L3_VALID` and `L4_VALID` of what is behind the labels.
    pub shape: u8,
    /// The rest of `FlowKey::tun_metadata`.
    pub options: [[u8; 8]; OPTIONS_IN_STACK / 8],
}

const _: () = assert!(size_of::<KeyBase>() == 40);
const _: () = assert!(size_of::<KeyL3>() == 64);
const _: () = assert!(size_of::<KeyTunnel>() == 64);
const _: () = assert!(size_of::<KeyStack>() == 64);

/// All that tables can see of a packet. `l3`, `tunnel` and `stack` are meaningful only when
/// `shape` says so; they are zeroed otherwise only when written for the first time (`parse` leaves
/// stale bytes: whoever hashes or compares looks at `shape` first).
#[derive(Clone, Copy, Debug, Default)]
#[repr(C, align(64))]
pub struct PacketKey {
    pub base: KeyBase,
    pub l3: KeyL3,
    pub tunnel: KeyTunnel,
    pub stack: KeyStack,
}

impl PacketKey {
    #[inline]
    pub fn has_l3(&self) -> bool {
        self.base.shape & shape::L3 != 0
    }

    #[inline]
    pub fn has_tunnel(&self) -> bool {
        self.base.shape & shape::TUNNEL != 0
    }

    #[inline]
    pub fn has_stack(&self) -> bool {
        self.base.shape & shape::STACK != 0
    }

    /// The EtherType of the innermost payload that is understood, and which of its headers are
    /// good: behind MPLS labels what is there, else what the packet says. 0: nothing that is
    /// understood behind the labels.
    pub fn innermost(&self) -> (u16, u8) {
        let eth_type = u16::from_be_bytes(self.base.eth_type);
        if !is_mpls(eth_type) {
            return (eth_type, self.base.shape);
        }
        if !self.has_stack() {
            return (0, 0);
        }
        let eth_type = match self.stack.payload {
            payload::IPV4 => ether::TYPE_IPV4,
            payload::IPV6 => ether::TYPE_IPV6,
            payload::ARP => ether::TYPE_ARP,
            _ => 0,
        };
        (eth_type, self.stack.shape)
    }
}

/// Whether an EtherType announces MPLS labels.
#[inline]
pub fn is_mpls(eth_type: u16) -> bool {
    matches!(eth_type, ether::TYPE_MPLS | ether::TYPE_MPLS_MULTICAST)
}

impl PartialEq for PacketKey {
    fn eq(&self, other: &Self) -> bool {
        self.base == other.base
            && (!self.has_l3() || self.l3 == other.l3)
            && (!self.has_tunnel() || self.tunnel == other.tunnel)
            && (!self.has_stack() || self.stack == other.stack)
    }
}

mod flow;

pub use flow::{FlowKey, KEY_WORDS, Mask, mac_bytes, mac_number};
