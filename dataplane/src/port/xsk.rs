//! An AF_XDP port: one device, the queues of it that this worker serves, a socket each.
//!
//! Receiving goes round the queues, starting one further each time, so that none starves. Sending
//! uses the first queue only: frames of one flow must not overtake each other, and one queue per
//! worker is what the kernel can send on without a lock. Steering packets into the sockets is the
//! work of the XDP program, which control attaches, with the sockets from `sockets`.

use std::os::fd::{AsRawFd, BorrowedFd, RawFd};
use std::sync::Arc;

use super::{Port, PortKind, PortStats, RxBurst};
use crate::limits::RING_ENTRIES;
use crate::packet::frame::Frame;
use crate::xsk::pool::FramePool;
use crate::xsk::socket::{
    BindMode, BindWish, QueueConfig, QueueState, QueueStats, TxRefusal, XskError, XskQueue,
};
use crate::xsk::umem::Umem;

#[derive(Clone, Debug)]
pub struct XskPortConfig {
    /// The device, in the network namespace of the thread that opens the port.
    pub if_index: u32,
    /// The queues this worker serves; at least one.
    pub queues: Vec<u32>,
    pub wish: BindWish,
    /// Entries of the fill and rx rings of each queue.
    pub rx_entries: u32,
    /// Entries of the tx and completion rings of each queue.
    pub tx_entries: u32,
}

impl XskPortConfig {
    pub fn new(if_index: u32, queues: Vec<u32>) -> Self {
        let wish = BindWish::Best;
        Self { if_index, queues, wish, rx_entries: RING_ENTRIES, tx_entries: RING_ENTRIES }
    }
}

/// The port, as a worker sees it.
pub struct XskPort {
    queues: Vec<XskQueue>,
    if_index: u32,
    first: usize,
    tx_ring_full: u64,
    tx_errors: u64,
}

impl XskPort {
    /// Opens all sockets or none. Frames are lent to the kernel from the first `rx` on, so the pool
    /// may belong to another thread.
    pub fn open(config: &XskPortConfig, umem: &Arc<Umem>) -> Result<Self, XskError> {
        let XskPortConfig { if_index, wish, rx_entries, tx_entries, .. } = *config;
        let open = |&queue| {
            let queue = QueueConfig { if_index, queue, wish, rx_entries, tx_entries };
            XskQueue::open(queue, umem)
        };
        let queues = config.queues.iter().map(open).collect::<Result<_, _>>()?;
        Ok(Self { queues, if_index, first: 0, tx_ring_full: 0, tx_errors: 0 })
    }

    pub fn if_index(&self) -> u32 {
        self.if_index
    }

    /// Queue number and socket of each queue, for the XSKMAP.
    pub fn sockets(&self) -> Vec<(u32, BorrowedFd<'_>)> {
        self.queues.iter().filter_map(|q| Some((q.queue(), q.fd()?))).collect()
    }

    /// Counts of each queue, in the order of `sockets`.
    pub fn queue_stats(&self) -> impl Iterator<Item = QueueStats> {
        self.queues.iter().map(XskQueue::stats)
    }

    /// Queue number and mode of each queue, to show and log.
    pub fn bind_modes(&self) -> Vec<(u32, BindMode)> {
        self.queues.iter().map(|q| (q.queue(), q.mode())).collect()
    }
}

fn port_stats(queue: QueueStats) -> PortStats {
    PortStats {
        rx_packets: queue.rx_packets,
        rx_bytes: queue.rx_bytes,
        tx_packets: queue.tx_packets,
        tx_bytes: queue.tx_bytes,
        rx_no_frame: queue.rx_no_frame,
        rx_errors: 0,
        tx_ring_full: 0,
        tx_errors: queue.tx_dropped,
        kernel_rx_dropped: queue.kernel_rx_dropped,
        kernel_rx_ring_full: queue.kernel_rx_ring_full,
        kernel_fill_empty: queue.kernel_fill_empty,
        invalid_descs: queue.invalid_descs,
        syscalls: queue.syscalls,
    }
}

impl Port for XskPort {
    #[inline]
    fn rx(&mut self, pool: &mut FramePool, out: &mut RxBurst) -> usize {
        let before = out.len();
        let (late, early) = self.queues.split_at_mut(self.first);
        for queue in early.iter_mut().chain(late) {
            queue.rx(pool, out);
        }
        self.first = if self.first + 1 < self.queues.len() { self.first + 1 } else { 0 };
        out.len() - before
    }

    #[inline]
    fn tx(&mut self, pool: &mut FramePool, frame: Frame) {
        let result = match self.queues.first_mut() {
            Some(queue) => queue.tx(frame),
            None => Err((frame, TxRefusal::Error)),
        };
        if let Err((frame, refusal)) = result {
            match refusal {
                TxRefusal::RingFull => self.tx_ring_full += 1,
                TxRefusal::Error => self.tx_errors += 1,
            }
            pool.free(frame);
        }
    }

    #[inline]
    fn flush(&mut self, pool: &mut FramePool) {
        if let Some(queue) = self.queues.first_mut() {
            queue.flush(pool);
        }
    }

    fn check(&mut self, pool: &mut FramePool) {
        self.queues.iter_mut().for_each(|queue| queue.check(pool));
    }

    fn poll_fds(&self, out: &mut Vec<RawFd>) {
        out.extend(self.queues.iter().filter_map(|q| Some(q.fd()?.as_raw_fd())));
    }

    fn stats(&self) -> PortStats {
        let mut sum = PortStats::default();
        self.queues.iter().for_each(|queue| sum.add(&port_stats(queue.stats())));
        sum.tx_ring_full += self.tx_ring_full;
        sum.tx_errors += self.tx_errors;
        sum
    }

    fn is_up(&self) -> bool {
        !self.queues.is_empty() && self.queues.iter().all(|q| q.state() == QueueState::Up)
    }

    fn kind(&self) -> PortKind {
        PortKind::Afxdp
    }

    fn frames_held(&self) -> usize {
        self.queues.iter().map(XskQueue::in_kernel).sum()
    }

    fn close(&mut self, pool: &mut FramePool) {
        self.queues.iter_mut().for_each(|queue| queue.close(pool));
    }
}
