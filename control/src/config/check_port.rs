//! The checks of one port: which keys its type has, and what they may say.

use std::net::IpAddr;
use std::ops::Range;
use std::path::{Path, PathBuf};

use toml::{Spanned, Value};

use super::check::{Checker, lowest_free, mac_of_name, toml_error};
use super::{
    Afxdp, ConfigErrors, GENEVE_PORT, Geneve, Inherit, Internal, NatReservation, NetnsRoute,
    PORT_LOCAL, PORT_MAX, Port, PortMode, PortType, Tap, TunnelKey, TunnelRemote, raw,
};

/// A port whose number is 0 if the file gives none.
pub(super) fn port(c: &mut Checker<'_>, raw: &raw::Port, bridge: &str) -> Port {
    let name = raw.name.get_ref().clone();
    let has_device = raw.kind.keys().contains(&"device");
    c.name("port", &raw.name, has_device && raw.device.is_none());
    if let Some(device) = &raw.device {
        c.name("device", device, true);
    }
    let keys = raw.kind.keys();
    for (key, span) in raw.present() {
        if !keys.contains(&key) {
            let what = format!("a port of type {} has no \"{key}\"", raw.kind.name());
            let hint = match keys {
                [] => "it has only name, number and type".to_owned(),
                keys => format!("it may have {}", keys.join(", ")),
            };
            c.error(span, what, hint);
        }
    }
    let number = number(c, raw, bridge);
    Port { name, number, kind: kind(c, raw, bridge) }
}

pub(super) fn parse_one(text: &str, bridge: &str, taken: &[u16]) -> Result<Port, ConfigErrors> {
    let file = Path::new("port");
    let raw: raw::Port =
        toml::from_str(text).map_err(|e| ConfigErrors(vec![toml_error(file, text, &e)]))?;
    let mut c = Checker { file, text, errors: Vec::new() };
    let mut port = port(&mut c, &raw, bridge);
    if let Some(number) = raw.number.as_ref().filter(|_| taken.contains(&port.number)) {
        let what = format!("port number {} is in use on \"{bridge}\"", port.number);
        c.error(number.span(), what, "use another, or leave it out");
    }
    if port.number == 0 {
        port.number = lowest_free(taken);
    }
    if c.errors.is_empty() { Ok(port) } else { Err(ConfigErrors(c.errors)) }
}

fn number(c: &mut Checker<'_>, raw: &raw::Port, bridge: &str) -> u16 {
    let is_local = raw.kind == raw::Type::Internal && raw.name.get_ref() == bridge;
    match &raw.number {
        None if is_local => PORT_LOCAL,
        None => 0,
        Some(n) if is_local && *n.get_ref() == i64::from(PORT_LOCAL) => PORT_LOCAL,
        Some(n) if *n.get_ref() == i64::from(PORT_LOCAL) => {
            let what = format!("{PORT_LOCAL} is the number of the bridge's local port");
            let hint = format!("only a port of type internal named \"{bridge}\" has it");
            c.error(n.span(), what, hint);
            0
        }
        Some(n) => c.int("number", n, 1, i64::from(PORT_MAX)) as u16,
    }
}

fn kind(c: &mut Checker<'_>, raw: &raw::Port, bridge: &str) -> PortType {
    let device = raw.device.as_ref().unwrap_or(&raw.name).get_ref().clone();
    match raw.kind {
        raw::Type::Internal => PortType::Internal(internal(c, raw, device, bridge)),
        raw::Type::Tap => {
            let mac = raw.mac.as_ref().map(|mac| c.mac(mac));
            PortType::Tap(Tap { device, mac, mtu_bytes: mtu(c, raw) })
        }
        raw::Type::Afxdp => PortType::Afxdp(afxdp(c, raw, device)),
        raw::Type::Packet => PortType::Packet { device },
        raw::Type::Memory => PortType::Memory,
        raw::Type::Geneve => PortType::Geneve(geneve(c, raw)),
        raw::Type::Patch => {
            let peer = required(c, raw, &raw.peer, "peer", "\"patch-to-other\"");
            PortType::Patch { peer: peer.map(|p| p.get_ref().clone()).unwrap_or_default() }
        }
    }
}

