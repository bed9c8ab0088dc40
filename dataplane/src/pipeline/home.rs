//! Handing packets over to the worker that has their connection: the stage behind `receive`, where
//! there are several workers and the program tracks (`conntrack::home` says who has what).
//!
//! The homes of a whole batch come first; what has its home here may still be redirected, and that
//! table's memory is asked for before the first entry is looked at. Then what is not ours goes, as
//! it came in, and the rest closes up, in order.
//!
//! **Two steps at most.** A packet goes to its home, and from there where it is redirected to. Who
//! takes over a packet whose home is elsewhere knows by that that it was redirected, and keeps it.
//!
//! **As it came in**: out of a tunnel it is put back, for the other worker to take it out again.
//! Its headers are still there, in front; what the tunnel's congestion mark has changed is undone,
//! since the outer checksum covers it.
//!
//! Fragments go by their datagram (`pieces`).

use super::lane::{Egress, Lane, Slot};
use super::pieces::{Part, Whither};
use super::world::Subject;
use crate::clock::Now;
use crate::conntrack::{Conntrack, Homes, Narrow, Seat, Tuple, tuple_of_packet};
use crate::counters::{Drop, Stat};
use crate::limits::BATCH_MAX;
use crate::packet::frame::Frame;
use crate::packet::key::{FRAG_ANY, PacketKey, PortIx};
use crate::packet::parse::{self, Layers};
use crate::tunnel::Popped;
use crate::wire::ecn;
use crate::xsk::pool::FramePool;

/// Bytes of an IP header that a congestion mark changes, from its first one on.
const MARKED_BYTES: usize = 12;

/// What was taken off a packet that came out of a tunnel.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Outer {
    front: u16,
    tail: u16,
    /// The inner header, where the outer one bears a congestion mark.
    header: Option<[u8; MARKED_BYTES]>,
}

impl Outer {
    /// Before anything is taken off.
    #[inline]
    pub fn of(frame: &Frame, popped: &Popped) -> Self {
        let tail = frame.len().saturating_sub(usize::from(popped.inner_end)) as u16;
        Self { front: popped.inner_offset, tail, header: None }
    }

    /// Before the inner packet is marked as the outer one was.
    #[inline]
    pub fn keep(&mut self, outer_tos: u8, inner: &[u8], layers: &Layers) {
        if outer_tos & ecn::MASK == ecn::CE {
            let ip = inner.get(usize::from(layers.l3)..);
            self.header = ip.and_then(|ip| ip.first_chunk()).copied();
        }
    }

    fn put_back(&self, frame: &mut Frame, layers: &Layers) {
        if let Some(header) = &self.header
            && let Some(ip) = frame.bytes_mut().get_mut(usize::from(layers.l3)..)
            && let Some(first) = ip.first_chunk_mut()
        {
            *first = *header;
        }
        // Both were there a moment ago.
        let _ = frame.prepend(usize::from(self.front));
        let _ = frame.append(usize::from(self.tail));
    }
}

/// A packet that has its home here, and may be redirected.
#[derive(Clone, Copy, Debug)]
struct Ask {
    at: u8,
    hash: u64,
    tuple: Tuple,
}

/// What the stage works with.
#[derive(Debug)]
pub(super) struct Hands {
    asks: Vec<Ask>,
    /// Whose each packet of the batch is.
    owners: [u8; BATCH_MAX],
}

impl Hands {
    pub fn new() -> Self {
        Self { asks: Vec::with_capacity(BATCH_MAX), owners: [0; BATCH_MAX] }
    }
}

/// The home of a packet that is neither narrow nor a fragment; `None`: any worker's will do.
#[inline(never)]
fn home_of_other(homes: &Homes, slot: &Slot) -> Option<(u8, Tuple)> {
    let bytes = slot.frame.as_ref().map(Frame::bytes)?;
    let tuple = tuple_of_packet(&slot.key, bytes, &slot.layers)?;
    Some((homes.of(&tuple), tuple))
}

