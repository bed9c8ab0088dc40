//! Several workers without threads: lanes joined by rings, and a network card that gives packets to
//! whichever it likes.

use crate::kit::*;
use sluice_dataplane::clock::Now;
use sluice_dataplane::conntrack::{ConnFilter, ConnInfo, CtConfig, Tuple};
use sluice_dataplane::counters::{Counters, Stat};
use sluice_dataplane::fdb::Fdb;
use sluice_dataplane::packet::frame::Frame;
use sluice_dataplane::packet::key::PortIx;
use sluice_dataplane::pipeline::{
    Egress, First, Lane, LaneConfig, Notice, PacketOut, PacketOutError, Program, Seat,
};
use sluice_dataplane::port::RxBurst;
use sluice_dataplane::xsk::pool::FramePool;
use std::collections::{HashMap, HashSet, VecDeque};
use std::sync::Arc;

const FRAMES: u32 = 512;
/// Of all lanes.
pub const SEED: u64 = 7;
/// Notices that a ring holds.
pub const RING: usize = 256;

/// What leaves a lane in one run.
#[derive(Default)]
struct Out {
    sent: Vec<(u16, Vec<u8>)>,
    /// To whom, by which port it came in, and the frame: whether it is home, and its bytes.
    handed: Vec<(u8, u16, (bool, Vec<u8>))>,
    notices: Vec<(u8, Notice)>,
    /// Notices that each other lane's ring holds already.
    waiting: Vec<usize>,
    room: usize,
    /// One packet was received.
    solo: bool,
}

impl Egress for Out {
    fn output(&mut self, port: PortIx, frame: Frame, pool: &mut FramePool) {
        self.sent.push((port.0, frame.bytes().to_vec()));
        pool.free(frame);
    }

    fn hand_over(&mut self, worker: u8, in_port: PortIx, frame: Frame, pool: &mut FramePool) {
        self.handed.push((worker, in_port.0, (frame.is_home(), frame.bytes().to_vec())));
        pool.free(frame);
    }

    fn notify(&mut self, worker: u8, notice: Notice) -> bool {
        let has_room = self.notice_room(worker) > 0;
        if has_room {
            let is_redirect = matches!(notice, Notice::Redirect { .. });
            assert!(!(self.solo && is_redirect && !self.sent.is_empty()), "told too late");
            self.notices.push((worker, notice));
        }
        has_room
    }

    fn notice_room(&mut self, worker: u8) -> usize {
        let told = self.notices.iter().filter(|(w, _)| *w == worker).count();
        let waiting = self.waiting.get(usize::from(worker)).copied().unwrap_or(0);
        self.room.saturating_sub(told + waiting)
    }
}

/// One worker.
pub struct Worker {
    pub lane: Lane,
    pub counters: Arc<Counters>,
    pool: FramePool,
    burst: RxBurst,
    handed: VecDeque<(u16, (bool, Vec<u8>))>,
    notices: VecDeque<Notice>,
}

impl Worker {
    fn new(seat: Seat, tiers: (usize, usize)) -> Self {
        let fragments = few_fragments();
        let counters = Arc::new(Counters::default());
        let conntrack = CtConfig { conns_max: 512, seed: 5, fragments, ..CtConfig::default() };
        let config = LaneConfig {
            microflows: tiers.0,
            megaflows: tiers.1,
            conntrack,
            self_check: 3,
            first: First::Measured,
            seed: SEED,
            seat,
        };
        Self {
            lane: Lane::new(&config, counters.clone()),
            counters,
            pool: FramePool::private(FRAMES).unwrap(),
            burst: RxBurst::new(),
            handed: VecDeque::new(),
            notices: VecDeque::new(),
        }
    }

    fn fill(&mut self, is_home: bool, bytes: &[u8]) {
        let mut frame = self.pool.alloc().expect("a frame to receive into");
        assert!(frame.copy_from(bytes));
        assert!(!frame.is_home(), "that was another packet");
        if is_home {
            frame.set_home();
        }
        assert!(self.burst.push(frame).is_ok());
    }

