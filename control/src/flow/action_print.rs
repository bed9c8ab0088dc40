//! Actions as `ovs-ofctl` 3.1 prints them.

use super::extra_print::{self, hex_text};
use super::ports::{self, PortNames, write_port};
use super::value::{write_hex, write_ipv6, write_mac, write_masked};
use super::{Alg, Ct, FlowAction, Nat, NatSide, Zone};
use sluice_dataplane::packet::field::ones;
use std::fmt::Write;
use std::net::{IpAddr, Ipv4Addr};

/// Writes a list; the empty one is `drop`.
pub fn write_actions(out: &mut String, actions: &[FlowAction], names: &dyn PortNames) {
    if actions.is_empty() {
        out.push_str("drop");
    }
    for (i, action) in actions.iter().enumerate() {
        if i > 0 {
            out.push(',');
        }
        write_action(out, action, names);
    }
}

fn write_action(out: &mut String, action: &FlowAction, names: &dyn PortNames) {
    use FlowAction as A;
    let _ = match action {
        A::Output(port) => {
            out.push_str("output:");
            write_port(out, *port, names);
            Ok(())
        }
        A::Normal => write!(out, "NORMAL"),
        A::Flood => write!(out, "FLOOD"),
        A::All => write!(out, "ALL"),
        A::InPort => write!(out, "IN_PORT"),
        A::Local => write!(out, "LOCAL"),
        A::GotoTable(table) => write!(out, "goto_table:{table}"),
        A::Resubmit { port, table, with_ct } => {
            write_resubmit(out, *port, *table, *with_ct, names);
            Ok(())
        }
        A::Move { .. }
        | A::Load { .. }
        | A::SetField { .. }
        | A::SetOption { .. }
        | A::CheckPktLarger { .. } => {
            write_field_action(out, action, names);
            Ok(())
        }
        A::StripVlan => write!(out, "strip_vlan"),
        A::PopVlan => write!(out, "pop_vlan"),
        A::PushVlan(tpid) => write!(out, "push_vlan:{tpid:#x}"),
        A::SetTunnel { id, wide } => {
            let suffix = if *wide { "64" } else { "" };
            let _ = write!(out, "set_tunnel{suffix}:");
            write_hex(out, *id as u128);
            Ok(())
        }
        A::DecTtl(ids) if ids.is_empty() => write!(out, "dec_ttl"),
        A::DecTtl(ids) => {
            let ids: Vec<String> = ids.iter().map(u16::to_string).collect();
            write!(out, "dec_ttl({})", ids.join(","))
        }
        A::Ct(ct) => {
            write_ct(out, ct, names);
            Ok(())
        }
        A::CtClear => write!(out, "ct_clear"),
        A::Note(bytes) => write!(out, "note:{}", hex_text(bytes)),
        A::Clone(inner) => {
            write_nested(out, "clone", inner, names);
            Ok(())
        }
        A::WriteActions(inner) => {
            write_nested(out, "write_actions", inner, names);
            Ok(())
        }
        A::Exit => write!(out, "exit"),
        _ => {
            write_modify(out, action);
            write_numbered(out, action);
            write_more(out, action, names);
            Ok(())
        }
    };
}

fn write_nested(out: &mut String, word: &str, list: &[FlowAction], names: &dyn PortNames) {
    out.push_str(word);
    out.push('(');
    write_actions(out, list, names);
    out.push(')');
}