fn required<'r>(
    c: &mut Checker<'_>,
    raw: &raw::Port,
    value: &'r Option<raw::Text>,
    key: &str,
    example: &str,
) -> Option<&'r raw::Text> {
    if value.is_none() {
        let what = format!("port \"{}\" has no {key}", raw.name.get_ref());
        let hint = format!("a {} port needs it, as in {key} = {example}", raw.kind.name());
        c.error(raw.name.span(), what, hint);
    }
    value.as_ref()
}

fn mtu(c: &mut Checker<'_>, raw: &raw::Port) -> Option<u32> {
    // 1280: less, and the interface loses IPv6. The kernel's bound for a TAP is 65521 and more.
    raw.mtu.as_ref().map(|mtu| c.int("mtu", mtu, 576, 65521) as u32)
}

fn internal(c: &mut Checker<'_>, raw: &raw::Port, device: String, bridge: &str) -> Internal {
    let mut addresses = Vec::new();
    for text in raw.address.iter().flat_map(|list| list.get_ref()) {
        let Some(cidr) = c.cidr(text) else { continue };
        if cidr.address.is_unspecified() || cidr.address.is_multicast() {
            let what = format!("{cidr} cannot be the address of an interface");
            c.error(text.span(), what, "use a host's address with its network's prefix length");
        }
        addresses.push(cidr);
    }
    let mut routes = Vec::new();
    for route in raw.route.iter().flat_map(|list| list.get_ref()) {
        let via = route.via.as_ref().and_then(|via| c.ip(via));
        let Some(to) = c.network(&route.to, via) else { continue };
        if let (Some(text), Some(ip)) = (&route.via, via) {
            if ip.is_ipv4() != to.address.is_ipv4() {
                let what = format!("{ip} is not of the family of {to}");
                c.error(text.span(), what, "use addresses of one family in a route");
            } else if !addresses.iter().any(|own| own.contains(ip)) && !link_local(ip) {
                let what = format!("{ip} is in none of the port's networks");
                c.error(text.span(), what, "a gateway is reached through one of address = [...]");
            }
        }
        routes.push(NetnsRoute { to, via });
    }
    let netns = raw.netns.as_ref().map(|netns| {
        let text = netns.get_ref();
        if text.is_empty() || (!text.starts_with('/') && text.contains('/')) {
            let what = format!("\"{text}\" does not name a network namespace");
            c.error(netns.span(), what, "use a name below /run/netns, or an absolute path");
        }
        PathBuf::from(text)
    });
    let mut mac = raw.mac.as_ref().map(|mac| c.mac(mac));
    if mac.is_none() && raw.name.get_ref() == bridge {
        mac = Some(mac_of_name(bridge));
    }
    Internal { device, netns, addresses, routes, mac, mtu_bytes: mtu(c, raw) }
}

fn link_local(ip: IpAddr) -> bool {
    match ip {
        IpAddr::V4(a) => a.is_link_local(),
        IpAddr::V6(a) => a.is_unicast_link_local(),
    }
}

fn afxdp(c: &mut Checker<'_>, raw: &raw::Port, device: String) -> Afxdp {
    let queues = raw.queues.as_ref().map_or(0, |n| c.int("queues", n, 1, 256) as u16);
    let mode = raw.mode.as_ref().map_or(PortMode::All, |mode| *mode.get_ref());
    let shared_only: [(&str, Option<Range<usize>>); 2] = [
        ("nat", raw.nat.as_ref().map(Spanned::span)),
        ("endpoints", raw.endpoints.as_ref().map(Spanned::span)),
    ];
    for (key, span) in shared_only {
        if let Some(span) = span.filter(|_| mode == PortMode::All) {
            let what = format!("\"{key}\" is for shared ports");
            c.error(span, what, "add mode = \"shared\"; with mode = \"all\" every frame is ours");
        }
    }
    let mut nat: Vec<NatReservation> = Vec::new();
    for item in raw.nat.iter().flat_map(|list| list.get_ref()) {
        let Some(address) = c.ip(&item.address) else { continue };
        let ports = item.ports.as_ref().and_then(|r| range(c, r, "ports", 1));
        let icmp_ids = item.icmp_ids.as_ref().and_then(|r| range(c, r, "icmp_ids", 0));
        let new = NatReservation { address, ports, icmp_ids };
        if nat.iter().any(|old| overlap(old, &new)) {
            let what = format!("the ranges of {address} overlap");
            c.error(item.address.span(), what, "give each address one range, or disjoint ones");
        }
        nat.push(new);
    }
    let list = raw.endpoints.iter().flat_map(|list| list.get_ref());
    let endpoints = list.filter_map(|text| c.ip(text)).collect();
    let xdp = raw.xdp.as_ref().map_or_else(Default::default, |v| *v.get_ref());
    let checksum = raw.checksum.as_ref().map_or_else(Default::default, |v| *v.get_ref());
    Afxdp { device, queues, mode, xdp, checksum, nat, endpoints }
}

