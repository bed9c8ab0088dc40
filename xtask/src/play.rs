//! Programs of the testbed that play a whole scene: the demo, the end-to-end bench, the
//! differential run.

use crate::setup;
use crate::shell::{self, cargo, is_root, root};

#[derive(clap::Args)]
pub struct Args {
    /// Handed on; try `--help` after `--`
    #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
    rest: Vec<String>,
}

/// Sets up, builds release programs of `packages`, and runs `program` with the remaining words.
pub fn run(program: &str, packages: &[&str], args: &Args) -> Result<(), String> {
    if !is_root() {
        return Err("network namespaces need root: run this as root".into());
    }
    build_and_run(program, packages, args)
}

/// The same for a program that needs no root.
pub fn build_and_run(program: &str, packages: &[&str], args: &Args) -> Result<(), String> {
    let missing = setup::ensure()?;
    if !missing.is_empty() {
        return Err(format!("still missing: {}", missing.join(", ")));
    }
    let packages = packages.iter().flat_map(|package| ["--package", package]);
    shell::run(cargo().args(["build", "--quiet", "--release", "--bins"]).args(packages))?;
    let target =
        std::env::var_os("CARGO_TARGET_DIR").map_or_else(|| root().join("target"), Into::into);
    let mut scene = std::process::Command::new(target.join("release").join(program));
    // Its exit code says it all; its own words are already on the screen.
    let status = scene.args(&args.rest).current_dir(root()).status();
    match status.map_err(|e| format!("{program} does not start: {e}"))?.code() {
        Some(0) => Ok(()),
        Some(code) => std::process::exit(code),
        None => Err(format!("{program} was killed")),
    }
}
