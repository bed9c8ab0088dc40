//! A port with a bad cable: loses, doubles, reorders and corrupts what passes, from a seed.
//!
//! For tests. Faults strike on both ways. The same seed and the same calls give the same faults, so
//! a failing run can be played again from the seed it printed.

use std::os::fd::RawFd;

use super::{Port, PortKind, PortStats, RxBurst};
use crate::packet::frame::Frame;
use crate::xsk::pool::FramePool;

/// How often each fault strikes, in packets per thousand.
#[derive(Clone, Copy, Debug, Default)]
pub struct FaultRates {
    pub loss: u16,
    pub duplicate: u16,
    /// The packet leaves after the next one.
    pub reorder: u16,
    /// One random bit flips.
    pub corrupt: u16,
}

/// Faults that struck so far.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct FaultCounts {
    pub lost: u64,
    pub duplicated: u64,
    pub reordered: u64,
    pub corrupted: u64,
}

/// A port wrapped in faults.
pub struct FaultPort<P> {
    inner: P,
    rates: FaultRates,
    random: SplitMix,
    counts: FaultCounts,
    scratch: RxBurst,
    rx_late: Option<Frame>,
    tx_late: Option<Frame>,
}

/// What becomes of a packet.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Fate {
    Pass,
    Lose,
    Duplicate,
    Delay,
}

impl<P: Port> FaultPort<P> {
    pub fn new(inner: P, rates: FaultRates, seed: u64) -> Self {
        Self {
            inner,
            rates,
            random: SplitMix(seed),
            counts: FaultCounts::default(),
            scratch: RxBurst::new(),
            rx_late: None,
            tx_late: None,
        }
    }

    pub fn counts(&self) -> FaultCounts {
        self.counts
    }

    pub fn inner_mut(&mut self) -> &mut P {
        &mut self.inner
    }

    /// Corrupts the frame, perhaps, and says what becomes of it.
    fn strike(&mut self, frame: &mut Frame) -> Fate {
        if self.random.per_mille(self.rates.loss) {
            self.counts.lost += 1;
            return Fate::Lose;
        }
        if self.random.per_mille(self.rates.corrupt) && !frame.is_empty() {
            let bit = self.random.next() as usize % (frame.len() * 8);
            frame.bytes_mut()[bit / 8] ^= 1 << (bit % 8);
            self.counts.corrupted += 1;
        }
        if self.random.per_mille(self.rates.duplicate) {
            return Fate::Duplicate;
        }
        if self.random.per_mille(self.rates.reorder) {
            return Fate::Delay;
        }
        Fate::Pass
    }

    /// A copy of the frame, when a frame is free.
    fn double(&mut self, pool: &mut FramePool, frame: &Frame) -> Option<Frame> {
        let mut copy = pool.alloc()?;
        if !copy.clone_from_frame(frame) {
            pool.free(copy);
            return None;
        }
        self.counts.duplicated += 1;
        Some(copy)
    }

    /// Duplicates may be one too many for the burst: those are lost, and counted so.
    fn push(&mut self, pool: &mut FramePool, frame: Frame, out: &mut RxBurst) {
        if let Err(frame) = out.push(frame) {
            self.counts.lost += 1;
            pool.free(frame);
        }
    }

    fn rx_one(&mut self, pool: &mut FramePool, mut frame: Frame, out: &mut RxBurst) {
        let fate = self.strike(&mut frame);
        let late = self.rx_late.take();
        match fate {
            Fate::Lose => pool.free(frame),
            Fate::Delay if late.is_none() => {
                self.counts.reordered += 1;
                self.rx_late = Some(frame);
            }
            Fate::Duplicate => {
                let copy = self.double(pool, &frame);
                self.push(pool, frame, out);
                copy.into_iter().for_each(|copy| self.push(pool, copy, out));
            }
            Fate::Pass | Fate::Delay => self.push(pool, frame, out),
        }
        late.into_iter().for_each(|late| self.push(pool, late, out));
    }
}

