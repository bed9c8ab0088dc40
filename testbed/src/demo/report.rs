//! A line per check, as it happens, and all of them as JSON for programs.

use std::process::ExitCode;
use std::time::Instant;

use serde::Serialize;

use crate::Result;

#[derive(Debug, Serialize)]
struct Line {
    part: &'static str,
    check: String,
    ok: bool,
    measured: String,
    seconds: f64,
}

/// What was checked so far.
#[derive(Debug)]
pub struct Report {
    lines: Vec<Line>,
    json: bool,
}

impl Report {
    pub fn new(json: bool) -> Self {
        if !json {
            println!("{:<6} {:<44} {:<5} measured", "part", "check", "");
        }
        Self { lines: Vec::new(), json }
    }

    /// Runs a check. `Ok` says what was measured, an error what went wrong.
    pub fn check(&mut self, part: &'static str, check: &str, run: impl FnOnce() -> Result<String>) {
        let start = Instant::now();
        let result = run();
        let ok = result.is_ok();
        let measured = result.unwrap_or_else(|error| error.to_string());
        let (check, seconds) = (check.to_owned(), start.elapsed().as_secs_f64());
        self.push(Line { part, check, ok, measured, seconds });
    }

    pub fn fail(&mut self, part: &'static str, check: &str, why: &str) {
        let (check, measured) = (check.to_owned(), why.to_owned());
        self.push(Line { part, check, ok: false, measured, seconds: 0.0 });
    }

    fn push(&mut self, line: Line) {
        if !self.json {
            let verdict = if line.ok { "ok" } else { "FAIL" };
            println!("{:<6} {:<44} {verdict:<5} {}", line.part, line.check, line.measured);
        }
        self.lines.push(line);
    }

    /// Something for people to read after a failure.
    pub fn note(&self, text: &str) {
        eprintln!("{text}");
    }

    pub fn failed(&self) -> bool {
        self.lines.iter().any(|line| !line.ok)
    }

    /// The sum, and the exit code that goes with it.
    pub fn close(self) -> ExitCode {
        let failed = self.lines.iter().filter(|line| !line.ok).count();
        let passed = self.lines.len() - failed;
        if self.json {
            let all = serde_json::json!({
                "passed": passed, "failed": failed, "checks": self.lines,
            });
            println!("{all:#}");
        } else {
            println!("{passed} checks passed, {failed} failed");
        }
        if failed == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE }
    }
}
