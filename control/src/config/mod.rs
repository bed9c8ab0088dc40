//! The daemon's configuration file: TOML, checked whole before anything starts.
//!
//! A file is accepted or refused as one; a refusal names file, line and column, quotes the line,
//! and says what would be right. All mistakes of a file are reported at once, except those of TOML
//! itself, where the first ends the reading. Unknown keys are mistakes: a misspelled option that is
//! silently ignored costs its author an evening.
//!
//! ```toml
//! [daemon]                      # all keys have defaults
//! control_socket = "/run/sluice/sluice.sock"
//! workers = 1                   # threads that move packets, up to 64; they share out queues
//! self_check = 0                # compare 1 of N cached walks with the tables; 0: none
//! vlan_limit = 1                # tags of a packet that flows can know; 0: as many as possible (2)
//! cpus = [1]                    # one per worker; if absent, the scheduler chooses
//! log = "info"                  # level, or module=level,...
//! log_json = false
//! [umem]                        # packet memory, shared by all ports
//! frame_size_bytes = 2048       # or 4096
//! frames = 16384
//! hugepages = false
//! [conntrack]
//! conns_max = 262144            # of all workers, with an equal share each
//! zone_limit = 0                # connections of a zone that has no limit of its own; 0: none
//! tcp_seq_check = true          # a TCP segment out of its window is invalid
//! flush_removed_backends = "udp"   # of ends that no nat(dst=) names any more; "none", "all"
//! fragments_max = 1000          # that wait at ct() for the others of their datagram
//! fragment_ipv4_min = 1200      # bytes of one that is not the last; a smaller one is invalid
//! fragment_ipv6_min = 1280
//! [conntrack.timeouts_s]        # seconds; names as in ovs-vsctl's ct-timeout policies
//! tcp_established = 86400
//! [[conntrack.zone]]            # of zones with something of their own
//! id = 5
//! limit = 100
//! timeouts_s = { udp_first = 10 }   # the others as above
//! [[bridge]]
//! name = "br1"
//! flow_file = "br1.flows"       # relative to this file
//! mac = "02:00:00:00:00:01"     # made from the name if absent
//! fail_mode = "secure"          # no flow file: drop all; or "standalone": a NORMAL switch
//! tlv_map = ["{class=0x102,type=0x80,len=4}->tun_metadata0"]   # options as fields
//! local = false                 # an internal port with the bridge's name, number 65534
//! [[bridge.table]]              # of tables with limits of their own
//! number = 0
//! flows_max = 1048576
//! overflow_policy = "refuse"    # a flow too many; "evict": the least important one goes
//! [[bridge.port]]
//! name = "ns1"
//! number = 1                    # else the lowest free one
//! type = "internal"             # afxdp tap packet memory geneve patch
//! ```
//! The keys of each type: [`Internal`], [`Tap`], [`Afxdp`], [`Geneve`], [`PortType`].
//! `[[route]]`, `[[neighbour]]` and `[[address]]` describe the underlay for `sluice replay`, which
//! reads the same file with every port a `memory` port; the daemon asks the kernel instead, and
//! uses these for the devices of `memory` ports alone. See `examples/node1.toml`.

mod check;
mod check_port;
mod conntrack;
mod error;
mod flows;
mod net;
mod raw;
#[cfg(test)]
mod tests;

use std::fmt;
use std::net::IpAddr;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use sluice_dataplane::tunnel::TlvMap;

pub(crate) use check::mac_of_name;
pub use conntrack::{CONNS_MAX, Conntrack, CtZone, FlushBackends, Timeouts};
pub use error::ConfigError;
pub use net::{Cidr, CidrError, MacAddr, MacAddrError};

/// Number of the port that has its bridge's name (OpenFlow 1.3, 7.2.1: OFPP_LOCAL, in the 16-bit
/// form that flow text uses).
pub const PORT_LOCAL: u16 = 65534;
/// Highest number of an ordinary port: the rest of the 16-bit space is reserved by OpenFlow.
pub const PORT_MAX: u16 = 0xfeff;
/// Where the operator's command looks when not told otherwise.
pub const CONTROL_SOCKET: &str = "/run/sluice/sluice.sock";
pub const GENEVE_PORT: u16 = 6081;

