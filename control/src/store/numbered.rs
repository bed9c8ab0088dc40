//! Flows by the numbers of their rules.
//!
//! Numbers are given out from below and come from all bridges, so a bridge has runs of them: a
//! directory of small pages, of which only those are there that have a flow.

use super::Stored;

const PAGE: usize = 32;

type Page = [Option<Stored>; PAGE];

#[derive(Debug, Default)]
pub struct Numbered {
    pages: Vec<Option<Box<Page>>>,
    len: usize,
}

fn place(number: u32) -> (usize, usize) {
    (number as usize / PAGE, number as usize % PAGE)
}

impl Numbered {
    pub fn len(&self) -> usize {
        self.len
    }

    pub fn get(&self, number: u32) -> Option<&Stored> {
        let (page, at) = place(number);
        self.pages.get(page)?.as_ref()?[at].as_ref()
    }

    /// Puts a flow in its place, which is free.
    pub fn insert(&mut self, s: Stored) {
        let (page, at) = place(s.number);
        if self.pages.len() <= page {
            self.pages.resize_with(page + 1, || None);
        }
        let page = self.pages[page].get_or_insert_with(|| Box::new([const { None }; PAGE]));
        self.len += usize::from(page[at].replace(s).is_none());
    }

    pub fn remove(&mut self, number: u32) -> Option<Stored> {
        let (page, at) = place(number);
        let slot = self.pages.get_mut(page)?;
        let gone = slot.as_mut()?[at].take()?;
        self.len -= 1;
        slot.take_if(|p| p.iter().all(Option::is_none));
        while self.pages.last().is_some_and(Option::is_none) {
            self.pages.pop();
        }
        Some(gone)
    }

    /// All flows, by number.
    pub fn iter(&self) -> impl Iterator<Item = &Stored> {
        self.pages.iter().flatten().flat_map(|p| p.iter().flatten())
    }
}
