//! A frame: the owning handle of one chunk of the UMEM and of the packet bytes inside it.
//!
//! A chunk has a fixed size (2048 or 4096 bytes). The packet lies somewhere inside, with free room
//! in front (to push headers in without moving the payload) and behind:
//!
//! ```text
//! chunk:  |<---- headroom ---->|<------- len ------->|<-- tailroom -->|
//!         0                    head                  head + len       size
//! ```
//!
//! Forwarding moves frames, never bytes. A frame has no drop glue: freeing needs the worker's own
//! pool, and a handle that knew its pool would cost a pointer chase per packet. A frame that is
//! dropped instead of freed or sent is lost to the pool, and the conservation counts show it.
//!
//! # Boundary of the unsafe code
//! Inside: turning the chunk pointer into slices. What makes it right:
//! 1. a `Frame` is made only by `Frame::from_parts`, from a pool (`xsk::pool`) or a ring that gave
//!    the chunk up, so at any time one `Frame` per chunk exists, and it is not `Clone`;
//! 2. `head + len <= size` always holds: every method that changes one of them checks it;
//! 3. the mapping outlives the frame: `xsk::umem::Umem` unmaps only when all its frames are home.

#![allow(unsafe_code, reason = "island: bytes of a chunk behind a raw pointer")]

use std::ptr::NonNull;

use crate::limits;

/// Room in front of the packet in a frame fresh from the pool, and in a received one: the kernel
/// leaves `XDP_PACKET_HEADROOM` (256) bytes in every mode, so the UMEM asks for none on top.
/// The largest outer header we push (Ethernet 14, VLAN 4, IPv6 40, UDP 8, Geneve 8 + options) fits.
pub const HEADROOM_BYTES: u16 = 256;

/// One packet in one chunk of the UMEM. Owning; free it to a pool or hand it to a port.
pub struct Frame {
    chunk: NonNull<u8>,
    index: u32,
    head: u16,
    len: u16,
    size: u16,
    /// Some worker knew that it belongs to the one that it was handed to.
    is_home: bool,
}

// SAFETY: a frame is the only handle of its chunk, and the mapping is not bound to a thread.
unsafe impl Send for Frame {}

const _: () = assert!(HEADROOM_BYTES as usize >= limits::HEADROOM_BYTES);
const _: () = assert!(size_of::<Frame>() == 24 && size_of::<Option<Frame>>() == 24);

impl Frame {
    /// Makes the handle of a chunk.
    ///
    /// # Safety
    /// `chunk` points to `size` initialised bytes that stay mapped while the frame lives, nobody
    /// else has a handle of that chunk (kernel included), and `head + len <= size`.
    #[inline]
    pub(crate) unsafe fn from_parts(
        chunk: NonNull<u8>,
        index: u32,
        head: u16,
        len: u16,
        size: u16,
    ) -> Self {
        debug_assert!(u32::from(head) + u32::from(len) <= u32::from(size));
        Self { chunk, index, head, len, size, is_home: false }
    }

    /// The number of the chunk in its UMEM.
    #[inline]
    pub fn chunk_index(&self) -> u32 {
        self.index
    }

    /// The first byte of the chunk: identifies the UMEM the frame came from.
    #[inline]
    pub(crate) fn chunk_ptr(&self) -> NonNull<u8> {
        self.chunk
    }

    /// Whether the packet is to be judged where it was handed to, and not to be handed over again.
    /// Who copies a frame for another worker copies this, too.
    #[inline]
    pub fn is_home(&self) -> bool {
        self.is_home
    }

    /// The packet belongs to the worker that it is about to be handed to.
    #[inline]
    pub fn set_home(&mut self) {
        self.is_home = true;
    }

    /// Offset of the packet's first byte in the chunk.
    #[inline]
    pub fn head(&self) -> u16 {
        self.head
    }

    /// Length of the packet in bytes.
    #[inline]
    pub fn len(&self) -> usize {
        usize::from(self.len)
    }

    #[inline]
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Free bytes in front of the packet.
    #[inline]
    pub fn headroom(&self) -> usize {
        usize::from(self.head)
    }

    /// Free bytes behind the packet.
    #[inline]
    pub fn tailroom(&self) -> usize {
        usize::from(self.size) - usize::from(self.head) - usize::from(self.len)
    }

