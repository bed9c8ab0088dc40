//! `[conntrack]`: how many connections, for how long, and what zones may have.

use super::check::Checker;
use super::raw;
use serde::Deserialize;
use sluice_dataplane::conntrack::frag::FragConfig;
use sluice_dataplane::limits::{CT_POLICIES_MAX, FRAGMENT_LEAST, FRAGMENTS_MOST};

/// The most that `conns_max` may say: 16 million connections take 2 GiB, and 1 more for addresses
/// if all are IPv6.
pub const CONNS_MAX: u32 = 1 << 24;
/// Unless configured.
const CONNS: i64 = 1 << 18;

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Conntrack {
    pub conns_max: u32,
    /// Whether TCP sequence numbers are judged (Open vSwitch: `dpctl/ct-enable-tcp-seq-chk`).
    pub tcp_seq_check: bool,
    pub fragments: FragConfig,
    pub timeouts: Timeouts,
    /// Connections of a zone that has no limit of its own; 0: no limit.
    pub zone_limit: u32,
    pub flush_removed_backends: FlushBackends,
    /// Zones with something of their own; numbers are distinct.
    pub zones: Vec<CtZone>,
}

/// Which connections are forgotten when no flow or group names the destination any more that
/// `nat(dst=...)` led them to.
///
/// UDP's is what kube-proxy does: a client that goes on from the same port keeps its entry alive
/// and never comes to another backend by itself. TCP's are left by default, so that a backend that
/// is taken out of the flows can finish what it has begun ("draining"); a client of one that is
/// dead notices and connects anew. OVN leaves all (`ct_flush` of a load balancer is off by default)
/// or forgets all.
#[derive(Clone, Copy, Debug, Default, Deserialize, PartialEq, Eq)]
#[serde(rename_all = "lowercase")]
pub enum FlushBackends {
    None,
    #[default]
    Udp,
    All,
}

/// `[[conntrack.zone]]`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CtZone {
    pub id: u16,
    /// Connections; 0: no limit. `None`: that of all zones.
    pub limit: Option<u32>,
    /// What `timeouts_s` does not name is as for all zones.
    pub timeouts: Option<Timeouts>,
}

/// Seconds without a packet after which a connection is forgotten. The defaults are those of OVS's
/// userspace connection tracker.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Timeouts {
    pub tcp_syn_sent_s: u32,
    pub tcp_syn_recv_s: u32,
    pub tcp_established_s: u32,
    pub tcp_fin_wait_s: u32,
    pub tcp_time_wait_s: u32,
    pub tcp_close_s: u32,
    pub udp_first_s: u32,
    pub udp_single_s: u32,
    pub udp_multiple_s: u32,
    pub icmp_first_s: u32,
    pub icmp_reply_s: u32,
}

impl Default for Timeouts {
    fn default() -> Self {
        Self {
            tcp_syn_sent_s: 30,
            tcp_syn_recv_s: 30,
            tcp_established_s: 86_400,
            tcp_fin_wait_s: 900,
            tcp_time_wait_s: 45,
            tcp_close_s: 30,
            udp_first_s: 60,
            udp_single_s: 60,
            udp_multiple_s: 30,
            icmp_first_s: 60,
            icmp_reply_s: 30,
        }
    }
}

