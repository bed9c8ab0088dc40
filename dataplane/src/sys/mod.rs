//! The only system calls of the dataplane.
//!
//! Everything here is a thin, safe wrapper: arguments are typed, errors are `io::Error`, nothing is
//! interpreted. Constants that the C headers of a stable distribution lack are given by hand.
//!
//! # Boundary of the unsafe code
//! Inside: calls into libc with pointers to local values of the right size, and one owner type for
//! a memory mapping. Nothing here hands out a reference into a mapping; the rooms above do, and say
//! why they may.

#![allow(unsafe_code, reason = "island: system calls")]

use std::ffi::c_int;
use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};
use std::ptr::NonNull;

pub mod packet;
pub mod tap;
pub mod wait;
pub mod xdp;

/// A memory mapping, unmapped on drop.
#[derive(Debug)]
pub struct Mapping {
    base: NonNull<u8>,
    len_bytes: usize,
    huge: bool,
}

// SAFETY: a mapping belongs to the process, not to a thread; this type gives no access to bytes.
unsafe impl Send for Mapping {}
// SAFETY: as above; all methods are reads of plain fields.
unsafe impl Sync for Mapping {}

/// Size of a huge page on the machines we run on; a length is rounded up to it.
const HUGE_PAGE_BYTES: usize = 2 << 20;

impl Mapping {
    /// Zeroed private memory, page aligned; from huge pages when asked and there are enough.
    pub fn anonymous(len_bytes: usize, huge: bool) -> io::Result<Self> {
        let prot = libc::PROT_READ | libc::PROT_WRITE;
        let base = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS;
        if huge {
            let rounded = len_bytes.next_multiple_of(HUGE_PAGE_BYTES);
            let flags = base | libc::MAP_HUGETLB | libc::MAP_POPULATE;
            if let Ok(base) = map(rounded, prot, flags, -1, 0) {
                return Ok(Self { base, len_bytes: rounded, huge: true });
            }
        }
        let base = map(len_bytes, prot, base, -1, 0)?;
        Ok(Self { base, len_bytes, huge: false })
    }

    /// Shared memory of a descriptor (a ring of an AF_XDP socket), populated at once.
    pub fn of_fd(fd: i32, len_bytes: usize, offset: u64) -> io::Result<Self> {
        let prot = libc::PROT_READ | libc::PROT_WRITE;
        let flags = libc::MAP_SHARED | libc::MAP_POPULATE;
        let base = map(len_bytes, prot, flags, fd, offset)?;
        Ok(Self { base, len_bytes, huge: false })
    }

    pub fn base(&self) -> NonNull<u8> {
        self.base
    }

    pub fn len_bytes(&self) -> usize {
        self.len_bytes
    }

    /// Whether it came from huge pages.
    pub fn is_huge(&self) -> bool {
        self.huge
    }
}

impl Drop for Mapping {
    fn drop(&mut self) {
        // SAFETY: base and length are those of a mapping this value made and owns.
        unsafe { libc::munmap(self.base.as_ptr().cast(), self.len_bytes) };
    }
}

/// Asks the kernel for huge pages under large, randomly read arrays: a hint that may come to
/// nothing, so its outcome does not matter.
pub fn advise_huge_pages<T>(array: &mut [T]) {
    const PAGE_BYTES: usize = 4096;
    let (start, len_bytes) = (array.as_mut_ptr().cast::<u8>(), size_of_val(array));
    let skip = start.align_offset(PAGE_BYTES);
    let whole = len_bytes.saturating_sub(skip) / PAGE_BYTES * PAGE_BYTES;
    if whole > 0 {
        // SAFETY: `skip + whole <= len_bytes`, so the range lies inside the slice, and this advice
        // changes no contents.
        unsafe { libc::madvise(start.add(skip).cast(), whole, libc::MADV_HUGEPAGE) };
    }
}

/// Gives the kernel the pages that the allocator keeps for later, where it can be told to: after
/// a large load they would be held for nothing. Takes some milliseconds; not for a worker.
pub fn give_back_freed_memory() {
    #[cfg(target_env = "gnu")]
    // SAFETY: malloc_trim(3) takes no pointer and may be called by any thread at any time.
    unsafe {
        libc::malloc_trim(0)
    };
}

