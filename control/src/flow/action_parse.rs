//! Actions: names and arguments as in ovs-actions(7).

use super::check::{Checker, Place};
use super::controller_parse::{parse_controller, parse_fin_timeout, parse_sample};
use super::ct_parse::parse_ct;
use super::error::{FlowError, Problem, nearest};
use super::field_parse;
use super::hash_parse::{parse_bundle, parse_multipath};
use super::learn_parse::parse_learn;
use super::ports::{self, PortNames, lookup_port, parse_port};
use super::span::{Form, Pair, Pairs, Span};
use super::subfield::SubField;
use super::value::{parse_mac, parse_within};
use super::{Controller, DEPTH_MAX, FlowAction};
use std::net::Ipv4Addr;

/// Largest ids (OpenFlow 1.5.1 sections 7.3.4.6 and 7.3.4.7: `OFPG_MAX`, `OFPM_MAX`).
pub const GROUP_MAX: u32 = 0xffff_ff00;
pub const METER_MAX: u32 = 0xffff_0000;

const RESUBMIT_TAKES: Problem =
    Problem::UnknownArgument { of: "resubmit", takes: "a port, a table and ct" };

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
    "set_mpls_label",
    "set_mpls_tc",
    "set_mpls_ttl",
    "dec_mpls_ttl",
    "push_mpls",
    "pop_mpls",
    "ct",
    "ct_clear",
    "check_pkt_larger",
    "note",
    "clone",
    "exit",
    "drop",
    "controller",
    "enqueue",
    "bundle",
    "bundle_load",
    "multipath",
    "group",
    "push",
    "pop",
    "delete_field",
    "set_queue",
    "pop_queue",
    "fin_timeout",
    "learn",
    "conjunction",
    "sample",
    "meter",
    "clear_actions",
    "write_actions",
    "write_metadata",
    "normal",
    "flood",
    "all",
    "in_port",
    "local",
];

/// Actions of Open vSwitch that sluice does not have.
const UNSUPPORTED: &[&str] =
    &["dec_nsh_ttl", "encap", "decap", "unroll_xlate", "debug_recirc", "debug_slow"];

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
        if pair.key.text.eq_ignore_ascii_case("drop") {
            no_value(&pair, "drop")?;
            drop_at = Some(pair.key);
            continue;
        }
        let before = out.len();
        parse_one(&pair, names, checker, depth, &mut out)?;
        for action in &out[before..] {
            checker.check(action).map_err(|p| quote(&pair, &p).err(p))?;
        }
    }
    match drop_at {
        Some(at) if !out.is_empty() => Err(at.err(Problem::DropNotAlone)),
        _ => Ok(out),
    }
}

/// What a message about a whole action quotes.
fn quote<'a>(pair: &Pair<'a>, problem: &Problem) -> Span<'a> {
    let of_value = pair.form == Form::Colon && !problem.is_of_place();
    if of_value { pair.value } else { pair.key }
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
        "move" => field_parse::move_(v, names)?,
        "load" => return field_parse::load(v, out, names),
        "set_field" => field_parse::set_field(v, names)?,
        "push" | "pop" if v.is_empty() => return Err(pair.key.err(Problem::MissingValue(word))),
        "push" | "pop" => field_parse::stack(v, word == "push", names)?,
        "write_metadata" => field_parse::write_metadata(v)?,
        "delete_field" => field_parse::delete_field(v, names)?,
        "ct" => {
            if checker.place() == Place::CtExec {
                return Err(pair.key.err(Problem::NotInCt));
            }
            FlowAction::Ct(Box::new(parse_ct(v, names, checker, depth)?))
        }
        "ct_clear" => bare(pair, "ct_clear", FlowAction::CtClear)?,
        "check_pkt_larger" => field_parse::check_pkt_larger(v, names)?,
        "note" => FlowAction::Note(hex_bytes(v, "note")?),
        "clone" => {
            let mut inner = checker.nested(Place::Clone);
            let list = parse_list(v, names, &mut inner, depth + 1)?;
            checker.leave(&inner);
            FlowAction::Clone(list)
        }
        "write_actions" => {
            let mut inner = checker.nested(Place::ActionSet);
            let list = parse_list(v, names, &mut inner, depth + 1)?;
            checker.leave(&inner);
            FlowAction::WriteActions(list)
        }
        "learn" => FlowAction::Learn(Box::new(parse_learn(v, names)?)),
        "controller" => FlowAction::Controller(Box::new(parse_controller(v)?)),
        "sample" => FlowAction::Sample(parse_sample(pair, names)?),
        "fin_timeout" => parse_fin_timeout(v)?,
        "bundle" | "bundle_load" => parse_bundle(pair, names, word == "bundle_load")?,
        "multipath" => parse_multipath(pair, names)?,
        "conjunction" => conjunction(pair)?,
        "enqueue" => enqueue(pair, names)?,
        "exit" => bare(pair, "exit", FlowAction::Exit)?,
        "dec_ttl" => FlowAction::DecTtl(dec_ttl(v)?),
        "nat" => return Err(pair.key.err(Problem::Rule("nat can stand only inside ct(...)"))),
        "apply_actions" => {
            return Err(pair.key.err(Problem::Rule("write the actions without apply_actions")));
        }
        _ if UNSUPPORTED.contains(&word.as_str()) => {
            return Err(pair.key.err(Problem::Unsupported(format!("action {word}"))));
        }
        _ => match modify(&word, pair)?.or(numbered(&word, pair)?) {
            Some(action) => action,
            None => port_or_unknown(pair, names)?,
        },
    });
    Ok(())
}

