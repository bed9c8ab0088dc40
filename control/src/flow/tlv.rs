//! The map of tunnel options to fields, in text: `{class=0x102,type=0x80,len=4}->tun_metadata0`
//! (ovs-ofctl(8), "add-tlv-map").

use super::error::{FlowError, Problem};
use super::span::{Pairs, Span};
use super::value::parse_within;
use std::fmt::Write;

/// Fields that options can be mapped to.
pub const TLV_FIELDS: u16 = 64;
/// Longest content of an option (Geneve: 31 words of 4 bytes, RFC 8926 section 3.5).
const TLV_LEN_MAX: u64 = 124;
/// Bytes of all mapped options together (Open vSwitch: `TUN_METADATA_TOT_OPT_SIZE`).
const TLV_SPACE: u32 = 256;

/// One option and the field that it is seen as.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct TlvMap {
    /// N of `tun_metadataN`.
    pub index: u16,
    pub class: u16,
    pub kind: u8,
    /// A multiple of 4, at most 124.
    pub len: u8,
}

/// Reads maps, with commas between them.
pub fn parse_tlv_maps(text: &str) -> Result<Vec<TlvMap>, FlowError> {
    parse_tlv_span(Span::new(text))
}

pub fn parse_tlv_span(text: Span<'_>) -> Result<Vec<TlvMap>, FlowError> {
    let usage = "{class=0x102,type=0x80,len=4}->tun_metadata0";
    let mut out = Vec::new();
    let mut rest = text.trim();
    while !rest.is_empty() {
        let expected = |s: Span<'_>| s.err(Problem::Expected(usage));
        let body = if rest.text.starts_with('{') { rest.from(1) } else { Err(expected(rest))? };
        let (option, tail) = body.split_once("}").ok_or_else(|| expected(rest))?;
        let field = tail.text.strip_prefix("->").map(|_| tail.from(2));
        let field = field.ok_or_else(|| expected(rest))?;
        let end = field.text.find([',', ' ', '\t']).unwrap_or(field.text.len());
        let map = one(option, field.slice(0, end))?;
        if out.iter().any(|m: &TlvMap| m.index == map.index) {
            return Err(field.slice(0, end).err(Problem::Rule("this field is mapped twice")));
        }
        out.push(map);
        rest = field.from(end).trim();
        rest = if rest.text.starts_with(',') { rest.from(1).trim() } else { rest };
    }
    if out.is_empty() {
        return Err(text.err(Problem::Expected(usage)));
    }
    Ok(out)
}

fn one(option: Span<'_>, field: Span<'_>) -> Result<TlvMap, FlowError> {
    let (mut class, mut kind, mut len) = (None, None, None);
    let mut pairs = Pairs::new(option);
    while let Some(pair) = pairs.next()? {
        let v = pair.value;
        let place = if v.is_empty() { pair.key } else { v };
        let within = |of, hi| parse_within(v, of, 0, hi).map_err(|p| place.err(p));
        match pair.key.text {
            "class" => class = Some(within("class", 0xffff)? as u16),
            "type" => kind = Some(within("type", 0xff)? as u8),
            "len" => len = Some((within("len", TLV_LEN_MAX)? as u8, v)),
            _ => {
                let takes = "class, type and len";
                return Err(pair.key.err(Problem::UnknownArgument { of: "a map", takes }));
            }
        }
    }
    let (Some(class), Some(kind), Some((len, at))) = (class, kind, len) else {
        return Err(option.err(Problem::Rule("a map needs class, type and len")));
    };
    if len == 0 || len % 4 != 0 {
        return Err(at.err(Problem::Rule("the length of an option is a multiple of 4, from 4 on")));
    }
    let number = field.text.strip_prefix("tun_metadata").and_then(|n| n.parse::<u16>().ok());
    match number.filter(|n| *n < TLV_FIELDS) {
        Some(index) => Ok(TlvMap { index, class, kind, len }),
        None => Err(field.err(Problem::Expected("tun_metadata0 to tun_metadata63"))),
    }
}

/// As `dump-tlv-map`, from the line with the sums on.
pub fn print_tlv_maps(maps: &[TlvMap]) -> String {
    let used: u32 = maps.iter().map(|m| u32::from(m.len)).sum();
    let mut out = format!(" max option space={TLV_SPACE} max fields={TLV_FIELDS}\n");
    let _ = write!(out, " allocated option space={used}\n\n mapping table:\n");
    out.push_str("  class  type  length  match field\n ------  ----  ------  --------------");
    for m in maps {
        let (class, kind) = (hex(m.class.into()), hex(m.kind.into()));
        let _ = write!(out, "\n {class:>6}  {kind:>4}  {:>6}  tun_metadata{}", m.len, m.index);
    }
    out
}

/// As C's `%#x`.
fn hex(n: u32) -> String {
    if n == 0 { "0".to_string() } else { format!("{n:#x}") }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn maps_read_and_print() {
        let text = "{class=0xffff,type=0x1,len=4}->tun_metadata0, {class=0,type=128,len=124}->\
                    tun_metadata63";
        let maps = parse_tlv_maps(text).unwrap();
        assert_eq!(maps[1], TlvMap { index: 63, class: 0, kind: 128, len: 124 });
        assert_eq!(
            print_tlv_maps(&maps),
            " max option space=256 max fields=64\n allocated option space=128\n\n \
             mapping table:\n  class  type  length  match field\n ------  ----  ------  \
             --------------\n 0xffff   0x1       4  tun_metadata0\n      0  0x80     124  \
             tun_metadata63"
        );
    }

    #[test]
    fn wrong_maps_are_told() {
        for (text, message) in [
            ("", "column 1: expected {class=0x102,type=0x80,len=4}->tun_metadata0"),
            (
                "{class=1,type=1,len=5}->tun_metadata0",
                "column 21: \"5\": the length of an option is a multiple of 4, from 4 on",
            ),
            (
                "{class=1,type=1,len=4}->tun_metadata64",
                "column 25: \"tun_metadata64\": expected tun_metadata0 to tun_metadata63",
            ),
            (
                "{class=1,type=256,len=4}->tun_metadata0",
                "column 15: \"256\": type must be 0 to 255",
            ),
        ] {
            assert_eq!(parse_tlv_maps(text).unwrap_err().to_string(), message);
        }
    }
}
