//! Random flows and groups, for the property tests: matches of a kind of packet, and actions that
//! need nothing that the match does not say.

use super::arb::{self, WRITABLE};
use super::check::{Checker, Place};
use super::*;
use proptest::collection::vec;
use proptest::prelude::*;
use proptest::sample::{Index, select};
use sluice_dataplane::action::group::GroupKind;
use sluice_dataplane::packet::field::{Format, Maskable};
use sluice_dataplane::packet::key::VLAN_PRESENT;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// Fields that exist in every packet.
const ANYWHERE: &[Field] = &[
    Field::InPortOxm,
    Field::Metadata,
    Field::PktMark,
    Field::ConjId,
    Field::TunId,
    Field::TunSrc,
    Field::TunDst,
    Field::TunIpv6Src,
    Field::TunIpv6Dst,
    Field::CtState,
    Field::CtZone,
    Field::CtMark,
    Field::CtLabel,
    Field::Reg0,
    Field::Reg7,
    Field::Reg15,
    Field::Xreg2,
    Field::Xxreg1,
    Field::EthDst,
    Field::EthSrc,
    Field::VlanTci,
];
const V4: &[Field] = &[Field::IpSrc, Field::IpDst, Field::IpDscp, Field::IpEcn, Field::IpTtl];
const V6: &[Field] =
    &[Field::Ipv6Src, Field::Ipv6Dst, Field::Ipv6Label, Field::IpDscp, Field::IpEcn, Field::IpTtl];
const ARP: &[Field] = &[Field::ArpOp, Field::ArpSpa, Field::ArpTpa, Field::ArpSha, Field::ArpTha];
const MPLS: &[Field] = &[Field::MplsLabel, Field::MplsTc, Field::MplsBos, Field::MplsTtl];
const PORTS: &[Field] = &[Field::TcpSrc, Field::TcpDst];
const TCP: &[Field] = &[Field::TcpSrc, Field::TcpDst, Field::TcpFlags];
const ND: &[Field] = &[Field::NdTarget, Field::NdSll];

/// Ethernet type, IP protocol (0: none), and the fields that then exist.
const KINDS: &[(u16, u8, &[&[Field]])] = &[
    (0, 0, &[]),
    (0x88cc, 0, &[]),
    (0x0800, 0, &[V4]),
    (0x0800, 6, &[V4, TCP]),
    (0x0800, 17, &[V4, PORTS]),
    (0x0800, 132, &[V4, PORTS]),
    (0x0800, 47, &[V4]),
    (0x86dd, 0, &[V6]),
    (0x86dd, 6, &[V6, TCP]),
    (0x86dd, 17, &[V6, PORTS]),
    (0x86dd, 58, &[V6, ND]),
    (0x0806, 0, &[ARP]),
    (0x8035, 0, &[ARP]),
    (0x8847, 0, &[MPLS]),
    (0x8848, 0, &[MPLS]),
];

fn arb_match() -> impl Strategy<Value = Match> {
    let parts = vec((any::<Index>(), any::<u128>(), any::<u128>(), 0..4u8), 0..8);
    (select(KINDS), parts, any::<(bool, bool)>()).prop_map(
        |((eth_type, proto, sets), parts, frag)| {
            let mut m = Match::default();
            if eth_type != 0 {
                m.set(Field::EthType, eth_type as u128, u128::MAX);
            }
            if proto != 0 {
                m.set(Field::IpProto, proto as u128, u128::MAX);
            }
            if proto == 58 {
                m.set(Field::TcpSrc, 135, u128::MAX);
            }
            let fields: Vec<Field> =
                sets.iter().copied().flatten().chain(ANYWHERE).copied().collect();
            for (ix, value, mask, kind) in parts {
                let field = *ix.get(&fields);
                let info = field.info();
                let exact = info.maskable == Maskable::No || kind == 0;
                let prefix = info.bits - (mask % info.bits as u128) as u8;
                let mask = match kind {
                    _ if exact => u128::MAX,
                    1 => ones(info.bits) & !ones(info.bits - prefix),
                    _ => mask,
                };
                let value = if info.format == Format::Port { value & 0xffff } else { value };
                m.set(field, value, mask);
            }
            if matches!(eth_type, 0x0800 | 0x86dd) && frag.0 {
                m.set(Field::IpFrag, if frag.1 { 1 } else { 0 }, 3);
            }
            m
        },
    )
}

const CT_FIELDS: &[Field] = &[Field::CtMark, Field::CtLabel];

fn arb_load(fields: &'static [Field]) -> impl Strategy<Value = FlowAction> {
    (arb::range(fields, 64), any::<u64>())
        .prop_map(|(dst, v)| FlowAction::Load { value: v & ones(dst.bits) as u64, dst })
}

