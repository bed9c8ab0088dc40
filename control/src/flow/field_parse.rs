//! Actions that read and write fields: `move`, `load`, `set_field`, `push`, `pop` and the like.

use super::FlowAction;
use super::error::{FlowError, Problem, nearest_field};
use super::ports::PortNames;
use super::span::Span;
use super::subfield::{OptionPlace, SubField};
use super::value::{parse_masked, parse_option, parse_uint, parse_within};
use sluice_dataplane::packet::field::{Field, ones};
use sluice_dataplane::packet::key::VLAN_PRESENT;

fn arrow<'a>(v: Span<'a>, usage: &'static str) -> Result<(Span<'a>, Span<'a>), FlowError> {
    v.split_once("->").ok_or_else(|| v.err(Problem::Expected(usage)))
}

pub fn move_(v: Span<'_>, names: &dyn PortNames) -> Result<FlowAction, FlowError> {
    let (src, dst) = arrow(v, "SOURCE->DESTINATION, such as NXM_NX_REG0[]->NXM_NX_REG1[]")?;
    let (src, dst) = (SubField::parse(src, names)?, SubField::parse(dst, names)?);
    if src.bits != dst.bits {
        return Err(v.err(Problem::Width { src: src.bits, dst: dst.bits }));
    }
    Ok(FlowAction::Move { src, dst })
}

/// Open vSwitch encodes 64 bits at a time, so a wider `load` prints as several.
pub fn load(
    v: Span<'_>,
    out: &mut Vec<FlowAction>,
    names: &dyn PortNames,
) -> Result<(), FlowError> {
    let (value_text, dst_text) = arrow(v, "VALUE->DESTINATION, such as 0x1->NXM_NX_REG0[]")?;
    let dst = SubField::parse(dst_text, names)?;
    let bad = || Problem::BadValue { of: "load".to_string(), want: "a number such as 10 or 0xa" };
    let value = parse_uint(value_text.text).ok_or_else(|| value_text.err(bad()))?;
    let max = ones(dst.bits);
    if value > max {
        let of = dst_text.text.to_string();
        return Err(value_text.err(Problem::TooLarge { of, bits: dst.bits, max }));
    }
    let mut done = 0;
    while done < dst.bits {
        let bits = (dst.bits - done).min(64);
        let part = SubField { lo: dst.lo + done, bits, ..dst };
        out.push(FlowAction::Load { value: (value >> done) as u64 & ones(bits) as u64, dst: part });
        done += bits;
    }
    Ok(())
}

pub fn set_field(v: Span<'_>, names: &dyn PortNames) -> Result<FlowAction, FlowError> {
    let usage = "VALUE->FIELD, such as 10.0.0.1->ip_dst";
    // An arrow can stand in no value but a quoted port name, so the last one counts.
    let i = v.text.rfind("->").ok_or_else(|| v.err(Problem::Expected(usage)))?;
    let (value_text, name) = (v.slice(0, i), v.from(i + 2));
    let Some(field) = Field::by_name(name.text) else {
        return Err(name.err(Problem::UnknownField(nearest_field(name.text))));
    };
    let option = OptionPlace::of(field, names).map_err(|p| name.err(p))?;
    if !field.info().writable {
        return Err(name.err(Problem::ReadOnly(field.info().name)));
    }
    let (value, mask) = match option {
        Some(place) => parse_option(field, place.data.bits, value_text),
        None => parse_masked(field, value_text, names),
    }
    .map_err(|p| value_text.err(p))?;
    if field == Field::IpTos && value & 3 != 0 {
        let want = "a multiple of 4; the rest is nw_ecn";
        return Err(value_text.err(Problem::BadValue { of: "nw_tos".to_string(), want }));
    }
    if mask == 0 {
        return Err(value_text.err(Problem::Rule("a set_field must set at least one bit")));
    }
    // A tag is there, or the flow would be refused; whoever leaves bit 12 out means to keep it. By
    // OpenFlow 1.0, where such flows come from, there is no bit 12; later versions refuse them.
    let tag = if field == Field::VlanVid { mask & u128::from(VLAN_PRESENT) } else { 0 };
    let value = value | tag;
    Ok(match option {
        Some(place) => FlowAction::SetOption { dst: SubField::option(field, place), value, mask },
        None => FlowAction::SetField { field, value, mask },
    })
}

pub fn check_pkt_larger(v: Span<'_>, names: &dyn PortNames) -> Result<FlowAction, FlowError> {
    let (len, dst) = arrow(v, "check_pkt_larger(LENGTH)->BIT")?;
    let len = if len.text.ends_with(')') { len.slice(0, len.text.len() - 1) } else { len };
    let n = parse_within(len, "the length", 0, 65535).map_err(|p| len.err(p))?;
    let range = SubField::parse(dst, names)?;
    if range.bits != 1 {
        return Err(dst.err(Problem::MustBeWide("the destination", 1)));
    }
    Ok(FlowAction::CheckPktLarger { len_bytes: n as u16, dst: range })
}

/// `push:FIELD[..]` and `pop:FIELD[..]`.
pub fn stack(v: Span<'_>, push: bool, names: &dyn PortNames) -> Result<FlowAction, FlowError> {
    let range = SubField::parse(v, names)?;
    Ok(if push { FlowAction::Push(range) } else { FlowAction::Pop(range) })
}

/// `write_metadata:VALUE[/MASK]`.
pub fn write_metadata(v: Span<'_>) -> Result<FlowAction, FlowError> {
    let number = |s: Span<'_>| {
        let want = "a 64-bit number such as 0x1f, or VALUE/MASK";
        let bad = Problem::BadValue { of: "write_metadata".to_string(), want };
        parse_uint(s.text).and_then(|n| u64::try_from(n).ok()).ok_or_else(|| s.err(bad))
    };
    let (value, mask) = match v.split_once("/") {
        Some((value, mask)) => (number(value)?, number(mask)?),
        None => (number(v)?, u64::MAX),
    };
    Ok(FlowAction::WriteMetadata { value, mask })
}

/// `delete_field:tun_metadataN`.
pub fn delete_field(v: Span<'_>, names: &dyn PortNames) -> Result<FlowAction, FlowError> {
    let Some(field) = Field::by_name(v.text) else {
        return Err(v.err(Problem::UnknownField(nearest_field(v.text))));
    };
    if field.tun_metadata_index().is_none() {
        return Err(v.err(Problem::Rule("only tun_metadata0 to tun_metadata63 can be deleted")));
    }
    OptionPlace::of(field, names).map_err(|p| v.err(p))?;
    Ok(FlowAction::DeleteField(field))
}
