//! `internal` and `tap` ports: a kernel interface whose wire is us.
//!
//! A frame costs one read or write each: /dev/net/tun has no batch call. A port that was found
//! empty is looked at less often, up to every 16th call, so that idle ports do not tax busy ones.
//! The interface has no offloads, so checksums are whole and no segment exceeds its MTU. It lives
//! as long as the port, wherever the user moves it.

use std::io;
use std::os::fd::{AsFd, AsRawFd, RawFd};

use super::backoff::Backoff;
use super::{Port, PortKind, PortStats, RxBurst};
use crate::packet::frame::Frame;
use crate::sys::tap::Tap;
use crate::xsk::pool::FramePool;

#[derive(Clone, Debug)]
pub struct TapConfig {
    pub name: String,
    /// `None` leaves the kernel's random one.
    pub mac: Option<[u8; 6]>,
    pub mtu: Option<u32>,
    /// Set the interface up at once.
    pub up: bool,
    /// `PortKind::Internal` or `PortKind::Tap`: the same device, shown by another name.
    pub kind: PortKind,
}

#[derive(Debug, thiserror::Error)]
#[error("cannot {what} interface {name} ({source}): {}", hint(source))]
pub struct TapError {
    what: &'static str,
    name: String,
    source: io::Error,
}

fn hint(error: &io::Error) -> &'static str {
    match error.raw_os_error() {
        Some(libc::ENOENT | libc::ENODEV) => "load the tun module: modprobe tun",
        Some(libc::EBUSY | libc::EEXIST) => "an interface of this name exists already",
        Some(libc::EPERM | libc::EACCES) => "needs CAP_NET_ADMIN",
        Some(libc::EINVAL) => "another interface has this name, or the value is out of range",
        _ => "see `sluice doctor`",
    }
}

/// The port, as a worker sees it.
pub struct TapPort {
    tap: Option<Tap>,
    if_index: u32,
    kind: PortKind,
    backoff: Backoff,
    stats: PortStats,
}

impl TapPort {
    /// Creates the interface in the calling thread's network namespace.
    pub fn create(config: &TapConfig) -> Result<Self, TapError> {
        let fail = |what| {
            let name = config.name.clone();
            move |source| TapError { what, name, source }
        };
        let tap = Tap::create(&config.name).map_err(fail("create"))?;
        if let Some(mac) = config.mac {
            tap.set_mac(mac).map_err(fail("set the MAC address of"))?;
        }
        if let Some(mtu) = config.mtu {
            tap.set_mtu(mtu).map_err(fail("set the MTU of"))?;
        }
        if config.up {
            tap.set_up().map_err(fail("set up"))?;
        }
        Ok(Self {
            if_index: tap.if_index(),
            tap: Some(tap),
            kind: config.kind,
            backoff: Backoff::default(),
            stats: PortStats::default(),
        })
    }

    /// The interface's number in the namespace where it was made.
    pub fn if_index(&self) -> u32 {
        self.if_index
    }

    /// Reads one frame; `false` when none waits or no frame is free.
    fn rx_one(&mut self, pool: &mut FramePool, out: &mut RxBurst) -> bool {
        let Some(tap) = &self.tap else { return false };
        let Some(mut frame) = pool.alloc() else {
            self.stats.rx_no_frame += 1;
            return false;
        };
        let room = frame.tailroom();
        frame.set_len(room);
        self.stats.syscalls += 1;
        let result = tap.recv(frame.bytes_mut());
        match result {
            // The kernel cuts a longer frame off without a word: one that fills the chunk is
            // suspect.
            Ok(len) if len < room => {
                frame.set_len(len);
                self.stats.rx_packets += 1;
                self.stats.rx_bytes += len as u64;
                out.push(frame).unwrap_or_else(|frame| pool.free(frame));
                true
            }
            Ok(_) => {
                self.stats.rx_errors += 1;
                pool.free(frame);
                true
            }
            Err(error) => {
                pool.free(frame);
                self.gone_if(&error);
                false
            }
        }
    }

    /// The interface was deleted: the descriptor is of no use any more.
    fn gone_if(&mut self, error: &io::Error) {
        if error.raw_os_error() == Some(libc::EBADFD) {
            self.tap = None;
        }
    }
}

impl Port for TapPort {
    fn rx(&mut self, pool: &mut FramePool, out: &mut RxBurst) -> usize {
        if !self.backoff.due() {
            return 0;
        }
        let before = out.len();
        while out.room() > 0 && self.rx_one(pool, out) {}
        let count = out.len() - before;
        self.backoff.found(count);
        count
    }

    fn tx(&mut self, pool: &mut FramePool, frame: Frame) {
        let result = match &self.tap {
            Some(tap) => {
                self.stats.syscalls += 1;
                tap.send(frame.bytes())
            }
            None => Err(io::Error::from_raw_os_error(libc::ENODEV)),
        };
        match result {
            Ok(_) => {
                self.stats.tx_packets += 1;
                self.stats.tx_bytes += frame.len() as u64;
            }
            Err(e) if e.kind() == io::ErrorKind::WouldBlock => self.stats.tx_ring_full += 1,
            // EIO: the interface is set down.
            Err(error) => {
                self.stats.tx_errors += 1;
                self.gone_if(&error);
            }
        }
        pool.free(frame);
    }

    fn flush(&mut self, _pool: &mut FramePool) {}

    fn poll_fds(&self, out: &mut Vec<RawFd>) {
        out.extend(self.tap.as_ref().map(|tap| tap.as_fd().as_raw_fd()));
    }

    fn stats(&self) -> PortStats {
        self.stats
    }

    fn is_up(&self) -> bool {
        self.tap.is_some()
    }

    fn kind(&self) -> PortKind {
        self.kind
    }

    fn frames_held(&self) -> usize {
        0
    }

    fn close(&mut self, _pool: &mut FramePool) {
        self.tap = None;
    }
}
