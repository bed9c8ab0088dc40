//! Several workers on one thread, with a clock that the soak sets: the real lanes, frames that
//! wander between them, and the notices that they tell each other.

use super::Trouble;
use super::world;
use crate::chance::Chance;
use sluice_control::config::Config;
use sluice_control::model::Model;
use sluice_control::replay::{Caches, lane_config};
use sluice_dataplane::clock::Now;
use sluice_dataplane::conntrack::{
    Audit, ConnFilter, Conntrack, CtSettings, CtStats, Notice, Seat, ZoneCounts,
};
use sluice_dataplane::counters::{Counters, Stat};
use sluice_dataplane::packet::frame::Frame;
use sluice_dataplane::packet::key::PortIx;
use sluice_dataplane::pipeline::{Egress, Lane};
use sluice_dataplane::port::RxBurst;
use sluice_dataplane::xsk::pool::FramePool;
use sluice_dataplane::xsk::umem::{Umem, UmemConfig};
use std::collections::VecDeque;
use std::sync::Arc;

/// What is at the far ends of the ports.
pub trait Ends {
    /// The next packet that comes, and the place of the port it comes to.
    fn next(&mut self, now: Now) -> Option<(u16, Vec<u8>)>;
    /// A packet leaves by a port.
    fn take(&mut self, now: Now, port: u16, frame: &[u8]);
    /// Nobody begins anything any more, or goes on, from now on, or may again.
    fn stop(&mut self, is_over: bool);
}

/// Of all workers.
const FRAMES: u32 = 4096;
/// Packets that a worker receives at once.
const BURST: usize = 32;
/// Notices that wait for a worker.
const NOTICES: usize = 256;
/// Frames that wait for a worker; more are dropped.
const HANDED: usize = 512;
/// Bursts of them that one judges at once.
const TAKE_OVERS: usize = 4;
/// Between two rounds of upkeep, as in a worker.
const HOUSEKEEP_MS: u64 = 1;
const HOUSEKEEP_BUDGET: usize = 256;
/// Entries of tier 1 and tier 2: few enough to be given up all the time.
const CACHES: Caches = Caches { microflows: Some(4096), megaflows: Some(1024), self_check: None };

struct Worker {
    lane: Lane,
    counters: Arc<Counters>,
    pool: FramePool,
    burst: RxBurst,
    handed: VecDeque<(PortIx, Frame)>,
    notices: VecDeque<Notice>,
}

/// What leaves a worker in one run.
struct Out<'a, E> {
    ends: &'a mut E,
    now: Now,
    handed: Vec<(u8, PortIx, Frame)>,
    told: Vec<(u8, Notice)>,
    /// Notices and frames that each worker has waiting.
    waiting: Vec<(usize, usize)>,
    sent: u64,
    lost: u64,
}

impl<E: Ends> Egress for Out<'_, E> {
    fn output(&mut self, port: PortIx, frame: Frame, pool: &mut FramePool) {
        self.sent += 1;
        self.ends.take(self.now, port.0, frame.bytes());
        pool.free(frame);
    }

    fn hand_over(&mut self, worker: u8, in_port: PortIx, frame: Frame, pool: &mut FramePool) {
        let given = self.handed.iter().filter(|h| h.0 == worker).count();
        if given + self.waiting[usize::from(worker)].1 >= HANDED {
            self.lost += 1;
            pool.free(frame);
            return;
        }
        self.handed.push((worker, in_port, frame));
    }

    fn notify(&mut self, worker: u8, notice: Notice) -> bool {
        let has_room = self.notice_room(worker) > 0;
        if has_room {
            self.told.push((worker, notice));
        }
        has_room
    }

    fn notice_room(&mut self, worker: u8) -> usize {
        let told = self.told.iter().filter(|(w, _)| *w == worker).count();
        NOTICES.saturating_sub(told + self.waiting[usize::from(worker)].0)
    }
}

