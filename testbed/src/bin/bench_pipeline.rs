//! The program behind `cargo xtask bench pipeline`.

use std::process::ExitCode;

use clap::Parser;
use sluice_testbed::bench::pipeline::{self, Options};

fn main() -> ExitCode {
    pipeline::main(&Options::parse())
}
