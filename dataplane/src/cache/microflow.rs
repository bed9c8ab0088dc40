//! Exact match on the masked packet key: groups of four slots of a line each.
//!
//! **Where a key is.** Its hash names a group and one slot of it, its *home*. Nearly all entries
//! are at home, so a lookup touches one line; the other three of the group are looked at when
//! home is taken by another, and four of a second group that the hash names too when the first is
//! full. A table has two slots for each entry that it may hold, and eight while it can still grow:
//! then one entry in sixteen is away from home, and hardly ever is a group full. In the fullest
//! table one in four is: whoever looks for a batch of keys asks for all their homes, then for
//! what is beside those that were not there (`is_at`, `ask_beside`, `find_in_group`).
//!
//! **Growth.** Memory is reserved for all entries at start, and touched as entries come: the table
//! grows by linear hashing (W. Litwin, "Linear hashing: a new tool for file and table addressing",
//! 1980), one group at a time. With `2^k + s` groups, the first `s` have been split: a hash goes to
//! the group of its low `k + 1` bits if that is there, else to that of its low `k` bits. To grow
//! by a group is to move those of group `s` whose next bit is set. So few flows stay on few pages,
//! growth costs each insertion about the same, and a look at all entries costs what is in use.

use super::mask::{KeyMask, base_words, l3_words, stack_words, tunnel_words};
use crate::packet::key::{PacketKey, shape};
use crate::prefetch::prefetch;
use crate::sys::advise_huge_pages;

/// No traversal.
pub const NONE: u32 = u32::MAX;

/// One cached packet key. A line.
#[derive(Clone, Copy)]
#[repr(C, align(64))]
pub struct Slot {
    pub key: Masked,
    /// Number of the traversal, `NONE` if the slot is empty.
    pub traversal: u32,
    /// When the slot was last used, in ticks of the cache.
    pub used: u32,
    /// Counts not yet credited to the rules.
    pub packets: u32,
    /// In units of one byte; credited before it can wrap.
    pub bytes: u32,
    /// The last change of the program that the entry was held against.
    pub epoch: u32,
    /// The key's hash, `HASH_BITS` of it, in three bytes.
    hash: [u8; 3],
    flags: u8,
}

const _: () = assert!(size_of::<Slot>() == 64);

/// Bits of `Slot::flags`, in places that the shape has for other things; the lines that belong to
/// the key are beside them, in their own.
const OWES: u8 = shape::TUNNEL_V6;
const LONG: u8 = shape::L3_VALID;
const LINES: u8 = shape::L3 | shape::TUNNEL | shape::STACK;
const _: () = assert!(LINES & (OWES | LONG) == 0);

impl Slot {
    /// Whether the slot is in the list of slots that owe counts.
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

    fn hash(&self) -> u32 {
        let [a, b, c] = self.hash;
        u32::from_le_bytes([a, b, c, 0])
    }
}

const EMPTY: Slot = Slot {
    key: [0; 5],
    traversal: NONE,
    used: 0,
    packets: 0,
    bytes: 0,
    epoch: 0,
    hash: [0; 3],
    flags: 0,
};

/// Slots of a group.
const WAYS: u32 = 4;
/// Slots for an entry in the fullest table, and while there is room.
const SLOTS_AN_ENTRY: u32 = 2;
const ROOM: u32 = 8;
/// Bits of a hash: the group's below, two for the home above.
const HASH_BITS: u32 = 24;
const HOME_SHIFT: u32 = HASH_BITS - WAYS.trailing_zeros();
/// Most slots that these bits can tell apart.
const SLOTS_MAX: usize = 1 << HASH_BITS;
const ENTRIES_MAX: usize = SLOTS_MAX / SLOTS_AN_ENTRY as usize;
/// Groups to begin with.
const GROUPS_MIN: u32 = 256;

/// The table.
pub struct Microflows {
    /// Those of the groups that are there; room for all is reserved.
    slots: Vec<Slot>,
    l3: Box<[[u64; 8]]>,
    tunnel: Box<[[u64; 8]]>,
    stack: Box<[[u64; 8]]>,
    /// Groups that are there, and how many there can be.
    groups: u32,
    groups_max: u32,
    /// Bits of the group number when its group is there; else one bit less.
    wide: u32,
    /// Slots that hold an entry.
    live: u32,
    seed: [u64; 6],
    mask: KeyMask,
}

/// What a new entry keeps besides its key.
#[derive(Clone, Copy, Debug)]
pub struct Kept {
    pub traversal: u32,
    pub used: u32,
    pub epoch: u32,
}

/// The masked base words of a packet, kept between hashing and comparing.
pub type Masked = [u64; 5];

