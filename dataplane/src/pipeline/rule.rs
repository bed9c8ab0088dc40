//! A flow as the dataplane has it, and the book of all of them.
//!
//! **Numbers.** A rule has a number for as long as it is there, and cached walks credit rules by
//! it. So a number that became free is given out again only when no cache can name it any more:
//! a worker says so by the version up to which its caches have been looked through
//! (`Lane::swept`), and control's `RuleIds` waits for that.
//!
//! **Sharing.** The book is a directory of small pages, both counted references: a clone of it
//! costs a copy of the directory, and changing a rule afterwards copies one page. Control changes
//! its book while workers read older ones.

use crate::action::Action;
use crate::classify::{Clause, RuleMatch};
use crate::counters::RuleStats;
use crate::packet::key::{FlowKey, KEY_WORDS, Mask};
use crate::pipeline::keymask;
use std::collections::VecDeque;
use std::sync::Arc;

/// A match without the words that it leaves open: pairs of value and mask.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CompactMatch {
    /// Bit n: word n of the key matters.
    words: u64,
    pairs: Box<[[u64; 2]]>,
    clauses: Option<Box<[Clause]>>,
    pub priority: u16,
}

const _: () = assert!(KEY_WORDS <= 64, "a bit for each word of the key");

impl From<&RuleMatch> for CompactMatch {
    fn from(m: &RuleMatch) -> Self {
        let all = m.mask.words().iter().zip(m.value.words()).enumerate();
        let used = all.filter(|(_, (mask, _))| **mask != 0);
        let mut words = 0;
        let pairs = used
            .map(|(at, (mask, value))| {
                words |= 1 << at;
                [*value & *mask, *mask]
            })
            .collect();
        Self { words, pairs, clauses: m.clauses.clone(), priority: m.priority }
    }
}

impl CompactMatch {
    /// The match spelled out.
    pub fn full(&self) -> RuleMatch {
        let (value, mask) = (self.value(), self.mask());
        RuleMatch { value, mask, priority: self.priority, clauses: self.clauses.clone() }
    }

    pub fn value(&self) -> FlowKey {
        self.spread(0)
    }

    pub fn mask(&self) -> Mask {
        self.spread(1)
    }

    fn spread(&self, which: usize) -> FlowKey {
        let mut key = FlowKey::ZERO;
        let places = (0..KEY_WORDS).filter(|at| self.words >> at & 1 != 0);
        for (at, pair) in places.zip(&self.pairs) {
            key.words_mut()[at] = pair[which];
        }
        key
    }
}

/// A flow as the dataplane has it.
#[derive(Debug)]
pub struct Rule {
    /// Place of its bridge in the program.
    pub bridge: u16,
    pub table: u8,
    pub cookie: u64,
    pub matching: CompactMatch,
    pub actions: Box<[Action]>,
    /// Lives as long as the flow, through all programs.
    pub stats: Arc<RuleStats>,
    /// The flow as text, for `trace`.
    pub text: Box<str>,
}

/// Rules of one page.
const PAGE: usize = 64;

/// A rule in its place, with the bits of a packet that its actions read or write: pairs of word
/// number and bits. Groups are not counted.
#[derive(Clone, Debug)]
struct Entry {
    rule: Arc<Rule>,
    sees: Box<[(u8, u64)]>,
}

type Page = [Option<Entry>; PAGE];

/// All rules of a program by number.
#[derive(Clone, Debug, Default)]
pub struct RuleBook {
    pages: Vec<Arc<Page>>,
}

impl RuleBook {
    #[inline]
    pub fn get(&self, number: u32) -> Option<&Arc<Rule>> {
        self.entry(number).map(|e| &e.rule)
    }

    #[inline]
    fn entry(&self, number: u32) -> Option<&Entry> {
        self.pages.get(number as usize / PAGE)?[number as usize % PAGE].as_ref()
    }

