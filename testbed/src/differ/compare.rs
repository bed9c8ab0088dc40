//! Where two outcomes differ, in words.

use std::fmt::Write;

use super::case::{BRIDGES, Case, Outcome, Output};
use super::normal;
use crate::vector::describe;

/// What is compared with what.
#[derive(Clone, Debug)]
pub struct Difference {
    /// The side that is not Open vSwitch.
    pub side: &'static str,
    /// One line per thing that differs.
    pub lines: Vec<String>,
}

/// Compares sluice's outcome with Open vSwitch's; `None` if they are equal.
pub fn compare(
    case: &Case,
    ovs: &Outcome,
    ours: &Outcome,
    side: &'static str,
) -> Option<Difference> {
    let mut lines = Vec::new();
    let counts_anew = normal::counts_anew(case);
    for (at, (theirs, own)) in ovs.out.iter().zip(&ours.out).enumerate() {
        let packet = &case.packets[at];
        if normal::is_incomparable(case, packet) || ours.limited.contains(&at) && counts_anew {
            continue;
        }
        let (theirs, own) = (normal::output(case, theirs), normal::output(case, own));
        if theirs != own {
            let text = describe(&packet.bytes);
            lines.push(format!("packet {} from {}: {text}", at + 1, packet.port));
            lines.push(format!("   Open vSwitch: {}", show(&theirs)));
            lines.push(format!("   {side}: {}", show(&own)));
        }
    }
    if ovs.out.len() != ours.out.len() {
        lines.push(format!("{} packets answered, {} by {side}", ovs.out.len(), ours.out.len()));
    }
    let left_out = case.packets.iter().any(|p| normal::is_incomparable(case, p))
        || counts_anew && !ours.limited.is_empty();
    if !left_out && !normal::is_uncounted(case) {
        hits(case, ovs, ours, side, &mut lines);
    }
    (!lines.is_empty()).then_some(Difference { side, lines })
}

fn hits(case: &Case, ovs: &Outcome, ours: &Outcome, side: &str, lines: &mut Vec<String>) {
    for flow in &case.flows {
        let key = (flow.bridge, flow.cookie);
        let (theirs, own) = (ovs.hits.get(&key), ours.hits.get(&key));
        if theirs != own {
            let say = |n: Option<&u64>| n.map_or("no such flow".to_owned(), u64::to_string);
            let bridge = BRIDGES[flow.bridge].name;
            let (theirs, own) = (say(theirs), say(own));
            let text = &flow.text;
            lines.push(format!("packets of {bridge} {text}: Open vSwitch {theirs}, {side} {own}"));
        }
    }
}

/// What left, port by port; equal packets in a row are one line with their number.
pub fn show(out: &Output) -> String {
    if out.is_empty() {
        return "nothing".to_owned();
    }
    let mut text = String::new();
    for (port, packets) in out {
        for same in packets.chunk_by(|a, b| a == b) {
            let _ = write!(text, "\n      {port} < {} x {}", same.len(), describe(&same[0]));
        }
    }
    text
}

/// The whole case, as a person reads it.
pub fn show_case(case: &Case) -> String {
    let mut text = case.flow_file();
    for (at, p) in case.packets.iter().enumerate() {
        let _ = writeln!(text, "# packet {} in {}: {}", at + 1, p.port, describe(&p.bytes));
    }
    text
}

#[cfg(test)]
mod tests {
    use super::super::case::{CaseFlow, CasePacket};
    use super::*;

    fn case() -> Case {
        let text = "actions=output:2".to_owned();
        Case {
            flows: vec![CaseFlow { bridge: 0, cookie: 1, text }],
            packets: vec![CasePacket { port: "p1", bytes: vec![2; 60] }],
            ..Case::default()
        }
    }

    fn outcome(port: &str, bytes: Vec<u8>, hits: u64) -> Outcome {
        Outcome {
            out: vec![Output::from([(port.to_owned(), vec![bytes])])],
            hits: [((0, 1), hits)].into(),
            ..Outcome::default()
        }
    }

    #[test]
    fn packets_that_meet_a_bound_do_not_count_where_rounds_are_counted_otherwise() {
        let (good, mut other) = (outcome("p2", vec![2; 60], 1), outcome("p3", vec![2; 60], 9));
        other.limited.insert(0);
        assert!(compare(&case(), &good, &other, "x").is_some());
        let mut clones = case();
        clones.flows[0].text = "actions=clone(output:2)".to_owned();
        assert!(compare(&clones, &good, &other, "x").is_none());
        other.limited.clear();
        assert!(compare(&clones, &good, &other, "x").is_some());
    }

    #[test]
    fn ports_bytes_and_counts_must_agree() {
        let good = outcome("p2", vec![2; 60], 1);
        assert!(compare(&case(), &good, &good.clone(), "x").is_none());
        let others = [
            outcome("p3", vec![2; 60], 1),
            outcome("p2", vec![3; 60], 1),
            outcome("p2", vec![2; 60], 2),
            Outcome { out: vec![Output::new()], ..good.clone() },
            Outcome::default(),
        ];
        for other in others {
            assert!(compare(&case(), &good, &other, "x").is_some(), "{other:?}");
        }
    }
}
