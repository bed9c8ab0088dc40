//! What live tests need: a network namespace of their own, devices, and the smallest XDP program.

#![allow(unsafe_code, reason = "test: unshare(2) and bpf(2), which no crate of ours wraps")]

use std::os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd};
use std::process::Command;

/// Runs `test` on a thread with a network namespace of its own, which ends with the thread.
/// Without the rights for it, says so and returns.
pub fn in_netns(test: fn()) {
    let result = std::thread::spawn(move || {
        // SAFETY: no pointers; affects the calling thread only.
        if unsafe { libc::unshare(libc::CLONE_NEWNET) } != 0 {
            let error = std::io::Error::last_os_error();
            println!("skipped: needs root (a network namespace: {error})");
            return;
        }
        ip("link set lo up");
        test();
    })
    .join();
    if let Err(panic) = result {
        std::panic::resume_unwind(panic);
    }
}

/// Moves the calling thread into a fresh network namespace.
pub fn new_netns() {
    // SAFETY: no pointers; affects the calling thread only.
    assert_eq!(unsafe { libc::unshare(libc::CLONE_NEWNET) }, 0);
}

/// The kernel's number of the calling thread, which `ip link set ... netns` takes.
pub fn thread_id() -> i32 {
    // SAFETY: no arguments, cannot fail.
    unsafe { libc::gettid() }
}

/// Runs `ip ARGS` in the calling thread's namespace.
pub fn ip(args: &str) {
    let status = Command::new("ip").args(args.split(' ')).status().expect("iproute2 is installed");
    assert!(status.success(), "ip {args}");
}

/// A veth pair, both ends up. IPv6 is off, so that nothing but the test talks.
pub fn veth(a: &str, b: &str, queues: u32) {
    let n = format!("numrxqueues {queues} numtxqueues {queues}");
    ip(&format!("link add {a} {n} type veth peer name {b} {n}"));
    for name in [a, b] {
        ip(&format!("link set {name} addrgenmode none"));
        ip(&format!("link set {name} up"));
    }
}

/// An XDP program on a device that redirects every packet to the socket of its queue.
pub struct Redirect {
    map: OwnedFd,
    _link: OwnedFd,
}

/// The part of `union bpf_attr` that is used, per command; sizes as the kernel's.
#[repr(C, align(8))]
struct Attr([u8; 120]);

impl Attr {
    fn new(fields: &[(usize, u64, usize)]) -> Self {
        let mut attr = Self([0; 120]);
        for &(at, value, len) in fields {
            attr.0[at..at + len].copy_from_slice(&value.to_ne_bytes()[..len]);
        }
        attr
    }

    fn call(&mut self, command: i64) -> std::io::Result<i64> {
        // SAFETY: pointer and size are those of a live value; pointers inside it are the caller's.
        let n = unsafe { libc::syscall(libc::SYS_bpf, command, self.0.as_mut_ptr(), 120) };
        if n < 0 { Err(std::io::Error::last_os_error()) } else { Ok(n) }
    }

    fn fd(&mut self, command: i64) -> OwnedFd {
        let mut result = self.call(command);
        // A link that this process has closed may live on for a moment in a child that another
        // test has just forked; it ends with the child's exec.
        for _ in 0..200 {
            match &result {
                Err(e) if e.kind() == std::io::ErrorKind::ResourceBusy => {
                    std::thread::sleep(std::time::Duration::from_millis(10));
                    result = self.call(command);
                }
                _ => break,
            }
        }
        let fd = result.unwrap_or_else(|e| panic!("bpf command {command}: {e}"));
        // SAFETY: a fresh descriptor, owned by nobody else.
        unsafe { OwnedFd::from_raw_fd(fd as RawFd) }
    }
}

const BPF_MAP_CREATE: i64 = 0;
const BPF_MAP_UPDATE_ELEM: i64 = 2;
const BPF_PROG_LOAD: i64 = 5;
const BPF_LINK_CREATE: i64 = 28;
const BPF_MAP_TYPE_XSKMAP: u64 = 17;
const BPF_PROG_TYPE_XDP: u64 = 6;
const BPF_XDP: u64 = 37;

impl Redirect {
    pub fn attach(if_index: u32) -> Self {
        let create = [(0, BPF_MAP_TYPE_XSKMAP, 4), (4, 4, 4), (8, 4, 4), (12, 64, 4)];
        let map = Attr::new(&create).fd(BPF_MAP_CREATE);
        let insn = |code: u64, dst: u64, src: u64, off: u64, imm: u64| {
            code | dst << 8 | src << 12 | off << 16 | imm << 32
        };
        let program = [
            insn(0x61, 2, 1, 16, 0),                     // r2 = ctx->rx_queue_index
            insn(0x18, 1, 1, 0, map.as_raw_fd() as u64), // r1 = map
            0,                                           // (upper half of the above)
            insn(0xb7, 3, 0, 0, 2),                      // r3 = XDP_PASS when no socket is there
            insn(0x85, 0, 0, 0, 51),                     // call bpf_redirect_map
            insn(0x95, 0, 0, 0, 0),                      // exit
        ];
        let fields = [
            (0, BPF_PROG_TYPE_XDP, 4),
            (4, program.len() as u64, 4),
            (8, program.as_ptr() as u64, 8),
            (16, c"GPL".as_ptr() as u64, 8),
        ];
        let program_fd = Attr::new(&fields).fd(BPF_PROG_LOAD);
        let link =
            [(0, program_fd.as_raw_fd() as u64, 4), (4, if_index as u64, 4), (8, BPF_XDP, 4)];
        Self { map, _link: Attr::new(&link).fd(BPF_LINK_CREATE) }
    }

    pub fn set(&self, queue: u32, socket: RawFd) {
        let fields = [
            (0, self.map.as_raw_fd() as u64, 4),
            (8, &raw const queue as u64, 8),
            (16, &raw const socket as u64, 8),
        ];
        Attr::new(&fields).call(BPF_MAP_UPDATE_ELEM).expect("socket into the map");
    }
}
