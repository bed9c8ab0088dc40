//! Action sets: what `write_actions` and a group's bucket may hold, and in which order it runs.
//!
//! An action set is no list (OpenFlow 1.5.1 section 5.6): at most one action of a kind counts,
//! the last one given, and they run in a fixed order. Open vSwitch keeps all header changes,
//! in the order given, and runs the set only if it ends in something that takes the packet
//! somewhere; of several such, the kind decides: group before output before resubmit before
//! ct_clear before ct.

use super::FlowAction;

/// Where an action stands in the order of a set.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Slot {
    PopVlan,
    PopMpls,
    PushMpls,
    PushVlan,
    DecTtl,
    DecMplsTtl,
    /// All of them, in the order given.
    Change,
    /// Only one: of the highest rank, and of those the last.
    Final(u8),
}

fn slot(action: &FlowAction) -> Option<Slot> {
    use FlowAction as A;
    Some(match action {
        A::StripVlan | A::PopVlan => Slot::PopVlan,
        A::PopMpls(_) => Slot::PopMpls,
        A::PushMpls(_) => Slot::PushMpls,
        A::PushVlan(_) => Slot::PushVlan,
        A::DecTtl(_) => Slot::DecTtl,
        A::DecMplsTtl => Slot::DecMplsTtl,
        A::Load { .. }
        | A::SetField { .. }
        | A::SetOption { .. }
        | A::Move { .. }
        | A::ModDlSrc(_)
        | A::ModDlDst(_)
        | A::ModNwSrc(_)
        | A::ModNwDst(_)
        | A::ModNwTos(_)
        | A::ModNwEcn(_)
        | A::ModNwTtl(_)
        | A::ModTpSrc(_)
        | A::ModTpDst(_)
        | A::ModVlanVid(_)
        | A::ModVlanPcp(_)
        | A::SetVlanVid(_)
        | A::SetVlanPcp(_)
        | A::SetTunnel { .. }
        | A::SetMplsLabel(_)
        | A::SetMplsTc(_)
        | A::SetMplsTtl(_)
        | A::SetQueue(_) => Slot::Change,
        A::Ct(_) => Slot::Final(0),
        A::CtClear => Slot::Final(1),
        A::Resubmit { .. } => Slot::Final(2),
        A::Output(_) | A::Normal | A::Flood | A::All | A::InPort | A::Local => Slot::Final(3),
        A::Controller(c) if c.is_plain() => Slot::Final(3),
        A::Group(_) => Slot::Final(4),
        _ => return None,
    })
}

/// Whether an action set may hold the action.
pub fn takes(action: &FlowAction) -> bool {
    slot(action).is_some()
}

/// The actions of a set as a list to run. Empty if nothing takes the packet anywhere.
pub fn ordered(set: &[FlowAction]) -> Vec<&FlowAction> {
    let mut slots: Vec<(Slot, &FlowAction)> = Vec::new();
    let mut end: Option<(Slot, &FlowAction)> = None;
    for action in set {
        let Some(s) = slot(action) else { continue };
        if matches!(s, Slot::Final(_)) {
            end = end.filter(|(have, _)| *have > s).or(Some((s, action)));
            continue;
        }
        if s != Slot::Change {
            slots.retain(|(have, _)| *have != s);
        }
        slots.push((s, action));
    }
    let Some((_, end)) = end else { return Vec::new() };
    // A stable sort: changes keep the order given.
    slots.sort_by_key(|(s, _)| *s);
    slots.into_iter().map(|(_, action)| action).chain(std::iter::once(end)).collect()
}

#[cfg(test)]
mod tests {
    use super::super::{NoNames, parse_flow, print_actions};
    use super::*;

    fn run(text: &str) -> String {
        let flow = parse_flow(&format!("ip actions={text}"), &NoNames).unwrap();
        let list: Vec<FlowAction> = ordered(&flow.actions).into_iter().cloned().collect();
        print_actions(&list, &NoNames)
    }

    #[test]
    fn a_set_runs_in_the_order_of_openflow() {
        assert_eq!(
            run("output:1,mod_nw_tos:4,dec_ttl,push_vlan:0x8100,pop_vlan,mod_nw_tos:8"),
            "pop_vlan,push_vlan:0x8100,dec_ttl,mod_nw_tos:4,mod_nw_tos:8,output:1"
        );
        assert_eq!(run("output:1,push_vlan:0x8100,output:2,push_vlan:0x88a8"), {
            "push_vlan:0x88a8,output:2"
        });
    }

    #[test]
    fn one_end_wins_and_without_one_nothing_runs() {
        assert_eq!(run("group:7,output:1,resubmit(,3)"), "group:7");
        assert_eq!(run("resubmit(,3),output:1,ct(table=4)"), "output:1");
        assert_eq!(run("CONTROLLER:9,ct_clear"), "CONTROLLER:9");
        assert_eq!(run("mod_nw_tos:4"), "drop");
    }
}
