//! The words of the operator's command.

use std::path::PathBuf;

use clap::{Args, Parser, Subcommand};

use crate::config::CONTROL_SOCKET;

#[derive(Debug, Parser)]
#[command(
    name = "sluice",
    version,
    about = "Looks into a running sluiced and changes it",
    after_help = "Exit codes: 0 done, 1 refused or failed, 2 wrong usage."
)]
pub(super) struct Cli {
    #[command(flatten)]
    pub global: Global,
    #[command(subcommand)]
    pub command: Command,
}

#[derive(Debug, Args)]
pub(super) struct Global {
    /// Where sluiced listens
    #[arg(long, global = true, env = "SLUICE_SOCKET", default_value = CONTROL_SOCKET)]
    pub socket: PathBuf,
    /// Print JSON on one line
    #[arg(short, long, global = true)]
    pub json: bool,
    /// Print JSON over several lines
    #[arg(short, long, global = true)]
    pub pretty: bool,
    /// How long to wait for an answer
    #[arg(long, global = true, default_value_t = 30, value_name = "SECONDS",
        value_parser = clap::value_parser!(u64).range(1..=86_400))]
    pub timeout: u64,
}

#[derive(Debug, Subcommand)]
pub(super) enum Command {
    /// The switch at a glance: workers, bridges, ports
    Show,
    /// List bridges
    Bridge,
    /// List, add and delete ports
    #[command(subcommand)]
    Port(Port),
    /// Add, change, delete, dump and replace flows
    #[command(subcommand)]
    Flow(Flow),
    /// Add, change, delete and show groups
    #[command(subcommand)]
    Group(Group),
    /// Add, change, delete and show meters
    #[command(subcommand)]
    Meter(Meter),
    /// Geneve options as fields of flows
    #[command(subcommand)]
    TlvMap(TlvMap),
    /// Learned Ethernet addresses
    #[command(subcommand)]
    Fdb(Fdb),
    /// Tracked connections
    #[command(subcommand)]
    Conntrack(Conntrack),
    /// Tunnel ports and their way through the underlay
    Tunnel,
    /// Follow a packet through the tables without sending it
    Trace(Trace),
    /// Send one packet: in_port=PORT packet=HEX actions=...
    PacketOut {
        bridge: String,
        #[arg(required = true, value_name = "WORD")]
        words: Vec<String>,
    },
    /// Print packets for controllers and flows that went, as they come
    Monitor {
        bridge: String,
        /// End after so many events
        #[arg(short = 'n', long)]
        count: Option<u64>,
        /// Let each packet that controller(pause) stopped go on at once
        #[arg(long)]
        resume: bool,
    },
    /// Let a packet that controller(pause) stopped go on
    #[command(after_help = "Example: sluice resume 5f0c3a1e-17 --set reg0=1. A packet waits for \
                            60 s at most, as one of the 256 youngest, and goes on once.")]
    Resume {
        /// As `sluice monitor` prints it: continuation=HANDLE
        handle: String,
        /// Bytes in the place of the packet's, from the Ethernet header on
        #[arg(long, value_name = "HEX")]
        packet: Option<String>,
        /// Metadata that changes first, as in a match: reg0=5,metadata=0x3/0xf
        #[arg(long, value_name = "FIELDS", default_value = "")]
        set: String,
    },
    /// What the workers counted: tiers, drops by reason
    Counters,
    /// What on this host would stop sluice, and what to do
    Doctor(Doctor),
    /// Check a configuration and its flow files without starting anything
    Check {
        /// The configuration (TOML)
        config: PathBuf,
    },
    /// Run packets from files through flows: no devices, no root, exact or timed
    Replay(crate::replay::cli::Args),
    /// Send, receive and write test packets
    Pktgen(crate::pktgen::Args),
    /// Stop sluiced
    Stop,
}

