//! What goes over the control socket: one JSON object a line, in both directions.
//!
//! ```text
//! -> {"version":1,"id":7,"request":{"flow_dump":{"bridge":"br1","filter":"table=0"}}}
//! <- {"version":1,"id":7,"more":true,"reply":{"flows":[...]}}
//! <- {"version":1,"id":7,"reply":{"flows":[...]}}
//! <- {"version":1,"id":8,"error":{"code":"not_found","message":"...","hint":"..."}}
//! ```
//! Requests of a connection are answered in their order. A list comes in parts: `more` is true in
//! all but the last. Names are snake_case, numbers are numbers, units are in the names. Fields may
//! be added within a version; a reader skips what it does not know.

use std::collections::BTreeMap;
use std::fmt;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};
use sluice_dataplane::port::PortStats;

use crate::doctor::Report;

pub const VERSION: u32 = 1;
/// A line of a request: a flow file of some 600 000 flows fits.
pub const REQUEST_BYTES_MAX: usize = 64 << 20;
/// A line of a reply. The parts of lists are far smaller.
pub const REPLY_BYTES_MAX: usize = 64 << 20;
/// Entries of a list in one part of a reply.
pub const PART_ENTRIES: usize = 1000;

#[derive(Clone, Debug, Deserialize, Serialize, PartialEq)]
#[serde(deny_unknown_fields)]
pub struct Call {
    pub version: u32,
    pub id: u64,
    pub request: Request,
}

#[derive(Clone, Debug, Deserialize, Serialize, PartialEq)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum Request {
    Show,
    BridgeList,
    PortList {
        bridge: Option<String>,
    },
    /// `port` is TOML, in the keys of `[[bridge.port]]`.
    PortAdd {
        bridge: String,
        port: String,
    },
    PortDel {
        bridge: String,
        port: String,
    },
    Flow(FlowChange),
    /// `filter` is a match in flow text, with `table=N`; empty: all.
    FlowDump {
        bridge: String,
        filter: String,
    },
    /// A change of groups or meters.
    Ref(RefChange),
    /// `id`: only this one.
    GroupDump {
        bridge: String,
        id: Option<u32>,
    },
    MeterDump {
        bridge: String,
        id: Option<u32>,
    },
    /// Geneve options as fields of flows.
    Tlv(TlvChange),
    TlvDump {
        bridge: String,
    },
    FdbShow {
        bridge: String,
    },
    FdbFlush {
        bridge: String,
    },
    ConntrackList {
        zone: Option<u16>,
        limit: Option<usize>,
    },
    ConntrackFlush {
        zone: Option<u16>,
    },
    Trace(TraceRequest),
    TunnelShow,
    Counters,
    /// Packets for controllers and flows that went, as they come: an answer without end, whose
    /// parts may be empty. The first says that the switch listens.
    Monitor {
        bridge: String,
    },
    /// Sends one packet; `text` is that of `ovs-ofctl packet-out`.
    PacketOut {
        bridge: String,
        text: String,
    },
    Doctor,
    Shutdown,
}

/// A change of a bridge's flows; done whole or not at all.
#[derive(Clone, Debug, Deserialize, Serialize, PartialEq, Eq)]
#[serde(deny_unknown_fields)]
pub struct FlowChange {
    pub op: FlowOp,
    pub bridge: String,
    /// Flow text, one flow a line. For a deletion: matches without actions; empty: all flows.
    pub text: String,
    /// Modify and delete: only the flow with exactly this match and priority.
    #[serde(default)]
    pub strict: bool,
}

#[derive(Clone, Copy, Debug, Deserialize, Serialize, PartialEq, Eq)]
#[serde(rename_all = "snake_case")]
pub enum FlowOp {
    Add,
    Modify,
    Delete,
    /// The text is all flows: what differs is added, modified or deleted.
    Replace,
    /// The text is a file for `ovs-ofctl bundle`: changes of flows, groups and meters.
    Bundle,
}

/// A change of what flows refer to; done whole or not at all.
#[derive(Clone, Debug, Deserialize, Serialize, PartialEq, Eq)]
#[serde(deny_unknown_fields)]
pub struct RefChange {
    pub kind: RefKind,
    pub op: RefOp,
    pub bridge: String,
    /// Group or meter text, one a line. Empty for a deletion: all.
    pub text: String,
    /// Modify: add what is not there (groups).
    #[serde(default)]
    pub may_create: bool,
}

