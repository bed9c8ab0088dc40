//! Bit ranges of fields in text: `NXM_NX_REG0[0..15]`, `reg0[3]`, `OXM_OF_METADATA[]`.

use super::error::{FlowError, Problem, nearest_field};
use super::ports::PortNames;
use super::span::Span;
use sluice_dataplane::packet::field::{Field, Subfield};
use std::fmt::Write;

/// Bits `lo..lo + bits` of a field, as flow text counts them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct SubField {
    pub field: Field,
    pub lo: u8,
    pub bits: u8,
    /// Where the field is, if it is a tunnel option.
    pub option: Option<OptionPlace>,
}

/// Where the bridge's map puts a tunnel option. It stays there as long as flows use it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct OptionPlace {
    pub data: Subfield,
    /// The bit that says whether the packet has it.
    pub present: Subfield,
}

impl OptionPlace {
    /// The place of a field that is an option; `None` for all others.
    pub fn of(field: Field, names: &dyn PortNames) -> Result<Option<Self>, Problem> {
        let Some(index) = field.tun_metadata_index() else { return Ok(None) };
        let place = names.options().and_then(|map| {
            Some(OptionPlace { data: map.field(index)?, present: map.present(index)? })
        });
        place.map(Some).ok_or(Problem::NotMapped(field.info().name))
    }
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

impl SubField {
    pub fn whole(field: Field) -> Self {
        SubField { field, lo: 0, bits: text_bits(field), option: None }
    }

    /// A whole option.
    pub fn option(field: Field, place: OptionPlace) -> Self {
        SubField { field, lo: 0, bits: place.data.bits, option: Some(place) }
    }

    /// Width of the whole field.
    fn field_bits(self) -> u8 {
        self.option.map_or(text_bits(self.field), |o| o.data.bits)
    }

    /// Whether it is all of its field.
    pub fn is_whole(self) -> bool {
        self.lo == 0 && self.bits == self.field_bits()
    }

    /// The range in a `FlowKey`. Bits that exist only in text are cut off: reading them gives
    /// zero, writing them has no effect. `None` if nothing is left.
    pub fn lower(self) -> Option<Subfield> {
        if let Some(OptionPlace { data, .. }) = self.option {
            // An option begins at a byte.
            let offset = data.offset + u16::from(self.lo / 8);
            return Some(Subfield { offset, shift: self.lo % 8, bits: self.bits });
        }
        let info = self.field.info();
        let hi = (self.lo + self.bits).min(info.bits).checked_sub(1)?;
        info.range(self.lo, hi)
    }

    /// Reads the whole of `s`.
    pub fn parse(s: Span<'_>, names: &dyn PortNames) -> Result<Self, FlowError> {
        let (name, range) = match s.text.find('[') {
            Some(i) => (s.slice(0, i), s.from(i)),
            None => (s, s.from(s.text.len())),
        };
        let Some(field) = Field::by_name(name.text) else {
            return Err(name.err(Problem::UnknownField(nearest_field(name.text))));
        };
        let place = OptionPlace::of(field, names).map_err(|p| name.err(p))?;
        let whole = place.map_or(SubField::whole(field), |p| SubField::option(field, p));
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
        Ok(SubField { lo, bits: hi - lo + 1, ..whole })
    }

    /// An option prints with its bits, for who reads it may not know the map (as with ovs-ofctl).
    pub fn write(self, out: &mut String) {
        out.push_str(self.field.info().nxm_name());
        let _ = if self.option.is_none() && self.is_whole() {
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
    use super::super::NoNames;
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
            SubField::parse(Span::new(text), &NoNames).unwrap().write(&mut out);
            assert_eq!(out, want);
        }
        for text in
            ["reg0[", "reg0[32]", "reg0[3..2]", "reg0[0..32]", "reg99[]", "reg0[]x", "reg0[-1]"]
        {
            assert!(SubField::parse(Span::new(text), &NoNames).is_err(), "{text}");
        }
    }

    #[test]
    fn text_only_bits_are_cut_off() {
        let whole = SubField::whole(Field::CtState);
        assert_eq!((whole.bits, whole.lower().map(|s| s.bits)), (32, Some(8)));
        let beyond = SubField { lo: 8, bits: 4, ..SubField::whole(Field::CtState) };
        assert_eq!(beyond.lower(), None);
    }
}
