//! `sluice conntrack`: words to calls, answers to text, in the words and lines of `ovs-appctl
//! dpctl/`.

use super::args::{Conntrack, CtLimit, OnOff};
use super::{Client, Failure, Global, write_json};
use crate::api::types::{
    ConnInfo, ConnPage, ConnQuery, ConnTuple, CtChange, CtLimits, CtStatus, NamedCount, Reply,
    Request, ZoneInfo, ZoneLimit,
};
use serde_json::json;
use std::fmt::Write;

/// How much a line says.
#[derive(Clone, Copy, Default)]
struct Form {
    more: bool,
    statistics: bool,
}

pub(super) fn run(
    command: &Conntrack,
    client: &mut Client,
    global: &Global,
    out: &mut String,
) -> Result<(), Failure> {
    let json = global.json || global.pretty;
    match command {
        Conntrack::List { filter, zone, limit, more, statistics } => {
            let form = Form { more: *more, statistics: *statistics };
            let limit = limit.unwrap_or(usize::MAX);
            let mut all = Vec::new();
            pages(client, filter_text(filter, *zone), limit, |list| {
                if json { all.extend(list) } else { conns(&list, form, out) }
            })?;
            if json {
                write_json(&all, global, out);
            }
        }
        Conntrack::Flush { filter, zone, all: _ } => {
            let filter = filter_text(filter, *zone);
            let Reply::Removed(count) = client.call(Request::ConntrackFlush { filter })? else {
                return Err(strange());
            };
            if json {
                write_json(&json!({ "removed": count }), global, out);
            } else {
                _ = writeln!(out, "{count} removed");
            }
        }
        Conntrack::Stats { filter } => {
            let filter = filter_text(filter, None);
            let Reply::CtStatus(s) = client.call(Request::ConntrackStatus { filter })? else {
                return Err(strange());
            };
            if json { write_json(&s, global, out) } else { status(&s, out) }
        }
        Conntrack::Limit(CtLimit::Get { zones }) => {
            let shown = of_zones(limits(client)?, zones);
            if json { write_json(&shown, global, out) } else { print_limits(&shown, out) }
        }
        Conntrack::Limit(CtLimit::Set { limits }) => {
            change(client, limit_words(limits)?, global, out)?
        }
        Conntrack::Limit(CtLimit::Del { zones }) => {
            let limits = zones.iter().map(|zone| ZoneLimit { zone: *zone, limit: None }).collect();
            change(client, CtChange { limits, ..CtChange::default() }, global, out)?;
        }
        Conntrack::TcpSeqCheck { state } => seq_check(*state, client, global, out)?,
        Conntrack::Max { conns } => max(*conns, client, global, out)?,
    }
    Ok(())
}

fn seq_check(
    state: Option<OnOff>,
    client: &mut Client,
    global: &Global,
    out: &mut String,
) -> Result<(), Failure> {
    if let Some(state) = state {
        let tcp_seq_check = Some(state == OnOff::On);
        return change(client, CtChange { tcp_seq_check, ..CtChange::default() }, global, out);
    }
    let on = limits(client)?.tcp_seq_check;
    if global.json || global.pretty {
        write_json(&json!({ "tcp_seq_check": on }), global, out);
    } else {
        let state = if on { "enabled" } else { "disabled" };
        _ = writeln!(out, "TCP sequence checking: {state}");
    }
    Ok(())
}

fn max(
    conns: Option<u32>,
    client: &mut Client,
    global: &Global,
    out: &mut String,
) -> Result<(), Failure> {
    if conns.is_some() {
        return change(client, CtChange { conns_max: conns, ..CtChange::default() }, global, out);
    }
    let now = limits(client)?;
    if global.json || global.pretty {
        let both = json!({ "conns": now.conns, "conns_max": now.conns_max });
        write_json(&both, global, out);
    } else {
        _ = writeln!(out, "{}", now.conns_max);
    }
    Ok(())
}

fn strange() -> Failure {
    Failure {
        message: "the daemon answered with something else".into(),
        hint: "it may be of another version; `sluice show` tells".into(),
    }
}

fn filter_text(words: &[String], zone: Option<u16>) -> String {
    let zone = zone.map(|z| format!("zone={z}"));
    zone.into_iter().chain(words.iter().cloned()).collect::<Vec<_>>().join(" ")
}

/// Hands over page after page, at most `limit` connections.
fn pages(
    client: &mut Client,
    filter: String,
    mut limit: usize,
    mut take: impl FnMut(Vec<ConnInfo>),
) -> Result<(), Failure> {
    let mut from = 0;
    while limit > 0 {
        let query = ConnQuery { filter: filter.clone(), from };
        let Reply::Conns(ConnPage { mut list, next }) =
            client.call(Request::ConntrackList(query))?
        else {
            return Err(strange());
        };
        list.truncate(limit);
        limit -= list.len();
        take(list);
        let Some(next) = next else { break };
        from = next;
    }
    Ok(())
}

fn limits(client: &mut Client) -> Result<CtLimits, Failure> {
    match client.call(Request::ConntrackLimits)? {
        Reply::CtLimits(limits) => Ok(limits),
        _ => Err(strange()),
    }
}

