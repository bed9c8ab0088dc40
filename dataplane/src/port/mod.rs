//! A device: receive a burst, send frames, ring the doorbell once a batch.
//!
//! A port owns nothing but its device: frames come from and go back to the worker's pool, which is
//! handed in. The worker calls, per batch: `rx`, then `tx` for each frame, then `flush`. No call
//! blocks. A send to a full ring drops the frame (back to the pool) with a counter: a switch that
//! waited for one port would stall all others.

use std::os::fd::RawFd;

use crate::packet::frame::Frame;
use crate::xsk::pool::FramePool;

pub mod fault;
pub mod memory;
pub mod pcap;

/// Frames in a burst. Larger bursts push the headers out of the first-level cache.
pub const BURST_FRAMES: usize = 64;

/// What a device can do. Static dispatch in the worker goes through `AnyPort`.
pub trait Port {
    /// Receives up to the free room of `out`; returns how many came.
    fn rx(&mut self, pool: &mut FramePool, out: &mut RxBurst) -> usize;
    /// Queues one frame for sending. It leaves, at the latest, with the next `flush`.
    fn tx(&mut self, pool: &mut FramePool, frame: Frame);
    /// Once per batch: gives the device what was queued, and takes sent frames back.
    fn flush(&mut self, pool: &mut FramePool);
    /// Descriptors that become readable when packets wait. For an idle worker's poll.
    fn poll_fds(&self, out: &mut Vec<RawFd>);
    fn stats(&self) -> PortStats;
    /// Whether the device is there and takes packets.
    fn is_up(&self) -> bool;
    fn kind(&self) -> PortKind;
    /// Frames that this port holds at the moment, with the kernel or queued: part of the
    /// conservation sum `total = available + in hands + held`.
    fn frames_held(&self) -> usize;
    /// Closes the device and brings every frame it held back to the pool. Further calls do nothing.
    fn close(&mut self, pool: &mut FramePool);
}

/// Every kind of device, for static dispatch: the worker's loop calls no function by pointer.
pub enum AnyPort {
    Memory(memory::MemoryPort),
    /// Tests only; boxed, as it wraps any of the others.
    Fault(Box<fault::FaultPort<AnyPort>>),
}

macro_rules! each {
    ($any:expr, $port:ident => $body:expr) => {
        match $any {
            AnyPort::Memory($port) => $body,
            AnyPort::Fault($port) => $body,
        }
    };
}

impl Port for AnyPort {
    #[inline]
    fn rx(&mut self, pool: &mut FramePool, out: &mut RxBurst) -> usize {
        each!(self, port => port.rx(pool, out))
    }

    #[inline]
    fn tx(&mut self, pool: &mut FramePool, frame: Frame) {
        each!(self, port => port.tx(pool, frame));
    }

    #[inline]
    fn flush(&mut self, pool: &mut FramePool) {
        each!(self, port => port.flush(pool));
    }

    fn poll_fds(&self, out: &mut Vec<RawFd>) {
        each!(self, port => port.poll_fds(out));
    }

    fn stats(&self) -> PortStats {
        each!(self, port => port.stats())
    }

    fn is_up(&self) -> bool {
        each!(self, port => port.is_up())
    }

    fn kind(&self) -> PortKind {
        each!(self, port => port.kind())
    }

    fn frames_held(&self) -> usize {
        each!(self, port => port.frames_held())
    }

    fn close(&mut self, pool: &mut FramePool) {
        each!(self, port => port.close(pool));
    }
}

/// The kinds of ports that have a device behind them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum PortKind {
    Afxdp,
    Internal,
    Tap,
    Packet,
    Memory,
}

impl PortKind {
    /// The name used in configuration and output.
    pub fn name(self) -> &'static str {
        match self {
            Self::Afxdp => "afxdp",
            Self::Internal => "internal",
            Self::Tap => "tap",
            Self::Packet => "packet",
            Self::Memory => "memory",
        }
    }
}

