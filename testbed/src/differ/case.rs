//! What both switches are given, and what each made of it.
//!
//! The scene never changes, so that one instance of Open vSwitch serves a whole run: three bridges
//! in a row, joined by patch ports, each with devices and its LOCAL port. What changes from case to
//! case are the flows and the packets.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write;

use crate::vector::parse_packet;

/// A port of the scene.
#[derive(Clone, Copy, Debug)]
pub struct Port {
    pub name: &'static str,
    pub number: u16,
    /// The other end, for a patch port.
    pub peer: Option<&'static str>,
}

const fn device(name: &'static str, number: u16) -> Port {
    Port { name, number, peer: None }
}

const fn patch(name: &'static str, number: u16, peer: &'static str) -> Port {
    Port { name, number, peer: Some(peer) }
}

/// A bridge and its ports, LOCAL left out: it has the bridge's name.
#[derive(Clone, Copy, Debug)]
pub struct Bridge {
    pub name: &'static str,
    pub ports: &'static [Port],
}

pub const BRIDGES: &[Bridge] = &[
    Bridge {
        name: "br0",
        ports: &[
            device("p1", 1),
            device("p2", 2),
            device("p3", 3),
            device("p4", 4),
            patch("c01", 10, "c10"),
        ],
    },
    Bridge {
        name: "br1",
        ports: &[
            device("p5", 1),
            device("p6", 2),
            device("p7", 3),
            patch("c10", 10, "c01"),
            patch("c12", 11, "c21"),
        ],
    },
    Bridge { name: "br2", ports: &[device("p8", 1), device("p9", 2), patch("c21", 10, "c12")] },
];

/// All places where a packet can leave: devices, and each bridge's own port.
pub fn devices() -> impl Iterator<Item = &'static str> {
    BRIDGES.iter().flat_map(|b| {
        let ports = b.ports.iter().filter(|p| p.peer.is_none()).map(|p| p.name);
        ports.chain([b.name])
    })
}

/// A flow of a case. Its number is its cookie, by which both sides count.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CaseFlow {
    pub bridge: usize,
    pub cookie: u64,
    /// Match and actions, without the cookie.
    pub text: String,
}

impl CaseFlow {
    pub fn line(&self) -> String {
        format!("cookie={:#x},{}", self.cookie, self.text)
    }
}

/// A group or a meter that flows name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Reference {
    pub bridge: usize,
    /// `group` or `meter`.
    pub what: &'static str,
    pub text: String,
}

/// A packet that comes in.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CasePacket {
    pub port: &'static str,
    pub bytes: Vec<u8>,
}

/// A program and its packets.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Case {
    pub refs: Vec<Reference>,
    pub flows: Vec<CaseFlow>,
    pub packets: Vec<CasePacket>,
}

impl Case {
    /// Whether a bridge has a `select` group that chooses by itself how to hash.
    pub fn chooses_by_default(&self, bridge: usize) -> bool {
        let is = |text: &str| text.contains("type=select") && !text.contains("selection_method");
        self.refs.iter().any(|r| r.bridge == bridge && is(&r.text))
    }

    /// Whether a packet can change what the next one meets: a flow by `learn`, a MAC address by
    /// NORMAL, which a cached flow of Open vSwitch's knows only when a revalidator has seen to it.
    pub fn teaches(&self) -> bool {
        let all = self.flows.iter().map(|f| &f.text).chain(self.refs.iter().map(|r| &r.text));
        all.into_iter().any(|text| text.contains("learn(") || text.contains("NORMAL"))
    }

    /// The flows as `sluice replay --flows` takes them.
    pub fn flow_file(&self) -> String {
        let mut text = String::new();
        for (at, bridge) in BRIDGES.iter().enumerate() {
            let refs = self.refs.iter().filter(|r| r.bridge == at);
            let refs = refs.map(|r| format!("{} add {}", r.what, r.text));
            let flows = self.flows.iter().filter(|f| f.bridge == at).map(CaseFlow::line);
            let mut lines = refs.chain(flows).peekable();
            if lines.peek().is_some() {
                let _ = writeln!(text, "[bridge {}]", bridge.name);
            }
            lines.for_each(|line| text += &format!("{line}\n"));
        }
        text
    }
}

/// What left by each port, in order.
pub type Output = BTreeMap<String, Vec<Vec<u8>>>;

/// What a switch made of a case.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Outcome {
    /// Per packet that came in.
    pub out: Vec<Output>,
    /// Packets per flow, by bridge and cookie.
    pub hits: BTreeMap<(usize, u64), u64>,
    /// The packets that met a bound on resubmits or outputs; only sluice says so.
    pub limited: BTreeSet<usize>,
}

/// Reads what [`Case::flow_file`] and the report of a difference say: flows, `group add` and `meter
/// add` lines below `[bridge NAME]` lines, packets as `# packet N in PORT: TEXT`.
pub fn from_text(text: &str) -> Result<Case, String> {
    let mut case = Case::default();
    let mut bridge = 0;
    for line in text.lines().map(str::trim).filter(|l| !l.is_empty()) {
        if let Some(name) = line.strip_prefix("[bridge ").and_then(|l| l.strip_suffix(']')) {
            let at = BRIDGES.iter().position(|b| b.name == name);
            bridge = at.ok_or_else(|| format!("there is no bridge {name}"))?;
        } else if let Some(packet) = line.strip_prefix("# packet ") {
            let (_, packet) = packet.split_once(" in ").ok_or("a packet comes `in PORT: TEXT`")?;
            let (port, packet) = packet.split_once(": ").ok_or("a packet comes `in PORT: TEXT`")?;
            let port = devices().find(|d| *d == port).ok_or_else(|| format!("no port {port}"))?;
            let words = crate::vector::split_words(packet)?;
            let (first, changes) = words.split_first().ok_or("a packet has a text")?;
            case.packets.push(CasePacket { port, bytes: parse_packet(first, changes)? });
        } else if let Some((what, text)) = reference(line) {
            case.refs.push(Reference { bridge, what, text: text.to_owned() });
        } else if !line.starts_with('#') {
            let (cookie, rest) = match line.strip_prefix("cookie=0x") {
                Some(rest) => {
                    let (n, rest) = rest.split_once(',').ok_or("a flow has more than a cookie")?;
                    (u64::from_str_radix(n, 16).map_err(|e| e.to_string())?, rest)
                }
                None => (case.flows.len() as u64 + 1, line),
            };
            case.flows.push(CaseFlow { bridge, cookie, text: rest.to_owned() });
        }
    }
    Ok(case)
}

fn reference(line: &str) -> Option<(&'static str, &str)> {
    let of = |what: &'static str| {
        let rest = line.strip_prefix(what)?.strip_prefix(" add ")?;
        Some((what, rest))
    };
    of("group").or_else(|| of("meter"))
}
