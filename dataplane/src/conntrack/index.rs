//! The hash index: from a tuple's hash to a connection and its direction.
//!
//! An open-addressed table in buckets of one cache line: eight tags (32 bits of the hash) and
//! eight owners (the connection and the direction). Tags and the emptiness of places are compared
//! eight at a time, without a branch that depends on data: a walk from slot to slot mispredicts
//! once or twice a call, which costs more than the memory that is in cache. The home of an entry
//! is its hash bits as a fraction of the table (`bits * buckets >> 32`), which needs no power of
//! two: four slots a connection, at any number of connections. Tuples hash like their reverse, so
//! only a translated connection has two entries. Half of the slots are in use at most, so a bucket
//! holds four on average and overflows in 2 % of cases; then the entry goes to the next one that
//! has room.
//!
//! What a look-up relies on: between an entry's home and the bucket it is in, all are full, so the
//! first bucket with an empty place ends the search. Removal from a full bucket therefore moves one
//! back that had to go further (Knuth, vol. 3, 6.4, algorithm R, by buckets), and leaves no
//! tombstones: a table under churn stays as fast as a fresh one. Homes are known from the tags, so
//! connections are not looked at.

mod audit;

use super::lanes::places;
use super::lines::Lines;
use crate::prefetch::prefetch;

/// Entries of a bucket.
const WIDTH: usize = 8;

/// One cache line.
#[derive(
    Clone,
    Copy,
    zerocopy::FromBytes,
    zerocopy::IntoBytes,
    zerocopy::KnownLayout,
    zerocopy::Immutable,
)]
#[repr(C)]
struct Bucket {
    tags: [u32; WIDTH],
    /// Connection plus one, shifted left; lowest bit: set for the reply tuple of a translated one.
    /// Zero: empty.
    owners: [u32; WIDTH],
}

const _: () = assert!(size_of::<Bucket>() == 64);

impl Bucket {
    #[inline]
    fn empty(&self) -> u32 {
        places(&self.owners, 0)
    }

    /// The owner of the first of these places: its connection and direction.
    #[inline(always)]
    fn owner(&self, places: u32) -> (u32, usize) {
        let owner = self.owners[places.trailing_zeros() as usize % WIDTH];
        ((owner >> 1).wrapping_sub(1), (owner & 1) as usize)
    }

    #[inline(always)]
    fn put(&mut self, place: usize, tag: u32, owner: u32) {
        (self.tags[place % WIDTH], self.owners[place % WIDTH]) = (tag, owner);
    }
}

/// The index.
pub struct Index {
    lines: Lines<Bucket>,
    buckets: usize,
}

#[inline]
fn owner_of(ix: u32, dir: usize) -> u32 {
    (ix + 1) << 1 | dir as u32 & 1
}

impl Index {
    /// With so many slots, or few more.
    pub fn new(slots: usize) -> Self {
        let buckets = slots.div_ceil(WIDTH);
        Self { lines: Lines::new(buckets), buckets }
    }

    pub fn bytes(&self) -> usize {
        self.lines.bytes()
    }

    #[inline]
    fn bucket(&self, at: usize) -> &Bucket {
        self.lines.get(at)
    }

    #[inline]
    fn put(&mut self, at: usize, place: usize, tag: u32, owner: u32) {
        if let Some(bucket) = self.lines.get_mut(at) {
            bucket.put(place, tag, owner);
        }
    }

    #[inline]
    fn home(&self, tag: u32) -> usize {
        ((u64::from(tag) * self.buckets as u64) >> 32) as usize
    }

    /// The next bucket, going round.
    #[inline]
    fn after(&self, at: usize) -> usize {
        if at + 1 == self.buckets { 0 } else { at + 1 }
    }

    /// Buckets from one to another, going round.
    fn way(&self, from: usize, to: usize) -> usize {
        if to >= from { to - from } else { to + self.buckets - from }
    }

    #[inline]
    pub fn prefetch(&self, tag: u32) {
        prefetch(self.bucket(self.home(tag)));
    }

    /// The first connection of this tag that `side` takes, and the direction that it says; `side`
    /// is told the entry's. Most look-ups end at the first entry of the first bucket, or find none.
    #[inline(always)]
    pub fn find(
        &self,
        tag: u32,
        side: impl Fn(u32, usize) -> Option<usize>,
    ) -> Option<(u32, usize)> {
        let home = self.home(tag);
        let bucket = self.bucket(home);
        let empty = bucket.empty();
        let same = places(&bucket.tags, tag) & !empty;
        if same == 0 && empty != 0 {
            return None;
        }
        if same != 0 {
            let (ix, dir) = bucket.owner(same);
            if let Some(dir) = side(ix, dir) {
                return Some((ix, dir));
            }
        }
        self.find_on(home, tag, side)
    }

    /// The same, from the beginning.
    #[cold]
    #[inline(never)]
    fn find_on(
        &self,
        home: usize,
        tag: u32,
        side: impl Fn(u32, usize) -> Option<usize>,
    ) -> Option<(u32, usize)> {
        let mut at = home;
        // Ends: at most half of the places are in use.
        loop {
            let bucket = self.bucket(at);
            let empty = bucket.empty();
            let mut same = places(&bucket.tags, tag) & !empty;
            while same != 0 {
                let (ix, dir) = bucket.owner(same);
                if let Some(dir) = side(ix, dir) {
                    return Some((ix, dir));
                }
                same &= same - 1;
            }
            if empty != 0 {
                return None;
            }
            at = self.after(at);
        }
    }

