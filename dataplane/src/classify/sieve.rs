//! Which subtables may match a key, without a visit.
//!
//! A visit to a subtable costs the hash of the masked key and a probe, mostly for nothing: of many
//! subtables few have a rule for a given key. So the table has a Bloom filter (Bloom, CACM 1970;
//! before hash tables: Dharmapurikar, Krishnamurthy, Taylor, SIGCOMM 2003) of the hashes of all its
//! matches, and only subtables that pass are visited.
//!
//! **Terms.** The hash of a masked key is a sum over its words (`parts`), and masks have words in
//! common: a thousand masks of addresses and ports are made of some twenty prefixes of each. Each
//! mask has three *terms*, source address, destination address and the rest; the terms of all masks
//! are hashed once for a key, and then a subtable costs two additions and one load. (To rule
//! subtables out by the counts of `prefix` first was tried: lookups among twenty masks took 1.8
//! times as long, among a thousand no less.)
//!
//! **Blocks.** The bits of a match lie in one word (Putze, Sanders, Singler, WEA 2007). With 16 or
//! more bits for a match some 1 % of the subtables pass that should not; such a visit finds nothing
//! and does no harm.
//!
//! **Changes.** A new match sets its bits, in a page of the filter that is copied if another
//! version has it too. One that leaves lets them stand; the filter is made anew when half of what
//! it holds is gone, or when it is full.

use super::parts::{Part, Parts, mask_hash};
use crate::packet::key::{FlowKey, Mask};
use std::sync::Arc;

/// Terms of a mask.
const KINDS: usize = 3;
/// Terms of all masks that are hashed at once; the second is the bound.
pub(super) const TERMS_FEW: usize = 64;
pub(super) const TERMS_MAX: usize = 1024;
/// Stands for terms beyond: subtables that have one are always visited.
const UNKNOWN: u16 = u16::MAX;
/// Words of a page.
const PAGE: usize = 256;
/// Matches for each word, at most.
const EACH: usize = 4;
/// Fewer matches that left are no reason to make the filter anew.
const STALE: usize = 64;

type Page = [u64; PAGE];

/// The terms of a mask, by number; 0 is the empty one.
pub(super) type Terms = [u16; KINDS];

#[derive(Clone, Debug)]
struct Term {
    mask_hash: u64,
    parts: Box<[Part]>,
    /// Masks that have it; without any its number is free.
    masks: u32,
}

/// A word of a term.
#[derive(Clone, Copy, Debug)]
struct Piece {
    part: Part,
    term: u16,
}

#[derive(Clone, Debug)]
pub(super) struct Sieve {
    /// A power of two of them.
    pages: Arc<[Arc<Page>]>,
    /// Less one.
    words: usize,
    terms: Arc<[Term]>,
    /// Of all terms.
    pieces: Arc<[Piece]>,
    /// Matches in the filter, and how many of them left.
    filled: usize,
    left: usize,
}

/// The hashes of all terms for one key.
pub(super) struct Hashes<const N: usize>([u64; N]);

/// Of each term whether all its bits are known.
pub(super) struct Known<const N: usize>([bool; N]);

/// The parts of a mask that make its terms: no word is in two of them.
fn split(mask: &Mask) -> [Mask; KINDS] {
    let src = Mask { ip_src: 1, ipv6_src: u128::MAX, ..Mask::ZERO };
    let dst = Mask { ip_dst: 1, ipv6_dst: u128::MAX, ..Mask::ZERO };
    let marks = [src, dst];
    let mut out = [Mask::ZERO; KINDS];
    for (n, word) in mask.words().iter().enumerate() {
        let kind = marks.iter().position(|m| m.words()[n] != 0).unwrap_or(KINDS - 1);
        out[kind].words_mut()[n] = *word;
    }
    out
}

impl Sieve {
    pub(super) fn new() -> Self {
        Self {
            pages: Arc::new([Arc::new([0; PAGE])]),
            words: PAGE - 1,
            terms: Arc::new([Term { mask_hash: 0, parts: Box::default(), masks: 1 }]),
            pieces: Arc::default(),
            filled: 0,
            left: 0,
        }
    }

    /// The terms of a new mask.
    pub(super) fn terms_of(&mut self, mask: &Mask) -> Terms {
        let terms = split(mask).map(|m| if m == Mask::ZERO { 0 } else { self.term_of(&m) });
        if terms.contains(&UNKNOWN) {
            self.release(terms);
            return [UNKNOWN; KINDS];
        }
        terms
    }

    fn term_of(&mut self, mask: &Mask) -> u16 {
        let (mask_hash, parts) = (mask_hash(mask), Parts::new(mask).list().into());
        let is_it = |t: &Term| t.mask_hash == mask_hash && t.masks > 0 && t.parts == parts;
        let known = self.terms.iter().position(is_it);
        if known.is_none() && self.terms.len() == TERMS_MAX && self.free_term().is_none() {
            return UNKNOWN;
        }
        if let Some(at) = known {
            Arc::make_mut(&mut self.terms)[at].masks += 1;
            return at as u16;
        }
        let new = Term { mask_hash, parts, masks: 1 };
        let at = if let Some(at) = self.free_term() {
            Arc::make_mut(&mut self.terms)[at] = new;
            at
        } else {
            self.terms = self.terms.iter().cloned().chain([new]).collect();
            self.terms.len() - 1
        };
        self.take_apart();
        at as u16
    }

