//! Actions: names and arguments as in ovs-actions(7).

use super::check::{Checker, Place};
use super::ct_parse::parse_ct;
use super::error::{FlowError, Problem, nearest, nearest_field};
use super::ports::{self, PortNames, lookup_port, parse_port};
use super::span::{Form, Pair, Pairs, Span};
use super::subfield::SubField;
use super::value::{parse_mac, parse_masked, parse_uint, parse_within};
use super::{DEPTH_MAX, FlowAction};
use sluice_dataplane::packet::field::{Field, ones};
use std::net::Ipv4Addr;

/// Actions that are read here, for "did you mean".
const KNOWN: &[&str] = &[
    "output",
    "resubmit",
    "goto_table",
    "move",
    "load",
    "set_field",
    "mod_vlan_vid",
    "mod_vlan_pcp",
    "set_vlan_vid",
    "set_vlan_pcp",
    "strip_vlan",
    "pop_vlan",
    "push_vlan",
    "mod_dl_src",
    "mod_dl_dst",
    "mod_nw_src",
    "mod_nw_dst",
    "mod_nw_tos",
    "mod_nw_ecn",
    "mod_nw_ttl",
    "set_nw_ttl",
    "mod_tp_src",
    "mod_tp_dst",
    "set_tunnel",
    "set_tunnel64",
    "dec_ttl",
    "ct",
    "ct_clear",
    "check_pkt_larger",
    "note",
    "clone",
    "exit",
    "drop",
    "normal",
    "flood",
    "all",
    "in_port",
    "local",
];

/// Actions of Open vSwitch that sluice does not have.
const UNSUPPORTED: &[&str] = &[
    "controller",
    "enqueue",
    "output_reg",
    "bundle",
    "bundle_load",
    "group",
    "push",
    "pop",
    "set_mpls_label",
    "set_mpls_tc",
    "set_mpls_ttl",
    "dec_mpls_ttl",
    "push_mpls",
    "pop_mpls",
    "dec_nsh_ttl",
    "delete_field",
    "encap",
    "decap",
    "set_queue",
    "pop_queue",
    "fin_timeout",
    "learn",
    "conjunction",
    "multipath",
    "sample",
    "unroll_xlate",
    "output_trunc",
    "meter",
    "clear_actions",
    "write_actions",
    "write_metadata",
    "debug_recirc",
    "debug_slow",
    "table",
];

/// Reads a list of actions and checks each against `checker`.
pub fn parse_actions(
    text: Span<'_>,
    names: &dyn PortNames,
    checker: &mut Checker,
) -> Result<Vec<FlowAction>, FlowError> {
    parse_list(text, names, checker, 0)
}

pub fn parse_list(
    text: Span<'_>,
    names: &dyn PortNames,
    checker: &mut Checker,
    depth: usize,
) -> Result<Vec<FlowAction>, FlowError> {
    if depth > DEPTH_MAX {
        return Err(text.err(Problem::TooDeep(DEPTH_MAX)));
    }
    let mut out: Vec<FlowAction> = Vec::new();
    let mut drop_at: Option<Span<'_>> = None;
    let mut pairs = Pairs::new(text);
    while let Some(pair) = pairs.next()? {
        if matches!(out.last(), Some(FlowAction::GotoTable(_))) {
            return Err(pair.key.err(Problem::AfterGoto));
        }
        if pair.key.text.eq_ignore_ascii_case("drop") {
            no_value(&pair, "drop")?;
            drop_at = Some(pair.key);
            continue;
        }
        let before = out.len();
        parse_one(&pair, names, checker, depth, &mut out)?;
        for action in &out[before..] {
            checker.check(action).map_err(|p| quote(&pair).err(p))?;
        }
    }
    match drop_at {
        Some(at) if !out.is_empty() => Err(at.err(Problem::DropNotAlone)),
        _ => Ok(out),
    }
}

/// What a message about a whole action quotes.
fn quote<'a>(pair: &Pair<'a>) -> Span<'a> {
    if pair.form == Form::Colon { pair.value } else { pair.key }
}

fn no_value(pair: &Pair<'_>, word: &'static str) -> Result<(), FlowError> {
    if pair.value.is_empty() { Ok(()) } else { Err(pair.value.err(Problem::NeedlessValue(word))) }
}

