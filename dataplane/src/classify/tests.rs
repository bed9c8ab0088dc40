//! The index against the linear reference.

mod conjunctions;
mod many_masks;
mod one_number;

use super::{Clause, RuleMatch, Table, Template, reference};
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

/// Rules on prefixes of one address, with the odd other rule; and packets near them.
fn routes() -> impl Strategy<Value = (Vec<RuleMatch>, Vec<FlowKey>)> {
    (any::<bool>(), any::<bool>()).prop_flat_map(|(is_v6, is_src)| {
        let address = move |v: u128| {
            // Few different bytes, so that prefixes nest and siblings fill a node.
            let spread = v & 0x1f07_0301_1f07_0301_1f07_0301_1f07_0301;
            let (src, dst) = if is_src { (spread, 0) } else { (0, spread) };
            match is_v6 {
                true => FlowKey { ipv6_src: src, ipv6_dst: dst, ..FlowKey::ZERO },
                false => FlowKey { ip_src: src as u32, ip_dst: dst as u32, ..FlowKey::ZERO },
            }
        };
        let prefix = (0u32..=128, any::<u128>(), 0u16..4, 0u8..20).prop_map(
            move |(len, v, priority, odd)| {
                let ones = u128::MAX.checked_shl(128 - len).unwrap_or(0);
                let mut mask = Mask::ZERO;
                match (is_v6, is_src) {
                    (true, true) => mask.ipv6_src = ones,
                    (true, false) => mask.ipv6_dst = ones,
                    (false, true) => mask.ip_src = (ones >> 96) as u32,
                    (false, false) => mask.ip_dst = (ones >> 96) as u32,
                }
                let mut value = FlowKey { eth_type: 0x800, ..address(v) };
                if odd == 0 {
                    value.eth_type = 0x806;
                } else if odd == 1 {
                    (mask.in_port, value.in_port) = (u32::MAX, 3);
                }
                if odd != 2 {
                    mask.eth_type = u16::MAX;
                }
                // As often as not the priority is the length.
                let priority = if priority == 0 { len as u16 } else { priority };
                RuleMatch::new(value, mask, priority)
            },
        );
        let key = (any::<u128>(), 0u8..9).prop_map(move |(v, odd)| FlowKey {
            eth_type: if odd == 0 { 0x806 } else { 0x800 },
            in_port: u32::from(odd % 4),
            ..address(v)
        });
        (vec(prefix, 0..120), vec(key, 1..60))
    })
}

