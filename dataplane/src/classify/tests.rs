//! The index against the linear reference.

use super::{Clause, RuleMatch, Table, reference};
use crate::packet::field::{Field, ones};
use crate::packet::key::{FlowKey, Mask};
use proptest::collection::vec;
use proptest::prelude::*;
use std::collections::BTreeMap;

/// The rules by number, as the store would have them.
#[derive(Clone, Debug, Default)]
struct Model(BTreeMap<u32, RuleMatch>);

impl Model {
    fn iter(&self) -> impl Iterator<Item = (u32, &RuleMatch)> + Clone {
        self.0.iter().map(|(id, r)| (*id, r))
    }

    fn lookup(&self, key: &FlowKey) -> Option<u32> {
        reference::lookup(self.iter(), key)
    }

    /// Whether the store would take the rule as a new one.
    fn is_new(&self, r: &RuleMatch) -> bool {
        !self.0.values().any(|o| (o.priority, o.mask, o.value) == (r.priority, r.mask, r.value))
    }

    fn of(rules: Vec<RuleMatch>) -> Self {
        let mut model = Self::default();
        for (n, r) in rules.into_iter().enumerate() {
            if model.is_new(&r) {
                model.0.insert(n as u32 * 7 % 1013, r);
            }
        }
        model
    }
}

const SMALL: [Field; 6] =
    [Field::InPort, Field::Metadata, Field::TunSrc, Field::EthType, Field::IpDst, Field::TcpDst];

/// Small value spaces make overlaps, ties and equal masks common.
fn small_rule() -> impl Strategy<Value = RuleMatch> {
    let part = (0..6usize, 0u128..4, prop_oneof![Just(u128::MAX), Just(1), Just(0xff), Just(2)]);
    (vec(part, 0..4), 0u16..4).prop_map(|(parts, priority)| {
        let (mut value, mut mask) = (FlowKey::ZERO, FlowKey::ZERO);
        for (f, v, m) in parts {
            let field = SMALL[f].info();
            field.set(&mut value, v & m & ones(field.bits));
            field.set(&mut mask, m);
        }
        RuleMatch::new(value, mask, priority)
    })
}

fn small_key() -> impl Strategy<Value = FlowKey> {
    vec(0u128..4, 6).prop_map(|v| {
        let mut k = FlowKey::ZERO;
        for (f, v) in SMALL.iter().zip(v) {
            f.info().set(&mut k, v);
        }
        k
    })
}

/// Some of the rules get clauses of three conjunctions, some match on `conj_id`.
fn soft_rule() -> impl Strategy<Value = RuleMatch> {
    let clause = (1u32..4, 0u8..3).prop_map(|(id, c)| Clause {
        id,
        clause: c.min(id.min(2) as u8),
        n_clauses: id.min(2) as u8 + 1,
    });
    let clauses = prop_oneof![Just(None), vec(clause, 1..4).prop_map(|c| Some(c.into()))];
    (small_rule(), clauses, 0u32..6).prop_map(|(mut r, clauses, conj_id)| {
        if clauses.is_none() && (1..4).contains(&conj_id) {
            r.value.conj_id = conj_id;
            r.mask.conj_id = u32::MAX;
        }
        RuleMatch { clauses, ..r }
    })
}

fn config(cases: u32) -> ProptestConfig {
    ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(cases) }
}

/// The answer is the reference's, and bits that `seen` leaves free do not change it.
fn check(table: &Table, model: &Model, key: &FlowKey) -> Result<(), TestCaseError> {
    let want = model.lookup(key);
    prop_assert_eq!(table.lookup(key), want);
    let mut seen = Mask::ZERO;
    prop_assert_eq!(table.lookup_wild(key, &mut seen), want);
    for word in 0..seen.words().len() {
        for bit in 0..64 {
            let mut flipped = *key;
            flipped.words_mut()[word] ^= 1 << bit;
            if seen.words()[word] >> bit & 1 == 0 {
                prop_assert_eq!(model.lookup(&flipped), want, "word {} bit {}", word, bit);
            }
        }
    }
    Ok(())
}

proptest! {
    #![proptest_config(config(300))]
    #[test]
    fn agrees_with_the_linear_reference(
        rules in vec(small_rule(), 0..60), keys in vec(small_key(), 40),
    ) {
        let model = Model::of(rules);
        let table = Table::build(model.iter());
        for k in &keys {
            prop_assert_eq!(table.lookup(k), model.lookup(k));
        }
    }

    #[test]
    fn conjunctions_agree_with_the_linear_reference(
        rules in vec(soft_rule(), 0..40), keys in vec(small_key(), 20),
    ) {
        let model = Model::of(rules);
        let table = Table::build(model.iter());
        for k in &keys {
            prop_assert_eq!(table.lookup(k), model.lookup(k));
        }
    }
}

proptest! {
    #![proptest_config(config(40))]
    #[test]
    fn bits_that_were_not_seen_do_not_matter(
        rules in vec(prop_oneof![small_rule(), soft_rule()], 0..30), keys in vec(small_key(), 3),
    ) {
        let model = Model::of(rules);
        let table = Table::build(model.iter());
        for k in &keys {
            check(&table, &model, k)?;
        }
    }

    #[test]
    fn changes_and_old_clones(
        rules in vec(prop_oneof![small_rule(), soft_rule()], 1..40),
        steps in vec((any::<prop::sample::Index>(), any::<bool>()), 1..80),
        keys in vec(small_key(), 6),
    ) {
        let (mut model, mut table) = (Model::default(), Table::new());
        let mut old = Vec::new();
        for (which, is_insert) in steps {
            let n = which.index(rules.len());
            let (id, r) = (n as u32 * 3, &rules[n]);
            if !is_insert {
                prop_assert_eq!(table.remove(id, r), model.0.remove(&id).is_some());
            } else if !model.0.contains_key(&id) && model.is_new(r) {
                table.insert(id, r);
                model.0.insert(id, r.clone());
            }
            prop_assert_eq!(table.len(), model.0.len());
            old.push((table.clone(), model.clone()));
        }
        for (table, model) in &old {
            for k in &keys {
                prop_assert_eq!(table.lookup(k), model.lookup(k));
            }
        }
    }
}

#[test]
fn an_empty_table_matches_nothing_and_a_catch_all_everything() {
    assert_eq!(Table::new().lookup(&FlowKey::ZERO), None);
    let all = RuleMatch::new(FlowKey::ZERO, FlowKey::ZERO, 0);
    let t = Table::build([(9, &all)].into_iter());
    assert_eq!(t.lookup(&FlowKey { in_port: 7, ..FlowKey::ZERO }), Some(9));
}
