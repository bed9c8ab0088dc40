//! Connection tracking's calls: pages and slices, so that neither workers nor the lock is held
//! for long, however many connections there are.

use super::answers::{address, conn, proto_name};
use super::workers::split;
use super::{Core, LiveSwitch};
use crate::api::ApiResult;
use crate::api::conns::{
    ConnPage, ConnQuery, CtChange, CtLimits, CtStatus, PoolInfo, ZoneInfo, ZoneLimit,
};
use crate::api::types::{ApiError, ErrorCode, NamedCount};
use crate::conns;
use sluice_dataplane::conntrack::{ConnFilter, ConnInfo, CtReport, CtSettings, TCP_STATES};
use std::collections::BTreeMap;

/// Connections of one page.
const PAGE: usize = 4096;
/// Slices that are done before the lock is given to others for a moment.
const SLICES: usize = 64;

fn filter_of(text: &str) -> ApiResult<ConnFilter> {
    conns::parse(text).map_err(|e| ApiError::new(ErrorCode::Invalid, e.what, e.hint))
}

impl LiveSwitch {
    /// Up to `max` connections that up to `SLICES` slices of one worker have; it may be none, and
    /// not the last.
    fn page(
        &self,
        filter: &ConnFilter,
        from: u64,
        max: usize,
    ) -> ApiResult<(Vec<ConnInfo>, Option<u64>)> {
        let mut core = self.core();
        let mut list = Vec::with_capacity(max);
        let mut next = Some(from);
        for _ in 0..SLICES {
            let is_mine = |next: &u64| split(*next).0 == split(from).0;
            let next_slice = next.filter(is_mine).filter(|_| list.len() < list.capacity());
            let Some(from) = next_slice else { break };
            (list, next) = core.workers.connections(list, filter, from)?;
        }
        Ok((list, next))
    }

    pub(super) fn conn_page(&self, query: &ConnQuery) -> ApiResult<ConnPage> {
        let filter = filter_of(&query.filter)?;
        let (mut all, mut next) = (Vec::new(), Some(query.from));
        while let Some(from) = next {
            let list;
            (list, next) = self.page(&filter, from, PAGE - all.len())?;
            let worker = split(from).0;
            all.extend(list.iter().map(|c| conn(c, worker)));
            // A page ends where it is full, or somewhere in the connections of one worker.
            let goes_over = next.is_some_and(|n| split(n).0 != worker) && all.len() < PAGE;
            if !all.is_empty() && !goes_over {
                break;
            }
        }
        Ok(ConnPage { list: all, next })
    }

    /// Removes what the filter means. What comes meanwhile may stay.
    pub(super) fn conn_flush(&self, text: &str) -> ApiResult<u64> {
        let filter = filter_of(text)?;
        let (mut next, mut all) = (Some(0), 0);
        while next.is_some() {
            let mut core = self.core();
            for _ in 0..SLICES {
                let Some(from) = next else { break };
                let gone;
                (gone, next) = core.workers.flush_connections(&filter, from)?;
                all += gone as u64;
            }
        }
        Ok(all)
    }

    pub(super) fn ct_status(&self, text: &str) -> ApiResult<CtStatus> {
        let filter = filter_of(text)?;
        let (mut next, mut tally) = (Some(0), Tally::default());
        while let Some(from) = next {
            let list;
            (list, next) = self.page(&filter, from, PAGE)?;
            list.iter().for_each(|c| tally.count(c));
        }
        let mut core = self.core();
        let report = core.workers.conntrack(CtSettings::default())?;
        let pools = core.workers.nat_pools()?;
        Ok(tally.status(&report, pools.iter().map(pool).collect()))
    }

    pub(super) fn ct_limits(&self) -> ApiResult<CtLimits> {
        let mut core = self.core();
        let now = core.workers.conntrack(CtSettings::default())?;
        let default_limit = now.zone_limit;
        let zones = core.workers.ct_zones()?.into_iter().map(|z| ZoneInfo {
            zone: z.zone,
            limit: z.own_limit.unwrap_or(default_limit),
            own: z.own_limit.is_some(),
            count: z.count,
        });
        Ok(CtLimits {
            default_limit,
            zones: zones.collect(),
            tcp_seq_check: now.tcp_seq_check,
            conns: now.conns.into(),
            conns_max: now.conns_max.into(),
        })
    }
}

