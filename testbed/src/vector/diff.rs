//! Where an outcome is not what was expected, in words for whoever has to mend it.

use std::collections::BTreeSet;

use super::{Outcome, describe};

/// Differences told per port; the rest would bury the first.
const PER_PORT_MAX: usize = 3;

pub fn compare(expected: &Outcome, got: &Outcome, with_counters: bool) -> Vec<String> {
    let mut told = Vec::new();
    let ports: BTreeSet<_> = expected.out.keys().chain(got.out.keys()).collect();
    for port in ports {
        let none = Vec::new();
        let want = expected.out.get(port).unwrap_or(&none);
        let have = got.out.get(port).unwrap_or(&none);
        packets(port, want, have, &mut told);
    }
    if with_counters {
        counters(expected, got, &mut told);
    }
    told
}

fn packets(port: &str, want: &[Vec<u8>], have: &[Vec<u8>], told: &mut Vec<String>) {
    if want.len() != have.len() {
        told.push(format!("port {port}: {} packets, expected {}", have.len(), want.len()));
    }
    let both = want.iter().map(Some).chain(std::iter::repeat(None));
    let both = both.zip(have.iter().map(Some).chain(std::iter::repeat(None)));
    let unequal = both.take(want.len().max(have.len())).enumerate().filter(|(_, (w, h))| w != h);
    for (n, (want, have)) in unequal.take(PER_PORT_MAX) {
        let shown = |packet: Option<&Vec<u8>>| packet.map_or("nothing".to_owned(), |p| describe(p));
        let (w, h) = (shown(want), shown(have));
        let mut text = format!("port {port}, packet {}:\n  expected {w}\n  got      {h}", n + 1);
        if let (Some(want), Some(have)) = (want, have) {
            text += &first_difference(want, have);
        }
        told.push(text);
    }
}

fn first_difference(want: &[u8], have: &[u8]) -> String {
    let at = want.iter().zip(have).position(|(w, h)| w != h);
    match at {
        Some(at) => {
            let (w, h) = (want.get(at), have.get(at));
            let byte = |b: Option<&u8>| b.map_or(String::new(), |b| format!("{b:02x}"));
            format!("\n  first at byte {at}: {} expected, {} came", byte(w), byte(h))
        }
        None => format!("\n  length {} expected, {} came", want.len(), have.len()),
    }
}

fn counters(expected: &Outcome, got: &Outcome, told: &mut Vec<String>) {
    let names: BTreeSet<_> = expected.counters.keys().chain(got.counters.keys()).collect();
    for name in names {
        let count = |of: &Outcome| of.counters.get(name).copied().unwrap_or(0);
        let (want, have) = (count(expected), count(got));
        if want != have {
            told.push(format!("counter {name}: {have}, expected {want}"));
        }
    }
}
