//! Random actions with arguments of their own, for the property tests.

use super::action::SampleDirection;
use super::*;
use proptest::collection::vec;
use proptest::prelude::*;
use proptest::sample::select;
use sluice_dataplane::action::{BundleAlgorithm, HashFields, MultipathAlgorithm, PacketInReason};
use sluice_dataplane::packet::field::{Field, ones};

/// Fields that exist in every packet and that every action may write.
pub const WRITABLE: &[Field] = &[
    Field::Metadata,
    Field::TunId,
    Field::TunDst,
    Field::TunIpv6Src,
    Field::PktMark,
    Field::Reg0,
    Field::Reg14,
    Field::Xreg3,
    Field::Xxreg0,
    Field::EthDst,
    Field::EthSrc,
];

pub fn range(fields: &'static [Field], bits_max: u8) -> impl Strategy<Value = SubField> {
    (select(fields), any::<u8>(), any::<u8>(), any::<bool>()).prop_map(
        move |(field, a, b, whole)| {
            let width = text_bits(field);
            if whole && width <= bits_max {
                return SubField::whole(field);
            }
            let lo = a % width;
            SubField { lo, bits: 1 + b % (width - lo).min(bits_max), ..SubField::whole(field) }
        },
    )
}

fn port() -> impl Strategy<Value = u32> {
    prop_oneof![3 => 0..ports::PORT_MAX, 1 => select(vec![ports::LOCAL, ports::IN_PORT])]
}

fn hash_fields() -> impl Strategy<Value = HashFields> {
    use HashFields as H;
    select(vec![
        H::EthSrc,
        H::SymmetricL4,
        H::SymmetricL3L4,
        H::SymmetricL3,
        H::SymmetricL3L4Udp,
        H::NwSrc,
        H::NwDst,
    ])
}

fn bundle() -> impl Strategy<Value = FlowAction> {
    use BundleAlgorithm as B;
    let algorithm = select(vec![B::ActiveBackup, B::HighestRandomWeight]);
    let dst = prop::option::of(range(WRITABLE, 64));
    (hash_fields(), any::<u16>(), algorithm, dst, vec(port(), 0..4)).prop_map(
        |(fields, basis, algorithm, dst, members)| {
            FlowAction::Bundle(Box::new(Bundle { fields, basis, algorithm, dst, members }))
        },
    )
}

fn multipath() -> impl Strategy<Value = FlowAction> {
    use MultipathAlgorithm as M;
    let algorithm = select(vec![M::ModuloN, M::HashThreshold, M::HighestRandomWeight, M::IterHash]);
    let links = 1..=65536u32;
    (hash_fields(), any::<u16>(), algorithm, links, any::<u32>(), range(WRITABLE, 64)).prop_map(
        |(fields, basis, algorithm, links, arg, dst)| {
            let links = if dst.bits < 16 { 1 + (links - 1) % (1 << dst.bits) } else { links };
            let m = Multipath { fields, basis, algorithm, links, arg, dst };
            FlowAction::Multipath(Box::new(m))
        },
    )
}

fn controller() -> impl Strategy<Value = FlowAction> {
    use PacketInReason as R;
    let reason = select(vec![R::Action, R::NoMatch, R::InvalidTtl, R::ActionSet, R::Group]);
    let max_len = prop_oneof![Just(u16::MAX), any::<u16>()];
    let id = prop_oneof![Just(0), any::<u16>()];
    let meter = prop::option::of(1..=u32::MAX);
    let userdata = vec(any::<u8>(), 0..4);
    (reason, max_len, id, userdata, any::<bool>(), meter).prop_map(
        |(reason, max_len, id, userdata, pause, meter)| {
            let c = Controller { reason, max_len, id, userdata, pause, meter };
            FlowAction::Controller(Box::new(c))
        },
    )
}

fn sample() -> impl Strategy<Value = FlowAction> {
    let direction =
        select(vec![None, Some(SampleDirection::Ingress), Some(SampleDirection::Egress)]);
    let ids = any::<(u32, u32, u32)>();
    (1..=u16::MAX, ids, prop::option::of(port()), direction).prop_map(
        |(probability, (collector_set, obs_domain, obs_point), sampling_port, direction)| {
            FlowAction::Sample(Sample {
                probability,
                collector_set,
                obs_domain,
                obs_point,
                sampling_port,
                direction,
            })
        },
    )
}