impl Core {
    pub(super) fn ct_change(&mut self, c: &CtChange) -> ApiResult<()> {
        let places = self.workers.conntrack(CtSettings::default())?.places;
        // Each worker has a share.
        let least = self.workers.len() as u32;
        if let Some(max) = c.conns_max.filter(|max| !(least..=places).contains(max)) {
            let message =
                format!("there is room for {least} to {places} connections, not for {max}");
            let hint = "raise conns_max in the configuration and start again";
            return Err(ApiError::new(ErrorCode::Invalid, message, hint));
        }
        let limits = c.limits.iter().map(|l| l.limit).chain([c.zone_limit]);
        if limits.flatten().any(|limit| limit == u32::MAX) {
            let message = format!("{} is more than a limit can be", u32::MAX);
            return Err(ApiError::new(ErrorCode::Invalid, message, "0 means no limit"));
        }
        self.workers.conntrack(CtSettings {
            tcp_seq_check: c.tcp_seq_check,
            zone_limit: c.zone_limit,
            conns_max: c.conns_max,
            limit: None,
        })?;
        for ZoneLimit { zone, limit } in &c.limits {
            let limit = Some((*zone, *limit));
            self.workers.conntrack(CtSettings { limit, ..CtSettings::default() })?;
        }
        Ok(())
    }
}

fn pool(p: &sluice_dataplane::conntrack::PoolReport) -> PoolInfo {
    PoolInfo {
        zone: p.zone,
        proto: proto_name(p.proto, p.v6),
        address: address(p.v6, p.address),
        connections: p.users,
        ports_used: p.ports,
        exhausted: p.exhausted,
    }
}

/// Connections by kind.
#[derive(Default)]
struct Tally {
    total: u64,
    protocols: [u64; PROTOCOLS.len()],
    tcp: BTreeMap<&'static str, u64>,
}

/// In the order and with the names of `dpctl/ct-stats-show`, which leaves ICMPv6 out.
const PROTOCOLS: [&str; 6] = ["TCP", "UDP", "SCTP", "ICMP", "ICMPv6", "Other"];

impl Tally {
    fn count(&mut self, c: &ConnInfo) {
        let kind = match (c.orig.proto, c.orig.v6) {
            (6, _) => 0,
            (17, _) => 1,
            (132, _) => 2,
            (1, false) => 3,
            (58, true) => 4,
            _ => 5,
        };
        self.total += 1;
        self.protocols[kind] += 1;
        if let Some(state) = c.tcp_state {
            *self.tcp.entry(state).or_default() += 1;
        }
    }

    fn status(&self, r: &CtReport, pools: Vec<PoolInfo>) -> CtStatus {
        let named = |name: &str, count: u64, help: &str| NamedCount {
            name: name.to_owned(),
            count,
            help: help.to_owned(),
        };
        let protocols = PROTOCOLS.iter().zip(self.protocols).filter(|(_, n)| *n > 0);
        let states = TCP_STATES.iter().filter_map(|s| Some((s, *self.tcp.get(s)?)));
        let s = &r.stats;
        let events = [
            ("created", s.created, "Connections committed."),
            ("expired", s.expired, "Timed out, closed, or taken over by a new one."),
            ("flushed", s.flushed, "Removed by a command."),
            ("backend_gone", s.backend_gone, "Removed: no flow or group leads to their backend."),
            ("evicted", s.evicted, "Half-open or closed, given up for new ones in a full table."),
            ("invalid", s.invalid, "Packets judged invalid."),
            ("table_full", s.table_full, "Commits refused: all connections are established."),
            ("zone_full", s.zone_full, "Commits refused: the zone is at its limit."),
            ("nat_exhausted", s.nat_exhausted, "Commits refused: no free tuple in the NAT range."),
            ("tuple_taken", s.tuple_taken, "Commits refused: another one has the replies' tuple."),
        ];
        CtStatus {
            total: self.total,
            protocols: protocols.map(|(name, n)| named(name, n, "")).collect(),
            tcp_states: states.map(|(name, n)| named(name, n, "")).collect(),
            conns: r.conns.into(),
            conns_max: r.conns_max.into(),
            places: r.places.into(),
            half_open: r.half_open.into(),
            closed: r.closed.into(),
            reserved_bytes: r.reserved_bytes,
            tcp_seq_check: r.tcp_seq_check,
            events: events.map(|(name, n, help)| named(name, n, help)).to_vec(),
            pools,
        }
    }
}
