//! A packet that tier 1 has: the shortest road, with nothing on it that most packets do not need.
//!
//! The common steps run straight off the traversal's first record, on the frame where it lies.
//! The first step of another kind hands the packet over to `execute`, with what is left to do.
//!
//! A packet of an established connection meets three rooms here: `Asked::pass` looks it up, `count`
//! owes it to its rules, `leave` sends it. Where it does not pass, the guards are asked one by one.
//! Packets in a row that tier 2 serves alike take the same rooms (`opening`, `settled`).

use super::delta::{Dirty, Recent};
use super::execute::{Hand, Sent};
use super::guards::{Ground, Held};
use super::home::tell_due;
use super::lane::{Egress, Lane, Slot};
use super::owing::Owing;
use super::upkeep::credit;
use crate::action::edit;
use crate::action::step::Step;
use crate::action::translate::translate_narrow;
use crate::cache::Entry;
use crate::cache::entry::{Masked, Tick};
use crate::cache::megaflow::Answer;
use crate::cache::traversal::{Asks, Head, Item, Traversal};
use crate::clock::Now;
use crate::conntrack::{Guess, NarrowRewrite};
use crate::counters::{Counters, Drop};
use crate::packet::frame::Frame;
use crate::packet::key::PortIx;
use crate::packet::parse::Layers;
use crate::xsk::pool::FramePool;

/// A slot's counts are credited before they pass these.
const BYTES_OWED_MAX: u32 = 1 << 31;
const PACKETS_OWED_MAX: u16 = 1 << 15;

/// What became of a packet that hit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Hit {
    Served,
    /// So it was, and opened a connection, or was refused one.
    Opened,
    /// Its commit was refused, and what becomes of it then is another entry's.
    Refused,
    /// There is an entry, and it does not hold.
    Stale,
    None,
}

/// Counts a packet, or a batch at most, and its bytes on its entry, at this place. Some: counts
/// that are to be credited at once.
#[inline(always)]
pub(super) fn count(
    entry: &mut Entry,
    t: &Traversal,
    (packets, bytes): (u16, u32),
    owing: &mut Owing,
    at: u32,
) -> Option<(u32, u32)> {
    entry.packets = entry.packets.wrapping_add(packets);
    entry.bytes = entry.bytes.wrapping_add(bytes);
    if !entry.owes() {
        entry.set_owes(true);
        if t.is_long() {
            entry.set_long();
        }
        owing.push(at);
    } else if entry.bytes >= BYTES_OWED_MAX || entry.packets >= PACKETS_OWED_MAX {
        return Some(entry.take_counts());
    }
    None
}

/// Counts packets of a batch, and their bytes, that were served from an answer at this place one
/// after the other. Some: counts that are to be credited at once.
#[inline(always)]
pub(super) fn owe(
    answer: &mut Answer<'_>,
    t: &Traversal,
    (served, bytes): (u32, u32),
    (owing, at): (&mut Owing, u32),
    now: Now,
) -> Option<(u32, u32)> {
    answer.served(served);
    let due = count(answer.entry, t, (served as u16, bytes), owing, at);
    answer.entry.used = Tick::of(now);
    due
}

/// Runs the steps of the first record that are of the common kinds. Says how many it ran, and by
/// which port the packet leaves if that is all that is left to do.
#[inline(always)]
fn run_common(
    t: &Traversal,
    frame: &mut Frame,
    layers: &Layers,
    narrow: Option<NarrowRewrite>,
) -> Result<(usize, Option<PortIx>), Drop> {
    let last = usize::from(t.head.steps).wrapping_sub(1);
    let mut done = 0;
    for item in t.first_steps() {
        let Item::Do(step) = item else { break };
        let ran = match (step, narrow) {
            (Step::Translate(_), Some(new)) => {
                Some(translate_narrow(new, frame.bytes_mut(), layers))
            }
            _ => edit::apply_common(step, frame, layers),
        };
        match (ran, step) {
            (Some(end), _) => end?,
            (None, Step::Output(port)) if done == last => return Ok((done, Some(*port))),
            (None, _) => break,
        }
        done += 1;
    }
    Ok((done, None))
}

/// Runs the common steps, and sends the packet if those are all. Says how many it ran, if they are
/// not.
#[inline(always)]
pub(super) fn leave<E: Egress>(
    t: &Traversal,
    slot: &mut Slot,
    narrow: Option<NarrowRewrite>,
    counters: &Counters,
    sent: &mut Sent,
    pool: &mut FramePool,
    egress: &mut E,
) -> Option<usize> {
    let mut send = |port: PortIx, slot: &mut Slot, pool: &mut FramePool| {
        let Some(frame) = slot.frame.take() else { return };
        sent.packets += 1;
        sent.bytes += frame.len() as u64;
        egress.output(port, frame, pool);
    };
    if let Some(port) = t.only_output() {
        send(port, slot, pool);
        return None;
    }
    match run_common(t, slot.frame.as_mut()?, &slot.layers, narrow) {
        Ok((_, Some(port))) => send(port, slot, pool),
        Ok((done, None)) => return Some(done),
        Err(reason) => {
            counters.count_drop(reason);
            slot.frame.take().into_iter().for_each(|f| pool.free(f));
        }
    }
    None
}

