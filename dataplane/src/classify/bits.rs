//! Bit vectors: many masks, up to some thousand rules (Lakshman, Stiliadis, SIGCOMM 1998).
//!
//! Rules are sorted, best first, and each has a bit. Each byte of the key in which some mask has
//! bits selects the set of rules that agree with it; the intersection of the sets are the rules
//! that match, and its first bit is the answer. The cost is bytes times rules / 512 and knows
//! nothing of masks: no choice of rules or packets makes it worse.
//!
//! **Classes.** Values of a byte that select the same set share it. A byte of many classes is
//! halved into two nibbles of at most sixteen each, which keeps the sets in the first-level
//! cache. Bits that all rules match alike are compared once, before.
//!
//! **Changes.** A set is expensive to change, so it is not: a rule that leaves loses its bit in
//! the set of the living, and new ones wait in a short list beside. After some of either the
//! whole is built again, from the tuple space.

use super::few::Few;
use crate::packet::key::{FlowKey, KEY_WORDS, Mask};
use std::collections::HashMap;
use std::sync::Arc;

/// Words that are intersected together, and the rules that they are for.
const BLOCK: usize = 8;
const BLOCK_RULES: usize = BLOCK * 64;
/// Rules that the form is given to, and those with which it is kept.
pub(super) const BITS_RULES: usize = 2048;
pub(super) const BITS_RULES_KEPT: usize = 2560;
/// Bytes and nibbles of the key, at most.
const CHUNKS: usize = 48;
/// A byte with more classes is halved.
const CLASSES: usize = 32;
/// Rules that wait, at most.
const WAITING: usize = 16;

type Set = [u64; BLOCK];

/// Value, mask and rank.
type Rule<'a> = (FlowKey, &'a Mask, u64);

/// A byte or nibble of the key.
#[derive(Debug)]
struct Chunk {
    word: u8,
    shift: u8,
    ones: u8,
    /// Place of its first set in a block.
    first: u16,
    /// Class of each value.
    classes: [u8; 256],
}

#[derive(Debug)]
struct Base {
    /// Ranks of the rules, falling.
    ranks: Box<[u64]>,
    /// What all of them match alike, as one rule.
    common: Few,
    chunks: Box<[Chunk]>,
    /// Sets of a block.
    sets_each: usize,
    /// Block by block.
    sets: Box<[Set]>,
}

#[derive(Clone, Debug)]
pub(super) struct Bits {
    base: Arc<Base>,
    /// Best rule that matches all.
    always: Option<u64>,
    living: Arc<[Set]>,
    dead: usize,
    waiting: Arc<[(FlowKey, Mask, u64)]>,
    /// Those that wait, ready for lookups.
    few: Few,
}

