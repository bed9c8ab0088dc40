//! From the flow as written to the actions that a walk runs.
//!
//! Words that do the same become the same: `load`, `set_field` and `mod_*` are all one `Set`.
//! `note` does nothing and vanishes.

use super::lower_verbs::verb;
use crate::flow::{self, Flow, FlowAction, Match, NatSide, SubField, action_set};
use sluice_dataplane::action::{Action, Ct, Nat, PORT_LOCAL, Set, Zone};
use sluice_dataplane::classify::{Clause, RuleMatch};
use sluice_dataplane::conntrack::{Alg, NatKind, NatMode, NatSpec};
use sluice_dataplane::packet::field::{Field, Prereq, Subfield};
use std::net::IpAddr;

/// The match of a flow as the classifier takes it.
pub fn matching(flow: &Flow) -> RuleMatch {
    let Match { key, mask } = flow.match_;
    RuleMatch { value: key, mask, priority: flow.priority, clauses: clauses(&flow.actions) }
}

/// Lowers a whole action list.
pub fn actions(list: &[FlowAction]) -> Box<[Action]> {
    list.iter().flat_map(lowered).collect()
}

/// Lowers the actions of a bucket, in the order in which an action set runs.
pub fn bucket(list: &[FlowAction]) -> Box<[Action]> {
    action_set::ordered(list).into_iter().flat_map(lowered).collect()
}

/// The conjunctions that a flow is a part of.
pub fn clauses(list: &[FlowAction]) -> Option<Box<[Clause]>> {
    let clause = |a: &FlowAction| match *a {
        FlowAction::Conjunction { id, clause, n_clauses } => Some(Clause { id, clause, n_clauses }),
        _ => None,
    };
    let all: Vec<Clause> = list.iter().filter_map(clause).collect();
    (!all.is_empty()).then(|| all.into())
}

/// What one action comes to.
pub(super) fn lowered(a: &FlowAction) -> impl Iterator<Item = Action> + use<> {
    let both = match a {
        FlowAction::Move { src, dst } => moves(*src, *dst),
        other => [action(other), None],
    };
    both.into_iter().flatten().chain(a.destination().and_then(there))
}

/// Who writes a tunnel option says that it is there.
fn there(dst: SubField) -> Option<Action> {
    let dst = dst.option?.present;
    Some(Action::Set(Set { dst, prereq: Prereq::None, value: 1, mask: 1 }))
}

fn action(a: &FlowAction) -> Option<Action> {
    if let Some(w) = a.write() {
        return set(w.field, w.value, w.mask);
    }
    Some(match a {
        FlowAction::Load { value, dst } => option(*dst, u128::from(*value), u128::MAX)?,
        FlowAction::SetOption { dst, value, mask } => option(*dst, *value, *mask)?,
        FlowAction::Output(port) => Action::Output(*port),
        FlowAction::Local => Action::Output(PORT_LOCAL),
        FlowAction::Normal => Action::Normal,
        FlowAction::Flood => Action::Flood,
        FlowAction::All => Action::All,
        FlowAction::InPort => Action::InPort,
        FlowAction::GotoTable(table) => Action::Goto(*table),
        FlowAction::Resubmit { port, table, with_ct } => {
            // Resubmitting to IN_PORT is resubmitting with the port of entry.
            let in_port = port.filter(|p| *p != flow::ports::IN_PORT);
            Action::Resubmit { in_port, table: *table, with_ct: *with_ct }
        }
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
        FlowAction::WriteActions(list) => Action::WriteActions(actions(list)),
        // A conjunction is a part of the rule's match (`clauses`).
        FlowAction::Note(_) | FlowAction::Conjunction { .. } => return None,
        other => return verb(other),
    })
}

/// The lowest bits of the TOS byte are ECN's, a field of its own.
const ECN_BITS: u8 = 2;

/// How many of a range's lowest bits are ECN's. `nw_tos` is its six upper bits alone: in a range of
/// it, as Open vSwitch has it, ECN's bits read as zero and are not written.
pub(super) fn ecn_bits(f: SubField) -> u8 {
    let has = f.field == Field::IpTos;
    if has { ECN_BITS.saturating_sub(f.lo).min(f.bits) } else { 0 }
}