    fn hear(&mut self) {
        self.notices.drain(..).for_each(|notice| self.lane.hear(notice));
    }
}

/// A switch of several workers.
pub struct Lanes {
    pub workers: Vec<Worker>,
    pub now: Now,
    /// Notices that each ring holds.
    pub room: usize,
    /// Packets that went from one worker to another.
    pub handed: u64,
    program: Arc<Program>,
    pub sent: Vec<(u16, Vec<u8>)>,
}

impl Lanes {
    pub fn new(net: &Net, workers: u8) -> Self {
        let fdbs = [1, 2, 3].map(|seed| Arc::new(Fdb::new(seed)));
        let seat = |worker| Seat { worker, workers };
        // Each has other caches: nobody can tell.
        let tiers = [(64, 64), (4, 8), (0, 0), (0, 64)];
        let now = Now::from_secs(1000);
        let mut s = Self {
            workers: (0..workers)
                .map(|w| Worker::new(seat(w), tiers[usize::from(w) % tiers.len()]))
                .collect(),
            now,
            room: RING,
            handed: 0,
            program: Arc::new(net.program(1, &fdbs)),
            sent: Vec::new(),
        };
        for w in &mut s.workers {
            w.lane.set_program(s.program.clone(), now);
        }
        s
    }

    /// Runs one worker's part, and delivers what it gave to others.
    fn with(&mut self, at: usize, run: impl FnOnce(&mut Worker, Now, &mut Out)) {
        let waiting = self.workers.iter().map(|w| w.notices.len()).collect();
        let mut out = Out { room: self.room, waiting, ..Out::default() };
        let now = self.now;
        let w = &mut self.workers[at];
        run(w, now, &mut out);
        assert_eq!(w.pool.available(), w.pool.total(), "frames are conserved");
        self.sent.append(&mut out.sent);
        for (to, notice) in out.notices {
            assert_ne!(usize::from(to), at, "nobody tells himself");
            self.workers[usize::from(to)].notices.push_back(notice);
        }
        for (to, port, frame) in out.handed {
            assert_ne!(usize::from(to), at, "nobody hands over to himself");
            self.handed += 1;
            self.workers[usize::from(to)].handed.push_back((port, frame));
        }
    }

    /// A burst comes to a worker; nothing that it hands over is judged yet.
    pub fn receive(&mut self, at: usize, port: u16, packets: &[Vec<u8>]) {
        self.with(at, |w, now, out| {
            packets.iter().for_each(|p| w.fill(false, p));
            w.hear();
            out.solo = packets.len() == 1;
            w.lane.run(&mut w.burst, PortIx(port), now, &mut w.pool, out);
        });
    }

    /// A worker judges what was handed over to it. False: there was nothing.
    pub fn take_over(&mut self, at: usize) -> bool {
        let Some((port, _)) = self.workers[at].handed.front().cloned() else { return false };
        self.with(at, |w, now, out| {
            let same = w.handed.iter().take_while(|(p, _)| *p == port).count().min(40);
            let frames: Vec<(bool, Vec<u8>)> = w.handed.drain(..same).map(|(_, f)| f).collect();
            w.hear();
            frames.iter().for_each(|(is_home, bytes)| w.fill(*is_home, bytes));
            w.lane.run_at_home(&mut w.burst, PortIx(port), now, &mut w.pool, out);
        });
        true
    }

    /// All that was handed over is judged.
    pub fn quiet(&mut self) {
        for _ in 0..100 {
            let busy = (0..self.workers.len()).filter(|at| self.take_over(*at)).count();
            if busy == 0 {
                return self.workers.iter_mut().for_each(Worker::hear);
            }
        }
        panic!("packets go round in circles");
    }

    /// One packet comes to a worker; what leaves.
    pub fn send(&mut self, at: usize, port: u16, packet: &[u8]) -> Vec<(u16, Vec<u8>)> {
        self.sent.clear();
        self.receive(at, port, &[packet.to_vec()]);
        self.quiet();
        self.sent.clone()
    }

