//! Connections per zone, limits on them, and which timeouts a zone has.
//!
//! A zone is 16 bits; the arrays cover them all and are touched where zones are used. A limit
//! counts what is there, dead connections included that are not collected yet.

/// Counts, limits and policies.
pub struct Zones {
    counts: Vec<u32>,
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
            counts: vec![0; ZONES],
            limits: vec![NO_OWN; ZONES],
            default_limit: 0,
            policies: vec![0; ZONES],
        }
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
        self.counts.get(usize::from(zone)).copied().unwrap_or(0)
    }

    /// Whether one more connection would be too many. A limit set below the count stops new
    /// connections and removes none.
    pub fn is_full(&self, zone: u16) -> bool {
        let limit = self.limit(zone);
        limit != 0 && self.count(zone) >= limit
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

    pub(super) fn added(&mut self, zone: u16) {
        if let Some(c) = self.counts.get_mut(usize::from(zone)) {
            *c += 1;
        }
    }

    pub(super) fn removed(&mut self, zone: u16) {
        if let Some(c) = self.counts.get_mut(usize::from(zone)) {
            debug_assert!(*c > 0);
            *c = c.saturating_sub(1);
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
        z.added(7);
        z.added(7);
        assert!(!z.is_full(7));
        z.set_default_limit(2);
        assert!(z.is_full(7) && !z.is_full(8));
        z.set_limit(7, Some(0));
        assert!(!z.is_full(7), "none of its own");
        z.set_limit(7, Some(1));
        assert!(z.is_full(7));
        z.set_limit(7, None);
        assert_eq!(z.limit(7), 2);
    }

    #[test]
    fn reports_come_in_pages_and_miss_nothing() {
        let mut z = Zones::new();
        let shown = [0u16, 1, 1023, 1024, 40_000, u16::MAX];
        shown.iter().for_each(|n| z.added(*n));
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