/// The actions of one number or none.
fn numbered(word: &str, pair: &Pair<'_>) -> Result<Option<FlowAction>, FlowError> {
    use FlowAction as A;
    let u32_of = |of| number(pair, of, u32::MAX.into()).map(|n| n as u32);
    Ok(Some(match word {
        "group" => match u32_of("group")? {
            id if id <= GROUP_MAX => A::Group(id),
            _ => return Err(pair.value.err(Problem::Rule("group ids end at 0xffffff00"))),
        },
        "meter" => match u32_of("meter")? {
            id if (1..=METER_MAX).contains(&id) => A::Meter(id),
            _ => return Err(pair.value.err(Problem::Rule("meter ids are 1 to 0xffff0000"))),
        },
        "set_queue" => A::SetQueue(u32_of("set_queue")?),
        "pop_queue" => bare(pair, "pop_queue", A::PopQueue)?,
        "clear_actions" => bare(pair, "clear_actions", A::ClearActions)?,
        "dec_mpls_ttl" => bare(pair, "dec_mpls_ttl", A::DecMplsTtl)?,
        "set_mpls_label" => A::SetMplsLabel(number(pair, "set_mpls_label", 0xf_ffff)? as u32),
        "set_mpls_tc" => A::SetMplsTc(number(pair, "set_mpls_tc", 7)? as u8),
        "set_mpls_ttl" => A::SetMplsTtl(number(pair, "set_mpls_ttl", 255)? as u8),
        "push_mpls" => match number(pair, "push_mpls", 0xffff)? as u16 {
            eth_type @ (0x8847 | 0x8848) => A::PushMpls(eth_type),
            _ => return Err(bad(pair, "push_mpls", "0x8847 or 0x8848")),
        },
        "pop_mpls" => A::PopMpls(number(pair, "pop_mpls", 0xffff)? as u16),
        _ => return Ok(None),
    }))
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
        return output_truncated(v, names);
    }
    match parse_port(v, names) {
        Ok(port) => to_port(port, v, u16::MAX),
        // Whatever looks like a range was meant as one: the message says what is wrong with it.
        Err(_) if v.text.contains('[') || SubField::parse(v, names).is_ok() => {
            SubField::parse(v, names).map(FlowAction::OutputField)
        }
        Err(p) => Err(v.err(p)),
    }
}

/// `output(port=PORT,max_len=BYTES)`.
fn output_truncated(v: Span<'_>, names: &dyn PortNames) -> Result<FlowAction, FlowError> {
    let (mut port, mut max_len) = (None, None);
    let mut pairs = Pairs::new(v);
    while let Some(pair) = pairs.next()? {
        let value = pair.value;
        match pair.key.text {
            "port" => port = Some(ordinary_port(value, names)?),
            "max_len" => {
                let n = parse_within(value, "max_len", 14, u32::MAX.into());
                max_len = Some(n.map_err(|p| value.err(p))? as u32);
            }
            _ => {
                let takes = "port and max_len";
                return Err(pair.key.err(Problem::UnknownArgument { of: "output", takes }));
            }
        }
    }
    match (port, max_len) {
        (Some(port), Some(max_len)) => Ok(FlowAction::OutputTruncated { port, max_len }),
        _ => Err(v.err(Problem::Expected("output(port=PORT,max_len=BYTES)"))),
    }
}

