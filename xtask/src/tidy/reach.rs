//! Dead files: sources that no crate reaches through its `mod` lines.

use std::collections::BTreeSet;

use super::{Complaint, Sources, lexer};

pub fn dead_files(sources: &Sources, found: &mut Vec<Complaint>) {
    let mut reached = BTreeSet::new();
    for manifest in sources.keys().filter(|p| *p == "Cargo.toml" || p.ends_with("/Cargo.toml")) {
        let folder = manifest.trim_end_matches("Cargo.toml");
        for root in roots(folder, sources) {
            reach(&root, sources, &mut reached);
        }
    }
    for path in sources.keys().filter(|p| p.ends_with(".rs") && !reached.contains(*p)) {
        found.push(Complaint::at(path, 0, "dead file: no `mod` line reaches it"));
    }
}

/// The files where the targets of the crate in `folder` begin: cargo's layout, and `path = "..."`.
fn roots(folder: &str, sources: &Sources) -> Vec<String> {
    let fixed = ["src/lib.rs", "src/main.rs", "build.rs"].map(|f| format!("{folder}{f}"));
    let in_target_folder = |path: &str| {
        let inside = ["src/bin/", "tests/", "benches/", "examples/"]
            .iter()
            .find_map(|f| path.strip_prefix(folder)?.strip_prefix(f));
        inside.is_some_and(|rest| {
            rest.ends_with(".rs") && (!rest.contains('/') || rest.ends_with("/main.rs"))
        })
    };
    let manifest = sources.get(&format!("{folder}Cargo.toml")).map_or("", String::as_str);
    let named = manifest.lines().filter_map(|line| {
        let value = line.trim().strip_prefix("path = \"")?.strip_suffix('"')?;
        Some(format!("{folder}{value}"))
    });
    let own = sources.keys().filter(|p| in_target_folder(p)).cloned();
    fixed.into_iter().chain(own).chain(named).filter(|p| sources.contains_key(p)).collect()
}

fn reach(path: &str, sources: &Sources, reached: &mut BTreeSet<String>) {
    if !reached.insert(path.to_owned()) {
        return;
    }
    let Some(text) = sources.get(path) else { return };
    let (folder, file) = path.rsplit_once('/').unwrap_or(("", path));
    let stem = file.trim_end_matches(".rs");
    // A crate's root and a `mod.rs` have their modules beside them, others in a folder of their
    // name.
    let is_root = matches!(stem, "mod" | "lib" | "main") || is_target_folder(folder);
    let below = if is_root { folder.to_owned() } else { format!("{folder}/{stem}") };
    let by_name = modules(text)
        .into_iter()
        .flat_map(|name| [format!("{below}/{name}.rs"), format!("{below}/{name}/mod.rs")]);
    let by_path = paths_by_attribute(text).map(|name| format!("{folder}/{name}"));
    for candidate in by_name.chain(by_path).filter(|path| sources.contains_key(path)) {
        reach(&candidate, sources, reached);
    }
}

fn is_target_folder(folder: &str) -> bool {
    ["src/bin", "tests", "benches", "examples"].iter().any(|end| folder.ends_with(end))
}

/// Names in `mod name;` lines.
fn modules(text: &str) -> Vec<String> {
    let code = lexer::blank(text);
    let names = code.split(';').filter_map(|part| {
        let (before, name) = part.rsplit_once("mod ")?;
        let starts_word = before.chars().next_back().is_none_or(char::is_whitespace);
        let name = name.trim();
        let is_name = !name.is_empty() && name.chars().all(|c| c.is_alphanumeric() || c == '_');
        (starts_word && is_name).then(|| name.to_owned())
    });
    names.collect()
}

/// Files named by `#[path = "..."]`.
fn paths_by_attribute(text: &str) -> impl Iterator<Item = &str> {
    text.lines().filter_map(|l| l.trim().strip_prefix("#[path = \"")?.strip_suffix("\"]"))
}
