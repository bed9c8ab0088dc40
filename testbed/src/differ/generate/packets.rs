//! Packets that meet a program: made to fit one of its rules, then some of them spoilt.

use sluice_dataplane::packet::build::PacketBuilder;
use sluice_dataplane::packet::field::{FIELDS, Field};
use sluice_dataplane::packet::key::{FlowKey, mac_bytes};

use super::super::case::{BRIDGES, CasePacket};
use super::super::chance::Chance;
use super::matches::{Drawn, KINDS, Kind, is_metadata};
use super::values;

/// A rule that packets may be made for.
#[derive(Clone, Debug)]
pub struct Target {
    pub bridge: usize,
    pub table: u8,
    pub match_: Drawn,
}

/// Draws a packet for one of the rules.
pub fn draw(targets: &[Target], c: &mut Chance) -> CasePacket {
    let first: Vec<&Target> = targets.iter().filter(|t| t.table == 0).collect();
    let target = match c.below(10) {
        0..=5 if !first.is_empty() => Some(*c.pick(&first)),
        6..=8 if !targets.is_empty() => Some(c.pick(targets)),
        _ => None,
    };
    let bridge = target.map_or(0, |t| t.bridge);
    let kind = match target {
        Some(t) if !t.match_.kind.words.is_empty() => t.match_.kind,
        _ => random_kind(c),
    };
    let mut key = base(kind, c);
    let mut number = c.within(1, devices(bridge));
    for (field, value, mask) in target.iter().flat_map(|t| &t.match_.parts) {
        if *field == Field::InPort {
            number = *value as u64;
        } else if !is_metadata(*field) && !c.percent(4) {
            let free = field.info().get(&key) & !mask;
            field.info().set(&mut key, value | free);
        }
    }
    let ports = BRIDGES[bridge].ports;
    let port = ports.iter().find(|p| u64::from(p.number) == number && p.peer.is_none());
    let port = port.unwrap_or(&ports[0]).name;
    let mut bytes = build(&key, c);
    if c.percent(10) {
        spoil(&mut bytes, c);
    }
    CasePacket { port, bytes }
}

/// Devices of a bridge, numbered from 1.
pub fn devices(bridge: usize) -> u64 {
    BRIDGES[bridge].ports.iter().filter(|p| p.peer.is_none()).count() as u64
}

fn random_kind(c: &mut Chance) -> &'static Kind {
    let weights: Vec<u64> =
        KINDS.iter().map(|k| if k.words.is_empty() { 0 } else { k.weight }).collect();
    &KINDS[c.weighted(&weights)]
}

/// Header fields of a packet of this kind, drawn.
fn base(kind: &Kind, c: &mut Chance) -> FlowKey {
    let mut key = kind.key(false);
    for info in FIELDS.iter().filter(|f| !is_metadata(f.id) && f.is_primary) {
        let own = matches!(
            info.id,
            Field::EthType | Field::IpProto | Field::VlanTci | Field::VlanTpid | Field::IpFrag
        );
        if !own {
            info.set(&mut key, values::draw(info.id, c));
        }
    }
    if key.ip_proto == 0 && matches!(key.eth_type, 0x0800 | 0x86dd) {
        key.ip_proto = *c.pick(&[6, 17, 17, 132, 1, 58, 47, 2]);
    }
    match (key.eth_type, key.ip_proto) {
        (0x0806 | 0x8035, _) => key.ip_proto = values::draw(Field::ArpOp, c) as u8,
        (_, 1) => {
            key.tp_src = values::draw(Field::IcmpType, c) as u16;
            key.tp_dst = values::draw(Field::IcmpCode, c) as u16;
        }
        (_, 58) => {
            let drawn = values::draw(Field::Icmpv6Type, c) as u16;
            key.tp_src = if kind.icmp_type == 0 { drawn } else { kind.icmp_type };
            key.tp_dst = if c.percent(10) { 1 } else { 0 };
        }
        _ => {}
    }
    key.ip_ttl = if c.percent(80) { 64 } else { key.ip_ttl };
    if c.percent(6) {
        key.ip_frag = *c.pick(&[1, 3]);
    }
    if c.percent(25) {
        key.vlan_tci = values::tci(c);
    }
    key
}

