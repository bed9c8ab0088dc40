//! The calls of the control socket.

use super::refs::model_error;
use super::{Core, LiveSwitch, answers, trace};
use crate::api::types::{
    ApiError, BridgeInfo, ConnPage, ConnQuery, CtChange, CtLimits, CtStatus, ErrorCode, FdbEntry,
    FlowChange, FlowInfo, FlowOp, FlowSummary, GroupInfo, MeterInfo, MonitorEvent, PortInfo,
    RefChange, RefSummary, ResumeRequest, SwitchInfo, TlvChange, TlvInfo, TraceReport,
    TraceRequest, TunnelInfo, WorkerCounters, WorkerInfo,
};
use crate::api::{ApiResult, Switch};
use crate::config::{MacAddr, Port};
use crate::doctor::{self, Report, Wish};
use crate::flow::{
    Command, ERRORS_MAX, FileItem, FileLine, FlowError, FlowFilter, PortNames, parse_bundle_text,
    parse_flow_mod, read_file, refers_to,
};
use crate::model::BridgeState;
use crate::store::{Additions, Changed, Pool, Step, StoreError};
use sluice_dataplane::conntrack::CtSettings;
use sluice_dataplane::counters::Stat;
use sluice_dataplane::sys::give_back_freed_memory;
use sluice_dataplane::worker::FramesReport;
use std::cell::RefCell;
use tokio::sync::mpsc::Receiver;

/// From so many flows on, what a change has freed is worth giving back.
const LARGE_CHANGE: u64 = 10_000;

impl Core {
    fn bridge(&self, name: &str) -> ApiResult<&BridgeState> {
        self.model.bridge(name).ok_or_else(|| ApiError::no_bridge(name))
    }

    fn show(&mut self) -> ApiResult<SwitchInfo> {
        let seen = self.workers.ports()?;
        let ct = self.workers.conntrack_each(CtSettings::default())?;
        let workers = self.workers.counters().zip(&seen.frames).zip(&ct).enumerate();
        let workers = workers.map(|(worker, (((c, cpu), frames), ct))| WorkerInfo {
            worker,
            cpu,
            rx_packets: c.stat(Stat::RxPackets),
            handed_over: c.stat(Stat::HandedOver),
            frames_free: frames.free as u64,
            conns: ct.conns.into(),
            busy_percent: busy_percent(c.stat(Stat::BusyNs), self.now().ns),
        });
        let workers = workers.collect();
        let frames = |of: fn(&FramesReport) -> usize| seen.frames.iter().map(of).sum::<usize>();
        let config = &self.ground.config;
        Ok(SwitchInfo {
            sluice_version: env!("CARGO_PKG_VERSION").to_owned(),
            pid: std::process::id(),
            uptime_s: self.start.elapsed().as_secs(),
            config_file: config.file.clone(),
            program_version: self.model.version(),
            workers,
            bridges: self.model.bridges.iter().map(|b| answers::bridge(self, b, &seen)).collect(),
            frames: frames(|f| f.total) as u64,
            frames_free: frames(|f| f.free) as u64,
            frames_waiting: frames(|f| f.waiting) as u64,
            frame_size_bytes: self.umem.frame_size_bytes(),
            hugepages: self.umem.is_huge(),
            conns: ct.iter().map(|c| u64::from(c.conns)).sum(),
            conns_max: ct.iter().map(|c| u64::from(c.conns_max)).sum(),
        })
    }

