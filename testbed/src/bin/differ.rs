//! The program behind `cargo xtask differ`.

use std::process::ExitCode;

use clap::Parser;
use sluice_testbed::differ::{self, Options};

fn main() -> ExitCode {
    differ::main(&Options::parse())
}
