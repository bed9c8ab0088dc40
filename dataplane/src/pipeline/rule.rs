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

pub use crate::classify::CompactMatch;
use crate::classify::RuleMatch;
use crate::counters::RuleStats;
use crate::packet::key::Mask;
use crate::pipeline::actions::Actions;
use std::collections::VecDeque;
use std::ops::Deref;
use std::sync::Arc;

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
    pub stats: FlowStats,
}

const _: () = assert!(size_of::<Rule>() == 112, "with its counts of references 128 bytes");

/// What a flow met.
///
/// A flow that is modified is another rule and keeps its counters. Few are: so the counters lie in
/// the flow's first rule, and later ones hold that.
#[derive(Debug, Default)]
pub struct FlowStats {
    own: RuleStats,
    first: Option<Arc<Rule>>,
}

impl FlowStats {
    /// Those of this rule, for one in its place.
    pub fn of(rule: &Arc<Rule>) -> Self {
        let first = rule.stats.first.as_ref().unwrap_or(rule);
        Self { own: RuleStats::default(), first: Some(first.clone()) }
    }
}

impl Deref for FlowStats {
    type Target = RuleStats;

    #[inline]
    fn deref(&self) -> &RuleStats {
        match &self.first {
            None => &self.own,
            Some(first) => &first.stats.own,
        }
    }
}

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
        for (at, bits) in rule.actions.outline().sees() {
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

    fn rule(cookie: u64, stats: FlowStats) -> Arc<Rule> {
        let m = RuleMatch { value: FlowKey::ZERO, mask: FlowKey::ZERO, priority: 1, clauses: None };
        let (matching, actions) = ((&m).into(), Vec::new().into());
        Arc::new(Rule { bridge: 0, table: 0, priority: 1, cookie, matching, actions, stats })
    }

    #[test]
    fn a_modified_flow_counts_on() {
        let first = rule(1, FlowStats::default());
        first.stats.add(1, 60, 5);
        let second = rule(2, FlowStats::of(&first));
        let third = rule(3, FlowStats::of(&second));
        second.stats.add(2, 120, 6);
        third.stats.add(4, 240, 7);
        for r in [&first, &second, &third] {
            assert_eq!((r.stats.packets(), r.stats.bytes(), r.stats.used_ns()), (7, 420, 7));
        }
        // The one between is held by nobody.
        assert_eq!(Arc::strong_count(&second), 1);
        drop((first, second));
        assert_eq!(third.stats.packets(), 7);
        third.stats.reset();
        assert_eq!(third.stats.packets(), 0);
    }

    #[test]
    fn an_older_book_keeps_its_rules() {
        let rule = |cookie| rule(cookie, FlowStats::default());
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
