//! A hash table of which versions share what they have in common.
//!
//! **Pages.** Records lie in pages of at most 128. A directory of pages is indexed by bits of the
//! hash (extendible hashing: Fagin et al., TODS 1979). A page that fills splits by one more bit,
//! and if the directory has no entry for that bit it doubles. So no change moves more than a page's
//! records, and the table never halts to grow.
//!
//! **Versions.** Directory and pages are reference-counted and copied when changed while shared.
//! The directory has two levels of 32: a change on a table that was cloned copies one page, 32
//! pointers to pages, and the pointers above them, one for each 32 pages.
//!
//! **Lookup.** A page is an array of buckets; a bucket has four marks in half a cache line, then
//! the four values. A mark is 16 bits of the hash and a payload of 48. A miss mostly looks at
//! four marks and branches on nothing that surprises; a full bucket goes on into the next.
//!
//! Records may do without a value: their marks then have 40 bits of the hash, from which the rest
//! of it must follow (`counts`), and a payload of 24.

use crate::prefetch::prefetch;
use std::sync::Arc;

/// Records of a bucket.
const LANES: usize = 4;
/// Buckets of a page, unless too many hashes agree in too many bits.
const BUCKETS_MAX: usize = 32;
/// Records of a page that is filled at once, at most.
const FILLED: usize = BUCKETS_MAX * LANES * 3 / 5;
/// Bits of the directory's index, at most.
const DEPTH_MAX: u32 = 20;
/// Pages that the lower level of the directory holds together.
const FAN: usize = 32;
/// First bit of the hash that the directory uses; bits from the 31st down choose the bucket.
const DIRECTORY_SHIFT: u32 = 8;

/// Bits of a payload beside a value, and without one. The bits above are the hash's.
const PAYLOAD_BITS: u32 = 48;
pub(super) const PAYLOAD_BITS_BARE: u32 = 24;

/// Buckets, and a last word for upkeep: records, and bits of the hash that they have in common.
type Page = Arc<[u64]>;

#[derive(Clone, Debug)]
pub(super) struct Pages<const BITS: u32 = PAYLOAD_BITS> {
    root: Arc<[Arc<[Page]>]>,
    /// Entries of the directory, less one.
    directory: usize,
    /// Buckets of a page.
    buckets: usize,
    /// Words of a value.
    value: usize,
    len: usize,
}

#[inline(always)]
fn tag_of<const BITS: u32>(hash: u64) -> u64 {
    // Never 0: a mark of 0 is a free lane.
    (hash >> BITS) | 1
}

/// Bucket of a hash. Any number of buckets will do, so that a page can be as large as it must.
#[inline(always)]
fn home(hash: u64, buckets: usize) -> usize {
    (((hash & 0xffff_ffff) * buckets as u64) >> 32) as usize
}

fn mark<const BITS: u32>(hash: u64, payload: u64) -> u64 {
    (tag_of::<BITS>(hash) << BITS) | (payload & ones(BITS))
}

#[inline(always)]
const fn ones(bits: u32) -> u64 {
    (1 << bits) - 1
}

/// Where a record is.
#[derive(Clone, Copy)]
struct Place {
    bucket: usize,
    lane: usize,
}

impl<const BITS: u32> Pages<BITS> {
    /// An empty table for values of so many words.
    pub(super) fn new(value: usize) -> Self {
        let page: Page = vec![0; LANES * (1 + value) + 1].into();
        Self { root: Arc::new([Arc::new([page])]), directory: 0, buckets: 1, value, len: 0 }
    }

    pub(super) fn len(&self) -> usize {
        self.len
    }

