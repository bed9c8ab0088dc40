//! All workers as one: what is asked of the switch is asked of each, and their answers add up.
//!
//! A port that several workers serve is several ports here (`Part`); what a worker does not serve
//! it sends through one that does. Connections are split between the workers by their tuples
//! (`dataplane::conntrack::home`), so each gets its share of `conns_max`, and a place in the list
//! of all is a worker and a place in its list.

#![expect(
    clippy::result_large_err,
    reason = "replies travel by value: the worker that makes them does not allocate"
)]

use super::worker::{Place, WorkerHandle};
use crate::api::ApiResult;
use crate::config::Config;
use crate::daemon::Failure;
use sluice_dataplane::conntrack::{
    BackendFilter, ConnFilter, ConnInfo, CtReport, CtSettings, PoolReport, Seat, ZoneCounts,
    ZoneReport,
};
use sluice_dataplane::counters::{Counters, Stat};
use sluice_dataplane::limits::{PORTS_MAX, WORKERS_MAX};
use sluice_dataplane::packet::key::PortIx;
use sluice_dataplane::pipeline::miss::Event;
use sluice_dataplane::pipeline::punt::PacketIn;
use sluice_dataplane::pipeline::{LaneConfig, PacketOut, Program, Resume, home_of};
use sluice_dataplane::port::AnyPort;
use sluice_dataplane::sys::wait::{Waker, cpus_allowed};
use sluice_dataplane::worker::{Command, FramesReport, Peers, PortReport, Reply};
use sluice_dataplane::xsk::pool::FramePool;
use sluice_dataplane::xsk::umem::Umem;
use std::sync::Arc;
use std::time::Instant;

/// What one worker serves of a port.
pub struct Part {
    pub worker: usize,
    pub port: Box<AnyPort>,
    /// Whether packets leave by it, too.
    pub sends: bool,
}

/// All running workers.
pub struct Workers {
    list: Vec<WorkerHandle>,
    /// Of the lanes: where packets have their home.
    seed: u64,
}

/// Ports and frames as the workers see them.
pub struct PortsSeen {
    /// Of each port the sum of its parts.
    pub list: Vec<PortReport>,
    /// Who has a part of it.
    pub parts: Vec<(PortIx, usize)>,
    /// By worker.
    pub frames: Vec<FramesReport>,
}

impl PortsSeen {
    /// The workers that have a part of a port, in order.
    pub fn workers_of(&self, port: PortIx) -> Vec<usize> {
        self.parts.iter().filter(|(ix, _)| *ix == port).map(|(_, worker)| *worker).collect()
    }
}

/// The `i`-th of `n` shares of a number.
fn share(all: usize, i: usize, n: usize) -> usize {
    all * (i + 1) / n - all * i / n
}

/// The processor that the configuration names; else none, and the scheduler decides.
fn cpu_of(config: &Config, worker: usize) -> Option<usize> {
    let cpu = *config.daemon.cpus.get(worker)?;
    if cpus_allowed().contains(&cpu) {
        return Some(cpu);
    }
    tracing::warn!(worker, "processor {cpu} is not among those this process may use; not bound");
    None
}

impl Workers {
    /// Starts as many as the configuration says, with a share of all frames and connections each.
    pub fn start(
        config: &Config,
        settings: &LaneConfig,
        umem: &Arc<Umem>,
        start: Instant,
    ) -> Result<Self, Failure> {
        let workers = config.daemon.workers.clamp(1, WORKERS_MAX);
        let wakers = (0..workers).map(|_| Waker::new()).collect::<Result<Vec<_>, _>>()?;
        let zone_counts = (workers > 1).then(|| Arc::new(ZoneCounts::default()));
        let mut list = Vec::new();
        for (number, (peers, waker)) in Peers::of(&wakers).into_iter().zip(wakers).enumerate() {
            let mut settings = settings.clone();
            settings.seat = Seat { worker: number as u8, workers: workers as u8 };
            let conns = share(settings.conntrack.conns_max, number, workers);
            settings.conntrack.conns_max = conns.max(1);
            settings.conntrack.zone_counts.clone_from(&zone_counts);
            let frames = share(umem.frames() as usize, number, workers);
            let pool = FramePool::new(umem, frames as u32)?;
            let place = Place { number, cpu: cpu_of(config, number), pool, waker, peers };
            list.push(WorkerHandle::start(&settings, place, start)?);
        }
        Ok(Self { list, seed: settings.seed })
    }