    /// The packet.
    #[inline]
    pub fn bytes(&self) -> &[u8] {
        // SAFETY: head + len <= size, the chunk is mapped and ours alone (boundary 1-3); the borrow
        // of self keeps bytes_mut away.
        unsafe {
            let first = self.chunk.as_ptr().add(usize::from(self.head));
            std::slice::from_raw_parts(first, usize::from(self.len))
        }
    }

    /// The packet, for writing.
    #[inline]
    pub fn bytes_mut(&mut self) -> &mut [u8] {
        // SAFETY: as in `bytes`; the exclusive borrow of the only handle makes the slice exclusive.
        unsafe {
            let first = self.chunk.as_ptr().add(usize::from(self.head));
            std::slice::from_raw_parts_mut(first, usize::from(self.len))
        }
    }

    /// Grows the packet by `n` bytes at the front and returns those, with whatever was there.
    /// `None` (and no change) when the headroom is too small.
    #[inline]
    pub fn prepend(&mut self, n: usize) -> Option<&mut [u8]> {
        if n > usize::from(self.head) {
            return None;
        }
        // n <= head <= u16::MAX, and head + len is unchanged.
        self.head -= n as u16;
        self.len += n as u16;
        self.bytes_mut().get_mut(..n)
    }

    /// Grows the packet by `n` bytes at the back and returns those, with whatever was there.
    /// `None` (and no change) when the tailroom is too small.
    #[inline]
    pub fn append(&mut self, n: usize) -> Option<&mut [u8]> {
        if n > self.tailroom() {
            return None;
        }
        let old = usize::from(self.len);
        self.len += n as u16;
        self.bytes_mut().get_mut(old..)
    }

    /// Cuts `n` bytes off the front. `false` (and no change) when the packet is shorter.
    #[inline]
    pub fn trim_front(&mut self, n: usize) -> bool {
        if n > usize::from(self.len) {
            return false;
        }
        self.head += n as u16;
        self.len -= n as u16;
        true
    }

    /// Cuts `n` bytes off the back. `false` (and no change) when the packet is shorter.
    #[inline]
    pub fn trim_tail(&mut self, n: usize) -> bool {
        if n > usize::from(self.len) {
            return false;
        }
        self.len -= n as u16;
        true
    }

    /// Sets the length; growing shows whatever bytes were there. `false` (and no change) when the
    /// chunk is too small.
    #[inline]
    pub fn set_len(&mut self, len: usize) -> bool {
        if len > usize::from(self.size) - usize::from(self.head) {
            return false;
        }
        self.len = len as u16;
        true
    }

    /// Makes the packet empty with `headroom` free bytes in front. `false` (and no change) when the
    /// chunk is smaller than that.
    #[inline]
    pub fn reset(&mut self, headroom: u16) -> bool {
        if headroom > self.size {
            return false;
        }
        self.head = headroom;
        self.len = 0;
        true
    }

    /// Replaces the packet by a copy of `bytes`, at the same head. `false` (and no change) when it
    /// does not fit.
    #[inline]
    pub fn copy_from(&mut self, bytes: &[u8]) -> bool {
        if !self.set_len(bytes.len()) {
            return false;
        }
        copy(self.bytes_mut(), bytes);
        true
    }

    /// Replaces the packet by a copy of another frame's, with the same headroom, so that a copy for
    /// flooding can take the same headers. `false` (and no change) when it does not fit.
    #[inline]
    pub fn clone_from_frame(&mut self, other: &Frame) -> bool {
        if u32::from(other.head) + u32::from(other.len) > u32::from(self.size) {
            return false;
        }
        self.head = other.head;
        self.len = other.len;
        self.bytes_mut().copy_from_slice(other.bytes());
        true
    }

    /// Asks the processor to bring the packet's first cache line (or the one at `offset`) near.
    #[inline]
    pub fn prefetch(&self, offset: usize) {
        #[cfg(target_arch = "x86_64")]
        {
            use std::arch::x86_64::{_MM_HINT_T0, _mm_prefetch};
            let p = self.chunk.as_ptr().wrapping_add(usize::from(self.head) + offset);
            // SAFETY: a prefetch never faults, whatever the address; SSE is part of x86-64.
            unsafe { _mm_prefetch::<_MM_HINT_T0>(p.cast()) };
        }
        #[cfg(not(target_arch = "x86_64"))]
        let _ = offset;
    }
}

