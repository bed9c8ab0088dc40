//! What zones have of their own, what can be changed while it runs, and how things stand.

use super::expire::{CLASSES, Timeouts};
use super::nat_ports::PoolReport;
use super::wheel::Rank;
use super::zone::Zones;
use super::{Conntrack, CtConfig, CtError};
use crate::limits::CT_POLICIES_MAX;

/// What a zone has of its own.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CtZoneConfig {
    pub zone: u16,
    /// Connections; 0: no limit. `None`: that of all zones.
    pub limit: Option<u32>,
    /// Seconds per `Class`. Zones share at most `CT_POLICIES_MAX` different ones; the zones beyond
    /// get the general ones.
    pub timeouts_s: Option<[u32; CLASSES]>,
}

/// What happened since start; the owner carries the differences into its counters.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct CtStats {
    pub created: u64,
    /// Timed out, closed or taken over by a new connection with the same tuple.
    pub expired: u64,
    pub flushed: u64,
    /// Forgotten because nothing leads to their backend any more.
    pub backend_gone: u64,
    pub invalid: u64,
    /// Given up, before their time, for new ones in a full table.
    pub evicted: u64,
    pub table_full: u64,
    pub zone_full: u64,
    pub nat_exhausted: u64,
    pub tuple_taken: u64,
    /// Connections that helpers expect from now on.
    pub expected: u64,
    /// Announced, and not to be expected: another's address, or one too many.
    pub unexpected: u64,
    /// Commits refused because another worker could not be told.
    pub untold: u64,
    /// Other workers' redirects that came too late, and those that found no room.
    pub redirects_late: u64,
    pub redirects_lost: u64,
}

/// Settings that change while it runs; `None` leaves one as it is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct CtSettings {
    pub tcp_seq_check: Option<bool>,
    /// Of zones that have no limit of their own; 0: none.
    pub zone_limit: Option<u32>,
    /// Of one zone; 0: none, `None`: that of all zones.
    pub limit: Option<(u16, Option<u32>)>,
    /// At most as many as there is room for since the start.
    pub conns_max: Option<u32>,
}

/// How things stand.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct CtReport {
    pub stats: CtStats,
    /// Those included that are dead and not yet collected.
    pub conns: u32,
    pub conns_max: u32,
    /// What `conns_max` can be raised to.
    pub places: u32,
    /// Who would give way first, and who then.
    pub half_open: u32,
    pub closed: u32,
    /// For connections, without the addresses of IPv6.
    pub reserved_bytes: u64,
    /// Ports and identifiers that NAT has given out, once for each connection.
    pub nat_ports: u64,
    pub zone_limit: u32,
    pub tcp_seq_check: bool,
}

impl CtStats {
    /// Those of two workers.
    #[must_use]
    pub fn plus(&self, other: &Self) -> Self {
        // Named one by one: a new count that is not summed does not compile.
        Self {
            created: self.created + other.created,
            expired: self.expired + other.expired,
            flushed: self.flushed + other.flushed,
            backend_gone: self.backend_gone + other.backend_gone,
            invalid: self.invalid + other.invalid,
            evicted: self.evicted + other.evicted,
            table_full: self.table_full + other.table_full,
            zone_full: self.zone_full + other.zone_full,
            nat_exhausted: self.nat_exhausted + other.nat_exhausted,
            tuple_taken: self.tuple_taken + other.tuple_taken,
            expected: self.expected + other.expected,
            unexpected: self.unexpected + other.unexpected,
            untold: self.untold + other.untold,
            redirects_late: self.redirects_late + other.redirects_late,
            redirects_lost: self.redirects_lost + other.redirects_lost,
        }
    }
}

impl CtReport {
    /// Two workers together. Their settings are the same.
    #[must_use]
    pub fn plus(&self, other: &Self) -> Self {
        Self {
            stats: self.stats.plus(&other.stats),
            conns: self.conns + other.conns,
            conns_max: self.conns_max + other.conns_max,
            places: self.places + other.places,
            half_open: self.half_open + other.half_open,
            closed: self.closed + other.closed,
            reserved_bytes: self.reserved_bytes + other.reserved_bytes,
            nat_ports: self.nat_ports + other.nat_ports,
            zone_limit: self.zone_limit,
            tcp_seq_check: self.tcp_seq_check,
        }
    }
}

/// Limits, and policies: the zones with the same timeouts share one.
pub(super) fn zones(cfg: &CtConfig, timeouts: &mut Timeouts) -> Zones {
    let mut zones = Zones::new();
    zones.set_default_limit(cfg.zone_limit);
    cfg.zone_counts.iter().for_each(|counts| zones.share(counts.clone()));
    let mut policies = vec![cfg.timeouts_s];
    for z in &cfg.zones {
        zones.set_limit(z.zone, z.limit);
        let Some(seconds) = z.timeouts_s else { continue };
        let known = policies.iter().position(|p| *p == seconds);
        if known.is_none() && policies.len() > CT_POLICIES_MAX {
            continue;
        }
        let policy = known.unwrap_or(policies.len());
        if known.is_none() {
            policies.push(seconds);
            timeouts.set(policy as u8, &seconds);
        }
        zones.set_policy(z.zone, policy as u8);
    }
    zones
}

impl Conntrack {
    /// Changes settings, and says how things stand.
    pub fn set(&mut self, s: &CtSettings) -> CtReport {
        if let Some(on) = s.tcp_seq_check {
            self.tcp_seq_check = on;
        }
        if let Some(limit) = s.zone_limit {
            self.zones.set_default_limit(limit);
        }
        if let Some((zone, limit)) = s.limit {
            self.zones.set_limit(zone, limit);
        }
        if let Some(max) = s.conns_max {
            self.table.set_max(max);
        }
        CtReport {
            stats: self.stats,
            conns: self.table.len() as u32,
            conns_max: self.table.max(),
            places: self.table.capacity() as u32,
            half_open: self.wheels.len(Rank::HalfOpen),
            closed: self.wheels.len(Rank::Closed),
            reserved_bytes: self.table.narrow_bytes() as u64,
            nat_ports: self.pools.users(),
            zone_limit: self.zones.default_limit(),
            tcp_seq_check: self.tcp_seq_check,
        }
    }

    /// Whether commits that are refused count, also with the address that had no port for them. Not
    /// where a commit is tried that the walk which follows will try again.
    #[inline]
    pub fn count_refusals(&mut self, count: bool) {
        self.pools.count_refusals(count);
    }

    /// Counts the last commit that was tried so, and refused, after all.
    pub fn count_after_all(&mut self, refused: CtError) {
        self.pools.count_after_all();
        self.count_refusal(refused);
    }

    /// A commit was refused.
    pub(super) fn count_refusal(&mut self, refused: CtError) {
        if !self.pools.counts_refusals() {
            return;
        }
        let s = &mut self.stats;
        let count = match refused {
            CtError::TableFull => &mut s.table_full,
            CtError::ZoneFull => &mut s.zone_full,
            CtError::NatExhausted => &mut s.nat_exhausted,
            CtError::TupleTaken => &mut s.tuple_taken,
            CtError::Untold => &mut s.untold,
        };
        *count += 1;
    }

    /// Appends the pools of NAT ports, as far as the list's capacity goes.
    pub fn pools(&self, list: &mut Vec<PoolReport>) {
        self.pools.report(list);
    }
}