/// The bits `from` to below `to` of a range.
pub(super) fn part(f: SubField, from: u8, to: u8) -> SubField {
    SubField { lo: f.lo + from, bits: to - from, ..f }
}

/// A `move`: what it copies, then what it zeroes.
fn moves(src: SubField, dst: SubField) -> [Option<Action>; 2] {
    let (unread, unwritten) = (ecn_bits(src), ecn_bits(dst));
    let (from, bits) = (unread.max(unwritten), dst.bits);
    let copied = (from < bits).then(|| move_(part(src, from, bits), part(dst, from, bits)));
    let zeroed = (unwritten < unread).then(|| zero(part(dst, unwritten, unread)));
    [copied.flatten(), zeroed.flatten()]
}

/// Bits that exist only in text read as zero.
fn move_(src: SubField, dst: SubField) -> Option<Action> {
    let Some(from) = src.lower() else { return zero(dst) };
    let (to, dst_prereq) = (dst.lower()?, prereq(dst.field));
    Some(Action::Move { src: from, src_prereq: prereq(src.field), dst: to, dst_prereq })
}

fn zero(dst: SubField) -> Option<Action> {
    let (to, prereq) = (dst.lower()?, prereq(dst.field));
    Some(Action::Set(Set { dst: to, prereq, value: 0, mask: u128::MAX }))
}

/// Writing a VLAN field of a packet that has a tag.
fn tagged(field: Field, value: u128) -> Option<Action> {
    let dst = field.info().whole();
    Some(Action::Set(Set { dst, prereq: Prereq::Vlan, value, mask: u128::MAX }))
}

