//! Tables that one small number decides.

use super::{FORMS, Model, check, config, on_port, seen};
use crate::classify::{RuleMatch, Table, Template};
use crate::packet::key::{FlowKey, Mask};
use proptest::collection::vec;
use proptest::prelude::*;

/// Rules on some bits of a port's number or a tag, and the odd one on something else.
fn one_number() -> impl Strategy<Value = (Vec<RuleMatch>, Vec<FlowKey>)> {
    (any::<bool>(), 0u32..200, 0u32..7).prop_flat_map(|(is_tag, from, shift)| {
        let key = move |n: u32, eth_type: u16| match is_tag {
            true => FlowKey { vlan_tci: n as u16, eth_type, ..FlowKey::ZERO },
            false => FlowKey { in_port: n, eth_type, ..FlowKey::ZERO },
        };
        let rule = (0u32..300, 0u16..3, 0u8..40).prop_map(move |(n, priority, odd)| {
            let mut mask = match is_tag {
                true => Mask { vlan_tci: 0xfff >> shift << shift, ..Mask::ZERO },
                false => Mask { in_port: 0x7ff_ffff >> shift << shift, ..Mask::ZERO },
            };
            if odd == 0 {
                mask = Mask { eth_type: u16::MAX, ..Mask::ZERO };
            } else if odd == 1 {
                mask.eth_type = 1;
            }
            RuleMatch::new(key((from + n) << shift, n as u16 % 3), mask, priority)
        });
        let keys = vec((0u32..600, 0u16..3).prop_map(move |(n, t)| key(n << shift | n, t)), 1..40);
        (vec(rule, 0..80), keys)
    })
}

proptest! {
    #![proptest_config(config(200))]
    #[test]
    fn one_number_agrees_through_changes(
        (rules, keys) in one_number(), form in 0..FORMS.len(), built in 0usize..80,
    ) {
        let mut model = Model::of(rules.iter().take(built).cloned().collect());
        let mut table = Table::build_as(model.iter(), FORMS[form]);
        for (n, r) in rules.iter().enumerate() {
            let there = model.iter().find(|(_, have)| *have == r).map(|(id, _)| id);
            if let Some(id) = there.filter(|_| n % 3 == 0) {
                prop_assert!(table.remove(id, r));
                model.0.remove(&id);
            } else if model.is_new(r) {
                table.insert(5000 - n as u32, r);
                model.0.insert(5000 - n as u32, r.clone());
            }
            let k = &keys[n % keys.len()];
            prop_assert_eq!(table.lookup(k), model.lookup(k));
        }
        for k in &keys {
            prop_assert_eq!(table.lookup(k), model.lookup(k));
        }
        check(&table, &model, &keys[0])?;
    }
}

#[test]
fn ports_and_a_rule_for_the_rest_are_an_array() {
    let rule = |n: u32| RuleMatch::new(on_port(n).0, on_port(n).1, 10);
    let rules: Vec<RuleMatch> = (1..50).map(rule).collect();
    let mut table = Table::build((1..).zip(&rules));
    table.insert(0, &RuleMatch::new(FlowKey::ZERO, Mask::ZERO, 0));
    assert_eq!(table.template(), Template::Direct);
    assert_eq!(table.lookup(&on_port(49).0), Some(49));
    assert_eq!(table.lookup(&on_port(50).0), Some(0));
    assert_eq!(table.lookup(&on_port(u32::MAX).0), Some(0));
    assert_eq!(seen(&table, &on_port(7).0), on_port(7).1);
    // Far away: no array is worth that.
    table.insert(60, &rule(1 << 20));
    assert_eq!((table.template(), table.lookup(&on_port(1 << 20).0)), (Template::Tuples, Some(60)));
}
