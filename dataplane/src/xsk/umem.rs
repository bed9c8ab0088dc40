//! The packet memory of the process: one anonymous mapping cut into chunks (frames).
//!
//! Aligned mode: chunk `i` starts at `i * frame_size`, so an address of the kernel's is a shift
//! away from a chunk number. Every AF_XDP socket registers this same area for itself (the kernel
//! pins the pages again, which is cheap and done once), and brings its own fill and completion
//! ring. The other way, `XDP_SHARED_UMEM`, would tie all ports to the copy mode of the first socket
//! and to its life: a zero-copy NIC beside a veth, or the loss of the first device, is impossible
//! with it.
//!
//! Life: frames carry no lifetime, so the mapping is given back only when all frames that were ever
//! issued to pools are in pools that ended. If one is missing, the memory stays mapped: a leak that
//! the conservation counts show, never a dangling pointer.

#![allow(unsafe_code, reason = "island: makes frames from chunk numbers")]

use std::io;
use std::mem::ManuallyDrop;
use std::ptr::NonNull;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use crate::limits::{FRAME_SIZE_BYTES, FRAMES_MAX};
use crate::packet::frame::{Frame, HEADROOM_BYTES};
use crate::sys::Mapping;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct UmemConfig {
    /// Number of frames for all ports and workers together.
    pub frames: u32,
    /// 2048 or 4096.
    pub frame_size_bytes: u32,
    /// Try huge pages, fall back to small ones.
    pub hugepages: bool,
}

impl Default for UmemConfig {
    fn default() -> Self {
        Self { frames: 16 * 1024, frame_size_bytes: FRAME_SIZE_BYTES, hugepages: false }
    }
}

#[derive(Debug, thiserror::Error)]
pub enum UmemError {
    #[error("frame size {0} is not possible: use 2048 or 4096 bytes")]
    FrameSize(u32),
    #[error("{0} frames are not possible: use 1 to {FRAMES_MAX}")]
    Frames(u32),
    #[error("{wanted} frames wanted, only {left} of {frames} are left: raise the number of frames")]
    Exhausted { wanted: u32, left: u32, frames: u32 },
    #[error("cannot map {bytes} bytes of packet memory ({source}): use fewer frames")]
    Map { bytes: usize, source: io::Error },
}

/// The packet memory. Shared by `Arc`; all bytes are reached through frames.
#[derive(Debug)]
pub struct Umem {
    mapping: ManuallyDrop<Mapping>,
    frames: u32,
    frame_shift: u32,
    /// Chunks given to pools so far, from the front.
    issued: AtomicU32,
    /// Chunks that came home with a pool that ended.
    returned: AtomicU32,
}

impl Umem {
    pub fn new(config: UmemConfig) -> Result<Arc<Self>, UmemError> {
        if !matches!(config.frame_size_bytes, 2048 | 4096) {
            return Err(UmemError::FrameSize(config.frame_size_bytes));
        }
        if config.frames == 0 || config.frames > FRAMES_MAX {
            return Err(UmemError::Frames(config.frames));
        }
        // The kernel takes whole pages, so an odd number of 2048-byte frames gets a tail.
        let bytes = config.frames as usize * config.frame_size_bytes as usize;
        let bytes = bytes.next_multiple_of(4096);
        let mapping = Mapping::anonymous(bytes, config.hugepages)
            .map_err(|source| UmemError::Map { bytes, source })?;
        Ok(Arc::new(Self {
            mapping: ManuallyDrop::new(mapping),
            frames: config.frames,
            frame_shift: config.frame_size_bytes.trailing_zeros(),
            issued: AtomicU32::new(0),
            returned: AtomicU32::new(0),
        }))
    }

    /// All frames, whoever has them.
    pub fn frames(&self) -> u32 {
        self.frames
    }

    pub fn frame_size_bytes(&self) -> u32 {
        1 << self.frame_shift
    }

    /// The longest packet that can be received: a chunk less the headroom.
    pub fn packet_max_bytes(&self) -> usize {
        self.frame_size_bytes() as usize - usize::from(HEADROOM_BYTES)
    }

