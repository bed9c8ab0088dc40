//! Packets of established connections in a row, where tier 2 is asked first.
//!
//! The general way looks up the question, asks connection tracking, looks up the answer, and holds
//! its guards. But packets that come by one port one after the other mostly get one answer. So the
//! answer that served last after a question is held against the next packets: what its guards want
//! to come out is what `Asked::pass` knows to look for in one go, as it does for tier 1. An answer
//! is right for each packet that it matches and whose guards hold, however it was found.
//!
//! Whatever is not as usual changes nothing, and goes the general way.

use super::execute::Sent;
use super::hit::{leave, owe};
use super::lane::{Egress, Lane};
use super::upkeep::credit;
use crate::cache::traversal::Asks;
use crate::clock::Now;
use crate::packet::frame::Frame;
use crate::xsk::pool::FramePool;

impl Lane {
    /// Serves packets of the batch from number `first` on as the last one that came to the question
    /// of the first was served, as long as they are of established connections, up to `end`. How
    /// many; nothing has changed for the next one.
    #[inline(never)]
    pub(super) fn serve_settled<E: Egress>(
        &mut self,
        (first, end): (usize, usize),
        now: Now,
        sent: &mut Sent,
        pool: &mut FramePool,
        egress: &mut E,
    ) -> usize {
        let Some(question) = self.batch.get(first).map(|slot| slot.hit) else { return 0 };
        let at = *self.asked.last_answer(question);
        let Some(mut answer) = self.mega.answer(at) else { return 0 };
        let traversal = answer.entry.traversal;
        let Some(t) = self.traversals.get(traversal) else { return 0 };
        let Asks::One(track) = t.asks() else { return 0 };
        if answer.entry.epoch != self.recent.epoch() {
            return 0;
        }
        let (mut served, mut bytes, mut rest) = (0, 0, None);
        for slot in self.batch.iter_mut().take(end).skip(first) {
            let len = slot.frame.as_ref().map_or(0, Frame::len);
            if !answer.is_for(&slot.key) || !t.head.fits(len) {
                break;
            }
            if self.asked.pass(&mut self.conntrack, slot, track, now).is_none() {
                break;
            }
            (served, bytes) = (served + 1, bytes + len as u32);
            let narrow = self.asked.narrow;
            rest = leave(t, slot, narrow, &self.counters, sent, pool, egress);
            if rest.is_some() {
                break;
            }
        }
        if served > 0 {
            let due = owe(&mut answer, t, (served, bytes), (&mut self.mega_owing, at), now);
            if let Some(due) = due {
                credit(&self.traversals, &self.program, traversal, due, now);
            }
            self.first.served_at_once(served);
        }
        let next = first + served as usize;
        if let Some(done) = rest {
            self.serve_rest(next - 1, traversal, done, now, sent, pool, egress);
        }
        next - first
    }
}
