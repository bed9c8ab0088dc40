//! The values of a list of actions, taken out of it so that lists which differ in values alone can
//! share the rest (`sluice_dataplane::pipeline::Outline`).
//!
//! Taken out are the numbers that rules mostly differ in: what `load`, `set_field` and the `mod_*`
//! of addresses and transport ports write, and ports of `output`. In their place the list has 0.
//! Lists within actions keep theirs.

use super::lower::lowered;
use crate::flow::FlowAction;
use sluice_dataplane::action::Action;

/// Values of a list at most; more stay in it.
const VALUES_MAX: usize = 256;

/// The number that an action is about, if it is one that is taken out.
fn value(a: &FlowAction) -> Option<u64> {
    match *a {
        FlowAction::Output(v) | FlowAction::ModNwSrc(v) | FlowAction::ModNwDst(v) => Some(v.into()),
        FlowAction::Load { value, dst } if dst.option.is_none() => Some(value),
        // What is not written would come back into the text and not into the packet.
        FlowAction::SetField { value, mask, .. } if value & !mask == 0 => value.try_into().ok(),
        FlowAction::SetTunnel { id: v, .. } => Some(v),
        FlowAction::ModDlSrc(v) | FlowAction::ModDlDst(v) => Some(v),
        FlowAction::ModTpSrc(v) | FlowAction::ModTpDst(v) => Some(v.into()),
        _ => None,
    }
}

/// Puts another number in the place of one that `value` gave.
fn set_value(a: &mut FlowAction, new: u64) {
    match a {
        FlowAction::Output(v) | FlowAction::ModNwSrc(v) | FlowAction::ModNwDst(v) => {
            *v = new as u32;
        }
        FlowAction::SetField { value, .. } => *value = new.into(),
        FlowAction::Load { value: v, .. }
        | FlowAction::SetTunnel { id: v, .. }
        | FlowAction::ModDlSrc(v)
        | FlowAction::ModDlDst(v) => *v = new,
        FlowAction::ModTpSrc(v) | FlowAction::ModTpDst(v) => *v = new as u16,
        _ => {}
    }
}

/// Takes the values out of a list; `values` has them then.
pub fn take(list: &mut [FlowAction], values: &mut Vec<u64>) {
    values.clear();
    for a in list {
        if values.len() == VALUES_MAX {
            return;
        }
        if let Some(v) = value(a) {
            values.push(v);
            set_value(a, 0);
        }
    }
}

/// Puts the values back.
pub fn put(list: &mut [FlowAction], values: &[u64]) {
    let places = list.iter_mut().filter(|a| value(a).is_some());
    places.zip(values).for_each(|(a, v)| set_value(a, *v));
}

/// Lowers a list whose values were taken out.
pub fn actions(list: &[FlowAction]) -> Box<[Action]> {
    let mut next = 0;
    let mut all = Vec::new();
    for a in list {
        let at = value(a).and_then(|_| u8::try_from(next).ok());
        next += usize::from(at.is_some());
        let shift = if let FlowAction::Load { dst, .. } = a { dst.lo } else { 0 };
        all.extend(lowered(a).map(|low| match (at, low) {
            (Some(at), Action::Set(set)) => Action::SetOwn(set.own(at, shift)),
            (Some(at), Action::Output(_)) => Action::OutputOwn(at),
            (_, other) => other,
        }));
    }
    all.into()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::compile::lower;
    use crate::flow::{NoNames, parse_flow};
    use proptest::prelude::*;
    use sluice_dataplane::pipeline::{Actions, Outline};
    use std::borrow::Cow;
    use std::sync::Arc;

    /// What the list comes to, by way of an outline; and the list as it comes back.
    fn by_outline(list: &[FlowAction]) -> (Vec<Action>, Vec<FlowAction>) {
        let (mut open, mut values) = (list.to_vec(), Vec::new());
        take(&mut open, &mut values);
        let shared = Actions::new(Arc::new(Outline::new(actions(&open), None)), &values);
        put(&mut open, &values);
        (shared.spelled_out().map(Cow::into_owned).collect(), open)
    }

    fn check(text: &str) {
        let flow = parse_flow(&format!("tcp,dl_vlan=4 actions={text}"), &NoNames);
        let list = flow.unwrap_or_else(|e| panic!("{text}: {e}")).actions;
        let (lowered, back) = by_outline(&list);
        assert_eq!(lowered, lower::actions(&list).into_vec(), "{text}");
        assert_eq!(back, list, "{text}");
    }

    proptest! {
        #![proptest_config(ProptestConfig {
            failure_persistence: None,
            ..ProptestConfig::with_cases(256)
        })]
        /// With the values and without them a list comes to the same.
        #[test]
        fn an_outline_with_its_values_is_the_list(
            wide in any::<u128>(), lo in 0u8..32, bits in 1u8..32,
            order in proptest::collection::vec(0usize..22, 0..8),
        ) {
            let v = wide as u64;
            let hi = lo + bits.min(32 - lo) - 1;
            let part = v & ((1 << (hi - lo + 1)) - 1);
            let ones = ((1u64 << (hi - lo + 1)) - 1) << lo;
            let mac = v.to_be_bytes().map(|b| format!("{b:02x}"))[..6].join(":");
            let ip = std::net::Ipv4Addr::from(v as u32);
            let (port, small) = (v % 0xff00, v & 0xffff);
            let texts = [
                format!("output:{port}"),
                format!("load:{part:#x}->NXM_NX_REG1[{lo}..{hi}]"),
                format!("load:{v:#x}->NXM_NX_XXREG0[64..127]"),
                format!("load:{:#x}->NXM_OF_IP_TOS[]", v & 0xff),
                format!("set_field:{:#x}/{ones:#x}->reg2", part << lo),
                format!("set_field:{wide:#x}->xxreg1"),
                format!("set_field:{v:#x}->metadata"),
                format!("set_field:{}->vlan_vid", small & 0xfff | 0x1000),
                format!("mod_dl_src:{mac}"),
                format!("mod_dl_dst:{mac}"),
                format!("mod_nw_src:{ip}"),
                format!("mod_nw_dst:{ip}"),
                format!("mod_nw_tos:{}", v & 0xfc),
                format!("mod_tp_src:{small}"),
                format!("mod_tp_dst:{small}"),
                format!("set_tunnel:{:#x}", v as u32),
                format!("set_tunnel64:{v:#x}"),
                format!("clone(load:{small}->reg3,output:{port})"),
                format!("ct(commit,zone={small},exec(load:{small}->ct_mark))"),
                "dec_ttl,note:01.02".to_owned(),
                "local,in_port,normal".to_owned(),
                "move:reg1->reg2,resubmit(,7)".to_owned(),
            ];
            check(&order.iter().map(|n| texts[*n].as_str()).collect::<Vec<_>>().join(","));
        }
    }

    #[test]
    fn a_list_with_more_values_than_have_numbers_keeps_the_last() {
        let text: Vec<String> = (0..300).map(|n| format!("load:{n}->reg0")).collect();
        check(&text.join(","));
    }
}
