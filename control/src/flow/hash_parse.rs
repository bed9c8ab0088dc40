//! `multipath`, `bundle` and `bundle_load`: a hash of the packet chooses a link or a port.

use super::error::{FlowError, Problem};
use super::ports::{self, PortNames, parse_port};
use super::span::{Pair, Span};
use super::subfield::SubField;
use super::value::parse_within;
use super::{Bundle, FlowAction, Multipath};
use sluice_dataplane::action::{BundleAlgorithm, HashFields, MultipathAlgorithm};

/// Ports of a bundle (Open vSwitch's bound).
const MEMBERS_MAX: usize = 2048;

const FIELDS: &[(&str, HashFields)] = &[
    ("eth_src", HashFields::EthSrc),
    ("symmetric_l4", HashFields::SymmetricL4),
    ("symmetric_l3l4", HashFields::SymmetricL3L4),
    ("symmetric_l3l4+udp", HashFields::SymmetricL3L4Udp),
    ("symmetric_l3", HashFields::SymmetricL3),
    ("nw_src", HashFields::NwSrc),
    ("nw_dst", HashFields::NwDst),
];
const FIELDS_WANT: &str =
    "eth_src, nw_src, nw_dst, symmetric_l4, symmetric_l3, symmetric_l3l4 or symmetric_l3l4+udp";

const MULTIPATH: &[(&str, MultipathAlgorithm)] = &[
    ("modulo_n", MultipathAlgorithm::ModuloN),
    ("hash_threshold", MultipathAlgorithm::HashThreshold),
    ("hrw", MultipathAlgorithm::HighestRandomWeight),
    ("iter_hash", MultipathAlgorithm::IterHash),
];

const BUNDLE: &[(&str, BundleAlgorithm)] = &[
    ("active_backup", BundleAlgorithm::ActiveBackup),
    ("hrw", BundleAlgorithm::HighestRandomWeight),
];

pub fn fields_name(fields: HashFields) -> &'static str {
    name_of(FIELDS, fields)
}

pub fn multipath_name(algorithm: MultipathAlgorithm) -> &'static str {
    name_of(MULTIPATH, algorithm)
}

pub fn bundle_name(algorithm: BundleAlgorithm) -> &'static str {
    name_of(BUNDLE, algorithm)
}

fn name_of<T: Copy + PartialEq>(list: &[(&'static str, T)], wanted: T) -> &'static str {
    list.iter().find(|(_, v)| *v == wanted).map_or("", |(name, _)| name)
}

fn choice<T: Copy>(
    list: &[(&'static str, T)],
    s: Span<'_>,
    of: &str,
    want: &'static str,
) -> Result<T, FlowError> {
    let found = list.iter().find(|(name, _)| name.eq_ignore_ascii_case(s.text));
    found.map(|f| f.1).ok_or_else(|| s.err(Problem::BadValue { of: of.to_string(), want }))
}

fn basis(s: Span<'_>) -> Result<u16, FlowError> {
    parse_within(s, "the basis", 0, 65535).map(|n| n as u16).map_err(|p| s.err(p))
}

/// `multipath(FIELDS,BASIS,ALGORITHM,LINKS,ARG,DST[..])`.
pub fn parse_multipath(pair: &Pair<'_>, names: &dyn PortNames) -> Result<FlowAction, FlowError> {
    let parts = pair.value.words(b", ")?;
    let [fields, basis_text, algorithm, links_text, arg, dst] = parts.as_slice() else {
        let usage = "multipath(FIELDS,BASIS,ALGORITHM,LINKS,ARG,FIELD[..])";
        return Err(pair.whole.err(Problem::Expected(usage)));
    };
    let within = |s: Span<'_>, of, lo, hi| parse_within(s, of, lo, hi).map_err(|p| s.err(p));
    let want = "modulo_n, hash_threshold, hrw or iter_hash";
    let multipath = Multipath {
        fields: choice(FIELDS, *fields, "field list", FIELDS_WANT)?,
        basis: basis(*basis_text)?,
        algorithm: choice(MULTIPATH, *algorithm, "algorithm", want)?,
        links: within(*links_text, "the number of links", 1, 65536)? as u32,
        arg: within(*arg, "the argument", 0, u32::MAX.into())? as u32,
        dst: SubField::parse(*dst, names)?,
    };
    if multipath.dst.bits < 16 && multipath.links > 1 << multipath.dst.bits {
        return Err(dst.err(Problem::Rule("the destination has too few bits for so many links")));
    }
    Ok(FlowAction::Multipath(Box::new(multipath)))
}

/// `bundle(FIELDS,BASIS,ALGORITHM,ofport,members:PORT,...)`; `bundle_load` with a destination
/// before the members.
pub fn parse_bundle(
    pair: &Pair<'_>,
    names: &dyn PortNames,
    load: bool,
) -> Result<FlowAction, FlowError> {
    let usage = if load {
        "bundle_load(FIELDS,BASIS,ALGORITHM,ofport,FIELD[..],members:PORT,...)"
    } else {
        "bundle(FIELDS,BASIS,ALGORITHM,ofport,members:PORT,...)"
    };
    let expected = || pair.whole.err(Problem::Expected(usage));
    let parts = pair.value.words(b", ")?;
    let (head, tail) = parts.split_at_checked(4 + usize::from(load)).ok_or_else(expected)?;
    let [fields, basis_text, algorithm, member_type, ..] = head else { return Err(expected()) };
    if !member_type.text.eq_ignore_ascii_case("ofport") {
        let of = "member type".to_string();
        return Err(member_type.err(Problem::BadValue { of, want: "ofport" }));
    }
    let want = "active_backup or hrw";
    let bundle = Bundle {
        fields: choice(FIELDS, *fields, "field list", FIELDS_WANT)?,
        basis: basis(*basis_text)?,
        algorithm: choice(BUNDLE, *algorithm, "algorithm", want)?,
        dst: match head.last().filter(|_| load) {
            Some(text) => Some(SubField::parse(*text, names)?),
            None => None,
        },
        members: members(tail, names)?.ok_or_else(expected)?,
    };
    Ok(FlowAction::Bundle(Box::new(bundle)))
}

/// The ports after the word `members:` (`slaves:` in older texts), brackets around them or
/// not; `None` without the word.
fn members(parts: &[Span<'_>], names: &dyn PortNames) -> Result<Option<Vec<u32>>, FlowError> {
    let Some((first, rest)) = parts.split_first() else { return Ok(None) };
    let Some((word, first)) = first.split_once(":") else { return Ok(None) };
    if !matches!(word.text.to_ascii_lowercase().as_str(), "members" | "slaves") {
        return Ok(None);
    }
    let mut out = Vec::new();
    for part in std::iter::once(&first).chain(rest) {
        for s in part.words(b"[]")? {
            let port = parse_port(s, names).map_err(|p| s.err(p))?;
            if out.len() >= MEMBERS_MAX {
                return Err(s.err(Problem::Rule("a bundle has at most 2048 members")));
            }
            if port == ports::CONTROLLER || (ports::PORT_MAX..ports::IN_PORT).contains(&port) {
                return Err(s.err(Problem::Rule("this port cannot be a member of a bundle")));
            }
            out.push(port);
        }
    }
    Ok(Some(out))
}
