//! Folders in the system's place for temporary files that go with their owner.

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};

use crate::cleanup::{self, Ticket};
use crate::{Error, Result};

/// Folders begin with this and the pid of the process that made them.
const PREFIX: &str = "slu-";
/// The system's place for what lives no longer than it does; root's alone.
const RUN: &str = "/run";

/// A folder, removed on drop unless it is kept.
#[derive(Debug)]
pub struct Scratch {
    path: PathBuf,
    ticket: Option<Ticket>,
}

impl Scratch {
    pub fn new(label: &str) -> Result<Self> {
        Self::below(&std::env::temp_dir(), label)
    }

    /// Where only root writes: DPDK loads no plugin from below a folder that is open to all.
    pub fn private(label: &str) -> Result<Self> {
        Self::below(Path::new(RUN), label)
    }

    fn below(parent: &Path, label: &str) -> Result<Self> {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let n = NEXT.fetch_add(1, Ordering::Relaxed);
        let path = parent.join(format!("{PREFIX}{}-{n}-{label}", std::process::id()));
        std::fs::create_dir(&path).map_err(Error::io(format!("make {}", path.display())))?;
        let ticket = Some(Ticket::folder(&path));
        Ok(Self { path, ticket })
    }

    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Writes a file in it; the file's path.
    pub fn write(&self, name: &str, text: &str) -> Result<PathBuf> {
        let path = self.path.join(name);
        std::fs::write(&path, text).map_err(Error::io(format!("write {}", path.display())))?;
        Ok(path)
    }

    /// Leaves it when this value goes.
    pub fn keep(&mut self) {
        self.ticket = None;
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        if self.ticket.is_some() {
            // What cannot be removed here is in the system's place for such things.
            let _ = std::fs::remove_dir_all(&self.path);
        }
    }
}

/// Removes folders of processes that have ended; kept ones among them.
pub fn remove_stale() {
    let parents = [std::env::temp_dir(), RUN.into()];
    let entries = parents.iter().filter_map(|p| std::fs::read_dir(p).ok()).flatten().flatten();
    for entry in entries {
        let name = entry.file_name().to_string_lossy().into_owned();
        let owner = name.strip_prefix(PREFIX).and_then(|rest| rest.split('-').next()?.parse().ok());
        if owner.is_some_and(|pid| !cleanup::is_alive(pid)) {
            // Whoever may not remove it did not make it.
            let _ = std::fs::remove_dir_all(entry.path());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_goes_with_its_owner_unless_kept() {
        let scratch = Scratch::new("test").unwrap();
        let file = scratch.write("file", "text").unwrap();
        assert_eq!(std::fs::read_to_string(&file).unwrap(), "text");
        drop(scratch);
        assert!(!file.exists());

        let mut kept = Scratch::new("kept").unwrap();
        let path = kept.path().to_owned();
        kept.keep();
        drop(kept);
        remove_stale();
        assert!(path.exists(), "its maker lives");
        std::fs::remove_dir(path).unwrap();
    }
}
