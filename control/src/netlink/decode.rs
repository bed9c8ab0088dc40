//! Messages of the kernel to plain data. What cannot be read is left out, never guessed.

use std::net::IpAddr;

use super::underlay::{Address, Link, Neighbour, NeighbourState, Route, RouteKind};
use super::wire::{self, Attrs, Message, get_ip, get_text, get_u16, get_u32};
use crate::config::{Cidr, MacAddr};

pub const IFLA_ADDRESS: u16 = 1;
pub const IFLA_IFNAME: u16 = 3;
pub const IFLA_MTU: u16 = 4;
pub const IFLA_LINKINFO: u16 = 18;
pub const IFLA_NET_NS_FD: u16 = 28;
pub const IFLA_NUM_TX_QUEUES: u16 = 31;
pub const IFLA_NUM_RX_QUEUES: u16 = 32;
const IFLA_XDP: u16 = 43;
pub const IFLA_INFO_KIND: u16 = 1;
pub const IFLA_INFO_DATA: u16 = 2;
const IFLA_XDP_PROG_ID: u16 = 4;
pub const IFF_UP: u32 = 1;
const IFF_RUNNING: u32 = 0x40;
const ARPHRD_ETHER: u16 = 1;

pub const IFA_ADDRESS: u16 = 1;
pub const IFA_LOCAL: u16 = 2;
pub const IFA_FLAGS: u16 = 8;
pub const IFA_F_NODAD: u32 = 0x02;
/// Secondary, optimistic, dadfailed, deprecated, tentative.
const IFA_F_AVOID: u32 = 0x01 | 0x04 | 0x08 | 0x20 | 0x40;

pub const RTA_DST: u16 = 1;
pub const RTA_OIF: u16 = 4;
pub const RTA_GATEWAY: u16 = 5;
const RTA_PRIORITY: u16 = 6;
const RTA_PREFSRC: u16 = 7;
const RTA_METRICS: u16 = 8;
const RTA_MULTIPATH: u16 = 9;
const RTA_TABLE: u16 = 15;
const RTA_VIA: u16 = 18;
const RTAX_MTU: u16 = 2;
pub const RT_TABLE_MAIN: u8 = 254;
const RT_TABLE_DEFAULT: u32 = 253;
pub const RTN_UNICAST: u8 = 1;
/// A cached copy of a route, not a route.
const RTM_F_CLONED: u32 = 0x200;
/// A next hop that is not to be used: dead, or its link is down.
const RTNH_F_DEAD_OR_DOWN: u8 = 1 | 16;

pub const NDA_DST: u16 = 1;
const NDA_LLADDR: u16 = 2;

/// RTM_NEWLINK, RTM_DELLINK.
pub fn link(message: &Message) -> Option<Link> {
    let kind = get_u16(&message.body, 2)?;
    let flags = get_u32(&message.body, 8)?;
    let mut link = Link {
        ifindex: get_u32(&message.body, 4)?,
        name: String::new(),
        mac: None,
        mtu_bytes: 0,
        up: flags & IFF_UP != 0 && flags & IFF_RUNNING != 0,
        admin_up: flags & IFF_UP != 0,
        kind: String::new(),
        rx_queues: 1,
        tx_queues: 1,
        xdp_prog_id: None,
    };
    for (attr, value) in message.attrs(16) {
        match attr {
            IFLA_IFNAME => link.name = get_text(value),
            IFLA_MTU => link.mtu_bytes = get_u32(value, 0)?,
            IFLA_NUM_TX_QUEUES => link.tx_queues = get_u32(value, 0)?,
            IFLA_NUM_RX_QUEUES => link.rx_queues = get_u32(value, 0)?,
            IFLA_ADDRESS if kind == ARPHRD_ETHER => {
                link.mac = value.try_into().ok().map(MacAddr);
            }
            IFLA_LINKINFO => {
                let info = Attrs { bytes: value }.find(|(attr, _)| *attr == IFLA_INFO_KIND);
                link.kind = info.map(|(_, kind)| get_text(kind)).unwrap_or_default();
            }
            IFLA_XDP => {
                let id = Attrs { bytes: value }.find(|(attr, _)| *attr == IFLA_XDP_PROG_ID);
                link.xdp_prog_id = id.and_then(|(_, id)| get_u32(id, 0)).filter(|id| *id != 0);
            }
            _ => {}
        }
    }
    (!link.name.is_empty()).then_some(link)
}

