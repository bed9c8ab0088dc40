//! Where connections live and how a tuple finds one.
//!
//! Plain arrays, allocated zeroed at start and never grown. `ix` names a connection in all of
//! them. The index is one open-addressed hash table over both directions of all connections: a
//! slot of 8 bytes holds 32 bits of the hash and the connection with its direction. Linear
//! probing: at a load of at most one half a look-up reads 1.1 lines of the index, and there is
//! no insertion that can fail. There are exactly four slots a connection, whatever `conns_max`:
//! the home of an entry is its 32 hash bits as a fraction of the table (`bits * slots >> 32`), which
//! needs no power of two and keeps the bits' order. Removal knows homes from the index alone, so
//! it moves followers back without looking at connections (Knuth, vol. 3, 6.4, algorithm R) and
//! leaves no tombstones: a table under churn stays as fast as a fresh one.
//!
//! A look-up can be spread over a batch: `hash`, `prefetch_index`, `guess` + `prefetch`, `find`.

use super::conn::{Cold, Hot, WideAddresses, flag};
use super::key::{HashKey, Tuple};
use crate::prefetch::prefetch;
use crate::sys::advise_huge_pages;

/// Zeroed 64-bit words that begin at a cache line.
struct Lines {
    words: Vec<u64>,
    first: usize,
}

impl Lines {
    fn new(words: usize) -> Self {
        // A plain vector of integers is zeroed by the kernel, page by page as it is touched.
        let mut words = vec![0u64; words + 8];
        advise_huge_pages(&mut words);
        let first = words.as_ptr().align_offset(64).min(7);
        Self { words, first }
    }

    #[inline]
    fn get<const N: usize>(&self, ix: usize) -> &[u64; N] {
        let from = self.first + ix * N;
        match self.words.get(from..).and_then(|w| w.first_chunk()) {
            Some(chunk) => chunk,
            None => {
                debug_assert!(false, "index beyond the table");
                &[0; N]
            }
        }
    }

    #[inline]
    fn get_mut<const N: usize>(&mut self, ix: usize) -> Option<&mut [u64; N]> {
        let from = self.first + ix * N;
        debug_assert!(from + N <= self.words.len());
        self.words.get_mut(from..).and_then(|w| w.first_chunk_mut())
    }
}

/// The arrays.
pub struct Table {
    key: HashKey,
    index: Lines,
    /// Slots of the index: four a connection.
    slots: usize,
    hot: Lines,
    cold: Lines,
    wide: Lines,
    conns_max: u32,
    /// Places that were used at least once.
    fresh: u32,
    /// Free list through `Cold::next`: index plus one.
    free: u32,
    len: u32,
}

/// Upper bound of `conns_max`: an index slot keeps 31 bits for the connection, and 32 hash bits
/// tell as many homes apart.
pub const CONNS_LIMIT: usize = 1 << 30;

/// Two for its tuples, at a load of one half.
const SLOTS_PER_CONN: usize = 4;

impl Table {
    pub fn new(conns_max: usize, key: HashKey) -> Self {
        let conns_max = conns_max.clamp(1, CONNS_LIMIT);
        let slots = conns_max * SLOTS_PER_CONN;
        Self {
            key,
            index: Lines::new(slots),
            slots,
            hot: Lines::new(conns_max * 8),
            cold: Lines::new(conns_max * 4),
            wide: Lines::new(conns_max * 8),
            conns_max: conns_max as u32,
            fresh: 0,
            free: 0,
            len: 0,
        }
    }

    pub fn len(&self) -> usize {
        self.len as usize
    }

    pub fn capacity(&self) -> usize {
        self.conns_max as usize
    }

    /// Bytes reserved for connections, without the addresses of IPv6, which IPv4 never touches.
    pub fn narrow_bytes(&self) -> usize {
        [&self.index, &self.hot, &self.cold].map(|l| l.words.len() * 8).iter().sum()
    }

    pub fn is_full(&self) -> bool {
        self.len == self.conns_max
    }

    /// Places that may hold a live connection: what a dump walks.
    pub fn places(&self) -> u32 {
        self.fresh
    }

    #[inline]
    pub fn hot(&self, ix: u32) -> &Hot {
        zerocopy::transmute_ref!(self.hot.get::<8>(ix as usize))
    }

    /// `None` only beyond the table, which no index in use is.
    #[inline]
    pub fn hot_mut(&mut self, ix: u32) -> Option<&mut Hot> {
        self.hot.get_mut::<8>(ix as usize).map(|w| zerocopy::transmute_mut!(w))
    }

    #[inline]
    pub fn cold(&self, ix: u32) -> &Cold {
        zerocopy::transmute_ref!(self.cold.get::<4>(ix as usize))
    }

    #[inline]
    pub fn cold_mut(&mut self, ix: u32) -> Option<&mut Cold> {
        self.cold.get_mut::<4>(ix as usize).map(|w| zerocopy::transmute_mut!(w))
    }

    pub fn wide(&self, ix: u32) -> &WideAddresses {
        zerocopy::transmute_ref!(self.wide.get::<8>(ix as usize))
    }

