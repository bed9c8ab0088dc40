//! A bundle is seen whole or not at all, by each of two workers, while packets flow.
//!
//! Every published change moves *all* flows of two tables from one port to the other. A worker
//! takes a program between batches, as `worker::Worker` does, out of a bounded queue; so within one
//! batch every packet must leave by the same port, whatever table it went through.

use crate::kit::*;
use crate::packets::to_host;
use sluice_dataplane::clock::Now;
use sluice_dataplane::conntrack::CtConfig;
use sluice_dataplane::counters::{Counters, Stat};
use sluice_dataplane::fdb::Fdb;
use sluice_dataplane::packet::field::Field;
use sluice_dataplane::packet::key::PortIx;
use sluice_dataplane::pipeline::{First, Lane, LaneConfig, Program, RuleChange, Seat};
use sluice_dataplane::port::RxBurst;
use sluice_dataplane::xsk::pool::FramePool;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, sync_channel};

const BUNDLES: u64 = 400;
const HOSTS: std::ops::Range<u8> = 1..9;

/// Even hosts end in table 0, odd ones in table 1.
fn flows(port: u32) -> Vec<Flow> {
    let host = |n: u8| 0x0a00_0000 + u128::from(n);
    let to = |t: u8, n: u8| flow(t, 10).is(Field::EthType, 0x0800).is(Field::IpDst, host(n));
    HOSTS
        .flat_map(|n| match n % 2 {
            0 => vec![to(0, n).does([out(port)])],
            _ => vec![to(0, n).does([resubmit(1)]), to(1, n).does([out(port)])],
        })
        .collect()
}

/// What a worker does: a program if there is one, then a batch. Says how often the port changed.
fn work(programs: &Receiver<Arc<Program>>, microflows: usize) -> (u64, u64) {
    let counters = Arc::new(Counters::default());
    let conntrack = CtConfig { conns_max: 16, seed: 5, ..CtConfig::default() };
    let config = LaneConfig {
        microflows,
        megaflows: 16,
        conntrack,
        self_check: 7,
        first: First::Measured,
        seed: 7,
        seat: Seat::default(),
    };
    let mut lane = Lane::new(&config, counters.clone());
    let mut pool = FramePool::private(64).unwrap();
    let (mut burst, mut sink) = (RxBurst::new(), Sink::default());
    let packets: Vec<Vec<u8>> = HOSTS.map(to_host).collect();
    let (mut last, mut changes, mut now) = (0, 0, Now::from_secs(1));
    lane.set_program(programs.recv().unwrap(), now);
    loop {
        match programs.try_recv() {
            Ok(next) => drop(lane.set_program(next, now)),
            Err(std::sync::mpsc::TryRecvError::Empty) => {}
            Err(std::sync::mpsc::TryRecvError::Disconnected) => break,
        }
        for p in &packets {
            let mut frame = pool.alloc().unwrap();
            assert!(frame.copy_from(p));
            assert!(burst.push(frame).is_ok());
        }
        lane.run(&mut burst, PortIx(1), now, &mut pool, &mut sink);
        lane.housekeep(now, 4);
        now = now.plus_ms(1);
        let ports: Vec<u16> = sink.0.drain(..).map(|(port, _)| port).collect();
        assert_eq!(ports.len(), packets.len());
        assert!(ports.iter().all(|p| *p == ports[0]), "half a bundle: {ports:?}");
        changes += u64::from(ports[0] != last);
        last = ports[0];
    }
    assert_eq!(counters.stat(Stat::SelfCheckFailures), 0);
    (changes, counters.stat(Stat::Tier1Hits))
}

#[test]
fn two_workers_see_bundles_whole() {
    let fdbs = [1, 2, 3].map(|seed| Arc::new(Fdb::new(seed)));
    let mut master = Net::of(flows(2)).program(0, &fdbs);
    let numbers: Vec<u32> = master.rules.iter().map(|(n, _)| n).collect();
    std::thread::scope(|scope| {
        let workers: Vec<_> = [64, 4]
            .into_iter()
            .map(|microflows| {
                let (send, receive) = sync_channel(4);
                (send, scope.spawn(move || work(&receive, microflows)))
            })
            .collect();
        for n in 0..=BUNDLES {
            if n > 0 {
                let moved = flows(2 + (n % 2) as u32);
                let put = |(n, f): (&u32, &Flow)| RuleChange::Put { number: *n, rule: rule(0, f) };
                let changes: Vec<RuleChange> = numbers.iter().zip(&moved).map(put).collect();
                master.change(&changes);
            }
            let next = master.publish();
            workers.iter().for_each(|(send, _)| send.send(next.clone()).unwrap());
        }
        for (send, worker) in workers {
            drop(send);
            let (changes, hits) = worker.join().unwrap();
            assert!(changes > 1 && hits > 0, "{changes} changes and {hits} hits prove little");
        }
    });
}
