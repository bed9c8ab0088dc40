//! The frames of one receive call: a fixed array with a length, drained in order.

use super::pool::FramePool;
use crate::packet::frame::Frame;

/// Frames in a burst. Larger bursts push the headers out of the first-level cache.
pub const BURST_FRAMES: usize = 64;

/// Received frames, in order of arrival.
#[derive(Debug)]
pub struct RxBurst {
    frames: [Option<Frame>; BURST_FRAMES],
    len: usize,
}

impl Default for RxBurst {
    fn default() -> Self {
        Self::new()
    }
}

impl RxBurst {
    pub fn new() -> Self {
        Self { frames: [const { None }; BURST_FRAMES], len: 0 }
    }

    #[inline]
    pub fn len(&self) -> usize {
        self.len
    }

    #[inline]
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Frames that still fit.
    #[inline]
    pub fn room(&self) -> usize {
        BURST_FRAMES - self.len
    }

    /// Appends a frame; gives it back when the burst is full.
    #[inline]
    pub fn push(&mut self, frame: Frame) -> Result<(), Frame> {
        match self.frames.get_mut(self.len) {
            Some(slot) => {
                *slot = Some(frame);
                self.len += 1;
                Ok(())
            }
            None => Err(frame),
        }
    }

    #[inline]
    pub fn iter(&self) -> impl Iterator<Item = &Frame> {
        self.frames.iter().take(self.len).flatten()
    }

    #[inline]
    pub fn iter_mut(&mut self) -> impl Iterator<Item = &mut Frame> {
        self.frames.iter_mut().take(self.len).flatten()
    }

    /// Takes the frame at `i` out and leaves a hole, which the iterators skip; call `clear` at the
    /// end of the batch.
    #[inline]
    pub fn take(&mut self, i: usize) -> Option<Frame> {
        self.frames.get_mut(i).and_then(Option::take)
    }

    /// Takes all frames out, in order of arrival.
    #[inline]
    pub fn drain(&mut self) -> impl Iterator<Item = Frame> {
        let len = std::mem::take(&mut self.len);
        self.frames.iter_mut().take(len).filter_map(Option::take)
    }

    /// Frees what is left and makes the burst empty.
    pub fn clear(&mut self, pool: &mut FramePool) {
        self.drain().for_each(|frame| pool.free(frame));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_burst_keeps_order_and_refuses_the_65th() {
        let mut pool = FramePool::private(65).unwrap();
        let mut burst = RxBurst::new();
        for n in 0..BURST_FRAMES {
            let mut frame = pool.alloc().unwrap();
            assert!(frame.copy_from(&[n as u8]));
            assert!(burst.push(frame).is_ok());
        }
        let extra = pool.alloc().unwrap();
        pool.free(burst.push(extra).unwrap_err());
        assert_eq!((burst.len(), burst.room()), (64, 0));
        pool.free(burst.take(3).unwrap());
        let order: Vec<u8> = burst.iter().map(|f| f.bytes()[0]).collect();
        assert_eq!(order, (0..64).filter(|&n| n != 3).collect::<Vec<u8>>());
        burst.clear(&mut pool);
        assert_eq!((burst.len(), pool.available()), (0, 65));
    }
}
