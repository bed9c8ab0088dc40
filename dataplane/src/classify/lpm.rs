//! Longest prefix and its kin: all rules but a few match a prefix of one address, and the same
//! value of the same other fields.
//!
//! A trie of eight bits a level: a lookup goes down to the longest prefix, at most four levels for
//! IPv4 and sixteen for IPv6, however many lengths there are. At each level it meets the best rule
//! of the node's prefixes that cover the key's byte, so priorities need not follow the lengths: the
//! answer is the best of those met.
//!
//! **Nodes.** Prefixes of a real table are sparse below their first two bytes, so memory is in the
//! nodes that have little. Where one prefix alone goes on it lies in its parent as a *leaf*, with
//! all bits that are left of it, and has no node. A node of a handful of prefixes and children
//! keeps them as a list. One of more has besides an answer for each *run* of bytes that have the
//! same one, and a byte for each of the 256 that names its run: two loads, a seventh of the memory
//! of 256 answers.
//!
//! **Changes.** Nodes are shared between versions, and a change copies those on its way down. The
//! runs of the one it ends in are made anew.

#[cfg(test)]
mod tests;

use super::few::Few;
use super::prefix::{lengths, prefix_mask};
use crate::packet::key::{FlowKey, Mask};
use std::sync::Arc;

/// Rules beside the prefixes with which the form is given, and kept.
const OTHERS: usize = 4;
const OTHERS_KEPT: usize = 8;
/// Prefixes and children with which a node gets runs, and is a list again.
const WIDE: usize = 8;
const NARROW: usize = 4;
/// Bits of an answer that hold a rank and one; those above, a child's place and one.
const RANK_BITS: u32 = 48;
const RANK: u64 = (1 << RANK_BITS) - 1;
/// Bits of a leaf that lies in its parent.
const NEAR: u8 = 32;

/// Value, mask and rank.
type Rule<'a> = (FlowKey, &'a Mask, u64);

/// A prefix from some level on: its bits, from the highest on, their number, and its rank.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Prefix {
    bits: u128,
    len: u8,
    rank: u64,
}

impl Prefix {
    fn byte(self) -> u8 {
        (self.bits >> 120) as u8
    }

    /// What is left of it a level further down; it goes on there.
    fn below(self) -> Self {
        Self { bits: self.bits << 8, len: self.len - 8, rank: self.rank }
    }

    #[inline]
    fn covers(&self, bits: u128) -> bool {
        (self.bits ^ bits).checked_shr(128 - u32::from(self.len)).unwrap_or(0) == 0
    }
}

/// A prefix that ends in a node: its rank, the rest of its bits from the highest on, and how many
/// they are, 0 to 8.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Local(u64);

impl Local {
    fn new(p: Prefix) -> Self {
        Self(p.rank << 16 | u64::from(p.byte()) << 8 | u64::from(p.len))
    }

    fn rank(self) -> u64 {
        self.0 >> 16
    }

    fn byte(self) -> u8 {
        (self.0 >> 8) as u8
    }

    fn len(self) -> u8 {
        self.0 as u8
    }

    fn covers(self, byte: u8) -> bool {
        u16::from(self.byte() ^ byte) >> 8u8.saturating_sub(self.len()) == 0
    }

    /// The bytes that it covers.
    fn range(self) -> std::ops::Range<usize> {
        let from = usize::from(self.byte());
        from..from + (256 >> self.len())
    }

    fn prefix(self) -> Prefix {
        Prefix { bits: u128::from(self.byte()) << 120, len: self.len(), rank: self.rank() }
    }
}

/// What a node has: prefixes that end in it, and children by their byte.
#[derive(Clone, Debug, Default)]
struct Parts {
    prefixes: Box<[Local]>,
    bytes: Box<[u8]>,
    children: Box<[Node]>,
}

#[derive(Clone, Debug)]
struct Wide {
    /// The run of each byte.
    run_of: [u8; 256],
    runs: Box<[u64]>,
    parts: Parts,
}

#[derive(Clone, Debug)]
enum Node {
    Narrow(Arc<Parts>),
    Wide(Arc<Wide>),
    /// A leaf: the highest bits of what is left of it, how many they are, and its rank.
    Near {
        bits: u32,
        len: u8,
        rank: u64,
    },
    /// A leaf of more bits.
    Far(Arc<Prefix>),
}

const _: () = assert!(size_of::<Node>() == 16, "there is one for each of a million prefixes");

fn push<T>(list: &mut Box<[T]>, item: T) {
    let mut all = std::mem::take(list).into_vec();
    all.reserve_exact(1);
    all.push(item);
    *list = all.into();
}

fn take_out<T>(list: &mut Box<[T]>, at: usize) {
    let mut all = std::mem::take(list).into_vec();
    all.swap_remove(at);
    *list = all.into();
}

