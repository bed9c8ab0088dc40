//! The verbs: what a flow asks for (`Action`), and what is done to the bytes (`step`, `edit`).
//!
//! A walk does not touch the packet. It works on the flow key and *translates* actions into
//! `Step`s: header writes, tunnel pushes, outputs. Field changes are not steps of their own:
//! the walk keeps the key as the bytes have it and the key as the flow wants it, and when
//! something leaves (output, connection tracking) it emits the difference once. So ten
//! `set_field`s of ten tables fold into one edit, a change that is undone costs nothing, and
//! what a patch port or a fork changed is written back by the same rule.
//!
//! The same `Step`s run for the packet that walked and, out of the cache, for all later ones:
//! there is one executor.

pub mod edit;
pub mod group;
pub mod learn;
pub mod meter;
pub mod step;
pub mod translate;

use crate::conntrack::{Alg, NatSpec};
use crate::packet::field::{Field, Prereq, Subfield};
use learn::Learn;
use std::sync::Arc;

/// What a flow's action list may hold, with names resolved and values checked.
#[derive(Clone, Debug, PartialEq)]
pub enum Action {
    /// To an OpenFlow port number of this bridge. LOCAL is `PORT_LOCAL`.
    Output(u32),
    /// The same, of the port that a value beside the list names, as with `SetOwn`.
    OutputOwn(u8),
    /// Back out of the port it came in by: the one exception to "never out of the in_port".
    InPort,
    /// Every port but the in_port and those marked no-flood.
    Flood,
    /// Every port but the in_port.
    All,
    /// The bridge's own L2 switching.
    Normal,
    /// `load`, `set_field`, `mod_*`.
    Set(Set),
    /// The same with a value that lies beside the list (`pipeline::actions`). Only in a rule's own
    /// list, not in those within it.
    SetOwn(SetOwn),
    /// `move`.
    Move {
        src: Subfield,
        src_prereq: Prereq,
        dst: Subfield,
        dst_prereq: Prereq,
    },
    /// OpenFlow 1.0 `mod_vlan_vid` and `mod_vlan_pcp`: add a tag when there is none.
    ModVlan {
        vid: Option<u16>,
        pcp: Option<u8>,
    },
    PushVlan {
        tpid: u16,
    },
    PopVlan,
    /// An expired TTL is told to controller 0.
    DecTtl,
    /// The same, with the controllers that an expired TTL is told to.
    DecTtlFor(Box<[u16]>),
    /// Continue in a table, then come back to the next action. `None`: the present in_port,
    /// the present table.
    Resubmit {
        in_port: Option<u32>,
        table: Option<u8>,
        /// The lookup sees the original direction's addresses and ports of the connection.
        with_ct: bool,
    },
    /// Continue in a later table and do not come back.
    Goto(u8),
    Ct(Box<Ct>),
    CtClear,
    /// 1 into `dst` if the frame is longer than `len` bytes (VLAN tags not counted), else 0.
    CheckPktLarger {
        len: u16,
        dst: Subfield,
    },
    /// Run a list on a copy: none of its changes come back.
    Clone(Box<[Action]>),
    /// Stop this list and all that led here.
    Exit,
    /// To the port whose number the range holds.
    OutputField(Subfield),
    /// To a port, the frame cut to `max_len` bytes (at least 14).
    OutputTruncated {
        port: u32,
        max_len: u32,
    },
    /// To a port, by one of its queues.
    Enqueue {
        port: u32,
        queue: u32,
    },
    /// Later outputs leave by this queue.
    SetQueue(u32),
    /// Later outputs leave by the queue that was set when the packet arrived.
    PopQueue,
    /// Put the range on the packet's stack, with `zeros` bits below it that nobody can read.
    Push {
        src: Subfield,
        zeros: u8,
    },
    /// Take the range from the stack; `skip` bits below it cannot be written and are lost.
    Pop {
        dst: Subfield,
        prereq: Prereq,
        skip: u8,
    },
    /// Run a group of this bridge.
    Group(u32),
    /// Pass the meter of this number or be dropped.
    Meter(u32),
    Learn(Box<Learn>),
    Multipath(Box<Multipath>),
    Bundle(Box<Bundle>),
    Controller(Box<Controller>),
    Sample(Sample),
    /// Merge into the action set (OpenFlow 1.5.1 section 5.6).
    WriteActions(Box<[Action]>),
    ClearActions,
    /// Bits of `metadata`.
    WriteMetadata {
        value: u64,
        mask: u64,
    },
    /// A label in front of what is there; the EtherType becomes this.
    PushMpls(u16),
    /// The outermost label away; what is behind is of this EtherType.
    PopMpls(u16),
    SetMplsTtl(u8),
    DecMplsTtl,
    /// On a TCP packet with FIN or RST, shorten the timeouts of the flow that is met.
    FinTimeout {
        idle_s: u16,
        hard_s: u16,
    },
    /// Take a tunnel option off again.
    DeleteField(Field),
}

