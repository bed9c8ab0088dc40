//! A mock of the kernel's side of a ring, for tests: random steps of both sides, with counters that
//! start just before they wrap, must deliver every value once and in order.

use proptest::prelude::*;

use super::ring::{ConsumerRing, ProducerRing};
use crate::sys::Mapping;
use crate::sys::xdp::xdp_ring_offset;

const AT: xdp_ring_offset = xdp_ring_offset { producer: 0, consumer: 64, desc: 192, flags: 128 };

/// The other side, written plainly: no cached counters, sequentially consistent by being alone.
struct Peer {
    base: std::ptr::NonNull<u8>,
    entries: u32,
}

impl Peer {
    fn word(&self, at: u64) -> u32 {
        let bytes: [u8; 4] = std::array::from_fn(|i| self.byte(at as usize + i));
        u32::from_ne_bytes(bytes)
    }

    #[allow(unsafe_code, reason = "test peer reads the ring's memory")]
    fn byte(&self, at: usize) -> u8 {
        // SAFETY: inside the mapping of the ring, which outlives the peer in each test.
        unsafe { self.base.as_ptr().add(at).read_volatile() }
    }

    #[allow(unsafe_code, reason = "test peer writes the ring's memory")]
    fn set(&self, at: usize, bytes: &[u8]) {
        for (i, &byte) in bytes.iter().enumerate() {
            // SAFETY: as in `byte`.
            unsafe { self.base.as_ptr().add(at + i).write_volatile(byte) };
        }
    }

    fn slot_at(&self, counter: u32) -> usize {
        AT.desc as usize + (counter % self.entries) as usize * 8
    }

    /// Consumes one value, if there is one.
    fn pop(&self) -> Option<u64> {
        let (producer, consumer) = (self.word(AT.producer), self.word(AT.consumer));
        if producer == consumer {
            return None;
        }
        let at = self.slot_at(consumer);
        let value = u64::from_ne_bytes(std::array::from_fn(|i| self.byte(at + i)));
        self.set(AT.consumer as usize, &consumer.wrapping_add(1).to_ne_bytes());
        Some(value)
    }

    /// Produces one value, if there is room.
    fn push(&self, value: u64) -> bool {
        let (producer, consumer) = (self.word(AT.producer), self.word(AT.consumer));
        if producer.wrapping_sub(consumer) == self.entries {
            return false;
        }
        self.set(self.slot_at(producer), &value.to_ne_bytes());
        self.set(AT.producer as usize, &producer.wrapping_add(1).to_ne_bytes());
        true
    }
}

fn memory(entries: u32, start: u32) -> (Mapping, Peer) {
    let mapping = Mapping::anonymous(4096, false).unwrap();
    let peer = Peer { base: mapping.base(), entries };
    peer.set(AT.producer as usize, &start.to_ne_bytes());
    peer.set(AT.consumer as usize, &start.to_ne_bytes());
    (mapping, peer)
}

#[test]
fn rings_that_leave_their_mapping_are_refused() {
    let ring = |at: xdp_ring_offset, entries| {
        ProducerRing::<u64>::new(Mapping::anonymous(4096, false).unwrap(), &at, entries).is_some()
    };
    assert!(ring(AT, 256));
    assert!(!ring(AT, 512) && !ring(AT, 100));
    assert!(!ring(xdp_ring_offset { flags: 4094, ..AT }, 8));
    assert!(!ring(xdp_ring_offset { desc: 193, ..AT }, 8));
    assert!(!ring(xdp_ring_offset { producer: 4096, ..AT }, 8));
}

#[test]
fn a_senseless_counter_means_nothing_is_there() {
    let (mapping, peer) = memory(8, 0);
    let mut ring = ConsumerRing::<u64>::new(mapping, &AT, 8).unwrap();
    peer.set(AT.producer as usize, &9u32.to_ne_bytes());
    assert_eq!((ring.ready(64), ring.pop()), (0, None));
}

#[test]
fn the_wake_up_flag_is_seen() {
    let (mapping, peer) = memory(8, 0);
    let ring = ProducerRing::<u64>::new(mapping, &AT, 8).unwrap();
    assert!(!ring.needs_wakeup());
    peer.set(AT.flags as usize, &1u32.to_ne_bytes());
    assert!(ring.needs_wakeup());
}

proptest! {
    #![proptest_config(ProptestConfig {
        failure_persistence: None, cases: 128, ..ProptestConfig::default()
    })]

    #[test]
    fn what_we_produce_arrives_once_in_order(
        start in (u32::MAX - 40)..=u32::MAX,
        bits in 1u32..5,
        steps in proptest::collection::vec(0u8..4, 1..300),
    ) {
        let entries = 1 << bits;
        let (mapping, peer) = memory(entries, start);
        let mut ring = ProducerRing::<u64>::new(mapping, &AT, entries).unwrap();
        let (mut written, mut published, mut seen) = (0u64, 0u64, 0u64);
        for step in steps {
            match step {
                0 | 1 => {
                    let room = written - seen < u64::from(entries);
                    prop_assert_eq!(ring.push(written), room);
                    written += u64::from(room);
                }
                2 => {
                    ring.publish();
                    published = written;
                }
                _ => {
                    let value = peer.pop();
                    prop_assert_eq!(value, (seen < published).then_some(seen));
                    seen += u64::from(value.is_some());
                }
            }
            prop_assert_eq!(u64::from(ring.waiting()), published - seen);
            prop_assert_eq!(u64::from(ring.free(entries)), u64::from(entries) - (written - seen));
        }
    }

    #[test]
    fn what_the_kernel_produces_is_read_once_in_order(
        start in (u32::MAX - 40)..=u32::MAX,
        bits in 1u32..5,
        steps in proptest::collection::vec(0u8..4, 1..300),
    ) {
        let entries = 1 << bits;
        let (mapping, peer) = memory(entries, start);
        let mut ring = ConsumerRing::<u64>::new(mapping, &AT, entries).unwrap();
        let (mut made, mut read, mut released) = (0u64, 0u64, 0u64);
        for step in steps {
            match step {
                0 | 1 => {
                    let room = made - released < u64::from(entries);
                    prop_assert_eq!(peer.push(made), room);
                    made += u64::from(room);
                }
                2 => {
                    ring.release();
                    released = read;
                }
                _ => {
                    let value = ring.pop();
                    prop_assert_eq!(value, (read < made).then_some(read));
                    read += u64::from(value.is_some());
                }
            }
        }
    }
}
