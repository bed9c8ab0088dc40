//! Whether a cached traversal still holds for a packet: its guards, in the order of the walk.
//!
//! A guard that holds may refresh what it looked at (a connection's timer and windows, a MAC
//! address's age), as the walk would have. So the order matters: what is checked before the first
//! guard that fails is what the walk, run next, would have done up to there.

use super::program::Program;
use super::run::Slot;
use crate::cache::traversal::{CtGuard, FdbGuard, Item, WHOLE_FDB};
use crate::clock::Now;
use crate::conntrack::{Conntrack, HitPacket};
use crate::packet::l4sum;

/// Whether all guards hold.
#[inline]
pub(super) fn hold(
    mut guards: impl Iterator<Item = Item>,
    conntrack: &mut Conntrack,
    program: &Program,
    slot: &Slot,
    now: Now,
) -> bool {
    guards.all(|guard| match guard {
        Item::Ct(g) => ct_holds(conntrack, &g, slot, now),
        Item::Fdb(g) => fdb_holds(program, &g, now),
        Item::Do(_) | Item::Credit(_) | Item::Bucket { .. } | Item::Learned(_) => false,
    })
}

/// The same, and nothing is refreshed.
pub(super) fn would_hold(
    mut guards: impl Iterator<Item = Item>,
    conntrack: &Conntrack,
    program: &Program,
    slot: &Slot,
    now: Now,
) -> bool {
    guards.all(|guard| match guard {
        Item::Ct(g) => hit_packet(slot)
            .is_some_and(|hit| conntrack.would_hit(g.conn, g.reply, g.state, &hit, now)),
        Item::Fdb(g) => fdb_holds(program, &FdbGuard { touch: false, ..g }, now),
        Item::Do(_) | Item::Credit(_) | Item::Bucket { .. } | Item::Learned(_) => false,
    })
}

#[inline]
fn ct_holds(ct: &mut Conntrack, g: &CtGuard, slot: &Slot, now: Now) -> bool {
    hit_packet(slot).is_some_and(|hit| ct.hit(g.conn, g.reply, g.state, &hit, now))
}

#[inline]
fn hit_packet(slot: &Slot) -> Option<HitPacket> {
    let (l4, end) = (slot.layers.l4 as usize, slot.layers.end as usize);
    let bytes = slot.frame.as_ref().map(|f| f.bytes())?;
    let segment = bytes.get(l4..end.min(bytes.len()))?;
    let base = &slot.key.base;
    let mut hit = HitPacket::from_l4(base.ip_proto, base.ip_frag, segment)?;
    hit.checksum_ok = slot.checksums_good || l4sum::checksums_ok(bytes, &slot.layers, &slot.key);
    Some(hit)
}

fn fdb_holds(program: &Program, g: &FdbGuard, now: Now) -> bool {
    let Some(b) = program.bridges.get(g.bridge as usize) else { return false };
    if g.slot == WHOLE_FDB {
        return b.fdb.generation() == g.value;
    }
    b.fdb.still(g.slot, g.value, g.touch, now)
}
