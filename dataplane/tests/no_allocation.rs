//! A worker neither allocates nor frees: counted by the allocator itself.
//!
//! Hits, misses that insert and evict, commits with NAT, tunnels out and in, floods, learning,
//! expiry, ICMP errors, damaged packets: from the first packet on, not one call.

mod counting;
#[allow(dead_code, reason = "shared with the pipeline's tests, which use all of it")]
#[path = "pipeline/kit.rs"]
mod kit;
#[allow(dead_code, reason = "shared with the pipeline's tests, which use all of it")]
#[path = "pipeline/packets.rs"]
mod packets;

use counting::calls;
use kit::*;
use packets::*;
use sluice_dataplane::action::group::GroupKind;
use sluice_dataplane::action::learn::{Learn, LearnField, LearnSource, LearnSpec, LearnTarget};
use sluice_dataplane::action::meter::MeterUnit;
use sluice_dataplane::action::{Action, Controller, PacketInReason};
use sluice_dataplane::clock::Now;
use sluice_dataplane::conntrack::{CtConfig, NatKind, Tuple};
use sluice_dataplane::counters::{Counters, Drop, Stat};
use sluice_dataplane::fdb::Fdb;
use sluice_dataplane::limits::FRAGMENTS_MAX;
use sluice_dataplane::packet::build::PacketBuilder;
use sluice_dataplane::packet::field::Field;
use sluice_dataplane::packet::frame::Frame;
use sluice_dataplane::packet::key::PortIx;
use sluice_dataplane::pipeline::{Egress, First, Lane, LaneConfig, Notice, Seat};
use sluice_dataplane::port::RxBurst;
use sluice_dataplane::tunnel::{TunnelConfig, TunnelKey, TunnelRemote};
use sluice_dataplane::xsk::pool::FramePool;
use std::sync::Arc;

/// Lets all go.
struct Void;

impl Egress for Void {
    fn output(&mut self, _: PortIx, frame: Frame, pool: &mut FramePool) {
        pool.free(frame);
    }

    fn notify(&mut self, _: u8, _: Notice) -> bool {
        true
    }

    fn notice_room(&mut self, _: u8) -> usize {
        100
    }
}

fn net() -> Net {
    let nat = ct(1).commit().nat_to(NatKind::Src, [203, 0, 113, 1], None);
    let nat = nat.exec([set(Field::CtMark, 1)]).table(1).go();
    let to = set(Field::TunDst, u32::from_be_bytes(PEER_IP).into());
    let config =
        TunnelConfig { remote: TunnelRemote::Flow, key: TunnelKey::Flow, ..tunnel_config() };
    let many = (0..3000).map(|i| out(2 + i % 2));
    Net::of([
        flow(0, 9).is(Field::EthType, 0x0800).is(Field::InPort, 1).does([nat]),
        flow(0, 9)
            .is(Field::EthType, 0x0800)
            .is(Field::InPort, 2)
            .does([ct(1).nat().table(2).go()]),
        flow(0, 8).is(Field::InPort, 4).is(Field::UdpDst, 7).does([resubmit(0)]),
        flow(0, 8).is(Field::InPort, 4).is(Field::UdpDst, 8).does(many),
        flow(0, 8).is(Field::InPort, 4).is(Field::UdpDst, 10).does(verbs()),
        flow(0, 7).is(Field::InPort, 4).does([Action::Normal]),
        flow(0, 6).is(Field::InPort, 3).does([
            to,
            mv(Field::UdpSrc, Field::TunId),
            Action::DecTtl,
            out(2),
            Action::PushVlan { tpid: 0x8100 },
            out(5),
            out(9),
            out(77),
        ]),
        flow(0, 1).does([out(2)]),
        flow(1, 1).does([out(2), out(3)]),
        flow(2, 1).does([out(1)]),
    ])
    .flows(1, [always([Action::Normal])])
    .group(group(1, GroupKind::Select, (2..4).map(|p| bucket(p, [out(p)]))))
    .group(group(2, GroupKind::All, [bucket(1, [out(2)]), bucket(2, [Action::Group(1)])]))
    .meter(1, MeterUnit::Pktps, &[(200, 1)])
    .tunnel(config)
}

