//! From the file's shape to a configuration that can be run: meaning, ranges, references.
//!
//! Each check that fails adds an error and goes on with something harmless in its place, so that
//! one run shows all mistakes. The result is used only when there was none.

use std::collections::HashMap;
use std::net::IpAddr;
use std::ops::Range;
use std::path::Path;

use sluice_dataplane::limits::{FRAMES_MAX, RULES_PER_TABLE_MAX, TABLES_MAX};
use sluice_dataplane::packet::parse::{VLAN_LIMIT_DEFAULT, VLAN_LIMIT_MAX};
use sluice_dataplane::tunnel::TlvMap;
use sluice_dataplane::xsk::umem::UmemConfig;
use toml::Spanned;

use super::{
    Bridge, CONTROL_SOCKET, Cidr, Config, ConfigError, ConfigErrors, Daemon, Internal, MacAddr,
    PORT_LOCAL, PORT_MAX, Port, PortType, StaticAddress, StaticNeighbour, StaticRoute, Table, Umem,
    raw,
};
use crate::flow::parse_tlv_maps;

/// Threads that move packets: more than any machine we know has cores for one switch.
const WORKERS_MAX: i64 = 64;
const SELF_CHECK_MAX: i64 = u32::MAX as i64;
/// Kernel: IFNAMSIZ less the final zero.
pub(super) const DEVICE_NAME_MAX: usize = 15;

/// Collects errors about one text.
pub(super) struct Checker<'a> {
    pub file: &'a Path,
    pub text: &'a str,
    pub errors: Vec<ConfigError>,
}

impl Checker<'_> {
    pub fn error(&mut self, span: Range<usize>, what: impl Into<String>, hint: impl Into<String>) {
        self.errors.push(ConfigError::at(self.file, self.text, span, what, hint));
    }

    /// An integer in a range, or an error and the lowest.
    pub fn int(&mut self, name: &str, value: &raw::Int, min: i64, max: i64) -> i64 {
        let n = *value.get_ref();
        if (min..=max).contains(&n) {
            return n;
        }
        self.error(
            value.span(),
            format!("{name} = {n} is out of range"),
            format!("use {min} to {max}"),
        );
        min
    }

    pub fn mac(&mut self, text: &raw::Text) -> MacAddr {
        match text.get_ref().parse::<MacAddr>() {
            Ok(mac) if mac.is_multicast() || mac.is_zero() => {
                let what = format!("{mac} cannot be the address of an interface");
                let hint = "use a unicast address: the first byte even, as in 02:00:00:00:00:01";
                self.error(text.span(), what, hint);
                mac
            }
            Ok(mac) => mac,
            Err(error) => {
                self.bad_text(text, error.to_string());
                MacAddr::default()
            }
        }
    }

    pub fn cidr(&mut self, text: &raw::Text) -> Option<Cidr> {
        match text.get_ref().parse() {
            Ok(cidr) => Some(cidr),
            Err(super::CidrError) => {
                self.bad_text(text, super::CidrError.to_string());
                None
            }
        }
    }

    /// A destination: a network without host bits; `default` where that is clear from `via`.
    pub fn network(&mut self, text: &raw::Text, via: Option<IpAddr>) -> Option<Cidr> {
        if text.get_ref() == "default" {
            let any: IpAddr = match via {
                Some(IpAddr::V6(_)) => std::net::Ipv6Addr::UNSPECIFIED.into(),
                _ => std::net::Ipv4Addr::UNSPECIFIED.into(),
            };
            return Some(Cidr { address: any, prefix_len: 0 });
        }
        let cidr = self.cidr(text)?;
        if cidr.has_host_bits() {
            let what = format!("{cidr} has bits set beyond its prefix");
            self.error(text.span(), what, format!("use {}", cidr.network()));
        }
        Some(cidr.network())
    }

    pub fn ip(&mut self, text: &raw::Text) -> Option<IpAddr> {
        let parsed = text.get_ref().parse().ok();
        if parsed.is_none() {
            self.bad_text(text, "not an IP address: write it as in 10.0.0.1 or fd00::1".into());
        }
        parsed
    }

    /// "not a X: write it as Y" becomes what and hint.
    fn bad_text(&mut self, text: &raw::Text, message: String) {
        let (what, hint) = message.split_once(": ").unwrap_or((message.as_str(), ""));
        self.error(text.span(), format!("\"{}\" is {what}", text.get_ref()), hint);
    }

    /// A name that the kernel and flow text can both carry.
    pub fn name(&mut self, what: &str, name: &raw::Text, device: bool) {
        let text = name.get_ref();
        let hint = "use letters, digits, '.', '_' and '-'";
        let fits = |b: u8| b.is_ascii_alphanumeric() || b"._-@:".contains(&b);
        if text.is_empty() || !text.bytes().all(fits) || text == "." || text == ".." {
            self.error(name.span(), format!("{what} \"{text}\" is not a usable name"), hint);
        } else if device && (text.len() > DEVICE_NAME_MAX || text.contains(':')) {
            let what = format!("{what} \"{text}\" cannot name a network device");
            self.error(name.span(), what, "devices have at most 15 characters and no ':'");
        }
    }
}

