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
//! the words; `match_parse` and `action_parse` the two halves of a flow (`field_parse`,
//! `ct_parse`, `learn_parse`, `hash_parse`, `controller_parse`: actions with arguments of their
//! own); `check` what the halves demand of each other; `print`, `action_print`, `extra_print`
//! the way back; `flow_mod` deletion and modification; `group`, `meter`, `tlv` what flows refer
//! to; `file` whole files.

mod action;
mod action_parse;
mod action_print;
pub mod action_set;
mod bundle;
mod check;
mod controller_parse;
mod ct_parse;
mod error;
mod extra_print;
mod field_parse;
mod file;
mod flow_mod;
mod group;
mod group_print;
mod hash_parse;
mod learn_parse;
mod match_parse;
mod meter;
mod packet_out;
mod parse;
pub mod ports;
mod print;
mod resume;
mod span;
mod subfield;
mod tlv;
pub mod value;

#[cfg(test)]
mod arb;
#[cfg(test)]
mod arb_flow;
#[cfg(test)]
mod peer;
#[cfg(test)]
mod roundtrip;
#[cfg(test)]
mod tests;

pub use action::{
    Alg, Bundle, Controller, Ct, FlowAction, Learn, LearnSource, LearnSpec, LearnTarget, Multipath,
    Nat, NatSide, Sample, Write, Zone,
};
pub use bundle::{BundleText, parse_bundle_text};
pub use error::{FlowError, Problem};
pub use file::{
    ERRORS_MAX, FileItem, FileLine, FlowErrors, mapped_options, parse_file, read_file, with_options,
};
pub use flow_mod::{
    Command, FlowFilter, FlowMod, outputs_to, parse_flow_mod, refers_to, uses_group, uses_meter,
};
pub use group::{
    Bucket, BucketPlace, Group, GroupCommand, GroupMod, Method, Selection, parse_group_mod,
};
pub use group_print::{GroupStats, kind_name, print_group, print_group_stats};
pub use meter::{
    Band, Meter, MeterCommand, MeterMod, MeterStats, meter_name, parse_meter_mod, print_meter,
    print_meter_stats,
};
pub use packet_out::{PacketOutText, parse_packet_out};
pub use parse::parse_flow;
pub use ports::{NoNames, PortMap, PortNames, WithOptions};
pub use print::{
    FlowStats, REGS, print_actions, print_duration, print_flow, print_flow_stats, print_match,
};
pub use resume::{parse_metadata, parse_packet};
pub use subfield::{OptionPlace, SubField, text_bits};
pub use tlv::{parse_tlv_maps, print_tlv_maps};

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
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
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
