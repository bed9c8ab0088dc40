//! Random flows and groups as sluice prints them, read by ovs-ofctl and printed again: the same.
//!
//! The files of golden lines (`control/tests`) say it of chosen ones; this says it of what the
//! strategies of `arb_flow` draw. None is refused by one of the two alone, but for masks of IPv6
//! addresses that ovs-ofctl prints and does not read.

use super::arb_flow::{arb_flow, arb_group};
use super::*;
use proptest::strategy::{Strategy, ValueTree};
use proptest::test_runner::TestRunner;
use std::process::Command;

const GROUPS: usize = 60;
const FLOWS: usize = 300;

/// Whether ovs-ofctl 3.x is here; if not, says that the test is skipped.
fn is_here() -> bool {
    let version = Command::new("ovs-ofctl").arg("--version").output();
    let is_3 = |o: &std::process::Output| String::from_utf8_lossy(&o.stdout).contains(") 3.");
    let here = version.as_ref().is_ok_and(is_3);
    if !here {
        println!("skipped: needs ovs-ofctl 3.x (apt-get install openvswitch-switch)");
    }
    here
}

#[test]
fn random_groups_mean_the_same_to_the_stock_tool() {
    if !is_here() {
        return;
    }
    let mut runner = TestRunner::deterministic();
    let (mut wrong, mut refused) = (Vec::new(), 0);
    for _ in 0..GROUPS {
        let group = arb_group().new_tree(&mut runner).unwrap().current();
        let text = print_group(&group, &NoNames);
        let run = Command::new("ovs-ofctl").args(["parse-group", &text]).output().unwrap();
        let out = String::from_utf8_lossy(&run.stdout).into_owned();
        match out.split_once("\n ADD ").map(|(_, t)| t.trim_end()) {
            Some(theirs) if theirs == text => {}
            Some(theirs) => wrong.push(format!("ours   {text}\ntheirs {theirs}")),
            None => refused += 1,
        }
    }
    assert!(wrong.is_empty(), "{} differ:\n{}", wrong.len(), wrong.join("\n"));
    assert!(refused * 3 < GROUPS, "{refused} of {GROUPS} refused");
}

#[test]
fn random_flows_mean_the_same_to_the_stock_tool() {
    if !is_here() {
        return;
    }
    let dir = std::env::temp_dir().join(format!("sluice-flow-peer-{}", std::process::id()));
    std::fs::create_dir_all(&dir).unwrap();
    let (empty, one) = (dir.join("empty"), dir.join("one"));
    std::fs::write(&empty, "").unwrap();
    let mut runner = TestRunner::deterministic();
    let (mut wrong, mut unread) = (Vec::new(), 0);
    for _ in 0..FLOWS {
        let flow = arb_flow().new_tree(&mut runner).unwrap().current();
        let text = print_flow(&flow, &NoNames);
        std::fs::write(&one, format!("{text}\n")).unwrap();
        let run =
            Command::new("ovs-ofctl").arg("diff-flows").args([&empty, &one]).output().unwrap();
        let told = String::from_utf8_lossy(&run.stderr).into_owned();
        if told.contains("IPv6 address") || told.contains("IPv6 network prefix") {
            unread += 1;
            continue;
        }
        let theirs = String::from_utf8_lossy(&run.stdout).into_owned();
        if theirs.strip_prefix('+').map(str::trim_end) != Some(&as_difference(&flow)) {
            wrong.push(format!("ours   {text}\ntheirs {theirs}{told}"));
        }
    }
    std::fs::remove_dir_all(&dir).unwrap();
    assert!(wrong.is_empty(), "{} differ:\n{}", wrong.len(), wrong.join("\n"));
    assert!(unread * 3 < FLOWS, "{unread} of {FLOWS} not read");
}

/// A flow as `ovs-ofctl diff-flows` writes it: without its flags, and what it has besides match and
/// actions in another place.
fn as_difference(flow: &Flow) -> String {
    let mut text = String::new();
    if flow.table != 0 {
        text += &format!("table={} ", flow.table);
    }
    text += &print_match(&flow.match_, flow.priority, &NoNames);
    if flow.cookie != 0 {
        text += &format!(" cookie={:#x}", flow.cookie);
    }
    let numbers = [
        ("idle_timeout", flow.idle_timeout_s),
        ("hard_timeout", flow.hard_timeout_s),
        ("importance", flow.importance),
    ];
    for (name, n) in numbers.into_iter().filter(|(_, n)| *n != 0) {
        text += &format!(" {name}={n}");
    }
    text + &format!(" actions={}", print_actions(&flow.actions, &NoNames))
}