/// A change of a bridge's map of tunnel options; done whole or not at all.
#[derive(Clone, Debug, Deserialize, Serialize, PartialEq, Eq)]
#[serde(deny_unknown_fields)]
pub struct TlvChange {
    pub op: TlvOp,
    pub bridge: String,
    /// Mappings as for `ovs-ofctl add-tlv-map`. Empty for a deletion: all.
    pub text: String,
}

#[derive(Clone, Copy, Debug, Deserialize, Serialize, PartialEq, Eq)]
#[serde(rename_all = "snake_case")]
pub enum TlvOp {
    Add,
    Delete,
}

#[derive(Clone, Copy, Debug, Deserialize, Serialize, PartialEq, Eq)]
#[serde(rename_all = "snake_case")]
pub enum RefKind {
    Group,
    Meter,
}

#[derive(Clone, Copy, Debug, Deserialize, Serialize, PartialEq, Eq)]
#[serde(rename_all = "snake_case")]
pub enum RefOp {
    Add,
    Modify,
    Delete,
    /// Groups only.
    InsertBuckets,
    /// Groups only.
    RemoveBuckets,
}

#[derive(Clone, Debug, Deserialize, Serialize, PartialEq, Eq)]
#[serde(deny_unknown_fields)]
pub struct TraceRequest {
    pub bridge: String,
    pub packet: TracePacket,
    /// A port's name or number; flow text may say it instead.
    pub in_port: Option<String>,
}

#[derive(Clone, Debug, Deserialize, Serialize, PartialEq, Eq)]
#[serde(rename_all = "snake_case")]
pub enum TracePacket {
    /// A match in flow text from which a packet is made.
    Text(String),
    /// The bytes of a frame.
    Hex(String),
}

/// One line of an answer: a reply, or an error.
#[derive(Clone, Debug, Deserialize, Serialize, PartialEq)]
pub struct Answer {
    pub version: u32,
    /// That of the call; 0 if it could not be read.
    pub id: u64,
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub more: bool,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reply: Option<Reply>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error: Option<ApiError>,
}

#[derive(Clone, Debug, Deserialize, Serialize, PartialEq)]
#[serde(rename_all = "snake_case")]
pub enum Reply {
    Show(Box<SwitchInfo>),
    Bridges(Vec<BridgeInfo>),
    Ports(Vec<PortInfo>),
    FlowChanged(FlowSummary),
    Flows(Vec<FlowInfo>),
    RefChanged(RefSummary),
    Groups(Vec<GroupInfo>),
    Meters(Vec<MeterInfo>),
    TlvMap(TlvInfo),
    Fdb(Vec<FdbEntry>),
    /// How many entries a flush or a deletion took away.
    Removed(u64),
    Conns(Vec<ConnInfo>),
    Trace(Box<TraceReport>),
    Tunnels(Vec<TunnelInfo>),
    Counters(Vec<WorkerCounters>),
    Events(Vec<MonitorEvent>),
    Doctor(Report),
    Done,
}

impl Reply {
    /// Cuts a long list into parts. Everything else is one part.
    pub fn parts(self) -> Vec<Self> {
        fn cut<T>(list: Vec<T>, wrap: fn(Vec<T>) -> Reply) -> Vec<Reply> {
            let mut parts = Vec::new();
            let mut list = list.into_iter();
            loop {
                let part: Vec<T> = list.by_ref().take(PART_ENTRIES).collect();
                let last = list.len() == 0;
                parts.push(wrap(part));
                if last {
                    return parts;
                }
            }
        }
        match self {
            Self::Flows(list) => cut(list, Self::Flows),
            Self::Groups(list) => cut(list, Self::Groups),
            Self::Meters(list) => cut(list, Self::Meters),
            Self::Fdb(list) => cut(list, Self::Fdb),
            Self::Conns(list) => cut(list, Self::Conns),
            Self::Ports(list) => cut(list, Self::Ports),
            other => vec![other],
        }
    }

    /// Appends a further part of the same list; gives it back if it is none.
    pub fn join(&mut self, part: Self) -> Result<(), Self> {
        match (self, part) {
            (Self::Flows(list), Self::Flows(part)) => list.extend(part),
            (Self::Events(list), Self::Events(part)) => list.extend(part),
            (Self::Groups(list), Self::Groups(part)) => list.extend(part),
            (Self::Meters(list), Self::Meters(part)) => list.extend(part),
            (Self::Fdb(list), Self::Fdb(part)) => list.extend(part),
            (Self::Conns(list), Self::Conns(part)) => list.extend(part),
            (Self::Ports(list), Self::Ports(part)) => list.extend(part),
            (_, part) => return Err(part),
        }
        Ok(())
    }
}

