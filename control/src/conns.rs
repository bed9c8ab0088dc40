//! The text that says which connections are meant: terms with spaces or commas between them.
//!
//! ```text
//! zone=5 udp dport=53                   of either direction's tuple
//! tcp orig.src=10.0.0.0/24 reply.dst=192.0.2.1 state=SYN_SENT
//! mark=0x1/0xff label=0x10 half-open
//! ct_nw_src=10.0.0.1,ct_nw_proto=17 ct_nw_src=192.0.2.9
//! ``` The last line is in the words of `ovs-appctl dpctl/flush-conntrack` and `ovs-ofctl
//! ct-flush`: the first word of tuple terms is the original direction's, a second one the reply's.
//! All terms must hold; a term that is given twice is an error. No term at all means every
//! connection.

use sluice_dataplane::conntrack::{ConnFilter, StateFilter, TCP_STATES, TupleFilter};
use std::fmt::Display;
use std::net::IpAddr;
use std::str::FromStr;

/// What is wrong with a term, and what would be right.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FilterError {
    pub what: String,
    pub hint: &'static str,
}

const TERMS: &str = "terms are zone= mark= label= state= src= dst= sport= dport= icmp_id= \
    icmp_type= icmp_code= (with orig. or reply. before them for one direction), proto=, tcp udp \
    sctp icmp icmpv6 ip ipv6, half-open closed established, and ct_nw_src= ct_nw_dst= \
    ct_nw_proto= ct_tp_src= ct_tp_dst= ct_ipv6_src= ct_ipv6_dst=";

fn wrong(what: impl Into<String>, hint: &'static str) -> FilterError {
    FilterError { what: what.into(), hint }
}

/// Reads a filter.
pub fn parse(text: &str) -> Result<ConnFilter, FilterError> {
    let mut p = Parser::default();
    for word in text.split_whitespace() {
        p.peer_terms = false;
        for term in word.split(',').filter(|t| !t.is_empty()) {
            p.term(term)?;
        }
        p.peer_words += usize::from(p.peer_terms);
    }
    Ok(p.filter)
}

#[derive(Default)]
struct Parser {
    filter: ConnFilter,
    /// Words with terms of Open vSwitch's for tuples; whether the present one has any.
    peer_words: usize,
    peer_terms: bool,
}

fn set<T>(slot: &mut Option<T>, value: T, term: &str) -> Result<(), FilterError> {
    if slot.replace(value).is_some() {
        return Err(wrong(format!("\"{term}\": that is said already"), "say each thing once"));
    }
    Ok(())
}

impl Parser {
    fn term(&mut self, term: &str) -> Result<(), FilterError> {
        let Some((key, value)) = term.split_once('=') else { return self.flag(term) };
        let f = &mut self.filter;
        match key {
            "zone" => set(&mut f.zone, number(term, value)?, term),
            "mark" | "ct_mark" => {
                let (v, m) = masked(term, value)?;
                let fits = |n: u128| u32::try_from(n).map_err(|_| wide(term));
                let mask = if value.contains('/') { fits(m)? } else { u32::MAX };
                set(&mut f.mark, (fits(v)?, mask), term)
            }
            "label" | "labels" | "ct_label" => set(&mut f.label, masked(term, value)?, term),
            "proto" | "ct_nw_proto" => set(&mut f.proto, number(term, value)?, term),
            "state" => set(&mut f.state, state(term, value)?, term),
            _ => self.tuple_term(term, key, value),
        }
    }

    /// Protocols and states that go without a value.
    fn flag(&mut self, term: &str) -> Result<(), FilterError> {
        let f = &mut self.filter;
        let (proto, v6) = match term {
            "tcp" => (Some(6), None),
            "udp" => (Some(17), None),
            "sctp" => (Some(132), None),
            "icmp" => (Some(1), Some(false)),
            "icmpv6" | "icmp6" => (Some(58), Some(true)),
            "ip" => (None, Some(false)),
            "ipv6" => (None, Some(true)),
            _ => return set(&mut f.state, state(term, term)?, term),
        };
        proto.map_or(Ok(()), |p| set(&mut f.proto, p, term))?;
        v6.map_or(Ok(()), |v6| set(&mut f.v6, v6, term))
    }

