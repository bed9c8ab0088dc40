//! A device to send by and to receive from: AF_PACKET, or AF_XDP with sluice's own rings.
//!
//! AF_XDP takes the whole device while it receives (the XDP program `steer` in mode `all`); to send
//! it needs no program.

use std::io;
use std::os::fd::RawFd;
use std::time::Duration;

use sluice_dataplane::limits::RING_ENTRIES;
use sluice_dataplane::port::xsk::{XskPort, XskPortConfig};
use sluice_dataplane::port::{Port, RxBurst};
use sluice_dataplane::sys::{if_index, poll_readable};
use sluice_dataplane::xsk::pool::FramePool;
use sluice_dataplane::xsk::umem::{Umem, UmemConfig};

use super::socket::{BATCH, BurstSocket, Sees};
use crate::attach::{Steer, SteerConfig};

/// How the device is opened.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, clap::ValueEnum)]
pub enum DeviceKind {
    /// AF_PACKET: works on every device.
    #[default]
    Packet,
    /// AF_XDP on queue 0.
    Xdp,
}

impl DeviceKind {
    pub fn name(self) -> &'static str {
        match self {
            Self::Packet => "packet",
            Self::Xdp => "xdp",
        }
    }
}

/// An open device.
#[derive(Debug)]
pub enum Device {
    Packet(Box<BurstSocket>),
    Xdp(Box<XdpDevice>),
}

/// Longer packets are cut by the sink; the probe is at the front.
const SLOT_BYTES: usize = 2048;

impl Device {
    pub fn open(dev: &str, kind: DeviceKind, receives: bool) -> io::Result<Self> {
        Ok(match kind {
            DeviceKind::Packet => {
                let sees = if receives { Sees::Entering } else { Sees::Nothing };
                Self::Packet(Box::new(BurstSocket::open(dev, sees, SLOT_BYTES)?))
            }
            DeviceKind::Xdp => Self::Xdp(Box::new(XdpDevice::open(dev, receives)?)),
        })
    }

    /// Sends up to `BATCH` packets in order; returns how many were taken, 0 when the device is
    /// full.
    pub fn send_burst(&mut self, packets: &[&[u8]]) -> io::Result<usize> {
        match self {
            Self::Packet(socket) => socket.send_burst(packets),
            Self::Xdp(device) => Ok(device.send_burst(packets)),
        }
    }

    /// Waits for packets at most `timeout`, hands each to `take`; returns how many came.
    pub fn receive_burst(
        &mut self,
        timeout: Duration,
        take: &mut dyn FnMut(&[u8]),
    ) -> io::Result<usize> {
        match self {
            Self::Packet(socket) => {
                let count = socket.receive_burst(timeout)?;
                socket.packets().for_each(|packet| take(&packet));
                Ok(count)
            }
            Self::Xdp(device) => device.receive_burst(timeout, take),
        }
    }

    /// Packets that came while we were too slow, since the last call.
    pub fn take_drops(&mut self) -> io::Result<u64> {
        match self {
            Self::Packet(socket) => socket.take_drops(),
            Self::Xdp(device) => Ok(device.take_drops()),
        }
    }

    /// Waits until the device has sent what it took, at most `limit`.
    pub fn drain(&mut self, limit: Duration) {
        if let Self::Xdp(device) = self {
            device.drain(limit);
        }
    }
}

/// One AF_XDP socket with a UMEM of its own.
pub struct XdpDevice {
    steer: Option<Steer>,
    port: XskPort,
    pool: FramePool,
    burst: RxBurst,
    poll_fds: Vec<RawFd>,
    drops_told: u64,
}

impl std::fmt::Debug for XdpDevice {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("XdpDevice").field("if_index", &self.port.if_index()).finish_non_exhaustive()
    }
}

const RX_ENTRIES: u32 = 4096;
/// A full fill ring, a full tx ring, and the rest in hands.
const FRAMES: u32 = 8192;
/// Queued but unsent packets at most: half a tx ring, so that none is dropped for a full one.
const IN_FLIGHT_MAX: usize = RING_ENTRIES as usize / 2;

impl XdpDevice {
    fn open(dev: &str, receives: bool) -> io::Result<Self> {
        let missing = |_| io::Error::new(io::ErrorKind::NotFound, format!("no device named {dev}"));
        let index = if_index(dev).map_err(missing)?;
        let config = UmemConfig { frames: FRAMES, ..UmemConfig::default() };
        let umem = Umem::new(config).map_err(io::Error::other)?;
        let mut pool = FramePool::new(&umem, FRAMES).map_err(io::Error::other)?;
        let rings = XskPortConfig { rx_entries: RX_ENTRIES, ..XskPortConfig::new(index, vec![0]) };
        let mut port = XskPort::open(&rings, &umem).map_err(io::Error::other)?;
        let mut poll_fds = Vec::new();
        port.poll_fds(&mut poll_fds);
        let (mut steer, mut burst) = (None, RxBurst::new());
        if receives {
            // Lends the kernel its frames before the first packet comes.
            port.rx(&mut pool, &mut burst);
            let attached = Steer::attach(index, &SteerConfig::all(false));
            let mut attached = attached.map_err(io::Error::other)?;
            for (queue, socket) in port.sockets() {
                attached.set_socket(queue, socket).map_err(io::Error::other)?;
            }
            steer = Some(attached);
        }
        Ok(Self { steer, port, pool, burst, poll_fds, drops_told: 0 })
    }

    fn send_burst(&mut self, packets: &[&[u8]]) -> usize {
        if self.port.frames_held() > IN_FLIGHT_MAX {
            self.port.flush(&mut self.pool);
            return 0;
        }
        let mut taken = 0;
        for packet in packets.iter().take(BATCH) {
            let Some(mut frame) = self.pool.alloc() else { break };
            if !frame.copy_from(packet) {
                self.pool.free(frame);
                break;
            }
            self.port.tx(&mut self.pool, frame);
            taken += 1;
        }
        self.port.flush(&mut self.pool);
        taken
    }

    fn receive_burst(
        &mut self,
        timeout: Duration,
        take: &mut dyn FnMut(&[u8]),
    ) -> io::Result<usize> {
        let mut count = self.port.rx(&mut self.pool, &mut self.burst);
        if count == 0 {
            let limit_ms = timeout.as_millis().try_into().unwrap_or(i32::MAX);
            poll_readable(&self.poll_fds, limit_ms)?;
            count = self.port.rx(&mut self.pool, &mut self.burst);
        }
        for frame in self.burst.drain() {
            take(frame.bytes());
            self.pool.free(frame);
        }
        self.port.flush(&mut self.pool);
        Ok(count)
    }

    fn take_drops(&mut self) -> u64 {
        let stats = self.port.stats();
        // An empty fill ring is among the drops already.
        let all = stats.kernel_rx_dropped + stats.kernel_rx_ring_full;
        all - std::mem::replace(&mut self.drops_told, all)
    }

    fn drain(&mut self, limit: Duration) {
        let end = std::time::Instant::now() + limit;
        while self.port.frames_held() > 0 && std::time::Instant::now() < end {
            self.port.flush(&mut self.pool);
            std::thread::sleep(Duration::from_micros(200));
        }
    }
}

impl Drop for XdpDevice {
    fn drop(&mut self) {
        // The program first: frames stop coming before their socket goes.
        self.steer = None;
        self.port.close(&mut self.pool);
    }
}
