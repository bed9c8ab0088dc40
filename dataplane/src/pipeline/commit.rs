//! From field changes to steps: the difference between what the bytes say and what the flow wants.
//!
//! `base` is the key as the packet's bytes have it after the steps recorded so far, `key` is
//! what the walk has made of it. Only fields that live in a packet are compared; registers and
//! the like never leave the walk. A step names the fields that differ and leaves the others of its
//! header alone.
//!
//! A packet whose `eth_type` promises a header that is not there, or makes no sense, keeps its
//! bytes: `shape` says which headers are good (Open vSwitch: `commit_set_nw_action` does nothing
//! without a protocol, `commit_set_port_action` nothing without ports).
//!
//! **Stacks.** Tags and labels are compared from the innermost: what agrees stays, the rest is
//! popped and pushed anew, and one entry that only changes is written in place. Both keys know the
//! payload behind labels, so a change that is due there (a clone popped the labels and edited the
//! packet, and now it is to leave as it came) takes the labels off, edits, and puts them on again.

use crate::action::step::{Step, Which};
use crate::packet::key::{FlowKey, VLAN_PRESENT, is_mpls, mac_bytes, shape};

const ARP: u16 = 0x0806;
const RARP: u16 = 0x8035;
const IPV4: u16 = 0x0800;
const IPV6: u16 = 0x86dd;

/// What is known of a packet's payload, behind all tags and labels: it does not change on a walk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Payload {
    pub eth_type: u16,
    /// Which of its headers are good.
    pub shape: u8,
}

impl Payload {
    /// Whether the payload can be taken for one of this type.
    pub fn is(self, eth_type: u16) -> bool {
        let arp = |t| matches!(t, ARP | RARP);
        eth_type == self.eth_type || arp(eth_type) && arp(self.eth_type)
    }
}

/// Bytes of tags and labels.
pub(super) fn stacked_bytes(key: &FlowKey) -> usize {
    4 * (tags(key).1 + key.mpls_labels())
}

/// Emits the steps that turn a packet that looks like `base` into one that looks like `key`, and
/// moves `base` there.
pub(super) fn commit(base: &mut FlowKey, key: &FlowKey, payload: Payload, out: &mut Vec<Step>) {
    let before = out.len();
    ethernet(base, key, out);
    let shape = if key.l3_lost == 0 { payload.shape } else { 0 };
    if is_mpls(base.eth_type) || is_mpls(key.eth_type) {
        labels(base, key, payload.eth_type, shape, out);
    } else {
        network(base, key, payload.eth_type, shape, out);
    }
    if base.eth_type != key.eth_type {
        out.push(Step::SetEthType(key.eth_type));
        base.eth_type = key.eth_type;
    }
    out.iter_mut().skip(before).for_each(Step::forget_unused);
}

/// The payload's own headers.
fn network(base: &mut FlowKey, key: &FlowKey, eth_type: u16, shape: u8, out: &mut Vec<Step>) {
    if shape & shape::L3_VALID == 0 {
        return;
    }
    // Protocol 0, or an ARP operation of 0, is "no header" to Open vSwitch, and RARP not written.
    match eth_type {
        _ if key.ip_proto == 0 => {}
        IPV4 => ipv4(base, key, out),
        IPV6 => ipv6(base, key, out),
        ARP => arp(base, key, out),
        _ => {}
    }
    if matches!(eth_type, IPV4 | IPV6) && shape & shape::L4_VALID != 0 {
        transport(base, key, out);
    }
}

/// Tags that are known.
pub(super) fn tag_count(key: &FlowKey) -> usize {
    tags(key).1
}

/// How one stack of headers becomes another, from the outermost.
struct Restack {
    pops: usize,
    /// The outermost entry that is left is written anew.
    rewrites: bool,
    pushes: usize,
}

fn restack<T: PartialEq>(have: &[T], want: &[T], keeps_any: bool) -> Restack {
    let pairs = have.iter().rev().zip(want.iter().rev());
    let equal = if keeps_any { pairs.take_while(|(a, b)| a == b).count() } else { 0 };
    let rewrites = keeps_any && have.len() > equal && want.len() > equal;
    let left = equal + usize::from(rewrites);
    Restack { pops: have.len() - left, rewrites, pushes: want.len() - left }
}

#[cold]
fn labels(base: &mut FlowKey, key: &FlowKey, eth_type: u16, shape: u8, out: &mut Vec<Step>) {
    let (have, want) = (base.mpls_labels(), key.mpls_labels());
    // What the payload needs comes after the pops, when it lies open.
    let (mut edited, popped) = (*base, out.len());
    network(&mut edited, key, eth_type, shape, out);
    let edits = out.len() - popped;
    let (have, want) = (&base.mpls_lse[..have], &key.mpls_lse[..want]);
    let r = restack(have, want, edits == 0);
    out.extend(std::iter::repeat_n(Step::PopMpls, r.pops));
    if let Some(new) = out.get_mut(popped..) {
        new.rotate_left(edits);
    }
    if r.rewrites
        && let Some(lse) = want.get(r.pushes)
    {
        out.push(Step::SetMpls(*lse));
    }
    out.extend(want.iter().take(r.pushes).rev().map(|lse| Step::PushMpls(*lse)));
    *base = FlowKey { mpls_lse: key.mpls_lse, ..edited };
}

/// The tags, outermost first: TPID and TCI.
fn tags(key: &FlowKey) -> ([(u16, u16); 2], usize) {
    let tag = |tpid: u16, tci: u16| (if tpid == 0 { 0x8100 } else { tpid }, tci & !VLAN_PRESENT);
    let is = |tci: u16| tci & VLAN_PRESENT != 0;
    let both = [tag(key.vlan_tpid, key.vlan_tci), tag(key.inner_tpid, key.inner_tci)];
    let count = match (is(key.vlan_tci), is(key.inner_tci)) {
        (false, _) => 0,
        (true, false) => 1,
        (true, true) => 2,
    };
    (both, count)
}