    /// A controller sends a packet by way of some worker.
    pub fn packet_out(&mut self, at: usize, out: &PacketOut) -> Vec<(u16, Vec<u8>)> {
        self.try_packet_out(at, out).expect("it can be sent")
    }

    pub fn try_packet_out(
        &mut self,
        at: usize,
        out: &PacketOut,
    ) -> Result<Vec<(u16, Vec<u8>)>, PacketOutError> {
        self.sent.clear();
        let mut done = Ok(());
        self.with(at, |w, now, to| {
            w.hear();
            done = w.lane.packet_out(out, now, &mut w.pool, to);
        });
        self.quiet();
        done.map(|()| self.sent.clone())
    }

    /// A round without packets of each.
    pub fn idle(&mut self) {
        for at in 0..self.workers.len() {
            self.with(at, |w, now, out| {
                w.hear();
                w.lane.housekeep(now, 256);
                w.lane.tell(out);
            });
        }
        self.workers.iter_mut().for_each(Worker::hear);
    }

    pub fn flush(&mut self) {
        for at in 0..self.workers.len() {
            self.with(at, |w, now, out| {
                let mut from = Some(0);
                while let Some(at) = from {
                    from = w.lane.conntrack().flush_some(now, &ConnFilter::default(), at).1;
                }
                w.lane.tell(out);
            });
        }
    }

    pub fn stat(&mut self, stat: Stat) -> u64 {
        let now = self.now;
        self.workers.iter_mut().for_each(|w| w.lane.settle(now));
        self.workers.iter().map(|w| w.counters.stat(stat)).sum()
    }

    /// Connections of a worker.
    pub fn conns_of(&self, at: usize) -> Vec<ConnInfo> {
        let mut list = Vec::new();
        self.workers[at].lane.conntrack_ref().dump(self.now, |c| list.push(c.clone()));
        list
    }

    /// Connections of all.
    pub fn conns(&self) -> Vec<ConnInfo> {
        (0..self.workers.len()).flat_map(|at| self.conns_of(at)).collect()
    }

    pub fn home(&self, t: &Tuple) -> usize {
        self.workers[0].lane.conntrack_ref().homes().of(t).into()
    }

    /// Connections of two workers have the same tuple, be it in two zones.
    pub fn is_contested(&self) -> bool {
        let mut owners = HashMap::new();
        (0..self.workers.len()).any(|at| {
            let tuples = self.conns_of(at).into_iter().flat_map(|c| [c.orig, c.reply]);
            tuples.into_iter().any(|t| *owners.entry(t).or_insert(at) != at)
        })
    }

    /// What holds whenever nothing is on its way: a connection's tuples are its own alone, and lead
    /// to it from their homes.
    pub fn check(&mut self) {
        self.idle();
        let mut all = HashSet::new();
        for at in 0..self.workers.len() {
            for c in self.conns_of(at) {
                for t in [c.orig, c.reply] {
                    let is_first = all.insert((c.zone, t)) || c.orig == c.reply;
                    assert!(is_first, "two connections answer to {t:?} in zone {}", c.zone);
                    let home = self.home(&t);
                    let homes = self.workers[home].lane.conntrack_ref().homes();
                    let to = homes.redirect_of(homes.ask_redirect(&t), &t);
                    assert_eq!(to.map_or(home, usize::from), at, "where {t:?} leads");
                }
            }
        }
        for w in &self.workers {
            assert_eq!(w.counters.stat(Stat::SelfCheckFailures), 0, "self-checks that failed");
        }
    }

    /// Nothing is left behind when all connections are gone.
    pub fn end(&mut self) {
        self.flush();
        // What was dead before goes by itself.
        self.now = self.now.plus_ms(2 * 86_400_000);
        (0..16).for_each(|_| self.idle());
        for w in &self.workers {
            let ct = w.lane.conntrack_ref();
            assert_eq!((ct.len(), ct.nat_ports_used(), ct.expected()), (0, 0, 0));
            let homes = ct.homes();
            assert_eq!((homes.redirects_len(), homes.given(), homes.owes()), (0, 0, false));
        }
    }
}
