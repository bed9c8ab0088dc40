//! `ct(...)` and `nat(...)` inside it.

use super::action_parse::parse_list;
use super::check::{Checker, Place};
use super::error::{FlowError, Problem};
use super::ports::PortNames;
use super::span::{Form, Pair, Pairs, Span};
use super::subfield::SubField;
use super::value::{parse_uint, parse_within};
use super::{Alg, Ct, Nat, NatSide, Zone};
use std::net::IpAddr;

const CT_TAKES: &str = "commit, force, zone, table, nat, exec and alg";
const NAT_TAKES: &str = "src, dst, persistent, hash and random";
const NAT_WANT: &str = "ADDRESS[-ADDRESS][:PORT[-PORT]], an IPv6 address in [] before ports";

/// Reads what stands between the parentheses of `ct(...)`.
pub fn parse_ct(
    text: Span<'_>,
    names: &dyn PortNames,
    checker: &Checker,
    depth: usize,
) -> Result<Ct, FlowError> {
    let mut ct = Ct::default();
    let mut pairs = Pairs::new(text);
    while let Some(pair) = pairs.next()? {
        let v = pair.value;
        match pair.key.text {
            "commit" => ct.commit = flag(&pair, "commit")?,
            "force" => ct.force = flag(&pair, "force")?,
            "table" => {
                ct.table = Some(parse_within(v, "table", 0, 254).map_err(|p| v.err(p))? as u8);
            }
            "zone" => ct.zone = zone(v, names)?,
            "alg" => ct.alg = Some(alg(v)?),
            "nat" => ct.nat = Some(nat(&pair)?),
            "exec" => {
                let mut inner = checker.nested(Place::CtExec);
                ct.exec.extend(parse_list(v, names, &mut inner, depth + 1)?);
            }
            _ => {
                return Err(pair.key.err(Problem::UnknownArgument { of: "ct", takes: CT_TAKES }));
            }
        }
    }
    Ok(ct)
}

fn flag(pair: &Pair<'_>, word: &'static str) -> Result<bool, FlowError> {
    if pair.form == Form::Bare { Ok(true) } else { Err(pair.key.err(Problem::NeedlessValue(word))) }
}

fn zone(v: Span<'_>, names: &dyn PortNames) -> Result<Zone, FlowError> {
    if v.is_empty() || v.text.starts_with(|c: char| c.is_ascii_digit()) {
        return match parse_uint(v.text) {
            Some(n) if n <= 0xffff => Ok(Zone::Number(n as u16)),
            _ => Err(v.err(Problem::OutOfRange { of: "zone", lo: 0, hi: 0xffff })),
        };
    }
    SubField::parse(v, names).map(Zone::Field)
}

fn alg(v: Span<'_>) -> Result<Alg, FlowError> {
    match v.text {
        "ftp" => Ok(Alg::Ftp),
        "tftp" => Ok(Alg::Tftp),
        _ => Err(v.err(Problem::BadValue { of: "alg".to_string(), want: "ftp or tftp" })),
    }
}

fn nat(pair: &Pair<'_>) -> Result<Nat, FlowError> {
    let mut nat = Nat::default();
    let mut pairs = Pairs::new(pair.value);
    while let Some(p) = pairs.next()? {
        match p.key.text {
            "src" | "dst" => {
                let side = if p.key.text == "src" { NatSide::Src } else { NatSide::Dst };
                if nat.side.is_some_and(|s| s != side) {
                    return Err(p.key.err(Problem::Rule("nat takes src or dst, not both")));
                }
                nat.side = Some(side);
                nat_range(&mut nat, p.value)?;
            }
            "persistent" => nat.persistent = flag(&p, "persistent")?,
            "hash" => nat.hash = flag(&p, "hash")?,
            "random" => nat.random = flag(&p, "random")?,
            _ => {
                return Err(p.key.err(Problem::UnknownArgument { of: "nat", takes: NAT_TAKES }));
            }
        }
    }
    if nat.side.is_none() && (nat.persistent || nat.hash || nat.random) {
        return Err(pair.value.err(Problem::Rule("flags of nat need src or dst")));
    }
    if nat.hash && nat.random {
        return Err(pair.value.err(Problem::Rule("nat takes hash or random, not both")));
    }
    // Flags say how to choose from a range; with none there is nothing to choose.
    if nat.addresses.is_none() {
        (nat.persistent, nat.hash, nat.random) = (false, false, false);
    }
    Ok(nat)
}

/// `10.0.0.1-10.0.0.9:1024-2048`; nothing at all leaves the choice open.
fn nat_range(nat: &mut Nat, v: Span<'_>) -> Result<(), FlowError> {
    if v.is_empty() {
        return Ok(());
    }
    let wrong = || v.err(Problem::BadValue { of: "nat range".to_string(), want: NAT_WANT });
    let (first, rest) = address(v.text).ok_or_else(wrong)?;
    let (last, rest) = match rest.strip_prefix('-') {
        Some(r) => address(r).ok_or_else(wrong)?,
        None => (first, rest),
    };
    if first.is_ipv4() != last.is_ipv4() || last < first {
        return Err(v.err(Problem::Rule("a range goes from the lower address to the higher one")));
    }
    nat.addresses = Some((first, last));
    nat.ports = match rest.strip_prefix(':') {
        None if rest.is_empty() => None,
        None => return Err(wrong()),
        Some(ports) => {
            let port = |s: &str| s.parse::<u16>().ok().filter(|_| !s.starts_with('+'));
            let (a, b) = ports.split_once('-').unwrap_or((ports, ports));
            let (a, b) = port(a).zip(port(b)).ok_or_else(wrong)?;
            if b < a || a == 0 {
                let rule = "ports go from the lower to the higher one, and start above 0";
                return Err(v.err(Problem::Rule(rule)));
            }
            Some((a, b))
        }
    };
    Ok(())
}

/// An address at the start of `s`, and what follows it.
fn address(s: &str) -> Option<(IpAddr, &str)> {
    if let Some(inner) = s.strip_prefix('[') {
        let (a, rest) = inner.split_once(']')?;
        return Some((IpAddr::V6(a.parse().ok()?), rest));
    }
    let is_v6 = s.find(':').is_some_and(|i| !s[..i].contains('.'));
    let end = match is_v6 {
        true => s.find('-'),
        false => s.find(['-', ':']),
    };
    let (a, rest) = s.split_at(end.unwrap_or(s.len()));
    Some((a.parse().ok()?, rest))
}
