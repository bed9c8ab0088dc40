//! `cargo xtask tidy`: what we agreed on that no compiler checks.
//!
//! Each check is a plain function from text to complaints, tested on small texts below; this file
//! only finds the files and prints. Rust sources are checked with comments and literals blanked out
//! where code is meant (`lexer`), so that a word in a sentence is not taken for code.

mod checks;
mod lexer;
mod reach;
mod rooms;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::path::Path;
use std::process::Command;

use crate::shell::{read, root};

/// A complaint about a place.
#[derive(Debug, PartialEq, Eq)]
pub struct Complaint {
    pub path: String,
    /// From 1; 0 means the whole file.
    pub line: usize,
    pub text: String,
    pub only_warns: bool,
}

impl Complaint {
    pub fn at(path: &str, line: usize, text: impl Into<String>) -> Self {
        Self { path: path.to_owned(), line, text: text.into(), only_warns: false }
    }
}

/// The sources: path from the top, with '/' between, to content.
pub type Sources = BTreeMap<String, String>;

pub fn run() -> Result<(), String> {
    let sources = load(&root())?;
    let complaints = check(&sources);
    let mut errors = 0;
    for c in &complaints {
        let kind = if c.only_warns { "warning: " } else { "" };
        println!("{}:{}: {kind}{}", c.path, c.line, c.text);
        errors += usize::from(!c.only_warns);
    }
    println!("tidy: {} files, {errors} errors", sources.len());
    if errors == 0 { Ok(()) } else { Err(format!("tidy: {errors} errors")) }
}

/// All checks over all files.
pub fn check(sources: &Sources) -> Vec<Complaint> {
    let mut found = Vec::new();
    for (path, text) in sources {
        checks::words(path, text, &mut found);
        checks::machine_paths(path, text, &mut found);
        if path.ends_with(".rs") {
            let code = lexer::blank(text);
            checks::lengths(path, text, &mut found);
            checks::functions(path, &code, &mut found);
            checks::safety(path, text, &code, &mut found);
            rooms::imports(path, &code, &mut found);
        }
        if path.ends_with("Cargo.toml") {
            rooms::manifest(path, text, &mut found);
        }
    }
    reach::dead_files(sources, &mut found);
    if let Some(text) = sources.get("ARCHITECTURE.md") {
        let exists = |p: &str| sources.keys().any(|k| k == p || k.starts_with(&format!("{p}/")));
        checks::named_paths("ARCHITECTURE.md", text, &exists, &mut found);
    }
    found
}

/// Reads every text file that git tracks or would track.
fn load(root: &Path) -> Result<Sources, String> {
    let args = ["ls-files", "--cached", "--others", "--exclude-standard"];
    let list = read(Command::new("git").args(args).current_dir(root))?;
    let mut sources = Sources::new();
    for path in list.lines() {
        // Not text, or deleted and not yet committed: nothing to check.
        if let Ok(text) = std::fs::read_to_string(root.join(path)) {
            sources.insert(path.to_owned(), text);
        }
    }
    Ok(sources)
}