#[inline]
fn fold(a: u64, b: u64) -> u64 {
    let p = u128::from(a).wrapping_mul(u128::from(b));
    (p as u64) ^ ((p >> 64) as u64)
}

impl Microflows {
    /// `entries`: a power of two, at least 4 and at most 2^23; others are taken for the next
    /// that is. `seed` must be unknown to senders, or they can aim at one group.
    pub fn new(entries: usize, seed: u64) -> Self {
        let entries = entries.clamp(WAYS as usize, ENTRIES_MAX).next_power_of_two();
        let mut s = seed;
        let seed = std::array::from_fn(|_| {
            s = s.wrapping_add(0x9e37_79b9_7f4a_7c15);
            fold(s ^ 0xe703_7ed1_a0b4_28db, s | 1) | 1
        });
        let slots_max = entries * SLOTS_AN_ENTRY as usize;
        let groups_max = slots_max as u32 / WAYS;
        let groups = groups_max.min(GROUPS_MIN);
        let mut slots = Vec::with_capacity(slots_max);
        advise_huge_pages(slots.spare_capacity_mut());
        slots.resize((groups * WAYS) as usize, EMPTY);
        Self {
            slots,
            l3: vec![[0; 8]; slots_max].into(),
            tunnel: vec![[0; 8]; slots_max].into(),
            stack: vec![[0; 8]; slots_max].into(),
            groups,
            groups_max,
            wide: groups - 1,
            live: 0,
            seed,
            mask: KeyMask::ALL,
        }
    }

    /// Entries that there can be.
    pub fn capacity(&self) -> usize {
        (self.groups_max * WAYS / SLOTS_AN_ENTRY) as usize
    }

    /// Slots that there can be.
    pub fn slots_max(&self) -> usize {
        (self.groups_max * WAYS) as usize
    }

    /// Slots that are there now: the numbers of all entries are below.
    pub fn slots(&self) -> u32 {
        self.slots.len() as u32
    }

    /// Whether a group should be added.
    #[inline]
    pub fn is_crowded(&self) -> bool {
        self.live * ROOM > self.groups * WAYS && self.groups < self.groups_max
    }

    /// Adds a group. `owed` hears of the new places of slots that owe counts; slot numbers of
    /// before are void.
    pub fn grow(&mut self, mut owed: impl FnMut(u32)) {
        if self.groups >= self.groups_max {
            return;
        }
        if self.groups > self.wide {
            self.wide = self.wide * 2 + 1;
        }
        let new = self.groups;
        let old = new & (self.wide >> 1);
        self.slots.extend([EMPTY; WAYS as usize]);
        self.groups += 1;
        for from in old * WAYS..(old + 1) * WAYS {
            let slot = self.slots[from as usize];
            let mut homes = [slot.hash(), second(slot.hash())].map(|h| self.home(h)).into_iter();
            let Some(home) = homes.find(|at| at / WAYS == new) else { continue };
            if slot.traversal == NONE || homes.any(|at| at / WAYS == old) {
                continue;
            }
            let Some(to) = self.empty(home) else { continue };
            self.slots[to as usize] = slot;
            self.copy_lines(from as usize, to as usize, slot.flags);
            if slot.owes() {
                owed(to);
            }
            // The number of the old place stays in the list of those that owe.
            self.slots[from as usize] = Slot { flags: slot.flags & OWES, ..EMPTY };
        }
    }

    fn copy_lines(&mut self, from: usize, to: usize, lines: u8) {
        let all = [(shape::L3, &mut self.l3), (shape::TUNNEL, &mut self.tunnel)];
        for (bit, array) in all.into_iter().chain([(shape::STACK, &mut self.stack)]) {
            if lines & bit != 0 {
                array[to] = array[from];
            }
        }
    }

    pub fn set_mask(&mut self, mask: KeyMask) {
        self.mask = mask;
    }

    /// Masks and hashes a key, and asks for its home. Returns the home.
    #[inline]
    pub fn hash(&self, key: &PacketKey, masked: &mut Masked) -> u32 {
        let home = self.home(self.mix(key, masked));
        if let Some(slot) = self.slots.get(home as usize) {
            prefetch(slot);
        }
        home
    }

    /// The same for a key of one line whose words are at hand: words that were just written are not
    /// read again, which would wait for the writes.
    #[inline]
    pub fn hash_words(&self, words: [u64; 5], masked: &mut Masked) -> u32 {
        let (k, h) = self.mix_words(words);
        *masked = k;
        let home = self.home(folded(h));
        if let Some(slot) = self.slots.get(home as usize) {
            prefetch(slot);
        }
        home
    }