    fn flow_change(&mut self, change: &FlowChange) -> ApiResult<FlowSummary> {
        let now_ns = self.now().ns;
        let b = self.model.bridges.iter().position(|b| b.config.name == change.bridge);
        let b = b.ok_or_else(|| ApiError::no_bridge(&change.bridge))?;
        self.settle_for_monitors()?;
        let bridge = &self.model.bridges[b];
        let done = match change.op {
            FlowOp::Replace => {
                let Additions { pool, flows, .. } = whole_file(&change.text, bridge)?;
                self.model.check_refs(b, pool.refers_to()).map_err(|e| model_error(&e))?;
                self.model.change_flows(b, now_ns, |f, site| f.replace(flows, site))
            }
            FlowOp::Bundle => {
                let bundle = parse_bundle_text(&change.text, bridge).map_err(|e| refusals(&e))?;
                let done = self.model.change_bundle(b, &bundle, now_ns);
                Ok(done.map_err(|e| model_error(&e))?)
            }
            op => {
                let (pool, steps) = commands(op, change, bridge)?;
                let others = steps.iter().filter_map(|s| match s {
                    Step::Other(m) if m.command.has_actions() => Some(refers_to(&m.flow.actions)),
                    _ => None,
                });
                let refers = pool.refers_to().chain(others);
                self.model.check_refs(b, refers).map_err(|e| model_error(&e))?;
                self.model.change_flows(b, now_ns, |f, site| f.run(steps, site))
            }
        };
        let Changed { added, modified, deleted } = done.map_err(store_error)?;
        self.publish()?;
        if added + modified + deleted >= LARGE_CHANGE {
            give_back_freed_memory();
        }
        let program_version = self.model.version();
        Ok(FlowSummary { added, modified, deleted, program_version })
    }

    fn flow_dump(&mut self, bridge: &str, filter: &str) -> ApiResult<Vec<FlowInfo>> {
        self.workers.settle()?;
        let now_ns = self.now().ns;
        let b = self.bridge(bridge)?;
        let filter = FlowFilter::parse(filter, b).map_err(|e| refusals(&[e]))?;
        Ok(b.flows.select(&filter).into_iter().map(|s| answers::flow(b, s, now_ns)).collect())
    }

    fn port_add(&mut self, bridge: &str, port: Port) -> ApiResult<PortInfo> {
        if self.bridge(bridge)?.port(&port.name).is_some() {
            let message = format!("bridge \"{bridge}\" has a port \"{}\" already", port.name);
            return Err(ApiError::new(ErrorCode::Exists, message, "choose another name"));
        }
        let name = port.name.clone();
        let ix = self
            .model
            .add_port(bridge, port)
            .map_err(|e| ApiError::new(ErrorCode::Full, e.to_string(), ""))?;
        let net = self.ground.underlay.current();
        self.model.set_net(net.clone());
        self.open_port(ix);
        // A tunnel on another UDP port must reach us through shared devices too.
        self.resteer(&net);
        self.publish()?;
        let seen = self.workers.ports()?;
        let b = self.bridge(bridge)?;
        let state = b.port(&name).ok_or_else(|| ApiError::no_port(bridge, &name))?;
        Ok(answers::port(self, bridge, state, &seen))
    }

    fn port_del(&mut self, bridge: &str, name: &str) -> ApiResult<()> {
        let state = self.bridge(bridge)?.port(name);
        let ix = state.ok_or_else(|| ApiError::no_port(bridge, name))?.ix;
        self.close_port(ix, "deleted");
        self.closed.remove(&ix.0);
        self.model.remove_port(bridge, name);
        let net = self.ground.underlay.current();
        self.resteer(&net);
        self.publish()
    }

    fn fdb(&self, bridge: &str) -> ApiResult<Vec<FdbEntry>> {
        let b = self.bridge(bridge)?;
        let mut list: Vec<FdbEntry> = b
            .fdb
            .dump(self.now())
            .into_iter()
            .map(|e| {
                let port = b.ports.iter().find(|p| p.ix == e.port);
                FdbEntry {
                    port: port.map(|p| p.config.name.clone()).unwrap_or_default(),
                    number: port.map_or(0, |p| p.config.number),
                    vlan: e.vlan,
                    mac: MacAddr(e.mac).to_string(),
                    age_s: u64::from(e.age_s),
                }
            })
            .collect();
        list.sort_by(|a, b| (a.vlan, &a.mac).cmp(&(b.vlan, &b.mac)));
        Ok(list)
    }

    fn fdb_flush(&self, bridge: &str) -> ApiResult<u64> {
        let fdb = &self.bridge(bridge)?.fdb;
        let before = fdb.len() as u64;
        fdb.flush(None);
        Ok(before)
    }
}