    /// Enters a direction of a connection; there is room.
    #[inline(always)]
    pub fn link(&mut self, tag: u32, ix: u32, dir: usize) {
        let home = self.home(tag);
        let Some(bucket) = self.lines.get_mut(home) else { return };
        let empty = bucket.empty();
        if empty == 0 {
            return self.link_on(home, tag, ix, dir);
        }
        bucket.put(empty.trailing_zeros() as usize, tag, owner_of(ix, dir));
    }

    /// The same, where the home is full.
    #[cold]
    #[inline(never)]
    fn link_on(&mut self, home: usize, tag: u32, ix: u32, dir: usize) {
        let mut at = home;
        loop {
            at = self.after(at);
            let empty = self.bucket(at).empty();
            if empty != 0 {
                return self.put(at, empty.trailing_zeros() as usize, tag, owner_of(ix, dir));
            }
        }
    }

    /// Takes an entry out.
    #[inline(always)]
    pub fn unlink(&mut self, tag: u32, ix: u32, dir: usize) {
        let (home, owner) = (self.home(tag), owner_of(ix, dir));
        let Some(bucket) = self.lines.get_mut(home) else { return };
        let (empty, here) = (bucket.empty(), places(&bucket.owners, owner));
        if empty == 0 || here == 0 {
            return self.unlink_on(home, owner);
        }
        bucket.put(here.trailing_zeros() as usize, 0, 0);
    }

    /// The same, where buckets are full.
    #[cold]
    #[inline(never)]
    fn unlink_on(&mut self, home: usize, owner: u32) {
        let mut at = home;
        loop {
            let bucket = self.bucket(at);
            let (empty, here) = (bucket.empty(), places(&bucket.owners, owner));
            if here != 0 {
                let place = here.trailing_zeros() as usize;
                self.put(at, place, 0, 0);
                if empty == 0 {
                    self.close_gap(at, place);
                }
                return;
            }
            if empty != 0 {
                debug_assert!(false, "a connection was not in the index");
                return;
            }
            at = self.after(at);
        }
    }

    /// A bucket that was full has a gap: what went past it may come back.
    #[cold]
    fn close_gap(&mut self, mut hole: usize, mut place: usize) {
        let mut at = hole;
        loop {
            at = self.after(at);
            if at == hole {
                return;
            }
            let bucket = *self.bucket(at);
            let full = bucket.empty() == 0;
            let went_past = |(tag, owner): (&u32, &u32)| {
                *owner != 0 && self.way(self.home(*tag), at) >= self.way(hole, at)
            };
            if let Some(i) = bucket.tags.iter().zip(&bucket.owners).position(went_past) {
                self.put(hole, place, bucket.tags[i % WIDTH], bucket.owners[i % WIDTH]);
                self.put(at, i, 0, 0);
                (hole, place) = (at, i);
            }
            if !full {
                return;
            }
        }
    }

    /// Entries in use.
    #[cfg(test)]
    pub fn used(&self) -> usize {
        (0..self.buckets).map(|at| WIDTH - self.bucket(at).empty().count_ones() as usize).sum()
    }

    /// Whether every entry can be found.
    #[cfg(test)]
    pub fn is_sound(&self) -> bool {
        (0..self.buckets).all(|at| {
            let b = self.bucket(at);
            b.tags.iter().zip(&b.owners).filter(|(_, owner)| **owner != 0).all(|(tag, _)| {
                let mut on_way = self.home(*tag);
                while on_way != at {
                    if self.bucket(on_way).empty() != 0 {
                        return false;
                    }
                    on_way = self.after(on_way);
                }
                true
            })
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::BTreeMap;

    proptest! {
        #![proptest_config(ProptestConfig {
            failure_persistence: None, ..ProptestConfig::with_cases(400)
        })]
        /// Entries of few homes, so that buckets overflow, also past the end, against a map.
        #[test]
        fn overflowing_buckets_keep_and_lose_what_they_should(
            buckets in 1usize..6,
            ops in prop::collection::vec((0u32..24, 0usize..2, 0u32..5), 1..300),
        ) {
            let mut index = Index::new(buckets * WIDTH);
            let mut model: BTreeMap<(u32, usize), u32> = BTreeMap::new();
            for (ix, dir, tag) in ops {
                let tag = [0, 1, 0x8000_0000, 0xffff_fffe, u32::MAX][tag as usize];
                if let Some(tag) = model.remove(&(ix, dir)) {
                    index.unlink(tag, ix, dir);
                } else if model.len() < buckets * WIDTH - 1 {
                    index.link(tag, ix, dir);
                    model.insert((ix, dir), tag);
                }
                prop_assert!(index.is_sound());
                prop_assert_eq!(index.used(), model.len());
                for (at, tag) in &model {
                    let found = index.find(*tag, |ix, dir| ((ix, dir) == *at).then_some(dir));
                    prop_assert_eq!(found, Some(*at));
                }
                prop_assert_eq!(index.find(7 << 20, |_, dir| Some(dir)), None);
            }
        }
    }
}
