//! AF_PACKET sockets, in batches: one system call moves up to `BATCH` frames.
//!
//! Source: packet(7), net/packet/af_packet.c.

#![allow(unsafe_code, reason = "island: system calls")]

use std::io;
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};

use super::{cvt, get_option, set_option, socket};

/// Frames per system call.
pub const BATCH: usize = 32;

/// What the kernel says of a received frame.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Received {
    pub len_bytes: usize,
    /// The frame was longer than the buffer.
    pub truncated: bool,
    /// A VLAN tag that the kernel took out of the frame: TPID and TCI.
    pub vlan: Option<(u16, u16)>,
}

/// Which frames of its device a socket sees.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Sees {
    /// None: a socket to send by.
    Nothing,
    /// Those that enter, the device being promiscuous while the socket lives.
    Entering,
    /// Those that enter and those that the stack sends, the device being left as it is.
    Both,
}

/// A raw socket on one device.
#[derive(Debug)]
pub struct PacketSocket {
    fd: OwnedFd,
}

/// Room for one control message with `tpacket_auxdata`, aligned as `cmsghdr` wants it.
#[repr(C, align(8))]
#[derive(Clone, Copy)]
struct Control([u8; 64]);

impl PacketSocket {
    /// A socket on the device `if_index` of the calling thread's network namespace.
    pub fn open(if_index: u32, sees: Sees) -> io::Result<Self> {
        // Protocol 0: nothing is received before bind, so no frame of another device slips in.
        let fd = socket(libc::AF_PACKET, libc::SOCK_RAW | libc::SOCK_NONBLOCK, 0)?;
        let on: i32 = 1;
        if sees != Sees::Both {
            set_option(fd.as_fd(), libc::SOL_PACKET, libc::PACKET_IGNORE_OUTGOING, &on)?;
        }
        set_option(fd.as_fd(), libc::SOL_PACKET, libc::PACKET_AUXDATA, &on)?;
        // SAFETY: C structs of integers, for which zero bytes are a value.
        let (mut address, mut member): (libc::sockaddr_ll, libc::packet_mreq) =
            unsafe { std::mem::zeroed() };
        address.sll_family = libc::AF_PACKET as u16;
        let protocol = if sees == Sees::Nothing { 0 } else { libc::ETH_P_ALL };
        address.sll_protocol = (protocol as u16).to_be();
        address.sll_ifindex = if_index as i32;
        let len = size_of::<libc::sockaddr_ll>() as libc::socklen_t;
        let pointer = std::ptr::from_ref(&address).cast();
        // SAFETY: pointer and length are those of a live sockaddr_ll.
        cvt(unsafe { libc::bind(fd.as_raw_fd(), pointer, len) } as isize)?;
        member.mr_ifindex = if_index as i32;
        member.mr_type = libc::PACKET_MR_PROMISC as u16;
        if sees == Sees::Entering {
            set_option(fd.as_fd(), libc::SOL_PACKET, libc::PACKET_ADD_MEMBERSHIP, &member)?;
        }
        Ok(Self { fd })
    }

    /// Frames that came while the socket's queue was full, since the last call.
    pub fn take_drops(&self) -> io::Result<u64> {
        let (level, name) = (libc::SOL_PACKET, libc::PACKET_STATISTICS);
        let stats: libc::tpacket_stats = get_option(self.fd.as_fd(), level, name)?;
        Ok(stats.tp_drops.into())
    }

