//! A worker's ports by index, and the way out for judged packets.
//!
//! A device with several queues is a port of each worker that has some of them, and each sends by
//! its own. Other ports have one worker, and the others send through its ring (`via`).

use super::handoff::{Parcel, Peers};
use super::mailbox::PortReport;
use crate::counters::{Counters, Drop, Stat};
use crate::limits::PORTS_MAX;
use crate::packet::frame::Frame;
use crate::packet::key::PortIx;
use crate::pipeline::{Egress, Notice, Program};
use crate::port::{AnyPort, Port, RxBurst};
use crate::xsk::pool::FramePool;
use std::sync::Arc;

/// Ethernet and one VLAN tag, which an MTU does not count.
const L2_BYTES: u32 = 18;

struct Place {
    port: Option<Box<AnyPort>>,
    /// The worker that sends for us.
    via: Option<u8>,
    /// Longest frame it takes.
    frame_max_bytes: u32,
    touched: bool,
    up: bool,
    /// What the port refused to send, of that what the drop counters know already.
    refused: Refused,
}

#[derive(Clone, Copy, Default)]
struct Refused {
    ring_full: u64,
    failed: u64,
}

pub(super) struct Ports {
    places: Box<[Place]>,
    /// Places that hold a port, in the order they came.
    active: Vec<PortIx>,
    /// Places with frames queued since the last flush.
    touched: Vec<PortIx>,
    counters: Arc<Counters>,
    pub(super) peers: Peers,
}

impl Ports {
    pub(super) fn new(counters: Arc<Counters>, peers: Peers) -> Self {
        let place = || Place {
            port: None,
            via: None,
            frame_max_bytes: u32::MAX,
            touched: false,
            up: false,
            refused: Refused::default(),
        };
        Self {
            places: (0..PORTS_MAX).map(|_| place()).collect(),
            active: Vec::with_capacity(PORTS_MAX),
            touched: Vec::with_capacity(PORTS_MAX),
            counters,
            peers,
        }
    }

    pub(super) fn active(&self) -> usize {
        self.active.len()
    }

    pub(super) fn add(&mut self, ix: PortIx, port: Box<AnyPort>) -> Option<Box<AnyPort>> {
        let Some(place) = self.places.get_mut(ix.0 as usize) else { return Some(port) };
        place.up = port.is_up();
        place.refused = Refused::default();
        let old = place.port.replace(port);
        if old.is_none() {
            self.active.push(ix);
        }
        old
    }

    pub(super) fn remove(&mut self, ix: PortIx, pool: &mut FramePool) -> Option<Box<AnyPort>> {
        let place = self.places.get_mut(ix.0 as usize)?;
        let mut port = place.port.take()?;
        port.close(pool);
        count_refused(&self.counters, &mut place.refused, &port);
        self.active.retain(|p| *p != ix);
        Some(port)
    }

    /// From now on another worker sends what goes to this port; `None`: nobody, or we ourselves.
    pub(super) fn send_via(&mut self, ix: PortIx, worker: Option<u8>) {
        if let Some(place) = self.places.get_mut(usize::from(ix.0)) {
            place.via = worker;
        }
    }

    pub(super) fn close_all(&mut self, pool: &mut FramePool) {
        for place in &mut self.places {
            if let Some(port) = &mut place.port {
                port.close(pool);
            }
        }
    }

    /// A burst from the `i`-th active port; `None` if nothing came.
    #[inline]
    pub(super) fn receive(
        &mut self,
        i: usize,
        pool: &mut FramePool,
        burst: &mut RxBurst,
    ) -> Option<PortIx> {
        let ix = *self.active.get(i)?;
        let port = self.places.get_mut(ix.0 as usize)?.port.as_mut()?;
        (port.rx(pool, burst) > 0).then_some(ix)
    }

    /// Rings the doorbell of every port that got frames, and of workers. AF_XDP ports need it each
    /// round, also without: completions come back by it.
    pub(super) fn flush(&mut self, pool: &mut FramePool) {
        self.peers.flush();
        for ix in self.touched.drain(..) {
            let Some(place) = self.places.get_mut(ix.0 as usize) else { continue };
            place.touched = false;
            if let Some(port) = &mut place.port {
                port.flush(pool);
            }
        }
    }