    pub fn tuple(&self, ix: u32, dir: usize) -> Tuple {
        self.hot(ix).tuple(self.wide(ix), dir)
    }

    #[inline]
    pub fn prefetch(&self, ix: u32) {
        prefetch(self.hot.get::<8>(ix as usize));
    }

    #[inline]
    pub fn hash(&self, t: &Tuple, zone: u16) -> u64 {
        self.key.of(t, zone)
    }

    #[inline]
    pub fn prefetch_index(&self, hash: u64) {
        prefetch(self.index.get::<1>(self.home((hash >> 32) as u32)));
    }

    /// The connection whose hash bits fit first, to be prefetched; `find` decides.
    #[inline]
    pub fn guess(&self, hash: u64) -> Option<u32> {
        let bits = (hash >> 32) as u32;
        let mut at = self.home(bits);
        loop {
            let slot = self.slot(at);
            if slot == 0 {
                return None;
            }
            if (slot >> 32) as u32 == bits {
                return Some(owner(slot).0);
            }
            at = self.after(at);
        }
    }

    /// The connection and direction of a tuple.
    #[inline]
    pub fn find(&self, hash: u64, t: &Tuple, zone: u16) -> Option<(u32, usize)> {
        let bits = (hash >> 32) as u32;
        let mut at = self.home(bits);
        // Ends: at most half of the slots are in use.
        loop {
            let slot = self.slot(at);
            if slot == 0 {
                return None;
            }
            if (slot >> 32) as u32 == bits {
                let (ix, dir) = owner(slot);
                let hot = self.hot(ix);
                if hot.matches_narrow(t, zone, dir) && (!t.v6 || self.tuple(ix, dir) == *t) {
                    return Some((ix, dir));
                }
            }
            at = self.after(at);
        }
    }

    /// Whether anything answers to the tuple.
    pub fn taken(&self, t: &Tuple, zone: u16) -> bool {
        self.find(self.hash(t, zone), t, zone).is_some()
    }

    /// Takes a free place and makes both tuples find it. The caller fills the rest of the
    /// lines. `None` when the table is full.
    pub fn insert(&mut self, orig: &Tuple, reply: &Tuple, zone: u16) -> Option<u32> {
        let ix = if self.free != 0 {
            let ix = self.free - 1;
            self.free = self.cold(ix).next;
            ix
        } else if self.fresh < self.conns_max {
            self.fresh += 1;
            self.fresh - 1
        } else {
            return None;
        };
        self.len += 1;
        let mut wide = *self.wide(ix);
        let hot = self.hot_mut(ix)?;
        hot.zone = zone;
        hot.proto = orig.proto;
        hot.flags = flag::LIVE | if orig.v6 { flag::V6 } else { 0 };
        hot.set_tuples(&mut wide, orig, reply);
        if orig.v6 {
            *self.wide.get_mut::<8>(ix as usize)? = zerocopy::transmute!(wide);
        }
        *self.cold_mut(ix)? = zerocopy::FromZeros::new_zeroed();
        self.link(self.hash(orig, zone), ix, 0);
        // A connection of an address with itself has one tuple only.
        if reply != orig {
            self.link(self.hash(reply, zone), ix, 1);
        }
        Some(ix)
    }

    /// Gives a place back. Its `ConnRef`s become stale.
    pub fn remove(&mut self, ix: u32) {
        let zone = self.hot(ix).zone;
        let (orig, reply) = (self.tuple(ix, 0), self.tuple(ix, 1));
        self.unlink(self.hash(&orig, zone), ix, 0);
        if reply != orig {
            self.unlink(self.hash(&reply, zone), ix, 1);
        }
        let free = self.free;
        if let Some(hot) = self.hot_mut(ix) {
            hot.flags = 0;
            hot.gen_no = hot.gen_no.wrapping_add(1);
        }
        if let Some(cold) = self.cold_mut(ix) {
            cold.next = free;
        }
        self.free = ix + 1;
        self.len -= 1;
    }

    #[inline]
    fn home(&self, bits: u32) -> usize {
        ((u64::from(bits) * self.slots as u64) >> 32) as usize
    }

    /// The next slot, going round.
    #[inline]
    fn after(&self, at: usize) -> usize {
        if at + 1 == self.slots { 0 } else { at + 1 }
    }

    /// Slots from one to another, going round.
    #[inline]
    fn way(&self, from: usize, to: usize) -> usize {
        if to >= from { to - from } else { to + self.slots - from }
    }

    #[inline]
    fn slot(&self, at: usize) -> u64 {
        self.index.get::<1>(at)[0]
    }

    fn set_slot(&mut self, at: usize, value: u64) {
        if let Some([slot]) = self.index.get_mut::<1>(at) {
            *slot = value;
        }
    }

    fn link(&mut self, hash: u64, ix: u32, dir: u64) {
        let bits = (hash >> 32) as u32;
        let mut at = self.home(bits);
        while self.slot(at) != 0 {
            at = self.after(at);
        }
        self.set_slot(at, u64::from(bits) << 32 | u64::from(ix + 1) << 1 | dir);
    }

