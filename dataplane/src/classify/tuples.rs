//! Tuple space: subtables in falling order of the highest priority in them.

use super::RuleMatch;
use super::parts::mask_hash;
use super::prefix::{Limits, Prefixes, TRACKED};
use super::rule::AnyMatch;
use super::sieve::{Hashes, Sieve, TERMS_FEW, TERMS_MAX, Terms};
use super::subtable::{Subtable, priority_of, rank};
use crate::packet::key::{FlowKey, Mask};
use std::collections::HashMap;
use std::sync::Arc;

/// With so many masks a sieve pays; it stays down to the second.
const MASKS_SIEVE: usize = 4;
const MASKS_SIEVE_KEPT: usize = 3;
/// Subtables that are looked up in the sieve at once; a bit of a word for each.
const CHUNK: usize = 64;

#[derive(Clone, Debug)]
struct Entry {
    /// Of the subtable; here so that the end of a search needs no load.
    bound: u16,
    /// How the hash of a key under its mask is put together.
    terms: Terms,
    /// Of the prefixes in its mask.
    lengths: [u8; TRACKED],
    mask_hash: u64,
    subtable: Arc<Subtable>,
}

#[derive(Clone, Debug, Default)]
pub(super) struct Tuples {
    order: Arc<[Entry]>,
    /// There with some masks or more.
    sieve: Option<Sieve>,
    /// More than half of all rules are in the first subtable: it mostly answers, and is asked
    /// before the sieve.
    leads: bool,
    prefixes: Prefixes,
    len: usize,
}

impl Entry {
    fn new(subtable: Subtable) -> Self {
        let (bound, mask_hash) = (subtable.bound(), mask_hash(subtable.mask()));
        let (terms, lengths) = (Terms::default(), *subtable.lengths());
        Self { bound, terms, lengths, mask_hash, subtable: Arc::new(subtable) }
    }

    /// The hash of a key under the mask.
    #[inline(always)]
    fn hash<const N: usize>(&self, hashes: &Hashes<N>, key: &FlowKey) -> u64 {
        hashes.of(self.terms).unwrap_or_else(|| self.subtable.hash(key))
    }
}

