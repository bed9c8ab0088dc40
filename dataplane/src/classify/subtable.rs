//! One mask: a hash table from masked key to the best rule with exactly that match.
//!
//! **Equal match, several priorities.** Only the highest can be met, so the table that is looked
//! up holds only that one. The second best of each match lies in a table below, the third best
//! below that, and so on; when a best rule goes the others move up.
//!
//! **Stages** (Open vSwitch's staged lookup). The mask's fields in four groups: metadata and
//! registers, L2, L3, L4. For all groups but the last a count tells whether any rule agrees with
//! the key in the groups so far. If none does, these groups alone prove the miss, and a cache
//! need not know the ports. A plain lookup does not ask: the whole hash costs it less. What every
//! cached walk depends on anyway (Ethernet type, IP protocol, fragment bits: `pipeline::keymask`)
//! counts as metadata: it proves most and costs nothing, and a mask has a stage less to count.

use super::counts::Counts;
use super::pages::Pages;
use super::parts::Parts;
use super::prefix::{self, Limits, TRACKED};
use super::rule::AnyMatch;
use crate::packet::field::Field;
use crate::packet::key::{FlowKey, Mask};
use std::sync::Arc;

/// Fields by stage; what is in none of these is in the first.
const STAGES: [&[Field]; 3] = [
    &[
        Field::EthDst,
        Field::EthSrc,
        Field::VlanTci,
        Field::VlanTpid,
        Field::MplsLabel,
        Field::MplsTc,
        Field::MplsBos,
        Field::MplsTtl,
    ],
    &[
        Field::IpSrc,
        Field::IpDst,
        Field::Ipv6Src,
        Field::Ipv6Dst,
        Field::Ipv6Label,
        Field::IpTos,
        Field::IpTtl,
        Field::ArpSha,
        Field::ArpTha,
        Field::NdTarget,
    ],
    &[Field::TcpSrc, Field::TcpDst, Field::TcpFlags],
];
/// Stage of each tracked prefix, as an index of all four stages.
const PREFIX_STAGE: [usize; TRACKED] = [2, 2, 2, 2, 3, 3];

/// Whether a byte of the key belongs to the last stage.
pub(super) fn is_transport(word: u8, shift: u8) -> bool {
    let mut last = Mask::ZERO;
    STAGES[2].iter().for_each(|f| f.info().whole().or_into(&mut last));
    last.words().get(usize::from(word)).is_some_and(|w| (w >> (shift & 63)) & 1 != 0)
}

/// Rank of a rule: priority, then the lower number. Fits a payload.
pub(super) fn rank(priority: u16, id: u32) -> u64 {
    (u64::from(priority) << 32) | u64::from(!id)
}

#[inline(always)]
pub(super) fn id_of(rank: u64) -> u32 {
    !(rank as u32)
}

#[inline(always)]
pub(super) fn priority_of(rank: u64) -> u16 {
    (rank >> 32) as u16
}

#[derive(Debug)]
struct Stage {
    parts: Parts,
    /// Tracked fields in this stage, with the lengths of their prefixes.
    prefixes: Vec<(usize, u8)>,
}

/// What all versions of a subtable have in common.
#[derive(Debug)]
struct Shape {
    mask: Mask,
    lengths: [u8; TRACKED],
    /// Stages in which the mask has bits.
    stages: Vec<Stage>,
}

impl Shape {
    fn new(mask: &Mask) -> Self {
        let mut rest = *mask;
        let mut masks = [Mask::ZERO; 4];
        for (n, fields) in STAGES.iter().enumerate() {
            for f in *fields {
                f.info().whole().or_into(&mut masks[n + 1]);
            }
            masks[n + 1] = masks[n + 1].and(mask);
            rest.words_mut().iter_mut().zip(masks[n + 1].words()).for_each(|(r, m)| *r &= !m);
        }
        masks[0] = rest;
        let lengths = prefix::lengths(mask);
        let mut stages = Vec::new();
        for (n, m) in masks.iter().enumerate().filter(|(_, m)| **m != Mask::ZERO) {
            let prefixes = (0..TRACKED)
                .filter(|f| PREFIX_STAGE[*f] == n && lengths[*f] > 0)
                .map(|f| (f, lengths[f]))
                .collect();
            stages.push(Stage { parts: Parts::new(m), prefixes });
        }
        Self { mask: *mask, lengths, stages }
    }
}

#[derive(Clone, Debug)]
pub(super) struct Subtable {
    parts: Parts,
    best: Pages,
    /// Second best and so on; seldom there.
    lower: Vec<Pages>,
    shape: Arc<Shape>,
    /// For each stage but the last.
    stages: Vec<Counts>,
    /// No rule has a higher priority.
    bound: u16,
    /// Rules of that priority that left since it was last known exactly.
    left: usize,
    len: usize,
}