impl Parts {
    fn len(&self) -> usize {
        self.prefixes.len() + self.children.len()
    }

    /// The best of the prefixes that cover a byte, as answers have it.
    #[inline]
    fn best(&self, byte: u8) -> u64 {
        let covering = self.prefixes.iter().filter(|p| p.covers(byte));
        covering.map(|p| p.rank() + 1).max().unwrap_or(0)
    }

    #[inline]
    fn child(&self, byte: u8) -> Option<usize> {
        self.bytes.iter().position(|b| *b == byte)
    }

    /// The answers for all bytes, by runs.
    fn runs(&self) -> ([u8; 256], Box<[u64]>) {
        let mut answers = [0; 256];
        for p in &self.prefixes {
            let covered = answers.get_mut(p.range()).unwrap_or_default();
            covered.iter_mut().for_each(|a| *a = p.rank().saturating_add(1).max(*a));
        }
        for (byte, place) in self.bytes.iter().zip(1u64..) {
            answers[usize::from(*byte)] |= place << RANK_BITS;
        }
        let (mut run_of, mut runs) = ([0; 256], Vec::with_capacity(256));
        for (run, answer) in run_of.iter_mut().zip(answers) {
            if runs.last() != Some(&answer) {
                runs.push(answer);
            }
            *run = (runs.len() - 1) as u8;
        }
        (run_of, runs.as_slice().into())
    }

    /// The one prefix that all of this comes to, if it is but one.
    fn single(&self) -> Option<Prefix> {
        match (&*self.prefixes, &*self.children) {
            ([one], []) => Some(one.prefix()),
            ([], [child]) => {
                let p = child.leaf()?;
                let byte = u128::from(*self.bytes.first()?) << 120;
                Some(Prefix { bits: byte | p.bits >> 8, len: p.len + 8, rank: p.rank })
            }
            _ => None,
        }
    }
}

impl Node {
    fn new(parts: Parts) -> Self {
        if parts.len() <= WIDE {
            return Self::Narrow(Arc::new(parts));
        }
        let (run_of, runs) = parts.runs();
        Self::Wide(Arc::new(Wide { run_of, runs, parts }))
    }

    fn of_leaf(p: Prefix) -> Self {
        match p.len {
            0..=NEAR => Self::Near { bits: (p.bits >> 96) as u32, len: p.len, rank: p.rank },
            _ => Self::Far(Arc::new(p)),
        }
    }

    /// The prefix, if it is a leaf.
    fn leaf(&self) -> Option<Prefix> {
        match self {
            Self::Narrow(_) | Self::Wide(_) => None,
            Self::Near { bits, len, rank } => {
                Some(Prefix { bits: u128::from(*bits) << 96, len: *len, rank: *rank })
            }
            Self::Far(p) => Some(**p),
        }
    }

    /// The node of many prefixes, in order of their bits.
    fn build(prefixes: &[Prefix]) -> Self {
        let ends = prefixes.iter().filter(|p| p.len <= 8).map(|p| Local::new(*p));
        let on: Vec<Prefix> = prefixes.iter().filter(|p| p.len > 8).copied().collect();
        let (mut bytes, mut children) = (Vec::new(), Vec::new());
        for same in on.chunk_by(|a, b| a.byte() == b.byte()) {
            bytes.push(same[0].byte());
            children.push(match same {
                [one] => Self::of_leaf(one.below()),
                _ => Self::build(&same.iter().map(|p| p.below()).collect::<Vec<_>>()),
            });
        }
        let (bytes, children) = (bytes.into(), children.into());
        Self::new(Parts { prefixes: ends.collect(), bytes, children })
    }

    fn parts_mut(&mut self) -> Option<&mut Parts> {
        match self {
            Self::Narrow(n) => Some(Arc::make_mut(n)),
            Self::Wide(w) => Some(&mut Arc::make_mut(w).parts),
            Self::Near { .. } | Self::Far(_) => None,
        }
    }

    /// The best rank and one of what is met here and has the bits, and the node below.
    #[inline(always)]
    fn step(&self, bits: u128) -> (u64, Option<&Self>) {
        let byte = (bits >> 120) as u8;
        match self {
            Self::Wide(w) => {
                let run = usize::from(w.run_of[usize::from(byte)]);
                let answer = w.runs.get(run).copied().unwrap_or(0);
                let child = (answer >> RANK_BITS) as usize;
                (answer & RANK, w.parts.children.get(child.wrapping_sub(1)))
            }
            Self::Narrow(n) => (n.best(byte), n.child(byte).and_then(|at| n.children.get(at))),
            Self::Near { bits: own, len, rank } => {
                let differ = u64::from(own ^ (bits >> 96) as u32) << 32;
                // One shift less, so that none is by all bits.
                let is_it = differ >> 1 >> (63 - u32::from(*len)) == 0;
                (if is_it { rank + 1 } else { 0 }, None)
            }
            Self::Far(p) => (if p.covers(bits) { p.rank + 1 } else { 0 }, None),
        }
    }