#[derive(Debug, Subcommand)]
pub(super) enum Port {
    /// Ports of one bridge, or of all
    List { bridge: Option<String> },
    /// Add a port: keys and values as in the configuration's [[bridge.port]]
    #[command(
        after_help = "Example: sluice port add br1 tun2 type=geneve remote_ip=10.0.0.3 key=7"
    )]
    Add {
        bridge: String,
        name: String,
        /// type=afxdp queues=2 ...
        #[arg(required = true, value_name = "KEY=VALUE")]
        settings: Vec<String>,
    },
    /// Delete a port
    Del { bridge: String, name: String },
}

#[derive(Debug, Args)]
pub(super) struct FlowText {
    pub bridge: String,
    /// Flows in ovs-ofctl's words
    #[arg(value_name = "FLOW")]
    pub flows: Vec<String>,
    /// Read flows from a file, one a line; - is the standard input
    #[arg(short, long, conflicts_with = "flows")]
    pub file: Option<PathBuf>,
}

#[derive(Debug, Subcommand)]
pub(super) enum Flow {
    /// Add flows; one with the same match and priority is replaced
    Add(FlowText),
    /// Change the actions of matching flows
    Mod {
        #[command(flatten)]
        text: FlowText,
        /// Only the flow with exactly this match and priority
        #[arg(long)]
        strict: bool,
    },
    /// Delete matching flows; without a match, all
    Del {
        #[command(flatten)]
        text: FlowText,
        /// Only the flow with exactly this match and priority
        #[arg(long)]
        strict: bool,
    },
    /// Print flows, with counters
    Dump {
        bridge: String,
        /// A match, as in table=0,ip
        #[arg(value_name = "MATCH", default_value = "")]
        filter: String,
        /// Without counters: fit to be read back
        #[arg(long)]
        no_stats: bool,
    },
    /// Make the bridge's flows exactly these, at once
    Replace(FlowText),
    /// Change flows, groups and meters at once: a file as for ovs-ofctl bundle
    #[command(after_help = "Lines: flow add|modify|delete ..., group add|modify|delete ..., \
                            meter add|modify|delete ...; all are done, or none.")]
    Bundle {
        bridge: String,
        /// The file; - is the standard input
        file: PathBuf,
    },
}

#[derive(Debug, Args)]
pub(super) struct RefText {
    pub bridge: String,
    /// In ovs-ofctl's words, as in group_id=1,type=all,bucket=actions=1
    #[arg(value_name = "TEXT")]
    pub lines: Vec<String>,
    /// Read them from a file, one a line; - is the standard input
    #[arg(short, long, conflicts_with = "lines")]
    pub file: Option<PathBuf>,
}

#[derive(Debug, Args)]
pub(super) struct RefShow {
    pub bridge: String,
    /// Only this one
    pub id: Option<u32>,
}

#[derive(Debug, Subcommand)]
pub(super) enum Group {
    /// Add groups
    Add(RefText),
    /// Change groups
    Mod {
        #[command(flatten)]
        text: RefText,
        /// Add what is not there
        #[arg(long)]
        may_create: bool,
    },
    /// Delete groups (group_id=N), with the flows that use them; without a text, all
    Del(RefText),
    /// Insert buckets: group_id=N,command_bucket_id=first|last|ID,bucket=...
    InsertBuckets(RefText),
    /// Remove buckets: group_id=N,command_bucket_id=first|last|all|ID
    RemoveBuckets(RefText),
    /// Print groups: fit to be read back
    Dump(RefShow),
    /// Print what groups and their buckets counted
    Stats(RefShow),
}

#[derive(Debug, Subcommand)]
pub(super) enum Meter {
    /// Add meters: meter=1,kbps,burst,bands=type=drop,rate=1000,burst_size=100
    Add(RefText),
    /// Change meters
    Mod(RefText),
    /// Delete meters (meter=N), with the flows that use them; without a text, all
    Del(RefText),
    /// Print meters: fit to be read back
    Dump(RefShow),
    /// Print what meters and their bands counted
    Stats(RefShow),
}

