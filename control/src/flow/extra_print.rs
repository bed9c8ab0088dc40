//! Actions with arguments of their own as `ovs-ofctl` 3.1 prints them.

use super::action::SampleDirection;
use super::controller_parse::reason_name;
use super::hash_parse::{bundle_name, fields_name, multipath_name};
use super::ports::{PortNames, write_port};
use super::value::{write_hex, write_masked};
use super::{
    Bundle, Controller, DEFAULT_PRIORITY, Learn, LearnSource, LearnSpec, LearnTarget, Multipath,
    Sample, SubField,
};
use sluice_dataplane::action::PacketInReason;
use sluice_dataplane::packet::field::ones;
use std::fmt::Write;

/// Two digits a byte, dots between them.
pub fn hex_text(bytes: &[u8]) -> String {
    let hex: Vec<String> = bytes.iter().map(|b| format!("{b:02x}")).collect();
    hex.join(".")
}

pub fn write_controller(out: &mut String, c: &Controller) {
    if c.is_plain() {
        let _ = write!(out, "CONTROLLER:{}", c.max_len);
        return;
    }
    let mut parts: Vec<String> = Vec::new();
    if c.reason != PacketInReason::Action {
        parts.push(format!("reason={}", reason_name(c.reason)));
    }
    if c.max_len != u16::MAX {
        parts.push(format!("max_len={}", c.max_len));
    }
    if c.id != 0 {
        parts.push(format!("id={}", c.id));
    }
    if !c.userdata.is_empty() {
        parts.push(format!("userdata={}", hex_text(&c.userdata)));
    }
    if c.pause {
        parts.push("pause".to_string());
    }
    if let Some(id) = c.meter {
        parts.push(format!("meter_id={id}"));
    }
    let _ = write!(out, "controller({})", parts.join(","));
}

pub fn write_sample(out: &mut String, s: &Sample, names: &dyn PortNames) {
    let _ = write!(
        out,
        "sample(probability={},collector_set_id={},obs_domain_id={},obs_point_id={}",
        s.probability, s.collector_set, s.obs_domain, s.obs_point
    );
    if let Some(port) = s.sampling_port {
        out.push_str(",sampling_port=");
        write_port(out, port, names);
    }
    out.push_str(match s.direction {
        Some(SampleDirection::Ingress) => ",ingress)",
        Some(SampleDirection::Egress) => ",egress)",
        None => ")",
    });
}

pub fn write_fin_timeout(out: &mut String, idle_s: u16, hard_s: u16) {
    let mut parts: Vec<String> = Vec::new();
    if idle_s != 0 {
        parts.push(format!("idle_timeout={idle_s}"));
    }
    if hard_s != 0 {
        parts.push(format!("hard_timeout={hard_s}"));
    }
    let _ = write!(out, "fin_timeout({})", parts.join(","));
}

pub fn write_bundle(out: &mut String, b: &Bundle, names: &dyn PortNames) {
    let word = if b.dst.is_some() { "bundle_load" } else { "bundle" };
    let (fields, algorithm) = (fields_name(b.fields), bundle_name(b.algorithm));
    let _ = write!(out, "{word}({fields},{},{algorithm},ofport,", b.basis);
    if let Some(dst) = b.dst {
        dst.write(out);
        out.push(',');
    }
    out.push_str("members:");
    for (i, port) in b.members.iter().enumerate() {
        out.push_str(if i > 0 { "," } else { "" });
        write_port(out, *port, names);
    }
    out.push(')');
}

pub fn write_multipath(out: &mut String, m: &Multipath) {
    let (fields, algorithm) = (fields_name(m.fields), multipath_name(m.algorithm));
    let _ = write!(out, "multipath({fields},{},{algorithm},{},{},", m.basis, m.links, m.arg);
    m.dst.write(out);
    out.push(')');
}

pub fn write_learn(out: &mut String, learn: &Learn, names: &dyn PortNames) {
    let _ = write!(out, "learn(table={}", learn.table);
    for (name, value) in [
        ("idle_timeout", learn.idle_timeout_s),
        ("hard_timeout", learn.hard_timeout_s),
        ("fin_idle_timeout", learn.fin_idle_timeout_s),
        ("fin_hard_timeout", learn.fin_hard_timeout_s),
    ] {
        if value != 0 {
            let _ = write!(out, ",{name}={value}");
        }
    }
    if learn.priority != DEFAULT_PRIORITY {
        let _ = write!(out, ",priority={}", learn.priority);
    }
    out.push_str(if learn.send_flow_rem { ",send_flow_rem" } else { "" });
    out.push_str(if learn.delete_learned { ",delete_learned" } else { "" });
    if learn.cookie != 0 {
        let _ = write!(out, ",cookie={:#x}", learn.cookie);
    }
    if learn.limit != 0 {
        let _ = write!(out, ",limit={}", learn.limit);
    }
    if let Some(result) = learn.result {
        out.push_str(",result_dst=");
        result.write(out);
    }
    for spec in &learn.specs {
        out.push(',');
        write_spec(out, spec, names);
    }
    out.push(')');
}

fn write_spec(out: &mut String, spec: &LearnSpec, names: &dyn PortNames) {
    match (spec.source, spec.target) {
        (LearnSource::Value(value), LearnTarget::Match(dst)) => {
            write_constant(out, value, dst, names);
        }
        (LearnSource::Field(src), LearnTarget::Match(dst)) => {
            dst.write(out);
            if src != dst {
                out.push('=');
                src.write(out);
            }
        }
        (source, LearnTarget::Load(dst)) => {
            out.push_str("load:");
            write_source(out, source);
            out.push_str("->");
            dst.write(out);
        }
        (source, LearnTarget::Output) => {
            out.push_str("output:");
            write_source(out, source);
        }
    }
}

fn write_source(out: &mut String, source: LearnSource) {
    match source {
        LearnSource::Field(src) => src.write(out),
        LearnSource::Value(value) => write_hex(out, value),
    }
}

/// A whole field in its own way of writing, a part of one as a number.
fn write_constant(out: &mut String, value: u128, dst: SubField, names: &dyn PortNames) {
    if dst.is_whole() {
        let info = dst.field.info();
        let _ = write!(out, "{}=", info.name);
        write_masked(out, dst.field, value, ones(info.bits), names);
    } else {
        dst.write(out);
        out.push('=');
        write_hex(out, value);
    }
}
