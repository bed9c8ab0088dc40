//! A match as it is kept: the mask shared, the value packed.
//!
//! A key and its mask are 800 bytes, and a table has a hundred thousand matches of a handful of
//! masks. So rules with the same mask share one `Shape`, and each has only the bits that the mask
//! leaves, packed as a subtable stores them (`parts`): 16 bytes for a 5-tuple. Whoever makes
//! many matches keeps their shapes ([`Shape::new`]) and gives each match the one of its mask;
//! matches are equal whether they share or not.

use super::parts::Parts;
use super::{Clause, RuleMatch};
use crate::packet::key::{FlowKey, KEY_WORDS, Mask};
use std::sync::Arc;

/// A mask, ready to pack values under it.
#[derive(Debug)]
pub struct Shape {
    mask: Mask,
    hash: u64,
    parts: Parts,
}

impl Shape {
    pub fn new(mask: &Mask) -> Self {
        Self { mask: *mask, hash: Self::hash_of(mask), parts: Parts::new(mask) }
    }

    pub fn mask(&self) -> &Mask {
        &self.mask
    }

    /// Hash of the mask.
    pub fn hash(&self) -> u64 {
        self.hash
    }

    pub fn hash_of(mask: &Mask) -> u64 {
        mask.words().iter().fold(0, |h, w| {
            let p = u128::from(h ^ w ^ 0x2545_f491_4f6c_dd1d) * 0x9e37_79b9_7f4a_7c15;
            (p as u64) ^ ((p >> 64) as u64)
        })
    }
}

/// Words of a value that lie in the match itself: a 5-tuple and the port of entry.
const INLINE: usize = 3;

/// What few matches have.
#[derive(Clone, Debug, PartialEq, Eq)]
struct More {
    /// The words of the value after the first ones.
    words: Box<[u64]>,
    clauses: Option<Box<[Clause]>>,
}

/// A rule's match, without the words that it leaves open.
#[derive(Clone, Debug)]
pub struct CompactMatch {
    shape: Arc<Shape>,
    words: [u64; INLINE],
    more: Option<Box<More>>,
}

impl PartialEq for CompactMatch {
    fn eq(&self, other: &Self) -> bool {
        self.is_same_match(other) && self.clauses() == other.clauses()
    }
}

impl Eq for CompactMatch {}

impl From<&RuleMatch> for CompactMatch {
    fn from(m: &RuleMatch) -> Self {
        Self::new(Arc::new(Shape::new(&m.mask)), &m.value, m.clauses.clone())
    }
}

impl CompactMatch {
    /// A match under the shape's mask.
    pub fn new(shape: Arc<Shape>, value: &FlowKey, clauses: Option<Box<[Clause]>>) -> Self {
        let packed = shape.parts.pack(value);
        let stored = packed.get(..shape.parts.stored()).unwrap_or_default();
        let words = std::array::from_fn(|n| stored.get(n).copied().unwrap_or(0));
        let rest = stored.get(INLINE..).unwrap_or_default();
        let has_more = !rest.is_empty() || clauses.is_some();
        let more = has_more.then(|| Box::new(More { words: rest.into(), clauses }));
        Self { shape, words, more }
    }

    pub fn shape(&self) -> &Arc<Shape> {
        &self.shape
    }

    /// Shares this shape from now on, if it is of the same mask.
    pub fn share(&mut self, shape: &Arc<Shape>) {
        if shape.mask == self.shape.mask {
            self.shape = shape.clone();
        }
    }

    /// The same match with other clauses.
    #[must_use]
    pub fn with_clauses(&self, clauses: Option<Box<[Clause]>>) -> Self {
        if self.clauses() == clauses.as_deref() {
            return self.clone();
        }
        Self::new(self.shape.clone(), &self.value(), clauses)
    }

    pub fn mask(&self) -> &Mask {
        &self.shape.mask
    }

    pub fn clauses(&self) -> Option<&[Clause]> {
        self.more.as_ref()?.clauses.as_deref()
    }

    /// Whether mask and value are equal, whatever the clauses.
    pub fn is_same_match(&self, other: &Self) -> bool {
        let same_shape =
            Arc::ptr_eq(&self.shape, &other.shape) || self.shape.mask == other.shape.mask;
        same_shape && self.packed().eq(other.packed())
    }

    /// The value as it is packed: equal for equal values under equal masks.
    pub fn packed(&self) -> impl Iterator<Item = u64> {
        let rest = self.more.as_ref().map_or(&[][..], |m| &m.words);
        self.words.into_iter().chain(rest.iter().copied())
    }

    /// The value, spelled out.
    pub fn value(&self) -> FlowKey {
        if self.more.is_none() {
            return self.shape.parts.unpack(&self.words);
        }
        let mut all = [0; KEY_WORDS];
        all.iter_mut().zip(self.packed()).for_each(|(to, word)| *to = word);
        self.shape.parts.unpack(&all)
    }

    /// The match spelled out.
    pub fn full(&self, priority: u16) -> RuleMatch {
        let clauses = self.clauses().map(Box::from);
        RuleMatch { value: self.value(), mask: self.shape.mask, priority, clauses }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::collection::vec;
    use proptest::prelude::*;

    proptest! {
        #![proptest_config(ProptestConfig {
            failure_persistence: None,
            ..ProptestConfig::with_cases(256)
        })]
        /// A few words, many words, with clauses and without: all of it comes back.
        #[test]
        fn a_match_comes_back_as_it_was(
            bits in vec((0..KEY_WORDS, any::<u64>(), any::<u64>()), 0..12),
            n_clauses in 0u8..3, priority in any::<u16>(),
        ) {
            let (mut mask, mut value) = (Mask::ZERO, FlowKey::ZERO);
            for (n, m, v) in bits {
                mask.words_mut()[n] = m;
                value.words_mut()[n] = v;
            }
            let clause = |clause| Clause { id: 7, clause, n_clauses: 3 };
            let clauses = (n_clauses > 0).then(|| (0..n_clauses).map(clause).collect());
            let m = RuleMatch { clauses, ..RuleMatch::new(value, mask, priority) };
            let compact = CompactMatch::from(&m);
            prop_assert_eq!(compact.full(priority), m.clone());
            let again = CompactMatch::from(&m);
            prop_assert_eq!(&compact, &again);
            let more = [clause(0), clause(1), clause(2)].into();
            prop_assert!(compact.with_clauses(Some(more)) != compact);
            // Another value, where there is a bit to differ in.
            let mut other = m.clone();
            if let Some(n) = (0..KEY_WORDS).find(|n| mask.words()[*n] != 0) {
                other.value.words_mut()[n] ^= 1 << mask.words()[n].trailing_zeros();
                prop_assert!(!CompactMatch::from(&other).is_same_match(&compact));
            }
        }
    }

    #[test]
    fn a_match_is_small() {
        assert_eq!(size_of::<CompactMatch>(), 40);
    }
}
