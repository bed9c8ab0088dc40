//! The backend with real devices: `sluiced` on veth pairs, packets by AF_PACKET at their far ends.
//!
//! Each `memory` port of the vector becomes a port of type `afxdp`; addresses, routes and
//! neighbours that the vector states go into the kernel of the switch's namespace. Packets are sent
//! one at a time, the next when nothing more comes out for the last, so that ports cannot overtake
//! one another.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use sluice_control::api::types::ApiError;
use sluice_control::config::Config;
use sluice_control::pktgen::socket::{BurstSocket, Sees};

use super::replay::ABOUT_SPEED;
use super::{Backend, Outcome, PortPackets, Vector};
use crate::Result;
use crate::host::Host;
use crate::netns::Namespace;
use crate::sluiced::Daemon;
use crate::veth::{End, VethOptions, join};

/// Silence after a packet came out that means the switch is done with the one that went in.
const SETTLED: Duration = Duration::from_millis(5);
/// The same when nothing came out: it is dropped, or the machine is busy.
const DROPPED: Duration = Duration::from_millis(100);
/// Waited at the end for packets that must still come.
const LATE: Duration = Duration::from_secs(3);
const SLOT_BYTES: usize = 4096;

/// `sluiced` on veth pairs.
#[derive(Clone, Copy, Debug, Default)]
pub struct Live {
    /// So many; else as the environment says, or one.
    pub workers: Option<u8>,
}

impl Backend for Live {
    fn name(&self) -> &str {
        if self.workers.is_some() { "sluiced with workers on veth" } else { "sluiced on veth" }
    }

    fn run(&mut self, vector: &Vector) -> Result<Outcome, String> {
        play(vector, self.workers).map_err(|error| error.to_string())
    }

    fn is_live(&self) -> bool {
        true
    }

    fn is_shared(&self) -> bool {
        let asked = || std::env::var("SLUICE_TEST_WORKERS").ok()?.parse().ok();
        self.workers.or_else(asked).is_some_and(|n| n > 1)
    }

    /// The namespaces are quiet: no packet is there that the vector did not send.
    fn counts(&self) -> bool {
        true
    }
}

fn play(vector: &Vector, workers: Option<u8>) -> Result<Outcome> {
    let text = config_text(vector)?;
    let config = Config::parse("vector".as_ref(), &text)
        .map_err(|error| crate::Error::Unexpected(error.to_string()))?;
    let (switch, hosts) = (Host::new("switch")?, Host::new("hosts")?);
    for host in [&switch, &hosts] {
        host.ns.quiet()?;
    }
    let ports = config.bridges.iter().flat_map(|bridge| &bridge.ports);
    let ports: Vec<_> = ports.filter_map(|p| Some((p.name.clone(), p.device()?, p))).collect();
    let wired = |dev: &str| ports.iter().any(|(_, d, p)| *d == dev && p.kind.name() == "afxdp");
    for (_, dev, _) in ports.iter().filter(|(_, dev, _)| wired(dev)) {
        let ends = (End { ns: &switch.ns, dev }, End { ns: &hosts.ns, dev });
        join(ends.0, ends.1, VethOptions::default())?;
    }
    teach_kernel(&switch.ns, &config)?;
    let workers = workers.map_or(String::new(), |n| format!("workers = {n}\n"));
    let daemon = Daemon::start(&switch.ns, &(workers + &text), &vector.flows)?;
    let mut sockets = BTreeMap::new();
    for (name, dev, _) in &ports {
        daemon.wait_port(name, true)?;
        // A port that is a kernel interface of the switch's own has its far end there.
        let ns = if wired(dev) { &hosts.ns } else { &switch.ns };
        let socket = ns.run(|| BurstSocket::open(dev, Sees::Entering, SLOT_BYTES));
        let socket = socket.map_err(crate::Error::io(format!("open {dev}")))?;
        sockets.insert(name.clone(), socket);
    }
    let out = exchange(vector, &mut sockets)?;
    Ok(Outcome { out, counters: counters(&daemon, &config)? })
}

