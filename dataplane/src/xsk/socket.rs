//! One AF_XDP socket: one queue of one device, with its four rings.
//!
//! Making one: register the packet memory, size and map the rings, bind to (device, queue).
//! Zero-copy is tried first when wished, then copy mode, each on a fresh socket, as a failed bind
//! leaves half a state behind. Whether copy mode runs natively in the driver or generically on
//! sk_buffs is decided by how the XDP program is attached, which is control's work.
//!
//! Wake-ups: with `need_wakeup` the kernel says in a flag of the ring when it wants one. In copy
//! mode it always does for tx, as sending *is* the system call. One call sends up to a budget of
//! descriptors (32; raised here where the kernel can, 6.17+), so a batch costs one call.
//!
//! Frames given to the kernel are noted in a bit set. A descriptor that comes back is believed only
//! when its bit is set, so no chunk can get two owners whatever the rings hold; and after closing,
//! the set is exactly what is to be recovered. Closing: unmap the rings first (a mapping keeps the
//! socket alive), then close; the kernel returns from that when no packet is on its way into our
//! memory.
//!
//! # Boundary of the unsafe code
//! Inside: making frames of descriptors, giving chunks back to the pool. Both only after taking the
//! chunk's bit out of the set, and a bit gets there only by giving up a frame or a free number.

#![allow(unsafe_code, reason = "island: makes frames from ring descriptors")]

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;
use std::time::Duration;

use super::burst::RxBurst;
use super::held::ChunkSet;
use super::pool::FramePool;
use super::ring::{ConsumerRing, ProducerRing};
use super::umem::Umem;
use crate::limits::{POOL_RESERVE_FRAMES, REFILL_FRAMES, TX_BUDGET_FRAMES};
use crate::packet::frame::Frame;
use crate::sys::xdp::{self, Ring, xdp_desc};

/// Shortest frame we give the kernel: an Ethernet header.
const TX_MIN_BYTES: usize = 14;

/// What the kernel made of a bind.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BindMode {
    ZeroCopy,
    Copy,
}

/// What is wished of a bind.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum BindWish {
    /// Zero-copy if the driver can, else copy.
    #[default]
    Best,
    Copy,
    /// Zero-copy or an error.
    ZeroCopy,
}

#[derive(Clone, Copy, Debug)]
pub struct QueueConfig {
    pub if_index: u32,
    pub queue: u32,
    pub wish: BindWish,
    /// Entries of the fill and rx rings: frames that wait for packets. A power of two.
    pub rx_entries: u32,
    /// Entries of the tx and completion rings. A power of two.
    pub tx_entries: u32,
}

#[derive(Debug, thiserror::Error)]
pub enum XskError {
    #[error("no AF_XDP socket ({0}): needs CAP_NET_RAW and a kernel with CONFIG_XDP_SOCKETS")]
    Socket(io::Error),
    #[error("cannot register packet memory ({0}): raise RLIMIT_MEMLOCK or use fewer frames")]
    Register(io::Error),
    #[error("{entries} ring entries are not possible ({source}): use a power of two up to 32768")]
    Ring { entries: u32, source: io::Error },
    #[error(
        "cannot bind to queue {queue} of interface {if_index} in {mode:?} mode ({source}): {}",
        bind_hint(source)
    )]
    Bind { if_index: u32, queue: u32, mode: BindMode, source: io::Error },
}

fn bind_hint(error: &io::Error) -> &'static str {
    match error.raw_os_error() {
        Some(libc::EBUSY) => "another program has an AF_XDP socket on this queue",
        Some(libc::EINVAL) => "the device has no such queue, or its MTU does not fit a frame",
        Some(libc::ENODEV) => "there is no such device in this network namespace",
        Some(libc::ENETDOWN) => "set the device up first",
        Some(libc::EOPNOTSUPP) => "the driver cannot do this mode, use copy mode",
        _ => "see `sluice doctor`",
    }
}

/// Why a frame was not queued; the caller gets it back.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum TxRefusal {
    RingFull,
    /// The device is down or gone, or the frame is too short.
    Error,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum QueueState {
    Up,
    /// The device is set down; the socket works again when it is up.
    Down,
    /// The device was removed, or the socket is closed.
    Gone,
}

/// Counts of one queue. The port's `PortStats` has the same names, with the same meaning.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct QueueStats {
    pub rx_packets: u64,
    pub rx_bytes: u64,
    pub tx_packets: u64,
    pub tx_bytes: u64,
    /// The fill ring ran empty and the pool had no frame to spare.
    pub rx_no_frame: u64,
    /// Taken by the kernel, dropped by the device.
    pub tx_dropped: u64,
    pub kernel_rx_dropped: u64,
    pub kernel_rx_ring_full: u64,
    pub kernel_fill_empty: u64,
    pub invalid_descs: u64,
    pub syscalls: u64,
}

