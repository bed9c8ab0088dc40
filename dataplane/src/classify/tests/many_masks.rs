//! Tuple spaces of many masks: the sieve before the subtables, and what `lookup_wild` skips.

use super::{Model, check, config};
use crate::classify::sieve::TERMS_MAX;
use crate::classify::{RuleMatch, Table, Template};
use crate::packet::key::{FlowKey, Mask};
use proptest::collection::vec;
use proptest::prelude::*;

/// Masks of addresses, ports and a register; few values, so that many rules match a key.
fn many_masks() -> impl Strategy<Value = (Vec<RuleMatch>, Vec<FlowKey>)> {
    let key = (0u32..8, 0u32..8, 0u16..4, 0u64..4, any::<bool>()).prop_map(
        |(src, dst, port, metadata, is_v6)| FlowKey {
            eth_type: if is_v6 { 0x86dd } else { 0x800 },
            ip_src: src.wrapping_mul(0x2080_4011),
            ip_dst: dst.wrapping_mul(0x1104_0821),
            ipv6_dst: u128::from(dst) << 90 | u128::from(src),
            tp_src: port.wrapping_mul(0x1111),
            metadata,
            ..FlowKey::ZERO
        },
    );
    let mask = (0u32..=32, 0u32..=32, 0u16..4, 0u64..4, 0u32..4).prop_map(
        |(src, dst, port, metadata, v6)| Mask {
            eth_type: if v6 == 0 { u16::MAX } else { 0 },
            ip_src: u32::MAX.checked_shl(32 - src).unwrap_or(0),
            ip_dst: u32::MAX.checked_shl(32 - dst).unwrap_or(0),
            ipv6_dst: if v6 == 1 { u128::MAX << 88 } else { 0 },
            tp_src: [0, 0xffff, 0xf000, 0x0101][usize::from(port)],
            metadata,
            ..Mask::ZERO
        },
    );
    let rule = (key.clone(), mask, 0u16..40).prop_map(|(v, m, p)| RuleMatch::new(v, m, p));
    (vec(rule, 40..200), vec(key, 1..20))
}

fn tuples<'a>(rules: impl Iterator<Item = (u32, &'a RuleMatch)>) -> Table {
    Table::build_as(rules, Some(Template::Tuples))
}

/// Whether the table has a sieve that does its work, or needs none.
fn is_sieved(table: &Table) -> bool {
    match table.sieve() {
        None => table.subtables() < 4,
        Some(s) => !s.is_worn(),
    }
}

proptest! {
    #![proptest_config(config(24))]
    #[test]
    fn many_masks_agree_through_changes(
        (rules, keys) in many_masks(), built in 0usize..200,
        steps in vec((any::<prop::sample::Index>(), any::<bool>()), 1..300),
    ) {
        let mut model = Model::of(rules.iter().take(built).cloned().collect());
        let mut table = tuples(model.iter());
        let mut old = Vec::new();
        for (n, (which, is_insert)) in steps.into_iter().enumerate() {
            let r = &rules[which.index(rules.len())];
            let there = model.iter().find(|(_, have)| *have == r).map(|(id, _)| id);
            match there {
                Some(id) if !is_insert => {
                    prop_assert!(table.remove(id, r));
                    model.0.remove(&id);
                }
                None if is_insert && model.is_new(r) => {
                    let id = 2000 + n as u32;
                    table.insert(id, r);
                    model.0.insert(id, r.clone());
                }
                _ => {}
            }
            prop_assert!(is_sieved(&table));
            if n % 40 == 0 {
                old.push((table.clone(), model.clone()));
            }
        }
        old.push((table, model));
        for (table, model) in &old {
            for k in &keys {
                prop_assert_eq!(table.lookup(k), model.lookup(k));
                prop_assert_eq!(table.lookup_wild(k, &mut Mask::ZERO.clone()), model.lookup(k));
            }
        }
    }

    #[test]
    fn bits_that_were_not_seen_do_not_matter_under_many_masks((rules, keys) in many_masks()) {
        let model = Model::of(rules.into_iter().take(120).collect());
        let table = tuples(model.iter());
        for k in keys.iter().take(2) {
            check(&table, &model, k)?;
        }
    }
}