#[derive(Debug, Subcommand)]
pub(super) enum TlvMap {
    /// Map options to fields
    #[command(
        after_help = "Example: sluice tlv-map add br1 '{class=1,type=2,len=4}->tun_metadata0'"
    )]
    Add {
        bridge: String,
        #[arg(required = true, value_name = "OPTION")]
        options: Vec<String>,
    },
    /// Delete mappings that no flow uses; without one, all
    Del {
        bridge: String,
        #[arg(value_name = "OPTION")]
        options: Vec<String>,
    },
    /// Print the map
    Dump { bridge: String },
}

#[derive(Debug, Subcommand)]
pub(super) enum Fdb {
    /// Print the table
    Show { bridge: String },
    /// Forget what was learned
    Flush { bridge: String },
}

#[derive(Debug, Subcommand)]
pub(super) enum Conntrack {
    /// Print connections
    ///
    /// Terms: zone=5 udp dport=53 src=10.0.0.0/24 mark=1/0xff label=0x10 state=SYN_SENT half-open;
    /// orig. or reply. before a term of the tuple names the direction; ct_nw_src=... and its like
    /// are those of ovs-appctl dpctl/flush-conntrack.
    List {
        /// What to print; all that is said must hold
        filter: Vec<String>,
        #[arg(long)]
        zone: Option<u16>,
        /// At most so many
        #[arg(long)]
        limit: Option<usize>,
        /// Both sides' states
        #[arg(short, long, conflicts_with = "statistics")]
        more: bool,
        /// With the seconds left
        #[arg(short, long)]
        statistics: bool,
    },
    /// Forget connections
    #[command(group = clap::ArgGroup::new("which").required(true))]
    Flush {
        /// Terms as for list
        #[arg(group = "which")]
        filter: Vec<String>,
        #[arg(long, group = "which")]
        zone: Option<u16>,
        /// Of every zone
        #[arg(long, group = "which")]
        all: bool,
    },
    /// Count them by protocol and state; table, port pools, and what happened
    Stats {
        /// Terms as for list: count these alone
        filter: Vec<String>,
    },
    /// Connections that a zone may have
    #[command(subcommand)]
    Limit(CtLimit),
    /// Whether a TCP segment out of its window is invalid
    TcpSeqCheck { state: Option<OnOff> },
    /// Connections that there may be, up to the configuration's conns_max
    Max { conns: Option<u32> },
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub(super) enum OnOff {
    On,
    Off,
}

#[derive(Debug, Subcommand)]
pub(super) enum CtLimit {
    /// Print limits and counts; without zones, of those that have a limit of their own
    Get { zones: Vec<u16> },
    /// default=N and zone=Z,limit=N; 0 means no limit
    Set {
        #[arg(required = true)]
        limits: Vec<String>,
    },
    /// Let zones have the default limit again
    Del {
        #[arg(required = true)]
        zones: Vec<u16>,
    },
}

#[derive(Debug, Args)]
pub(super) struct Trace {
    pub bridge: String,
    /// The packet as a match: in_port=ns1,tcp,nw_dst=10.0.0.1,...; with --pcap or --hex its port
    /// alone: in_port=ns1
    #[arg(required_unless_present_any = ["hex", "pcap"])]
    pub flow: Option<String>,
    /// The packet as bytes
    #[arg(long)]
    pub hex: Option<String>,
    /// The packet from a pcap file
    #[arg(long, value_name = "FILE", conflicts_with = "hex")]
    pub pcap: Option<PathBuf>,
    /// Which packet of the file, from 1
    #[arg(long, requires = "pcap", default_value_t = 1, value_name = "N",
        value_parser = clap::value_parser!(u64).range(1..))]
    pub packet: u64,
    /// The port it comes in by: name or number
    #[arg(long, required_unless_present = "flow")]
    pub in_port: Option<String>,
}

#[derive(Debug, Args)]
pub(super) struct Doctor {
    /// Devices to look at
    pub devices: Vec<String>,
    /// Look at what this configuration needs
    #[arg(long, conflicts_with = "devices")]
    pub config: Option<PathBuf>,
    /// Ask the running sluiced about itself
    #[arg(long, conflicts_with_all = ["devices", "config"])]
    pub running: bool,
}
