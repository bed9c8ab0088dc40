//! Longest prefix and its kin: all rules but a few match a prefix of one address, and the same
//! value of the same other fields.
//!
//! A trie of eight bits a level: a lookup loads one entry for each level down to the longest
//! prefix, at most four for IPv4 and sixteen for IPv6, however many lengths there are. An entry
//! holds the best rule of the node's prefixes that cover it, so priorities need not follow the
//! lengths: the answer is the best of the entries met.
//!
//! A node of a handful of prefixes keeps them as a list; one of more has 256 entries. Nodes are
//! shared between versions, and a change copies those on its way down.

use super::few::Few;
use super::prefix::{lengths, prefix_mask};
use crate::packet::key::{FlowKey, Mask};
use std::sync::Arc;

/// Rules beside the prefixes with which the form is given, and kept.
const OTHERS: usize = 4;
const OTHERS_KEPT: usize = 8;
/// Prefixes and children with which a node becomes an array, and a list again.
const WIDE: usize = 8;
const NARROW: usize = 4;
/// Bits of an entry that hold a rank and one; those above, a child's place and one.
const RANK_BITS: u32 = 48;
const RANK: u64 = (1 << RANK_BITS) - 1;

/// Value, mask and rank.
type Rule<'a> = (FlowKey, &'a Mask, u64);

/// A prefix that ends in a node.
#[derive(Clone, Copy, Debug)]
struct Local {
    /// The rest of its bits, from the highest on.
    bits: u8,
    /// 0 to 8.
    len: u8,
    rank: u64,
}

impl Local {
    fn covers(self, byte: u8) -> bool {
        u16::from(self.bits ^ byte) >> (8 - self.len) == 0
    }
}

#[derive(Clone, Debug, Default)]
struct Narrow {
    prefixes: Vec<Local>,
    children: Vec<(u8, Node)>,
}

#[derive(Clone, Debug)]
struct Wide {
    entries: [u64; 256],
    parts: Narrow,
}

#[derive(Clone, Debug)]
enum Node {
    Narrow(Arc<Narrow>),
    Wide(Arc<Wide>),
}

impl Narrow {
    fn len(&self) -> usize {
        self.prefixes.len() + self.children.len()
    }

    /// The best of the prefixes that cover a byte, as entries have it.
    #[inline]
    fn best(&self, byte: u8) -> u64 {
        let covering = self.prefixes.iter().filter(|p| p.covers(byte));
        covering.map(|p| p.rank + 1).max().unwrap_or(0)
    }

    fn child(&self, byte: u8) -> Option<usize> {
        self.children.iter().position(|(b, _)| *b == byte)
    }
}

impl Wide {
    fn new(parts: Narrow) -> Self {
        let mut wide = Self { entries: [0; 256], parts };
        (0..=255).for_each(|byte| wide.refresh(byte));
        wide
    }

    /// Makes one entry anew.
    fn refresh(&mut self, byte: u8) {
        let child = self.parts.child(byte).map_or(0, |n| n as u64 + 1);
        self.entries[usize::from(byte)] = self.parts.best(byte) | (child << RANK_BITS);
    }
}

impl Node {
    fn new() -> Self {
        Self::Narrow(Arc::default())
    }

    fn parts(&self) -> &Narrow {
        match self {
            Self::Narrow(n) => n,
            Self::Wide(w) => &w.parts,
        }
    }

    fn parts_mut(&mut self) -> &mut Narrow {
        match self {
            Self::Narrow(n) => Arc::make_mut(n),
            Self::Wide(w) => &mut Arc::make_mut(w).parts,
        }
    }

    /// The best prefix that covers a byte, and the node below.
    #[inline(always)]
    fn step(&self, byte: u8) -> (u64, Option<&Self>) {
        match self {
            Self::Wide(w) => {
                let entry = w.entries[usize::from(byte)];
                let child = (entry >> RANK_BITS) as usize;
                (entry & RANK, w.parts.children.get(child.wrapping_sub(1)).map(|c| &c.1))
            }
            Self::Narrow(n) => {
                let child = n.children.iter().find(|(b, _)| *b == byte);
                (n.best(byte), child.map(|c| &c.1))
            }
        }
    }

