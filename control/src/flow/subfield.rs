//! Bit ranges of fields in text: `NXM_NX_REG0[0..15]`, `reg0[3]`, `OXM_OF_METADATA[]`.

use super::error::{FlowError, Problem, nearest_field};
use super::span::Span;
use sluice_dataplane::packet::field::{Field, Subfield};
use std::fmt::Write;

/// Bits `lo..lo + bits` of a field, as flow text counts them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct SubField {
    pub field: Field,
    pub lo: u8,
    pub bits: u8,
}

/// Width of a field to whoever writes bit ranges. It is Open vSwitch's width where that is
/// not ours: a VLAN id without the "tag present" bit, and numbers that it keeps wider than any
/// packet can hold.
pub fn text_bits(field: Field) -> u8 {
    match field {
        Field::VlanVid => 12,
        Field::CtState => 32,
        Field::ArpOp => 16,
        Field::TunFlags => 1,
        _ => field.info().bits,
    }
}

/// Tunnel options have a width and a place only by a map of the bridge, which control cannot give
/// yet.
pub fn mapped(field: Field) -> Result<(), Problem> {
    match field.info().name.starts_with("tun_metadata") {
        true => Err(Problem::Unsupported("a tunnel option (tun_metadata)".to_string())),
        false => Ok(()),
    }
}

impl SubField {
    pub fn whole(field: Field) -> Self {
        SubField { field, lo: 0, bits: text_bits(field) }
    }

    /// The range in a `FlowKey`. Bits that exist only in text are cut off: reading them gives
    /// zero, writing them has no effect. `None` if nothing is left.
    pub fn lower(self) -> Option<Subfield> {
        let info = self.field.info();
        let hi = (self.lo + self.bits).min(info.bits).checked_sub(1)?;
        info.range(self.lo, hi)
    }

    /// Reads the whole of `s`.
    pub fn parse(s: Span<'_>) -> Result<Self, FlowError> {
        let (name, range) = match s.text.find('[') {
            Some(i) => (s.slice(0, i), s.from(i)),
            None => (s, s.from(s.text.len())),
        };
        let Some(field) = Field::by_name(name.text) else {
            return Err(name.err(Problem::UnknownField(nearest_field(name.text))));
        };
        mapped(field).map_err(|p| name.err(p))?;
        let whole = SubField::whole(field);
        if range.is_empty() || range.text == "[]" {
            return Ok(whole);
        }
        let wrong = || range.err(Problem::Expected("[], [BIT] or [FIRST..LAST]"));
        let inner = range.text.strip_prefix('[').and_then(|t| t.strip_suffix(']'));
        let inner = inner.ok_or_else(wrong)?;
        let bit = |t: &str| t.trim().parse::<u8>().map_err(|_| wrong());
        let (lo, hi) = match inner.split_once("..") {
            Some((a, b)) => (bit(a)?, bit(b)?),
            None => (bit(inner)?, bit(inner)?),
        };
        if lo > hi || hi >= whole.bits {
            let (field, last) = (field.info().name, whole.bits - 1);
            return Err(range.err(Problem::BitRange { field, last }));
        }
        Ok(SubField { field, lo, bits: hi - lo + 1 })
    }

    pub fn write(self, out: &mut String) {
        out.push_str(self.field.info().nxm_name());
        let _ = if self == SubField::whole(self.field) {
            write!(out, "[]")
        } else if self.bits == 1 {
            write!(out, "[{}]", self.lo)
        } else {
            write!(out, "[{}..{}]", self.lo, self.lo + self.bits - 1)
        };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_read_and_print() {
        for (text, want) in [
            ("reg0", "NXM_NX_REG0[]"),
            ("reg0[0..31]", "NXM_NX_REG0[]"),
            ("NXM_NX_REG13[0..15]", "NXM_NX_REG13[0..15]"),
            ("nxm_nx_reg13[7]", "NXM_NX_REG13[7]"),
            ("OXM_OF_VLAN_VID[]", "OXM_OF_VLAN_VID[]"),
            ("xreg2[4..5]", "OXM_OF_PKT_REG2[4..5]"),
            ("eth_dst", "NXM_OF_ETH_DST[]"),
        ] {
            let mut out = String::new();
            SubField::parse(Span::new(text)).unwrap().write(&mut out);
            assert_eq!(out, want);
        }
        for text in
            ["reg0[", "reg0[32]", "reg0[3..2]", "reg0[0..32]", "reg99[]", "reg0[]x", "reg0[-1]"]
        {
            assert!(SubField::parse(Span::new(text)).is_err(), "{text}");
        }
    }

    #[test]
    fn text_only_bits_are_cut_off() {
        let whole = SubField::whole(Field::CtState);
        assert_eq!((whole.bits, whole.lower().map(|s| s.bits)), (32, Some(8)));
        assert_eq!(SubField { field: Field::CtState, lo: 8, bits: 4 }.lower(), None);
    }
}