    fn tuple_term(&mut self, term: &str, key: &str, value: &str) -> Result<(), FilterError> {
        let direction = key.split_once('.');
        let peers = key.starts_with("ct_");
        self.peer_terms |= peers;
        let (f, key) = (&mut self.filter, direction.map_or(key, |(_, key)| key));
        let tuple = match direction {
            Some(("orig", _)) => &mut f.orig,
            Some(("reply", _)) => &mut f.reply,
            Some(_) => return Err(wrong(format!("\"{term}\": no such term"), TERMS)),
            None if peers => match self.peer_words {
                0 => &mut f.orig,
                1 => &mut f.reply,
                _ => return Err(wrong(format!("\"{term}\": a third tuple"), "there are two")),
            },
            None => &mut f.either,
        };
        let v6 = tuple_field(tuple, term, key, value)?;
        match v6 {
            Some(v6) if f.v6.is_some_and(|known| known != v6) => {
                Err(wrong(format!("\"{term}\": IPv4 and IPv6 at once"), "name one version"))
            }
            Some(v6) => {
                f.v6 = Some(v6);
                Ok(())
            }
            None => Ok(()),
        }
    }
}

/// Sets a field of a tuple. Says which IP version it means, if one.
fn tuple_field(
    t: &mut TupleFilter,
    term: &str,
    key: &str,
    value: &str,
) -> Result<Option<bool>, FilterError> {
    let slot = match key {
        "src" | "ct_nw_src" | "ct_ipv6_src" => &mut t.src,
        "dst" | "ct_nw_dst" | "ct_ipv6_dst" => &mut t.dst,
        _ => {
            match key {
                "sport" | "ct_tp_src" => set(&mut t.sport, number(term, value)?, term)?,
                "dport" | "ct_tp_dst" => set(&mut t.dport, number(term, value)?, term)?,
                "icmp_id" | "id" => set(&mut t.icmp_id, number(term, value)?, term)?,
                "icmp_type" | "type" => set(&mut t.icmp_type, number(term, value)?, term)?,
                "icmp_code" | "code" => set(&mut t.icmp_code, number(term, value)?, term)?,
                _ => return Err(wrong(format!("\"{term}\": no such term"), TERMS)),
            }
            return Ok(None);
        }
    };
    let (address, mask, v6) = network(term, value)?;
    set(slot, (address, mask), term)?;
    Ok(Some(v6))
}

fn network(term: &str, value: &str) -> Result<(u128, u128, bool), FilterError> {
    const HINT: &str = "write an address, or a network as in 10.0.0.0/24";
    let bad = || wrong(format!("\"{term}\": not an address"), HINT);
    let (address, len) = value.split_once('/').map_or((value, None), |(a, l)| (a, Some(l)));
    let (number, bits) = match address.parse::<IpAddr>().map_err(|_| bad())? {
        IpAddr::V4(a) => (u128::from(u32::from(a)), 32),
        IpAddr::V6(a) => (u128::from(a), 128),
    };
    let len = len.map_or(Ok(bits), |l| l.parse::<u32>().map_err(|_| bad()))?;
    if len > bits {
        return Err(bad());
    }
    // Of IPv4 the upper bits are zero in every connection's address.
    let mask = u128::MAX.checked_shl(bits - len).unwrap_or(0);
    Ok((number, mask, bits == 128))
}

fn state(term: &str, name: &str) -> Result<StateFilter, FilterError> {
    const HINT: &str = "half-open, closed, established, or as the list shows it: SYN_SENT \
        ESTABLISHED CLOSE_WAIT FIN_WAIT_1 CLOSING LAST_ACK TIME_WAIT CLOSED";
    let tcp = |name: &str| TCP_STATES.iter().find(|s| **s == name).map(|s| StateFilter::Tcp(s));
    match name {
        "half-open" => Some(StateFilter::HalfOpen),
        "closed" => Some(StateFilter::Closed),
        "established" => Some(StateFilter::Established),
        _ => tcp(name),
    }
    .ok_or_else(|| {
        let hint = if term.contains('=') { HINT } else { TERMS };
        wrong(format!("\"{term}\": no such term or state"), hint)
    })
}

