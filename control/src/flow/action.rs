//! The typed form of actions: what the text said, in the order in which it said it.

use super::SubField;
use sluice_dataplane::action::{BundleAlgorithm, HashFields, MultipathAlgorithm, PacketInReason};
use sluice_dataplane::packet::field::{Field, ones};

/// One action, with what is needed to print it as it was.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum FlowAction {
    /// To an ordinary port.
    Output(u32),
    Normal,
    Flood,
    All,
    InPort,
    Local,
    /// `output:NXM_NX_REG0[]`: to the port whose number is there.
    OutputField(SubField),
    /// `output(port=1,max_len=64)`
    OutputTruncated {
        port: u32,
        max_len: u32,
    },
    Enqueue {
        port: u32,
        queue: u32,
    },
    SetQueue(u32),
    PopQueue,
    Group(u32),
    Bundle(Box<Bundle>),
    Multipath(Box<Multipath>),
    Controller(Box<Controller>),
    Sample(Sample),
    Learn(Box<Learn>),
    /// A part of a conjunctive match: `clause` counts from 0 here, from 1 in text.
    Conjunction {
        id: u32,
        clause: u8,
        n_clauses: u8,
    },
    /// An instruction: only as the first action.
    Meter(u32),
    /// Instructions, after all actions and in this order.
    ClearActions,
    WriteActions(Vec<FlowAction>),
    WriteMetadata {
        value: u64,
        mask: u64,
    },
    /// Only as the last action.
    GotoTable(u8),
    /// `None`: the port of entry; this table. Never both.
    Resubmit {
        port: Option<u32>,
        table: Option<u8>,
        /// The lookup sees the original direction of the connection.
        with_ct: bool,
    },
    Push(SubField),
    Pop(SubField),
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
    /// As `SetField`, of a whole tunnel option.
    SetOption {
        dst: SubField,
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
    SetMplsLabel(u32),
    SetMplsTc(u8),
    SetMplsTtl(u8),
    DecMplsTtl,
    /// The EtherType: 0x8847 or 0x8848.
    PushMpls(u16),
    /// The EtherType of what is behind the label.
    PopMpls(u16),
    FinTimeout {
        idle_s: u16,
        hard_s: u16,
    },
    /// A tunnel option that goes.
    DeleteField(Field),
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
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
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

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
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

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Alg {
    Ftp,
    Tftp,
}

/// `nat`, `nat(src=...)`, `nat(dst=...)`. Without `side`: translate known connections only.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
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

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum NatSide {
    Src,
    Dst,
}

/// `bundle(...)`, and `bundle_load(...)` if there is a `dst`.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Bundle {
    pub fields: HashFields,
    pub basis: u16,
    pub algorithm: BundleAlgorithm,
    pub dst: Option<SubField>,
    pub members: Vec<u32>,
}

/// `multipath(...)`.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Multipath {
    pub fields: HashFields,
    pub basis: u16,
    pub algorithm: MultipathAlgorithm,
    /// 1 to 65536.
    pub links: u32,
    pub arg: u32,
    pub dst: SubField,
}

/// `controller(...)`, also in its short forms.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Controller {
    pub reason: PacketInReason,
    pub max_len: u16,
    pub id: u16,
    pub userdata: Vec<u8>,
    pub pause: bool,
    pub meter: Option<u32>,
}

impl Default for Controller {
    fn default() -> Self {
        Controller {
            reason: PacketInReason::Action,
            max_len: u16::MAX,
            id: 0,
            userdata: Vec::new(),
            pause: false,
            meter: None,
        }
    }
}

impl Controller {
    /// Whether it is no more than an output to the controller: it then prints in the short
    /// form, and may stand where outputs may.
    pub fn is_plain(&self) -> bool {
        *self == Controller { max_len: self.max_len, ..Controller::default() }
    }
}