    /// The home of a hash, with the groups that are there.
    #[inline]
    fn home(&self, hash: u32) -> u32 {
        let wide = hash & self.wide;
        let group = if wide < self.groups { wide } else { wide & (self.wide >> 1) };
        group * WAYS + (hash >> HOME_SHIFT)
    }

    #[inline]
    fn mix(&self, key: &PacketKey, masked: &mut Masked) -> u32 {
        let (k, mut h) = self.mix_words(base_words(&key.base));
        if key.base.shape & LINES != 0 {
            h = self.mix_lines(h, key);
        }
        *masked = k;
        folded(h)
    }

    #[inline]
    fn mix_words(&self, w: [u64; 5]) -> (Masked, u64) {
        let m = &self.mask.base;
        let k = [w[0] & m[0], w[1] & m[1], w[2] & m[2], w[3] & m[3], w[4] & m[4]];
        let s = &self.seed;
        let h = fold(k[0] ^ s[0], k[1] ^ s[1]) ^ fold(k[2] ^ s[2], k[3] ^ s[3]);
        (k, fold(h ^ s[4], k[4] ^ s[5]))
    }

    /// What packets with more than a line add. Not inlined: the loop over the common packet stays
    /// short.
    #[inline(never)]
    fn mix_lines(&self, mut h: u64, key: &PacketKey) -> u64 {
        if key.has_l3() {
            h = self.hash_line(h, l3_words(&key.l3), &self.mask.l3);
        }
        if key.has_tunnel() {
            h = self.hash_line(h, tunnel_words(&key.tunnel), &self.mask.tunnel);
        }
        if key.has_stack() {
            h = self.hash_line(h, stack_words(&key.stack), &self.mask.stack);
        }
        h
    }

    #[inline]
    fn hash_line(&self, h: u64, w: &[u64; 8], m: &[u64; 8]) -> u64 {
        let s = &self.seed;
        let a = fold((w[0] & m[0]) ^ s[0], (w[1] & m[1]) ^ s[1]);
        let b = fold((w[2] & m[2]) ^ s[2], (w[3] & m[3]) ^ s[3]);
        let c = fold((w[4] & m[4]) ^ s[4], (w[5] & m[5]) ^ s[5]);
        let d = fold((w[6] & m[6]) ^ s[1], (w[7] & m[7]) ^ s[0]);
        fold(h ^ a ^ b.rotate_left(17), h ^ c ^ d.rotate_left(31) ^ s[2])
    }

    #[inline]
    fn same(&self, at: usize, key: &PacketKey, masked: &Masked) -> bool {
        let Some(slot) = self.slots.get(at) else { return false };
        let k = &slot.key;
        let differs = (k[0] ^ masked[0])
            | (k[1] ^ masked[1])
            | (k[2] ^ masked[2])
            | (k[3] ^ masked[3])
            | (k[4] ^ masked[4]);
        if differs != 0 || slot.traversal == NONE {
            return false;
        }
        key.base.shape & LINES == 0 || self.same_lines(at, key)
    }

    /// Compares what IPv6 and tunnelled packets have beyond the first line. Not inlined: the
    /// loop over the common packet stays short.
    #[inline(never)]
    fn same_lines(&self, at: usize, key: &PacketKey) -> bool {
        (!key.has_l3() || line_same(self.l3.get(at), l3_words(&key.l3), &self.mask.l3))
            && (!key.has_tunnel()
                || line_same(self.tunnel.get(at), tunnel_words(&key.tunnel), &self.mask.tunnel))
            && (!key.has_stack()
                || line_same(self.stack.get(at), stack_words(&key.stack), &self.mask.stack))
    }

    /// The slot that holds this key.
    #[inline]
    pub fn find(&self, home: u32, key: &PacketKey, masked: &Masked) -> Option<u32> {
        if self.same(home as usize, key, masked) {
            Some(home)
        } else {
            self.find_away(home, key, masked)
        }
    }

    /// Looks at the other slots of the group, and at the second group.
    #[inline(never)]
    fn find_away(&self, home: u32, key: &PacketKey, masked: &Masked) -> Option<u32> {
        let beside = group(home).skip(1).find(|at| self.is_at(*at, key, masked));
        beside.or_else(|| self.find_in_group(self.second_home(key), key, masked))
    }

    /// Whether this slot holds this key.
    #[inline]
    pub fn is_at(&self, at: u32, key: &PacketKey, masked: &Masked) -> bool {
        self.same(at as usize, key, masked)
    }

    /// The slot that holds this key, of the four of a group.
    pub fn find_in_group(&self, home: u32, key: &PacketKey, masked: &Masked) -> Option<u32> {
        group(home).find(|at| self.is_at(*at, key, masked))
    }