    /// Adds a prefix of `len` bits, the highest of `bits`.
    fn insert(&mut self, bits: u128, len: u8, rank: u64) {
        let byte = (bits >> 120) as u8;
        let parts = self.parts_mut();
        if len <= 8 {
            let local = Local { bits: byte, len, rank };
            parts.prefixes.push(local);
            if let Self::Wide(w) = self {
                let entries = &mut Arc::make_mut(w).entries;
                for e in (0..=255u8).filter(|b| local.covers(*b)).map(usize::from) {
                    entries[e] = (entries[e] & !RANK) | (entries[e] & RANK).max(rank + 1);
                }
            }
        } else {
            let at = parts.child(byte).unwrap_or_else(|| {
                parts.children.push((byte, Self::new()));
                parts.children.len() - 1
            });
            parts.children[at].1.insert(bits << 8, len - 8, rank);
            if let Self::Wide(w) = self {
                Arc::make_mut(w).refresh(byte);
            }
        }
        self.fit();
    }

    /// Takes a prefix out; false if it is not there.
    fn remove(&mut self, bits: u128, len: u8, rank: u64) -> bool {
        let byte = (bits >> 120) as u8;
        let parts = self.parts_mut();
        if len <= 8 {
            let is_it = |p: &Local| (p.bits, p.len, p.rank) == (byte, len, rank);
            let Some(at) = parts.prefixes.iter().position(is_it) else { return false };
            let gone = parts.prefixes.swap_remove(at);
            if let Self::Wide(w) = self {
                let w = Arc::make_mut(w);
                (0..=255).filter(|b| gone.covers(*b)).for_each(|b| w.refresh(b));
            }
        } else {
            let Some(at) = parts.child(byte) else { return false };
            if !parts.children[at].1.remove(bits << 8, len - 8, rank) {
                return false;
            }
            if parts.children[at].1.parts().len() == 0 {
                parts.children.swap_remove(at);
                let moved = parts.children.get(at).map(|c| c.0);
                if let Self::Wide(w) = self {
                    let w = Arc::make_mut(w);
                    std::iter::once(byte).chain(moved).for_each(|b| w.refresh(b));
                }
            }
        }
        self.fit();
        true
    }

    fn fit(&mut self) {
        match self {
            Self::Narrow(n) if n.len() > WIDE => {
                *self = Self::Wide(Arc::new(Wide::new(std::mem::take(Arc::make_mut(n)))));
            }
            Self::Wide(w) if w.parts.len() <= NARROW => {
                let parts = std::mem::take(&mut Arc::make_mut(w).parts);
                *self = Self::Narrow(Arc::new(parts));
            }
            _ => {}
        }
    }

    fn bytes(&self) -> usize {
        let own = match self {
            Self::Narrow(_) => size_of::<Narrow>(),
            Self::Wide(_) => size_of::<Wide>(),
        };
        let parts = self.parts();
        let lists = size_of_val(&*parts.prefixes) + size_of_val(&*parts.children);
        16 + own + lists + parts.children.iter().map(|c| c.1.bytes()).sum::<usize>()
    }
}

#[derive(Clone, Debug)]
pub(super) struct Lpm {
    field: Address,
    /// What all prefixes ask for besides.
    mask: Mask,
    value: FlowKey,
    guard: Few,
    root: Node,
    others: Few,
}

/// The address whose prefixes are matched; its number among the fields of `prefix`.
#[derive(Clone, Copy, Debug)]
struct Address(usize);

const ADDRESSES: [Address; 4] = [Address(0), Address(1), Address(2), Address(3)];

impl Address {
    /// Its bits, from the highest on.
    #[inline(always)]
    fn bits(self, key: &FlowKey) -> u128 {
        match self.0 {
            0 => u128::from(key.ip_src) << 96,
            1 => u128::from(key.ip_dst) << 96,
            2 => key.ipv6_src,
            _ => key.ipv6_dst,
        }
    }

