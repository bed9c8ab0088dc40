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
//! the set of the living, and new ones wait in a tuple space of their own. When either are a
//! quarter of all the whole is built again, so that a change pays for the building of four rules.
//!
//! **Bits seen.** The answer depends on the winner's own mask, and on what rules out the better
//! rules: bytes are taken, registers and addresses before ports and high bytes before low, until
//! the intersection of their sets holds no better rule. Bytes that rule nobody out are not taken.

use super::RuleMatch;
use super::few::Few;
use super::parts::Parts;
use super::subtable::{is_transport, rank};
use super::tuples::Tuples;
use crate::packet::key::{FlowKey, KEY_WORDS, Mask};
use std::collections::HashMap;
use std::sync::Arc;

/// Words that are intersected together, and the rules that they are for.
const BLOCK: usize = 8;
const BLOCK_RULES: usize = BLOCK * 64;
/// Rules that the form is given to, and those with which it is kept.
pub(super) const BITS_RULES: usize = 32_768;
pub(super) const BITS_RULES_KEPT: usize = 36_864;
/// Bytes and nibbles of the key, at most.
const CHUNKS: usize = 48;
/// A byte with more classes is halved.
const CLASSES: usize = 32;
/// Rules that wait, and dead ones, at most: so many, and one for each four.
const WAITING: usize = 32;

/// TSC cycles, measured, of a visit to a subtable, of a lookup here without its sets, and of a set.
/// Of the sets half count, since most searches end before the last block.
const SUBTABLE_CYCLES: usize = 40;
const LOOKUP_CYCLES: usize = 60;
const SET_CYCLES: usize = 2;

type Set = [u64; BLOCK];

/// Value, mask and rank.
type Rule<'a> = (FlowKey, &'a Mask, u64);

/// A byte or nibble of the key.
#[derive(Debug)]
struct Chunk {
    word: u8,
    shift: u8,
    ones: u8,
    /// Bits that some rule asks for.
    used: u8,
    /// Place of its first set in a block.
    first: u16,
    /// Class of each value.
    classes: [u8; 256],
}

#[derive(Debug)]
struct Base {
    /// Ranks of the rules, falling.
    ranks: Box<[u64]>,
    /// The different masks, and which is each rule's.
    masks: Box<[Parts]>,
    mask_of: Box<[u16]>,
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
    waiting: Tuples,
}

impl Bits {
    /// `None` if the rules look at more of the key than the form has room for, or if the visit of
    /// as many subtables as there are masks costs less.
    pub(super) fn new<'a>(
        rules: impl Iterator<Item = Rule<'a>>,
        subtables: Option<usize>,
    ) -> Option<Self> {
        let (always, rules): (Vec<Rule<'_>>, Vec<Rule<'_>>) =
            rules.partition(|r| *r.1 == Mask::ZERO);
        let mut order: Vec<(u64, u32)> = rules.iter().map(|r| r.2).zip(0..).collect();
        order.sort_unstable_by_key(|(rank, _)| u64::MAX - rank);
        let rules: Vec<&Rule<'_>> = order.iter().map(|(_, n)| &rules[*n as usize]).collect();
        let (common, value) = common(&rules);
        let mut used = Mask::ZERO;
        rules.iter().for_each(|r| used.or_assign(r.1));
        let bytes: Vec<(usize, u32)> = (0..KEY_WORDS)
            .flat_map(|word| (0..64).step_by(8).rev().map(move |shift| (word, shift)))
            .filter(|(w, shift)| (used.words()[*w] & !common.words()[*w]) >> shift & 0xff != 0)
            .collect();
        // The sets are dear to make: first see whether so many bytes can be worth it.
        let is_dear = |chunks: usize| {
            let sets = chunks * rules.len().div_ceil(BLOCK_RULES);
            let cycles = LOOKUP_CYCLES + SET_CYCLES * sets / 2;
            chunks > CHUNKS || subtables.is_some_and(|n| n * SUBTABLE_CYCLES < cycles)
        };
        if is_dear(bytes.len()) {
            return None;
        }
        let mut sets = Sets::new(&rules, &common);
        bytes.into_iter().for_each(|(word, shift)| sets.add_byte(word, shift));
        if is_dear(sets.chunks.len()) {
            return None;
        }
        sets.chunks.sort_by_key(|c| is_transport(c.word, c.shift));
        let (masks, mask_of) = masks(&rules);
        let mut living = vec![[0; BLOCK]; rules.len().div_ceil(BLOCK_RULES)];
        (0..rules.len()).for_each(|n| set_bit(&mut living, n));
        Some(Self {
            always: always.iter().map(|r| r.2).max(),
            living: living.into(),
            dead: 0,
            waiting: Tuples::default(),
            base: Arc::new(Base {
                ranks: rules.iter().map(|r| r.2).collect(),
                masks,
                mask_of,
                common: Few::new(std::iter::once((value, &common, 0))),
                sets_each: sets.classes.len(),
                sets: sets.by_block(),
                chunks: sets.chunks.into(),
            }),
        })
    }

    /// Adds a rule; false if the form has to be built again.
    #[must_use]
    pub(super) fn insert(&mut self, id: u32, m: &RuleMatch) -> bool {
        self.waiting.insert(id, m);
        self.waiting.len() <= WAITING + self.base.ranks.len() / 4
    }

    /// Takes a rule out; false if the form has to be built again.
    #[must_use]
    pub(super) fn remove(&mut self, id: u32, m: &RuleMatch) -> bool {
        if self.waiting.remove(id, m) {
            return true;
        }
        if m.mask == Mask::ZERO {
            return false;
        }
        let rank = rank(m.priority, id);
        let Ok(at) = self.base.ranks.binary_search_by(|r| rank.cmp(r)) else { return false };
        let set = &mut Arc::make_mut(&mut self.living)[at / BLOCK_RULES];
        set[at % BLOCK_RULES / 64] &= !(1 << (at % 64));
        self.dead += 1;
        self.dead <= WAITING + self.base.ranks.len() / 4
    }

    /// Rank of the best rule that matches.
    #[inline]
    pub(super) fn lookup(&self, key: &FlowKey) -> Option<u64> {
        let best = self.base.lookup(key, &self.living).max(self.always);
        self.waiting.lookup_above(key, best)
    }

    /// As `lookup`; adds to `seen` what the answer depended on.
    pub(super) fn lookup_wild(&self, key: &FlowKey, seen: &mut Mask) -> Option<u64> {
        let best = self.base.lookup(key, &self.living).max(self.always);
        let found = self.waiting.lookup_wild(key, best, seen);
        self.base.prove(key, &self.living, found, seen);
        found
    }

    pub(super) fn bytes(&self) -> usize {
        self.base.ranks.len() * 10
            + self.base.masks.iter().map(Parts::bytes).sum::<usize>()
            + size_of_val(&*self.base.chunks)
            + size_of_val(&*self.base.sets)
            + size_of_val(&*self.living)
            + self.waiting.bytes()
    }
}