/// Access lists: prefixes of both addresses, ports and parts of ports.
fn access_list() -> impl Strategy<Value = (Vec<RuleMatch>, Vec<FlowKey>)> {
    let key = (0u32..40, 0u32..40, 0u16..24, 0u16..24, 0u8..3).prop_map(
        |(src, dst, tp_src, tp_dst, proto)| FlowKey {
            eth_type: 0x800,
            ip_proto: [6, 17, 1][usize::from(proto)],
            ip_src: 0x0a00_0000 | src.wrapping_mul(0x0003_4105),
            ip_dst: 0xc612_0000 | dst.wrapping_mul(0x0000_1341),
            tp_src: tp_src * 0x111,
            tp_dst: 80 + tp_dst,
            ..FlowKey::ZERO
        },
    );
    let lens = || prop_oneof![Just(0u32), Just(9), Just(16), Just(20), Just(24), Just(32)];
    let ports = || prop_oneof![Just(0u16), Just(0xffff), Just(0xfff0), Just(0xf000), Just(0x10f)];
    let rule = (key.clone(), lens(), lens(), ports(), ports(), 0u16..30, any::<bool>()).prop_map(
        |(value, src, dst, tp_src, tp_dst, priority, is_udp)| {
            let ones = |len: u32| u32::MAX.checked_shl(32 - len).unwrap_or(0);
            let ip_proto = if is_udp { u8::MAX } else { 0 };
            let mask = Mask {
                eth_type: u16::MAX,
                ip_proto,
                ip_src: ones(src),
                ip_dst: ones(dst),
                tp_src,
                tp_dst,
                ..Mask::ZERO
            };
            RuleMatch::new(value, mask, priority)
        },
    );
    (vec(rule, 0..700), vec(key, 1..40))
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

/// Forms that a table may be held to.
const FORMS: [Option<Template>; 6] = [
    None,
    Some(Template::Tuples),
    Some(Template::Few),
    Some(Template::Direct),
    Some(Template::Lpm),
    Some(Template::Bits),
];

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
            if (seen.words()[word] >> bit) & 1 == 0 {
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
        for form in FORMS {
            let table = Table::build_as(model.iter(), form);
            for k in &keys {
                prop_assert_eq!(table.lookup(k), model.lookup(k), "{:?}", form);
            }
        }
    }

    #[test]
    fn routes_agree((rules, keys) in routes()) {
        let model = Model::of(rules);
        for form in FORMS {
            let table = Table::build_as(model.iter(), form);
            for k in &keys {
                prop_assert_eq!(table.lookup(k), model.lookup(k), "{:?}", form);
            }
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
        for form in [None, Some(Template::Tuples)] {
            let table = Table::build_as(model.iter(), form);
            for k in &keys {
                check(&table, &model, k)?;
            }
        }
    }

    #[test]
    fn bits_that_were_not_seen_do_not_matter_in_lists(
        (rules, keys) in prop_oneof![access_list().boxed(), routes().boxed()],
        form in prop_oneof![Just(None), Just(Some(Template::Tuples))],
    ) {
        let model = Model::of(rules.iter().take(80).cloned().collect());
        let mut table = Table::build_as(model.iter(), form);
        for k in keys.iter().take(2) {
            check(&table, &model, k)?;
        }
        // Some leave and some come, after which a form may have some waiting.
        let mut model = model;
        for (id, r) in model.0.clone().iter().take(7) {
            prop_assert!(table.remove(*id, r));
            model.0.remove(id);
        }
        for (n, r) in rules.iter().enumerate().skip(80).take(9) {
            let id = 100_000 - n as u32;
            if model.is_new(r) {
                table.insert(id, r);
                model.0.insert(id, r.clone());
            }
        }
        for k in keys.iter().rev().take(2) {
            check(&table, &model, k)?;
        }
    }

    #[test]
    fn access_lists_agree((rules, keys) in access_list()) {
        let model = Model::of(rules);
        for form in FORMS {
            let table = Table::build_as(model.iter(), form);
            for k in &keys {
                prop_assert_eq!(table.lookup(k), model.lookup(k), "{:?}", form);
            }
        }
    }

    #[test]
    fn changes_and_old_clones(
        (rules, keys) in prop_oneof![
            (vec(prop_oneof![small_rule(), soft_rule()], 1..40), vec(small_key(), 6)).boxed(),
            routes().boxed(),
            access_list().boxed(),
        ],
        steps in vec((any::<prop::sample::Index>(), any::<bool>()), 1..120),
        built in 0usize..100, form in 0..FORMS.len(),
    ) {
        prop_assume!(!rules.is_empty());
        let rules = &rules[..rules.len().min(120)];
        let mut model = Model::default();
        for (n, r) in rules.iter().enumerate().take(built) {
            if model.is_new(r) {
                model.0.insert(n as u32 * 3, r.clone());
            }
        }
        let mut table = Table::build_as(model.iter(), FORMS[form]);
        let mut old = Vec::new();
        for (n, (which, is_insert)) in steps.into_iter().enumerate() {
            let at = which.index(rules.len());
            let (id, r) = (at as u32 * 3, &rules[at]);
            if !is_insert {
                prop_assert_eq!(table.remove(id, r), model.0.remove(&id).is_some());
            } else if !model.0.contains_key(&id) && model.is_new(r) {
                table.insert(id, r);
                model.0.insert(id, r.clone());
            }
            prop_assert_eq!(table.len(), model.0.len());
            if n % 5 == 0 {
                old.push((table.clone(), model.clone()));
            }
        }
        old.push((table, model));
        for (table, model) in &old {
            for k in keys.iter().take(12) {
                prop_assert_eq!(table.lookup(k), model.lookup(k));
                prop_assert_eq!(table.lookup_wild(k, &mut Mask::ZERO.clone()), model.lookup(k));
            }
        }
    }
}

fn exact(in_port: u32, n: u32) -> RuleMatch {
    let value = FlowKey {
        in_port,
        eth_type: 0x800,
        ip_proto: 17,
        ip_src: 0x0a00_0000 | n.wrapping_mul(0x9e_3779) & 0xff_ffff,
        ip_dst: 0xc612_0000 + n,
        tp_src: 1024 + n as u16,
        tp_dst: 53,
        ..FlowKey::ZERO
    };
    let mut mask = Mask { in_port: u32::MAX, eth_type: u16::MAX, ..Mask::ZERO };
    (mask.ip_src, mask.ip_dst, mask.ip_proto) = (u32::MAX, u32::MAX, u8::MAX);
    (mask.tp_src, mask.tp_dst) = (u16::MAX, u16::MAX);
    RuleMatch::new(value, mask, 10)
}

fn seen(table: &Table, key: &FlowKey) -> Mask {
    let mut seen = Mask::ZERO;
    table.lookup_wild(key, &mut seen);
    seen
}

#[test]
fn a_miss_sees_no_more_than_the_stage_that_proves_it() {
    let rules: Vec<RuleMatch> = (0..500).map(|n| exact(1, n)).collect();
    let table = Table::build((0..).zip(&rules));
    let known = rules[7].value;
    let miss = seen(&table, &FlowKey { in_port: 2, ..known });
    let first = Mask { in_port: u32::MAX, eth_type: u16::MAX, ip_proto: u8::MAX, ..Mask::ZERO };
    assert_eq!(miss, first);
    // No source begins with 11: its first byte is proof enough.
    let miss = seen(&table, &FlowKey { ip_src: 0x0b00_0001, ..known });
    assert_eq!(miss, Mask { ip_src: 0xff00_0000, ..Mask::ZERO });
    // Both addresses are known, not together: no port is looked at.
    let miss = seen(&table, &FlowKey { ip_dst: rules[8].value.ip_dst, ..known });
    assert_eq!((miss.tp_src, miss.tp_dst), (0, 0));
    assert_eq!((miss.ip_src, miss.ip_dst), (u32::MAX, u32::MAX));
    // No destination port begins with a one.
    let miss = seen(&table, &FlowKey { tp_dst: 0x8035, ..known });
    assert_eq!((miss.ip_src, miss.tp_src, miss.tp_dst), (0, 0, 0xf000));
}

#[test]
fn a_route_sees_about_its_length() {
    let route = |ip_dst: u32, len: u32| {
        let ones = u32::MAX << (32 - len);
        let mask = Mask { eth_type: u16::MAX, ip_dst: ones, ..Mask::ZERO };
        let value = FlowKey { eth_type: 0x800, ip_dst, ..FlowKey::ZERO };
        RuleMatch::new(value, mask, len as u16)
    };
    let mut rules = vec![route(0x0a00_0000, 8), route(0x0a01_0000, 16), route(0x0a01_0280, 25)];
    rules.extend((0..200).map(|n| route(0x0a02_0000 | n << 8, 24)));
    let table = Table::build((0..).zip(&rules));
    assert_eq!(table.template(), Template::Lpm);
    let seen = |ip_dst| seen(&table, &FlowKey { eth_type: 0x800, ip_dst, ..FlowKey::ZERO }).ip_dst;
    assert_eq!(seen(0x0b00_0000), 0xff00_0000);
    assert_eq!(seen(0x0a07_0001), 0xffff_0000);
    assert_eq!(seen(0x0a01_0701), 0xffff_ff00);
    assert_eq!(seen(0x0a02_0701), 0xffff_ff00);
    assert_eq!(seen(0x0a01_0281), 0xffff_ff80);
}

#[test]
fn bit_vectors_see_what_rules_out_better_rules() {
    const UDP: FlowKey = FlowKey { eth_type: 0x800, ip_proto: 17, tp_dst: 80, ..FlowKey::ZERO };
    // Twenty masks of the source; no rule looks at a port but the first.
    let rule = |n: u32| {
        let ip_src = u32::MAX << (n % 20);
        let tp_dst = if n == 0 { u16::MAX } else { 0 };
        let ip_proto = if n % 2 == 1 { u8::MAX } else { 0 };
        let mask = Mask { eth_type: u16::MAX, ip_proto, ip_src, tp_dst, ..Mask::ZERO };
        RuleMatch::new(FlowKey { ip_src: n << 20, ..UDP }, mask, 1000 - n as u16)
    };
    let rules: Vec<RuleMatch> = (0..400).map(rule).collect();
    let table = Table::build((0..).zip(&rules));
    assert_eq!(table.template(), Template::Bits);
    let key = FlowKey { ip_src: 0x8000_0000, ..UDP };
    assert_eq!(table.lookup(&key), None);
    let bits = seen(&table, &key);
    assert_eq!(bits, Mask { ip_src: bits.ip_src & 0xfff8_0000, ..Mask::ZERO });
    let met = FlowKey { ip_src: 39 << 20 | 1, ..key };
    assert_eq!(table.lookup(&met), Some(39));
    assert_eq!(seen(&table, &met).tp_dst, 0);
    // One that came since is better, and looks at a port.
    let mut table = table;
    let mask = Mask { tp_dst: u16::MAX, ..Mask::ZERO };
    table.insert(900, &RuleMatch::new(FlowKey { tp_dst: 443, ..UDP }, mask, 2000));
    assert_eq!(table.template(), Template::Bits);
    assert_eq!(table.lookup(&met), Some(39));
    assert_ne!(seen(&table, &met).tp_dst & (443 ^ 80), 0);
    assert_eq!(table.lookup(&FlowKey { tp_dst: 443, ..met }), Some(900));
}

fn on_port(in_port: u32) -> (FlowKey, Mask) {
    (FlowKey { in_port, ..FlowKey::ZERO }, Mask { in_port: u32::MAX, ..Mask::ZERO })
}

#[test]
fn an_empty_table_matches_nothing_and_a_catch_all_everything() {
    assert_eq!(Table::new().lookup(&FlowKey::ZERO), None);
    let all = RuleMatch::new(FlowKey::ZERO, FlowKey::ZERO, 0);
    let t = Table::build([(9, &all)].into_iter());
    assert_eq!(t.lookup(&FlowKey { in_port: 7, ..FlowKey::ZERO }), Some(9));
}