fn arb_set(fields: &'static [Field]) -> impl Strategy<Value = FlowAction> {
    (select(fields), any::<u128>(), any::<u128>(), any::<bool>()).prop_map(
        |(field, v, m, whole)| {
            let full = ones(field.info().bits);
            let mask = if whole || m & full == 0 { full } else { m & full };
            // It does not take a tag off.
            let tag = if field == Field::VlanVid { mask & u128::from(VLAN_PRESENT) } else { 0 };
            FlowAction::SetField { field, value: v & full | tag, mask }
        },
    )
}

fn arb_move() -> impl Strategy<Value = FlowAction> {
    (arb::range(WRITABLE, 128), arb::range(WRITABLE, 128)).prop_map(|(mut src, mut dst)| {
        src.bits = src.bits.min(dst.bits);
        dst.bits = src.bits;
        FlowAction::Move { src, dst }
    })
}

fn arb_nat(v4: bool) -> impl Strategy<Value = Nat> {
    let addresses = any::<(u128, u128)>().prop_map(move |(a, b)| {
        let ip = |n: u128| match v4 {
            true => IpAddr::V4(Ipv4Addr::from(n as u32)),
            false => IpAddr::V6(Ipv6Addr::from(n)),
        };
        (ip(a).min(ip(b)), ip(a).max(ip(b)))
    });
    let ports = (1..=u16::MAX, 1..=u16::MAX).prop_map(|(a, b)| (a.min(b), a.max(b)));
    let side = select(vec![None, Some(NatSide::Src), Some(NatSide::Dst)]);
    (side, prop::option::of((addresses, prop::option::of(ports))), any::<bool>(), 0..3).prop_map(
        |(side, range, persistent, spread)| {
            let range = range.filter(|_| side.is_some());
            let some = range.is_some();
            Nat {
                side,
                addresses: range.map(|r| r.0),
                ports: range.and_then(|r| r.1),
                persistent: some && persistent,
                hash: some && spread == 1,
                random: some && spread == 2,
            }
        },
    )
}

fn arb_ct(v4: bool) -> impl Strategy<Value = FlowAction> {
    let zone = prop_oneof![
        any::<u16>().prop_map(Zone::Number),
        (0..17u8).prop_map(|lo| Zone::Field(SubField {
            lo,
            bits: 16,
            ..SubField::whole(Field::Reg13)
        })),
    ];
    let exec = vec(prop_oneof![arb_load(CT_FIELDS), arb_set(CT_FIELDS)], 0..3);
    let table = prop::option::of(0..255u8);
    (any::<(bool, bool)>(), zone, table, prop::option::of(arb_nat(v4)), exec).prop_map(
        |((commit, force), zone, table, nat, exec)| {
            let nat = nat.map(|n| if commit { n } else { Nat::default() });
            let exec = if commit { exec } else { Vec::new() };
            let force = commit && force;
            FlowAction::Ct(Box::new(Ct { commit, force, zone, table, nat, exec, alg: None }))
        },
    )
}

fn arb_simple() -> impl Strategy<Value = FlowAction> {
    use FlowAction as A;
    prop_oneof![
        (0..ports::PORT_MAX).prop_map(A::Output),
        select(vec![A::Normal, A::Flood, A::All, A::InPort, A::Local, A::CtClear, A::Exit]),
        (0..ports::PORT_MAX, 0..255u8, 0..3).prop_map(|(p, t, k)| A::Resubmit {
            port: (k != 0).then_some(p),
            table: (k != 1).then_some(t),
            with_ct: false,
        }),
        arb_move(),
        arb_load(WRITABLE),
        arb_set(WRITABLE),
        (0..4096u16).prop_map(A::ModVlanVid),
        (0..8u8).prop_map(A::SetVlanPcp),
        select(vec![A::StripVlan, A::PopVlan]),
        any::<u64>().prop_map(|v| A::ModDlSrc(v >> 16)),
        any::<u32>().prop_map(A::ModNwDst),
        any::<u8>().prop_map(|v| A::ModNwTos(v & 0xfc)),
        any::<u16>().prop_map(A::ModTpDst),
        any::<(u64, bool)>()
            .prop_map(|(id, w)| A::SetTunnel { id, wide: w || id > u32::MAX as u64 }),
        vec(any::<u16>(), 0..3).prop_map(A::DecTtl),
        vec(any::<u8>(), 0..5).prop_map(A::Note),
        (any::<u16>(), 0..32u8).prop_map(|(len_bytes, lo)| A::CheckPktLarger {
            len_bytes,
            dst: SubField { lo, bits: 1, ..SubField::whole(Field::Reg10) },
        }),
    ]
}

