//! The node's routes and neighbours, as tunnels need them.
//!
//! Control watches the kernel's tables and publishes a new `Underlay` when an address, a route or
//! a neighbour's MAC changes. Only walks read it, so plain sorted lists do; what a walk found is
//! kept in the traversal until the next program.

use crate::counters::Drop;
use crate::packet::key::PortIx;
use std::collections::HashMap;
use std::net::IpAddr;

/// A route, longest prefix first in `Underlay::routes`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Route {
    pub prefix: IpAddr,
    pub prefix_len: u8,
    /// `None`: on link.
    pub via: Option<IpAddr>,
    pub ifindex: u32,
    /// Source address the kernel would take.
    pub source: Option<IpAddr>,
    /// Lower wins among equal prefixes.
    pub metric: u32,
}

/// A kernel device that underlay packets may leave by.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Device {
    pub ifindex: u32,
    /// Our port on it, if it has one.
    pub port: Option<PortIx>,
    pub mac: [u8; 6],
    pub mtu: u16,
    pub addresses: Vec<IpAddr>,
}

/// The snapshot.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Underlay {
    pub routes: Vec<Route>,
    pub neighbours: HashMap<(IpAddr, u32), [u8; 6]>,
    pub devices: Vec<Device>,
}

/// How a tunnel packet leaves.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NextHop {
    pub port: PortIx,
    pub src_mac: [u8; 6],
    pub dst_mac: [u8; 6],
    pub source: IpAddr,
    pub mtu: u16,
}

/// Why it does not.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NoHop {
    pub reason: Drop,
    /// Whom the kernel should be asked to resolve, and where.
    pub resolve: Option<(IpAddr, u32)>,
}

fn covers(prefix: IpAddr, len: u8, addr: IpAddr) -> bool {
    match (prefix, addr) {
        (IpAddr::V4(p), IpAddr::V4(a)) => {
            let shift = 32 - u32::from(len.min(32));
            (u32::from(p) ^ u32::from(a)).checked_shr(shift).unwrap_or(0) == 0
        }
        (IpAddr::V6(p), IpAddr::V6(a)) => {
            let shift = 128 - u32::from(len.min(128));
            (u128::from(p) ^ u128::from(a)).checked_shr(shift).unwrap_or(0) == 0
        }
        _ => false,
    }
}

impl Underlay {
    /// Puts the routes in the order that lookups need.
    pub fn sort(&mut self) {
        self.routes.sort_by_key(|r| (u8::MAX - r.prefix_len, r.metric));
    }

    /// The device with this index.
    pub fn device(&self, ifindex: u32) -> Option<&Device> {
        self.devices.iter().find(|d| d.ifindex == ifindex)
    }

    /// Whether `addr` is one of the node's own.
    pub fn is_local(&self, addr: IpAddr) -> bool {
        self.devices.iter().any(|d| d.addresses.contains(&addr))
    }

    /// Where a packet to `remote` leaves.
    pub fn next_hop(&self, remote: IpAddr, local: Option<IpAddr>) -> Result<NextHop, NoHop> {
        let no = |reason| NoHop { reason, resolve: None };
        let route = self
            .routes
            .iter()
            .find(|r| covers(r.prefix, r.prefix_len, remote))
            .ok_or(no(Drop::TunnelNoRoute))?;
        let device = self.device(route.ifindex).ok_or(no(Drop::TunnelNoUnderlay))?;
        let port = device.port.ok_or(no(Drop::TunnelNoUnderlay))?;
        let hop = route.via.unwrap_or(remote);
        let own = || device.addresses.iter().copied().find(|a| a.is_ipv4() == remote.is_ipv4());
        let source = local.or(route.source).or_else(own).ok_or(no(Drop::TunnelNoRoute))?;
        let dst_mac = *self.neighbours.get(&(hop, route.ifindex)).ok_or(NoHop {
            reason: Drop::TunnelNoNeighbour,
            resolve: Some((hop, route.ifindex)),
        })?;
        Ok(NextHop { port, src_mac: device.mac, dst_mac, source, mtu: device.mtu })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn underlay() -> Underlay {
        let ip = |s: &str| s.parse::<IpAddr>().unwrap();
        let route = |p: &str, len, via: Option<&str>, ifindex| Route {
            prefix: ip(p),
            prefix_len: len,
            via: via.map(ip),
            ifindex,
            source: None,
            metric: 0,
        };
        let mut u = Underlay {
            routes: vec![
                route("0.0.0.0", 0, Some("10.0.0.254"), 2),
                route("10.0.0.0", 24, None, 2),
            ],
            neighbours: HashMap::from([((ip("10.0.0.2"), 2), [2; 6])]),
            devices: vec![Device {
                ifindex: 2,
                port: Some(PortIx(4)),
                mac: [1; 6],
                mtu: 1500,
                addresses: vec![ip("10.0.0.1")],
            }],
        };
        u.sort();
        u
    }

    #[test]
    fn on_link_then_default_then_heals() {
        let mut u = underlay();
        let hop = u.next_hop("10.0.0.2".parse().unwrap(), None).unwrap();
        assert_eq!(
            (hop.port, hop.dst_mac, hop.source.to_string().as_str()),
            (PortIx(4), [2; 6], "10.0.0.1")
        );
        let far = "203.0.113.9".parse().unwrap();
        let no = u.next_hop(far, None).unwrap_err();
        assert_eq!(no.reason, Drop::TunnelNoNeighbour);
        assert_eq!(no.resolve, Some(("10.0.0.254".parse().unwrap(), 2)));
        u.neighbours.insert(("10.0.0.254".parse().unwrap(), 2), [9; 6]);
        assert_eq!(u.next_hop(far, None).unwrap().dst_mac, [9; 6]);
        u.routes.clear();
        assert_eq!(u.next_hop(far, None).unwrap_err().reason, Drop::TunnelNoRoute);
    }
}
