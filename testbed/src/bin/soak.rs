//! The program behind `cargo xtask soak`.

use std::process::ExitCode;

use clap::Parser;
use sluice_testbed::soak::{self, Options};

fn main() -> ExitCode {
    soak::main(&Options::parse())
}