/// A port action says "transport port", whatever the transport; its field is TCP's.
pub(super) fn prereq(field: Field) -> Prereq {
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

/// Writes bits of a tunnel option.
fn option(dst: SubField, value: u128, mask: u128) -> Option<Action> {
    Some(Action::Set(Set { dst: dst.lower()?, prereq: Prereq::None, value, mask }))
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
        exec: actions(&ct.exec).into(),
        alg: ct.alg.map(|alg| match alg {
            flow::Alg::Ftp => Alg::Ftp,
            flow::Alg::Tftp => Alg::Tftp,
        }),
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::flow::{NoNames, parse_flow};
    use sluice_dataplane::packet::key::FlowKey;

    fn lower(text: &str) -> Box<[Action]> {
        let line = format!("tcp,ct_state=+trk+est actions={text}");
        let flow = parse_flow(&line, &NoNames).unwrap_or_else(|e| panic!("{line}: {e}"));
        actions(&flow.actions)
    }

    /// No action gets lost on the way but those that do nothing.
    #[test]
    fn every_action_becomes_one() {
        for text in [
            "output:1",
            "output:reg0",
            "output(port=1,max_len=64)",
            "resubmit(1,2,ct)",
            "goto_table:3",
            "move:reg0->reg1",
            "move:NXM_NX_CT_STATE[8..15]->reg1[0..7]",
            "load:1->reg0",
            "set_field:1->reg0",
            "mod_vlan_vid:1",
            "mod_vlan_pcp:1",
            "set_vlan_vid:1",
            "set_vlan_pcp:1",
            "strip_vlan",
            "pop_vlan",
            "push_vlan:0x8100",
            "mod_dl_src:00:00:00:00:00:01",
            "mod_dl_dst:00:00:00:00:00:01",
            "mod_nw_src:1.2.3.4",
            "mod_nw_dst:1.2.3.4",
            "mod_nw_tos:4",
            "mod_nw_ecn:1",
            "mod_nw_ttl:1",
            "mod_tp_src:1",
            "mod_tp_dst:1",
            "set_tunnel:1",
            "set_tunnel64:1",
            "dec_ttl",
            "set_mpls_label:1",
            "set_mpls_tc:1",
            "set_mpls_ttl:1",
            "dec_mpls_ttl",
            "push_mpls:0x8847",
            "pop_mpls:0x800",
            "ct(commit)",
            "ct_clear",
            "check_pkt_larger(14)->reg0[0]",
            "clone(output:1)",
            "exit",
            "controller",
            "controller(id=1)",
            "enqueue:1:2",
            "bundle(eth_src,0,hrw,ofport,members:1)",
            "bundle_load(eth_src,0,hrw,ofport,reg0,members:1)",
            "multipath(eth_src,0,hrw,2,0,reg0)",
            "group:1",
            "push:reg0",
            "pop:reg0",
            "set_queue:1",
            "pop_queue",
            "fin_timeout(idle_timeout=1)",
            "learn(table=1,reg0=1)",
            "sample(probability=1)",
            "meter:1",
            "clear_actions",
            "write_actions(output:1)",
            "write_metadata:1",
            "normal",
            "flood",
            "all",
            "in_port",
            "local",
        ] {
            assert_eq!(lower(text).len(), 1, "{text}");
        }
        assert!(["note:00", "drop", "conjunction(1,1/2)"].iter().all(|t| lower(t).is_empty()));
    }

    #[test]
    fn a_move_leaves_the_ecn_bits_of_the_tos_byte_alone() {
        let shape = |text: &str| -> Vec<(bool, u128)> {
            let bits = |dst: Subfield| {
                let mut key = FlowKey::ZERO;
                dst.set(&mut key, u128::MAX);
                Field::IpTos.info().get(&key) | Field::Reg1.info().get(&key) << 8
            };
            let of = |a: &Action| match a {
                Action::Move { dst, .. } => (true, bits(*dst)),
                Action::Set(s) => (false, bits(s.dst)),
                other => panic!("{text}: {other:?}"),
            };
            lower(text).iter().map(of).collect()
        };
        assert_eq!(shape("move:reg0[0..7]->NXM_OF_IP_TOS[]"), [(true, 0xfc)]);
        assert_eq!(shape("move:reg0[0..5]->NXM_OF_IP_TOS[2..7]"), [(true, 0xfc)]);
        assert_eq!(shape("move:NXM_OF_IP_TOS[]->reg1[0..7]"), [(true, 0xfc00), (false, 0x300)]);
        assert_eq!(shape("move:NXM_OF_IP_TOS[1]->reg1[4]"), [(false, 0x1000)]);
        assert_eq!(shape("move:reg0[1]->NXM_OF_IP_TOS[1]"), []);
        assert_eq!(
            shape("move:NXM_OF_IP_TOS[0..3]->NXM_OF_IP_TOS[1..4]"),
            [(true, 0x18), (false, 4)]
        );
    }

    #[test]
    fn a_stack_has_the_bits_of_a_tos_byte_without_ecn() {
        let of = |text: &str| match &lower(text)[..] {
            [Action::Push { src, zeros }] => (src.bits, src.shift, *zeros),
            [Action::Pop { dst, skip, .. }] => (dst.bits, dst.shift, *skip),
            other => panic!("{text}: {other:?}"),
        };
        for word in ["push", "pop"] {
            assert_eq!(of(&format!("{word}:NXM_OF_IP_TOS[]")), (6, 2, 2));
            assert_eq!(of(&format!("{word}:NXM_OF_IP_TOS[1..4]")), (3, 2, 1));
            assert_eq!(of(&format!("{word}:NXM_OF_IP_TOS[0..1]")).0, 0);
            assert_eq!(of(&format!("{word}:NXM_NX_REG0[0..7]")), (8, 0, 0));
        }
    }

    #[test]
    fn conjunctions_become_clauses() {
        let of = |text: &str| clauses(&parse_flow(text, &NoNames).unwrap().actions);
        let list = of("actions=conjunction(7,1/2),note:00,conjunction(9,3/3)").unwrap();
        let (a, b) = (list[0], list[1]);
        assert_eq!((a.id, a.clause, a.n_clauses), (7, 0, 2));
        assert_eq!((b.id, b.clause, b.n_clauses), (9, 2, 3));
        assert_eq!(of("actions=output:1"), None);
    }
}
