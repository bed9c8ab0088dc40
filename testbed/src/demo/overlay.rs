//! Containers to one another, on one node and over Geneve.

use std::net::{IpAddr, SocketAddr};
use std::process::Command;
use std::time::Duration;

use serde_json::Value;
use sluice_control::api::types::{TraceReport, WorkerCounters};

use super::full_ping;
use super::report::Report;
use super::scene::{INET, NODE1, NODE2, NS1, NS1_MAC, NS2, NS3, NS3_MAC, Scene, WIRE_TO_NODE1};
use crate::capture::Capture;
use crate::host::Host;
use crate::process::{Process, wait_until};
use crate::traffic::{PingOptions, Session, UdpOptions, ping, tcp_transfer, udp_echo};
use crate::vector::describe;
use crate::{Error, Result};

const TCP_BYTES: u64 = 32 << 20;
const TCP_LIMIT: Duration = Duration::from_secs(30);
const TEN: PingOptions =
    PingOptions { count: 10, payload_bytes: 56, interval_ms: 20, wait_s: 1, id: None };

/// (1) ns1 and ns2.
pub fn same_node(scene: &Scene, report: &mut Report) {
    let (a, b) = (&scene.ns1, &scene.ns2);
    report.check("1", "ns1 -> ns2 ping", || full_ping(&a.ns, NS2, TEN));
    report.check("1", "ns1 -> ns2 TCP", || tcp(a, b, NS2));
    report.check("1", "ns2 -> ns1 TCP", || tcp(b, a, NS1));
}

/// (2) ns1 and ns3, through the tunnel.
pub fn across(scene: &Scene, report: &mut Report) {
    let (a, b) = (&scene.ns1, &scene.ns3);
    report.check("2", "ns1 -> ns3 ping", || full_ping(&a.ns, NS3, TEN));
    report.check("2", "ns3 -> ns1 ping", || full_ping(&b.ns, NS1, TEN));
    report.check("2", "ns2 -> ns3 ping", || full_ping(&scene.ns2.ns, NS3, TEN));
    report.check("2", "ns1 -> ns3 ping of the full MTU", || {
        let full = PingOptions { payload_bytes: 1450 - 28, ..TEN };
        full_ping(&a.ns, NS3, full)
    });
    report.check("2", "ns1 -> ns3 TCP", || tcp(a, b, NS3));
    report.check("2", "ns3 -> ns1 TCP", || tcp(b, a, NS1));
    report.check("2", "ns1 -> ns3 UDP and back", || udp(a, b, NS3));
    report.check("2", "ns3 -> ns1 UDP and back", || udp(b, a, NS1));
    report.check("2", "on the underlay: Geneve, VNI 7", || capture(scene));
}

/// The nodes' own stacks on the shared underlay NIC.
pub fn nodes_own(scene: &Scene, report: &mut Report) {
    let (a, b) = (&scene.node1, &scene.node2);
    report.check("2", "node1 -> node2 ping, own addresses", || full_ping(&a.ns, NODE2, TEN));
    report.check("2", "node2 -> node1 TCP session, own addresses", || {
        let mut session = Session::open(&b.ns, &a.ns, SocketAddr::new(NODE1, 22))?;
        Ok(format!("a line each way in {:.3} ms", session.exchange()?.as_secs_f64() * 1e3))
    });
}

/// A transfer of checked bytes.
pub fn tcp(from: &Host, to: &Host, at: IpAddr) -> Result<String> {
    let at = SocketAddr::new(at, 5001);
    let report = tcp_transfer(&from.ns, &to.ns, at, TCP_BYTES, TCP_LIMIT)?;
    Ok(format!("{:.2} Gbit/s, every byte checked", report.gbit_per_s()))
}

/// Datagrams of two sizes; none may be lost or changed.
pub fn udp(from: &Host, to: &Host, at: IpAddr) -> Result<String> {
    let at = SocketAddr::new(at, 5002);
    let mut text = Vec::new();
    for payload_bytes in [32, 1400] {
        let options = UdpOptions { count: 200, payload_bytes, ..UdpOptions::default() };
        let report = udp_echo(&from.ns, &to.ns, at, options)?;
        if (report.returned, report.duplicated, report.damaged) != (200, 0, 0) {
            return Err(Error::Unexpected(format!("{report:?}")));
        }
        text.push(format!("200/200 of {payload_bytes} bytes"));
    }
    Ok(text.join(", "))
}

/// What passes the cable while ns1 pings ns3.
fn capture(scene: &Scene) -> Result<String> {
    let is_geneve = |p: &[u8]| p.get(23) == Some(&17) && p.get(36..38) == Some(&[0x17, 0xc1]);
    let running = Capture::start(&scene.wire.ns, WIRE_TO_NODE1, is_geneve)?;
    let sent = ping(&scene.ns1.ns, NS3, PingOptions { count: 4, ..TEN })?;
    let seen = running.stop()?;
    crate::capture::write_pcap(&scene.dir.path().join("underlay.pcap"), &seen)?;
    let texts: Vec<String> = seen.iter().map(|packet| describe(&packet.bytes)).collect();
    let there =
        format!("/geneve(vni=7)/eth(src={NS1_MAC},dst={NS3_MAC})/ipv4(src={NS1},dst={NS3},");
    let back = format!("/geneve(vni=7)/eth(src={NS3_MAC},dst={NS1_MAC})/ipv4(src={NS3},dst={NS1},");
    let outer = |from, to| format!("/ipv4(src={from},dst={to},");
    let count = |outer: String, inner: &str| {
        texts.iter().filter(|t| t.contains(&outer) && t.contains(inner)).count()
    };
    let requests = count(outer(NODE1, NODE2), &there);
    let replies = count(outer(NODE2, NODE1), &back);
    if requests < 4 || replies < 4 {
        let example = texts.first().cloned().unwrap_or_else(|| "nothing".into());
        let text = format!("{requests} requests, {replies} replies of {sent:?}; e.g. {example}");
        return Err(Error::Unexpected(text));
    }
    Ok(format!("UDP 6081 {NODE1} <-> {NODE2}: {requests} + {replies} frames ns1 <-> ns3 inside"))
}