impl Bits {
    /// `None` if the rules look at more of the key than the form has room for.
    pub(super) fn new<'a>(rules: impl Iterator<Item = Rule<'a>>) -> Option<Self> {
        let (always, mut rules): (Vec<Rule<'_>>, Vec<Rule<'_>>) =
            rules.partition(|r| *r.1 == Mask::ZERO);
        rules.sort_unstable_by_key(|r| u64::MAX - r.2);
        let (common, value) = common(&rules);
        let mut sets = Sets::new(&rules, &common);
        for word in 0..KEY_WORDS {
            for shift in (0..64).step_by(8) {
                if rules.iter().any(|r| sets.bits(r, word, shift) != 0) {
                    sets.add_byte(word, shift);
                }
            }
        }
        if sets.chunks.len() > CHUNKS {
            return None;
        }
        let mut living = vec![[0; BLOCK]; rules.len().div_ceil(BLOCK_RULES)];
        (0..rules.len()).for_each(|n| set_bit(&mut living, n));
        Some(Self {
            always: always.iter().map(|r| r.2).max(),
            living: living.into(),
            dead: 0,
            waiting: Arc::default(),
            few: Few::default(),
            base: Arc::new(Base {
                ranks: rules.iter().map(|r| r.2).collect(),
                common: Few::new(std::iter::once((value, &common, 0))),
                sets_each: sets.classes.len(),
                sets: sets.by_block(),
                chunks: sets.chunks.into(),
            }),
        })
    }

    /// Adds a rule; false if the form has to be built again.
    #[must_use]
    pub(super) fn insert(&mut self, value: &FlowKey, mask: &Mask, rank: u64) -> bool {
        let all = self.waiting.iter().cloned().chain([(*value, *mask, rank)]);
        self.wait(all.collect());
        self.waiting.len() <= WAITING
    }

    /// Takes a rule out; false if the form has to be built again.
    #[must_use]
    pub(super) fn remove(&mut self, mask: &Mask, rank: u64) -> bool {
        if self.waiting.iter().any(|w| w.2 == rank) {
            self.wait(self.waiting.iter().filter(|w| w.2 != rank).cloned().collect());
            return true;
        }
        if *mask == Mask::ZERO {
            return false;
        }
        let Ok(at) = self.base.ranks.binary_search_by(|r| rank.cmp(r)) else { return false };
        let set = &mut Arc::make_mut(&mut self.living)[at / BLOCK_RULES];
        set[at % BLOCK_RULES / 64] &= !(1 << (at % 64));
        self.dead += 1;
        self.dead <= WAITING + self.base.ranks.len() / 4
    }

    fn wait(&mut self, waiting: Arc<[(FlowKey, Mask, u64)]>) {
        self.few = Few::new(waiting.iter().map(|w| (w.0, &w.1, w.2)));
        self.waiting = waiting;
    }

    /// Rank of the best rule that matches.
    #[inline]
    pub(super) fn lookup(&self, key: &FlowKey) -> Option<u64> {
        self.base.lookup(key, &self.living).max(self.few.lookup(key)).max(self.always)
    }

    pub(super) fn bytes(&self) -> usize {
        size_of_val(&*self.base.ranks)
            + size_of_val(&*self.base.chunks)
            + size_of_val(&*self.base.sets)
            + size_of_val(&*self.living)
            + size_of_val(&*self.waiting)
            + self.few.bytes()
    }
}

impl Base {
    #[inline]
    fn lookup(&self, key: &FlowKey, living: &[Set]) -> Option<u64> {
        self.common.lookup(key)?;
        let k = key.words();
        let mut at = [0u16; CHUNKS];
        for (at, c) in at.iter_mut().zip(&self.chunks) {
            let word = k.get(usize::from(c.word)).copied().unwrap_or(0);
            let v = (word >> (c.shift & 63)) as u8 & c.ones;
            *at = c.first + u16::from(c.classes[usize::from(v)]);
        }
        let at = at.get(..self.chunks.len())?;
        for (n, living) in living.iter().enumerate() {
            let sets = self.sets.get(n * self.sets_each..(n + 1) * self.sets_each)?;
            let mut both = *living;
            for at in at {
                let set = sets.get(usize::from(*at))?;
                both.iter_mut().zip(set).for_each(|(b, s)| *b &= s);
            }
            if let Some((w, bits)) = both.iter().enumerate().find(|(_, b)| **b != 0) {
                let bit = n * BLOCK_RULES + w * 64 + bits.trailing_zeros() as usize;
                return self.ranks.get(bit).copied();
            }
        }
        None
    }
}

/// Bits of the key that every rule asks for, and asks to be alike.
fn common(rules: &[Rule<'_>]) -> (Mask, FlowKey) {
    let Some(first) = rules.first() else { return (Mask::ZERO, FlowKey::ZERO) };
    let mut mask = *first.1;
    for (value, m, _) in rules {
        for (n, word) in mask.words_mut().iter_mut().enumerate() {
            *word &= m.words()[n] & !(value.words()[n] ^ first.0.words()[n]);
        }
    }
    (mask, first.0.and(&mask))
}

fn set_bit(sets: &mut [Set], n: usize) {
    sets[n / BLOCK_RULES][n % BLOCK_RULES / 64] |= 1 << (n % 64);
}

/// The sets while they are made: of each class, all blocks together.
struct Sets<'a> {
    rules: &'a [Rule<'a>],
    common: &'a Mask,
    chunks: Vec<Chunk>,
    classes: Vec<Vec<Set>>,
}