    /// Whether huge pages back the memory.
    pub fn is_huge(&self) -> bool {
        self.mapping.is_huge()
    }

    /// Address and length for registration with the kernel.
    pub(crate) fn area(&self) -> (NonNull<u8>, usize) {
        (self.mapping.base(), self.mapping.len_bytes())
    }

    /// Log2 of the frame size.
    #[inline]
    pub(crate) fn frame_shift(&self) -> u32 {
        self.frame_shift
    }

    /// Hands out the next `count` chunk numbers, once.
    pub(crate) fn issue(&self, count: u32) -> Result<std::ops::Range<u32>, UmemError> {
        let frames = self.frames;
        self.issued
            .fetch_update(Ordering::AcqRel, Ordering::Acquire, |issued| {
                issued.checked_add(count).filter(|&end| end <= frames)
            })
            .map(|start| start..start + count)
            .map_err(|issued| UmemError::Exhausted { wanted: count, left: frames - issued, frames })
    }

    /// Chunks that came home with an ended pool.
    pub(crate) fn take_back(&self, count: u32) {
        self.returned.fetch_add(count, Ordering::AcqRel);
    }

    /// The handle of a chunk.
    ///
    /// # Safety
    /// The caller owns chunk `index`: it was issued, and neither a frame nor the kernel has it.
    /// `index < frames`, and `head + len <= frame size`.
    #[inline]
    pub(crate) unsafe fn frame(&self, index: u32, head: u16, len: u16) -> Frame {
        debug_assert!(index < self.frames);
        // SAFETY: the chunk is inside the mapping as index < frames; the rest is the caller's word.
        unsafe {
            let chunk = self.mapping.base().add((index as usize) << self.frame_shift);
            Frame::from_parts(chunk, index, head, len, 1 << self.frame_shift)
        }
    }

    /// Whether the frame is a chunk of this memory.
    #[inline]
    pub fn owns(&self, frame: &Frame) -> bool {
        let offset = (frame.chunk_index() as usize) << self.frame_shift;
        // A frame of another UMEM has another base, so this compare cannot succeed by chance.
        self.mapping.base().as_ptr().wrapping_add(offset) == frame.chunk_ptr().as_ptr()
            && frame.chunk_index() < self.frames
    }
}

impl Drop for Umem {
    fn drop(&mut self) {
        if self.issued.load(Ordering::Acquire) == self.returned.load(Ordering::Acquire) {
            // SAFETY: dropped once, here; all frames are home, so no frame points into it.
            unsafe { ManuallyDrop::drop(&mut self.mapping) };
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::xsk::pool::FramePool;

    #[test]
    fn wrong_sizes_are_refused_with_what_would_be_right() {
        let config = UmemConfig { frame_size_bytes: 1000, ..UmemConfig::default() };
        let text = Umem::new(config).unwrap_err().to_string();
        assert!(text.contains("1000") && text.contains("2048 or 4096"), "{text}");
        let config = UmemConfig { frames: 0, ..UmemConfig::default() };
        assert!(matches!(Umem::new(config), Err(UmemError::Frames(0))));
    }

    #[test]
    fn huge_pages_are_a_wish() {
        let config = UmemConfig { frames: 1 << 12, hugepages: true, ..UmemConfig::default() };
        let umem = Umem::new(config).unwrap();
        let mut pool = FramePool::new(&umem, 1 << 12).unwrap();
        let mut frame = pool.alloc().unwrap();
        assert!(frame.copy_from(&[7; 1500]));
        pool.free(frame);
    }

    #[test]
    fn chunks_are_issued_once() {
        let umem = Umem::new(UmemConfig { frames: 10, ..UmemConfig::default() }).unwrap();
        assert_eq!(umem.issue(4).unwrap(), 0..4);
        assert_eq!(umem.issue(6).unwrap(), 4..10);
        let text = umem.issue(1).unwrap_err().to_string();
        assert!(text.contains("only 0 of 10"), "{text}");
        umem.take_back(10);
    }
}