/// Actions of one number or none.
fn write_numbered(out: &mut String, action: &FlowAction) {
    use FlowAction as A;
    let _ = match action {
        A::Group(id) => write!(out, "group:{id}"),
        A::Meter(id) => write!(out, "meter:{id}"),
        A::SetQueue(queue) => write!(out, "set_queue:{queue}"),
        A::PopQueue => write!(out, "pop_queue"),
        A::ClearActions => write!(out, "clear_actions"),
        A::SetMplsLabel(label) => write!(out, "set_mpls_label({label})"),
        A::SetMplsTc(tc) => write!(out, "set_mpls_tc({tc})"),
        A::SetMplsTtl(ttl) => write!(out, "set_mpls_ttl({ttl})"),
        A::DecMplsTtl => write!(out, "dec_mpls_ttl"),
        A::PushMpls(eth_type) => write!(out, "push_mpls:0x{eth_type:04x}"),
        A::PopMpls(eth_type) => write!(out, "pop_mpls:0x{eth_type:04x}"),
        A::DeleteField(field) => write!(out, "delete_field:{}", field.info().name),
        A::Conjunction { id, clause, n_clauses } => {
            write!(out, "conjunction({id},{}/{n_clauses})", u32::from(*clause) + 1)
        }
        A::WriteMetadata { value, mask } => {
            out.push_str("write_metadata:");
            write_hex(out, u128::from(*value));
            if *mask != u64::MAX {
                out.push('/');
                write_hex(out, u128::from(*mask));
            }
            Ok(())
        }
        _ => Ok(()),
    };
}

/// Actions with arguments.
fn write_more(out: &mut String, action: &FlowAction, names: &dyn PortNames) {
    use FlowAction as A;
    match action {
        A::OutputField(src) => {
            out.push_str("output:");
            src.write(out);
        }
        A::OutputTruncated { port, max_len } => {
            out.push_str("output(port=");
            write_port(out, *port, names);
            let _ = write!(out, ",max_len={max_len})");
        }
        A::Enqueue { port, queue } => {
            out.push_str("enqueue:");
            write_port(out, *port, names);
            let _ = write!(out, ":{queue}");
        }
        A::Push(range) => {
            out.push_str("push:");
            range.write(out);
        }
        A::Pop(range) => {
            out.push_str("pop:");
            range.write(out);
        }
        A::Controller(c) => extra_print::write_controller(out, c),
        A::Sample(s) => extra_print::write_sample(out, s, names),
        A::FinTimeout { idle_s, hard_s } => extra_print::write_fin_timeout(out, *idle_s, *hard_s),
        A::Bundle(b) => extra_print::write_bundle(out, b, names),
        A::Multipath(m) => extra_print::write_multipath(out, m),
        A::Learn(learn) => extra_print::write_learn(out, learn, names),
        _ => {}
    }
}

/// `mod_*` and `set_vlan_*`.
fn write_modify(out: &mut String, action: &FlowAction) {
    use FlowAction as A;
    let _ = match action {
        A::ModVlanVid(v) => write!(out, "mod_vlan_vid:{v}"),
        A::ModVlanPcp(v) => write!(out, "mod_vlan_pcp:{v}"),
        A::SetVlanVid(v) => write!(out, "set_vlan_vid:{v}"),
        A::SetVlanPcp(v) => write!(out, "set_vlan_pcp:{v}"),
        A::ModNwSrc(v) => write!(out, "mod_nw_src:{}", Ipv4Addr::from(*v)),
        A::ModNwDst(v) => write!(out, "mod_nw_dst:{}", Ipv4Addr::from(*v)),
        A::ModNwTos(v) => write!(out, "mod_nw_tos:{v}"),
        A::ModNwEcn(v) => write!(out, "mod_nw_ecn:{v}"),
        A::ModNwTtl(v) => write!(out, "mod_nw_ttl:{v}"),
        A::ModTpSrc(v) => write!(out, "mod_tp_src:{v}"),
        A::ModTpDst(v) => write!(out, "mod_tp_dst:{v}"),
        A::ModDlSrc(v) | A::ModDlDst(v) => {
            let is_src = matches!(action, A::ModDlSrc(_));
            out.push_str(if is_src { "mod_dl_src:" } else { "mod_dl_dst:" });
            write_mac(out, *v);
            Ok(())
        }
        _ => Ok(()),
    };
}

