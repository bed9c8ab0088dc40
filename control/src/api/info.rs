//! What a switch shows of itself: bridges, ports, flows, connections, counters. Entries of the
//! lists in a [`Reply`](super::types::Reply).

use std::collections::BTreeMap;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};
use sluice_dataplane::port::PortStats;

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
    /// On their way from one worker to another. The others are lent to ports.
    #[serde(default)]
    pub frames_waiting: u64,
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
    /// Packets given to the workers that have their connections.
    #[serde(default)]
    pub handed_over: u64,
    #[serde(default)]
    pub frames_free: u64,
    #[serde(default)]
    pub conns: u64,
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
    /// Numbers of the workers that have queues of it; the others send through them.
    #[serde(default)]
    pub workers: Vec<usize>,
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
    /// TCP: state of either side.
    pub state_orig: Option<String>,
    pub state_reply: Option<String>,
    /// `ftp` or `tftp`.
    pub helper: Option<String>,
    /// Gives way when the table is full: no handshake yet, or no answer.
    pub half_open: bool,
    pub expires_s: u64,
    pub packets_orig: u64,
    pub packets_reply: u64,
    pub worker: usize,
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

#[derive(Clone, Debug, Default, Deserialize, Serialize, PartialEq, Eq)]
pub struct NamedCount {
    pub name: String,
    pub count: u64,
    /// One sentence for people.
    #[serde(default)]
    pub help: String,
}
