//! The two keys of a packet.
//!
//! `PacketKey` is what parsing lifts from the bytes, packed for hashing and comparing: 40
//! bytes for the common packet, a second line (`KeyL3`) for IPv6, ARP and ND, a third
//! (`KeyTunnel`) for packets that came out of a tunnel. It holds *everything* that tables can
//! see of a packet, so two packets with equal `PacketKey` take the same walk.
//!
//! `FlowKey` is what the walk works on: every field of the language in host order, also those
//! that no packet carries (registers, metadata, connection state). It is made from the
//! `PacketKey` alone ([`FlowKey::from_packet`]), never from the bytes: that is the proof that
//! the cache key is wide enough.
//!
//! A `FlowKey` is also a `Mask`: a one bit says that the bit matters. Both are 40 words of 64
//! bits to the classifier; `field.rs` names the bit ranges.

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
}

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
    pub pad: [u8; 4],
    /// Geneve option data, for a later room; zero.
    pub options: [u8; 16],
}

const _: () = assert!(size_of::<KeyBase>() == 40);
const _: () = assert!(size_of::<KeyL3>() == 64);
const _: () = assert!(size_of::<KeyTunnel>() == 64);

/// All that tables can see of a packet. `l3` and `tunnel` are meaningful only when `shape`
/// says so; they are zeroed otherwise only when written for the first time (`parse` leaves
/// stale bytes: whoever hashes or compares looks at `shape` first).
#[derive(Clone, Copy, Debug, Default)]
#[repr(C, align(64))]
pub struct PacketKey {
    pub base: KeyBase,
    pub l3: KeyL3,
    pub tunnel: KeyTunnel,
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
}

impl PartialEq for PacketKey {
    fn eq(&self, other: &Self) -> bool {
        self.base == other.base
            && (!self.has_l3() || self.l3 == other.l3)
            && (!self.has_tunnel() || self.tunnel == other.tunnel)
    }
}

/// Every field of the language. See `field.rs` for names and bit ranges.
#[derive(Clone, Copy, PartialEq, Eq, Hash, FromBytes, IntoBytes, KnownLayout, Immutable)]
#[repr(C, align(16))]
pub struct FlowKey {
    /// `xxreg0..3`; `reg0` is the highest 32 bits of `xxreg0`, `xreg0` the highest 64.
    pub xxreg: [u128; 4],
    pub ct_label: u128,
    pub ipv6_src: u128,
    pub ipv6_dst: u128,
    pub nd_target: u128,
    pub tun_ipv6_src: u128,
    pub tun_ipv6_dst: u128,
    pub ct_ipv6_src: u128,
    pub ct_ipv6_dst: u128,
    pub metadata: u64,
    pub tun_id: u64,
    pub eth_dst: u64,
    pub eth_src: u64,
    /// ARP sender, ND source link-layer address.
    pub arp_sha: u64,
    /// ARP target, ND target link-layer address.
    pub arp_tha: u64,
    /// OpenFlow port number in the bridge that is being walked.
    pub in_port: u32,
    pub tun_src: u32,
    pub tun_dst: u32,
    pub pkt_mark: u32,
    pub ct_mark: u32,
    /// IPv4, or ARP sender protocol address.
    pub ip_src: u32,
    /// IPv4, or ARP target protocol address.
    pub ip_dst: u32,
    pub ipv6_label: u32,
    pub ct_nw_src: u32,
    pub ct_nw_dst: u32,
    pub conj_id: u32,
    /// Identifier of an ICMP query: no flow sees it, connection tracking does.
    pub icmp_id: u16,
    pub spare: u16,
    pub eth_type: u16,
    pub vlan_tci: u16,
    pub vlan_tpid: u16,
    /// Transport source port, or ICMP type.
    pub tp_src: u16,
    /// Transport destination port, or ICMP code.
    pub tp_dst: u16,
    pub tcp_flags: u16,
    pub ct_zone: u16,
    pub ct_tp_src: u16,
    pub ct_tp_dst: u16,
    pub tun_flags: u16,
    /// IP protocol, or ARP operation.
    pub ip_proto: u8,
    pub ip_tos: u8,
    pub ip_ttl: u8,
    pub ip_frag: u8,
    pub ct_state: u8,
    pub ct_nw_proto: u8,
    pub tun_tos: u8,
    pub tun_ttl: u8,
    pub pad: [u8; 4],
}

/// Words of 64 bits in a `FlowKey`.
pub const KEY_WORDS: usize = 40;

const _: () = assert!(size_of::<FlowKey>() == KEY_WORDS * 8);

/// A set of bits of a `FlowKey`.
pub type Mask = FlowKey;

impl Default for FlowKey {
    fn default() -> Self {
        Self::ZERO
    }
}

impl std::fmt::Debug for FlowKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let mut set = f.debug_map();
        for field in super::field::FIELDS.iter().filter(|f| f.is_primary) {
            let v = field.get(self);
            if v != 0 {
                set.entry(&field.name, &format_args!("{v:#x}"));
            }
        }
        set.finish()
    }
}

#[inline]
fn be48(b: &[u8; 6]) -> u64 {
    u64::from_be_bytes([0, 0, b[0], b[1], b[2], b[3], b[4], b[5]])
}

