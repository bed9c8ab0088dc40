//! The first stage of a batch: frames become keys.
//!
//! Each frame is parsed, taken out of its tunnel where it came by one, its partial checksum
//! completed, and its key hashed for tier 1 while it is at hand.

use super::arrive;
use super::lane::{Slot, UNHASHED};
use super::program::{Port, Program};
use crate::cache::Microflows;
use crate::cache::entry::NONE;
use crate::counters::{Counters, Drop, Stat};
use crate::packet::frame::Frame;
use crate::packet::key::PortIx;
use crate::packet::l4sum;
use crate::packet::parse::{self};
use crate::xsk::pool::FramePool;

/// Completes a checksum that the sender left to the device.
fn complete_checksum(frame: &mut Frame, slot: &Slot, counters: &Counters) {
    let done = l4sum::complete_partial_checksum(frame.bytes_mut(), &slot.layers, &slot.key);
    counters.add(Stat::ChecksumsCompleted, u64::from(done));
}

/// Counts packets and their bytes, once: who took them from a port.
#[inline]
fn count_received(counters: &Counters, (packets, bytes): (u64, u64), fresh: bool) {
    if fresh {
        counters.add(Stat::RxPackets, packets);
        counters.add(Stat::RxBytes, bytes);
    } else {
        counters.add(Stat::TakenOver, packets);
    }
}

/// Parses a packet that is not of the common kind, or comes by a port where tunnels end.
#[inline(never)]
fn receive_other(
    slot: &mut Slot,
    frame: &mut Frame,
    program: &Program,
    (port, fresh): (&Port, bool),
    counters: &Counters,
) -> Result<(), Drop> {
    parse::parse_limited(
        frame.bytes(),
        slot.in_port,
        program.vlan_limit,
        &mut slot.key,
        &mut slot.layers,
    )?;
    if port.partial_checksums {
        complete_checksum(frame, slot, counters);
    }
    if port.underlay {
        let unwrapped = arrive::unwrap(program, frame, slot)?;
        counters.add(Stat::TunnelPop, u64::from(unwrapped && fresh));
    }
    Ok(())
}

/// Parses up to a batch of frames, out of their tunnels where they came by one, and hashes
/// their keys for tier 1 while they are at hand, unless tier 2 is asked first.
#[inline]
pub(super) fn receive(
    batch: &mut [Slot],
    program: &Program,
    counters: &Counters,
    cache: Option<&Microflows>,
    frames: &mut impl Iterator<Item = Frame>,
    (in_port, fresh): (PortIx, bool),
    pool: &mut FramePool,
) -> usize {
    let Some(port) = program.port(in_port) else {
        // Its port is here before the program that knows it.
        for frame in frames {
            count_received(counters, (1, frame.len() as u64), fresh);
            counters.count_drop(Drop::PortBlocked);
            pool.free(frame);
        }
        return 0;
    };
    let (mut n, mut bytes, mut taken, mut others) = (0, 0, 0, 0);
    while let Some(slot) = batch.get_mut(n) {
        let Some(mut frame) = frames.next() else { break };
        taken += 1;
        bytes += frame.len() as u64;
        slot.in_port = in_port;
        slot.checksums_good = port.checksums_good;
        match parse::parse_common(frame.bytes(), in_port).filter(|_| !port.underlay) {
            Some(common) => {
                common.write(&mut slot.key, &mut slot.layers);
                if port.partial_checksums {
                    complete_checksum(&mut frame, slot, counters);
                }
                if let Some(cache) = cache {
                    slot.home = cache.hash_words(common.words, &mut slot.masked);
                } else {
                    (slot.home, slot.masked) = (UNHASHED, common.words);
                }
            }
            None => {
                let parsed = receive_other(slot, &mut frame, program, (port, fresh), counters);
                if let Err(reason) = parsed {
                    counters.count_drop(reason);
                    pool.free(frame);
                    continue;
                }
                slot.home = NONE;
                others += 1;
            }
        }
        slot.frame = Some(frame);
        n += 1;
    }
    if others > 0
        && let Some(cache) = cache
    {
        // Not at once: the key was written in pieces, and reading it would wait for them.
        for slot in batch.iter_mut().take(n).filter(|s| s.home == NONE) {
            slot.home = cache.hash(&slot.key, &mut slot.masked);
        }
    }
    if taken > 0 {
        count_received(counters, (taken, bytes), fresh);
        counters.add(Stat::Batches, 1);
    }
    n
}
