//! Packets as a person writes them.
//!
//! ```text
//!
//! eth(src=02:00:00:00:00:01,dst=02:00:00:00:00:02)/vlan(vid=5)
//!   /ipv4(src=10.0.0.1,dst=10.0.0.2,ttl=9)/tcp(src=1000,dst=80,flags=SA,seq=1,ack=2)/"GET"
//! ```
//! One line, layers between slashes. Lengths and checksums are made right. Layers:
//! - `eth(src,dst[,type])`, `vlan(vid[,pcp,tpid])`, `arp(op,sha,spa,tha,tpa)`
//! - `ipv4(src,dst[,ttl,tos,id,df=1,opt=HEX])`, `ipv6(src,dst[,ttl,tos,label])`,
//!   `frag(id,offset,more=0|1)`, `ext(kind,bytes=HEX)`, `proto(number)`
//! - `tcp(src,dst[,flags,seq,ack,win,opt=HEX])`, `udp(src,dst)`, `sctp(src,dst[,tag])`; all take
//!   `csum=none` or `csum=partial`
//! - `icmp(type,code[,rest=HEX])`, `echo(id,seq)`, `echo_reply(id,seq)`,
//!   `nd_solicit(target[,sll])`, `nd_advert(target[,tll])`
//! - `geneve(vni[,opt=HEX])`: the layers after it are the inner frame;
//!   `icmp_error(type,code[,rest])`: the layers after it are the frame that it is about
//! - `"text"` with `\xNN`, `bytes:HEX`, `zeros(n)`, `frame(n)`: a payload that fills the frame to
//!   n bytes
//!
//! `hex:...` instead of all layers is the frame itself. Behind the packet, after a blank, stand
//! changes: `pad=60` with zeros, `cut=20` to so many bytes, `byte=14:46` sets a byte.

use std::collections::BTreeMap;
use std::net::{Ipv4Addr, Ipv6Addr};
use std::str::FromStr;

use sluice_dataplane::packet::build::PacketBuilder;

/// Letters of the TCP flags from bit 0 up.
pub const TCP_FLAGS: &str = "FSRPAUEC";

/// Builds the packet, then makes the changes to it.
pub fn parse_packet(text: &str, changes: &[&str]) -> Result<Vec<u8>, String> {
    let mut bytes = match text.strip_prefix("hex:") {
        Some(hex) => parse_hex(hex)?,
        None => build(&split(text, '/')?)?,
    };
    for change in changes {
        apply(change, &mut bytes)?;
    }
    Ok(bytes)
}

fn apply(change: &str, bytes: &mut Vec<u8>) -> Result<(), String> {
    let wrong = || format!("`{change}`: want pad=N, cut=N or byte=AT:HEX");
    let (what, value) = change.split_once('=').ok_or_else(wrong)?;
    let number = |text: &str| text.parse::<usize>().map_err(|_| wrong());
    match what {
        "pad" => bytes.resize(bytes.len().max(number(value)?), 0),
        "cut" => bytes.truncate(number(value)?),
        "byte" => {
            let (at, to) = value.split_once(':').ok_or_else(wrong)?;
            let slot = bytes.get_mut(number(at)?).ok_or("that byte is behind the end")?;
            *slot = u8::from_str_radix(to, 16).map_err(|_| wrong())?;
        }
        _ => return Err(wrong()),
    }
    Ok(())
}

/// Words between blanks; quoted text and parentheses hold together.
pub fn split_words(line: &str) -> Result<Vec<&str>, String> {
    let words = split(line, ' ')?;
    Ok(words.into_iter().filter(|word| !word.is_empty()).collect())
}

/// Parts between separators that are not quoted or in parentheses.
fn split(text: &str, separator: char) -> Result<Vec<&str>, String> {
    let (mut parts, mut start, mut depth, mut quoted, mut escaped) =
        (Vec::new(), 0, 0, false, false);
    for (at, c) in text.char_indices() {
        match c {
            _ if escaped => escaped = false,
            '\\' if quoted => escaped = true,
            '"' => quoted = !quoted,
            _ if quoted => {}
            '(' => depth += 1,
            ')' => depth -= 1,
            _ if c == separator && depth == 0 => {
                parts.push(&text[start..at]);
                start = at + c.len_utf8();
            }
            _ => {}
        }
    }
    if quoted || depth != 0 {
        return Err(format!("`{text}`: a quote or a parenthesis is not closed"));
    }
    parts.push(&text[start..]);
    Ok(parts)
}