fn busy_percent(busy_ns: u64, since_start_ns: u64) -> u8 {
    (busy_ns.saturating_mul(100) / since_start_ns.max(1)).min(100) as u8
}

/// Lines without comments, numbered from 1.
fn lines(text: &str) -> impl Iterator<Item = (usize, &str)> {
    let all = text.lines().enumerate().map(|(i, l)| (i + 1, l.trim()));
    all.filter(|(_, l)| !l.is_empty() && !l.starts_with('#'))
}

/// The commands of a change, one a line. Lines to add may begin with another command, as in
/// files for `ovs-ofctl add-flows`. An empty deletion deletes everything.
fn commands(
    op: FlowOp,
    change: &FlowChange,
    names: &dyn PortNames,
) -> ApiResult<(Pool, Vec<Step>)> {
    let command = match (op, change.strict) {
        (FlowOp::Add | FlowOp::Replace | FlowOp::Bundle, _) => None,
        (FlowOp::Modify, false) => Some(Command::Modify),
        (FlowOp::Modify, true) => Some(Command::ModifyStrict),
        (FlowOp::Delete, false) => Some(Command::Delete),
        (FlowOp::Delete, true) => Some(Command::DeleteStrict),
    };
    let pool = RefCell::new(Pool::default());
    let parse =
        |text: &str| parse_flow_mod(text, command, names).map(|m| pool.borrow_mut().step(m));
    let mut steps = with_lines(&change.text, parse)?;
    if steps.is_empty() && op == FlowOp::Delete {
        steps.push(parse("").map_err(|e| refusals(&[e]))?);
    }
    Ok((pool.into_inner(), steps))
}

/// Reads each line; all that are wrong are told, up to a bound.
pub(super) fn with_lines<T>(
    text: &str,
    parse: impl Fn(&str) -> Result<T, FlowError>,
) -> ApiResult<Vec<T>> {
    let (mut out, mut wrong) = (Vec::new(), Vec::new());
    for (line, content) in lines(text) {
        match parse(content) {
            Ok(one) => out.push(one),
            Err(e) => wrong.push(e.on_line(line)),
        }
        if wrong.len() >= ERRORS_MAX {
            break;
        }
    }
    if wrong.is_empty() { Ok(out) } else { Err(refusals(&wrong)) }
}

/// All flows of a text for one bridge.
fn whole_file(text: &str, bridge: &BridgeState) -> ApiResult<Additions> {
    let name = bridge.config.name.as_str();
    let names = |n: &str| (n == name).then_some(bridge as &dyn PortNames);
    let (mut all, mut other) = (Additions::default(), None);
    let take = &mut |l: FileLine| match l.item {
        FileItem::Flow(flow) => all.flows.push(all.pool.pack(*flow)),
        _ => _ = other.get_or_insert(l.line),
    };
    read_file(text, name, &names, take).map_err(|e| refusals(&e.list))?;
    match other {
        None => Ok(all),
        Some(line) => {
            let message = format!("line {line}: only flows can be replaced");
            let hint = "`sluice group` and `sluice meter` change the rest";
            Err(ApiError::new(ErrorCode::Invalid, message, hint))
        }
    }
}

pub(super) fn refusals(wrong: &[FlowError]) -> ApiError {
    let all: Vec<String> = wrong.iter().map(FlowError::to_string).collect();
    ApiError::new(ErrorCode::Invalid, all.join("\n"), "nothing was changed")
}

fn store_error(e: StoreError) -> ApiError {
    let code = match e {
        StoreError::TableFull { .. } => ErrorCode::Full,
        StoreError::Overlap { .. } => ErrorCode::Invalid,
    };
    ApiError::new(code, e.to_string(), "nothing was changed")
}

impl Switch for LiveSwitch {
    fn show(&self) -> ApiResult<SwitchInfo> {
        self.core().show()
    }

    fn bridges(&self) -> ApiResult<Vec<BridgeInfo>> {
        Ok(self.core().show()?.bridges)
    }

