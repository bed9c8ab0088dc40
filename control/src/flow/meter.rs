//! Meters in text (ovs-ofctl(8), "Meter Syntax"): `meter=1,kbps,burst,bands=type=drop,rate=10`.

use super::action_parse::METER_MAX;
use super::error::{FlowError, Problem, nearest};
use super::print::write_duration;
use super::span::Span;
use super::value::parse_within;
use sluice_dataplane::action::meter::MeterUnit;
use std::fmt::Write;
use std::time::Duration;

/// Meters that the switch itself sends packets through (OpenFlow 1.5.1 section 7.3.4.4).
pub const METER_SLOWPATH: u32 = 0xffff_fffd;
pub const METER_CONTROLLER: u32 = 0xffff_fffe;

const WORDS: &[&str] =
    &["meter", "kbps", "pktps", "burst", "stats", "bands", "type", "rate", "burst_size"];

/// A meter as the user wrote it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Meter {
    pub id: u32,
    pub unit: MeterUnit,
    /// The bands say their burst sizes.
    pub burst: bool,
    pub stats: bool,
    pub bands: Vec<Band>,
}

/// A drop band.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Band {
    pub rate: u32,
    /// 0 without `burst`.
    pub burst_size: u32,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MeterCommand {
    Add,
    Modify,
    Delete,
}

/// A command with its meter.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum MeterMod {
    Add(Meter),
    Modify(Meter),
    /// `None`: all.
    Delete(Option<u32>),
}

/// What a meter has counted.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct MeterStats {
    pub flow_count: u32,
    pub duration: Duration,
    pub packets: u64,
    pub bytes: u64,
    pub bands: Vec<(u64, u64)>,
}

impl MeterCommand {
    /// Takes a command off the start of a line; none: add.
    fn of_line(line: Span<'_>) -> (Self, Span<'_>) {
        let trimmed = line.trim();
        let end = trimmed.text.find([' ', '\t', ',']).unwrap_or(trimmed.text.len());
        let command = match &trimmed.text[..end] {
            "add" => MeterCommand::Add,
            "modify" => MeterCommand::Modify,
            "delete" => MeterCommand::Delete,
            _ => return (MeterCommand::Add, trimmed),
        };
        (command, trimmed.from(end))
    }
}

/// Reads a meter for `command`, or for the command that the text begins with (none: add).
pub fn parse_meter_mod(text: &str, command: Option<MeterCommand>) -> Result<MeterMod, FlowError> {
    parse_meter_span(Span::new(text), command)
}

pub fn parse_meter_span(
    text: Span<'_>,
    command: Option<MeterCommand>,
) -> Result<MeterMod, FlowError> {
    let (command, text) = command.map_or_else(|| MeterCommand::of_line(text), |c| (c, text));
    let rule = |words: &'static str| Err(text.trim().err(Problem::Rule(words)));
    let mut words = Words { list: text.words(b"=, \t")?, at: 0 };
    if command == MeterCommand::Delete {
        return delete(&mut words, text);
    }
    let (mut id, mut unit, mut burst, mut stats) = (None, None, false, false);
    let mut bands: Option<Vec<Band>> = None;
    while let Some(word) = words.next() {
        match word.text {
            "meter" => id = Some(meter_id(words.value(word)?)?),
            "kbps" | "pktps" if unit.is_some() => {
                return Err(word.err(Problem::Rule("a meter counts kbps or pktps, not both")));
            }
            "kbps" => unit = Some(MeterUnit::Kbps),
            "pktps" => unit = Some(MeterUnit::Pktps),
            "burst" => burst = true,
            "stats" => stats = true,
            "band" | "bands" => {
                bands = Some(parse_bands(&mut words)?);
            }
            name => {
                let guess = nearest(name, WORDS.iter().copied());
                return Err(word.err(Problem::UnknownMeterWord(guess)));
            }
        }
    }
    let Some(id) = id else { return rule("a meter needs meter=N") };
    let Some(unit) = unit else { return rule("a meter needs kbps or pktps") };
    let bands = bands.unwrap_or_default();
    if bands.is_empty() {
        return rule("a meter needs bands=type=drop rate=N");
    }
    if bands.iter().any(|b| b.rate == 0) {
        return rule("every band needs a rate above 0");
    }
    if burst && bands.iter().any(|b| b.burst_size == 0) {
        return rule("with burst, every band needs a burst_size");
    }
    if !burst && bands.iter().any(|b| b.burst_size != 0) {
        return rule("burst_size needs the word burst before the bands");
    }
    let meter = Meter { id, unit, burst, stats, bands };
    Ok(match command {
        MeterCommand::Modify => MeterMod::Modify(meter),
        _ => MeterMod::Add(meter),
    })
}

