//! Values of fields: few, so that rules and packets meet, and some odd ones.

use std::net::{Ipv4Addr, Ipv6Addr};

use sluice_dataplane::packet::field::{Field, FieldInfo, Format, Maskable, ones};

use super::super::chance::Chance;

pub const MACS: &[u64] = &[
    0x0200_0000_0001,
    0x0200_0000_0002,
    0x0200_0000_0003,
    0x0200_0000_0004,
    0x0200_0000_0005,
    0xffff_ffff_ffff,
    0x0100_5e01_0203,
    0x3333_0000_0001,
];

/// Addresses that bridges treat in their own way.
const ODD_MACS: &[u64] = &[
    0,
    0x0180_c200_0000,
    0x0180_c200_000e,
    0x0180_c200_0010,
    0x0100_0ccc_cccc,
    0x0100_0ccc_cccd,
    0x00e0_2b00_0000,
];

pub const IPV4: &[u32] =
    &[0x0a00_0001, 0x0a00_0002, 0x0a00_0101, 0x0a01_0001, 0xc0a8_0101, 0xe000_0001];

const ODD_IPV4: &[u32] = &[0, 0x7f00_0001, 0xffff_ffff];

pub const IPV6: &[u128] = &[
    0xfd00_0000_0000_0000_0000_0000_0000_0001,
    0xfd00_0000_0000_0000_0000_0000_0000_0002,
    0xfd00_0000_0000_0001_0000_0000_0000_0001,
    0xfe80_0000_0000_0000_0000_0000_0000_0001,
    0xff02_0000_0000_0000_0000_0001_ff00_0001,
];

const PORTS: &[u64] = &[53, 80, 1000, 2000, 4789];
const VIDS: &[u64] = &[1, 5, 10, 100];

fn mac(c: &mut Chance) -> u128 {
    let list = if c.percent(6) { ODD_MACS } else { MACS };
    u128::from(*c.pick(list))
}

/// A value that packets and rules both use.
pub fn draw(field: Field, c: &mut Chance) -> u128 {
    let info = field.info();
    if c.percent(3) {
        let kept = if field == Field::IpTos { 0xfc } else { ones(info.bits) };
        return c.wide() & kept;
    }
    let value: u128 = match (field, info.format) {
        (_, Format::Mac) => mac(c),
        (_, Format::Ipv4) if c.percent(5) => u128::from(*c.pick(ODD_IPV4)),
        (_, Format::Ipv4) => u128::from(*c.pick(IPV4)),
        (_, Format::Ipv6) => *c.pick(IPV6),
        (_, Format::Port) => u128::from(c.within(1, 4)),
        (Field::TcpSrc | Field::TcpDst | Field::UdpSrc | Field::UdpDst, _)
        | (Field::SctpSrc | Field::SctpDst | Field::CtTpSrc | Field::CtTpDst, _) => {
            u128::from(*c.pick(PORTS))
        }
        (Field::IcmpType, _) => u128::from(*c.pick(&[0u8, 3, 8, 11])),
        (Field::Icmpv6Type, _) => u128::from(*c.pick(&[128u8, 129, 135, 136, 1])),
        (Field::IcmpCode | Field::Icmpv6Code, _) => u128::from(c.below(2)),
        (Field::VlanTci, _) => u128::from(tci(c)),
        (Field::VlanVid, _) => u128::from(0x1000 | *c.pick(VIDS)),
        (Field::DlVlan, _) => u128::from(*c.pick(VIDS)),
        (Field::IpTtl, _) => u128::from(*c.pick(&[0u8, 1, 2, 64, 255])),
        (Field::IpTos, _) => u128::from(*c.pick(&[0u8, 4, 0x28, 0xb8])),
        (Field::IpProto, _) => u128::from(*c.pick(&[1u8, 2, 6, 17, 47, 58, 132])),
        (Field::ArpOp, _) => u128::from(*c.pick(&[1u8, 2, 3])),
        (Field::EthType, _) => u128::from(*c.pick(&[0x800u16, 0x806, 0x86dd, 0x88b5, 0x5ff])),
        (Field::Ipv6Label, _) => u128::from(c.below(3)),
        (Field::TcpFlags, _) => u128::from(*c.pick(&[0x2u16, 0x12, 0x10, 0x11, 0x4, 0x18])),
        (Field::CtState, _) => u128::from(*c.pick(&[0x21u8, 0x22, 0x2a, 0x30, 0x20, 0])),
        (Field::IpFrag, _) => u128::from(*c.pick(&[0u8, 1, 3])),
        (Field::TunFlags, _) => 0,
        _ => u128::from(c.below(4)),
    };
    value & ones(info.bits)
}