pub(super) fn check(c: &mut Checker<'_>, raw: &raw::Conntrack) -> Conntrack {
    let conns_max =
        raw.conns_max.as_ref().map_or(CONNS, |n| c.int("conns_max", n, 1, CONNS_MAX.into()));
    let timeouts = timeouts(c, &raw.timeouts_s, Timeouts::default());
    let zone_limit = raw.zone_limit.as_ref().map_or(0, |n| limit(c, "zone_limit", n));
    let mut zones: Vec<CtZone> = Vec::new();
    for z in &raw.zones {
        let id = c.int("id", &z.id, 0, i64::from(u16::MAX)) as u16;
        if zones.iter().any(|other| other.id == id) {
            let what = format!("zone {id} is there twice");
            c.error(z.id.span(), what, "say all of a zone in one [[conntrack.zone]]");
        }
        zones.push(CtZone {
            id,
            limit: z.limit.as_ref().map(|n| limit(c, "limit", n)),
            timeouts: z.timeouts_s.as_ref().map(|t| self::timeouts(c, t, timeouts)),
        });
    }
    different_timeouts(c, raw, &zones);
    Conntrack {
        conns_max: conns_max as u32,
        tcp_seq_check: raw.tcp_seq_check.unwrap_or(true),
        fragments: fragments(c, raw),
        timeouts,
        zone_limit,
        flush_removed_backends: raw.flush_removed_backends,
        zones,
    }
}

fn limit(c: &mut Checker<'_>, name: &str, n: &raw::Int) -> u32 {
    // The highest number stands for "none" in the dataplane.
    c.int(name, n, 0, i64::from(u32::MAX) - 1) as u32
}

/// A connection carries the number of its timeouts in one byte.
fn different_timeouts(c: &mut Checker<'_>, raw: &raw::Conntrack, zones: &[CtZone]) {
    let mut seen: Vec<Timeouts> = Vec::new();
    for (z, raw) in zones.iter().zip(&raw.zones) {
        let Some(timeouts) = z.timeouts.filter(|t| !seen.contains(t)) else { continue };
        seen.push(timeouts);
        if seen.len() > CT_POLICIES_MAX {
            let what = format!("zone {} has the {}th different timeouts_s", z.id, seen.len());
            let hint = format!("let zones share at most {CT_POLICIES_MAX} sets of timeouts");
            c.error(raw.id.span(), what, hint);
            return;
        }
    }
}

fn timeouts(c: &mut Checker<'_>, t: &raw::TimeoutsRaw, base: Timeouts) -> Timeouts {
    let mut timeouts = base;
    let mut set = |name: &str, value: &Option<raw::Int>, field: &mut u32| {
        if let Some(value) = value {
            *field = c.int(name, value, 1, i64::from(u32::MAX)) as u32;
        }
    };
    set("tcp_syn_sent", &t.tcp_syn_sent, &mut timeouts.tcp_syn_sent_s);
    set("tcp_syn_recv", &t.tcp_syn_recv, &mut timeouts.tcp_syn_recv_s);
    set("tcp_established", &t.tcp_established, &mut timeouts.tcp_established_s);
    set("tcp_fin_wait", &t.tcp_fin_wait, &mut timeouts.tcp_fin_wait_s);
    set("tcp_time_wait", &t.tcp_time_wait, &mut timeouts.tcp_time_wait_s);
    set("tcp_close", &t.tcp_close, &mut timeouts.tcp_close_s);
    set("udp_first", &t.udp_first, &mut timeouts.udp_first_s);
    set("udp_single", &t.udp_single, &mut timeouts.udp_single_s);
    set("udp_multiple", &t.udp_multiple, &mut timeouts.udp_multiple_s);
    set("icmp_first", &t.icmp_first, &mut timeouts.icmp_first_s);
    set("icmp_reply", &t.icmp_reply, &mut timeouts.icmp_reply_s);
    timeouts
}

fn fragments(c: &mut Checker<'_>, raw: &raw::Conntrack) -> FragConfig {
    let mut fragments = FragConfig::default();
    if let Some(n) = &raw.fragments_max {
        fragments.held_max = c.int("fragments_max", n, 0, FRAGMENTS_MOST as i64) as usize;
    }
    let mins = [
        ("fragment_ipv4_min", &raw.fragment_ipv4_min, &mut fragments.ipv4_min),
        ("fragment_ipv6_min", &raw.fragment_ipv6_min, &mut fragments.ipv6_min),
    ];
    for (name, value, field) in mins {
        if let Some(n) = value {
            *field = c.int(name, n, FRAGMENT_LEAST.into(), u16::MAX.into()) as u16;
        }
    }
    fragments
}