    /// Adds the bits that a rule's actions depend on. False: there is no such rule.
    #[inline]
    pub fn add_sees(&self, number: u32, mask: &mut Mask) -> bool {
        let Some(entry) = self.entry(number) else { return false };
        let words = mask.words_mut();
        for (at, bits) in &entry.sees {
            if let Some(w) = words.get_mut(usize::from(*at)) {
                *w |= bits;
            }
        }
        true
    }

    /// Puts a rule in, or takes one out.
    pub fn set(&mut self, number: u32, rule: Option<Arc<Rule>>) {
        let page = number as usize / PAGE;
        while self.pages.len() <= page {
            self.pages.push(Arc::new([const { None }; PAGE]));
        }
        let entry = rule.map(|rule| {
            let sees = keymask::of_actions(&rule.actions);
            let words = sees.words().iter().zip(0..).filter(|(w, _)| **w != 0);
            let sees = words.map(|(w, at)| (at, *w)).collect();
            Entry { rule, sees }
        });
        Arc::make_mut(&mut self.pages[page])[number as usize % PAGE] = entry;
    }

    /// All rules, in the order of their numbers.
    pub fn iter(&self) -> impl Iterator<Item = (u32, &Arc<Rule>)> {
        let all = self.pages.iter().flat_map(|p| p.iter());
        (0..).zip(all).filter_map(|(n, e)| Some((n, &e.as_ref()?.rule)))
    }
}

/// Gives numbers to rules.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct RuleIds {
    next: u32,
    /// Numbers that are free, with the version from which on no walk meets them.
    free: VecDeque<(u64, u32)>,
    swept: u64,
}

impl RuleIds {
    pub fn take(&mut self) -> u32 {
        if let Some((since, number)) = self.free.front().copied()
            && since <= self.swept
        {
            self.free.pop_front();
            return number;
        }
        self.next += 1;
        self.next - 1
    }

    /// `version`: the first program without the rule.
    pub fn give_back(&mut self, number: u32, version: u64) {
        self.free.push_back((version, number));
    }

    /// No worker's cache names a rule that went before this version.
    pub fn swept(&mut self, version: u64) {
        self.swept = self.swept.max(version);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::packet::field::Field;

    #[test]
    fn a_match_comes_back_as_it_was() {
        let mut m =
            RuleMatch { value: FlowKey::ZERO, mask: FlowKey::ZERO, priority: 7, clauses: None };
        for (f, v, mask) in [(Field::IpSrc, 0x0a00_0000, 0xff00_0000), (Field::Reg3, 9, 0xf)] {
            f.info().set(&mut m.value, v);
            f.info().set(&mut m.mask, mask);
        }
        assert_eq!(CompactMatch::from(&m).full(), m);
    }

    #[test]
    fn a_number_is_given_again_only_when_the_caches_have_forgotten_it() {
        let mut ids = RuleIds::default();
        assert_eq!((ids.take(), ids.take()), (0, 1));
        ids.give_back(0, 5);
        assert_eq!(ids.take(), 2);
        ids.swept(4);
        assert_eq!(ids.take(), 3);
        ids.swept(5);
        assert_eq!((ids.take(), ids.take()), (0, 4));
    }

    #[test]
    fn an_older_book_keeps_its_rules() {
        let rule = |cookie| {
            let m =
                RuleMatch { value: FlowKey::ZERO, mask: FlowKey::ZERO, priority: 1, clauses: None };
            Arc::new(Rule {
                bridge: 0,
                table: 0,
                cookie,
                matching: (&m).into(),
                actions: Box::default(),
                stats: Arc::default(),
                text: "".into(),
            })
        };
        let mut book = RuleBook::default();
        book.set(70, Some(rule(1)));
        let old = book.clone();
        book.set(70, Some(rule(2)));
        book.set(3, Some(rule(3)));
        assert_eq!(old.get(70).map(|r| r.cookie), Some(1));
        assert!(old.get(3).is_none());
        assert_eq!(book.iter().map(|(n, r)| (n, r.cookie)).collect::<Vec<_>>(), [(3, 3), (70, 2)]);
        book.set(70, None);
        assert!(book.get(70).is_none() && old.get(70).is_some());
    }
}
