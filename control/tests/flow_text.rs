//! Flow text against the stock tool, and against a table of wrong lines.
//!
//! `flows_golden.txt` holds lines and what `ovs-ofctl diff-flows EMPTY LINE` (3.1) prints for
//! them: its reading of the line in its own words. `wrong_flows.txt` holds wrong lines, each
//! with the whole message that it gets.

use sluice_control::flow::{Flow, NoNames, parse_flow, print_actions, print_flow, print_match};
use std::fmt::Write;
use std::process::Command;

const GOLDEN: &str = include_str!("flows_golden.txt");
const WRONG: &str = include_str!("wrong_flows.txt");

/// Pairs of a line and the line after it that starts with `=> `.
fn pairs(text: &'static str) -> Vec<(&'static str, &'static str)> {
    let mut out = Vec::new();
    let mut lines = text.lines().filter(|l| !l.starts_with("# "));
    while let (Some(line), Some(answer)) = (lines.next(), lines.next()) {
        let answer = answer.strip_prefix("=> ").unwrap_or_else(|| panic!("no => after {line:?}"));
        out.push((line, answer));
    }
    out
}

/// A flow in the words of `diff-flows`.
fn as_diff(flow: &Flow) -> String {
    let mut out = String::new();
    if flow.table != 0 {
        let _ = write!(out, "table={} ", flow.table);
    }
    out.push_str(&print_match(&flow.match_, flow.priority, &NoNames));
    if flow.cookie != 0 {
        let _ = write!(out, " cookie={:#x}", flow.cookie);
    }
    for (name, value) in [
        ("idle_timeout", flow.idle_timeout_s),
        ("hard_timeout", flow.hard_timeout_s),
        ("importance", flow.importance),
    ] {
        if value != 0 {
            let _ = write!(out, " {name}={value}");
        }
    }
    let _ = write!(out, " actions={}", print_actions(&flow.actions, &NoNames));
    out
}

#[test]
fn lines_print_as_the_stock_tool_prints_them() {
    let pairs = pairs(GOLDEN);
    assert!(pairs.len() >= 120, "only {}", pairs.len());
    let mut wrong = String::new();
    for (line, want) in pairs {
        match parse_flow(line, &NoNames) {
            Ok(flow) => {
                let got = as_diff(&flow);
                if got != want {
                    let _ = writeln!(wrong, "{line}\n  want {want}\n  got  {got}");
                }
            }
            Err(e) => drop(writeln!(wrong, "{line}\n  refused: {e}")),
        }
    }
    assert!(wrong.is_empty(), "\n{wrong}");
}

#[test]
fn what_is_printed_reads_back_equal() {
    for (line, _) in pairs(GOLDEN) {
        let flow = parse_flow(line, &NoNames).unwrap_or_else(|e| panic!("{line}: {e}"));
        let text = print_flow(&flow, &NoNames);
        assert_eq!(parse_flow(&text, &NoNames), Ok(flow), "{line}\n{text}");
    }
}

/// Asks the installed tool again, so that the checked-in answers cannot be ours by mistake.
#[test]
fn the_stock_tool_says_what_the_file_says() {
    let version = Command::new("ovs-ofctl").arg("--version").output();
    let is_3 = |o: &std::process::Output| String::from_utf8_lossy(&o.stdout).contains(") 3.");
    if !version.as_ref().is_ok_and(is_3) {
        println!("skipped: needs ovs-ofctl 3.x (apt-get install openvswitch-switch)");
        return;
    }
    let dir = std::env::temp_dir().join(format!("sluice-flow-text-{}", std::process::id()));
    std::fs::create_dir_all(&dir).unwrap();
    let (empty, one) = (dir.join("empty"), dir.join("one"));
    std::fs::write(&empty, "").unwrap();
    let mut wrong = String::new();
    for (line, want) in pairs(GOLDEN) {
        std::fs::write(&one, format!("{line}\n")).unwrap();
        let run = Command::new("ovs-ofctl").arg("diff-flows").args([&empty, &one]).output();
        let out = String::from_utf8_lossy(&run.unwrap().stdout).into_owned();
        if out.strip_prefix('+').map(str::trim_end) != Some(want) {
            let _ = writeln!(wrong, "{line}\n  want {want}\n  got  {out}");
        }
    }
    std::fs::remove_dir_all(&dir).unwrap();
    assert!(wrong.is_empty(), "\n{wrong}");
}

#[test]
fn wrong_lines_get_their_message() {
    let pairs = pairs(WRONG);
    let mut wrong = String::new();
    for (line, want) in &pairs {
        let got = match parse_flow(line, &NoNames) {
            Ok(flow) => format!("taken as {}", print_flow(&flow, &NoNames)),
            Err(e) => e.to_string(),
        };
        if got != *want {
            let _ = writeln!(wrong, "{line}\n=> {got}\n   (file says: {want})");
        }
    }
    assert!(wrong.is_empty(), "\n{wrong}");
}
