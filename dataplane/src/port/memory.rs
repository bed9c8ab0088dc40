//! A port without a device: packets go in and come out through two bounded queues of bytes.
//!
//! `MemoryPort::pair` gives the port and its far end, which may live on another thread (the queues
//! have one producer and one consumer each). Replay uses two other halves: a source that repeats a
//! list of packets for ever, and a sink that only counts.

use std::os::fd::RawFd;
use std::sync::Arc;

use rtrb::{Consumer, Producer, RingBuffer};

use super::{Port, PortKind, PortStats, RxBurst};
use crate::packet::frame::Frame;
use crate::xsk::pool::FramePool;

/// The port, as a worker sees it.
pub struct MemoryPort {
    source: Source,
    sink: Sink,
    stats: PortStats,
    up: bool,
}

enum Source {
    Queue(Consumer<Vec<u8>>),
    Loop { packets: Arc<[Vec<u8>]>, next: usize },
    Nothing,
}

enum Sink {
    Queue(Producer<Vec<u8>>),
    Discard,
}

/// The far end: what a test or a replay holds.
pub struct MemoryEnd {
    inject: Producer<Vec<u8>>,
    egress: Consumer<Vec<u8>>,
}

impl MemoryEnd {
    /// Puts a packet before the port; `false` when the queue is full.
    pub fn inject(&mut self, packet: &[u8]) -> bool {
        self.inject.push(packet.to_vec()).is_ok()
    }

    /// The next packet that the switch sent to the port.
    pub fn take(&mut self) -> Option<Vec<u8>> {
        self.egress.pop().ok()
    }

    /// All packets that the switch has sent to the port.
    pub fn take_all(&mut self) -> Vec<Vec<u8>> {
        std::iter::from_fn(|| self.take()).collect()
    }

    /// Injected packets that the port has not received yet.
    pub fn waiting(&self) -> usize {
        self.inject.buffer().capacity() - self.inject.slots()
    }
}

impl MemoryPort {
    /// A port and its far end, with queues of `capacity` packets.
    pub fn pair(capacity: usize) -> (Self, MemoryEnd) {
        let (inject, rx) = RingBuffer::new(capacity);
        let (tx, egress) = RingBuffer::new(capacity);
        (Self::made_of(Source::Queue(rx), Sink::Queue(tx)), MemoryEnd { inject, egress })
    }

    /// A port that receives `packets` over and over and counts what it sends.
    pub fn looping(packets: Arc<[Vec<u8>]>) -> Self {
        Self::made_of(Source::Loop { packets, next: 0 }, Sink::Discard)
    }

    /// A port that receives nothing and counts what it sends.
    pub fn discard() -> Self {
        Self::made_of(Source::Nothing, Sink::Discard)
    }

    fn made_of(source: Source, sink: Sink) -> Self {
        Self { source, sink, stats: PortStats::default(), up: true }
    }

    /// Plays a device that goes down or comes back: a down port neither receives nor sends.
    pub fn set_up(&mut self, up: bool) {
        self.up = up;
    }

    fn rx_queue(
        queue: &mut Consumer<Vec<u8>>,
        stats: &mut PortStats,
        pool: &mut FramePool,
        out: &mut RxBurst,
    ) {
        while out.room() > 0 && !queue.is_empty() {
            let Some(frame) = pool.alloc() else {
                stats.rx_no_frame += 1;
                return;
            };
            let Ok(packet) = queue.pop() else {
                pool.free(frame);
                return;
            };
            fill(frame, &packet, stats, pool, out);
        }
    }

    fn rx_loop(
        (packets, next): (&[Vec<u8>], &mut usize),
        stats: &mut PortStats,
        pool: &mut FramePool,
        out: &mut RxBurst,
    ) {
        for _ in 0..out.room() {
            let Some(packet) = packets.get(*next) else { return };
            let Some(frame) = pool.alloc() else {
                stats.rx_no_frame += 1;
                return;
            };
            *next = if *next + 1 == packets.len() { 0 } else { *next + 1 };
            fill(frame, packet, stats, pool, out);
        }
    }
}

fn fill(
    mut frame: Frame,
    packet: &[u8],
    stats: &mut PortStats,
    pool: &mut FramePool,
    out: &mut RxBurst,
) {
    if !frame.copy_from(packet) {
        stats.rx_errors += 1;
        pool.free(frame);
        return;
    }
    match out.push(frame) {
        Ok(()) => {
            stats.rx_packets += 1;
            stats.rx_bytes += packet.len() as u64;
        }
        Err(frame) => pool.free(frame),
    }
}