    /// Fills an empty table with many records: hash, payload, value. Returns the places in the
    /// list of those that were left out, because their value is there already or their page full.
    pub(super) fn fill(&mut self, list: &[(u64, u64, &[u64])]) -> Vec<usize> {
        let pages = list.len().div_ceil(FILLED).next_power_of_two().min(1 << DEPTH_MAX);
        // The pages' shares differ by chance: three in five lanes in use on average.
        let lanes = (list.len() * 5).div_ceil(3 * pages);
        self.buckets = lanes.div_ceil(LANES).clamp(1, BUCKETS_MAX);
        self.directory = pages - 1;
        let shape = (self.buckets, self.value);
        let mut filled = vec![empty_page(shape, pages.trailing_zeros()); pages];
        let mut left = Vec::new();
        for (n, (hash, payload, value)) in list.iter().enumerate() {
            let page = &mut filled[(hash >> DIRECTORY_SHIFT) as usize & self.directory];
            let is_full = (upkeep(page).0 + 1) * 4 > self.buckets * LANES * 3;
            if is_full || self.place(page, *hash, |v| v == *value).is_some() {
                left.push(n);
            } else {
                put(page, shape, *hash, mark::<BITS>(*hash, *payload), value);
                self.len += 1;
            }
        }
        let pages: Vec<Page> = filled.into_iter().map(Page::from).collect();
        self.root = pages.chunks(FAN).map(Arc::from).collect();
        left
    }

    #[inline(always)]
    fn page(&self, hash: u64) -> Option<&Page> {
        let at = (hash >> DIRECTORY_SHIFT) as usize & self.directory;
        self.root.get(at / FAN)?.get(at % FAN)
    }

    #[inline(always)]
    fn bucket_words(&self) -> usize {
        LANES * (1 + self.value)
    }

    /// The payload of the record with this hash whose value `equals` accepts.
    #[inline(always)]
    pub(super) fn find(&self, hash: u64, equals: impl Fn(&[u64]) -> bool) -> Option<u64> {
        let page = self.page(hash)?;
        let (_, payload) = self.place(page, hash, equals)?;
        Some(payload)
    }

    /// As `find`, of records with a higher payload than this.
    #[inline(always)]
    pub(super) fn find_above(
        &self,
        hash: u64,
        above: Option<u64>,
        equals: impl Fn(&[u64]) -> bool,
    ) -> Option<u64> {
        let page = self.page(hash)?;
        let (_, payload) = self.place_of(page, hash, |p| Some(p) > above, equals)?;
        Some(payload)
    }

    /// Asks for the marks that a search for this hash looks at first.
    #[inline(always)]
    pub(super) fn prefetch(&self, hash: u64) {
        let Some(page) = self.page(hash) else { return };
        page.get(home(hash, self.buckets) * self.bucket_words()).into_iter().for_each(prefetch);
    }

    #[inline(always)]
    fn place(
        &self,
        page: &[u64],
        hash: u64,
        equals: impl Fn(&[u64]) -> bool,
    ) -> Option<(Place, u64)> {
        self.place_of(page, hash, |_| true, equals)
    }

    #[inline(always)]
    fn place_of(
        &self,
        page: &[u64],
        hash: u64,
        may_be: impl Fn(u64) -> bool,
        equals: impl Fn(&[u64]) -> bool,
    ) -> Option<(Place, u64)> {
        let tag = tag_of::<BITS>(hash);
        let mut bucket = home(hash, self.buckets);
        for _ in 0..self.buckets {
            let (marks, values) =
                page.get(bucket * self.bucket_words()..)?.split_first_chunk::<LANES>()?;
            // A value may begin in another line than its mark: ask for it meanwhile.
            values.chunks(8).for_each(prefetch);
            let mut hits = 0u32;
            let mut free = false;
            for (lane, m) in marks.iter().enumerate() {
                hits |= u32::from(m >> BITS == tag) << lane;
                free |= *m == 0;
            }
            while hits != 0 {
                let lane = hits.trailing_zeros() as usize;
                let value = values.get(lane * self.value..(lane + 1) * self.value)?;
                let payload = marks.get(lane)? & ones(BITS);
                if may_be(payload) && equals(value) {
                    return Some((Place { bucket, lane }, payload));
                }
                hits &= hits - 1;
            }
            if free {
                return None;
            }
            bucket = if bucket + 1 == self.buckets { 0 } else { bucket + 1 };
        }
        None
    }