/// `sample(...)`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Sample {
    /// Of 65535; at least 1.
    pub probability: u16,
    pub collector_set: u32,
    pub obs_domain: u32,
    pub obs_point: u32,
    pub sampling_port: Option<u32>,
    /// What the exported record says; without either, it is found out.
    pub direction: Option<SampleDirection>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum SampleDirection {
    Ingress,
    Egress,
}

/// `learn(...)`. Timeouts and `limit`: 0 is none.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct Learn {
    pub table: u8,
    pub priority: u16,
    pub cookie: u64,
    pub idle_timeout_s: u16,
    pub hard_timeout_s: u16,
    pub fin_idle_timeout_s: u16,
    pub fin_hard_timeout_s: u16,
    pub send_flow_rem: bool,
    pub delete_learned: bool,
    pub limit: u32,
    /// One bit.
    pub result: Option<SubField>,
    pub specs: Vec<LearnSpec>,
}

/// One part of the flow that is learned. Source and target are equally wide.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct LearnSpec {
    pub source: LearnSource,
    pub target: LearnTarget,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum LearnSource {
    Field(SubField),
    Value(u128),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum LearnTarget {
    Match(SubField),
    Load(SubField),
    Output,
}

/// The field, bits and mask that an action writes, for those that write a constant.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Write {
    pub field: Field,
    pub value: u128,
    /// Bits of the field that change.
    pub mask: u128,
}

impl FlowAction {
    /// The actions of which this one consists.
    pub fn nested(&self) -> &[FlowAction] {
        match self {
            FlowAction::Clone(list) | FlowAction::WriteActions(list) => list,
            FlowAction::Ct(ct) => &ct.exec,
            _ => &[],
        }
    }

    /// Whether `fits` holds for it or for an action in it. The recursion is bounded by what
    /// the reader takes (`DEPTH_MAX`).
    pub fn any(&self, fits: &dyn Fn(&FlowAction) -> bool) -> bool {
        fits(self) || self.nested().iter().any(|a| a.any(fits))
    }

    /// The range that it writes, for actions that name one.
    pub fn destination(&self) -> Option<SubField> {
        match self {
            FlowAction::Load { dst, .. }
            | FlowAction::SetOption { dst, .. }
            | FlowAction::Move { dst, .. }
            | FlowAction::CheckPktLarger { dst, .. }
            | FlowAction::Pop(dst) => Some(*dst),
            FlowAction::Multipath(m) => Some(m.dst),
            FlowAction::Bundle(b) => b.dst,
            FlowAction::Learn(l) => l.result,
            _ => None,
        }
    }

    /// Whether it reads, writes or deletes this tunnel option. Not those of actions in it.
    pub fn names_option(&self, field: Field) -> bool {
        let is = |range: SubField| range.field == field;
        let source = |s: &LearnSpec| matches!(s.source, LearnSource::Field(src) if is(src));
        self.destination().is_some_and(is)
            || match self {
                FlowAction::Move { src, .. }
                | FlowAction::Push(src)
                | FlowAction::OutputField(src) => is(*src),
                FlowAction::DeleteField(f) => *f == field,
                FlowAction::Ct(ct) => matches!(ct.zone, Zone::Field(src) if is(src)),
                FlowAction::Learn(l) => l.specs.iter().any(source),
                _ => false,
            }
    }

    /// What a `load`, `set_field`, `set_tunnel` or `mod_*` of an L3 or L4 field writes; `None`
    /// for all else, options of tunnels too. `nw_tos` changes only its DSCP bits.
    pub fn write(&self) -> Option<Write> {
        let whole =
            |field: Field, value: u128| Some(Write { field, value, mask: ones(field.info().bits) });
        match *self {
            FlowAction::Load { value, dst } if dst.option.is_none() => {
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
            FlowAction::SetMplsLabel(v) => whole(Field::MplsLabel, v as u128),
            FlowAction::SetMplsTc(v) => whole(Field::MplsTc, v as u128),
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