/// Most rules are in one subtable, which is asked first; of equal priority another may be better.
#[test]
fn a_subtable_that_leads_does_not_answer_for_others() {
    let rule = |ip_src: u32, mask: Mask, priority| {
        let value = FlowKey { ip_src, metadata: 6, tun_id: 6, ..FlowKey::ZERO };
        RuleMatch::new(value, mask, priority)
    };
    let whole = Mask { ip_src: u32::MAX, ..Mask::ZERO };
    let mut model = Model((100..).zip((1..60).map(|n| rule(n, whole, 10))).collect());
    let mut table = tuples(model.iter());
    // Of lower numbers, so better, than all that lead.
    for (n, priority) in [(1, 10), (2, 9), (3, 10), (4, 0)] {
        let (metadata, tun_id) = (n & 1, n & 6);
        let other = rule(n as u32, Mask { metadata, tun_id, ..Mask::ZERO }, priority);
        table.insert(n as u32, &other);
        model.0.insert(n as u32, other);
    }
    assert!(table.sieve().is_some());
    for (src, metadata, tun_id) in (0..64).flat_map(|s| [(s, 0, 0), (s, 6, 6), (s, 7, 2)]) {
        let key = FlowKey { ip_src: src, metadata, tun_id, ..FlowKey::ZERO };
        assert_eq!(table.lookup(&key), model.lookup(&key));
    }
}

/// A limit that is known has not been shown to the cache by that alone.
#[test]
fn a_prefix_that_rules_out_is_seen() {
    let from = |ip_src: u32, len: u32, priority| {
        let mask = Mask { ip_src: u32::MAX << (32 - len), ..Mask::ZERO };
        RuleMatch::new(FlowKey { ip_src, ..FlowKey::ZERO }, mask, priority)
    };
    let on = |mask: Mask, priority| RuleMatch::new(mask, mask, priority);
    let metadata = Mask { metadata: u64::MAX, ..Mask::ZERO };
    let tun_id = Mask { tun_id: u64::MAX, ..Mask::ZERO };
    let rules = [from(0x0b00_0000, 8, 9), from(0x0a02_0000, 24, 8), on(metadata, 7), on(tun_id, 6)];
    let table = tuples((0..).zip(&rules));
    assert!(table.sieve().is_some());
    let mut seen = Mask::ZERO;
    let key = FlowKey { ip_src: 0x0a01_0203, ..FlowKey::ZERO };
    assert_eq!(table.lookup_wild(&key, &mut seen), None);
    let addresses = Mask { ip_src: 0xffff_0000, ..Mask::ZERO };
    let all = Mask { metadata: u64::MAX, tun_id: u64::MAX, ..addresses };
    assert_eq!(seen, all);
}

/// Each mask has a register of its own kind: more terms than are hashed.
#[test]
fn masks_beyond_the_terms_are_found_too() {
    let masks = TERMS_MAX as u32 + 300;
    let rule = |n: u32| {
        let mut mask = Mask::ZERO;
        (mask.metadata, mask.ip_src) = (u64::from(n) << 3 | 1, u32::MAX);
        RuleMatch::new(FlowKey { metadata: 1, ip_src: n % 5, ..FlowKey::ZERO }, mask, n as u16)
    };
    let rules: Vec<RuleMatch> = (0..masks).map(rule).collect();
    let mut model = Model((0..).zip(rules).collect());
    let mut table = tuples(model.iter());
    assert_eq!(table.subtables(), masks as usize);
    let keys: Vec<FlowKey> = (0..40)
        .map(|n| FlowKey { metadata: ((n / 5) << 9) | 1, ip_src: n as u32 % 6, ..FlowKey::ZERO })
        .collect();
    while !model.0.is_empty() {
        for k in &keys {
            assert_eq!(table.lookup(k), model.lookup(k));
            assert_eq!(table.lookup_wild(k, &mut Mask::ZERO.clone()), model.lookup(k));
        }
        // A third leaves; then one of those comes back, to a term that is free now.
        let some: Vec<(u32, RuleMatch)> =
            model.iter().step_by(3).map(|(id, r)| (id, r.clone())).collect();
        for (id, r) in &some {
            assert!(table.remove(*id, r));
            model.0.remove(id);
        }
        if some.len() > 9 {
            table.insert(some[0].0, &some[0].1);
            model.0.insert(some[0].0, some[0].1.clone());
        }
        assert!(is_sieved(&table));
    }
    assert!(table.is_empty() && table.sieve().is_none());
}

#[test]
fn a_table_that_changes_for_long_keeps_its_sieve() {
    let rule = |n: u32| {
        let ip_src = u32::MAX << (n % 9);
        let value = FlowKey { ip_src: n.wrapping_mul(0x9e37_79b1), ..FlowKey::ZERO };
        RuleMatch::new(value, Mask { ip_src, ..Mask::ZERO }, 7)
    };
    let rules: Vec<RuleMatch> = (0..500).map(rule).collect();
    let mut table = tuples((0..).zip(&rules));
    let bytes = table.bytes();
    for n in 0..20_000 {
        assert!(table.remove(n, &rule(n)));
        table.insert(n + 500, &rule(n + 500));
        assert!(is_sieved(&table));
    }
    assert!(table.bytes() < 2 * bytes, "{} of {bytes}", table.bytes());
    assert_eq!(table.lookup(&rule(20_400).value), Some(20_400));
}