impl Subtable {
    pub(super) fn new(mask: &Mask) -> Self {
        let parts = Parts::new(mask);
        let shape = Shape::new(mask);
        Self {
            best: Pages::new(parts.stored()),
            lower: Vec::new(),
            stages: vec![Counts::new(); shape.stages.len().saturating_sub(1)],
            parts,
            shape: Arc::new(shape),
            bound: 0,
            left: 0,
            len: 0,
        }
    }

    pub(super) fn mask(&self) -> &Mask {
        &self.shape.mask
    }

    /// Prefix lengths of the mask.
    pub(super) fn lengths(&self) -> &[u8; TRACKED] {
        &self.shape.lengths
    }

    pub(super) fn bound(&self) -> u16 {
        self.bound
    }

    pub(super) fn len(&self) -> usize {
        self.len
    }

    /// Adds a rule; true if none had its match.
    pub(super) fn insert(&mut self, value: &FlowKey, rank: u64) -> bool {
        self.bound = self.bound.max(priority_of(rank));
        self.len += 1;
        let parts = &self.parts;
        let packed = parts.pack(value);
        let stored = &packed[..parts.stored()];
        let hash = parts.hash(value);
        let hash_of = |_: u64, v: &[u64]| parts.hash_stored(v);
        let mut carried = rank;
        let mut is_new = true;
        for pages in std::iter::once(&mut self.best).chain(&mut self.lower) {
            match pages.find(hash, |v| v == stored) {
                None => {
                    pages.insert(hash, carried, stored, &hash_of);
                    if is_new {
                        self.count_stages(value, Counts::add);
                    }
                    return is_new;
                }
                Some(have) if have < carried => {
                    pages.set(hash, |v| v == stored, carried);
                    carried = have;
                }
                Some(_) => {}
            }
            is_new = false;
        }
        let mut pages = Pages::new(parts.stored());
        pages.insert(hash, carried, stored, &hash_of);
        self.lower.push(pages);
        false
    }