fn map(len: usize, prot: i32, flags: i32, fd: i32, offset: u64) -> io::Result<NonNull<u8>> {
    // SAFETY: no address is asked for (never MAP_FIXED), so no existing mapping is touched.
    let p = unsafe { libc::mmap(std::ptr::null_mut(), len, prot, flags, fd, offset as i64) };
    if p == libc::MAP_FAILED {
        return Err(io::Error::last_os_error());
    }
    NonNull::new(p.cast()).ok_or_else(|| io::Error::other("mmap returned address 0"))
}

/// The number of a network device in the calling thread's network namespace.
pub fn if_index(name: &str) -> io::Result<u32> {
    let name = std::ffi::CString::new(name)?;
    // SAFETY: a valid C string; the call only reads it.
    match unsafe { libc::if_nametoindex(name.as_ptr()) } {
        0 => Err(io::Error::last_os_error()),
        index => Ok(index),
    }
}

/// Waits until one of the descriptors is readable (or in error), at most `timeout_ms`.
/// Returns how many are; 0 after the time or a signal.
pub fn poll_readable(fds: &[RawFd], timeout_ms: i32) -> io::Result<usize> {
    let mut polls: Vec<libc::pollfd> =
        fds.iter().map(|&fd| libc::pollfd { fd, events: libc::POLLIN, revents: 0 }).collect();
    // SAFETY: pointer and count are those of a live vector.
    let n = unsafe { libc::poll(polls.as_mut_ptr(), polls.len() as libc::nfds_t, timeout_ms) };
    match cvt(n as isize) {
        Ok(n) => Ok(n),
        Err(e) if e.kind() == io::ErrorKind::Interrupted => Ok(0),
        Err(e) => Err(e),
    }
}

/// Raises the send and receive memory of a socket as far as the kernel lets us.
pub fn raise_socket_buffers(fd: BorrowedFd, bytes: u32) {
    let force = [libc::SO_SNDBUFFORCE, libc::SO_RCVBUFFORCE];
    let plain = [libc::SO_SNDBUF, libc::SO_RCVBUF];
    for (force, plain) in force.into_iter().zip(plain) {
        // Without CAP_NET_ADMIN the system's limit stays: slower, not wrong.
        if set_option(fd, libc::SOL_SOCKET, force, &bytes).is_err() {
            let _ = set_option(fd, libc::SOL_SOCKET, plain, &bytes);
        }
    }
}

fn socket(family: c_int, kind: c_int, protocol: c_int) -> io::Result<OwnedFd> {
    // SAFETY: plain numbers in; a fresh descriptor, owned by nobody else, comes out.
    unsafe {
        let fd = libc::socket(family, kind | libc::SOCK_CLOEXEC, protocol);
        cvt(fd as isize)?;
        Ok(OwnedFd::from_raw_fd(fd))
    }
}

/// `T` must be a plain C struct or integer, as the kernel expects for the option.
fn set_option<T: Copy>(fd: BorrowedFd, level: c_int, name: c_int, value: &T) -> io::Result<()> {
    let len = size_of::<T>() as libc::socklen_t;
    let value = std::ptr::from_ref(value).cast();
    // SAFETY: pointer and length are those of a live value; the kernel only reads it.
    cvt(unsafe { libc::setsockopt(fd.as_raw_fd(), level, name, value, len) } as isize)?;
    Ok(())
}

/// Reads an option into a zeroed `T`; a kernel that knows fewer fields leaves the rest zero.
fn get_option<T: Copy>(fd: BorrowedFd, level: c_int, name: c_int) -> io::Result<T> {
    let mut len = size_of::<T>() as libc::socklen_t;
    // SAFETY: T is a plain C struct of integers (private function, all callers in this module), for
    // which zero bytes are a value; the kernel writes at most `len` bytes.
    unsafe {
        let mut value: T = std::mem::zeroed();
        let out = std::ptr::from_mut(&mut value).cast();
        cvt(libc::getsockopt(fd.as_raw_fd(), level, name, out, &raw mut len) as isize)?;
        Ok(value)
    }
}

/// C's -1 with errno, as a `Result`.
fn cvt(n: isize) -> io::Result<usize> {
    usize::try_from(n).map_err(|_| io::Error::last_os_error())
}
