//! What actions demand of the match, of each other, and of the table they stand in.
//!
//! The rules are Open vSwitch's (ovs-actions(7)): a field may be written only where the match
//! makes sure that packets have it, a tag that an action pushed counts as being there, `ct`
//! needs an IP packet, `goto_table` goes forward. The `mod_*` actions of OpenFlow 1.0 are
//! exempt: on a packet without the field they do nothing. But no version has both such an action
//! without its packets and what came later (`meter`, `push_vlan`, some flags): Open vSwitch refuses
//! a flow with both.

use super::action_set;
use super::error::Problem;
use super::{Alg, Ct, FlowAction, Learn, LearnSource, LearnTarget, Match, Zone};
use sluice_dataplane::packet::field::{Field, Prereq, prereq_met};
use sluice_dataplane::packet::key::{FlowKey, VLAN_PRESENT};
use std::net::IpAddr;

const CT_NEW: u8 = 0x01;
const CT_INV: u8 = 0x10;
const CT_TRK: u8 = 0x20;

/// What the match must state for a packet to belong to a connection.
const CT_VALID: &str = "a valid connection (ct_state=+trk-inv or +est)";

/// Where a list of actions stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Place {
    Flow,
    Clone,
    CtExec,
    /// `write_actions(...)`.
    ActionSet,
    /// A bucket of a group: it runs as an action set, on packets of which nothing is known.
    Bucket,
}

/// Follows a list of actions.
#[derive(Clone, Debug)]
pub struct Checker {
    match_: Match,
    /// What is known of a packet at this point: the match's key, with tags as they are now.
    key: FlowKey,
    inner_tci: u16,
    table: u8,
    place: Place,
    /// Nothing is known of the packets: prerequisites are left to the moment.
    any_packet: bool,
    /// The instruction of the last action.
    last: Option<Instruction>,
    /// The list holds a `conjunction`, or something that bears none.
    conjunction: bool,
    other: bool,
    /// An action that only OpenFlow 1.0 has without this in the match, and one that it has not.
    lax: Option<(&'static str, &'static str)>,
    late: Option<&'static str>,
}

impl Checker {
    pub fn new(match_: &Match, table: u8) -> Self {
        Checker {
            match_: *match_,
            key: match_.key,
            inner_tci: 0,
            table,
            place: Place::Flow,
            any_packet: false,
            last: None,
            conjunction: false,
            other: false,
            lax: None,
            late: None,
        }
    }

    /// For the actions of a bucket.
    pub fn bucket() -> Self {
        let whole = Checker::new(&Match::default(), 0);
        Checker { place: Place::Bucket, any_packet: true, ..whole }
    }

    /// For actions nested in one of this list.
    pub fn nested(&self, place: Place) -> Self {
        Checker { place, last: None, conjunction: false, other: false, ..self.clone() }
    }

    pub fn place(&self) -> Place {
        self.place
    }

    /// Takes note of what a nested list held. What an action set asks of packets is left to the
    /// moment, as in Open vSwitch.
    pub fn leave(&mut self, nested: &Self) {
        self.late = nested.late;
        if nested.place != Place::ActionSet {
            self.lax = nested.lax;
        }
    }

    /// Whether some version of OpenFlow has all of it; `late` is what the flow has besides actions
    /// that OpenFlow 1.0 has not.
    pub fn finish(&self, late: Option<&'static str>) -> Result<(), Problem> {
        match (self.lax, self.late.or(late)) {
            (Some((action, needs)), Some(beside)) if !self.any_packet => {
                Err(Problem::NoVersion { action, needs, beside })
            }
            _ => Ok(()),
        }
    }

