//! Keeping the node's own sockets off the L4 ports that NAT uses.
//!
//! A shared port's NAT range belongs to us; the kernel must not choose one of these ports for an
//! outgoing connection of the node. `net.ipv4.ip_local_reserved_ports` says so (it holds for IPv6
//! too). It is a list of ports and ranges; ours are merged into it, and at the end what we added is
//! taken out again, whatever others did in between. After a crash they stay reserved: harmless, and
//! the next start needs them anyway.

use std::io;
use std::path::{Path, PathBuf};

/// In the network namespace of the thread that opens it.
const SYSCTL: &str = "/proc/sys/net/ipv4/ip_local_reserved_ports";

/// Ports as bits.
#[derive(Clone, PartialEq, Eq)]
struct PortSet(Vec<bool>);

impl PortSet {
    fn empty() -> Self {
        Self(vec![false; 1 << 16])
    }

    fn insert(&mut self, first: u16, last: u16) {
        let range = usize::from(first)..=usize::from(last);
        self.0.get_mut(range).into_iter().flatten().for_each(|bit| *bit = true);
    }

    /// The kernel's text: `8080,40000-49999`.
    fn parse(text: &str) -> Option<Self> {
        let mut set = Self::empty();
        for part in text.trim().split(',').filter(|part| !part.is_empty()) {
            let (first, last) = part.split_once('-').unwrap_or((part, part));
            let (first, last) = (first.trim().parse().ok()?, last.trim().parse().ok()?);
            if first > last {
                return None;
            }
            set.insert(first, last);
        }
        Some(set)
    }

    fn text(&self) -> String {
        let mut parts = Vec::new();
        let mut port = 0;
        while let Some(first) = (port..self.0.len()).find(|p| self.0[*p]) {
            let end = (first..self.0.len()).find(|p| !self.0[*p]).unwrap_or(self.0.len());
            let last = end - 1;
            parts.push(if first == last { first.to_string() } else { format!("{first}-{last}") });
            port = end;
        }
        parts.join(",")
    }

    fn zip(&self, other: &Self, f: impl Fn(bool, bool) -> bool) -> Self {
        Self(self.0.iter().zip(&other.0).map(|(a, b)| f(*a, *b)).collect())
    }
}

/// Ports reserved by us, given back by `release` or when dropped.
pub struct ReservedPorts {
    file: PathBuf,
    added: PortSet,
}

impl ReservedPorts {
    /// Reserves these ranges (first and last) in the namespace of the calling thread.
    pub fn reserve(ranges: &[(u16, u16)]) -> io::Result<Self> {
        Self::reserve_in(Path::new(SYSCTL), ranges)
    }

    fn reserve_in(file: &Path, ranges: &[(u16, u16)]) -> io::Result<Self> {
        let before = read(file)?;
        let mut wanted = PortSet::empty();
        ranges.iter().for_each(|(first, last)| wanted.insert(*first, *last));
        let added = wanted.zip(&before, |wanted, before| wanted && !before);
        if added != PortSet::empty() {
            write(file, &before.zip(&wanted, |a, b| a || b))?;
        }
        Ok(Self { file: file.to_owned(), added })
    }

    /// Takes out what `reserve` added. From a thread of the same namespace.
    pub fn release(&mut self) -> io::Result<()> {
        let added = std::mem::replace(&mut self.added, PortSet::empty());
        if added == PortSet::empty() {
            return Ok(());
        }
        let now = read(&self.file)?;
        write(&self.file, &now.zip(&added, |now, added| now && !added))
    }
}

impl Drop for ReservedPorts {
    fn drop(&mut self) {
        if let Err(error) = self.release() {
            tracing::warn!(%error, "cannot give back the reserved local ports");
        }
    }
}

impl std::fmt::Debug for ReservedPorts {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "ReservedPorts({})", self.added.text())
    }
}

fn read(file: &Path) -> io::Result<PortSet> {
    let text = std::fs::read_to_string(file).map_err(|e| named(file, &e))?;
    PortSet::parse(&text)
        .ok_or_else(|| io::Error::other(format!("{}: cannot read \"{text}\"", file.display())))
}

fn write(file: &Path, set: &PortSet) -> io::Result<()> {
    std::fs::write(file, format!("{}\n", set.text())).map_err(|e| named(file, &e))
}

fn named(file: &Path, error: &io::Error) -> io::Error {
    io::Error::new(error.kind(), format!("{}: {error}", file.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_kernels_text_there_and_back() {
        for text in ["", "8080", "0-65535", "1,3-4,65535", "8080,40000-49999"] {
            assert_eq!(PortSet::parse(&format!("{text}\n")).unwrap().text(), text);
        }
        assert_eq!(PortSet::parse("5,6,7,9-9").unwrap().text(), "5-7,9");
        for bad in ["x", "9-3", "65536", "1-", "-"] {
            assert!(PortSet::parse(bad).is_none(), "{bad}");
        }
    }

    #[test]
    fn what_was_added_is_taken_back_and_nothing_else() {
        let file = std::env::temp_dir().join(format!("sluice-ports-{}", std::process::id()));
        std::fs::write(&file, "80,40005-40010\n").unwrap();
        let text = || std::fs::read_to_string(&file).unwrap();
        let reserved = ReservedPorts::reserve_in(&file, &[(40000, 40009), (500, 500)]).unwrap();
        assert_eq!(text(), "80,500,40000-40010\n");
        std::fs::write(&file, "80,81,500,40000-40010\n").unwrap();
        drop(reserved);
        assert_eq!(text(), "80-81,40005-40010\n");
        std::fs::remove_file(&file).unwrap();
    }
}
