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

use std::io;
use std::ptr::NonNull;

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

fn map(len: usize, prot: i32, flags: i32, fd: i32, offset: u64) -> io::Result<NonNull<u8>> {
    // SAFETY: no address is asked for (never MAP_FIXED), so no existing mapping is touched.
    let p = unsafe { libc::mmap(std::ptr::null_mut(), len, prot, flags, fd, offset as i64) };
    if p == libc::MAP_FAILED {
        return Err(io::Error::last_os_error());
    }
    NonNull::new(p.cast()).ok_or_else(|| io::Error::other("mmap returned address 0"))
}