/// As replay names them.
fn counters(daemon: &Daemon, config: &Config) -> Result<BTreeMap<String, u64>> {
    let failed = |error: ApiError| crate::Error::Unexpected(error.to_string());
    let mut all = BTreeMap::new();
    for (name, count) in daemon.counters().map_err(failed)? {
        if name.starts_with("drop ") {
            all.insert(name, count);
        } else if !ABOUT_SPEED.contains(&name.as_str()) && name != "busy_ns" {
            all.insert(format!("stat {name}"), count);
        }
    }
    all.insert("conntrack entries".into(), daemon.show().map_err(failed)?.conns);
    for bridge in config.bridges.iter().map(|bridge| &bridge.name) {
        for flow in daemon.flows_of(bridge, "").map_err(failed)? {
            let table =
                if flow.table == 0 { String::new() } else { format!("table={}, ", flow.table) };
            let gap = if flow.matches.is_empty() { "" } else { " " };
            let text = format!("{table}{}{gap}actions={}", flow.matches, flow.actions);
            all.insert(format!("flow {bridge} {text}"), flow.n_packets);
        }
    }
    Ok(all)
}

/// The vector's configuration, with real devices for memory.
fn config_text(vector: &Vector) -> Result<String> {
    let port = |name: &String| {
        let number = name.trim_start_matches('p');
        format!("[[bridge.port]]\nname = \"{name}\"\nnumber = {number}\ntype = \"memory\"\n")
    };
    let text = match &vector.switch {
        Some(path) => std::fs::read_to_string(path)
            .map_err(crate::Error::io(format!("read {}", path.display())))?,
        None => {
            let ports: String = vector.ports().iter().map(port).collect();
            format!("[[bridge]]\nname = \"br0\"\n{ports}")
        }
    };
    let text = text.replace("type = \"memory\"", "type = \"afxdp\"");
    Ok(text.replacen("[[bridge]]\n", "[[bridge]]\nflow_file = \"flows\"\n", 1))
}

/// Tells the kernel what the vector says of the underlay.
fn teach_kernel(ns: &Namespace, config: &Config) -> Result<()> {
    for address in &config.addresses {
        let dev = &address.device;
        if let Some(mac) = address.mac {
            ns.ip(&format!("link set {dev} address {mac}"))?;
        }
        ns.ip(&format!("addr add {} dev {dev}", address.address))?;
    }
    for route in &config.routes {
        let via = route.via.map_or(String::new(), |via| format!(" via {via}"));
        ns.ip(&format!("route replace {}{via} dev {}", route.destination, route.device))?;
    }
    for n in &config.neighbours {
        let (address, mac, dev) = (n.address, n.mac, &n.device);
        ns.ip(&format!("neigh replace {address} lladdr {mac} dev {dev} nud permanent"))?;
    }
    Ok(())
}

/// Sends all packets in order and gathers what comes out.
fn exchange(vector: &Vector, sockets: &mut BTreeMap<String, BurstSocket>) -> Result<PortPackets> {
    let mut out = PortPackets::new();
    for packet in &vector.input {
        let what = format!("send a packet of {} bytes by {}", packet.bytes.len(), packet.port);
        let unknown = || crate::Error::Unexpected(format!("no port {}", packet.port));
        let socket = sockets.get_mut(&packet.port).ok_or_else(unknown)?;
        socket.send_burst(&[&packet.bytes]).map_err(crate::Error::io(what))?;
        gather(sockets, &mut out, |quiet, any| quiet >= if any { SETTLED } else { DROPPED })?;
    }
    let count = |out: &PortPackets| out.values().map(Vec::len).sum::<usize>();
    let end = Instant::now() + LATE;
    while count(&out) < vector.expected_packets() && Instant::now() < end {
        gather(sockets, &mut out, |quiet, _| quiet >= SETTLED)?;
    }
    Ok(out)
}

/// Takes packets until `done` of the time without any, and whether any came.
fn gather(
    sockets: &mut BTreeMap<String, BurstSocket>,
    out: &mut PortPackets,
    done: impl Fn(Duration, bool) -> bool,
) -> Result<()> {
    let (mut last, mut any) = (Instant::now(), false);
    while !done(last.elapsed(), any) {
        let mut came = 0;
        for (port, socket) in &mut *sockets {
            let got = socket.receive_burst(Duration::ZERO);
            came += got.map_err(crate::Error::io(format!("receive from {port}")))?;
            for packet in socket.packets() {
                out.entry(port.clone()).or_default().push(packet.into_owned());
            }
        }
        if came > 0 {
            (last, any) = (Instant::now(), true);
        } else {
            std::thread::sleep(Duration::from_micros(200));
        }
    }
    Ok(())
}
