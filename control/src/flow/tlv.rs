//! The map of tunnel options to fields, in text: `{class=0x102,type=0x80,len=4}->tun_metadata0`
//! (ovs-ofctl(8), "add-tlv-map").

use super::error::{FlowError, Problem};
use super::span::{Pairs, Span};
use super::value::parse_within;
use sluice_dataplane::packet::key::TUN_METADATA_BYTES;
use sluice_dataplane::tunnel::TlvMapping;
use sluice_dataplane::tunnel::options::{TLV_FIELDS_MAX, TLV_OPTION_BYTES_MAX};
use std::fmt::Write;

/// Reads maps, with commas between them.
pub fn parse_tlv_maps(text: &str) -> Result<Vec<TlvMapping>, FlowError> {
    parse_tlv_span(Span::new(text))
}

pub fn parse_tlv_span(text: Span<'_>) -> Result<Vec<TlvMapping>, FlowError> {
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
        if out.iter().any(|m: &TlvMapping| m.index == map.index) {
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

fn one(option: Span<'_>, field: Span<'_>) -> Result<TlvMapping, FlowError> {
    let (mut class, mut option_type, mut len) = (None, None, None);
    let mut pairs = Pairs::new(option);
    while let Some(pair) = pairs.next()? {
        let v = pair.value;
        let place = if v.is_empty() { pair.key } else { v };
        let within = |of, hi| parse_within(v, of, 0, hi).map_err(|p| place.err(p));
        match pair.key.text {
            "class" => class = Some(within("class", 0xffff)? as u16),
            "type" => option_type = Some(within("type", 0xff)? as u8),
            "len" => len = Some((within("len", TLV_OPTION_BYTES_MAX.into())? as u8, v)),
            _ => {
                let takes = "class, type and len";
                return Err(pair.key.err(Problem::UnknownArgument { of: "a map", takes }));
            }
        }
    }
    let (Some(class), Some(option_type), Some((len, at))) = (class, option_type, len) else {
        return Err(option.err(Problem::Rule("a map needs class, type and len")));
    };
    if len == 0 || len % 4 != 0 {
        return Err(at.err(Problem::Rule("the length of an option is a multiple of 4, from 4 on")));
    }
    let number = field.text.strip_prefix("tun_metadata").and_then(|n| n.parse::<u8>().ok());
    match number.filter(|n| *n < TLV_FIELDS_MAX) {
        Some(index) => Ok(TlvMapping { index, class, option_type, len }),
        None => Err(field.err(Problem::Expected("tun_metadata0 to tun_metadata63"))),
    }
}

/// As `dump-tlv-map`, from the line with the sums on.
pub fn print_tlv_maps(maps: &[TlvMapping]) -> String {
    let used: u32 = maps.iter().map(|m| u32::from(m.len)).sum();
    let mut out = format!(" max option space={TUN_METADATA_BYTES} max fields={TLV_FIELDS_MAX}\n");
    let _ = write!(out, " allocated option space={used}\n\n mapping table:\n");
    out.push_str("  class  type  length  match field\n ------  ----  ------  --------------");
    for m in maps {
        let (class, kind) = (hex(m.class.into()), hex(m.option_type.into()));
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
        let text = "{class=0xffff,type=0x1,len=4}->tun_metadata0, {class=0,type=128,len=16}->\
                    tun_metadata63";
        let maps = parse_tlv_maps(text).unwrap();
        assert_eq!(maps[1], TlvMapping { index: 63, class: 0, option_type: 128, len: 16 });
        assert_eq!(
            print_tlv_maps(&maps),
            " max option space=64 max fields=64\n allocated option space=20\n\n \
             mapping table:\n  class  type  length  match field\n ------  ----  ------  \
             --------------\n 0xffff   0x1       4  tun_metadata0\n      0  0x80      16  \
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
            ("{class=1,type=1,len=20}->tun_metadata0", "column 21: \"20\": len must be 0 to 16"),
            (
                "{class=1,type=256,len=4}->tun_metadata0",
                "column 15: \"256\": type must be 0 to 255",
            ),
        ] {
            assert_eq!(parse_tlv_maps(text).unwrap_err().to_string(), message);
        }
    }
}