fn ethernet(base: &mut FlowKey, key: &FlowKey, out: &mut Vec<Step>) {
    let which = Which::of(&[base.eth_dst != key.eth_dst, base.eth_src != key.eth_src]);
    if !which.is_empty() {
        let (dst, src) = (mac_bytes(key.eth_dst), mac_bytes(key.eth_src));
        out.push(Step::SetEth { dst, src, which });
        (base.eth_dst, base.eth_src) = (key.eth_dst, key.eth_src);
    }
    if base.vlan_tci | key.vlan_tci != 0 {
        vlan(base, key, out);
    }
}

fn vlan(base: &mut FlowKey, key: &FlowKey, out: &mut Vec<Step>) {
    let ((have, h), (want, w)) = (tags(base), tags(key));
    let want = &want[..w];
    let r = restack(&have[..h], want, true);
    out.extend(std::iter::repeat_n(Step::PopVlan, r.pops));
    if r.rewrites
        && let Some((tpid, tci)) = want.get(r.pushes).copied()
    {
        out.push(Step::SetVlan { tpid, tci });
    }
    let pushed = want.iter().take(r.pushes).rev();
    out.extend(pushed.map(|(tpid, tci)| Step::PushVlan { tpid: *tpid, tci: *tci }));
    (base.vlan_tci, base.vlan_tpid) = (key.vlan_tci, key.vlan_tpid);
    (base.inner_tci, base.inner_tpid) = (key.inner_tci, key.inner_tpid);
}

fn ipv4(base: &mut FlowKey, key: &FlowKey, out: &mut Vec<Step>) {
    let which = Which::of(&[
        base.ip_src != key.ip_src,
        base.ip_dst != key.ip_dst,
        base.ip_tos != key.ip_tos,
        base.ip_ttl != key.ip_ttl,
    ]);
    if !which.is_empty() {
        let (src, dst, tos, ttl) = (key.ip_src, key.ip_dst, key.ip_tos, key.ip_ttl);
        out.push(Step::SetIpv4 { src, dst, tos, ttl, which });
        (base.ip_src, base.ip_dst, base.ip_tos, base.ip_ttl) = (src, dst, tos, ttl);
    }
}

fn ipv6(base: &mut FlowKey, key: &FlowKey, out: &mut Vec<Step>) {
    if base.ipv6_src != key.ipv6_src {
        out.push(Step::SetIpv6Src(key.ipv6_src.into()));
        base.ipv6_src = key.ipv6_src;
    }
    if base.ipv6_dst != key.ipv6_dst {
        out.push(Step::SetIpv6Dst(key.ipv6_dst.into()));
        base.ipv6_dst = key.ipv6_dst;
    }
    let which = Which::of(&[
        base.ipv6_label != key.ipv6_label,
        base.ip_tos != key.ip_tos,
        base.ip_ttl != key.ip_ttl,
    ]);
    if !which.is_empty() {
        let (label, tos, ttl) = (key.ipv6_label, key.ip_tos, key.ip_ttl);
        out.push(Step::SetIpv6Rest { label, tos, ttl, which });
        (base.ipv6_label, base.ip_tos, base.ip_ttl) = (label, tos, ttl);
    }
}

fn arp(base: &mut FlowKey, key: &FlowKey, out: &mut Vec<Step>) {
    let which = Which::of(&[
        base.ip_proto != key.ip_proto,
        base.ip_src != key.ip_src,
        base.ip_dst != key.ip_dst,
    ]);
    if !which.is_empty() {
        let (op, spa, tpa) = (key.ip_proto, key.ip_src, key.ip_dst);
        out.push(Step::SetArp { op, spa, tpa, which });
        (base.ip_proto, base.ip_src, base.ip_dst) = (op, spa, tpa);
    }
    if let Some((sha, tha, which)) = hardware_addresses(base, key) {
        out.push(Step::SetArpMacs { sha, tha, which });
    }
}

/// ARP's sender and target, or neighbour discovery's two options.
fn hardware_addresses(base: &mut FlowKey, key: &FlowKey) -> Option<([u8; 6], [u8; 6], Which)> {
    let which = Which::of(&[base.arp_sha != key.arp_sha, base.arp_tha != key.arp_tha]);
    (base.arp_sha, base.arp_tha) = (key.arp_sha, key.arp_tha);
    (!which.is_empty()).then(|| (mac_bytes(key.arp_sha), mac_bytes(key.arp_tha), which))
}

fn transport(base: &mut FlowKey, key: &FlowKey, out: &mut Vec<Step>) {
    let which = Which::of(&[base.tp_src != key.tp_src, base.tp_dst != key.tp_dst]);
    if !which.is_empty() {
        let (src, dst) = (key.tp_src, key.tp_dst);
        out.push(match key.ip_proto {
            1 | 58 => Step::SetIcmp { kind: src as u8, code: dst as u8, which },
            _ => Step::SetPorts { src, dst, which },
        });
        (base.tp_src, base.tp_dst) = (src, dst);
    }
    if base.icmp_id != key.icmp_id {
        out.push(Step::SetIcmpId(key.icmp_id));
        base.icmp_id = key.icmp_id;
    }
    if key.ip_proto != 58 {
        return;
    }
    if base.nd_target != key.nd_target {
        out.push(Step::SetNdTarget(key.nd_target.into()));
        base.nd_target = key.nd_target;
    }
    if let Some((sll, tll, which)) = hardware_addresses(base, key) {
        out.push(Step::SetNdMacs { sll, tll, which });
    }
}

#[cfg(test)]
mod tests;
