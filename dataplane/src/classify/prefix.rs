//! Which prefixes of addresses and ports a table has.
//!
//! To rule out all rules that match more than the first L bits of an address, it is enough to know
//! that none of them begins as the key's address does. So for some lengths L there is a count of
//! the longer prefixes by their first L bits. The shortest L whose count is 0 is the key's
//! *limit*: no longer prefix matches, and the first L bits prove it. A subtable whose mask asks
//! for more is skipped, and a packet cache learns L bits of the address instead of all.
//!
//! Open vSwitch keeps a binary trie for this, exact to the bit. Counts at a few lengths cost a
//! fraction of its memory and find the limit in a few loads; the price is at most a step too many
//! bits, which splits a cached flow in pieces but never makes it wrong.

use super::counts::{Counts, WORD_BITS};
use crate::packet::field::ones;
use crate::packet::key::{FlowKey, Mask};

/// Fields whose prefixes are counted: `ip_src`, `ip_dst`, `ipv6_src`, `ipv6_dst`, `tp_src`,
/// `tp_dst`.
pub(super) const TRACKED: usize = 6;
const WIDTH: [u8; TRACKED] = [32, 32, 128, 128, 16, 16];
const LEVELS: [&[u8]; TRACKED] = [
    &[8, 16, 24],
    &[8, 16, 24],
    &[16, 32, 48, 64, 96],
    &[16, 32, 48, 64, 96],
    &[4, 8, 12],
    &[4, 8, 12],
];

/// Where the word of a narrow field's prefix, of 24 bits at most, has its length. The word is one
/// that `Counts` tells from all others.
const LEN_SHIFT: u32 = 24;
const _: () = assert!(LEN_SHIFT + 5 <= WORD_BITS);

fn value(field: usize, key: &FlowKey) -> u128 {
    match field {
        0 => key.ip_src.into(),
        1 => key.ip_dst.into(),
        2 => key.ipv6_src,
        3 => key.ipv6_dst,
        4 => key.tp_src.into(),
        _ => key.tp_dst.into(),
    }
}

/// Ones over the first `len` bits of a field's value.
fn prefix_bits(field: usize, len: u8) -> u128 {
    let width = WIDTH.get(field).copied().unwrap_or(0);
    let len = len.min(width);
    ones(len).checked_shl((width - len).into()).unwrap_or(0)
}

fn or_prefix(mask: &mut Mask, field: usize, len: u8) {
    let ones = prefix_bits(field, len);
    match field {
        0 => mask.ip_src |= ones as u32,
        1 => mask.ip_dst |= ones as u32,
        2 => mask.ipv6_src |= ones,
        3 => mask.ipv6_dst |= ones,
        4 => mask.tp_src |= ones as u16,
        _ => mask.tp_dst |= ones as u16,
    }
}

/// Ones over the first `len` bits of a field.
pub(super) fn prefix_mask(field: usize, len: u8) -> Mask {
    let mut mask = Mask::ZERO;
    or_prefix(&mut mask, field, len);
    mask
}

/// Leading ones of the mask in each tracked field.
pub(super) fn lengths(mask: &Mask) -> [u8; TRACKED] {
    std::array::from_fn(|f| {
        let unused = 128 - u32::from(WIDTH[f]);
        let bits = value(f, mask) << unused;
        bits.leading_ones() as u8
    })
}

/// The first `len` bits as a word. Of narrow fields it is the bits themselves, so that different
/// prefixes have different words; of the wide ones it is a hash.
fn word(field: usize, len: u8, v: u128) -> u64 {
    let top = v >> (WIDTH[field.min(TRACKED - 1)] - len);
    if is_exact(field) {
        return top as u64 | (u64::from(len) << LEN_SHIFT);
    }
    let fold = |a: u64, b: u64| {
        let p = u128::from(a) * u128::from(b);
        (p as u64) ^ ((p >> 64) as u64)
    };
    let low = fold(top as u64 ^ 0x9e37_79b9_7f4a_7c15, 0xd6e8_feb8_6659_fd93);
    let high = (top >> 64) as u64 ^ u64::from(len).wrapping_mul(0x2545_f491_4f6c_dd1d);
    fold(low ^ high, 0xc2b2_ae3d_27d4_eb4f)
}

/// The word of a narrow field's prefix, cut from `from` to `to` bits.
fn shorter(word: u64, from: u8, to: u8) -> u64 {
    let bits = word & ((1 << LEN_SHIFT) - 1);
    (bits >> (from - to)) | (u64::from(to) << LEN_SHIFT)
}

fn is_exact(field: usize) -> bool {
    WIDTH.get(field).is_some_and(|w| *w <= 32)
}

/// The counts of one table.
#[derive(Clone, Debug)]
pub(super) struct Prefixes([Counts; TRACKED]);

