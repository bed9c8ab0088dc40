//! Groups as `ovs-ofctl` 3.1 prints them: `dump-groups`, `dump-group-stats`.

use super::action_print::write_actions;
use super::group::{Bucket, Group, Method, Selection};
use super::ports::{PortNames, write_port};
use super::print::write_duration;
use super::value::write_masked;
use sluice_dataplane::action::group::GroupKind;
use sluice_dataplane::packet::field::ones;
use std::fmt::Write;
use std::time::Duration;

/// What a group has counted.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct GroupStats {
    pub duration: Duration,
    /// Flows and buckets that name it.
    pub ref_count: u32,
    pub packets: u64,
    pub bytes: u64,
    /// Packets and bytes of each bucket, in its place.
    pub buckets: Vec<(u64, u64)>,
}

pub fn kind_name(kind: GroupKind) -> &'static str {
    match kind {
        GroupKind::All => "all",
        GroupKind::Select => "select",
        GroupKind::Indirect => "indirect",
        GroupKind::FastFailover => "ff",
    }
}

/// A line of `dump-groups`, without the blank before it. It can be read back to an equal group.
pub fn print_group(group: &Group, names: &dyn PortNames) -> String {
    let mut out = format!("group_id={},type={}", group.id, kind_name(group.kind));
    write_selection(&mut out, &group.selection, names);
    for bucket in &group.buckets {
        out.push(',');
        write_bucket(&mut out, bucket, group.kind, names);
    }
    out
}

fn write_selection(out: &mut String, s: &Selection, names: &dyn PortNames) {
    let Some(method) = s.method else { return };
    let method = if method == Method::Hash { "hash" } else { "dp_hash" };
    let _ = write!(out, ",selection_method={method}");
    if s.param != 0 {
        let _ = write!(out, ",selection_method_param={}", s.param);
    }
    if s.fields.is_empty() {
        return;
    }
    let single = s.fields.len() == 1;
    out.push_str(if single { ",fields=" } else { ",fields(" });
    for (i, (field, mask)) in s.fields.iter().enumerate() {
        let info = field.info();
        out.push_str(if i > 0 { "," } else { "" });
        out.push_str(info.name);
        if *mask != ones(info.bits) {
            out.push('=');
            write_masked(out, *field, *mask, ones(info.bits), names);
        }
    }
    out.push_str(if single { "" } else { ")" });
}

fn write_bucket(out: &mut String, b: &Bucket, kind: GroupKind, names: &dyn PortNames) {
    out.push_str("bucket=");
    if let Some(id) = b.id {
        let _ = write!(out, "bucket_id:{id},");
    }
    if b.weight != u16::from(kind == GroupKind::Select) {
        let _ = write!(out, "weight:{},", b.weight);
    }
    if let Some(port) = b.watch_port {
        out.push_str("watch_port:");
        write_port(out, port, names);
        out.push(',');
    }
    if let Some(group) = b.watch_group {
        let _ = write!(out, "watch_group:{group},");
    }
    out.push_str("actions=");
    write_actions(out, &b.actions, names);
}

/// A line of `dump-group-stats`, without the blank before it.
pub fn print_group_stats(id: u32, s: &GroupStats) -> String {
    let mut out = format!("group_id={id},duration=");
    write_duration(&mut out, s.duration);
    let (refs, packets, bytes) = (s.ref_count, s.packets, s.bytes);
    let _ = write!(out, ",ref_count={refs},packet_count={packets},byte_count={bytes}");
    for (i, (packets, bytes)) in s.buckets.iter().enumerate() {
        let _ = write!(out, ",bucket{i}:packet_count={packets},byte_count={bytes}");
    }
    out
}