    /// Receives into the buffers, in order; returns how many frames came. `infos` gets one entry
    /// per frame. Never waits: 0 frames when none is there.
    pub fn recv_batch(
        &self,
        buffers: &mut [&mut [u8]],
        infos: &mut [Received; BATCH],
    ) -> io::Result<usize> {
        let mut control = [Control([0; 64]); BATCH];
        let mut iovecs = [EMPTY_IOVEC; BATCH];
        let mut headers = zeroed_headers();
        let parts = buffers.iter_mut().zip(&mut iovecs).zip(&mut control).zip(&mut headers);
        let mut count = 0;
        for (((buffer, iovec), control), header) in parts {
            *iovec = libc::iovec { iov_base: buffer.as_mut_ptr().cast(), iov_len: buffer.len() };
            header.msg_hdr.msg_iov = iovec;
            header.msg_hdr.msg_iovlen = 1;
            header.msg_hdr.msg_control = std::ptr::from_mut(control).cast();
            header.msg_hdr.msg_controllen = size_of::<Control>();
            count += 1;
        }
        // SAFETY: the first `count` headers point to live buffers, iovecs and control areas with
        // their lengths, and these locals outlive the call.
        let n = unsafe {
            let (flags, no_timeout) = (libc::MSG_DONTWAIT, std::ptr::null_mut());
            libc::recvmmsg(self.fd.as_raw_fd(), headers.as_mut_ptr(), count, flags, no_timeout)
        };
        let n = match cvt(n as isize) {
            Ok(n) => n,
            Err(e) if e.kind() == io::ErrorKind::WouldBlock => return Ok(0),
            Err(e) => return Err(e),
        };
        for (header, info) in headers.iter().zip(infos.iter_mut()).take(n) {
            *info = Received {
                len_bytes: header.msg_len as usize,
                truncated: header.msg_hdr.msg_flags & libc::MSG_TRUNC != 0,
                vlan: vlan_of(&header.msg_hdr),
            };
        }
        Ok(n)
    }

    /// Sends the packets in order until one fails; returns how many went, or the error of the
    /// first.
    pub fn send_batch(&self, packets: &[&[u8]]) -> io::Result<usize> {
        let mut iovecs = [EMPTY_IOVEC; BATCH];
        let mut headers = zeroed_headers();
        let mut count = 0;
        for ((packet, iovec), header) in packets.iter().zip(&mut iovecs).zip(&mut headers) {
            let base = packet.as_ptr().cast_mut().cast();
            *iovec = libc::iovec { iov_base: base, iov_len: packet.len() };
            header.msg_hdr.msg_iov = iovec;
            header.msg_hdr.msg_iovlen = 1;
            count += 1;
        }
        // SAFETY: the first `count` headers point to live packets, which the kernel only reads.
        let n = unsafe {
            let flags = libc::MSG_DONTWAIT;
            libc::sendmmsg(self.fd.as_raw_fd(), headers.as_mut_ptr(), count, flags)
        };
        cvt(n as isize)
    }
}

impl AsFd for PacketSocket {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

const EMPTY_IOVEC: libc::iovec = libc::iovec { iov_base: std::ptr::null_mut(), iov_len: 0 };

fn zeroed_headers() -> [libc::mmsghdr; BATCH] {
    // SAFETY: C structs of integers and pointers, for which zero bytes are a value.
    unsafe { std::mem::zeroed() }
}

/// The VLAN tag in the control messages of a received frame.
fn vlan_of(header: &libc::msghdr) -> Option<(u16, u16)> {
    // SAFETY: the header was filled by recvmmsg and its control area is alive (caller); the macros
    // walk inside it, and the data of a message may be unaligned, hence the unaligned read.
    let aux = unsafe {
        let mut message = libc::CMSG_FIRSTHDR(header);
        loop {
            let found = message.as_ref()?;
            if found.cmsg_level == libc::SOL_PACKET && found.cmsg_type == libc::PACKET_AUXDATA {
                let mut aux = MaybeUninit::<libc::tpacket_auxdata>::zeroed();
                let have = found.cmsg_len.saturating_sub(libc::CMSG_LEN(0) as usize);
                let len = have.min(size_of::<libc::tpacket_auxdata>());
                let to = aux.as_mut_ptr().cast::<u8>();
                std::ptr::copy_nonoverlapping(libc::CMSG_DATA(message), to, len);
                break aux.assume_init();
            }
            message = libc::CMSG_NXTHDR(header, message);
        }
    };
    if aux.tp_status & libc::TP_STATUS_VLAN_VALID == 0 {
        return None;
    }
    let tpid = match aux.tp_status & libc::TP_STATUS_VLAN_TPID_VALID {
        0 => 0x8100,
        _ => aux.tp_vlan_tpid,
    };
    Some((tpid, aux.tp_vlan_tci))
}