/// Whether no change of rules since can concern the entry.
#[inline(always)]
fn is_current<const TIER2: bool>(
    recent: &Recent,
    entry: &Entry,
    mask: &Masked,
    head: &Head,
) -> bool {
    let (tables, dirty) = (head.tables, Dirty(head.dirty));
    if TIER2 {
        recent.holds_under(entry.epoch, (&entry.key, mask), tables, dirty)
    } else {
        recent.holds(entry.epoch, &entry.key, tables, dirty)
    }
}

impl Lane {
    /// Serves a packet from its entry of tier 1, or of tier 2, if all guards hold.
    #[inline(always)]
    pub(super) fn serve<E: Egress, const TIER2: bool>(
        &mut self,
        i: usize,
        now: Now,
        sent: &mut Sent,
        pool: &mut FramePool,
        egress: &mut E,
    ) -> Hit {
        let Some(slot) = self.batch.get_mut(i) else { return Hit::None };
        let found = if TIER2 {
            self.mega.get_mut(slot.hit)
        } else {
            self.cache.slot_mut(slot.hit).map(|entry| (entry, &[u64::MAX; 5]))
        };
        let Some((entry, mask)) = found else { return Hit::None };
        let Some(t) = self.traversals.get(entry.traversal) else { return Hit::None };
        let (traversal, head) = (entry.traversal, &t.head);
        let len = slot.frame.as_ref().map_or(0, Frame::len);
        if !head.fits(len) || !is_current::<TIER2>(&self.recent, entry, mask, head) {
            return Hit::Stale;
        }
        let mut hit = Hit::Served;
        let passed = match t.asks() {
            Asks::One(track) if !TIER2 => self.asked.pass(&mut self.conntrack, slot, track, now),
            _ => Guess::NONE,
        };
        if !passed.is_none() {
            entry.conn = passed;
        } else if head.guards > 0 {
            let guards = self.traversals.items(traversal).take(usize::from(head.guards));
            let mut ground = Ground {
                conntrack: &mut self.conntrack,
                program: &self.program,
                commits: &self.commits,
                counters: &self.counters,
                asked: &mut self.asked,
                now,
            };
            // The question was asked to find the answer.
            match ground.hold(t, guards, slot, TIER2 && entry.is_answer()) {
                Held::Fails => return Hit::Stale,
                Held::Refused => return Hit::Refused,
                Held::Holds => {}
                held => {
                    tell_due(&mut self.conntrack, egress);
                    hit = if held == Held::Opens { Hit::Opened } else { hit };
                }
            }
            if !TIER2 {
                entry.conn = self.asked.guess();
            }
        }
        let owing = if TIER2 { &mut self.mega_owing } else { &mut self.owing };
        let due = count(entry, t, (1, len as u32), owing, slot.hit);
        // Not before: the counts are read in one word with the half that this writes.
        entry.used = Tick::of(now);
        entry.epoch = self.recent.epoch();
        if let Some(due) = due {
            credit(&self.traversals, &self.program, traversal, due, now);
        }
        match leave(t, slot, self.asked.narrow, &self.counters, sent, pool, egress) {
            None => {}
            Some(done) => self.serve_rest(i, traversal, done, now, sent, pool, egress),
        }
        hit
    }

    /// Runs the steps of a hit from number `done` on: all kinds, however many.
    #[inline(never)]
    #[expect(clippy::too_many_arguments, reason = "what `serve` has in hand")]
    pub(super) fn serve_rest<E: Egress>(
        &mut self,
        i: usize,
        traversal: u32,
        done: usize,
        now: Now,
        sent: &mut Sent,
        pool: &mut FramePool,
        egress: &mut E,
    ) {
        let Some(slot) = self.batch.get_mut(i) else { return };
        let Some(frame) = slot.frame.take() else { return };
        if self.asked.narrow.take().is_some() {
            self.asked.turn_any(&self.conntrack);
        }
        let Some(head) = self.traversals.get(traversal).map(|t| t.head) else { return };
        let count = usize::from(head.steps).saturating_sub(done);
        let items = self.traversals.items(traversal).skip(usize::from(head.guards) + done);
        let mut hand = Hand {
            translations: &self.asked.translations,
            punts: None,
            packet_ins: &mut self.packet_ins,
            program: &self.program,
            now,
            chance: &mut self.chance,
            templates: &self.templates,
            counters: &self.counters,
            sent,
            pool,
            egress,
        };
        let steps = items.take(count).map_while(|item| match item {
            Item::Do(s) => Some(s),
            _ => None,
        });
        hand.execute(steps, count, frame, &slot.key, slot.layers);
    }
}