/// Counters of one port, from the port's view: rx comes into the switch.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct PortStats {
    pub rx_packets: u64,
    pub rx_bytes: u64,
    pub tx_packets: u64,
    pub tx_bytes: u64,
    /// No free frame for a waiting packet.
    pub rx_no_frame: u64,
    /// Longer than a frame can hold, or otherwise not usable.
    pub rx_errors: u64,
    /// The device's ring or queue was full.
    pub tx_ring_full: u64,
    /// The device refused it (gone, down, too long).
    pub tx_errors: u64,
    /// The kernel's count: packets for us that it could not deliver.
    pub kernel_rx_dropped: u64,
    /// The kernel's count: our rx ring was full.
    pub kernel_rx_ring_full: u64,
    /// The kernel's count: the fill ring was empty when a packet came.
    pub kernel_fill_empty: u64,
    /// The kernel's count: descriptors it refused, or ours of its that made no sense. Must stay 0.
    pub invalid_descs: u64,
    /// System calls to move packets: wake-ups, reads, writes.
    pub syscalls: u64,
}

/// The frames of one receive call: a fixed array with a length, drained in order.
#[derive(Debug)]
pub struct RxBurst {
    frames: [Option<Frame>; BURST_FRAMES],
    len: usize,
}

impl Default for RxBurst {
    fn default() -> Self {
        Self::new()
    }
}

impl RxBurst {
    pub fn new() -> Self {
        Self { frames: [const { None }; BURST_FRAMES], len: 0 }
    }

    #[inline]
    pub fn len(&self) -> usize {
        self.len
    }

    #[inline]
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Frames that still fit.
    #[inline]
    pub fn room(&self) -> usize {
        BURST_FRAMES - self.len
    }

    /// Appends a frame; gives it back when the burst is full.
    #[inline]
    pub fn push(&mut self, frame: Frame) -> Result<(), Frame> {
        match self.frames.get_mut(self.len) {
            Some(slot) => {
                *slot = Some(frame);
                self.len += 1;
                Ok(())
            }
            None => Err(frame),
        }
    }

    #[inline]
    pub fn iter(&self) -> impl Iterator<Item = &Frame> {
        self.frames.iter().take(self.len).flatten()
    }

    #[inline]
    pub fn iter_mut(&mut self) -> impl Iterator<Item = &mut Frame> {
        self.frames.iter_mut().take(self.len).flatten()
    }

    /// Takes the frame at `i` out and leaves a hole, which the iterators skip; call `clear` at the
    /// end of the batch.
    #[inline]
    pub fn take(&mut self, i: usize) -> Option<Frame> {
        self.frames.get_mut(i).and_then(Option::take)
    }

    /// Takes all frames out, in order of arrival.
    #[inline]
    pub fn drain(&mut self) -> impl Iterator<Item = Frame> {
        let len = std::mem::take(&mut self.len);
        self.frames.iter_mut().take(len).filter_map(Option::take)
    }

    /// Frees what is left and makes the burst empty.
    pub fn clear(&mut self, pool: &mut FramePool) {
        self.drain().for_each(|frame| pool.free(frame));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_burst_keeps_order_and_refuses_the_65th() {
        let mut pool = FramePool::private(65).unwrap();
        let mut burst = RxBurst::new();
        for n in 0..BURST_FRAMES {
            let mut frame = pool.alloc().unwrap();
            assert!(frame.copy_from(&[n as u8]));
            assert!(burst.push(frame).is_ok());
        }
        let extra = pool.alloc().unwrap();
        pool.free(burst.push(extra).unwrap_err());
        assert_eq!((burst.len(), burst.room()), (64, 0));
        pool.free(burst.take(3).unwrap());
        let order: Vec<u8> = burst.iter().map(|f| f.bytes()[0]).collect();
        assert_eq!(order, (0..64).filter(|&n| n != 3).collect::<Vec<u8>>());
        burst.clear(&mut pool);
        assert_eq!((burst.len(), pool.available()), (0, 65));
    }
}