fn arb_actions(v4: bool, ip: bool) -> impl Strategy<Value = Vec<FlowAction>> {
    let leaf = if ip {
        prop_oneof![3 => arb_simple().boxed(), 2 => arb::verb(), 1 => arb_ct(v4).boxed()].boxed()
    } else {
        prop_oneof![3 => arb_simple().boxed(), 2 => arb::verb()].boxed()
    };
    let nested =
        leaf.prop_recursive(3, 12, 4, |inner| vec(inner, 0..4).prop_map(FlowAction::Clone));
    let list = (vec(nested, 0..6), arb::instructions()).prop_map(|(list, (first, last))| {
        first.into_iter().chain(list).chain(last).collect::<Vec<_>>()
    });
    prop_oneof![9 => list, 1 => arb::conjunctions()]
}

/// A flow that some version of OpenFlow has.
pub fn arb_flow() -> impl Strategy<Value = Flow> {
    let head = any::<(u16, u64, u16, u16, u16, (bool, bool, bool, bool, bool))>();
    (0..255u8, head, arb_match(), prop::option::of(0..255u8))
        .prop_flat_map(|(table, head, mut match_, goto)| {
            let ip = matches!(match_.key.eth_type, 0x0800 | 0x86dd);
            // A committed packet may not be invalid.
            let (state, mask) = match_.get(Field::CtState);
            match_.set(Field::CtState, state & !0x10, mask);
            let actions = arb_actions(match_.key.eth_type == 0x0800, ip);
            (Just((table, head, match_, goto)), actions)
        })
        .prop_map(
            |(
                (table, (priority, cookie, idle, hard, importance, f), match_, goto),
                mut actions,
            )| {
                let alone = matches!(actions.first(), Some(FlowAction::Conjunction { .. }));
                let goto = goto.filter(|&g| g > table && !alone);
                actions.extend(goto.map(FlowAction::GotoTable));
                let flags = FlowFlags {
                    send_flow_rem: f.0,
                    check_overlap: f.1,
                    reset_counts: f.2,
                    no_packet_counts: f.3,
                    no_byte_counts: f.4,
                };
                in_one_version(Flow {
                    table,
                    priority,
                    cookie,
                    idle_timeout_s: idle,
                    hard_timeout_s: hard,
                    importance,
                    flags,
                    match_,
                    actions,
                })
            },
        )
}

/// The flow without what no version of OpenFlow has beside its actions.
fn in_one_version(mut flow: Flow) -> Flow {
    let mut checker = Checker::new(&flow.match_, flow.table);
    if follow(&mut checker, &flow.actions) && checker.finish(Some("a flag")).is_err() {
        let FlowFlags { send_flow_rem, check_overlap, .. } = flow.flags;
        flow.flags = FlowFlags { send_flow_rem, check_overlap, ..FlowFlags::default() };
        flow.actions.retain(|a| !matches!(a, FlowAction::Meter(_)));
    }
    flow
}

/// Has a list checked, and what is nested in it.
fn follow(checker: &mut Checker, list: &[FlowAction]) -> bool {
    list.iter().all(|action| {
        let place = match action {
            FlowAction::Clone(_) => Some(Place::Clone),
            FlowAction::WriteActions(_) => Some(Place::ActionSet),
            _ => None,
        };
        let inside = place.is_none_or(|place| {
            let mut inner = checker.nested(place);
            let fits = follow(&mut inner, action.nested());
            checker.leave(&inner);
            fits
        });
        inside && checker.check(action).is_ok()
    })
}

/// A group.
pub fn arb_group() -> impl Strategy<Value = Group> {
    let method = select(vec![None, Some(Method::Hash), Some(Method::DpHash)]);
    let buckets = vec((any::<u16>(), prop::option::of(0..0xff00u32)), 0..5);
    let parts = (0..=0xffff_ff00u32, method, any::<u64>(), buckets, arb_actions(true, true));
    parts.prop_map(|(id, method, param, weights, actions)| {
        // What a bucket takes: no instructions, no conjunctions.
        let fits: Vec<FlowAction> = actions.into_iter().filter(action_set::takes).collect();
        let bucket = |(i, (weight, watch_port)): (usize, (u16, Option<u32>))| Bucket {
            id: Some(i as u32 * 3),
            weight,
            watch_port,
            watch_group: watch_port.filter(|p| p % 2 == 0),
            actions: fits.clone(),
        };
        let param = if method.is_some() { param } else { 0 };
        Group {
            id,
            kind: GroupKind::Select,
            selection: Selection { method, param, fields: Vec::new() },
            buckets: weights.into_iter().enumerate().map(bucket).collect(),
        }
    })
}
