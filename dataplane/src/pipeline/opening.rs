//! A connection's first packet on a cached walk, where that is of the common kind: one `ct` that
//! finds nothing, one that commits, TCP or UDP over IPv4.
//!
//! The general way (`guards`) asks each question in turn, keeps the answers, and then settles them.
//! Here the second question is known to be answered like the first, and what is to be settled is
//! the commit alone. A flood of new connections goes this way, so it is worth its lines.
//!
//! **In one go.** First packets come in crowds, and those that come by one port mostly go one way.
//! So the answer of tier 2 that opened the last connection is held against the next packet before
//! any question is looked up: if it is for a packet that is told of no connection, and there is
//! none, this one is opened, and the packet leaves ([`Lane::serve_first`]). Whatever is not as
//! usual changes nothing, and goes the way of all packets.
//!
//! **Refused.** A walk that translates, or goes on in another table, is another one where its
//! commit is refused. Then nothing is counted yet, and the packet is looked up among those that
//! were refused (`Lane::serve_refused`): their walk counts it. If there is none, the packet walks.

use super::asked::{Refusal, plain_of};
use super::execute::Sent;
use super::guards::{Ground, is_built_on, refusal};
use super::hit::{Hit, count, leave};
use super::lane::{Egress, Lane, Slot};
use super::upkeep::credit;
use crate::cache::entry::Tick;
use crate::cache::traversal::{Asks, Track};
use crate::clock::Now;
use crate::conntrack::ct_state::{NEW, TRK};
use crate::conntrack::{Commit, CtPacket, Narrow, Segment};
use crate::packet::frame::Frame;
use crate::xsk::pool::FramePool;

/// What the guards came to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Opening {
    /// They hold, and the connection is there, or was refused where the walk goes on all the same.
    Done,
    /// They hold, and the connection was there.
    Met,
    /// They do not hold.
    Fails,
    /// They hold, and the connection was refused that the walk is built on.
    Refused,
    /// The packet is of another kind: `guards` knows.
    Unusual,
}

/// Whether a packet that the first of two guards has found in this state, which is that of no
/// connection, is what they are for.
#[inline(always)]
fn are_for(state: u8, (look, commit): (&Track, &Track), what: &Commit) -> bool {
    let own = match what.nat.as_ref().filter(|n| commit.nat && n.is_for(false)) {
        Some(spec) => spec.kind.state_bit(),
        None => 0,
    };
    state == look.state && state | own == commit.state && (own != 0) == commit.turns
}

/// The packet and its segment as conntrack sees them, where it is narrow; it is valid and its
/// checksums are right.
#[inline(always)]
fn narrow_of(slot: &Slot) -> Option<(Narrow, Segment)> {
    let narrow = Narrow::of(&slot.key.base).filter(|_| slot.layers.flags == 0)?;
    if narrow.is_udp() {
        return Some((narrow, Segment::default()));
    }
    let (l4, end) = (usize::from(slot.layers.l4), usize::from(slot.layers.end));
    let segment = slot.frame.as_ref()?.bytes().get(l4..end)?;
    Some((narrow, CtPacket::narrow_segment(&narrow, segment)?))
}

