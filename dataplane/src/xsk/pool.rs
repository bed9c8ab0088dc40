//! A worker's stack of free frames.
//!
//! Last in, first out: the frame freed last is the one whose lines are still in the cache. Frames
//! are only numbers here (4 bytes), and the stack is as large as the whole UMEM from the start, so
//! that frames which arrive from other workers never make it grow.
//!
//! # Boundary of the unsafe code
//! Inside: making a `Frame` of a number on the stack. A number gets there by being issued by the
//! UMEM, by freeing its only `Frame`, or by a ring that gave it back (`free_index`, unsafe to
//! call), so a number is on at most one stack, once.

#![allow(unsafe_code, reason = "island: makes frames from chunk numbers")]

use std::sync::Arc;

use super::umem::{Umem, UmemConfig, UmemError};
use crate::packet::frame::{Frame, HEADROOM_BYTES};

/// The free frames of one worker.
#[derive(Debug)]
pub struct FramePool {
    free: Vec<u32>,
    umem: Arc<Umem>,
    total: u32,
    foreign: u64,
}

impl FramePool {
    /// A pool that starts with `frames` frames of `umem` that no pool had before.
    pub fn new(umem: &Arc<Umem>, frames: u32) -> Result<Self, UmemError> {
        let issued = umem.issue(frames)?;
        let mut free = Vec::with_capacity(umem.frames() as usize);
        free.extend(issued.rev());
        Ok(Self { free, umem: Arc::clone(umem), total: frames, foreign: 0 })
    }

    /// A pool with a UMEM of its own, for replay and tests.
    pub fn private(frames: u32) -> Result<Self, UmemError> {
        Self::new(&Umem::new(UmemConfig { frames, ..UmemConfig::default() })?, frames)
    }

    /// An empty frame with `HEADROOM_BYTES` in front; `None` when all are in use.
    #[inline]
    pub fn alloc(&mut self) -> Option<Frame> {
        let index = self.free.pop()?;
        // SAFETY: a number on the stack is owned by the pool (boundary), now by the frame.
        Some(unsafe { self.umem.frame(index, HEADROOM_BYTES, 0) })
    }

    /// Takes a frame back.
    #[inline]
    pub fn free(&mut self, frame: Frame) {
        if self.umem.owns(&frame) {
            debug_assert!(self.free.len() < self.free.capacity());
            self.free.push(frame.chunk_index());
        } else {
            // Its own memory stays mapped, as it never comes home: lost, but harmless.
            self.foreign += 1;
            debug_assert!(false, "frame of another UMEM freed to this pool");
        }
    }

    /// The number of a free frame, for a fill ring.
    #[inline]
    pub(crate) fn alloc_index(&mut self) -> Option<u32> {
        self.free.pop()
    }

    /// Takes a chunk back by its number.
    ///
    /// # Safety
    /// The caller owns chunk `index` of this pool's UMEM: it has no frame, and the kernel is done
    /// with it.
    #[inline]
    pub(crate) unsafe fn free_index(&mut self, index: u32) {
        debug_assert!(index < self.umem.frames());
        self.free.push(index);
    }

    /// Free frames.
    #[inline]
    pub fn available(&self) -> usize {
        self.free.len()
    }

    /// Frames the pool started with; what is not available is in hands, in rings or with others.
    pub fn total(&self) -> usize {
        self.total as usize
    }

    pub fn umem(&self) -> &Arc<Umem> {
        &self.umem
    }

    /// Frames of another UMEM that were freed here by mistake: must stay 0.
    pub fn foreign(&self) -> u64 {
        self.foreign
    }
}

impl Drop for FramePool {
    fn drop(&mut self) {
        self.umem.take_back(self.free.len() as u32);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::collection::vec;
    use proptest::prelude::*;

    #[test]
    fn an_empty_pool_says_so_and_recovers() {
        let mut pool = FramePool::private(2).unwrap();
        let (a, b) = (pool.alloc().unwrap(), pool.alloc().unwrap());
        assert_ne!(a.chunk_index(), b.chunk_index());
        assert!(pool.alloc().is_none());
        let last = b.chunk_index();
        pool.free(a);
        pool.free(b);
        assert_eq!(pool.alloc().map(|f| f.chunk_index()), Some(last), "last in, first out");
        assert_eq!((pool.available(), pool.total()), (1, 2));
    }

    #[test]
    fn frames_of_one_worker_may_be_freed_by_another() {
        let umem = Umem::new(UmemConfig { frames: 8, ..UmemConfig::default() }).unwrap();
        let mut a = FramePool::new(&umem, 4).unwrap();
        let mut b = FramePool::new(&umem, 4).unwrap();
        while let Some(frame) = a.alloc() {
            b.free(frame);
        }
        assert_eq!((a.available(), b.available()), (0, 8));
    }

    #[test]
    fn memory_outlives_a_frame_that_was_never_freed() {
        let mut pool = FramePool::private(4).unwrap();
        let mut frame = pool.alloc().unwrap();
        drop(pool);
        assert!(frame.copy_from(b"still here"));
        assert_eq!(frame.bytes(), b"still here");
    }

    proptest! {
        #![proptest_config(ProptestConfig {
            failure_persistence: None, cases: 64, ..ProptestConfig::default()
        })]

        /// No two frames in hands share a chunk, and none is lost, whatever the order.
        #[test]
        fn frames_are_distinct_and_conserved(steps in vec(any::<u8>(), 1..400)) {
            let mut pool = FramePool::private(16).unwrap();
            let mut hands: Vec<Frame> = Vec::new();
            for step in steps {
                if step & 1 == 0 {
                    if let Some(mut frame) = pool.alloc() {
                        let tag = frame.chunk_index().to_be_bytes();
                        prop_assert!(frame.copy_from(&tag));
                        hands.push(frame);
                    }
                } else if !hands.is_empty() {
                    let frame = hands.swap_remove(step as usize % hands.len());
                    let tag = frame.chunk_index().to_be_bytes();
                    prop_assert_eq!(frame.bytes(), &tag[..]);
                    pool.free(frame);
                }
                prop_assert_eq!(pool.available() + hands.len(), pool.total());
            }
            hands.into_iter().for_each(|frame| pool.free(frame));
            prop_assert_eq!(pool.available(), 16);
        }
    }
}
