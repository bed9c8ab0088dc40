//! Events in the words of `ovs-ofctl monitor`: packets for controllers as it prints
//! NXT_PACKET_IN2, flows that went as OFPT_FLOW_REMOVED.

use crate::api::types::FlowRemovedInfo;
use crate::flow::{DEFAULT_PRIORITY, Match, NoNames, REGS, print_duration, print_match};
use crate::model::BridgeState;
use crate::store::{Removed, RemovedReason};
use sluice_dataplane::action::PacketInReason;
use sluice_dataplane::packet::field::Field;
use sluice_dataplane::packet::key::{FlowKey, PacketKey, PortIx};
use sluice_dataplane::packet::parse::{Layers, VLAN_LIMIT_DEFAULT, parse_limited};
use sluice_dataplane::pipeline::punt::PacketIn;
use std::fmt::Write;
use std::time::Duration;

/// As Open vSwitch names the reasons of OpenFlow 1.5.1 section 7.4.1.
pub fn reason_name(reason: PacketInReason) -> &'static str {
    match reason {
        PacketInReason::NoMatch => "no_match",
        PacketInReason::Action => "action",
        PacketInReason::InvalidTtl => "invalid_ttl",
        PacketInReason::ActionSet => "action_set",
        PacketInReason::Group => "group",
    }
}

/// What a packet knows besides its bytes, before the registers and after them; the port it came by
/// always, the rest if it is not zero.
const BEFORE_REGS: [Field; 5] =
    [Field::PktMark, Field::CtState, Field::CtZone, Field::CtMark, Field::CtLabel];
const AFTER_REGS: [Field; 6] = [
    Field::TunId,
    Field::TunSrc,
    Field::TunDst,
    Field::TunIpv6Src,
    Field::TunIpv6Dst,
    Field::Metadata,
];

/// The lines of a packet for a controller.
pub fn packet_in(packet: &PacketIn, handle: Option<&str>, b: &BridgeState) -> String {
    let punt = packet.punt();
    let mut out = "NXT_PACKET_IN2 (xid=0x0):".to_owned();
    if punt.table != 0 {
        _ = write!(out, " table_id={}", punt.table);
    }
    if punt.cookie != u64::MAX {
        _ = write!(out, " cookie={:#x}", punt.cookie);
    }
    let (total, len) = (packet.total_len(), packet.bytes().len());
    let (known, reason) = (metadata(&punt.key, b), reason_name(punt.reason));
    _ = write!(out, " total_len={total} {known} (via {reason}) data_len={len} (unbuffered)");
    if let Some(userdata) = &punt.userdata {
        let bytes: Vec<String> = userdata.iter().map(|b| format!("{b:02x}")).collect();
        _ = write!(out, "\n userdata={}", bytes.join("."));
    }
    if let Some(handle) = handle {
        _ = write!(out, "\n continuation={handle}");
    }
    _ = write!(out, "\n{}", summary(packet.bytes()));
    out
}

fn metadata(key: &FlowKey, b: &BridgeState) -> String {
    let mut m = Match::default();
    m.set(Field::InPortOxm, key.in_port.into(), u128::MAX);
    for field in BEFORE_REGS.into_iter().chain(REGS).chain(AFTER_REGS) {
        let value = field.info().get(key);
        if value != 0 {
            m.set(field, value, u128::MAX);
        }
    }
    for option in b.tlv.mappings() {
        let there = b.tlv.present(option.index).filter(|p| p.get(key) != 0);
        if let (Some(present), Some(data)) = (there, b.tlv.field(option.index)) {
            present.or_into(&mut m.key);
            present.or_into(&mut m.mask);
            data.set(&mut m.key, data.get(key));
            data.or_into(&mut m.mask);
        }
    }
    print_match(&m, DEFAULT_PRIORITY, b)
}

/// A packet on one line: its fields, and its transport checksum as it is.
pub fn summary(bytes: &[u8]) -> String {
    let (mut packet, mut layers) = (PacketKey::default(), Layers::default());
    let limit = VLAN_LIMIT_DEFAULT;
    if parse_limited(bytes, PortIx::NONE, limit, &mut packet, &mut layers).is_err() {
        return format!("({} bytes, too short for Ethernet)", bytes.len());
    }
    let key = FlowKey::from_packet(&packet, 0);
    let mut m = Match::default();
    let common = [Field::EthType, Field::VlanTci, Field::EthSrc, Field::EthDst];
    for field in common.iter().chain(network(&key)).chain(transport(&key)) {
        m.set(*field, field.info().get(&key), u128::MAX);
    }
    let mut out = print_match(&m, DEFAULT_PRIORITY, &NoNames);
    let l4 = bytes.get(usize::from(layers.l4)..).unwrap_or_default();
    let at = |at: usize, n: usize| {
        let field = l4.get(at..at + n).unwrap_or_default();
        field.iter().fold(0_u32, |all, b| all << 8 | u32::from(*b))
    };
    let is_ip = matches!(key.eth_type, 0x0800 | 0x86dd);
    _ = match key.ip_proto {
        6 if is_ip && l4.len() >= 20 => write!(out, " tcp_csum:{:x}", at(16, 2)),
        17 if is_ip && l4.len() >= 8 => write!(out, " udp_csum:{:x}", at(6, 2)),
        132 if is_ip && l4.len() >= 12 => write!(out, " sctp_csum:{:x}", at(8, 4)),
        1 if is_ip && l4.len() >= 4 => write!(out, " icmp_csum:{:x}", at(2, 2)),
        58 if is_ip && l4.len() >= 4 => write!(out, " icmp6_csum:{:x}", at(2, 2)),
        _ => Ok(()),
    };
    out
}

