//! Exact match on the masked packet key: two-slot buckets of 64-byte lines.

use crate::packet::key::{KeyBase, KeyL3, KeyStack, KeyTunnel, PacketKey, shape};
use crate::prefetch::prefetch;

/// Which bits of a packet's key the program can see.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct KeyMask {
    pub base: [u64; 5],
    pub l3: [u64; 8],
    pub tunnel: [u64; 8],
    pub stack: [u64; 8],
}

impl KeyMask {
    /// Everything matters.
    pub const ALL: Self = Self {
        base: [u64::MAX; 5],
        l3: [u64::MAX; 8],
        tunnel: [u64::MAX; 8],
        stack: [u64::MAX; 8],
    };

    /// The bits that one of two masks has.
    pub fn or(&self, other: &Self) -> Self {
        Self {
            base: std::array::from_fn(|i| self.base[i] | other.base[i]),
            l3: std::array::from_fn(|i| self.l3[i] | other.l3[i]),
            tunnel: std::array::from_fn(|i| self.tunnel[i] | other.tunnel[i]),
            stack: std::array::from_fn(|i| self.stack[i] | other.stack[i]),
        }
    }

    /// From a mask in packet form.
    pub fn new(mask: &PacketKey) -> Self {
        Self {
            base: base_words(&mask.base),
            l3: *l3_words(&mask.l3),
            tunnel: *tunnel_words(&mask.tunnel),
            stack: *stack_words(&mask.stack),
        }
    }
}

#[inline]
fn base_words(b: &KeyBase) -> [u64; 5] {
    zerocopy::transmute!(*b)
}

#[inline]
fn l3_words(b: &KeyL3) -> &[u64; 8] {
    zerocopy::transmute_ref!(b)
}

#[inline]
fn tunnel_words(b: &KeyTunnel) -> &[u64; 8] {
    zerocopy::transmute_ref!(b)
}

#[inline]
fn stack_words(b: &KeyStack) -> &[u64; 8] {
    zerocopy::transmute_ref!(b)
}

impl Default for KeyMask {
    fn default() -> Self {
        Self::ALL
    }
}

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
    /// Set while the slot is in the list of slots that owe counts.
    pub owes: bool,
}

const _: () = assert!(size_of::<Slot>() == 64);

const EMPTY: Slot =
    Slot { key: [0; 5], traversal: NONE, used: 0, packets: 0, bytes: 0, epoch: 0, owes: false };

/// The table. All memory is taken at start; pages that are never touched cost nothing.
pub struct Microflows {
    slots: Box<[Slot]>,
    l3: Box<[[u64; 8]]>,
    tunnel: Box<[[u64; 8]]>,
    stack: Box<[[u64; 8]]>,
    /// Bits of the bucket number.
    bucket_mask: u32,
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
    /// `entries`: a power of two, at least 2. `seed` must be unknown to senders, or they can
    /// aim at one bucket.
    pub fn new(entries: usize, seed: u64) -> Self {
        let entries = entries.next_power_of_two().max(2);
        let mut s = seed;
        let seed = std::array::from_fn(|_| {
            s = s.wrapping_add(0x9e37_79b9_7f4a_7c15);
            fold(s ^ 0xe703_7ed1_a0b4_28db, s | 1) | 1
        });
        Self {
            slots: vec![EMPTY; entries].into(),
            l3: vec![[0; 8]; entries].into(),
            tunnel: vec![[0; 8]; entries].into(),
            stack: vec![[0; 8]; entries].into(),
            bucket_mask: (entries / 2 - 1) as u32,
            seed,
            mask: KeyMask::ALL,
        }
    }

    pub fn capacity(&self) -> usize {
        self.slots.len()
    }

    pub fn set_mask(&mut self, mask: KeyMask) {
        self.mask = mask;
    }

