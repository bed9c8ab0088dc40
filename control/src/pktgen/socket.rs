//! AF_PACKET bursts for the generator, the sink and the testbed's captures: packet(7).
//!
//! The socket itself is the dataplane's; this adds the buffers, the waiting and the partial sends.
//! Packets that an AF_XDP socket sends or takes are seen at the far end of a veth only: the
//! copy-mode transmit path passes no packet taps, and XDP runs before them.

use std::borrow::Cow;
use std::io;
use std::os::fd::{AsFd, AsRawFd};
use std::time::Duration;

pub use sluice_dataplane::sys::packet::{BATCH, Sees};
use sluice_dataplane::sys::packet::{PacketSocket, Received};
use sluice_dataplane::sys::{if_index, poll_readable, raise_socket_buffers};

/// Asked of the kernel for each queue of a socket; the kernel may give less.
const QUEUE_BYTES: u32 = 32 << 20;

/// A raw socket bound to one device of the calling thread's network namespace, with receive
/// buffers.
#[derive(Debug)]
pub struct BurstSocket {
    socket: PacketSocket,
    slots: Vec<u8>,
    slot_bytes: usize,
    infos: [Received; BATCH],
    count: usize,
}

impl BurstSocket {
    /// Opens for `dev`. Received packets are cut at `slot_bytes`.
    pub fn open(dev: &str, sees: Sees, slot_bytes: usize) -> io::Result<Self> {
        let missing = |_| io::Error::new(io::ErrorKind::NotFound, format!("no device named {dev}"));
        let socket = PacketSocket::open(if_index(dev).map_err(missing)?, sees)?;
        raise_socket_buffers(socket.as_fd(), QUEUE_BYTES);
        let slots = if sees == Sees::Nothing { 0 } else { slot_bytes * BATCH };
        let (slots, infos) = (vec![0; slots], [Received::default(); BATCH]);
        Ok(Self { socket, slots, slot_bytes, infos, count: 0 })
    }

    /// Sends up to `BATCH` packets, in order; returns how many the kernel took, 0 when its queue is
    /// full.
    pub fn send_burst(&mut self, packets: &[&[u8]]) -> io::Result<usize> {
        match self.socket.send_batch(packets) {
            Err(error) if is_full(&error) => Ok(0),
            other => other,
        }
    }

    /// Waits until packets come or `timeout` is over, and takes up to `BATCH` of them; they are
    /// then in `packets`. Returns how many.
    pub fn receive_burst(&mut self, timeout: Duration) -> io::Result<usize> {
        self.count = 0;
        let limit_ms = timeout.as_millis().try_into().unwrap_or(i32::MAX);
        if self.slots.is_empty()
            || poll_readable(&[self.socket.as_fd().as_raw_fd()], limit_ms)? == 0
        {
            return Ok(0);
        }
        let mut slots = self.slots.chunks_exact_mut(self.slot_bytes);
        let mut buffers: [&mut [u8]; BATCH] =
            std::array::from_fn(|_| slots.next().unwrap_or_default());
        self.count = self.socket.recv_batch(&mut buffers, &mut self.infos)?;
        Ok(self.count)
    }

    /// The packets of the last `receive_burst`, in order of arrival. A VLAN tag that the kernel
    /// took out is back in its place.
    pub fn packets(&self) -> impl Iterator<Item = Cow<'_, [u8]>> {
        let slots = self.slots.chunks_exact(self.slot_bytes).zip(&self.infos).take(self.count);
        slots.map(|(slot, info)| {
            let packet = slot.get(..info.len_bytes).unwrap_or(slot);
            match info.vlan {
                Some((tpid, tci)) => Cow::Owned(with_tag(packet, tpid, tci)),
                None => Cow::Borrowed(packet),
            }
        })
    }

    /// Packets that came while the queue was full, since the last call.
    pub fn take_drops(&self) -> io::Result<u64> {
        self.socket.take_drops()
    }
}

/// The tag goes behind both addresses.
fn with_tag(packet: &[u8], tpid: u16, tci: u16) -> Vec<u8> {
    let (macs, rest) = packet.split_at(packet.len().min(12));
    [macs, &tpid.to_be_bytes(), &tci.to_be_bytes(), rest].concat()
}

fn is_full(error: &io::Error) -> bool {
    error.kind() == io::ErrorKind::WouldBlock
        || error.raw_os_error() == Some(rustix::io::Errno::NOBUFS.raw_os_error())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_tag_goes_back_behind_the_addresses() {
        let packet: Vec<u8> = (0..20).collect();
        let tagged = with_tag(&packet, 0x88a8, 0x2064);
        assert_eq!(tagged[..16], [&packet[..12], &[0x88, 0xa8, 0x20, 0x64]].concat());
        assert_eq!(tagged[16..], packet[12..]);
    }

    #[test]
    fn a_missing_device_is_named() {
        let error = BurstSocket::open("none0", Sees::Nothing, 2048).unwrap_err();
        assert_eq!(error.to_string(), "no device named none0");
    }
}
