//! Exact match on the masked packet key: slots of a line each. Where a key's slot is, and how the
//! table grows, is `place`'s.

use super::entry::{EMPTY, Entry, Kept, LINES, Masked, NONE, OF_THE_PLACE};
use super::mask::{KeyMask, base_words, l3_words, stack_words, tunnel_words};
use crate::conntrack::Guess;
use crate::packet::key::PacketKey;
use crate::prefetch::prefetch;
use crate::sys::advise_huge_pages;
use place::{ENTRIES_MAX, GROUPS_MIN, SLOTS_AN_ENTRY, SLOTS_MAX, WAYS};

/// The table.
pub struct Microflows {
    /// Those of the groups that are there; room for all is reserved.
    slots: Vec<Entry>,
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
    /// Entries that came and went, ever.
    changes: u32,
    /// For each group, entries whose first group it is and which are in their second.
    spilled: Box<[u8]>,
    seed: [u64; 6],
    mask: KeyMask,
}

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
            changes: 0,
            spilled: vec![0; groups_max as usize].into(),
            seed,
            mask: KeyMask::ALL,
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

    /// The hash alone.
    pub fn flow_hash(&self, key: &PacketKey) -> u32 {
        self.mix(key, &mut Masked::default())
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

    /// Another number after an entry came or went: what was found before may be elsewhere.
    #[inline]
    pub fn changes(&self) -> u32 {
        self.changes
    }

    /// Empties a slot; gives what it held.
    pub fn take(&mut self, at: u32) -> Option<Entry> {
        let slot = self.slots.get_mut(at as usize).filter(|s| s.traversal != NONE)?;
        let held = *slot;
        *slot = Entry { flags: held.flags & OF_THE_PLACE, ..EMPTY };
        self.live -= 1;
        self.changes = self.changes.wrapping_add(1);
        self.gone(at, held.tag());
        Some(held)
    }

    /// Writes an entry. What the slot holds must have been taken and given back before.
    pub fn fill(&mut self, at: u32, key: &PacketKey, masked: &Masked, walk: Kept) {
        let i = at as usize;
        self.take(at);
        let hash = self.mix(key, &mut Masked::default());
        let [a, b, c, _] = hash.to_le_bytes();
        self.live += 1;
        self.changes = self.changes.wrapping_add(1);
        self.slots[i] = Entry {
            key: *masked,
            traversal: walk.traversal,
            conn: Guess::NONE,
            bytes: 0,
            packets: 0,
            used: walk.used,
            epoch: walk.epoch,
            tag: [a, b, c],
            flags: self.slots[i].flags & OF_THE_PLACE | key.base.shape & LINES,
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
        self.came(at, hash);
    }

    #[inline]
    pub fn slot(&self, at: u32) -> Option<&Entry> {
        self.slots.get(at as usize)
    }

    #[inline]
    pub fn slot_mut(&mut self, at: u32) -> Option<&mut Entry> {
        self.slots.get_mut(at as usize)
    }
}

#[inline]
fn folded(h: u64) -> u32 {
    (h ^ (h >> 32)) as u32 & (SLOTS_MAX as u32 - 1)
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

mod place;
#[cfg(test)]
mod tests;
