//! The match of a flow, field by field, and whether its fields belong together.
//!
//! A match is a conjunction: two parts that demand different values of the same bits
//! contradict each other and are refused (Open vSwitch lets the last one win). A field that a
//! packet has only under a condition (`tcp_dst` needs TCP) is refused unless the match states
//! the condition; ovs-fields(7) lists them as prerequisites.

use super::error::{FlowError, Problem};
use super::ports::PortNames;
use super::span::{Form, Pair, Span};
use super::subfield::{OptionPlace, SubField};
use super::value::{parse_masked, parse_option, parse_uint};
use super::{Match, check};
use sluice_dataplane::packet::field::{Field, Maskable, Prereq, ones};
use sluice_dataplane::packet::key::VLAN_PRESENT;

/// Words that stand for an Ethernet type and an IP protocol (0: any).
const PROTOCOLS: &[(&str, u16, u8)] = &[
    ("ip", 0x0800, 0),
    ("ipv4", 0x0800, 0),
    ("ip4", 0x0800, 0),
    ("arp", 0x0806, 0),
    ("rarp", 0x8035, 0),
    ("icmp", 0x0800, 1),
    ("tcp", 0x0800, 6),
    ("udp", 0x0800, 17),
    ("sctp", 0x0800, 132),
    ("ipv6", 0x86dd, 0),
    ("ip6", 0x86dd, 0),
    ("icmp6", 0x86dd, 58),
    ("tcp6", 0x86dd, 6),
    ("udp6", 0x86dd, 17),
    ("sctp6", 0x86dd, 132),
    ("mpls", 0x8847, 0),
    ("mplsm", 0x8848, 0),
];

const VID: u128 = 0x0fff;
const PCP: u128 = 0xe000;
const PRESENT: u128 = VLAN_PRESENT as u128;

/// The value of `dl_vlan` that means "no tag" (OpenFlow 1.0, `OFP_VLAN_NONE`).
const VLAN_NONE: u128 = 0xffff;

/// Collects the parts of a match.
pub struct MatchBuilder<'a> {
    match_: Match,
    given: Vec<(Field, Span<'a>)>,
    names: &'a dyn PortNames,
}

impl<'a> MatchBuilder<'a> {
    pub fn new(names: &'a dyn PortNames) -> Self {
        MatchBuilder { match_: Match::default(), given: Vec::new(), names }
    }

    /// Takes a pair if it is part of a match; `false`: it is something else.
    pub fn take(&mut self, pair: &Pair<'a>) -> Result<bool, FlowError> {
        let name = pair.key.text;
        if let Some(&(word, eth_type, proto)) = PROTOCOLS.iter().find(|p| p.0 == name) {
            if pair.form != Form::Bare {
                return Err(pair.key.err(Problem::NeedlessValue(word)));
            }
            self.put(Field::EthType, eth_type as u128, 0xffff, pair.key)?;
            if proto != 0 {
                self.put(Field::IpProto, proto as u128, 0xff, pair.key)?;
            }
            return Ok(true);
        }
        if name == "eth" && pair.form == Form::Bare {
            return Ok(true);
        }
        if name.contains('[') {
            self.take_range(pair)?;
            return Ok(true);
        }
        let Some(field) = Field::by_name(name) else { return Ok(false) };
        if let Some(place) = OptionPlace::of(field, self.names).map_err(|p| pair.key.err(p))? {
            self.take_option(field, place, pair)?;
            return Ok(true);
        }
        if pair.value.is_empty() {
            return Err(pair.key.err(Problem::MissingValue(name.to_string())));
        }
        self.take_field(field, pair)?;
        Ok(true)
    }

    fn take_field(&mut self, field: Field, pair: &Pair<'a>) -> Result<(), FlowError> {
        let info = field.info();
        let whole = pair.whole;
        if matches!(field, Field::TunTos | Field::TunTtl | Field::VlanTpid) {
            return Err(pair.key.err(Problem::NotMatchable(info.name)));
        }
        if field == Field::DlVlan && parse_uint(pair.value.text) == Some(VLAN_NONE) {
            return self.put(Field::VlanTci, 0, 0xffff, whole);
        }
        let (v, m) = parse_masked(field, pair.value, self.names)
            .map_err(|p| pair.value.err(p.about(pair.key.text)))?;
        if m != 0 {
            self.given.push((field, pair.key));
        }
        match field {
            Field::DlVlan if m != 0 => self.put(Field::VlanTci, v | PRESENT, VID | PRESENT, whole),
            Field::DlVlanPcp | Field::VlanPcp if m != 0 => {
                self.put(Field::VlanTci, v << 13 | PRESENT, PCP | PRESENT, whole)
            }
            Field::VlanVid => self.put(Field::VlanTci, v, m, whole),
            Field::IpTos if v & 3 != 0 => Err(pair.value.err(Problem::Rule(
                "nw_tos holds the DSCP in its upper six bits; the lowest two are nw_ecn",
            ))),
            Field::IpTos => self.put(Field::IpTos, v, m & 0xfc, whole),
            Field::TunFlags => self.put(field, v, m & 1, whole),
            // All 16 bits of the place that ICMP shares with the ports: one mask for both.
            Field::IcmpType | Field::Icmpv6Type if m != 0 => {
                self.put(Field::TcpSrc, v, 0xffff, whole)
            }
            Field::IcmpCode | Field::Icmpv6Code if m != 0 => {
                self.put(Field::TcpDst, v, 0xffff, whole)
            }
            Field::InPort if m != 0 => self.put(Field::InPortOxm, v, ones(32), whole),
            _ => self.put(field, v, m, whole),
        }
    }