/// A whole, checked configuration.
#[derive(Clone, Debug, PartialEq)]
pub struct Config {
    pub file: PathBuf,
    pub daemon: Daemon,
    pub umem: Umem,
    pub conntrack: Conntrack,
    pub bridges: Vec<Bridge>,
    pub routes: Vec<StaticRoute>,
    pub neighbours: Vec<StaticNeighbour>,
    pub addresses: Vec<StaticAddress>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Daemon {
    pub control_socket: PathBuf,
    pub workers: usize,
    /// One per worker, or empty: choose.
    pub cpus: Vec<usize>,
    pub log: String,
    pub log_json: bool,
    /// Walk one of so many packets that a cache serves, and compare; 0: none.
    pub self_check: u32,
    /// Tags of an arriving packet that flows can know; 0: as many as possible (Open vSwitch:
    /// `other_config:vlan-limit`).
    pub vlan_limit: u8,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Umem {
    pub frame_size_bytes: u32,
    pub frames: u32,
    pub hugepages: bool,
}

#[derive(Clone, Debug, PartialEq)]
pub struct Bridge {
    pub name: String,
    /// Joined with the directory of the configuration file.
    pub flow_file: Option<PathBuf>,
    pub mac: MacAddr,
    pub fail_mode: FailMode,
    /// Geneve options that flows know as fields.
    pub tlv_map: TlvMap,
    /// Tables with limits of their own; numbers are distinct.
    pub tables: Vec<Table>,
    /// In the order of the file; the local port, if any, is among them. Numbers are distinct.
    pub ports: Vec<Port>,
}

impl Bridge {
    pub fn port(&self, name: &str) -> Option<&Port> {
        self.ports.iter().find(|port| port.name == name)
    }
}

/// What a table holds at most.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Table {
    pub number: u8,
    pub flows_max: usize,
    pub overflow_policy: OverflowPolicy,
}

/// What happens to a flow that a full table has no room for (Open vSwitch: the column
/// `overflow_policy` of Flow_Table).
#[derive(Clone, Copy, Debug, Default, Deserialize, Serialize, PartialEq, Eq)]
#[serde(rename_all = "lowercase")]
pub enum OverflowPolicy {
    /// It is refused.
    #[default]
    Refuse,
    /// It takes the place of the least important flow that can time out; refused if none can.
    Evict,
}

/// What a bridge does with packets while it has no flows.
#[derive(Clone, Copy, Debug, Default, Deserialize, Serialize, PartialEq, Eq)]
#[serde(rename_all = "lowercase")]
pub enum FailMode {
    /// Drop.
    #[default]
    Secure,
    /// Be an ordinary learning switch.
    Standalone,
}

#[derive(Clone, Debug, PartialEq)]
pub struct Port {
    pub name: String,
    pub number: u16,
    pub kind: PortType,
}

impl Port {
    /// The kernel device behind the port, if it has one.
    pub fn device(&self) -> Option<&str> {
        match &self.kind {
            PortType::Internal(p) => Some(&p.device),
            PortType::Tap(p) => Some(&p.device),
            PortType::Afxdp(p) => Some(&p.device),
            PortType::Packet { device } => Some(device),
            PortType::Memory | PortType::Geneve(_) | PortType::Patch { .. } => None,
        }
    }
}

#[derive(Clone, Debug, PartialEq)]
pub enum PortType {
    Internal(Internal),
    Tap(Tap),
    Afxdp(Afxdp),
    /// An existing device through AF_PACKET: slower, works everywhere. Key: `device`.
    Packet {
        device: String,
    },
    /// Frames in memory: replay and tests.
    Memory,
    Geneve(Geneve),
    /// A port whose packets appear at its peer, a patch port of another bridge. Key: `peer`.
    Patch {
        peer: String,
    },
}

impl PortType {
    pub fn name(&self) -> &'static str {
        match self {
            Self::Internal(_) => "internal",
            Self::Tap(_) => "tap",
            Self::Afxdp(_) => "afxdp",
            Self::Packet { .. } => "packet",
            Self::Memory => "memory",
            Self::Geneve(_) => "geneve",
            Self::Patch { .. } => "patch",
        }
    }
}

/// A kernel interface made by us, and given to the host or to a namespace.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Internal {
    /// `device`, default the port's name.
    pub device: String,
    /// `netns`: a name below `/run/netns`, or a path. It must exist.
    pub netns: Option<PathBuf>,
    /// `address = ["192.168.255.1/24"]`, set there.
    pub addresses: Vec<Cidr>,
    /// `route = [{ to = "default", via = "192.168.255.254" }]`, set there.
    pub routes: Vec<NetnsRoute>,
    pub mac: Option<MacAddr>,
    pub mtu_bytes: Option<u32>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NetnsRoute {
    pub to: Cidr,
    pub via: Option<IpAddr>,
}

/// A TAP device made by us, for the user (a virtual machine, say).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Tap {
    pub device: String,
    pub mac: Option<MacAddr>,
    pub mtu_bytes: Option<u32>,
}

/// An existing device through AF_XDP: a veth or a NIC.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Afxdp {
    pub device: String,
    /// `queues`, default 0: as many as the device has.
    pub queues: u16,
    pub mode: PortMode,
    pub xdp: XdpMode,
    pub checksum: Checksum,
    /// `nat = [{ address = "198.51.100.1", ports = [40000, 49999], icmp_ids = [40000, 49999] }]`
    /// of a shared port: what of these addresses is ours.
    pub nat: Vec<NatReservation>,
    /// `endpoints = ["10.0.0.1"]` of a shared port: addresses at which tunnel packets are ours.
    /// Empty: all addresses of the device.
    pub endpoints: Vec<IpAddr>,
}