/// Copies between slices of one length. The shortest frames are the most frequent, and two halves
/// that overlap take a few moves where a call costs more than the copy.
#[inline]
fn copy(to: &mut [u8], from: &[u8]) {
    const HALF: usize = 32;
    if to.len() == from.len()
        && from.len() <= 2 * HALF
        && let (Some(first), Some(last)) = (from.first_chunk::<HALF>(), from.last_chunk::<HALF>())
    {
        if let Some(place) = to.first_chunk_mut() {
            *place = *first;
        }
        if let Some(place) = to.last_chunk_mut() {
            *place = *last;
        }
        return;
    }
    to.copy_from_slice(from);
}

impl std::fmt::Debug for Frame {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Frame {{ chunk {}, head {}, len {} }}", self.index, self.head, self.len)
    }
}

#[cfg(test)]
mod tests {
    use super::HEADROOM_BYTES;
    use crate::xsk::pool::FramePool;

    #[test]
    fn a_fresh_frame_is_empty_with_headroom() {
        let mut pool = FramePool::private(4).unwrap();
        let frame = pool.alloc().unwrap();
        assert_eq!(
            (frame.len(), frame.headroom(), frame.tailroom()),
            (0, usize::from(HEADROOM_BYTES), 2048 - 256)
        );
        pool.free(frame);
    }

    #[test]
    fn headers_go_on_and_come_off_without_moving_the_payload() {
        let mut pool = FramePool::private(1).unwrap();
        let mut frame = pool.alloc().unwrap();
        assert!(frame.copy_from(b"payload"));
        frame.prepend(4).unwrap().copy_from_slice(b"head");
        frame.append(4).unwrap().copy_from_slice(b"tail");
        assert_eq!(frame.bytes(), b"headpayloadtail");
        assert!(frame.trim_front(4) && frame.trim_tail(4));
        assert_eq!(frame.bytes(), b"payload");
        assert_eq!(frame.head(), HEADROOM_BYTES);
        pool.free(frame);
    }

    #[test]
    fn nothing_leaves_the_chunk() {
        let mut pool = FramePool::private(1).unwrap();
        let mut frame = pool.alloc().unwrap();
        assert!(frame.prepend(257).is_none() && frame.prepend(256).is_some());
        assert!(frame.append(1793).is_none() && frame.append(1792).is_some());
        assert_eq!((frame.len(), frame.headroom(), frame.tailroom()), (2048, 0, 0));
        assert!(!frame.trim_front(2049) && !frame.trim_tail(2049) && !frame.set_len(2049));
        assert!(frame.trim_front(2048) && frame.is_empty() && !frame.set_len(1));
        assert!(frame.append(1).is_none() && !frame.reset(2049) && frame.reset(2048));
        pool.free(frame);
    }

    #[test]
    fn every_length_is_copied_whole() {
        let mut pool = FramePool::private(1).unwrap();
        let mut frame = pool.alloc().unwrap();
        let bytes: Vec<u8> = (0..130).collect();
        for len in 0..=bytes.len() {
            assert!(frame.copy_from(&[0xee; 130]) && frame.copy_from(&bytes[..len]));
            assert_eq!(frame.bytes(), &bytes[..len]);
            assert!(len == 130 || frame.append(1).unwrap() == [0xee], "{len}: one too many");
        }
        pool.free(frame);
    }

    #[test]
    fn a_copy_keeps_the_headroom() {
        let mut pool = FramePool::private(2).unwrap();
        let (mut a, mut b) = (pool.alloc().unwrap(), pool.alloc().unwrap());
        assert!(a.copy_from(b"0123456789") && a.trim_front(3));
        assert!(b.clone_from_frame(&a));
        assert_eq!((b.bytes(), b.head()), (&b"3456789"[..], a.head()));
        b.bytes_mut()[0] = b'x';
        assert_eq!(a.bytes()[0], b'3');
        pool.free(a);
        pool.free(b);
        assert_eq!(pool.available(), 2);
    }
}