/// Socket and rings. Rings come before the socket: dropped in this order.
struct Open {
    fill: ProducerRing<u64>,
    completion: ConsumerRing<u64>,
    rx: ConsumerRing<xdp_desc>,
    tx: ProducerRing<xdp_desc>,
    fd: OwnedFd,
}

/// One queue of a device.
pub struct XskQueue {
    open: Option<Open>,
    umem: Arc<Umem>,
    held: ChunkSet,
    state: QueueState,
    mode: BindMode,
    queue: u32,
    /// Our own counts, and the kernel's as of the closing.
    stats: QueueStats,
}

impl XskQueue {
    /// Opens, in the calling thread's network namespace. Frames are lent to the kernel from the
    /// first `rx` on.
    pub fn open(config: QueueConfig, umem: &Arc<Umem>) -> Result<Self, XskError> {
        let ladder: &[BindMode] = match config.wish {
            BindWish::Best => &[BindMode::ZeroCopy, BindMode::Copy],
            BindWish::Copy => &[BindMode::Copy],
            BindWish::ZeroCopy => &[BindMode::ZeroCopy],
        };
        let mut result = Self::open_as(&config, umem, ladder[0]);
        for &mode in &ladder[1..] {
            if result.is_err() {
                result = Self::open_as(&config, umem, mode);
            }
        }
        let (open, mode) = result?;
        Ok(Self {
            open: Some(open),
            umem: Arc::clone(umem),
            held: ChunkSet::new(umem.frames()),
            state: QueueState::Up,
            mode,
            queue: config.queue,
            stats: QueueStats::default(),
        })
    }

    fn open_as(
        config: &QueueConfig,
        umem: &Umem,
        mode: BindMode,
    ) -> Result<(Open, BindMode), XskError> {
        let fd = xdp::open().map_err(XskError::Socket)?;
        let (base, len) = umem.area();
        xdp::register_umem(fd.as_fd(), base, len as u64, umem.frame_size_bytes())
            .map_err(XskError::Register)?;
        let open = map_rings(fd, config)?;
        let flag = match mode {
            BindMode::ZeroCopy => xdp::XDP_ZEROCOPY,
            BindMode::Copy => xdp::XDP_COPY,
        };
        bind_patiently(&open.fd, config, flag | xdp::XDP_USE_NEED_WAKEUP).map_err(|source| {
            let QueueConfig { if_index, queue, .. } = *config;
            XskError::Bind { if_index, queue, mode, source }
        })?;
        // Optional, and useless in zero-copy mode.
        xdp::set_tx_budget(open.fd.as_fd(), TX_BUDGET_FRAMES.min(config.tx_entries));
        Ok((open, mode))
    }

