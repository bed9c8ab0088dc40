//! Values of fields in text: `10.0.0.0/24`, `+trk-new`, `0x5/0xff`, `LOCAL` ...
//!
//! How each kind is written: ovs-fields(7); what is printed is what ovs-ofctl 3.1 prints.

use super::error::Problem;
use super::ports::{self, PortNames};
use super::span::Span;
use sluice_dataplane::packet::field::{Field, FieldInfo, Format, Maskable, ones};
use std::fmt::Write;
use std::net::{Ipv4Addr, Ipv6Addr};

/// Bits of `ct_state`, lowest first.
pub const CT_STATE: &[&str] = &["new", "est", "rel", "rpl", "inv", "trk", "snat", "dnat"];
const TCP_FLAGS: &[&str] =
    &["fin", "syn", "rst", "psh", "ack", "urg", "ece", "cwr", "ns", "[200]", "[400]", "[800]"];
const TUN_FLAGS: &[&str] = &["oam"];

/// `ip_frag`: name, value, mask. The first that fits is printed.
const FRAGS: &[(&str, u128, u128)] = &[
    ("no", 0, 3),
    ("first", 1, 3),
    ("later", 3, 3),
    ("no", 0, 1),
    ("yes", 1, 1),
    ("later", 2, 2),
    ("not_later", 0, 2),
];

/// Reads a number as C does: decimal, `0x` hexadecimal, or octal after a leading zero.
pub fn parse_uint(s: &str) -> Option<u128> {
    let digits = |s: &str, radix| {
        let fine = !s.is_empty() && s.bytes().all(|b| b.is_ascii_hexdigit());
        fine.then(|| u128::from_str_radix(s, radix).ok()).flatten()
    };
    match s.strip_prefix("0x").or_else(|| s.strip_prefix("0X")) {
        Some(hex) => digits(hex, 16),
        None if s.len() > 1 && s.starts_with('0') => digits(&s[1..], 8),
        None => digits(s, 10),
    }
}

/// A number within `lo..=hi`.
pub fn parse_within(s: Span<'_>, of: &'static str, lo: u64, hi: u64) -> Result<u64, Problem> {
    if s.is_empty() {
        return Err(Problem::MissingValue(of.to_string()));
    }
    let n = parse_uint(s.text).and_then(|n| u64::try_from(n).ok());
    n.filter(|n| (lo..=hi).contains(n)).ok_or(Problem::OutOfRange { of, lo, hi })
}

/// A MAC address, one or two hexadecimal digits a byte.
pub fn parse_mac(s: &str) -> Option<u64> {
    let mut value = 0;
    let mut n = 0;
    for part in s.split(':') {
        if part.is_empty() || part.len() > 2 || !part.bytes().all(|b| b.is_ascii_hexdigit()) {
            return None;
        }
        value = value << 8 | u64::from_str_radix(part, 16).ok()?;
        n += 1;
    }
    (n == 6).then_some(value)
}

pub fn write_mac(out: &mut String, mac: u64) {
    for (i, byte) in mac.to_be_bytes()[2..].iter().enumerate() {
        let colon = if i == 0 { "" } else { ":" };
        let _ = write!(out, "{colon}{byte:02x}");
    }
}

/// An IPv6 address as inet_ntop writes it: unlike Rust, it shows `::a.b.c.d` dotted.
pub fn write_ipv6(out: &mut String, ip: u128) {
    if ip >> 32 == 0 && ip >> 16 != 0 {
        let _ = write!(out, "::{}", Ipv4Addr::from(ip as u32));
    } else {
        let _ = write!(out, "{}", Ipv6Addr::from(ip));
    }
}

fn bad(info: &FieldInfo) -> Problem {
    let want = match info.format {
        Format::Decimal | Format::Hex => "a number such as 10 or 0xa",
        Format::Mac => "six bytes such as 02:00:00:00:00:01",
        Format::Ipv4 => "an address such as 10.0.0.1 or 10.0.0.0/24",
        Format::Ipv6 => "an address such as fe80::1 or fe80::/10",
        Format::Port => "a port's number or name",
        Format::CtState => "flags such as +trk-new",
        Format::Frag => "no, yes, first, later or not_later",
        Format::TcpFlags => "flags such as +syn-ack or syn|ack",
        Format::TunFlags => "+oam or -oam",
    };
    Problem::BadValue { of: info.name.to_string(), want }
}

fn fits(info: &FieldInfo, value: u128, bits: u8) -> Result<u128, Problem> {
    let max = ones(bits);
    if value > max {
        return Err(Problem::TooLarge { of: info.name.to_string(), bits, max });
    }
    Ok(value)
}

