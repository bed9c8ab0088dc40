//! Files of flows: one a line, `#` to the end of a line is a comment, `[bridge NAME]` says
//! whose flows follow.
//!
//! A line is a flow, or in the words of a file for `ovs-ofctl bundle`: `flow add ...`,
//! `group add ...`. Meters and the map of tunnel options, which have no place in such a bundle,
//! are written alike: `meter add ...`, `tlv-map add ...`. A file says what there is, so it can
//! only add; the order of its lines does not matter but among equal flows.

use super::error::{FlowError, Problem};
use super::flow_mod::{Command, command_word};
use super::group::{GroupCommand, GroupMod, parse_group_span};
use super::meter::{MeterMod, parse_meter_span};
use super::parse::parse_line;
use super::ports::{NoNames, PortNames, WithOptions};
use super::span::Span;
use super::tlv::parse_tlv_span;
use super::{Flow, LINE_MAX_BYTES};
use sluice_dataplane::tunnel::{TlvError, TlvMap, TlvMapping};
use std::collections::BTreeMap;

const TLV_MAP: &str = "tlv-map";

/// Wrong lines that are told.
pub const ERRORS_MAX: usize = 20;

/// A line of a file.
#[derive(Clone, Debug, PartialEq)]
pub struct FileLine {
    pub bridge: String,
    /// From 1.
    pub line: usize,
    pub item: FileItem,
}

#[derive(Clone, Debug, PartialEq)]
pub enum FileItem {
    Flow(Box<Flow>),
    Group(GroupMod),
    Meter(MeterMod),
    TlvMap(Vec<TlvMapping>),
}

/// The wrong lines of a file, the first [`ERRORS_MAX`] of them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FlowErrors {
    pub list: Vec<FlowError>,
    /// How many more there are.
    pub more: usize,
}

impl std::fmt::Display for FlowErrors {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        for (i, e) in self.list.iter().enumerate() {
            write!(f, "{}{e}", if i > 0 { "\n" } else { "" })?;
        }
        if self.more > 0 {
            write!(f, "\nand {} more wrong lines", self.more)?;
        }
        Ok(())
    }
}

impl std::error::Error for FlowErrors {}

impl From<FlowError> for FlowErrors {
    fn from(e: FlowError) -> Self {
        FlowErrors { list: vec![e], more: 0 }
    }
}

/// The tunnel options that the lines of a text map, by bridge. What is wrong is left out: reading
/// the text whole will tell.
pub fn mapped_options(text: &str, first_bridge: &str) -> BTreeMap<String, Vec<TlvMapping>> {
    let mut bridge = first_bridge;
    let mut out: BTreeMap<String, Vec<TlvMapping>> = BTreeMap::new();
    for raw in text.lines() {
        let content = Span::new(raw).slice(0, comment_start(raw)).trim();
        if content.text.starts_with('[') {
            bridge = section(content).unwrap_or(bridge);
        } else if content.text.starts_with(TLV_MAP)
            && let Ok(FileItem::TlvMap(mappings)) = item(content, &NoNames)
        {
            out.entry(bridge.to_string()).or_default().extend(mappings);
        }
    }
    out
}

/// What the bridges' maps are with the lines of a text.
fn maps_of<'p>(
    text: &str,
    first_bridge: &str,
    ports: &dyn Fn(&str) -> Option<&'p dyn PortNames>,
) -> BTreeMap<String, Result<TlvMap, TlvError>> {
    let whole = |(bridge, more): (String, Vec<TlvMapping>)| {
        let have = ports(&bridge)?.options().cloned().unwrap_or_default();
        Some((bridge, with_options(&have, &more)))
    };
    mapped_options(text, first_bridge).into_iter().filter_map(whole).collect()
}

/// A map with more options, of which some may be there already, or be said twice.
pub fn with_options(map: &TlvMap, more: &[TlvMapping]) -> Result<TlvMap, TlvError> {
    let there: Vec<TlvMapping> = map.mappings().collect();
    let mut fresh: Vec<TlvMapping> = more.iter().filter(|m| !there.contains(m)).copied().collect();
    fresh.sort_unstable();
    fresh.dedup();
    map.with(&fresh)
}

/// Reads a file of things to add. Lines before the first `[bridge NAME]` belong to
/// `first_bridge`. `ports` gives a bridge's ports, or `None` if there is no such bridge. A file
/// is taken whole or not at all; all its mistakes are told at once.
pub fn parse_file<'p>(
    text: &str,
    first_bridge: &str,
    ports: &dyn Fn(&str) -> Option<&'p dyn PortNames>,
) -> Result<Vec<FileLine>, FlowErrors> {
    let mut out = Vec::new();
    read_file(text, first_bridge, ports, &mut |line| out.push(line))?;
    Ok(out)
}