    pub fn len(&self) -> usize {
        self.list.len()
    }

    /// Each worker's counters and processor, in order.
    pub fn counters(&self) -> impl Iterator<Item = (&Counters, Option<usize>)> {
        self.list.iter().map(|w| (&*w.counters, w.cpu))
    }

    /// One count of all.
    pub fn stat(&self, stat: Stat) -> u64 {
        self.counters().map(|(c, _)| c.stat(stat)).sum()
    }

    /// Asks all at once, and waits for every answer, also when one does not come.
    fn ask_all<T>(
        &mut self,
        command: impl Fn(usize) -> Command,
        pick: impl Fn(Reply) -> Result<T, Reply>,
    ) -> ApiResult<Vec<T>> {
        let posted = self.list.iter_mut().enumerate().map(|(i, w)| w.post(command(i)));
        let posted: Vec<ApiResult<()>> = posted.collect();
        let answered = self.list.iter_mut().zip(posted);
        let answered: Vec<ApiResult<T>> =
            answered.map(|(w, posted)| posted.and_then(|()| w.answer(&pick))).collect();
        answered.into_iter().collect()
    }

    /// Returns when all judge by `program`, with the version that all caches have been swept up to.
    pub fn publish(&mut self, program: &Arc<Program>) -> ApiResult<u64> {
        let swept = self.ask_all(
            |_| Command::Program(program.clone()),
            |r| match r {
                Reply::Program { old: _, swept } => Ok(swept),
                other => Err(other),
            },
        )?;
        Ok(swept.into_iter().min().unwrap_or(0))
    }

    /// Gives each part to its worker; the others send through those that can.
    pub fn add_port(&mut self, ix: PortIx, parts: Vec<Part>) -> ApiResult<()> {
        let senders: Vec<usize> = parts.iter().filter(|p| p.sends).map(|p| p.worker).collect();
        let added = self.add_parts(ix, parts, &senders);
        if added.is_err() {
            _ = self.remove_port(ix);
        }
        added
    }

    fn add_parts(&mut self, ix: PortIx, parts: Vec<Part>, senders: &[usize]) -> ApiResult<()> {
        for part in parts {
            if let Some(worker) = self.list.get_mut(part.worker) {
                worker.add_port(ix, part.port)?;
            }
        }
        let others = self.list.iter_mut().enumerate().filter(|(w, _)| !senders.contains(w));
        for (nth, (_, worker)) in others.enumerate() {
            if let Some(sender) = senders.get(nth % senders.len().max(1)) {
                worker.send_via(ix, *sender as u8)?;
            }
        }
        Ok(())
    }

    /// Returns when nobody sends by the port any more, it is closed and its frames are home.
    pub fn remove_port(&mut self, ix: PortIx) -> ApiResult<()> {
        // First those who send through others: nothing for a port that is gone is on its way then.
        let cut = self.ask_all(
            |_| Command::SendVia(ix, None),
            |r| match r {
                Reply::SendsVia(at) if at == ix => Ok(()),
                other => Err(other),
            },
        );
        let closed = self.ask_all(
            |_| Command::RemovePort(ix),
            |r| match r {
                Reply::Port(at, _) if at == ix => Ok(()),
                other => Err(other),
            },
        );
        cut.and(closed).map(drop)
    }

    /// Makes the counters of rules exact.
    pub fn settle(&mut self) -> ApiResult<()> {
        let settled = self.ask_all(
            |_| Command::Settle,
            |r| match r {
                Reply::Settled => Ok(()),
                other => Err(other),
            },
        );
        settled.map(drop)
    }