fn change(
    client: &mut Client,
    change: CtChange,
    global: &Global,
    out: &mut String,
) -> Result<(), Failure> {
    client.call(Request::ConntrackSet(change))?;
    if global.json || global.pretty {
        write_json(&json!({ "done": true }), global, out);
    }
    Ok(())
}

/// `default=N` and `zone=Z,limit=N`, as of `dpctl/ct-set-limits`.
fn limit_words(words: &[String]) -> Result<CtChange, Failure> {
    let mut change = CtChange::default();
    for word in words {
        let wrong = || Failure {
            message: format!("\"{word}\" is no limit"),
            hint: "write default=N or zone=Z,limit=N; 0 means no limit".into(),
        };
        if let Some(n) = word.strip_prefix("default=") {
            change.zone_limit = Some(n.parse().map_err(|_| wrong())?);
            continue;
        }
        let zone = word.strip_prefix("zone=").and_then(|rest| rest.split_once(",limit="));
        let (zone, limit) = zone.ok_or_else(wrong)?;
        let zone = zone.parse().map_err(|_| wrong())?;
        let limit = Some(limit.parse().map_err(|_| wrong())?);
        change.limits.push(ZoneLimit { zone, limit });
    }
    Ok(change)
}

/// The zones that are asked for, in their order; without any, those with a limit of their own.
fn of_zones(all: CtLimits, zones: &[u16]) -> CtLimits {
    let of = |zone: &u16| {
        let none = ZoneInfo { zone: *zone, limit: all.default_limit, own: false, count: 0 };
        all.zones.iter().find(|z| z.zone == *zone).copied().unwrap_or(none)
    };
    let shown = if zones.is_empty() {
        all.zones.iter().filter(|z| z.own).copied().collect()
    } else {
        zones.iter().map(of).collect()
    };
    CtLimits { zones: shown, ..all }
}

fn print_limits(l: &CtLimits, out: &mut String) {
    _ = writeln!(out, "default limit={}", l.default_limit);
    for z in &l.zones {
        _ = writeln!(out, "zone={},limit={},count={}", z.zone, z.limit, z.count);
    }
}

/// The lines of `dpctl/ct-stats-show -m`, and what else there is to know.
fn status(s: &CtStatus, out: &mut String) {
    _ = writeln!(out, "Connections Stats:\n    Total: {}", s.total);
    for p in &s.protocols {
        _ = writeln!(out, "  {}: {}", p.name, p.count);
        if p.name == "TCP" && !s.tcp_states.is_empty() {
            out.push_str("    Conn per TCP states:\n");
            s.tcp_states.iter().for_each(|t| _ = writeln!(out, "\t  [{}]={}", t.name, t.count));
        }
    }
    _ = writeln!(
        out,
        "table: {} of {} (room for {}), {} half-open, {} closed; {} MiB reserved",
        s.conns,
        s.conns_max,
        s.places,
        s.half_open,
        s.closed,
        s.reserved_bytes >> 20
    );
    for NamedCount { name, count, help } in &s.events {
        _ = writeln!(out, "  {name:<14} {count:>12}  {help}");
    }
    for p in &s.pools {
        _ = writeln!(
            out,
            "nat {} {} zone={}: {} connections on {} ports, {} found none free",
            p.address, p.proto, p.zone, p.connections, p.ports_used, p.exhausted
        );
    }
}

/// The lines of `ovs-appctl dpctl/dump-conntrack`, with `-m` or `-s`.
fn conns(list: &[ConnInfo], form: Form, out: &mut String) {
    for c in list {
        let proto = &c.proto;
        _ = write!(out, "{proto},orig=({}),reply=({})", tuple(&c.orig), tuple(&c.reply));
        if form.more {
            out.push_str(",id=0");
        }
        if c.zone != 0 {
            _ = write!(out, ",zone={}", c.zone);
        }
        if form.more {
            out.push_str(",status=0");
        }
        if form.statistics {
            _ = write!(out, ",timeout={}", c.expires_s);
        }
        if c.mark != 0 {
            _ = write!(out, ",mark={}", c.mark);
        }
        if !c.labels.is_empty() && c.labels != "0x0" {
            _ = write!(out, ",labels={}", c.labels);
        }
        match (&c.state, &c.state_orig, &c.state_reply) {
            (_, Some(orig), Some(reply)) if form.more => {
                let states = format!("state_orig={orig},state_reply={reply}");
                _ = write!(out, ",protoinfo=({states},flags_orig=0,flags_reply=0)");
            }
            (Some(state), ..) => _ = write!(out, ",protoinfo=(state={state})"),
            _ => {}
        }
        if let Some(helper) = &c.helper {
            _ = write!(out, ",helper={helper}");
        }
        out.push('\n');
    }
}

fn tuple(t: &ConnTuple) -> String {
    let mut text = format!("src={},dst={}", t.src, t.dst);
    let mut add = |key: &str, value: Option<u32>| {
        value.into_iter().for_each(|value| _ = write!(text, ",{key}={value}"));
    };
    add("sport", t.sport.map(u32::from));
    add("dport", t.dport.map(u32::from));
    add("id", t.icmp_id.map(u32::from));
    add("type", t.icmp_type.map(u32::from));
    add("code", t.icmp_code.map(u32::from));
    text
}
