//! What both caches keep of a packet's kind: a line.

use crate::clock::Now;
use crate::conntrack::Guess;
use crate::packet::key::shape;

/// No traversal.
pub const NONE: u32 = u32::MAX;

/// The words of a key's first line under a mask.
pub type Masked = [u64; 5];

/// Time in units of 8 ms, going round every nine minutes: what is only compared to tell which of a
/// few entries is the longest unused may now and then take an old one for a young one.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Tick(pub u16);

impl Tick {
    #[inline]
    pub fn of(now: Now) -> Self {
        Self((now.ns >> 23) as u16)
    }

    /// How long ago it was.
    #[inline]
    pub fn age(self, now: Tick) -> u16 {
        now.0.wrapping_sub(self.0)
    }
}

/// An entry. A line.
#[derive(Clone, Copy, Debug)]
#[repr(C, align(64))]
pub struct Entry {
    pub key: Masked,
    /// Number of the traversal, `NONE` if there is no entry here.
    pub traversal: u32,
    /// Tier 1: the connection that its last packet was of.
    pub conn: Guess,
    /// Counts not yet credited to the rules; credited before they can wrap.
    pub bytes: u32,
    pub packets: u16,
    /// When it was last used.
    pub used: Tick,
    /// The last change of the program that the entry was held against.
    pub epoch: u32,
    /// Tier 1: the key's hash, what is kept of it. Tier 2: the place of the entry's mask, and what
    /// there is beside the key (`megaflow`).
    pub(super) tag: [u8; 3],
    pub(super) flags: u8,
}

const _: () = assert!(size_of::<Entry>() == 64);

/// Bits of `Entry::flags`, in places that the shape has for other things; the lines that belong to
/// the key are beside them, in their own.
const OWES: u8 = shape::STAG;
const LONG: u8 = 1 << 7;
pub(super) const LINES: u8 = shape::L3 | shape::TUNNEL | shape::STACK;
/// Where keys are whose home this place is, and which are not here (`microflow::place`). Three
/// bits.
pub(super) const ELSEWHERE: u8 = 7 << ELSEWHERE_SHIFT;
pub(super) const ELSEWHERE_SHIFT: u32 = 2;
/// What is said of a place, and not of the entry that is there now.
pub(super) const OF_THE_PLACE: u8 = OWES | ELSEWHERE;
const _: () = assert!(LINES & (OWES | LONG | ELSEWHERE) == 0 && ELSEWHERE & (OWES | LONG) == 0);

impl Entry {
    /// Whether the place is in the list of those that owe counts.
    #[inline]
    pub fn owes(&self) -> bool {
        self.flags & OWES != 0
    }

    #[inline]
    pub fn set_owes(&mut self, owes: bool) {
        self.flags = if owes { self.flags | OWES } else { self.flags & !OWES };
    }

    /// Whether the traversal has been seen to go beyond its first line.
    #[inline]
    pub fn is_long(&self) -> bool {
        self.flags & LONG != 0
    }

    /// Says that it does.
    #[inline]
    pub fn set_long(&mut self) {
        self.flags |= LONG;
    }

    /// Whether its packets' keys are in one line: no IPv6, no tunnel.
    #[inline]
    pub fn is_one_line(&self) -> bool {
        self.flags & LINES == 0
    }

    /// Tier 2: connection tracking has to be asked which megaflow it is.
    #[inline]
    pub fn is_question(&self) -> bool {
        self.tag[1] == QUESTION
    }

    /// Tier 2: it was found by what connection tracking said.
    #[inline]
    pub fn is_answer(&self) -> bool {
        self.tag[1] > QUESTION
    }

    /// Takes the counts of packets and bytes, to be credited.
    #[inline]
    pub fn take_counts(&mut self) -> (u32, u32) {
        (std::mem::take(&mut self.packets).into(), std::mem::take(&mut self.bytes))
    }

    pub(super) fn tag(&self) -> u32 {
        let [a, b, c] = self.tag;
        u32::from_le_bytes([a, b, c, 0])
    }
}

/// `Entry::tag[1]` of a question. Other numbers are states of answers, which have `TRK`.
pub(super) const QUESTION: u8 = 1;

/// A place without an entry.
pub(super) const EMPTY: Entry = Entry {
    key: [0; 5],
    traversal: NONE,
    conn: Guess::NONE,
    bytes: 0,
    packets: 0,
    used: Tick(0),
    epoch: 0,
    tag: [0; 3],
    flags: 0,
};

/// What a new entry keeps besides its key.
#[derive(Clone, Copy, Debug)]
pub struct Kept {
    pub traversal: u32,
    pub used: Tick,
    pub epoch: u32,
}