impl Tuples {
    pub(super) fn build<'a>(rules: impl Iterator<Item = (u32, AnyMatch<'a>)>) -> Self {
        let mut groups: Vec<(&Mask, Vec<(AnyMatch<'a>, u64)>)> = Vec::new();
        let mut by_mask: HashMap<&[u64], usize> = HashMap::new();
        let mut at = 0;
        for (id, m) in rules {
            let mask = m.mask();
            // Rules of one mask mostly come one after the other, and share it.
            if groups.get(at).is_none_or(|g| !std::ptr::eq(g.0, mask) && g.0 != mask) {
                at = *by_mask.entry(mask.words()).or_insert_with(|| {
                    groups.push((mask, Vec::new()));
                    groups.len() - 1
                });
            }
            groups[at].1.push((m, rank(m.priority(), id)));
        }
        drop(by_mask);
        let mut tuples = Self::default();
        let mut entries: Vec<Entry> = Vec::new();
        let mut matches: Vec<(AnyMatch<'a>, [u8; TRACKED])> = Vec::new();
        for (mask, rules) in groups {
            let mut subtable = Subtable::new(mask);
            let lengths = *subtable.lengths();
            tuples.len += rules.len();
            matches.extend(subtable.fill(rules).into_iter().map(|v| (v, lengths)));
            entries.push(Entry::new(subtable));
        }
        tuples.prefixes.fill(matches.into_iter().map(|(m, lengths)| (m.value(), lengths)));
        entries.sort_by_key(|e| u16::MAX - e.bound);
        tuples.order = entries.into();
        tuples.fit_sieve();
        tuples
    }

    /// Makes a sieve if there are many masks and none is there, and drops it if there are few.
    fn fit_sieve(&mut self) {
        let leads = |e: &Entry| e.subtable.len() * 2 > self.len;
        self.leads = self.order.first().is_some_and(leads);
        match &self.sieve {
            None if self.order.len() >= MASKS_SIEVE => {}
            Some(_) if self.order.len() < MASKS_SIEVE_KEPT => {
                self.sieve = None;
                return;
            }
            _ => return,
        }
        let mut sieve = Sieve::new();
        for e in Arc::make_mut(&mut self.order) {
            e.terms = sieve.terms_of(e.subtable.mask());
        }
        self.fill_sieve(sieve);
    }

    fn fill_sieve(&mut self, mut sieve: Sieve) {
        sieve.clear(self.len);
        for e in self.order.iter() {
            e.subtable.hashes().for_each(|h| sieve.add(h, e.mask_hash));
        }
        self.sieve = Some(sieve);
    }

    fn position(&self, mask: &Mask) -> Option<usize> {
        let hash = mask_hash(mask);
        self.order.iter().position(|e| e.mask_hash == hash && e.subtable.mask() == mask)
    }

    /// Rank of the rule with exactly this match and priority.
    pub(super) fn rank_of(&self, m: &RuleMatch) -> Option<u64> {
        let subtable = &self.order[self.position(&m.mask)?].subtable;
        subtable.matches(&m.value).find(|r| priority_of(*r) == m.priority)
    }

    /// Adds a rule.
    pub(super) fn insert(&mut self, id: u32, m: &RuleMatch) {
        let at = self.position(&m.mask).unwrap_or_else(|| {
            let mut new = Entry::new(Subtable::new(&m.mask));
            new.terms = self.sieve.as_mut().map_or(Terms::default(), |s| s.terms_of(&m.mask));
            self.order = self.order.iter().cloned().chain([new]).collect();
            self.order.len() - 1
        });
        let entry = &mut Arc::make_mut(&mut self.order)[at];
        let subtable = Arc::make_mut(&mut entry.subtable);
        if subtable.insert(&m.value, rank(m.priority, id)) {
            self.prefixes.add(&m.value, subtable.lengths());
            let hash = subtable.hash(&m.value);
            self.sieve.iter_mut().for_each(|s| s.add(hash, entry.mask_hash));
        }
        self.len += 1;
        self.settle(at);
        self.follow();
    }

    /// Sees to the sieve after a change.
    fn follow(&mut self) {
        if let Some(worn) = self.sieve.take_if(|s| s.is_worn()) {
            self.fill_sieve(worn);
        }
        self.fit_sieve();
    }

    /// Takes a rule out; false if it is not there.
    pub(super) fn remove(&mut self, id: u32, m: &RuleMatch) -> bool {
        let rank = rank(m.priority, id);
        let Some(at) = self.position(&m.mask).filter(|_| self.rank_of(m) == Some(rank)) else {
            return false;
        };
        let entry = &mut Arc::make_mut(&mut self.order)[at];
        let subtable = Arc::make_mut(&mut entry.subtable);
        let Some(was_last) = subtable.remove(&m.value, rank) else { return false };
        if was_last {
            self.prefixes.sub(&m.value, subtable.lengths());
            self.sieve.iter_mut().for_each(Sieve::sub);
        }
        self.len -= 1;
        if self.order[at].subtable.len() == 0 {
            self.sieve.iter_mut().for_each(|s| s.release(self.order[at].terms));
            let keep = self.order.iter().enumerate().filter(|(n, _)| *n != at);
            self.order = keep.map(|(_, e)| e.clone()).collect();
        } else {
            self.settle(at);
        }
        self.follow();
        true
    }

    /// Moves the entry to where its bound puts it now.
    fn settle(&mut self, at: usize) {
        let order = Arc::make_mut(&mut self.order);
        let bound = order[at].subtable.bound();
        if order[at].bound == bound && at + 1 < order.len() && order[at + 1].bound <= bound {
            return;
        }
        order[at].bound = bound;
        let earlier = order[..at].partition_point(|e| e.bound >= bound);
        order[earlier..=at].rotate_right(1);
        if earlier == at {
            let later = order[at + 1..].partition_point(|e| e.bound > bound);
            order[at..=at + later].rotate_left(1);
        }
    }

    /// Rank of the best rule that matches.
    #[inline]
    pub(super) fn lookup(&self, key: &FlowKey) -> Option<u64> {
        self.lookup_above(key, None)
    }

    /// The better one of `best`, found elsewhere, and the best rule here that matches.
    #[inline]
    pub(super) fn lookup_above(&self, key: &FlowKey, best: Option<u64>) -> Option<u64> {
        let mut best = best;
        if self.leads
            && self.sieve.is_some()
            && let [first, second, ..] = &*self.order
        {
            best = best.max(first.subtable.lookup(key));
            if best.is_some_and(|b| priority_of(b) > second.bound) {
                return best;
            }
        }
        match &self.sieve {
            None => self.lookup_all(key, best),
            Some(s) if s.has_few_terms() => self.sift(&s.hashes::<TERMS_FEW>(key), s, key, best),
            Some(s) => self.sift(&s.hashes::<TERMS_MAX>(key), s, key, best),
        }
    }

    /// As `lookup`, among the subtables that pass.
    #[inline]
    fn sift<const N: usize>(
        &self,
        hashes: &Hashes<N>,
        sieve: &Sieve,
        key: &FlowKey,
        mut best: Option<u64>,
    ) -> Option<u64> {
        let is_over = |best: Option<u64>, e: &Entry| best.is_some_and(|b| priority_of(b) > e.bound);
        for some in self.order.chunks(CHUNK) {
            if some.first().is_some_and(|e| is_over(best, e)) {
                break;
            }
            // All of some at once: whether one passes no branch foresees.
            let mut pass = 0u64;
            for (n, e) in some.iter().enumerate() {
                let may = hashes.of(e.terms).is_none_or(|h| sieve.may_have(h, e.mask_hash));
                pass |= u64::from(may) << n;
            }
            let each = |pass: u64| {
                std::iter::successors(Some(pass), |p| Some(p & p.wrapping_sub(1)))
                    .take_while(|p| *p != 0)
                    .filter_map(|p| some.get(p.trailing_zeros() as usize))
            };
            if pass & pass.wrapping_sub(1) != 0 {
                each(pass).for_each(|e| e.subtable.prefetch(e.hash(hashes, key)));
            }
            for e in each(pass) {
                if is_over(best, e) {
                    return best;
                }
                best = best.max(e.subtable.lookup_above(best, e.hash(hashes, key), key));
            }
        }
        best
    }

    #[inline]
    fn lookup_all(&self, key: &FlowKey, mut best: Option<u64>) -> Option<u64> {
        for e in self.order.iter() {
            if best.is_some_and(|b| priority_of(b) > e.bound) {
                break;
            }
            best = best.max(e.subtable.lookup(key));
        }
        best
    }

    /// As `lookup_above`; adds to `seen` what the answer depended on.
    pub(super) fn lookup_wild(
        &self,
        key: &FlowKey,
        best: Option<u64>,
        seen: &mut Mask,
    ) -> Option<u64> {
        match &self.sieve {
            None => self.lookup_wild_all(key, best, seen),
            Some(s) if s.has_few_terms() => self.sift_wild::<TERMS_FEW>(s, key, best, seen),
            Some(s) => self.sift_wild::<TERMS_MAX>(s, key, best, seen),
        }
    }

    /// As `lookup_wild`. Most subtables are answered by what earlier ones made known: a prefix
    /// that rules them out, or all bits of their mask.
    fn sift_wild<const N: usize>(
        &self,
        sieve: &Sieve,
        key: &FlowKey,
        best: Option<u64>,
        seen: &mut Mask,
    ) -> Option<u64> {
        let hashes = sieve.hashes::<N>(key);
        let best = self.sift(&hashes, sieve, key, best);
        let mut limits = Limits::new(&self.prefixes, key);
        let mut known = sieve.known::<N>(seen);
        let mut proved = limits.proved(seen);
        for e in self.order.iter() {
            if best.is_some_and(|b| priority_of(b) > e.bound) {
                break;
            }
            let is_ruled_out = e.lengths.iter().zip(&proved).any(|(len, limit)| len > limit);
            if is_ruled_out || known.has_all(e.terms) {
                continue;
            }
            let before = *seen;
            let hash = hashes.of(e.terms);
            let may = hash.is_none_or(|h| sieve.may_have(h, e.mask_hash));
            if may && e.subtable.lookup_above(None, e.hash(&hashes, key), key).is_some() {
                e.subtable.see_all(seen);
            } else {
                e.subtable.prove_miss(key, &mut limits, seen);
            }
            if *seen != before {
                known = sieve.known(seen);
                proved = limits.proved(seen);
            }
        }
        best
    }

    fn lookup_wild_all(
        &self,
        key: &FlowKey,
        mut best: Option<u64>,
        seen: &mut Mask,
    ) -> Option<u64> {
        let mut limits = Limits::new(&self.prefixes, key);
        for e in self.order.iter() {
            if best.is_some_and(|b| priority_of(b) > e.bound) {
                break;
            }
            best = best.max(e.subtable.lookup_wild(key, &mut limits, seen));
        }
        best
    }

    /// The highest priority between `above` and `below` (both excluded) of a rule that matches.
    pub(super) fn priority_between(
        &self,
        key: &FlowKey,
        above: i32,
        below: i32,
        mut seen: Option<&mut Mask>,
    ) -> Option<u16> {
        let mut limits = Limits::new(&self.prefixes, key);
        let mut best = above;
        for e in self.order.iter() {
            // Those of the priority found are visited too, for `each_of` will look there.
            if i32::from(e.bound) < best || i32::from(e.bound) <= above {
                break;
            }
            if let Some(seen) = seen.as_deref_mut()
                && e.subtable.lookup_wild(key, &mut limits, seen).is_none()
            {
                continue;
            }
            let mut ranks = e.subtable.matches(key).map(|r| i32::from(priority_of(r)));
            best = best.max(ranks.find(|p| *p < below).unwrap_or(above));
        }
        u16::try_from(best).ok().filter(|_| best > above)
    }

    /// Calls `f` with the ranks of all rules of this priority that match; `priority_between` has
    /// seen what this depends on.
    pub(super) fn each_of(&self, key: &FlowKey, priority: u16, mut f: impl FnMut(u64)) {
        for e in self.order.iter().take_while(|e| e.bound >= priority) {
            if let Some(r) = e.subtable.matches(key).find(|r| priority_of(*r) == priority) {
                f(r);
            }
        }
    }

    /// Values, masks and ranks of all rules.
    pub(super) fn iter(&self) -> impl Iterator<Item = (FlowKey, &Mask, u64)> {
        self.order
            .iter()
            .flat_map(|e| e.subtable.iter().map(|(value, rank)| (value, e.subtable.mask(), rank)))
    }

    /// Masks with their number of rules.
    pub(super) fn masks(&self) -> impl ExactSizeIterator<Item = (&Mask, usize)> + Clone {
        self.order.iter().map(|e| (e.subtable.mask(), e.subtable.len()))
    }

    pub(super) fn len(&self) -> usize {
        self.len
    }

    #[cfg(test)]
    pub(super) fn sieve(&self) -> Option<&Sieve> {
        self.sieve.as_ref()
    }

    /// Memory in bytes.
    pub(super) fn bytes(&self) -> usize {
        let subtables: usize = self.order.iter().map(|e| e.subtable.bytes()).sum();
        let sieve = self.sieve.as_ref().map_or(0, Sieve::bytes);
        subtables + self.order.len() * size_of::<Entry>() + self.prefixes.bytes() + sieve
    }
}
