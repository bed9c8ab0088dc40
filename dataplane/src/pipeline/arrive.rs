//! Tunnel packets that arrive: recognised, taken out, and given the tunnel port as in_port.
//!
//! A packet is for a tunnel of ours if it is UDP to a tunnel port's UDP port and to one of our
//! addresses: the port's `local_ip`, or any address of the node. Which tunnel port it is for is
//! decided by remote address, local address and VNI, the most specific claim first (Open
//! vSwitch `tnl_find`). One that no port claims is dropped with a reason.

use super::home::Outer;
use super::lane::Slot;
use super::program::{Program, TunnelIn};
use crate::counters::Drop;
use crate::packet::frame::Frame;
use crate::packet::key::{FRAG_ANY, PacketKey, PortIx, shape};
use crate::packet::parse;
use crate::tunnel;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

const UDP: u8 = 17;

fn addresses(key: &PacketKey) -> (IpAddr, IpAddr) {
    if key.has_l3() {
        (Ipv6Addr::from(key.l3.ipv6_src).into(), Ipv6Addr::from(key.l3.ipv6_dst).into())
    } else {
        (Ipv4Addr::from(key.base.ip_src).into(), Ipv4Addr::from(key.base.ip_dst).into())
    }
}

/// Whether the packet is tunnel traffic for us.
fn is_ours(program: &Program, key: &PacketKey) -> bool {
    let b = &key.base;
    let is_udp = b.shape & shape::L4_VALID != 0 && b.ip_proto == UDP && b.ip_frag & FRAG_ANY == 0;
    if !is_udp || key.has_tunnel() {
        return false;
    }
    let port = u16::from_be_bytes(b.tp_dst);
    let mut takers = program.tunnels.iter().filter(|t| t.config.dst_port == port).peekable();
    if takers.peek().is_none() {
        return false;
    }
    let (_, dst) = addresses(key);
    takers.any(|t| t.config.local == Some(dst)) || program.underlay.is_local(dst)
}

/// The tunnel port that a packet belongs to.
fn port_of(tunnels: &[TunnelIn], key: &PacketKey) -> Option<PortIx> {
    let (src, dst) = addresses(key);
    let vni = u64::from_be_bytes(key.tunnel.tun_id) as u32;
    let udp_port = u16::from_be_bytes(key.base.tp_dst);
    tunnels
        .iter()
        .filter(|t| t.config.dst_port == udp_port)
        .filter_map(|t| t.config.claims(src, dst, vni).map(|score| (score, t.port)))
        .max_by_key(|(score, _)| *score)
        .map(|(_, port)| port)
}

/// Takes the packet out of its tunnel if it is in one of ours, and says whether it is; the slot
/// then describes the inner packet, with the tunnel as its in_port.
#[inline]
pub(super) fn unwrap(program: &Program, frame: &mut Frame, slot: &mut Slot) -> Result<bool, Drop> {
    if !is_ours(program, &slot.key) {
        return Ok(false);
    }
    let popped = tunnel::geneve_pop(frame.bytes(), &slot.layers, &mut slot.key)?;
    let port = port_of(&program.tunnels, &slot.key).ok_or(Drop::TunnelNoPort)?;
    let bridge = program.port(port).and_then(|p| program.bridges.get(usize::from(p.bridge)));
    let map = &bridge.ok_or(Drop::TunnelNoPort)?.tlv;
    let options = popped.options(frame.bytes(), map)?;
    slot.outer = Outer::of(frame, &popped);
    frame.trim_tail(frame.len().saturating_sub(usize::from(popped.inner_end)));
    frame.trim_front(usize::from(popped.inner_offset));
    let limit = program.vlan_limit;
    parse::parse_limited(frame.bytes(), port, limit, &mut slot.key, &mut slot.layers)?;
    popped.mark(&mut slot.key);
    if let Some(options) = options {
        options.mark(&mut slot.key);
    }
    slot.outer.keep(slot.key.tunnel.tun_tos, frame.bytes(), &slot.layers);
    tunnel::ecn_inward(frame.bytes_mut(), &slot.layers, &mut slot.key)?;
    slot.in_port = port;
    slot.checksums_good = false;
    Ok(true)
}
