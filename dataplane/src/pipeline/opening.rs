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
//! none, this one is opened, and the packet leaves ([`Lane::serve_firsts`]). Whatever is not as
//! usual changes nothing, and goes the way of all packets.
//!
//! **Refused.** A walk that translates, or goes on in another table, is another one where its
//! commit is refused. Then nothing is counted yet, and the packet is looked up among those that
//! were refused (`Lane::serve_refused`): their walk counts it. If there is none, the packet walks.

use super::asked::{Refusal, plain_of};
use super::commits::Commits;
use super::delta::Recent;
use super::execute::Sent;
use super::guards::{Ground, is_built_on, refusal};
use super::hit::{Hit, leave, owe};
use super::lane::{Egress, Lane, Slot};
use super::upkeep::credit;
use crate::cache::megaflow::Answer;
use crate::cache::traversal::{Asks, Track, Traversal, Traversals};
use crate::clock::Now;
use crate::conntrack::ct_state::{NEW, TRK};
use crate::conntrack::{Commit, CtPacket, Guess, Narrow, Plain, Segment};
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

/// What opened the last connection: packets one after the other are held against it.
struct Opener<'a> {
    answer: Answer<'a>,
    t: &'a Traversal,
    what: &'a Commit,
    /// The commit's number.
    number: u16,
    zone: u16,
    builds_on: bool,
}

impl<'a> Opener<'a> {
    /// `None` if it is for no such packets any more.
    #[inline(always)]
    fn new(
        answer: Answer<'a>,
        traversals: &'a Traversals,
        commits: &'a Commits,
        recent: &Recent,
    ) -> Option<Self> {
        let t = traversals.get(answer.entry.traversal)?;
        let Asks::Opening(look, commit) = t.asks() else { return None };
        let (what, number) = (commits.get(commit.commit)?, commit.commit);
        let is_current = answer.entry.epoch == recent.epoch();
        let (zone, builds_on) = (look.zone, is_built_on(commit));
        let opens = is_current && are_for(STRANGER, (look, commit), what);
        opens.then_some(Self { answer, t, what, number, zone, builds_on })
    }

    /// The packet as conntrack sees it, and its hash, if this is for such packets and nothing is
    /// known of a connection.
    #[inline(always)]
    fn is_for<'s>(&self, slot: &'s Slot) -> Option<(Plain<'s>, u64)> {
        let hash = slot.ct.hash_in(self.zone).filter(|_| slot.ct.guess.is_none())?;
        let len = slot.frame.as_ref().map_or(0, Frame::len);
        if !self.answer.is_for(&slot.key) || !self.t.head.fits(len) {
            return None;
        }
        plain_of(slot).map(|packet| (packet, hash))
    }
}

/// The state of a packet that has no connection.
const STRANGER: u8 = TRK | NEW;

/// What ends a run of first packets.
enum End {
    /// A packet that is none, or is to be judged the long way: nothing has changed for it.
    Other,
    /// One was refused in this zone that the walk is built on.
    Refused(u16, Refusal),
    /// The last one has been opened, and so many of its walk's steps are done: not all. If it is
    /// translated, where its connection is.
    Rest { traversal: u32, done: usize, turned: Option<Guess> },
}

impl Lane {
    /// Serves packets of the batch from number `first` on as the last first packet was served, as
    /// long as they are such, up to `end`. How many; nothing has changed for the next one.
    #[inline(never)]
    pub(super) fn serve_firsts<E: Egress, const TIER2: bool>(
        &mut self,
        (first, end): (usize, usize),
        now: Now,
        sent: &mut Sent,
        pool: &mut FramePool,
        egress: &mut E,
    ) -> usize {
        let at = self.asked.opener;
        let Some(answer) = self.mega.answer_at(at, STRANGER) else { return 0 };
        let opener = Opener::new(answer, &self.traversals, &self.commits, &self.recent);
        let Some(mut opener) = opener else { return 0 };
        let Opener { t, what, number, zone, builds_on, .. } = opener;
        let traversal = opener.answer.entry.traversal;
        let (mut served, mut bytes, mut last, mut why) = (0, 0, None, End::Other);
        self.conntrack.count_refusals(!builds_on);
        for slot in self.batch.iter_mut().take(end).skip(first) {
            let Some((packet, hash)) = opener.is_for(slot) else { break };
            let (guess, narrow) = match self.conntrack.open_plain(&packet, (zone, hash), what, now)
            {
                Ok(Some(opened)) => opened,
                Ok(None) => break,
                Err(reason) if builds_on => {
                    why = End::Refused(zone, Refusal { commit: number, reason });
                    break;
                }
                Err(e) => {
                    self.counters.add(refusal(e), 1);
                    (Guess::NONE, None)
                }
            };
            let len = slot.frame.as_ref().map_or(0, Frame::len);
            (served, bytes, last) = (served + 1, bytes + len as u32, narrow);
            if let Some(done) = leave(t, slot, narrow, &self.counters, sent, pool, egress) {
                why = End::Rest { traversal, done, turned: narrow.map(|_| guess) };
                break;
            }
        }
        self.conntrack.count_refusals(true);
        if served > 0 {
            let due = owe(&mut opener.answer, t, (served, bytes), (&mut self.mega_owing, at), now);
            if let Some(due) = due {
                credit(&self.traversals, &self.program, traversal, due, now);
            }
            (self.asked.last_commit, self.asked.narrow) = (number, last);
            self.first.crowds.opened(served);
            if TIER2 {
                self.first.served_at_once(served);
            } else {
                (0..served).for_each(|_| self.adapt.tier2_lookup(1, true));
            }
        }
        let next = first + served as usize;
        next - first + usize::from(self.end_firsts(why, next, now, sent, pool, egress))
    }

    /// Does what is left to do for the packet that ended a run before number `next`. Whether packet
    /// `next` was served as well.
    #[inline(always)]
    fn end_firsts<E: Egress>(
        &mut self,
        why: End,
        next: usize,
        now: Now,
        sent: &mut Sent,
        pool: &mut FramePool,
        egress: &mut E,
    ) -> bool {
        match why {
            End::Other => false,
            End::Refused(zone, refusal) => {
                (self.asked.zone, self.asked.refused) = (Some(zone), Some(refusal));
                self.serve_refused(next, now, sent, pool, egress) != Hit::None
            }
            End::Rest { traversal, done, turned } => {
                if let Some(guess) = turned {
                    self.asked.first.passed(guess, STRANGER);
                }
                self.serve_rest(next - 1, traversal, done, now, sent, pool, egress);
                false
            }
        }
    }
}
