//! TAP devices: made through /dev/net/tun, configured by ioctl, read and written frame by frame.
//!
//! Source: Documentation/networking/tuntap.rst, drivers/net/tun.c.

#![allow(unsafe_code, reason = "island: system calls")]

use std::ffi::c_int;
use std::fs::{File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};
use std::os::unix::fs::OpenOptionsExt;

use super::{cvt, if_index, socket};

/// An open TAP device. The kernel removes the device when this is dropped, wherever it was moved.
#[derive(Debug)]
pub struct Tap {
    file: File,
    name: String,
    if_index: u32,
}

impl Tap {
    /// Creates the device `name` in the calling thread's network namespace, down, with no offloads:
    /// the kernel then gives us whole checksums and no segments larger than the MTU.
    pub fn create(name: &str) -> io::Result<Self> {
        let file = OpenOptions::new()
            .read(true)
            .write(true)
            .custom_flags(libc::O_NONBLOCK | libc::O_CLOEXEC)
            .open("/dev/net/tun")?;
        let mut request = named(name)?;
        request.ifr_ifru.ifru_flags = (libc::IFF_TAP | libc::IFF_NO_PI) as i16;
        ioctl(file.as_fd(), libc::TUNSETIFF, &mut request)?;
        let index = if_index(name)?;
        Ok(Self { file, name: name.to_string(), if_index: index })
    }

    pub fn name(&self) -> &str {
        &self.name
    }

    pub fn if_index(&self) -> u32 {
        self.if_index
    }

    /// Sets the MAC address. Works while the device is where it was made.
    pub fn set_mac(&self, mac: [u8; 6]) -> io::Result<()> {
        let mut request = named(&self.name)?;
        let mut data = [0; 14];
        for (slot, byte) in data.iter_mut().zip(mac) {
            *slot = byte as libc::c_char;
        }
        let hwaddr = libc::sockaddr { sa_family: libc::ARPHRD_ETHER, sa_data: data };
        request.ifr_ifru.ifru_hwaddr = hwaddr;
        configure(libc::SIOCSIFHWADDR, &mut request)
    }

    pub fn set_mtu(&self, mtu: u32) -> io::Result<()> {
        let mut request = named(&self.name)?;
        request.ifr_ifru.ifru_mtu = mtu as c_int;
        configure(libc::SIOCSIFMTU, &mut request)
    }

    /// Sets the device up (in the namespace where it was made).
    pub fn set_up(&self) -> io::Result<()> {
        let mut request = named(&self.name)?;
        configure(libc::SIOCGIFFLAGS, &mut request)?;
        // SAFETY: SIOCGIFFLAGS has just filled the flags member of the union.
        let flags = unsafe { request.ifr_ifru.ifru_flags };
        request.ifr_ifru.ifru_flags = flags | libc::IFF_UP as i16;
        configure(libc::SIOCSIFFLAGS, &mut request)
    }

    /// One frame out of the device; `WouldBlock` when none waits.
    #[inline]
    pub fn recv(&self, buffer: &mut [u8]) -> io::Result<usize> {
        (&self.file).read(buffer)
    }

    /// One frame into the device.
    #[inline]
    pub fn send(&self, packet: &[u8]) -> io::Result<usize> {
        (&self.file).write(packet)
    }
}

impl AsFd for Tap {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.file.as_fd()
    }
}

/// A request about the device `name`, all else zero.
fn named(name: &str) -> io::Result<libc::ifreq> {
    if name.is_empty() || name.len() >= libc::IFNAMSIZ || name.contains('\0') {
        return Err(io::Error::new(io::ErrorKind::InvalidInput, "device name: 1 to 15 characters"));
    }
    // SAFETY: ifreq is a C struct of integers and arrays, for which zero bytes are a value.
    let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
    for (slot, byte) in request.ifr_name.iter_mut().zip(name.bytes()) {
        *slot = byte as libc::c_char;
    }
    Ok(request)
}

/// Asks the kernel through a socket of the calling thread's network namespace.
fn configure(code: libc::Ioctl, request: &mut libc::ifreq) -> io::Result<()> {
    let socket = socket(libc::AF_INET, libc::SOCK_DGRAM, 0)?;
    ioctl(socket.as_fd(), code, request)
}

/// `code` must be a request on an `ifreq` (private function, all callers in this file).
fn ioctl(fd: BorrowedFd, code: libc::Ioctl, request: &mut libc::ifreq) -> io::Result<()> {
    // SAFETY: the request points to a live ifreq, as all codes used here expect.
    cvt(unsafe { libc::ioctl(fd.as_raw_fd(), code, std::ptr::from_mut(request)) } as isize)?;
    Ok(())
}
