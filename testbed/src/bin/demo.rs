//! The program behind `cargo xtask demo`.

use std::process::ExitCode;

use clap::Parser;
use sluice_testbed::demo::{self, Options};

fn main() -> ExitCode {
    demo::main(&Options::parse())
}