    fn free_term(&self) -> Option<usize> {
        self.terms.iter().position(|t| t.masks == 0)
    }

    /// Forgets the terms of a mask that went.
    pub(super) fn release(&mut self, terms: Terms) {
        for at in terms.into_iter().filter(|t| *t != 0 && *t != UNKNOWN) {
            let term = &mut Arc::make_mut(&mut self.terms)[usize::from(at)];
            term.masks -= 1;
            if term.masks == 0 {
                self.take_apart();
            }
        }
    }

    fn take_apart(&mut self) {
        let used = self.terms.iter().zip(0..).filter(|(t, _)| t.masks > 0);
        self.pieces = used
            .flat_map(|(t, term)| t.parts.iter().map(move |part| Piece { part: *part, term }))
            .collect();
    }

    /// Whether the first few numbers are enough for all terms.
    #[inline(always)]
    pub(super) fn has_few_terms(&self) -> bool {
        self.terms.len() <= TERMS_FEW
    }

    #[inline(always)]
    pub(super) fn hashes<const N: usize>(&self, key: &FlowKey) -> Hashes<N> {
        let mut all = [0; N];
        for p in self.pieces.iter() {
            if let Some(h) = all.get_mut(usize::from(p.term)) {
                *h = p.part.hash(key).wrapping_add(*h);
            }
        }
        Hashes(all)
    }

    /// The terms of which every bit is in a mask.
    pub(super) fn known<const N: usize>(&self, seen: &Mask) -> Known<N> {
        let mut all = [true; N];
        for p in self.pieces.iter() {
            if let Some(known) = all.get_mut(usize::from(p.term)) {
                *known &= p.part.is_in(seen);
            }
        }
        Known(all)
    }

    /// Words in which a match has its bits, and the bits.
    #[inline(always)]
    fn place(&self, hash: u64, salt: u64) -> (usize, u64) {
        let h = hash.wrapping_add(salt);
        let bits = 1 << (h & 63) | 1 << (h >> 6 & 63) | 1 << (h >> 12 & 63);
        ((h >> 18) as usize & self.words, bits)
    }

    /// Whether a match of this hash may be there; `salt` is that of its mask.
    #[inline(always)]
    pub(super) fn may_have(&self, hash: u64, salt: u64) -> bool {
        let (at, bits) = self.place(hash, salt);
        self.pages.get(at / PAGE).is_some_and(|p| p[at % PAGE] & bits == bits)
    }

    /// Adds a match.
    pub(super) fn add(&mut self, hash: u64, salt: u64) {
        self.filled += 1;
        let (at, bits) = self.place(hash, salt);
        if self.pages[at / PAGE][at % PAGE] & bits != bits {
            Arc::make_mut(&mut Arc::make_mut(&mut self.pages)[at / PAGE])[at % PAGE] |= bits;
        }
    }

    /// Counts a match that left.
    pub(super) fn sub(&mut self) {
        self.left += 1;
    }

    /// Whether too many match for what is there.
    pub(super) fn is_worn(&self) -> bool {
        self.filled > (self.words + 1) * EACH || self.left > STALE + self.filled / 2
    }

    /// Makes the filter anew for so many matches; each is to be added.
    pub(super) fn clear(&mut self, matches: usize) {
        self.words = (matches * 3 / (2 * EACH)).next_power_of_two().max(PAGE) - 1;
        self.pages = (0..=self.words / PAGE).map(|_| Arc::new([0; PAGE])).collect();
        (self.filled, self.left) = (0, 0);
    }

    pub(super) fn bytes(&self) -> usize {
        (self.words + 1) * 8
            + size_of_val(&*self.pages)
            + size_of_val(&*self.pieces)
            + self.terms.iter().map(|t| size_of::<Term>() + size_of_val(&*t.parts)).sum::<usize>()
    }
}

impl<const N: usize> Hashes<N> {
    const IS_POWER: () = assert!(N.is_power_of_two());

    /// The hash of the key under a mask, if its terms are known.
    #[inline(always)]
    pub(super) fn of(&self, terms: Terms) -> Option<u64> {
        const { Self::IS_POWER };
        let of = |t: u16| self.0[usize::from(t) & (N - 1)];
        let sum = terms.into_iter().fold(0u64, |sum, t| sum.wrapping_add(of(t)));
        (terms[0] != UNKNOWN).then_some(sum)
    }
}

impl<const N: usize> Known<N> {
    #[inline(always)]
    pub(super) fn has_all(&self, terms: Terms) -> bool {
        terms.iter().all(|t| self.0.get(usize::from(*t)).is_some_and(|known| *known))
    }
}
