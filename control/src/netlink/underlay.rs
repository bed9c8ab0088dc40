//! What the node's kernel knows of the underlay, as plain data: links, addresses, routes,
//! neighbours.
//!
//! One immutable snapshot; a tunnel asks it for the way to its far end. The rules are the kernel's
//! for a host without policy routing: the longest prefix, then the lowest metric, of the tables
//! `main` and `default`; the route's preferred source, else an address of the device, one in the
//! network of the next hop first.

use std::collections::BTreeMap;
use std::net::IpAddr;

use serde::Serialize;

use crate::config::{Cidr, Config, MacAddr};

#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Underlay {
    /// Rises with each change.
    pub generation: u64,
    pub links: Vec<Link>,
    pub addresses: Vec<Address>,
    /// Longest prefix first, then lowest metric.
    pub routes: Vec<Route>,
    #[serde(serialize_with = "neighbours_as_list")]
    pub neighbours: BTreeMap<(u32, IpAddr), Neighbour>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Link {
    pub ifindex: u32,
    pub name: String,
    /// None where frames have no Ethernet addresses.
    pub mac: Option<MacAddr>,
    pub mtu_bytes: u32,
    /// Set up, and with a carrier.
    pub up: bool,
    pub admin_up: bool,
    /// "veth", "tun", "bridge", ...; empty for a plain device.
    pub kind: String,
    pub rx_queues: u32,
    pub tx_queues: u32,
    /// The XDP program attached, by its id.
    pub xdp_prog_id: Option<u32>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct Address {
    pub ifindex: u32,
    pub address: Cidr,
    /// Not to be chosen as a source: secondary, deprecated or not yet verified.
    pub avoid: bool,
    /// Scope below the whole net (link, host).
    pub narrow: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum RouteKind {
    Unicast,
    /// Blackhole, unreachable or prohibit.
    Refused,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Route {
    pub destination: Cidr,
    pub gateway: Option<IpAddr>,
    pub ifindex: u32,
    pub source: Option<IpAddr>,
    pub metric: u32,
    pub kind: RouteKind,
    /// The route's own limit, if it has one.
    pub mtu_bytes: Option<u32>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct Neighbour {
    pub mac: Option<MacAddr>,
    pub state: NeighbourState,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum NeighbourState {
    /// Known and confirmed, or set by hand.
    Reachable,
    /// Known, not confirmed for a while: usable, and worth a question.
    Stale,
    /// Being asked for the first time.
    Incomplete,
    /// Asked, no answer.
    Failed,
}

/// The way to a destination.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct Path {
    pub ifindex: u32,
    /// Whose Ethernet address the frame goes to.
    pub next_hop: IpAddr,
    pub source: IpAddr,
    pub source_mac: MacAddr,
    pub mtu_bytes: u32,
}

/// Why there is no way. Each is a named drop of the tunnel, and heals by itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, thiserror::Error)]
#[serde(rename_all = "snake_case")]
pub enum NoPath {
    #[error("no route")]
    NoRoute,
    #[error("the route forbids it (blackhole, unreachable or prohibit)")]
    Refused,
    #[error("the destination is an address of this node")]
    Local,
    #[error("the device is down or gone")]
    LinkDown,
    #[error("the device has no address of this family")]
    NoSource,
    #[error("the device is not Ethernet")]
    NotEthernet,
}

impl Underlay {
    pub fn link(&self, ifindex: u32) -> Option<&Link> {
        self.links.iter().find(|link| link.ifindex == ifindex)
    }

    pub fn link_by_name(&self, name: &str) -> Option<&Link> {
        self.links.iter().find(|link| link.name == name)
    }

    pub fn addresses_of(&self, ifindex: u32) -> impl Iterator<Item = Cidr> {
        self.addresses.iter().filter(move |a| a.ifindex == ifindex).map(|a| a.address)
    }

    pub fn is_local(&self, address: IpAddr) -> bool {
        self.addresses.iter().any(|a| a.address.address == address)
    }

    /// The way to `destination`, from `source` if one is asked for.
    pub fn path(&self, destination: IpAddr, source: Option<IpAddr>) -> Result<Path, NoPath> {
        if self.is_local(destination) {
            return Err(NoPath::Local);
        }
        let mut down = false;
        for route in self.routes.iter().filter(|r| r.destination.contains(destination)) {
            if route.kind == RouteKind::Refused {
                return Err(NoPath::Refused);
            }
            let Some(link) = self.link(route.ifindex).filter(|link| link.up) else {
                down = true;
                continue;
            };
            let next_hop = route.gateway.unwrap_or(destination);
            let v4 = destination.is_ipv4();
            let chosen =
                source.or(route.source).or_else(|| self.source(link.ifindex, next_hop, v4));
            return Ok(Path {
                ifindex: link.ifindex,
                next_hop,
                source: chosen.ok_or(NoPath::NoSource)?,
                source_mac: link.mac.ok_or(NoPath::NotEthernet)?,
                mtu_bytes: route.mtu_bytes.unwrap_or(link.mtu_bytes).min(link.mtu_bytes),
            });
        }
        Err(if down { NoPath::LinkDown } else { NoPath::NoRoute })
    }

    /// The Ethernet address of a neighbour, if it can be used now.
    pub fn neighbour_mac(&self, ifindex: u32, address: IpAddr) -> Option<MacAddr> {
        let neighbour = self.neighbours.get(&(ifindex, address))?;
        let usable = matches!(neighbour.state, NeighbourState::Reachable | NeighbourState::Stale);
        neighbour.mac.filter(|_| usable)
    }

    /// The source address that the kernel would take: one whose network holds the next hop, else
    /// the first of global scope, else any.
    fn source(&self, ifindex: u32, next_hop: IpAddr, v4: bool) -> Option<IpAddr> {
        let of_family = |a: &&Address| a.address.address.is_ipv4() == v4;
        let own = || self.addresses.iter().filter(move |a| a.ifindex == ifindex).filter(of_family);
        let global = || self.addresses.iter().filter(of_family).filter(|a| !a.narrow && !a.avoid);
        let best = own()
            .find(|a| !a.avoid && a.address.contains(next_hop))
            .or_else(|| own().find(|a| !a.avoid && !a.narrow))
            .or_else(|| own().next())
            // An unnumbered device speaks with another's address.
            .or_else(|| global().next())?;
        Some(best.address.address)
    }

    pub(crate) fn sort(&mut self) {
        self.routes.sort_by(|a, b| {
            let key = |r: &Route| (r.destination.address.is_ipv6(), 128 - r.destination.prefix_len);
            key(a).cmp(&key(b)).then(a.metric.cmp(&b.metric))
        });
        self.links.sort_by_key(|link| link.ifindex);
    }

    /// The underlay that a configuration describes by `[[address]]`, `[[route]]` and
    /// `[[neighbour]]`. Links are the ports with a device or of type memory, numbered from 1 in the
    /// file's order.
    pub fn of_config(config: &Config) -> Self {
        let mut this = Self { generation: 1, ..Self::default() };
        let ports = config.bridges.iter().flat_map(|bridge| &bridge.ports);
        let mut aliases: BTreeMap<&str, u32> = BTreeMap::new();
        for (port, ifindex) in ports.zip(1u32..) {
            aliases.insert(&port.name, ifindex);
            port.device().into_iter().for_each(|device| _ = aliases.insert(device, ifindex));
            this.links.push(Link {
                ifindex,
                name: port.name.clone(),
                mac: Some(crate::config::mac_of_name(&port.name)),
                mtu_bytes: 1500,
                up: true,
                admin_up: true,
                kind: "memory".into(),
                rx_queues: 1,
                tx_queues: 1,
                xdp_prog_id: None,
            });
        }
        let ifindex = |device: &str| aliases.get(device).copied().unwrap_or(0);
        for a in &config.addresses {
            let ifindex = ifindex(&a.device);
            if let (Some(mac), Some(link)) =
                (a.mac, this.links.iter_mut().find(|link| link.ifindex == ifindex))
            {
                link.mac = Some(mac);
            }
            this.addresses.push(Address {
                ifindex,
                address: a.address,
                avoid: false,
                narrow: false,
            });
            this.routes.push(connected(ifindex, a.address));
        }
        for r in &config.routes {
            let mut route = connected(ifindex(&r.device), r.destination);
            (route.gateway, route.source) = (r.via, r.source);
            this.routes.push(route);
        }
        for n in &config.neighbours {
            let neighbour = Neighbour { mac: Some(n.mac), state: NeighbourState::Reachable };
            this.neighbours.insert((ifindex(&n.device), n.address), neighbour);
        }
        this.sort();
        this
    }
}

fn connected(ifindex: u32, address: Cidr) -> Route {
    Route {
        destination: address.network(),
        gateway: None,
        ifindex,
        source: None,
        metric: 0,
        kind: RouteKind::Unicast,
        mtu_bytes: None,
    }
}

/// JSON has no maps with keys of two parts.
fn neighbours_as_list<S: serde::Serializer>(
    map: &BTreeMap<(u32, IpAddr), Neighbour>,
    serializer: S,
) -> Result<S::Ok, S::Error> {
    #[derive(Serialize)]
    struct Entry<'a> {
        ifindex: u32,
        address: IpAddr,
        #[serde(flatten)]
        neighbour: &'a Neighbour,
    }
    let entry = |(&(ifindex, address), neighbour)| Entry { ifindex, address, neighbour };
    serializer.collect_seq(map.iter().map(entry))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn link(ifindex: u32, up: bool) -> Link {
        let mac = Some(MacAddr([2, 0, 0, 0, 0, ifindex as u8]));
        Link {
            ifindex,
            name: format!("eth{ifindex}"),
            mac,
            mtu_bytes: 1500,
            up,
            admin_up: up,
            kind: String::new(),
            rx_queues: 1,
            tx_queues: 1,
            xdp_prog_id: None,
        }
    }

    fn ip(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    fn sample() -> Underlay {
        let cidr = |text: &str| text.parse::<Cidr>().unwrap();
        let address =
            |ifindex, text| Address { ifindex, address: cidr(text), avoid: false, narrow: false };
        let route = |ifindex, to: &str, via: Option<&str>, metric| Route {
            gateway: via.map(ip),
            metric,
            ..connected(ifindex, cidr(to))
        };
        let mut refused = route(1, "10.66.0.0/16", None, 0);
        refused.kind = RouteKind::Refused;
        let mut u = Underlay {
            generation: 1,
            links: vec![link(1, true), link(2, true), link(3, false)],
            addresses: vec![
                address(1, "192.0.2.1/24"),
                address(1, "10.0.0.1/24"),
                address(2, "10.1.0.1/24"),
                address(1, "fd00::1/64"),
            ],
            routes: vec![
                route(2, "0.0.0.0/0", Some("10.1.0.254"), 100),
                route(1, "0.0.0.0/0", Some("10.0.0.254"), 50),
                route(1, "10.0.0.0/24", None, 0),
                route(2, "10.1.0.0/24", None, 0),
                route(3, "10.3.0.0/24", None, 0),
                route(1, "fd00::/64", None, 0),
                refused,
            ],
            neighbours: BTreeMap::new(),
        };
        u.sort();
        u
    }

    #[test]
    fn longest_prefix_then_lowest_metric() {
        let u = sample();
        let p = u.path(ip("10.1.0.7"), None).unwrap();
        assert_eq!((p.ifindex, p.next_hop, p.source), (2, ip("10.1.0.7"), ip("10.1.0.1")));
        let p = u.path(ip("8.8.8.8"), None).unwrap();
        assert_eq!((p.ifindex, p.next_hop, p.source), (1, ip("10.0.0.254"), ip("10.0.0.1")));
        let p = u.path(ip("fd00::9"), None).unwrap();
        assert_eq!((p.ifindex, p.source), (1, ip("fd00::1")));
        assert_eq!(u.path(ip("8.8.8.8"), Some(ip("192.0.2.1"))).unwrap().source, ip("192.0.2.1"));
    }

    #[test]
    fn every_reason_for_no_path() {
        let mut u = sample();
        assert_eq!(u.path(ip("fd01::1"), None), Err(NoPath::NoRoute));
        assert_eq!(u.path(ip("10.66.1.1"), None), Err(NoPath::Refused));
        assert_eq!(u.path(ip("10.0.0.1"), None), Err(NoPath::Local));
        // The down link's network is reached by the default route instead, as in the kernel.
        assert_eq!(u.path(ip("10.3.0.9"), None).unwrap().next_hop, ip("10.0.0.254"));
        u.routes.retain(|r| !r.destination.is_default());
        assert_eq!(u.path(ip("10.3.0.9"), None), Err(NoPath::LinkDown));
        u.links[1].mac = None;
        assert_eq!(u.path(ip("10.1.0.9"), None), Err(NoPath::NotEthernet));
        u.addresses.clear();
        assert_eq!(u.path(ip("10.0.0.9"), None), Err(NoPath::NoSource));
    }

    #[test]
    fn only_known_neighbours_are_usable() {
        let mut u = sample();
        let mac = Some(MacAddr([2; 6]));
        let at = (1, ip("10.0.0.2"));
        for (state, usable) in [
            (NeighbourState::Reachable, true),
            (NeighbourState::Stale, true),
            (NeighbourState::Incomplete, false),
            (NeighbourState::Failed, false),
        ] {
            u.neighbours.insert(at, Neighbour { mac, state });
            assert_eq!(u.neighbour_mac(at.0, at.1).is_some(), usable, "{state:?}");
        }
        assert_eq!(u.neighbour_mac(2, at.1), None);
    }

    #[test]
    fn a_configuration_describes_an_underlay() {
        let text = include_str!("../../examples/node1.toml");
        let config = Config::parse(std::path::Path::new("node1.toml"), text).unwrap();
        let u = Underlay::of_config(&config);
        let path = u.path(ip("10.0.0.2"), None).unwrap();
        assert_eq!(u.link(path.ifindex).unwrap().name, "underlay0");
        assert_eq!(path.source, ip("10.0.0.1"));
        assert_eq!(path.source_mac.to_string(), "02:00:00:00:0a:01");
        let mac = u.neighbour_mac(path.ifindex, path.next_hop).unwrap();
        assert_eq!(mac.to_string(), "02:00:00:00:0a:02");
        assert!(serde_json::to_string(&u).unwrap().contains("\"state\":\"reachable\""));
    }
}