    /// The socket, for the XSKMAP and for poll. `None` when closed.
    pub fn fd(&self) -> Option<BorrowedFd<'_>> {
        self.open.as_ref().map(|open| open.fd.as_fd())
    }

    pub fn queue(&self) -> u32 {
        self.queue
    }

    pub fn mode(&self) -> BindMode {
        self.mode
    }

    pub fn state(&self) -> QueueState {
        self.state
    }

    /// Frames with the kernel: in the rings, or in packets on their way.
    pub fn in_kernel(&self) -> usize {
        self.held.len()
    }

    /// Receives up to the free room of `out`, then lends the kernel new frames.
    pub(crate) fn rx(&mut self, pool: &mut FramePool, out: &mut RxBurst) -> usize {
        let Some(open) = &mut self.open else { return 0 };
        let (shift, size) = (self.umem.frame_shift(), self.umem.frame_size_bytes());
        let mut count = 0;
        for _ in 0..open.rx.ready(out.room() as u32) {
            let Some(desc) = open.rx.pop() else { break };
            let index = (desc.addr >> shift) as u32;
            let head = desc.addr as u32 & (size - 1);
            if !self.held.take(index) {
                self.stats.invalid_descs += 1;
                continue;
            }
            if desc.len > size - head {
                self.stats.invalid_descs += 1;
                // SAFETY: its bit was set: the kernel had this chunk, and has given it back.
                unsafe { pool.free_index(index) };
                continue;
            }
            // SAFETY: as above, so the chunk is ours; head and len were just checked.
            let frame = unsafe { self.umem.frame(index, head as u16, desc.len as u16) };
            frame.prefetch(0);
            self.stats.rx_bytes += u64::from(desc.len);
            match out.push(frame) {
                Ok(()) => count += 1,
                Err(frame) => pool.free(frame),
            }
        }
        open.rx.release();
        self.stats.rx_packets += count as u64;
        self.refill(pool);
        count
    }

    /// Lends the kernel frames for packets to come, in batches, and leaves the pool a reserve.
    fn refill(&mut self, pool: &mut FramePool) {
        let Some(open) = &mut self.open else { return };
        let free = open.fill.free(REFILL_FRAMES);
        if free < REFILL_FRAMES {
            return;
        }
        let spare = pool.available().saturating_sub(POOL_RESERVE_FRAMES);
        let shift = self.umem.frame_shift();
        for _ in 0..spare.min(free as usize) {
            let Some(index) = pool.alloc_index() else { break };
            self.held.insert(index);
            // There is room, as `free` counted it.
            open.fill.push(u64::from(index) << shift);
        }
        if spare == 0 && free == open.fill.entries() {
            self.stats.rx_no_frame += 1;
        }
        open.fill.publish();
        if open.fill.needs_wakeup() {
            self.stats.syscalls += 1;
            // Errors show at the next check.
            let _ = xdp::wake_rx(open.fd.as_fd());
        }
    }

    /// Queues a frame.
    #[inline]
    pub(crate) fn tx(&mut self, frame: Frame) -> Result<(), (Frame, TxRefusal)> {
        let Some(open) = &mut self.open else { return Err((frame, TxRefusal::Error)) };
        // The kernel drops a descriptor it finds wrong without completing it: give it none.
        let usable = frame.len() >= TX_MIN_BYTES && self.umem.owns(&frame);
        if !usable || self.state != QueueState::Up {
            return Err((frame, TxRefusal::Error));
        }
        let index = frame.chunk_index();
        let addr = (u64::from(index) << self.umem.frame_shift()) + u64::from(frame.head());
        let len = frame.len();
        if !open.tx.push(xdp_desc { addr, len: len as u32, options: 0 }) {
            return Err((frame, TxRefusal::RingFull));
        }
        self.held.insert(index);
        self.stats.tx_packets += 1;
        self.stats.tx_bytes += len as u64;
        Ok(())
    }

    /// Shows the kernel what was queued, wakes it, and takes sent frames back.
    pub(crate) fn flush(&mut self, pool: &mut FramePool) {
        let Some(open) = &mut self.open else { return };
        open.tx.publish();
        if self.state == QueueState::Up {
            self.kick();
        }
        self.reap(pool);
        if self.state == QueueState::Gone {
            self.close(pool);
        }
    }

    /// Takes the frames of sent packets back.
    fn reap(&mut self, pool: &mut FramePool) {
        let Some(open) = &mut self.open else { return };
        let shift = self.umem.frame_shift();
        while let Some(addr) = open.completion.pop() {
            let index = (addr >> shift) as u32;
            if self.held.take(index) {
                // SAFETY: its bit was set: the kernel had this chunk, and is done with it.
                unsafe { pool.free_index(index) };
            } else {
                self.stats.invalid_descs += 1;
            }
        }
        open.completion.release();
    }

    /// Wakes the kernel for tx until all is taken or a call makes no progress; what is left goes
    /// with the next flush.
    fn kick(&mut self) {
        let Some(open) = &mut self.open else { return };
        let mut waiting = open.tx.waiting();
        while waiting > 0 && open.tx.needs_wakeup() {
            self.stats.syscalls += 1;
            let result = xdp::wake_tx(open.fd.as_fd());
            match result.map_err(|e| e.raw_os_error()) {
                // Copy mode: the device dropped one packet, and the rest waits.
                Err(Some(libc::EBUSY)) if self.mode == BindMode::Copy => self.stats.tx_dropped += 1,
                Err(Some(libc::ENETDOWN)) => self.state = QueueState::Down,
                Err(Some(libc::ENXIO | libc::ENODEV | libc::EBADF)) => {
                    self.state = QueueState::Gone;
                }
                Ok(()) | Err(_) => {}
            }
            let left = open.tx.waiting();
            if left == waiting || self.state != QueueState::Up {
                break;
            }
            waiting = left;
        }
    }

    /// Looks whether the device is there and up; when it is gone, recovers all frames. One system
    /// call: about every 100 ms is right.
    pub(crate) fn check(&mut self, pool: &mut FramePool) {
        let Some(open) = &mut self.open else { return };
        self.stats.syscalls += 1;
        // The kernel checks device and state first, whether or not there is something to send.
        self.state = match xdp::wake_tx(open.fd.as_fd()).map_err(|e| e.raw_os_error()) {
            Err(Some(libc::ENETDOWN)) => QueueState::Down,
            Err(Some(libc::ENXIO | libc::ENODEV | libc::EBADF)) => QueueState::Gone,
            Ok(()) | Err(_) => QueueState::Up,
        };
        if self.state == QueueState::Gone {
            self.close(pool);
        }
    }

    /// Closes the socket and brings all its frames back to the pool. Packets in the rings are lost.
    ///
    /// A process that is being forked at this moment holds a copy of the socket until its exec; so
    /// control takes the socket out of the XSKMAP before it lets a port be closed.
    pub fn close(&mut self, pool: &mut FramePool) {
        self.state = QueueState::Gone;
        if self.open.is_none() {
            return;
        }
        self.reap(pool);
        self.stats = self.stats();
        self.open = None;
        if self.mode == BindMode::ZeroCopy {
            // The driver takes its queue down behind our back (a deferred work of the kernel's) and
            // may write into frames until then. Rare, on a change of configuration only.
            std::thread::sleep(Duration::from_millis(100));
        }
        for index in self.held.drain() {
            // SAFETY: its bit was set: we lent this chunk to a socket that no longer exists.
            unsafe { pool.free_index(index) };
        }
    }

    /// Our counts with the kernel's added.
    pub fn stats(&self) -> QueueStats {
        let mut stats = self.stats;
        let kernel = self.open.as_ref().and_then(|open| xdp::statistics(open.fd.as_fd()).ok());
        if let Some(kernel) = kernel {
            stats.kernel_rx_dropped += kernel.rx_dropped;
            stats.kernel_rx_ring_full += kernel.rx_ring_full;
            stats.kernel_fill_empty += kernel.rx_fill_ring_empty_descs;
            stats.invalid_descs += kernel.rx_invalid_descs + kernel.tx_invalid_descs;
        }
        stats
    }
}