/// The verbs that hold something: stacks, copies, lists, hints.
fn verbs() -> Vec<Action> {
    let (reg, prereq) = (Field::Reg0.info().whole(), Field::Reg0.info().prereq);
    let pop = Action::Pop { dst: reg, prereq, skip: 0 };
    let stack = [Action::Push { src: reg, zeros: 0 }, Action::Clone([pop].into())];
    let learn = Learn {
        table: 9,
        priority: 1,
        cookie: 1,
        specs: [LearnSpec {
            source: LearnSource::Field { range: Field::EthSrc.info().whole(), prereq },
            target: LearnTarget::Match(LearnField { field: Field::EthDst, lo: 0, bits: 48 }),
        }]
        .into(),
        ..Learn::default()
    };
    let controller = Controller {
        reason: PacketInReason::Action,
        max_len: u16::MAX,
        controller_id: 0,
        userdata: [1, 2, 3].into(),
        pause: false,
        meter: Some(1),
    };
    let pause = Controller { pause: true, meter: None, ..controller.clone() };
    let pause = Action::Controller(Box::new(pause));
    let mut list: Vec<Action> = stack.into();
    list.extend([
        Action::Group(2),
        Action::Learn(Box::new(learn)),
        Action::Controller(Box::new(controller)),
        Action::OutputTruncated { port: 3, max_len: 20 },
        Action::WriteActions([out(2), Action::Group(1)].into()),
        Action::Clone([Action::Meter(1), out(3)].into()),
        Action::Clone([pause, out(3)].into()),
    ]);
    list
}

/// A datagram in two fragments.
fn fragments(id: u32) -> Vec<Vec<u8>> {
    let data = [5; 1480];
    let first = v4().udp(7, 1999).no_checksum().payload(&data[8..]);
    let first = first.fragment(id, 0, true).build();
    let mut last = v4().proto(17).fragment(id, 1480, false).payload(&data[..900]).build();
    last.truncate(34 + 900);
    let mut first = first;
    first[38..40].copy_from_slice(&2380u16.to_be_bytes());
    vec![first, last]
}

fn run(
    lane: &mut Lane,
    pool: &mut FramePool,
    burst: &mut RxBurst,
    port: u16,
    packets: &[Vec<u8>],
    now: Now,
) {
    let fill = |burst: &mut RxBurst, pool: &mut FramePool| {
        for bytes in packets {
            let mut frame = pool.alloc().expect("a frame");
            assert!(frame.copy_from(bytes));
            assert!(burst.push(frame).is_ok());
        }
    };
    fill(burst, pool);
    lane.run(burst, PortIx(port), now, pool, &mut Void);
    if lane.conntrack().homes().is_shared() {
        // What it gave away comes back to it.
        fill(burst, pool);
        lane.run_at_home(burst, PortIx(port), now, pool, &mut Void);
        lane.tell(&mut Void);
    }
}

/// What another worker might tell.
fn hear(lane: &mut Lane, n: u16) {
    for sport in 0..8 {
        let (src, dst) = (u128::from(n % 40), 7);
        let tuple = Tuple { src, dst, sport, dport: 80, proto: 6, v6: false };
        lane.hear(match n % 3 {
            0 => Notice::Withdraw { tuple, from: 1 },
            _ => Notice::Redirect { tuple, zone: 1, from: 1 },
        });
    }
}

/// One batch of every sort; `n` makes flows differ.
fn batches(n: u16) -> Vec<(u16, Vec<Vec<u8>>)> {
    let [a, b] = n.to_be_bytes();
    let flow_of = |i: u16| v4().udp(1000 + n * 8 + i, 2000).payload(&[1; 20]).build();
    let back = PacketBuilder::eth(B, A).ipv4(IP_B, [203, 0, 113, 1]);
    let reply = |i: u16| back.clone().udp(2000, 1000 + n * 8 + i).build();
    let quoted = v4().ipv4([203, 0, 113, 1], IP_B).udp(1000 + n * 8, 2000).build();
    let error = back.clone().icmp_error(3, 3, [0; 4], &quoted).build();
    let syn = v4().tcp(1000 + n, 80).flags(2).build();
    let station = PacketBuilder::eth([2, 0, 0, 0, a, b], B).ipv4(IP_A, IP_B);
    let inner = station.clone().udp(1, 2).build();
    let outer = PacketBuilder::eth(PEER_MAC, NIC_MAC).ipv4(PEER_IP, LOCAL_IP);
    let arriving = outer.udp(50_000, 6081).geneve(n.into(), &inner).build();
    let mut broken = of_every_kind();
    broken.iter_mut().for_each(|p| p.truncate(40 + usize::from(n % 20)));
    vec![
        (1, (0..8).map(flow_of).chain([syn]).collect()),
        (2, (0..8).map(reply).chain([error]).collect()),
        (3, vec![flow_of(0), flow_of(1), v4().ttl(1).udp(1, 2).build()]),
        (4, vec![station.clone().udp(n, 9).build(), station.clone().udp(n, 7).build()]),
        (4, (0..4).map(|_| station.clone().udp(n, 10).build()).collect()),
        (4, vec![station.udp(n, 8).build()]),
        (NIC, vec![arriving]),
        (1, of_every_kind()),
        (1, fragments(n.into())),
        (1, fragments(20_000 + u32::from(n)).split_off(1)),
        (4, broken),
    ]
}

