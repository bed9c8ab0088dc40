//! `cargo xtask test`: every test of the workspace, with what was skipped and why.
//!
//! A test that cannot run here prints a line `skipped: NAME needs ...` and passes as far as cargo
//! knows; we read those lines and count them apart, so that a green run never hides them.

use std::io::{BufRead, BufReader};
use std::process::Stdio;

use crate::shell::{self, cargo, is_root};
use crate::{bpf, setup};

#[derive(clap::Args)]
pub struct Args {
    /// Only this package
    #[arg(long, short)]
    package: Option<String>,
    /// Only tests whose name holds this
    filter: Option<String>,
}

impl Args {
    pub fn everything() -> Self {
        Self { package: None, filter: None }
    }
}

/// What the test programs said in sum.
#[derive(Debug, Default, PartialEq, Eq)]
struct Tally {
    passed: u64,
    failed: u64,
    skipped: Vec<String>,
    programs: u64,
}

impl Tally {
    /// Takes one line of a test program's output; says whether a person wants to see it.
    fn take(&mut self, line: &str) -> bool {
        if let Some(rest) = line.strip_prefix("test result: ") {
            self.programs += 1;
            self.passed += count_before(rest, " passed");
            self.failed += count_before(rest, " failed");
            return rest.starts_with("FAILED");
        }
        // A bench that ran once, as criterion says it.
        if line == "Success" {
            self.passed += 1;
        }
        if let Some(what) = line.trim_start().strip_prefix("skipped: ") {
            self.skipped.push(what.to_owned());
        }
        false
    }

    fn close(&self) -> String {
        let skipped = self.skipped.len() as u64;
        let passed = self.passed.saturating_sub(skipped);
        format!("{passed} passed, {} failed, {skipped} skipped", self.failed)
    }
}

fn count_before(text: &str, word: &str) -> u64 {
    let head = text.split(word).next().unwrap_or_default();
    head.rsplit(' ').next().and_then(|n| n.parse().ok()).unwrap_or(0)
}

/// Whether a line belongs to what a run without failures need not show.
#[derive(Default)]
struct Quiet {
    in_successes: bool,
}

impl Quiet {
    /// With `--show-output`, what passing tests printed stands between `successes:` and either
    /// `failures:` or the result.
    fn hides(&mut self, line: &str) -> bool {
        match line {
            "successes:" => self.in_successes = true,
            "failures:" => self.in_successes = false,
            _ if line.starts_with("test result: ") => self.in_successes = false,
            _ => {}
        }
        self.in_successes
            || line.is_empty()
            || line.starts_with("running ")
            || line.starts_with("Testing ")
            || line == "Success"
            || line.starts_with("test result: ok")
            || (line.starts_with("test ") && line.ends_with(" ... ok"))
    }
}

pub fn run(args: &Args) -> Result<(), String> {
    let missing = setup::ensure()?;
    let is_whole = args.package.is_none() && args.filter.is_none();
    let object = if is_whole { bpf::rebuild_and_compare() } else { Ok(()) };
    let tests = run_tests(args, &missing);
    object.map_err(|why| format!("the XDP object: {why}")).and(tests)
}

/// The daemon that the testbed's tests start, and else build: its features are not those of a whole
/// workspace, so the first of them would wait minutes for it, and be said to take long.
fn build_daemon() -> Result<(), String> {
    let daemon = ["build", "--quiet", "--package", "sluice-control", "--bin", "sluiced"];
    shell::run(cargo().args(daemon))
}

fn run_tests(args: &Args, missing: &[String]) -> Result<(), String> {
    if args.package.as_deref().is_none_or(|package| package == "sluice-testbed") {
        build_daemon()?;
    }
    let mut command = cargo();
    command.args(["test", "--no-fail-fast"]);
    match &args.package {
        Some(package) => command.args(["--package", package]),
        None => command.arg("--workspace"),
    };
    command.args(args.filter.iter()).args(["--", "--show-output"]);
    let mut child = command.stdout(Stdio::piped()).spawn().map_err(|e| format!("cargo: {e}"))?;
    let (mut tally, mut quiet) = (Tally::default(), Quiet::default());
    if let Some(out) = child.stdout.take() {
        for line in BufReader::new(out).lines() {
            let line = line.map_err(|e| format!("output of the tests: {e}"))?;
            let shown = tally.take(&line);
            if !quiet.hides(&line) || shown {
                println!("{line}");
            }
        }
    }
    let status = child.wait().map_err(|e| format!("cargo test: {e}"))?;
    println!();
    if !is_root() {
        println!("without root, tests that need network namespaces or devices were skipped");
    }
    for thing in missing {
        println!("missing: {thing}");
    }
    for what in &tally.skipped {
        println!("skipped: {what}");
    }
    println!("{}", tally.close());
    if tally.failed > 0 {
        Err(format!("{} tests failed", tally.failed))
    } else if !status.success() {
        Err("a test program did not build or did not finish; see above".into())
    } else if tally.programs == 0 {
        Err("no test ran".into())
    } else {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const OUTPUT: &str = "running 3 tests\ntest a ... ok\ntest b ... ok\ntest c ... FAILED\n\n\
        successes:\n\n---- b stdout ----\nskipped: b needs root (network namespaces)\n\n\
        failures:\n\n---- c stdout ----\nthe reason\n\n\
        test result: FAILED. 2 passed; 1 failed; 0 ignored; 0 measured; 0 filtered out\n";

    #[test]
    fn the_sum_counts_skipped_tests_apart() {
        let mut tally = Tally::default();
        let closing = "test result: ok. 40 passed; 0 failed; 0 ignored";
        let shown: Vec<_> = OUTPUT.lines().chain([closing]).filter(|l| tally.take(l)).collect();
        assert_eq!(shown.len(), 1, "only the failed result: {shown:?}");
        assert_eq!(tally.close(), "41 passed, 1 failed, 1 skipped");
        assert_eq!(tally.skipped, ["b needs root (network namespaces)"]);
        assert_eq!(tally.programs, 2);
    }

    #[test]
    fn only_what_failed_is_shown() {
        let mut quiet = Quiet::default();
        let shown: Vec<_> = OUTPUT.lines().filter(|line| !quiet.hides(line)).collect();
        let first = ["test c ... FAILED", "failures:", "---- c stdout ----", "the reason"];
        assert_eq!(shown.get(..4), Some(first.as_slice()));
        assert!(shown.last().is_some_and(|l| l.starts_with("test result: FAILED")));
    }
}