/// Splits a message of serde's into what is wrong and what was expected.
pub(super) fn toml_error(file: &Path, text: &str, error: &toml::de::Error) -> ConfigError {
    let message = error.message().trim();
    let (what, hint) = match message.split_once(", expected ") {
        Some((what, expected)) => (what, format!("expected {expected}")),
        None => (message, String::new()),
    };
    ConfigError::at(file, text, error.span().unwrap_or(0..0), what.replace('\n', "; "), hint)
}

pub(super) fn check(file: &Path, text: &str, files: bool) -> Result<Config, ConfigErrors> {
    let raw: raw::File =
        toml::from_str(text).map_err(|e| ConfigErrors(vec![toml_error(file, text, &e)]))?;
    let mut c = Checker { file, text, errors: Vec::new() };
    let daemon = daemon(&mut c, &raw.daemon);
    let umem = umem(&mut c, &raw.umem);
    let conntrack = super::conntrack::check(&mut c, &raw.conntrack);
    let bridges: Vec<Bridge> = raw.bridges.iter().map(|b| bridge(&mut c, b, files)).collect();
    if bridges.is_empty() {
        let what = "the file has no bridge";
        c.errors.push(ConfigError::whole(file, what, "add a [[bridge]] with a name"));
    }
    distinct_names(&mut c, &raw);
    patch_peers(&mut c, &raw, &bridges);
    tunnels_differ(&mut c, &raw, &bridges);
    let devices: Vec<&str> = bridges
        .iter()
        .flat_map(|b| &b.ports)
        .flat_map(|p| [Some(p.name.as_str()), p.device()])
        .flatten()
        .collect();
    let routes = raw.routes.iter().filter_map(|r| route(&mut c, r, &devices)).collect();
    let neighbours = raw.neighbours.iter().filter_map(|n| neighbour(&mut c, n, &devices)).collect();
    let addresses = raw.addresses.iter().filter_map(|a| address(&mut c, a, &devices)).collect();
    if !c.errors.is_empty() {
        c.errors.sort_by_key(|e| (e.line, e.column));
        return Err(ConfigErrors(c.errors));
    }
    let file = file.to_owned();
    Ok(Config { file, daemon, umem, conntrack, bridges, routes, neighbours, addresses })
}