impl Lane {
    /// Gives the packets of the batch away that are not ours. `fresh`: they came from a port. Says
    /// how many are left, which are the first.
    #[inline(never)]
    pub(super) fn go_home<E: Egress>(
        &mut self,
        n: usize,
        (in_port, fresh): (PortIx, bool),
        now: Now,
        pool: &mut FramePool,
        egress: &mut E,
    ) -> usize {
        let me = self.seat.worker;
        let homes = self.conntrack.homes();
        let asks = homes.redirects();
        self.hands.asks.clear();
        let (mut away, mut pieces) = (0u64, 0u64);
        for (i, slot) in self.batch.iter().take(n).enumerate() {
            let narrow = Narrow::of(&slot.key.base);
            let (owner, tuple) = match &narrow {
                Some(narrow) => (homes.of_narrow(narrow), None),
                None if slot.key.base.ip_frag & FRAG_ANY != 0 => {
                    pieces |= 1 << i;
                    continue;
                }
                None => home_of_other(homes, slot).map_or((me, None), |(w, t)| (w, Some(t))),
            };
            let tuple = narrow.map(|n| n.tuple()).or(tuple);
            if owner == me
                && asks
                && let Some(tuple) = tuple
            {
                let hash = homes.ask_redirect(&tuple);
                self.hands.asks.push(Ask { at: i as u8, hash, tuple });
            }
            if let Some(o) = self.hands.owners.get_mut(i) {
                *o = owner;
            }
            // What was handed over and has its home elsewhere was redirected to here.
            away |= u64::from(owner != me && fresh) << i;
        }
        for ask in &self.hands.asks {
            if let Some(owner) = homes.redirect_of(ask.hash, &ask.tuple)
                && let Some(o) = self.hands.owners.get_mut(usize::from(ask.at))
            {
                *o = owner;
                away |= 1 << ask.at;
            }
        }
        if pieces != 0 {
            away |= self.pieces_go_home(pieces, (in_port, fresh), now, pool);
        }
        let mut kept = n;
        if away != 0 {
            kept = self.give_away(n, away, in_port, pool, egress);
        }
        if pieces != 0 {
            self.give_parts_away(pool, egress);
        }
        kept
    }

    /// Hands these over, and closes up.
    fn give_away<E: Egress>(
        &mut self,
        n: usize,
        away: u64,
        in_port: PortIx,
        pool: &mut FramePool,
        egress: &mut E,
    ) -> usize {
        let (mut kept, mut given) = (0, 0);
        for i in 0..n {
            if away >> i & 1 == 0 {
                if kept != i {
                    self.batch.swap(kept, i);
                }
                kept += 1;
                continue;
            }
            let Some(slot) = self.batch.get_mut(i) else { break };
            let Some(mut frame) = slot.frame.take() else { continue };
            if slot.key.has_tunnel() {
                slot.outer.put_back(&mut frame, &slot.layers);
            }
            let owner = self.hands.owners.get(i).copied().unwrap_or(0);
            egress.hand_over(owner, in_port, frame, pool);
            given += 1;
        }
        self.counters.add(Stat::HandedOver, given);
        kept
    }

    /// Finds out where fragments go. Gives those of the batch that are not judged here; those that
    /// wait are no longer in it.
    #[cold]
    #[inline(never)]
    fn pieces_go_home(
        &mut self,
        pieces: u64,
        (in_port, fresh): (PortIx, bool),
        now: Now,
        pool: &mut FramePool,
    ) -> u64 {
        let (me, mut away) = (self.seat.worker, 0);
        for i in (0..BATCH_MAX).filter(|i| pieces >> i & 1 != 0) {
            let Some(slot) = self.batch.get_mut(i) else { break };
            let (Some(frame), outer) = (slot.frame.as_ref(), slot.outer) else { continue };
            if frame.is_home() {
                continue;
            }
            let subject = Subject {
                key: &slot.key,
                bytes: frame.bytes(),
                layers: &slot.layers,
                in_port: slot.in_port,
                checksums_good: true,
            };
            let homes = self.conntrack.homes();
            let owner = match self.pieces.whither(&subject, homes, fresh, now) {
                Whither::Here => continue,
                Whither::To(owner) => owner,
                Whither::Home(owner) => {
                    slot.frame.iter_mut().for_each(Frame::set_home);
                    owner
                }
                Whither::Waits(part) => {
                    away |= 1 << i;
                    let Some(mut frame) = slot.frame.take() else { continue };
                    if slot.key.has_tunnel() {
                        outer.put_back(&mut frame, &slot.layers);
                    }
                    self.pieces.hold(part, in_port, frame.bytes(), now, &self.counters);
                    pool.free(frame);
                    continue;
                }
            };
            if let Some(o) = self.hands.owners.get_mut(i) {
                *o = owner;
            }
            away |= u64::from(owner != me) << i;
        }
        away
    }

