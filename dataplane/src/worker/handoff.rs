//! What workers give each other: packets to judge or to send, news of connections, spare frames.
//!
//! Each pair of workers has two rings a direction, with one producer and one consumer each, so
//! neither ever waits: one for *parcels* (frames), one for *notices*. A frame is handed over as the
//! number of its chunk and its place in it; its bytes stay where they are.
//!
//! **Order.** A ring keeps it, and what a worker does with a parcel does not go on to a third one:
//! packets of one flow that come by one queue leave in order.
//!
//! **Full rings** refuse. The frame goes back to the pool of who wanted to hand it over, with the
//! reason `hand_over_full`; a notice is the lane's to try again.
//!
//! **Waking.** A worker that is about to sleep says so (`asleep`) and looks into its rings once
//! more; who has put something into them looks, at the end of its round, whether the other sleeps.
//! Both have a full fence between the store and the load (Dekker's scheme), so at least one sees
//! the other, and a sleeper is woken by one write a round at most, not by one a packet.
//!
//! **Frames wander.** They are freed to the pool of the worker that sends them, not of the one that
//! received them. Each worker tells its number of free frames once a round; one that has more than
//! twice as many as the poorest gives half of the difference away, a portion a round.
//!
//! **Conservation.** A frame is free in one pool, in the hands of one worker, held by one port, or
//! in one ring. `waiting` counts the last, so the sum can be checked when nothing moves. At the end
//! all workers wait for each other, and then bring home what is in their rings.

use crate::limits::{POOL_RESERVE_FRAMES, SPARES_A_ROUND, WORKERS_MAX, hand_over_entries};
use crate::packet::frame::Frame;
use crate::packet::key::PortIx;
use crate::pipeline::Notice;
use crate::sys::wait::Waker;
use crate::xsk::pool::FramePool;
use rtrb::{Consumer, Producer, PushError, RingBuffer};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering, fence};
use std::time::{Duration, Instant};

/// A frame on its way to another worker.
#[derive(Debug)]
pub(super) enum Parcel {
    /// Judge it: its connection is yours.
    Judge { in_port: PortIx, frame: Frame },
    /// Send it by a port that only you have.
    Send { port: PortIx, frame: Frame },
    /// For your pool.
    Spare(Frame),
}

impl Parcel {
    pub(super) fn into_frame(self) -> Frame {
        match self {
            Self::Judge { frame, .. } | Self::Send { frame, .. } | Self::Spare(frame) => frame,
        }
    }
}

const _: () = assert!(size_of::<Parcel>() <= 32, "two to a cache line");

/// What all may see of one worker. A line of its own, as its owner writes it every round.
#[repr(align(128))]
struct Desk {
    free_frames: AtomicU32,
    asleep: AtomicBool,
    /// Its loop has ended: it puts nothing into rings any more.
    left: AtomicBool,
    waker: Waker,
}

struct Out {
    parcels: Producer<Parcel>,
    notices: Producer<Notice>,
}

struct In {
    parcels: Consumer<Parcel>,
    notices: Consumer<Notice>,
}

/// One worker's ends of the rings.
pub struct Peers {
    me: usize,
    desks: Arc<[Desk]>,
    /// By worker; none for oneself.
    out: Box<[Option<Out>]>,
    into: Box<[Option<In>]>,
    /// Workers that were given something in this round, a bit each.
    touched: u64,
}

const _: () = assert!(WORKERS_MAX <= u64::BITS as usize);

impl Peers {
    /// The ends for as many workers as there are wakers (theirs, in order): at most `WORKERS_MAX`.
    pub fn of(wakers: &[Waker]) -> Vec<Self> {
        let workers = wakers.len().min(WORKERS_MAX);
        let entries = hand_over_entries(workers);
        let desk = |waker: &Waker| Desk {
            free_frames: AtomicU32::new(0),
            asleep: AtomicBool::new(false),
            left: AtomicBool::new(false),
            waker: waker.clone(),
        };
        let desks: Arc<[Desk]> = wakers.iter().take(workers).map(desk).collect();
        let mut outs: Vec<Vec<Option<Out>>> = (0..workers).map(|_| Vec::new()).collect();
        let mut intos: Vec<Vec<Option<In>>> = (0..workers).map(|_| Vec::new()).collect();
        for (from, out) in outs.iter_mut().enumerate() {
            for (to, into) in intos.iter_mut().enumerate() {
                let (a, b) = if from == to {
                    (None, None)
                } else {
                    let (parcels, take) = RingBuffer::new(entries);
                    let (notices, hear) = RingBuffer::new(entries);
                    (Some(Out { parcels, notices }), Some(In { parcels: take, notices: hear }))
                };
                out.push(a);
                into.push(b);
            }
        }
        let ends = outs.into_iter().zip(intos).enumerate();
        ends.map(|(me, (out, into))| Self {
            me,
            desks: desks.clone(),
            out: out.into(),
            into: into.into(),
            touched: 0,
        })
        .collect()
    }

    /// A worker without peers.
    pub fn none() -> Self {
        Self { me: 0, desks: Arc::new([]), out: Box::new([]), into: Box::new([]), touched: 0 }
    }

    /// All workers, oneself included; 0 or 1 if there are no others.
    pub(super) fn workers(&self) -> usize {
        self.into.len()
    }