    /// Masks and hashes a key, and asks for its bucket's lines. Returns the bucket.
    #[inline]
    pub fn hash(&self, key: &PacketKey, masked: &mut Masked) -> u32 {
        let w = base_words(&key.base);
        let m = &self.mask.base;
        let k = [w[0] & m[0], w[1] & m[1], w[2] & m[2], w[3] & m[3], w[4] & m[4]];
        let s = &self.seed;
        let mut h = fold(k[0] ^ s[0], k[1] ^ s[1]) ^ fold(k[2] ^ s[2], k[3] ^ s[3]);
        h = fold(h ^ s[4], k[4] ^ s[5]);
        if key.has_l3() {
            h = self.hash_line(h, l3_words(&key.l3), &self.mask.l3);
        }
        if key.has_tunnel() {
            h = self.hash_line(h, tunnel_words(&key.tunnel), &self.mask.tunnel);
        }
        if key.has_stack() {
            h = self.hash_line(h, stack_words(&key.stack), &self.mask.stack);
        }
        *masked = k;
        let bucket = (h ^ (h >> 32)) as u32 & self.bucket_mask;
        if let Some(slot) = self.slots.get(bucket as usize * 2) {
            prefetch(slot);
        }
        bucket
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
        let more = shape::L3 | shape::TUNNEL | shape::STACK;
        let one_line = key.base.shape & more == 0;
        one_line || self.same_lines(at, key)
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
    pub fn find(&self, bucket: u32, key: &PacketKey, masked: &Masked) -> Option<u32> {
        let first = bucket as usize * 2;
        if self.same(first, key, masked) {
            Some(first as u32)
        } else if self.same(first + 1, key, masked) {
            Some(first as u32 + 1)
        } else {
            None
        }
    }

    /// The slot a new entry of this bucket should take: an empty one, else the longer unused. The
    /// caller must give back what the slot holds before it calls [`Microflows::fill`].
    pub fn victim(&self, bucket: u32) -> u32 {
        let first = bucket * 2;
        let (a, b) = (&self.slots[first as usize], &self.slots[first as usize + 1]);
        if a.traversal == NONE || (b.traversal != NONE && a.used <= b.used) {
            first
        } else {
            first + 1
        }
    }

    /// Writes an entry.
    pub fn fill(&mut self, at: u32, key: &PacketKey, masked: &Masked, walk: Kept) {
        let i = at as usize;
        let owes = self.slots[i].owes;
        self.slots[i] = Slot {
            key: *masked,
            traversal: walk.traversal,
            used: walk.used,
            packets: 0,
            bytes: 0,
            epoch: walk.epoch,
            owes,
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
mod tests {
    use super::*;
    use crate::packet::key::shape;

    fn key(n: u8) -> PacketKey {
        let mut k = PacketKey::default();
        k.base.ip_src = [10, 0, 0, n];
        k
    }

    fn kept(traversal: u32, used: u32) -> Kept {
        Kept { traversal, used, epoch: 1 }
    }

    #[test]
    fn found_after_fill_and_not_before() {
        let mut t = Microflows::new(64, 1);
        let (k, mut m) = (key(1), Masked::default());
        let b = t.hash(&k, &mut m);
        assert_eq!(t.find(b, &k, &m), None);
        let at = t.victim(b);
        t.fill(at, &k, &m, kept(7, 1));
        assert_eq!(t.find(b, &k, &m), Some(at));
        let (k2, mut m2) = (key(2), Masked::default());
        let b2 = t.hash(&k2, &mut m2);
        assert_eq!(t.find(b2, &k2, &m2), None);
    }

    #[test]
    fn masked_bits_do_not_tell_packets_apart() {
        let mut t = Microflows::new(64, 1);
        let mut mask =
            PacketKey { base: Default::default(), l3: Default::default(), ..Default::default() };
        mask.base.ip_src = [255, 255, 255, 0];
        t.set_mask(KeyMask::new(&mask));
        let (mut m1, mut m2) = (Masked::default(), Masked::default());
        let (b1, b2) = (t.hash(&key(1), &mut m1), t.hash(&key(2), &mut m2));
        assert_eq!((b1, m1), (b2, m2));
    }

    #[test]
    fn the_second_line_counts_when_the_shape_says_so() {
        let mut t = Microflows::new(64, 1);
        let (mut a, mut b) = (key(1), key(1));
        a.base.shape = shape::L3;
        b.base.shape = shape::L3;
        b.l3.ipv6_dst[15] = 1;
        let (mut ma, mut mb) = (Masked::default(), Masked::default());
        let ba = t.hash(&a, &mut ma);
        let at = t.victim(ba);
        t.fill(at, &a, &ma, kept(3, 1));
        let bb = t.hash(&b, &mut mb);
        assert_eq!(t.find(ba, &b, &mb), None);
        assert!(ba != bb || t.find(bb, &a, &ma).is_some());
    }

    #[test]
    fn the_older_of_two_is_the_victim() {
        let mut t = Microflows::new(2, 1);
        let mut m = Masked::default();
        for n in 1..=2 {
            let b = t.hash(&key(n), &mut m);
            let at = t.victim(b);
            t.fill(at, &key(n), &m, kept(n as u32, 10 - n as u32));
        }
        let b = t.hash(&key(3), &mut m);
        let at = t.victim(b);
        assert_eq!(t.slot(at).map(|s| s.traversal), Some(2), "used at tick 8, the other at 9");
    }
}