    /// The mask without the address, and the length of the prefix; `None` if it is not one.
    fn split(self, mask: &Mask) -> Option<(Mask, u8)> {
        let len = lengths(mask)[self.0];
        let (prefix, whole) = (prefix_mask(self.0, len), prefix_mask(self.0, u8::MAX));
        if mask.and(&whole) != prefix {
            return None;
        }
        let mut rest = *mask;
        rest.words_mut().iter_mut().zip(prefix.words()).for_each(|(r, p)| *r &= !p);
        Some((rest, len))
    }
}

impl Lpm {
    /// `None` if the rules are not of this kind. `masks`: all masks, with their number of rules.
    /// `was_lpm` lets a few more rules be of another kind.
    pub(super) fn new<'a>(
        masks: impl Iterator<Item = (&'a Mask, usize)> + Clone,
        rules: impl Iterator<Item = Rule<'a>>,
        was_lpm: bool,
    ) -> Option<Self> {
        let most = masks.clone().max_by_key(|m| m.1)?.0;
        let others_max = if was_lpm { OTHERS_KEPT } else { OTHERS };
        // Of the address whose prefixes leave fewest masks over.
        let kinds = ADDRESSES.into_iter().filter_map(|field| {
            let rest = field.split(most).filter(|(_, len)| *len > 0)?.0;
            let is_route = |m: &Mask| field.split(m).is_some_and(|(r, _)| r == rest);
            let others = masks.clone().filter(|m| !is_route(m.0)).map(|m| m.1).sum::<usize>();
            (others <= others_max).then_some((others, field, rest))
        });
        let (_, field, mask) = kinds.min_by_key(|k| k.0)?;
        let mut lpm: Option<Self> = None;
        let mut others = Few::default();
        for (value, m, rank) in rules {
            let Some((_, len)) = field.split(m).filter(|(rest, _)| *rest == mask) else {
                others.insert(&value, m, rank);
                continue;
            };
            let lpm = lpm.get_or_insert_with(|| Self::empty(field, mask, value.and(&mask)));
            if value.and(&mask) == lpm.value {
                lpm.root.insert(field.bits(&value), len, rank);
            } else {
                others.insert(&value, m, rank);
            }
            if others.len() > others_max {
                return None;
            }
        }
        let mut lpm = lpm.filter(|_| others.len() <= others_max)?;
        lpm.others = others;
        Some(lpm)
    }

    fn empty(field: Address, mask: Mask, value: FlowKey) -> Self {
        Self {
            field,
            mask,
            value,
            guard: Few::new(std::iter::once((value, &mask, 0))),
            root: Node::new(),
            others: Few::default(),
        }
    }

    /// The length of the rule's prefix if the trie holds rules like it.
    fn len_of(&self, value: &FlowKey, mask: &Mask) -> Option<u8> {
        let (rest, len) = self.field.split(mask)?;
        (rest == self.mask && value.and(&rest) == self.value).then_some(len)
    }

    /// Adds a rule; false if the form does not fit any more.
    #[must_use]
    pub(super) fn insert(&mut self, value: &FlowKey, mask: &Mask, rank: u64) -> bool {
        if let Some(len) = self.len_of(value, mask) {
            self.root.insert(self.field.bits(value), len, rank);
            return true;
        }
        self.others.insert(value, mask, rank);
        self.others.len() <= OTHERS_KEPT
    }

    /// Takes a rule out; false if the form does not fit any more.
    #[must_use]
    pub(super) fn remove(&mut self, value: &FlowKey, mask: &Mask, rank: u64) -> bool {
        if let Some(len) = self.len_of(value, mask) {
            return self.root.remove(self.field.bits(value), len, rank);
        }
        self.others.remove(rank)
    }

    /// Rank of the best rule that matches.
    #[inline]
    pub(super) fn lookup(&self, key: &FlowKey) -> Option<u64> {
        let other = self.others.lookup(key);
        if self.guard.lookup(key).is_none() {
            return other;
        }
        let mut bits = self.field.bits(key);
        let mut best = 0;
        let mut node = Some(&self.root);
        while let Some(n) = node {
            let (entry, child) = n.step((bits >> 120) as u8);
            best = best.max(entry);
            bits <<= 8;
            node = child;
        }
        best.checked_sub(1).max(other)
    }

    pub(super) fn bytes(&self) -> usize {
        self.root.bytes() + self.others.bytes()
    }
}
