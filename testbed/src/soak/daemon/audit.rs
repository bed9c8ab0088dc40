//! What a daemon that nobody talks through says of itself, held against itself.
//!
//! Its workers answer one after the other, timers go on, and kernels say last things again, so one
//! look may not add up. What never adds up in time is a finding.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use sluice_control::api::types::{ConnInfo, ConnQuery, CtStatus, Reply, Request};

use super::scene::POOLS;
use crate::books;
use crate::sluiced::Daemon;

/// Longer than a fragment waits for the rest of its datagram, and than any timeout.
const LIMIT: Duration = Duration::from_secs(40);
const GAP: Duration = Duration::from_millis(50);

/// What is waited for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Waiting {
    /// Everything adds up.
    Alive,
    /// All connections have gone, by time.
    Gone,
    /// They are flushed until none is left: of what a kernel says again one may begin anew.
    Flushed,
}

/// What it said when everything added up; counts since its start.
#[derive(Clone, Debug, Default)]
pub struct Seen {
    pub pid: u32,
    pub rx: u64,
    pub tx: u64,
    pub dropped: u64,
    pub drops: BTreeMap<String, u64>,
    pub handed_over: u64,
    /// Put together from fragments.
    pub datagrams: u64,
    pub hits: u64,
    pub walks: u64,
    pub self_checks: u64,
    pub frames: u64,
    pub conns: u64,
    pub created: u64,
    pub ended: u64,
    pub events: BTreeMap<String, u64>,
    /// Connections that have a place in a pool of ports.
    pub pooled: u64,
}

/// Looks until everything adds up, and gives what did not at the last look if it never does.
pub fn settled(daemon: &Daemon, waiting: Waiting) -> Result<Seen, Vec<String>> {
    let begin = Instant::now();
    loop {
        if waiting == Waiting::Flushed {
            call(daemon, Request::ConntrackFlush { filter: String::new() })?;
        }
        match look(daemon, waiting) {
            Err(odd) if begin.elapsed() < LIMIT => drop(odd),
            other => return other,
        }
        std::thread::sleep(GAP);
    }
}

fn call(daemon: &Daemon, request: Request) -> Result<Reply, Vec<String>> {
    let what = format!("{request:?}");
    daemon.call(request).map_err(|e| vec![format!("{what}: {e}\n{}", daemon.log())])
}

/// One look.
fn look(daemon: &Daemon, waiting: Waiting) -> Result<Seen, Vec<String>> {
    let list = conns(daemon)?;
    let status = status(daemon)?;
    let info = daemon.show().map_err(|e| vec![e.to_string()])?;
    let counters = daemon.counters().map_err(|e| vec![e.to_string()])?;
    let seen = seen(&status, &counters, (info.pid, info.frames));
    let mut odd = Vec::new();
    odd.extend(books::frames(&info).err());
    odd.extend(books::packets(daemon).err());
    let count = |name: &str| counters.get(name).copied().unwrap_or(0);
    if count("self_check_failures") > 0 {
        odd.push(format!("{} self-checks failed", count("self_check_failures")));
    }
    if seen.created != seen.ended + seen.conns {
        let (made, ended, live) = (seen.created, seen.ended, seen.conns);
        odd.push(format!("{made} connections made, {ended} ended and {live} alive"));
    }
    odd.extend(pools(&status, &list));
    if waiting != Waiting::Alive {
        odd.extend(left(&status));
    }
    odd.extend(complaints(&daemon.log()));
    if odd.is_empty() { Ok(seen) } else { Err(odd) }
}

/// All of them, by pages.
fn conns(daemon: &Daemon) -> Result<Vec<ConnInfo>, Vec<String>> {
    let (mut list, mut from) = (Vec::new(), Some(0));
    while let Some(at) = from {
        let query = ConnQuery { from: at, ..ConnQuery::default() };
        match call(daemon, Request::ConntrackList(query))? {
            Reply::Conns(page) => {
                from = page.next;
                list.extend(page.list);
            }
            other => return Err(vec![format!("no list of connections: {other:?}")]),
        }
    }
    Ok(list)
}

fn status(daemon: &Daemon) -> Result<CtStatus, Vec<String>> {
    match call(daemon, Request::ConntrackStatus { filter: String::new() })? {
        Reply::CtStatus(status) => Ok(*status),
        other => Err(vec![format!("no status: {other:?}")]),
    }
}

fn seen(status: &CtStatus, counters: &BTreeMap<String, u64>, (pid, frames): (u32, u64)) -> Seen {
    let events: BTreeMap<_, _> = status.events.iter().map(|e| (e.name.clone(), e.count)).collect();
    let drops: BTreeMap<String, u64> = counters
        .iter()
        .filter_map(|(name, n)| Some((name.strip_prefix("drop ")?.to_owned(), *n)))
        .collect();
    let event = |name: &str| events.get(name).copied().unwrap_or(0);
    let count = |name: &str| counters.get(name).copied().unwrap_or(0);
    Seen {
        pid,
        rx: count("rx_packets"),
        tx: count("tx_packets"),
        dropped: drops.values().sum(),
        drops,
        handed_over: count("handed_over"),
        datagrams: count("ct_datagrams"),
        hits: count("tier1_hits"),
        walks: count("tier3_walks"),
        self_checks: count("self_checks"),
        frames,
        conns: status.conns,
        created: event("created"),
        ended: ["expired", "flushed", "backend_gone", "evicted"].map(event).iter().sum(),
        events,
        pooled: status.pools.iter().map(|p| u64::from(p.connections)).sum(),
    }
}

/// Each connection that source NAT has changed has a place in the pool of its address, and nothing
/// else has one.
fn pools(status: &CtStatus, list: &[ConnInfo]) -> Vec<String> {
    let mut odd = Vec::new();
    if list.len() as u64 != status.conns {
        odd.push(format!("{} connections listed, {} counted", list.len(), status.conns));
    }
    for address in POOLS {
        let listed = list.iter().filter(|c| c.reply.dst == address).count() as u64;
        let pools = status.pools.iter().filter(|p| p.address == address);
        let held: u64 = pools.map(|p| u64::from(p.connections)).sum();
        if listed != held {
            odd.push(format!("{address}: {held} places held by {listed} connections"));
        }
    }
    odd
}

/// What should have gone.
fn left(status: &CtStatus) -> Vec<String> {
    let mut odd = Vec::new();
    if status.conns > 0 {
        odd.push(format!("{} connections are left", status.conns));
    }
    let held = status.pools.iter().filter(|p| p.connections > 0 || p.ports_used > 0);
    odd.extend(held.map(|p| format!("without connections: {p:?}")));
    odd
}

/// Lines of the log that somebody should look at.
fn complaints(log: &str) -> Vec<String> {
    let is_one = |line: &&str| [" WARN ", " ERROR ", "panicked"].iter().any(|w| line.contains(w));
    log.lines().filter(is_one).map(|line| format!("logged: {line}")).collect()
}