fn number<T: FromStr + TryFrom<u128, Error: Display>>(
    term: &str,
    value: &str,
) -> Result<T, FilterError> {
    T::try_from(wide_number(term, value)?).map_err(|_| wide(term))
}

fn wide(term: &str) -> FilterError {
    wrong(format!("\"{term}\": the number is too large"), "use fewer bits")
}

fn wide_number(term: &str, value: &str) -> Result<u128, FilterError> {
    let parsed = match value.strip_prefix("0x") {
        Some(hex) => u128::from_str_radix(hex, 16),
        None => value.parse(),
    };
    parsed.map_err(|_| wrong(format!("\"{term}\": not a number"), "decimal, or 0x and hexadecimal"))
}

fn masked(term: &str, value: &str) -> Result<(u128, u128), FilterError> {
    let (v, m) = value.split_once('/').map_or((value, None), |(v, m)| (v, Some(m)));
    let mask = m.map_or(Ok(u128::MAX), |m| wide_number(term, m))?;
    Ok((wide_number(term, v)?, mask))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn terms_say_what_they_mean() {
        let v4 = |a: u32| Some((u128::from(a), u128::MAX));
        let f = parse("zone=5 udp dport=53,src=10.0.0.1").unwrap();
        assert_eq!((f.zone, f.proto, f.v6), (Some(5), Some(17), Some(false)));
        let either = TupleFilter { src: v4(0x0a00_0001), dport: Some(53), ..Default::default() };
        assert_eq!((f.either, f.orig), (either, TupleFilter::default()));
        let f = parse("orig.src=10.0.0.0/24 reply.dst=fd00::1").unwrap_err();
        assert!(f.what.contains("IPv4 and IPv6 at once"), "{}", f.what);
        let f = parse("mark=0x1/0xff label=0x10 state=SYN_SENT").unwrap();
        assert_eq!((f.mark, f.label), (Some((1, 0xff)), Some((16, u128::MAX))));
        assert_eq!(f.state, Some(StateFilter::Tcp("SYN_SENT")));
        assert_eq!(parse("half-open").unwrap().state, Some(StateFilter::HalfOpen));
        assert_eq!(parse("").unwrap(), ConnFilter::default());
        // As Open vSwitch's commands have it: one tuple, then the other.
        let f = parse("zone=1 ct_nw_src=10.0.0.1,ct_nw_proto=17,ct_tp_src=1 ct_nw_src=10.0.0.2");
        let f = f.unwrap();
        assert_eq!((f.orig.src, f.orig.sport), (v4(0x0a00_0001), Some(1)));
        assert_eq!((f.reply.src, f.proto), (v4(0x0a00_0002), Some(17)));
    }

    #[test]
    fn what_is_wrong_is_quoted() {
        for (text, part) in [
            ("zone=65536", "\"zone=65536\": the number is too large"),
            ("zone=x", "\"zone=x\": not a number"),
            ("zone=1 zone=2", "\"zone=2\": that is said already"),
            ("mark=0x100000000", "\"mark=0x100000000\": the number is too large"),
            ("src=10.0.0.300", "\"src=10.0.0.300\": not an address"),
            ("src=10.0.0.0/33", "\"src=10.0.0.0/33\": not an address"),
            ("their.src=10.0.0.1", "\"their.src=10.0.0.1\": no such term"),
            ("frob=1", "\"frob=1\": no such term"),
            ("frob", "\"frob\": no such term or state"),
            ("state=OPEN", "\"state=OPEN\": no such term or state"),
            ("tcp udp", "\"udp\": that is said already"),
            ("icmp ipv6", "\"ipv6\": that is said already"),
            ("ct_tp_src=1 ct_tp_src=2 ct_tp_src=3", "\"ct_tp_src=3\": a third tuple"),
        ] {
            let error = parse(text).unwrap_err();
            assert!(error.what.contains(part) && !error.hint.is_empty(), "{text}: {error:?}");
        }
    }
}
