//! The program behind `cargo xtask bench pipeline`.

use std::process::ExitCode;

use clap::Parser;
use sluice_testbed::bench::duel::{self, Bench, Options};

fn main() -> ExitCode {
    duel::main(Bench::Pipeline, &Options::parse())
}
