//! `sluice trace`: the very walk that packets take, watched and dry.
//!
//! It runs in a lane of its own, on the program that is in force and with the bridge's real MAC
//! table; nothing is learned, committed, counted or sent. What conntrack would find is not looked
//! up but supposed, as in Open vSwitch: `+trk+new`.

use super::{Core, synth};
use crate::api::ApiResult;
use crate::api::types::{ApiError, ErrorCode, TracePacket, TraceReport, TraceRequest, TraceStep};
use crate::config::PORT_LOCAL;
use crate::flow::{
    DEFAULT_PRIORITY, Match, NoNames, PortMap, PortNames, WithOptions, parse_flow, print_flow,
    print_match,
};
use crate::model::BridgeState;
use crate::store::flow_of;
use sluice_dataplane::action::Ct;
use sluice_dataplane::action::step::Step;
use sluice_dataplane::conntrack::{CtConfig, CtPacket, CtResult};
use sluice_dataplane::counters::{Counters, Drop};
use sluice_dataplane::packet::field::{FIELDS, Field};
use sluice_dataplane::packet::key::{FlowKey, Mask, PortIx};
use sluice_dataplane::pipeline::trace::{Depends, Observer, Silent};
use sluice_dataplane::pipeline::{First, Lane, LaneConfig, NextHop, Rule, Seat};
use sluice_dataplane::tunnel::TlvMap;
use std::fmt::Write;
use std::net::IpAddr;
use std::sync::Arc;

pub fn trace(core: &mut Core, request: &TraceRequest) -> ApiResult<TraceReport> {
    let bridge = core.model.bridge(&request.bridge);
    let bridge = bridge.ok_or_else(|| ApiError::no_bridge(&request.bridge))?;
    let Subject { bytes, said_port, tunnel } = packet(&request.packet, bridge)?;
    let port = in_port(bridge, request.in_port.as_deref(), said_port)?;
    let names = core.model.ports().map(|(_, p)| (p.ix, p.config.name.clone())).collect();
    let options = bridge.tlv.clone();
    let conntrack = CtConfig { conns_max: 16, ..CtConfig::default() };
    let settings = LaneConfig {
        microflows: 0,
        megaflows: 0,
        conntrack,
        self_check: 0,
        first: First::Measured,
        seed: 1,
        seat: Seat::default(),
    };
    let mut lane = Lane::new(&settings, Arc::new(Counters::default()));
    let now = core.now();
    lane.set_program(core.model.current(), now);
    let ports = core.model.bridges.iter().map(|b| (port_names(b), b.tlv.clone())).collect();
    let mut tracer = Tracer { names, ports, options, ..Tracer::default() };
    let steps =
        lane.explain(&bytes, port, tunnel.as_ref(), now, &mut tracer).map_err(|reason| {
            let hint = "give at least an Ethernet header";
            ApiError::new(ErrorCode::Invalid, reason.help(), hint)
        })?;
    Ok(tracer.finish(&steps))
}

/// The names of a bridge's ports, as in its flows.
fn port_names(b: &BridgeState) -> PortMap {
    let named = b.ports.iter().filter(|p| p.config.number != PORT_LOCAL);
    named.map(|p| (u32::from(p.config.number), p.config.name.clone())).collect()
}

/// What is traced.
#[derive(Default)]
struct Subject {
    bytes: Vec<u8>,
    /// The in_port that flow text named.
    said_port: Option<u32>,
    /// The tunnel that it came by, as flow text has it.
    tunnel: Option<FlowKey>,
}

