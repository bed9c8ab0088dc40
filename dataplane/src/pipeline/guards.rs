//! Whether a cached traversal holds for a packet, and what it leaves behind if it does.
//!
//! First every guard is asked, in the order of the walk, and connection tracking only judges. If
//! all hold, what was judged is accepted and committed in the same order: connections are then as
//! the walk would have left them. If one does not, no connection has changed; a MAC address may be
//! younger, as it will be after the walk that follows.
//!
//! **What a `ct` is held against.** A guard names a zone, and what came out when the walk was
//! recorded: the state, and mark and label as far as the walk looked at them. Which connection it
//! is does not matter, unless the walk is pinned to it. Questions and answers are in `asked`.

use super::asked::{Answer, Asked, Course, Refusal, packet_of};
use super::commits::Commits;
use super::lane::Slot;
use super::opening::Opening;
use super::program::Program;
use crate::cache::traversal::{Asks, FdbGuard, Item, NO_COMMIT, Track, Traversal, WHOLE_FDB};
use crate::clock::Now;
use crate::conntrack::ct_state::{INV, NEW};
use crate::conntrack::{Commit, Conntrack, CtError, CtPacket, Judged, NatRewrite};
use crate::counters::{Counters, Stat};

/// What guards look at.
pub(super) struct Ground<'a> {
    pub conntrack: &'a mut Conntrack,
    pub program: &'a Program,
    pub commits: &'a Commits,
    pub counters: &'a Counters,
    pub asked: &'a mut Asked,
    pub now: Now,
}

/// What the guards of a traversal came to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Held {
    /// One does not hold.
    Fails,
    /// All do.
    Holds,
    /// All do, and something may have been committed.
    Commits,
    /// A connection was opened, or refused.
    Opens,
    /// All do, but a connection was refused that what follows is built on.
    Refused,
}

