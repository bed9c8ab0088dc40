//! A switch of plain data for tests of the protocol and of the operator's command.

use std::sync::Mutex;

use super::switch::{ApiResult, Switch};
use super::types::*;
use crate::config::Port;
use crate::doctor::Report;
use tokio::sync::mpsc::{Receiver, channel};

/// One bridge `br1`. Flows are the lines they came as.
#[derive(Debug, Default)]
pub struct Fake {
    pub flows: Mutex<Vec<String>>,
    pub ports: Mutex<Vec<PortInfo>>,
    pub resumed: Mutex<Vec<ResumeRequest>>,
}

impl Fake {
    pub fn with_flows(count: usize) -> Self {
        let flows = (0..count).map(|n| format!("priority={n} actions=drop")).collect();
        Self { flows: Mutex::new(flows), ..Self::default() }
    }
}

fn known(bridge: &str) -> ApiResult<()> {
    if bridge == "br1" { Ok(()) } else { Err(ApiError::no_bridge(bridge)) }
}

impl Switch for Fake {
    fn show(&self) -> ApiResult<SwitchInfo> {
        Ok(SwitchInfo {
            sluice_version: "0.0.0".into(),
            pid: 42,
            uptime_s: 3725,
            workers: vec![WorkerInfo { cpu: Some(1), ..WorkerInfo::default() }],
            bridges: self.bridges()?,
            frames: 16384,
            frames_free: 16000,
            frame_size_bytes: 2048,
            conns_max: 1000,
            ..SwitchInfo::default()
        })
    }

    fn bridges(&self) -> ApiResult<Vec<BridgeInfo>> {
        Ok(vec![BridgeInfo {
            name: "br1".into(),
            mac: "02:00:00:00:00:01".into(),
            fail_mode: "secure".into(),
            flows: self.flows.lock().unwrap().len() as u64,
            ports: self.ports(None)?,
            ..BridgeInfo::default()
        }])
    }

    fn ports(&self, bridge: Option<&str>) -> ApiResult<Vec<PortInfo>> {
        bridge.map_or(Ok(()), known)?;
        Ok(self.ports.lock().unwrap().clone())
    }

    fn port_add(&self, bridge: &str, port: Port) -> ApiResult<PortInfo> {
        known(bridge)?;
        let info = PortInfo {
            bridge: bridge.into(),
            number: port.number,
            kind: port.kind.name().into(),
            device: port.device().map(str::to_owned),
            name: port.name,
            workers: vec![0, 1],
            up: true,
            ..PortInfo::default()
        };
        self.ports.lock().unwrap().push(info.clone());
        Ok(info)
    }

    fn port_del(&self, bridge: &str, port: &str) -> ApiResult<()> {
        known(bridge)?;
        let mut ports = self.ports.lock().unwrap();
        let at = ports.iter().position(|p| p.name == port);
        ports.remove(at.ok_or_else(|| ApiError::no_port(bridge, port))?);
        Ok(())
    }

    fn flow_change(&self, change: &FlowChange) -> ApiResult<FlowSummary> {
        known(&change.bridge)?;
        assert!(!change.text.contains("panic"), "asked to panic");
        let mut flows = self.flows.lock().unwrap();
        let lines: Vec<String> = change.text.lines().map(str::to_owned).collect();
        let before = flows.len() as u64;
        match change.op {
            FlowOp::Add | FlowOp::Modify | FlowOp::Bundle => flows.extend(lines),
            FlowOp::Delete => flows.clear(),
            FlowOp::Replace => *flows = lines,
        }
        let added = (flows.len() as u64).saturating_sub(before);
        let deleted = before.saturating_sub(flows.len() as u64);
        Ok(FlowSummary { added, deleted, ..FlowSummary::default() })
    }

    fn flow_dump(&self, bridge: &str, _: &str) -> ApiResult<Vec<FlowInfo>> {
        known(bridge)?;
        let info = |text: &String| FlowInfo { text: text.clone(), ..FlowInfo::default() };
        Ok(self.flows.lock().unwrap().iter().map(info).collect())
    }

    fn ref_change(&self, change: &RefChange) -> ApiResult<RefSummary> {
        known(&change.bridge)?;
        let changed = change.text.lines().count() as u64;
        Ok(RefSummary { changed, flows_deleted: 1, program_version: 9 })
    }

    fn groups(&self, bridge: &str, id: Option<u32>) -> ApiResult<Vec<GroupInfo>> {
        known(bridge)?;
        let id = id.unwrap_or(1);
        let text = format!("group_id={id},type=all");
        let stats_text = format!("group_id={id},duration=1s");
        Ok(vec![GroupInfo { id, text, stats_text, ..GroupInfo::default() }])
    }

    fn meters(&self, bridge: &str, id: Option<u32>) -> ApiResult<Vec<MeterInfo>> {
        known(bridge)?;
        let id = id.unwrap_or(1);
        let text = format!("meter={id} kbps bands=\ntype=drop rate=1");
        let stats_text = format!("meter:{id} flow_count:0");
        Ok(vec![MeterInfo { id, text, stats_text, ..MeterInfo::default() }])
    }

    fn tlv_change(&self, change: &TlvChange) -> ApiResult<TlvInfo> {
        known(&change.bridge)?;
        Ok(TlvInfo { text: format!("{:?} {}", change.op, change.text), ..TlvInfo::default() })
    }

    fn tlv_map(&self, bridge: &str) -> ApiResult<TlvInfo> {
        known(bridge)?;
        Ok(TlvInfo { text: " max option space=64".into(), ..TlvInfo::default() })
    }

