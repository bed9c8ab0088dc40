//! The program behind `cargo xtask bench e2e`.

use std::process::ExitCode;

use clap::Parser;
use sluice_testbed::bench::{self, Options};

fn main() -> ExitCode {
    bench::main(&Options::parse())
}
