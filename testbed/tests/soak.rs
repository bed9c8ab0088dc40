//! Some seconds of soak; `cargo xtask soak` plays long ones.

use clap::Parser;
use sluice_testbed::soak::{self, Options};

/// A run that must not take long, from a fixed seed; the clock decides how far it gets.
const MINUTES: &str = "0.13";
const SEED: &str = "11";

fn soak(workers: &str) -> soak::Summary {
    let conns = ["--conns", "6000", "--self-check", "100"];
    let args = ["soak", "--minutes", MINUTES, "--seed", SEED, "--workers", workers];
    let options = Options::parse_from(args.into_iter().chain(conns));
    let summary = soak::run(&options).unwrap_or_else(|trouble| panic!("{trouble}"));
    println!("{}", summary.text());
    summary
}

/// One after the other: both look at the memory of the process.
#[test]
fn nothing_is_lost() {
    for workers in ["2", "1"] {
        let s = soak(workers);
        // The run is worth something: whatever can happen did.
        let c = &s.stats;
        let happened = [c.expired, c.flushed, c.evicted, c.zone_full, c.invalid, c.expected];
        assert!(happened.iter().all(|n| *n > 0), "{}", s.text());
        assert!(c.created > 2000 && s.checkpoints > 10 && s.changes > 0, "{}", s.text());
        let is_shared = workers == "2";
        assert_eq!(s.most.redirects > 0 && s.moved.handed > 0, is_shared, "{}", s.text());
    }
}
