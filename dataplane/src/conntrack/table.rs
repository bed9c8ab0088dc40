//! Where connections live and how a tuple finds one.
//!
//! Plain arrays, allocated zeroed at start and never grown. `ix` names a connection in all of
//! them; `index` finds it by the hash of either direction's tuple.
//!
//! A look-up can be spread over a batch: `hash`, `prefetch_index`, `guess` + `prefetch`, `find`.

mod audit;

use super::conn::{Cold, Hot, WideAddresses, flag, wide_of};
use super::index::Index;
use super::key::{HashKey, Narrow, Tuple};
use super::lines::Lines;
use crate::prefetch::prefetch;

/// The arrays.
pub struct Table {
    key: HashKey,
    index: Index,
    hot: Lines<Hot>,
    cold: Lines<Cold>,
    wide: Lines<WideAddresses>,
    conns_max: u32,
    max: u32,
    /// Places that were used at least once.
    fresh: u32,
    /// Free list through `Cold::next`: index plus one.
    free: u32,
    len: u32,
    /// Connections that are `TURNED`.
    turned: u32,
}

/// Upper bound of `conns_max`: an index slot keeps 31 bits for the connection, and 32 hash bits
/// tell as many homes apart.
pub const CONNS_LIMIT: usize = 1 << 30;

/// Two for its tuples if it is translated, at a load of one half.
const SLOTS_PER_CONN: usize = 4;

