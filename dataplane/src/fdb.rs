//! The forwarding database of one bridge: which MAC address was seen on which port.
//!
//! All workers of a switch share it, so it is made of atomics and never moves: buckets of four
//! entries, found by hash of VLAN and MAC. An entry is learned by compare-and-swap of its key; a
//! lost race learns with the next packet.
//!
//! **Epochs.** An entry's `port_gen` holds its port and a generation that changes whenever the
//! entry means something else (other MAC, other port, gone). A cached traversal that relied on
//! the entry remembers `port_gen` and compares. A traversal that relied on an address *not*
//! being there remembers the table's generation, which changes when any address appears or goes.
//!
//! **Bounds.** `FDB_ENTRIES` addresses; an address that finds its bucket full of younger ones
//! is not learned (counted), as is one beyond the bound. Open vSwitch evicts the oldest of all;
//! we evict the oldest of the bucket when the bound is not reached.

use crate::clock::Now;
use crate::limits::{FDB_AGE_S, FDB_ENTRIES};
use crate::packet::key::PortIx;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering::Relaxed};

const WAYS: usize = 4;
/// Four places per address that may be learned keep full buckets rare.
const SLOTS: usize = FDB_ENTRIES * 4;

/// A key that no address has: bit 63.
const EMPTY: u64 = 1 << 63;

#[derive(Debug)]
#[repr(align(32))]
struct Entry {
    key: AtomicU64,
    /// Generation in the upper 48 bits, port in the lower 16.
    port_gen: AtomicU64,
    /// Second of the last packet from this address.
    used_s: AtomicU32,
}

/// What an address maps to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Found {
    pub slot: u32,
    pub port_gen: u64,
}

impl Found {
    #[inline]
    pub fn port(self) -> PortIx {
        PortIx(self.port_gen as u16)
    }
}

/// What learning did.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Learned {
    /// Known at this port already.
    Known(Found),
    New(Found),
    Moved(Found),
    /// No room.
    Full,
}

/// A line of `sluice fdb`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FdbEntry {
    pub mac: [u8; 6],
    pub vlan: u16,
    pub port: PortIx,
    pub age_s: u32,
}

#[derive(Debug)]
pub struct Fdb {
    entries: Box<[Entry]>,
    /// Changes when an address appears, moves or goes.
    generation: AtomicU64,
    count: AtomicU32,
    seed: u64,
}

fn key_of(mac: u64, vlan: u16) -> u64 {
    (mac & 0xffff_ffff_ffff) | (u64::from(vlan & 0xfff) << 48)
}

impl Fdb {
    pub fn new(seed: u64) -> Self {
        let entry = || Entry {
            key: AtomicU64::new(EMPTY),
            port_gen: AtomicU64::new(0),
            used_s: AtomicU32::new(0),
        };
        Self {
            entries: (0..SLOTS).map(|_| entry()).collect(),
            generation: AtomicU64::new(1),
            count: AtomicU32::new(0),
            seed: seed | 1,
        }
    }

    #[inline]
    fn bucket(&self, key: u64) -> usize {
        let p = u128::from(key ^ self.seed) * 0x9e37_79b9_7f4a_7c15;
        let h = (p as u64) ^ ((p >> 64) as u64);
        (h as usize & (SLOTS / WAYS - 1)) * WAYS
    }

    fn find(&self, key: u64) -> Option<(u32, &Entry)> {
        let first = self.bucket(key);
        (first..first + WAYS).find_map(|i| {
            let e = self.entries.get(i)?;
            (e.key.load(Relaxed) == key).then_some((i as u32, e))
        })
    }

    /// The port behind an address, if it was heard within the age limit.
    pub fn lookup(&self, mac: u64, vlan: u16, now: Now) -> Option<Found> {
        let (slot, e) = self.find(key_of(mac, vlan))?;
        self.fresh(e, now).then(|| Found { slot, port_gen: e.port_gen.load(Relaxed) })
    }

    fn fresh(&self, e: &Entry, now: Now) -> bool {
        now.secs().saturating_sub(e.used_s.load(Relaxed)) < FDB_AGE_S
    }

    /// Changes whenever a lookup that found nothing could now find something.
    #[inline]
    pub fn generation(&self) -> u64 {
        self.generation.load(Relaxed)
    }

    /// Whether a remembered answer still holds; `touch` says that the packet came from the
    /// address, which keeps it young.
    #[inline]
    pub fn still(&self, slot: u32, port_gen: u64, touch: bool, now: Now) -> bool {
        let Some(e) = self.entries.get(slot as usize) else { return false };
        if e.port_gen.load(Relaxed) != port_gen || !self.fresh(e, now) {
            return false;
        }
        if touch && e.used_s.load(Relaxed) != now.secs() {
            e.used_s.store(now.secs(), Relaxed);
        }
        true
    }

    /// Notes that `mac` is at `port`.
    pub fn learn(&self, mac: u64, vlan: u16, port: PortIx, now: Now) -> Learned {
        let key = key_of(mac, vlan);
        if let Some((slot, e)) = self.find(key) {
            let old = e.port_gen.load(Relaxed);
            let fresh = self.fresh(e, now);
            e.used_s.store(now.secs(), Relaxed);
            if old as u16 == port.0 && fresh {
                return Learned::Known(Found { slot, port_gen: old });
            }
            let port_gen = ((old >> 16) + 1) << 16 | u64::from(port.0);
            e.port_gen.store(port_gen, Relaxed);
            self.generation.fetch_add(1, Relaxed);
            let found = Found { slot, port_gen };
            return if fresh { Learned::Moved(found) } else { Learned::New(found) };
        }
        self.claim(key, port, now)
    }