/// As [`parse_file`], a line at a time: so the parsed form of a large file need not be there all
/// at once. What was taken before a mistake came is of no use.
pub fn read_file<'p>(
    text: &str,
    first_bridge: &str,
    ports: &dyn Fn(&str) -> Option<&'p dyn PortNames>,
    take: &mut dyn FnMut(FileLine),
) -> Result<(), FlowErrors> {
    let maps = maps_of(text, first_bridge, ports);
    let no_options = TlvMap::default();
    let with_map = |bridge: &str| {
        let ports = ports(bridge)?;
        let whole = maps.get(bridge).and_then(|m| m.as_ref().ok());
        let map = whole.or(ports.options()).unwrap_or(&no_options);
        Some(WithOptions { ports, map })
    };
    let mut bridge = first_bridge.to_string();
    let mut names = with_map(&bridge);
    let mut errors = FlowErrors { list: Vec::new(), more: 0 };
    let mut told_bridge = false;
    let mut refuse = |e: FlowError, line| match errors.list.len() < ERRORS_MAX {
        true => errors.list.push(e.on_line(line)),
        false => errors.more += 1,
    };
    for (i, raw) in text.lines().enumerate() {
        let line = i + 1;
        let content = Span::new(raw).slice(0, comment_start(raw)).trim();
        if content.is_empty() {
            continue;
        }
        if content.text.starts_with('[') {
            match section(content) {
                Ok(name) => {
                    bridge = name.to_string();
                    names = with_map(name);
                    told_bridge = names.is_none();
                    if names.is_none() {
                        refuse(content.err(Problem::UnknownBridge), line);
                    }
                }
                Err(e) => refuse(e, line),
            }
            continue;
        }
        let Some(names) = &names else {
            // Once for all lines below it.
            if !std::mem::replace(&mut told_bridge, true) {
                refuse(Span::new(&bridge).err(Problem::UnknownBridge), line);
            }
            continue;
        };
        match item(content, names) {
            Ok(FileItem::TlvMap(_)) if let Some(Err(e)) = maps.get(&bridge) => {
                refuse(content.err(Problem::Options(e.clone())), line);
            }
            Ok(item) => take(FileLine { bridge: bridge.clone(), line, item }),
            Err(e) => refuse(e, line),
        }
    }
    if errors.list.is_empty() { Ok(()) } else { Err(errors) }
}

fn item(content: Span<'_>, names: &dyn PortNames) -> Result<FileItem, FlowError> {
    if content.text.len() > LINE_MAX_BYTES {
        return Err(content.err(Problem::TooLong(LINE_MAX_BYTES)));
    }
    let only_add = || content.err(Problem::Rule("a file says what there is; it can only add"));
    let end = content.text.find([' ', '\t']).unwrap_or(content.text.len());
    let rest = content.from(end).trim();
    match &content.text[..end] {
        "group" => {
            let m = parse_group_span(rest, None, names)?;
            let fine = m.command == GroupCommand::Add;
            fine.then_some(FileItem::Group(m)).ok_or_else(only_add)
        }
        "meter" => match parse_meter_span(rest, None)? {
            m @ MeterMod::Add(_) => Ok(FileItem::Meter(m)),
            _ => Err(only_add()),
        },
        TLV_MAP => {
            let maps = rest.text.strip_prefix("add").map_or(rest, |_| rest.from(3).trim());
            parse_tlv_span(maps).map(FileItem::TlvMap)
        }
        "flow" => flow(rest, content, names),
        _ => flow(content, content, names),
    }
}

fn flow(text: Span<'_>, whole: Span<'_>, names: &dyn PortNames) -> Result<FileItem, FlowError> {
    let (command, rest) = command_word(text);
    if command != Command::Add {
        return Err(whole.err(Problem::Rule("a file says what there is; it can only add")));
    }
    let (head, actions) = parse_line(rest, Command::Add, names)?;
    Ok(FileItem::Flow(Box::new(head.into_flow(actions))))
}

/// Where the comment begins: the first `#` outside quotes.
pub fn comment_start(line: &str) -> usize {
    let mut quoted = false;
    let mut escaped = false;
    for (i, c) in line.bytes().enumerate() {
        match c {
            _ if escaped => escaped = false,
            b'\\' if quoted => escaped = true,
            b'"' => quoted = !quoted,
            b'#' if !quoted => return i,
            _ => {}
        }
    }
    line.len()
}

/// The name in `[bridge NAME]`.
fn section(s: Span<'_>) -> Result<&str, FlowError> {
    let inner = s.text.strip_prefix('[').and_then(|t| t.strip_suffix(']'));
    let name = inner.and_then(|t| t.trim().strip_prefix("bridge"));
    let name = name.filter(|n| n.starts_with(char::is_whitespace)).map(str::trim);
    name.filter(|n| !n.is_empty() && !n.contains(char::is_whitespace))
        .ok_or_else(|| s.err(Problem::Expected("[bridge NAME]")))
}