    /// Puts a parcel into a worker's ring; gives its frame back when that is full or not there.
    #[inline]
    pub(super) fn put(&mut self, worker: u8, parcel: Parcel) -> Result<(), Frame> {
        let Some(Some(out)) = self.out.get_mut(usize::from(worker)) else {
            return Err(parcel.into_frame());
        };
        match out.parcels.push(parcel) {
            Ok(()) => {
                self.touched |= 1 << worker;
                Ok(())
            }
            Err(PushError::Full(parcel)) => Err(parcel.into_frame()),
        }
    }

    /// Tells a worker something; false: no room, or no such worker.
    #[inline]
    pub(super) fn notify(&mut self, worker: u8, notice: Notice) -> bool {
        let Some(Some(out)) = self.out.get_mut(usize::from(worker)) else { return false };
        let told = out.notices.push(notice).is_ok();
        self.touched |= u64::from(told) << worker;
        told
    }

    /// Notices to a worker that there is room for.
    pub(super) fn notice_room(&self, worker: u8) -> usize {
        let out = self.out.get(usize::from(worker)).and_then(Option::as_ref);
        out.map_or(0, |out| out.notices.slots())
    }

    /// The next parcel of a worker.
    #[inline]
    pub(super) fn take(&mut self, worker: usize) -> Option<Parcel> {
        self.into.get_mut(worker)?.as_mut()?.parcels.pop().ok()
    }

    /// All that the others have told.
    #[inline]
    pub(super) fn hear(&mut self, mut hear: impl FnMut(Notice)) {
        for into in self.into.iter_mut().flatten() {
            while let Ok(notice) = into.notices.pop() {
                hear(notice);
            }
        }
    }

    /// Wakes those who sleep and were given something. Once a round.
    #[inline]
    pub(super) fn flush(&mut self) {
        if self.touched == 0 {
            return;
        }
        fence(Ordering::SeqCst);
        while self.touched != 0 {
            let worker = self.touched.trailing_zeros() as usize;
            self.touched &= self.touched - 1;
            let Some(desk) = self.desks.get(worker) else { continue };
            if desk.asleep.load(Ordering::Relaxed) && desk.asleep.swap(false, Ordering::AcqRel) {
                desk.waker.wake();
            }
        }
    }

    /// Says that this worker is about to sleep. False: something has come, stay awake.
    pub(super) fn lie_down(&self) -> bool {
        let Some(desk) = self.desks.get(self.me) else { return true };
        desk.asleep.store(true, Ordering::Relaxed);
        fence(Ordering::SeqCst);
        let waits = |i: &In| !i.parcels.is_empty() || !i.notices.is_empty();
        if self.into.iter().flatten().any(waits) {
            self.get_up();
            return false;
        }
        true
    }

    pub(super) fn get_up(&self) {
        if let Some(desk) = self.desks.get(self.me) {
            desk.asleep.store(false, Ordering::Relaxed);
        }
    }

    /// Says how many frames are free here, and gives some away if another has far fewer. Says how
    /// many.
    #[inline]
    pub(super) fn balance(&mut self, pool: &mut FramePool) -> usize {
        let mine = pool.available() as u32;
        let Some(desk) = self.desks.get(self.me) else { return 0 };
        desk.free_frames.store(mine, Ordering::Relaxed);
        if mine > 2 * POOL_RESERVE_FRAMES as u32 { self.give(mine, pool) } else { 0 }
    }

    fn give(&mut self, mine: u32, pool: &mut FramePool) -> usize {
        let others = self.desks.iter().enumerate().filter(|(worker, _)| *worker != self.me);
        let counted = others.map(|(w, desk)| (desk.free_frames.load(Ordering::Relaxed), w, desk));
        let Some((least, poorest, desk)) = counted.min_by_key(|(free, ..)| *free) else { return 0 };
        let Some(Some(out)) = self.out.get_mut(poorest).filter(|_| least < mine / 2) else {
            return 0;
        };
        // Half of the ring is left to packets.
        let room = out.parcels.slots().saturating_sub(out.parcels.buffer().capacity() / 2);
        let portion = ((mine - least) as usize / 2).min(SPARES_A_ROUND).min(room);
        let given = (0..portion)
            .map_while(|_| {
                let frame = pool.alloc()?;
                out.parcels
                    .push(Parcel::Spare(frame))
                    .map_err(|e| match e {
                        PushError::Full(parcel) => pool.free(parcel.into_frame()),
                    })
                    .ok()
            })
            .count();
        // Until it counts for itself, so that not all give to the same one.
        desk.free_frames.fetch_add(given as u32, Ordering::Relaxed);
        self.touched |= u64::from(given > 0) << poorest;
        given
    }

    /// Frames that wait in rings for this worker.
    pub(super) fn waiting(&self) -> usize {
        self.into.iter().flatten().map(|i| i.parcels.slots()).sum()
    }

    /// The end: waits until no worker puts anything into rings any more, `patience` at most, and
    /// brings home what they hold.
    pub(super) fn leave(&mut self, pool: &mut FramePool, patience: Duration) {
        self.flush();
        if let Some(desk) = self.desks.get(self.me) {
            desk.left.store(true, Ordering::Release);
        }
        let until = Instant::now() + patience;
        while !self.desks.iter().all(|desk| desk.left.load(Ordering::Acquire))
            && Instant::now() < until
        {
            std::thread::sleep(Duration::from_micros(100));
        }
        for into in self.into.iter_mut().flatten() {
            while let Ok(parcel) = into.parcels.pop() {
                pool.free(parcel.into_frame());
            }
        }
    }
}

#[cfg(test)]
mod tests;