/// The low 48 bits as a MAC address.
#[inline]
pub fn mac_bytes(v: u64) -> [u8; 6] {
    let [_, _, a, b, c, d, e, f] = v.to_be_bytes();
    [a, b, c, d, e, f]
}

/// A MAC address as a number, first byte highest.
#[inline]
pub fn mac_number(b: [u8; 6]) -> u64 {
    be48(&b)
}

impl FlowKey {
    pub const ZERO: Self = Self {
        xxreg: [0; 4],
        ct_label: 0,
        ipv6_src: 0,
        ipv6_dst: 0,
        nd_target: 0,
        tun_ipv6_src: 0,
        tun_ipv6_dst: 0,
        ct_ipv6_src: 0,
        ct_ipv6_dst: 0,
        metadata: 0,
        tun_id: 0,
        eth_dst: 0,
        eth_src: 0,
        arp_sha: 0,
        arp_tha: 0,
        in_port: 0,
        tun_src: 0,
        tun_dst: 0,
        pkt_mark: 0,
        ct_mark: 0,
        ip_src: 0,
        ip_dst: 0,
        ipv6_label: 0,
        ct_nw_src: 0,
        ct_nw_dst: 0,
        conj_id: 0,
        icmp_id: 0,
        spare: 0,
        eth_type: 0,
        vlan_tci: 0,
        vlan_tpid: 0,
        tp_src: 0,
        tp_dst: 0,
        tcp_flags: 0,
        ct_zone: 0,
        ct_tp_src: 0,
        ct_tp_dst: 0,
        tun_flags: 0,
        ip_proto: 0,
        ip_tos: 0,
        ip_ttl: 0,
        ip_frag: 0,
        ct_state: 0,
        ct_nw_proto: 0,
        tun_tos: 0,
        tun_ttl: 0,
        pad: [0; 4],
    };

    /// Expands a packet's key. `in_port` is the OpenFlow number in the bridge to be walked.
    pub fn from_packet(p: &PacketKey, in_port: u32) -> Self {
        let b = &p.base;
        let mut k = Self {
            in_port,
            eth_dst: be48(&b.eth_dst),
            eth_src: be48(&b.eth_src),
            eth_type: u16::from_be_bytes(b.eth_type),
            vlan_tci: u16::from_be_bytes(b.vlan_tci),
            vlan_tpid: match (b.vlan_tci, b.shape & shape::STAG) {
                ([0, 0], _) => 0,
                (_, 0) => 0x8100,
                _ => 0x88a8,
            },
            ip_frag: b.ip_frag,
            ip_proto: b.ip_proto,
            ip_tos: b.ip_tos,
            ip_ttl: b.ip_ttl,
            ip_src: u32::from_be_bytes(b.ip_src),
            ip_dst: u32::from_be_bytes(b.ip_dst),
            tp_src: u16::from_be_bytes(b.tp_src),
            tp_dst: u16::from_be_bytes(b.tp_dst),
            tcp_flags: u16::from_be_bytes(b.tcp_flags),
            icmp_id: u16::from_be_bytes(b.icmp_id),
            ..Self::ZERO
        };
        if p.has_l3() {
            k.ipv6_src = u128::from_be_bytes(p.l3.ipv6_src);
            k.ipv6_dst = u128::from_be_bytes(p.l3.ipv6_dst);
            k.nd_target = u128::from_be_bytes(p.l3.nd_target);
            k.arp_sha = be48(&p.l3.arp_sha);
            k.arp_tha = be48(&p.l3.arp_tha);
            k.ipv6_label = u32::from_be_bytes(p.l3.ipv6_label);
        }
        if p.has_tunnel() {
            let (src, dst) =
                (u128::from_be_bytes(p.tunnel.tun_src), u128::from_be_bytes(p.tunnel.tun_dst));
            if b.shape & shape::TUNNEL_V6 != 0 {
                k.tun_ipv6_src = src;
                k.tun_ipv6_dst = dst;
            } else {
                k.tun_src = src as u32;
                k.tun_dst = dst as u32;
            }
            k.tun_id = u64::from_be_bytes(p.tunnel.tun_id);
            k.tun_flags = p.tunnel.tun_flags;
            k.tun_tos = p.tunnel.tun_tos;
            k.tun_ttl = p.tunnel.tun_ttl;
        }
        k
    }

    /// The key as the classifier sees it.
    #[inline]
    pub fn words(&self) -> &[u64; KEY_WORDS] {
        zerocopy::transmute_ref!(self)
    }

    #[inline]
    pub fn words_mut(&mut self) -> &mut [u64; KEY_WORDS] {
        zerocopy::transmute_mut!(self)
    }

    /// Bit-wise and.
    pub fn and(&self, mask: &Mask) -> Self {
        let mut out = *self;
        for (w, m) in out.words_mut().iter_mut().zip(mask.words()) {
            *w &= m;
        }
        out
    }

    /// Bit-wise or, in place.
    pub fn or_assign(&mut self, other: &Mask) {
        for (w, m) in self.words_mut().iter_mut().zip(other.words()) {
            *w |= m;
        }
    }

    /// Whether the two agree on every bit of `mask`.
    pub fn matches(&self, value: &FlowKey, mask: &Mask) -> bool {
        let it = self.words().iter().zip(value.words()).zip(mask.words());
        it.fold(0, |acc, ((a, b), m)| acc | ((a ^ b) & m)) == 0
    }
}
