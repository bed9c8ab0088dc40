//! What happens to packets, told packet by packet: traces, and the events of a monitor.

use serde::{Deserialize, Serialize};

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
    /// The pipeline stopped there.
    pub paused: bool,
    /// By which it can go on.
    #[serde(default)]
    pub continuation: Option<String>,
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
