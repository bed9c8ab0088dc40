//! How a walk through connection tracking is recorded, so that it serves other connections too.
//!
//! Each `ct` becomes a guard that will be asked again (`guards`), each translation a step that
//! takes its values from the connection. That is right for every connection that comes to the same
//! as long as nothing else of the walk hangs on the connection. Where something does, the walk is
//! *pinned* to its connections, and no megaflow:
//! - lookups or actions that read addresses or ports after they were translated, or the tuple of
//!   the connection's first packet;
//! - actions that write those fields after they were translated: whether there is anything to write
//!   depends on what is there;
//! - a copy that is translated and the packet that then goes on as it was: the same.
//!
//! Not recorded at all: what cannot be asked in one go before anything has happened. That is a `ct`
//! of a tuple that actions have made, one that is asked for the second time after its answer had
//! consequences, one behind a translation that a commit has just chosen, and `force`.
//!
//! A walk whose commit was refused, and which goes on otherwise than one whose commit was not, is
//! recorded as what becomes of packets whose commit is refused: those are found out by trying.

use super::asked::{Course, read};
use super::connect::Outcome;
use super::keymask;
use super::miss::Walk;
use crate::action::{Action, Ct, Nat};
use crate::cache::megaflow::REFUSED;
use crate::cache::recording::{Question, Tracked, is_of_tuple};
use crate::cache::traversal::{Item, NO_COMMIT, Track};
use crate::conntrack::{CtPacket, CtResult};
use crate::limits::TRAVERSAL_CONNS_MAX;
use crate::packet::key::FlowKey;

/// What the recording of the next `ct` needs to know of those before.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Before {
    course: Option<Course>,
    /// The last one may be asked again.
    may_repeat: bool,
    /// No further one can be foreseen.
    is_over: bool,
    /// Of the key.
    turns: Turns,
    /// Translations that the bytes bear: the number of the last one.
    base_turned: usize,
}

/// Translations that the packet is to bear when it leaves, and those of them that flows see: the
/// number of the last one.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Turns {
    borne: usize,
    shown: usize,
}

impl Before {
    /// Of the key, as of a moment.
    pub fn turns(&self) -> Turns {
        self.turns
    }

    pub fn borne(&self) -> usize {
        self.turns.borne
    }

    pub fn shown(&self) -> usize {
        self.turns.shown
    }

    /// Of the bytes.
    pub fn base_turned(&self) -> usize {
        self.base_turned
    }
}

impl Walk<'_, '_> {
    /// Records a `ct`, if it can be.
    #[inline(never)]
    pub(super) fn note_tracked(
        &mut self,
        ct: &Ct,
        packet: &CtPacket,
        (result, outcome): (&CtResult, &Outcome),
        turns: bool,
    ) {
        if self.rec.cacheable && self.record(ct, packet, (result, outcome), turns).is_none() {
            self.rec.cacheable = false;
        }
    }

