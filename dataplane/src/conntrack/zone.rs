//! Connections per zone, limits on them, and which timeouts a zone has.
//!
//! A zone is 16 bits; the arrays cover them all and are touched where zones are used. A limit
//! counts what is there, dead connections included that are not collected yet.
//!
//! **Several workers** share the counts, and touch them only where a connection begins or ends. A
//! place in a zone is taken before the connection is made, in one atomic step, so that a limit is
//! exact whoever makes connections at the same time. Limits themselves each worker has for itself.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering::Relaxed};

/// Connections of each zone, of all workers that share it.
#[derive(Debug)]
pub struct ZoneCounts(Box<[AtomicU32]>);

impl Default for ZoneCounts {
    fn default() -> Self {
        Self((0..ZONES).map(|_| AtomicU32::new(0)).collect())
    }
}

/// Counts, limits and policies.
pub struct Zones {
    counts: Arc<ZoneCounts>,
    /// Others count, too.
    is_shared: bool,
    /// `NO_OWN`: as all zones; `UNLIMITED`.
    limits: Vec<u32>,
    default_limit: u32,
    policies: Vec<u8>,
}

const ZONES: usize = 1 << 16;
const NO_OWN: u32 = 0;
const UNLIMITED: u32 = u32::MAX;

/// A zone that has connections, or a limit of its own.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ZoneReport {
    pub zone: u16,
    pub count: u32,
    /// Zero: none.
    pub own_limit: Option<u32>,
}

impl Zones {
    pub fn new() -> Self {
        Self {
            counts: Arc::default(),
            is_shared: false,
            limits: vec![NO_OWN; ZONES],
            default_limit: 0,
            policies: vec![0; ZONES],
        }
    }

    /// Counts together with others. Before there is any connection.
    pub(super) fn share(&mut self, counts: Arc<ZoneCounts>) {
        (self.counts, self.is_shared) = (counts, true);
    }

    fn cell(&self, zone: u16) -> Option<&AtomicU32> {
        self.counts.0.get(usize::from(zone))
    }

    /// The limit of zones that have none of their own; zero is none.
    pub fn set_default_limit(&mut self, limit: u32) {
        self.default_limit = limit;
    }

    pub fn default_limit(&self) -> u32 {
        self.default_limit
    }

    /// The limit of one zone; zero is none, `None` the default one.
    pub fn set_limit(&mut self, zone: u16, limit: Option<u32>) {
        if let Some(l) = self.limits.get_mut(usize::from(zone)) {
            *l = match limit {
                None => NO_OWN,
                Some(0) => UNLIMITED,
                Some(n) => n,
            };
        }
    }

    fn own_limit(&self, zone: u16) -> Option<u32> {
        match self.limits.get(usize::from(zone)) {
            None | Some(&NO_OWN) => None,
            Some(&UNLIMITED) => Some(0),
            Some(&n) => Some(n),
        }
    }

    /// The limit in force; zero is none.
    pub fn limit(&self, zone: u16) -> u32 {
        self.own_limit(zone).unwrap_or(self.default_limit)
    }

    pub fn count(&self, zone: u16) -> u32 {
        self.cell(zone).map_or(0, |c| c.load(Relaxed))
    }

    /// Takes a place for one more connection; false: that would be one too many. A limit set below
    /// the count stops new connections and removes none.
    #[inline]
    pub(super) fn enter(&mut self, zone: u16) -> bool {
        let limit = match self.limit(zone) {
            0 => u32::MAX,
            limit => limit,
        };
        let Some(cell) = self.cell(zone) else { return false };
        let more = |n: u32| (n < limit).then_some(n + 1);
        if self.is_shared {
            return cell.fetch_update(Relaxed, Relaxed, more).is_ok();
        }
        // Alone, without a locked instruction.
        let more = more(cell.load(Relaxed));
        more.into_iter().for_each(|n| cell.store(n, Relaxed));
        more.is_some()
    }

