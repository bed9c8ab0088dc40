//! `cargo xtask ci`: what CI runs, and what to run before a change is handed in.
//!
//! The README's test command is one of its steps. All steps run even if one fails, so that one run
//! tells all there is to mend.

use std::time::Instant;

use crate::shell::{cargo, run as shell_run};
use crate::{setup, test, tidy};

type Step = (&'static str, fn() -> Result<(), String>);

const STEPS: &[Step] = &[
    ("setup", || setup::ensure().map(drop)),
    ("format", || shell_run(cargo().args(["fmt", "--all", "--check"]))),
    ("tidy", tidy::run),
    ("clippy", || {
        let all = ["clippy", "--quiet", "--workspace", "--all-targets", "--", "-D", "warnings"];
        shell_run(cargo().args(all))
    }),
    ("test", || test::run(&test::Args::everything())),
    ("doc", || {
        let doc = ["doc", "--quiet", "--workspace", "--no-deps", "--document-private-items"];
        shell_run(cargo().args(doc).env("RUSTDOCFLAGS", "-D warnings"))
    }),
];

pub fn run() -> Result<(), String> {
    let mut lines = Vec::new();
    let mut failed = Vec::new();
    for (name, step) in STEPS {
        println!("ci: {name}");
        let start = Instant::now();
        let result = step();
        let seconds = start.elapsed().as_secs();
        let verdict = if result.is_ok() { "ok" } else { "FAILED" };
        lines.push(format!("ci: {name:<12} {verdict:<7} {seconds:>4} s"));
        if let Err(why) = result {
            eprintln!("ci: {name}: {why}");
            failed.push(*name);
        }
    }
    lines.iter().for_each(|line| println!("{line}"));
    if failed.is_empty() { Ok(()) } else { Err(format!("failed: {}", failed.join(", "))) }
}