impl<P: Port> Port for FaultPort<P> {
    fn rx(&mut self, pool: &mut FramePool, out: &mut RxBurst) -> usize {
        let before = out.len();
        let mut scratch = std::mem::take(&mut self.scratch);
        if self.inner.rx(pool, &mut scratch) == 0 {
            // Nothing follows that could overtake it.
            let late = self.rx_late.take();
            late.into_iter().for_each(|late| self.push(pool, late, out));
        }
        scratch.drain().for_each(|frame| self.rx_one(pool, frame, out));
        self.scratch = scratch;
        out.len() - before
    }

    fn tx(&mut self, pool: &mut FramePool, mut frame: Frame) {
        let fate = self.strike(&mut frame);
        let late = self.tx_late.take();
        match fate {
            Fate::Lose => pool.free(frame),
            Fate::Delay if late.is_none() => {
                self.counts.reordered += 1;
                self.tx_late = Some(frame);
            }
            Fate::Duplicate => {
                let copy = self.double(pool, &frame);
                self.inner.tx(pool, frame);
                copy.into_iter().for_each(|copy| self.inner.tx(pool, copy));
            }
            Fate::Pass | Fate::Delay => self.inner.tx(pool, frame),
        }
        late.into_iter().for_each(|late| self.inner.tx(pool, late));
    }

    fn flush(&mut self, pool: &mut FramePool) {
        self.tx_late.take().into_iter().for_each(|late| self.inner.tx(pool, late));
        self.inner.flush(pool);
    }

    fn check(&mut self, pool: &mut FramePool) {
        self.inner.check(pool);
    }

    fn poll_fds(&self, out: &mut Vec<RawFd>) {
        self.inner.poll_fds(out);
    }

    fn stats(&self) -> PortStats {
        self.inner.stats()
    }

    fn is_up(&self) -> bool {
        self.inner.is_up()
    }

    fn kind(&self) -> PortKind {
        self.inner.kind()
    }

    fn frames_held(&self) -> usize {
        let late = usize::from(self.rx_late.is_some()) + usize::from(self.tx_late.is_some());
        self.inner.frames_held() + late
    }

    fn close(&mut self, pool: &mut FramePool) {
        let late = self.rx_late.take().into_iter().chain(self.tx_late.take());
        late.for_each(|frame| pool.free(frame));
        self.inner.close(pool);
    }
}

/// SplitMix64: tiny, seeded, good enough to strike packets.
struct SplitMix(u64);

impl SplitMix {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    fn per_mille(&mut self, rate: u16) -> bool {
        rate > 0 && self.next() % 1000 < u64::from(rate)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::port::memory::MemoryPort;

    fn run(rates: FaultRates, seed: u64) -> (Vec<Vec<u8>>, FaultCounts, usize) {
        let mut pool = FramePool::private(256).unwrap();
        let (port, mut end) = MemoryPort::pair(4096);
        let mut port = FaultPort::new(port, rates, seed);
        let mut burst = RxBurst::new();
        for n in 0..1000u16 {
            assert!(end.inject(&n.to_be_bytes().repeat(30)));
            if n % 16 == 15 || n == 999 {
                while port.rx(&mut pool, &mut burst) > 0 {}
                burst.drain().for_each(|frame| port.tx(&mut pool, frame));
                port.flush(&mut pool);
            }
        }
        port.close(&mut pool);
        (end.take_all(), port.counts(), pool.available())
    }

    #[test]
    fn without_rates_nothing_changes() {
        let (out, counts, free) = run(FaultRates::default(), 1);
        assert_eq!((out.len(), counts, free), (1000, FaultCounts::default(), 256));
    }

    #[test]
    fn every_fault_strikes_and_no_frame_is_lost() {
        let rates = FaultRates { loss: 50, duplicate: 50, reorder: 50, corrupt: 50 };
        let (out, counts, free) = run(rates, 7);
        assert_eq!(free, 256);
        assert!(counts.lost > 20 && counts.duplicated > 20, "{counts:?}");
        assert!(counts.reordered > 20 && counts.corrupted > 20, "{counts:?}");
        assert_eq!(out.len() as u64, 1000 - counts.lost + counts.duplicated);
        assert!(!out.is_sorted_by_key(|p| p[..2].to_vec()), "nothing was reordered");
        assert_eq!(run(rates, 7).0, out, "same seed, same faults");
        assert_ne!(run(rates, 8).0, out);
    }
}
