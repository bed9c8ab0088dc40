//! A short differential run against stock Open vSwitch; `cargo xtask differ` plays long ones.

use clap::Parser;
use sluice_testbed::differ::{self, Options};

/// Programs of a run that must not take long, from a fixed seed.
const PROGRAMS: &str = "60";
const SEED: &str = "20";

#[test]
fn random_programs_do_what_they_do_on_open_vswitch() {
    if let Some(what) = differ::missing() {
        eprintln!("skipped: differ needs {what}");
        return;
    }
    let options = Options::parse_from(["differ", "--programs", PROGRAMS, "--seed", SEED]);
    let summary = differ::run(&options).unwrap();
    println!("{}", summary.text());
    assert!(summary.failures.is_empty(), "{}", summary.failures.join("\n"));
    assert_eq!(summary.programs.to_string(), PROGRAMS);
    // The run is worth something: rules are met, packets leave.
    assert!(summary.left * 3 > summary.packets, "{}", summary.text());
    assert!(summary.flows_hit * 8 > summary.flows, "{}", summary.text());
}