fn parse_one(
    pair: &Pair<'_>,
    names: &dyn PortNames,
    checker: &mut Checker,
    depth: usize,
    out: &mut Vec<FlowAction>,
) -> Result<(), FlowError> {
    let word = pair.key.text.to_ascii_lowercase();
    let v = pair.value;
    out.push(match word.as_str() {
        "output" if v.is_empty() => {
            return Err(pair.key.err(Problem::MissingValue("output".to_string())));
        }
        "output" => output(v, names)?,
        "resubmit" => resubmit(v, names)?,
        "goto_table" => FlowAction::GotoTable(number(pair, "goto_table", 254)? as u8),
        "move" => move_(v)?,
        "load" => return load(v, out),
        "set_field" => set_field(v, names)?,
        "ct" => {
            if checker.place() == Place::CtExec {
                return Err(pair.key.err(Problem::NotInCt));
            }
            FlowAction::Ct(Box::new(parse_ct(v, names, checker, depth)?))
        }
        "ct_clear" => bare(pair, "ct_clear", FlowAction::CtClear)?,
        "check_pkt_larger" => check_pkt_larger(v)?,
        "note" => FlowAction::Note(note(v)?),
        "clone" => {
            let mut inner = checker.nested(Place::Clone);
            FlowAction::Clone(parse_list(v, names, &mut inner, depth + 1)?)
        }
        "exit" => bare(pair, "exit", FlowAction::Exit)?,
        "dec_ttl" => FlowAction::DecTtl(dec_ttl(v)?),
        "nat" => return Err(pair.key.err(Problem::Rule("nat can stand only inside ct(...)"))),
        "apply_actions" => {
            return Err(pair.key.err(Problem::Rule("write the actions without apply_actions")));
        }
        _ if UNSUPPORTED.contains(&word.as_str()) => {
            return Err(pair.key.err(Problem::Unsupported(format!("action {word}"))));
        }
        _ => match modify(&word, pair)? {
            Some(action) => action,
            None => port_or_unknown(pair, names)?,
        },
    });
    Ok(())
}

fn bare(pair: &Pair<'_>, word: &'static str, action: FlowAction) -> Result<FlowAction, FlowError> {
    no_value(pair, word)?;
    Ok(action)
}

fn number(pair: &Pair<'_>, of: &'static str, hi: u64) -> Result<u64, FlowError> {
    let place = if pair.value.is_empty() { pair.key } else { pair.value };
    parse_within(pair.value, of, 0, hi).map_err(|p| place.err(p))
}

/// The actions that change one thing to one value.
fn modify(word: &str, pair: &Pair<'_>) -> Result<Option<FlowAction>, FlowError> {
    use FlowAction as A;
    let u16_of = |of| number(pair, of, 0xffff).map(|n| n as u16);
    Ok(Some(match word {
        "mod_vlan_vid" => A::ModVlanVid(number(pair, "mod_vlan_vid", 4095)? as u16),
        "set_vlan_vid" => A::SetVlanVid(number(pair, "set_vlan_vid", 4095)? as u16),
        "mod_vlan_pcp" => A::ModVlanPcp(number(pair, "mod_vlan_pcp", 7)? as u8),
        "set_vlan_pcp" => A::SetVlanPcp(number(pair, "set_vlan_pcp", 7)? as u8),
        "strip_vlan" => bare(pair, "strip_vlan", A::StripVlan)?,
        "pop_vlan" => bare(pair, "pop_vlan", A::PopVlan)?,
        "push_vlan" => match u16_of("push_vlan")? {
            tpid @ (0x8100 | 0x88a8) => A::PushVlan(tpid),
            _ => return Err(bad(pair, "push_vlan", "0x8100 or 0x88a8")),
        },
        "mod_dl_src" => A::ModDlSrc(mac(pair, "mod_dl_src")?),
        "mod_dl_dst" => A::ModDlDst(mac(pair, "mod_dl_dst")?),
        "mod_nw_src" => A::ModNwSrc(ipv4(pair, "mod_nw_src")?),
        "mod_nw_dst" => A::ModNwDst(ipv4(pair, "mod_nw_dst")?),
        "mod_nw_tos" => match number(pair, "mod_nw_tos", 255)? as u8 {
            tos if tos & 3 == 0 => A::ModNwTos(tos),
            _ => return Err(bad(pair, "mod_nw_tos", "a multiple of 4; the rest is mod_nw_ecn")),
        },
        "mod_nw_ecn" => A::ModNwEcn(number(pair, "mod_nw_ecn", 3)? as u8),
        "mod_nw_ttl" | "set_nw_ttl" => A::ModNwTtl(number(pair, "mod_nw_ttl", 255)? as u8),
        "mod_tp_src" => A::ModTpSrc(u16_of("mod_tp_src")?),
        "mod_tp_dst" => A::ModTpDst(u16_of("mod_tp_dst")?),
        "set_tunnel" => {
            let id = number(pair, "set_tunnel", u64::MAX)?;
            // 32 bits are all that the narrow form can hold on the wire.
            A::SetTunnel { id, wide: id > u32::MAX as u64 }
        }
        "set_tunnel64" => A::SetTunnel { id: number(pair, "set_tunnel64", u64::MAX)?, wide: true },
        _ => return Ok(None),
    }))
}