fn daemon(c: &mut Checker<'_>, raw: &raw::Daemon) -> Daemon {
    let workers = raw.workers.as_ref().map(|n| c.int("workers", n, 1, WORKERS_MAX) as usize);
    let mut cpus: Vec<usize> = Vec::new();
    for cpu in raw.cpus.iter().flat_map(|list| list.get_ref()) {
        let n = c.int("cpu", cpu, 0, 4095) as usize;
        if cpus.contains(&n) {
            c.error(cpu.span(), format!("cpu {n} is named twice"), "give each worker its own");
        }
        cpus.push(n);
    }
    let self_check = raw.self_check.as_ref().map(|n| c.int("self_check", n, 0, SELF_CHECK_MAX));
    let self_check = self_check.unwrap_or(0) as u32;
    let vlan_limit = raw.vlan_limit.as_ref();
    let vlan_limit = vlan_limit.map(|n| c.int("vlan_limit", n, 0, i64::from(VLAN_LIMIT_MAX)));
    let vlan_limit = vlan_limit.map_or(VLAN_LIMIT_DEFAULT, |n| n as u8);
    let workers = workers.unwrap_or(cpus.len().max(1));
    if let Some(list) = raw.cpus.as_ref().filter(|_| !cpus.is_empty() && cpus.len() != workers) {
        let what = format!("{} cpus for {workers} workers", cpus.len());
        c.error(list.span(), what, "name one cpu per worker, or leave cpus out");
    }
    let log = raw.log.as_ref().map_or("info", |log| log.get_ref().as_str());
    if let (Err(error), Some(log)) =
        (log.parse::<tracing_subscriber::filter::Targets>(), raw.log.as_ref())
    {
        let hint = "use error, warn, info, debug or trace, or module=level,...";
        c.error(log.span(), format!("log: {error}"), hint);
    }
    let socket = raw.control_socket.clone().unwrap_or_else(|| CONTROL_SOCKET.into());
    Daemon {
        control_socket: socket,
        workers,
        self_check,
        vlan_limit,
        cpus,
        log: log.to_owned(),
        log_json: raw.log_json.unwrap_or(false),
    }
}

fn umem(c: &mut Checker<'_>, raw: &raw::Umem) -> Umem {
    let default = UmemConfig::default();
    let frame_size_bytes = match &raw.frame_size_bytes {
        Some(size) if ![2048, 4096].contains(size.get_ref()) => {
            let what = format!("frame_size_bytes = {} is not possible", size.get_ref());
            c.error(size.span(), what, "use 2048, or 4096 for an MTU above 1500");
            default.frame_size_bytes
        }
        Some(size) => *size.get_ref() as u32,
        None => default.frame_size_bytes,
    };
    let frames = raw.frames.as_ref().map(|n| c.int("frames", n, 512, i64::from(FRAMES_MAX)) as u32);
    Umem {
        frame_size_bytes,
        frames: frames.unwrap_or(default.frames),
        hugepages: raw.hugepages.unwrap_or(default.hugepages),
    }
}

fn bridge(c: &mut Checker<'_>, raw: &raw::Bridge, files: bool) -> Bridge {
    let name = raw.name.get_ref().clone();
    c.name("bridge", &raw.name, raw.local == Some(true));
    let mac = raw.mac.as_ref().map_or_else(|| mac_of_name(&name), |mac| c.mac(mac));
    let flow_file = raw.flow_file.as_ref().map(|flow_file| {
        let path = c.file.parent().unwrap_or(Path::new("")).join(flow_file.get_ref());
        if files && let Err(error) = std::fs::File::open(&path) {
            let what = format!("cannot read the flow file {}: {error}", path.display());
            c.error(flow_file.span(), what, "the path counts from the configuration's directory");
        }
        path
    });
    let mut ports = Vec::new();
    if raw.local == Some(true) && !raw.ports.iter().any(|p| *p.get_ref().name.get_ref() == name) {
        let internal = Internal {
            device: name.clone(),
            netns: None,
            addresses: Vec::new(),
            routes: Vec::new(),
            mac: Some(mac),
            mtu_bytes: None,
        };
        let kind = PortType::Internal(internal);
        ports.push(Port { name: name.clone(), number: PORT_LOCAL, kind });
    }
    for raw in &raw.ports {
        ports.push(super::check_port::port(c, raw.get_ref(), &name));
    }
    numbers(c, raw, &mut ports);
    let tlv_map = tlv_map(c, &raw.tlv_map);
    let tables = tables(c, &raw.tables);
    Bridge { name, flow_file, mac, fail_mode: raw.fail_mode, tlv_map, tables, ports }
}

