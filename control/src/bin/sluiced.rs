//! The switch's daemon.

use std::process::ExitCode;

fn main() -> ExitCode {
    sluice_control::daemon::run(std::env::args_os(), |_| {
        Err("this build can check a configuration (--check) and has no workers yet".into())
    })
}
