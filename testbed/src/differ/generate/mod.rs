//! Random programs of the language that both switches share, and packets that meet them.
//!
//! Everything is drawn from one seed ([`super::chance`]). Values are few (`values`), matches are of
//! a kind of packet and some of its fields (`matches`), actions come from a table of verbs
//! (`verbs`), packets are made to fit the rules (`packets`). Some programs have groups and a meter
//! (`groups`), rules of several clauses (`conjunctions`), or translate in two steps (`gateway`).
//!
//! No two flows of a table have the same priority: which of two equal ones a packet meets, OpenFlow
//! leaves open (OpenFlow 1.5.1 section 5.3).

mod conjunctions;
mod gateway;
mod groups;
pub mod matches;
pub mod packets;
pub mod values;
pub mod verbs;

use std::collections::BTreeSet;

use super::case::{BRIDGES, Case, CaseFlow};
use super::chance::Chance;
use super::normal::{self, frag_of, is_sctp};
use super::ovs::needs_later;
use packets::Target;
use verbs::{Spot, Verbs};

/// How large cases are.
#[derive(Clone, Copy, Debug)]
pub struct Size {
    pub flows_max: u64,
    pub packets: u64,
}

/// Draws a case.
pub fn case(verbs: &Verbs, size: Size, c: &mut Chance) -> Case {
    let verbs = verbs.leaning(c);
    let mut case = Case::default();
    let mut targets = Vec::new();
    let used = match c.below(10) {
        // Behind a cable Open vSwitch sees what a packet taught on the way there.
        _ if verbs.draws("learn") || verbs.translates => 1,
        0..=4 => 1,
        5..=7 => 2,
        _ => BRIDGES.len(),
    };
    for bridge in 0..used {
        program(bridge, &verbs, size, c, &mut case, &mut targets);
    }
    leave_hidden_out(&mut case);
    // Open vSwitch holds fragments back in `ct` until it can put them together.
    let tracks = case.flows.iter().any(|f| f.text.contains("ct("));
    for _ in 0..size.packets {
        let packet = packets::draw(&targets, c);
        if tracks && frag_of(&packet.bytes) != 0 || verbs.translates && is_sctp(&packet.bytes) {
            continue;
        }
        // Twice, so that what a cache answers is compared too.
        case.packets.extend([packet.clone(), packet]);
    }
    // And once more, behind all the others.
    for _ in 0..case.packets.len() / 6 {
        let again = c.pick(&case.packets).clone();
        case.packets.push(again);
    }
    case
}

/// Takes the flows away that Open vSwitch does not find behind a conjunction (`normal`).
fn leave_hidden_out(case: &mut Case) {
    for cookie in normal::hidden_flows(case) {
        case.flows.retain(|f| f.cookie != cookie);
    }
}

fn program(
    bridge: usize,
    verbs: &Verbs,
    size: Size,
    c: &mut Chance,
    case: &mut Case,
    targets: &mut Vec<Target>,
) {
    let tables = c.within(1, 5) as u8;
    let ports = packets::devices(bridge);
    let flows = c.within(2, size.flows_max / (1 + bridge as u64));
    let groups = if verbs.has("group") && c.percent(35) { c.within(1, 4) } else { 0 };
    if groups > 0 {
        let site = (tables, ports, verbs.draws("clone") || verbs.draws("learn"));
        case.refs.extend(groups::draw(bridge, groups, site, c));
    }
    let mut taken = BTreeSet::new();
    let kind = &matches::KINDS[0];
    let root = Spot { kind, tagged: false, table: 0, tables, ports, groups, depth: 0 };
    for _ in 0..flows {
        // Half of the flows are in the first table.
        let table = if c.percent(40) { 0 } else { c.below(u64::from(tables)) as u8 };
        let priority = if c.percent(20) { c.below(8) } else { c.below(65536) } as u16;
        if !taken.insert((table, priority)) {
            continue;
        }
        let match_ = matches::draw(c, table > 0, ports);
        let spot = Spot { kind: match_.kind, tagged: match_.tagged, table, ..root };
        let actions = if c.percent(3) { "drop".to_owned() } else { list(verbs, &spot, c) };
        let mut text = format!("table={table},priority={priority}");
        if !match_.text.is_empty() {
            text += &format!(",{}", match_.text);
        }
        text += &format!(",actions={actions}");
        let cookie = case.flows.len() as u64 + 1;
        case.flows.push(CaseFlow { bridge, cookie, text });
        targets.push(Target { bridge, table, match_ });
    }
    if verbs.has("conjunction") && c.percent(25) {
        for id in 1..=c.within(1, 3) {
            conjunction(id, (bridge, root), verbs, c, &mut taken, case, targets);
        }
    }
    if verbs.translates && tables >= gateway::TABLES && c.percent(60) {
        let (match_, parts) = gateway::draw(c, ports);
        for (table, words, actions) in parts {
            let priority = c.within(60_000, 65_535) as u16;
            if taken.insert((table, priority)) {
                let text = format!("table={table},priority={priority},{words},actions={actions}");
                let cookie = case.flows.len() as u64 + 1;
                case.flows.push(CaseFlow { bridge, cookie, text });
            }
        }
        (0..4).for_each(|_| targets.push(Target { bridge, table: 0, match_: match_.clone() }));
    }
    // A table's last resort, often.
    for table in 0..tables {
        if c.percent(70) && taken.insert((table, 0)) {
            let spot = Spot { table, ..root };
            let text = format!("table={table},priority=0,actions={}", list(verbs, &spot, c));
            let cookie = case.flows.len() as u64 + 1;
            case.flows.push(CaseFlow { bridge, cookie, text });
        }
    }
}

