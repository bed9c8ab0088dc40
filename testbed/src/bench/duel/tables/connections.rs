//! The cases of connection tracking, numbered as the scenario table does.
//!
//! P5: established connections. P6: new ones, each packet one; ours in the steady state with as
//! many expiring, the peer while it fills an empty table, without expiry. P6b: established ones
//! while new ones flood a full table, by turns with and without them. P7: translated sources. P11:
//! two workers.

use crate::bench::duel::case::{Case, Chart, Depth, Load, Measure};
use crate::bench::duel::rules::Rules;
use crate::bench::duel::stream::{FILLED_MOST, Proto, Traffic};
use sluice_control::config::CONNS_MAX;

/// A table with room for what comes in the second until first packets' connections expire, and
/// some more.
const NEW_MAX: u32 = 1 << 23;
/// Connections that the flood meets.
const FLOODED: u64 = 100_000;
/// Addresses of the pool whose ports run out, and of the usual one.
const POOL: u8 = 16;
const ADDRESSES: u8 = 64;
const POOL_PORTS: u64 = POOL as u64 * (65536 - 1024);

pub fn all() -> Vec<Case> {
    let mut list = established();
    list.extend(new());
    list.extend(floods());
    list.extend(translated());
    list.extend(workers());
    list
}

fn connections(proto: Proto, flows: u64) -> Load {
    let conns_max = Some((flows * 2).clamp(1 << 18, CONNS_MAX.into()) as u32);
    Load { conns_max, ..Load::new(Rules::Stateful, Traffic::Connections(proto), flows) }
}

fn established() -> Vec<Case> {
    let (udp, tcp) = (|n| connections(Proto::Udp, n), |n| connections(Proto::Tcp, n));
    let of_udp = |name: &str, n: u64, goal: f64| {
        let title = format!("{name} established UDP connections, both directions");
        Case::new("P5", &title, udp(n)).goal(goal).at(Chart::ConnectionsUdp, n)
    };
    let of_tcp = |name: &str, n: u64, goal: f64| {
        let title = format!("{name} established TCP connections, both directions");
        Case::new("P5", &title, tcp(n)).goal(goal).at(Chart::ConnectionsTcp, n)
    };
    vec![
        of_udp("1000", 1000, 3.0).quick(),
        of_udp("100 k", 100_000, 5.0).quick(),
        of_udp("1 M", 1_000_000, 6.0),
        of_tcp("1000", 1000, 3.0).quick(),
        of_tcp("100 k", 100_000, 5.0).quick(),
        of_tcp("1 M", 1_000_000, 6.0),
        Case::new("P5", "1 M UDP connections, of own 1 k", udp(1_000_000))
            .against(udp(1000))
            .goal(0.5)
            .quick(),
        Case::new("P5", "10 M UDP connections, of own 1 k", udp(10_000_000))
            .against(udp(1000))
            .depth(Depth::Full),
    ]
}

fn new() -> Vec<Case> {
    let case = |title: &str, rules, proto, flows| {
        let load =
            Load { conns_max: Some(NEW_MAX), ..Load::new(rules, Traffic::New(proto), flows) };
        Case::new("P6", title, load).measure(Measure::Connections).goal(2.5)
    };
    let (plain, snat) = (Rules::Stateful, Rules::Snat(ADDRESSES));
    vec![
        case("new UDP connections", plain, Proto::Udp, 100_000).quick(),
        case("new UDP connections, peer 1 M", plain, Proto::Udp, 1_000_000),
        case("new UDP connections with SNAT", snat, Proto::Udp, 100_000).quick(),
        case("new UDP connections with SNAT, peer 1 M", snat, Proto::Udp, 1_000_000),
        case("new TCP connections", plain, Proto::Tcp, 100_000).quick(),
        case("new TCP connections with SNAT", snat, Proto::Tcp, 100_000),
    ]
}

fn floods() -> Vec<Case> {
    let load = |of, max: u64| {
        let load = Load::new(Rules::Stateful, Traffic::Flooded(of), FLOODED);
        Load { conns_max: Some(max as u32), ..load }
    };
    let calm = |max: u64| Load { conns_max: Some(max as u32), ..connections(Proto::Udp, FLOODED) };
    let case = |title: &str, load| Case::new("P6b", title, load).measure(Measure::Flood);
    let (room, full) = (2 * FLOODED, FLOODED);
    vec![
        case("1 new per 10, table full of half-open, of own turns without", load(10, room))
            .against_calm()
            .goal(0.9)
            .quick(),
        case("1 new per 2, table full of half-open, of own turns without", load(2, room))
            .against_calm(),
        case("1 new per 10, table full of established, of own turns without", load(10, full))
            .against_calm()
            .goal(0.9)
            .quick(),
        case("1 new per 2, table full of established, of own turns without", load(2, full))
            .against_calm(),
        // What turns do not tell: what a flood leaves behind.
        case("1 new per 10, table full of half-open, of another run without", load(10, room))
            .against(calm(room)),
        case("1 new per 10, table full of established, of another run without", load(10, full))
            .against(calm(full)),
        case("1 new per 10, table full of half-open", load(10, room)),
        case("1 new per 2, table full of half-open", load(2, room)).depth(Depth::Full),
    ]
}

fn translated() -> Vec<Case> {
    let load = |flows| Load {
        conns_max: Some(1 << 18),
        ..Load::new(Rules::Snat(1), Traffic::Translated, flows)
    };
    let filling = |percent| Load {
        conns_max: Some(1 << 21),
        ..Load::new(
            Rules::SnatPorts(POOL),
            Traffic::Filling(percent),
            POOL_PORTS * FILLED_MOST / 100,
        )
    };
    vec![
        Case::new("P7", "1000 connections with SNAT, both directions", load(1000))
            .goal(3.0)
            .quick(),
        Case::new("P7", "100 k connections with SNAT, both directions", load(100_000))
            .goal(3.0)
            .quick(),
        // Of a cost at most 1.5 times as high, a rate at least two thirds as high.
        Case::new("P7", "set-up with 95 % of the ports used, of own 10 %", filling(FILLED_MOST))
            .against(filling(10))
            .measure(Measure::SetUp)
            .goal(0.667)
            .quick(),
    ]
}

fn workers() -> Vec<Case> {
    let two = |proto| Load { workers: 2, ..connections(proto, 100_000) };
    vec![
        Case::new("P11", "2 workers, 100 k UDP connections, of own 1", two(Proto::Udp))
            .against(connections(Proto::Udp, 100_000))
            .goal(1.9)
            .quick(),
        Case::new("P11", "2 workers, 100 k UDP connections, 2 PMDs", two(Proto::Udp))
            .goal(4.0)
            .quick(),
        Case::new("P11", "2 workers, 100 k TCP connections, 2 PMDs", two(Proto::Tcp)).goal(4.0),
    ]
}
