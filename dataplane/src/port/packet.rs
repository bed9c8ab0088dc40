//! `packet` ports: AF_PACKET, for devices that AF_XDP cannot serve.
//!
//! Everything is copied, and the device's own stack sees the packets too. One system call moves up
//! to 32 frames. VLAN tags that the kernel took out are put back. Checksums may be partial and
//! segments longer than the MTU, as for every local listener; a frame longer than ours is dropped
//! and counted.

use std::io;
use std::os::fd::{AsFd, AsRawFd, RawFd};

use super::backoff::Backoff;
use super::{Port, PortKind, PortStats, RxBurst};
use crate::packet::frame::Frame;
use crate::sys::packet::{BATCH, PacketSocket, Received, Sees};
use crate::sys::raise_socket_buffers;
use crate::xsk::pool::FramePool;

/// Memory of the socket for waiting frames.
const SOCKET_BUFFER_BYTES: u32 = 4 << 20;

/// Bytes of a VLAN tag, and where it goes: behind both MAC addresses.
const VLAN_BYTES: usize = 4;
const MACS_BYTES: usize = 12;

/// The port, as a worker sees it.
pub struct PacketPort {
    socket: Option<PacketSocket>,
    queued: [Option<Frame>; BATCH],
    queued_len: usize,
    backoff: Backoff,
    stats: PortStats,
}

impl PacketPort {
    /// Opens the device in the calling thread's network namespace.
    pub fn open(if_index: u32) -> io::Result<Self> {
        let socket = PacketSocket::open(if_index, Sees::Entering)?;
        raise_socket_buffers(socket.as_fd(), SOCKET_BUFFER_BYTES);
        Ok(Self {
            socket: Some(socket),
            queued: [const { None }; BATCH],
            queued_len: 0,
            backoff: Backoff::default(),
            stats: PortStats::default(),
        })
    }

    /// One receive call. Returns whether the kernel may have more.
    fn rx_batch(&mut self, pool: &mut FramePool, out: &mut RxBurst) -> bool {
        let Some(socket) = &self.socket else { return false };
        let want = out.room().min(BATCH);
        let mut frames = [const { None }; BATCH];
        let mut have = 0;
        for slot in frames.iter_mut().take(want) {
            let Some(mut frame) = pool.alloc() else { break };
            frame.set_len(frame.tailroom());
            *slot = Some(frame);
            have += 1;
        }
        if have == 0 {
            self.stats.rx_no_frame += u64::from(want > 0);
            return false;
        }
        let mut infos = [Received::default(); BATCH];
        let mut slots = frames.iter_mut();
        let mut buffers: [&mut [u8]; BATCH] = std::array::from_fn(|_| {
            slots.next().and_then(Option::as_mut).map_or(&mut [][..], Frame::bytes_mut)
        });
        self.stats.syscalls += 1;
        let result = socket.recv_batch(buffers.get_mut(..have).unwrap_or_default(), &mut infos);
        let came = *result.as_ref().unwrap_or(&0);
        for (i, (frame, info)) in frames.iter_mut().zip(&infos).enumerate() {
            let Some(mut frame) = frame.take() else { continue };
            if i >= came {
                pool.free(frame);
            } else if finish(&mut frame, info) {
                self.stats.rx_packets += 1;
                self.stats.rx_bytes += frame.len() as u64;
                out.push(frame).unwrap_or_else(|frame| pool.free(frame));
            } else {
                self.stats.rx_errors += 1;
                pool.free(frame);
            }
        }
        if let Err(error) = result {
            self.gone_if(&error);
        }
        came == have
    }