/// The arguments of a layer; each must be used.
struct Arguments<'a> {
    layer: &'a str,
    values: BTreeMap<&'a str, &'a str>,
}

impl<'a> Arguments<'a> {
    fn parse(layer: &'a str, inside: &'a str) -> Result<Self, String> {
        let mut values = BTreeMap::new();
        for part in inside.split(',').map(str::trim).filter(|p| !p.is_empty()) {
            // `zeros(5)` has one value and no name.
            let (name, value) = part.split_once('=').unwrap_or(("", part));
            if values.insert(name, value).is_some() {
                return Err(format!("`{layer}`: `{name}` stands there twice"));
            }
        }
        Ok(Self { layer, values })
    }

    fn text(&mut self, name: &str) -> Option<&'a str> {
        self.values.remove(name)
    }

    fn maybe<T: Value>(&mut self, name: &str) -> Result<Option<T>, String> {
        let Some(text) = self.text(name) else { return Ok(None) };
        let wrong = || format!("`{}`: `{name}={text}` is no {}", self.layer, T::WHAT);
        T::read(text).ok_or_else(wrong).map(Some)
    }

    fn must<T: Value>(&mut self, name: &str) -> Result<T, String> {
        self.maybe(name)?.ok_or_else(|| format!("`{}` needs `{name}`", self.layer))
    }

    fn or<T: Value>(&mut self, name: &str, default: T) -> Result<T, String> {
        Ok(self.maybe(name)?.unwrap_or(default))
    }

    fn done(self) -> Result<(), String> {
        match self.values.keys().next() {
            None => Ok(()),
            Some(name) => Err(format!("`{}` knows no `{name}`", self.layer)),
        }
    }
}

/// Something that an argument can be.
trait Value: Sized {
    const WHAT: &'static str;
    fn read(text: &str) -> Option<Self>;
}

macro_rules! numbers {
    ($($t:ty),*) => {$(
        impl Value for $t {
            const WHAT: &'static str = "number of its size";
            fn read(text: &str) -> Option<Self> {
                match text.strip_prefix("0x") {
                    Some(hex) => <$t>::from_str_radix(hex, 16).ok(),
                    None => text.parse().ok(),
                }
            }
        }
    )*};
}
numbers!(u8, u16, u32, usize);

/// A link-layer address.
struct Mac([u8; 6]);

impl Value for Mac {
    const WHAT: &'static str = "Ethernet address";
    fn read(text: &str) -> Option<Self> {
        let octets: Vec<u8> =
            text.split(':').map(|p| u8::from_str_radix(p, 16)).collect::<Result<_, _>>().ok()?;
        octets.try_into().ok().map(Self)
    }
}

impl Value for Ipv4Addr {
    const WHAT: &'static str = "IPv4 address";
    fn read(text: &str) -> Option<Self> {
        Self::from_str(text).ok()
    }
}

impl Value for Ipv6Addr {
    const WHAT: &'static str = "IPv6 address";
    fn read(text: &str) -> Option<Self> {
        Self::from_str(text).ok()
    }
}

/// Bytes in hexadecimal.
struct Hex(Vec<u8>);

impl Value for Hex {
    const WHAT: &'static str = "even number of hexadecimal digits";
    fn read(text: &str) -> Option<Self> {
        parse_hex(text).ok().map(Self)
    }
}

fn parse_hex(text: &str) -> Result<Vec<u8>, String> {
    let wrong = || format!("`{text}` is no even number of hexadecimal digits");
    let digits: Option<Vec<u8>> = text.chars().map(|c| c.to_digit(16).map(|d| d as u8)).collect();
    let digits = digits.ok_or_else(wrong)?;
    let (pairs, rest) = digits.as_chunks::<2>();
    if !rest.is_empty() {
        return Err(wrong());
    }
    Ok(pairs.iter().map(|[high, low]| high << 4 | low).collect())
}

