//! The vectors over replay, with caches and without, and over real devices: what comes out must
//! not differ.

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
        all_pass(Live);
    }
}