    fn record(
        &mut self,
        ct: &Ct,
        packet: &CtPacket,
        (result, outcome): (&CtResult, &Outcome),
        turns: bool,
    ) -> Option<()> {
        let full = self.rec.tracked.len() >= TRAVERSAL_CONNS_MAX;
        if ct.force || full || self.before.is_over {
            return None;
        }
        let zone = packet.zone;
        if self.before.course.is_none() {
            self.begin(packet, outcome)?;
        }
        if self.before.course.as_mut().map(|c| c.at(zone).0) != Some(packet.tuple) {
            return None;
        }
        let known = |t: &Tracked| {
            let conn = t.conn.is_some() && t.conn.map(|c| c.ix) == result.conn.map(|c| c.ix);
            (t.zone, t.tuple) == (zone, packet.tuple) || conn
        };
        let last = self.rec.tracked.last();
        let again = self.before.may_repeat
            && last.is_some_and(|t| (t.zone, t.tuple) == (zone, packet.tuple));
        if !again && self.rec.tracked.iter().any(known) {
            return None;
        }
        let commit = match &outcome.commit {
            Some(commit) => self.world.commits.number(commit)?,
            None => NO_COMMIT,
        };
        let refused = outcome.is_refused && (ct.table.is_some() || ct.nat.is_some());
        self.guard(Item::Ct(Track {
            zone,
            state: result.state,
            nat: ct.nat.is_some(),
            turns,
            is_read: ct.table.is_some(),
            again,
            refused,
            commit,
            mark: 0,
            mark_mask: 0,
        }));
        let (mark, label) = (result.mark, result.label);
        self.rec.tracked.push(Tracked {
            zone,
            tuple: packet.tuple,
            conn: result.conn,
            mark,
            label,
        });
        let before = &mut self.before;
        before.may_repeat = outcome.judged.is_steady && commit == NO_COMMIT;
        before.is_over = matches!(ct.nat, Some(Nat::New(_))) && !outcome.was_known && ct.commit;
        if turns
            && let (Some(course), Some(rewrite)) =
                (before.course.as_mut(), self.rec.translations.last())
        {
            course.turn(zone, &packet.tuple, rewrite);
        }
        if refused {
            self.note_refused();
        }
        Some(())
    }

    /// The walk is that of packets whose commit is refused.
    #[cold]
    fn note_refused(&mut self) {
        self.rec.is_of_refused = true;
        self.rec.question.iter_mut().for_each(|q| q.kind = REFUSED);
    }

    /// The first `ct`: of the packet as it came, or it is not recorded.
    fn begin(&mut self, packet: &CtPacket, outcome: &Outcome) -> Option<()> {
        let p = &self.packet;
        let own = read(p.key, p.layers, p.bytes, p.checksums_good, packet.zone)?;
        if (own.tuple, own.kind, own.seg) != (packet.tuple, packet.kind, packet.seg) {
            return None;
        }
        self.before.course = Some(Course::new(packet.tuple));
        let (tables, dirty) = (self.rec.tables, self.rec.dirty);
        let (mark, label) = outcome.told;
        let (zone, kind, seen) = (packet.zone, outcome.kind, self.rec.seen);
        self.rec.question = Some(Question { zone, kind, mark, label, seen, tables, dirty });
        Some(())
    }

    /// The packet is translated.
    pub(super) fn note_translated(&mut self) {
        let number = self.rec.translations.len();
        (self.before.turns.borne, self.before.base_turned) = (number, number);
    }

    /// From here on the walk looks at what its connections have made of the packet.
    pub(super) fn note_shown(&mut self) {
        self.before.turns.shown = self.before.turns.borne;
        self.rec.look_at_translated(self.before.turns.shown > 0);
    }

    /// An action is run on a translated packet.
    #[cold]
    #[inline(never)]
    pub(super) fn note_turned(&mut self, a: &Action) {
        if matches!(a, Action::Ct(_) | Action::Clone(_) | Action::WriteActions(_)) {
            return;
        }
        let mut sees = FlowKey::ZERO;
        keymask::add_actions(std::slice::from_ref(a), &mut sees);
        self.rec.pinned |= is_of_tuple(&sees);
    }

    /// The bytes are made to look like the key.
    pub(super) fn note_commit(&mut self) {
        self.base_turns_to(self.before.turns.borne);
    }

    /// The bytes are made to look as they did at some moment.
    pub(super) fn base_turns_to(&mut self, turned: usize) {
        if self.before.base_turned != turned {
            self.rec.pinned = true;
            self.before.base_turned = turned;
        }
    }

    /// The bytes look as they did at some moment, because nothing was done to them since.
    pub(super) fn base_turned_back(&mut self, turned: usize) {
        self.before.base_turned = turned;
    }

    /// The key is again what it was.
    pub(super) fn key_turns_to(&mut self, turns: Turns) {
        if self.before.turns.borne != turns.borne {
            self.before.is_over = true;
        }
        self.before.turns = turns;
        self.rec.look_at_translated(turns.shown > 0);
    }
}
