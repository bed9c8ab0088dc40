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
pub mod step;

use crate::conntrack::NatSpec;
use crate::packet::field::{Prereq, Subfield};

/// What a flow's action list may hold, with names resolved and values checked.
#[derive(Clone, Debug, PartialEq)]
pub enum Action {
    /// To an OpenFlow port number of this bridge. LOCAL is `PORT_LOCAL`.
    Output(u32),
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
    DecTtl,
    /// Continue in a table, then come back to the next action. `None`: the present in_port,
    /// the present table.
    Resubmit {
        in_port: Option<u32>,
        table: Option<u8>,
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
}

/// OpenFlow's number of the bridge's own port.
pub const PORT_LOCAL: u32 = 0xfffe;
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
    pub exec: Vec<Action>,
}

/// `nat` inside `ct`.
#[derive(Clone, Debug, PartialEq)]
pub enum Nat {
    /// Translate as the connection says, both ways.
    Existing,
    /// Choose a translation for a new connection.
    New(NatSpec),
}
