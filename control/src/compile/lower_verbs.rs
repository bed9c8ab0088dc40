//! The verbs that are no plain changes of a field, lowered: where a packet goes, the stack,
//! instructions, MPLS, `learn`.

use super::lower::{ecn_bits, part, prereq};
use crate::flow::{self, FlowAction, SubField};
use sluice_dataplane::action::learn::{Learn, LearnField, LearnSource, LearnSpec, LearnTarget};
use sluice_dataplane::action::{Action, Bundle, Controller, Multipath, Sample};
use sluice_dataplane::packet::field::Subfield;

/// An action of this kind; `None`: it does nothing.
pub fn verb(a: &FlowAction) -> Option<Action> {
    Some(match a {
        FlowAction::Push(range) => {
            let zeros = ecn_bits(*range);
            let src = part(*range, zeros, range.bits).lower();
            Action::Push { src: src.unwrap_or(Subfield::EMPTY), zeros }
        }
        FlowAction::Pop(range) => {
            let skip = ecn_bits(*range);
            let dst = part(*range, skip, range.bits).lower().unwrap_or(Subfield::EMPTY);
            Action::Pop { dst, prereq: prereq(range.field), skip }
        }
        FlowAction::Learn(l) => Action::Learn(Box::new(learn(l))),
        FlowAction::Meter(id) => Action::Meter(*id),
        FlowAction::ClearActions => Action::ClearActions,
        FlowAction::WriteMetadata { value, mask } => {
            Action::WriteMetadata { value: *value & *mask, mask: *mask }
        }
        FlowAction::SetMplsTtl(ttl) => Action::SetMplsTtl(*ttl),
        FlowAction::DecMplsTtl => Action::DecMplsTtl,
        FlowAction::PushMpls(eth_type) => Action::PushMpls(*eth_type),
        FlowAction::PopMpls(eth_type) => Action::PopMpls(*eth_type),
        FlowAction::FinTimeout { idle_s, hard_s } => {
            Action::FinTimeout { idle_s: *idle_s, hard_s: *hard_s }
        }
        FlowAction::DeleteField(field) => Action::DeleteField(*field),
        other => return sending(other),
    })
}

/// Actions that send, or say how to send.
fn sending(a: &FlowAction) -> Option<Action> {
    Some(match a {
        FlowAction::OutputField(src) => Action::OutputField(src.lower()?),
        FlowAction::OutputTruncated { port, max_len } => {
            Action::OutputTruncated { port: *port, max_len: *max_len }
        }
        FlowAction::Enqueue { port, queue } => Action::Enqueue { port: *port, queue: *queue },
        FlowAction::SetQueue(queue) => Action::SetQueue(*queue),
        FlowAction::PopQueue => Action::PopQueue,
        FlowAction::Group(id) => Action::Group(*id),
        FlowAction::Bundle(b) => Action::Bundle(Box::new(Bundle {
            fields: b.fields,
            basis: b.basis,
            algorithm: b.algorithm,
            members: b.members.clone().into(),
            dst: match b.dst {
                Some(dst) => Some(dst.lower()?),
                None => None,
            },
        })),
        FlowAction::Multipath(m) => Action::Multipath(Box::new(Multipath {
            fields: m.fields,
            basis: m.basis,
            algorithm: m.algorithm,
            links: m.links,
            arg: m.arg,
            dst: m.dst.lower()?,
        })),
        FlowAction::Controller(c) => Action::Controller(Box::new(Controller {
            reason: c.reason,
            max_len: c.max_len,
            controller_id: c.id,
            userdata: c.userdata.clone().into(),
            pause: c.pause,
            meter: c.meter,
        })),
        FlowAction::Sample(s) => Action::Sample(Sample {
            probability: s.probability,
            collector_set: s.collector_set,
            obs_domain: s.obs_domain,
            obs_point: s.obs_point,
            sampling_port: s.sampling_port,
        }),
        _ => return None,
    })
}

fn learn(l: &flow::Learn) -> Learn {
    Learn {
        table: l.table,
        priority: l.priority,
        cookie: l.cookie,
        idle_timeout_s: l.idle_timeout_s,
        hard_timeout_s: l.hard_timeout_s,
        fin_idle_timeout_s: l.fin_idle_timeout_s,
        fin_hard_timeout_s: l.fin_hard_timeout_s,
        send_flow_rem: l.send_flow_rem,
        delete_learned: l.delete_learned,
        limit: l.limit,
        result: l.result.and_then(SubField::lower),
        specs: l.specs.iter().filter_map(spec).collect(),
    }
}

/// `None`: the part is of bits that exist only in text.
fn spec(s: &flow::LearnSpec) -> Option<LearnSpec> {
    let source = match s.source {
        flow::LearnSource::Value(v) => LearnSource::Value(v),
        flow::LearnSource::Field(f) => match f.lower() {
            Some(range) => LearnSource::Field { range, prereq: prereq(f.field) },
            None => LearnSource::Value(0),
        },
    };
    let target = match s.target {
        flow::LearnTarget::Match(dst) => LearnTarget::Match(learn_field(dst)?),
        flow::LearnTarget::Load(dst) => LearnTarget::Load(learn_field(dst)?),
        flow::LearnTarget::Output => LearnTarget::Output,
    };
    Some(LearnSpec { source, target })
}

fn learn_field(f: SubField) -> Option<LearnField> {
    let bits = f.lower()?.bits;
    Some(LearnField { field: f.field, lo: f.lo, bits })
}