    /// Replaces the payload of a record that is there.
    pub(super) fn set(&mut self, hash: u64, equals: impl Fn(&[u64]) -> bool, payload: u64) {
        let Some(page) = self.page(hash) else { return };
        let Some((place, _)) = self.place(page, hash, equals) else { return };
        let at = place.bucket * self.bucket_words() + place.lane;
        self.edit(hash, |page| page[at] = mark::<BITS>(hash, payload));
    }

    /// Adds a record whose value is not there. `hash_of` gives the hash of a stored mark and value.
    pub(super) fn insert(
        &mut self,
        hash: u64,
        payload: u64,
        value: &[u64],
        hash_of: &impl Fn(u64, &[u64]) -> u64,
    ) {
        loop {
            let lanes = self.buckets * LANES;
            let Some(page) = self.page(hash) else { return };
            // At most three of four lanes are in use, so every search meets a free one.
            if (upkeep(page).0 + 1) * 4 <= lanes * 3 {
                break;
            }
            self.make_room(hash, hash_of);
        }
        let shape = (self.buckets, self.value);
        self.edit(hash, |page| {
            put(page, shape, hash, mark::<BITS>(hash, payload), value);
        });
        self.len += 1;
    }

    /// Takes a record out and returns its payload.
    pub(super) fn remove(
        &mut self,
        hash: u64,
        equals: impl Fn(&[u64]) -> bool,
        hash_of: &impl Fn(u64, &[u64]) -> u64,
    ) -> Option<u64> {
        let (place, payload) = self.place(self.page(hash)?, hash, equals)?;
        let shape = (self.buckets, self.value);
        let bucket_words = self.bucket_words();
        self.edit(hash, |page| {
            let from = place.bucket * bucket_words;
            let was_full = page[from..from + LANES].iter().all(|m| *m != 0);
            page[from + place.lane] = 0;
            let (records, depth) = upkeep(page);
            set_upkeep(page, records - 1, depth);
            if was_full {
                // Records may have gone past this bucket: lay them all out again.
                let again = relay(page, shape, depth, hash_of);
                page.copy_from_slice(&again);
            }
        });
        self.len -= 1;
        Some(payload)
    }

    /// Edits the page of this hash, copied first if another version has it too.
    fn edit(&mut self, hash: u64, f: impl FnOnce(&mut [u64])) {
        let Some(page) = self.page(hash) else { return };
        let depth = upkeep(page).1;
        let first = (hash >> DIRECTORY_SHIFT) as usize & ((1usize << depth) - 1);
        let step = 1usize << depth;
        let root = Arc::make_mut(&mut self.root);
        // All entries that lead to the page let go of it, so that the one hand left can tell
        // whether another version holds it.
        let mut held: Option<Page> = None;
        for at in (first..=self.directory).step_by(step) {
            let entry = &mut Arc::make_mut(&mut root[at / FAN])[at % FAN];
            held = Some(std::mem::take(entry));
        }
        let Some(mut page) = held else { return };
        f(Arc::make_mut(&mut page));
        for at in (first..=self.directory).step_by(step) {
            Arc::make_mut(&mut root[at / FAN])[at % FAN] = page.clone();
        }
    }

    fn make_room(&mut self, hash: u64, hash_of: &impl Fn(u64, &[u64]) -> u64) {
        let Some(depth) = self.page(hash).map(|p| upkeep(p).1) else { return };
        let is_one_page = self.directory == 0;
        if (is_one_page && self.buckets < BUCKETS_MAX) || depth >= DEPTH_MAX {
            self.grow_pages(hash_of);
            return;
        }
        if 1usize << depth == self.directory + 1 {
            self.double_directory();
        }
        self.split(hash, depth, hash_of);
    }

