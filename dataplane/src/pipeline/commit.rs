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

use crate::action::step::{Step, Which};
use crate::packet::key::{FlowKey, VLAN_PRESENT, mac_bytes, shape};

const ARP: u16 = 0x0806;
const RARP: u16 = 0x8035;
const IPV4: u16 = 0x0800;
const IPV6: u16 = 0x86dd;

/// Emits the steps that turn a packet that looks like `base` into one that looks like `key`, and
/// moves `base` there. `shape` is the packet's.
pub(super) fn commit(base: &mut FlowKey, key: &FlowKey, shape: u8, out: &mut Vec<Step>) {
    ethernet(base, key, out);
    if shape & shape::L3_VALID == 0 {
        return;
    }
    match key.eth_type {
        IPV4 => ipv4(base, key, out),
        IPV6 => ipv6(base, key, out),
        ARP | RARP => arp(base, key, out),
        _ => {}
    }
    if matches!(key.eth_type, IPV4 | IPV6) && shape & shape::L4_VALID != 0 {
        transport(base, key, out);
    }
}

fn ethernet(base: &mut FlowKey, key: &FlowKey, out: &mut Vec<Step>) {
    let which = Which::of(&[base.eth_dst != key.eth_dst, base.eth_src != key.eth_src]);
    if !which.is_empty() {
        let (dst, src) = (mac_bytes(key.eth_dst), mac_bytes(key.eth_src));
        out.push(Step::SetEth { dst, src, which });
        (base.eth_dst, base.eth_src) = (key.eth_dst, key.eth_src);
    }
    let (had, has) = (base.vlan_tci & VLAN_PRESENT != 0, key.vlan_tci & VLAN_PRESENT != 0);
    let tpid = if key.vlan_tpid == 0 { 0x8100 } else { key.vlan_tpid };
    let tci = key.vlan_tci & !VLAN_PRESENT;
    match (had, has) {
        (false, true) => out.push(Step::PushVlan { tpid, tci }),
        (true, false) => out.push(Step::PopVlan),
        (true, true) if (base.vlan_tci, base.vlan_tpid) != (key.vlan_tci, key.vlan_tpid) => {
            out.push(Step::SetVlan { tpid, tci });
        }
        _ => {}
    }
    (base.vlan_tci, base.vlan_tpid) = (key.vlan_tci, key.vlan_tpid);
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
mod tests {
    use super::*;

    const ALL: u8 = shape::L3_VALID | shape::L4_VALID;

    fn udp() -> FlowKey {
        FlowKey { eth_type: IPV4, ip_proto: 17, ip_ttl: 64, ip_src: 1, tp_src: 5, ..FlowKey::ZERO }
    }

    #[test]
    fn registers_and_undone_changes_cost_nothing() {
        let (mut base, mut key) = (udp(), udp());
        key.xxreg[0] = 9;
        key.metadata = 4;
        let mut out = Vec::new();
        commit(&mut base, &key, ALL, &mut out);
        assert_eq!(out, []);
    }

    #[test]
    fn many_changes_fold_into_one_step_per_header_and_once() {
        let (mut base, mut key) = (udp(), udp());
        key.eth_dst = 0x0200_0000_0001;
        key.ip_ttl = 63;
        key.ip_dst = 7;
        key.tp_dst = 53;
        let mut out = Vec::new();
        commit(&mut base, &key, ALL, &mut out);
        assert_eq!(
            out,
            [
                Step::SetEth { dst: [2, 0, 0, 0, 0, 1], src: [0; 6], which: Which::of(&[true]) },
                Step::SetIpv4 {
                    src: 1,
                    dst: 7,
                    tos: 0,
                    ttl: 63,
                    which: Which::of(&[false, true, false, true]),
                },
                Step::SetPorts { src: 5, dst: 53, which: Which::of(&[false, true]) },
            ]
        );
        out.clear();
        commit(&mut base, &key, ALL, &mut out);
        assert_eq!(out, [], "a second commit has nothing to say");
    }

    #[test]
    fn vlan_presence_decides_push_pop_or_rewrite() {
        let mut out = Vec::new();
        let (mut base, mut key) = (udp(), udp());
        key.vlan_tci = VLAN_PRESENT | 10;
        commit(&mut base, &key, ALL, &mut out);
        key.vlan_tci = VLAN_PRESENT | 11;
        commit(&mut base, &key, ALL, &mut out);
        key.vlan_tci = 0;
        commit(&mut base, &key, ALL, &mut out);
        let tag = |tci| (0x8100, tci);
        let (a, b) = (tag(10), tag(11));
        assert_eq!(
            out,
            [
                Step::PushVlan { tpid: a.0, tci: a.1 },
                Step::SetVlan { tpid: b.0, tci: b.1 },
                Step::PopVlan
            ]
        );
    }

    #[test]
    fn a_header_that_is_not_there_is_not_written() {
        let mut out = Vec::new();
        let (mut base, mut key) = (udp(), udp());
        (key.ip_dst, key.tp_dst) = (7, 53);
        commit(&mut base, &key, 0, &mut out);
        assert_eq!(out, []);
        commit(&mut base, &key, shape::L3_VALID, &mut out);
        assert!(matches!(out[..], [Step::SetIpv4 { .. }]), "{out:?}");
    }
}
