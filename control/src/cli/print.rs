//! Answers as text for people.

use std::fmt::Write;

use super::table::Table;
use crate::api::types::{
    BridgeInfo, FdbEntry, FlowInfo, FlowSummary, PortInfo, SwitchInfo, TableInfo, TraceReport,
    TunnelInfo, WorkerCounters,
};
use crate::doctor::{Level, Report};
use sluice_dataplane::limits::RULES_PER_TABLE_MAX;

pub(super) fn show(s: &SwitchInfo, out: &mut String) {
    _ = writeln!(out, "sluiced {}, pid {}, up {}", s.sluice_version, s.pid, duration(s.uptime_s));
    _ = writeln!(out, "config {}, program version {}", s.config_file.display(), s.program_version);
    let pages = if s.hugepages { ", huge pages" } else { "" };
    _ = writeln!(
        out,
        "frames {} of {} bytes, {} free{pages}; connections {} of {}",
        s.frames, s.frame_size_bytes, s.frames_free, s.conns, s.conns_max
    );
    for w in &s.workers {
        let cpu = w.cpu.map_or_else(|| "any cpu".to_owned(), |cpu| format!("cpu {cpu}"));
        let (n, rx, busy) = (w.worker, w.rx_packets, w.busy_percent);
        _ = write!(out, "worker {n}: {cpu}, {rx} packets, busy {busy} %");
        if s.workers.len() > 1 {
            let (over, free, conns) = (w.handed_over, w.frames_free, w.conns);
            _ = write!(out, ", handed over {over}, {free} frames free, {conns} connections");
        }
        out.push('\n');
    }
    for b in &s.bridges {
        let (mac, mode, flows) = (&b.mac, &b.fail_mode, b.flows);
        _ = writeln!(out, "bridge {}: {mac}, {mode}, {flows} flows", b.name);
        // Of tables only those with a limit of their own.
        let is_limited = |t: &&TableInfo| {
            t.flows_max != RULES_PER_TABLE_MAX as u64 || t.overflow_policy != "refuse"
        };
        for t in b.tables.iter().filter(is_limited) {
            let (n, flows, max, full) = (t.table, t.flows, t.flows_max, &t.overflow_policy);
            _ = writeln!(out, "  table {n}: {flows} of {max} flows, when full {full}");
        }
        port_table(&b.ports, (false, s.workers.len() > 1), 2, out);
    }
}

fn duration(seconds: u64) -> String {
    let (days, hours) = (seconds / 86_400, seconds / 3600 % 24);
    let (minutes, seconds) = (seconds / 60 % 60, seconds % 60);
    let days = if days > 0 { format!("{days} d ") } else { String::new() };
    format!("{days}{hours:02}:{minutes:02}:{seconds:02}")
}

pub(super) fn bridges(list: &[BridgeInfo], out: &mut String) {
    let mut table = Table::new(&["name", "mac", "fail mode", "ports", "flows", "fdb", "flow file"]);
    for b in list {
        let file = b.flow_file.as_ref().map(|f| f.display().to_string()).unwrap_or_default();
        let ports = b.ports.len();
        table.row(&[&b.name, &b.mac, &b.fail_mode, &ports, &b.flows, &b.fdb_entries, &file]);
    }
    table.write(0, out);
}

pub(super) fn ports(list: &[PortInfo], out: &mut String) {
    // A list does not say how many workers there are.
    let many = list.iter().any(|p| p.workers.iter().any(|worker| *worker > 0));
    port_table(list, (true, many), 0, out);
}

/// With a column of bridges, and one of workers.
fn port_table(list: &[PortInfo], (bridge, workers): (bool, bool), indent: usize, out: &mut String) {
    let mut heading =
        vec!["no", "name", "type", "device", "state", "rx pkts", "tx pkts", "drops", "status"];
    if workers {
        heading.insert(5, "workers");
    }
    if bridge {
        heading.insert(0, "bridge");
    }
    let mut table = Table::new(&heading);
    for p in list {
        let number = if p.number == crate::config::PORT_LOCAL {
            "LOCAL".to_owned()
        } else {
            p.number.to_string()
        };
        let c = &p.counters;
        let drops = c.rx_no_frame
            + c.rx_errors
            + c.tx_ring_full
            + c.tx_errors
            + c.kernel_rx_dropped
            + c.kernel_rx_ring_full;
        let device = p.device.clone().unwrap_or_default();
        let state = if p.up { "up" } else { "down" };
        let options: Vec<String> = p.options.iter().map(|(k, v)| format!("{k}={v}")).collect();
        let status = [p.status.clone(), options.join(" ")].join(" ").trim().to_owned();
        let (rx, tx) = (c.rx_packets, c.tx_packets);
        let mut cells: Vec<&dyn std::fmt::Display> =
            vec![&number, &p.name, &p.kind, &device, &state, &rx, &tx, &drops, &status];
        let served: Vec<String> = p.workers.iter().map(usize::to_string).collect();
        let served = served.join(",");
        if workers {
            cells.insert(5, &served);
        }
        if bridge {
            cells.insert(0, &p.bridge);
        }
        table.row(&cells);
    }
    table.write(indent, out);
}

