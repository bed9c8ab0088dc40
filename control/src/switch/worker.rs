//! Control's hold on a worker thread: questions with answers, and news that came unasked.

#![expect(
    clippy::result_large_err,
    reason = "replies travel by value: the worker that makes them does not allocate"
)]

use crate::api::ApiResult;
use crate::api::types::{ApiError, ErrorCode};
use sluice_dataplane::conntrack::{BackendFilter, ConnFilter, ConnInfo, PoolReport, ZoneReport};
use sluice_dataplane::counters::Counters;
use sluice_dataplane::packet::key::PortIx;
use sluice_dataplane::pipeline::miss::Event;
use sluice_dataplane::pipeline::punt::PacketIn;
use sluice_dataplane::pipeline::{Lane, LaneConfig, PacketOut, PacketOutError, Resume};
use sluice_dataplane::port::AnyPort;
use sluice_dataplane::sys::wait::Waker;
use sluice_dataplane::worker::{Command, Mailbox, Peers, Reply, Worker, mailbox};
use sluice_dataplane::xsk::pool::FramePool;
use std::io;
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

/// A worker that does not answer for so long is stuck.
const PATIENCE: Duration = Duration::from_secs(5);
/// Between two looks for an answer; a worker that polls answers within microseconds.
const PAUSE: Duration = Duration::from_micros(100);
/// Zones that one question brings back.
const ZONES_A_PAGE: usize = 4096;

/// A running worker.
pub struct WorkerHandle {
    number: usize,
    mail: Mailbox,
    thread: Option<JoinHandle<()>>,
    pub counters: Arc<Counters>,
    pub cpu: Option<usize>,
    events: Vec<Event>,
    ports_changed: bool,
}

/// What a worker's thread is made of besides its lane.
pub struct Place {
    pub number: usize,
    pub cpu: Option<usize>,
    pub pool: FramePool,
    pub waker: Waker,
    pub peers: Peers,
}

impl WorkerHandle {
    pub fn start(config: &LaneConfig, place: Place, start: Instant) -> io::Result<Self> {
        let Place { number, cpu, pool, waker, peers } = place;
        let (mail, end) = mailbox(waker.clone());
        let counters = Arc::new(Counters::default());
        let lane = Lane::new(config, counters.clone());
        let worker = Worker::new(lane, pool, (end, waker), peers, start);
        let name = format!("worker{number}");
        let thread = std::thread::Builder::new().name(name).spawn(move || worker.run(cpu))?;
        let (thread, events) = (Some(thread), Vec::new());
        Ok(Self { number, mail, thread, counters, cpu, events, ports_changed: false })
    }

    /// Sends a command and waits for the reply that `pick` takes.
    pub fn ask<T>(
        &mut self,
        command: Command,
        pick: impl Fn(Reply) -> Result<T, Reply>,
    ) -> ApiResult<T> {
        self.post(command)?;
        self.answer(pick)
    }

    /// Sends a command. Its answer is to be waited for before the next one is sent.
    pub fn post(&mut self, command: Command) -> ApiResult<()> {
        let until = Instant::now() + PATIENCE;
        let mut unsent = self.mail.send(command).err();
        while let Some(command) = unsent.take() {
            while let Some(reply) = self.mail.receive() {
                self.note(reply);
            }
            self.pause(until)?;
            unsent = self.mail.send(command).err();
        }
        Ok(())
    }

    /// Waits for the reply that `pick` takes.
    pub fn answer<T>(&mut self, pick: impl Fn(Reply) -> Result<T, Reply>) -> ApiResult<T> {
        let until = Instant::now() + PATIENCE;
        loop {
            while let Some(reply) = self.mail.receive() {
                match pick(reply) {
                    Ok(answer) => return Ok(answer),
                    Err(other) => self.note(other),
                }
            }
            self.pause(until)?;
        }
    }

    fn pause(&self, until: Instant) -> ApiResult<()> {
        if self.mail.is_abandoned() || Instant::now() > until {
            let message = format!("worker {} does not answer", self.number);
            let hint = "restart sluiced; its log says what happened before";
            return Err(ApiError::new(ErrorCode::System, message, hint));
        }
        std::thread::sleep(PAUSE);
        Ok(())
    }

    fn note(&mut self, reply: Reply) {
        match reply {
            Reply::Event(e) => self.events.push(e),
            Reply::PortsChanged => self.ports_changed = true,
            // An answer that nobody waits for any more: what it carries is freed here.
            _ => {}
        }
    }

    /// Takes what came unasked: hints, and whether a port went up or down.
    pub fn news(&mut self) -> (Vec<Event>, bool) {
        while let Some(reply) = self.mail.receive() {
            self.note(reply);
        }
        (std::mem::take(&mut self.events), std::mem::take(&mut self.ports_changed))
    }

