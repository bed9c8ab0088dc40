//! Connections per zone, and limits on them.
//!
//! A zone is 16 bits; both arrays cover them all and are touched where zones are used.

/// Counts and limits.
pub struct Zones {
    counts: Vec<u32>,
    /// Zero: the zone has no limit of its own.
    limits: Vec<u32>,
    default_limit: u32,
}

const ZONES: usize = 1 << 16;

impl Zones {
    pub fn new() -> Self {
        Self { counts: vec![0; ZONES], limits: vec![0; ZONES], default_limit: 0 }
    }

    /// The limit of zones that have none of their own; zero is none.
    pub fn set_default_limit(&mut self, limit: u32) {
        self.default_limit = limit;
    }

    /// The limit of one zone; zero means the default.
    pub fn set_limit(&mut self, zone: u16, limit: u32) {
        if let Some(l) = self.limits.get_mut(usize::from(zone)) {
            *l = limit;
        }
    }

    /// The limit in force; zero is none.
    pub fn limit(&self, zone: u16) -> u32 {
        match self.limits.get(usize::from(zone)) {
            Some(&own) if own != 0 => own,
            _ => self.default_limit,
        }
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