#[derive(Clone, Debug, Deserialize, Serialize, PartialEq, Eq)]
pub struct ApiError {
    pub code: ErrorCode,
    pub message: String,
    /// What would be right; may be empty.
    #[serde(default)]
    pub hint: String,
}

#[derive(Clone, Copy, Debug, Deserialize, Serialize, PartialEq, Eq)]
#[serde(rename_all = "snake_case")]
pub enum ErrorCode {
    /// Not a call of this protocol.
    BadRequest,
    /// A call, and its content is wrong.
    Invalid,
    NotFound,
    Exists,
    /// A limit is reached.
    Full,
    /// The system refused.
    System,
}

impl ApiError {
    pub fn new(code: ErrorCode, message: impl Into<String>, hint: impl Into<String>) -> Self {
        Self { code, message: message.into(), hint: hint.into() }
    }

    pub fn no_bridge(name: &str) -> Self {
        let message = format!("there is no bridge \"{name}\"");
        Self::new(ErrorCode::NotFound, message, "`sluice bridge` lists them")
    }

    pub fn no_port(bridge: &str, name: &str) -> Self {
        let message = format!("bridge \"{bridge}\" has no port \"{name}\"");
        Self::new(ErrorCode::NotFound, message, format!("`sluice port list {bridge}` lists them"))
    }
}

impl fmt::Display for ApiError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl std::error::Error for ApiError {}

#[derive(Clone, Debug, Default, Deserialize, Serialize, PartialEq)]
pub struct SwitchInfo {
    pub sluice_version: String,
    pub pid: u32,
    pub uptime_s: u64,
    pub config_file: PathBuf,
    /// Rises with each change that the workers see.
    pub program_version: u64,
    pub workers: Vec<WorkerInfo>,
    pub bridges: Vec<BridgeInfo>,
    pub frames: u64,
    pub frames_free: u64,
    pub frame_size_bytes: u32,
    pub hugepages: bool,
    pub conns: u64,
    pub conns_max: u64,
}

#[derive(Clone, Debug, Default, Deserialize, Serialize, PartialEq, Eq)]
pub struct WorkerInfo {
    pub worker: usize,
    pub cpu: Option<usize>,
    pub rx_packets: u64,
    /// Share of the time since start in which there was work, in percent.
    pub busy_percent: u8,
}

#[derive(Clone, Debug, Default, Deserialize, Serialize, PartialEq)]
pub struct BridgeInfo {
    pub name: String,
    pub mac: String,
    pub fail_mode: String,
    pub flow_file: Option<PathBuf>,
    pub flows: u64,
    pub fdb_entries: u64,
    /// Tables that have flows, or a limit of their own.
    #[serde(default)]
    pub tables: Vec<TableInfo>,
    pub ports: Vec<PortInfo>,
}

#[derive(Clone, Debug, Default, Deserialize, Serialize, PartialEq)]
pub struct TableInfo {
    pub table: u8,
    pub flows: u64,
    pub flows_max: u64,
    /// What happens beyond: `refuse` or `evict`.
    pub overflow_policy: String,
}

#[derive(Clone, Debug, Default, Deserialize, Serialize, PartialEq)]
pub struct PortInfo {
    pub bridge: String,
    pub name: String,
    pub number: u16,
    #[serde(rename = "type")]
    pub kind: String,
    pub device: Option<String>,
    pub ifindex: Option<u32>,
    pub mac: Option<String>,
    pub mtu_bytes: Option<u32>,
    pub queues: u32,
    pub up: bool,
    /// How the device is driven ("native copy need_wakeup"), or why it is down.
    pub status: String,
    /// The rest of its configuration, by key.
    pub options: BTreeMap<String, String>,
    /// Frames lent to the kernel or waiting in rings; with `frames_free`, all there are.
    #[serde(default)]
    pub frames_held: u64,
    pub counters: PortCounters,
}

#[derive(Clone, Copy, Debug, Default, Deserialize, Serialize, PartialEq, Eq)]
pub struct PortCounters {
    pub rx_packets: u64,
    pub rx_bytes: u64,
    pub tx_packets: u64,
    pub tx_bytes: u64,
    pub rx_no_frame: u64,
    pub rx_errors: u64,
    pub tx_ring_full: u64,
    pub tx_errors: u64,
    pub kernel_rx_dropped: u64,
    pub kernel_rx_ring_full: u64,
    pub kernel_fill_empty: u64,
    pub invalid_descs: u64,
    pub syscalls: u64,
}

