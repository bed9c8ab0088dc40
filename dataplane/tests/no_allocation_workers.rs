//! Two workers neither allocate nor free: their loops, ports and rings, counted by the allocator.
//!
//! What lanes do for themselves `no_allocation` has. Here packets come by four ports, two of each
//! worker; half have their connection with the other one, half leave by one of its ports, and
//! frames wander and are given back.

mod counting;
#[allow(dead_code, unused_imports, reason = "shared with the pipeline's tests, which use all")]
#[path = "pipeline/kit.rs"]
mod kit;
#[allow(dead_code, reason = "shared with the pipeline's tests, which use all of it")]
#[path = "pipeline/packets.rs"]
mod packets;

use counting::calls;
use kit::*;
use packets::*;
use sluice_dataplane::action::Action;
use sluice_dataplane::conntrack::{CtConfig, NatKind, ZoneCounts};
use sluice_dataplane::counters::{Counters, Drop, Stat};
use sluice_dataplane::fdb::Fdb;
use sluice_dataplane::packet::build::PacketBuilder;
use sluice_dataplane::packet::field::Field;
use sluice_dataplane::packet::key::PortIx;
use sluice_dataplane::pipeline::{First, Lane, LaneConfig, Seat};
use sluice_dataplane::port::AnyPort;
use sluice_dataplane::port::memory::MemoryPort;
use sluice_dataplane::sys::wait::Waker;
use sluice_dataplane::worker::{Command, Mailbox, Peers, Reply, Worker, mailbox};
use sluice_dataplane::xsk::pool::FramePool;
use sluice_dataplane::xsk::umem::{Umem, UmemConfig};
use std::sync::Arc;
use std::time::Instant;

/// Frames of both workers together.
const FRAMES: u32 = 4096;
const PUBLIC: [u8; 4] = [203, 0, 113, 1];

/// From 1 to 2 with another source, from 2 back; between 3 and 4 as a switch that learns.
fn net() -> Net {
    let nat = ct(1).commit().nat_to(NatKind::Src, PUBLIC, None).table(1).go();
    Net::of([
        flow(0, 9).is(Field::EthType, 0x0800).is(Field::InPort, 1).does([nat]),
        flow(0, 9)
            .is(Field::EthType, 0x0800)
            .is(Field::InPort, 2)
            .does([ct(1).nat().table(2).go()]),
        flow(0, 1).does([Action::Normal]),
        flow(1, 1).does([out(2)]),
        flow(2, 1).does([out(1)]),
    ])
}

/// The packets that come by a port, over and over.
fn packets_of(port: u16) -> Vec<Vec<u8>> {
    let back = PacketBuilder::eth(B, A).ipv4(IP_B, PUBLIC);
    let packet = |n: u16| match port {
        1 if n.is_multiple_of(9) => v4().tcp(1000 + n, 80).flags(2).build(),
        1 => v4().udp(1000 + n, 2000).payload(&[1; 20]).build(),
        2 if n.is_multiple_of(9) => {
            let quoted = v4().ipv4(PUBLIC, IP_B).udp(1000 + n, 2000).build();
            back.clone().icmp_error(3, 3, [0; 4], &quoted).build()
        }
        2 => back.clone().udp(2000, 1000 + n).build(),
        _ => {
            let ([a, b], p) = ((n % 64).to_be_bytes(), port as u8);
            let other = [2, 0, 0, 0, 7 - p, b];
            PacketBuilder::eth([2, 0, 0, a, p, b], other).ipv4(IP_A, IP_B).udp(n, 9).build()
        }
    };
    (0..1500).map(packet).collect()
}

struct Rig {
    worker: Worker,
    mail: Mailbox,
    counters: Arc<Counters>,
}

