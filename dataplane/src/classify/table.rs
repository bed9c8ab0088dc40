//! The classifier of one table: all rules in tuple spaces, and the form that fits them.

use super::bits::{BITS_RULES, BITS_RULES_KEPT, Bits};
use super::conjunction::Soft;
use super::direct::Direct;
use super::few::{FEW, FEW_KEPT, Few};
use super::lpm::Lpm;
use super::rule::AnyMatch;
use super::subtable::{id_of, rank};
use super::tuples::Tuples;
use super::{CompactMatch, RuleMatch};
use crate::packet::key::{FlowKey, Mask};
use std::fmt;
use std::sync::Arc;

/// The form that a table has at present.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Template {
    /// No rule.
    Empty,
    /// A few rules, one after the other.
    Few,
    /// One small number: an array.
    Direct,
    /// One mask: a hash table.
    Hash,
    /// Longest prefix: a trie beside the tuple space.
    Lpm,
    /// Bit vectors beside the tuple space.
    Bits,
    /// Tuple space search.
    Tuples,
}

impl fmt::Display for Template {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Empty => "empty",
            Self::Few => "few rules",
            Self::Direct => "direct",
            Self::Hash => "hash",
            Self::Lpm => "longest prefix",
            Self::Bits => "bit vectors",
            Self::Tuples => "tuple space",
        })
    }
}

/// What answers a plain lookup.
#[derive(Clone, Debug, Default)]
enum Form {
    /// The tuple space itself.
    #[default]
    Tuples,
    Few(Few),
    Direct(Box<Direct>),
    Lpm(Box<Lpm>),
    Bits(Box<Bits>),
}

/// A change of one ordinary rule.
#[derive(Clone, Copy)]
enum Change {
    Insert,
    Remove,
}

/// Masks below which the tuple space is as fast as the trie, and as bit vectors.
const MASKS_LPM: usize = 2;
const MASKS_BITS: usize = 4;

/// The classifier of one table. A clone shares all and costs next to nothing; changing one
/// leaves the others as they were.
#[derive(Clone, Debug, Default)]
pub struct Table {
    form: Form,
    tuples: Tuples,
    /// Rules with clauses.
    soft: Option<Arc<Soft>>,
    /// Never another form.
    pinned: Option<Template>,
    /// Changes in the tuple space's form since others were last tried.
    changes: usize,
}

impl Table {
    pub fn new() -> Self {
        Self::default()
    }

