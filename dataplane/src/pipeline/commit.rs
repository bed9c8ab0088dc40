//! From field changes to steps: the difference between what the bytes say and what the flow wants.
//!
//! `base` is the key as the packet's bytes have it after the steps recorded so far, `key` is
//! what the walk has made of it. Only fields that live in a packet are compared; registers and
//! the like never leave the walk. A field whose header the packet does not have was never
//! written (`verbs` checks prerequisites), so the two agree there.

use crate::action::step::Step;
use crate::packet::key::{FRAG_LATER, FlowKey, VLAN_PRESENT, mac_bytes};

const ARP: u16 = 0x0806;
const RARP: u16 = 0x8035;
const IPV4: u16 = 0x0800;
const IPV6: u16 = 0x86dd;

/// Emits the steps that turn a packet that looks like `base` into one that looks like `key`, and
/// moves `base` there.
pub(super) fn commit(base: &mut FlowKey, key: &FlowKey, out: &mut Vec<Step>) {
    ethernet(base, key, out);
    match key.eth_type {
        IPV4 => ipv4(base, key, out),
        IPV6 => ipv6(base, key, out),
        ARP | RARP => arp(base, key, out),
        _ => {}
    }
    if matches!(key.eth_type, IPV4 | IPV6) && key.ip_frag & FRAG_LATER == 0 {
        transport(base, key, out);
    }
}

fn ethernet(base: &mut FlowKey, key: &FlowKey, out: &mut Vec<Step>) {
    if (base.eth_dst, base.eth_src) != (key.eth_dst, key.eth_src) {
        out.push(Step::SetEth { dst: mac_bytes(key.eth_dst), src: mac_bytes(key.eth_src) });
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
    let of = |k: &FlowKey| (k.ip_src, k.ip_dst, k.ip_tos, k.ip_ttl);
    if of(base) != of(key) {
        let (src, dst, tos, ttl) = of(key);
        out.push(Step::SetIpv4 { src, dst, tos, ttl });
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
    let of = |k: &FlowKey| (k.ipv6_label, k.ip_tos, k.ip_ttl);
    if of(base) != of(key) {
        let (label, tos, ttl) = of(key);
        out.push(Step::SetIpv6Rest { label, tos, ttl });
        (base.ipv6_label, base.ip_tos, base.ip_ttl) = (label, tos, ttl);
    }
}

fn arp(base: &mut FlowKey, key: &FlowKey, out: &mut Vec<Step>) {
    let of = |k: &FlowKey| (k.ip_proto, k.ip_src, k.ip_dst);
    if of(base) != of(key) {
        let (op, spa, tpa) = of(key);
        out.push(Step::SetArp { op, spa, tpa });
        (base.ip_proto, base.ip_src, base.ip_dst) = (op, spa, tpa);
    }
    if (base.arp_sha, base.arp_tha) != (key.arp_sha, key.arp_tha) {
        out.push(Step::SetArpMacs { sha: mac_bytes(key.arp_sha), tha: mac_bytes(key.arp_tha) });
        (base.arp_sha, base.arp_tha) = (key.arp_sha, key.arp_tha);
    }
}

fn transport(base: &mut FlowKey, key: &FlowKey, out: &mut Vec<Step>) {
    let changed = (base.tp_src, base.tp_dst) != (key.tp_src, key.tp_dst);
    match key.ip_proto {
        6 | 17 | 132 if changed => out.push(Step::SetPorts { src: key.tp_src, dst: key.tp_dst }),
        1 | 58 if changed => {
            out.push(Step::SetIcmp { kind: key.tp_src as u8, code: key.tp_dst as u8 });
        }
        _ => {}
    }
    (base.tp_src, base.tp_dst) = (key.tp_src, key.tp_dst);
    if key.ip_proto != 58 {
        return;
    }
    if base.nd_target != key.nd_target {
        out.push(Step::SetNdTarget(key.nd_target.into()));
        base.nd_target = key.nd_target;
    }
    if (base.arp_sha, base.arp_tha) != (key.arp_sha, key.arp_tha) {
        out.push(Step::SetNdMacs { sll: mac_bytes(key.arp_sha), tll: mac_bytes(key.arp_tha) });
        (base.arp_sha, base.arp_tha) = (key.arp_sha, key.arp_tha);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn udp() -> FlowKey {
        FlowKey { eth_type: IPV4, ip_proto: 17, ip_ttl: 64, ip_src: 1, tp_src: 5, ..FlowKey::ZERO }
    }

    #[test]
    fn registers_and_undone_changes_cost_nothing() {
        let (mut base, mut key) = (udp(), udp());
        key.xxreg[0] = 9;
        key.metadata = 4;
        let mut out = Vec::new();
        commit(&mut base, &key, &mut out);
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
        commit(&mut base, &key, &mut out);
        assert_eq!(
            out,
            [
                Step::SetEth { dst: [2, 0, 0, 0, 0, 1], src: [0; 6] },
                Step::SetIpv4 { src: 1, dst: 7, tos: 0, ttl: 63 },
                Step::SetPorts { src: 5, dst: 53 },
            ]
        );
        out.clear();
        commit(&mut base, &key, &mut out);
        assert_eq!(out, [], "a second commit has nothing to say");
    }

    #[test]
    fn vlan_presence_decides_push_pop_or_rewrite() {
        let mut out = Vec::new();
        let (mut base, mut key) = (udp(), udp());
        key.vlan_tci = VLAN_PRESENT | 10;
        commit(&mut base, &key, &mut out);
        key.vlan_tci = VLAN_PRESENT | 11;
        commit(&mut base, &key, &mut out);
        key.vlan_tci = 0;
        commit(&mut base, &key, &mut out);
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
}