fn network(key: &FlowKey) -> &'static [Field] {
    match key.eth_type {
        0x0800 => &[
            Field::IpSrc,
            Field::IpDst,
            Field::IpProto,
            Field::IpDscp,
            Field::IpEcn,
            Field::IpTtl,
            Field::IpFrag,
        ],
        0x86dd => &[
            Field::Ipv6Src,
            Field::Ipv6Dst,
            Field::Ipv6Label,
            Field::IpProto,
            Field::IpDscp,
            Field::IpEcn,
            Field::IpTtl,
            Field::IpFrag,
        ],
        0x0806 | 0x8035 => {
            &[Field::IpSrc, Field::IpDst, Field::IpProto, Field::ArpSha, Field::ArpTha]
        }
        0x8847 | 0x8848 => &[Field::MplsLabel, Field::MplsTc, Field::MplsTtl, Field::MplsBos],
        _ => &[],
    }
}

fn transport(key: &FlowKey) -> &'static [Field] {
    let is_v6 = key.eth_type == 0x86dd;
    match key.ip_proto {
        _ if !is_v6 && key.eth_type != 0x0800 => &[],
        6 => &[Field::TcpSrc, Field::TcpDst, Field::TcpFlags],
        58 if is_v6 && matches!(key.tp_src, 135 | 136) => {
            &[Field::TcpSrc, Field::TcpDst, Field::NdTarget]
        }
        1 | 17 | 58 | 132 => &[Field::TcpSrc, Field::TcpDst],
        _ => &[],
    }
}

/// A flow that went.
pub fn removed(gone: &Removed, b: &BridgeState, now_ns: u64) -> FlowRemovedInfo {
    let (stored, flow) = (&gone.stored, gone.stored.flow());
    let reason = match gone.reason {
        RemovedReason::IdleTimeout => "idle",
        RemovedReason::HardTimeout => "hard",
        RemovedReason::Delete => "delete",
        RemovedReason::GroupDelete => "group_delete",
        RemovedReason::MeterDelete => "meter_delete",
        RemovedReason::Eviction => "eviction",
    };
    let duration = Duration::from_nanos(now_ns.saturating_sub(stored.created_ns));
    let (n_packets, n_bytes) = (stored.rule.stats.packets(), stored.rule.stats.bytes());
    let matches = print_match(&flow.match_, flow.priority, b);
    let mut text = format!("OFPT_FLOW_REMOVED (xid=0x0): {matches} reason={reason}");
    _ = write!(text, " table_id={}", flow.table);
    if flow.cookie != 0 {
        _ = write!(text, " cookie:{:#x}", flow.cookie);
    }
    _ = write!(text, " duration{} idle{}", print_duration(duration), flow.idle_timeout_s);
    if flow.hard_timeout_s != 0 {
        _ = write!(text, " hard{}", flow.hard_timeout_s);
    }
    _ = write!(text, " pkts{n_packets} bytes{n_bytes}");
    FlowRemovedInfo {
        table: flow.table,
        priority: flow.priority,
        cookie: flow.cookie,
        matches,
        reason: reason.to_owned(),
        duration_s: duration.as_secs_f64(),
        idle_timeout_s: flow.idle_timeout_s,
        hard_timeout_s: flow.hard_timeout_s,
        n_packets,
        n_bytes,
        text,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use sluice_dataplane::packet::build::PacketBuilder;
    use std::net::Ipv4Addr;

    #[test]
    fn packets_in_one_line() {
        let eth = || PacketBuilder::eth([2, 0, 0, 0, 0, 1], [2, 0, 0, 0, 0, 2]);
        let (a, b) = (Ipv4Addr::new(10, 0, 0, 1), Ipv4Addr::new(10, 0, 0, 2));
        let udp = eth().ipv4(a, b).udp(8, 10).no_checksum().payload(b"x").build();
        assert_eq!(
            summary(&udp),
            "udp,vlan_tci=0x0000,dl_src=02:00:00:00:00:01,dl_dst=02:00:00:00:00:02,\
             nw_src=10.0.0.1,nw_dst=10.0.0.2,nw_tos=0,nw_ecn=0,nw_ttl=64,nw_frag=no,\
             tp_src=8,tp_dst=10 udp_csum:0"
        );
        let arp =
            eth().vlan(5, 0).arp(1, ([2, 0, 0, 0, 0, 1], [10, 0, 0, 1]), ([0; 6], [10, 0, 0, 2]));
        let text = summary(&arp.build());
        assert!(text.starts_with("arp,dl_vlan=5,dl_vlan_pcp=0,dl_src=02:"), "{text}");
        assert!(text.contains("arp_spa=10.0.0.1,arp_tpa=10.0.0.2,arp_op=1,arp_sha="), "{text}");
        assert_eq!(summary(&[1, 2]), "(2 bytes, too short for Ethernet)");
    }
}