impl Ground<'_> {
    /// Whether both guards hold; then the connection is opened. `given`: the question has been
    /// asked.
    #[inline(never)]
    pub(super) fn open(
        &mut self,
        (look, commit): (&Track, &Track),
        slot: &Slot,
        given: bool,
    ) -> Opening {
        if !given && self.asked.first(self.conntrack, slot, look.zone, self.now).is_none() {
            return Opening::Fails;
        }
        let Some(what) = self.commits.get(commit.commit) else { return Opening::Unusual };
        if self.asked.zone() != Some(look.zone) {
            return Opening::Fails;
        }
        if !self.asked.is_strange() {
            return self.meet((look, commit), what);
        }
        if !are_for(self.asked.state(), (look, commit), what) {
            return Opening::Fails;
        }
        let Some((narrow, segment)) = narrow_of(slot) else { return Opening::Unusual };
        self.asked.last_commit = commit.commit;
        let builds_on = is_built_on(commit);
        self.conntrack.count_refusals(!builds_on);
        let packet = (&narrow, &segment, look.zone);
        let opened = self.asked.open(self.conntrack, packet, what, self.now);
        self.conntrack.count_refusals(true);
        match opened {
            Ok(()) => Opening::Done,
            // Who knows what becomes of the packet counts it.
            Err(reason) if builds_on => {
                self.asked.refused = Some(Refusal { commit: commit.commit, reason });
                Opening::Refused
            }
            Err(e) => {
                self.counters.add(refusal(e), 1);
                Opening::Done
            }
        }
    }

    /// The same for a packet of a connection that nobody has answered yet, as all are where traffic
    /// goes one way: committed once more, it stays what it is. Not of one that is translated: what
    /// its state says of that, and what becomes of the packet, hangs on which `ct` asks for it.
    #[inline(always)]
    fn meet(&mut self, (look, commit): (&Track, &Track), what: &Commit) -> Opening {
        let first = &self.asked.first;
        let is_usual = first.is_steady && what.is_plain() && !commit.nat;
        let conntrack = &self.conntrack;
        if !is_usual || conntrack.conn_of(first).is_none() || conntrack.nat_bits_of(first) != 0 {
            return Opening::Unusual;
        }
        if first.state != look.state || first.state != commit.state || commit.turns {
            return Opening::Fails;
        }
        self.conntrack.accept(first, self.now);
        self.asked.narrow = None;
        Opening::Met
    }
}

impl Lane {
    /// Serves packet `i` as the last first packet was served, if it is one, too. False: nothing has
    /// changed.
    #[inline(never)]
    pub(super) fn serve_first<E: Egress, const TIER2: bool>(
        &mut self,
        i: usize,
        now: Now,
        sent: &mut Sent,
        pool: &mut FramePool,
        egress: &mut E,
    ) -> bool {
        const STRANGER: u8 = TRK | NEW;
        let Some(slot) = self.batch.get_mut(i) else { return false };
        let Some((zone, hash)) = slot.ct.hash.filter(|_| slot.ct.guess.is_none()) else {
            return false;
        };
        let at = self.asked.opener;
        let Some(entry) = self.mega.answer_at(at, &slot.key, STRANGER) else { return false };
        let Some(t) = self.traversals.get(entry.traversal) else { return false };
        let Asks::Opening(look, commit) = t.asks() else { return false };
        let Some(what) = self.commits.get(commit.commit) else { return false };
        let Some(packet) = plain_of(slot) else { return false };
        let len = slot.frame.as_ref().map_or(0, Frame::len);
        let is_usual = t.head.fits(len)
            && entry.epoch == self.recent.epoch()
            && look.zone == zone
            && are_for(STRANGER, (look, commit), what);
        if !is_usual {
            return false;
        }
        let (builds_on, number) = (is_built_on(commit), commit.commit);
        self.conntrack.count_refusals(!builds_on);
        let opened = self.conntrack.open_plain(&packet, (zone, hash), what, now);
        self.conntrack.count_refusals(true);
        let narrow = match opened {
            Ok(None) => return false,
            Ok(Some((guess, narrow))) => {
                if narrow.is_some() {
                    self.asked.first.passed(guess, STRANGER);
                }
                narrow
            }
            Err(reason) if builds_on => {
                self.asked.zone = Some(zone);
                self.asked.refused = Some(Refusal { commit: number, reason });
                return self.serve_refused(i, now, sent, pool, egress) != Hit::None;
            }
            Err(e) => {
                self.counters.add(refusal(e), 1);
                None
            }
        };
        self.asked.last_commit = number;
        self.asked.narrow = narrow;
        if TIER2 {
            self.first.looked_up(1, true);
        } else {
            self.adapt.tier2_lookup(1, true);
        }
        let traversal = entry.traversal;
        let due = count(entry, t, len as u32, &mut self.mega_owing, at);
        entry.used = Tick::of(now);
        if let Some(due) = due {
            credit(&self.traversals, &self.program, traversal, due, now);
        }
        if let Some(done) = leave(t, slot, narrow, &self.counters, sent, pool, egress) {
            self.serve_rest(i, traversal, done, now, sent, pool, egress);
        }
        true
    }
}