/// A tag, as `vlan_tci` has it.
pub fn tci(c: &mut Chance) -> u16 {
    let pcp = if c.percent(30) { c.below(8) as u16 } else { 0 };
    0x1000 | pcp << 13 | *c.pick(VIDS) as u16
}

/// A mask for a match on this field.
pub fn mask(info: &FieldInfo, c: &mut Chance) -> u128 {
    let full = ones(info.bits);
    if info.maskable == Maskable::No || c.percent(60) {
        return full;
    }
    let drawn = match info.format {
        Format::Ipv4 | Format::Ipv6 => {
            full & !ones(info.bits - c.within(0, u64::from(info.bits)) as u8)
        }
        _ if c.percent(50) => ones(c.within(1, u64::from(info.bits)) as u8),
        _ => c.wide() & full,
    };
    if drawn == 0 { full } else { drawn }
}

const CT_STATE: &[&str] = &["new", "est", "rel", "rpl", "inv", "trk", "snat", "dnat"];
const TCP_FLAGS: &[&str] = &["fin", "syn", "rst", "psh", "ack", "urg", "ece", "cwr", "ns"];
const FRAGS: &[(&str, u128, u128)] =
    &[("no", 0, 3), ("first", 1, 3), ("later", 3, 3), ("yes", 1, 1), ("not_later", 0, 2)];

fn flags(names: &[&str], value: u128, mask: u128) -> Option<String> {
    let known = names.iter().enumerate().filter(|(i, _)| mask >> i & 1 != 0);
    let signed = |(i, name): (usize, &&str)| {
        format!("{}{name}", if value >> i & 1 != 0 { '+' } else { '-' })
    };
    let text: String = known.map(signed).collect();
    (!text.is_empty()).then_some(text)
}

fn plain(format: Format, v: u128) -> String {
    match format {
        Format::Mac => {
            let b = (v as u64).to_be_bytes();
            format!("{:02x}:{:02x}:{:02x}:{:02x}:{:02x}:{:02x}", b[2], b[3], b[4], b[5], b[6], b[7])
        }
        Format::Ipv4 => Ipv4Addr::from(v as u32).to_string(),
        Format::Ipv6 => Ipv6Addr::from(v).to_string(),
        Format::Decimal | Format::Port => v.to_string(),
        _ => format!("{v:#x}"),
    }
}

/// Value and mask as flow text has them, with the mask that the text really says.
pub fn write(info: &FieldInfo, value: u128, mask: u128) -> Option<(String, u128)> {
    let full = ones(info.bits);
    match info.format {
        Format::CtState => flags(CT_STATE, value, mask).map(|t| (t, mask)),
        Format::TcpFlags => {
            let known = mask & ones(TCP_FLAGS.len() as u8);
            flags(TCP_FLAGS, value, known).map(|t| (t, known))
        }
        Format::Frag => {
            let fits = FRAGS.iter().filter(|f| (value ^ f.1) & f.2 == 0);
            let found = fits.min_by_key(|f| (f.2 ^ mask).count_ones())?;
            Some((found.0.to_owned(), found.2))
        }
        Format::TunFlags => Some((if value & 1 != 0 { "+oam" } else { "-oam" }.into(), 1)),
        Format::Ipv6 if mask != full && (mask | mask.wrapping_sub(1)) == full => {
            // ovs-ofctl takes a first word without a colon behind it for a length.
            Some((format!("{}/{}", plain(Format::Ipv6, value & mask), mask.leading_ones()), mask))
        }
        _ if mask == full => Some((plain(info.format, value), full)),
        Format::Decimal => Some((format!("{:#x}/{mask:#x}", value & mask), mask)),
        f => Some((format!("{}/{}", plain(f, value & mask), plain(f, mask)), mask)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use sluice_dataplane::packet::field::FIELDS;

    #[test]
    fn text_says_what_it_should() {
        let text = |f: Field, v, m| write(f.info(), v, m).unwrap().0;
        assert_eq!(text(Field::IpSrc, 0x0a00_0001, 0xffff_ff00), "10.0.0.0/255.255.255.0");
        assert_eq!(text(Field::EthSrc, 1, ones(48)), "00:00:00:00:00:01");
        assert_eq!(text(Field::CtState, 0x20, 0x21), "-new+trk");
        assert_eq!(text(Field::IpFrag, 3, 3), "later");
        assert_eq!(text(Field::Reg0, 5, 0xf), "0x5/0xf");
    }

    #[test]
    fn every_field_has_values_within_its_width() {
        let mut c = Chance::new(1);
        for info in FIELDS {
            for _ in 0..200 {
                let v = draw(info.id, &mut c);
                assert_eq!(v & !ones(info.bits), 0, "{}", info.name);
                let m = mask(info, &mut c);
                assert!(m != 0 && m & !ones(info.bits) == 0, "{}", info.name);
            }
        }
    }
}