/// The text of a `"..."` layer.
fn unquote(layer: &str) -> Result<Vec<u8>, String> {
    let inside = layer.strip_prefix('"').and_then(|rest| rest.strip_suffix('"')).unwrap_or("");
    let mut bytes = Vec::new();
    let mut rest = inside;
    while let Some(at) = rest.find('\\') {
        bytes.extend_from_slice(&rest.as_bytes()[..at]);
        let (escape, after) = match rest.get(at + 1..at + 2) {
            Some("x") => (rest.get(at + 2..at + 4), rest.get(at + 4..)),
            other => (other, rest.get(at + 2..)),
        };
        let wrong = || format!("{layer}: after \\ want \\, \" or xNN");
        match (escape.ok_or_else(wrong)?, after.ok_or_else(wrong)?) {
            ("\\", after) => (bytes.push(b'\\'), rest = after).1,
            ("\"", after) => (bytes.push(b'"'), rest = after).1,
            (hex, after) => {
                bytes.push(u8::from_str_radix(hex, 16).map_err(|_| wrong())?);
                rest = after;
            }
        }
    }
    bytes.extend_from_slice(rest.as_bytes());
    Ok(bytes)
}

/// A layer's name and arguments.
fn arguments(layer: &str) -> Result<(&str, Arguments<'_>), String> {
    let (name, inside) = layer.split_once('(').unwrap_or((layer, ")"));
    let inside = inside.strip_suffix(')').ok_or_else(|| format!("`{layer}`: no `)` at the end"))?;
    Ok((name, Arguments::parse(name, inside)?))
}

fn build(layers: &[&str]) -> Result<Vec<u8>, String> {
    let (first, rest) = layers.split_first().ok_or("no layer")?;
    let (name, mut args) = arguments(first.trim())?;
    if name != "eth" {
        return Err(format!("`{name}`: a packet begins with `eth(...)` or `hex:`"));
    }
    let (src, dst) = (args.must::<Mac>("src")?, args.must::<Mac>("dst")?);
    let mut packet = PacketBuilder::eth(src.0, dst.0);
    if let Some(eth_type) = args.maybe("type")? {
        packet = packet.eth_type(eth_type);
    }
    args.done()?;
    for (at, layer) in rest.iter().enumerate() {
        let layer = layer.trim();
        let inner = rest.get(at + 1..).unwrap_or_default();
        if layer.starts_with('"') {
            packet = packet.payload(&unquote(layer)?);
            continue;
        }
        if let Some(hex) = layer.strip_prefix("bytes:") {
            packet = packet.payload(&parse_hex(hex)?);
            continue;
        }
        let (name, mut args) = arguments(layer)?;
        if name == "geneve" {
            let vni = args.must("vni")?;
            let options = args.or("opt", Hex(Vec::new()))?.0;
            args.done()?;
            if options.len() > 252 || !options.len().is_multiple_of(4) {
                return Err(format!("`{layer}`: `opt` is whole words of four bytes, at most 63"));
            }
            return Ok(packet.geneve_with(vni, &options, &build(inner)?).build());
        }
        if name == "icmp_error" {
            let (kind, code, rest) = (args.must("type")?, args.must("code")?, rest4(&mut args)?);
            args.done()?;
            return Ok(packet.icmp_error(kind, code, rest, &build(inner)?).build());
        }
        packet = add_layer(packet, name, &mut args)?;
        args.done()?;
    }
    Ok(packet.build())
}

fn rest4(args: &mut Arguments<'_>) -> Result<[u8; 4], String> {
    let rest = args.or("rest", Hex(vec![0; 4]))?.0;
    rest.try_into().map_err(|_| format!("`{}`: `rest` has four bytes", args.layer))
}