/// Options one by one, so that what does not fit is told where it stands.
fn tlv_map(c: &mut Checker<'_>, list: &[raw::Text]) -> TlvMap {
    let mut map = TlvMap::default();
    for text in list {
        let hint = "write as for ovs-ofctl add-tlv-map, and at most 64 bytes together";
        let added = parse_tlv_maps(text.get_ref()).map_err(|e| e.to_string());
        match added.and_then(|more| map.with(&more).map_err(|e| e.to_string())) {
            Ok(wider) => map = wider,
            Err(what) => c.error(text.span(), format!("tlv_map: {what}"), hint),
        }
    }
    map
}

fn tables(c: &mut Checker<'_>, raw: &[raw::Table]) -> Vec<Table> {
    let flows_most = RULES_PER_TABLE_MAX as i64;
    let mut tables: Vec<Table> = Vec::new();
    for t in raw {
        let number = c.int("number", &t.number, 0, TABLES_MAX as i64 - 1) as u8;
        let flows_max = t.flows_max.as_ref();
        let flows_max = flows_max.map_or(flows_most, |n| c.int("flows_max", n, 0, flows_most));
        if tables.iter().any(|t| t.number == number) {
            let what = format!("table {number} has limits already");
            c.error(t.number.span(), what, "give the limits of a table once");
        }
        let (flows_max, overflow_policy) = (flows_max as usize, t.overflow_policy);
        tables.push(Table { number, flows_max, overflow_policy });
    }
    tables
}

/// Gives the lowest free numbers to the ports that ask for none (0 so far).
fn numbers(c: &mut Checker<'_>, raw: &raw::Bridge, ports: &mut [Port]) {
    let mut by_number: HashMap<u16, &str> = HashMap::new();
    for port in &raw.ports {
        let Some(number) = &port.get_ref().number else { continue };
        let Ok(n) = u16::try_from(*number.get_ref()) else { continue };
        if let Some(other) = by_number.insert(n, port.get_ref().name.get_ref()) {
            let what = format!("port number {n} is already that of \"{other}\"");
            c.error(number.span(), what, "numbers are unique in a bridge; or leave it out");
        }
    }
    let mut taken: Vec<u16> = by_number.into_keys().collect();
    for port in ports.iter_mut().filter(|port| port.number == 0) {
        port.number = lowest_free(&taken);
        taken.push(port.number);
    }
}

pub(super) fn lowest_free(taken: &[u16]) -> u16 {
    (1..=PORT_MAX).find(|n| !taken.contains(n)).unwrap_or(PORT_MAX)
}

/// A stable local address for a bridge that was given none: the same after every start, on purpose.
pub(crate) fn mac_of_name(name: &str) -> MacAddr {
    // FNV-1a: no need for more than spreading.
    let hash = name.bytes().fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| {
        (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3)
    });
    let [a, b, c, d, e, ..] = hash.to_be_bytes();
    MacAddr([0x02, a, b, c, d, e])
}

fn distinct_names(c: &mut Checker<'_>, raw: &raw::File) {
    let mut bridges = HashMap::new();
    let mut ports: HashMap<&str, &str> = HashMap::new();
    let mut devices: HashMap<&str, &str> = HashMap::new();
    for bridge in &raw.bridges {
        let name = bridge.name.get_ref().as_str();
        if bridges.insert(name, ()).is_some() {
            let what = format!("there are two bridges \"{name}\"");
            c.error(bridge.name.span(), what, "give each bridge its own name");
        }
        for port in bridge.ports.iter().map(Spanned::get_ref) {
            let port_name = port.name.get_ref().as_str();
            if let Some(other) = ports.insert(port_name, name) {
                let what = format!("port \"{port_name}\" is already in bridge \"{other}\"");
                c.error(port.name.span(), what, "port names are unique in the whole switch");
            }
            if !port.kind.keys().contains(&"device") {
                continue;
            }
            let at = port.device.as_ref().unwrap_or(&port.name);
            if let Some(other) = devices.insert(at.get_ref(), port_name).filter(|o| *o != port_name)
            {
                let what = format!("device \"{}\" is already that of \"{other}\"", at.get_ref());
                c.error(at.span(), what, "a device can be one port only");
            }
        }
    }
}

