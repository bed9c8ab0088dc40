//! Verbs, groups and meters by chance.

use crate::chance::{Chance, action};
use crate::kit::*;
use sluice_dataplane::action::group::{Bucket, GroupKind, Selection};
use sluice_dataplane::action::learn::{Learn, LearnField, LearnSource, LearnSpec, LearnTarget};
use sluice_dataplane::action::meter::MeterUnit;
use sluice_dataplane::action::{
    Action, Bundle, BundleAlgorithm, Controller, HashFields, Multipath, MultipathAlgorithm,
    PacketInReason, Sample, port,
};
use sluice_dataplane::packet::field::{Field, Subfield};

const GROUPS: u32 = 4;
const METERS: u32 = 3;

const RANGES: [Field; 6] =
    [Field::Reg0, Field::Reg1, Field::Xreg0, Field::IpDst, Field::EthSrc, Field::InPort];

fn range(c: &mut Chance) -> (Field, Subfield) {
    let f = c.of(&RANGES);
    let lo = c.below(8) as u8;
    (f, f.info().range(lo, lo + c.below(8) as u8).unwrap())
}

fn hash_fields(c: &mut Chance) -> HashFields {
    c.of(&[
        HashFields::EthSrc,
        HashFields::SymmetricL4,
        HashFields::SymmetricL3L4,
        HashFields::SymmetricL3,
        HashFields::SymmetricL3L4Udp,
        HashFields::NwSrc,
        HashFields::NwDst,
    ])
}

/// A verb of those that `chance::action` has not.
pub fn verb(c: &mut Chance, tables: u8, deep: bool) -> Action {
    let (field, some) = range(c);
    let table = c.below(tables.into()) as u8;
    match c.below(24) {
        0 | 1 => Action::Push { src: some, zeros: c.of(&[0, 0, 0, 2]) },
        2 | 3 => Action::Pop { dst: some, prereq: field.info().prereq, skip: c.of(&[0, 0, 0, 2]) },
        4 => Action::OutputField(c.of(&[Field::Reg0.info().whole(), some])),
        5 => {
            Action::OutputTruncated { port: c.of(&[1, 2, 3, 5, 9]), max_len: c.of(&[14, 60, 1000]) }
        }
        6 => c.of(&[
            Action::SetQueue(3),
            Action::PopQueue,
            Action::Enqueue { port: 2, queue: 1 },
            Action::Enqueue { port: port::IN_PORT, queue: 1 },
        ]),
        7..=9 => Action::Group(c.below(GROUPS.into()) as u32 + u32::from(c.one_in(9))),
        10 | 11 => Action::Meter(c.below(METERS.into()) as u32 + u32::from(c.one_in(5))),
        12 | 13 => Action::Learn(Box::new(learn(c, tables))),
        14 => multipath(c, some),
        15 => bundle(c),
        16 => controller(c),
        17 => {
            let probability = c.of(&[0, 30_000, 65_535]);
            let (collector_set, obs_domain, obs_point, sampling_port) = (1, 2, 3, None);
            Action::Sample(Sample {
                probability,
                collector_set,
                obs_domain,
                obs_point,
                sampling_port,
            })
        }
        18 | 19 if deep => {
            let written = 1 + c.below(3);
            Action::WriteActions((0..written).map(|_| action(c, tables, false)).collect())
        }
        20 => c.of(&[Action::ClearActions, Action::WriteMetadata { value: 1, mask: 3 }]),
        21 => Action::Resubmit { in_port: None, table: Some(table), with_ct: true },
        22 => Action::FinTimeout { idle_s: c.of(&[0, 5, 10]), hard_s: c.of(&[0, 7]) },
        _ => Action::DecTtlFor([1, 2].into()),
    }
}

fn multipath(c: &mut Chance, dst: Subfield) -> Action {
    let algorithm = c.of(&[
        MultipathAlgorithm::ModuloN,
        MultipathAlgorithm::HashThreshold,
        MultipathAlgorithm::HighestRandomWeight,
        MultipathAlgorithm::IterHash,
    ]);
    let fields = hash_fields(c);
    Action::Multipath(Box::new(Multipath { fields, basis: 1, algorithm, links: 3, arg: 3, dst }))
}