fn map_rings(fd: OwnedFd, config: &QueueConfig) -> Result<Open, XskError> {
    let (rx_entries, tx_entries) = (config.rx_entries, config.tx_entries);
    let sizes = [
        (Ring::Fill, rx_entries),
        (Ring::Completion, tx_entries),
        (Ring::Rx, rx_entries),
        (Ring::Tx, tx_entries),
    ];
    for (ring, entries) in sizes {
        xdp::set_ring_size(fd.as_fd(), ring, entries)
            .map_err(|source| XskError::Ring { entries, source })?;
    }
    let wrap = |entries| move |source| XskError::Ring { entries, source };
    let at = xdp::ring_offsets(fd.as_fd()).map_err(wrap(rx_entries))?;
    let map = |ring, desc: u64, entries: u32, slot: usize| {
        xdp::map_ring(fd.as_fd(), ring, desc as usize + entries as usize * slot)
            .map_err(wrap(entries))
    };
    let odd = |entries| move || wrap(entries)(io::Error::other("ring layout not understood"));
    let slot = size_of::<xdp_desc>();
    let fill = map(Ring::Fill, at.fr.desc, rx_entries, 8)?;
    let completion = map(Ring::Completion, at.cr.desc, tx_entries, 8)?;
    let rx = map(Ring::Rx, at.rx.desc, rx_entries, slot)?;
    let tx = map(Ring::Tx, at.tx.desc, tx_entries, slot)?;
    Ok(Open {
        fill: ProducerRing::new(fill, &at.fr, rx_entries).ok_or_else(odd(rx_entries))?,
        completion: ConsumerRing::new(completion, &at.cr, tx_entries)
            .ok_or_else(odd(tx_entries))?,
        rx: ConsumerRing::new(rx, &at.rx, rx_entries).ok_or_else(odd(rx_entries))?,
        tx: ProducerRing::new(tx, &at.tx, tx_entries).ok_or_else(odd(tx_entries))?,
        fd,
    })
}

/// Binds; a queue whose last socket was closed a moment ago stays busy until the kernel has cleaned
/// up, so a busy one is tried again for 100 ms.
fn bind_patiently(fd: &OwnedFd, config: &QueueConfig, flags: u16) -> io::Result<()> {
    let mut tries_left = 20;
    loop {
        let result = xdp::bind(fd.as_fd(), config.if_index, config.queue, flags);
        match result {
            Err(e) if e.raw_os_error() == Some(libc::EBUSY) && tries_left > 0 => {
                tries_left -= 1;
                std::thread::sleep(Duration::from_millis(5));
            }
            other => return other,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_wrong_device_or_ring_is_refused_with_a_hint() {
        let umem = Umem::new(super::super::umem::UmemConfig::default()).unwrap();
        let config = QueueConfig {
            if_index: 0x7fff_ffff,
            queue: 0,
            wish: BindWish::Copy,
            rx_entries: 64,
            tx_entries: 64,
        };
        let text = match XskQueue::open(config, &umem) {
            Err(XskError::Socket(e)) => {
                println!("skipped: needs root (no AF_XDP socket: {e})");
                return;
            }
            Err(e) => e.to_string(),
            Ok(_) => panic!("bound to a device that does not exist"),
        };
        assert!(text.contains("no such device"), "{text}");
        let odd = XskQueue::open(QueueConfig { rx_entries: 100, ..config }, &umem);
        let text = odd.err().map(|e| e.to_string()).unwrap_or_default();
        assert!(text.contains("100 ring entries"), "{text}");
    }
}