/// The bytes of a packet with these fields.
fn build(key: &FlowKey, c: &mut Chance) -> Vec<u8> {
    let mut b = PacketBuilder::eth(mac_bytes(key.eth_src), mac_bytes(key.eth_dst));
    if key.vlan_tci & 0x1000 != 0 {
        let tpid = if c.percent(15) { 0x88a8 } else { 0x8100 };
        b = b.tag(tpid, key.vlan_tci & !0x1000);
        if c.percent(15) {
            b = b.tag(0x8100, values::tci(c) & !0x1000);
        }
    }
    let payload = payload(c);
    b = match key.eth_type {
        0x0800 => {
            let mut b = b.ipv4(key.ip_src.to_be_bytes(), key.ip_dst.to_be_bytes());
            b = b.tos(key.ip_tos).ttl(key.ip_ttl);
            if c.percent(8) {
                b = b.ip_options(&[1, 1, 1, 0]);
            }
            if key.ip_frag != 0 {
                let later = key.ip_frag & 2 != 0;
                b = b.fragment(7, if later { 8 + 8 * c.below(9) as u16 } else { 0 }, !later);
            }
            transport(b, key, c)
        }
        0x86dd => {
            let mut b = b.ipv6(key.ipv6_src, key.ipv6_dst).tos(key.ip_tos).ttl(key.ip_ttl);
            b = b.flow_label(key.ipv6_label);
            if c.percent(8) {
                b = b.extension(*c.pick(&[0, 43, 60]), &[0; 8]);
            }
            if key.ip_frag != 0 {
                let later = key.ip_frag & 2 != 0;
                b = b.fragment(7, if later { 8 + 8 * c.below(9) as u16 } else { 0 }, !later);
            }
            transport(b, key, c)
        }
        0x0806 | 0x8035 => return arp(b, key, c),
        0x8847 | 0x8848 => return mpls(b, key, c),
        0x05ff => {
            let mut bytes = b.eth_type(payload.len() as u16 + 3).payload(&[0x42, 0x42, 3]).build();
            bytes.extend(payload);
            return bytes;
        }
        other => b.eth_type(other),
    };
    let bytes = b.payload(&payload).build();
    if bytes.len() < 60 && c.percent(30) {
        let mut padded = bytes;
        padded.resize(60, 0);
        return padded;
    }
    bytes
}

fn payload(c: &mut Chance) -> Vec<u8> {
    let len = match c.below(10) {
        0 => 0,
        1 => c.within(100, 1200),
        _ => c.below(60),
    };
    (0..len).map(|_| c.bits() as u8).collect()
}

fn transport(b: PacketBuilder, key: &FlowKey, c: &mut Chance) -> PacketBuilder {
    let (src, dst) = (key.tp_src, key.tp_dst);
    match key.ip_proto {
        6 => b.tcp(src, dst).flags(key.tcp_flags),
        17 => {
            let b = b.udp(src, dst);
            if c.percent(10) { b.no_checksum() } else { b }
        }
        132 => b.sctp(src, dst, 5),
        58 if src == 135 && dst == 0 => {
            b.nd_solicit(key.nd_target, c.percent(80).then(|| mac_bytes(key.arp_sha)))
        }
        58 if src == 136 && dst == 0 => {
            b.nd_advert(key.nd_target, c.percent(80).then(|| mac_bytes(key.arp_tha)))
        }
        1 | 58 => b.icmp(src as u8, dst as u8, [0, 5, 0, 1]),
        other => b.proto(other),
    }
}

fn arp(b: PacketBuilder, key: &FlowKey, c: &mut Chance) -> Vec<u8> {
    let mut bytes = b.eth_type(key.eth_type).build();
    bytes.extend([0, 1, 8, 0, 6, 4, 0, key.ip_proto]);
    bytes.extend(mac_bytes(key.arp_sha));
    bytes.extend(key.ip_src.to_be_bytes());
    bytes.extend(mac_bytes(key.arp_tha));
    bytes.extend(key.ip_dst.to_be_bytes());
    if c.percent(50) {
        bytes.resize(60, 0);
    }
    bytes
}

/// One to three labels, the last with the bottom bit, in front of an IPv4 packet.
fn mpls(b: PacketBuilder, key: &FlowKey, c: &mut Chance) -> Vec<u8> {
    let mut bytes = b.eth_type(key.eth_type).build();
    let labels = c.within(1, 3);
    for n in 1..=labels {
        let bottom = u32::from(n == labels);
        let ttl = *c.pick(&[0u32, 1, 2, 64]);
        let word = (16 + c.below(4) as u32) << 12 | (c.below(8) as u32) << 9 | bottom << 8 | ttl;
        bytes.extend(word.to_be_bytes());
    }
    let inner = PacketBuilder::eth([0; 6], [0; 6]).ipv4([10, 0, 0, 1], [10, 0, 0, 2]);
    bytes.extend(&inner.udp(1000, 53).payload(&payload(c)).build()[14..]);
    bytes
}

/// Makes a packet odd: cut, lengthened, or with a wrong byte in its headers.
fn spoil(bytes: &mut Vec<u8>, c: &mut Chance) {
    match c.below(4) {
        0 => bytes.truncate(c.within(14, bytes.len() as u64) as usize),
        1 => bytes.extend([0xaa; 7]),
        _ => {
            let end = bytes.len().min(80) as u64;
            let at = c.within(12, end - 1) as usize;
            bytes[at] = if c.percent(50) { c.bits() as u8 } else { bytes[at] ^ 1 << c.below(8) };
        }
    }
}
