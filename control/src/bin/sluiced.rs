//! The switch's daemon.

use std::process::ExitCode;

fn main() -> ExitCode {
    sluice_control::daemon::run(std::env::args_os(), sluice_control::switch::start)
}