    /// `tun_metadata0=5`; the bare word: the option is there, whatever it holds.
    fn take_option(
        &mut self,
        field: Field,
        place: OptionPlace,
        pair: &Pair<'a>,
    ) -> Result<(), FlowError> {
        let (v, m) = match pair.form {
            Form::Bare => (0, 0),
            _ if pair.value.is_empty() => {
                return Err(pair.key.err(Problem::MissingValue(pair.key.text.to_string())));
            }
            _ => parse_option(field, place.data.bits, pair.value)
                .map_err(|p| pair.value.err(p.about(pair.key.text)))?,
        };
        self.put_option(place, v, m, pair.whole)
    }

    /// Who asks for bits of an option asks for the option.
    fn put_option(
        &mut self,
        place: OptionPlace,
        v: u128,
        m: u128,
        at: Span<'a>,
    ) -> Result<(), FlowError> {
        let Match { key, mask } = &mut self.match_;
        if (place.data.get(key) ^ v) & place.data.get(mask) & m != 0 {
            return Err(at.err(Problem::Contradiction));
        }
        place.data.set_masked(key, v, m);
        place.data.set_masked(mask, u128::MAX, m);
        place.present.or_into(key);
        place.present.or_into(mask);
        Ok(())
    }

    /// `reg0[0..3]=5`.
    fn take_range(&mut self, pair: &Pair<'a>) -> Result<(), FlowError> {
        let range = SubField::parse(pair.key, self.names)?;
        let info = range.field.info();
        let part = range.lower().filter(|p| p.bits == range.bits);
        let is_part = !range.is_whole();
        if part.is_none() || matches!(range.field, Field::TunTos | Field::TunTtl) {
            return Err(pair.key.err(Problem::NotMatchable(info.name)));
        }
        if is_part && info.maskable == Maskable::No {
            return Err(pair.key.err(Problem::NotMaskable(info.name)));
        }
        if pair.value.is_empty() {
            return Err(pair.key.err(Problem::MissingValue(pair.key.text.to_string())));
        }
        let bad = || Problem::BadValue { of: pair.key.text.to_string(), want: "a number" };
        let v = parse_uint(pair.value.text).ok_or_else(|| pair.value.err(bad()))?;
        let max = ones(range.bits);
        if v > max {
            let of = pair.key.text.to_string();
            return Err(pair.value.err(Problem::TooLarge { of, bits: range.bits, max }));
        }
        if let Some(place) = range.option {
            return self.put_option(place, v << range.lo, max << range.lo, pair.whole);
        }
        if !is_part {
            return self.take_field(range.field, pair);
        }
        self.given.push((range.field, pair.key));
        self.put(range.field, v << range.lo, max << range.lo, pair.whole)
    }

    fn put(&mut self, field: Field, v: u128, m: u128, at: Span<'a>) -> Result<(), FlowError> {
        let (old_v, old_m) = self.match_.get(field);
        if (old_v ^ v) & old_m & m != 0 {
            return Err(at.err(Problem::Contradiction));
        }
        self.match_.set(field, old_v | (v & m), old_m | m);
        Ok(())
    }

    /// The match, if its fields belong together.
    pub fn finish(self) -> Result<Match, FlowError> {
        for (field, name) in &self.given {
            if let Some(needs) = missing(*field, name.text, &self.match_) {
                let field = name.text.to_string();
                return Err(name.err(Problem::Prerequisite { field, needs }));
            }
        }
        Ok(self.match_)
    }
}

/// What the match lacks for `field`, which was written as `name`. Some names are read more
/// widely than the field they stand for: `tp_dst` for any transport, `nw_src` for ARP too.
fn missing(field: Field, name: &str, m: &Match) -> Option<&'static str> {
    let key = &m.key;
    let is_ip = key.eth_type == 0x0800 || key.eth_type == 0x86dd;
    let is_arp = key.eth_type == 0x0806 || key.eth_type == 0x8035;
    match (field, name) {
        (Field::TcpSrc | Field::TcpDst, "tp_src" | "tp_dst") => {
            let fine = is_ip && matches!(key.ip_proto, 1 | 6 | 17 | 58 | 132);
            (!fine).then_some("tcp, udp, sctp, tcp6, udp6 or sctp6")
        }
        (Field::IpSrc | Field::IpDst, "nw_src" | "nw_dst") if is_arp => None,
        (Field::IpProto, _) => (!is_ip && !is_arp).then_some("ip, ipv6 or arp"),
        (Field::IcmpType | Field::IcmpCode, "icmp_type" | "icmp_code") => {
            let v6 = key.eth_type == 0x86dd && key.ip_proto == 58;
            let v4 = key.eth_type == 0x0800 && key.ip_proto == 1;
            (!v4 && !v6).then_some("icmp or icmp6")
        }
        _ if field.info().prereq == Prereq::Vlan => None,
        _ => check::missing_prereq(field, m, key),
    }
}