fn overlap(a: &NatReservation, b: &NatReservation) -> bool {
    let meet = |x: Option<(u16, u16)>, y: Option<(u16, u16)>| match (x, y) {
        (Some((a, b)), Some((c, d))) => a <= d && c <= b,
        _ => true,
    };
    a.address == b.address && meet(a.ports, b.ports)
}

/// `[first, last]` of 16-bit numbers.
fn range(
    c: &mut Checker<'_>,
    list: &Spanned<Vec<i64>>,
    name: &str,
    min: i64,
) -> Option<(u16, u16)> {
    match list.get_ref()[..] {
        [first, last] if min <= first && first <= last && last <= 0xffff => {
            Some((first as u16, last as u16))
        }
        _ => {
            let what = format!("{name} is not a range");
            let hint = format!("write the first and the last, as in {name} = [40000, 49999]");
            c.error(list.span(), what, hint);
            None
        }
    }
}

fn geneve(c: &mut Checker<'_>, raw: &raw::Port) -> Geneve {
    let remote = required(c, raw, &raw.remote_ip, "remote_ip", "\"10.0.0.2\" or \"flow\"");
    let remote = match remote {
        Some(text) if text.get_ref() == "flow" => TunnelRemote::Flow,
        Some(text) => c.ip(text).map_or(TunnelRemote::Flow, |ip| {
            if ip.is_multicast() || ip.is_unspecified() {
                let what = format!("{ip} cannot be the far end of a tunnel");
                c.error(text.span(), what, "use a host's address, or \"flow\"");
            }
            TunnelRemote::Ip(ip)
        }),
        None => TunnelRemote::Flow,
    };
    let local = raw.local_ip.as_ref().and_then(|text| Some((text, c.ip(text)?)));
    if let (Some((text, local)), TunnelRemote::Ip(remote)) = (local, remote)
        && local.is_ipv4() != remote.is_ipv4()
    {
        let what = format!("local_ip {local} and remote_ip {remote} are of different families");
        c.error(text.span(), what, "both ends of a tunnel are IPv4, or both IPv6");
    }
    let key = match raw.key.as_ref().map(|v| (v.get_ref(), v.span())) {
        None => TunnelKey::Vni(0),
        Some((Value::String(s), _)) if s == "flow" => TunnelKey::Flow,
        Some((Value::Integer(n @ 0..=0xff_ffff), _)) => TunnelKey::Vni(*n as u32),
        Some((value, span)) => {
            c.error(span, format!("key = {value} is not a VNI"), "use 0 to 16777215, or \"flow\"");
            TunnelKey::Flow
        }
    };
    let dst_port = raw.dst_port.as_ref().map(|n| c.int("dst_port", n, 1, 0xffff) as u16);
    Geneve {
        remote,
        local: local.map(|(_, ip)| ip),
        key,
        csum: raw.csum.as_ref().map(|v| *v.get_ref()),
        dst_port: dst_port.unwrap_or(GENEVE_PORT),
        tos: inherit(c, &raw.tos, "tos", 0, 0),
        ttl: inherit(c, &raw.ttl, "ttl", 1, 64),
        df: raw.df.as_ref().is_none_or(|v| *v.get_ref()),
    }
}

fn inherit(
    c: &mut Checker<'_>,
    value: &Option<Spanned<Value>>,
    name: &str,
    min: i64,
    default: u8,
) -> Inherit {
    match value.as_ref().map(|v| (v.get_ref(), v.span())) {
        None => Inherit::Fixed(default),
        Some((Value::String(s), _)) if s == "inherit" => Inherit::Inner,
        Some((Value::Integer(n), _)) if (min..=255).contains(n) => Inherit::Fixed(*n as u8),
        Some((value, span)) => {
            let what = format!("{name} = {value} is not possible");
            c.error(span, what, format!("use {min} to 255, or \"inherit\""));
            Inherit::Fixed(default)
        }
    }
}