    fn unlink(&mut self, hash: u64, ix: u32, dir: u64) {
        let bits = (hash >> 32) as u32;
        let wanted = u64::from(bits) << 32 | u64::from(ix + 1) << 1 | dir;
        let mut hole = self.home(bits);
        loop {
            let slot = self.slot(hole);
            if slot == wanted {
                break;
            }
            if slot == 0 {
                debug_assert!(false, "a connection was not in the index");
                return;
            }
            hole = self.after(hole);
        }
        // Close the gap: a follower moves into the hole unless that would put it before its home.
        let mut at = hole;
        loop {
            at = self.after(at);
            let slot = self.slot(at);
            if slot == 0 {
                break;
            }
            let home = self.home((slot >> 32) as u32);
            if self.way(home, at) >= self.way(hole, at) {
                self.set_slot(hole, slot);
                hole = at;
            }
        }
        self.set_slot(hole, 0);
    }
}

#[inline]
fn owner(slot: u64) -> (u32, usize) {
    let low = slot as u32;
    ((low >> 1).wrapping_sub(1), (low & 1) as usize)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::HashMap;

    fn tuple(n: u16, v6: bool) -> Tuple {
        let wide = if v6 { 0xfd00u128 << 112 } else { 0 };
        Tuple {
            src: wide + 1 + u128::from(n % 3),
            dst: wide + 9,
            sport: n,
            dport: 80,
            proto: 17,
            v6,
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig {
            failure_persistence: None, ..ProptestConfig::with_cases(200)
        })]
        /// Random insertions and removals against a `HashMap`, in tables small enough to wrap
        /// and to fill.
        #[test]
        fn finds_what_was_inserted(
            seed: u64,
            size in 1usize..24,
            ops in prop::collection::vec((0u16..60, any::<bool>(), any::<bool>()), 1..400),
        ) {
            let mut table = Table::new(size, HashKey::new(seed));
            let mut model: HashMap<Tuple, u32> = HashMap::new();
            for (n, v6, add) in ops {
                let t = tuple(n, v6);
                match (add, model.get(&t).copied()) {
                    (true, None) => {
                        let got = table.insert(&t, &t.reversed(), 5);
                        prop_assert_eq!(got.is_none(), model.len() == size);
                        if let Some(ix) = got { model.insert(t, ix); }
                    }
                    (false, Some(ix)) => { table.remove(ix); model.remove(&t); }
                    _ => {}
                }
                prop_assert_eq!(table.len(), model.len());
                for n in 0..60 { for v6 in [false, true] {
                    let t = tuple(n, v6);
                    let want = model.get(&t).copied();
                    prop_assert_eq!(table.find(table.hash(&t, 5), &t, 5), want.map(|ix| (ix, 0)));
                    let r = t.reversed();
                    prop_assert_eq!(table.find(table.hash(&r, 5), &r, 5), want.map(|ix| (ix, 1)));
                    prop_assert!(!table.taken(&t, 6));
                } }
            }
            let used = (0..table.slots).filter(|at| table.slot(*at) != 0).count();
            prop_assert_eq!(used, model.len() * 2);
        }
    }

    /// 64 hot, 32 cold, 32 of the index, and what it takes to begin at a cache line.
    #[test]
    fn a_connection_takes_128_bytes_whatever_the_size() {
        for conns in [1, 3, 1000, 4097, 99_991, (1 << 20) - 1, 1 << 20, (1 << 20) + 1, 3_000_000] {
            let table = Table::new(conns, HashKey::new(1));
            assert_eq!(table.capacity(), conns);
            assert_eq!(table.narrow_bytes(), conns * 128 + 3 * 64, "{conns}");
        }
    }

    /// The largest table we mean to serve: memory is touched by use, so this is cheap.
    #[test]
    fn sixteen_million_places_work_from_end_to_end() {
        let mut table = Table::new(16 << 20, HashKey::new(3));
        let (mut first, mut last) = (false, false);
        for n in 0..50_000u32 {
            let t = Tuple { src: u128::from(n), dst: 7, sport: 9, dport: 80, proto: 6, v6: false };
            let hash = table.hash(&t, 1);
            let home = table.home((hash >> 32) as u32);
            assert!(home < table.slots);
            first |= home < table.slots / 1000;
            last |= home > table.slots - table.slots / 1000;
            assert_eq!(table.insert(&t, &t.reversed(), 1), Some(n));
            assert_eq!(table.find(hash, &t, 1), Some((n, 0)));
        }
        assert!(first && last, "homes cover the whole index");
        (0..50_000).for_each(|ix| table.remove(ix));
        assert_eq!(table.len(), 0);
        assert_eq!((0..table.slots).step_by(4096).filter(|at| table.slot(*at) != 0).count(), 0);
    }

    #[test]
    fn lines_begin_at_cache_lines() {
        let table = Table::new(100, HashKey::new(1));
        for ix in [0, 1, 99] {
            assert_eq!(std::ptr::from_ref(table.hot(ix)) as usize % 64, 0);
        }
    }
}