/// RTM_NEWADDR.
pub fn address(message: &Message) -> Option<Address> {
    let [_, prefix_len, flags, scope, ..] = message.body[..] else { return None };
    let ifindex = get_u32(&message.body, 4)?;
    let mut flags = u32::from(flags);
    let (mut local, mut address) = (None, None);
    for (attr, value) in message.attrs(8) {
        match attr {
            IFA_LOCAL => local = get_ip(value),
            IFA_ADDRESS => address = get_ip(value),
            IFA_FLAGS => flags = get_u32(value, 0)?,
            _ => {}
        }
    }
    // On a point-to-point link the "address" is the peer's; "local" is ours where it is given.
    let address = Cidr { address: local.or(address)?, prefix_len };
    Some(Address { ifindex, address, avoid: flags & IFA_F_AVOID != 0, narrow: scope != 0 })
}

/// RTM_NEWROUTE: none if it is not for forwarding. A multipath route gives its first usable hop.
pub fn route(message: &Message) -> Option<Route> {
    let [family, prefix_len, _, _, table, _, _, kind, ..] = message.body[..] else { return None };
    let any: IpAddr = match family {
        wire::AF_INET => std::net::Ipv4Addr::UNSPECIFIED.into(),
        wire::AF_INET6 => std::net::Ipv6Addr::UNSPECIFIED.into(),
        _ => return None,
    };
    let kind = match kind {
        RTN_UNICAST => RouteKind::Unicast,
        6..=8 => RouteKind::Refused,
        _ => return None,
    };
    let mut table = u32::from(table);
    let mut route = Route {
        destination: Cidr { address: any, prefix_len },
        gateway: None,
        ifindex: 0,
        source: None,
        metric: 0,
        kind,
        mtu_bytes: None,
    };
    for (attr, value) in message.attrs(12) {
        match attr {
            RTA_DST => route.destination.address = get_ip(value)?,
            RTA_OIF => route.ifindex = get_u32(value, 0)?,
            RTA_GATEWAY => route.gateway = get_ip(value),
            RTA_VIA => route.gateway = value.get(2..).and_then(get_ip),
            RTA_PRIORITY => route.metric = get_u32(value, 0)?,
            RTA_PREFSRC => route.source = get_ip(value),
            RTA_TABLE => table = get_u32(value, 0)?,
            RTA_METRICS => {
                let mtu = Attrs { bytes: value }.find(|(attr, _)| *attr == RTAX_MTU);
                route.mtu_bytes = mtu.and_then(|(_, mtu)| get_u32(mtu, 0)).filter(|mtu| *mtu > 0);
            }
            RTA_MULTIPATH => (route.ifindex, route.gateway) = first_hop(value)?,
            _ => {}
        }
    }
    let cloned = get_u32(&message.body, 8)? & RTM_F_CLONED != 0;
    let forwarding = table == u32::from(RT_TABLE_MAIN) || table == RT_TABLE_DEFAULT;
    (forwarding && !cloned).then_some(route)
}

/// `struct rtnexthop`: length, flags, weight, ifindex, attributes; one after the other.
fn first_hop(mut bytes: &[u8]) -> Option<(u32, Option<IpAddr>)> {
    loop {
        let len = usize::from(get_u16(bytes, 0)?);
        let hop = bytes.get(..len)?;
        let flags = *hop.get(2)?;
        if flags & RTNH_F_DEAD_OR_DOWN == 0 {
            let mut gateway = None;
            for (attr, value) in (Attrs { bytes: hop.get(8..)? }) {
                match attr {
                    RTA_GATEWAY => gateway = get_ip(value),
                    RTA_VIA => gateway = value.get(2..).and_then(get_ip),
                    _ => {}
                }
            }
            return Some((get_u32(hop, 4)?, gateway));
        }
        bytes = bytes.get(len.next_multiple_of(4).max(4)..)?;
    }
}

/// RTM_NEWNEIGH, RTM_DELNEIGH: interface and address, and what is known of them.
pub fn neighbour(message: &Message) -> Option<((u32, IpAddr), Neighbour)> {
    let family = *message.body.first()?;
    if family != wire::AF_INET && family != wire::AF_INET6 {
        return None; // A bridge's forwarding entries come in the same messages.
    }
    let ifindex = get_u32(&message.body, 4)?;
    let state = match get_u16(&message.body, 8)? {
        0x01 => NeighbourState::Incomplete,
        // Reachable, and permanent.
        0x02 | 0x80 => NeighbourState::Reachable,
        // Stale, delay, probe.
        0x04 | 0x08 | 0x10 => NeighbourState::Stale,
        0x20 => NeighbourState::Failed,
        // None, and those that need no resolution (multicast, loopback).
        _ => return None,
    };
    let (mut address, mut mac) = (None, None);
    for (attr, value) in message.attrs(12) {
        match attr {
            NDA_DST => address = get_ip(value),
            NDA_LLADDR => mac = value.try_into().ok().map(MacAddr),
            _ => {}
        }
    }
    Some(((ifindex, address?), Neighbour { mac, state }))
}
