//! The operator's command.

use std::process::ExitCode;

fn main() -> ExitCode {
    sluice_control::cli::run(std::env::args_os())
}