    fn fdb(&self, bridge: &str) -> ApiResult<Vec<FdbEntry>> {
        known(bridge)?;
        let mac = "02:00:00:00:00:07".into();
        Ok(vec![FdbEntry { port: "p1".into(), number: 1, vlan: 0, mac, age_s: 3 }])
    }

    fn fdb_flush(&self, bridge: &str) -> ApiResult<u64> {
        known(bridge).map(|()| 1)
    }

    fn conntrack(&self, query: &ConnQuery) -> ApiResult<ConnPage> {
        let tuple = |src: &str, dst: &str, sport, dport| ConnTuple {
            src: src.into(),
            dst: dst.into(),
            sport: Some(sport),
            dport: Some(dport),
            ..ConnTuple::default()
        };
        let conn = ConnInfo {
            proto: "tcp".into(),
            orig: tuple("10.0.0.1", "10.0.0.2", 1000, 80),
            reply: tuple("10.0.0.2", "192.0.2.1", 80, 40000),
            zone: if query.filter == "zone=9" { 9 } else { 7 },
            mark: 2,
            labels: "0x0".into(),
            state: Some("ESTABLISHED".into()),
            state_orig: Some("ESTABLISHED".into()),
            state_reply: Some("FIN_WAIT_2".into()),
            expires_s: 42,
            ..ConnInfo::default()
        };
        // Two pages.
        let next = (query.from == 0).then_some(5);
        Ok(ConnPage { list: vec![conn], next })
    }

    fn conntrack_flush(&self, filter: &str) -> ApiResult<u64> {
        Ok(if filter.is_empty() { 5 } else { 1 })
    }

    fn conntrack_status(&self, filter: &str) -> ApiResult<CtStatus> {
        let named = |name: &str| vec![NamedCount { name: name.into(), count: 2, help: "".into() }];
        Ok(CtStatus {
            total: 2 + filter.len() as u64,
            protocols: named("TCP"),
            tcp_states: named("SYN_SENT"),
            events: named("evicted"),
            pools: vec![PoolInfo { proto: "udp".into(), ports_used: 7, ..PoolInfo::default() }],
            ..CtStatus::default()
        })
    }

    fn conntrack_limits(&self) -> ApiResult<CtLimits> {
        let zone = |zone, limit, own| ZoneInfo { zone, limit, own, count: 3 };
        let zones = vec![zone(2, 3, true), zone(7, 10, false)];
        let tcp_seq_check = true;
        Ok(CtLimits { default_limit: 10, zones, tcp_seq_check, conns: 9, conns_max: 77 })
    }

    fn conntrack_set(&self, change: &CtChange) -> ApiResult<()> {
        // What the words came to is shown as an error, so that a test can see it.
        if change.limits.len() > 1 {
            return Err(ApiError::new(ErrorCode::Invalid, format!("{change:?}"), ""));
        }
        Ok(())
    }

    fn trace(&self, request: &TraceRequest) -> ApiResult<TraceReport> {
        known(&request.bridge)?;
        Ok(TraceReport { text: format!("{:?}", request.packet), ..TraceReport::default() })
    }

    fn monitor(&self, bridge: &str) -> ApiResult<Receiver<MonitorEvent>> {
        known(bridge)?;
        let (queue, events) = channel(4);
        let packet =
            PacketInInfo { text: "NXT_PACKET_IN2 (xid=0x0): one".into(), ..Default::default() };
        let paused = PacketInInfo {
            text: "NXT_PACKET_IN2 (xid=0x0): three\n continuation=5f-1".into(),
            paused: true,
            continuation: Some("5f-1".into()),
            ..Default::default()
        };
        let gone = FlowRemovedInfo { text: "OFPT_FLOW_REMOVED two".into(), ..Default::default() };
        for event in [
            MonitorEvent::PacketIn(Box::new(packet)),
            MonitorEvent::Lost { events: 3 },
            MonitorEvent::FlowRemoved(gone),
            MonitorEvent::PacketIn(Box::new(paused)),
        ] {
            queue.try_send(event).unwrap();
        }
        Ok(events)
    }

    fn packet_out(&self, bridge: &str, text: &str) -> ApiResult<()> {
        known(bridge)?;
        assert_eq!(text, "in_port=1 packet=00 actions=drop");
        Ok(())
    }

    fn resume(&self, request: &ResumeRequest) -> ApiResult<()> {
        let mut resumed = self.resumed.lock().unwrap();
        if resumed.contains(request) {
            return Err(ApiError::new(ErrorCode::NotFound, "stale", "once"));
        }
        resumed.push(request.clone());
        Ok(())
    }

    fn tunnels(&self) -> ApiResult<Vec<TunnelInfo>> {
        let (port, remote) = ("tun1".into(), "10.0.0.2".into());
        let reason = "no route".into();
        Ok(vec![TunnelInfo { port, remote, reason, key: "7".into(), ..TunnelInfo::default() }])
    }

    fn counters(&self) -> ApiResult<Vec<WorkerCounters>> {
        let count = |name: &str, count| NamedCount { name: name.into(), count, help: "why".into() };
        let tiers = vec![count("microflow", 90), count("tables", 10)];
        let drops = vec![count("no_match", 3)];
        Ok(vec![WorkerCounters { tiers, drops, rx_packets: 100, ..WorkerCounters::default() }])
    }

    fn doctor(&self) -> ApiResult<Report> {
        Ok(Report::default())
    }
}
