//! Tier 1 hits, from a frame's bytes to the door of the output port.

#[path = "common/packet.rs"]
mod packet;

use criterion::{Criterion, criterion_group, criterion_main};
use packet::bench;
use sluice_benches::road::{Road, ct, program, rule, set, udp_flows};
use sluice_dataplane::action::{Action, Ct, Nat};
use sluice_dataplane::conntrack::{NatKind, NatMode, NatSpec};
use sluice_dataplane::limits::MICROFLOWS;
use sluice_dataplane::packet::field::Field;

/// `in_port=1 actions=output:2`, with a rule that makes every flow its own microflow.
fn forward(flows: u32) -> Road {
    let rules = vec![
        rule(0, 2, &[(Field::IpSrc, 1), (Field::UdpSrc, 1)], vec![]),
        rule(0, 1, &[(Field::InPort, 1)], vec![Action::Output(2)]),
    ];
    Road::new(program(rules), &udp_flows(flows), MICROFLOWS)
}

fn alone(actions: Vec<Action>, flows: u32) -> Road {
    Road::new(program(vec![rule(0, 1, &[], actions)]), &udp_flows(flows), MICROFLOWS)
}

fn source_nat(flows: u32) -> Road {
    let addr = u128::from(u32::from_be_bytes([203, 0, 113, 1]));
    let spec = NatSpec {
        kind: NatKind::Src,
        v6: false,
        addr_min: addr,
        addr_max: addr,
        ports: None,
        mode: NatMode::Hash,
    };
    let commit = Ct { commit: true, table: Some(1), nat: Some(Nat::New(spec)), ..ct() };
    let rules = vec![
        rule(0, 1, &[(Field::EthType, 0x0800)], vec![Action::Ct(Box::new(commit))]),
        rule(1, 1, &[], vec![Action::Output(2)]),
    ];
    Road::new(program(rules), &udp_flows(flows), MICROFLOWS)
}

/// A rule of its own for every flow: walks, and so traversals, that no two flows share.
fn exact(flows: u32) -> Road {
    let rules = (0..flows).map(|n| {
        let five = [
            (Field::EthType, 0x0800),
            (Field::IpProto, 17),
            (Field::IpSrc, u128::from(0x0a00_0000 | n)),
            (Field::IpDst, 0x0aff_0001),
            (Field::UdpSrc, u128::from(1024 + n % 50_000)),
            (Field::UdpDst, 2000),
        ];
        rule(0, 1, &five, vec![Action::Output(2)])
    });
    Road::new(program(rules.collect()), &udp_flows(flows), MICROFLOWS)
}

/// TTL and both MACs, with a next hop of its own for every flow.
fn routed(flows: u32) -> Road {
    let rules = (0..flows).map(|n| {
        let src = [(Field::EthType, 0x0800), (Field::IpSrc, u128::from(0x0a00_0000 | n))];
        rule(0, 1, &src, route(u128::from(n)))
    });
    Road::new(program(rules.collect()), &udp_flows(flows), MICROFLOWS)
}

fn route(hop: u128) -> Vec<Action> {
    let (dst, src) = (set(Field::EthDst, 0x0200_0000_0000 | hop), set(Field::EthSrc, 6));
    vec![dst, src, Action::DecTtl, Action::Output(2)]
}

/// The same through so many tables: the last one routes.
fn tables(count: u8) -> Road {
    let go = (1..count).map(|n| rule(n - 1, 1, &[], vec![Action::Goto(n)]));
    let rules = go.chain([rule(count - 1, 1, &[(Field::EthType, 0x0800)], route(5))]);
    Road::new(program(rules.collect()), &udp_flows(1000), MICROFLOWS)
}

fn hits(c: &mut Criterion) {
    bench(c, "tier1/one_entry_1000_flows", alone(vec![Action::Output(2)], 1000));
    for flows in [1, 1_000, 100_000] {
        bench(c, &format!("tier1/forward_{flows}"), forward(flows));
    }
    for flows in [1_000, 10_000, 100_000] {
        bench(c, &format!("tier1/exact_{flows}"), exact(flows));
        bench(c, &format!("tier1/routed_{flows}"), routed(flows));
    }
    for count in [1, 5, 40] {
        bench(c, &format!("tier1/tables_{count}"), tables(count));
    }
    bench(c, "tier1/snat_1000", source_nat(1000));
    bench(c, "tier1/geneve_1000", alone(vec![Action::Output(4)], 1000));
}

criterion_group!(benches, hits);
criterion_main!(benches);