    /// Doubles the buckets of every page: there is one, or hashes agree in all that the
    /// directory can tell apart.
    fn grow_pages(&mut self, hash_of: &impl Fn(u64, &[u64]) -> u64) {
        let old = self.clone();
        self.buckets *= 2;
        let shape = (self.buckets, self.value);
        for at in 0..=self.directory {
            let page = &old.root[at / FAN][at % FAN];
            let depth = upkeep(page).1;
            if at < 1 << depth {
                let grown: Page = relay(page, shape, depth, hash_of).into();
                self.point((at..=self.directory).step_by(1 << depth), &grown);
            }
        }
    }

    fn point(&mut self, entries: impl Iterator<Item = usize>, page: &Page) {
        let root = Arc::make_mut(&mut self.root);
        for at in entries {
            Arc::make_mut(&mut root[at / FAN])[at % FAN] = page.clone();
        }
    }

    fn double_directory(&mut self) {
        let entries = self.directory + 1;
        self.root = if entries < FAN {
            let fan = &self.root[0];
            Arc::new([fan.iter().chain(fan.iter()).cloned().collect()])
        } else {
            self.root.iter().chain(self.root.iter()).cloned().collect()
        };
        self.directory = entries * 2 - 1;
    }

    fn split(&mut self, hash: u64, depth: u32, hash_of: &impl Fn(u64, &[u64]) -> u64) {
        let Some(page) = self.page(hash).cloned() else { return };
        let shape = (self.buckets, self.value);
        let mut halves = [(); 2].map(|()| empty_page(shape, depth + 1));
        for (mark, value) in records(&page, self.value) {
            let h = hash_of(mark, value);
            let half = (h >> (DIRECTORY_SHIFT + depth)) as usize & 1;
            put(&mut halves[half], shape, h, mark, value);
        }
        let first = (hash >> DIRECTORY_SHIFT) as usize & ((1usize << depth) - 1);
        for (half, page) in halves.into_iter().enumerate() {
            let from = first | (half << depth);
            self.point((from..=self.directory).step_by(2 << depth), &page.into());
        }
    }

    /// Payloads and values of all records.
    pub(super) fn iter(&self) -> impl Iterator<Item = (u64, &[u64])> {
        let entries = self.root.iter().flat_map(|fan| fan.iter()).enumerate();
        entries
            .filter(|(at, page)| *at < 1 << upkeep(page).1)
            .flat_map(|(_, page)| records(page, self.value))
            .map(|(mark, value)| (mark & ones(BITS), value))
    }

    /// Memory in bytes.
    pub(super) fn bytes(&self) -> usize {
        let entries = self.root.iter().flat_map(|fan| fan.iter()).enumerate();
        let pages = entries.filter(|(at, page)| *at < 1 << upkeep(page).1);
        let words: usize = pages.map(|(_, page)| page.len() + 2).sum();
        words * 8 + self.root.len() * (16 + 16) + (self.directory + 1) * size_of::<Page>()
    }
}

/// Records and depth of a page.
fn upkeep(page: &[u64]) -> (usize, u32) {
    let last = page.last().copied().unwrap_or(0);
    ((last & 0xffff_ffff) as usize, (last >> 32) as u32)
}

fn set_upkeep(page: &mut [u64], records: usize, depth: u32) {
    if let Some(last) = page.last_mut() {
        *last = records as u64 | (u64::from(depth) << 32);
    }
}

/// `shape`: buckets, and words of a value.
fn empty_page(shape: (usize, usize), depth: u32) -> Vec<u64> {
    let mut page = vec![0; shape.0 * LANES * (1 + shape.1) + 1];
    set_upkeep(&mut page, 0, depth);
    page
}

fn put(page: &mut [u64], shape: (usize, usize), hash: u64, mark: u64, value: &[u64]) {
    let (buckets, words) = shape;
    let mut bucket = home(hash, buckets);
    loop {
        let from = bucket * LANES * (1 + words);
        if let Some(lane) = (0..LANES).find(|lane| page[from + lane] == 0) {
            page[from + lane] = mark;
            page[from + LANES + lane * words..][..words].copy_from_slice(value);
            break;
        }
        bucket = (bucket + 1) % buckets;
    }
    let (records, depth) = upkeep(page);
    set_upkeep(page, records + 1, depth);
}