/// Lookups that a tier answered, over all workers.
fn tier(counters: &[WorkerCounters], name: &str) -> u64 {
    let tiers = counters.iter().flat_map(|worker| &worker.tiers);
    tiers.filter(|tier| tier.name == name).map(|tier| tier.count).sum()
}

/// (4) `sluice pktgen` from ns1 to ns3: at a rate that must get through, then as fast as it goes,
/// where what arrives is shown and not judged.
pub fn generator(scene: &Scene, report: &mut Report) {
    let steady = ["--rate", "20000", "--seconds", "3"];
    report.check("4", "ns1 -> ns3 pktgen, 20000 packets/s", || run_generator(scene, &steady, 1.0));
    let flat_out = ["--seconds", "3"];
    report.check("4", "ns1 -> ns3 pktgen, flat out", || run_generator(scene, &flat_out, 100.0));
}

fn run_generator(scene: &Scene, pace: &[&str], loss_max: f64) -> Result<String> {
    let before: Vec<WorkerCounters> = scene.sluiced1.ask(&["counters"])?;
    let (sent, got) = generate(scene, pace)?;
    let after: Vec<WorkerCounters> = scene.sluiced1.ask(&["counters"])?;
    let field = |value: &Value, key: &str| {
        let number = value.get(key).and_then(Value::as_f64);
        number.ok_or_else(|| Error::Unexpected(format!("no {key} in {value}")))
    };
    let (out, arrived) = (field(&sent, "sent")?, field(&got, "received")?);
    let lost = (out - arrived) / out.max(1.0) * 100.0;
    let hits = |name: &str| tier(&after, name) - tier(&before, name);
    let median_us = got.pointer("/latency_ns/p50").and_then(Value::as_f64).unwrap_or(0.0) / 1e3;
    let text = format!(
        "sent {:.0}/s, came {:.0}/s, lost {lost:.2}%, median {median_us:.0} us; node1: {} tier 1, \
         {} tier 3",
        field(&sent, "packets_per_s")?,
        field(&got, "packets_per_s")?,
        hits("tier1_hits"),
        hits("tier3_walks"),
    );
    let right = lost <= loss_max && arrived > 0.0;
    if right { Ok(text) } else { Err(Error::Unexpected(text)) }
}

/// Runs the sender and the sink as a user would; their reports.
fn generate(scene: &Scene, pace: &[&str]) -> Result<(Value, Value)> {
    let sluice = scene.programs.join("sluice");
    let log = scene.dir.path().join("pktgen-sink.log");
    // A log is appended to; this one is the answer of one run.
    let _ = std::fs::remove_file(&log);
    let mut sink = Command::new(&sluice);
    sink.args(["--json", "pktgen", "sink", "--dev", "eth0", "--seconds", "20", "--idle", "1"]);
    let mut sink = Process::start(&scene.ns3.ns, &mut sink, &log)?;
    wait_until("the sink", Duration::from_secs(5), || {
        sink.output().contains("receiving on").then_some(())
    })?;
    let (src, dst) = (NS1.to_string(), NS3.to_string());
    let mut send = Command::new(&sluice);
    send.args(["--json", "pktgen", "send", "--dev", "eth0", "--src-mac", NS1_MAC]);
    send.args(["--dst-mac", NS3_MAC, "--src", &src, "--dst", &dst, "--flows", "100"]);
    send.args(["--sizes", "64"]).args(pace);
    let out = scene.ns1.ns.output(&mut send)?;
    sink.wait(Duration::from_secs(25))?;
    let parse = |text: &str| {
        let line = text.lines().find(|line| line.starts_with('{')).unwrap_or_default();
        serde_json::from_str(line).map_err(|e| Error::Unexpected(format!("{e}: {text}")))
    };
    let complaint = String::from_utf8_lossy(&out.stderr).into_owned();
    let sent = String::from_utf8_lossy(&out.stdout).into_owned() + &complaint;
    Ok((parse(&sent)?, parse(&sink.output())?))
}

/// (5) A packet's way through the tables, without sending it.
pub fn trace(scene: &Scene, report: &mut Report) {
    report.check("5", "sluice trace ns1 -> inet", || {
        let packet = format!(
            "in_port=ns1,tcp,dl_src={NS1_MAC},dl_dst=02:00:00:00:ff:01,nw_src={NS1},nw_dst={INET},\
             nw_ttl=64,tp_src=1234,tp_dst=80"
        );
        let trace: TraceReport = scene.sluiced1.ask(&["trace", "br1", &packet])?;
        let tables: Vec<String> =
            trace.steps.iter().filter_map(|s| s.table).map(|t| t.to_string()).collect();
        let tables = tables.join(" ");
        let text = format!("tables {tables}, out of {}", trace.outputs.join(", "));
        let right = tables == "0 10 30 31 32" && trace.outputs == ["uplink0"];
        if right { Ok(text) } else { Err(Error::Unexpected(format!("{text}\n{}", trace.text))) }
    });
}
