//! The four rings between us and the kernel.
//!
//! A ring is an array of a power of two of slots, and two free-running 32-bit counters: the
//! producer has written `producer` slots so far, the consumer has read `consumer` of them. Used
//! slots are `producer - consumer` in wrapping arithmetic; a slot's place is its counter masked.
//! One side owns each counter, so neither needs a lock:
//!
//! - who produces: reads `consumer` (Acquire: the other side has finished reading the slots it
//!   freed), writes slots, then stores `producer` (Release: the slots are visible before the
//!   counter);
//! - who consumes: reads `producer` (Acquire), reads slots, then stores `consumer` (Release).
//!
//! Each side keeps private copies of both counters and touches the shared ones once per batch,
//! since each touch moves a cache line between cores. Fill and tx rings are ours to produce, rx and
//! completion rings ours to consume. Source: Documentation/networking/af_xdp.rst,
//! net/xdp/xsk_queue.h.
//!
//! # Boundary of the unsafe code
//! Inside: raw access to counters and slots of a mapping. What makes it right: the pointers are
//! inside the mapping that the ring owns (checked when it is made), a slot index is masked, and the
//! counters' protocol gives each slot to one side at a time. A counter of the other side that makes
//! no sense (more used slots than the ring has) is taken as "nothing there".

#![allow(unsafe_code, reason = "island: rings shared with the kernel")]

use std::marker::PhantomData;
use std::ptr::NonNull;
use std::sync::atomic::{AtomicU32, Ordering};

use crate::sys::Mapping;
use crate::sys::xdp::{RING_NEED_WAKEUP, xdp_ring_offset};

/// The shared part: pointers into the mapping, which lives as long as this.
struct Shared<T> {
    producer: NonNull<AtomicU32>,
    consumer: NonNull<AtomicU32>,
    flags: NonNull<AtomicU32>,
    slots: NonNull<T>,
    mask: u32,
    _mapping: Mapping,
    _slots: PhantomData<T>,
}

// SAFETY: the ring owns its mapping, and shared counters are atomics; nothing is bound to a thread.
unsafe impl<T: Send> Send for Shared<T> {}

impl<T: Copy> Shared<T> {
    /// `None` when a field would lie outside the mapping or `entries` is no power of two.
    fn new(mapping: Mapping, offsets: &xdp_ring_offset, entries: u32) -> Option<Self> {
        let len = mapping.len_bytes();
        let slots_end = (offsets.desc as usize).checked_add(entries as usize * size_of::<T>())?;
        let counters = [offsets.producer, offsets.consumer, offsets.flags];
        let inside = counters.iter().all(|&o| o as usize + 4 <= len && o % 4 == 0);
        let aligned = (offsets.desc as usize).is_multiple_of(align_of::<T>());
        if !(inside && aligned && slots_end <= len && entries.is_power_of_two()) {
            return None;
        }
        let base = mapping.base();
        // SAFETY: all offsets were just checked to be inside the mapping and aligned.
        unsafe {
            Some(Self {
                producer: base.add(offsets.producer as usize).cast(),
                consumer: base.add(offsets.consumer as usize).cast(),
                flags: base.add(offsets.flags as usize).cast(),
                slots: base.add(offsets.desc as usize).cast(),
                mask: entries - 1,
                _mapping: mapping,
                _slots: PhantomData,
            })
        }
    }

    #[inline]
    fn producer(&self) -> &AtomicU32 {
        // SAFETY: inside the mapping, aligned, and only ever accessed as an atomic.
        unsafe { self.producer.as_ref() }
    }

    #[inline]
    fn consumer(&self) -> &AtomicU32 {
        // SAFETY: as for the producer counter.
        unsafe { self.consumer.as_ref() }
    }

    #[inline]
    fn flags(&self) -> &AtomicU32 {
        // SAFETY: as for the producer counter.
        unsafe { self.flags.as_ref() }
    }

    #[inline]
    fn slot(&self, counter: u32) -> *mut T {
        // SAFETY: masked, so inside the array of slots, which is inside the mapping.
        unsafe { self.slots.as_ptr().add((counter & self.mask) as usize) }
    }

    fn entries(&self) -> u32 {
        self.mask + 1
    }
}

