//! Which ports (and ICMP identifiers) of an address NAT has given out.
//!
//! A translated tuple only has to be unique as a whole, so one port can serve many connections to
//! different remote ends. Per zone, protocol and address a *pool* knows the users of each port; a
//! bitmap says which ports have any. A port without users is unique whatever the remote end, and
//! the bitmap finds the next one in a few words however full the range is: no lottery. Only when
//! every port of the range has users are ports tried one by one for a tuple that is free. When
//! that fails, this remote end has a connection on every port, and that is remembered: as long as
//! none of *its* connections ends there is nothing to be found but ports that lose their last
//! user, which the bitmap shows. When one ends, its port is the one to take. So neither a flood
//! nor coming and going at a full pool pays for the search again (but once in `SEARCH_AGAIN` ports
//! given back: connections of the address itself, which no pool knows of, may have ended).
//!
//! Nearly all ports have one user, which two bits of a port say; only those with more are counted.
//! Taking and giving back a port therefore touches one line, and the lines of many pools stay in
//! cache, where counts of all ports would not.
//!
//! Pools are bounded. An address without a pool is still translated, by trying ports in turn.

mod audit;

use super::key::{IpKey, Narrow, Tuple};
use crate::limits::NAT_POOLS_MAX;

pub(super) const PORTS: usize = 1 << 16;
const WORDS: usize = PORTS / 64;
const FAILURES: usize = 256;

/// What a pool is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Key {
    pub address: IpKey,
    pub zone: u16,
    pub proto: u8,
    pub v6: bool,
}

#[derive(Clone, Copy)]
struct Pool {
    key: Key,
    /// Connections that hold a port.
    users: u32,
    /// Ports that have users.
    ports: u32,
    /// Commits that found no free tuple.
    exhausted: u64,
    /// Times a port was given back.
    releases: u64,
}

/// The ports of a translated address, or its ICMP identifiers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PoolReport {
    pub address: IpKey,
    pub v6: bool,
    pub zone: u16,
    pub proto: u8,
    /// Connections that hold a port.
    pub users: u32,
    /// Different ports that they hold.
    pub ports: u32,
    /// Commits that found no free tuple on this address.
    pub exhausted: u64,
}

impl PoolReport {
    /// Whether both are of one address, which each worker translates to for its own connections.
    pub fn is_same(&self, other: &Self) -> bool {
        let key = |p: &Self| (p.address, p.v6, p.zone, p.proto);
        key(self) == key(other)
    }

    /// Adds another worker's part of it.
    pub fn add(&mut self, other: &Self) {
        self.users += other.users;
        self.ports += other.ports;
        self.exhausted += other.exhausted;
    }
}

/// A search that found nothing.
#[derive(Clone, Copy, PartialEq, Eq)]
struct Failure {
    pool: usize,
    remote: Remote,
    range: (u16, u16),
    /// The pool's, when it failed.
    releases: u64,
    /// Tuples that have become free since, and the port of the last.
    freed: u32,
    port: u16,
}

/// The other end of the translated connections: address and port, if it has one.
pub type Remote = (IpKey, u16);

/// The other end of a connection with this reply tuple.
pub fn remote_of(reply: &Tuple) -> Remote {
    (reply.src, if reply.is_icmp() { 0 } else { reply.sport })
}

/// What is known about a search before it is made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Search {
    Unknown,
    /// Nothing will be found.
    Futile,
    /// This port was given up, and the others are taken.
    Freed(u16),
}

/// Ports of a pool given back after which a search is made again.
const SEARCH_AGAIN: u64 = 1024;

/// A pool, as long as nothing is removed in between.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PoolIx(usize);

/// All pools of a worker.
pub struct PortPools {
    pools: Vec<Pool>,
    /// Pool after pool.
    used: Vec<Used>,
    /// Users per port but for the first one, of ports that are shared; pool after pool.
    more: Vec<u16>,
    /// Open-addressed directory of `pools`, by hash of the key: index plus one.
    directory: Vec<u16>,
    failures: Vec<Option<Failure>>,
    /// There is a failure to be told what is given back.
    has_failures: bool,
    /// A commit that is refused does not count.
    is_trial: bool,
    /// Where the last one would have been counted that is not.
    uncounted: Option<PoolIx>,
}

/// A bit for each of 64 ports.
#[derive(Clone, Copy, Default)]
struct Used {
    /// Has users.
    any: u64,
    /// Has more than one.
    shared: u64,
}

const SLOTS: usize = NAT_POOLS_MAX * 2;

fn mix(key: &Key) -> usize {
    let words = key.address as u64
        ^ (key.address >> 64) as u64
        ^ u64::from(key.zone) << 40
        ^ u64::from(key.proto) << 56;
    (words.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 32) as usize
}