    /// Looks at every device; says whether one went up or down. Also brings completions home.
    pub(super) fn check(&mut self, pool: &mut FramePool) -> bool {
        let mut changed = false;
        for ix in &self.active {
            let Some(place) = self.places.get_mut(ix.0 as usize) else { continue };
            let Some(port) = &mut place.port else { continue };
            port.check(pool);
            port.flush(pool);
            count_refused(&self.counters, &mut place.refused, port);
            changed |= place.up != port.is_up();
            place.up = port.is_up();
        }
        changed
    }

    pub(super) fn poll_fds(&self, fds: &mut Vec<i32>) {
        for ix in &self.active {
            if let Some(port) = self.places.get(ix.0 as usize).and_then(|p| p.port.as_ref()) {
                port.poll_fds(fds);
            }
        }
    }

    pub(super) fn report(&self, list: &mut Vec<PortReport>) {
        for ix in &self.active {
            let Some(port) = self.places.get(ix.0 as usize).and_then(|p| p.port.as_ref()) else {
                continue;
            };
            if list.len() < list.capacity() {
                let (up, stats, frames_held) = (port.is_up(), port.stats(), port.frames_held());
                list.push(PortReport { port: *ix, up, stats, frames_held });
            }
        }
    }

    /// Takes over the ports' MTUs.
    pub(super) fn set_program(&mut self, program: &Program) {
        for (i, place) in self.places.iter_mut().enumerate() {
            let mtu = program.port(PortIx(i as u16)).map_or(0, |p| p.mtu);
            place.frame_max_bytes = if mtu == 0 { u32::MAX } else { u32::from(mtu) + L2_BYTES };
        }
    }
}

/// Ports count for themselves what they refuse; here it becomes drops with a reason.
fn count_refused(counters: &Counters, known: &mut Refused, port: &AnyPort) {
    let stats = port.stats();
    counters.count_drops(Drop::TxRingFull, stats.tx_ring_full.saturating_sub(known.ring_full));
    counters.count_drops(Drop::TxFailed, stats.tx_errors.saturating_sub(known.failed));
    *known = Refused { ring_full: stats.tx_ring_full, failed: stats.tx_errors };
}

impl Ports {
    /// Sends by a port of this worker, if it has it.
    #[inline]
    pub(super) fn send(&mut self, ix: PortIx, frame: Frame, pool: &mut FramePool) {
        let place = self.places.get_mut(usize::from(ix.0));
        let Some(Place { port: Some(port), touched, .. }) = place else {
            self.counters.count_drop(Drop::PortDown);
            return pool.free(frame);
        };
        port.tx(pool, frame);
        if !*touched {
            *touched = true;
            self.touched.push(ix);
        }
    }

    #[inline(never)]
    fn send_over(&mut self, worker: u8, port: PortIx, frame: Frame, pool: &mut FramePool) {
        match self.peers.put(worker, Parcel::Send { port, frame }) {
            Ok(()) => self.counters.add(Stat::SentOver, 1),
            Err(frame) => {
                self.counters.count_drop(Drop::HandOverFull);
                pool.free(frame);
            }
        }
    }
}

impl Egress for Ports {
    #[inline]
    fn output(&mut self, ix: PortIx, frame: Frame, pool: &mut FramePool) {
        let Some(place) = self.places.get_mut(usize::from(ix.0)) else {
            self.counters.count_drop(Drop::NoSuchPort);
            return pool.free(frame);
        };
        // The kernel's veth swallows a frame beyond its MTU without a word.
        if frame.len() as u32 > place.frame_max_bytes {
            self.counters.count_drop(Drop::TxTooLong);
            return pool.free(frame);
        }
        if let Some(worker) = place.via {
            return self.send_over(worker, ix, frame, pool);
        }
        self.send(ix, frame, pool);
    }

    fn hand_over(&mut self, worker: u8, in_port: PortIx, frame: Frame, pool: &mut FramePool) {
        if let Err(frame) = self.peers.put(worker, Parcel::Judge { in_port, frame }) {
            self.counters.count_drop(Drop::HandOverFull);
            pool.free(frame);
        }
    }

    fn notify(&mut self, worker: u8, notice: Notice) -> bool {
        self.peers.notify(worker, notice)
    }

    fn notice_room(&mut self, worker: u8) -> usize {
        self.peers.notice_room(worker)
    }
}