/// What was sent in and out.
#[derive(Clone, Copy, Debug, Default)]
pub struct Moved {
    pub received: u64,
    pub sent: u64,
    pub handed: u64,
    /// Found no room at another worker.
    pub lost: u64,
}

/// The switch under test.
pub struct Rig<E> {
    workers: Vec<Worker>,
    model: Model,
    pub ends: E,
    chance: Chance,
    pub now: Now,
    next_housekeep: Now,
    pub moved: Moved,
    variant: u64,
}

impl<E: Ends> Rig<E> {
    pub fn new(config: &Config, workers: u8, seed: u64, ends: E) -> Result<Self, Trouble> {
        let setup = |e: &dyn std::fmt::Display| Trouble::Setup(e.to_string());
        let mut model = world::model(config, seed)?;
        let umem = Umem::new(UmemConfig {
            frames: FRAMES,
            frame_size_bytes: config.umem.frame_size_bytes,
            ..UmemConfig::default()
        });
        let umem = umem.map_err(|e| setup(&e))?;
        let zone_counts = (workers > 1).then(|| Arc::new(ZoneCounts::default()));
        let (program, now) = (model.program(), Now::from_secs(1000));
        let mut list = Vec::new();
        for worker in 0..workers {
            let mut settings = lane_config(config, CACHES, seed);
            settings.seat = Seat { worker, workers };
            settings.conntrack.conns_max /= usize::from(workers);
            settings.conntrack.zone_counts.clone_from(&zone_counts);
            let counters = Arc::new(Counters::default());
            let mut lane = Lane::new(&settings, counters.clone());
            lane.set_program(program.clone(), now);
            let pool = FramePool::new(&umem, FRAMES / u32::from(workers)).map_err(|e| setup(&e))?;
            let (burst, handed) = (RxBurst::new(), VecDeque::with_capacity(HANDED));
            let notices = VecDeque::with_capacity(NOTICES);
            list.push(Worker { lane, counters, pool, burst, handed, notices });
        }
        Ok(Self {
            workers: list,
            model,
            ends,
            chance: Chance::new(seed),
            now,
            next_housekeep: now,
            moved: Moved::default(),
            variant: 0,
        })
    }