fn packet(packet: &TracePacket, names: &dyn PortNames) -> ApiResult<Subject> {
    match packet {
        TracePacket::Hex(text) => {
            let digits: String = text.chars().filter(|c| !c.is_whitespace()).collect();
            let pairs = digits.as_bytes().chunks(2);
            let byte = |pair: &[u8]| {
                std::str::from_utf8(pair)
                    .ok()
                    .filter(|p| p.len() == 2)
                    .and_then(|p| u8::from_str_radix(p, 16).ok())
            };
            let bytes: Option<Vec<u8>> = pairs.map(byte).collect();
            let hint = "write two hexadecimal digits a byte, from the Ethernet header on";
            let wrong = || ApiError::new(ErrorCode::Invalid, "this is no frame in hex", hint);
            Ok(Subject { bytes: bytes.ok_or_else(wrong)?, ..Subject::default() })
        }
        TracePacket::Text(text) => {
            let line = if text.contains("actions=") {
                text.clone()
            } else {
                format!("{text} actions=drop")
            };
            let flow = parse_flow(&line, names).map_err(|e| {
                ApiError::new(ErrorCode::Invalid, e.to_string(), "write a match, as in a flow")
            })?;
            let (port, mask) = flow.match_.get(Field::InPort);
            let said_port = (mask != 0).then_some(port as u32);
            let key = flow.match_.key;
            let tunnel = key.has_tunnel().then_some(key);
            Ok(Subject { bytes: synth::packet(&key), said_port, tunnel })
        }
    }
}

fn in_port(b: &BridgeState, asked: Option<&str>, said: Option<u32>) -> ApiResult<PortIx> {
    let number = match asked {
        Some(text) => b
            .number(text)
            .or_else(|| text.parse().ok())
            .ok_or_else(|| ApiError::no_port(&b.config.name, text))?,
        None => said.ok_or_else(|| {
            let hint = "say it in the packet (in_port=NAME,...) or with --in-port";
            ApiError::new(ErrorCode::Invalid, "by which port does the packet come in?", hint)
        })?,
    };
    let port = b.ports.iter().find(|p| u32::from(p.config.number) == number);
    port.map(|p| p.ix).ok_or_else(|| ApiError::no_port(&b.config.name, &number.to_string()))
}

/// A mask without the fields that no packet brings along.
fn of_packet(mask: &Mask) -> Mask {
    Mask {
        xxreg: [0; 4],
        metadata: 0,
        pkt_mark: 0,
        conj_id: 0,
        ct_state: 0,
        ct_zone: 0,
        ct_mark: 0,
        ct_label: 0,
        ct_nw_src: 0,
        ct_nw_dst: 0,
        ct_nw_proto: 0,
        ct_ipv6_src: 0,
        ct_ipv6_dst: 0,
        ct_tp_src: 0,
        ct_tp_dst: 0,
        ..*mask
    }
}

/// Writes the walk down.
#[derive(Default)]
struct Tracer {
    report: TraceReport,
    /// Of the bridge that the packet comes to.
    options: Arc<TlvMap>,
    names: std::collections::HashMap<PortIx, String>,
    /// Names of ports and options in flows, by bridge.
    ports: Vec<(PortMap, Arc<TlvMap>)>,
    bridge: String,
    packet: String,
    /// Bits that the walk depends on so far, and what made it so, a line each.
    seen: Mask,
    reasons: Vec<String>,
    tracked: bool,
}

impl Tracer {
    fn say(&mut self, line: String) {
        if self.report.steps.is_empty() {
            let bridge = self.bridge.clone();
            self.report.steps.push(TraceStep { bridge, ..TraceStep::default() });
        }
        if let Some(step) = self.report.steps.last_mut() {
            step.actions.push(line);
        }
    }

    fn name(&self, ix: PortIx) -> String {
        self.names.get(&ix).cloned().unwrap_or_else(|| format!("port #{}", ix.0))
    }

    fn finish(mut self, steps: &[Step]) -> TraceReport {
        let mut text = format!("Flow: {}\n", self.packet);
        let mut bridge = String::new();
        for step in &self.report.steps {
            if step.bridge != bridge {
                bridge.clone_from(&step.bridge);
                let _ = writeln!(text, "\nbridge(\"{bridge}\")\n{}", "-".repeat(bridge.len() + 10));
            }
            let indent = 4 * step.depth as usize;
            match (&step.flow, step.table) {
                (Some(flow), Some(table)) => {
                    let _ = writeln!(text, "{:indent$}{table:2}. {flow}", "");
                }
                (None, Some(table)) => {
                    let _ = writeln!(text, "{:indent$}{table:2}. no match", "");
                }
                _ => {}
            }
            for a in &step.actions {
                let _ = writeln!(text, "{:indent$}    {a}", "");
            }
        }
        let end = match &self.report.drop_reason {
            Some(reason) if self.report.outputs.is_empty() => format!("drop ({reason})"),
            _ => format!("output to {}", self.report.outputs.join(", ")),
        };
        let _ = writeln!(text, "\nMegaflow: {}", self.report.megaflow);
        self.reasons.iter().for_each(|r| _ = writeln!(text, "    {r}"));
        let _ = writeln!(text, "Final edit:");
        steps.iter().for_each(|s| _ = writeln!(text, "    {s:?}"));
        let _ = writeln!(text, "Verdict: {end}");
        self.report.text = text;
        self.report
    }
}

