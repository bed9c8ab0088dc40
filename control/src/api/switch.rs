//! What the control socket asks of the switch: the line between the protocol and the rest.
//!
//! Methods block and may take their time; the server calls them off its own threads. All data are
//! plain and owned. Whoever implements this owns the order of changes: a method that returned `Ok`
//! has been seen by the workers.

use super::types::{
    ApiError, BridgeInfo, ConnPage, ConnQuery, CtChange, CtLimits, CtStatus, FdbEntry, FlowChange,
    FlowInfo, FlowSummary, GroupInfo, MeterInfo, MonitorEvent, PortInfo, RefChange, RefSummary,
    ResumeRequest, SwitchInfo, TlvChange, TlvInfo, TraceReport, TraceRequest, TunnelInfo,
    WorkerCounters,
};
use crate::config::Port;
use crate::doctor::Report;
use tokio::sync::mpsc::Receiver;

pub type ApiResult<T> = Result<T, ApiError>;

pub trait Switch: Send + Sync + 'static {
    fn show(&self) -> ApiResult<SwitchInfo>;
    fn bridges(&self) -> ApiResult<Vec<BridgeInfo>>;
    /// Ports of one bridge, or of all.
    fn ports(&self, bridge: Option<&str>) -> ApiResult<Vec<PortInfo>>;
    /// Adds a checked port; its number is free.
    fn port_add(&self, bridge: &str, port: Port) -> ApiResult<PortInfo>;
    fn port_del(&self, bridge: &str, port: &str) -> ApiResult<()>;
    fn flow_change(&self, change: &FlowChange) -> ApiResult<FlowSummary>;
    fn flow_dump(&self, bridge: &str, filter: &str) -> ApiResult<Vec<FlowInfo>>;
    fn ref_change(&self, change: &RefChange) -> ApiResult<RefSummary>;
    fn groups(&self, bridge: &str, id: Option<u32>) -> ApiResult<Vec<GroupInfo>>;
    fn meters(&self, bridge: &str, id: Option<u32>) -> ApiResult<Vec<MeterInfo>>;
    /// The map as it is then.
    fn tlv_change(&self, change: &TlvChange) -> ApiResult<TlvInfo>;
    fn tlv_map(&self, bridge: &str) -> ApiResult<TlvInfo>;
    fn fdb(&self, bridge: &str) -> ApiResult<Vec<FdbEntry>>;
    fn fdb_flush(&self, bridge: &str) -> ApiResult<u64>;
    fn conntrack(&self, query: &ConnQuery) -> ApiResult<ConnPage>;
    fn conntrack_flush(&self, filter: &str) -> ApiResult<u64>;
    fn conntrack_status(&self, filter: &str) -> ApiResult<CtStatus>;
    fn conntrack_limits(&self) -> ApiResult<CtLimits>;
    fn conntrack_set(&self, change: &CtChange) -> ApiResult<()>;
    fn trace(&self, request: &TraceRequest) -> ApiResult<TraceReport>;
    /// Events of a bridge from now on, until the receiver is dropped.
    fn monitor(&self, bridge: &str) -> ApiResult<Receiver<MonitorEvent>>;
    fn packet_out(&self, bridge: &str, text: &str) -> ApiResult<()>;
    fn resume(&self, request: &ResumeRequest) -> ApiResult<()>;
    fn tunnels(&self) -> ApiResult<Vec<TunnelInfo>>;
    fn counters(&self) -> ApiResult<Vec<WorkerCounters>>;
    fn doctor(&self) -> ApiResult<Report>;
}