    /// Runs one worker's part, and delivers what it gave to others.
    fn with(&mut self, at: usize, run: impl FnOnce(&mut Worker, Now, &mut Out<'_, E>)) {
        let waiting = self.workers.iter().map(|w| (w.notices.len(), w.handed.len())).collect();
        let (handed, told, now) = (Vec::new(), Vec::new(), self.now);
        let ends = &mut self.ends;
        let mut out = Out { ends, now, handed, told, waiting, sent: 0, lost: 0 };
        run(&mut self.workers[at], now, &mut out);
        let Out { handed, told, sent, lost, .. } = out;
        self.moved.sent += sent;
        self.moved.lost += lost;
        self.moved.handed += handed.len() as u64;
        for (to, notice) in told {
            self.workers[usize::from(to)].notices.push_back(notice);
        }
        for (to, port, frame) in handed {
            self.workers[usize::from(to)].handed.push_back((port, frame));
        }
    }

    /// A worker that has few frames left gets some of another's.
    fn balance(&mut self, at: usize) {
        let rich = (0..self.workers.len()).max_by_key(|w| self.workers[*w].pool.available());
        let Some(rich) = rich.filter(|w| *w != at) else { return };
        while self.workers[at].pool.available() < 4 * BURST {
            let Some(frame) = self.workers[rich].pool.alloc() else { return };
            self.workers[at].pool.free(frame);
        }
    }

    /// Some packets come to each worker, each by whatever port; what they hand over is judged. Says
    /// how many came.
    pub fn round(&mut self) -> usize {
        let before = self.moved.received;
        let mut came: Vec<[Vec<Vec<u8>>; 2]> = Vec::new();
        came.resize_with(self.workers.len(), Default::default);
        for _ in 0..BURST * came.len() {
            let Some((port, bytes)) = self.ends.next(self.now) else { break };
            // The network card gives a packet to whichever worker it likes.
            let at = self.chance.below(came.len() as u64) as usize;
            if came[at][usize::from(port)].len() < BURST {
                came[at][usize::from(port)].push(bytes);
            }
        }
        for (at, ports) in came.into_iter().enumerate() {
            self.balance(at);
            for (port, packets) in ports.into_iter().enumerate().filter(|(_, p)| !p.is_empty()) {
                self.moved.received += packets.len() as u64;
                self.with(at, |w, now, out| {
                    w.fill(&packets);
                    w.hear();
                    let port = PortIx(port as u16);
                    w.lane.run(&mut w.burst, port, now, &mut w.pool, out);
                });
            }
        }
        for at in 0..self.workers.len() {
            for _ in 0..TAKE_OVERS {
                self.take_over(at);
            }
        }
        self.upkeep();
        (self.moved.received - before) as usize
    }

    fn take_over(&mut self, at: usize) -> bool {
        let Some(port) = self.workers[at].handed.front().map(|h| h.0) else { return false };
        self.with(at, |w, now, out| {
            // First the frames, then what was told before they were handed over.
            while w.burst.room() > 0
                && let Some((p, frame)) = w.handed.pop_front()
            {
                if p != port {
                    w.handed.push_front((p, frame));
                    break;
                }
                if let Err(frame) = w.burst.push(frame) {
                    w.pool.free(frame);
                }
            }
            w.hear();
            w.lane.run_at_home(&mut w.burst, port, now, &mut w.pool, out);
        });
        true
    }

    fn upkeep(&mut self) {
        let is_due = self.now >= self.next_housekeep;
        if is_due {
            self.next_housekeep = self.now.plus_ms(HOUSEKEEP_MS);
        }
        for at in 0..self.workers.len() {
            self.with(at, |w, now, out| {
                if is_due {
                    w.lane.housekeep(now, HOUSEKEEP_BUDGET);
                    drop(w.lane.drain_events());
                }
                w.lane.tell(out);
            });
        }
    }

    /// Nothing is on its way between workers.
    fn quiet(&mut self) -> Result<(), Trouble> {
        for _ in 0..10_000 {
            let at = 0..self.workers.len();
            let busy = at.clone().filter(|at| self.take_over(*at)).count();
            self.workers.iter_mut().for_each(Worker::hear);
            if busy == 0 {
                return Ok(());
            }
        }
        Err(Trouble::Broken(vec!["packets go round between workers".into()]))
    }

    /// Another program, and what control does then.
    pub fn change_program(&mut self) -> Result<(), Trouble> {
        self.variant = (self.variant + 1 + self.chance.below(2)) % world::VARIANTS;
        world::change(&mut self.model, self.variant)?;
        let (program, now) = (self.model.program(), self.now);
        for w in &mut self.workers {
            w.lane.set_program(program.clone(), now);
        }
        let swept = self.workers.iter().map(|w| w.lane.swept()).min();
        self.model.swept(swept.unwrap_or(0));
        Ok(())
    }

    /// Forgets what the filter means, in all workers.
    pub fn flush(&mut self, filter: &ConnFilter) {
        for at in 0..self.workers.len() {
            self.with(at, |w, now, out| {
                let mut from = Some(0);
                while let Some(at) = from {
                    from = w.lane.conntrack().flush_some(now, filter, at).1;
                    w.lane.tell(out);
                }
            });
            self.workers.iter_mut().for_each(Worker::hear);
        }
    }

    /// So many connections at most, of those there is room for.
    pub fn set_max(&mut self, percent: u64) {
        for w in &mut self.workers {
            let ct = w.lane.conntrack();
            let conns_max = Some((ct.capacity() as u64 * percent / 100) as u32);
            ct.set(&CtSettings { conns_max, ..CtSettings::default() });
        }
    }

    /// All conversations end: what is on its way arrives, and then nothing comes. With `by_time`
    /// connections time out, else they are flushed; the rest (fragments, what others were told)
    /// goes with time either way.
    pub fn drain(&mut self, by_time: bool) -> Result<(), Trouble> {
        self.ends.stop(true);
        while self.round() > 0 {}
        self.quiet()?;
        if !by_time {
            self.flush(&ConnFilter::default());
        }
        for _ in 0..4 {
            self.now = self.now.plus_ms(300_000);
            for _ in 0..100_000 {
                self.next_housekeep = self.now;
                self.upkeep();
                self.workers.iter_mut().for_each(Worker::hear);
                let now = self.now;
                let busy = |w: &Worker| {
                    let ct = w.lane.conntrack_ref();
                    ct.wheel_behind(now) || ct.homes().owes()
                };
                if !self.workers.iter().any(busy) {
                    break;
                }
            }
        }
        self.ends.stop(false);
        Ok(())
    }

    /// Counts everything anew. What does not add up is an error.
    pub fn audit(&mut self) -> Result<Audit, Trouble> {
        self.quiet()?;
        let all: Vec<&Conntrack> = self.workers.iter().map(|w| w.lane.conntrack_ref()).collect();
        let audit = Audit::of(&all, self.now);
        let mut wrong = audit.findings.told().to_vec();
        let free: usize = self.workers.iter().map(|w| w.pool.available()).sum();
        if free != FRAMES as usize {
            wrong.push(format!("{free} frames are free of {FRAMES}, and none is in use"));
        }
        let foreign: u64 = self.workers.iter().map(|w| w.pool.foreign()).sum();
        if foreign > 0 {
            wrong.push(format!("{foreign} frames came home to the wrong memory"));
        }
        let failed = self.stat(Stat::SelfCheckFailures);
        if failed > 0 {
            wrong.push(format!("{failed} cached walks were not what the tables say"));
        }
        let places: usize = all.iter().map(|ct| ct.capacity()).sum();
        if audit.places != places || audit.live + audit.freed > places {
            wrong.push(format!("{places} places, {} in use, {} freed", audit.live, audit.freed));
        }
        if wrong.is_empty() { Ok(audit) } else { Err(Trouble::Broken(wrong)) }
    }

    /// Nothing is left of anything.
    pub fn audit_bare(&mut self) -> Result<Audit, Trouble> {
        let audit = self.audit()?;
        let held = self.fragments_held();
        if audit.is_bare() && held == 0 {
            return Ok(audit);
        }
        let what = format!("{held} fragments wait, and of connections there is left: {audit:?}");
        Err(Trouble::Broken(vec![what]))
    }

    pub fn fragments_held(&self) -> usize {
        self.workers.iter().map(|w| w.lane.fragments_held()).sum()
    }

    pub fn stats(&self) -> CtStats {
        let all = self.workers.iter().map(|w| w.lane.conntrack_ref().stats());
        all.fold(CtStats::default(), |sum, s| sum.plus(&s))
    }

    /// Brings all counters up to date.
    pub fn settle(&mut self) {
        let now = self.now;
        self.workers.iter_mut().for_each(|w| w.lane.settle(now));
    }

    pub fn stat(&self, stat: Stat) -> u64 {
        self.workers.iter().map(|w| w.counters.stat(stat)).sum()
    }

    /// Drops by name.
    pub fn drops(&self) -> std::collections::BTreeMap<&'static str, u64> {
        let mut all = std::collections::BTreeMap::new();
        for (name, n) in self.workers.iter().flat_map(|w| w.counters.drops_by_name()) {
            *all.entry(name).or_default() += n;
        }
        all
    }
}

impl Worker {
    fn fill(&mut self, packets: &[Vec<u8>]) {
        for bytes in packets {
            let Some(mut frame) = self.pool.alloc() else { return };
            if !frame.copy_from(bytes) {
                self.pool.free(frame);
            } else if let Err(frame) = self.burst.push(frame) {
                self.pool.free(frame);
            }
        }
    }

    fn hear(&mut self) {
        self.notices.drain(..).for_each(|notice| self.lane.hear(notice));
    }
}