fn patch_peers(c: &mut Checker<'_>, raw: &raw::File, bridges: &[Bridge]) {
    let find = |name: &str| {
        bridges
            .iter()
            .find_map(|b| Some((b.name.as_str(), b.ports.iter().find(|p| p.name == name)?)))
    };
    for bridge in &raw.bridges {
        for port in bridge.ports.iter().map(Spanned::get_ref) {
            let (raw::Type::Patch, Some(peer)) = (port.kind, &port.peer) else { continue };
            let (name, me) = (peer.get_ref().as_str(), port.name.get_ref());
            let problem = match find(name) {
                None => Some("there is no such port".to_owned()),
                Some((at, _)) if at == bridge.name.get_ref() => {
                    Some(format!("it is in the same bridge \"{at}\""))
                }
                Some((_, Port { kind: PortType::Patch { peer: back }, .. })) if back == me => None,
                Some((_, Port { kind: PortType::Patch { peer: back }, .. })) => {
                    Some(format!("its peer is \"{back}\""))
                }
                Some((_, other)) => Some(format!("it is of type {}", other.kind.name())),
            };
            if let Some(problem) = problem {
                let what = format!("\"{name}\" cannot be the peer of \"{me}\": {problem}");
                let hint =
                    format!("the peer is a patch port of another bridge with peer = \"{me}\"");
                c.error(peer.span(), what, hint);
            }
        }
    }
}

/// Two tunnel ports that one packet could both belong to are a mistake.
fn tunnels_differ(c: &mut Checker<'_>, raw: &raw::File, bridges: &[Bridge]) {
    let raw_ports = raw.bridges.iter().flat_map(|b| &b.ports).map(Spanned::get_ref);
    let spans: HashMap<&str, Range<usize>> =
        raw_ports.map(|p| (p.name.get_ref().as_str(), p.name.span())).collect();
    let mut seen = Vec::new();
    for port in bridges.iter().flat_map(|b| &b.ports) {
        let PortType::Geneve(g) = &port.kind else { continue };
        let id = (g.remote, g.local, g.key, g.dst_port);
        match seen.iter().find(|(_, other)| *other == id) {
            Some((other, _)) => {
                let what = format!("\"{}\" receives the same packets as \"{other}\"", port.name);
                let hint = "tunnel ports differ in remote_ip, local_ip, key or dst_port";
                c.error(spans.get(port.name.as_str()).cloned().unwrap_or(0..0), what, hint);
            }
            None => seen.push((port.name.as_str(), id)),
        }
    }
}

fn device(c: &mut Checker<'_>, device: &raw::Text, known: &[&str]) -> String {
    let name = device.get_ref();
    if !known.contains(&name.as_str()) {
        let what = format!("no port has the name or the device \"{name}\"");
        c.error(device.span(), what, "name one of the ports of this file");
    }
    name.clone()
}

fn route(c: &mut Checker<'_>, raw: &raw::Route, known: &[&str]) -> Option<StaticRoute> {
    let via = raw.via.as_ref().and_then(|via| c.ip(via));
    let source = raw.source.as_ref().and_then(|source| c.ip(source));
    let device = device(c, &raw.device, known);
    let destination = c.network(&raw.destination, via)?;
    let v4 = destination.address.is_ipv4();
    for (text, ip) in [(&raw.via, via), (&raw.source, source)] {
        if let (Some(text), Some(ip)) = (text, ip)
            && ip.is_ipv4() != v4
        {
            let what = format!("{ip} is not of the family of {destination}");
            c.error(text.span(), what, "use addresses of one family in a route");
        }
    }
    Some(StaticRoute { destination, via, device, source })
}

fn neighbour(c: &mut Checker<'_>, raw: &raw::Neighbour, known: &[&str]) -> Option<StaticNeighbour> {
    let device = device(c, &raw.device, known);
    let mac = c.mac(&raw.mac);
    Some(StaticNeighbour { address: c.ip(&raw.address)?, device, mac })
}

fn address(c: &mut Checker<'_>, raw: &raw::Address, known: &[&str]) -> Option<StaticAddress> {
    let device = device(c, &raw.device, known);
    let mac = raw.mac.as_ref().map(|mac| c.mac(mac));
    Some(StaticAddress { device, address: c.cidr(&raw.address)?, mac })
}