impl Observer for Tracer {
    fn start(&mut self, key: &FlowKey, bridge: &str) {
        self.bridge = bridge.to_owned();
        self.packet = format!("{key:?}");
    }

    fn bridge(&mut self, name: &str) {
        self.bridge = name.to_owned();
    }

    fn rule(&mut self, rule: &Rule, depth: u32) {
        let cookie =
            if rule.cookie == 0 { String::new() } else { format!(" (cookie {:#x})", rule.cookie) };
        let flow = flow_of(rule);
        let text = match self.ports.get(usize::from(rule.bridge)) {
            Some((ports, map)) => print_flow(&flow, &WithOptions { ports, map }),
            None => print_flow(&flow, &NoNames),
        };
        self.report.steps.push(TraceStep {
            depth,
            bridge: self.bridge.clone(),
            table: Some(rule.table),
            flow: Some(format!("{text}{cookie}")),
            actions: Vec::new(),
        });
    }

    fn miss(&mut self, table: u8) {
        let bridge = self.bridge.clone();
        self.report.steps.push(TraceStep { bridge, table: Some(table), ..TraceStep::default() });
    }

    fn step(&mut self, step: &Step) {
        if let Step::Output(ix) = step {
            let name = self.name(*ix);
            self.say(format!(">> output to {name}"));
            self.report.outputs.push(name);
        }
    }

    fn tunnel(&mut self, port: &str, remote: IpAddr, hop: &NextHop) {
        let (source, device) = (hop.source, self.name(hop.port));
        self.say(format!(">> into {port}: {source} -> {remote}, leaves by {device}"));
        self.report.outputs.push(port.to_owned());
    }

    fn dropped(&mut self, reason: Drop) {
        self.say(format!(">> dropped: {} ({})", reason.name(), reason.help()));
        self.report.drop_reason = Some(reason.name().to_owned());
    }

    fn depends(&mut self, table: u8, on: Depends, seen: &Mask) {
        let seen = &of_packet(seen);
        let fresh: Vec<&str> = FIELDS
            .iter()
            .filter(|f| f.is_primary && f.get(seen) & !f.get(&self.seen) != 0)
            .map(|f| f.name)
            .collect();
        if !fresh.is_empty() {
            let why = match on {
                Depends::Lookup => "the lookup in",
                Depends::Actions => "what was met in",
            };
            self.reasons.push(format!("{}: {why} table {table}", fresh.join(", ")));
        }
        self.seen = *seen;
    }

    fn megaflow(&mut self, own: &FlowKey, seen: &Mask, may_be: bool) {
        let mut mask = of_packet(seen);
        mask.in_port = u32::MAX;
        let wide = Match { key: own.and(&mask), mask };
        self.report.megaflow = match (may_be, self.tracked) {
            (true, false) => {
                let names = WithOptions { ports: &NoNames, map: &self.options };
                print_match(&wide, DEFAULT_PRIORITY, &names)
            }
            (_, true) => "none: the walk went through connection tracking".to_owned(),
            (false, false) => "none: later packets may go another way".to_owned(),
        };
    }

    fn note(&mut self, text: &str) {
        self.say(format!(">> {text}"));
    }

    fn ct(&mut self, zone: u16, ct: &Ct, packet: &CtPacket) -> CtResult {
        self.tracked = true;
        let commit = if ct.commit { ", would commit" } else { "" };
        self.say(format!(">> ct zone {zone}{commit}: supposed to be +trk+new"));
        Silent.ct(zone, ct, packet)
    }
}
