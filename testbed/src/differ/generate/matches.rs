//! Matches: a kind of packet, and fields that it has.

use std::sync::OnceLock;

use sluice_dataplane::packet::field::{FIELDS, Field, prereq_met};
use sluice_dataplane::packet::key::FlowKey;

use super::super::chance::Chance;
use super::super::ours;
use super::values;

/// A kind of packet, and the words of a match that ask for it.
#[derive(Clone, Copy, Debug)]
pub struct Kind {
    pub words: &'static str,
    pub eth_type: u16,
    pub ip_proto: u8,
    /// Type of an ICMPv6 message, if the words ask for it.
    pub icmp_type: u16,
    pub weight: u64,
}

const fn kind(words: &'static str, eth_type: u16, ip_proto: u8, weight: u64) -> Kind {
    Kind { words, eth_type, ip_proto, icmp_type: 0, weight }
}

pub const KINDS: &[Kind] = &[
    kind("", 0, 0, 18),
    kind("ip", 0x0800, 0, 10),
    kind("tcp", 0x0800, 6, 12),
    kind("udp", 0x0800, 17, 12),
    kind("sctp", 0x0800, 132, 4),
    kind("icmp", 0x0800, 1, 5),
    kind("ip,nw_proto=2", 0x0800, 2, 2),
    kind("arp", 0x0806, 0, 6),
    kind("rarp", 0x8035, 0, 1),
    kind("ipv6", 0x86dd, 0, 5),
    kind("tcp6", 0x86dd, 6, 5),
    kind("udp6", 0x86dd, 17, 5),
    kind("sctp6", 0x86dd, 132, 1),
    kind("icmp6", 0x86dd, 58, 3),
    Kind { icmp_type: 135, ..kind("icmp6,icmpv6_type=135,icmpv6_code=0", 0x86dd, 58, 3) },
    Kind { icmp_type: 136, ..kind("icmp6,icmpv6_type=136,icmpv6_code=0", 0x86dd, 58, 3) },
    kind("dl_type=0x88b5", 0x88b5, 0, 2),
    kind("dl_type=0x05ff", 0x05ff, 0, 1),
    kind("mpls", 0x8847, 0, 3),
];

/// How often a kind is drawn: not at all while sluice does not read its words.
pub fn weight(kind: &Kind) -> u64 {
    static READ: OnceLock<Vec<&'static str>> = OnceLock::new();
    let read = READ.get_or_init(|| {
        let takes = |k: &&Kind| ours::takes(&format!("{},actions=drop", k.words)).is_ok();
        KINDS.iter().filter(takes).map(|k| k.words).collect()
    });
    if read.contains(&kind.words) { kind.weight } else { 0 }
}

impl Kind {
    /// What a match on this kind makes sure of.
    pub fn key(&self, tagged: bool) -> FlowKey {
        FlowKey {
            eth_type: self.eth_type,
            ip_proto: self.ip_proto,
            tp_src: self.icmp_type,
            vlan_tci: if tagged { 0x1000 } else { 0 },
            ..FlowKey::ZERO
        }
    }

    /// Whether a packet of this kind has the field.
    pub fn has(&self, field: Field, tagged: bool) -> bool {
        prereq_met(field.info().prereq, &self.key(tagged))
    }
}

/// A drawn match.
#[derive(Clone, Debug)]
pub struct Drawn {
    pub kind: &'static Kind,
    pub tagged: bool,
    /// Field, value, mask.
    pub parts: Vec<(Field, u128, u128)>,
    pub text: String,
}

/// Fields that only flows write.
pub fn is_metadata(field: Field) -> bool {
    let name = field.info().name;
    let words = ["reg", "xreg", "xxreg", "metadata", "pkt_mark", "conj_id", "tun", "ct_"];
    words.iter().any(|w| name.starts_with(w))
}

/// Tunnel options, which are fields only after a map that says so.
pub fn is_option(field: Field) -> bool {
    field.info().name.starts_with("tun_metadata")
}

/// Fields that are drawn in another way, or say what the kind says already.
fn is_settled(field: Field) -> bool {
    use Field as F;
    let settled = [F::EthType, F::IpProto, F::VlanTpid, F::TunTos, F::TunTtl, F::ConjId, F::InPort];
    // Tunnel options need a map, which sluice's flow text cannot give yet.
    let tuple = field.info().name.starts_with("tun_metadata")
        || field.info().name.starts_with("ct_nw")
        || field.info().name.starts_with("ct_ipv6")
        || field.info().name.starts_with("ct_tp");
    settled.contains(&field) || tuple || field == F::InPortOxm || is_option(field)
}

