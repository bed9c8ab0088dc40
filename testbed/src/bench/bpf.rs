//! Two XDP programs of two instructions each, and the system calls that run them.
//!
//! A program that answers `XDP_TX` is a packet generator: BPF_PROG_RUN with live frames takes
//! packets from a page pool, and what the program would send back goes out of the device that is
//! named as its input. No socket and no sk_buff is involved, so it is several times faster than
//! any forwarder on a veth, and costs the forwarder's core nothing. A program that answers
//! `XDP_DROP` is a sink. Both are far too small for a compiler, an object file and a loader.
//!
//! Source: Documentation/bpf/bpf_prog_run.rst and include/uapi/linux/bpf.h of Linux 6.18.
//!
//! # Boundary of the unsafe code
//! Inside: bpf(2). Its argument blocks live on the stack of the call, and their pointers are to
//! slices that the caller lends for its length. A descriptor that comes back is owned at once.

#![allow(unsafe_code, reason = "island: bpf(2)")]

use std::io;
use std::os::fd::{AsFd, AsRawFd, FromRawFd, OwnedFd};

const BPF_PROG_LOAD: libc::c_int = 5;
const BPF_PROG_TEST_RUN: libc::c_int = 10;
const BPF_LINK_CREATE: libc::c_int = 28;
const BPF_PROG_TYPE_XDP: u32 = 6;
const BPF_XDP: u32 = 37;
/// Send for real, do not only count.
const BPF_F_TEST_XDP_LIVE_FRAMES: u32 = 2;
/// The program runs in the driver.
const XDP_FLAGS_DRV_MODE: u32 = 4;

/// What the program says of every packet.
#[derive(Clone, Copy, Debug)]
pub enum Answer {
    Drop = 1,
    Tx = 3,
}

/// One BPF instruction.
#[repr(C)]
struct Insn {
    code: u8,
    registers: u8,
    offset: i16,
    immediate: i32,
}

#[repr(C)]
#[derive(Default)]
struct LoadAttr {
    prog_type: u32,
    insn_count: u32,
    insns: u64,
    license: u64,
    log_level: u32,
    log_size: u32,
    log_buf: u64,
    kern_version: u32,
    prog_flags: u32,
}

#[repr(C)]
#[derive(Default)]
struct RunAttr {
    prog_fd: u32,
    retval: u32,
    data_size_in: u32,
    data_size_out: u32,
    data_in: u64,
    data_out: u64,
    repeat: u32,
    duration: u32,
    ctx_size_in: u32,
    ctx_size_out: u32,
    ctx_in: u64,
    ctx_out: u64,
    flags: u32,
    cpu: u32,
    batch_size: u32,
    pad: u32,
}

#[repr(C)]
#[derive(Default)]
struct LinkAttr {
    prog_fd: u32,
    target_ifindex: u32,
    attach_type: u32,
    flags: u32,
}

/// `struct xdp_md`: where the packet pretends to come from.
#[repr(C)]
#[derive(Default)]
struct Context {
    data: u32,
    data_end: u32,
    data_meta: u32,
    ingress_ifindex: u32,
    rx_queue_index: u32,
    egress_ifindex: u32,
}

/// A loaded program.
#[derive(Debug)]
pub struct Program {
    fd: OwnedFd,
}

impl Program {
    /// `r0 = answer; exit`.
    pub fn load(answer: Answer) -> io::Result<Self> {
        let insns = [
            Insn { code: 0xb7, registers: 0, offset: 0, immediate: answer as i32 },
            Insn { code: 0x95, registers: 0, offset: 0, immediate: 0 },
        ];
        let mut attr = LoadAttr {
            prog_type: BPF_PROG_TYPE_XDP,
            insn_count: insns.len() as u32,
            insns: insns.as_ptr() as u64,
            license: c"Apache-2.0".as_ptr() as u64,
            ..LoadAttr::default()
        };
        Ok(Self { fd: owned(bpf(BPF_PROG_LOAD, &mut attr)?) })
    }

    /// Attaches it to a device of the calling thread's namespace, until the result is dropped.
    pub fn attach(&self, if_index: u32) -> io::Result<OwnedFd> {
        let mut attr = LinkAttr {
            prog_fd: self.raw(),
            target_ifindex: if_index,
            attach_type: BPF_XDP,
            flags: XDP_FLAGS_DRV_MODE,
        };
        Ok(owned(bpf(BPF_LINK_CREATE, &mut attr)?))
    }

    /// Runs it on `repeat` copies of `packet` as if they had come in by `if_index`, a device of the
    /// calling thread's namespace, and does with them what it answers.
    pub fn run_live(&self, packet: &[u8], if_index: u32, repeat: u32) -> io::Result<()> {
        let len = packet.len() as u32;
        let context = Context { data_end: len, ingress_ifindex: if_index, ..Context::default() };
        let mut attr = RunAttr {
            prog_fd: self.raw(),
            data_size_in: len,
            data_in: packet.as_ptr() as u64,
            repeat,
            ctx_size_in: size_of::<Context>() as u32,
            ctx_in: &raw const context as u64,
            flags: BPF_F_TEST_XDP_LIVE_FRAMES,
            ..RunAttr::default()
        };
        bpf(BPF_PROG_TEST_RUN, &mut attr).map(drop)
    }

    fn raw(&self) -> u32 {
        self.fd.as_fd().as_raw_fd().cast_unsigned()
    }
}

fn bpf<T>(command: libc::c_int, attr: &mut T) -> io::Result<i32> {
    // SAFETY: `attr` is a block of the size we say, laid out as this command's part of the kernel's
    // union; all pointers in it are to what the caller holds until we return.
    let result = unsafe { libc::syscall(libc::SYS_bpf, command, attr as *mut T, size_of::<T>()) };
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(result as i32) }
}

fn owned(fd: i32) -> OwnedFd {
    // SAFETY: the kernel has just made this descriptor for us; nobody else knows it.
    unsafe { OwnedFd::from_raw_fd(fd) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_argument_blocks_are_laid_out_as_the_kernel_reads_them() {
        assert_eq!((size_of::<Insn>(), size_of::<LoadAttr>(), size_of::<RunAttr>()), (8, 48, 80));
        assert_eq!(std::mem::offset_of!(RunAttr, ctx_in), 48);
        assert_eq!((size_of::<LinkAttr>(), size_of::<Context>()), (16, 24));
    }
}
