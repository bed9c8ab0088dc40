//! Ports in flow text: numbers, reserved names, and names of the bridge's own ports.
//!
//! Numbers are OpenFlow 1.0's 16-bit ones (reserved: 0xfff8..=0xffff), as Open vSwitch uses
//! inside; numbers of OpenFlow 1.1 and later (reserved: 0xfffffff8..) are folded onto them.

use super::error::Problem;
use super::span::Span;
use sluice_dataplane::tunnel::TlvMap;
use std::collections::BTreeMap;
use std::fmt::Write;

/// First number that is not an ordinary port (OpenFlow 1.0, `OFPP_MAX`).
pub const PORT_MAX: u32 = 0xff00;
pub const IN_PORT: u32 = 0xfff8;
pub const TABLE: u32 = 0xfff9;
pub const NORMAL: u32 = 0xfffa;
pub const FLOOD: u32 = 0xfffb;
pub const ALL: u32 = 0xfffc;
pub const CONTROLLER: u32 = 0xfffd;
pub const LOCAL: u32 = 0xfffe;
/// No port; Open vSwitch prints `ANY`.
pub const NONE: u32 = 0xffff;

/// Difference between the reserved numbers of OpenFlow 1.1 and those of 1.0.
const OF11_OFFSET: u32 = 0xffff_0000;

const RESERVED: &[(&str, u32)] = &[
    ("IN_PORT", IN_PORT),
    ("TABLE", TABLE),
    ("NORMAL", NORMAL),
    ("FLOOD", FLOOD),
    ("ALL", ALL),
    ("CONTROLLER", CONTROLLER),
    ("LOCAL", LOCAL),
    ("ANY", NONE),
    ("NONE", NONE),
];

/// What text names of one bridge: its ports, and its tunnel options.
pub trait PortNames {
    fn number(&self, name: &str) -> Option<u32>;
    fn name(&self, number: u32) -> Option<&str>;

    /// The map of tunnel options, if there is one.
    fn options(&self) -> Option<&TlvMap> {
        None
    }
}

/// The ports of a bridge with another map of options.
pub struct WithOptions<'a> {
    pub ports: &'a dyn PortNames,
    pub map: &'a TlvMap,
}

impl PortNames for WithOptions<'_> {
    fn number(&self, name: &str) -> Option<u32> {
        self.ports.number(name)
    }

    fn name(&self, number: u32) -> Option<&str> {
        self.ports.name(number)
    }

    fn options(&self) -> Option<&TlvMap> {
        Some(self.map)
    }
}

/// A bridge whose ports have no names: only numbers are read and printed.
#[derive(Clone, Copy, Debug, Default)]
pub struct NoNames;

impl PortNames for NoNames {
    fn number(&self, _: &str) -> Option<u32> {
        None
    }

    fn name(&self, _: u32) -> Option<&str> {
        None
    }
}

/// A plain list of ports.
#[derive(Clone, Debug, Default)]
pub struct PortMap(BTreeMap<u32, String>);

impl<S: Into<String>> FromIterator<(u32, S)> for PortMap {
    fn from_iter<T: IntoIterator<Item = (u32, S)>>(iter: T) -> Self {
        PortMap(iter.into_iter().map(|(n, s)| (n, s.into())).collect())
    }
}

impl PortNames for PortMap {
    fn number(&self, name: &str) -> Option<u32> {
        self.0.iter().find(|(_, v)| *v == name).map(|(&n, _)| n)
    }

    fn name(&self, number: u32) -> Option<&str> {
        self.0.get(&number).map(String::as_str)
    }
}

/// The name of a reserved port.
pub fn reserved_name(port: u32) -> Option<&'static str> {
    RESERVED.iter().find(|r| r.1 == port).map(|r| r.0)
}

/// Reads a port: a decimal number, a reserved name in any case, or a name, quoted or not.
pub fn parse_port(s: Span<'_>, names: &dyn PortNames) -> Result<u32, Problem> {
    lookup_port(s, names).ok_or(Problem::UnknownPort)
}

/// As [`parse_port`], `None` if it is none.
pub fn lookup_port(s: Span<'_>, names: &dyn PortNames) -> Option<u32> {
    if s.text.bytes().all(|b| b.is_ascii_digit()) {
        let n: u32 = s.text.parse().ok()?;
        return match n {
            0..=0xffff => Some(n),
            _ if n >= OF11_OFFSET + PORT_MAX => Some(n - OF11_OFFSET),
            _ => None,
        };
    }
    if let Some(r) = RESERVED.iter().find(|r| r.0.eq_ignore_ascii_case(s.text)) {
        return Some(r.1);
    }
    if s.text.starts_with('"') {
        let name: String = serde_json::from_str(s.text).ok()?;
        return names.number(&name);
    }
    names.number(s.text)
}

/// Writes a port as Open vSwitch does: reserved name, name (quoted unless it is plain
/// letters and digits), or number.
pub fn write_port(out: &mut String, port: u32, names: &dyn PortNames) {
    if let Some(name) = reserved_name(port) {
        out.push_str(name);
    } else if let Some(name) = names.name(port) {
        write_name(out, name);
    } else {
        let _ = write!(out, "{port}");
    }
}

fn write_name(out: &mut String, name: &str) {
    let plain = name.starts_with(|c: char| c.is_ascii_alphabetic())
        && name.bytes().all(|b| b.is_ascii_alphanumeric());
    if plain {
        out.push_str(name);
        return;
    }
    // JSON's escapes, of which Open vSwitch writes `/` bare as serde_json does.
    match serde_json::to_string(name) {
        Ok(quoted) => out.push_str(&quoted),
        Err(_) => out.push_str(name),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(s: &str, names: &dyn PortNames) -> Option<u32> {
        parse_port(Span::new(s), names).ok()
    }

    #[test]
    fn ports_of_every_kind() {
        let names: PortMap =
            [(3, "eth0"), (4, "patch-breth0_ov"), (5, "1d9246")].into_iter().collect();
        assert_eq!(read("7", &names), Some(7));
        assert_eq!(read("local", &names), Some(LOCAL));
        assert_eq!(read("NONE", &names), Some(NONE));
        assert_eq!(read("4294967294", &names), Some(LOCAL));
        assert_eq!(read("65536", &names), None);
        assert_eq!(read("eth0", &names), Some(3));
        assert_eq!(read("\"1d9246\"", &names), Some(5));
        assert_eq!(read("\"eth0", &names), None);
        assert_eq!(read("eth9", &names), None);
        let mut out = String::new();
        for p in [3, 4, 5, 6, LOCAL, NONE] {
            write_port(&mut out, p, &names);
            out.push(' ');
        }
        assert_eq!(out, "eth0 \"patch-breth0_ov\" \"1d9246\" 6 LOCAL ANY ");
    }
}
