//! `learn(...)` (ovs-actions(7), "The learn action").
//!
//! Words say what the learned flow is like (`table`, `priority`, timeouts ...); everything else
//! is a part of it: `FIELD` or `FIELD=FIELD` copy bits of the packet into its match,
//! `FIELD=VALUE` puts a constant there, `load:` and `output:` make its actions.

use super::error::{FlowError, Problem, nearest};
use super::ports::PortNames;
use super::span::{Form, Pair, Pairs, Span};
use super::subfield::SubField;
use super::value::{parse_masked, parse_uint, parse_within};
use super::{DEFAULT_PRIORITY, Learn, LearnSource, LearnSpec, LearnTarget};
use sluice_dataplane::packet::field::{Field, ones};

/// Words of `learn` that are no fields.
const WORDS: &[&str] = &[
    "table",
    "priority",
    "cookie",
    "idle_timeout",
    "hard_timeout",
    "fin_idle_timeout",
    "fin_hard_timeout",
    "send_flow_rem",
    "delete_learned",
    "limit",
    "result_dst",
    "load",
    "output",
];

/// Parts of a learned flow: four times the fields that any match of a node uses.
const SPECS_MAX: usize = 256;

/// Reads what stands between the parentheses.
pub fn parse_learn(v: Span<'_>, names: &dyn PortNames) -> Result<Learn, FlowError> {
    let mut learn = Learn { table: 1, priority: DEFAULT_PRIORITY, ..Learn::default() };
    let mut pairs = Pairs::new(v);
    while let Some(pair) = pairs.next()? {
        if !take_word(&mut learn, &pair, names)? {
            if learn.specs.len() >= SPECS_MAX {
                return Err(pair.whole.err(Problem::Rule("learn takes at most 256 parts")));
            }
            learn.specs.push(spec(&pair, names)?);
        }
    }
    Ok(learn)
}

fn take_word(learn: &mut Learn, pair: &Pair<'_>, names: &dyn PortNames) -> Result<bool, FlowError> {
    let v = pair.value;
    let place = if v.is_empty() { pair.key } else { v };
    let within = |of, hi| parse_within(v, of, 0, hi).map_err(|p| place.err(p));
    let seconds = |of| within(of, 65535).map(|n| n as u16);
    let flag = |word| match pair.form {
        Form::Bare => Ok(true),
        _ => Err(pair.key.err(Problem::NeedlessValue(word))),
    };
    match pair.key.text {
        "table" => learn.table = within("table", 254)? as u8,
        "priority" => learn.priority = within("priority", 65535)? as u16,
        "idle_timeout" => learn.idle_timeout_s = seconds("idle_timeout")?,
        "hard_timeout" => learn.hard_timeout_s = seconds("hard_timeout")?,
        "fin_idle_timeout" => learn.fin_idle_timeout_s = seconds("fin_idle_timeout")?,
        "fin_hard_timeout" => learn.fin_hard_timeout_s = seconds("fin_hard_timeout")?,
        "cookie" => learn.cookie = within("cookie", u64::MAX)?,
        "limit" => learn.limit = within("limit", u32::MAX.into())? as u32,
        "send_flow_rem" => learn.send_flow_rem = flag("send_flow_rem")?,
        "delete_learned" => learn.delete_learned = flag("delete_learned")?,
        "result_dst" => learn.result = Some(result_dst(pair, names)?),
        _ => return Ok(false),
    }
    Ok(true)
}

fn result_dst(pair: &Pair<'_>, names: &dyn PortNames) -> Result<SubField, FlowError> {
    let range = SubField::parse(pair.value, names)?;
    if !range.field.info().writable {
        return Err(pair.value.err(Problem::ReadOnly(range.field.info().name)));
    }
    if range.bits != 1 {
        return Err(pair.value.err(Problem::MustBeWide("result_dst", 1)));
    }
    Ok(range)
}

fn spec(pair: &Pair<'_>, names: &dyn PortNames) -> Result<LearnSpec, FlowError> {
    let is_field = pair.key.text.contains('[') || Field::by_name(pair.key.text).is_some();
    match pair.key.text {
        _ if is_field => match_spec(pair, names),
        "load" => load_spec(pair, names),
        "output" => {
            let source = LearnSource::Field(SubField::parse(pair.value, names)?);
            Ok(LearnSpec { source, target: LearnTarget::Output })
        }
        name => {
            let fields = super::error::nearest_field(name);
            let guess = nearest(name, WORDS.iter().copied()).or(fields);
            Err(pair.key.err(Problem::UnknownField(guess)))
        }
    }
}

fn match_spec(pair: &Pair<'_>, names: &dyn PortNames) -> Result<LearnSpec, FlowError> {
    let dst = target(pair.key, names)?;
    let target = LearnTarget::Match(dst);
    let v = pair.value;
    if v.is_empty() {
        return Ok(LearnSpec { source: LearnSource::Field(dst), target });
    }
    let named = v.text.contains('[') || Field::by_name(v.text).is_some();
    let source = match SubField::parse(v, names) {
        Ok(src) if src.bits != dst.bits => {
            return Err(pair.whole.err(Problem::Width { src: src.bits, dst: dst.bits }));
        }
        Ok(src) => LearnSource::Field(src),
        Err(e) if named => return Err(e),
        Err(_) if dst.is_whole() => {
            let (value, mask) = parse_masked(dst.field, v, names).map_err(|p| v.err(p))?;
            if mask != ones(dst.field.info().bits) {
                return Err(v.err(Problem::Rule("learn takes no masks; name the bits: FIELD[..]")));
            }
            LearnSource::Value(value)
        }
        Err(_) => LearnSource::Value(constant(v, dst)?),
    };
    Ok(LearnSpec { source, target })
}

fn load_spec(pair: &Pair<'_>, names: &dyn PortNames) -> Result<LearnSpec, FlowError> {
    let usage = "load:VALUE->FIELD[..] or load:FIELD[..]->FIELD[..]";
    let (src, dst) =
        pair.value.split_once("->").ok_or_else(|| pair.whole.err(Problem::Expected(usage)))?;
    let dst = target(dst, names)?;
    let target = LearnTarget::Load(dst);
    if src.text.starts_with(|c: char| c.is_ascii_digit()) {
        return Ok(LearnSpec { source: LearnSource::Value(constant(src, dst)?), target });
    }
    let range = SubField::parse(src, names)?;
    if range.bits != dst.bits {
        return Err(pair.value.err(Problem::Width { src: range.bits, dst: dst.bits }));
    }
    Ok(LearnSpec { source: LearnSource::Field(range), target })
}

/// What a part of a learned flow matches or writes.
fn target(text: Span<'_>, names: &dyn PortNames) -> Result<SubField, FlowError> {
    let range = SubField::parse(text, names)?;
    let learnable = range.option.is_none();
    learnable.then_some(range).ok_or_else(|| text.err(Problem::LearnsOption))
}

/// A number that fits into the range.
fn constant(v: Span<'_>, dst: SubField) -> Result<u128, FlowError> {
    let of = dst.field.info().name.to_string();
    let bad = Problem::BadValue { of: of.clone(), want: "a number, or a field's bits" };
    let value = parse_uint(v.text).ok_or_else(|| v.err(bad))?;
    let max = ones(dst.bits);
    if value > max {
        return Err(v.err(Problem::TooLarge { of, bits: dst.bits, max }));
    }
    Ok(value)
}
