//! Connection tracking over the control socket.

use super::info::{ConnInfo, NamedCount};
use serde::{Deserialize, Serialize};

/// Which connections, and where to begin.
#[derive(Clone, Debug, Default, Deserialize, Serialize, PartialEq, Eq)]
#[serde(deny_unknown_fields)]
pub struct ConnQuery {
    /// Terms with spaces between (`sluice conntrack list --help`); empty: all.
    #[serde(default)]
    pub filter: String,
    /// Place to begin at: the `next` of the page before.
    #[serde(default)]
    pub from: u64,
}

/// Some of the connections. One that stays is on exactly one page.
#[derive(Clone, Debug, Default, Deserialize, Serialize, PartialEq, Eq)]
pub struct ConnPage {
    pub list: Vec<ConnInfo>,
    /// Where to go on; `None`: that was all.
    pub next: Option<u64>,
}

/// Settings that change while the switch runs; what is absent stays.
#[derive(Clone, Debug, Default, Deserialize, Serialize, PartialEq, Eq)]
#[serde(deny_unknown_fields)]
pub struct CtChange {
    #[serde(default)]
    pub tcp_seq_check: Option<bool>,
    /// At most as many as the configuration's `conns_max`.
    #[serde(default)]
    pub conns_max: Option<u32>,
    /// Connections of a zone that has no limit of its own; 0: no limit.
    #[serde(default)]
    pub zone_limit: Option<u32>,
    #[serde(default)]
    pub limits: Vec<ZoneLimit>,
}

#[derive(Clone, Copy, Debug, Default, Deserialize, Serialize, PartialEq, Eq)]
#[serde(deny_unknown_fields)]
pub struct ZoneLimit {
    pub zone: u16,
    /// 0: no limit; `None`: that of all zones.
    pub limit: Option<u32>,
}

/// Limits and counts, as `ovs-appctl dpctl/ct-get-limits` shows them.
#[derive(Clone, Debug, Default, Deserialize, Serialize, PartialEq, Eq)]
pub struct CtLimits {
    pub default_limit: u32,
    /// Zones that have connections, or a limit of their own.
    pub zones: Vec<ZoneInfo>,
    pub tcp_seq_check: bool,
    pub conns: u64,
    pub conns_max: u64,
}

#[derive(Clone, Copy, Debug, Default, Deserialize, Serialize, PartialEq, Eq)]
pub struct ZoneInfo {
    pub zone: u16,
    /// In force; 0: none.
    pub limit: u32,
    /// Whether the limit is the zone's own.
    pub own: bool,
    pub count: u32,
}

/// How connection tracking stands.
#[derive(Clone, Debug, Default, Deserialize, Serialize, PartialEq, Eq)]
pub struct CtStatus {
    /// Of the filter; the rest is of all.
    pub total: u64,
    pub protocols: Vec<NamedCount>,
    pub tcp_states: Vec<NamedCount>,
    /// Dead ones included that are not yet collected.
    pub conns: u64,
    pub conns_max: u64,
    /// What `conns_max` can be raised to.
    pub places: u64,
    /// Those that give way first when the table is full.
    pub half_open: u64,
    /// Those that give way next.
    pub closed: u64,
    /// Memory for connections, without the addresses of IPv6.
    pub reserved_bytes: u64,
    pub tcp_seq_check: bool,
    /// What happened since the start.
    pub events: Vec<NamedCount>,
    pub pools: Vec<PoolInfo>,
}

/// The ports of a translated address, or its ICMP identifiers.
#[derive(Clone, Debug, Default, Deserialize, Serialize, PartialEq, Eq)]
pub struct PoolInfo {
    pub zone: u16,
    pub proto: String,
    pub address: String,
    pub connections: u32,
    /// Different ports that they hold.
    pub ports_used: u32,
    /// Commits that found no free tuple.
    pub exhausted: u64,
}