impl Chunk {
    /// Place in a block of the set that a key selects.
    #[inline(always)]
    fn select(&self, key: &FlowKey) -> u16 {
        let word = key.words().get(usize::from(self.word)).copied().unwrap_or(0);
        let v = (word >> (self.shift & 63)) as u8 & self.ones;
        self.first + u16::from(self.classes[usize::from(v)])
    }

    /// The bits of its word that some rule asks for.
    fn bits(&self) -> u64 {
        u64::from(self.used) << (self.shift & 63)
    }
}

impl Base {
    /// Adds to `seen` what shows that no rule better than `found` matches, and that `found` does.
    fn prove(&self, key: &FlowKey, living: &[Set], found: Option<u64>, seen: &mut Mask) {
        let end = found.map_or(self.ranks.len(), |f| self.ranks.partition_point(|r| *r > f));
        if found.is_some() && self.ranks.get(end).copied() == found {
            let mask = self.mask_of.get(end).and_then(|m| self.masks.get(usize::from(*m)));
            mask.into_iter().for_each(|m| m.or_into(seen));
        } else if self.common.lookup(key).is_none() {
            self.common.prove(key, None, seen);
            return;
        }
        for (n, living) in living.iter().enumerate().take(end.div_ceil(BLOCK_RULES)) {
            let Some(sets) = self.sets.get(n * self.sets_each..(n + 1) * self.sets_each) else {
                return;
            };
            let mut better = *living;
            for (w, word) in better.iter_mut().enumerate() {
                let below = end.saturating_sub(n * BLOCK_RULES + w * 64).min(64) as u32;
                *word &= u64::MAX.checked_shr(64 - below).unwrap_or(0);
            }
            // What was seen rules out for nothing.
            for is_free in [true, false] {
                for c in &self.chunks {
                    let Some(word) = seen.words_mut().get_mut(usize::from(c.word)) else {
                        continue;
                    };
                    if better == [0; BLOCK] || (c.bits() & !*word == 0) != is_free {
                        continue;
                    }
                    let Some(set) = sets.get(usize::from(c.select(key))) else { continue };
                    let mut left = better;
                    left.iter_mut().zip(set).for_each(|(l, s)| *l &= s);
                    if left != better {
                        *word |= c.bits();
                        better = left;
                    }
                }
            }
        }
    }

