//! The switch's state in the words of the control socket.

use super::Core;
use super::workers::PortsSeen;
use crate::api::types::{
    BridgeInfo, ConnInfo, ConnTuple, FlowInfo, NamedCount, PortInfo, TableInfo, TunnelInfo,
    WorkerCounters,
};
use crate::compile::PortState;
use crate::config::{self, MacAddr, PortType};
use crate::flow::{FlowStats, print_actions, print_flow_stats, print_match};
use crate::model::BridgeState;
use crate::store::{Stored, TableLimit};
use sluice_dataplane::conntrack::{self, Tuple};
use sluice_dataplane::counters::{Counters, Drop, Stat};
use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::time::Duration;

/// A port, with what its workers report of it.
pub fn port(core: &Core, bridge: &str, state: &PortState, seen: &PortsSeen) -> PortInfo {
    let report = seen.list.iter().find(|r| r.port == state.ix);
    let opened = core.open.get(&state.ix.0);
    let has_device = !matches!(state.config.kind, PortType::Geneve(_) | PortType::Patch { .. });
    let why_closed = core.closed.get(&state.ix.0).cloned();
    let device = state.device.as_ref();
    let up = if has_device { report.is_some_and(|r| r.up) } else { true };
    let status = match opened {
        Some(opened) if up => opened.status.clone(),
        Some(opened) => format!("{}; the link is set down", opened.status),
        None => why_closed.unwrap_or_default(),
    };
    PortInfo {
        bridge: bridge.to_owned(),
        name: state.config.name.clone(),
        number: state.config.number,
        kind: state.config.kind.name().to_owned(),
        device: state.config.device().map(str::to_owned),
        ifindex: opened.and_then(|o| o.ifindex),
        mac: device.map(|d| MacAddr(d.mac).to_string()),
        mtu_bytes: device.map(|d| d.mtu),
        queues: opened.map_or(0, |o| o.queues),
        workers: seen.workers_of(state.ix),
        up,
        status,
        options: options(&state.config.kind),
        frames_held: report.map_or(0, |r| r.frames_held as u64),
        counters: report.map(|r| r.stats.into()).unwrap_or_default(),
    }
}

fn options(kind: &PortType) -> BTreeMap<String, String> {
    let mut out = BTreeMap::new();
    let mut put = |k: &str, v: String| _ = out.insert(k.to_owned(), v);
    match kind {
        PortType::Geneve(g) => {
            put("remote_ip", remote(g));
            put("key", key(g));
            put("dst_port", g.dst_port.to_string());
            if let Some(local) = g.local {
                put("local_ip", local.to_string());
            }
            if let Some(csum) = g.csum {
                put("csum", csum.to_string());
            }
        }
        PortType::Patch { peer } => put("peer", peer.clone()),
        PortType::Afxdp(a) if a.mode == config::PortMode::Shared => put("mode", "shared".into()),
        PortType::Internal(i) => {
            if let Some(netns) = &i.netns {
                put("netns", netns.display().to_string());
            }
        }
        _ => {}
    }
    out
}

fn remote(g: &config::Geneve) -> String {
    match g.remote {
        config::TunnelRemote::Flow => "flow".to_owned(),
        config::TunnelRemote::Ip(a) => a.to_string(),
    }
}

fn key(g: &config::Geneve) -> String {
    match g.key {
        config::TunnelKey::Flow => "flow".to_owned(),
        config::TunnelKey::Vni(n) => n.to_string(),
    }
}

pub fn bridge(core: &Core, b: &BridgeState, seen: &PortsSeen) -> BridgeInfo {
    let name = &b.config.name;
    BridgeInfo {
        name: name.clone(),
        mac: b.config.mac.to_string(),
        fail_mode: match b.config.fail_mode {
            config::FailMode::Secure => "secure".to_owned(),
            config::FailMode::Standalone => "standalone".to_owned(),
        },
        flow_file: b.config.flow_file.clone(),
        flows: b.flows.len() as u64,
        fdb_entries: b.fdb.len() as u64,
        tables: tables(b),
        ports: b.ports.iter().map(|p| port(core, name, p, seen)).collect(),
    }
}

fn tables(b: &BridgeState) -> Vec<TableInfo> {
    let info = |(table, flows, limit): (u8, usize, TableLimit)| TableInfo {
        table,
        flows: flows as u64,
        flows_max: limit.flows_max as u64,
        overflow_policy: if limit.evicts { "evict" } else { "refuse" }.to_owned(),
    };
    b.flows.tables().into_iter().map(info).collect()
}

/// A flow with its counters, which the workers have just settled.
pub fn flow(b: &BridgeState, s: &Stored, now_ns: u64) -> FlowInfo {
    let stats = &s.rule.stats;
    let used_ns = stats.used_ns().max(s.created_ns);
    let idle_age_s = now_ns.saturating_sub(used_ns) / 1_000_000_000;
    let duration = Duration::from_nanos(now_ns.saturating_sub(s.created_ns));
    let shown = FlowStats {
        duration,
        packets: stats.packets(),
        bytes: stats.bytes(),
        idle_age_s: Some(idle_age_s.min(u64::from(u32::MAX)) as u32),
        hard_age_s: None,
    };
    let flow = s.flow();
    FlowInfo {
        table: flow.table,
        priority: flow.priority,
        cookie: flow.cookie,
        n_packets: shown.packets,
        n_bytes: shown.bytes,
        duration_s: duration.as_secs_f64(),
        idle_age_s: Some(idle_age_s),
        matches: print_match(&flow.match_, flow.priority, b),
        actions: print_actions(&flow.actions, b),
        text: print_flow_stats(&flow, &shown, b),
    }
}

