//! The worker: a thread that owns ports, frames and a lane, and does nothing but move packets.
//!
//! One round of the loop: take what control sent, then for each port receive a burst, judge it
//! (`pipeline::run`), queue what leaves, do the same with what other workers have handed over
//! (`handoff`), and at the end ring each touched port's doorbell once. Control never touches a
//! worker's state; both talk through two bounded rings (`mailbox`).
//!
//! **Versions.** A new program arrives by the mailbox and is taken between two batches, so a
//! batch sees one version. The old one goes back to control, which frees it: a worker neither
//! allocates nor frees after its start.
//!
//! **Sleep.** A worker that found nothing for `IDLE_ROUNDS` rounds waits in `poll` on all its
//! devices and its mailbox, for at most `SLEEP_MAX_MS`, so that timers keep running.

mod handoff;
pub mod mailbox;
mod ports;

pub use handoff::Peers;
pub use mailbox::{Command, FramesReport, Mailbox, PortReport, Reply, WorkerEnd, mailbox};

use crate::clock::Now;
use crate::counters::Stat;
use crate::limits::{PARCELS_A_ROUND, hand_over_entries};
use crate::packet::key::PortIx;
use crate::pipeline::Lane;
use crate::port::RxBurst;
use crate::sys::wait::{Poller, Waker, pin_to_cpu};
use crate::xsk::pool::FramePool;
use handoff::Parcel;
use ports::Ports;
use std::time::{Duration, Instant};

/// Empty rounds before a worker sleeps: some 20 to 50 microseconds.
const IDLE_ROUNDS: u32 = 64;
/// Longest sleep; also the pace of housekeeping when idle.
const SLEEP_MAX_MS: i32 = 50;
/// Time between two rounds of housekeeping.
pub const HOUSEKEEP_NS: u64 = 5_000_000;
/// Entries looked at by one round of housekeeping, of each kind.
pub const HOUSEKEEP_BUDGET: usize = 256;
/// Time between two rounds of carrying counts from cache entries to rules.
const SETTLE_NS: u64 = 250_000_000;
/// Entries whose counts are carried between two batches: some microseconds.
const SETTLE_SLICE: usize = 64;
/// Zones that are looked at between two batches.
const CT_ZONES_A_ROUND: u16 = 4096;
/// Time between two looks at the health of devices.
const CHECK_NS: u64 = 100_000_000;
/// How long a worker that ends waits for the others to end.
const LEAVE_MAX: Duration = Duration::from_secs(2);

/// Carrying counts to rules, a slice after each batch.
#[derive(Default)]
struct Settling {
    under_way: bool,
    /// Who waits for the end of this round, and of the one after it.
    waiting: u32,
    next: u32,
}

impl Settling {
    /// Somebody wants all to be carried that is owed now.
    fn ask(&mut self) {
        *(if self.under_way { &mut self.next } else { &mut self.waiting }) += 1;
    }

    /// The round is over. Says who waited for it.
    fn end(&mut self) -> u32 {
        self.under_way = false;
        std::mem::replace(&mut self.waiting, std::mem::take(&mut self.next))
    }
}

/// A worker before it runs.
pub struct Worker {
    lane: Lane,
    pool: FramePool,
    ports: Ports,
    mail: WorkerEnd,
    waker: Waker,
    poller: Poller,
    burst: RxBurst,
    start: Instant,
    idle: u32,
    next_housekeep_ns: u64,
    next_settle_ns: u64,
    settling: Settling,
    next_check_ns: u64,
    stop: bool,
}

impl Worker {
    /// `start` is the zero of the worker's time; all workers and control share it.
    pub fn new(
        lane: Lane,
        pool: FramePool,
        (mail, waker): (WorkerEnd, Waker),
        peers: Peers,
        start: Instant,
    ) -> Self {
        let counters = lane.counters().clone();
        Self {
            lane,
            pool,
            ports: Ports::new(counters, peers),
            mail,
            waker,
            poller: Poller::default(),
            burst: RxBurst::new(),
            start,
            idle: 0,
            next_housekeep_ns: 0,
            next_settle_ns: 0,
            settling: Settling::default(),
            next_check_ns: 0,
            stop: false,
        }
    }

    fn now(&self) -> Now {
        Now::from_ns(self.start.elapsed().as_nanos() as u64)
    }