/// Reads `VALUE[/MASK]` of a field. The mask is all ones if none is given; bits of the value
/// outside the mask stay as written.
pub fn parse_masked(
    field: Field,
    s: Span<'_>,
    names: &dyn PortNames,
) -> Result<(u128, u128), Problem> {
    let info = field.info();
    let full = ones(info.bits);
    if s.text == "*" {
        return Ok((0, 0));
    }
    let (value, mask) = match info.format {
        Format::Port => (ports::parse_port(s, names)? as u128, full),
        Format::Frag => {
            let known = FRAGS.iter().find(|f| f.0.eq_ignore_ascii_case(s.text));
            known.map(|f| (f.1, f.2)).ok_or_else(|| bad(info))?
        }
        Format::CtState => parse_flags(s.text, "ct_state", CT_STATE, full)?,
        Format::TcpFlags => parse_flags(s.text, "tcp_flags", TCP_FLAGS, full)?,
        Format::TunFlags => parse_flags(s.text, "tun_flags", TUN_FLAGS, 1)?,
        Format::Decimal | Format::Hex | Format::Mac | Format::Ipv4 | Format::Ipv6 => {
            let one = |t: &str| -> Result<u128, Problem> {
                let n = match info.format {
                    Format::Mac => parse_mac(t).map(u128::from),
                    Format::Ipv4 => t.parse::<Ipv4Addr>().ok().map(|a| u32::from(a) as u128),
                    Format::Ipv6 => t.parse::<Ipv6Addr>().ok().map(u128::from),
                    _ => parse_uint(t),
                };
                fits(info, n.ok_or_else(|| bad(info))?, info.bits)
            };
            match s.text.split_once('/') {
                None => (one(s.text)?, full),
                Some((v, m)) => match prefix_mask(info, m)? {
                    Some(mask) => (one(v)?, mask),
                    None => (one(v)?, one(m)?),
                },
            }
        }
    };
    if info.maskable == Maskable::No && mask != full && mask != 0 {
        return Err(Problem::NotMaskable(info.name));
    }
    Ok((value, mask))
}

/// A tunnel option of `bits` as a number, with or without a mask.
pub fn parse_option(field: Field, bits: u8, s: Span<'_>) -> Result<(u128, u128), Problem> {
    let info = field.info();
    let one = |t: &str| fits(info, parse_uint(t).ok_or_else(|| bad(info))?, bits);
    match s.text.split_once('/') {
        _ if s.text == "*" => Ok((0, 0)),
        None => Ok((one(s.text)?, ones(bits))),
        Some((v, m)) => Ok((one(v)?, one(m)?)),
    }
}

/// The mask that a prefix length stands for, `None` if `m` is no length.
fn prefix_mask(info: &FieldInfo, m: &str) -> Result<Option<u128>, Problem> {
    let is_address = matches!(info.format, Format::Ipv4 | Format::Ipv6);
    if !is_address || m.is_empty() || !m.bytes().all(|b| b.is_ascii_digit()) {
        return Ok(None);
    }
    let bits = info.bits;
    let of = if bits == 32 { "an IPv4 prefix length" } else { "an IPv6 prefix length" };
    let n = m.parse::<u8>().ok().filter(|&n| n <= bits);
    let n = n.ok_or(Problem::OutOfRange { of, lo: 0, hi: bits as u64 })?;
    Ok(Some(ones(bits) & !ones(bits - n)))
}

