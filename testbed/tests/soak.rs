//! Some seconds of soak; `cargo xtask soak` plays long ones.

use std::sync::{Mutex, PoisonError};

use clap::Parser;
use sluice_testbed::root_or_skip;
use sluice_testbed::soak::{self, Options};

/// A run that must not take long, from a fixed seed; the clock decides how far it gets.
const MINUTES: &str = "0.13";
const SEED: &str = "11";

/// One after the other: they look at the memory of the process, or fill it with threads.
static TURN: Mutex<()> = Mutex::new(());

fn soak(workers: &str) -> soak::Summary {
    let conns = ["--conns", "6000", "--self-check", "100"];
    let args = ["soak", "--minutes", MINUTES, "--seed", SEED, "--workers", workers];
    let options = Options::parse_from(args.into_iter().chain(conns));
    let summary = soak::run(&options).unwrap_or_else(|trouble| panic!("{trouble}"));
    println!("{}", summary.text());
    summary
}

#[test]
fn nothing_is_lost() {
    let _turn = TURN.lock().unwrap_or_else(PoisonError::into_inner);
    for workers in ["2", "1"] {
        let s = soak(workers);
        // The run is worth something: whatever can happen did.
        let c = &s.stats;
        let happened = [c.expired, c.flushed, c.evicted, c.zone_full, c.invalid, c.expected];
        assert!(happened.iter().all(|n| *n > 0), "{}", s.text());
        assert!(
            c.created > 2000 && s.course.checkpoints > 10 && s.course.changes > 0,
            "{}",
            s.text()
        );
        let is_shared = workers == "2";
        assert_eq!(s.most.redirects > 0 && s.moved.handed > 0, is_shared, "{}", s.text());
    }
}

#[test]
fn a_daemon_between_kernels_loses_nothing() {
    if !root_or_skip("soak: a daemon on veth") {
        return;
    }
    let _turn = TURN.lock().unwrap_or_else(PoisonError::into_inner);
    let args = ["soak", "--daemon", "--minutes", "0.2", "--seed", SEED];
    let summary = soak::daemon::run(&Options::parse_from(args));
    let s = summary.unwrap_or_else(|trouble| panic!("{trouble}"));
    println!("{}", s.text());
    // The run is worth something: whatever can happen did.
    let events = ["expired", "flushed", "evicted", "zone_full", "invalid", "backend_gone"];
    let happened = events.map(|name| s.last.events.get(name).copied().unwrap_or(0));
    assert!(happened.iter().all(|n| *n > 0), "{happened:?} of {events:?}\n{}", s.text());
    let [tcp, udp, answered, half_open] = s.talked;
    assert!(
        answered > (tcp + udp) / 4 && tcp > 200 && udp > 200 && half_open > 200,
        "{}",
        s.text()
    );
    assert!(
        s.course.changes > 3 && s.course.flushes > 3 && s.limits > 3 && s.ports_most > 0,
        "{}",
        s.text()
    );
    assert!(s.last.datagrams > 0, "{}", s.text());
    assert!(s.last.handed_over > 0 && s.course.emptied.iter().all(|n| *n > 0), "{}", s.text());
}