    /// Runs until told to stop; then closes all ports and brings every frame home.
    pub fn run(mut self, cpu: Option<usize>) {
        if let Some(cpu) = cpu {
            // A processor that vanished since control looked is no reason not to run.
            let _ = pin_to_cpu(cpu);
        }
        self.watch();
        while !self.stop {
            self.round();
        }
        let now = self.now();
        self.lane.settle(now);
        self.ports.close_all(&mut self.pool);
        self.ports.peers.leave(&mut self.pool, LEAVE_MAX);
    }

    /// One round of the loop.
    pub fn round(&mut self) {
        let commands = self.take_commands();
        let now = self.now();
        let received = self.serve(now) + self.serve_peers(now);
        self.lane.tell(&mut self.ports);
        self.ports.flush(&mut self.pool);
        let gives = self.balance();
        self.mail.exchange(self.lane.packet_ins());
        if now.ns >= self.next_housekeep_ns {
            self.housekeep(now);
        }
        let settles = self.settle(now);
        if received > 0 {
            let busy_ns = self.now().ns - now.ns;
            self.lane.counters().add(Stat::BusyNs, busy_ns);
        }
        if received > 0 || commands > 0 || settles || gives {
            self.idle = 0;
            return;
        }
        self.idle += 1;
        if self.idle >= IDLE_ROUNDS {
            self.sleep();
        }
    }

    /// Receives from each port once, judges, sends. Says how many packets came.
    fn serve(&mut self, now: Now) -> usize {
        let mut received = 0;
        for i in 0..self.ports.active() {
            let Some(ix) = self.ports.receive(i, &mut self.pool, &mut self.burst) else { continue };
            received += self.burst.len();
            // Not before: a packet that answers one that another worker has sent is to find what
            // that one told first.
            self.hear();
            self.lane.run(&mut self.burst, ix, now, &mut self.pool, &mut self.ports);
        }
        received
    }

    #[inline]
    fn hear(&mut self) {
        let lane = &mut self.lane;
        self.ports.peers.hear(|notice| lane.hear(notice));
    }

    /// Takes what other workers have handed over. Says how many frames came.
    #[inline]
    fn serve_peers(&mut self, now: Now) -> usize {
        let workers = self.ports.peers.workers();
        if workers < 2 {
            return 0;
        }
        self.hear();
        (0..workers).map(|peer| self.serve_peer(peer, now)).sum()
    }

    fn serve_peer(&mut self, peer: usize, now: Now) -> usize {
        let (mut came, mut by) = (0, PortIx::NONE);
        while came < PARCELS_A_ROUND
            && let Some(parcel) = self.ports.peers.take(peer)
        {
            came += 1;
            match parcel {
                Parcel::Judge { in_port, frame } => {
                    frame.prefetch(0);
                    if in_port != by || self.burst.room() == 0 {
                        self.judge_handed(by, now);
                        by = in_port;
                    }
                    if let Err(frame) = self.burst.push(frame) {
                        self.pool.free(frame);
                    }
                }
                Parcel::Send { port, frame } => self.ports.send(port, frame, &mut self.pool),
                Parcel::Spare(frame) => self.pool.free(frame),
            }
        }
        self.judge_handed(by, now);
        came
    }

    /// Judges what other workers have handed over and the burst holds.
    fn judge_handed(&mut self, by: PortIx, now: Now) {
        if !self.burst.is_empty() {
            self.hear();
            self.lane.run_at_home(&mut self.burst, by, now, &mut self.pool, &mut self.ports);
        }
    }

    /// What is under way for a port that comes or goes is not for the next one at its place.
    fn finish_parcels(&mut self, now: Now) {
        // As often as empties full rings; what comes meanwhile is later than the command.
        let entries = hand_over_entries(self.ports.peers.workers());
        (0..entries.div_ceil(PARCELS_A_ROUND)).for_each(|_| _ = self.serve_peers(now));
    }

    fn balance(&mut self) -> bool {
        let given = self.ports.peers.balance(&mut self.pool);
        self.lane.counters().add(Stat::FramesGiven, given as u64);
        given > 0
    }

    fn housekeep(&mut self, now: Now) {
        self.next_housekeep_ns = now.ns + HOUSEKEEP_NS;
        self.lane.housekeep(now, HOUSEKEEP_BUDGET);
        if now.ns >= self.next_check_ns {
            self.next_check_ns = now.ns + CHECK_NS;
            if self.ports.check(&mut self.pool) {
                self.watch();
                self.mail.tell(Reply::PortsChanged);
            }
        }
        for event in self.lane.drain_events() {
            self.mail.tell(Reply::Event(event));
        }
    }

