//! Whose packets of a tuple are, where that is not whose home the tuple has.
//!
//! An open-addressed table with a line of memory an entry, at a load of one half at most. There may
//! be several entries for one tuple, of different workers: the first that came is the one that
//! counts until it is withdrawn, then the next. So an entry goes by the pair of tuple and worker,
//! and counts how many connections of that worker have asked for it (a connection in each of two
//! zones may have the same tuple). Removal moves back what had to go further (Knuth, vol. 3, 6.4,
//! algorithm R): no tombstones, and entries of one tuple stay in the order in which they came.

mod audit;

use super::key::{HashKey, Tuple};
use super::lines::Lines;
use crate::prefetch::prefetch;

/// Bits of an entry's fifth word, above which are the tuple's ports and protocol.
const USED: u64 = 1;
/// A connection of our own had the tuple first.
const LATE: u64 = 2;
const WORKER_SHIFT: u32 = 8;
const TUPLE_SHIFT: u32 = 16;

/// Addresses (low half first), ports with protocol and what is above, uses, hash.
type Entry = [u64; 8];

/// What became of an entry.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Entered {
    Counts,
    /// Another worker's, or a connection of our own, came first.
    Late,
    /// There is no room.
    Lost,
}

/// Redirects to others, at the worker where their tuples have their home.
pub struct Redirects {
    lines: Lines<Entry>,
    slots: usize,
    len: usize,
    /// Of these, with any source port.
    open: usize,
    key: HashKey,
}

fn words(t: &Tuple) -> [u64; 5] {
    let ports = u64::from(t.sport) << 48 | u64::from(t.dport) << 32;
    let rest = u64::from(t.proto) << (TUPLE_SHIFT + 1) | u64::from(t.v6) << TUPLE_SHIFT;
    let half = |a: u128| [a as u64, (a >> 64) as u64];
    let ([a, b], [c, d]) = (half(t.src), half(t.dst));
    [a, b, c, d, ports | rest]
}

#[inline]
fn is_of(e: &Entry, t: &[u64; 5]) -> bool {
    e[..4] == t[..4] && (e[4] ^ t[4]) >> TUPLE_SHIFT == 0
}

fn worker_of(e: &Entry) -> u8 {
    (e[4] >> WORKER_SHIFT) as u8
}

impl Redirects {
    /// Room for so many.
    pub fn new(max: usize, key: HashKey) -> Self {
        let slots = if max == 0 { 0 } else { (2 * max).next_power_of_two() };
        Self { lines: Lines::new(slots), slots, len: 0, open: 0, key }
    }

    #[inline]
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    pub fn len(&self) -> usize {
        self.len
    }

    #[inline]
    fn at(&self, n: usize) -> &Entry {
        self.lines.get(n & (self.slots - 1))
    }

    fn put(&mut self, n: usize, e: Entry) {
        let slots = self.slots;
        if let Some(place) = self.lines.get_mut(n & (slots - 1)) {
            *place = e;
        }
    }

    #[inline]
    pub fn hash(&self, t: &Tuple) -> u64 {
        self.key.of(t, 0)
    }

    /// Asks for what `find` of this hash reads.
    #[inline]
    pub fn prefetch(&self, hash: u64) {
        if self.slots > 0 {
            prefetch(self.at(hash as usize));
        }
    }

    /// The worker that packets of this tuple belong to.
    pub fn find(&self, hash: u64, t: &Tuple) -> Option<u8> {
        if self.len == 0 {
            return None;
        }
        let found = self.find_exact(hash, t);
        if found.is_some() || self.open == 0 || !t.has_free_port() {
            return found;
        }
        let open = Tuple { sport: 0, ..*t };
        self.find_exact(self.hash(&open), &open)
    }

    fn find_exact(&self, hash: u64, t: &Tuple) -> Option<u8> {
        let words = words(t);
        (0..self.slots)
            .map(|n| self.at((hash as usize).wrapping_add(n)))
            .take_while(|e| e[4] & USED != 0)
            .find(|e| is_of(e, &words) && e[4] & LATE == 0)
            .map(worker_of)
    }

    /// Whether the tuple itself is another's.
    pub fn has(&self, t: &Tuple) -> bool {
        self.len > 0 && self.find_exact(self.hash(t), t).is_some()
    }