/// Draws a match. `deep`: for a table that packets reach with metadata set.
pub fn draw(c: &mut Chance, deep: bool, number_of_ports: u64) -> Drawn {
    let weights: Vec<u64> = KINDS.iter().map(weight).collect();
    let kind = &KINDS[c.weighted(&weights)];
    let mut drawn = Drawn::of(kind);
    if c.percent(35) {
        let port = u128::from(c.within(1, number_of_ports));
        drawn.put(Field::InPort, port, 0xffff);
    }
    if c.percent(20) {
        vlan(c, &mut drawn);
    }
    let headers: Vec<Field> =
        FIELDS.iter().map(|f| f.id).filter(|f| is_header(*f) && kind.has(*f, false)).collect();
    for _ in 0..c.weighted(&[3, 5, 3, 1]) {
        drawn.field(*c.pick(&headers), c);
    }
    let metadata: Vec<Field> = FIELDS
        .iter()
        .map(|f| f.id)
        .filter(|f| is_metadata(*f) && !is_settled(*f) && is_common(*f, c))
        .collect();
    let wanted = if deep { c.weighted(&[4, 4, 2]) } else { usize::from(c.percent(4)) };
    for _ in 0..wanted {
        if !metadata.is_empty() {
            drawn.field(*c.pick(&metadata), c);
        }
    }
    drawn
}

/// Most programs use few registers.
fn is_common(field: Field, c: &mut Chance) -> bool {
    matches!(field, Field::Reg0 | Field::Reg1 | Field::Metadata | Field::Xreg0 | Field::Reg4)
        || c.percent(6)
}

fn is_vlan(field: Field) -> bool {
    matches!(
        field,
        Field::VlanTci | Field::VlanVid | Field::VlanPcp | Field::DlVlan | Field::DlVlanPcp
    )
}

fn vlan(c: &mut Chance, drawn: &mut Drawn) {
    let v = u128::from(values::tci(c));
    match c.below(6) {
        0 => drawn.put_text(Field::VlanTci, 0, 0xffff, "vlan_tci=0"),
        1 => drawn.put_text(Field::VlanTci, 0x1000, 0x1000, "vlan_tci=0x1000/0x1000"),
        2 => {
            let text = format!("dl_vlan={}", v & 0xfff);
            drawn.put_text(Field::VlanTci, v, 0x1fff, &text);
        }
        3 => {
            let text = format!("dl_vlan_pcp={}", v >> 13);
            drawn.put_text(Field::VlanTci, v, 0xf000, &text);
        }
        4 => drawn.put_text(Field::VlanTci, v, 0xffff, &format!("vlan_tci={v:#x}")),
        _ => {
            let mask = 0x1000 | u128::from(c.below(0x1000));
            let text = format!("vlan_vid={:#x}/{mask:#x}", v & mask);
            drawn.put_text(Field::VlanTci, v, mask, &text);
        }
    }
    drawn.tagged = drawn.parts.last().is_some_and(|p| p.1 & 0x1000 != 0);
}

/// Fields of headers behind the tags.
pub fn is_header(field: Field) -> bool {
    !is_metadata(field) && !is_settled(field) && !is_vlan(field)
}

impl Drawn {
    /// All packets of a kind.
    pub fn of(kind: &'static Kind) -> Self {
        Self { kind, tagged: false, parts: Vec::new(), text: kind.words.to_owned() }
    }

    /// Asks for a drawn value of a field, too.
    pub fn field(&mut self, field: Field, c: &mut Chance) {
        let info = field.info();
        let (value, mask) = (values::draw(field, c), values::mask(info, c));
        let overlaps = self.parts.iter().any(|p| overlap(p.0, field));
        if overlaps || (self.kind.icmp_type != 0 && info.name.starts_with("icmp")) {
            return;
        }
        if let Some((text, mask)) = values::write(info, value, mask) {
            self.put_text(field, value, mask, &format!("{}={text}", info.name));
        }
    }

    fn put(&mut self, field: Field, value: u128, mask: u128) {
        let text = format!("{}={value}", field.info().name);
        self.put_text(field, value, mask, &text);
    }

    fn put_text(&mut self, field: Field, value: u128, mask: u128, text: &str) {
        self.parts.push((field, value & mask, mask));
        if !self.text.is_empty() {
            self.text.push(',');
        }
        self.text.push_str(text);
    }
}

/// Whether two fields lie over the same bits: a match names them once.
fn overlap(a: Field, b: Field) -> bool {
    let mut key = FlowKey::ZERO;
    a.info().set(&mut key, u128::MAX);
    b.info().get(&key) != 0
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn most_matches_are_flows_that_sluice_takes() {
        let mut c = Chance::new(5);
        let mut refused = Vec::new();
        for _ in 0..2000 {
            let drawn = draw(&mut c, true, 4);
            let text = format!("priority=1,{},actions=drop", drawn.text);
            if let Err(why) = crate::differ::ours::takes(&text) {
                refused.push(format!("{text}: {why}"));
            }
        }
        // Kinds and fields that sluice has yet to learn are refused.
        assert!(refused.len() < 200, "{} refused: {:#?}", refused.len(), &refused[..9]);
    }
}