    /// Whether `action` may stand here; remembers what it changes.
    pub fn check(&mut self, action: &FlowAction) -> Result<(), Problem> {
        self.stands_right(action)?;
        self.versions(action);
        match action {
            FlowAction::Load { dst, value } => self.write_constant(dst.field, *value as u128),
            FlowAction::SetField { field, value, .. } => self.write_constant(*field, *value),
            FlowAction::SetOption { dst, .. } => self.write(dst.field, 0),
            FlowAction::Move { src, dst } => {
                self.exists(src.field)?;
                self.write(dst.field, self.key.vlan_tci as u128)
            }
            FlowAction::CheckPktLarger { dst, .. } => self.write(dst.field, 0),
            FlowAction::OutputField(src) => self.exists(src.field),
            FlowAction::Push(range) | FlowAction::Pop(range) if range.lower().is_none() => {
                Err(Problem::Rule("no packet has these bits; take lower ones"))
            }
            FlowAction::Push(src) => self.exists(src.field),
            FlowAction::Pop(dst) => self.write(dst.field, self.key.vlan_tci as u128),
            FlowAction::Multipath(m) => self.write(m.dst.field, 0),
            FlowAction::Bundle(b) => b.dst.map_or(Ok(()), |dst| self.write(dst.field, 0)),
            FlowAction::Learn(learn) => self.learn(learn),
            FlowAction::ModVlanVid(_)
            | FlowAction::ModVlanPcp(_)
            | FlowAction::SetVlanVid(_)
            | FlowAction::SetVlanPcp(_) => {
                self.key.vlan_tci |= VLAN_PRESENT;
                Ok(())
            }
            FlowAction::PushVlan(_) => self.push_vlan(),
            FlowAction::StripVlan | FlowAction::PopVlan => {
                self.key.vlan_tci = std::mem::take(&mut self.inner_tci);
                Ok(())
            }
            FlowAction::PushMpls(eth_type) => {
                // What is behind the label cannot be seen any more.
                (self.key.eth_type, self.key.ip_proto) = (*eth_type, 0);
                Ok(())
            }
            FlowAction::PopMpls(eth_type) => {
                self.key.eth_type = *eth_type;
                Ok(())
            }
            FlowAction::GotoTable(to) if *to <= self.table => {
                Err(Problem::GotoBackward(self.table))
            }
            FlowAction::Ct(ct) => self.ct(ct),
            FlowAction::Resubmit { with_ct: true, .. } => {
                let fine = self.any_packet || is_ct_valid(&self.match_);
                let field = "resubmit with ct".to_string();
                if fine { Ok(()) } else { Err(Problem::Prerequisite { field, needs: CT_VALID }) }
            }
            _ => Ok(()),
        }
    }

    /// Notes what OpenFlow 1.0 alone has, and what it has not.
    fn versions(&mut self, action: &FlowAction) {
        use FlowAction as A;
        match action {
            A::Meter(_) => self.late = self.late.or(Some("meter")),
            A::PushVlan(_) => self.late = self.late.or(Some("push_vlan")),
            _ => {}
        }
        let (name, prereq) = match action {
            A::ModNwSrc(_) => ("mod_nw_src", Prereq::Ipv4),
            A::ModNwDst(_) => ("mod_nw_dst", Prereq::Ipv4),
            A::ModNwTos(_) => ("mod_nw_tos", Prereq::Ip),
            A::ModNwEcn(_) => ("mod_nw_ecn", Prereq::Ip),
            A::ModNwTtl(_) => ("mod_nw_ttl", Prereq::Ip),
            A::DecTtl(_) => ("dec_ttl", Prereq::Ip),
            A::ModTpSrc(_) => ("mod_tp_src", Prereq::Transport),
            A::ModTpDst(_) => ("mod_tp_dst", Prereq::Transport),
            A::SetVlanVid(_) => ("set_vlan_vid", Prereq::Vlan),
            A::SetVlanPcp(_) => ("set_vlan_pcp", Prereq::Vlan),
            A::StripVlan => ("strip_vlan", Prereq::Vlan),
            A::PopVlan => ("pop_vlan", Prereq::Vlan),
            A::SetMplsLabel(_) => ("set_mpls_label", Prereq::Mpls),
            A::SetMplsTc(_) => ("set_mpls_tc", Prereq::Mpls),
            A::SetMplsTtl(_) => ("set_mpls_ttl", Prereq::Mpls),
            A::DecMplsTtl => ("dec_mpls_ttl", Prereq::Mpls),
            A::PopMpls(_) => ("pop_mpls", Prereq::Mpls),
            A::FinTimeout { .. } => ("fin_timeout", Prereq::Tcp),
            _ => return,
        };
        if self.lax.is_none() && !prereq_met(prereq, &self.key) {
            self.lax = Some((name, needs(prereq)));
        }
    }

