//! A connection's first packet on a cached walk, where that is of the common kind: one `ct` that
//! finds nothing, one that commits, TCP or UDP over IPv4.
//!
//! The general way (`guards`) asks each question in turn, keeps the answers, and then settles them.
//! Here the second question is known to be answered like the first, and what is to be settled is
//! the commit alone. A flood of new connections goes this way, so it is worth its lines.

use super::guards::{Ground, is_built_on, refusal};
use super::lane::Slot;
use crate::cache::traversal::Track;
use crate::conntrack::{CtPacket, Narrow, Segment};

/// What the guards came to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Opening {
    /// They hold, and the connection is there, or was refused where the walk goes on all the same.
    Done,
    /// They do not hold.
    Fails,
    /// The packet is of another kind: `guards` knows.
    Unusual,
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
        if !self.asked.is_strange() {
            return Opening::Unusual;
        }
        let state = self.asked.state();
        let own = match what.nat.as_ref().filter(|n| commit.nat && n.is_for(false)) {
            Some(spec) => spec.kind.state_bit(),
            None => 0,
        };
        let holds = self.asked.zone() == Some(look.zone)
            && state == look.state
            && state | own == commit.state
            && (own != 0) == commit.turns;
        if !holds {
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
            // The walk, which comes next, counts it.
            Err(_) if builds_on => Opening::Fails,
            Err(e) => {
                self.counters.add(refusal(e), 1);
                Opening::Done
            }
        }
    }
}