    pub fn ports(&mut self) -> ApiResult<PortsSeen> {
        let answers = self.ask_all(
            |_| Command::Ports(Vec::with_capacity(PORTS_MAX)),
            |r| match r {
                Reply::Ports { list, frames } => Ok((list, frames)),
                other => Err(other),
            },
        )?;
        let mut seen = PortsSeen { list: Vec::new(), parts: Vec::new(), frames: Vec::new() };
        for (worker, (list, frames)) in answers.into_iter().enumerate() {
            seen.frames.push(frames);
            for part in list {
                seen.parts.push((part.port, worker));
                match seen.list.iter_mut().find(|p| p.port == part.port) {
                    Some(port) => add_part(port, &part),
                    None => seen.list.push(part),
                }
            }
        }
        Ok(seen)
    }

    /// A slice of one worker's connections that a filter means, from a place on, as far as the list
    /// has room; where to go on; and whose they are.
    pub fn connections(
        &mut self,
        list: Vec<ConnInfo>,
        filter: &ConnFilter,
        from: u64,
    ) -> ApiResult<(Vec<ConnInfo>, Option<u64>)> {
        let (worker, place) = split(from);
        let last = worker + 1 >= self.list.len();
        let Some(handle) = self.list.get_mut(worker) else { return Ok((list, None)) };
        let (list, next) = handle.connections(list, filter, place)?;
        Ok((list, go_on(worker, next, last)))
    }

    /// A slice of a flush: how many went, and where to go on.
    pub fn flush_connections(
        &mut self,
        filter: &ConnFilter,
        from: u64,
    ) -> ApiResult<(usize, Option<u64>)> {
        let (worker, place) = split(from);
        let last = worker + 1 >= self.list.len();
        let Some(handle) = self.list.get_mut(worker) else { return Ok((0, None)) };
        let (gone, next) = handle.flush_connections(filter, place)?;
        Ok((gone, go_on(worker, next, last)))
    }

    /// A slice of a flush in each worker that has a place to go on from, in all at once; moves the
    /// places on. How many went.
    pub fn flush_backends(
        &mut self,
        filter: &Arc<BackendFilter>,
        places: &mut [Option<u32>],
    ) -> ApiResult<u64> {
        let mut asked = Vec::with_capacity(places.len());
        for (worker, place) in self.list.iter_mut().zip(places) {
            let Some(from) = *place else { continue };
            asked.push((worker.post_backends(filter, from).map(|()| worker), place));
        }
        let mut all = Ok(0);
        for (worker, place) in asked {
            match worker.and_then(WorkerHandle::backends_flushed) {
                Ok((gone, next)) => {
                    *place = next;
                    all = all.map(|n| n + gone as u64);
                }
                Err(error) => all = Err(error),
            }
        }
        all
    }

    /// Changes settings of connection tracking, and says how each worker stands.
    pub fn conntrack_each(&mut self, settings: CtSettings) -> ApiResult<Vec<CtReport>> {
        let workers = self.list.len();
        let of = |i| {
            let max = settings.conns_max.map(|max| share(max as usize, i, workers) as u32);
            CtSettings { conns_max: max, ..settings }
        };
        self.ask_all(
            |i| Command::Conntrack(of(i)),
            |r| match r {
                Reply::Conntrack(report) => Ok(report),
                other => Err(other),
            },
        )
    }

    /// Changes settings of connection tracking, and says how all stand together.
    pub fn conntrack(&mut self, settings: CtSettings) -> ApiResult<CtReport> {
        let all = self.conntrack_each(settings)?;
        Ok(all.into_iter().reduce(|sum, report| sum.plus(&report)).unwrap_or_default())
    }

    /// The zones that have connections or a limit of their own. Their counts are of all workers.
    pub fn ct_zones(&mut self) -> ApiResult<Vec<ZoneReport>> {
        self.list.first_mut().map_or(Ok(Vec::new()), WorkerHandle::ct_zones)
    }

