//! What actions demand of the match, of each other, and of the table they stand in.
//!
//! The rules are Open vSwitch's (ovs-actions(7)): a field may be written only where the match
//! makes sure that packets have it, a tag that an action pushed counts as being there, `ct`
//! needs an IP packet, `goto_table` goes forward. The `mod_*` actions of OpenFlow 1.0 are
//! exempt: on a packet without the field they do nothing.

use super::error::Problem;
use super::{Alg, Ct, FlowAction, Match, Zone};
use sluice_dataplane::packet::field::{Field, Prereq, prereq_met};
use sluice_dataplane::packet::key::{FlowKey, VLAN_PRESENT};
use std::net::IpAddr;

const CT_NEW: u8 = 0x01;
const CT_INV: u8 = 0x10;
const CT_TRK: u8 = 0x20;

/// Where a list of actions stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Place {
    Flow,
    Clone,
    CtExec,
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
}

impl Checker {
    pub fn new(match_: &Match, table: u8) -> Self {
        Checker { match_: *match_, key: match_.key, inner_tci: 0, table, place: Place::Flow }
    }

    /// For actions nested in one of this list.
    pub fn nested(&self, place: Place) -> Self {
        Checker { place, ..self.clone() }
    }

    pub fn place(&self) -> Place {
        self.place
    }

    /// Whether `action` may stand here; remembers what it changes.
    pub fn check(&mut self, action: &FlowAction) -> Result<(), Problem> {
        if self.place == Place::CtExec {
            let dst = match action {
                FlowAction::Load { dst, .. } | FlowAction::Move { dst, .. } => dst.field,
                FlowAction::SetField { field, .. } => *field,
                _ => return Err(Problem::NotInCt),
            };
            if !is_ct_field(dst) {
                return Err(Problem::NotInCt);
            }
        }
        match action {
            FlowAction::Load { dst, value } => self.write_constant(dst.field, *value as u128),
            FlowAction::SetField { field, value, .. } => self.write_constant(*field, *value),
            FlowAction::Move { src, dst } => {
                self.exists(src.field)?;
                self.write(dst.field, self.key.vlan_tci as u128)
            }
            FlowAction::CheckPktLarger { dst, .. } => self.write(dst.field, 0),
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
            FlowAction::GotoTable(_) if self.place != Place::Flow => {
                Err(Problem::Rule("goto_table cannot stand inside another action"))
            }
            FlowAction::GotoTable(to) if *to <= self.table => {
                Err(Problem::GotoBackward(self.table))
            }
            FlowAction::Ct(ct) => self.ct(ct),
            _ => Ok(()),
        }
    }

    fn push_vlan(&mut self) -> Result<(), Problem> {
        if self.inner_tci & VLAN_PRESENT != 0 {
            return Err(Problem::Rule("a packet can carry at most two VLAN tags"));
        }
        self.inner_tci = std::mem::replace(&mut self.key.vlan_tci, VLAN_PRESENT);
        Ok(())
    }

    fn exists(&self, field: Field) -> Result<(), Problem> {
        match missing_prereq(field, &self.match_, &self.key) {
            Some(needs) => {
                Err(Problem::Prerequisite { field: field.info().name.to_string(), needs })
            }
            None => Ok(()),
        }
    }

    /// A VLAN id has to have a tag to go to, unlike a whole TCI.
    fn write_constant(&mut self, field: Field, value: u128) -> Result<(), Problem> {
        if field == Field::VlanVid && self.key.vlan_tci & VLAN_PRESENT == 0 {
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
        let key = &self.match_.key;
        let (v4, v6) = (key.eth_type == 0x0800, key.eth_type == 0x86dd);
        let lacks = |field: &str, needs| Problem::Prerequisite { field: field.to_string(), needs };
        if !v4 && !v6 {
            return Err(lacks("ct", "ip or ipv6"));
        }
        if ct.force && !ct.commit {
            return Err(Problem::Rule("force needs commit as well"));
        }
        if ct.commit && key.ct_state & CT_INV != 0 {
            return Err(Problem::Rule("a packet with ct_state=+inv cannot be committed"));
        }
        match ct.alg {
            Some(Alg::Ftp) if key.ip_proto != 6 => return Err(lacks("alg=ftp", "tcp or tcp6")),
            Some(Alg::Tftp) if key.ip_proto != 17 => return Err(lacks("alg=tftp", "udp or udp6")),
            _ => {}
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
        match nat.addresses {
            Some((IpAddr::V4(_), _)) if !v4 => Err(lacks("nat to an IPv4 address", "ip")),
            Some((IpAddr::V6(_), _)) if !v6 => Err(lacks("nat to an IPv6 address", "ipv6")),
            _ => Ok(()),
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
        return (!is_ct_valid(m)).then_some("a valid connection (ct_state=+trk-inv or +est)");
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