    /// Fills an empty subtable with rules and their ranks. Returns one of each different match.
    pub(super) fn fill<'a>(&mut self, rules: Vec<(AnyMatch<'a>, u64)>) -> Vec<AnyMatch<'a>> {
        let words = self.parts.stored();
        let mut packed = Vec::with_capacity(rules.len() * words);
        let mut hashes = Vec::with_capacity(rules.len());
        let mut stages = vec![Vec::with_capacity(rules.len()); self.stages.len()];
        for (m, _) in &rules {
            let value = m.value();
            packed.extend_from_slice(&self.parts.pack(&value)[..words]);
            hashes.push(self.parts.hash(&value));
            let mut hash = 0;
            for (hashes, stage) in stages.iter_mut().zip(&self.shape.stages) {
                hash = stage.parts.hash_on(hash, &value);
                hashes.push(hash);
            }
        }
        let stored = |n: usize| &packed[n * words..(n + 1) * words];
        let list: Vec<(u64, u64, &[u64])> =
            (0..rules.len()).map(|n| (hashes[n], rules[n].1, stored(n))).collect();
        let left = self.best.fill(&list);
        drop(list);
        let mut is_in = vec![true; rules.len()];
        left.iter().for_each(|n| is_in[*n] = false);
        for (counts, hashes) in self.stages.iter_mut().zip(stages) {
            let counted = hashes.into_iter().zip(&is_in).filter(|(_, is_in)| **is_in);
            counts.fill(counted.map(|(hash, _)| hash).collect());
        }
        self.len = rules.len() - left.len();
        self.bound = rules.iter().map(|r| priority_of(r.1)).max().unwrap_or(0);
        for n in left {
            is_in[n] = self.insert(&rules[n].0.value(), rules[n].1);
        }
        let different = rules.into_iter().zip(is_in).filter(|(_, is_in)| *is_in);
        different.map(|(r, _)| r.0).collect()
    }

    /// Takes a rule out: `None` if it is not there, else whether none with its match is left.
    pub(super) fn remove(&mut self, value: &FlowKey, rank: u64) -> Option<bool> {
        let parts = &self.parts;
        let packed = parts.pack(value);
        let stored = &packed[..parts.stored()];
        let hash = parts.hash(value);
        let same = |v: &[u64]| v == stored;
        let mut levels: Vec<&mut Pages> =
            std::iter::once(&mut self.best).chain(&mut self.lower).collect();
        let ranks: Vec<u64> = levels.iter().map_while(|p| p.find(hash, same)).collect();
        let at = ranks.iter().position(|r| *r == rank)?;
        for n in at + 1..ranks.len() {
            levels[n - 1].set(hash, same, ranks[n]);
        }
        levels[ranks.len() - 1].remove(hash, same, &|_, v| parts.hash_stored(v));
        while self.lower.last().is_some_and(|p| p.len() == 0) {
            self.lower.pop();
        }
        self.len -= 1;
        let was_last = ranks.len() == 1;
        if was_last {
            self.count_stages(value, Counts::sub);
        }
        if priority_of(rank) == self.bound {
            self.lower_bound();
        }
        Some(was_last)
    }

    /// The bound may be too high now. It is looked for again only after a share of the rules
    /// left, so that the search costs each of them a few loads.
    fn lower_bound(&mut self) {
        self.left += 1;
        if self.left > self.len / 16 {
            self.bound = self.best.iter().map(|(r, _)| priority_of(r)).max().unwrap_or(0);
            self.left = 0;
        }
    }

    /// Counts a match in all stages but the last.
    fn count_stages(&mut self, value: &FlowKey, change: fn(&mut Counts, u64) -> bool) {
        let mut hash = 0;
        for (counts, stage) in self.stages.iter_mut().zip(&self.shape.stages) {
            hash = stage.parts.hash_on(hash, value);
            change(counts, hash);
        }
    }

    /// Rank of the best rule that matches.
    #[inline(always)]
    pub(super) fn lookup(&self, key: &FlowKey) -> Option<u64> {
        self.best.find(self.parts.hash(key), |v| self.parts.equals(v, key))
    }

    /// As `lookup`, of rules better than `best`, with the hash of the masked key at hand.
    #[inline(always)]
    pub(super) fn lookup_above(&self, best: Option<u64>, hash: u64, key: &FlowKey) -> Option<u64> {
        self.best.find_above(hash, best, |v| self.parts.equals(v, key))
    }

    /// Asks for what `lookup_above` looks at first.
    #[inline(always)]
    pub(super) fn prefetch(&self, hash: u64) {
        self.best.prefetch(hash);
    }

    /// The hash of a match.
    pub(super) fn hash(&self, value: &FlowKey) -> u64 {
        self.parts.hash(value)
    }

    /// The hashes of all different matches.
    pub(super) fn hashes(&self) -> impl Iterator<Item = u64> {
        self.best.iter().map(|(_, v)| self.parts.hash_stored(v))
    }

    /// As `lookup`; adds to `seen` what the answer depended on.
    pub(super) fn lookup_wild(
        &self,
        key: &FlowKey,
        limits: &mut Limits<'_>,
        seen: &mut Mask,
    ) -> Option<u64> {
        let found = self.lookup(key);
        match found {
            Some(_) => self.parts.or_into(seen),
            None => self.prove_miss(key, limits, seen),
        }
        found
    }

    /// Adds to `seen` what proves that no rule matches.
    pub(super) fn prove_miss(&self, key: &FlowKey, limits: &mut Limits<'_>, seen: &mut Mask) {
        let lengths = || self.shape.lengths.iter().copied().enumerate();
        if lengths().any(|(f, len)| len > 0 && limits.is_ruled_out_by(seen, f, len)) {
            return;
        }
        let mut hash = 0;
        for (n, stage) in self.shape.stages.iter().enumerate() {
            if stage.prefixes.iter().any(|(f, len)| limits.rule_out(*f, *len, seen)) {
                return;
            }
            let Some(counts) = self.stages.get(n) else { break };
            hash = stage.parts.hash_on(hash, key);
            if !counts.contains(hash) {
                self.shape.stages.iter().take(n + 1).for_each(|s| s.parts.or_into(seen));
                return;
            }
        }
        self.parts.or_into(seen);
    }

    /// Adds the whole mask to `seen`.
    pub(super) fn see_all(&self, seen: &mut Mask) {
        self.parts.or_into(seen);
    }

    /// Ranks of all rules that match, best first.
    pub(super) fn matches(&self, key: &FlowKey) -> impl Iterator<Item = u64> {
        let hash = self.parts.hash(key);
        let all = std::iter::once(&self.best).chain(&self.lower);
        all.map_while(move |p| p.find(hash, |v| self.parts.equals(v, key)))
    }

    /// Values and ranks of all rules.
    pub(super) fn iter(&self) -> impl Iterator<Item = (FlowKey, u64)> {
        let all = std::iter::once(&self.best).chain(&self.lower);
        all.flat_map(|p| p.iter()).map(|(rank, v)| (self.parts.unpack(v), rank))
    }

    /// Memory in bytes.
    pub(super) fn bytes(&self) -> usize {
        let all = std::iter::once(&self.best).chain(&self.lower);
        size_of::<Self>()
            + size_of::<Shape>()
            + self.shape.stages.len() * size_of::<Stage>()
            + all.map(Pages::bytes).sum::<usize>()
            + self.stages.iter().map(Counts::bytes).sum::<usize>()
    }
}
