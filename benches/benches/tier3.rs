//! Tier 3 alone: the walk through the tables, without a cache.

#[path = "common/packet.rs"]
mod packet;

use criterion::{Criterion, criterion_group, criterion_main};
use packet::bench;
use sluice_benches::road::{Road, program, rule, set, udp_flows};
use sluice_dataplane::action::Action;
use sluice_dataplane::packet::field::Field;

/// `tables` tables in a row, each with a few rules of two masks.
fn walk(tables: u8) -> Road {
    let mut rules = Vec::new();
    for t in 0..tables {
        let next = if t + 1 == tables {
            vec![Action::Output(2)]
        } else {
            vec![
                set(Field::Reg0, t.into()),
                Action::Resubmit { in_port: None, table: Some(t + 1), with_ct: false },
            ]
        };
        for n in 0..8 {
            let at = [(Field::EthType, 0x0800), (Field::IpDst, n)];
            rules.push(rule(t, 20, &at, vec![]));
        }
        rules.push(rule(t, 10, &[(Field::InPort, 1)], next));
    }
    Road::new(program(rules), &udp_flows(1000), 0)
}

fn walks(c: &mut Criterion) {
    for tables in [1, 5, 40] {
        bench(c, &format!("tier3/tables_{tables}"), walk(tables));
    }
}

criterion_group!(benches, walks);
criterion_main!(benches);
