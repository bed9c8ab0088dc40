//! Which packet fields a program can see: the mask of tier 1.
//!
//! A bit may be left out of the cache key only if no walk can depend on it. A walk depends on
//! - what rules match, anywhere in the program (one mask for all tables: coarse, but safe);
//! - what actions read: sources of `move`, the zone of `ct`, prerequisites;
//! - what actions write: steps hold whole fields and are emitted only where the value differs from
//!   the packet's, so the packet's value of the whole field decides;
//! - what `ct` looks up (addresses, ports, protocol), what NORMAL looks up (MACs, VLAN), what a
//!   tunnel port takes from the packet's own tunnel fields.
//!
//! Always kept: the in_port, the shape, Ethernet type, IP protocol, fragment bits, the VLAN
//! presence bit, and the whole lines of tunnel and stacked headers.
//!
//! What does not come from the key (frame length, TCP sequence numbers, MAC table,
//! connections) is covered by guards instead.

use crate::action::group::{Group, GroupKind, Selection};
use crate::action::learn::{Learn, LearnSource};
use crate::action::{Action, Ct, Nat, Set, SetOwn, Zone};
use crate::cache::KeyMask;
use crate::packet::field::{FIELDS, Field, Prereq, Subfield};
use crate::packet::key::{FlowKey, KeyStack, KeyTunnel, Mask, PacketKey};
use crate::packet::key::{VLAN_PRESENT, mac_bytes};
use crate::pipeline::rule::Rule;

/// Gathers what rules can see.
pub struct Visible {
    mask: Mask,
    tracks: bool,
}

impl Default for Visible {
    fn default() -> Self {
        Self { mask: always(), tracks: false }
    }
}

impl Visible {
    /// Adds what a group can see.
    pub fn add_group(&mut self, g: &Group) {
        of_group(g, &mut self.mask);
        self.tracks |= g.buckets.iter().any(|b| b.actions.iter().any(tracks));
    }

    /// Adds what a rule can see.
    pub fn add(&mut self, r: &Rule) {
        self.mask.or_assign(r.matching.mask());
        for a in r.actions.iter() {
            of_action(a, &mut self.mask);
        }
        self.tracks |= r.actions.iter().any(tracks);
    }

    /// The mask for all that was added.
    pub fn key_mask(&self) -> KeyMask {
        let mut mask = self.mask;
        if self.tracks {
            looked_up(&mut mask);
        }
        in_packet(&mask, self.tracks)
    }
}

/// What every walk depends on.
pub fn always() -> Mask {
    FlowKey {
        eth_type: 0xffff,
        ip_proto: 0xff,
        ip_frag: 0xff,
        vlan_tci: VLAN_PRESENT,
        vlan_tpid: 0xffff,
        ..FlowKey::ZERO
    }
}

/// A mask of fields as a mask of packet keys. The port of entry, the shape and the tunnel line
/// always count.
pub fn in_packet(mask: &Mask, tracks: bool) -> KeyMask {
    let mut packet = to_packet(mask);
    packet.base.shape = 0xff;
    packet.base.in_port = 0xffff;
    packet.base.pad = 0;
    // Two pings are two connections.
    if tracks {
        packet.base.icmp_id = [0xff; 2];
    }
    packet.tunnel = KeyTunnel {
        tun_id: [0xff; 8],
        tun_src: [0xff; 16],
        tun_dst: [0xff; 16],
        tun_flags: 0xffff,
        tun_tos: 0xff,
        tun_ttl: 0xff,
        present: 0xffff,
        pad: [0; 2],
        options: [0xff; 16],
    };
    packet.stack = KeyStack {
        mpls: [[0xff; 4]; 3],
        inner_tci: [0xff; 2],
        payload: 0xff,
        shape: 0xff,
        options: [[0xff; 8]; 6],
    };
    KeyMask::new(&packet)
}