impl Table {
    pub fn new(conns_max: usize, key: HashKey) -> Self {
        let conns_max = conns_max.clamp(1, CONNS_LIMIT);
        Self {
            key,
            index: Index::new(conns_max * SLOTS_PER_CONN),
            hot: Lines::new(conns_max),
            cold: Lines::new(conns_max),
            wide: Lines::new(conns_max),
            conns_max: conns_max as u32,
            max: conns_max as u32,
            fresh: 0,
            free: 0,
            len: 0,
            turned: 0,
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
        self.index.bytes() + self.hot.bytes() + self.cold.bytes()
    }

    pub fn is_full(&self) -> bool {
        self.len >= self.max
    }

    /// Connections that there may be: all that there is room for, unless told otherwise.
    pub fn max(&self) -> u32 {
        self.max
    }

    /// Those there are stay.
    pub fn set_max(&mut self, max: u32) {
        self.max = max.clamp(1, self.conns_max);
    }

    /// Places that may hold a live connection: what a dump walks.
    pub fn places(&self) -> u32 {
        self.fresh
    }

    #[inline]
    pub fn hot(&self, ix: u32) -> &Hot {
        self.hot.get(ix as usize)
    }

    /// `None` only beyond the table, which no index in use is.
    #[inline]
    pub fn hot_mut(&mut self, ix: u32) -> Option<&mut Hot> {
        self.hot.get_mut(ix as usize)
    }

    #[inline]
    pub fn cold(&self, ix: u32) -> &Cold {
        self.cold.get(ix as usize)
    }

    #[inline]
    pub fn cold_mut(&mut self, ix: u32) -> Option<&mut Cold> {
        self.cold.get_mut(ix as usize)
    }

    pub fn wide(&self, ix: u32) -> &WideAddresses {
        self.wide.get(ix as usize)
    }

    pub fn tuple(&self, ix: u32, dir: usize) -> Tuple {
        self.hot(ix).tuple(self.wide(ix), dir)
    }

    #[inline]
    pub fn prefetch(&self, ix: u32) {
        prefetch(self.hot(ix));
    }

    /// Asks for what ending a connection needs of its place.
    #[inline]
    pub fn prefetch_place(&self, ix: u32) {
        self.prefetch(ix);
        prefetch(self.cold(ix));
    }

    /// Asks for a connection's slots of the index; its place should be there already. Of IPv6 it
    /// asks for the addresses, which come first.
    #[inline]
    pub fn prefetch_links(&self, ix: u32) {
        let hot = self.hot(ix);
        if hot.has(flag::V6) {
            prefetch(self.wide(ix));
            return;
        }
        self.prefetch_index(self.hash_at(ix, 0));
        if hot.has(flag::TURNED) {
            self.prefetch_index(self.hash_at(ix, 1));
        }
    }

    /// The same for a tuple and its reverse.
    #[inline]
    pub fn hash(&self, t: &Tuple, zone: u16) -> u64 {
        self.key.of(t, zone)
    }

    #[inline]
    pub fn prefetch_index(&self, hash: u64) {
        self.index.prefetch((hash >> 32) as u32);
    }

    /// The connection whose hash bits fit first, to be prefetched; `find` decides.
    #[inline]
    pub fn guess(&self, hash: u64) -> Option<(u32, usize)> {
        self.index.find((hash >> 32) as u32, |_, dir| Some(dir))
    }

    /// The connection and direction of a tuple.
    #[inline]
    pub fn find(&self, hash: u64, t: &Tuple, zone: u16) -> Option<(u32, usize)> {
        self.index.find((hash >> 32) as u32, |ix, _| self.side_of(ix, t, zone))
    }

    /// The direction of a connection that a tuple is of.
    fn side_of(&self, ix: u32, t: &Tuple, zone: u16) -> Option<usize> {
        let hot = self.hot(ix);
        [0, 1]
            .into_iter()
            .find(|dir| hot.matches_narrow(t, zone, *dir) && (!t.v6 || self.tuple(ix, *dir) == *t))
    }

    /// The same of a narrow one.
    #[inline(always)]
    pub fn find_narrow(&self, hash: u64, n: &Narrow, zone: u16) -> Option<(u32, usize)> {
        // By value: what the far end of a search is given by reference lives in memory.
        let n = *n;
        self.index.find((hash >> 32) as u32, move |ix, _| self.hot(ix).side_of_narrow(&n, zone))
    }

    /// Whether a tuple that nothing answers to may have a reverse that something answers to: only
    /// a connection that is translated has tuples that are not each other's reverse.
    #[inline(always)]
    pub fn has_turned(&self) -> bool {
        self.turned > 0
    }

    /// Whether anything answers to the tuple.
    pub fn taken(&self, t: &Tuple, zone: u16) -> bool {
        self.find(self.hash(t, zone), t, zone).is_some()
    }

    /// Takes a free place and makes both tuples find it. The caller fills the rest of the
    /// lines. `None` when the table is full.
    #[cfg(test)]
    pub fn insert(&mut self, orig: &Tuple, reply: &Tuple, zone: u16) -> Option<u32> {
        self.insert_hashed(orig, reply, zone, self.hash(orig, zone))
    }

    /// `insert` of an original tuple whose hash is known.
    #[inline]
    pub fn insert_hashed(
        &mut self,
        orig: &Tuple,
        reply: &Tuple,
        zone: u16,
        hash: u64,
    ) -> Option<u32> {
        let ix = self.take()?;
        let is_turned = *reply != orig.reversed();
        let hot = self.hot_mut(ix)?;
        hot.zone = zone;
        hot.proto = orig.proto;
        hot.flags = flag::LIVE
            | if orig.v6 { flag::V6 } else { 0 }
            | if is_turned { flag::TURNED } else { 0 };
        hot.set_tuples(orig, reply);
        if orig.v6 {
            *self.wide.get_mut(ix as usize)? = wide_of(orig, reply);
        }
        let reply_hash = if is_turned { Some(self.hash(reply, zone)) } else { None };
        self.link(ix, hash, reply_hash);
        Some(ix)
    }

    /// A free place, its cold half zeroed. The caller fills the other and links it, or the place is
    /// lost.
    #[inline(always)]
    pub fn take(&mut self) -> Option<u32> {
        let ix = if self.free != 0 {
            let ix = self.free - 1;
            self.free = self.cold(ix).next;
            if self.free != 0 {
                self.prefetch_place(self.free - 1);
            }
            ix
        } else if self.fresh < self.conns_max {
            self.fresh += 1;
            self.fresh - 1
        } else {
            return None;
        };
        self.len += 1;
        self.blank(ix)
    }

    /// The same of the place of a connection that has been unlinked.
    #[inline(always)]
    pub fn blank(&mut self, ix: u32) -> Option<u32> {
        *self.cold_mut(ix)? = zerocopy::FromZeros::new_zeroed();
        Some(ix)
    }

    /// Makes a connection found by its tuples' hashes; `reply_hash` if it is `TURNED`.
    #[inline(always)]
    pub fn link(&mut self, ix: u32, hash: u64, reply_hash: Option<u64>) {
        self.index.link((hash >> 32) as u32, ix, 0);
        if let Some(hash) = reply_hash {
            self.turned += 1;
            self.index.link((hash >> 32) as u32, ix, 1);
        }
    }

    /// The hash of one of a connection's tuples.
    #[inline(always)]
    fn hash_at(&self, ix: u32, dir: usize) -> u64 {
        let hot = self.hot(ix);
        match hot.narrow(dir) {
            Some(n) => self.key.of_narrow(&n, hot.zone),
            None => self.hash(&self.tuple(ix, dir), hot.zone),
        }
    }

    /// Ends a connection: no tuple finds it, and its `ConnRef`s become stale. Its place remains to
    /// be given back, or used.
    #[inline]
    pub fn unlink(&mut self, ix: u32) {
        self.index.unlink((self.hash_at(ix, 0) >> 32) as u32, ix, 0);
        if self.hot(ix).has(flag::TURNED) {
            self.turned -= 1;
            self.index.unlink((self.hash_at(ix, 1) >> 32) as u32, ix, 1);
        }
        if let Some(hot) = self.hot_mut(ix) {
            hot.flags = 0;
            hot.gen_no = hot.gen_no.wrapping_add(1);
        }
    }

    /// Gives a place back.
    pub fn release(&mut self, ix: u32) {
        let free = self.free;
        if let Some(cold) = self.cold_mut(ix) {
            cold.next = free;
        }
        self.free = ix + 1;
        self.len -= 1;
    }
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

    fn is_plain(t: &Tuple) -> bool {
        t.sport.is_multiple_of(2)
    }

    fn reply_of(t: &Tuple) -> Tuple {
        let reply = t.reversed();
        if is_plain(t) { reply } else { Tuple { dst: reply.dst + 100, ..reply } }
    }

    proptest! {
        #![proptest_config(ProptestConfig {
            failure_persistence: None, ..ProptestConfig::with_cases(200)
        })]
        /// Random insertions and removals against a `HashMap`, in tables small enough to wrap
        /// and to fill. Every other connection is translated.
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
                        let got = table.insert(&t, &reply_of(&t), 5);
                        prop_assert_eq!(got.is_none(), model.len() == size);
                        if let Some(ix) = got { model.insert(t, ix); }
                    }
                    (false, Some(ix)) => {
                        table.unlink(ix);
                        table.release(ix);
                        model.remove(&t);
                    }
                    _ => {}
                }
                prop_assert_eq!(table.len(), model.len());
                prop_assert!(table.index.is_sound());
                for n in 0..60 { for v6 in [false, true] {
                    let t = tuple(n, v6);
                    let want = model.get(&t).copied();
                    prop_assert_eq!(table.find(table.hash(&t, 5), &t, 5), want.map(|ix| (ix, 0)));
                    let r = reply_of(&t);
                    prop_assert_eq!(table.find(table.hash(&r, 5), &r, 5), want.map(|ix| (ix, 1)));
                    prop_assert!(!table.taken(&t, 6));
                    prop_assert!(is_plain(&t) || !table.taken(&t.reversed(), 5));
                } }
            }
            let turned = model.keys().filter(|t| !is_plain(t)).count();
            prop_assert_eq!(table.index.used(), model.len() + turned);
        }
    }

    /// 64 hot, 32 cold, 32 of the index.
    #[test]
    fn a_connection_takes_128_bytes_whatever_the_size() {
        for conns in [1, 3, 1000, 4097, 99_991, (1 << 20) - 1, 1 << 20, (1 << 20) + 1, 3_000_000] {
            let table = Table::new(conns, HashKey::new(1));
            assert_eq!(table.capacity(), conns);
            // The last bucket may be half a line more than its share.
            let odd = conns % 2 * 32;
            assert_eq!(table.narrow_bytes(), conns * 128 + odd, "{conns}");
        }
    }

    /// The largest table we mean to serve: memory is touched by use, so this is cheap.
    #[test]
    fn sixteen_million_places_work_from_end_to_end() {
        let mut table = Table::new(16 << 20, HashKey::new(3));
        for n in 0..50_000u32 {
            let t = Tuple { src: u128::from(n), dst: 7, sport: 9, dport: 80, proto: 6, v6: false };
            assert_eq!(table.insert(&t, &t.reversed(), 1), Some(n));
            assert_eq!(table.find(table.hash(&t, 1), &t, 1), Some((n, 0)));
        }
        (0..50_000).for_each(|ix| {
            table.unlink(ix);
            table.release(ix);
        });
        assert_eq!((table.len(), table.index.used()), (0, 0));
    }
}