/// What the test is about.
const MET: [Stat; 11] = [
    Stat::Tier1Hits,
    Stat::Tier1Stale,
    Stat::Tier1Evictions,
    Stat::Tier3Uncacheable,
    Stat::TunnelPush,
    Stat::TunnelPop,
    Stat::FdbLearned,
    Stat::LearnsTold,
    Stat::PacketIns,
    Stat::CtDatagrams,
    Stat::CtFragments,
];

#[test]
fn a_lane_neither_allocates_nor_frees() {
    live(Seat::default());
    // Beside another one.
    let met = live(Seat { worker: 0, workers: 2 });
    for s in [Stat::HandedOver, Stat::TakenOver] {
        assert!(met.stat(s) > 1000, "{}: {}", s.name(), met.stat(s));
    }
}

/// What fragments wait in is made by use, once.
fn warm(lane: &mut Lane, pool: &mut FramePool, burst: &mut RxBurst, now: &mut Now) {
    let is_shared = lane.conntrack().homes().is_shared();
    for part in if is_shared { vec![1, 0] } else { vec![0] } {
        for id in 0..=3 * FRAGMENTS_MAX as u32 {
            run(lane, pool, burst, 1, &fragments(id)[part..=part], *now);
        }
        assert!(lane.fragments_held() >= FRAGMENTS_MAX);
        if is_shared {
            *now = now.plus_ms(20_000);
            (0..20).for_each(|_| lane.housekeep(*now, 256));
            assert_eq!(lane.fragments_held(), 0);
        }
    }
    let last = 3 * FRAGMENTS_MAX as u32;
    run(lane, pool, burst, 1, &fragments(last)[1..], *now);
}

fn live(seat: Seat) -> Arc<Counters> {
    let counters = Arc::new(Counters::default());
    let conntrack = CtConfig { conns_max: 512, seed: 5, ..CtConfig::default() };
    let config = LaneConfig {
        microflows: 64,
        megaflows: 64,
        conntrack,
        self_check: 100,
        first: First::Measured,
        seed: 7,
        seat,
    };
    let mut lane = Lane::new(&config, counters.clone());
    let mut pool = FramePool::private(128).unwrap();
    let mut burst = RxBurst::new();
    let fdbs = [1, 2, 3].map(|seed| Arc::new(Fdb::new(seed)));
    let program = net().program(1, &fdbs);
    drop(lane.set_program(Arc::new(program), Now::from_secs(1)));

    let rounds: Vec<_> = (0..200).map(batches).collect();
    let mut now = Now::from_secs(1000);
    warm(&mut lane, &mut pool, &mut burst, &mut now);
    let before = calls();
    for _ in 0..7 {
        for round in &rounds {
            for (port, packets) in round {
                run(&mut lane, &mut pool, &mut burst, *port, packets, now);
                now = now.plus_ms(3);
            }
            if seat.is_shared() {
                hear(&mut lane, (now.ns >> 22) as u16);
            }
            lane.housekeep(now, 256);
            lane.settle(now);
            lane.drain_events();
            let buffers = lane.packet_ins();
            while let Some(mut packet_in) = buffers.take() {
                packet_in.clear();
                buffers.give_back(packet_in);
            }
        }
        now = now.plus_ms(400_000);
    }
    let calls = calls() - before;
    let stat = |s| counters.stat(s);
    assert_eq!(calls, 0, "allocations and frees in {} packets", stat(Stat::RxPackets));
    assert_eq!(pool.available(), pool.total());
    // The test saw what it is about.
    for s in MET {
        assert!(stat(s) > 100, "{}: {}", s.name(), stat(s));
    }
    assert!(stat(Stat::RxPackets) > 50_000, "{}", stat(Stat::RxPackets));
    assert!(lane.conntrack().stats().created > 1000);
    assert!(lane.conntrack().stats().expired > 1000);
    for d in
        [Drop::ResubmitDepth, Drop::OutputCount, Drop::NoSuchPort, Drop::TtlExpired, Drop::Meter]
    {
        assert!(counters.dropped(d) > 100, "{}", d.name());
    }
    counters
}
