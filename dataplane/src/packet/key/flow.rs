//! The key that a walk works on: every field of the language.

use super::{
    KeyStack, KeyTunnel, MPLS_LABELS_MAX, OPTIONS_IN_TUNNEL, PacketKey, TUN_METADATA_BYTES,
};
use super::{is_mpls, shape};
use crate::wire::{ether, mpls};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

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
    /// Data of mapped tunnel options, each as a number of its own length in host order at the
    /// place that the bridge's map gives it.
    pub tun_metadata: [u8; TUN_METADATA_BYTES],
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
    /// MPLS label stack entries, outermost first. The second and third show when the first goes.
    pub mpls_lse: [u32; MPLS_LABELS_MAX],
    /// Second tag, and its TPID: they show when the first goes.
    pub inner_tci: u16,
    pub inner_tpid: u16,
    /// Identifier of an ICMP query: no flow sees it, connection tracking does.
    pub icmp_id: u16,
    /// Which tunnel options are there: bit n for the one whose data starts at the n-th four bytes.
    pub tun_present: u16,
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
    /// 1 after labels were popped to a type that the payload is not: its fields are gone.
    pub l3_lost: u8,
    pub pad: [u8; 3],
}

/// Words of 64 bits in a `FlowKey`.
pub const KEY_WORDS: usize = 50;

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
        for field in crate::packet::field::FIELDS.iter().filter(|f| f.is_primary) {
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

impl PacketKey {
    /// Makes it the key of a packet that came by the tunnel that `k` describes.
    pub fn came_by_tunnel(&mut self, k: &FlowKey) {
        let is_v6 = k.tun_ipv6_src != 0 || k.tun_ipv6_dst != 0;
        let (src, dst) = match is_v6 {
            true => (k.tun_ipv6_src, k.tun_ipv6_dst),
            false => (k.tun_src.into(), k.tun_dst.into()),
        };
        self.base.shape |= shape::TUNNEL | if is_v6 { shape::TUNNEL_V6 } else { 0 };
        self.tunnel = KeyTunnel {
            tun_id: k.tun_id.to_be_bytes(),
            tun_src: src.to_be_bytes(),
            tun_dst: dst.to_be_bytes(),
            tun_flags: k.tun_flags,
            tun_tos: k.tun_tos,
            tun_ttl: k.tun_ttl,
            ..KeyTunnel::default()
        };
        self.set_options(&k.tun_metadata, k.tun_present);
    }

    /// Tunnel options, whose later bytes make the fourth line part of the key.
    pub fn set_options(&mut self, area: &[u8; TUN_METADATA_BYTES], present: u16) {
        let (first, rest) = area.split_at(OPTIONS_IN_TUNNEL);
        self.tunnel.present = present;
        self.tunnel.options.copy_from_slice(first);
        if rest.iter().all(|b| *b == 0) {
            return;
        }
        if !self.has_stack() {
            self.stack = KeyStack::default();
            self.base.shape |= shape::STACK;
        }
        self.stack.options.as_flattened_mut().copy_from_slice(rest);
    }
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
        tun_metadata: [0; TUN_METADATA_BYTES],
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
        mpls_lse: [0; MPLS_LABELS_MAX],
        inner_tci: 0,
        inner_tpid: 0,
        icmp_id: 0,
        tun_present: 0,
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
        l3_lost: 0,
        pad: [0; 3],
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
            k.tun_present = p.tunnel.present;
            k.tun_metadata[..OPTIONS_IN_TUNNEL].copy_from_slice(&p.tunnel.options);
        }
        if p.has_stack() {
            k.unstack(&p.stack);
        }
        k
    }

    /// Whether a tunnel that the packet came by is described.
    pub fn has_tunnel(&self) -> bool {
        self.tun_id != 0
            || self.tun_src != 0
            || self.tun_dst != 0
            || self.tun_ipv6_src != 0
            || self.tun_ipv6_dst != 0
            || self.tun_flags != 0
            || self.tun_present != 0
    }

    #[cold]
    fn unstack(&mut self, s: &KeyStack) {
        self.mpls_lse = s.mpls.map(u32::from_be_bytes);
        self.inner_tci = u16::from_be_bytes(s.inner_tci);
        self.inner_tpid = match (s.inner_tci, s.shape & shape::STAG) {
            ([0, 0], _) => 0,
            (_, 0) => ether::TYPE_VLAN,
            _ => ether::TYPE_QINQ,
        };
        self.tun_metadata[OPTIONS_IN_TUNNEL..].copy_from_slice(s.options.as_flattened());
    }

    /// MPLS labels that are known, counted as Open vSwitch does: up to the bottom of the stack.
    pub fn mpls_labels(&self) -> usize {
        if !is_mpls(self.eth_type) {
            return 0;
        }
        let bottom = self.mpls_lse.iter().position(|l| l & mpls::BOS != 0);
        bottom.map_or_else(|| self.mpls_lse.iter().filter(|l| **l != 0).count(), |at| at + 1)
    }

    /// Forgets all that is known of the payload behind Ethernet: it is not what it is called.
    pub fn lose_l3(&mut self) {
        *self = Self {
            l3_lost: 1,
            ip_src: 0,
            ip_dst: 0,
            ip_proto: 0,
            ip_tos: 0,
            ip_ttl: 0,
            ip_frag: 0,
            ipv6_src: 0,
            ipv6_dst: 0,
            ipv6_label: 0,
            nd_target: 0,
            arp_sha: 0,
            arp_tha: 0,
            tp_src: 0,
            tp_dst: 0,
            tcp_flags: 0,
            icmp_id: 0,
            ..*self
        };
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