/// Whether rules of a program with this mask track connections.
pub fn is_tracking(mask: &KeyMask) -> bool {
    let mut packet = PacketKey::default();
    packet.base.icmp_id = [0xff; 2];
    KeyMask::new(&packet).base.iter().zip(&mask.base).any(|(id, own)| id & own != 0)
}

/// What a list of actions reads and writes. Groups add what they do when they are run.
pub fn of_actions(list: &[Action]) -> Mask {
    let mut mask = FlowKey::ZERO;
    add_actions(list, &mut mask);
    mask
}

/// The same, added to a mask.
pub fn add_actions(list: &[Action], mask: &mut Mask) {
    list.iter().for_each(|a| of_action(a, mask));
}

fn tracks(a: &Action) -> bool {
    match a {
        Action::Ct(_) => true,
        Action::Clone(list) | Action::WriteActions(list) => list.iter().any(tracks),
        _ => false,
    }
}

fn whole(f: Field, mask: &mut Mask) {
    f.info().whole().or_into(mask);
}

fn of_prereq(p: Prereq, mask: &mut Mask) {
    if matches!(p, Prereq::Nd | Prereq::NdSolicit | Prereq::NdAdvert) {
        whole(Field::Icmpv6Type, mask);
    }
}

/// A range that is read.
fn of_range(s: Subfield, mask: &mut Mask) {
    s.or_into(mask);
}

/// A range that is written: the fields that it lies in.
fn of_write(s: Subfield, mask: &mut Mask) {
    let mut bits = FlowKey::ZERO;
    s.or_into(&mut bits);
    for f in FIELDS.iter().filter(|f| f.is_primary && f.get(&bits) != 0) {
        f.whole().or_into(mask);
    }
}

fn of_action(a: &Action, mask: &mut Mask) {
    match a {
        Action::Output(_)
        | Action::OutputOwn(_)
        | Action::InPort
        | Action::Flood
        | Action::All
        | Action::Resubmit { .. }
        | Action::Goto(_)
        | Action::CtClear
        | Action::Exit
        | Action::OutputTruncated { .. }
        | Action::Enqueue { .. }
        | Action::SetQueue(_)
        | Action::PopQueue
        | Action::Group(_)
        | Action::Meter(_)
        | Action::Controller(_)
        | Action::Sample(_)
        | Action::ClearActions
        | Action::WriteMetadata { .. }
        | Action::PopMpls(_)
        | Action::SetMplsTtl(_)
        | Action::DecMplsTtl
        | Action::DeleteField(_) => {}
        Action::FinTimeout { .. } => whole(Field::TcpFlags, mask),
        Action::OutputField(src) | Action::Push { src, .. } => of_range(*src, mask),
        Action::Set(Set { dst, prereq, .. })
        | Action::SetOwn(SetOwn { dst, prereq, .. })
        | Action::Pop { dst, prereq, .. } => {
            of_write(*dst, mask);
            of_prereq(*prereq, mask);
        }
        Action::Learn(learn) => of_learn(learn, mask),
        Action::Multipath(m) => {
            of_hash(mask);
            of_write(m.dst, mask);
        }
        Action::Bundle(b) => {
            of_hash(mask);
            b.dst.into_iter().for_each(|dst| of_write(dst, mask));
        }
        Action::Normal => {
            for f in [Field::EthDst, Field::EthSrc, Field::VlanTci] {
                whole(f, mask);
            }
        }
        Action::Move { src, src_prereq, dst, dst_prereq } => {
            of_range(*src, mask);
            of_write(*dst, mask);
            of_prereq(*src_prereq, mask);
            of_prereq(*dst_prereq, mask);
        }
        Action::ModVlan { .. } | Action::PushVlan { .. } | Action::PopVlan => {
            whole(Field::VlanTci, mask);
        }
        Action::DecTtl | Action::DecTtlFor(_) => whole(Field::IpTtl, mask),
        // The first label takes over what IP says.
        Action::PushMpls(_) => {
            whole(Field::IpTos, mask);
            whole(Field::IpTtl, mask);
        }
        Action::CheckPktLarger { dst, .. } => of_write(*dst, mask),
        Action::Ct(ct) => of_ct(ct, mask),
        Action::Clone(list) | Action::WriteActions(list) => {
            list.iter().for_each(|a| of_action(a, mask));
        }
    }
}