    fn ports(&self, bridge: Option<&str>) -> ApiResult<Vec<PortInfo>> {
        let mut core = self.core();
        if let Some(name) = bridge {
            core.bridge(name)?;
        }
        let seen = core.workers.ports()?;
        let wanted = core.model.ports().filter(|(b, _)| bridge.is_none_or(|w| w == *b));
        Ok(wanted.map(|(b, p)| answers::port(&core, b, p, &seen)).collect())
    }

    fn port_add(&self, bridge: &str, port: Port) -> ApiResult<PortInfo> {
        self.core().port_add(bridge, port)
    }

    fn port_del(&self, bridge: &str, port: &str) -> ApiResult<()> {
        self.core().port_del(bridge, port)
    }

    fn flow_change(&self, change: &FlowChange) -> ApiResult<FlowSummary> {
        self.core().flow_change(change)
    }

    fn flow_dump(&self, bridge: &str, filter: &str) -> ApiResult<Vec<FlowInfo>> {
        self.core().flow_dump(bridge, filter)
    }

    fn ref_change(&self, change: &RefChange) -> ApiResult<RefSummary> {
        self.core().ref_change(change)
    }

    fn groups(&self, bridge: &str, id: Option<u32>) -> ApiResult<Vec<GroupInfo>> {
        self.core().groups(bridge, id)
    }

    fn meters(&self, bridge: &str, id: Option<u32>) -> ApiResult<Vec<MeterInfo>> {
        self.core().meters(bridge, id)
    }

    fn tlv_change(&self, change: &TlvChange) -> ApiResult<TlvInfo> {
        self.core().tlv_change(change)
    }

    fn tlv_map(&self, bridge: &str) -> ApiResult<TlvInfo> {
        self.core().tlv_map(bridge)
    }

    fn fdb(&self, bridge: &str) -> ApiResult<Vec<FdbEntry>> {
        self.core().fdb(bridge)
    }

    fn fdb_flush(&self, bridge: &str) -> ApiResult<u64> {
        self.core().fdb_flush(bridge)
    }

    fn conntrack(&self, query: &ConnQuery) -> ApiResult<ConnPage> {
        self.conn_page(query)
    }

    fn conntrack_flush(&self, filter: &str) -> ApiResult<u64> {
        self.conn_flush(filter)
    }

    fn conntrack_status(&self, filter: &str) -> ApiResult<CtStatus> {
        self.ct_status(filter)
    }

    fn conntrack_limits(&self) -> ApiResult<CtLimits> {
        self.ct_limits()
    }

    fn conntrack_set(&self, change: &CtChange) -> ApiResult<()> {
        self.core().ct_change(change)
    }

    fn trace(&self, request: &TraceRequest) -> ApiResult<TraceReport> {
        trace::trace(&mut self.core(), request)
    }

    fn packet_out(&self, bridge: &str, text: &str) -> ApiResult<()> {
        self.core().packet_out(bridge, text)
    }

    fn resume(&self, request: &ResumeRequest) -> ApiResult<()> {
        self.core().resume(request)
    }

    fn monitor(&self, bridge: &str) -> ApiResult<Receiver<MonitorEvent>> {
        self.core().monitor(bridge)
    }

    fn tunnels(&self) -> ApiResult<Vec<TunnelInfo>> {
        Ok(answers::tunnels(&self.core()))
    }

    fn counters(&self) -> ApiResult<Vec<WorkerCounters>> {
        let mut core = self.core();
        core.workers.settle()?;
        let all = core.workers.counters().enumerate();
        let mut all: Vec<_> = all.map(|(n, (c, cpu))| answers::counters(c, n, cpu)).collect();
        // Control's are those of no worker; they stand with the first.
        if let Some(first) = all.first_mut() {
            first.control = core.control_counts();
        }
        Ok(all)
    }

    fn doctor(&self) -> ApiResult<Report> {
        let wish = Wish::of_config(&self.core().ground.config);
        Ok(doctor::examine(&Wish { running: true, ..wish }))
    }
}