    /// Returns when the packet is on its way; or with the worker that it is to be given to.
    pub fn packet_out(&mut self, out: Box<PacketOut>) -> ApiResult<Option<(u8, Box<PacketOut>)>> {
        let (out, done) = self.ask(Command::PacketOut(out), |r| match r {
            Reply::PacketOut(out, done) => Ok((out, done)),
            other => Err(other),
        })?;
        let hint = "the switch must have a frame for it that is long enough";
        match done {
            Ok(()) => Ok(None),
            Err(PacketOutError::Elsewhere(worker)) => Ok(Some((worker, out))),
            Err(e) => Err(ApiError::new(ErrorCode::Invalid, e.to_string(), hint)),
        }
    }

    /// Returns when the packet is on its way again.
    pub fn resume(&mut self, resume: Resume) -> ApiResult<()> {
        let done = self.ask(Command::Resume(Box::new(resume)), |r| match r {
            Reply::Resumed(_, done) => Ok(done),
            other => Err(other),
        })?;
        let hint = "the packet has ended; nothing of it is left to be resumed";
        done.map_err(|e| ApiError::new(ErrorCode::Invalid, e.to_string(), hint))
    }

    /// Takes up to `max` packets for controllers.
    pub fn packet_ins(&mut self, max: usize, hear: impl FnMut(&mut PacketIn)) {
        self.mail.packet_ins(max, hear);
    }

    pub fn add_port(&mut self, ix: PortIx, port: Box<AnyPort>) -> ApiResult<()> {
        self.ask(Command::AddPort(ix, port), |r| match r {
            Reply::Port(at, _) if at == ix => Ok(()),
            other => Err(other),
        })
    }

    /// From now on that worker sends what goes to this port.
    pub fn send_via(&mut self, ix: PortIx, worker: u8) -> ApiResult<()> {
        self.ask(Command::SendVia(ix, Some(worker)), |r| match r {
            Reply::SendsVia(at) if at == ix => Ok(()),
            other => Err(other),
        })
    }

    /// A slice of the connections that a filter means, from a place on, as far as the list has
    /// room; and where to go on.
    pub fn connections(
        &mut self,
        list: Vec<ConnInfo>,
        filter: &ConnFilter,
        from: u32,
    ) -> ApiResult<(Vec<ConnInfo>, Option<u32>)> {
        let filter = Box::new(*filter);
        self.ask(Command::Connections { list, filter, from }, |r| match r {
            Reply::Connections { list, filter: _, next } => Ok((list, next)),
            other => Err(other),
        })
    }

    /// A slice of a flush: how many went, and where to go on.
    pub fn flush_connections(
        &mut self,
        filter: &ConnFilter,
        from: u32,
    ) -> ApiResult<(usize, Option<u32>)> {
        let filter = Box::new(*filter);
        self.ask(Command::FlushConnections { filter, from }, |r| match r {
            Reply::Flushed { filter: _, gone, next } => Ok((gone, next)),
            other => Err(other),
        })
    }

    /// Asks for a slice of a flush of those whose backend is gone.
    pub fn post_backends(&mut self, filter: &Arc<BackendFilter>, from: u32) -> ApiResult<()> {
        self.post(Command::FlushBackends { filter: filter.clone(), from })
    }

    /// How many went by what [`WorkerHandle::post_backends`] has asked for, and where to go on.
    pub fn backends_flushed(&mut self) -> ApiResult<(usize, Option<u32>)> {
        self.answer(|r| match r {
            Reply::FlushedBackends { filter: _, gone, next } => Ok((gone, next)),
            other => Err(other),
        })
    }

    /// The zones that have connections or a limit of their own.
    pub fn ct_zones(&mut self) -> ApiResult<Vec<ZoneReport>> {
        let (mut all, mut next) = (Vec::new(), Some(0));
        while let Some(from) = next {
            let list = Vec::with_capacity(ZONES_A_PAGE);
            let page = self.ask(Command::CtZones { list, from }, |r| match r {
                Reply::CtZones { list, next } => Ok((list, next)),
                other => Err(other),
            })?;
            all.extend(page.0);
            next = page.1;
        }
        Ok(all)
    }

    pub fn nat_pools(&mut self) -> ApiResult<Vec<PoolReport>> {
        let list = Vec::with_capacity(sluice_dataplane::limits::NAT_POOLS_MAX);
        self.ask(Command::CtPools(list), |r| match r {
            Reply::CtPools(list) => Ok(list),
            other => Err(other),
        })
    }

    /// Tells the thread to end. It closes its ports and waits for those of the other workers.
    pub fn tell_to_stop(&mut self) {
        let mut unsent = self.mail.send(Command::Stop).err();
        let until = Instant::now() + PATIENCE;
        while let Some(command) = unsent.take() {
            while self.mail.receive().is_some() {}
            std::thread::sleep(PAUSE);
            if Instant::now() < until {
                unsent = self.mail.send(command).err();
            }
        }
    }

    /// Returns when the thread has ended.
    pub fn join(&mut self) {
        if let Some(thread) = self.thread.take()
            && thread.join().is_err()
        {
            let n = self.number;
            tracing::error!("worker {n} panicked; please report the lines before this one");
        }
    }
}