    #[inline]
    fn lookup(&self, key: &FlowKey, living: &[Set]) -> Option<u64> {
        self.common.lookup(key)?;
        let mut at = [0u16; CHUNKS];
        at.iter_mut().zip(&self.chunks).for_each(|(at, c)| *at = c.select(key));
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
fn common(rules: &[&Rule<'_>]) -> (Mask, FlowKey) {
    let Some(first) = rules.first() else { return (Mask::ZERO, FlowKey::ZERO) };
    let mut mask = *first.1;
    for (value, m, _) in rules {
        for (n, word) in mask.words_mut().iter_mut().enumerate() {
            *word &= m.words()[n] & !(value.words()[n] ^ first.0.words()[n]);
        }
    }
    (mask, first.0.and(&mask))
}

/// The different masks, and which is each rule's.
fn masks(rules: &[&Rule<'_>]) -> (Box<[Parts]>, Box<[u16]>) {
    let mut masks = Vec::new();
    // Rules of one mask have it from one subtable, so its address will do for a key.
    let mut known: HashMap<*const Mask, u16> = HashMap::new();
    let mut mask_of = Vec::with_capacity(rules.len());
    for r in rules {
        mask_of.push(*known.entry(std::ptr::from_ref(r.1)).or_insert_with(|| {
            masks.push(Parts::new(r.1));
            (masks.len() - 1) as u16
        }));
    }
    (masks.into(), mask_of.into())
}

fn set_bit(sets: &mut [Set], n: usize) {
    sets[n / BLOCK_RULES][n % BLOCK_RULES / 64] |= 1 << (n % 64);
}

/// The sets while they are made: of each class, all blocks together.
struct Sets<'a> {
    rules: &'a [&'a Rule<'a>],
    common: &'a Mask,
    chunks: Vec<Chunk>,
    classes: Vec<Vec<Set>>,
}

/// The rules seen through one byte or nibble.
struct View {
    /// For each different mask there: its bits, and the group of each value.
    masks: Vec<(u8, [u16; 256])>,
    /// Group of each rule: those of one mask and value.
    group_of: Vec<u16>,
    groups: usize,
}

const NO_GROUP: u16 = u16::MAX;

impl View {
    fn new(parts: impl Iterator<Item = (u8, u8)>) -> Self {
        let mut view = Self { masks: Vec::new(), group_of: Vec::new(), groups: 0 };
        for (bits, value) in parts {
            let known = view.masks.iter().position(|m| m.0 == bits);
            let at = known.unwrap_or_else(|| {
                view.masks.push((bits, [NO_GROUP; 256]));
                view.masks.len() - 1
            });
            let group = &mut view.masks[at].1[usize::from(value)];
            if *group == NO_GROUP {
                *group = view.groups as u16;
                view.groups += 1;
            }
            view.group_of.push(*group);
        }
        view
    }

    /// Class of each value, and the groups that agree with each class.
    fn classes(&self, ones: u8) -> ([u8; 256], Vec<Vec<u16>>) {
        let mut class_of = [0; 256];
        let mut classes: Vec<Vec<u16>> = Vec::new();
        let mut known: HashMap<Vec<u16>, u8> = HashMap::new();
        let mut agree = Vec::new();
        for v in 0..=ones {
            agree.clear();
            agree.extend(self.masks.iter().map(|(bits, group)| group[usize::from(v & bits)]));
            let last = v.checked_sub(1).map(|last| class_of[usize::from(last)]);
            class_of[usize::from(v)] = match last {
                Some(last) if classes[usize::from(last)] == agree => last,
                _ => *known.entry(agree.clone()).or_insert_with(|| {
                    classes.push(agree.clone());
                    (classes.len() - 1) as u8
                }),
            };
        }
        (class_of, classes)
    }
}

impl<'a> Sets<'a> {
    fn new(rules: &'a [&'a Rule<'a>], common: &'a Mask) -> Self {
        Self { rules, common, chunks: Vec::new(), classes: Vec::new() }
    }

    fn add_byte(&mut self, word: usize, shift: u32) {
        if !self.add(word, shift, 0xff, CLASSES) {
            for shift in [shift + 4, shift] {
                self.add(word, shift, 0x0f, 16);
            }
        }
    }

    /// Adds a chunk, unless it has too many classes.
    fn add(&mut self, word: usize, shift: u32, ones: u8, classes_max: usize) -> bool {
        let may = !self.common.words()[word];
        let view = View::new(self.rules.iter().map(|r| {
            let bits = ((r.1.words()[word] & may) >> shift) as u8 & ones;
            (bits, (r.0.words()[word] >> shift) as u8 & bits)
        }));
        let (class_of, classes) = view.classes(ones);
        if classes.len() > classes_max {
            return false;
        }
        let blocks = self.rules.len().div_ceil(BLOCK_RULES);
        let mut groups = vec![[0; BLOCK]; view.groups * blocks];
        for (n, group) in view.group_of.iter().enumerate() {
            set_bit(&mut groups[usize::from(*group) * blocks..][..blocks], n);
        }
        let first = self.classes.len() as u16;
        let used = view.masks.iter().fold(0, |all, m| all | m.0);
        let (word, shift) = (word as u8, shift as u8);
        self.chunks.push(Chunk { word, shift, ones, used, first, classes: class_of });
        for agree in classes {
            let mut set = vec![[0; BLOCK]; blocks];
            for group in agree.into_iter().filter(|g| *g != NO_GROUP) {
                let from = &groups[usize::from(group) * blocks..][..blocks];
                set.iter_mut().flatten().zip(from.iter().flatten()).for_each(|(s, g)| *s |= g);
            }
            self.classes.push(set);
        }
        true
    }

    fn by_block(&self) -> Box<[Set]> {
        let blocks = self.rules.len().div_ceil(BLOCK_RULES);
        (0..blocks).flat_map(|b| self.classes.iter().map(move |c| c[b])).collect()
    }
}