fn bad(pair: &Pair<'_>, of: &str, want: &'static str) -> FlowError {
    if pair.value.is_empty() {
        return pair.key.err(Problem::MissingValue(of.to_string()));
    }
    pair.value.err(Problem::BadValue { of: of.to_string(), want })
}

fn mac(pair: &Pair<'_>, of: &str) -> Result<u64, FlowError> {
    parse_mac(pair.value.text).ok_or_else(|| bad(pair, of, "six bytes such as 02:00:00:00:00:01"))
}

fn ipv4(pair: &Pair<'_>, of: &str) -> Result<u32, FlowError> {
    let ip: Option<Ipv4Addr> = pair.value.text.parse().ok();
    ip.map(u32::from).ok_or_else(|| bad(pair, of, "an address such as 10.0.0.1"))
}

fn output(v: Span<'_>, names: &dyn PortNames) -> Result<FlowAction, FlowError> {
    if v.text.contains("max_len") && v.text.contains("port") {
        return Err(v.err(Problem::Unsupported("output of a truncated packet".to_string())));
    }
    match parse_port(v, names) {
        Ok(port) => to_port(port, v),
        Err(_) if SubField::parse(v).is_ok() => {
            Err(v.err(Problem::Unsupported("output to a port from a field".to_string())))
        }
        Err(p) => Err(v.err(p)),
    }
}

fn to_port(port: u32, at: Span<'_>) -> Result<FlowAction, FlowError> {
    Ok(match port {
        ports::NORMAL => FlowAction::Normal,
        ports::FLOOD => FlowAction::Flood,
        ports::ALL => FlowAction::All,
        ports::IN_PORT => FlowAction::InPort,
        ports::LOCAL => FlowAction::Local,
        ports::CONTROLLER => {
            return Err(at.err(Problem::Unsupported("output to the controller".to_string())));
        }
        ports::TABLE => {
            return Err(at.err(Problem::Rule("TABLE can be used only in packet-outs")));
        }
        ports::NONE => return Err(at.err(Problem::NotAnOutput("NONE"))),
        n if n >= ports::PORT_MAX => {
            return Err(at.err(Problem::NotAnOutput("a reserved number")));
        }
        n => FlowAction::Output(n),
    })
}

fn port_or_unknown(pair: &Pair<'_>, names: &dyn PortNames) -> Result<FlowAction, FlowError> {
    if let Some(port) = lookup_port(pair.key, names) {
        let action = to_port(port, pair.key)?;
        return if pair.value.is_empty() {
            Ok(action)
        } else {
            Err(pair.value.err(Problem::NeedlessValue("a port")))
        };
    }
    if pair.key.text.starts_with('"') {
        return Err(pair.key.err(Problem::UnknownPort));
    }
    let guess = nearest(pair.key.text, KNOWN.iter().chain(UNSUPPORTED).copied());
    Err(pair.key.err(Problem::UnknownAction(guess)))
}

/// `resubmit:PORT` and `resubmit([PORT],[TABLE])`.
fn resubmit(v: Span<'_>, names: &dyn PortNames) -> Result<FlowAction, FlowError> {
    let mut parts = v.split_list()?.into_iter().map(Span::trim);
    let port = match parts.next() {
        Some(p) if !p.is_empty() => {
            Some(parse_port(p, names).map_err(|e| p.err(e))?).filter(|&n| n != ports::IN_PORT)
        }
        _ => None,
    };
    let table = match parts.next() {
        Some(t) if !t.is_empty() => match t.text {
            "255" => None,
            _ => Some(parse_within(t, "table", 0, 254).map_err(|e| t.err(e))? as u8),
        },
        _ => None,
    };
    if let Some(extra) = parts.next() {
        let what = match extra.text {
            "ct" => Problem::Unsupported("resubmit with ct".to_string()),
            _ => Problem::UnknownArgument { of: "resubmit", takes: "a port and a table" },
        };
        return Err(extra.err(what));
    }
    if port.is_none() && table.is_none() {
        return Err(v.err(Problem::Rule("resubmit needs a port, a table, or both")));
    }
    Ok(FlowAction::Resubmit { port, table })
}

fn arrow<'a>(v: Span<'a>, usage: &'static str) -> Result<(Span<'a>, Span<'a>), FlowError> {
    v.split_once("->").ok_or_else(|| v.err(Problem::Expected(usage)))
}

