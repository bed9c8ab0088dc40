//! Actions of named arguments: `controller`, `sample`, `fin_timeout`.

use super::action::SampleDirection;
use super::action_parse::hex_bytes;
use super::error::{FlowError, Problem};
use super::ports::{self, PortNames, parse_port};
use super::span::{Form, Pair, Pairs, Span};
use super::value::parse_within;
use super::{Controller, FlowAction, Sample};
use sluice_dataplane::action::PacketInReason;

const CONTROLLER_TAKES: &str = "reason, max_len, id, userdata, pause and meter_id";
const SAMPLE_TAKES: &str =
    "probability, collector_set_id, obs_domain_id, obs_point_id, sampling_port, ingress and egress";

const REASONS: &[(&str, PacketInReason)] = &[
    ("no_match", PacketInReason::NoMatch),
    ("action", PacketInReason::Action),
    ("invalid_ttl", PacketInReason::InvalidTtl),
    ("action_set", PacketInReason::ActionSet),
    ("group", PacketInReason::Group),
];

pub fn reason_name(reason: PacketInReason) -> &'static str {
    REASONS.iter().find(|r| r.1 == reason).map_or("", |r| r.0)
}

fn value(pair: &Pair<'_>, of: &'static str, lo: u64, hi: u64) -> Result<u64, FlowError> {
    let place = if pair.value.is_empty() { pair.key } else { pair.value };
    parse_within(pair.value, of, lo, hi).map_err(|p| place.err(p))
}

fn flag(pair: &Pair<'_>, word: &'static str) -> Result<bool, FlowError> {
    if pair.form == Form::Bare { Ok(true) } else { Err(pair.key.err(Problem::NeedlessValue(word))) }
}

/// Nothing, a number of bytes, or named arguments.
pub fn parse_controller(v: Span<'_>) -> Result<Controller, FlowError> {
    let mut out = Controller::default();
    if !v.is_empty() && v.text.bytes().all(|b| b.is_ascii_digit()) {
        out.max_len = parse_within(v, "max_len", 0, 65535).map_err(|p| v.err(p))? as u16;
        return Ok(out);
    }
    let mut pairs = Pairs::new(v);
    while let Some(pair) = pairs.next()? {
        match pair.key.text {
            "reason" => {
                let found = REASONS.iter().find(|r| r.0 == pair.value.text);
                let want = "action, no_match, invalid_ttl, action_set or group";
                let bad = Problem::BadValue { of: "reason".to_string(), want };
                out.reason = found.ok_or_else(|| pair.whole.err(bad))?.1;
            }
            "max_len" => out.max_len = value(&pair, "max_len", 0, 65535)? as u16,
            "id" => out.id = value(&pair, "id", 0, 65535)? as u16,
            "userdata" => out.userdata = hex_bytes(pair.value, "userdata")?,
            "pause" => out.pause = flag(&pair, "pause")?,
            "meter_id" => {
                // 0 stands for none on the wire.
                let id = value(&pair, "meter_id", 0, u32::MAX.into())? as u32;
                out.meter = (id != 0).then_some(id);
            }
            _ => {
                let takes = CONTROLLER_TAKES;
                return Err(pair.key.err(Problem::UnknownArgument { of: "controller", takes }));
            }
        }
    }
    Ok(out)
}

pub fn parse_sample(pair: &Pair<'_>, names: &dyn PortNames) -> Result<Sample, FlowError> {
    let mut out = Sample {
        probability: 0,
        collector_set: 0,
        obs_domain: 0,
        obs_point: 0,
        sampling_port: None,
        direction: None,
    };
    let mut pairs = Pairs::new(pair.value);
    while let Some(p) = pairs.next()? {
        let number = |of| value(&p, of, 0, u32::MAX.into()).map(|n| n as u32);
        match p.key.text {
            "probability" => out.probability = value(&p, "probability", 1, 65535)? as u16,
            "collector_set_id" => out.collector_set = number("collector_set_id")?,
            "obs_domain_id" => out.obs_domain = number("obs_domain_id")?,
            "obs_point_id" => out.obs_point = number("obs_point_id")?,
            "sampling_port" => {
                let port = parse_port(p.value, names).map_err(|e| p.value.err(e))?;
                out.sampling_port = Some(port).filter(|n| *n != ports::NONE);
            }
            "ingress" if flag(&p, "ingress")? => out.direction = Some(SampleDirection::Ingress),
            "egress" if flag(&p, "egress")? => out.direction = Some(SampleDirection::Egress),
            _ => {
                let takes = SAMPLE_TAKES;
                return Err(p.key.err(Problem::UnknownArgument { of: "sample", takes }));
            }
        }
    }
    if out.probability == 0 {
        let rule = "sample needs probability=N, of 65535";
        return Err(pair.whole.err(Problem::Rule(rule)));
    }
    Ok(out)
}

/// `fin_timeout(idle_timeout=S,hard_timeout=S)`.
pub fn parse_fin_timeout(v: Span<'_>) -> Result<FlowAction, FlowError> {
    let (mut idle_s, mut hard_s) = (0, 0);
    let mut pairs = Pairs::new(v);
    while let Some(pair) = pairs.next()? {
        match pair.key.text {
            "idle_timeout" => idle_s = value(&pair, "idle_timeout", 0, 65535)? as u16,
            "hard_timeout" => hard_s = value(&pair, "hard_timeout", 0, 65535)? as u16,
            _ => {
                let takes = "idle_timeout and hard_timeout";
                return Err(pair.key.err(Problem::UnknownArgument { of: "fin_timeout", takes }));
            }
        }
    }
    Ok(FlowAction::FinTimeout { idle_s, hard_s })
}
