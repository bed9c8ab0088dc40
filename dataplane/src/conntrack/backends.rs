//! Backends: where `nat(dst=...)` of rules leads, and the connections of those that no rule names
//! any more.
//!
//! A connection keeps its translation as long as it lives. Where its backend is gone, its packets
//! go nowhere; a UDP client that keeps its port and goes on asking keeps the entry alive by that,
//! and is never led to another. (TCP notices: it gives up and comes again from another port.) So
//! connections to a backend are forgotten when nothing leads there any more, and the next packet
//! opens one to a backend that is there.
//!
//! **What is asked.** Control knows which destinations rules name; it makes a filter of those that
//! went, and of those still named that have addresses in common with them: a connection is meant
//! if its destination was translated to what the first cover and the second do not. Where its
//! replies come from says where it was led to. What has no ports is covered by any backend with
//! its address.
//!
//! **What it costs.** A single address with one port, or with all, is looked for in a sorted list;
//! ranges are gone through one by one, and a slice looks at the fewer connections the more there
//! are of them.

use super::conn::ConnInfo;
use super::dump::LOOKS;
use super::key::{IpKey, Tuple};

/// Ranges that take as long as a look at a place of the table.
const RANGES_A_LOOK: usize = 8;

/// What one `nat(dst=...)` leads to.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Backend {
    pub v6: bool,
    /// First and last, equal for a single one.
    pub addresses: (IpKey, IpKey),
    /// First and last; `None`: the port that clients ask for.
    pub ports: Option<(u16, u16)>,
    /// `None`: it comes from a field and may be any.
    pub zone: Option<u16>,
}

fn meet<T: PartialOrd>(a: (T, T), b: (T, T)) -> bool {
    a.0 <= b.1 && b.0 <= a.1
}

impl Backend {
    /// Whether it is of one address.
    pub fn is_single(&self) -> bool {
        self.addresses.0 == self.addresses.1
    }

    /// Whether a connection may be led to both.
    pub fn meets(&self, other: &Self) -> bool {
        // What has no ports goes to either if they differ in ports alone.
        self.v6 == other.v6
            && meet(self.addresses, other.addresses)
            && self.zone.zip(other.zone).is_none_or(|(a, b)| a == b)
    }

    fn covers(&self, end: &End) -> bool {
        self.v6 == end.v6
            && (self.addresses.0..=self.addresses.1).contains(&end.address)
            && self.zone.is_none_or(|zone| zone == end.zone)
            && self.ports.zip(end.port).is_none_or(|((lo, hi), port)| (lo..=hi).contains(&port))
    }
}

/// Where a connection leads.
struct End {
    v6: bool,
    address: IpKey,
    /// Of what has ports.
    port: Option<u16>,
    zone: u16,
}

impl End {
    fn of(reply: &Tuple, zone: u16) -> Self {
        let has_ports = reply.has_ports() && !reply.is_icmp();
        Self { v6: reply.v6, address: reply.src, port: has_ports.then_some(reply.sport), zone }
    }
}

/// Part of a single address that can be looked up.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Part {
    Whole,
    Port(u16),
    /// What has no ports.
    Portless,
}

type Point = (bool, IpKey, Part, Option<u16>);

/// Backends, to be asked whether one of them covers an end.
#[derive(Clone, Debug, Default)]
struct Set {
    /// Sorted.
    points: Box<[Point]>,
    ranges: Box<[Backend]>,
}

impl Set {
    fn new(all: &[Backend]) -> Self {
        let (mut points, mut ranges) = (Vec::new(), Vec::new());
        for b in all {
            let mut add = |part| points.push((b.v6, b.addresses.0, part, b.zone));
            match b.ports {
                None if b.is_single() => add(Part::Whole),
                Some((lo, hi)) if b.is_single() && lo == hi => {
                    add(Part::Port(lo));
                    add(Part::Portless);
                }
                _ => ranges.push(*b),
            }
        }
        points.sort_unstable();
        points.dedup();
        Self { points: points.into(), ranges: ranges.into() }
    }

    fn covers(&self, end: &End) -> bool {
        let part = end.port.map_or(Part::Portless, Part::Port);
        let has =
            |part, zone| self.points.binary_search(&(end.v6, end.address, part, zone)).is_ok();
        let has_point = !self.points.is_empty()
            && [Part::Whole, part].into_iter().any(|p| has(p, None) || has(p, Some(end.zone)));
        has_point || self.ranges.iter().any(|b| b.covers(end))
    }
}

/// The connections that were led to backends which are gone.
#[derive(Clone, Debug, Default)]
pub struct BackendFilter {
    /// `None`: of every protocol.
    proto: Option<u8>,
    gone: Set,
    kept: Set,
}

impl BackendFilter {
    /// `kept`: what is still named, as far as it meets what is gone.
    pub fn new(proto: Option<u8>, gone: &[Backend], kept: &[Backend]) -> Self {
        Self { proto, gone: Set::new(gone), kept: Set::new(kept) }
    }

    pub fn matches(&self, c: &ConnInfo) -> bool {
        if !c.dnat || self.proto.is_some_and(|p| p != c.reply.proto) {
            return false;
        }
        let end = End::of(&c.reply, c.zone);
        self.gone.covers(&end) && !self.kept.covers(&end)
    }

    /// Places that a slice looks at.
    pub(super) fn looks(&self) -> u32 {
        let ranges = self.gone.ranges.len() + self.kept.ranges.len();
        (LOOKS / (1 + ranges / RANGES_A_LOOK) as u32).max(1)
    }
}