impl PortPools {
    pub fn new() -> Self {
        Self {
            pools: Vec::with_capacity(NAT_POOLS_MAX),
            used: vec![Used::default(); NAT_POOLS_MAX * WORDS],
            more: vec![0; NAT_POOLS_MAX * PORTS],
            directory: vec![0; SLOTS],
            failures: vec![None; FAILURES],
            has_failures: false,
            is_trial: false,
            uncounted: None,
        }
    }

    /// The pool of an address, if there is one.
    #[inline(always)]
    pub fn find(&self, key: &Key) -> Option<PoolIx> {
        let mut at = mix(key);
        // Ends: the directory is at most half full.
        loop {
            let entry = usize::from(self.directory.get(at % SLOTS).copied()?);
            if entry == 0 {
                return None;
            }
            if self.pools.get(entry - 1)?.key == *key {
                return Some(PoolIx(entry - 1));
            }
            at += 1;
        }
    }

    fn enter(&mut self, ix: usize) {
        let Some(pool) = self.pools.get(ix) else { return };
        let mut at = mix(&pool.key);
        while self.directory[at % SLOTS] != 0 {
            at += 1;
        }
        self.directory[at % SLOTS] = ix as u16 + 1;
    }

    /// The pool of an address, made or taken over from one that nobody uses; `None` when all
    /// are in use.
    pub fn pool(&mut self, key: Key) -> Option<PoolIx> {
        if let Some(found) = self.find(&key) {
            return Some(found);
        }
        if self.pools.len() < NAT_POOLS_MAX {
            self.pools.push(Pool { key, users: 0, ports: 0, exhausted: 0, releases: 0 });
            self.enter(self.pools.len() - 1);
            return Some(PoolIx(self.pools.len() - 1));
        }
        let idle = self.pools.iter().position(|p| p.users == 0)?;
        let releases = self.pools[idle].releases + SEARCH_AGAIN;
        self.pools[idle] = Pool { key, users: 0, ports: 0, exhausted: 0, releases };
        self.directory.fill(0);
        for ix in 0..self.pools.len() {
            self.enter(ix);
        }
        Some(PoolIx(idle))
    }

    /// One more user of a port. False if the port has as many as can be counted.
    #[inline]
    pub fn acquire(&mut self, PoolIx(pool): PoolIx, port: u16) -> bool {
        let bit = 1 << (port % 64);
        let (Some(used), Some(of)) =
            (self.used.get_mut(pool * WORDS + usize::from(port) / 64), self.pools.get_mut(pool))
        else {
            return false;
        };
        if used.any & bit == 0 {
            used.any |= bit;
            of.ports += 1;
        } else {
            let Some(more) = self.more.get_mut(pool * PORTS + usize::from(port)) else {
                return false;
            };
            if *more == u16::MAX {
                return false;
            }
            *more += 1;
            used.shared |= bit;
        }
        of.users += 1;
        true
    }

    /// One user less.
    pub fn release(&mut self, key: &Key, port: u16, remote: Remote) {
        let Some(at @ PoolIx(pool)) = self.find(key) else {
            debug_assert!(false, "a port of no pool was given back");
            return;
        };
        let bit = 1 << (port % 64);
        let (Some(used), Some(of)) =
            (self.used.get_mut(pool * WORDS + usize::from(port) / 64), self.pools.get_mut(pool))
        else {
            return;
        };
        debug_assert!(used.any & bit != 0, "a port was given back that nobody has");
        if used.shared & bit == 0 {
            of.ports -= u32::from(used.any & bit != 0);
            used.any &= !bit;
        } else if let Some(more) = self.more.get_mut(pool * PORTS + usize::from(port)) {
            *more = more.saturating_sub(1);
            if *more == 0 {
                used.shared &= !bit;
            }
        }
        of.users = of.users.saturating_sub(1);
        of.releases += 1;
        if self.has_failures {
            self.tell_failure(at, port, remote);
        }
    }

    /// The same of the connection with this reply tuple.
    pub fn release_narrow(&mut self, reply: &Narrow, zone: u16) {
        let (remote, address) = (reply.addresses >> 32, reply.addresses as u32);
        let key = Key { address: IpKey::from(address), zone, proto: reply.proto, v6: false };
        let remote = (IpKey::from(remote), (reply.ports >> 16) as u16);
        self.release(&key, reply.ports as u16, remote);
    }

    /// A search that failed may now find this.
    #[inline(never)]
    fn tell_failure(&mut self, at: PoolIx, port: u16, remote: Remote) {
        let slot = &mut self.failures[Self::failure_slot(at, remote)];
        if let Some(f) = slot.as_mut().filter(|f| f.pool == at.0 && f.remote == remote)
            && (f.range.0..=f.range.1).contains(&port)
        {
            f.freed += 1;
            f.port = port;
        }
    }

