//! Changing devices: up, MTU, Ethernet address, IP addresses, routes, the namespace.
//!
//! What `ip link`, `ip address` and `ip route` do, without calling them: a testbed or a container
//! image needs no other program.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::os::fd::{AsRawFd, OwnedFd};

use rustix::io::Errno;

use super::decode::{self, IFF_UP};
use super::netns;
use super::socket::{NetlinkError, Socket};
use super::underlay::{Link, Neighbour, NeighbourState};
use super::wire::{self, Request, family, push_attr};
use crate::config::{Cidr, Internal, MacAddr};

const VETH_INFO_PEER: u16 = 1;
const RT_SCOPE_LINK: u8 = 253;
const RTPROT_STATIC: u8 = 4;
const NUD_PERMANENT: u16 = 0x80;
const NUD_NONE: u16 = 0;
/// Asks the kernel to use the entry: resolve it, or check it again when it is stale.
const NTF_USE: u8 = 1;

/// `struct ifinfomsg`.
fn ifinfo(ifindex: u32, flags: u32, change: u32) -> [u8; 16] {
    let mut out = [0; 16];
    out[4..8].copy_from_slice(&ifindex.to_ne_bytes());
    out[8..12].copy_from_slice(&flags.to_ne_bytes());
    out[12..16].copy_from_slice(&change.to_ne_bytes());
    out
}

/// `struct ndmsg`.
fn ndmsg(family: u8, ifindex: u32, state: u16, flags: u8) -> [u8; 12] {
    let mut out = [0; 12];
    out[0] = family;
    out[4..8].copy_from_slice(&ifindex.to_ne_bytes());
    out[8..10].copy_from_slice(&state.to_ne_bytes());
    out[10] = flags;
    out
}

impl Socket {
    pub fn links(&mut self) -> Result<Vec<Link>, NetlinkError> {
        let found = self.dump("list links", wire::RTM_GETLINK, &ifinfo(0, 0, 0))?;
        Ok(found.iter().filter_map(decode::link).collect())
    }

