//! `cargo xtask`: one door for every habit of the project.

mod bpf;

use std::process::ExitCode;

use clap::Parser;

#[derive(Parser)]
#[command(name = "cargo xtask", about = "The project's chores, each under one name")]
enum Task {
    /// Build the XDP object that is checked in, or check that it fits its sources
    Bpf(bpf::Args),
}

fn main() -> ExitCode {
    let done = match Task::parse() {
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
