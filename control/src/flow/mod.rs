//! Flow text: ovs-ofctl's language, in and out.
//!
//! A line of text becomes a [`Flow`], the typed model that everything else in control works
//! on; [`print_flow`] writes a `Flow` as `ovs-ofctl` 3.1 does, so that `print(parse(x))` is
//! what stock tools show. The grammar is in ovs-ofctl(8) "Flow Syntax", ovs-fields(7) and
//! ovs-actions(7); names, widths and rights of fields come from the dataplane's single list
//! (`packet/field.rs`).
//!
//! The model keeps what the text said, not what it does: `load` and `set_field` print as they
//! were written although they do the same. A match is already a key and a mask.
//!
//! Rooms: `span` splits text and knows columns; `value`, `subfield`, `ports` read and print
//! the words; `match_parse`, `action_parse`, `ct_parse` the two halves of a flow; `check` what
//! the halves demand of each other; `print` the way back; `flow_mod` deletion and
//! modification; `file` whole files.

mod action_parse;
mod action_print;
mod check;
mod ct_parse;
mod error;
mod file;
mod flow_mod;
mod match_parse;
mod parse;
pub mod ports;
mod print;
mod span;
mod subfield;
pub mod value;

#[cfg(test)]
mod roundtrip;
#[cfg(test)]
mod tests;

pub use error::{FlowError, Problem};
pub use file::{FileFlow, parse_file};
pub use flow_mod::{Command, FlowFilter, FlowMod, parse_flow_mod};
pub use parse::parse_flow;
pub use ports::{NoNames, PortMap, PortNames};
pub use print::{FlowStats, print_actions, print_flow, print_flow_stats, print_match};
pub use subfield::{SubField, text_bits};

use sluice_dataplane::packet::field::{Field, ones};
use sluice_dataplane::packet::key::{FlowKey, Mask};

/// Priority of a flow that names none.
pub const DEFAULT_PRIORITY: u16 = 32768;

/// Longest line that is read: far above the longest flow that OVN writes.
pub const LINE_MAX_BYTES: usize = 64 * 1024;

/// Actions nested in actions (`clone`, `ct(exec)`): bounds the recursion of reader and printer.
pub const DEPTH_MAX: usize = 16;

/// A flow as the user wrote it.
#[derive(Clone, Debug, PartialEq)]
pub struct Flow {
    pub table: u8,
    pub priority: u16,
    pub cookie: u64,
    /// 0: none.
    pub idle_timeout_s: u16,
    /// 0: none.
    pub hard_timeout_s: u16,
    pub importance: u16,
    pub flags: FlowFlags,
    pub match_: Match,
    /// Empty: drop.
    pub actions: Vec<FlowAction>,
}

impl Default for Flow {
    fn default() -> Self {
        Flow {
            table: 0,
            priority: DEFAULT_PRIORITY,
            cookie: 0,
            idle_timeout_s: 0,
            hard_timeout_s: 0,
            importance: 0,
            flags: FlowFlags::default(),
            match_: Match::default(),
            actions: Vec::new(),
        }
    }
}

/// Flags of a flow (OpenFlow 1.5.1 section 7.3.4.2).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct FlowFlags {
    pub send_flow_rem: bool,
    pub check_overlap: bool,
    pub reset_counts: bool,
    pub no_packet_counts: bool,
    pub no_byte_counts: bool,
}

/// What packets a flow is for. Bits of `key` outside `mask` are zero. `in_port` is the
/// OpenFlow number; its mask is all 32 bits or none.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Match {
    pub key: FlowKey,
    pub mask: Mask,
}

impl Match {
    /// The value and mask of a field.
    pub fn get(&self, field: Field) -> (u128, u128) {
        (field.info().get(&self.key), field.info().get(&self.mask))
    }

    /// Replaces the field's part of the match.
    pub fn set(&mut self, field: Field, value: u128, mask: u128) {
        let mask = mask & ones(field.info().bits);
        field.info().set(&mut self.key, value & mask);
        field.info().set(&mut self.mask, mask);
    }

    /// Whether every packet of `self` is one of `other`: `other` has no bit that `self` leaves
    /// open or sets otherwise.
    pub fn is_within(&self, other: &Match) -> bool {
        other.mask.and(&self.mask) == other.mask && self.key.matches(&other.key, &other.mask)
    }
}

