//! The kernel's routes and neighbours, cut down to what a tunnel output asks.

use crate::netlink::underlay::{self, NeighbourState, RouteKind};
use sluice_dataplane::packet::key::PortIx;
use sluice_dataplane::pipeline::underlay::{Device, Route, Underlay};

/// Compiles a snapshot. `port_of` says which port, if any, has a device.
pub fn compile_underlay(
    net: &underlay::Underlay,
    port_of: &dyn Fn(&underlay::Link) -> Option<PortIx>,
) -> Underlay {
    let routes = net.routes.iter().map(|r| Route {
        prefix: r.destination.address,
        prefix_len: r.destination.prefix_len,
        via: r.gateway,
        // A refused prefix must still win over a shorter one; device 0 leads nowhere.
        ifindex: if r.kind == RouteKind::Refused { 0 } else { r.ifindex },
        source: r.source,
        metric: r.metric,
    });
    let known = net.neighbours.iter().filter_map(|(&(ifindex, addr), n)| {
        let usable = matches!(n.state, NeighbourState::Reachable | NeighbourState::Stale);
        n.mac.filter(|_| usable).map(|mac| ((addr, ifindex), mac.0))
    });
    let devices = net.links.iter().filter_map(|link| {
        Some(Device {
            ifindex: link.ifindex,
            port: port_of(link),
            mac: link.mac?.0,
            mtu: link.mtu_bytes.min(u32::from(u16::MAX)) as u16,
            addresses: net.addresses_of(link.ifindex).map(|c| c.address).collect(),
        })
    });
    let mut out = Underlay {
        routes: routes.collect(),
        neighbours: known.collect(),
        devices: devices.collect(),
    };
    out.sort();
    out
}