    /// Appends the zones from `from` on that have something to show, as far as the list's capacity
    /// goes and at most `looks` of them are looked at. Says where to go on.
    pub fn report(&self, from: u16, looks: u16, list: &mut Vec<ZoneReport>) -> Option<u16> {
        for zone in from..=from.saturating_add(looks) {
            if list.len() == list.capacity() || zone - from == looks {
                return Some(zone);
            }
            let (count, own_limit) = (self.count(zone), self.own_limit(zone));
            if count > 0 || own_limit.is_some() {
                list.push(ZoneReport { zone, count, own_limit });
            }
        }
        None
    }

    pub(super) fn policy(&self, zone: u16) -> u8 {
        self.policies.get(usize::from(zone)).copied().unwrap_or(0)
    }

    pub(super) fn set_policy(&mut self, zone: u16, policy: u8) {
        if let Some(p) = self.policies.get_mut(usize::from(zone)) {
            *p = policy;
        }
    }

    /// Gives a place back.
    #[inline]
    pub(super) fn leave(&mut self, zone: u16) {
        let Some(cell) = self.cell(zone) else { return };
        debug_assert!(cell.load(Relaxed) > 0);
        if self.is_shared {
            cell.fetch_sub(1, Relaxed);
        } else {
            cell.store(cell.load(Relaxed).saturating_sub(1), Relaxed);
        }
    }
}

impl Default for Zones {
    fn default() -> Self {
        Self::new()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn limits_of_a_zone_and_of_all() {
        let mut z = Zones::new();
        assert!(z.enter(7) && z.enter(7));
        z.set_default_limit(2);
        assert!(!z.enter(7) && z.enter(8));
        z.set_limit(7, Some(0));
        assert!(z.enter(7), "none of its own");
        z.set_limit(7, Some(1));
        assert!(!z.enter(7));
        assert_eq!(z.count(7), 3, "who is refused is not counted");
        z.set_limit(7, None);
        assert_eq!(z.limit(7), 2);
        z.leave(7);
        assert!(!z.enter(7));
        z.leave(7);
        assert!(z.enter(7) && !z.enter(7));
    }

    /// Threads that come and go in one zone never are more than its limit, and all are counted.
    #[test]
    fn a_limit_is_exact_between_threads() {
        const LIMIT: u32 = 3;
        let counts = Arc::new(ZoneCounts::default());
        let inside = AtomicU32::new(0);
        let left: u32 = std::thread::scope(|scope| {
            let thread = |n: u32| {
                let (counts, inside) = (counts.clone(), &inside);
                scope.spawn(move || {
                    let mut zones = Zones::new();
                    zones.share(counts);
                    zones.set_default_limit(LIMIT);
                    let mut mine = 0;
                    for step in 0..200_000u32 {
                        if (step ^ step >> 3 ^ n).is_multiple_of(2) {
                            if zones.enter(9) {
                                mine += 1;
                                assert!(inside.fetch_add(1, Relaxed) < LIMIT);
                            }
                        } else if mine > 0 {
                            mine -= 1;
                            // Before the place is free: another may take it at once.
                            inside.fetch_sub(1, Relaxed);
                            zones.leave(9);
                        }
                    }
                    mine
                })
            };
            let threads: Vec<_> = (0..4).map(thread).collect();
            threads.into_iter().map(|t| t.join().unwrap()).sum()
        });
        assert_eq!(counts.0[9].load(Relaxed), left);
    }

    #[test]
    fn reports_come_in_pages_and_miss_nothing() {
        let mut z = Zones::new();
        let shown = [0u16, 1, 1023, 1024, 40_000, u16::MAX];
        shown.iter().for_each(|n| assert!(z.enter(*n)));
        z.set_limit(9, Some(5));
        let (mut from, mut all) = (Some(0), Vec::new());
        while let Some(at) = from {
            let mut page = Vec::with_capacity(2);
            from = z.report(at, 1024, &mut page);
            assert!(page.len() <= 2, "a worker's list does not grow");
            all.extend(page.iter().map(|r| (r.zone, r.count, r.own_limit)));
        }
        let mut want: Vec<_> = shown.iter().map(|n| (*n, 1, None)).collect();
        want.push((9, 0, Some(5)));
        want.sort_unstable();
        assert_eq!(all, want);
    }
}
