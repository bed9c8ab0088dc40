//! A bench's packets go through a lane, pass after pass.
//!
//! Time goes on from burst to burst, read each time, and house is kept in between at the pace of a
//! worker's loop.

use super::engine::Engine;
use super::load::Load;
use super::report::Cost;
use super::turns::Turns;
use sluice_dataplane::clock::Now;
use sluice_dataplane::packet::frame::Frame;
use sluice_dataplane::packet::key::PortIx;
use sluice_dataplane::pipeline::{Egress, Lane};
use sluice_dataplane::sys::wait::tsc;
use sluice_dataplane::worker::{HOUSEKEEP_BUDGET, HOUSEKEEP_NS};
use sluice_dataplane::xsk::pool::FramePool;
use std::time::{Duration, Instant};

/// Frees what it is given.
struct Discard;

impl Egress for Discard {
    #[inline]
    fn output(&mut self, _: PortIx, frame: Frame, pool: &mut FramePool) {
        pool.free(frame);
    }
}

/// Counts, too.
struct Count(u64);

impl Egress for Count {
    fn output(&mut self, _: PortIx, frame: Frame, pool: &mut FramePool) {
        self.0 += 1;
        pool.free(frame);
    }
}

/// The lane's time.
struct Clock {
    base: Now,
    start: Instant,
    next_housekeep_ns: u64,
}

impl Clock {
    fn now(&self) -> Now {
        Now::from_ns(self.base.ns + self.start.elapsed().as_nanos() as u64)
    }

    /// A round of a worker's loop begins.
    #[inline]
    fn begin_round(&mut self, lane: &mut Lane) -> Now {
        let now = self.now();
        if now.ns >= self.next_housekeep_ns {
            self.next_housekeep_ns = now.ns + HOUSEKEEP_NS;
            lane.housekeep(now, HOUSEKEEP_BUDGET);
        }
        now
    }
}

/// What a pass had.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Played {
    pub packets: u64,
    /// Fresh ones among them.
    pub fresh: u64,
}

pub(super) struct Passes<'a> {
    load: &'a Load,
    clock: Clock,
    /// Passes so far.
    nth: u64,
    /// When fresh packets come; `None`: always.
    pub turns: Option<Turns>,
}

impl<'a> Passes<'a> {
    pub fn new(load: &'a Load, base: Now) -> Self {
        let next_housekeep_ns = base.ns + HOUSEKEEP_NS;
        let clock = Clock { base, start: Instant::now(), next_housekeep_ns };
        Self { load, clock, nth: 0, turns: None }
    }

    pub fn now(&self) -> Now {
        self.clock.now()
    }

    /// All packets once, or until `go_on`, asked every `look` bursts with the lane, the time and
    /// the number so far, says no.
    pub fn pass(
        &mut self,
        e: &mut Engine,
        look: usize,
        go_on: &mut dyn FnMut(&mut Lane, Now, u64) -> bool,
    ) -> Played {
        self.nth += 1;
        let mut done = Played::default();
        for (i, burst) in self.load.bursts.iter().enumerate() {
            let comes = !burst.is_fresh || self.turns.as_ref().is_none_or(Turns::have_fresh);
            if comes {
                self.load.fill(burst, self.nth, e);
            }
            let now = self.clock.begin_round(&mut e.lane);
            if comes {
                let packets = burst.range.len() as u64;
                let fresh = if burst.is_fresh { packets } else { 0 };
                (done.packets, done.fresh) = (done.packets + packets, done.fresh + fresh);
                e.lane.run(&mut e.burst, burst.port, now, &mut e.pool, &mut Discard);
            }
            if let Some(turns) = self.turns.as_mut().filter(|_| !burst.is_fresh) {
                turns.note(now, burst.range.len() as u64);
            }
            if i % look == look - 1 {
                e.lane.drain_events().for_each(drop);
                if !go_on(&mut e.lane, now, done.packets) {
                    break;
                }
            }
        }
        done
    }

    /// How many of the packets that are not fresh do not come out any more.
    pub fn lost(&self, e: &mut Engine) -> u64 {
        let (mut played, mut sent) = (0, Count(0));
        let now = self.now();
        for burst in self.load.bursts.iter().filter(|b| !b.is_fresh) {
            self.load.fill(burst, 0, e);
            e.lane.run(&mut e.burst, burst.port, now, &mut e.pool, &mut sent);
            played += burst.range.len() as u64;
        }
        played.saturating_sub(sent.0)
    }

    /// The same copies without a lane between: a batch of frames taken, filled and given back.
    pub fn floor(&self, e: &mut Engine, seconds: f64) -> Cost {
        let limit = Duration::from_secs_f64(seconds);
        let (start, cycles) = (Instant::now(), tsc());
        let mut packets = 0u64;
        while start.elapsed() < limit && !self.load.is_empty() {
            for burst in &self.load.bursts {
                self.load.fill(burst, packets, e);
                packets += burst.range.len() as u64;
                e.burst.drain().for_each(|frame| e.pool.free(frame));
            }
        }
        let cycles = tsc().saturating_sub(cycles);
        Cost::of(packets, start.elapsed().as_nanos() as f64, cycles as f64)
    }
}
