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
        let mut rules: Vec<(FlowKey, &Mask, u64)> = rules.collect();
        rules.sort_by_key(|r| u64::MAX - r.2);
        let (mut heads, mut words) = (Vec::new(), Vec::new());
        for (value, mask, rank) in rules {
            let from = words.len() as u16;
            let both = mask.words().iter().zip(value.words()).enumerate();
            words.extend(both.filter(|(_, (bits, _))| **bits != 0).map(
                |(index, (bits, value))| Word { bits: *bits, value: *value, index: index as u8 },
            ));
            heads.push(Head { rank, from, to: words.len() as u16 });
        }
        Self { heads: heads.into(), words: words.into() }
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

    pub(super) fn bytes(&self) -> usize {
        size_of_val(&*self.heads) + size_of_val(&*self.words)
    }
}
