//! A device: receive a burst, send frames, ring the doorbell once a batch.
//!
//! A port owns nothing but its device: frames come from and go back to the worker's pool, which is
//! handed in. The worker calls, per batch: `rx`, then `tx` for each frame, then `flush`. No call
//! blocks. A send to a full ring drops the frame (back to the pool) with a counter: a switch that
//! waited for one port would stall all others.

use std::os::fd::RawFd;

use crate::packet::frame::Frame;
use crate::xsk::pool::FramePool;

mod backoff;
pub mod fault;
pub mod memory;
pub mod packet;
pub mod pcap;
pub mod tap;
pub mod xsk;

pub use crate::xsk::burst::{BURST_FRAMES, RxBurst};

/// What a device can do. Static dispatch in the worker goes through `AnyPort`.
pub trait Port {
    /// Receives up to the free room of `out`; returns how many came.
    fn rx(&mut self, pool: &mut FramePool, out: &mut RxBurst) -> usize;
    /// Queues one frame for sending. It leaves, at the latest, with the next `flush`.
    fn tx(&mut self, pool: &mut FramePool, frame: Frame);
    /// Once per batch: gives the device what was queued, and takes sent frames back.
    fn flush(&mut self, pool: &mut FramePool);
    /// About every 100 ms: looks whether the device is there and up. Frames of a device that is
    /// gone come back to the pool.
    fn check(&mut self, _pool: &mut FramePool) {}
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
    Xsk(xsk::XskPort),
    Tap(tap::TapPort),
    /// Boxed, as its queue of frames would make the others large.
    Packet(Box<packet::PacketPort>),
    Memory(memory::MemoryPort),
    /// Tests only; boxed, as it wraps any of the others.
    Fault(Box<fault::FaultPort<AnyPort>>),
}

macro_rules! each {
    ($any:expr, $port:ident => $body:expr) => {
        match $any {
            AnyPort::Xsk($port) => $body,
            AnyPort::Tap($port) => $body,
            AnyPort::Packet($port) => $body,
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

    fn check(&mut self, pool: &mut FramePool) {
        each!(self, port => port.check(pool));
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

impl PortStats {
    /// Adds another's counts: the queues of a port, the workers of a switch.
    pub fn add(&mut self, other: &Self) {
        // Named one by one: a new counter that is not summed does not compile.
        let Self {
            rx_packets,
            rx_bytes,
            tx_packets,
            tx_bytes,
            rx_no_frame,
            rx_errors,
            tx_ring_full,
            tx_errors,
            kernel_rx_dropped,
            kernel_rx_ring_full,
            kernel_fill_empty,
            invalid_descs,
            syscalls,
        } = other;
        self.rx_packets += rx_packets;
        self.rx_bytes += rx_bytes;
        self.tx_packets += tx_packets;
        self.tx_bytes += tx_bytes;
        self.rx_no_frame += rx_no_frame;
        self.rx_errors += rx_errors;
        self.tx_ring_full += tx_ring_full;
        self.tx_errors += tx_errors;
        self.kernel_rx_dropped += kernel_rx_dropped;
        self.kernel_rx_ring_full += kernel_rx_ring_full;
        self.kernel_fill_empty += kernel_fill_empty;
        self.invalid_descs += invalid_descs;
        self.syscalls += syscalls;
    }
}
