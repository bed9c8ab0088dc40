//! The course of either soak: how far it has come, and how much memory what it looks after has
//! taken meanwhile.

use super::{Options, Trouble};
use std::fmt::Write;
use std::time::Duration;

/// What the process may have more than when everything had gone in the first quarter, apart from
/// what its caches have come to hold: lists that
/// had not been as long before, room that is made by use, for each worker, and what the allocator
/// keeps.
const GROWTH_MAX: u64 = 16 << 20;

#[derive(Clone, Debug, Default)]
pub struct Course {
    pub seed: u64,
    pub workers: u8,
    pub took: Duration,
    pub checkpoints: u64,
    /// Times that everything went, by time and by flush.
    pub emptied: [u64; 2],
    pub flushes: u64,
    /// Programs that took another's place.
    pub changes: u64,
    /// Resident memory with no connection, in bytes: in the first quarter, and at the most.
    pub rss: [u64; 2],
    /// What caches may have had of it in the first quarter.
    cached: u64,
}

impl Course {
    pub(super) fn new(options: &Options) -> Self {
        let (seed, workers) = (options.seed.unwrap_or(1), options.workers);
        Self { seed, workers, ..Self::default() }
    }

    /// Everything goes by time and by flush in turn.
    pub(super) fn is_times_turn(&self) -> bool {
        self.emptied[0] <= self.emptied[1]
    }

    /// Everything has gone: the process of this number may have no more memory than it had in the
    /// first quarter, but for what caches may have: `cached` bytes by now.
    pub(super) fn has_emptied(
        &mut self,
        pid: &str,
        is_early: bool,
        cached: u64,
    ) -> Result<(), Trouble> {
        self.emptied[usize::from(!self.is_times_turn())] += 1;
        self.see_memory(resident(pid), is_early, cached)
    }

    fn see_memory(&mut self, rss: u64, is_early: bool, cached: u64) -> Result<(), Trouble> {
        let [first, most] = &mut self.rss;
        if *first == 0 || is_early {
            *first = rss;
            self.cached = cached;
        }
        *most = (*most).max(rss);
        let may = *first + GROWTH_MAX + cached.saturating_sub(self.cached);
        if rss == 0 || rss > may {
            let what = format!(
                "resident memory was {first} bytes, and is {rss}, which is more than {may}"
            );
            return Err(Trouble::Broken(vec![what]));
        }
        Ok(())
    }

    pub(super) fn long(&self) -> String {
        format!("{:.0?}, {} workers, seed {}", self.took, self.workers, self.seed)
    }

    pub(super) fn operator(&self) -> String {
        let [by_time, by_flush] = self.emptied;
        format!(
            "{} flushes, {} programs; emptied {by_time} times by time, {by_flush} by flush",
            self.flushes, self.changes
        )
    }

    pub(super) fn memory(&self) -> String {
        format!("{} KiB, at most {} KiB", self.rss[0] >> 10, self.rss[1] >> 10)
    }

    pub(super) fn conserved(&self, self_checks: u64) -> String {
        format!("yes: {} checkpoints, {self_checks} self-checks, 0 findings", self.checkpoints)
    }
}

/// A line for each, for a person to read.
pub(super) fn table(rows: impl IntoIterator<Item = (&'static str, String)>) -> String {
    let mut t = String::new();
    for (name, what) in rows {
        let _ = writeln!(t, "{name:<12}{what}");
    }
    t
}

/// Resident memory of a process, in bytes.
fn resident(pid: &str) -> u64 {
    let text = std::fs::read_to_string(format!("/proc/{pid}/statm")).unwrap_or_default();
    let pages = text.split(' ').nth(1).and_then(|n| n.parse::<u64>().ok());
    pages.unwrap_or(0) * rustix::param::page_size() as u64
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn memory_may_be_taken_early_and_not_much_later() {
        let mut c = Course::default();
        let mut see = |rss, is_early| c.see_memory(rss, is_early, 0).is_ok();
        assert!(see(10 << 20, true));
        assert!(see(100 << 20, true), "in the first quarter");
        assert!(see(116 << 20, false));
        assert!(!see((116 << 20) + 1, false));
        assert!(!see(0, false), "there is no such process");
        assert!(resident("self") > 1 << 20);
    }

    #[test]
    fn caches_may_have_what_they_came_to_hold_since() {
        let mut c = Course::default();
        let mut see = |rss, is_early, cached| c.see_memory(rss, is_early, cached).is_ok();
        assert!(see(10 << 20, true, 1000));
        assert!(see((26 << 20) + 500, false, 1500));
        assert!(!see((26 << 20) + 501, false, 1500));
    }
}
