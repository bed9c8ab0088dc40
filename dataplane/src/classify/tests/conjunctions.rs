//! Conjunctive matches, case by case.

use super::{Model, on_port, seen};
use crate::classify::{Clause, RuleMatch, Table};
use crate::packet::key::{FlowKey, Mask};

/// `clauses`: conjunction, clause from 1 on, clauses.
fn soft(match_: (FlowKey, Mask), priority: u16, clauses: &[(u32, u8, u8)]) -> RuleMatch {
    let clause = |(id, k, n_clauses): &(u32, u8, u8)| Clause {
        id: *id,
        clause: k - 1,
        n_clauses: *n_clauses,
    };
    let clauses = Some(clauses.iter().map(clause).collect());
    RuleMatch { clauses, ..RuleMatch::new(match_.0, match_.1, priority) }
}

fn on_mark(pkt_mark: u32) -> (FlowKey, Mask) {
    (FlowKey { pkt_mark, ..FlowKey::ZERO }, Mask { pkt_mark: u32::MAX, ..Mask::ZERO })
}

fn on_conjunction(conj_id: u32, priority: u16) -> RuleMatch {
    let mask = Mask { conj_id: u32::MAX, ..Mask::ZERO };
    RuleMatch::new(FlowKey { conj_id, ..FlowKey::ZERO }, mask, priority)
}

#[test]
fn a_conjunction_takes_all_its_clauses_and_a_rule_for_its_number() {
    let mut t = Table::new();
    let (one, two) =
        (soft(on_port(1), 20, &[(7, 1, 2)]), soft(on_mark(5), 20, &[(7, 2, 2), (9, 1, 3)]));
    let any = RuleMatch::new(FlowKey::ZERO, Mask::ZERO, 1);
    let key = FlowKey { in_port: 1, pkt_mark: 5, ..FlowKey::ZERO };
    t.insert(0, &any);
    t.insert(1, &one);
    t.insert(2, &two);
    assert_eq!(t.lookup(&key), Some(0), "no rule has its number: the best ordinary one is found");
    let (found, other) = (on_conjunction(7, 3), on_conjunction(9, 3));
    t.insert(3, &found);
    t.insert(4, &other);
    assert_eq!(t.lookup(&key), Some(3));
    let bits = seen(&t, &key);
    assert_eq!((bits.in_port, bits.pkt_mark), (u32::MAX, u32::MAX), "both clauses count");
    assert_eq!(t.lookup(&FlowKey { pkt_mark: 6, ..key }), Some(0));
    let high = RuleMatch { priority: 20, ..RuleMatch::new(on_port(1).0, on_port(1).1, 20) };
    let above = RuleMatch {
        value: FlowKey { tun_id: 0, ..high.value },
        mask: Mask { tun_id: 1, ..high.mask },
        ..high
    };
    t.insert(5, &above);
    assert_eq!(t.lookup(&key), Some(5), "an ordinary rule of the same priority comes first");
    assert!(t.remove(5, &above) && t.remove(1, &one) && !t.remove(1, &one));
    assert_eq!(t.lookup(&key), Some(0), "half of it is gone");
}

#[test]
fn a_lower_priority_of_equal_match_is_tried_next() {
    let mut t = Table::new();
    for (id, priority, conjunction) in [(0, 30, 1), (10, 20, 2)] {
        t.insert(id, &soft(on_port(1), priority, &[(conjunction, 1, 2)]));
        t.insert(id + 1, &soft(on_mark(5), priority, &[(conjunction, 2, 2)]));
    }
    t.insert(20, &on_conjunction(2, 1));
    let key = FlowKey { in_port: 1, pkt_mark: 5, ..FlowKey::ZERO };
    assert_eq!(t.lookup(&key), Some(20));
    t.insert(21, &on_conjunction(1, 1));
    assert_eq!(t.lookup(&key), Some(21));
}

#[test]
fn more_rules_of_one_priority_than_are_kept_at_hand() {
    let mut model = Model::default();
    // Ninety masks, each with a clause; the last rule completes the conjunction.
    for n in 0..90u32 {
        let mask = Mask { metadata: 1 << (n % 45), tun_id: 1 << (n / 45), ..Mask::ZERO };
        let last = u8::from(n == 89) + 1;
        model.0.insert(n, soft((FlowKey::ZERO, mask), 9, &[(4, last, 2), (8, 1, 64)]));
    }
    model.0.insert(500, on_conjunction(4, 2));
    let table = Table::build(model.iter());
    assert_eq!(model.lookup(&FlowKey::ZERO), Some(500));
    assert_eq!(table.lookup(&FlowKey::ZERO), Some(500));
    assert_eq!(table.lookup(&FlowKey { metadata: 1 << 44, ..FlowKey::ZERO }), None);
}