fn move_(v: Span<'_>) -> Result<FlowAction, FlowError> {
    let (src, dst) = arrow(v, "SOURCE->DESTINATION, such as NXM_NX_REG0[]->NXM_NX_REG1[]")?;
    let (src, dst) = (SubField::parse(src)?, SubField::parse(dst)?);
    if src.bits != dst.bits {
        return Err(v.err(Problem::Width { src: src.bits, dst: dst.bits }));
    }
    Ok(FlowAction::Move { src, dst })
}

/// Open vSwitch encodes 64 bits at a time, so a wider `load` prints as several.
fn load(v: Span<'_>, out: &mut Vec<FlowAction>) -> Result<(), FlowError> {
    let (value_text, dst_text) = arrow(v, "VALUE->DESTINATION, such as 0x1->NXM_NX_REG0[]")?;
    let dst = SubField::parse(dst_text)?;
    let bad = || Problem::BadValue { of: "load".to_string(), want: "a number such as 10 or 0xa" };
    let value = parse_uint(value_text.text).ok_or_else(|| value_text.err(bad()))?;
    let max = ones(dst.bits);
    if value > max {
        let of = dst_text.text.to_string();
        return Err(value_text.err(Problem::TooLarge { of, bits: dst.bits, max }));
    }
    let mut done = 0;
    while done < dst.bits {
        let bits = (dst.bits - done).min(64);
        let part = SubField { field: dst.field, lo: dst.lo + done, bits };
        out.push(FlowAction::Load { value: (value >> done) as u64 & ones(bits) as u64, dst: part });
        done += bits;
    }
    Ok(())
}

fn set_field(v: Span<'_>, names: &dyn PortNames) -> Result<FlowAction, FlowError> {
    let usage = "VALUE->FIELD, such as 10.0.0.1->ip_dst";
    // An arrow can stand in no value but a quoted port name, so the last one counts.
    let i = v.text.rfind("->").ok_or_else(|| v.err(Problem::Expected(usage)))?;
    let (value_text, name) = (v.slice(0, i), v.from(i + 2));
    let Some(field) = Field::by_name(name.text) else {
        return Err(name.err(Problem::UnknownField(nearest_field(name.text))));
    };
    if !field.info().writable {
        return Err(name.err(Problem::ReadOnly(field.info().name)));
    }
    let (value, mask) = parse_masked(field, value_text, names).map_err(|p| value_text.err(p))?;
    if field == Field::IpTos && value & 3 != 0 {
        let want = "a multiple of 4; the rest is nw_ecn";
        return Err(value_text.err(Problem::BadValue { of: "nw_tos".to_string(), want }));
    }
    if mask == 0 {
        return Err(value_text.err(Problem::Rule("a set_field must set at least one bit")));
    }
    Ok(FlowAction::SetField { field, value, mask })
}

fn check_pkt_larger(v: Span<'_>) -> Result<FlowAction, FlowError> {
    let (len, dst) = arrow(v, "check_pkt_larger(LENGTH)->BIT")?;
    let len = if len.text.ends_with(')') { len.slice(0, len.text.len() - 1) } else { len };
    let n = parse_within(len, "the length", 0, 65535).map_err(|p| len.err(p))?;
    let range = SubField::parse(dst)?;
    if range.bits != 1 {
        return Err(dst.err(Problem::MustBeWide("the destination", 1)));
    }
    Ok(FlowAction::CheckPktLarger { len_bytes: n as u16, dst: range })
}

/// Pairs of hexadecimal digits, dots between them if one likes.
fn note(v: Span<'_>) -> Result<Vec<u8>, FlowError> {
    let want = "pairs of hexadecimal digits such as 00.1a.ff";
    let wrong = || v.err(Problem::BadValue { of: "note".to_string(), want });
    let digits: Vec<u8> = v.text.bytes().filter(|b| *b != b'.').collect();
    if !digits.len().is_multiple_of(2) || !digits.iter().all(u8::is_ascii_hexdigit) {
        return Err(wrong());
    }
    let nibble = |b: u8| (b as char).to_digit(16).unwrap_or(0) as u8;
    Ok(digits.chunks(2).map(|c| nibble(c[0]) << 4 | nibble(c[1])).collect())
}

fn dec_ttl(v: Span<'_>) -> Result<Vec<u16>, FlowError> {
    if v.is_empty() {
        return Ok(Vec::new());
    }
    let id = |s: Span<'_>| {
        let s = s.trim();
        parse_within(s, "a controller id", 0, 65535).map(|n| n as u16).map_err(|p| s.err(p))
    };
    v.split_list()?.into_iter().map(id).collect()
}
