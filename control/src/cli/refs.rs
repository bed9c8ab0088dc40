//! `sluice group`, `sluice meter` and `sluice tlv-map`: words to calls, answers to text.

use super::args::{Group, Meter, RefShow, RefText, TlvMap};
use super::{Failure, text_of};
use crate::api::types::{
    GroupInfo, MeterInfo, RefChange, RefKind, RefOp, RefSummary, Request, TlvChange, TlvInfo, TlvOp,
};
use std::fmt::Write;

pub(super) fn group(group: &Group) -> Result<Request, Failure> {
    let change = |op, text: &RefText, may_create| change(RefKind::Group, op, text, may_create);
    match group {
        Group::Add(text) => change(RefOp::Add, text, false),
        Group::Mod { text, may_create } => change(RefOp::Modify, text, *may_create),
        Group::Del(text) => change(RefOp::Delete, text, false),
        Group::InsertBuckets(text) => change(RefOp::InsertBuckets, text, false),
        Group::RemoveBuckets(text) => change(RefOp::RemoveBuckets, text, false),
        Group::Dump(RefShow { bridge, id }) | Group::Stats(RefShow { bridge, id }) => {
            Ok(Request::GroupDump { bridge: bridge.clone(), id: *id })
        }
    }
}

pub(super) fn meter(meter: &Meter) -> Result<Request, Failure> {
    let change = |op, text: &RefText| change(RefKind::Meter, op, text, false);
    match meter {
        Meter::Add(text) => change(RefOp::Add, text),
        Meter::Mod(text) => change(RefOp::Modify, text),
        Meter::Del(text) => change(RefOp::Delete, text),
        Meter::Dump(RefShow { bridge, id }) | Meter::Stats(RefShow { bridge, id }) => {
            Ok(Request::MeterDump { bridge: bridge.clone(), id: *id })
        }
    }
}

fn change(kind: RefKind, op: RefOp, text: &RefText, may_create: bool) -> Result<Request, Failure> {
    if op != RefOp::Delete && text.lines.is_empty() && text.file.is_none() {
        let what = if kind == RefKind::Group { "group" } else { "meter" };
        return Err(Failure {
            message: format!("no {what} was given"),
            hint: "give them as words, or --file FILE (- is the standard input)".into(),
        });
    }
    let content = text_of(&text.lines, text.file.as_deref())?;
    let bridge = text.bridge.clone();
    Ok(Request::Ref(RefChange { kind, op, bridge, text: content, may_create }))
}

pub(super) fn tlv_map(map: &TlvMap) -> Request {
    let change = |op, bridge: &String, options: &[String]| {
        Request::Tlv(TlvChange { op, bridge: bridge.clone(), text: options.join(",") })
    };
    match map {
        TlvMap::Add { bridge, options } => change(TlvOp::Add, bridge, options),
        TlvMap::Del { bridge, options } => change(TlvOp::Delete, bridge, options),
        TlvMap::Dump { bridge } => Request::TlvDump { bridge: bridge.clone() },
    }
}

/// A change says nothing, as with `ovs-ofctl`; a dump is what `ovs-ofctl dump-tlv-map` prints below
/// its first line.
pub(super) fn tlv_info(map: &TlvInfo, changed: bool, out: &mut String) {
    if !changed {
        _ = writeln!(out, "{}", map.text);
    }
}

pub(super) fn summary(s: &RefSummary, out: &mut String) {
    let (changed, flows) = (s.changed, s.flows_deleted);
    _ = match flows {
        0 => writeln!(out, "{changed} changed"),
        _ => writeln!(out, "{changed} changed, {flows} flows deleted with what they used"),
    };
}

/// The lines of `ovs-ofctl dump-groups` or `dump-group-stats`.
pub(super) fn groups(list: &[GroupInfo], stats: bool, out: &mut String) {
    for g in list {
        _ = writeln!(out, "{}", if stats { &g.stats_text } else { &g.text });
    }
}

/// The lines of `ovs-ofctl dump-meters` or `meter-stats`.
pub(super) fn meters(list: &[MeterInfo], stats: bool, out: &mut String) {
    for m in list {
        _ = writeln!(out, "{}", if stats { &m.stats_text } else { &m.text });
    }
}