    /// A worker asks for packets of a tuple, once more or for the first time. `is_taken`: a
    /// connection of our own has it.
    pub fn enter(&mut self, t: &Tuple, worker: u8, is_taken: bool) -> Entered {
        if self.slots == 0 {
            return Entered::Lost;
        }
        let (hash, words) = (self.hash(t), words(t));
        let (mut n, mut others) = (hash as usize & (self.slots - 1), is_taken);
        // Ends: half of the places are free.
        loop {
            let mut e = *self.at(n);
            if e[4] & USED == 0 {
                break;
            }
            if is_of(&e, &words) {
                if worker_of(&e) == worker {
                    e[5] += 1;
                    self.put(n, e);
                    return if others { Entered::Late } else { Entered::Counts };
                }
                others = true;
            }
            n += 1;
        }
        if self.len >= self.slots / 2 {
            return Entered::Lost;
        }
        let bits = USED | u64::from(worker) << WORKER_SHIFT | if is_taken { LATE } else { 0 };
        let [a, b, c, d, e] = words;
        self.put(n, [a, b, c, d, e | bits, 1, hash, 0]);
        self.len += 1;
        self.open += usize::from(t.has_free_port() && t.sport == 0);
        if others { Entered::Late } else { Entered::Counts }
    }

    /// A worker no longer asks for it, once. False: it did not.
    pub fn leave(&mut self, t: &Tuple, worker: u8) -> bool {
        let words = words(t);
        let home = self.hash(t) as usize & self.slots.wrapping_sub(1);
        for n in home..home + self.slots {
            let mut e = *self.at(n);
            if e[4] & USED == 0 {
                return false;
            }
            if is_of(&e, &words) && worker_of(&e) == worker {
                e[5] -= 1;
                self.put(n, e);
                if e[5] == 0 {
                    self.remove(n);
                    self.open -= usize::from(t.has_free_port() && t.sport == 0);
                }
                return true;
            }
        }
        false
    }

    fn remove(&mut self, mut hole: usize) {
        let mask = self.slots - 1;
        let mut n = hole + 1;
        loop {
            let e = *self.at(n);
            if e[4] & USED == 0 {
                break;
            }
            // How far it is from where it would like to be, and from the hole.
            let far = n.wrapping_sub(e[6] as usize) & mask;
            if far >= n - hole {
                self.put(hole, e);
                hole = n;
            }
            n += 1;
        }
        self.put(hole, Entry::default());
        self.len -= 1;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn tuple(n: u16) -> Tuple {
        let (v6, proto) = (n.is_multiple_of(3), if n.is_multiple_of(5) { 17 } else { 6 });
        Tuple { src: (n / 4).into(), dst: 9, sport: n % 4, dport: 80, proto, v6 }
    }

    proptest! {
        #![proptest_config(ProptestConfig {
            failure_persistence: None, ..ProptestConfig::with_cases(300)
        })]
        /// Against a list in the order of arrival, in tables that wrap and fill.
        #[test]
        fn the_first_that_came_counts(
            seed: u64,
            max in 1usize..20,
            ops in prop::collection::vec(
                (0u16..16, 0u8..3, any::<bool>(), prop::bool::weighted(0.1)), 1..300
            ),
        ) {
            let mut table = Redirects::new(max, HashKey::new(seed));
            let room = (2 * max).next_power_of_two() / 2;
            let mut model: Vec<(Tuple, u8, u32, bool)> = Vec::new();
            for (n, worker, add, taken) in ops {
                let t = tuple(n);
                let known = model.iter().position(|e| (e.0, e.1) == (t, worker));
                if add {
                    let before = known.unwrap_or(model.len());
                    let others = model[..before].iter().any(|e| e.0 == t) || taken;
                    let want = match (known, others) {
                        (None, _) if model.len() >= room => Entered::Lost,
                        (_, true) => Entered::Late,
                        _ => Entered::Counts,
                    };
                    prop_assert_eq!(table.enter(&t, worker, taken), want);
                    match known {
                        Some(at) => model[at].2 += 1,
                        None if want != Entered::Lost => model.push((t, worker, 1, taken)),
                        None => {}
                    }
                } else {
                    prop_assert_eq!(table.leave(&t, worker), known.is_some());
                    if let Some(at) = known {
                        model[at].2 -= 1;
                        if model[at].2 == 0 { model.remove(at); }
                    }
                }
                prop_assert_eq!(table.len(), model.len());
                let first = |t: Tuple| model.iter().find(|e| e.0 == t && !e.3).map(|e| e.1);
                for n in 0..16 {
                    let t = tuple(n);
                    let want = first(t).or_else(|| first(Tuple { sport: 0, ..t }));
                    prop_assert_eq!(table.find(table.hash(&t), &t), want);
                    prop_assert_eq!(table.has(&t), first(t).is_some());
                }
            }
        }
    }

    #[test]
    fn without_room_nothing_is_entered() {
        let mut none = Redirects::new(0, HashKey::new(1));
        assert_eq!(none.enter(&tuple(1), 1, false), Entered::Lost);
        assert!(!none.leave(&tuple(1), 1) && !none.has(&tuple(1)));
        none.prefetch(7);
    }
}
