//! The vectors over replay, with caches and without, and over real devices: what comes out must
//! not differ.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use sluice_control::replay::Caches;
use sluice_testbed::vector::{Backend, Live, Replay, run_all};

fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("vectors")
}

fn all_pass(mut backend: impl Backend) {
    match run_all(&folder(), &mut backend) {
        Ok(count) => assert!(count > 0),
        Err(report) => panic!("{report}"),
    }
}

/// The rules of connection tracking, and the vectors that hold them (`vectors/README.md`).
#[test]
fn every_rule_of_connection_tracking_has_a_vector() {
    let text = std::fs::read_to_string(folder().join("README.md")).unwrap();
    let mut named = BTreeSet::new();
    for row in text.lines().filter(|l| l.starts_with("| ")).skip(1) {
        let cell = row.trim_end_matches(" |").rsplit("| ").next().unwrap();
        let names: Vec<&str> = cell.split(['`', ' ']).filter(|n| !n.is_empty()).collect();
        assert!(!names.is_empty(), "no vector: {row}");
        for name in names {
            assert!(folder().join(name).join("in.txt").is_file(), "no vector {name}: {row}");
            named.insert(name.to_owned());
        }
    }
    let there = std::fs::read_dir(folder()).unwrap().flatten();
    let there = there.map(|e| e.file_name().to_string_lossy().into_owned());
    let missing: Vec<_> =
        there.filter(|n| n.starts_with("ct-") && !named.contains(n.as_str())).collect();
    assert!(missing.is_empty() && named.len() > 30, "of no rule in README.md: {missing:?}");
}

#[test]
fn with_caches() {
    all_pass(Replay { caches: Caches::default() });
}

#[test]
fn without_caches() {
    let caches = Caches { microflows: Some(0), megaflows: Some(0), ..Caches::default() };
    all_pass(Replay { caches });
}

#[test]
fn with_megaflows_alone() {
    all_pass(Replay { caches: Caches { microflows: Some(0), ..Caches::default() } });
}

#[test]
fn on_veth() {
    if sluice_testbed::root_or_skip("vectors on veth") {
        all_pass(Live::default());
    }
}

/// Each packet comes to the worker that has the device's one queue, and half of them are at home
/// with the other.
#[test]
fn on_veth_with_two_workers() {
    if sluice_testbed::root_or_skip("vectors on veth with two workers") {
        all_pass(Live { workers: Some(2) });
    }
}