    fn claim(&self, key: u64, port: PortIx, now: Now) -> Learned {
        let first = self.bucket(key);
        let way = (first..first + WAYS).filter_map(|i| self.entries.get(i).map(|e| (i, e)));
        let oldest = way.min_by_key(|(_, e)| {
            let empty = e.key.load(Relaxed) == EMPTY;
            (!empty, e.used_s.load(Relaxed))
        });
        let Some((slot, e)) = oldest else { return Learned::Full };
        let old = e.key.load(Relaxed);
        if old == EMPTY && self.count.load(Relaxed) as usize >= FDB_ENTRIES {
            return Learned::Full;
        }
        if e.key.compare_exchange(old, key, Relaxed, Relaxed).is_err() {
            return Learned::Full;
        }
        if old == EMPTY {
            self.count.fetch_add(1, Relaxed);
        }
        let port_gen = ((e.port_gen.load(Relaxed) >> 16) + 1) << 16 | u64::from(port.0);
        e.used_s.store(now.secs(), Relaxed);
        e.port_gen.store(port_gen, Relaxed);
        self.generation.fetch_add(1, Relaxed);
        Learned::New(Found { slot: slot as u32, port_gen })
    }

    fn remove(&self, e: &Entry) {
        e.key.store(EMPTY, Relaxed);
        e.port_gen.fetch_add(1 << 16, Relaxed);
        self.count.fetch_sub(1, Relaxed);
        self.generation.fetch_add(1, Relaxed);
    }

    /// Forgets what is too old; looks at `budget` entries from `*cursor` on.
    pub fn expire(&self, cursor: &mut u32, budget: usize, now: Now) {
        for _ in 0..budget {
            let at = *cursor as usize % SLOTS;
            *cursor = cursor.wrapping_add(1);
            let e = &self.entries[at];
            if e.key.load(Relaxed) != EMPTY && !self.fresh(e, now) {
                self.remove(e);
            }
        }
    }

    /// Forgets all addresses, or those of one port.
    pub fn flush(&self, port: Option<PortIx>) {
        for e in &self.entries {
            let mine = port.is_none_or(|p| e.port_gen.load(Relaxed) as u16 == p.0);
            if e.key.load(Relaxed) != EMPTY && mine {
                self.remove(e);
            }
        }
    }

    pub fn len(&self) -> usize {
        self.count.load(Relaxed) as usize
    }

    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// All live entries.
    pub fn dump(&self, now: Now) -> Vec<FdbEntry> {
        let live = self.entries.iter().filter(|e| e.key.load(Relaxed) != EMPTY);
        live.filter(|e| self.fresh(e, now))
            .map(|e| {
                let key = e.key.load(Relaxed);
                FdbEntry {
                    mac: crate::packet::key::mac_bytes(key & 0xffff_ffff_ffff),
                    vlan: (key >> 48) as u16 & 0xfff,
                    port: PortIx(e.port_gen.load(Relaxed) as u16),
                    age_s: now.secs().saturating_sub(e.used_s.load(Relaxed)),
                }
            })
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn learns_moves_ages() {
        let f = Fdb::new(1);
        let t = Now::from_secs;
        let Learned::New(a) = f.learn(0x0200_0000_0001, 0, PortIx(1), t(0)) else { panic!() };
        assert_eq!(f.lookup(0x0200_0000_0001, 0, t(1)), Some(a));
        assert_eq!(f.lookup(0x0200_0000_0001, 5, t(1)), None, "another VLAN");
        assert!(matches!(f.learn(0x0200_0000_0001, 0, PortIx(1), t(9)), Learned::Known(_)));
        assert!(f.still(a.slot, a.port_gen, false, t(9)));
        let gen_before = f.generation();
        let Learned::Moved(b) = f.learn(0x0200_0000_0001, 0, PortIx(2), t(10)) else { panic!() };
        assert_eq!(b.port(), PortIx(2));
        assert!(!f.still(a.slot, a.port_gen, false, t(10)));
        assert_ne!(f.generation(), gen_before);
        assert_eq!(f.lookup(0x0200_0000_0001, 0, t(310)), None, "300 s are over");
        let mut cursor = 0;
        f.expire(&mut cursor, SLOTS, t(310));
        assert!(f.is_empty() && !f.still(b.slot, b.port_gen, false, t(10)));
    }

    #[test]
    fn never_holds_more_than_the_bound() {
        let f = Fdb::new(7);
        let mut full = 0;
        for mac in 0..3 * FDB_ENTRIES as u64 {
            full += u32::from(f.learn(mac, 1, PortIx(3), Now::from_secs(1)) == Learned::Full);
        }
        assert!(f.len() <= FDB_ENTRIES && full > 0);
        f.flush(Some(PortIx(4)));
        assert!(!f.is_empty());
        f.flush(None);
        assert!(f.is_empty() && f.dump(Now::from_secs(1)).is_empty());
    }
}