    /// Whether this place bears the action, and the order of instructions allows it here
    /// (OpenFlow 1.5.1 section 5.9: meter, actions, clear, write, metadata, goto).
    fn stands_right(&mut self, action: &FlowAction) -> Result<(), Problem> {
        let now = Instruction::of(action);
        match self.place {
            Place::CtExec => {
                let dst = match action {
                    FlowAction::Load { dst, .. } | FlowAction::Move { dst, .. } => dst.field,
                    FlowAction::SetField { field, .. } => *field,
                    _ => return Err(Problem::NotInCt),
                };
                if !is_ct_field(dst) {
                    return Err(Problem::NotInCt);
                }
            }
            Place::ActionSet | Place::Bucket if !action_set::takes(action) => {
                return Err(Problem::NotInActionSet);
            }
            Place::Clone if now != Instruction::Apply => {
                return Err(Problem::InstructionInside);
            }
            _ => {}
        }
        match action {
            FlowAction::Conjunction { .. } if self.place != Place::Flow => {
                return Err(Problem::ConjunctionInside);
            }
            FlowAction::Conjunction { .. } => self.conjunction = true,
            FlowAction::Note(_) => {}
            _ => self.other = true,
        }
        if self.conjunction && self.other {
            return Err(Problem::ConjunctionNotAlone);
        }
        let last = self.last.replace(now);
        match last {
            Some(Instruction::Goto) => Err(Problem::AfterGoto),
            Some(last) if last == now && now != Instruction::Apply => {
                Err(Problem::InstructionTwice(now.name()))
            }
            Some(last) if now < last => {
                Err(Problem::InstructionOrder { of: now.name(), before: last.name() })
            }
            _ => Ok(()),
        }
    }

    /// What the learned flow copies must be in this flow's packets, and the parts that it
    /// matches must make sure that its own packets have the later ones.
    fn learn(&self, learn: &Learn) -> Result<(), Problem> {
        let mut made = Match::default();
        let exists = |field: Field, m: &Match| match missing_prereq(field, m, &m.key) {
            Some(needs) => {
                Err(Problem::LearnPrerequisite { field: field.info().name.to_string(), needs })
            }
            None => Ok(()),
        };
        for spec in &learn.specs {
            if let LearnSource::Field(src) = spec.source {
                self.exists(src.field)?;
            }
            match (spec.target, spec.source) {
                (LearnTarget::Match(dst), source) => {
                    exists(dst.field, &made)?;
                    if let (LearnSource::Value(value), Some(range)) = (source, dst.lower()) {
                        range.set(&mut made.key, value);
                        range.or_into(&mut made.mask);
                    }
                }
                (LearnTarget::Load(dst), _) => {
                    let info = dst.field.info();
                    if !info.writable {
                        return Err(Problem::ReadOnly(info.name));
                    }
                    if is_ct_field(dst.field) {
                        return Err(Problem::OnlyInCt(info.name));
                    }
                    exists(dst.field, &made)?;
                }
                (LearnTarget::Output, _) => {}
            }
        }
        Ok(())
    }

    fn push_vlan(&mut self) -> Result<(), Problem> {
        if self.inner_tci & VLAN_PRESENT != 0 {
            return Err(Problem::Rule("a packet can carry at most two VLAN tags"));
        }
        self.inner_tci = std::mem::replace(&mut self.key.vlan_tci, VLAN_PRESENT);
        Ok(())
    }

    fn exists(&self, field: Field) -> Result<(), Problem> {
        if self.any_packet {
            return Ok(());
        }
        match missing_prereq(field, &self.match_, &self.key) {
            Some(needs) => {
                Err(Problem::Prerequisite { field: field.info().name.to_string(), needs })
            }
            None => Ok(()),
        }
    }

    /// A VLAN id has to have a tag to go to, unlike a whole TCI.
    fn write_constant(&mut self, field: Field, value: u128) -> Result<(), Problem> {
        let untagged = !self.any_packet && self.key.vlan_tci & VLAN_PRESENT == 0;
        if field == Field::VlanVid && untagged {
            let needs = needs(Prereq::Vlan);
            return Err(Problem::Prerequisite { field: field.info().name.to_string(), needs });
        }
        self.write(field, value)
    }

    fn write(&mut self, field: Field, value: u128) -> Result<(), Problem> {
        let info = field.info();
        if !info.writable {
            return Err(Problem::ReadOnly(info.name));
        }
        if is_ct_field(field) && self.place != Place::CtExec {
            return Err(Problem::OnlyInCt(info.name));
        }
        self.exists(field)?;
        if field == Field::VlanTci {
            self.key.vlan_tci = value as u16;
        }
        Ok(())
    }