    /// Builds the table from its rules.
    pub fn build<'a>(rules: impl Iterator<Item = (u32, &'a RuleMatch)>) -> Self {
        Self::build_as(rules, None)
    }

    /// As `build`, of compact matches with their priorities.
    pub fn build_compact<'a>(rules: impl Iterator<Item = (u32, u16, &'a CompactMatch)>) -> Self {
        Self::build_any(rules.map(|(id, p, m)| (id, AnyMatch::Compact(m, p))), None)
    }

    /// As `build`, in this form for good as long as the rules allow it, else in the tuple space:
    /// so that tests and benches can set forms against each other.
    pub fn build_as<'a>(
        rules: impl Iterator<Item = (u32, &'a RuleMatch)>,
        pinned: Option<Template>,
    ) -> Self {
        Self::build_any(rules.map(|(id, m)| (id, AnyMatch::Full(m))), pinned)
    }

    fn build_any<'a>(
        rules: impl Iterator<Item = (u32, AnyMatch<'a>)>,
        pinned: Option<Template>,
    ) -> Self {
        let mut soft = Soft::default();
        let hard = rules.filter(|(id, m)| {
            if m.has_clauses() {
                soft.insert(*id, &m.full());
            }
            !m.has_clauses()
        });
        let tuples = Tuples::build(hard);
        let soft = (soft.len() != 0).then(|| Arc::new(soft));
        let mut table = Self { form: Form::Tuples, tuples, soft, pinned, changes: 0 };
        table.fit();
        table
    }

    /// Adds a rule. Its number is free, and no rule has its match and priority: the caller sees
    /// to both.
    pub fn insert(&mut self, id: u32, m: &RuleMatch) {
        if m.clauses.is_some() {
            Arc::make_mut(self.soft.get_or_insert_default()).insert(id, m);
            return;
        }
        self.tuples.insert(id, m);
        self.follow(id, m, Change::Insert);
    }

    /// Takes a rule out; false if it is not there.
    pub fn remove(&mut self, id: u32, m: &RuleMatch) -> bool {
        if m.clauses.is_some() {
            let Some(soft) = &mut self.soft else { return false };
            let was_there = Arc::make_mut(soft).remove(id, m);
            self.soft.take_if(|s| s.len() == 0);
            return was_there;
        }
        let was_there = self.tuples.remove(id, m);
        if was_there {
            self.follow(id, m, Change::Remove);
        }
        was_there
    }

    /// Follows a change of the rules. Forms are made anew only after a share of the rules changed,
    /// so that no rule pays for more than a few others.
    fn follow(&mut self, id: u32, m: &RuleMatch, change: Change) {
        let rank = rank(m.priority, id);
        let n = self.tuples.len();
        let keeps = match (&mut self.form, change) {
            (Form::Few(_), _) => false,
            (_, _) if n <= FEW => false,
            (Form::Direct(d), Change::Insert) => d.insert(&m.value, &m.mask, rank),
            (Form::Direct(d), Change::Remove) => d.remove(&m.value, &m.mask, rank),
            (Form::Lpm(lpm), Change::Insert) => lpm.insert(&m.value, &m.mask, rank),
            (Form::Lpm(lpm), Change::Remove) => lpm.remove(&m.value, &m.mask, rank),
            (Form::Bits(bits), Change::Insert) => bits.insert(id, m),
            (Form::Bits(bits), Change::Remove) => bits.remove(id, m),
            (Form::Tuples, _) => {
                self.changes += 1;
                self.changes < 16 + n / 4
            }
        };
        if !keeps {
            self.fit();
        }
    }

    /// Gives the table the form that fits its rules now.
    fn fit(&mut self) {
        self.changes = 0;
        let (rules, masks) = (self.tuples.len(), self.tuples.masks().len());
        let may = |t: Template| self.pinned.is_none_or(|p| p == t);
        let least = |n: usize| if self.pinned.is_some() { 1 } else { n };
        let was_lpm = matches!(self.form, Form::Lpm(_));
        let few = if matches!(self.form, Form::Few(_)) { FEW_KEPT } else { FEW };
        let many = if matches!(self.form, Form::Bits(_)) { BITS_RULES_KEPT } else { BITS_RULES };
        self.form = Form::Tuples;
        if rules == 0 {
            return;
        }
        if may(Template::Few) && rules <= few {
            self.form = Form::Few(Few::new(self.tuples.iter()));
            return;
        }
        if may(Template::Direct)
            && let Some(direct) = Direct::new(self.tuples.masks(), self.tuples.iter())
        {
            self.form = Form::Direct(Box::new(direct));
            return;
        }
        if may(Template::Lpm)
            && masks >= least(MASKS_LPM)
            && let Some(lpm) = Lpm::new(self.tuples.masks(), self.tuples.iter(), was_lpm)
        {
            self.form = Form::Lpm(Box::new(lpm));
            return;
        }
        if may(Template::Bits)
            && rules <= many
            && masks >= least(MASKS_BITS)
            && let Some(bits) =
                Bits::new(self.tuples.iter(), may(Template::Tuples).then_some(masks))
        {
            self.form = Form::Bits(Box::new(bits));
        }
    }

    /// Number of the best rule that matches.
    #[inline]
    pub fn lookup(&self, key: &FlowKey) -> Option<u32> {
        let hard = self.ordinary(key);
        let found = match &self.soft {
            None => hard,
            Some(soft) => self.with_conjunctions(soft, hard, key),
        };
        found.map(id_of)
    }

    #[inline(always)]
    fn ordinary(&self, key: &FlowKey) -> Option<u64> {
        match &self.form {
            Form::Tuples => self.tuples.lookup(key),
            Form::Few(few) => few.lookup(key),
            Form::Direct(direct) => direct.lookup(key),
            Form::Lpm(lpm) => lpm.lookup(key),
            Form::Bits(bits) => bits.lookup(key),
        }
    }

    fn with_conjunctions(&self, soft: &Soft, hard: Option<u64>, key: &FlowKey) -> Option<u64> {
        let mut again = |conj_id, _: Option<&mut Mask>| self.ordinary(&FlowKey { conj_id, ..*key });
        soft.lookup(key, hard, None, &mut again).or(hard)
    }

    /// As `lookup`; adds to `seen` the bits of the key that the answer depended on.
    pub fn lookup_wild(&self, key: &FlowKey, seen: &mut Mask) -> Option<u32> {
        let hard = self.ordinary_wild(key, seen);
        let Some(soft) = &self.soft else { return hard.map(id_of) };
        let mut again = |conj_id, seen: Option<&mut Mask>| {
            let mut inner = Mask::ZERO;
            let found = self.ordinary_wild(&FlowKey { conj_id, ..*key }, &mut inner);
            // That `conj_id` is not the key's.
            inner.conj_id = 0;
            seen.into_iter().for_each(|s| s.or_assign(&inner));
            found
        };
        soft.lookup(key, hard, Some(seen), &mut again).or(hard).map(id_of)
    }

    fn ordinary_wild(&self, key: &FlowKey, seen: &mut Mask) -> Option<u64> {
        match &self.form {
            Form::Bits(bits) => bits.lookup_wild(key, seen),
            _ => self.tuples.lookup_wild(key, None, seen),
        }
    }

    /// Rules.
    pub fn len(&self) -> usize {
        self.tuples.len() + self.soft.as_ref().map_or(0, |s| s.len())
    }

    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Number of masks, the cost driver of the tuple spaces.
    pub fn subtables(&self) -> usize {
        self.tuples.masks().len() + self.soft.as_ref().map_or(0, |s| s.masks())
    }

    /// The form in which ordinary rules are looked up.
    pub fn template(&self) -> Template {
        match (&self.form, self.tuples.masks().len()) {
            (_, 0) => Template::Empty,
            (Form::Few(_), _) => Template::Few,
            (Form::Direct(_), _) => Template::Direct,
            (Form::Lpm(_), _) => Template::Lpm,
            (Form::Bits(_), _) => Template::Bits,
            (Form::Tuples, 1) => Template::Hash,
            (Form::Tuples, _) => Template::Tuples,
        }
    }

    #[cfg(test)]
    pub(super) fn sieve(&self) -> Option<&super::sieve::Sieve> {
        self.tuples.sieve()
    }

    /// Memory of the index, in bytes.
    pub fn bytes(&self) -> usize {
        let form = match &self.form {
            Form::Tuples => 0,
            Form::Few(few) => few.bytes(),
            Form::Direct(direct) => direct.bytes(),
            Form::Lpm(lpm) => lpm.bytes(),
            Form::Bits(bits) => bits.bytes(),
        };
        form + self.tuples.bytes() + self.soft.as_ref().map_or(0, |s| s.bytes())
    }
}
