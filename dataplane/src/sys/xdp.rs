//! AF_XDP sockets: the options, the offsets of the rings, the wake-ups.
//!
//! Source: include/uapi/linux/if_xdp.h and net/xdp/xsk.c of Linux 6.18.

#![allow(unsafe_code, reason = "island: system calls")]

use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, OwnedFd};

use super::{Mapping, cvt, get_option, set_option, socket};

/// Linux 6.17 and later: descriptors that one wake-up sends in copy mode. Too new for libc.
const XDP_MAX_TX_SKB_BUDGET: i32 = 9;

pub use libc::{XDP_COPY, XDP_USE_NEED_WAKEUP, XDP_ZEROCOPY, xdp_desc, xdp_statistics};
pub use libc::{xdp_mmap_offsets, xdp_ring_offset};

/// Set in a ring's flags word when the kernel waits for a wake-up.
pub const RING_NEED_WAKEUP: u32 = libc::XDP_RING_NEED_WAKEUP;

/// The four rings of a socket.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ring {
    Rx,
    Tx,
    Fill,
    Completion,
}

/// A new AF_XDP socket in the calling thread's network namespace.
pub fn open() -> io::Result<OwnedFd> {
    socket(libc::AF_XDP, libc::SOCK_RAW, 0)
}

/// Registers packet memory: `len` bytes at `base`, which must stay mapped while the socket lives
/// (the kernel holds the pages itself, so a wrong caller would corrupt packets, not the process).
pub fn register_umem(
    fd: BorrowedFd,
    base: std::ptr::NonNull<u8>,
    len: u64,
    chunk_size: u32,
) -> io::Result<()> {
    let reg = libc::xdp_umem_reg {
        addr: base.as_ptr() as u64,
        len,
        chunk_size,
        // The kernel leaves 256 bytes in front of every packet on its own.
        headroom: 0,
        flags: 0,
        tx_metadata_len: 0,
    };
    set_option(fd, libc::SOL_XDP, libc::XDP_UMEM_REG, &reg)
}

/// Sets the size of a ring, in entries (a power of two).
pub fn set_ring_size(fd: BorrowedFd, ring: Ring, entries: u32) -> io::Result<()> {
    let name = match ring {
        Ring::Rx => libc::XDP_RX_RING,
        Ring::Tx => libc::XDP_TX_RING,
        Ring::Fill => libc::XDP_UMEM_FILL_RING,
        Ring::Completion => libc::XDP_UMEM_COMPLETION_RING,
    };
    set_option(fd, libc::SOL_XDP, name, &entries)
}

/// Where the fields of each ring lie in its mapping.
pub fn ring_offsets(fd: BorrowedFd) -> io::Result<xdp_mmap_offsets> {
    get_option(fd, libc::SOL_XDP, libc::XDP_MMAP_OFFSETS)
}

/// Maps a ring.
pub fn map_ring(fd: BorrowedFd, ring: Ring, len_bytes: usize) -> io::Result<Mapping> {
    let offset = match ring {
        Ring::Rx => libc::XDP_PGOFF_RX_RING as u64,
        Ring::Tx => libc::XDP_PGOFF_TX_RING as u64,
        Ring::Fill => libc::XDP_UMEM_PGOFF_FILL_RING,
        Ring::Completion => libc::XDP_UMEM_PGOFF_COMPLETION_RING,
    };
    Mapping::of_fd(fd.as_raw_fd(), len_bytes, offset)
}

/// Binds the socket to a queue of a device.
pub fn bind(fd: BorrowedFd, if_index: u32, queue: u32, flags: u16) -> io::Result<()> {
    let address = libc::sockaddr_xdp {
        sxdp_family: libc::AF_XDP as u16,
        sxdp_flags: flags,
        sxdp_ifindex: if_index,
        sxdp_queue_id: queue,
        sxdp_shared_umem_fd: 0,
    };
    let len = size_of::<libc::sockaddr_xdp>() as libc::socklen_t;
    let address = std::ptr::from_ref(&address).cast();
    // SAFETY: pointer and length are those of a live sockaddr_xdp.
    cvt(unsafe { libc::bind(fd.as_raw_fd(), address, len) } as isize)?;
    Ok(())
}

/// Lets one wake-up send up to `budget` descriptors. `false` when the kernel cannot.
pub fn set_tx_budget(fd: BorrowedFd, budget: u32) -> bool {
    set_option(fd, libc::SOL_XDP, XDP_MAX_TX_SKB_BUDGET, &budget).is_ok()
}

/// The kernel's counters of the socket.
pub fn statistics(fd: BorrowedFd) -> io::Result<xdp_statistics> {
    get_option(fd, libc::SOL_XDP, libc::XDP_STATISTICS)
}

/// Whether the bound socket is zero-copy.
pub fn is_zero_copy(fd: BorrowedFd) -> io::Result<bool> {
    let options: libc::xdp_options = get_option(fd, libc::SOL_XDP, libc::XDP_OPTIONS)?;
    Ok(options.flags & libc::XDP_OPTIONS_ZEROCOPY != 0)
}

/// Makes the kernel work on the tx ring.
#[inline]
pub fn wake_tx(fd: BorrowedFd) -> io::Result<()> {
    // SAFETY: no buffer and no address are passed.
    let n = unsafe {
        let (nothing, flags) = (std::ptr::null(), libc::MSG_DONTWAIT);
        libc::sendto(fd.as_raw_fd(), nothing, 0, flags, std::ptr::null(), 0)
    };
    cvt(n).map(|_| ())
}

/// Makes the driver look at the fill ring.
#[inline]
pub fn wake_rx(fd: BorrowedFd) -> io::Result<()> {
    // SAFETY: no buffer and no address are passed.
    let n = unsafe {
        let (nothing, none) = (std::ptr::null_mut(), std::ptr::null_mut());
        let flags = libc::MSG_DONTWAIT;
        libc::recvfrom(fd.as_raw_fd(), nothing, 0, flags, none, std::ptr::null_mut())
    };
    cvt(n).map(|_| ())
}
