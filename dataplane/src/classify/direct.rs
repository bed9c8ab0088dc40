//! One small number decides: an array indexed by it.
//!
//! Tables that split the traffic by port, VLAN or a register have one mask, bits that lie side by
//! side in one word, and values close together. The value less the smallest is the place of the
//! rule's rank. A few rules of another kind, such as one for all that is left, are kept in a list
//! beside.

use super::few::Few;
use crate::packet::key::{FlowKey, Mask};
use std::sync::Arc;

/// Places of the array, at most; and places for each rule.
const PLACES_MAX: usize = 4096;
const PLACES_EACH: usize = 8;
const PLACES_FREE: usize = 64;
/// Rules of another kind, at most, for a table that takes the form and one that has it.
const OTHERS: usize = 4;
const OTHERS_KEPT: usize = 8;

/// Value, mask and rank.
type Rule<'a> = (FlowKey, &'a Mask, u64);

/// Bits side by side in one word of the key.
#[derive(Clone, Copy, Debug)]
struct Number {
    word: u8,
    shift: u8,
    ones: u64,
}

#[derive(Clone, Debug)]
pub(super) struct Direct {
    number: Number,
    mask: Mask,
    /// The number that the first place stands for.
    first: u64,
    /// Ranks, and one more; 0 where no rule is.
    places: Arc<[u64]>,
    rules: usize,
    others: Few,
}

impl Number {
    fn of(mask: &Mask) -> Option<Self> {
        let mut used = mask.words().iter().zip(0..).filter(|(w, _)| **w != 0);
        let (bits, word) = used.next().filter(|_| used.next().is_none())?;
        let shift = bits.trailing_zeros() as u8;
        let ones = bits >> shift;
        (ones & ones.wrapping_add(1) == 0).then_some(Self { word, shift, ones })
    }

    #[inline(always)]
    fn get(self, key: &FlowKey) -> u64 {
        let word = key.words().get(usize::from(self.word)).copied().unwrap_or(0);
        (word >> (self.shift & 63)) & self.ones
    }
}

impl Direct {
    /// `None` if the rules are not of this kind. `masks`: all masks, with their number of rules.
    pub(super) fn new<'a>(
        masks: impl Iterator<Item = (&'a Mask, usize)>,
        rules: impl Iterator<Item = Rule<'a>>,
    ) -> Option<Self> {
        let (mut most, mut all) = (None, 0);
        for (mask, n) in masks {
            all += n;
            if most.is_none_or(|(_, have)| n > have) {
                most = Some((mask, n));
            }
        }
        let (mask, n) = most.filter(|(_, n)| all - n <= OTHERS)?;
        let number = Number::of(mask)?;
        let (own, others): (Vec<Rule<'_>>, Vec<Rule<'_>>) = rules.partition(|r| r.1 == mask);
        let numbers = || own.iter().map(|r| number.get(&r.0));
        let (first, last) = (numbers().min()?, numbers().max()?);
        let places = is_dense(first, last, n).then(|| vec![0; (last - first) as usize + 1])?;
        let mut direct = Self {
            number,
            mask: *mask,
            first,
            places: places.into(),
            rules: 0,
            others: Few::default(),
        };
        for (value, mask, rank) in own.into_iter().chain(others) {
            direct.put(&value, mask, rank);
        }
        (direct.others.len() <= OTHERS).then_some(direct)
    }

    /// Adds a rule whose place is there.
    fn put(&mut self, value: &FlowKey, mask: &Mask, rank: u64) {
        let at = self.number.get(value).wrapping_sub(self.first) as usize;
        // Of equal matches with several priorities one has the place.
        match self.places.get(at) {
            Some(0) if *mask == self.mask => {
                Arc::make_mut(&mut self.places)[at] = rank + 1;
                self.rules += 1;
            }
            _ => self.others.insert(value, mask, rank),
        }
    }

    /// Adds a rule; false if the form does not fit any more.
    #[must_use]
    pub(super) fn insert(&mut self, value: &FlowKey, mask: &Mask, rank: u64) -> bool {
        let number = self.number.get(value);
        let last = self.first + self.places.len() as u64 - 1;
        if *mask == self.mask && !(self.first..=last).contains(&number) {
            let (first, last) = (self.first.min(number), last.max(number));
            if !is_dense(first, last, self.rules + 1) {
                return false;
            }
            let (before, after) = (self.first - first, last + 1 - self.first);
            let free = |n: u64| std::iter::repeat_n(0, n as usize);
            let after = after - self.places.len() as u64;
            let old = self.places.iter().copied();
            self.places = free(before).chain(old).chain(free(after)).collect();
            self.first = first;
        }
        self.put(value, mask, rank);
        self.others.len() <= OTHERS_KEPT
    }

    /// Takes a rule out; false if the form does not fit any more.
    #[must_use]
    pub(super) fn remove(&mut self, value: &FlowKey, mask: &Mask, rank: u64) -> bool {
        let at = self.number.get(value).wrapping_sub(self.first) as usize;
        if *mask != self.mask || self.places.get(at).copied() != Some(rank + 1) {
            return self.others.remove(rank);
        }
        Arc::make_mut(&mut self.places)[at] = 0;
        self.rules -= 1;
        self.rules > 0
    }

    /// Rank of the best rule that matches.
    #[inline(always)]
    pub(super) fn lookup(&self, key: &FlowKey) -> Option<u64> {
        let at = self.number.get(key).wrapping_sub(self.first);
        let own = usize::try_from(at).ok().and_then(|at| self.places.get(at).copied());
        own.unwrap_or(0).checked_sub(1).max(self.others.lookup(key))
    }

    pub(super) fn bytes(&self) -> usize {
        size_of_val(&*self.places) + self.others.bytes()
    }
}

/// Whether an array from one number to another is worth so many rules.
fn is_dense(first: u64, last: u64, rules: usize) -> bool {
    last - first < (PLACES_FREE + PLACES_EACH * rules).min(PLACES_MAX) as u64
}
