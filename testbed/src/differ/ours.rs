//! sluice on a case: the engine behind `sluice replay`, in this process.

use std::collections::BTreeMap;
use std::fmt::Write;
use std::path::Path;
use std::sync::Arc;

use sluice_control::config::{Config, PortType};
use sluice_control::flow::parse_flow;
use sluice_control::model::Model;
use sluice_control::netlink::underlay::Underlay;
use sluice_control::replay::{Caches, Engine, Packet, Sent};
use sluice_dataplane::counters::Drop;
use sluice_dataplane::packet::build::PacketBuilder;
use sluice_dataplane::packet::key::FlowKey;

use super::case::{BRIDGES, Case, CaseFlow, CasePacket, Outcome, Output, Reference};

/// Time between two packets: short against every timeout.
const STEP_NS: u64 = 10_000;

/// Drops of packets that meet a bound of walks.
const BOUNDS: &[Drop] = &[Drop::ResubmitDepth, Drop::ResubmitCount, Drop::OutputCount];

/// The scene as a configuration.
pub fn switch_toml() -> String {
    let mut text = String::new();
    for bridge in BRIDGES {
        let _ = writeln!(text, "[[bridge]]\nname = \"{}\"\nfail_mode = \"secure\"", bridge.name);
        let _ = writeln!(text, "[[bridge.port]]\nname = \"{}\"\ntype = \"internal\"", bridge.name);
        for p in bridge.ports {
            let _ = writeln!(text, "[[bridge.port]]\nname = \"{}\"", p.name);
            let _ = writeln!(text, "number = {}", p.number);
            let _ = match p.peer {
                Some(peer) => writeln!(text, "type = \"patch\"\npeer = \"{peer}\""),
                None => writeln!(text, "type = \"memory\""),
            };
        }
    }
    text
}

/// Whether sluice's parser takes a flow, and if not, why.
pub fn takes(text: &str) -> Result<(), String> {
    let flow = parse_flow(text, &sluice_control::flow::NoNames).map_err(|e| e.to_string())?;
    drop(flow);
    Ok(())
}

/// Table, value and mask of a flow's match.
pub fn place_of(text: &str) -> Option<(u8, FlowKey, FlowKey)> {
    let flow = parse_flow(text, &sluice_control::flow::NoNames).ok()?;
    let (value, mask) = (flow.match_.key, flow.match_.mask);
    Some((flow.table, value.and(&mask), mask))
}

/// Whether sluice takes a flow and plays packets through it.
pub fn runs(text: &str) -> bool {
    let ip = PacketBuilder::eth([2; 6], [4; 6]).ipv4([10, 0, 0, 1], [10, 0, 0, 2]).tcp(1, 2);
    let mut mpls = PacketBuilder::eth([2; 6], [4; 6]).eth_type(0x8847).build();
    mpls.extend([0, 1, 1, 64]);
    mpls.extend(&ip.clone().build()[14..]);
    let flow = CaseFlow { bridge: 0, cookie: 1, text: text.to_owned() };
    let packet = |bytes| CasePacket { port: "p1", bytes };
    let refs = [("group", "group_id=1,type=all"), ("meter", "meter=1,kbps,bands=type=drop,rate=9")];
    let refs = refs.map(|(what, text)| Reference { bridge: 0, what, text: text.to_owned() });
    let packets = vec![packet(ip.build()), packet(mpls)];
    let case = Case { refs: refs.into(), flows: vec![flow], packets };
    play(&case, Caches::default()).is_ok()
}

/// Plays a case.
pub fn play(case: &Case, caches: Caches) -> Result<Outcome, String> {
    let text = switch_toml();
    let mut config =
        Config::parse(Path::new("differ.toml"), &text).map_err(|e| format!("{e}\n{text}"))?;
    let net = Underlay::of_config(&config);
    for port in config.bridges.iter_mut().flat_map(|b| b.ports.iter_mut()) {
        if port.device().is_some() {
            port.kind = PortType::Memory;
        }
    }
    let mut model = Model::new(&config, 1).map_err(|e| e.to_string())?;
    model.set_net(Arc::new(net));
    for bridge in &mut model.bridges {
        bridge.ports.iter_mut().for_each(|p| p.up = true);
    }
    let loaded = model.load_flows("flows.txt".into(), &case.flow_file(), BRIDGES[0].name, 0);
    loaded.map_err(|e| e.to_string())?;
    let ports: BTreeMap<String, _> =
        model.ports().map(|(_, p)| (p.config.name.clone(), p.ix)).collect();
    let names: BTreeMap<u16, &str> = ports.iter().map(|(n, ix)| (ix.0, n.as_str())).collect();
    let mut engine = Engine::new(&config, model.program(), caches).map_err(|e| e.to_string())?;
    let mut outcome = Outcome::default();
    let mut bounds_met = 0;
    for (at, p) in case.packets.iter().enumerate() {
        let port = *ports.get(p.port).ok_or_else(|| format!("no port {}", p.port))?;
        let (ts_ns, bytes) = (at as u64 * STEP_NS, p.bytes.clone());
        let packet = Packet { ts_ns, port, is_fresh: false, bytes };
        let mut out = Output::new();
        let mut take = |sent: Sent<'_>| {
            let name = names.get(&sent.port.0).copied().unwrap_or("?");
            out.entry(name.to_owned()).or_default().push(sent.bytes.to_vec());
        };
        engine.play(&packet, &mut take).map_err(|e| e.to_string())?;
        engine.follow(&mut model);
        let counters = engine.lane.counters();
        let met: u64 = BOUNDS.iter().map(|bound| counters.dropped(*bound)).sum();
        if std::mem::replace(&mut bounds_met, met) < met {
            outcome.limited.insert(at);
        }
        outcome.out.push(out);
    }
    engine.finish();
    for (at, bridge) in model.bridges.iter().enumerate() {
        for stored in bridge.flows.sorted() {
            let hits = outcome.hits.entry((at, stored.rule.cookie)).or_default();
            *hits += stored.rule.stats.packets();
        }
    }
    Ok(outcome)
}
