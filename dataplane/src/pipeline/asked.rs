//! What a packet asks of connection tracking before a cached walk is taken, and the answers.
//!
//! A question changes nothing: conntrack only judges. The first one is asked once for a packet,
//! whichever walk it is for (tier 2 asks before it knows any); further ones, of walks with several
//! `ct`, are of the tuple that the translations so far have made ([`Course`]).
//!
//! Two roads do more than ask. `pass` is that of most packets of tier 1: a walk with one `ct`, a
//! connection that is known and established; question, answer and what accepting it leaves behind
//! are one (`conntrack::pass`). `open` makes the connection of a first packet (`opening`).

use super::lane::Slot;
use crate::cache::entry::NONE;
use crate::cache::traversal::{NO_COMMIT, Track};
use crate::clock::Now;
use crate::conntrack::{
    Commit, Conntrack, CtError, CtPacket, Guess, Judged, Narrow, NarrowRewrite, NatRewrite, Plain,
    Segment, Tuple, Wanted,
};
use crate::limits::TRAVERSAL_CONNS_MAX;
use crate::packet::key::PacketKey;
use crate::packet::l4sum;
use crate::packet::parse::Layers;

/// The tuples that a packet shows to one `ct` after the other. Where it was translated last, it is
/// still known by the tuple of before (`connect` says why).
#[derive(Clone, Copy, Debug)]
pub(super) struct Course {
    tuple: Tuple,
    /// Zone, bits of `ct_state`, tuple of before.
    translated: Option<(u16, u8, Tuple)>,
    /// It will be translated by a commit that is not made yet: nobody knows to what.
    pub is_lost: bool,
}

impl Course {
    pub fn new(tuple: Tuple) -> Self {
        Self { tuple, translated: None, is_lost: false }
    }

    /// The tuple that a `ct` of this zone asks for, and the bits that its result is given.
    #[inline]
    pub fn at(&mut self, zone: u16) -> (Tuple, u8) {
        self.translated = self.translated.filter(|(z, ..)| *z == zone);
        self.translated.map_or((self.tuple, 0), |(_, bits, before)| (before, bits))
    }

    /// The packet was translated in a zone.
    pub fn turn(&mut self, zone: u16, from: &Tuple, rewrite: &NatRewrite) {
        self.tuple = rewrite.apply(from);
        self.translated = Some((zone, rewrite.ct_state, *from));
    }
}

/// A question of connection tracking, with the answer.
#[derive(Clone, Copy, Debug)]
pub(super) struct Answer {
    pub packet: CtPacket,
    pub judged: Judged,
    /// Bits that the packet has from a translation before.
    pub bits: u8,
}

/// Questions whose last answers are kept.
pub(super) const ANSWERS: usize = 8;

/// What conntrack said of a packet that a cached walk may be for.
#[derive(Debug)]
pub(super) struct Asked {
    /// The answer to the first question.
    pub first: Judged,
    /// Where it was asked, once it was.
    pub zone: Option<u16>,
    /// All answers, where there is more to ask.
    pub list: Vec<Answer>,
    /// What `Step::Translate` refers to, unless it is `narrow`.
    pub translations: Vec<NatRewrite>,
    /// The one translation of a narrow packet.
    pub narrow: Option<NarrowRewrite>,
    /// What opened the last connection: as likely as not it will open the next one, too.
    pub last_commit: u16,
    /// The answer of tier 2 that did.
    pub opener: u32,
    /// Answers of tier 2 that served last after a question, by the question's place.
    last_answers: [u32; ANSWERS],
    /// What was refused to this packet, and is not counted yet.
    pub refused: Option<Refusal>,
}

/// A commit that was refused.
#[derive(Clone, Copy, Debug)]
pub(super) struct Refusal {
    /// Its number.
    pub commit: u16,
    pub reason: CtError,
}

impl Asked {
    pub fn new() -> Self {
        Self {
            first: Judged::default(),
            zone: None,
            list: Vec::with_capacity(TRAVERSAL_CONNS_MAX),
            translations: Vec::with_capacity(TRAVERSAL_CONNS_MAX),
            narrow: None,
            last_commit: NO_COMMIT,
            opener: NONE,
            last_answers: [NONE; ANSWERS],
            refused: None,
        }
    }

    /// Asks the first question. `None` if only a walk knows what the packet is to conntrack.
    #[inline]
    pub fn first(
        &mut self,
        conntrack: &Conntrack,
        slot: &Slot,
        zone: u16,
        now: Now,
    ) -> Option<&Judged> {
        (self.zone, self.refused) = (None, None);
        match Narrow::of(&slot.key.base) {
            Some(narrow) if slot.layers.flags == 0 => {
                ask_narrow(conntrack, slot, (&narrow, zone), now, &mut self.first)?
            }
            _ => self.first = ask_other(conntrack, slot, zone, now)?,
        }
        if self.first.is_helped {
            return None;
        }
        self.zone = Some(zone);
        Some(&self.first)
    }

    /// Whether one `ct` holds for a packet of the commonest kind; then that has been looked up.
    /// Where its connection is. `Guess::NONE`: nothing has changed, and all is to be asked.
    #[inline(never)]
    pub fn pass(&mut self, conntrack: &mut Conntrack, slot: &Slot, t: &Track, now: Now) -> Guess {
        self.try_pass(conntrack, slot, t, now).unwrap_or(Guess::NONE)
    }

    #[inline(always)]
    fn try_pass(
        &mut self,
        conntrack: &mut Conntrack,
        slot: &Slot,
        t: &Track,
        now: Now,
    ) -> Option<Guess> {
        let packet = plain_of(slot)?;
        let want = Wanted { zone: t.zone, state: t.state, nat: t.nat, turns: t.turns };
        let (guess, rewrite) = conntrack.pass(&packet, slot.ct.guess, want, now)?;
        if t.turns {
            self.narrow = rewrite;
            self.first.passed(guess, t.state);
        }
        Some(guess)
    }

