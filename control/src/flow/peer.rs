//! Random groups as sluice prints them, read by ovs-ofctl and printed again: the same.
//!
//! The files of golden lines (`control/tests`) say it of chosen groups; this says it of what the
//! strategy of `roundtrip` draws.

use super::roundtrip::arb_group;
use super::*;
use proptest::strategy::{Strategy, ValueTree};
use proptest::test_runner::TestRunner;
use std::process::Command;

const GROUPS: usize = 60;

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