    /// Each address that NAT translates to, once.
    pub fn nat_pools(&mut self) -> ApiResult<Vec<PoolReport>> {
        let mut all: Vec<PoolReport> = Vec::new();
        for worker in &mut self.list {
            for pool in worker.nat_pools()? {
                match all.iter_mut().find(|p| p.is_same(&pool)) {
                    Some(known) => known.add(&pool),
                    None => all.push(pool),
                }
            }
        }
        Ok(all)
    }

    /// Sends a packet where its connection is. Returns when it is on its way.
    pub fn packet_out(&mut self, out: PacketOut) -> ApiResult<()> {
        let mut at = home_of(self.seed, self.list.len() as u8, &out.bytes);
        let mut out = Box::new(out);
        // Who is named by the home names nobody else.
        for _ in 0..2 {
            let Some(worker) = self.list.get_mut(usize::from(at)) else { return Ok(()) };
            match worker.packet_out(out)? {
                Some(elsewhere) => (at, out) = elsewhere,
                None => return Ok(()),
            }
        }
        Ok(())
    }

    /// Lets a packet go on where it was paused. Returns when it is on its way.
    pub fn resume(&mut self, worker: usize, resume: Resume) -> ApiResult<()> {
        self.list.get_mut(worker).map_or(Ok(()), |w| w.resume(resume))
    }

    /// Takes up to `max` packets for controllers of each worker.
    pub fn packet_ins(&mut self, max: usize, mut hear: impl FnMut(usize, &mut PacketIn)) {
        for (i, worker) in self.list.iter_mut().enumerate() {
            worker.packet_ins(max, |packet| hear(i, packet));
        }
    }

    /// Takes what came unasked: hints, and whether a port went up or down.
    pub fn news(&mut self) -> (Vec<Event>, bool) {
        let (mut events, mut ports_changed) = (Vec::new(), false);
        for worker in &mut self.list {
            let (told, changed) = worker.news();
            events.extend(told);
            ports_changed |= changed;
        }
        (events, ports_changed)
    }

    /// Ends the threads; ports are closed and frames are home when this returns.
    pub fn stop(&mut self) {
        self.list.iter_mut().for_each(WorkerHandle::tell_to_stop);
        self.list.iter_mut().for_each(WorkerHandle::join);
    }
}

/// A port is up if all of it is.
fn add_part(port: &mut PortReport, part: &PortReport) {
    port.up &= part.up;
    port.stats.add(&part.stats);
    port.frames_held += part.frames_held;
}

/// Worker and place of a place in the list of all connections.
pub fn split(from: u64) -> (usize, u32) {
    ((from >> 32) as usize, from as u32)
}

/// Where a list goes on: in this worker, in the next one, or nowhere.
fn go_on(worker: usize, next: Option<u32>, last: bool) -> Option<u64> {
    match next {
        Some(place) => Some((worker as u64) << 32 | u64::from(place)),
        None if last => None,
        None => Some((worker as u64 + 1) << 32),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shares_are_even_and_make_up_the_whole() {
        for (all, n) in [(10, 1), (10, 3), (64, 64), (7, 64), (16_777_216, 63)] {
            let shares: Vec<usize> = (0..n).map(|i| share(all, i, n)).collect();
            assert_eq!(shares.iter().sum::<usize>(), all);
            let (least, most) = (shares.iter().min().unwrap(), shares.iter().max().unwrap());
            assert!(most - least <= 1, "{shares:?}");
        }
    }

    #[test]
    fn a_list_of_all_goes_from_worker_to_worker() {
        assert_eq!(go_on(0, Some(7), false), Some(7));
        assert_eq!(split(7), (0, 7));
        let next = go_on(0, None, false).unwrap();
        assert_eq!(split(next), (1, 0));
        let within = go_on(1, Some(u32::MAX), true).unwrap();
        assert_eq!(split(within), (1, u32::MAX));
        assert_eq!(go_on(1, None, true), None);
    }
}