fn add_layer(
    packet: PacketBuilder,
    name: &str,
    args: &mut Arguments<'_>,
) -> Result<PacketBuilder, String> {
    Ok(match name {
        "vlan" => {
            let (vid, pcp): (u16, u16) = (args.must("vid")?, args.or("pcp", 0)?);
            packet.tag(args.or("tpid", 0x8100)?, pcp << 13 | vid)
        }
        "arp" => {
            let (sha, tha) = (args.must::<Mac>("sha")?.0, args.must::<Mac>("tha")?.0);
            let (spa, tpa): (Ipv4Addr, Ipv4Addr) = (args.must("spa")?, args.must("tpa")?);
            packet.arp(args.must("op")?, (sha, spa.octets()), (tha, tpa.octets()))
        }
        "ipv4" => {
            let mut ip = packet.ipv4(args.must::<Ipv4Addr>("src")?, args.must::<Ipv4Addr>("dst")?);
            ip = ip.ttl(args.or("ttl", 64)?).tos(args.or("tos", 0)?).ip_id(args.or("id", 0)?);
            if args.or::<u8>("df", 0)? == 1 {
                ip = ip.df();
            }
            match args.maybe::<Hex>("opt")? {
                Some(Hex(options)) => ip.ip_options(&options),
                None => ip,
            }
        }
        "ipv6" => packet
            .ipv6(args.must::<Ipv6Addr>("src")?, args.must::<Ipv6Addr>("dst")?)
            .ttl(args.or("ttl", 64)?)
            .tos(args.or("tos", 0)?)
            .flow_label(args.or("label", 0)?),
        "frag" => {
            let more = args.must::<u8>("more")? == 1;
            packet.fragment(args.must("id")?, args.must("offset")?, more)
        }
        "ext" => packet.extension(args.must("kind")?, &args.must::<Hex>("bytes")?.0),
        "proto" => packet.proto(args.must("")?),
        "zeros" => packet.payload(&vec![0; args.must::<u16>("")?.into()]),
        "frame" => packet.frame_len(args.must::<u16>("")?.into()),
        _ => return add_transport(packet, name, args),
    })
}

fn add_transport(
    packet: PacketBuilder,
    name: &str,
    args: &mut Arguments<'_>,
) -> Result<PacketBuilder, String> {
    let mac = |mac: Option<Mac>| mac.map(|m| m.0);
    let packet = match name {
        "tcp" => {
            let mut tcp = packet.tcp(args.must("src")?, args.must("dst")?);
            tcp = tcp.flags(flags(args.text("flags").unwrap_or("A"))?);
            tcp = tcp.seq(args.or("seq", 0)?).ack(args.or("ack", 0)?);
            tcp = tcp.window(args.or("win", u16::MAX)?);
            match args.maybe::<Hex>("opt")? {
                Some(Hex(options)) => tcp.tcp_options(&options),
                None => tcp,
            }
        }
        "udp" => packet.udp(args.must("src")?, args.must("dst")?),
        "sctp" => packet.sctp(args.must("src")?, args.must("dst")?, args.or("tag", 0)?),
        "icmp" => packet.icmp(args.must("type")?, args.must("code")?, rest4(args)?),
        "echo" => packet.echo_request(args.must("id")?, args.must("seq")?),
        "echo_reply" => packet.echo_reply(args.must("id")?, args.must("seq")?),
        "nd_solicit" => {
            packet.nd_solicit(args.must::<Ipv6Addr>("target")?, mac(args.maybe("sll")?))
        }
        "nd_advert" => packet.nd_advert(args.must::<Ipv6Addr>("target")?, mac(args.maybe("tll")?)),
        _ => return Err(format!("`{name}`: no such layer")),
    };
    Ok(match args.text("csum") {
        None => packet,
        Some("none") => packet.no_checksum(),
        Some("partial") => packet.partial_checksum(),
        Some(other) => return Err(format!("`csum={other}`: want none or partial")),
    })
}

fn flags(text: &str) -> Result<u16, String> {
    let mut bits = 0;
    for letter in text.chars().filter(|c| *c != '-') {
        let bit = TCP_FLAGS.find(letter).ok_or(format!("`{letter}`: flags are {TCP_FLAGS}"))?;
        bits |= 1 << bit;
    }
    Ok(bits)
}
