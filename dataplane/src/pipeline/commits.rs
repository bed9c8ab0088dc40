//! What cached walks commit: `ct(commit,...)` with its values filled in, by number.
//!
//! Few different ones are met: they come from rules. One whose `exec` copies fields of packets may
//! make one for each; what finds no room is not cached, and such packets walk.

use crate::conntrack::Commit;
use crate::limits::COMMITS_MAX;
use std::collections::HashMap;

/// The commits of one program's walks.
#[derive(Debug)]
pub struct Commits {
    list: Vec<Commit>,
    known: HashMap<Commit, u16>,
}

impl Commits {
    pub fn new() -> Self {
        Self { list: Vec::with_capacity(COMMITS_MAX), known: HashMap::with_capacity(COMMITS_MAX) }
    }

    /// The number of a commit; `None` if there is no room for one more.
    pub fn number(&mut self, commit: &Commit) -> Option<u16> {
        if let Some(number) = self.known.get(commit) {
            return Some(*number);
        }
        if self.list.len() >= COMMITS_MAX {
            return None;
        }
        let number = self.list.len() as u16;
        self.known.insert(*commit, number);
        self.list.push(*commit);
        Some(number)
    }

    #[inline]
    pub fn get(&self, number: u16) -> Option<&Commit> {
        self.list.get(usize::from(number))
    }

    pub fn clear(&mut self) {
        self.known.clear();
        self.list.clear();
    }
}

impl Default for Commits {
    fn default() -> Self {
        Self::new()
    }
}

const _: () = assert!(COMMITS_MAX < u16::MAX as usize);