/// The flows of a conjunction, all of one priority, and the flow that it leads to.
fn conjunction(
    id: u64,
    (bridge, root): (usize, Spot),
    verbs: &Verbs,
    c: &mut Chance,
    taken: &mut BTreeSet<(u8, u16)>,
    case: &mut Case,
    targets: &mut Vec<Target>,
) {
    let table = if c.percent(60) { 0 } else { c.below(u64::from(root.tables)) as u8 };
    let (priority, last) = (c.below(65536) as u16, c.below(65536) as u16);
    if !taken.insert((table, priority)) || !taken.insert((table, last)) {
        return;
    }
    let drawn = conjunctions::draw(c);
    let mut add = |priority: u16, words: &[&str], actions: &str| {
        let mut text = format!("table={table},priority={priority}");
        words.iter().filter(|w| !w.is_empty()).for_each(|w| text += &format!(",{w}"));
        text += &format!(",actions={actions}");
        let cookie = case.flows.len() as u64 + 1;
        case.flows.push(CaseFlow { bridge, cookie, text });
    };
    let n_clauses = drawn.clauses.len();
    for (at, clause) in drawn.clauses.iter().enumerate() {
        let action = format!("conjunction({id},{}/{n_clauses})", at + 1);
        clause.iter().for_each(|flow| add(priority, &[&flow.text], &action));
    }
    if c.percent(90) {
        let spot = Spot { kind: drawn.kind, table, ..root };
        add(last, &[&format!("conj_id={id}"), drawn.kind.words], &list(verbs, &spot, c));
    }
    for _ in 0..3 {
        targets.push(Target { bridge, table, match_: drawn.whole(c) });
    }
}

/// Actions that go through ovs-ofctl unchanged: it writes a `mod_vlan_*` of a flow that needs a
/// later version than OpenFlow 1.0 as a push and a set unless the match asks for a tag, which is
/// something else for a packet that has one. A write to the TCI may make it forget the tag.
fn list(verbs: &Verbs, spot: &Spot, c: &mut Chance) -> String {
    loop {
        let text = verbs.list(spot, c);
        let is_old = ["mod_vlan", "strip_vlan", "pop_vlan"].iter().any(|word| text.contains(word));
        let forgets = text.to_ascii_lowercase().contains("vlan_tci");
        if spot.tagged && !forgets || !is_old || !needs_later(&text) {
            return text;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_seed_makes_one_case_and_its_flows_are_mostly_taken() {
        let (verbs, _) = Verbs::shared();
        let size = Size { flows_max: 30, packets: 20 };
        let of = |n| case(&verbs, size, &mut Chance::of_case(1, n));
        assert_eq!(of(3), of(3));
        assert_ne!(of(3), of(4));
        let (mut all, mut refused) = (0, Vec::new());
        for case in (0..40).map(of) {
            for flow in &case.flows {
                all += 1;
                let why = crate::differ::ours::takes(&flow.text);
                refused.extend(why.err().map(|why| format!("{}: {why}", flow.text)));
            }
        }
        assert!(all > 400 && refused.len() * 5 < all, "{} of {all}: {refused:#?}", refused.len());
    }
}
