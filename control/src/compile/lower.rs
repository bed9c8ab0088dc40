//! From the flow as written to the actions that a walk runs.
//!
//! Words that do the same become the same: `load`, `set_field` and `mod_*` are all one `Set`.
//! `note` does nothing and vanishes.

use crate::flow::{self, Flow, FlowAction, Match, NatSide, SubField};
use sluice_dataplane::action::{Action, Ct, Nat, PORT_LOCAL, Set, Zone};
use sluice_dataplane::classify::RuleMatch;
use sluice_dataplane::conntrack::{NatKind, NatMode, NatSpec};
use sluice_dataplane::packet::field::{Field, Prereq, Subfield};
use std::net::IpAddr;

/// The match of a flow as the classifier takes it.
pub fn matching(flow: &Flow) -> RuleMatch {
    let Match { key, mask } = flow.match_;
    RuleMatch { value: key, mask, priority: flow.priority, clauses: None }
}

/// Lowers a whole action list.
pub fn actions(list: &[FlowAction]) -> Box<[Action]> {
    list.iter().flat_map(action).collect()
}

fn action(a: &FlowAction) -> Option<Action> {
    if let Some(w) = a.write() {
        return set(w.field, w.value, w.mask);
    }
    Some(match a {
        FlowAction::Output(port) => Action::Output(*port),
        FlowAction::Local => Action::Output(PORT_LOCAL),
        FlowAction::Normal => Action::Normal,
        FlowAction::Flood => Action::Flood,
        FlowAction::All => Action::All,
        FlowAction::InPort => Action::InPort,
        FlowAction::GotoTable(table) => Action::Goto(*table),
        FlowAction::Resubmit { port, table } => {
            // Resubmitting to IN_PORT is resubmitting with the port of entry.
            let in_port = port.filter(|p| *p != flow::ports::IN_PORT);
            Action::Resubmit { in_port, table: *table, with_ct: false }
        }
        FlowAction::Move { src, dst } => Action::Move {
            src: src.lower()?,
            src_prereq: prereq(src.field),
            dst: dst.lower()?,
            dst_prereq: prereq(dst.field),
        },
        FlowAction::ModVlanVid(vid) => Action::ModVlan { vid: Some(*vid), pcp: None },
        FlowAction::ModVlanPcp(pcp) => Action::ModVlan { vid: None, pcp: Some(*pcp) },
        FlowAction::SetVlanVid(vid) => tagged(Field::DlVlan, u128::from(*vid))?,
        FlowAction::SetVlanPcp(pcp) => tagged(Field::DlVlanPcp, u128::from(*pcp))?,
        FlowAction::StripVlan | FlowAction::PopVlan => Action::PopVlan,
        FlowAction::PushVlan(tpid) => Action::PushVlan { tpid: *tpid },
        FlowAction::DecTtl(_) => Action::DecTtl,
        FlowAction::Ct(ct) => Action::Ct(Box::new(lower_ct(ct))),
        FlowAction::CtClear => Action::CtClear,
        FlowAction::CheckPktLarger { len_bytes, dst } => {
            Action::CheckPktLarger { len: *len_bytes, dst: dst.lower()? }
        }
        FlowAction::Clone(list) => Action::Clone(actions(list)),
        FlowAction::Exit => Action::Exit,
        FlowAction::Note(_) => return None,
        // The rest are constants, which `write` has taken.
        FlowAction::Load { .. }
        | FlowAction::SetField { .. }
        | FlowAction::ModDlSrc(_)
        | FlowAction::ModDlDst(_)
        | FlowAction::ModNwSrc(_)
        | FlowAction::ModNwDst(_)
        | FlowAction::ModNwTos(_)
        | FlowAction::ModNwEcn(_)
        | FlowAction::ModNwTtl(_)
        | FlowAction::ModTpSrc(_)
        | FlowAction::ModTpDst(_)
        | FlowAction::SetTunnel { .. } => return None,
    })
}

/// Writing a VLAN field of a packet that has a tag.
fn tagged(field: Field, value: u128) -> Option<Action> {
    let dst = field.info().whole();
    Some(Action::Set(Set { dst, prereq: Prereq::Vlan, value, mask: u128::MAX }))
}

/// A port action says "transport port", whatever the transport; its field is TCP's.
fn prereq(field: Field) -> Prereq {
    match field {
        Field::TcpSrc | Field::TcpDst => Prereq::Transport,
        other => other.info().prereq,
    }
}

/// Writes a constant. A `set_field` of the VLAN id comes with the "present" bit.
fn set(field: Field, value: u128, mask: u128) -> Option<Action> {
    let info = field.info();
    Some(Action::Set(Set { dst: info.whole(), prereq: prereq(field), value, mask }))
}

fn lower_ct(ct: &flow::Ct) -> Ct {
    Ct {
        commit: ct.commit,
        force: ct.force,
        zone: match ct.zone {
            flow::Zone::Number(n) => Zone::Number(n),
            flow::Zone::Field(f) => zone_field(f),
        },
        table: ct.table,
        nat: ct.nat.as_ref().map(lower_nat),
        exec: actions(&ct.exec).into_vec(),
    }
}

fn zone_field(f: SubField) -> Zone {
    let low: Option<Subfield> = f.lower();
    low.map_or(Zone::Number(0), Zone::Field)
}

fn lower_nat(nat: &flow::Nat) -> Nat {
    let Some(side) = nat.side else { return Nat::Existing };
    let number = |a: IpAddr| match a {
        IpAddr::V4(a) => u128::from(u32::from(a)),
        IpAddr::V6(a) => u128::from(a),
    };
    let (lo, hi) = nat.addresses.map_or((0, 0), |(a, b)| (number(a), number(b)));
    let mode = match (nat.persistent, nat.random) {
        (true, _) => NatMode::Persistent,
        (_, true) => NatMode::Random,
        _ => NatMode::Hash,
    };
    Nat::New(NatSpec {
        kind: match side {
            NatSide::Src => NatKind::Src,
            NatSide::Dst => NatKind::Dst,
        },
        v6: nat.addresses.is_some_and(|(a, _)| a.is_ipv6()),
        addr_min: lo,
        addr_max: hi,
        ports: nat.ports,
        mode,
    })
}