    fn ct(&self, ct: &Ct) -> Result<(), Problem> {
        let key = &self.key;
        let (v4, v6) = (key.eth_type == 0x0800, key.eth_type == 0x86dd);
        let lacks = |field: &str, needs| Problem::Prerequisite { field: field.to_string(), needs };
        if ct.force && !ct.commit {
            return Err(Problem::Rule("force needs commit as well"));
        }
        if !self.any_packet {
            if !v4 && !v6 {
                return Err(lacks("ct", "ip or ipv6"));
            }
            if ct.commit && key.ct_state & CT_INV != 0 {
                return Err(Problem::Rule("a packet with ct_state=+inv cannot be committed"));
            }
            match ct.alg {
                Some(Alg::Ftp) if key.ip_proto != 6 => {
                    return Err(lacks("alg=ftp", "tcp or tcp6"));
                }
                Some(Alg::Tftp) if key.ip_proto != 17 => {
                    return Err(lacks("alg=tftp", "udp or udp6"));
                }
                _ => {}
            }
        }
        if let Zone::Field(src) = ct.zone {
            self.exists(src.field)?;
            if src.bits != 16 {
                return Err(Problem::MustBeWide("the field that gives the zone", 16));
            }
        }
        let nat = ct.nat.unwrap_or_default();
        if nat.side.is_some() && !ct.commit {
            return Err(Problem::Rule("nat(src) and nat(dst) need commit; bare nat does not"));
        }
        if !ct.exec.is_empty() && !ct.commit {
            return Err(Problem::Rule("exec needs commit: without it nothing is stored"));
        }
        match nat.addresses.filter(|_| !self.any_packet) {
            Some((IpAddr::V4(_), _)) if !v4 => Err(lacks("nat to an IPv4 address", "ip")),
            Some((IpAddr::V6(_), _)) if !v6 => Err(lacks("nat to an IPv6 address", "ipv6")),
            _ => Ok(()),
        }
    }
}

/// What an action is in OpenFlow 1.1 and later, in the order in which instructions run.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Instruction {
    Meter,
    Apply,
    Clear,
    Write,
    Metadata,
    Goto,
}

impl Instruction {
    fn of(action: &FlowAction) -> Self {
        match action {
            FlowAction::Meter(_) => Instruction::Meter,
            FlowAction::ClearActions => Instruction::Clear,
            FlowAction::WriteActions(_) => Instruction::Write,
            FlowAction::WriteMetadata { .. } => Instruction::Metadata,
            FlowAction::GotoTable(_) => Instruction::Goto,
            _ => Instruction::Apply,
        }
    }

    fn name(self) -> &'static str {
        match self {
            Instruction::Meter => "meter",
            Instruction::Apply => "an action",
            Instruction::Clear => "clear_actions",
            Instruction::Write => "write_actions",
            Instruction::Metadata => "write_metadata",
            Instruction::Goto => "goto_table",
        }
    }
}

fn is_ct_field(field: Field) -> bool {
    matches!(field, Field::CtMark | Field::CtLabel)
}

/// What a packet with `key` lacks to have `field`, if anything.
pub fn missing_prereq(field: Field, m: &Match, key: &FlowKey) -> Option<&'static str> {
    let is_tuple = matches!(
        field,
        Field::CtNwProto
            | Field::CtNwSrc
            | Field::CtNwDst
            | Field::CtIpv6Src
            | Field::CtIpv6Dst
            | Field::CtTpSrc
            | Field::CtTpDst
    );
    if is_tuple {
        return (!is_ct_valid(m)).then_some(CT_VALID);
    }
    let prereq = field.info().prereq;
    (!prereq_met(prereq, key)).then(|| needs(prereq))
}

/// What to write into the match to have it.
fn needs(prereq: Prereq) -> &'static str {
    match prereq {
        Prereq::None => "nothing",
        Prereq::Arp => "arp or rarp",
        Prereq::Ipv4 => "ip",
        Prereq::Ipv6 => "ipv6",
        Prereq::Ip => "ip or ipv6",
        Prereq::Vlan => "a VLAN tag (dl_vlan, or vlan_tci=0x1000/0x1000; or push_vlan before)",
        Prereq::Mpls => "mpls or mplsm",
        Prereq::Tcp => "tcp or tcp6",
        Prereq::Udp => "udp or udp6",
        Prereq::Sctp => "sctp or sctp6",
        Prereq::Transport => "tcp, udp or sctp",
        Prereq::Icmp4 => "icmp",
        Prereq::Icmp6 => "icmp6",
        Prereq::Nd => "icmp6 with icmp_type=135 or icmp_type=136",
        Prereq::NdSolicit => "icmp6 with icmp_type=135",
        Prereq::NdAdvert => "icmp6 with icmp_type=136",
    }
}

/// Whether the match makes sure that the packet belongs to a connection: some flag that only
/// such packets have, or tracked and explicitly not invalid.
fn is_ct_valid(m: &Match) -> bool {
    let (state, mask) = (m.key.ct_state, m.mask.ct_state);
    let of_connection = !(CT_INV | CT_TRK);
    debug_assert!(of_connection & CT_NEW != 0);
    state & of_connection != 0 || (state & CT_TRK != 0 && mask & CT_INV != 0 && state & CT_INV == 0)
}