    /// The answer of tier 2 that served last after this question.
    #[inline(always)]
    pub fn last_answer(&mut self, question: u32) -> &mut u32 {
        &mut self.last_answers[question as usize % ANSWERS]
    }

    /// Where to look first for the connection of the next packet like the one that was asked of.
    #[inline(always)]
    pub fn guess(&self) -> Guess {
        if self.zone.is_some() { self.first.guess() } else { Guess::NONE }
    }

    /// Where the first question was asked, once it was.
    pub fn zone(&self) -> Option<u16> {
        self.zone
    }

    /// The state that it was answered with.
    pub fn state(&self) -> u8 {
        self.first.state
    }

    /// It was answered that there is no connection, and that there may be one.
    pub fn is_strange(&self) -> bool {
        self.first.is_stranger()
    }

    /// Opens the connection, and finds what becomes of its packet.
    #[inline(always)]
    pub fn open(
        &mut self,
        conntrack: &mut Conntrack,
        packet: (&Narrow, &Segment, u16),
        commit: &Commit,
        now: Now,
    ) -> Result<(), CtError> {
        self.narrow = None;
        self.translations.clear();
        if !conntrack.open_narrow(packet, &mut self.first, commit, now)? {
            let (narrow, segment, zone) = packet;
            let packet = CtPacket::of_narrow(narrow, segment, zone);
            conntrack.open(&packet, &mut self.first, commit, now)?;
        }
        self.narrow = conntrack.narrow_translation_of(&self.first);
        Ok(())
    }

    /// The translation in its general form.
    pub fn turn_any(&mut self, conntrack: &Conntrack) {
        self.translations.clear();
        self.translations.extend(conntrack.translation_of(&self.first));
    }

    /// A further question.
    #[inline(never)]
    pub fn next(
        &mut self,
        conntrack: &Conntrack,
        t: &Track,
        course: &mut Course,
        now: Now,
    ) -> bool {
        let Some(&last) = self.list.last() else { return false };
        let (tuple, bits) = course.at(t.zone);
        if t.again {
            let Some(judged) = conntrack.repeat(&last.packet, &last.judged) else { return false };
            self.list.push(Answer { judged, bits, ..last });
            return true;
        }
        let packet = CtPacket { tuple, zone: t.zone, ..last.packet };
        let judged = conntrack.judge(&packet, conntrack.hash_of(&packet), now);
        self.list.push(Answer { packet, judged, bits });
        !judged.is_helped
    }
}

/// The packet, if it is narrow and no fragment.
#[inline(always)]
pub(super) fn plain_of(slot: &Slot) -> Option<Plain<'_>> {
    let narrow = Narrow::of(&slot.key.base).filter(|_| slot.layers.flags == 0)?;
    let (l3, l4, end) = (slot.layers.l3, slot.layers.l4, slot.layers.end);
    let bytes = slot.frame.as_ref()?.bytes();
    Some(Plain {
        narrow,
        ip: bytes.get(usize::from(l3)..)?.first_chunk::<20>()?,
        l4: bytes.get(usize::from(l4)..usize::from(end))?,
        checksums_good: slot.checksums_good,
    })
}

#[inline(always)]
fn ask_narrow(
    conntrack: &Conntrack,
    slot: &Slot,
    (narrow, zone): (&Narrow, u16),
    now: Now,
    judged: &mut Judged,
) -> Option<()> {
    let (l3, l4, end) = (slot.layers.l3, slot.layers.l4, slot.layers.end);
    let bytes = slot.frame.as_ref()?.bytes();
    let segment = bytes.get(usize::from(l4)..usize::from(end))?;
    let header = bytes.get(usize::from(l3)..)?.first_chunk::<20>()?;
    let is_good = slot.checksums_good || l4sum::narrow_ok(header, segment, narrow.is_udp());
    match CtPacket::narrow_segment(narrow, segment) {
        Some(seg) if is_good => {
            let known = (zone, slot.ct.hash_in(zone), slot.ct.guess);
            conntrack.judge_narrow((narrow, &seg), known, now, judged);
        }
        _ => judged.set_invalid(),
    }
    Some(())
}

#[inline(never)]
fn ask_other(conntrack: &Conntrack, slot: &Slot, zone: u16, now: Now) -> Option<Judged> {
    let packet = packet_of(slot, zone)?;
    let hash = slot.ct.hash_in(zone).unwrap_or_else(|| conntrack.hash_of(&packet));
    Some(conntrack.judge(&packet, hash, now))
}

#[inline]
pub(super) fn packet_of(slot: &Slot, zone: u16) -> Option<CtPacket> {
    let bytes = slot.frame.as_ref().map(|f| f.bytes())?;
    read(&slot.key, &slot.layers, bytes, slot.checksums_good, zone)
}

/// The packet as conntrack sees it, before anything was done to it. `None` if only a walk knows.
#[inline]
pub(super) fn read(
    key: &PacketKey,
    layers: &Layers,
    bytes: &[u8],
    checksums_good: bool,
    zone: u16,
) -> Option<CtPacket> {
    let (l4, end) = (usize::from(layers.l4), usize::from(layers.end));
    let segment = if l4 == 0 { &[] } else { bytes.get(l4..end.min(bytes.len()))? };
    let mut packet = CtPacket::from_packet(key, segment, zone)?;
    packet.checksum_ok = checksums_good || l4sum::checksums_ok(bytes, layers, key);
    Some(packet)
}