/// `+a-b`, `a|b`, `NUMBER` or `NUMBER/MASK`. All bits count but in the first and last form.
fn parse_flags(
    s: &str,
    of: &'static str,
    names: &[&'static str],
    full: u128,
) -> Result<(u128, u128), Problem> {
    let unknown = || Problem::UnknownFlag { of, flags: names.join(", ") };
    let bit = |name: &str| {
        let i = names.iter().position(|n| *n == name);
        i.map(|i| 1u128 << i).filter(|b| b & full != 0).ok_or_else(unknown)
    };
    let number = |t: &str| parse_uint(t).filter(|n| n & !full == 0).ok_or_else(unknown);
    if let Some((v, m)) = s.split_once('/') {
        return Ok((number(v)?, number(m)?));
    }
    if !s.starts_with(['+', '-']) {
        let mut value = 0;
        for part in s.split('|') {
            let is_number = part.starts_with(|c: char| c.is_ascii_digit());
            value |= if is_number { number(part)? } else { bit(part)? };
        }
        return Ok((value, full));
    }
    let (mut value, mut mask) = (0, 0);
    let mut rest = s;
    while let Some(sign) = rest.chars().next() {
        let tail = &rest[sign.len_utf8()..];
        let end = tail.find(['+', '-']).unwrap_or(tail.len());
        let b = bit(&tail[..end])?;
        if mask & b != 0 {
            return Err(Problem::Rule("each flag may be given only once"));
        }
        mask |= b;
        value |= if sign == '+' { b } else { 0 };
        rest = &tail[end..];
    }
    Ok((value, mask))
}

/// Writes flags: `a|b` when every bit counts, else `+a-b`.
pub fn write_flags(out: &mut String, names: &[&str], value: u128, mask: u128, full: u128) {
    let set = |m: u128| (0..names.len()).filter(move |&i| m & (1 << i) != 0);
    if mask & full == full {
        if value & full == 0 {
            out.push('0');
        }
        for (n, i) in set(value & full).enumerate() {
            let bar = if n == 0 { "" } else { "|" };
            let _ = write!(out, "{bar}{}", names[i]);
        }
        return;
    }
    if mask & full == 0 {
        out.push_str("0/0");
    }
    for i in set(mask & full) {
        out.push(if value & (1 << i) != 0 { '+' } else { '-' });
        out.push_str(names[i]);
    }
}

/// `0x1f`, and a plain `0`, as C's `%#x`.
pub fn write_hex(out: &mut String, value: u128) {
    let _ = if value == 0 { write!(out, "0") } else { write!(out, "{value:#x}") };
}

/// A value as `set_field` prints it.
pub fn write_masked(
    out: &mut String,
    field: Field,
    value: u128,
    mask: u128,
    names: &dyn PortNames,
) {
    let info = field.info();
    let full = ones(info.bits);
    match info.format {
        Format::Port => ports::write_port(out, value as u32, names),
        Format::CtState => write_flags(out, CT_STATE, value, mask, full),
        Format::TcpFlags => write_flags(out, TCP_FLAGS, value, mask, full),
        Format::TunFlags => write_flags(out, TUN_FLAGS, value, mask, 1),
        Format::Frag => {
            let known = FRAGS.iter().find(|f| (f.1, f.2) == (value & mask, mask));
            out.push_str(known.map_or("<error>", |f| f.0));
        }
        Format::Ipv4 | Format::Ipv6 => write_address(out, value, mask, info.bits),
        Format::Mac => {
            write_mac(out, value as u64);
            if mask != full {
                out.push('/');
                write_mac(out, mask as u64);
            }
        }
        Format::Decimal | Format::Hex => {
            if info.format == Format::Hex {
                write_hex(out, value);
            } else {
                let _ = write!(out, "{value}");
            }
            if mask != full {
                out.push('/');
                write_hex(out, mask);
            }
        }
    }
}

/// An address with its prefix length or mask.
pub fn write_address(out: &mut String, value: u128, mask: u128, bits: u8) {
    let one = |out: &mut String, v: u128| match bits {
        32 => drop(write!(out, "{}", Ipv4Addr::from(v as u32))),
        _ => write_ipv6(out, v),
    };
    one(out, value);
    let full = ones(bits);
    if mask != full {
        out.push('/');
        let length = mask.count_ones() as u8;
        if mask == full & !ones(bits - length) {
            let _ = write!(out, "{length}");
        } else {
            one(out, mask);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::ports::NoNames;
    use super::*;

    #[test]
    fn numbers_as_in_c() {
        for (s, n) in [("0", 0), ("10", 10), ("0x1F", 31), ("010", 8)] {
            assert_eq!(parse_uint(s), Some(n), "{s}");
        }
        for s in ["", "0x", "-1", "+1", "1a", "08", "1 ", "0x+1"] {
            assert_eq!(parse_uint(s), None, "{s}");
        }
    }

    #[test]
    fn values_read_and_print() {
        let cases = [
            (Field::IpDst, "10.1.0.0/255.255.0.0", "10.1.0.0/16"),
            (Field::IpDst, "10.0.0.1/255.0.0.255", "10.0.0.1/255.0.0.255"),
            (Field::Ipv6Src, "fe80::/10", "fe80::/10"),
            (Field::Ipv6Src, "::102:304", "::1.2.3.4"),
            (Field::Ipv6Src, "::1", "::1"),
            (Field::Ipv6Src, "0:0:0:0:0:ffff:1.2.3.4", "::ffff:1.2.3.4"),
            (Field::EthDst, "1:2:3:4:5:a/ff:ff:ff:0:0:0", "01:02:03:04:05:0a/ff:ff:ff:00:00:00"),
            (Field::CtState, "+trk-new", "-new+trk"),
            (Field::CtState, "trk|new", "new|trk"),
            (Field::CtState, "0x21/0x23", "+new-est+trk"),
            (Field::TcpFlags, "0x12", "syn|ack"),
            (Field::TcpFlags, "+[200]", "+[200]"),
            (Field::IpFrag, "LATER", "later"),
            (Field::Reg0, "0", "0"),
            (Field::TcpDst, "80/0xff00", "80/0xff00"),
            (Field::InPort, "in_port", "IN_PORT"),
        ];
        for (field, text, want) in cases {
            let (v, m) = parse_masked(field, Span::new(text), &NoNames).unwrap();
            let mut out = String::new();
            write_masked(&mut out, field, v, m, &NoNames);
            assert_eq!(out, want, "{text}");
        }
    }
}