    /// A link by its name, if there is one.
    pub fn link_named(&mut self, name: &str) -> Result<Option<Link>, NetlinkError> {
        let request = Request::new(wire::RTM_GETLINK, 0, &ifinfo(0, 0, 0));
        match self.talk(&format!("look up {name}"), request.attr_text(decode::IFLA_IFNAME, name)) {
            Ok(found) => Ok(found.iter().find_map(decode::link)),
            Err(error) if error.errno() == Some(Errno::NODEV) => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// A link by its name, or an error that says so.
    pub fn link_required(&mut self, name: &str) -> Result<Link, NetlinkError> {
        let missing =
            || NetlinkError::Refused { what: format!("device {name}"), errno: Errno::NODEV };
        self.link_named(name)?.ok_or_else(missing)
    }

    pub fn set_up(&mut self, ifindex: u32, up: bool) -> Result<(), NetlinkError> {
        let flags = if up { IFF_UP } else { 0 };
        let request = Request::new(wire::RTM_SETLINK, 0, &ifinfo(ifindex, flags, IFF_UP));
        self.change(if up { "set link up" } else { "set link down" }, request)
    }

    pub fn set_mtu(&mut self, ifindex: u32, mtu_bytes: u32) -> Result<(), NetlinkError> {
        let request = Request::new(wire::RTM_SETLINK, 0, &ifinfo(ifindex, 0, 0));
        let what = format!("set mtu {mtu_bytes}");
        self.change(&what, request.attr_u32(decode::IFLA_MTU, mtu_bytes))
    }

    pub fn set_mac(&mut self, ifindex: u32, mac: MacAddr) -> Result<(), NetlinkError> {
        let request = Request::new(wire::RTM_SETLINK, 0, &ifinfo(ifindex, 0, 0));
        self.change(&format!("set address {mac}"), request.attr(decode::IFLA_ADDRESS, &mac.0))
    }

    pub fn move_to_netns(&mut self, ifindex: u32, netns: &OwnedFd) -> Result<(), NetlinkError> {
        let request = Request::new(wire::RTM_SETLINK, 0, &ifinfo(ifindex, 0, 0));
        let request = request.attr_u32(decode::IFLA_NET_NS_FD, netns.as_raw_fd() as u32);
        self.change("move link to its network namespace", request)
    }

    /// A veth pair with `queues` queues at both ends.
    pub fn add_veth(&mut self, name: &str, peer: &str, queues: u32) -> Result<(), NetlinkError> {
        let mut far = ifinfo(0, 0, 0).to_vec();
        push_attr(&mut far, decode::IFLA_IFNAME, &[peer.as_bytes(), &[0]].concat());
        push_attr(&mut far, decode::IFLA_NUM_TX_QUEUES, &queues.to_ne_bytes());
        push_attr(&mut far, decode::IFLA_NUM_RX_QUEUES, &queues.to_ne_bytes());
        let mut data = Vec::new();
        push_attr(&mut data, VETH_INFO_PEER, &far);
        let mut info = Vec::new();
        push_attr(&mut info, decode::IFLA_INFO_KIND, b"veth\0");
        push_attr(&mut info, decode::IFLA_INFO_DATA, &data);
        let flags = wire::NLM_F_CREATE | wire::NLM_F_EXCL;
        let request = Request::new(wire::RTM_NEWLINK, flags, &ifinfo(0, 0, 0))
            .attr_text(decode::IFLA_IFNAME, name)
            .attr_u32(decode::IFLA_NUM_TX_QUEUES, queues)
            .attr_u32(decode::IFLA_NUM_RX_QUEUES, queues)
            .attr(decode::IFLA_LINKINFO, &info);
        self.change(&format!("make veth pair {name}, {peer}"), request)
    }

    pub fn delete_link(&mut self, ifindex: u32) -> Result<(), NetlinkError> {
        let request = Request::new(wire::RTM_DELLINK, 0, &ifinfo(ifindex, 0, 0));
        self.change("delete link", request)
    }

    /// An address; one that is there already is left as it is.
    pub fn add_address(&mut self, ifindex: u32, address: Cidr) -> Result<(), NetlinkError> {
        let mut fixed = [0; 8];
        fixed[0] = family(address.address);
        fixed[1] = address.prefix_len;
        fixed[4..8].copy_from_slice(&ifindex.to_ne_bytes());
        let flags = wire::NLM_F_CREATE | wire::NLM_F_REPLACE;
        let mut request = Request::new(wire::RTM_NEWADDR, flags, &fixed)
            .attr_ip(decode::IFA_LOCAL, address.address)
            .attr_ip(decode::IFA_ADDRESS, address.address);
        if address.address.is_ipv6() {
            // Duplicate detection would keep it unusable for a second, in a network we know.
            request = request.attr_u32(decode::IFA_FLAGS, decode::IFA_F_NODAD);
        }
        self.change(&format!("add address {address}"), request)
    }

    pub fn add_route(
        &mut self,
        ifindex: u32,
        to: Cidr,
        via: Option<IpAddr>,
    ) -> Result<(), NetlinkError> {
        let scope = if via.is_some() || to.address.is_ipv6() { 0 } else { RT_SCOPE_LINK };
        let (table, kind) = (decode::RT_TABLE_MAIN, decode::RTN_UNICAST);
        let fixed = [
            family(to.address),
            to.prefix_len,
            0,
            0,
            table,
            RTPROT_STATIC,
            scope,
            kind,
            0,
            0,
            0,
            0,
        ];
        let flags = wire::NLM_F_CREATE | wire::NLM_F_REPLACE;
        let mut request = Request::new(wire::RTM_NEWROUTE, flags, &fixed)
            .attr_ip(decode::RTA_DST, to.address)
            .attr_u32(decode::RTA_OIF, ifindex);
        if let Some(via) = via {
            request = request.attr_ip(decode::RTA_GATEWAY, via);
        }
        self.change(&format!("add route to {to}"), request)
    }

    /// A neighbour set by hand.
    pub fn add_neighbour(
        &mut self,
        ifindex: u32,
        address: IpAddr,
        mac: MacAddr,
    ) -> Result<(), NetlinkError> {
        let flags = wire::NLM_F_CREATE | wire::NLM_F_REPLACE;
        let fixed = ndmsg(family(address), ifindex, NUD_PERMANENT, 0);
        let request = Request::new(wire::RTM_NEWNEIGH, flags, &fixed);
        let request = request.attr_ip(decode::NDA_DST, address).attr(2, &mac.0);
        self.change(&format!("add neighbour {address}"), request)
    }

    /// Asks the kernel to find out (or to check again) who has an address.
    pub fn use_neighbour(&mut self, ifindex: u32, address: IpAddr) -> Result<(), NetlinkError> {
        let fixed = ndmsg(family(address), ifindex, NUD_NONE, NTF_USE);
        let flags = wire::NLM_F_CREATE | wire::NLM_F_REPLACE;
        let request = Request::new(wire::RTM_NEWNEIGH, flags, &fixed);
        self.change(&format!("resolve {address}"), request.attr_ip(decode::NDA_DST, address))
    }

    pub fn neighbours(&mut self) -> Result<BTreeMap<(u32, IpAddr), Neighbour>, NetlinkError> {
        let fixed = ndmsg(wire::AF_UNSPEC, 0, 0, 0);
        let found = self.dump("list neighbours", wire::RTM_GETNEIGH, &fixed)?;
        let known =
            |n: &(_, Neighbour)| n.1.mac.is_some() || n.1.state != NeighbourState::Reachable;
        Ok(found.iter().filter_map(decode::neighbour).filter(known).collect())
    }
}

/// Gives a fresh device (a TAP behind an `internal` port) its properties: Ethernet address and MTU,
/// then the namespace, there its addresses, up, and its routes.
pub fn configure_internal(ifindex: u32, port: &Internal) -> Result<(), NetlinkError> {
    let mut socket = Socket::open()?;
    if let Some(mac) = port.mac {
        socket.set_mac(ifindex, mac)?;
    }
    if let Some(mtu_bytes) = port.mtu_bytes {
        socket.set_mtu(ifindex, mtu_bytes)?;
    }
    let Some(netns) = &port.netns else { return finish(&mut socket, ifindex, port) };
    let netns = netns::open(netns)?;
    socket.move_to_netns(ifindex, &netns)?;
    netns::run_in(&netns, || {
        // The number of a device may change with the namespace; the name stays.
        let mut socket = Socket::open()?;
        let link = socket.link_required(&port.device)?;
        finish(&mut socket, link.ifindex, port)
    })?
}

fn finish(socket: &mut Socket, ifindex: u32, port: &Internal) -> Result<(), NetlinkError> {
    for address in &port.addresses {
        socket.add_address(ifindex, *address)?;
    }
    socket.set_up(ifindex, true)?;
    for route in &port.routes {
        socket.add_route(ifindex, route.to, route.via)?;
    }
    Ok(())
}