impl Ground<'_> {
    /// Whether all guards of a traversal hold; then all is done that the walk would have done on
    /// its way. `given`: the first question has been asked.
    #[inline(always)]
    pub fn hold(
        &mut self,
        t: &Traversal,
        guards: impl Iterator<Item = Item> + Clone,
        slot: &Slot,
        given: bool,
    ) -> Held {
        let held = |holds, so| if holds { so } else { Held::Fails };
        match t.asks() {
            Asks::One(track) => held(self.hold_plain(track, slot, given), Held::Holds),
            Asks::Opening(look, commit) => match self.open((look, commit), slot, given) {
                Opening::Done => Held::Opens,
                Opening::Met => Held::Holds,
                Opening::Fails => Held::Fails,
                Opening::Refused => Held::Refused,
                // What was asked will be asked again.
                Opening::Unusual => match self.hold_all(guards, slot, given) {
                    true => Held::Commits,
                    false if self.asked.refused.is_some() => Held::Refused,
                    false => Held::Fails,
                },
            },
            Asks::Refused(look, commit) if given => self.hold_refused(look, commit),
            Asks::Refused(..) => Held::Fails,
            Asks::Other => held(self.hold_all(guards, slot, given), Held::Commits),
        }
    }

    /// The same where there is one `ct`, which commits nothing, and nothing else.
    #[inline(always)]
    fn hold_plain(&mut self, t: &Track, slot: &Slot, given: bool) -> bool {
        if !given && self.asked.first(self.conntrack, slot, t.zone, self.now).is_none() {
            return false;
        }
        let judged = &self.asked.first;
        let own = if t.nat { self.conntrack.nat_bits_of(judged) } else { 0 };
        if judged.state | own != t.state || self.asked.zone != Some(t.zone) {
            return false;
        }
        self.conntrack.accept(judged, self.now);
        if t.turns {
            self.asked.narrow = self.conntrack.narrow_translation_of(judged);
            if self.asked.narrow.is_none() {
                return self.turn();
            }
        }
        true
    }

    /// The same where it was asked, and a commit was tried: it was refused, and is counted.
    #[inline(always)]
    fn hold_refused(&mut self, look: &Track, commit: &Track) -> Held {
        match self.asked.refused.take() {
            Some(r) if r.commit == commit.commit && self.asked.zone == Some(look.zone) => {
                self.counters.add(refusal(r.reason), 1);
                self.conntrack.count_after_all(r.reason);
                self.asked.narrow = None;
                Held::Opens
            }
            _ => Held::Fails,
        }
    }

    /// The translation of a packet that is not narrow.
    #[inline(never)]
    fn turn(&mut self) -> bool {
        self.asked.turn_any(self.conntrack);
        !self.asked.translations.is_empty()
    }

    #[inline(never)]
    fn hold_all<I: Iterator<Item = Item> + Clone>(
        &mut self,
        guards: I,
        slot: &Slot,
        given: bool,
    ) -> bool {
        if !given {
            self.asked.zone = None;
        }
        self.asked.list.clear();
        self.ask(guards.clone(), slot, true) && (self.asked.list.is_empty() || self.settle(guards))
    }

    /// Whether all guards would hold; nothing changes.
    pub fn would_hold(&mut self, guards: impl Iterator<Item = Item>, slot: &Slot) -> bool {
        self.asked.list.clear();
        self.asked.zone = None;
        self.ask(guards, slot, false)
    }

    #[inline]
    fn ask(&mut self, guards: impl Iterator<Item = Item>, slot: &Slot, touch: bool) -> bool {
        let (mut met, mut course, mut commit) = (0, None, NO_COMMIT);
        for guard in guards {
            let holds = match guard {
                Item::Ct(t) => {
                    met += 1;
                    commit = t.commit;
                    self.ask_ct(&t, met, slot, &mut course)
                }
                Item::LabelLow(is) => self.label_is(0, is, commit),
                Item::LabelHigh(is) => self.label_is(64, is, commit),
                Item::Pin(conn) => {
                    let last = self.asked.list.last();
                    last.and_then(|a| self.conntrack.conn_of(&a.judged)) == Some(conn)
                }
                Item::Fdb(g) => {
                    let g = FdbGuard { touch: g.touch && touch, ..g };
                    fdb_holds(self.program, &g, self.now)
                }
                Item::Do(_) | Item::Credit(_) | Item::Bucket { .. } | Item::Learned(_) => false,
            };
            if !holds {
                return false;
            }
        }
        true
    }

    /// Asks the question number `met`, unless that has been done, and compares.
    #[inline]
    fn ask_ct(&mut self, t: &Track, met: usize, slot: &Slot, course: &mut Option<Course>) -> bool {
        if met == 1 {
            let asked = &mut self.asked;
            if asked.zone.is_none() && asked.first(self.conntrack, slot, t.zone, self.now).is_none()
            {
                return false;
            }
            let (Some(zone), judged) = (asked.zone, asked.first) else { return false };
            let Some(packet) = packet_of(slot, zone) else { return false };
            asked.list.push(Answer { packet, judged, bits: 0 });
        } else {
            let Some(first) = self.asked.list.first() else { return false };
            let course = course.get_or_insert_with(|| Course::new(first.packet.tuple));
            if course.is_lost || !self.asked.next(self.conntrack, t, course, self.now) {
                return false;
            }
        }
        let Some(Answer { packet, judged, bits }) = self.asked.list.last() else { return false };
        let own = if t.nat { self.bits_to_come(t, packet, judged) } else { 0 };
        let state = if judged.state & INV == 0 { judged.state | bits | own } else { judged.state };
        let alike = packet.zone == t.zone
            && state == t.state
            && (own != 0) == t.turns
            && (t.mark_mask == 0 || self.told(t.commit).0 & t.mark_mask == t.mark);
        if alike && own != 0 {
            // What comes next is of the translated packet.
            let course = course.get_or_insert_with(|| Course::new(packet.tuple));
            match self.conntrack.translation_of(judged) {
                Some(rewrite) => course.turn(t.zone, &packet.tuple, &rewrite),
                None => course.is_lost = true,
            }
        }
        alike
    }

    /// The bits of the translation that there is, or that a commit is about to make.
    #[inline]
    fn bits_to_come(&self, t: &Track, packet: &CtPacket, judged: &Judged) -> u8 {
        let is_new = judged.state & NEW != 0 && self.conntrack.conn_of(judged).is_none();
        if !is_new {
            return self.conntrack.nat_bits_of(judged);
        }
        let commit = self.commits.get(t.commit);
        let spec = commit.and_then(|c| c.nat).filter(|n| n.is_for(packet.tuple.v6));
        spec.map_or(0, |n| n.kind.state_bit())
    }

    /// Mark and label as the packet is told them after the last question.
    fn told(&self, commit: u16) -> (u32, u128) {
        let Some(answer) = self.asked.list.last() else { return (0, 0) };
        let told = self.conntrack.mark_of(&answer.judged);
        match self.commits.get(commit) {
            Some(c) if answer.judged.state & INV == 0 => c.exec(told),
            _ => told,
        }
    }

    #[cold]
    fn label_is(&self, shift: u32, [value, mask]: [u64; 2], commit: u16) -> bool {
        (self.told(commit).1 >> shift) as u64 & mask == value
    }

    /// Accepts and commits what was asked. False: a commit was refused that the walk builds on.
    #[inline]
    fn settle(&mut self, guards: impl Iterator<Item = Item>) -> bool {
        self.asked.translations.clear();
        self.asked.narrow = None;
        let tracks = guards.filter_map(|g| match g {
            Item::Ct(t) => Some(t),
            _ => None,
        });
        for (n, t) in tracks.enumerate() {
            let Some(&Answer { packet, judged, .. }) = self.asked.list.get(n) else { return false };
            self.conntrack.accept(&judged, self.now);
            let rewrite = match self.commits.get(t.commit) {
                None if t.turns => self.conntrack.translation_of(&judged),
                None => continue,
                Some(&commit) => match self.commit(&t, &packet, &judged, &commit) {
                    Ok(rewrite) => rewrite,
                    // Who knows what becomes of the packet counts it.
                    Err(e) if is_built_on(&t) => {
                        self.asked.refused = Some(Refusal { commit: t.commit, reason: e });
                        return false;
                    }
                    Err(e) => {
                        self.counters.add(refusal(e), 1);
                        None
                    }
                },
            };
            if t.turns {
                let Some(rewrite) = rewrite else { return false };
                self.asked.translations.push(rewrite);
            }
        }
        true
    }

    #[inline(never)]
    fn commit(
        &mut self,
        t: &Track,
        packet: &CtPacket,
        judged: &Judged,
        commit: &Commit,
    ) -> Result<Option<NatRewrite>, CtError> {
        let before = self.conntrack.result(judged, packet);
        if before.state & INV != 0 {
            return Ok(None);
        }
        self.conntrack.count_refusals(!is_built_on(t));
        let after = self.conntrack.commit_judged(packet, (judged, &before), commit, self.now);
        self.conntrack.count_refusals(true);
        let after = after?;
        Ok(if t.turns { self.conntrack.nat_rewrite(&after) } else { None })
    }
}

/// Whether a walk is another one if its commit is refused.
#[inline]
pub(super) fn is_built_on(t: &Track) -> bool {
    t.nat || t.is_read
}

/// What a commit's refusal is counted as.
pub(super) fn refusal(e: CtError) -> Stat {
    match e {
        CtError::TableFull => Stat::CtTableFull,
        CtError::ZoneFull => Stat::CtZoneFull,
        CtError::NatExhausted => Stat::CtNatExhausted,
        CtError::TupleTaken => Stat::CtTupleTaken,
        CtError::Untold => Stat::CtUntold,
    }
}

fn fdb_holds(program: &Program, g: &FdbGuard, now: Now) -> bool {
    let Some(b) = program.bridges.get(g.bridge as usize) else { return false };
    if g.slot == WHOLE_FDB {
        return b.fdb.generation() == g.value;
    }
    b.fdb.still(g.slot, g.value, g.touch, now)
}
