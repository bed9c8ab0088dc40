//! A packet that a match describes: what `trace` makes of flow text.
//!
//! Fields that the text leaves open get plain values, so `ip,nw_dst=10.0.0.1` becomes a whole
//! frame with right lengths and checksums.

use sluice_dataplane::packet::build::PacketBuilder;
use sluice_dataplane::packet::key::{FlowKey, VLAN_PRESENT, mac_bytes};
use std::net::{Ipv4Addr, Ipv6Addr};

const IPV4: u16 = 0x0800;
const IPV6: u16 = 0x86dd;
const ARP: u16 = 0x0806;

/// A frame with the fields of `key`.
pub fn packet(key: &FlowKey) -> Vec<u8> {
    let or = |mac: u64, plain: [u8; 6]| if mac == 0 { plain } else { mac_bytes(mac) };
    let src = or(key.eth_src, [2, 0, 0, 0, 0, 1]);
    let dst = or(key.eth_dst, [2, 0, 0, 0, 0, 2]);
    let mut b = PacketBuilder::eth(src, dst);
    if key.vlan_tci & VLAN_PRESENT != 0 {
        b = b.vlan(key.vlan_tci & 0xfff, (key.vlan_tci >> 13) as u8);
    }
    match key.eth_type {
        IPV4 => {
            b = b.ipv4(Ipv4Addr::from(key.ip_src), Ipv4Addr::from(key.ip_dst));
            transport(ip_options(b, key), key).build()
        }
        IPV6 => {
            b = b.ipv6(Ipv6Addr::from(key.ipv6_src), Ipv6Addr::from(key.ipv6_dst));
            transport(ip_options(b, key), key).build()
        }
        ARP => {
            let op = if key.ip_proto == 0 { 1 } else { u16::from(key.ip_proto) };
            let sender = (or(key.arp_sha, src), key.ip_src.to_be_bytes());
            let target = (mac_bytes(key.arp_tha), key.ip_dst.to_be_bytes());
            b.arp(op, sender, target).build()
        }
        other => b.eth_type(other).payload(&[0; 46]).build(),
    }
}

fn ip_options(b: PacketBuilder, key: &FlowKey) -> PacketBuilder {
    let ttl = if key.ip_ttl == 0 { 64 } else { key.ip_ttl };
    b.ttl(ttl).tos(key.ip_tos)
}

fn transport(b: PacketBuilder, key: &FlowKey) -> PacketBuilder {
    match key.ip_proto {
        6 => {
            // A segment without flags is none; a bare text means an opening one.
            let flags = if key.tcp_flags == 0 { 0x02 } else { key.tcp_flags };
            b.tcp(key.tp_src, key.tp_dst).flags(flags)
        }
        17 => b.udp(key.tp_src, key.tp_dst).payload(&[0; 18]),
        132 => b.sctp(key.tp_src, key.tp_dst, 1),
        1 if key.tp_src == 0 && key.tp_dst == 0 => b.echo_request(1, 1),
        1 | 58 => b.icmp(key.tp_src as u8, key.tp_dst as u8, [0; 4]),
        proto => b.proto(proto).payload(&[0; 8]),
    }
}