/// Whose frames those of a device are.
#[derive(Clone, Copy, Debug, Default, Deserialize, Serialize, PartialEq, Eq)]
#[serde(rename_all = "lowercase")]
pub enum PortMode {
    /// All are ours.
    #[default]
    All,
    /// The host keeps the device; ours is tunnel traffic to our endpoints, and replies to our NAT
    /// addresses.
    Shared,
}

#[derive(Clone, Copy, Debug, Default, Deserialize, Serialize, PartialEq, Eq)]
#[serde(rename_all = "lowercase")]
pub enum XdpMode {
    /// Native if the driver can, else generic.
    #[default]
    Auto,
    Native,
    /// Generic: behind the kernel's packet buffers.
    Skb,
}

/// What to do about TCP and UDP checksums that the sender left to the hardware.
#[derive(Clone, Copy, Debug, Default, Deserialize, Serialize, PartialEq, Eq)]
#[serde(rename_all = "lowercase")]
pub enum Checksum {
    /// `software` for a veth, `trust` for others.
    #[default]
    Auto,
    /// Complete them when a packet comes in.
    Software,
    /// They are right as they come.
    Trust,
}

/// Part of an address that is ours for NAT. Without `ports` the whole address is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NatReservation {
    pub address: IpAddr,
    /// First and last, inclusive.
    pub ports: Option<(u16, u16)>,
    pub icmp_ids: Option<(u16, u16)>,
}

/// A Geneve tunnel port (RFC 8926).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Geneve {
    /// `remote_ip`: an address, or `"flow"`: set by flows as `tun_dst`.
    pub remote: TunnelRemote,
    /// `local_ip`; without it the one that the route says.
    pub local: Option<IpAddr>,
    /// `key`: the VNI, or `"flow"`: matched and set by flows as `tun_id`. Default 0.
    pub key: TunnelKey,
    /// `csum`: outer UDP checksum. Absent: off over IPv4, on over IPv6.
    pub csum: Option<bool>,
    pub dst_port: u16,
    /// `tos`: 0 to 255 or `"inherit"` from the inner header. Default 0.
    pub tos: Inherit,
    /// `ttl`: 1 to 255 or `"inherit"`. Default 64.
    pub ttl: Inherit,
    /// `df`: do not fragment the outer packet. Default true.
    pub df: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TunnelRemote {
    Flow,
    Ip(IpAddr),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TunnelKey {
    Flow,
    Vni(u32),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Inherit {
    Inner,
    Fixed(u8),
}

/// `[[route]]`: `destination`, optional `via` and `source`, `device` (a port's or its device's
/// name).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StaticRoute {
    pub destination: Cidr,
    pub via: Option<IpAddr>,
    pub device: String,
    pub source: Option<IpAddr>,
}

/// `[[neighbour]]`: `address`, `device`, `mac`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StaticNeighbour {
    pub address: IpAddr,
    pub device: String,
    pub mac: MacAddr,
}

/// `[[address]]`: `device`, `address`, and the device's `mac`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StaticAddress {
    pub device: String,
    pub address: Cidr,
    pub mac: Option<MacAddr>,
}

/// All reasons why a file is refused, in the order of the file; never empty.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ConfigErrors(pub Vec<ConfigError>);

impl fmt::Display for ConfigErrors {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (n, error) in self.0.iter().enumerate() {
            write!(f, "{}{error}", if n > 0 { "\n" } else { "" })?;
        }
        Ok(())
    }
}

impl std::error::Error for ConfigErrors {}

impl Config {
    /// Reads and checks a file, and that its flow files can be read.
    pub fn load(file: &Path) -> Result<Self, ConfigErrors> {
        let text = std::fs::read_to_string(file).map_err(|error| {
            let what = format!("cannot read the configuration: {error}");
            let hint = "give the path of a TOML file that this user may read";
            ConfigErrors(vec![ConfigError::whole(file, what, hint)])
        })?;
        check::check(file, &text, true)
    }

    /// Checks a text as if it were the content of `file`; flow files are not looked for.
    pub fn parse(file: &Path, text: &str) -> Result<Self, ConfigErrors> {
        check::check(file, text, false)
    }

    pub fn bridge(&self, name: &str) -> Option<&Bridge> {
        self.bridges.iter().find(|bridge| bridge.name == name)
    }

    /// A port of any bridge, by its name.
    pub fn port(&self, name: &str) -> Option<(&Bridge, &Port)> {
        self.bridges.iter().find_map(|bridge| Some((bridge, bridge.port(name)?)))
    }
}

/// One port in the keys of `[[bridge.port]]`, for adding it at run time. `taken` are the numbers in
/// use on the bridge. The errors' places count in `text`.
pub fn parse_port(text: &str, bridge: &str, taken: &[u16]) -> Result<Port, ConfigErrors> {
    check_port::parse_one(text, bridge, taken)
}