    /// Carries a slice of what entries owe, if it is time or somebody waits. False: there was
    /// nothing to do.
    fn settle(&mut self, now: Now) -> bool {
        if !self.settling.under_way {
            if self.settling.waiting == 0 && now.ns < self.next_settle_ns {
                return false;
            }
            self.settling.under_way = true;
            self.lane.begin_settling();
        }
        if self.lane.settle_some(now, SETTLE_SLICE) {
            self.next_settle_ns = now.ns + SETTLE_NS;
            (0..self.settling.end()).for_each(|_| self.mail.tell(Reply::Settled));
        }
        true
    }

    /// The last look after announcing sleep: rings are armed by `receive` and `flush`, so a packet
    /// that came in between makes `poll` return at once.
    fn sleep(&mut self) {
        self.idle = IDLE_ROUNDS / 2;
        if !self.ports.peers.lie_down() {
            return;
        }
        self.lane.counters().add(Stat::Polls, 1);
        self.poller.wait(SLEEP_MAX_MS);
        self.ports.peers.get_up();
        self.waker.clear();
    }

    fn watch(&mut self) {
        let mut fds = vec![self.waker.fd()];
        self.ports.poll_fds(&mut fds);
        self.poller.set(fds.into_iter());
    }

    fn take_commands(&mut self) -> usize {
        let mut n = 0;
        while let Some(command) = self.mail.next() {
            n += 1;
            self.obey(command);
        }
        n
    }

    fn frames(&self) -> FramesReport {
        FramesReport {
            free: self.pool.available(),
            waiting: self.ports.peers.waiting(),
            total: self.pool.total(),
        }
    }

    fn obey(&mut self, command: Command) {
        let now = self.now();
        match command {
            Command::Program(program) => {
                self.ports.set_program(&program);
                let old = self.lane.set_program(program, now);
                let swept = self.lane.swept();
                self.mail.tell(Reply::Program { old, swept });
            }
            Command::AddPort(ix, port) => {
                self.finish_parcels(now);
                let replaced = self.ports.add(ix, port);
                self.watch();
                self.mail.tell(Reply::Port(ix, replaced));
            }
            Command::RemovePort(ix) => {
                self.finish_parcels(now);
                let gone = self.ports.remove(ix, &mut self.pool);
                self.watch();
                self.mail.tell(Reply::Port(ix, gone));
            }
            Command::SendVia(ix, worker) => {
                self.finish_parcels(now);
                self.ports.send_via(ix, worker);
                self.mail.tell(Reply::SendsVia(ix));
            }
            Command::Settle => self.settling.ask(),
            Command::Ports(mut list) => {
                self.ports.report(&mut list);
                let frames = self.frames();
                self.mail.tell(Reply::Ports { list, frames });
            }
            Command::Connections { mut list, filter, from } => {
                let next = self.lane.conntrack().list(now, &filter, from, &mut list);
                self.mail.tell(Reply::Connections { list, filter, next });
            }
            Command::FlushConnections { filter, from } => {
                let (gone, next) = self.lane.conntrack().flush_some(now, &filter, from);
                self.mail.tell(Reply::Flushed { filter, gone, next });
            }
            Command::FlushBackends { filter, from } => {
                let (gone, next) = self.lane.conntrack().flush_backends(now, &filter, from);
                self.mail.tell(Reply::FlushedBackends { filter, gone, next });
            }
            Command::Conntrack(settings) => {
                let report = self.lane.conntrack().set(&settings);
                self.mail.tell(Reply::Conntrack(report));
            }
            Command::CtZones { mut list, from } => {
                let zones = self.lane.conntrack().zones();
                let next = zones.report(from, CT_ZONES_A_ROUND, &mut list);
                self.mail.tell(Reply::CtZones { list, next });
            }
            Command::CtPools(mut list) => {
                self.lane.conntrack().pools(&mut list);
                self.mail.tell(Reply::CtPools(list));
            }
            Command::PacketOut(out) => {
                let (pool, ports) = (&mut self.pool, &mut self.ports);
                let done = self.lane.packet_out(&out, now, pool, ports);
                self.mail.tell(Reply::PacketOut(out, done));
            }
            Command::Resume(resume) => {
                let (pool, ports) = (&mut self.pool, &mut self.ports);
                let done = self.lane.resume(&resume, now, pool, ports);
                self.mail.tell(Reply::Resumed(resume, done));
            }
            Command::Stop => self.stop = true,
        }
    }
}
