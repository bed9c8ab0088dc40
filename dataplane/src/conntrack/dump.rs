//! Showing and flushing connections: a walk over all places, asked for by an operator.
//!
//! Both look at memory that packets do not need, and take as long as there are connections: the
//! worker does them between batches, never for a packet.

use super::Conntrack;
use super::conn::{Cold, ConnInfo, Hot, flag};
use super::expire::{is_due, ticks};
use crate::clock::Now;

impl Conntrack {
    /// Shows every live connection.
    pub fn dump(&self, now: Now, mut visit: impl FnMut(&ConnInfo)) {
        for ix in 0..self.table.places() {
            if let Some(info) = self.info(ix, ticks(now)) {
                visit(&info);
            }
        }
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

    /// Removes the connections that `filter` names. Says how many.
    pub fn flush(&mut self, now: Now, mut filter: impl FnMut(&ConnInfo) -> bool) -> usize {
        let mut gone = 0;
        for ix in 0..self.table.places() {
            if self.info(ix, ticks(now)).is_some_and(|info| filter(&info)) {
                self.remove(ix);
                gone += 1;
            }
        }
        self.stats.flushed += gone as u64;
        gone
    }
}