impl Port for MemoryPort {
    fn rx(&mut self, pool: &mut FramePool, out: &mut RxBurst) -> usize {
        if !self.up {
            return 0;
        }
        let before = out.len();
        match &mut self.source {
            Source::Queue(queue) => Self::rx_queue(queue, &mut self.stats, pool, out),
            Source::Loop { packets, next } => {
                Self::rx_loop((packets, next), &mut self.stats, pool, out);
            }
            Source::Nothing => {}
        }
        out.len() - before
    }

    fn tx(&mut self, pool: &mut FramePool, frame: Frame) {
        if !self.up {
            self.stats.tx_errors += 1;
        } else {
            let sent = match &mut self.sink {
                Sink::Queue(queue) if queue.is_full() => false,
                Sink::Queue(queue) => queue.push(frame.bytes().to_vec()).is_ok(),
                Sink::Discard => true,
            };
            if sent {
                self.stats.tx_packets += 1;
                self.stats.tx_bytes += frame.len() as u64;
            } else {
                self.stats.tx_ring_full += 1;
            }
        }
        pool.free(frame);
    }

    fn flush(&mut self, _pool: &mut FramePool) {}

    fn poll_fds(&self, _out: &mut Vec<RawFd>) {}

    fn stats(&self) -> PortStats {
        self.stats
    }

    fn is_up(&self) -> bool {
        self.up
    }

    fn kind(&self) -> PortKind {
        PortKind::Memory
    }

    fn frames_held(&self) -> usize {
        0
    }

    fn close(&mut self, _pool: &mut FramePool) {
        self.up = false;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn packets_pass_both_ways_in_order() {
        let mut pool = FramePool::private(8).unwrap();
        let (mut port, mut end) = MemoryPort::pair(4);
        assert!((0..4u8).all(|n| end.inject(&[n; 60])) && !end.inject(&[9]));
        let mut burst = RxBurst::new();
        assert_eq!((end.waiting(), port.rx(&mut pool, &mut burst), end.waiting()), (4, 4, 0));
        burst.drain().for_each(|frame| port.tx(&mut pool, frame));
        let out: Vec<u8> = end.take_all().iter().map(|p| p[0]).collect();
        assert_eq!(out, [0, 1, 2, 3]);
        assert_eq!((port.stats().rx_bytes, port.stats().tx_packets), (240, 4));
        assert_eq!(pool.available(), 8);
    }

    #[test]
    fn full_queues_down_ports_and_large_packets_are_counted() {
        let mut pool = FramePool::private(8).unwrap();
        let (mut port, mut end) = MemoryPort::pair(1);
        for _ in 0..2 {
            let frame = pool.alloc().unwrap();
            port.tx(&mut pool, frame);
        }
        port.set_up(false);
        let frame = pool.alloc().unwrap();
        port.tx(&mut pool, frame);
        port.set_up(true);
        end.inject(&[0; 5000]);
        assert_eq!(port.rx(&mut pool, &mut RxBurst::new()), 0);
        let stats = port.stats();
        assert_eq!((stats.tx_packets, stats.tx_ring_full, stats.tx_errors), (1, 1, 1));
        assert_eq!((stats.rx_errors, pool.available()), (1, 8));
    }

    #[test]
    fn an_empty_pool_leaves_packets_waiting() {
        let mut pool = FramePool::private(1).unwrap();
        let (mut port, mut end) = MemoryPort::pair(4);
        end.inject(b"first");
        end.inject(b"second");
        let mut burst = RxBurst::new();
        assert_eq!(port.rx(&mut pool, &mut burst), 1);
        burst.clear(&mut pool);
        assert_eq!((port.rx(&mut pool, &mut burst), port.stats().rx_no_frame), (1, 1));
        assert_eq!(burst.iter().next().unwrap().bytes(), b"second");
        burst.clear(&mut pool);
    }

    #[test]
    fn a_loop_repeats_and_a_discard_counts() {
        let mut pool = FramePool::private(128).unwrap();
        let packets: Arc<[Vec<u8>]> = vec![vec![1; 60], vec![2; 60], vec![3; 60]].into();
        let mut source = MemoryPort::looping(packets);
        let mut sink = MemoryPort::discard();
        let mut burst = RxBurst::new();
        assert_eq!(source.rx(&mut pool, &mut burst), 64);
        let seen: Vec<u8> = burst.iter().map(|f| f.bytes()[0]).take(5).collect();
        assert_eq!(seen, [1, 2, 3, 1, 2]);
        burst.drain().for_each(|frame| sink.tx(&mut pool, frame));
        assert_eq!((sink.stats().tx_packets, pool.available()), (64, 128));
        let mut empty = MemoryPort::looping(Vec::new().into());
        assert_eq!(empty.rx(&mut pool, &mut burst), 0);
    }
}
