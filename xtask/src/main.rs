//! `cargo xtask`: one door for every habit of the project.
//!
//! This program stays small and needs nothing installed: it sets up what the others need, then
//! builds and runs them.

mod bench;
mod bpf;
mod ci;
mod play;
mod setup;
mod shell;
mod test;
mod tidy;

use std::process::ExitCode;

use clap::Parser;

#[derive(Parser)]
#[command(name = "cargo xtask", about = "The project's chores, each under one name")]
enum Task {
    /// Two nodes in network namespaces, with real traffic through the switch
    Demo(play::Args),
    /// Set up what is missing and run every test
    Test(test::Args),
    /// All that CI runs: format, lints, tidy, the XDP object, tests, documentation
    Ci,
    /// The project's own checks of its sources
    Tidy,
    /// Compare with other switches, in turn, on this machine
    Bench(bench::Args),
    /// Random programs on sluice and on stock Open vSwitch, compared
    Differ(play::Args),
    /// Connections come and go for twenty minutes, and everything is counted
    Soak(play::Args),
    /// Build the XDP object that is checked in, or check that it fits its sources
    Bpf(bpf::Args),
}

fn main() -> ExitCode {
    let done = match Task::parse() {
        Task::Demo(args) => play::run("sluice-demo", &["sluice-control", "sluice-testbed"], &args),
        Task::Test(args) => test::run(&args),
        Task::Ci => ci::run(),
        Task::Tidy => tidy::run(),
        Task::Bench(args) => bench::run(&args),
        Task::Differ(args) => play::build_and_run("sluice-differ", &["sluice-testbed"], &args),
        Task::Soak(args) => play::build_and_run("sluice-soak", &["sluice-testbed"], &args),
        Task::Bpf(args) => bpf::run(&args),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(why) => {
            eprintln!("error: {why}");
            ExitCode::FAILURE
        }
    }
}