/// OpenFlow's number of the bridge's own port.
pub const PORT_LOCAL: u32 = 0xfffe;
/// The other port numbers that OpenFlow reserves (1.0's 16 bits).
pub mod port {
    /// The first of them.
    pub const MAX: u32 = 0xff00;
    pub const IN_PORT: u32 = 0xfff8;
    pub const TABLE: u32 = 0xfff9;
    pub const NORMAL: u32 = 0xfffa;
    pub const FLOOD: u32 = 0xfffb;
    pub const ALL: u32 = 0xfffc;
    pub const CONTROLLER: u32 = 0xfffd;
}
/// OpenFlow's "no port": what a packet of no port has for in_port.
pub const PORT_NONE: u32 = 0xffff;

#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Set {
    pub dst: Subfield,
    pub prereq: Prereq,
    pub value: u128,
    /// Bits of the range to write.
    pub mask: u128,
}

impl Set {
    /// The same with a value that lies beside the list, shifted left by so much.
    pub fn own(&self, at: u8, shift: u8) -> SetOwn {
        SetOwn { dst: self.dst, prereq: self.prereq, mask: self.mask, shift, at }
    }
}

/// A [`Set`] of one of the values that lie beside the list.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct SetOwn {
    pub dst: Subfield,
    pub prereq: Prereq,
    /// Bits of the range to write.
    pub mask: u128,
    /// The value is shifted left by so much.
    pub shift: u8,
    /// Its number.
    pub at: u8,
}

impl SetOwn {
    /// The action with its value.
    #[inline]
    pub fn with(&self, value: u64) -> Set {
        let value = u128::from(value) << (self.shift & 127);
        Set { dst: self.dst, prereq: self.prereq, value, mask: self.mask }
    }
}

/// Where `ct` takes its zone from.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Zone {
    Number(u16),
    Field(Subfield),
}

/// `ct(...)`.
#[derive(Clone, Debug, PartialEq)]
pub struct Ct {
    pub commit: bool,
    pub force: bool,
    pub zone: Zone,
    /// Fork: a copy goes on in this table with the connection's state.
    pub table: Option<u8>,
    pub nat: Option<Nat>,
    /// Only `ct_mark` and `ct_label` as destinations.
    pub exec: Arc<[Action]>,
    /// Helper of a connection that is committed.
    pub alg: Option<Alg>,
}

/// `nat` inside `ct`.
#[derive(Clone, Debug, PartialEq)]
pub enum Nat {
    /// Translate as the connection says, both ways.
    Existing,
    /// Choose a translation for a new connection.
    New(NatSpec),
}

/// How a hash chooses among links (ovs-actions(7) `multipath`, `bundle`, groups).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum HashFields {
    /// Source MAC.
    EthSrc,
    /// MACs, VLAN, EtherType, IP addresses, protocol and ports; both directions hash alike.
    SymmetricL4,
    /// IP addresses, protocol, and TCP, UDP or SCTP ports; both directions alike.
    SymmetricL3L4,
    /// The same without ports.
    SymmetricL3,
    /// The same with UDP ports left out, or not.
    SymmetricL3L4Udp,
    NwSrc,
    NwDst,
}

/// How a multipath spreads hashes over links.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum MultipathAlgorithm {
    ModuloN,
    HashThreshold,
    HighestRandomWeight,
    IterHash,
}

/// `multipath(...)`: the number of a link into a range.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Multipath {
    pub fields: HashFields,
    pub basis: u16,
    pub algorithm: MultipathAlgorithm,
    /// At least 1.
    pub links: u32,
    pub arg: u32,
    pub dst: Subfield,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum BundleAlgorithm {
    ActiveBackup,
    HighestRandomWeight,
}

/// `bundle(...)` and `bundle_load(...)`: one of several ports that are up.
#[derive(Clone, Debug, PartialEq)]
pub struct Bundle {
    pub fields: HashFields,
    pub basis: u16,
    pub algorithm: BundleAlgorithm,
    /// OpenFlow port numbers.
    pub members: Box<[u32]>,
    /// `bundle_load`: the port's number goes there, nothing is output.
    pub dst: Option<Subfield>,
}

/// Why a packet goes to a controller (OpenFlow 1.5.1 section 7.4.1).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum PacketInReason {
    NoMatch,
    Action,
    InvalidTtl,
    ActionSet,
    Group,
}

/// `controller(...)`.
#[derive(Clone, Debug, PartialEq)]
pub struct Controller {
    pub reason: PacketInReason,
    /// Bytes of the packet that go along.
    pub max_len: u16,
    pub controller_id: u16,
    pub userdata: Arc<[u8]>,
    /// The pipeline stops until the controller resumes it.
    pub pause: bool,
    pub meter: Option<u32>,
}

/// `sample(...)`: a share of the packets to a collector.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Sample {
    /// Of 65535.
    pub probability: u16,
    pub collector_set: u32,
    pub obs_domain: u32,
    pub obs_point: u32,
    pub sampling_port: Option<u32>,
}