impl<'a> Sets<'a> {
    fn new(rules: &'a [Rule<'a>], common: &'a Mask) -> Self {
        Self { rules, common, chunks: Vec::new(), classes: Vec::new() }
    }

    /// Bits of a byte that a rule asks for and not all do alike.
    fn bits(&self, rule: &Rule<'_>, word: usize, shift: u32) -> u8 {
        ((rule.1.words()[word] & !self.common.words()[word]) >> shift) as u8
    }

    fn add_byte(&mut self, word: usize, shift: u32) {
        let byte = self.chunk(word, shift, 0xff);
        if byte.1.len() <= CLASSES {
            self.add(byte);
        } else {
            let halves = [self.chunk(word, shift, 0x0f), self.chunk(word, shift + 4, 0x0f)];
            halves.into_iter().for_each(|h| self.add(h));
        }
    }

    fn add(&mut self, (mut chunk, mut classes): (Chunk, Vec<Vec<Set>>)) {
        chunk.first = self.classes.len() as u16;
        self.chunks.push(chunk);
        self.classes.append(&mut classes);
    }

    /// A chunk, and the sets of its classes.
    fn chunk(&self, word: usize, shift: u32, ones: u8) -> (Chunk, Vec<Vec<Set>>) {
        let blocks = self.rules.len().div_ceil(BLOCK_RULES);
        // Rules by the bits that they ask for and the value of these.
        let mut groups: Vec<(u8, u8, Vec<Set>)> = Vec::new();
        let mut group_of = vec![u16::MAX; 1 << 16];
        for (n, rule) in self.rules.iter().enumerate() {
            let bits = self.bits(rule, word, shift) & ones;
            let value = (rule.0.words()[word] >> shift) as u8 & bits;
            let group = &mut group_of[(usize::from(bits) << 8) | usize::from(value)];
            if *group == u16::MAX {
                *group = groups.len() as u16;
                groups.push((bits, value, vec![[0; BLOCK]; blocks]));
            }
            set_bit(&mut groups[usize::from(*group)].2, n);
        }
        let mut masks: Vec<u8> = groups.iter().map(|g| g.0).collect();
        masks.sort_unstable();
        masks.dedup();
        let mut chunk =
            Chunk { word: word as u8, shift: shift as u8, ones, first: 0, classes: [0; 256] };
        let mut classes: Vec<Vec<Set>> = Vec::new();
        let mut by_groups: HashMap<Vec<u16>, u8> = HashMap::new();
        for v in 0..=ones {
            let agree = masks.iter().map(|m| group_of[(usize::from(*m) << 8) | usize::from(v & m)]);
            let agree: Vec<u16> = agree.filter(|g| *g != u16::MAX).collect();
            chunk.classes[usize::from(v)] = *by_groups.entry(agree).or_insert_with_key(|agree| {
                let mut set = vec![[0; BLOCK]; blocks];
                for group in agree {
                    let from = groups[usize::from(*group)].2.iter().flatten();
                    set.iter_mut().flatten().zip(from).for_each(|(s, g)| *s |= g);
                }
                classes.push(set);
                (classes.len() - 1) as u8
            });
        }
        (chunk, classes)
    }

    fn by_block(&self) -> Box<[Set]> {
        let blocks = self.rules.len().div_ceil(BLOCK_RULES);
        (0..blocks).flat_map(|b| self.classes.iter().map(move |c| c[b])).collect()
    }
}