    /// A slot of the second group that a key's hash names.
    pub fn second_home(&self, key: &PacketKey) -> u32 {
        self.home(second(self.mix(key, &mut Masked::default())))
    }

    /// Asks for the lines of a group.
    pub fn ask_group(&self, home: u32) {
        group(home).filter_map(|at| self.slots.get(at as usize)).for_each(prefetch);
    }

    /// Asks for the lines of a group, but for this one.
    #[inline]
    pub fn ask_beside(&self, home: u32) {
        group(home).skip(1).filter_map(|at| self.slots.get(at as usize)).for_each(prefetch);
    }

    /// An empty slot of this group.
    fn empty(&self, home: u32) -> Option<u32> {
        group(home).find(|at| self.slots[*at as usize].traversal == NONE)
    }

    /// The slot a new entry with this home should take: an empty one while there may be more
    /// entries, else the one longest unused of its groups.
    /// The caller must give back what the slot holds before it calls [`Microflows::fill`].
    pub fn victim(&self, home: u32, key: &PacketKey) -> u32 {
        let again = self.second_home(key);
        if self.live as usize >= self.capacity()
            && let Some(at) = self.oldest(home, again)
        {
            return at;
        }
        let empty = self.empty(home).or_else(|| self.empty(again));
        empty.or_else(|| self.oldest(home, again)).unwrap_or(home)
    }

    /// Of the entries in two groups, the one longest unused.
    fn oldest(&self, home: u32, again: u32) -> Option<u32> {
        let slot = |at: &u32| &self.slots[*at as usize];
        let both = group(home).chain(group(again)).filter(|at| slot(at).traversal != NONE);
        both.min_by_key(|at| slot(at).used)
    }

    /// Empties a slot; gives what it held.
    pub fn take(&mut self, at: u32) -> Option<Slot> {
        let slot = self.slots.get_mut(at as usize).filter(|s| s.traversal != NONE)?;
        let held = *slot;
        *slot = Slot { flags: held.flags & OWES, ..EMPTY };
        self.live -= 1;
        Some(held)
    }

    /// Writes an entry.
    pub fn fill(&mut self, at: u32, key: &PacketKey, masked: &Masked, walk: Kept) {
        let i = at as usize;
        let [a, b, c, _] = self.mix(key, &mut Masked::default()).to_le_bytes();
        let before = self.slots[i];
        self.live += u32::from(before.traversal == NONE);
        self.slots[i] = Slot {
            key: *masked,
            traversal: walk.traversal,
            used: walk.used,
            packets: 0,
            bytes: 0,
            epoch: walk.epoch,
            hash: [a, b, c],
            flags: before.flags & OWES | key.base.shape & LINES,
        };
        if key.has_l3() {
            self.l3[i] = and_line(l3_words(&key.l3), &self.mask.l3);
        }
        if key.has_tunnel() {
            self.tunnel[i] = and_line(tunnel_words(&key.tunnel), &self.mask.tunnel);
        }
        if key.has_stack() {
            self.stack[i] = and_line(stack_words(&key.stack), &self.mask.stack);
        }
    }

    #[inline]
    pub fn slot(&self, at: u32) -> Option<&Slot> {
        self.slots.get(at as usize)
    }

    #[inline]
    pub fn slot_mut(&mut self, at: u32) -> Option<&mut Slot> {
        self.slots.get_mut(at as usize)
    }
}

#[inline]
fn folded(h: u64) -> u32 {
    (h ^ (h >> 32)) as u32 & (SLOTS_MAX as u32 - 1)
}

/// The slots of a group, from this one on.
#[inline]
fn group(home: u32) -> impl Iterator<Item = u32> {
    (0..WAYS).map(move |n| home / WAYS * WAYS + (home + n) % WAYS)
}

/// The hash that names the second group: all bits of the first decide each of it.
#[inline]
fn second(hash: u32) -> u32 {
    hash.wrapping_mul(0x9e37_79b1).rotate_left(13).wrapping_mul(0x85eb_ca6b) >> (32 - HASH_BITS)
}

#[inline]
fn line_same(have: Option<&[u64; 8]>, w: &[u64; 8], m: &[u64; 8]) -> bool {
    let Some(have) = have else { return false };
    let mut differs = 0;
    for i in 0..8 {
        differs |= have[i] ^ (w[i] & m[i]);
    }
    differs == 0
}

fn and_line(w: &[u64; 8], m: &[u64; 8]) -> [u64; 8] {
    std::array::from_fn(|i| w[i] & m[i])
}

#[cfg(test)]
mod tests;
