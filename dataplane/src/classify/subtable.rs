//! One mask: a hash table from masked key to the best rule with exactly that match.
//!
//! Open addressing with linear probing, at most half full, built once and never changed; a
//! slot is the hash's upper half as a tag and the rule's number. The tag spares most compares
//! of full matches.

use crate::packet::key::{FlowKey, Mask};

const EMPTY: u32 = u32::MAX;

#[derive(Clone, Copy, Debug)]
struct Slot {
    tag: u32,
    rule: u32,
}

/// The best rule of one subtable for one match.
#[derive(Clone, Copy, Debug)]
struct Entry {
    rule: u32,
    priority: u16,
}

/// A word of the key in which the mask has bits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct MaskWord {
    index: u8,
    bits: u64,
}

#[derive(Debug)]
pub(super) struct Subtable {
    words: Box<[MaskWord]>,
    pub(super) priority_max: u16,
    /// Lowest rule number among those of the highest priority: see "two rules" in the room's head.
    slots: Box<[Slot]>,
    entries: Box<[Entry]>,
    /// `words.len()` masked words per entry.
    values: Box<[u64]>,
}

#[inline]
fn mix(h: u64, w: u64) -> u64 {
    let p = u128::from(h ^ w) * 0x9e37_79b9_7f4a_7c15;
    (p as u64) ^ ((p >> 64) as u64)
}

fn mask_words(mask: &Mask) -> Box<[MaskWord]> {
    mask.words()
        .iter()
        .enumerate()
        .filter(|(_, bits)| **bits != 0)
        .map(|(i, bits)| MaskWord { index: i as u8, bits: *bits })
        .collect()
}

impl Subtable {
    /// `rules`: (masked value, priority, number), all of this mask, best first.
    pub(super) fn new(mask: &Mask, rules: &[(&FlowKey, u16, u32)]) -> Self {
        let words = mask_words(mask);
        let capacity = (rules.len() * 2).next_power_of_two().max(2);
        let mut sub = Self {
            words,
            priority_max: rules.iter().map(|r| r.1).max().unwrap_or(0),
            slots: vec![Slot { tag: 0, rule: EMPTY }; capacity].into(),
            entries: Box::default(),
            values: Box::default(),
        };
        let (mut entries, mut values) = (Vec::new(), Vec::new());
        for (value, priority, rule) in rules {
            sub.insert(
                value,
                Entry { rule: *rule, priority: *priority },
                &mut entries,
                &mut values,
            );
        }
        sub.entries = entries.into();
        sub.values = values.into();
        sub
    }

    fn insert(
        &mut self,
        value: &FlowKey,
        e: Entry,
        entries: &mut Vec<Entry>,
        values: &mut Vec<u64>,
    ) {
        let masked: Vec<u64> =
            self.words.iter().map(|w| value.words()[w.index as usize] & w.bits).collect();
        let hash = self.hash(value);
        let wrap = self.slots.len() - 1;
        let mut at = hash as usize & wrap;
        while self.slots[at].rule != EMPTY {
            let have = self.slots[at].rule as usize;
            let n = self.words.len();
            if values[have * n..][..n] == masked[..] {
                return; // an equal match of higher priority is there already
            }
            at = (at + 1) & wrap;
        }
        self.slots[at] = Slot { tag: (hash >> 32) as u32, rule: entries.len() as u32 };
        entries.push(e);
        values.extend(masked);
    }

    pub(super) fn bytes(&self) -> usize {
        self.slots.len() * size_of::<Slot>()
            + self.entries.len() * size_of::<Entry>()
            + self.values.len() * size_of::<u64>()
    }

    #[inline]
    fn hash(&self, key: &FlowKey) -> u64 {
        let k = key.words();
        self.words.iter().fold(0x51ce_5eed, |h, w| {
            mix(h, k.get(w.index as usize).copied().unwrap_or(0) & w.bits)
        })
    }

    #[inline]
    fn equals(&self, entry: usize, key: &FlowKey) -> bool {
        let n = self.words.len();
        let Some(values) = self.values.get(entry * n..entry * n + n) else { return false };
        let k = key.words();
        self.words.iter().zip(values).fold(0, |acc, (w, v)| {
            acc | ((k.get(w.index as usize).copied().unwrap_or(0) & w.bits) ^ v)
        }) == 0
    }

    /// The rule of this mask that matches, with its priority.
    #[inline]
    pub(super) fn lookup(&self, key: &FlowKey) -> Option<(u32, u16)> {
        let hash = self.hash(key);
        let tag = (hash >> 32) as u32;
        let wrap = self.slots.len() - 1;
        let mut at = hash as usize & wrap;
        loop {
            let slot = self.slots.get(at)?;
            if slot.rule == EMPTY {
                return None;
            }
            if slot.tag == tag && self.equals(slot.rule as usize, key) {
                return self.entries.get(slot.rule as usize).map(|e| (e.rule, e.priority));
            }
            at = (at + 1) & wrap;
        }
    }
}
