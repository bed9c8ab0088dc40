//! Showing and flushing connections: a walk over all places, asked for by an operator.
//!
//! It looks at memory that packets do not need, and takes as long as there are connections, so it
//! is done in slices: each looks at a bounded number of places and says where the next one goes
//! on. The worker does one between two batches. A connection that stays is met exactly once; one
//! that comes or goes meanwhile may be met or not.

use super::Conntrack;
use super::backends::BackendFilter;
use super::conn::{Cold, ConnInfo, Hot, flag};
use super::expire::{is_due, ticks};
use super::filter::ConnFilter;
use crate::clock::Now;

/// Places that one slice looks at: some 15 microseconds.
pub(super) const LOOKS: u32 = 1024;
/// Connections that one slice removes: some 50 microseconds when their lines are in memory.
const REMOVALS: usize = 256;

impl Conntrack {
    /// Shows every live connection.
    pub fn dump(&self, now: Now, mut visit: impl FnMut(&ConnInfo)) {
        for ix in 0..self.table.places() {
            if let Some(info) = self.info(ix, ticks(now)) {
                visit(&info);
            }
        }
    }

    /// A slice of the connections that `filter` means, from place `from` on, as far as the list's
    /// capacity goes. Says where to go on; `None`: that was all.
    pub fn list(
        &self,
        now: Now,
        filter: &ConnFilter,
        from: u32,
        list: &mut Vec<ConnInfo>,
    ) -> Option<u32> {
        let (tick, end) = (ticks(now), from.saturating_add(LOOKS).min(self.table.places()));
        for ix in from..end {
            if list.len() == list.capacity() {
                return Some(ix);
            }
            list.extend(self.info(ix, tick).filter(|info| filter.matches(info)));
        }
        (end < self.table.places()).then_some(end)
    }

    fn info(&self, ix: u32, tick: u64) -> Option<ConnInfo> {
        let hot: &Hot = self.table.hot(ix);
        if !hot.has(flag::LIVE) || is_due(hot.deadline, tick) {
            return None;
        }
        let cold: &Cold = self.table.cold(ix);
        let left_s = self.timeouts.shown_s(hot.term(), hot.deadline, tick);
        Some(ConnInfo::of(hot, cold, self.table.wide(ix), left_s))
    }

    /// Removes the connections that `filter` means. Says how many.
    pub fn flush(&mut self, now: Now, filter: impl Fn(&ConnInfo) -> bool) -> usize {
        let (gone, _) = self.flush_places(now, filter, 0..self.table.places(), usize::MAX);
        self.stats.flushed += gone as u64;
        gone
    }

    /// A slice of a flush, from place `from` on. Says how many went, and where to go on.
    pub fn flush_some(&mut self, now: Now, filter: &ConnFilter, from: u32) -> (usize, Option<u32>) {
        let end = from.saturating_add(LOOKS).min(self.table.places());
        let slice = self.flush_places(now, |c| filter.matches(c), from..end, REMOVALS);
        self.stats.flushed += slice.0 as u64;
        slice
    }

    /// As [`Conntrack::flush_some`], of connections whose backend nothing names any more.
    pub fn flush_backends(
        &mut self,
        now: Now,
        filter: &BackendFilter,
        from: u32,
    ) -> (usize, Option<u32>) {
        if self.is_empty() {
            return (0, None);
        }
        let end = from.saturating_add(filter.looks()).min(self.table.places());
        let slice = self.flush_places(now, |c| filter.matches(c), from..end, REMOVALS);
        self.stats.backend_gone += slice.0 as u64;
        slice
    }

    fn flush_places(
        &mut self,
        now: Now,
        filter: impl Fn(&ConnInfo) -> bool,
        places: std::ops::Range<u32>,
        most: usize,
    ) -> (usize, Option<u32>) {
        let (tick, mut gone, end) = (ticks(now), 0, places.end);
        let mut next = (end < self.table.places()).then_some(end);
        for ix in places {
            if gone == most {
                next = Some(ix);
                break;
            }
            if self.info(ix, tick).is_some_and(|info| filter(&info)) {
                self.remove(ix);
                gone += 1;
            }
        }
        (gone, next)
    }
}