impl Default for Prefixes {
    fn default() -> Self {
        Self(std::array::from_fn(|_| Counts::new()))
    }
}

impl Prefixes {
    /// Counts a match. Of a narrow field, a length counts the different prefixes at the next one
    /// and only the longest counts matches, so that most changes touch one count. With hashes
    /// that would be wrong, since two prefixes of equal hash are one: there each match counts.
    pub(super) fn add(&mut self, key: &FlowKey, lengths: &[u8; TRACKED]) {
        self.count(key, lengths, Counts::add);
    }

    /// Takes a match back.
    pub(super) fn sub(&mut self, key: &FlowKey, lengths: &[u8; TRACKED]) {
        self.count(key, lengths, Counts::sub);
    }

    fn count(
        &mut self,
        key: &FlowKey,
        lengths: &[u8; TRACKED],
        change: fn(&mut Counts, u64) -> bool,
    ) {
        for (f, counts) in self.0.iter_mut().enumerate() {
            let v = value(f, key);
            for level in LEVELS[f].iter().rev().filter(|l| **l < lengths[f]) {
                if !change(counts, word(f, *level, v)) && is_exact(f) {
                    break;
                }
            }
        }
    }

    /// Counts many matches, where nothing was counted before.
    pub(super) fn fill(&mut self, matches: impl Iterator<Item = (FlowKey, [u8; TRACKED])>) {
        // By field and level; of a narrow field each match only at the longest.
        let mut lists: [Vec<Vec<u64>>; TRACKED] =
            std::array::from_fn(|f| vec![Vec::new(); LEVELS[f].len()]);
        for (key, lengths) in matches {
            for f in (0..TRACKED).filter(|f| lengths[*f] > 0) {
                let v = value(f, &key);
                let levels = LEVELS[f].iter().zip(&mut lists[f]).rev();
                let counted = levels.filter(|(level, _)| **level < lengths[f]);
                let all = if is_exact(f) { 1 } else { LEVELS[f].len() };
                counted.take(all).for_each(|(level, list)| list.push(word(f, *level, v)));
            }
        }
        for (f, (counts, lists)) in self.0.iter_mut().zip(lists).enumerate() {
            let mut all: Vec<u64> = Vec::new();
            let mut different: Vec<u64> = Vec::new();
            for (n, mut list) in lists.into_iter().enumerate().rev() {
                if is_exact(f) {
                    let longer = LEVELS[f].get(n + 1).copied().unwrap_or(0);
                    list.extend(different.iter().map(|w| shorter(*w, longer, LEVELS[f][n])));
                    different.clone_from(&list);
                    different.sort_unstable();
                    different.dedup();
                }
                all.append(&mut list);
            }
            counts.fill(all);
        }
    }

    fn limit(&self, field: usize, key: &FlowKey) -> u8 {
        let (Some(levels), Some(counts)) = (LEVELS.get(field), self.0.get(field)) else {
            return u8::MAX;
        };
        let v = value(field, key);
        levels
            .iter()
            .copied()
            .find(|level| !counts.contains(word(field, *level, v)))
            .unwrap_or(u8::MAX)
    }

    pub(super) fn bytes(&self) -> usize {
        self.0.iter().map(Counts::bytes).sum()
    }
}

/// The limits of one key, found as they are asked for.
#[derive(Debug)]
pub(super) struct Limits<'a> {
    prefixes: &'a Prefixes,
    key: &'a FlowKey,
    known: [Option<u8>; TRACKED],
}

impl<'a> Limits<'a> {
    pub(super) fn new(prefixes: &'a Prefixes, key: &'a FlowKey) -> Self {
        Self { prefixes, key, known: [None; TRACKED] }
    }

    /// Whether no rule with so long a prefix matches; if so, `seen` gets the bits that prove it.
    pub(super) fn rule_out(&mut self, field: usize, len: u8, seen: &mut Mask) -> bool {
        let Some(known) = self.known.get_mut(field) else { return false };
        let limit = *known.get_or_insert_with(|| self.prefixes.limit(field, self.key));
        if len > limit {
            or_prefix(seen, field, limit);
        }
        len > limit
    }

    /// For each field, the length beyond which bits that were seen rule prefixes out.
    pub(super) fn proved(&self, seen: &Mask) -> [u8; TRACKED] {
        std::array::from_fn(|f| match self.known[f] {
            Some(limit) if value(f, seen) & prefix_bits(f, limit) == prefix_bits(f, limit) => limit,
            _ => u8::MAX,
        })
    }

    /// Whether bits that were seen already rule out so long a prefix.
    pub(super) fn is_ruled_out_by(&self, seen: &Mask, field: usize, len: u8) -> bool {
        let Some(limit) = self.known.get(field).copied().flatten() else { return false };
        let bits = prefix_bits(field, limit);
        len > limit && value(field, seen) & bits == bits
    }
}