/// Parts of a learned flow, after `eth_type` and `nw_proto` so that all of them exist.
fn spec() -> impl Strategy<Value = LearnSpec> {
    const LEARNED: &[Field] = &[
        Field::Metadata,
        Field::TunId,
        Field::Reg3,
        Field::Xxreg1,
        Field::EthSrc,
        Field::EthDst,
        Field::VlanTci,
        Field::IpSrc,
        Field::IpDst,
        Field::TcpSrc,
        Field::TcpDst,
    ];
    let source = range(WRITABLE, 128);
    (range(LEARNED, 128), source, any::<u128>(), 0..3u8, any::<bool>()).prop_map(
        |(mut dst, mut src, value, target, constant)| {
            if !constant {
                src.bits = src.bits.min(dst.bits);
                dst.bits = src.bits;
            }
            let source = if constant {
                LearnSource::Value(value & ones(dst.bits))
            } else {
                LearnSource::Field(src)
            };
            match target {
                0 => LearnSpec { source, target: LearnTarget::Match(dst) },
                1 => LearnSpec { source, target: LearnTarget::Load(dst) },
                _ => LearnSpec { source: LearnSource::Field(src), target: LearnTarget::Output },
            }
        },
    )
}

fn learn() -> impl Strategy<Value = FlowAction> {
    let times = any::<(u16, u16, u16, u16)>();
    let rest = (any::<(bool, bool, u32)>(), prop::option::of(0..32u8));
    (0..255u8, any::<(u16, u64)>(), times, rest, vec(spec(), 0..5)).prop_map(
        |(table, (priority, cookie), t, ((send_flow_rem, delete_learned, limit), bit), parts)| {
            let fixed = |field, value| LearnSpec {
                source: LearnSource::Value(value),
                target: LearnTarget::Match(SubField::whole(field)),
            };
            let specs = [fixed(Field::EthType, 0x0800), fixed(Field::IpProto, 6)];
            FlowAction::Learn(Box::new(Learn {
                table,
                priority,
                cookie,
                idle_timeout_s: t.0,
                hard_timeout_s: t.1,
                fin_idle_timeout_s: t.2,
                fin_hard_timeout_s: t.3,
                send_flow_rem,
                delete_learned,
                limit,
                result: bit.map(|lo| SubField { lo, bits: 1, ..SubField::whole(Field::Reg9) }),
                specs: specs.into_iter().chain(parts).collect(),
            }))
        },
    )
}

/// Actions that need nothing of the match and may stand anywhere in a list.
pub fn verb() -> impl Strategy<Value = FlowAction> {
    use FlowAction as A;
    prop_oneof![
        range(WRITABLE, 128).prop_map(A::OutputField),
        (port(), 14..=u32::MAX).prop_map(|(port, max_len)| A::OutputTruncated { port, max_len }),
        (port(), any::<u32>()).prop_map(|(port, queue)| A::Enqueue { port, queue }),
        any::<u32>().prop_map(A::SetQueue),
        Just(A::PopQueue),
        (0..=0xffff_ff00u32).prop_map(A::Group),
        range(WRITABLE, 128).prop_map(A::Push),
        range(WRITABLE, 128).prop_map(A::Pop),
        bundle(),
        multipath(),
        controller(),
        sample(),
        learn(),
        learn(),
        any::<(u16, u16)>().prop_map(|(idle_s, hard_s)| A::FinTimeout { idle_s, hard_s }),
        any::<u8>().prop_map(A::SetMplsTtl),
        (0..1u32 << 20).prop_map(A::SetMplsLabel),
        (0..8u8).prop_map(A::SetMplsTc),
        Just(A::DecMplsTtl),
    ]
}

/// What `write_actions` may hold on any packet.
fn set_member() -> impl Strategy<Value = FlowAction> {
    use FlowAction as A;
    prop_oneof![
        (0..ports::PORT_MAX).prop_map(A::Output),
        (0..=0xffff_ff00u32).prop_map(A::Group),
        any::<u32>().prop_map(A::SetQueue),
        any::<u16>().prop_map(A::ModTpDst),
        (0..255u8).prop_map(|t| A::Resubmit { port: None, table: Some(t), with_ct: false }),
        Just(A::PopVlan),
    ]
}

/// Puts instructions around a list of actions: a meter before, the rest after it.
pub fn instructions() -> impl Strategy<Value = (Option<FlowAction>, Vec<FlowAction>)> {
    use FlowAction as A;
    let meter = prop::option::of((1..=0xffff_0000u32).prop_map(A::Meter));
    let write = prop::option::of(vec(set_member(), 0..4).prop_map(A::WriteActions));
    let metadata = (any::<u64>(), any::<u64>(), any::<bool>()).prop_map(|(value, m, whole)| {
        A::WriteMetadata { value, mask: if whole { u64::MAX } else { m } }
    });
    (meter, any::<bool>(), write, prop::option::of(metadata)).prop_map(
        |(meter, clear, write, metadata)| {
            let clear = clear.then_some(A::ClearActions);
            (meter, clear.into_iter().chain(write).chain(metadata).collect())
        },
    )
}

/// The actions of a flow that is a part of conjunctions.
pub fn conjunctions() -> impl Strategy<Value = Vec<FlowAction>> {
    let one = (any::<u32>(), 2..=64u8, any::<u8>()).prop_map(|(id, n_clauses, k)| {
        FlowAction::Conjunction { id, clause: k % n_clauses, n_clauses }
    });
    vec(one, 1..4)
}