pub(super) fn flow_summary(s: &FlowSummary, out: &mut String) {
    let (added, modified, deleted) = (s.added, s.modified, s.deleted);
    _ = writeln!(out, "{added} added, {modified} modified, {deleted} deleted");
}

/// The lines of `ovs-ofctl dump-flows`.
pub(super) fn flows(list: &[FlowInfo], stats: bool, out: &mut String) {
    for f in list {
        if !stats {
            _ = writeln!(out, "{}", f.text);
            continue;
        }
        let (cookie, age, table) = (f.cookie, f.duration_s, f.table);
        let (packets, bytes) = (f.n_packets, f.n_bytes);
        _ = write!(
            out,
            " cookie={cookie:#x}, duration={age:.3}s, table={table}, n_packets={packets}, \
             n_bytes={bytes}, "
        );
        if let Some(idle) = f.idle_age_s {
            _ = write!(out, "idle_age={idle}, ");
        }
        let comma = if f.matches.is_empty() { "" } else { "," };
        _ = writeln!(out, "priority={}{comma}{} actions={}", f.priority, f.matches, f.actions);
    }
}

pub(super) fn fdb(list: &[FdbEntry], out: &mut String) {
    let mut table = Table::new(&["port", "vlan", "mac", "age"]);
    for e in list {
        table.row(&[&e.port, &e.vlan, &e.mac, &e.age_s]);
    }
    table.write(0, out);
}

pub(super) fn trace(report: &TraceReport, out: &mut String) {
    out.push_str(report.text.trim_end());
    out.push('\n');
}

pub(super) fn tunnels(list: &[TunnelInfo], out: &mut String) {
    let heading =
        ["bridge", "port", "type", "remote", "local", "key", "device", "next hop", "mac", "state"];
    let mut table = Table::new(&heading);
    for t in list {
        let or = |text: &Option<String>| text.clone().unwrap_or_default();
        let state = if t.ready { "ready".to_owned() } else { format!("not ready: {}", t.reason) };
        let (local, device) = (or(&t.local), or(&t.device));
        let (hop, mac) = (or(&t.next_hop), or(&t.next_hop_mac));
        table.row(&[
            &t.bridge, &t.port, &t.kind, &t.remote, &local, &t.key, &device, &hop, &mac, &state,
        ]);
    }
    table.write(0, out);
}

pub(super) fn counters(list: &[WorkerCounters], out: &mut String) {
    for w in list {
        let cpu = w.cpu.map_or_else(|| "any cpu".to_owned(), |cpu| format!("cpu {cpu}"));
        let (n, rx, tx, batches) = (w.worker, w.rx_packets, w.tx_packets, w.batches);
        _ = writeln!(out, "worker {n} ({cpu}): {rx} rx, {tx} tx, {batches} batches");
        let all: u64 = w.tiers.iter().map(|t| t.count).sum();
        for tier in &w.tiers {
            let share = tier.count as f64 * 100.0 / all.max(1) as f64;
            _ = writeln!(out, "  tier {:<12} {:>12}  {share:5.1} %", tier.name, tier.count);
        }
        for (title, counts) in [("drop", &w.drops), ("count", &w.other), ("control", &w.control)] {
            for c in counts {
                let line = format!("  {title} {:<24} {:>12}  {}", c.name, c.count, c.help);
                _ = writeln!(out, "{}", line.trim_end());
            }
        }
    }
}

pub(super) fn doctor(report: &Report, out: &mut String) {
    for f in &report.findings {
        let level = match f.level {
            Level::Ok => "ok  ",
            Level::Warn => "warn",
            Level::Fail => "FAIL",
        };
        _ = writeln!(out, "{level}  {}: {}", f.what, f.why);
        if !f.fix.is_empty() {
            _ = writeln!(out, "      do: {}", f.fix);
        }
    }
}