    /// Sends what is queued. A frame that the device refuses is dropped, those behind it go on.
    fn send_queued(&mut self, pool: &mut FramePool) {
        let len = std::mem::take(&mut self.queued_len);
        let mut sent = 0;
        while sent < len {
            let Some(socket) = &self.socket else { break };
            let packets: [&[u8]; BATCH] = std::array::from_fn(|i| {
                self.queued.get(sent + i).and_then(Option::as_ref).map_or(&[][..], Frame::bytes)
            });
            self.stats.syscalls += 1;
            match socket.send_batch(packets.get(..len - sent).unwrap_or_default()) {
                Ok(n) if n > 0 => {
                    let done = packets.iter().take(n);
                    self.stats.tx_bytes += done.map(|p| p.len() as u64).sum::<u64>();
                    self.stats.tx_packets += n as u64;
                    sent += n;
                }
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => {
                    self.stats.tx_ring_full += (len - sent) as u64;
                    sent = len;
                }
                Ok(_) => sent += 1,
                Err(error) => {
                    self.stats.tx_errors += 1;
                    sent += 1;
                    self.gone_if(&error);
                }
            }
        }
        self.stats.tx_errors += (len - sent) as u64;
        self.queued.iter_mut().filter_map(Option::take).for_each(|frame| pool.free(frame));
    }

    /// The device was deleted: the socket is bound to nothing any more.
    fn gone_if(&mut self, error: &io::Error) {
        if matches!(error.raw_os_error(), Some(libc::ENXIO | libc::ENODEV)) {
            self.socket = None;
        }
    }
}

/// Sets the length and puts a VLAN tag back; `false` when the frame is not whole.
fn finish(frame: &mut Frame, info: &Received) -> bool {
    if info.truncated || !frame.set_len(info.len_bytes) {
        return false;
    }
    let Some((tpid, tci)) = info.vlan else { return true };
    if frame.len() < MACS_BYTES || frame.prepend(VLAN_BYTES).is_none() {
        return false;
    }
    let bytes = frame.bytes_mut();
    bytes.copy_within(VLAN_BYTES..VLAN_BYTES + MACS_BYTES, 0);
    let tag = (u32::from(tpid) << 16 | u32::from(tci)).to_be_bytes();
    if let Some(place) = bytes.get_mut(MACS_BYTES..MACS_BYTES + VLAN_BYTES) {
        place.copy_from_slice(&tag);
    }
    true
}

impl Port for PacketPort {
    fn rx(&mut self, pool: &mut FramePool, out: &mut RxBurst) -> usize {
        if !self.backoff.due() {
            return 0;
        }
        let before = out.len();
        while out.room() > 0 && self.rx_batch(pool, out) {}
        let count = out.len() - before;
        self.backoff.found(count);
        count
    }

    fn tx(&mut self, pool: &mut FramePool, frame: Frame) {
        if self.queued_len == BATCH {
            self.send_queued(pool);
        }
        if let Some(slot) = self.queued.get_mut(self.queued_len) {
            *slot = Some(frame);
            self.queued_len += 1;
        }
    }

    fn flush(&mut self, pool: &mut FramePool) {
        if self.queued_len > 0 {
            self.send_queued(pool);
        }
    }

    fn poll_fds(&self, out: &mut Vec<RawFd>) {
        out.extend(self.socket.as_ref().map(|socket| socket.as_fd().as_raw_fd()));
    }

    fn stats(&self) -> PortStats {
        self.stats
    }

    fn is_up(&self) -> bool {
        self.socket.is_some()
    }

    fn kind(&self) -> PortKind {
        PortKind::Packet
    }

    fn frames_held(&self) -> usize {
        self.queued_len
    }

    fn close(&mut self, pool: &mut FramePool) {
        self.queued.iter_mut().filter_map(Option::take).for_each(|frame| pool.free(frame));
        self.queued_len = 0;
        self.socket = None;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_vlan_tag_goes_back_behind_the_macs() {
        let mut pool = FramePool::private(1).unwrap();
        let mut frame = pool.alloc().unwrap();
        let mut packet = [0u8; 60];
        packet[..14].copy_from_slice(b"ddddddssssss\x08\x00");
        assert!(frame.copy_from(&packet));
        let info = Received { len_bytes: 60, truncated: false, vlan: Some((0x88a8, 0x2064)) };
        assert!(finish(&mut frame, &info));
        assert_eq!(&frame.bytes()[..18], b"ddddddssssss\x88\xa8\x20\x64\x08\x00");
        assert_eq!(frame.len(), 64);
        assert!(!finish(&mut frame, &Received { len_bytes: 11, ..info }));
        assert!(!finish(&mut frame, &Received { truncated: true, ..info }));
        pool.free(frame);
    }
}
