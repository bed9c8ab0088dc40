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
//!
//! Here are calls, answers, and what changes come to; `info` has the entries of lists, `event` what
//! happens to single packets.

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::doctor::Report;

pub use super::conns::{
    ConnPage, ConnQuery, CtChange, CtLimits, CtStatus, PoolInfo, ZoneInfo, ZoneLimit,
};
pub use super::event::{FlowRemovedInfo, MonitorEvent, PacketInInfo, TraceReport, TraceStep};
pub use super::info::{
    BridgeInfo, ConnInfo, ConnTuple, FdbEntry, FlowInfo, GroupInfo, MeterInfo, NamedCount,
    PortCounters, PortInfo, SwitchInfo, TableInfo, TlvInfo, TlvMappingInfo, TunnelInfo,
    WorkerCounters, WorkerInfo,
};

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
    /// A page of connections.
    ConntrackList(ConnQuery),
    ConntrackFlush {
        /// As of a list; empty: all.
        filter: String,
    },
    ConntrackStatus {
        filter: String,
    },
    ConntrackLimits,
    ConntrackSet(CtChange),
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
    /// Lets a paused packet go on.
    Resume(ResumeRequest),
    Doctor,
    Shutdown,
}

/// How a paused packet goes on. A packet that waits does so for 60 s at most, as one of the 256
/// youngest, and goes on once; if the request itself is wrong, it waits on.
#[derive(Clone, Debug, Default, Deserialize, Serialize, PartialEq, Eq)]
#[serde(deny_unknown_fields)]
pub struct ResumeRequest {
    /// As the monitor told it.
    pub continuation: String,
    /// Bytes that take the place of the packet's, hexadecimal, from the Ethernet header on.
    #[serde(default)]
    pub packet: Option<String>,
    /// Metadata that changes, as in a match: `reg0=5,metadata=0x3/0xf`.
    #[serde(default)]
    pub metadata: String,
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
    Conns(ConnPage),
    CtStatus(Box<CtStatus>),
    CtLimits(CtLimits),
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