fn write_field_action(out: &mut String, action: &FlowAction, names: &dyn PortNames) {
    let dst = match action {
        FlowAction::Move { src, dst } => {
            out.push_str("move:");
            src.write(out);
            dst
        }
        FlowAction::Load { value, dst } => {
            out.push_str("load:");
            write_hex(out, *value as u128);
            dst
        }
        FlowAction::CheckPktLarger { len_bytes, dst } => {
            let _ = write!(out, "check_pkt_larger({len_bytes})");
            dst
        }
        FlowAction::SetOption { dst, value, mask } => {
            out.push_str("set_field:");
            write_hex(out, *value);
            if *mask != ones(dst.bits) {
                out.push('/');
                write_hex(out, *mask);
            }
            let _ = write!(out, "->{}", dst.field.info().name);
            return;
        }
        FlowAction::SetField { field, value, mask } => {
            out.push_str("set_field:");
            write_masked(out, *field, *value, *mask, names);
            let _ = write!(out, "->{}", field.info().name);
            return;
        }
        _ => return,
    };
    out.push_str("->");
    dst.write(out);
}

/// Open vSwitch leaves `ct` out when there is no table; it would then be lost.
fn write_resubmit(
    out: &mut String,
    port: Option<u32>,
    table: Option<u8>,
    with_ct: bool,
    names: &dyn PortNames,
) {
    if table.is_none() && !with_ct {
        out.push_str("resubmit:");
        write_port(out, port.unwrap_or(ports::IN_PORT), names);
        return;
    }
    out.push_str("resubmit(");
    if let Some(p) = port {
        write_port(out, p, names);
    }
    out.push(',');
    if let Some(table) = table {
        let _ = write!(out, "{table}");
    }
    out.push_str(if with_ct { ",ct)" } else { ")" });
}

fn write_ct(out: &mut String, ct: &Ct, names: &dyn PortNames) {
    let mut parts: Vec<String> = Vec::new();
    if ct.commit {
        parts.push("commit".to_string());
    }
    if ct.force {
        parts.push("force".to_string());
    }
    if let Some(table) = ct.table {
        parts.push(format!("table={table}"));
    }
    match ct.zone {
        Zone::Number(0) => {}
        Zone::Number(n) => parts.push(format!("zone={n}")),
        Zone::Field(src) => {
            let mut part = "zone=".to_string();
            src.write(&mut part);
            parts.push(part);
        }
    }
    if let Some(nat) = &ct.nat {
        parts.push(nat_text(nat));
    }
    if !ct.exec.is_empty() {
        let mut part = "exec(".to_string();
        write_actions(&mut part, &ct.exec, names);
        part.push(')');
        parts.push(part);
    }
    match ct.alg {
        Some(Alg::Ftp) => parts.push("alg=ftp".to_string()),
        Some(Alg::Tftp) => parts.push("alg=tftp".to_string()),
        None => {}
    }
    let _ = write!(out, "ct({})", parts.join(","));
}

fn nat_text(nat: &Nat) -> String {
    let Some(side) = nat.side else { return "nat".to_string() };
    let mut out = format!("nat({}", if side == NatSide::Src { "src" } else { "dst" });
    if let Some((first, last)) = nat.addresses {
        let bracket = nat.ports.is_some();
        out.push('=');
        write_nat_address(&mut out, first, bracket);
        if last != first {
            out.push('-');
            write_nat_address(&mut out, last, bracket);
        }
        if let Some((first, last)) = nat.ports {
            let _ = write!(out, ":{first}");
            if last != first {
                let _ = write!(out, "-{last}");
            }
        }
        for (on, word) in
            [(nat.persistent, ",persistent"), (nat.hash, ",hash"), (nat.random, ",random")]
        {
            out.push_str(if on { word } else { "" });
        }
    }
    out.push(')');
    out
}

fn write_nat_address(out: &mut String, ip: IpAddr, bracket: bool) {
    match ip {
        IpAddr::V4(ip) => drop(write!(out, "{ip}")),
        IpAddr::V6(ip) => {
            out.push_str(if bracket { "[" } else { "" });
            write_ipv6(out, ip.into());
            out.push_str(if bracket { "]" } else { "" });
        }
    }
}