    /// The first port without users from `start` on, going round in `lo..=hi`.
    pub fn next_unused(&self, pool: PoolIx, lo: u16, hi: u16, start: u16) -> Option<u16> {
        let start = start.clamp(lo, hi);
        self.unused_in(pool, start, hi).or_else(|| {
            start.checked_sub(1).filter(|s| *s >= lo).and_then(|s| self.unused_in(pool, lo, s))
        })
    }

    /// The same, unless finding it takes more than one look: this is asked before it is known
    /// whether a port is needed, and a range may be full.
    pub fn unused_at_once(&self, pool: PoolIx, hi: u16, start: u16) -> Option<u16> {
        self.unused_in(pool, start, hi.min(start | 63))
    }

    fn unused_in(&self, PoolIx(pool): PoolIx, lo: u16, hi: u16) -> Option<u16> {
        let (first, last) = (usize::from(lo) / 64, usize::from(hi) / 64);
        let words = self.used.get(pool * WORDS + first..=pool * WORDS + last)?;
        for (w, used) in (first..).zip(words) {
            let mut free = !used.any;
            if w == first {
                free &= u64::MAX << (lo % 64);
            }
            if w == last {
                free &= u64::MAX >> (63 - hi % 64);
            }
            if free != 0 {
                return Some((w * 64) as u16 + free.trailing_zeros() as u16);
            }
        }
        None
    }

    fn failure_slot(pool: PoolIx, remote: Remote) -> usize {
        let key = Key { address: remote.0, zone: remote.1, proto: pool.0 as u8, v6: false };
        mix(&key) % FAILURES
    }

    /// What is known of a search for a tuple with this remote end; no port of the range is unused.
    pub fn search_of(&self, at: PoolIx, remote: Remote, range: (u16, u16)) -> Search {
        let known = |f: &&Failure| {
            (f.pool, f.remote, f.range) == (at.0, remote, range)
                && self.pools[at.0].releases - f.releases < SEARCH_AGAIN
        };
        let slot = &self.failures[Self::failure_slot(at, remote)];
        match slot.as_ref().filter(known) {
            None => Search::Unknown,
            Some(f) if f.freed == 0 => Search::Futile,
            Some(f) => Search::Freed(f.port),
        }
    }

    pub fn search_failed(&mut self, at: PoolIx, remote: Remote, range: (u16, u16)) {
        let releases = self.pools[at.0].releases;
        let failure = Failure { pool: at.0, remote, range, releases, freed: 0, port: 0 };
        self.failures[Self::failure_slot(at, remote)] = Some(failure);
        self.has_failures = true;
    }

    /// The freed port of a failed search was taken. Which others were freed is not known.
    pub fn took_freed(&mut self, at: PoolIx, remote: Remote) {
        let slot = &mut self.failures[Self::failure_slot(at, remote)];
        match slot {
            Some(f) if f.freed == 1 => f.freed = 0,
            _ => *slot = None,
        }
    }

    /// A commit found no free tuple.
    pub fn count_exhausted(&mut self, PoolIx(pool): PoolIx) {
        if self.is_trial {
            self.uncounted = Some(PoolIx(pool));
        } else if let Some(p) = self.pools.get_mut(pool) {
            p.exhausted += 1;
        }
    }

    /// Counts what was not, because it was a trial.
    pub fn count_after_all(&mut self) {
        self.uncounted.take().into_iter().for_each(|at| self.count_exhausted(at));
    }

    pub fn counts_refusals(&self) -> bool {
        !self.is_trial
    }

    /// Whether the next commits count that are refused.
    pub fn count_refusals(&mut self, count: bool) {
        self.is_trial = !count;
        if self.is_trial {
            self.uncounted = None;
        }
    }

    /// Appends what there is to show of each pool, as far as the list's capacity goes.
    pub fn report(&self, list: &mut Vec<PoolReport>) {
        let room = list.capacity() - list.len();
        let used = self.pools.iter().filter(|p| p.users > 0 || p.exhausted > 0);
        list.extend(used.take(room).map(|p| PoolReport {
            address: p.key.address,
            v6: p.key.v6,
            zone: p.key.zone,
            proto: p.key.proto,
            users: p.users,
            ports: p.ports,
            exhausted: p.exhausted,
        }));
    }

    /// Ports given out, over all pools.
    pub fn users(&self) -> u64 {
        self.pools.iter().map(|p| u64::from(p.users)).sum()
    }

    /// Ports of an address that have users, for `show`.
    pub fn ports_used(&self, key: &Key) -> usize {
        let Some(PoolIx(pool)) = self.find(key) else { return 0 };
        self.pools.get(pool).map_or(0, |p| p.ports as usize)
    }
}

impl Default for PortPools {
    fn default() -> Self {
        Self::new()
    }
}

const _: () = assert!(NAT_POOLS_MAX < u16::MAX as usize);

#[cfg(test)]
mod tests;