/// A ring that we fill: fill ring (addresses) or tx ring (descriptors).
pub(crate) struct ProducerRing<T> {
    shared: Shared<T>,
    /// Slots written so far, published or not.
    written: u32,
    /// Slots the other side may see.
    published: u32,
    /// Last known counter of the consumer.
    consumed: u32,
}

impl<T: Copy> ProducerRing<T> {
    pub(crate) fn new(mapping: Mapping, at: &xdp_ring_offset, entries: u32) -> Option<Self> {
        let shared = Shared::<T>::new(mapping, at, entries)?;
        // A fresh ring starts at 0; a test's may start elsewhere.
        let start = shared.producer().load(Ordering::Relaxed);
        let consumed = shared.consumer().load(Ordering::Acquire);
        Some(Self { shared, written: start, published: start, consumed })
    }

    pub(crate) fn entries(&self) -> u32 {
        self.shared.entries()
    }

    /// Free slots; looks at the consumer's counter only when fewer than `want` are known.
    #[inline]
    pub(crate) fn free(&mut self, want: u32) -> u32 {
        let entries = self.shared.entries();
        let known = entries.saturating_sub(self.written.wrapping_sub(self.consumed));
        if known >= want {
            return known;
        }
        self.consumed = self.shared.consumer().load(Ordering::Acquire);
        entries.saturating_sub(self.written.wrapping_sub(self.consumed))
    }

    /// Writes the next slot, unseen by the other side until `publish`. `false` when full.
    #[inline]
    pub(crate) fn push(&mut self, value: T) -> bool {
        if self.free(1) == 0 {
            return false;
        }
        // SAFETY: the slot is free, so it is ours until published.
        unsafe { self.shared.slot(self.written).write(value) };
        self.written = self.written.wrapping_add(1);
        true
    }

    /// Shows the other side all that was written.
    #[inline]
    pub(crate) fn publish(&mut self) {
        if self.published != self.written {
            self.published = self.written;
            self.shared.producer().store(self.written, Ordering::Release);
        }
    }

    /// Published slots that the other side has not taken yet.
    #[inline]
    pub(crate) fn waiting(&mut self) -> u32 {
        self.consumed = self.shared.consumer().load(Ordering::Acquire);
        self.published.wrapping_sub(self.consumed)
    }

    /// Whether the other side sleeps and wants a wake-up.
    #[inline]
    pub(crate) fn needs_wakeup(&self) -> bool {
        self.shared.flags().load(Ordering::Relaxed) & RING_NEED_WAKEUP != 0
    }
}

/// A ring that we empty: rx ring (descriptors) or completion ring (addresses).
pub(crate) struct ConsumerRing<T> {
    shared: Shared<T>,
    /// Slots read so far, released or not.
    read: u32,
    released: u32,
    /// Last known counter of the producer.
    produced: u32,
}

impl<T: Copy> ConsumerRing<T> {
    pub(crate) fn new(mapping: Mapping, at: &xdp_ring_offset, entries: u32) -> Option<Self> {
        let shared = Shared::<T>::new(mapping, at, entries)?;
        let start = shared.consumer().load(Ordering::Relaxed);
        Some(Self { shared, read: start, released: start, produced: start })
    }

    /// Slots ready to be read, at most `want`; looks at the producer's counter only when none is
    /// known.
    #[inline]
    pub(crate) fn ready(&mut self, want: u32) -> u32 {
        if self.read == self.produced {
            self.produced = self.shared.producer().load(Ordering::Acquire);
        }
        let ready = self.produced.wrapping_sub(self.read);
        if ready > self.shared.entries() { 0 } else { ready.min(want) }
    }

    /// Reads the next slot. Call at most `ready` times.
    #[inline]
    pub(crate) fn pop(&mut self) -> Option<T> {
        if self.ready(1) == 0 {
            return None;
        }
        // SAFETY: the slot was published by the other side and not released by us yet; T is a plain
        // C struct or integer, so any bytes are a value.
        let value = unsafe { self.shared.slot(self.read).read() };
        self.read = self.read.wrapping_add(1);
        Some(value)
    }

    /// Gives the slots that were read back to the other side.
    #[inline]
    pub(crate) fn release(&mut self) {
        if self.released != self.read {
            self.released = self.read;
            self.shared.consumer().store(self.read, Ordering::Release);
        }
    }
}
