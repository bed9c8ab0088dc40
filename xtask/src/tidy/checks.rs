//! Checks of one file's text.

use super::Complaint;
use super::lexer;

const COLUMNS_MAX: usize = 100;
const FUNCTION_LINES_MAX: usize = 70;
const FILE_LINES_MAX: usize = 700;
const FILE_LINES_WARN: usize = 500;
/// How far above an unsafe block its safety argument may begin.
const SAFETY_LINES_ABOVE: usize = 8;

/// Words that mean "not finished" or "do not look here". In two halves, so that this file passes.
const BANNED: &[(&str, &str)] = &[
    ("TO", "DO"),
    ("FIX", "ME"),
    ("XX", "X:"),
    ("todo", "!("),
    ("unimplemented", "!("),
    ("#[ig", "nore"),
    ("assert!(", "true)"),
    ("dbg", "!("),
];

/// Files that tell of the words themselves, or that a tool writes.
fn is_exempt(path: &str) -> bool {
    path.ends_with("Cargo.lock") || path == "LICENSE" || path == "CONTRIBUTING.md"
}

pub fn words(path: &str, text: &str, found: &mut Vec<Complaint>) {
    if is_exempt(path) {
        return;
    }
    let banned: Vec<String> = BANNED.iter().map(|(a, b)| format!("{a}{b}")).collect();
    for (at, line) in text.lines().enumerate() {
        for word in banned.iter().filter(|w| line.contains(w.as_str())) {
            let text = format!("`{word}`: finish it, or write down in an issue what is left");
            found.push(Complaint::at(path, at + 1, text));
        }
    }
}

/// Paths that mean something on one machine only.
pub fn machine_paths(path: &str, text: &str, found: &mut Vec<Complaint>) {
    const FOLDERS: &[&str] = &["work", "home", "root", "farm"];
    if is_exempt(path) {
        return;
    }
    let begins_path = |before: Option<char>| before.is_none_or(|c| " \"'`(=[<".contains(c));
    for (at, line) in text.lines().enumerate() {
        for folder in FOLDERS {
            let needle = format!("/{folder}/");
            for (i, _) in line.match_indices(&needle) {
                if begins_path(line[..i].chars().next_back()) {
                    let text = format!("`{needle}`: a path of one machine");
                    found.push(Complaint::at(path, at + 1, text));
                }
            }
        }
    }
}

/// Lines and files that are too long. Rows of a table between the two marks may be as wide as they
/// must: a broken row reads worse than a wide one.
pub fn lengths(path: &str, text: &str, found: &mut Vec<Complaint>) {
    let mut in_table = false;
    for (at, line) in text.lines().enumerate() {
        let columns = line.chars().count();
        match line.trim() {
            "// tidy: wide table" => in_table = true,
            "// tidy: end of table" => in_table = false,
            _ => {}
        }
        // An address cannot be broken.
        if columns > COLUMNS_MAX && !in_table && !line.contains("https://") {
            let text = format!("{columns} columns, at most {COLUMNS_MAX}");
            found.push(Complaint::at(path, at + 1, text));
        }
    }
    let lines = text.lines().count();
    if lines > FILE_LINES_WARN {
        let text = format!("{lines} lines; a room has at most {FILE_LINES_WARN}: is it one room?");
        let only_warns = lines <= FILE_LINES_MAX;
        found.push(Complaint { only_warns, ..Complaint::at(path, 0, text) });
    }
}

pub fn functions(path: &str, code: &str, found: &mut Vec<Complaint>) {
    for function in lexer::functions(code) {
        let lines = function.last - function.first + 1;
        if lines > FUNCTION_LINES_MAX {
            let name = function.name;
            let text = format!("`{name}` has {lines} lines, at most {FUNCTION_LINES_MAX}");
            found.push(Complaint::at(path, function.first, text));
        }
    }
}

/// Every unsafe block and impl has its argument; every island has its boundary text.
pub fn safety(path: &str, text: &str, code: &str, found: &mut Vec<Complaint>) {
    // The kernel side is another world: no std, and the verifier looks after memory.
    if path.starts_with("ebpf/src/") {
        return;
    }
    let lines: Vec<&str> = text.lines().collect();
    let mut first = None;
    for (at, line) in code.lines().enumerate() {
        if !line.contains("unsafe {") && !line.contains("unsafe impl") {
            continue;
        }
        first = first.or(Some(at + 1));
        let above = lines.get(at.saturating_sub(SAFETY_LINES_ABOVE)..=at).unwrap_or_default();
        if !above.iter().any(|l| l.contains("SAFETY:")) {
            found.push(Complaint::at(path, at + 1, "unsafe without a `// SAFETY:` comment"));
        }
    }
    if let Some(line) = first
        && text.contains("#![allow(unsafe_code")
        && !text.to_lowercase().contains("boundary")
        && !path.contains("/tests/")
        && !ROOMS_WITH_BOUNDARY.iter().any(|room| path.starts_with(room))
    {
        let text = "an island of unsafe code says in its head what its boundary is";
        found.push(Complaint::at(path, line, text));
    }
}

/// Rooms whose `mod.rs` draws the boundary for all their files.
const ROOMS_WITH_BOUNDARY: &[&str] = &["dataplane/src/sys/", "dataplane/src/xsk/"];

/// Paths in backquotes that begin with a folder of ours must exist.
pub fn named_paths(
    path: &str,
    text: &str,
    exists: &dyn Fn(&str) -> bool,
    found: &mut Vec<Complaint>,
) {
    const TOP: &[&str] =
        &["dataplane", "ebpf", "control", "benches", "testbed", "xtask", ".ci", ".cargo"];
    for (at, line) in text.lines().enumerate() {
        let quoted = line.split('`').skip(1).step_by(2);
        for word in quoted.filter(|w| w.contains('/') && !w.contains([' ', '<', '*', '{'])) {
            let named = word.trim_end_matches('/');
            let (top, rest) = named.split_once('/').unwrap_or((named, ""));
            if !TOP.contains(&top) {
                continue;
            }
            // `dataplane/xsk` is short for the room's file or folder.
            let room = format!("{top}/src/{rest}");
            let spellings = [named.to_owned(), room.clone(), format!("{room}.rs")];
            if !spellings.iter().any(|p| exists(p)) {
                found.push(Complaint::at(path, at + 1, format!("`{word}` does not exist")));
            }
        }
    }
}
