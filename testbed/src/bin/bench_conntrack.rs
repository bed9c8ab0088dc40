//! The program behind `cargo xtask bench conntrack`.

use std::process::ExitCode;

use clap::Parser;
use sluice_testbed::bench::duel::{self, Bench, Options};

fn main() -> ExitCode {
    duel::main(Bench::Conntrack, &Options::parse())
}