fn rigs() -> Vec<Rig> {
    let umem = Umem::new(UmemConfig { frames: FRAMES, ..UmemConfig::default() }).unwrap();
    let wakers = [Waker::new().unwrap(), Waker::new().unwrap()];
    let zone_counts = Some(Arc::new(ZoneCounts::default()));
    let rig = |(n, (peers, waker)): (usize, (Peers, Waker))| {
        let zone_counts = zone_counts.clone();
        let conntrack = CtConfig { conns_max: 512, seed: 5, zone_counts, ..CtConfig::default() };
        let config = LaneConfig {
            microflows: 64,
            megaflows: 64,
            conntrack,
            self_check: 100,
            first: First::Measured,
            seed: 7,
            seat: Seat { worker: n as u8, workers: 2 },
        };
        let counters = Arc::new(Counters::default());
        let lane = Lane::new(&config, counters.clone());
        let pool = FramePool::new(&umem, FRAMES / 2).unwrap();
        let (mail, end) = mailbox(waker.clone());
        let worker = Worker::new(lane, pool, (end, waker), peers, Instant::now());
        Rig { worker, mail, counters }
    };
    Peers::of(&wakers).into_iter().zip(wakers.clone()).enumerate().map(rig).collect()
}

/// Brings all counters up to date, which else happens four times a second.
fn settle(rigs: &mut [Rig]) {
    for rig in rigs.iter_mut() {
        assert!(rig.mail.send(Command::Settle).is_ok());
    }
    let mut waiting = rigs.len();
    for _ in 0..10_000 {
        for rig in rigs.iter_mut() {
            rig.worker.round();
            while let Some(reply) = rig.mail.receive() {
                waiting -= usize::from(matches!(reply, Reply::Settled));
            }
        }
        if waiting == 0 {
            return;
        }
    }
    panic!("{waiting} workers have not settled");
}

/// Frames that are free, or on their way between the workers.
fn frames(rigs: &mut [Rig]) -> usize {
    let mut all = 0;
    for rig in rigs {
        assert!(rig.mail.send(Command::Ports(Vec::with_capacity(4))).is_ok());
        rig.worker.round();
        while let Some(reply) = rig.mail.receive() {
            if let Reply::Ports { list, frames } = reply {
                all += frames.free + frames.waiting;
                all += list.iter().map(|p| p.frames_held).sum::<usize>();
            }
        }
    }
    all
}

#[test]
fn two_workers_neither_allocate_nor_free() {
    let fdbs = [1, 2, 3].map(|seed| Arc::new(Fdb::new(seed)));
    let program = Arc::new(net().program(1, &fdbs));
    let mut rigs = rigs();
    for (n, rig) in rigs.iter_mut().enumerate() {
        let mut tell = |command| assert!(rig.mail.send(command).is_ok());
        tell(Command::Program(program.clone()));
        for number in 1..=4 {
            let (ix, owner) = (PortIx(number), usize::from(number) % 2);
            if owner == n {
                let port = MemoryPort::looping(packets_of(number).into());
                tell(Command::AddPort(ix, Box::new(AnyPort::Memory(port))));
            } else {
                tell(Command::SendVia(ix, Some(owner as u8)));
            }
        }
        rig.worker.round();
    }
    let mut run = |rounds: usize| {
        let before = calls();
        for _ in 0..rounds {
            rigs.iter_mut().for_each(|rig| rig.worker.round());
        }
        calls() - before
    };
    run(20);
    let calls = run(400);
    settle(&mut rigs);
    let stat = |s| rigs.iter().map(|r| r.counters.stat(s)).collect::<Vec<_>>();
    assert_eq!(calls, 0, "allocations and frees in {:?} packets", stat(Stat::RxPackets));
    for s in [Stat::RxPackets, Stat::HandedOver, Stat::TakenOver, Stat::SentOver, Stat::CtCreated] {
        assert!(stat(s).iter().all(|n| *n > 100), "{}: {:?}", s.name(), stat(s));
    }
    assert!(stat(Stat::FramesGiven).iter().sum::<u64>() > 0, "pools stay even by themselves");
    // To one that takes nothing, what its ring does not hold is dropped by name.
    let lost = |rigs: &[Rig]| rigs[0].counters.dropped(Drop::HandOverFull);
    assert_eq!(lost(&rigs), 0);
    (0..100).for_each(|_| rigs[0].worker.round());
    assert!(lost(&rigs) > 1000, "{}", lost(&rigs));
    // Ports gone, nothing comes any more, and all frames are there.
    for rig in &mut rigs {
        for number in 1..=4 {
            assert!(rig.mail.send(Command::RemovePort(PortIx(number))).is_ok());
        }
        rig.worker.round();
    }
    rigs.iter_mut().for_each(|rig| (0..40).for_each(|_| rig.worker.round()));
    assert_eq!(frames(&mut rigs), FRAMES as usize);
}
