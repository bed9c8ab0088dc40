//! The file's shape, as serde sees it: keys and value types, nothing checked yet.
//!
//! Flat structs only. Tagged and flattened serde forms buffer their content and lose the places of
//! the values, and without a place an error cannot point at anything. So a port has all keys of all
//! types here, and `check` says which of them do not belong to its type.

use std::ops::Range;
use std::path::PathBuf;

use serde::Deserialize;
use toml::Spanned;

use super::{Checksum, FailMode, FlushBackends, OverflowPolicy, PortMode, XdpMode};

pub(super) type Text = Spanned<String>;
pub(super) type Int = Spanned<i64>;

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct File {
    #[serde(default)]
    pub daemon: Daemon,
    #[serde(default)]
    pub umem: Umem,
    #[serde(default)]
    pub conntrack: Conntrack,
    #[serde(default, rename = "bridge")]
    pub bridges: Vec<Bridge>,
    #[serde(default, rename = "route")]
    pub routes: Vec<Route>,
    #[serde(default, rename = "neighbour")]
    pub neighbours: Vec<Neighbour>,
    #[serde(default, rename = "address")]
    pub addresses: Vec<Address>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Daemon {
    pub control_socket: Option<PathBuf>,
    pub workers: Option<Int>,
    pub self_check: Option<Int>,
    pub vlan_limit: Option<Int>,
    pub cpus: Option<Spanned<Vec<Int>>>,
    pub log: Option<Text>,
    pub log_json: Option<bool>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Umem {
    pub frame_size_bytes: Option<Int>,
    pub frames: Option<Int>,
    pub hugepages: Option<bool>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Conntrack {
    pub conns_max: Option<Int>,
    pub fragments_max: Option<Int>,
    pub fragment_ipv4_min: Option<Int>,
    pub fragment_ipv6_min: Option<Int>,
    pub tcp_seq_check: Option<bool>,
    pub zone_limit: Option<Int>,
    #[serde(default)]
    pub flush_removed_backends: FlushBackends,
    #[serde(default)]
    pub timeouts_s: TimeoutsRaw,
    #[serde(default, rename = "zone")]
    pub zones: Vec<CtZone>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct CtZone {
    pub id: Int,
    pub limit: Option<Int>,
    pub timeouts_s: Option<TimeoutsRaw>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct TimeoutsRaw {
    pub tcp_syn_sent: Option<Int>,
    pub tcp_syn_recv: Option<Int>,
    pub tcp_established: Option<Int>,
    pub tcp_fin_wait: Option<Int>,
    pub tcp_time_wait: Option<Int>,
    pub tcp_close: Option<Int>,
    pub udp_first: Option<Int>,
    pub udp_single: Option<Int>,
    pub udp_multiple: Option<Int>,
    pub icmp_first: Option<Int>,
    pub icmp_reply: Option<Int>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Bridge {
    pub name: Text,
    pub flow_file: Option<Text>,
    pub mac: Option<Text>,
    #[serde(default)]
    pub fail_mode: FailMode,
    pub local: Option<bool>,
    #[serde(default)]
    pub tlv_map: Vec<Text>,
    #[serde(default, rename = "table")]
    pub tables: Vec<Table>,
    #[serde(default, rename = "port")]
    pub ports: Vec<Spanned<Port>>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Table {
    pub number: Int,
    pub flows_max: Option<Int>,
    #[serde(default)]
    pub overflow_policy: OverflowPolicy,
}

#[derive(Clone, Copy, Debug, Deserialize, PartialEq, Eq)]
#[serde(rename_all = "lowercase")]
pub(super) enum Type {
    Internal,
    Tap,
    Afxdp,
    Packet,
    Memory,
    Geneve,
    Patch,
}

impl Type {
    pub fn name(self) -> &'static str {
        match self {
            Self::Internal => "internal",
            Self::Tap => "tap",
            Self::Afxdp => "afxdp",
            Self::Packet => "packet",
            Self::Memory => "memory",
            Self::Geneve => "geneve",
            Self::Patch => "patch",
        }
    }

    /// Keys that a port of this type may have besides `name`, `type` and `number`.
    pub fn keys(self) -> &'static [&'static str] {
        match self {
            Self::Internal => &["device", "netns", "address", "route", "mac", "mtu"],
            Self::Tap => &["device", "mac", "mtu"],
            Self::Afxdp => &["device", "queues", "mode", "xdp", "checksum", "nat", "endpoints"],
            Self::Packet => &["device"],
            Self::Memory => &[],
            Self::Geneve => {
                &["remote_ip", "local_ip", "key", "csum", "dst_port", "tos", "ttl", "df"]
            }
            Self::Patch => &["peer"],
        }
    }
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Port {
    pub name: Text,
    pub number: Option<Int>,
    #[serde(rename = "type")]
    pub kind: Type,
    pub device: Option<Text>,
    pub netns: Option<Text>,
    pub address: Option<Spanned<Vec<Text>>>,
    pub route: Option<Spanned<Vec<NetnsRoute>>>,
    pub mac: Option<Text>,
    pub mtu: Option<Int>,
    pub queues: Option<Int>,
    pub mode: Option<Spanned<PortMode>>,
    pub xdp: Option<Spanned<XdpMode>>,
    pub checksum: Option<Spanned<Checksum>>,
    pub nat: Option<Spanned<Vec<Nat>>>,
    pub endpoints: Option<Spanned<Vec<Text>>>,
    pub remote_ip: Option<Text>,
    pub local_ip: Option<Text>,
    pub key: Option<Spanned<toml::Value>>,
    pub csum: Option<Spanned<bool>>,
    pub dst_port: Option<Int>,
    pub tos: Option<Spanned<toml::Value>>,
    pub ttl: Option<Spanned<toml::Value>>,
    pub df: Option<Spanned<bool>>,
    pub peer: Option<Text>,
}

impl Port {
    /// The type-specific keys that are there, with the places of their values.
    pub fn present(&self) -> Vec<(&'static str, Range<usize>)> {
        macro_rules! list {
            ($($key:ident),*) => {
                [$((stringify!($key), self.$key.as_ref().map(Spanned::span))),*]
            };
        }
        let all = list!(
            device, netns, address, route, mac, mtu, queues, mode, xdp, checksum, nat, endpoints,
            remote_ip, local_ip, key, csum, dst_port, tos, ttl, df, peer
        );
        all.into_iter().filter_map(|(key, span)| Some((key, span?))).collect()
    }
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct NetnsRoute {
    pub to: Text,
    pub via: Option<Text>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Nat {
    pub address: Text,
    pub ports: Option<Spanned<Vec<i64>>>,
    pub icmp_ids: Option<Spanned<Vec<i64>>>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Route {
    pub destination: Text,
    pub via: Option<Text>,
    pub device: Text,
    pub source: Option<Text>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Neighbour {
    pub address: Text,
    pub device: Text,
    pub mac: Text,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Address {
    pub device: Text,
    pub address: Text,
    pub mac: Option<Text>,
}