/// One action, with what is needed to print it as it was.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum FlowAction {
    /// To an ordinary port.
    Output(u32),
    Normal,
    Flood,
    All,
    InPort,
    Local,
    /// Only as the last action.
    GotoTable(u8),
    /// `None`: the port of entry; this table. Never both.
    Resubmit {
        port: Option<u32>,
        table: Option<u8>,
    },
    Move {
        src: SubField,
        dst: SubField,
    },
    /// At most 64 bits wide: a wider `load` becomes several, as in Open vSwitch.
    Load {
        value: u64,
        dst: SubField,
    },
    /// The mask is all ones of the field when none was given.
    SetField {
        field: Field,
        value: u128,
        mask: u128,
    },
    /// Adds a tag if there is none, as `ModVlanPcp` does.
    ModVlanVid(u16),
    ModVlanPcp(u8),
    /// Without adding a tag.
    SetVlanVid(u16),
    SetVlanPcp(u8),
    StripVlan,
    /// The same as `StripVlan`, by its later name.
    PopVlan,
    /// The TPID: 0x8100 or 0x88a8.
    PushVlan(u16),
    ModDlSrc(u64),
    ModDlDst(u64),
    ModNwSrc(u32),
    ModNwDst(u32),
    /// The whole octet; its two lowest bits are zero and stay untouched in the packet.
    ModNwTos(u8),
    ModNwEcn(u8),
    ModNwTtl(u8),
    ModTpSrc(u16),
    ModTpDst(u16),
    /// `wide`: printed as `set_tunnel64`; always so if the id needs more than 32 bits.
    SetTunnel {
        id: u64,
        wide: bool,
    },
    /// Controllers that hear of an expired TTL; empty for the plain form.
    DecTtl(Vec<u16>),
    Ct(Box<Ct>),
    CtClear,
    CheckPktLarger {
        len_bytes: u16,
        dst: SubField,
    },
    Note(Vec<u8>),
    Clone(Vec<FlowAction>),
    Exit,
}

/// `ct(...)`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Ct {
    pub commit: bool,
    pub force: bool,
    pub zone: Zone,
    /// Table of recirculation.
    pub table: Option<u8>,
    pub nat: Option<Nat>,
    /// Sets of `ct_mark` and `ct_label`.
    pub exec: Vec<FlowAction>,
    pub alg: Option<Alg>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Zone {
    Number(u16),
    /// The low 16 bits of the range at that moment.
    Field(SubField),
}

impl Default for Zone {
    fn default() -> Self {
        Zone::Number(0)
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Alg {
    Ftp,
    Tftp,
}

/// `nat`, `nat(src=...)`, `nat(dst=...)`. Without `side`: translate known connections only.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Nat {
    pub side: Option<NatSide>,
    /// First and last address, equal for a single one.
    pub addresses: Option<(std::net::IpAddr, std::net::IpAddr)>,
    /// First and last port, equal for a single one.
    pub ports: Option<(u16, u16)>,
    pub persistent: bool,
    pub hash: bool,
    pub random: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NatSide {
    Src,
    Dst,
}

/// The field, bits and mask that an action writes, for those that write a constant.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Write {
    pub field: Field,
    pub value: u128,
    /// Bits of the field that change.
    pub mask: u128,
}

impl FlowAction {
    /// What a `load`, `set_field`, `set_tunnel` or `mod_*` of an L3 or L4 field writes; `None`
    /// for all else. `nw_tos` changes only its DSCP bits.
    pub fn write(&self) -> Option<Write> {
        let whole =
            |field: Field, value: u128| Some(Write { field, value, mask: ones(field.info().bits) });
        match *self {
            FlowAction::Load { value, dst } => {
                let (value, mask) = ((value as u128) << dst.lo, ones(dst.bits) << dst.lo);
                Some(Write { field: dst.field, value, mask: mask & writable_bits(dst.field) })
            }
            FlowAction::SetField { field, value, mask } => {
                Some(Write { field, value: value & mask, mask: mask & writable_bits(field) })
            }
            FlowAction::SetTunnel { id, .. } => whole(Field::TunId, id as u128),
            FlowAction::ModDlSrc(v) => whole(Field::EthSrc, v as u128),
            FlowAction::ModDlDst(v) => whole(Field::EthDst, v as u128),
            FlowAction::ModNwSrc(v) => whole(Field::IpSrc, v as u128),
            FlowAction::ModNwDst(v) => whole(Field::IpDst, v as u128),
            FlowAction::ModNwTos(v) => whole(Field::IpDscp, (v >> 2) as u128),
            FlowAction::ModNwEcn(v) => whole(Field::IpEcn, v as u128),
            FlowAction::ModNwTtl(v) => whole(Field::IpTtl, v as u128),
            FlowAction::ModTpSrc(v) => whole(Field::TcpSrc, v as u128),
            FlowAction::ModTpDst(v) => whole(Field::TcpDst, v as u128),
            _ => None,
        }
    }
}

/// The bits of a field that a write changes.
fn writable_bits(field: Field) -> u128 {
    match field {
        Field::IpTos => 0xfc,
        _ => ones(field.info().bits),
    }
}
