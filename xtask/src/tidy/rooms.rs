//! The order of rooms: which room of the dataplane may use which, and which crate which.
//!
//! A packet's road and a device's road are two chains that meet in the worker; `packet` (its
//! frames) is what they share. Tests may look anywhere.

use super::{Complaint, lexer};

/// Rooms in the order of the road, each with those it uses itself; it may then also use all that
/// these may use.
const ROOMS: &[(&str, &[&str])] = &[
    ("limits", &[]),
    ("clock", &["limits"]),
    ("counters", &["clock"]),
    ("sys", &["limits"]),
    ("prefetch", &[]),
    ("wire", &["counters", "prefetch"]),
    ("packet", &["wire"]),
    ("fdb", &["packet"]),
    ("classify", &["packet"]),
    ("conntrack", &["sys", "packet"]),
    ("tunnel", &["packet"]),
    ("action", &["classify", "conntrack", "tunnel", "fdb"]),
    ("cache", &["action"]),
    ("xsk", &["sys", "packet"]),
    // The pipeline takes bursts and gives frames back to the pool; it knows no socket.
    ("pipeline", &["cache", "xsk"]),
    ("port", &["xsk"]),
    ("worker", &["pipeline", "port"]),
];

const DATAPLANE: &str = "dataplane/src/";

/// Whether `room` may use `used`, directly or through what it may use.
fn may_use(room: &str, used: &str) -> bool {
    let direct = ROOMS.iter().find(|(name, _)| *name == room).map_or(&[][..], |(_, uses)| uses);
    direct.iter().any(|next| *next == used || may_use(next, used))
}

/// Complaints about `crate::room` in a room that may not use it.
pub fn imports(path: &str, code: &str, found: &mut Vec<Complaint>) {
    crates(path, code, found);
    let Some(inside) = path.strip_prefix(DATAPLANE) else { return };
    let is_test = path.ends_with("/tests.rs") || path.contains("/tests/");
    let room = inside.split(['/', '.']).next().unwrap_or_default();
    if room == "lib" || is_test {
        return;
    }
    let is_room = |name: &str| ROOMS.iter().any(|(room, _)| *room == name);
    if !is_room(room) {
        let text = format!("room `{room}` has no place in the order: xtask/src/tidy/rooms.rs");
        found.push(Complaint::at(path, 0, text));
        return;
    }
    for (at, line) in lexer::without_tests(code).lines().enumerate() {
        for used in used_rooms(line) {
            if used != room && is_room(used) && !may_use(room, used) {
                let text = format!("`{room}` may not use `{used}`: the order of rooms");
                found.push(Complaint::at(path, at + 1, text));
            }
        }
    }
}

/// The words after `crate::`, also those in a group: `crate::{a, b}`.
fn used_rooms(line: &str) -> Vec<&str> {
    let mut rooms = Vec::new();
    for rest in line.split("crate::").skip(1) {
        match rest.strip_prefix('{') {
            Some(group) => {
                let group = group.split('}').next().unwrap_or_default();
                rooms.extend(group.split(',').map(|part| first_word(part.trim())));
            }
            None => rooms.push(first_word(rest)),
        }
    }
    rooms
}

fn first_word(text: &str) -> &str {
    let end = text.find(|c: char| !c.is_alphanumeric() && c != '_').unwrap_or(text.len());
    text.get(..end).unwrap_or_default()
}

/// Which crate may not name which.
const CRATES: &[(&str, &[&str])] = &[
    ("dataplane/", &["sluice_control", "sluice_testbed"]),
    ("control/", &["sluice_testbed"]),
    ("ebpf/", &["sluice_dataplane", "sluice_control", "sluice_testbed"]),
];

fn forbidden(path: &str) -> impl Iterator<Item = (&'static str, &'static str)> {
    let at = CRATES.iter().filter(move |(folder, _)| path.starts_with(folder));
    at.flat_map(|(folder, names)| names.iter().map(move |name| (*folder, *name)))
}

fn crates(path: &str, code: &str, found: &mut Vec<Complaint>) {
    for (folder, name) in forbidden(path) {
        let lines = code.lines().enumerate().filter(|(_, line)| line.contains(name));
        let tell = |at| Complaint::at(path, at + 1, format!("{folder} may not use {name}"));
        found.extend(lines.map(|(at, _)| tell(at)));
    }
}

/// The same for dependencies.
pub fn manifest(path: &str, text: &str, found: &mut Vec<Complaint>) {
    for (folder, name) in forbidden(path) {
        for (at, line) in text.lines().enumerate() {
            let key = line.split(['.', ' ', '=']).next().unwrap_or_default().replace('-', "_");
            if key == name {
                let text = format!("{folder} may not depend on {name}");
                found.push(Complaint::at(path, at + 1, text));
            }
        }
    }
}