/// The same records in a page of this shape.
fn relay(
    page: &[u64],
    shape: (usize, usize),
    depth: u32,
    hash_of: &impl Fn(u64, &[u64]) -> u64,
) -> Vec<u64> {
    let mut out = empty_page(shape, depth);
    for (mark, value) in records(page, shape.1) {
        put(&mut out, shape, hash_of(mark, value), mark, value);
    }
    out
}

/// Marks and values.
fn records(page: &[u64], words: usize) -> impl Iterator<Item = (u64, &[u64])> {
    page.chunks_exact(LANES * (1 + words)).flat_map(move |bucket| {
        (0..LANES)
            .filter(|lane| bucket[*lane] != 0)
            .map(move |lane| (bucket[lane], &bucket[LANES + lane * words..][..words]))
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::collection::vec;
    use proptest::prelude::*;
    use std::collections::BTreeMap;

    /// `agree` bits of all hashes are alike: the directory tells nothing apart.
    fn hash_of(value: u64, agree: u32) -> u64 {
        let p = u128::from(value ^ 0x51ce) * 0x9e37_79b9_7f4a_7c15_f39c;
        ((p >> 40) as u64) << agree
    }

    fn run(agree: u32, steps: &[(u64, bool)]) -> Result<(), TestCaseError> {
        let hash = |_: u64, v: &[u64]| hash_of(v[0], agree);
        let (mut pages, mut model) = (<Pages>::new(1), BTreeMap::new());
        let mut old = Vec::new();
        for (n, (v, is_insert)) in steps.iter().enumerate() {
            let (h, same) = (hash_of(*v, agree), |s: &[u64]| s[0] == *v);
            if !is_insert {
                prop_assert_eq!(pages.remove(h, same, &hash), model.remove(v));
            } else if model.contains_key(v) {
                pages.set(h, same, n as u64);
                model.insert(*v, n as u64);
            } else {
                pages.insert(h, n as u64, &[*v], &hash);
                model.insert(*v, n as u64);
            }
            if n % 64 == 0 {
                old.push((pages.clone(), model.clone()));
            }
        }
        old.push((pages, model));
        for (pages, model) in old {
            prop_assert_eq!(pages.len(), model.len());
            let found: BTreeMap<u64, u64> = pages.iter().map(|(p, v)| (v[0], p)).collect();
            prop_assert_eq!(&found, &model);
            for v in 0..2000 {
                let got = pages.find(hash_of(v, agree), |s| s[0] == v);
                prop_assert_eq!(got, model.get(&v).copied());
            }
        }
        Ok(())
    }

    proptest! {
        #![proptest_config(ProptestConfig {
            failure_persistence: None,
            ..ProptestConfig::with_cases(24)
        })]
        #[test]
        fn is_a_map_and_clones_stay(
            agree in prop_oneof![Just(0u32), Just(10), Just(30)],
            steps in vec((0u64..2000, prop_oneof![3 => Just(true), 1 => Just(false)]), 0..4000),
        ) {
            run(agree, &steps)?;
        }
    }

    #[test]
    fn a_change_after_a_clone_copies_one_page() {
        let hash = |_: u64, v: &[u64]| hash_of(v[0], 0);
        let mut pages = <Pages>::new(1);
        for v in 0..100_000u64 {
            pages.insert(hash(0, &[v]), v, &[v], &hash);
        }
        let before = pages.clone();
        pages.remove(hash(0, &[77]), |s| s[0] == 77, &hash);
        let fans = |p: &Pages| p.root.iter().map(Arc::as_ptr).collect::<Vec<_>>();
        let (a, b) = (fans(&before), fans(&pages));
        let copied = a.iter().zip(&b).filter(|(a, b)| !std::ptr::eq(**a, **b)).count();
        assert!(a.len() > 30 && copied <= 4, "{copied} of {}", a.len());
    }
}