    /// Adds a prefix.
    fn insert(&mut self, p: Prefix) {
        if let Some(leaf) = self.leaf() {
            *self = Self::new(Parts::default());
            self.insert(leaf);
        }
        let Some(parts) = self.parts_mut() else { return };
        if p.len <= 8 {
            push(&mut parts.prefixes, Local::new(p));
        } else if let Some(child) = parts.child(p.byte()) {
            // What it leads to has another content, and the same place.
            return parts.children[child].insert(p.below());
        } else {
            push(&mut parts.bytes, p.byte());
            push(&mut parts.children, Self::of_leaf(p.below()));
        }
        self.fit();
    }

    /// Takes a prefix out; false if it is not there. A leaf is taken out by its parent.
    fn remove(&mut self, p: Prefix) -> bool {
        let Some(parts) = self.parts_mut() else { return false };
        if p.len <= 8 {
            let gone = Local::new(p);
            let Some(at) = parts.prefixes.iter().position(|l| *l == gone) else { return false };
            take_out(&mut parts.prefixes, at);
        } else {
            let Some(at) = parts.child(p.byte()) else { return false };
            let child = &mut parts.children[at];
            if child.leaf() == Some(p.below()) {
                take_out(&mut parts.bytes, at);
                take_out(&mut parts.children, at);
            } else {
                if !child.remove(p.below()) {
                    return false;
                }
                if let Some(single) = child.parts_mut().and_then(|parts| parts.single()) {
                    *child = Self::of_leaf(single);
                }
                return true;
            }
        }
        self.fit();
        true
    }

    /// Gives the node the kind and the runs for what it has now.
    fn fit(&mut self) {
        match self {
            Self::Narrow(n) if n.len() > WIDE => {
                *self = Self::new(std::mem::take(Arc::make_mut(n)));
            }
            Self::Wide(w) => {
                let w = Arc::make_mut(w);
                if w.parts.len() <= NARROW {
                    *self = Self::Narrow(Arc::new(std::mem::take(&mut w.parts)));
                } else {
                    (w.run_of, w.runs) = w.parts.runs();
                }
            }
            _ => {}
        }
    }

    /// Memory in bytes, without its own place.
    fn bytes(&self) -> usize {
        let (own, parts) = match self {
            Self::Narrow(n) => (size_of::<Parts>(), &**n),
            Self::Wide(w) => (size_of::<Wide>() + size_of_val(&*w.runs), &w.parts),
            Self::Near { .. } => return 0,
            Self::Far(_) => return 16 + size_of::<Prefix>(),
        };
        let lists = size_of_val(&*parts.prefixes) + parts.bytes.len();
        let below: usize = parts.children.iter().map(Self::bytes).sum();
        16 + own + lists + size_of_val(&*parts.children) + below
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
        let mut prefixes: Vec<Prefix> = Vec::new();
        let mut others = Few::default();
        for (value, m, rank) in rules {
            let Some((_, len)) = field.split(m).filter(|(rest, _)| *rest == mask) else {
                others.insert(&value, m, rank);
                continue;
            };
            let lpm = lpm.get_or_insert_with(|| Self::empty(field, mask, value.and(&mask)));
            if value.and(&mask) == lpm.value {
                prefixes.push(Prefix { bits: field.bits(&value), len, rank });
            } else {
                others.insert(&value, m, rank);
            }
            if others.len() > others_max {
                return None;
            }
        }
        let mut lpm = lpm.filter(|_| others.len() <= others_max)?;
        prefixes.sort_unstable_by_key(|p| p.bits);
        lpm.root = Node::build(&prefixes);
        lpm.others = others;
        Some(lpm)
    }

    fn empty(field: Address, mask: Mask, value: FlowKey) -> Self {
        Self {
            field,
            mask,
            value,
            guard: Few::new(std::iter::once((value, &mask, 0))),
            root: Node::new(Parts::default()),
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
            self.root.insert(Prefix { bits: self.field.bits(value), len, rank });
            return true;
        }
        self.others.insert(value, mask, rank);
        self.others.len() <= OTHERS_KEPT
    }

    /// Takes a rule out; false if the form does not fit any more.
    #[must_use]
    pub(super) fn remove(&mut self, value: &FlowKey, mask: &Mask, rank: u64) -> bool {
        if let Some(len) = self.len_of(value, mask) {
            return self.root.remove(Prefix { bits: self.field.bits(value), len, rank });
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
            let (met, child) = n.step(bits);
            best = best.max(met);
            bits <<= 8;
            node = child;
        }
        best.checked_sub(1).max(other)
    }

    pub(super) fn bytes(&self) -> usize {
        self.root.bytes() + self.others.bytes()
    }
}