impl From<PortStats> for PortCounters {
    fn from(s: PortStats) -> Self {
        Self {
            rx_packets: s.rx_packets,
            rx_bytes: s.rx_bytes,
            tx_packets: s.tx_packets,
            tx_bytes: s.tx_bytes,
            rx_no_frame: s.rx_no_frame,
            rx_errors: s.rx_errors,
            tx_ring_full: s.tx_ring_full,
            tx_errors: s.tx_errors,
            kernel_rx_dropped: s.kernel_rx_dropped,
            kernel_rx_ring_full: s.kernel_rx_ring_full,
            kernel_fill_empty: s.kernel_fill_empty,
            invalid_descs: s.invalid_descs,
            syscalls: s.syscalls,
        }
    }
}

#[derive(Clone, Copy, Debug, Default, Deserialize, Serialize, PartialEq, Eq)]
pub struct FlowSummary {
    pub added: u64,
    pub modified: u64,
    pub deleted: u64,
    /// The program version in which the workers see it.
    pub program_version: u64,
}

/// What a change of groups or meters came to.
#[derive(Clone, Copy, Debug, Default, Deserialize, Serialize, PartialEq, Eq)]
pub struct RefSummary {
    /// Commands that were carried out.
    pub changed: u64,
    /// Flows that went because what they refer to did.
    pub flows_deleted: u64,
    /// The program version in which the workers see it.
    pub program_version: u64,
}

#[derive(Clone, Debug, Default, Deserialize, Serialize, PartialEq)]
pub struct GroupInfo {
    pub id: u32,
    #[serde(rename = "type")]
    pub kind: String,
    pub buckets: u64,
    pub ref_count: u64,
    pub n_packets: u64,
    pub n_bytes: u64,
    pub duration_s: f64,
    /// As `ovs-ofctl dump-groups` writes it: fit to be read back.
    pub text: String,
    /// As `ovs-ofctl dump-group-stats` writes it.
    pub stats_text: String,
}

#[derive(Clone, Debug, Default, Deserialize, Serialize, PartialEq)]
pub struct MeterInfo {
    pub id: u32,
    pub bands: u64,
    pub flow_count: u64,
    pub n_packets: u64,
    pub n_bytes: u64,
    pub duration_s: f64,
    /// As `ovs-ofctl dump-meters` writes it: fit to be read back.
    pub text: String,
    /// As `ovs-ofctl meter-stats` writes it.
    pub stats_text: String,
}

/// A bridge's map of tunnel options.
#[derive(Clone, Debug, Default, Deserialize, Serialize, PartialEq, Eq)]
pub struct TlvInfo {
    pub mappings: Vec<TlvMappingInfo>,
    /// As `ovs-ofctl dump-tlv-map` writes it, below its first line.
    pub text: String,
}

#[derive(Clone, Debug, Default, Deserialize, Serialize, PartialEq, Eq)]
pub struct TlvMappingInfo {
    pub class: u16,
    #[serde(rename = "type")]
    pub option_type: u8,
    pub len_bytes: u8,
    pub field: String,
}

#[derive(Clone, Debug, Default, Deserialize, Serialize, PartialEq)]
pub struct FlowInfo {
    pub table: u8,
    pub priority: u16,
    pub cookie: u64,
    pub n_packets: u64,
    pub n_bytes: u64,
    pub duration_s: f64,
    pub idle_age_s: Option<u64>,
    #[serde(rename = "match")]
    pub matches: String,
    pub actions: String,
    /// The flow as `ovs-ofctl dump-flows` writes it, without counters: fit to be read back.
    pub text: String,
}

#[derive(Clone, Debug, Default, Deserialize, Serialize, PartialEq, Eq)]
pub struct FdbEntry {
    pub port: String,
    pub number: u16,
    pub vlan: u16,
    pub mac: String,
    pub age_s: u64,
}

#[derive(Clone, Debug, Default, Deserialize, Serialize, PartialEq, Eq)]
pub struct ConnTuple {
    pub src: String,
    pub dst: String,
    /// TCP, UDP, SCTP.
    pub sport: Option<u16>,
    pub dport: Option<u16>,
    /// ICMP.
    pub icmp_id: Option<u16>,
    pub icmp_type: Option<u8>,
    pub icmp_code: Option<u8>,
}