/// What a group's buckets do, and what it chooses by.
pub fn of_group(g: &Group, mask: &mut Mask) {
    g.buckets.iter().for_each(|b| add_actions(&b.actions, mask));
    of_selection(g, mask);
}

/// What a group chooses its bucket by.
pub fn of_selection(g: &Group, mask: &mut Mask) {
    match (g.kind, &g.selection) {
        (GroupKind::Select, Selection::Default | Selection::DpHash { .. }) => of_hash(mask),
        (GroupKind::Select, Selection::Hash { fields, .. }) => {
            for (f, bits) in fields {
                let mut named = FlowKey::ZERO;
                f.info().set(&mut named, *bits);
                mask.or_assign(&named);
                of_prereq(f.info().prereq, mask);
            }
        }
        _ => {}
    }
}

/// All that hashes of `pipeline::choose` may take in.
fn of_hash(mask: &mut Mask) {
    for f in [Field::EthSrc, Field::EthDst, Field::VlanTci] {
        whole(f, mask);
    }
    looked_up(mask);
}

fn of_learn(learn: &Learn, mask: &mut Mask) {
    for spec in &learn.specs {
        if let LearnSource::Field { range, prereq } = spec.source {
            of_range(range, mask);
            of_prereq(prereq, mask);
        }
    }
    learn.result.into_iter().for_each(|dst| of_write(dst, mask));
}

/// Addresses and ports.
fn looked_up(mask: &mut Mask) {
    let fields =
        [Field::IpSrc, Field::IpDst, Field::Ipv6Src, Field::Ipv6Dst, Field::TcpSrc, Field::TcpDst];
    fields.into_iter().for_each(|f| whole(f, mask));
}

/// What `ct` looks up is no part of it: that is asked anew for each packet.
fn of_ct(ct: &Ct, mask: &mut Mask) {
    if let Zone::Field(s) = ct.zone {
        of_range(s, mask);
    }
    ct.exec.iter().for_each(|a| of_action(a, mask));
    // A translation is written over what was looked up, so nothing more is read.
    let (None | Some(Nat::Existing | Nat::New(_))) = &ct.nat;
}

/// A flow key mask in packet form: the inverse of `FlowKey::from_packet`.
pub(super) fn to_packet(m: &Mask) -> PacketKey {
    let mut p = PacketKey::default();
    let b = &mut p.base;
    b.eth_dst = mac_bytes(m.eth_dst);
    b.eth_src = mac_bytes(m.eth_src);
    b.eth_type = m.eth_type.to_be_bytes();
    b.vlan_tci = m.vlan_tci.to_be_bytes();
    b.ip_frag = m.ip_frag;
    b.ip_proto = m.ip_proto;
    b.ip_tos = m.ip_tos;
    b.ip_ttl = m.ip_ttl;
    b.ip_src = m.ip_src.to_be_bytes();
    b.ip_dst = m.ip_dst.to_be_bytes();
    b.tp_src = m.tp_src.to_be_bytes();
    b.tp_dst = m.tp_dst.to_be_bytes();
    b.tcp_flags = m.tcp_flags.to_be_bytes();
    p.l3.ipv6_src = m.ipv6_src.to_be_bytes();
    p.l3.ipv6_dst = m.ipv6_dst.to_be_bytes();
    p.l3.nd_target = m.nd_target.to_be_bytes();
    p.l3.arp_sha = mac_bytes(m.arp_sha);
    p.l3.arp_tha = mac_bytes(m.arp_tha);
    p.l3.ipv6_label = m.ipv6_label.to_be_bytes();
    p
}
