//! How a worker sleeps and is woken, and where it runs.

use super::cvt;
use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd};
use std::sync::Arc;

/// Wakes a worker that sleeps in `Poller::wait`. May be cloned and used from any thread.
#[derive(Clone, Debug)]
pub struct Waker {
    event: Arc<OwnedFd>,
}

impl Waker {
    pub fn new() -> io::Result<Self> {
        // SAFETY: plain numbers in; a fresh descriptor, owned by nobody else, comes out.
        let event = unsafe {
            let fd = libc::eventfd(0, libc::EFD_NONBLOCK | libc::EFD_CLOEXEC);
            cvt(fd as isize)?;
            OwnedFd::from_raw_fd(fd)
        };
        Ok(Self { event: Arc::new(event) })
    }

    /// Wakes; many wakes before the worker looks are one.
    pub fn wake(&self) {
        let one = 1u64;
        // SAFETY: eight readable bytes. A full counter (EAGAIN) has woken already.
        unsafe {
            libc::write(self.event.as_raw_fd(), std::ptr::from_ref(&one).cast(), 8);
        }
    }

    /// Forgets past wakes.
    pub fn clear(&self) {
        let mut count = 0u64;
        // SAFETY: eight writable bytes; non-blocking.
        unsafe {
            libc::read(self.event.as_raw_fd(), std::ptr::from_mut(&mut count).cast(), 8);
        }
    }

    pub fn fd(&self) -> RawFd {
        self.event.as_raw_fd()
    }
}

/// The set of descriptors a worker waits on; built when ports change, not when it waits.
#[derive(Default)]
pub struct Poller {
    polls: Vec<libc::pollfd>,
}

impl Poller {
    pub fn set(&mut self, fds: impl Iterator<Item = RawFd>) {
        self.polls.clear();
        self.polls.extend(fds.map(|fd| libc::pollfd { fd, events: libc::POLLIN, revents: 0 }));
    }

    /// Waits until something is readable, at most `timeout_ms`. Allocates nothing.
    pub fn wait(&mut self, timeout_ms: i32) {
        let n = self.polls.len() as libc::nfds_t;
        // SAFETY: pointer and count are those of a live vector. An error (a signal) ends the wait.
        unsafe { libc::poll(self.polls.as_mut_ptr(), n, timeout_ms) };
    }
}

/// Processors that this process may use (cgroup cpusets are in it).
pub fn cpus_allowed() -> Vec<usize> {
    // SAFETY: an all-zero set is a valid value, and the kernel writes at most its size.
    unsafe {
        let mut set: libc::cpu_set_t = std::mem::zeroed();
        if libc::sched_getaffinity(0, size_of::<libc::cpu_set_t>(), &mut set) != 0 {
            return Vec::new();
        }
        (0..libc::CPU_SETSIZE as usize).filter(|c| libc::CPU_ISSET(*c, &set)).collect()
    }
}

/// Binds the calling thread to one processor.
pub fn pin_to_cpu(cpu: usize) -> io::Result<()> {
    if cpu >= libc::CPU_SETSIZE as usize {
        return Err(io::ErrorKind::InvalidInput.into());
    }
    // SAFETY: an all-zero set is valid, and `cpu` is inside it.
    unsafe {
        let mut set: libc::cpu_set_t = std::mem::zeroed();
        libc::CPU_SET(cpu, &mut set);
        cvt(libc::sched_setaffinity(0, size_of::<libc::cpu_set_t>(), &set) as isize)?;
    }
    Ok(())
}

/// The time stamp counter; 0 on machines that have none. Its frequency is not the core's.
#[inline]
pub fn tsc() -> u64 {
    #[cfg(target_arch = "x86_64")]
    // SAFETY: rdtsc exists on every x86-64 processor and only reads a counter.
    unsafe {
        core::arch::x86_64::_rdtsc()
    }
    #[cfg(not(target_arch = "x86_64"))]
    0
}