#[derive(Clone, Debug, Default, Deserialize, Serialize, PartialEq, Eq)]
pub struct ConnInfo {
    pub proto: String,
    pub orig: ConnTuple,
    pub reply: ConnTuple,
    pub zone: u16,
    pub mark: u32,
    /// Hexadecimal, `0x...`.
    pub labels: String,
    /// TCP: `ESTABLISHED` and the like.
    pub state: Option<String>,
    pub expires_s: u64,
    pub packets_orig: u64,
    pub packets_reply: u64,
    pub worker: usize,
}

#[derive(Clone, Debug, Default, Deserialize, Serialize, PartialEq, Eq)]
pub struct TraceReport {
    pub steps: Vec<TraceStep>,
    /// Ports it left by, with the name.
    pub outputs: Vec<String>,
    /// If it was dropped: the reason's name.
    pub drop_reason: Option<String>,
    /// The parts of the key that decided, in flow text.
    pub megaflow: String,
    /// All of it, as one text for people.
    pub text: String,
}

#[derive(Clone, Debug, Default, Deserialize, Serialize, PartialEq, Eq)]
pub struct TraceStep {
    pub depth: u32,
    pub bridge: String,
    pub table: Option<u8>,
    /// The flow that matched, in flow text; none: a table miss.
    pub flow: Option<String>,
    /// What was done, one line each.
    pub actions: Vec<String>,
}

#[derive(Clone, Debug, Default, Deserialize, Serialize, PartialEq, Eq)]
pub struct TunnelInfo {
    pub bridge: String,
    pub port: String,
    pub number: u16,
    #[serde(rename = "type")]
    pub kind: String,
    pub remote: String,
    pub local: Option<String>,
    pub key: String,
    pub dst_port: u16,
    pub device: Option<String>,
    pub next_hop: Option<String>,
    pub next_hop_mac: Option<String>,
    pub mtu_bytes: Option<u32>,
    pub ready: bool,
    /// Why it is not ready; empty if it is.
    pub reason: String,
}

#[derive(Clone, Debug, Default, Deserialize, Serialize, PartialEq, Eq)]
pub struct WorkerCounters {
    pub worker: usize,
    pub cpu: Option<usize>,
    pub rx_packets: u64,
    pub tx_packets: u64,
    pub batches: u64,
    /// Lookups answered per tier.
    pub tiers: Vec<NamedCount>,
    /// Drops by reason; zeros are left out.
    pub drops: Vec<NamedCount>,
    pub other: Vec<NamedCount>,
    /// What control counted; in the first entry alone.
    #[serde(default)]
    pub control: Vec<NamedCount>,
}

/// What a monitor hears.
#[derive(Clone, Debug, Deserialize, Serialize, PartialEq)]
#[serde(rename_all = "snake_case")]
pub enum MonitorEvent {
    PacketIn(Box<PacketInInfo>),
    FlowRemoved(FlowRemovedInfo),
    /// So many events found the monitor's queue full, at this place.
    Lost {
        events: u64,
    },
}

/// A packet for a controller (OpenFlow 1.5.1 section 7.4.1, NXT_PACKET_IN2).
#[derive(Clone, Debug, Default, Deserialize, Serialize, PartialEq, Eq)]
pub struct PacketInInfo {
    pub table: u8,
    /// Of the flow whose action it was.
    pub cookie: Option<u64>,
    pub reason: String,
    pub controller_id: u16,
    pub in_port: u32,
    /// Of the whole packet.
    pub total_len_bytes: u64,
    /// Hexadecimal.
    pub userdata: String,
    /// The pipeline stopped there; the packet went nowhere else.
    pub paused: bool,
    /// The bytes that came along, hexadecimal.
    pub data: String,
    /// As `ovs-ofctl monitor` prints it.
    pub text: String,
}

/// A flow with `send_flow_rem` that went (OpenFlow 1.5.1 section 7.4.2).
#[derive(Clone, Debug, Default, Deserialize, Serialize, PartialEq)]
pub struct FlowRemovedInfo {
    pub table: u8,
    pub priority: u16,
    pub cookie: u64,
    #[serde(rename = "match")]
    pub matches: String,
    /// `idle`, `hard`, `delete`, `group_delete`, `meter_delete` or `eviction`.
    pub reason: String,
    pub duration_s: f64,
    pub idle_timeout_s: u16,
    pub hard_timeout_s: u16,
    pub n_packets: u64,
    pub n_bytes: u64,
    /// As `ovs-ofctl monitor` prints it.
    pub text: String,
}

#[derive(Clone, Debug, Default, Deserialize, Serialize, PartialEq, Eq)]
pub struct NamedCount {
    pub name: String,
    pub count: u64,
    /// One sentence for people.
    #[serde(default)]
    pub help: String,
}
