//! The words in which a mask has bits: how they are hashed, compared and stored.
//!
//! A key has forty words, a mask seldom bits in more than six of them, and those words are
//! mostly empty: a 5-tuple has 120 bits in five words. A stored value therefore packs the masked
//! words, each turned left until it fits beside others, and the 5-tuple takes two words.
//!
//! **Hash.** Each masked word is mixed by itself (a product of 128 bits, folded) and the results
//! are added, so that no word waits for the one before it. A hash over some words can be carried
//! on with more of them, which the stages of a subtable use.

use crate::packet::key::{FlowKey, KEY_WORDS, Mask};

/// A masked word of the key, and its place in a stored value.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Part {
    bits: u64,
    seed: u64,
    word: u8,
    /// Word of the stored value.
    to: u8,
    /// Turned left by so much there.
    turn: u8,
}

/// A mask, ready for use.
#[derive(Clone, Debug)]
pub(super) struct Parts {
    list: Box<[Part]>,
    stored: u8,
}

/// A value as stored: at most as many words as the key has.
pub(super) type Stored = [u64; KEY_WORDS];

#[inline(always)]
fn mix(word: u64, seed: u64) -> u64 {
    let p = u128::from(word ^ seed) * 0xd6e8_feb8_6659_fd93;
    (p as u64) ^ ((p >> 64) as u64)
}

/// A hash of a mask itself.
pub(super) fn mask_hash(mask: &Mask) -> u64 {
    mask.words().iter().fold(0, |h, w| {
        let p = u128::from(h ^ w) * 0x9e37_79b9_7f4a_7c15;
        (p as u64) ^ ((p >> 64) as u64)
    })
}

impl Part {
    /// Whether a mask has all its bits.
    #[inline(always)]
    pub(super) fn is_in(&self, mask: &Mask) -> bool {
        let word = mask.words().get(usize::from(self.word)).copied().unwrap_or(0);
        self.bits & !word == 0
    }

    /// What the word adds to the hash of a masked key.
    #[inline(always)]
    pub(super) fn hash(&self, key: &FlowKey) -> u64 {
        let word = key.words().get(usize::from(self.word)).copied().unwrap_or(0);
        mix(word & self.bits, self.seed)
    }
}

impl Parts {
    pub(super) fn new(mask: &Mask) -> Self {
        let mut used = [0u64; KEY_WORDS];
        let mut list = Vec::new();
        for (word, bits) in mask.words().iter().copied().enumerate().filter(|(_, b)| *b != 0) {
            // The first place where it fits; each word of the mask finds one of its own at worst.
            let fits = |used: &[u64; KEY_WORDS]| {
                (0..KEY_WORDS * 8)
                    .map(|n| (n / 8, (n % 8 * 8) as u32))
                    .find(|(to, turn)| used[*to] & bits.rotate_left(*turn) == 0)
            };
            let (to, turn) = fits(&used).unwrap_or((word, 0));
            used[to] |= bits.rotate_left(turn);
            let seed = (word as u64 + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15);
            list.push(Part { bits, seed, word: word as u8, to: to as u8, turn: turn as u8 });
        }
        let stored = used.iter().take_while(|u| **u != 0).count() as u8;
        Self { list: list.into(), stored }
    }

    /// Words of a stored value.
    pub(super) fn stored(&self) -> usize {
        self.stored.into()
    }

    /// Hash of the masked key.
    #[inline(always)]
    pub(super) fn hash(&self, key: &FlowKey) -> u64 {
        self.hash_on(0, key)
    }

    /// Carries the hash of other words on.
    #[inline(always)]
    pub(super) fn hash_on(&self, hash: u64, key: &FlowKey) -> u64 {
        self.list.iter().fold(hash, |h, p| h.wrapping_add(p.hash(key)))
    }

    /// The masked words, each with what it adds to the hash.
    pub(super) fn list(&self) -> &[Part] {
        &self.list
    }

    /// Whether the masked key is what is stored.
    #[inline(always)]
    pub(super) fn equals(&self, stored: &[u64], key: &FlowKey) -> bool {
        let k = key.words();
        self.list.iter().fold(0, |acc, p| {
            let have = stored.get(usize::from(p.to)).copied().unwrap_or(0);
            let word = k.get(usize::from(p.word)).copied().unwrap_or(0);
            acc | ((have.rotate_right(p.turn.into()) ^ word) & p.bits)
        }) == 0
    }

    /// Memory in bytes.
    pub(super) fn bytes(&self) -> usize {
        size_of_val(&*self.list)
    }

    /// Adds the mask to another.
    #[inline]
    pub(super) fn or_into(&self, mask: &mut Mask) {
        for p in &self.list {
            if let Some(word) = mask.words_mut().get_mut(usize::from(p.word)) {
                *word |= p.bits;
            }
        }
    }

    /// The masked key as stored; `stored()` words of it count.
    pub(super) fn pack(&self, key: &FlowKey) -> Stored {
        let mut out = [0; KEY_WORDS];
        for p in &self.list {
            out[usize::from(p.to)] |=
                (key.words()[usize::from(p.word)] & p.bits).rotate_left(p.turn.into());
        }
        out
    }

    /// The masked key that was stored.
    pub(super) fn unpack(&self, stored: &[u64]) -> FlowKey {
        let mut key = FlowKey::ZERO;
        for p in &self.list {
            key.words_mut()[usize::from(p.word)] =
                stored[usize::from(p.to)].rotate_right(p.turn.into()) & p.bits;
        }
        key
    }

    /// `hash` of the key that was stored.
    pub(super) fn hash_stored(&self, stored: &[u64]) -> u64 {
        self.list.iter().fold(0u64, |h, p| {
            let word = stored[usize::from(p.to)].rotate_right(p.turn.into()) & p.bits;
            h.wrapping_add(mix(word, p.seed))
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::collection::vec;
    use proptest::prelude::*;

    #[test]
    fn a_five_tuple_is_stored_in_two_words() {
        let mut m = Mask::ZERO;
        (m.ip_src, m.ip_dst, m.tp_src, m.tp_dst) = (u32::MAX, u32::MAX, u16::MAX, u16::MAX);
        (m.eth_type, m.ip_proto) = (u16::MAX, u8::MAX);
        assert_eq!(Parts::new(&m).stored(), 2);
    }

    proptest! {
        #![proptest_config(ProptestConfig {
            failure_persistence: None,
            ..ProptestConfig::with_cases(256)
        })]
        #[test]
        fn what_is_stored_comes_back(
            bits in vec((0..KEY_WORDS, any::<u64>(), any::<u64>()), 0..KEY_WORDS),
            fill in any::<u64>(), at in 0..KEY_WORDS, bit in 0..64u32,
        ) {
            let (mut mask, mut key) = (Mask::ZERO, FlowKey::ZERO);
            key.words_mut().fill(fill);
            for (n, m, sparse) in bits {
                mask.words_mut()[n] = m & sparse;
                key.words_mut()[n] ^= sparse.rotate_left(7);
            }
            let parts = Parts::new(&mask);
            let packed = parts.pack(&key);
            let stored = &packed[..parts.stored()];
            prop_assert_eq!(parts.unpack(stored), key.and(&mask));
            prop_assert_eq!(parts.hash_stored(stored), parts.hash(&key));
            prop_assert!(parts.equals(stored, &key));
            let mut other = key;
            other.words_mut()[at] ^= 1u64 << bit;
            let differs = (mask.words()[at] >> bit) & 1 == 1;
            prop_assert_eq!(parts.equals(stored, &other), !differs);
        }
    }
}
