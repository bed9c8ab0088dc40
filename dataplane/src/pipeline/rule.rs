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
pub use crate::classify::CompactMatch;
use crate::classify::RuleMatch;
use crate::counters::RuleStats;
use crate::packet::key::Mask;
use crate::pipeline::keymask;
use std::any::Any;
use std::collections::VecDeque;
use std::ops::Deref;
use std::sync::Arc;

/// A list of actions, for any number of rules. A clone is the same list.
#[derive(Clone, Debug)]
pub struct Actions(Arc<Shared>);

/// What there is once for all rules with a list.
#[derive(Debug)]
struct Shared {
    list: Box<[Action]>,
    /// The bits of a packet that the list reads or writes: pairs of word number and bits. Groups
    /// are not counted.
    sees: Box<[(u8, u64)]>,
    /// What it was made from, for who made it.
    source: Option<Box<dyn Any + Send + Sync>>,
}

impl Actions {
    /// A list with what it was made from.
    pub fn new(list: Box<[Action]>, source: Option<Box<dyn Any + Send + Sync>>) -> Self {
        let sees = keymask::of_actions(&list);
        let words = sees.words().iter().zip(0..).filter(|(w, _)| **w != 0);
        let sees = words.map(|(w, at)| (at, *w)).collect();
        Self(Arc::new(Shared { list, sees, source }))
    }

    /// What the list was made from.
    pub fn source(&self) -> Option<&(dyn Any + Send + Sync)> {
        self.0.source.as_deref()
    }

    /// Whether both are one list.
    pub fn is_same(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.0, &other.0)
    }

    /// Whether nobody else has it.
    pub fn is_alone(&self) -> bool {
        Arc::strong_count(&self.0) == 1
    }
}

impl Deref for Actions {
    type Target = [Action];

    #[inline]
    fn deref(&self) -> &[Action] {
        &self.0.list
    }
}

impl From<Vec<Action>> for Actions {
    fn from(list: Vec<Action>) -> Self {
        Self::new(list.into(), None)
    }
}

/// A flow as the dataplane has it. There may be a million of them: what rules have in common (the
/// mask, the actions) they share.
#[derive(Debug)]
pub struct Rule {
    /// Place of its bridge in the program.
    pub bridge: u16,
    pub table: u8,
    pub priority: u16,
    pub cookie: u64,
    pub matching: CompactMatch,
    pub actions: Actions,
    /// Lives as long as the flow, through all programs.
    pub stats: Arc<RuleStats>,
}

const _: () = assert!(size_of::<Rule>() == 72, "a rule and its two counts of references: 96 bytes");

impl Rule {
    /// The match spelled out.
    pub fn full_match(&self) -> RuleMatch {
        self.matching.full(self.priority)
    }
}

/// Rules of one page.
const PAGE: usize = 64;

type Page = [Option<Arc<Rule>>; PAGE];

/// All rules of a program by number.
#[derive(Clone, Debug, Default)]
pub struct RuleBook {
    pages: Vec<Arc<Page>>,
}

impl RuleBook {
    #[inline]
    pub fn get(&self, number: u32) -> Option<&Arc<Rule>> {
        self.pages.get(number as usize / PAGE)?[number as usize % PAGE].as_ref()
    }

    /// Adds the bits that a rule's actions depend on. False: there is no such rule.
    #[inline]
    pub fn add_sees(&self, number: u32, mask: &mut Mask) -> bool {
        let Some(rule) = self.get(number) else { return false };
        let words = mask.words_mut();
        for (at, bits) in &rule.actions.0.sees {
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
        Arc::make_mut(&mut self.pages[page])[number as usize % PAGE] = rule;
    }

    /// All rules, in the order of their numbers.
    pub fn iter(&self) -> impl Iterator<Item = (u32, &Arc<Rule>)> {
        let all = self.pages.iter().flat_map(|p| p.iter());
        (0..).zip(all).filter_map(|(n, rule)| Some((n, rule.as_ref()?)))
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
    use crate::packet::key::FlowKey;

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
                priority: 1,
                cookie,
                matching: (&m).into(),
                actions: Vec::new().into(),
                stats: Arc::default(),
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