fn bundle(c: &mut Chance) -> Action {
    let algorithm = c.of(&[BundleAlgorithm::ActiveBackup, BundleAlgorithm::HighestRandomWeight]);
    let dst = c.one_in(3).then(|| Field::Reg0.info().whole());
    let members = [1, 2, 3, 9].into();
    let fields = hash_fields(c);
    Action::Bundle(Box::new(Bundle { fields, basis: 0, algorithm, members, dst }))
}

fn controller(c: &mut Chance) -> Action {
    Action::Controller(Box::new(Controller {
        reason: PacketInReason::Action,
        max_len: c.of(&[20, u16::MAX]),
        controller_id: 0,
        userdata: if c.one_in(2) { [1, 2].into() } else { [].into() },
        pause: c.one_in(4),
        meter: c.one_in(4).then_some(1),
    }))
}

fn learn(c: &mut Chance, tables: u8) -> Learn {
    let from = |f: Field| {
        let info = f.info();
        LearnSource::Field { range: info.whole(), prereq: info.prereq }
    };
    let whole = |f: Field| LearnField { field: f, lo: 0, bits: f.info().bits };
    let (a, b) = c.of(&[
        (Field::EthSrc, Field::EthDst),
        (Field::EthDst, Field::EthDst),
        (Field::IpSrc, Field::IpDst),
        (Field::InPort, Field::InPort),
        (Field::Reg0, Field::Reg0),
    ]);
    let mut specs = vec![LearnSpec { source: from(a), target: LearnTarget::Match(whole(b)) }];
    let target = LearnTarget::Load(whole(Field::Reg1));
    specs.push(LearnSpec { source: from(Field::TcpSrc), target });
    if c.one_in(2) {
        let source =
            c.of(&[from(Field::InPort), LearnSource::Value(2), LearnSource::Value(0xfffd)]);
        specs.push(LearnSpec { source, target: LearnTarget::Output });
    }
    Learn {
        table: c.below(tables.into()) as u8,
        priority: c.of(&[5, 12, 100]),
        cookie: 7,
        fin_idle_timeout_s: c.of(&[0, 0, 5]),
        result: c.one_in(3).then(|| Field::Reg0.info().range(0, 0).unwrap()),
        specs: specs.into(),
        ..Learn::default()
    }
}

/// Groups that run, watch and select by chance, and meters with room for a few packets.
pub fn furnish(c: &mut Chance, mut net: Net, tables: u8) -> Net {
    for id in 0..GROUPS {
        let kinds =
            [GroupKind::All, GroupKind::Indirect, GroupKind::Select, GroupKind::FastFailover];
        let kind = c.of(&kinds);
        let count = if kind == GroupKind::Indirect { 1 } else { c.below(4) as u32 };
        let buckets: Vec<Bucket> = (0..count)
            .map(|n| Bucket {
                weight: c.of(&[0, 1, 1, 5, 1000]),
                watch_port: c.one_in(3).then(|| c.of(&[1, 2, 3])),
                watch_group: c.one_in(6).then(|| c.below(GROUPS.into()) as u32),
                ..bucket(n, (0..1 + c.below(3)).map(|_| bucket_action(c, id, tables)))
            })
            .collect();
        let mut g = group(id, kind, buckets);
        g.selection = match c.below(4) {
            0 => Selection::DpHash { basis: 3, symmetric: c.one_in(2) },
            1 => Selection::Hash {
                basis: 1,
                fields: [(Field::IpSrc, 0xff), (Field::TcpDst, 0xffff), (Field::Ipv6Dst, 1)].into(),
            },
            _ => Selection::Default,
        };
        net = net.group(g);
    }
    for id in 0..METERS {
        let unit = c.of(&[MeterUnit::Pktps, MeterUnit::Kbps]);
        let bands = [(c.of(&[1, 50]), c.of(&[3, 9])), (100, 5)];
        net = net.meter(id, unit, &bands[..1 + c.below(2) as usize]);
    }
    net
}

fn bucket_action(c: &mut Chance, id: u32, tables: u8) -> Action {
    match c.below(8) {
        0..=2 => out(c.of(&[1, 2, 3, 5, 9])),
        3 => Action::Group(id + 1),
        4 => resubmit(c.below(tables.into()) as u8),
        _ => action(c, tables, false),
    }
}
