//! A handful of rules, best first, compared one after the other.

use crate::packet::key::{FlowKey, Mask};
use std::sync::Arc;

/// A table of at most so many rules takes this form; measured against the tuple space.
pub(super) const FEW: usize = 4;
/// It keeps the form up to so many.
pub(super) const FEW_KEPT: usize = 8;

#[derive(Clone, Copy, Debug)]
struct Word {
    bits: u64,
    value: u64,
    index: u8,
}

#[derive(Clone, Copy, Debug)]
struct Head {
    rank: u64,
    from: u16,
    to: u16,
}

#[derive(Clone, Debug, Default)]
pub(super) struct Few {
    heads: Arc<[Head]>,
    words: Arc<[Word]>,
}

impl Few {
    pub(super) fn new<'a>(rules: impl Iterator<Item = (FlowKey, &'a Mask, u64)>) -> Self {
        let mut few = Self::default();
        rules.for_each(|(value, mask, rank)| few.insert(&value, mask, rank));
        few
    }

    pub(super) fn len(&self) -> usize {
        self.heads.len()
    }

    /// Adds a rule.
    pub(super) fn insert(&mut self, value: &FlowKey, mask: &Mask, rank: u64) {
        let both = mask.words().iter().zip(value.words()).enumerate();
        let new = both.filter(|(_, (bits, _))| **bits != 0).map(|(index, (bits, value))| Word {
            bits: *bits,
            value: *value,
            index: index as u8,
        });
        let from = self.words.len() as u16;
        self.words = self.words.iter().copied().chain(new).collect();
        let new = Head { rank, from, to: self.words.len() as u16 };
        let at = self.heads.partition_point(|h| h.rank > rank);
        let (before, after) = self.heads.split_at(at);
        self.heads = before.iter().copied().chain([new]).chain(after.iter().copied()).collect();
    }

    /// Takes a rule out; false if it is not there.
    pub(super) fn remove(&mut self, rank: u64) -> bool {
        let Some(gone) = self.heads.iter().find(|h| h.rank == rank).copied() else { return false };
        let (from, to) = (usize::from(gone.from), usize::from(gone.to));
        let words = self.words.iter().take(from).chain(self.words.iter().skip(to));
        self.words = words.copied().collect();
        let shift = |n: u16| if n >= gone.to { n - (gone.to - gone.from) } else { n };
        let heads = self.heads.iter().filter(|h| h.rank != rank);
        self.heads = heads.map(|h| Head { from: shift(h.from), to: shift(h.to), ..*h }).collect();
        true
    }

    /// Rank of the best rule that matches.
    #[inline(always)]
    pub(super) fn lookup(&self, key: &FlowKey) -> Option<u64> {
        let k = key.words();
        self.heads
            .iter()
            .find(|h| {
                let words = self.words.get(h.from.into()..h.to.into()).unwrap_or_default();
                let differs = words.iter().fold(0, |acc, w| {
                    let have = k.get(usize::from(w.index)).copied().unwrap_or(0);
                    acc | ((have & w.bits) ^ w.value)
                });
                differs == 0
            })
            .map(|h| h.rank)
    }

    /// Adds to `seen` what shows that no rule better than `found` matches, and that `found` does if
    /// it is one of these.
    pub(super) fn prove(&self, key: &FlowKey, found: Option<u64>, seen: &mut Mask) {
        let (k, seen) = (key.words(), seen.words_mut());
        for h in self.heads.iter().take_while(|h| Some(h.rank) >= found) {
            let words = self.words.get(h.from.into()..h.to.into()).unwrap_or_default();
            let differs = |w: &Word| {
                let have = k.get(usize::from(w.index)).copied().unwrap_or(0);
                (have & w.bits) ^ w.value
            };
            let is_seen =
                |w: &Word| differs(w) & seen.get(usize::from(w.index)).copied().unwrap_or(0) != 0;
            if words.iter().any(is_seen) {
                continue;
            }
            let proof = words.iter().position(|w| differs(w) != 0);
            // Without a difference it is the one found, and all of it counts.
            let proof = proof.map_or(words, |n| words.get(n..=n).unwrap_or_default());
            for w in proof {
                if let Some(word) = seen.get_mut(usize::from(w.index)) {
                    *word |= w.bits;
                }
            }
        }
    }

    pub(super) fn bytes(&self) -> usize {
        size_of_val(&*self.heads) + size_of_val(&*self.words)
    }
}