/// Walks over words, of which some have the next one for a value.
struct Words<'a> {
    list: Vec<Span<'a>>,
    at: usize,
}

impl<'a> Words<'a> {
    fn next(&mut self) -> Option<Span<'a>> {
        let word = self.list.get(self.at).copied();
        self.at += usize::from(word.is_some());
        word
    }

    fn value(&mut self, of: Span<'a>) -> Result<Span<'a>, FlowError> {
        self.next().ok_or_else(|| of.err(Problem::MissingValue(of.text.to_string())))
    }
}

fn delete(words: &mut Words<'_>, text: Span<'_>) -> Result<MeterMod, FlowError> {
    let Some(word) = words.next() else { return Ok(MeterMod::Delete(None)) };
    if word.text != "meter" {
        return Err(text.trim().err(Problem::Expected("meter=N or meter=all")));
    }
    let value = words.value(word)?;
    if let Some(extra) = words.next() {
        return Err(extra.err(Problem::Expected("nothing after the meter")));
    }
    if value.text == "all" {
        return Ok(MeterMod::Delete(None));
    }
    Ok(MeterMod::Delete(Some(meter_id(value)?)))
}

fn meter_id(v: Span<'_>) -> Result<u32, FlowError> {
    match v.text {
        "controller" => Ok(METER_CONTROLLER),
        "slowpath" => Ok(METER_SLOWPATH),
        _ => {
            let n = parse_within(v, "meter", 1, METER_MAX.into());
            n.map(|n| n as u32).map_err(|p| v.err(p))
        }
    }
}

fn parse_bands(words: &mut Words<'_>) -> Result<Vec<Band>, FlowError> {
    let mut bands: Vec<Band> = Vec::new();
    while let Some(word) = words.next() {
        let v = words.value(word)?;
        let number = |of| parse_within(v, of, 0, u32::MAX.into()).map_err(|p| v.err(p));
        match (word.text, bands.last_mut()) {
            ("type", _) if v.text == "drop" => bands.push(Band { rate: 0, burst_size: 0 }),
            ("type", _) if v.text == "dscp_remark" => {
                return Err(v.err(Problem::Unsupported("band type dscp_remark".to_string())));
            }
            ("type", _) => {
                let of = "band type".to_string();
                return Err(v.err(Problem::BadValue { of, want: "drop" }));
            }
            (_, None) => return Err(word.err(Problem::Rule("a band starts with type=drop"))),
            ("rate", Some(band)) => band.rate = number("rate")? as u32,
            ("burst_size", Some(band)) => band.burst_size = number("burst_size")? as u32,
            (name, _) => {
                let guess = nearest(name, WORDS.iter().copied());
                return Err(word.err(Problem::UnknownMeterWord(guess)));
            }
        }
    }
    Ok(bands)
}

/// `1`, or the name of one that the switch uses itself.
pub fn meter_name(id: u32) -> String {
    match id {
        METER_SLOWPATH => "slowpath".to_string(),
        METER_CONTROLLER => "controller".to_string(),
        n => n.to_string(),
    }
}

/// As `dump-meters`: a line for the meter and one for each band. It can be read back.
pub fn print_meter(m: &Meter) -> String {
    let unit = if m.unit == MeterUnit::Kbps { "kbps" } else { "pktps" };
    let mut out = format!("meter={} {unit} ", meter_name(m.id));
    out.push_str(if m.burst { "burst " } else { "" });
    out.push_str(if m.stats { "stats " } else { "" });
    out.push_str("bands=");
    for band in &m.bands {
        let _ = write!(out, "\ntype=drop rate={}", band.rate);
        if m.burst {
            let _ = write!(out, " burst_size={}", band.burst_size);
        }
    }
    out
}

/// As `meter-stats`.
pub fn print_meter_stats(id: u32, s: &MeterStats) -> String {
    let mut out = format!("meter:{} flow_count:{} ", meter_name(id), s.flow_count);
    let _ = write!(out, "packet_in_count:{} byte_in_count:{} duration:", s.packets, s.bytes);
    write_duration(&mut out, s.duration);
    out.push_str(" bands:");
    for (i, (packets, bytes)) in s.bands.iter().enumerate() {
        let _ = write!(out, "\n{i}: packet_count:{packets} byte_count:{bytes}");
    }
    out
}