pub fn address(v6: bool, a: u128) -> String {
    let ip: IpAddr = if v6 { Ipv6Addr::from(a).into() } else { Ipv4Addr::from(a as u32).into() };
    ip.to_string()
}

fn tuple(t: &Tuple) -> ConnTuple {
    let icmp = t.is_icmp();
    // Of protocols without ports they are zero, and shown, as Open vSwitch does.
    let ports = !icmp;
    ConnTuple {
        src: address(t.v6, t.src),
        dst: address(t.v6, t.dst),
        sport: ports.then_some(t.sport),
        dport: ports.then_some(t.dport),
        icmp_id: icmp.then_some(t.sport),
        icmp_type: icmp.then_some((t.dport >> 8) as u8),
        icmp_code: icmp.then_some(t.dport as u8),
    }
}

pub fn proto_name(proto: u8, v6: bool) -> String {
    match (proto, v6) {
        (6, _) => "tcp".to_owned(),
        (17, _) => "udp".to_owned(),
        (132, _) => "sctp".to_owned(),
        (1, false) => "icmp".to_owned(),
        (58, true) => "icmpv6".to_owned(),
        (n, _) => n.to_string(),
    }
}

pub fn conn(c: &conntrack::ConnInfo, worker: usize) -> ConnInfo {
    ConnInfo {
        proto: proto_name(c.orig.proto, c.orig.v6),
        orig: tuple(&c.orig),
        reply: tuple(&c.reply),
        zone: c.zone,
        mark: c.mark,
        labels: format!("{:#x}", c.label),
        state: c.tcp_state.map(str::to_owned),
        state_orig: c.tcp_states.map(|[s, _]| s.to_owned()),
        state_reply: c.tcp_states.map(|[_, s]| s.to_owned()),
        helper: c.helper.map(str::to_owned),
        half_open: c.half_open,
        expires_s: u64::from(c.timeout_s),
        packets_orig: 0,
        packets_reply: 0,
        worker,
    }
}

/// The tunnels and their ways through the underlay.
pub fn tunnels(core: &Core) -> Vec<TunnelInfo> {
    let net = core.ground.underlay.current();
    let ports = core.model.ports().filter_map(|(bridge, p)| match &p.config.kind {
        PortType::Geneve(g) => Some((bridge, p, g)),
        _ => None,
    });
    ports
        .map(|(bridge, p, g)| {
            let mut info = TunnelInfo {
                bridge: bridge.to_owned(),
                port: p.config.name.clone(),
                number: p.config.number,
                kind: "geneve".to_owned(),
                remote: remote(g),
                local: g.local.map(|a| a.to_string()),
                key: key(g),
                dst_port: g.dst_port,
                ..TunnelInfo::default()
            };
            way(&mut info, g, &net);
            info
        })
        .collect()
}

fn way(info: &mut TunnelInfo, g: &config::Geneve, net: &crate::netlink::Underlay) {
    let config::TunnelRemote::Ip(remote) = g.remote else {
        info.ready = true;
        return;
    };
    let path = match net.path(remote, g.local) {
        Ok(path) => path,
        Err(why) => {
            info.reason = why.to_string();
            return;
        }
    };
    info.device = net.link(path.ifindex).map(|l| l.name.clone());
    info.next_hop = Some(path.next_hop.to_string());
    info.local = Some(g.local.unwrap_or(path.source).to_string());
    info.mtu_bytes = Some(path.mtu_bytes);
    let mac = net.neighbour_mac(path.ifindex, path.next_hop);
    info.next_hop_mac = mac.map(|m| m.to_string());
    info.ready = mac.is_some();
    if mac.is_none() {
        info.reason = "the next hop's address is not resolved yet".to_owned();
    }
}

pub fn counters(c: &Counters, worker: usize, cpu: Option<usize>) -> WorkerCounters {
    let named = |name: &str, count: u64, help: &str| NamedCount {
        name: name.to_owned(),
        count,
        help: help.to_owned(),
    };
    let stat = |s: &Stat| named(s.name(), c.stat(*s), s.help());
    let is_tier = |s: &&Stat| s.name().starts_with("tier");
    let drops = Drop::ALL.iter().map(|d| named(d.name(), c.dropped(*d), d.help()));
    WorkerCounters {
        worker,
        cpu,
        rx_packets: c.stat(Stat::RxPackets),
        tx_packets: c.stat(Stat::TxPackets),
        batches: c.stat(Stat::Batches),
        tiers: Stat::ALL.iter().filter(is_tier).map(stat).collect(),
        drops: drops.filter(|d| d.count > 0).collect(),
        other: Stat::ALL.iter().filter(|s| !is_tier(s)).map(stat).collect(),
        control: Vec::new(),
    }
}
