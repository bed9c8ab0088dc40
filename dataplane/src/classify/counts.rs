//! Which prefixes or partial values a table has, and how often: sets that forget.
//!
//! There are several of these for each match, so a count is one word: a number made of what is
//! counted, and how often that is. Words below `2^WORD_BITS` have each a number of their own.
//! Others may share one and are then counted together: `contains` says yes too often, once in
//! millions, never no.

use super::pages::{PAYLOAD_BITS_BARE, Pages};
use crate::limits::RULES_PER_TABLE_MAX;

/// How often each of some words was counted: which prefixes or partial values there are.
#[derive(Clone, Debug)]
pub(super) struct Counts(Pages<PAYLOAD_BITS_BARE>);

/// Bits of the number of a word: those of a mark, less one that is always set.
pub(super) const WORD_BITS: u32 = 64 - PAYLOAD_BITS_BARE - 1;

const _: () = assert!((RULES_PER_TABLE_MAX as u64) < 1 << PAYLOAD_BITS_BARE, "so often at most");

/// The hash of a counted word. It follows from its upper half, which the mark keeps.
#[inline(always)]
fn mix(word: u64) -> u64 {
    const ONES: u64 = (1 << WORD_BITS) - 1;
    let mut n = word;
    if n > ONES {
        let p = u128::from(n ^ 0x9e37_79b9_7f4a_7c15) * 0xd6e8_feb8_6659_fd93;
        n = ((p as u64) ^ ((p >> 64) as u64)) & ONES;
    }
    // Each step has an inverse, so that different numbers stay different.
    n = n.wrapping_mul(0x9e37_79b9_7f4a_7c15) & ONES;
    n ^= n >> (WORD_BITS / 2);
    n = n.wrapping_mul(0xd6e8_feb8_6659_fd93) & ONES;
    n ^= n >> (WORD_BITS / 2);
    hash_of(n << (PAYLOAD_BITS_BARE + 1))
}

/// The hash of what has this mark.
#[inline(always)]
fn hash_of(mark: u64) -> u64 {
    let tag = mark >> PAYLOAD_BITS_BARE | 1;
    tag << PAYLOAD_BITS_BARE | mark >> (64 - PAYLOAD_BITS_BARE)
}

impl Counts {
    pub(super) fn new() -> Self {
        Self(Pages::new(0))
    }

    #[inline]
    pub(super) fn contains(&self, word: u64) -> bool {
        self.0.find(mix(word), |_| true).is_some()
    }

    /// Counts many words, where nothing was counted before.
    pub(super) fn fill(&mut self, mut words: Vec<u64>) {
        words.iter_mut().for_each(|w| *w = mix(*w));
        words.sort_unstable();
        let runs = words.chunk_by(|a, b| a == b);
        let list: Vec<(u64, u64, &[u64])> =
            runs.map(|run| (run[0], run.len() as u64, &[][..])).collect();
        for n in self.0.fill(&list) {
            let (hash, count, _) = list[n];
            self.0.insert(hash, count, &[], &|mark, _| hash_of(mark));
        }
    }

    /// Counts one more; true if it is the first.
    pub(super) fn add(&mut self, word: u64) -> bool {
        let hash = mix(word);
        let have = self.0.find(hash, |_| true);
        match have {
            Some(n) => self.0.set(hash, |_| true, n + 1),
            None => self.0.insert(hash, 1, &[], &|mark, _| hash_of(mark)),
        }
        have.is_none()
    }

    /// Counts one less; true if it was the last.
    pub(super) fn sub(&mut self, word: u64) -> bool {
        let hash = mix(word);
        match self.0.find(hash, |_| true) {
            Some(n) if n > 1 => self.0.set(hash, |_| true, n - 1),
            Some(_) => return self.0.remove(hash, |_| true, &|mark, _| hash_of(mark)).is_some(),
            None => {}
        }
        false
    }

    pub(super) fn bytes(&self) -> usize {
        self.0.bytes()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::collection::vec;
    use proptest::prelude::*;
    use std::collections::BTreeMap;

    proptest! {
        #![proptest_config(ProptestConfig {
            failure_persistence: None,
            ..ProptestConfig::with_cases(32)
        })]
        /// Words that have numbers of their own, against a map.
        #[test]
        fn counts_as_a_map_does(
            first in vec(0u64..1500, 0..2000), high in 0u64..1 << (WORD_BITS - 11),
            steps in vec((0u64..1500, any::<bool>()), 0..2000),
        ) {
            let word = |n: u64| n | high << 11;
            let (mut counts, mut model) = (Counts::new(), BTreeMap::<u64, u64>::new());
            first.iter().for_each(|n| *model.entry(*n).or_default() += 1);
            counts.fill(first.into_iter().map(word).collect());
            for (n, is_add) in steps {
                let have = model.get(&n).copied().unwrap_or(0);
                if is_add {
                    prop_assert_eq!(counts.add(word(n)), have == 0);
                    model.insert(n, have + 1);
                } else {
                    prop_assert_eq!(counts.sub(word(n)), have == 1);
                    model.insert(n, have.saturating_sub(1));
                }
            }
            for n in 0..2048 {
                let has = model.get(&n).is_some_and(|have| *have > 0);
                prop_assert_eq!(counts.contains(word(n)), has, "{}", n);
            }
        }
    }

    #[test]
    fn what_has_no_number_of_its_own_is_never_missed() {
        let words: Vec<u64> =
            (0..5000u64).map(|n| (n + 1).wrapping_mul(0x9e37_79b9_97f4_a7c5)).collect();
        let mut counts = Counts::new();
        counts.fill(words[..2500].to_vec());
        words[2500..].iter().for_each(|w| {
            counts.add(*w);
        });
        assert!(words.iter().all(|w| counts.contains(*w)));
        words.iter().for_each(|w| {
            counts.sub(*w);
        });
        assert!(!words.iter().any(|w| counts.contains(*w)));
    }
}