/// A port of the bridge, LOCAL, or IN_PORT.
fn ordinary_port(v: Span<'_>, names: &dyn PortNames) -> Result<u32, FlowError> {
    match parse_port(v, names).map_err(|p| v.err(p))? {
        n if n < ports::PORT_MAX || n == ports::LOCAL || n == ports::IN_PORT => Ok(n),
        _ => Err(v.err(Problem::Rule("this takes a port of the bridge, LOCAL or IN_PORT"))),
    }
}

/// `enqueue:PORT:QUEUE`, `enqueue(PORT,QUEUE)`.
fn enqueue(pair: &Pair<'_>, names: &dyn PortNames) -> Result<FlowAction, FlowError> {
    let v = pair.value;
    let parts = v.words(b":,")?;
    let (port, queue) = match parts.as_slice() {
        [port, queue] => (*port, *queue),
        // `1q2`, as old texts have it.
        [one] => match one.split_once("q") {
            Some(both) if both.0.text.bytes().all(|b| b.is_ascii_digit()) => both,
            _ => return Err(pair.whole.err(Problem::Expected("enqueue(PORT,QUEUE)"))),
        },
        _ => return Err(pair.whole.err(Problem::Expected("enqueue(PORT,QUEUE)"))),
    };
    let port = ordinary_port(port.trim(), names)?;
    let queue = queue.trim();
    let n = parse_within(queue, "a queue", 0, u32::MAX.into()).map_err(|p| queue.err(p))?;
    Ok(FlowAction::Enqueue { port, queue: n as u32 })
}

/// `conjunction(ID,K/N)`.
fn conjunction(pair: &Pair<'_>) -> Result<FlowAction, FlowError> {
    let v = pair.value;
    let usage = || pair.whole.err(Problem::Expected("conjunction(ID,K/N), as in (7,1/2)"));
    let (id, clause) = v.split_once(",").ok_or_else(usage)?;
    let (k, n) = clause.split_once("/").ok_or_else(usage)?;
    let within = |s: Span<'_>, of, lo, hi| {
        let s = s.trim();
        parse_within(s, of, lo, hi).map_err(|p| if s.is_empty() { usage() } else { s.err(p) })
    };
    let id = within(id, "the id of a conjunction", 0, u32::MAX.into())? as u32;
    let n_clauses = within(n, "the number of clauses", 2, 64)? as u8;
    let clause = within(k, "the clause", 1, n_clauses.into())? as u8 - 1;
    Ok(FlowAction::Conjunction { id, clause, n_clauses })
}

/// The action that sends to `port`; `max_len` counts if it is the controller.
fn to_port(port: u32, at: Span<'_>, max_len: u16) -> Result<FlowAction, FlowError> {
    Ok(match port {
        ports::NORMAL => FlowAction::Normal,
        ports::FLOOD => FlowAction::Flood,
        ports::ALL => FlowAction::All,
        ports::IN_PORT => FlowAction::InPort,
        ports::LOCAL => FlowAction::Local,
        ports::CONTROLLER => {
            FlowAction::Controller(Box::new(Controller { max_len, ..Controller::default() }))
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
        // A bare number has no room for a length: Open vSwitch then sends no bytes at all.
        let action = to_port(port, pair.key, 0)?;
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

/// `resubmit:PORT` and `resubmit([PORT],[TABLE][,ct])`.
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
    let with_ct = match parts.next() {
        Some(ct) if ct.text == "ct" => true,
        Some(extra) if !extra.is_empty() => return Err(extra.err(RESUBMIT_TAKES)),
        _ => false,
    };
    if let Some(extra) = parts.next() {
        return Err(extra.err(RESUBMIT_TAKES));
    }
    if port.is_none() && table.is_none() {
        return Err(v.err(Problem::Rule("resubmit needs a port, a table, or both")));
    }
    Ok(FlowAction::Resubmit { port, table, with_ct })
}

/// Pairs of hexadecimal digits, dots between them if one likes.
pub fn hex_bytes(v: Span<'_>, of: &str) -> Result<Vec<u8>, FlowError> {
    let want = "pairs of hexadecimal digits such as 00.1a.ff";
    let wrong = || v.err(Problem::BadValue { of: of.to_string(), want });
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