    /// Hands over what has waited for the first fragment of its datagram, if that is not ours.
    fn give_parts_away<E: Egress>(&mut self, pool: &mut FramePool, egress: &mut E) {
        let me = self.seat.worker;
        while let Some((owner, part)) = self.pieces.next_for_others(me) {
            if let Some(frame) = copy_of(&part, pool) {
                egress.hand_over(owner, part.in_port, frame, pool);
                self.counters.add(Stat::HandedOver, 1);
            } else {
                self.counters.count_drop(Drop::FragmentLost);
            }
            self.pieces.recycle(part);
        }
    }

    /// The next fragment of ours that has waited for the first one of its datagram.
    #[cold]
    pub(super) fn next_part(&mut self, pool: &mut FramePool) -> Option<(Frame, PortIx)> {
        while let Some(part) = self.pieces.next_for(self.seat.worker) {
            let (frame, in_port) = (copy_of(&part, pool), part.in_port);
            self.pieces.recycle(part);
            match frame {
                Some(frame) => return Some((frame, in_port)),
                None => self.counters.count_drop(Drop::FragmentLost),
            }
        }
        None
    }

    /// Says how many notices there is room for.
    #[inline(never)]
    pub(super) fn see_rooms<E: Egress>(&mut self, egress: &mut E) {
        let me = self.seat.worker;
        let homes = self.conntrack.homes_mut();
        for worker in (0..homes.seat().workers).filter(|w| *w != me) {
            homes.set_room(worker, egress.notice_room(worker));
        }
    }

    /// Tells other workers what they need no longer know. To be called once a round, also when
    /// nothing came: what found no room is told again.
    #[inline]
    pub fn tell<E: Egress>(&mut self, egress: &mut E) {
        if self.conntrack.homes().owes() {
            self.conntrack.homes_mut().tell(|worker, notice| egress.notify(worker, notice));
        }
    }
}

/// The worker where a packet has its home, by the secret and the number that all lanes are made
/// with: who sends a packet by it finds the packet's connection, or is told where that is
/// ([`super::PacketOutError::Elsewhere`]).
pub fn home_of(seed: u64, workers: u8, bytes: &[u8]) -> u8 {
    let homes = Homes::new(Seat { worker: 0, workers }, seed, 0);
    tuple_of(bytes).map_or(0, |t| homes.of(&t))
}

impl Lane {
    /// The worker that packets like this one are redirected to from here.
    pub(super) fn redirect_of(&self, bytes: &[u8]) -> Option<u8> {
        let homes = self.conntrack.homes();
        if !homes.redirects() {
            return None;
        }
        let tuple = tuple_of(bytes)?;
        homes.redirect_of(homes.ask_redirect(&tuple), &tuple)
    }
}

/// The tuple that a packet's home goes by.
fn tuple_of(bytes: &[u8]) -> Option<Tuple> {
    let (mut key, mut layers) = (PacketKey::default(), Layers::default());
    parse::parse(bytes, PortIx::NONE, &mut key, &mut layers).ok()?;
    tuple_of_packet(&key, bytes, &layers)
}

/// Tells others what they have to know before the present packet leaves.
#[inline]
pub(super) fn tell_due<E: Egress>(conntrack: &mut Conntrack, egress: &mut E) {
    if conntrack.homes().is_due() {
        conntrack.homes_mut().tell_due(|worker, notice| egress.notify(worker, notice));
    }
}

fn copy_of(part: &Part, pool: &mut FramePool) -> Option<Frame> {
    let mut frame = pool.alloc()?;
    if frame.copy_from(&part.bytes) {
        return Some(frame);
    }
    pool.free(frame);
    None
}
