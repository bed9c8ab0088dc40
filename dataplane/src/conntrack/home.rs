//! Several workers: which of them tracks a connection.
//!
//! Each worker has its own connections, and no lock. A packet's *home* is the worker that a hash of
//! its tuple names: the same for both directions of a connection that is not translated, and the
//! same in all workers, for they share the hash's secret. A packet that arrives elsewhere is handed
//! over (`pipeline::home`), so one worker sees all of a connection.
//!
//! **Translation** breaks that: replies come with a tuple of their own. Where NAT may choose, it
//! chooses a tuple whose home is here (`nat`). Then no two workers give out the same one, and
//! replies come home. Where it may not (a destination, a protocol without ports), the home of the
//! replies is told to send them here: a [`Notice::Redirect`], which is on its way before the packet
//! that made the connection, and is withdrawn when the connection ends. The rule is of tuples, not
//! of NAT: *of both tuples of a connection, each has its home here or is redirected to here.* So it
//! also holds for what actions made of addresses before `ct`, and for packets of controllers.
//!
//! **Bounds.** A commit that finds no room for its notice is refused. What was redirected and is to
//! be withdrawn is remembered until there is room, and no more is redirected than that memory
//! holds: no withdrawal is lost.
//!
//! **Not seen** is what only one table of all connections could see: two workers that redirect the
//! same tuple to themselves, because a client's connections to two addresses are led to one end
//! from one port. The first has it, and the second is counted. Homes and redirects know no zones:
//! where the two are connections of different zones, the later one has the packets, and nobody
//! counts.

use super::audit::{Findings, Redirected, redirect_to};
use super::icmp_error;
use super::key::{HashKey, Narrow, Tuple, addresses};
use super::redirect::{Entered, Redirects};
use crate::limits::{REDIRECTS_DUE_MAX, WITHDRAWALS_AT_ONCE, WORKERS_MAX};
use crate::packet::key::{PacketKey, shape};
use crate::packet::parse::Layers;
use crate::wire::ether;

/// Which worker of how many.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Seat {
    pub worker: u8,
    pub workers: u8,
}

impl Default for Seat {
    /// The only one.
    fn default() -> Self {
        Self { worker: 0, workers: 1 }
    }
}

impl Seat {
    /// Whether there are others.
    #[inline]
    pub fn is_shared(self) -> bool {
        self.workers > 1
    }

    /// The others.
    fn others(self) -> impl Iterator<Item = u8> {
        (0..self.workers).filter(move |w| *w != self.worker)
    }
}

/// What one worker tells another. Those of one sender are heard in the order in which they were
/// told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Notice {
    /// Packets of this tuple are the sender's, wherever their home is. A source port of 0 means
    /// any. The zone is the connection's.
    Redirect { tuple: Tuple, zone: u16, from: u8 },
    /// One such notice of this sender's holds no longer.
    Withdraw { tuple: Tuple, from: u8 },
}

/// The tuple that a packet's home goes by: what `ct` would look for if no action came before. Of a
/// fragment it is that of its datagram if it is the first. `None`: it is of no connection.
pub fn tuple_of_packet(key: &PacketKey, bytes: &[u8], layers: &Layers) -> Option<Tuple> {
    let base = &key.base;
    let (eth_type, good) = key.innermost();
    let v6 = eth_type == ether::TYPE_IPV6;
    if good & shape::L3_VALID == 0 || !v6 && eth_type != ether::TYPE_IPV4 {
        return None;
    }
    let (src, dst) = addresses(key, v6);
    let mut tuple = Tuple { src, dst, sport: 0, dport: 0, proto: base.ip_proto, v6 };
    if good & shape::L4_VALID == 0 || !tuple.has_ports() {
        return Some(tuple);
    }
    let (first, second) = (u16::from_be_bytes(base.tp_src), u16::from_be_bytes(base.tp_dst));
    if !tuple.is_icmp() {
        (tuple.sport, tuple.dport) = (first, second);
        return Some(tuple);
    }
    if icmp_error::is_error(v6, first as u8) {
        let quoted = bytes.get(usize::from(layers.l4) + 8..usize::from(layers.end));
        let quoted = quoted.and_then(|ip| icmp_error::quoted_tuple(ip, v6));
        return Some(quoted.map_or(tuple, |q| q.reversed()));
    }
    (tuple.sport, tuple.dport) = (u16::from_be_bytes(base.icmp_id), first << 8);
    Some(tuple)
}

/// Bits of `Hot::told`: which of a connection's tuples others were told of.
pub(super) mod told {
    pub const ORIG: u8 = 1;
    pub const REPLY: u8 = 2;
}

/// No notice can be told: the others' rings are full, or what is to be withdrawn later is too much.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Untold;

/// A worker's seat among the others, and what they told each other.
pub struct Homes {
    seat: Seat,
    key: HashKey,
    redirects: Redirects,
    /// Notices that there is room for, by worker.
    rooms: [u32; WORKERS_MAX],
    /// To be told before the present packet leaves.
    due: Vec<(u8, Notice)>,
    /// To be told some time.
    owed: Vec<(u8, Tuple)>,
    /// Where in `owed` the next round begins.
    next: usize,
    /// Redirects that others have of us.
    given: usize,
}

impl Homes {
    /// `max`: redirects of others here, and of ours elsewhere.
    pub(crate) fn new(seat: Seat, seed: u64, max: usize) -> Self {
        let workers = seat.workers.clamp(1, WORKERS_MAX as u8);
        let seat = Seat { worker: seat.worker.min(workers - 1), workers };
        let max = if seat.is_shared() { max } else { 0 };
        let key = HashKey::new(seed.rotate_left(23) ^ 0x686f_6d65);
        Self {
            seat,
            key,
            redirects: Redirects::new(max, HashKey::new(seed.rotate_left(41))),
            rooms: [0; WORKERS_MAX],
            due: Vec::with_capacity(if max > 0 { REDIRECTS_DUE_MAX } else { 0 }),
            owed: Vec::with_capacity(max),
            next: 0,
            given: 0,
        }
    }

    #[inline]
    pub fn is_shared(&self) -> bool {
        self.seat.is_shared()
    }

    pub fn seat(&self) -> Seat {
        self.seat
    }

    #[inline]
    fn share(&self, hash: u64) -> u8 {
        (((hash >> 32) * u64::from(self.seat.workers)) >> 32) as u8
    }

    /// The worker where a tuple, and its reverse, have their home.
    #[inline]
    pub fn of(&self, t: &Tuple) -> u8 {
        self.share(self.key.of(t, 0))
    }

    #[inline(always)]
    pub fn of_narrow(&self, n: &Narrow) -> u8 {
        self.share(self.key.of_narrow(n, 0))
    }

    /// Whether others are redirected to from here.
    #[inline]
    pub fn redirects(&self) -> bool {
        !self.redirects.is_empty()
    }

    pub fn redirects_len(&self) -> usize {
        self.redirects.len()
    }

    /// Hash for `redirect_of`, whose memory is asked for.
    #[inline]
    pub fn ask_redirect(&self, t: &Tuple) -> u64 {
        let hash = self.redirects.hash(t);
        self.redirects.prefetch(hash);
        hash
    }

    /// The worker to which packets of a tuple that has its home here are redirected.
    #[inline]
    pub fn redirect_of(&self, hash: u64, t: &Tuple) -> Option<u8> {
        self.redirects.find(hash, t)
    }

    /// Whether NAT may give out this tuple: its home is here, and it is nobody's.
    #[inline]
    pub(super) fn may_give(&self, t: &Tuple) -> bool {
        !self.is_shared() || self.of(t) == self.seat.worker && !self.redirects.has(t)
    }

    /// Whether the tuple is another worker's, as far as is known here.
    pub(super) fn is_taken(&self, t: &Tuple) -> bool {
        self.redirects.has(t)
    }

    pub(super) fn hear(&mut self, notice: &Notice, is_taken: bool) -> Entered {
        match notice {
            Notice::Redirect { tuple, from, .. } => self.redirects.enter(tuple, *from, is_taken),
            Notice::Withdraw { tuple, from } => {
                self.redirects.leave(tuple, *from);
                Entered::Counts
            }
        }
    }

    /// So many notices more may be told to a worker.
    pub fn set_room(&mut self, worker: u8, room: usize) {
        if let Some(r) = self.rooms.get_mut(usize::from(worker)) {
            *r = u32::try_from(room).unwrap_or(u32::MAX);
        }
    }

    fn has_room(&self, worker: u8, count: usize) -> bool {
        self.rooms.get(usize::from(worker)).is_some_and(|r| *r as usize >= count)
    }

    fn redirect(&mut self, worker: u8, tuple: &Tuple, zone: u16) {
        if let Some(r) = self.rooms.get_mut(usize::from(worker)) {
            *r = r.saturating_sub(1);
        }
        let from = self.seat.worker;
        self.due.push((worker, Notice::Redirect { tuple: *tuple, zone, from }));
        self.given += 1;
    }

    /// Whether so many more redirects can be asked for.
    fn has_place(&self, count: usize) -> bool {
        self.given + count <= self.owed.capacity() && self.due.len() + count <= REDIRECTS_DUE_MAX
    }

    /// Redirects to here what has its home elsewhere. Gives bits of [`told`].
    #[inline]
    pub(super) fn claim(&mut self, orig: &Tuple, reply: &Tuple, zone: u16) -> Result<u8, Untold> {
        if !self.is_shared() {
            return Ok(0);
        }
        self.claim_both(orig, reply, zone)
    }

    #[inline(never)]
    fn claim_both(&mut self, orig: &Tuple, reply: &Tuple, zone: u16) -> Result<u8, Untold> {
        let (of_orig, of_reply) = (self.of(orig), self.of(reply));
        let away = [of_orig, of_reply].map(|w| w != self.seat.worker);
        let count = away.into_iter().filter(|a| *a).count();
        if count == 0 {
            return Ok(0);
        }
        let to_one = if of_orig == of_reply { 2 } else { 1 };
        let has_room = |(w, is_away): (u8, bool)| !is_away || self.has_room(w, to_one);
        if !self.has_place(count) || !has_room((of_orig, away[0])) || !has_room((of_reply, away[1]))
        {
            return Err(Untold);
        }
        let mut bits = 0;
        if away[0] {
            self.redirect(of_orig, orig, zone);
            bits |= told::ORIG;
        }
        if away[1] {
            self.redirect(of_reply, reply, zone);
            bits |= told::REPLY;
        }
        Ok(bits)
    }

    /// The connection that claimed its tuples is gone.
    #[cold]
    pub(super) fn disclaim(&mut self, bits: u8, orig: &Tuple, reply: &Tuple) {
        for (bit, tuple) in [(told::ORIG, orig), (told::REPLY, reply)] {
            if bits & bit != 0 {
                self.withdraw(self.of(tuple), tuple);
            }
        }
    }

    /// Tells all others that a connection is expected here. The tuple has a source port of 0.
    pub(super) fn announce(&mut self, tuple: &Tuple, zone: u16) -> Result<(), Untold> {
        let others = self.seat.others();
        let count = usize::from(self.seat.workers) - 1;
        if !self.has_place(count) || !self.seat.others().all(|w| self.has_room(w, 1)) {
            return Err(Untold);
        }
        others.for_each(|w| self.redirect(w, tuple, zone));
        Ok(())
    }

    /// It is no longer.
    pub(super) fn renounce(&mut self, tuple: &Tuple) {
        self.seat.others().for_each(|w| self.withdraw(w, tuple));
    }

    fn withdraw(&mut self, worker: u8, tuple: &Tuple) {
        let is_it = |(w, n): &(u8, Notice)| {
            *w == worker && matches!(n, Notice::Redirect { tuple: t, .. } if t == tuple)
        };
        if let Some(at) = self.due.iter().position(is_it) {
            // It was never told.
            self.due.swap_remove(at);
            self.given -= 1;
            return;
        }
        debug_assert!(self.owed.len() < self.owed.capacity(), "each that was given has a place");
        if self.owed.len() < self.owed.capacity() {
            self.owed.push((worker, *tuple));
        }
    }

    /// Whether something is to be told before the present packet leaves.
    #[inline]
    pub fn is_due(&self) -> bool {
        !self.due.is_empty()
    }

    /// Whether something is to be told some time.
    #[inline]
    pub fn owes(&self) -> bool {
        self.owed.len() + self.due.len() > 0
    }

    /// Redirects that others have of us, those included that are to be withdrawn.
    pub fn given(&self) -> usize {
        self.given
    }

    /// Redirects that others have of us and are to be withdrawn.
    pub(super) fn owed(&self) -> impl Iterator<Item = (u8, Tuple)> {
        self.owed.iter().copied()
    }

    /// Redirects that a worker is still to be told of.
    pub(super) fn untold(&self, worker: u8) -> impl Iterator<Item = Tuple> {
        self.due.iter().filter_map(move |due| redirect_to(worker, due))
    }

    /// Redirects to others that we have.
    pub(super) fn audit_redirects(&self, f: &mut Findings) -> Redirected {
        self.redirects.audit(f)
    }

    /// Tells what is due. `tell` says whether there was room; what finds none stays due.
    #[cold]
    pub fn tell_due(&mut self, mut tell: impl FnMut(u8, Notice) -> bool) {
        self.due.retain(|(worker, notice)| !tell(*worker, *notice));
    }

    /// Tells what is due, and some of what is owed.
    #[cold]
    pub fn tell(&mut self, mut tell: impl FnMut(u8, Notice) -> bool) {
        self.tell_due(&mut tell);
        let from = self.seat.worker;
        for _ in 0..self.owed.len().min(WITHDRAWALS_AT_ONCE) {
            // Backwards: what takes the place of one that goes was looked at before.
            self.next = self.next.checked_sub(1).unwrap_or(self.owed.len() - 1);
            let Some((worker, tuple)) = self.owed.get(self.next).copied() else {
                self.next = 0;
                continue;
            };
            if tell(worker, Notice::Withdraw { tuple, from }) {
                self.owed.swap_remove(self.next);
                self.given -= 1;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn among(worker: u8, workers: u8, max: usize) -> Homes {
        Homes::new(Seat { worker, workers }, 7, max)
    }

    fn tuple(n: u16) -> Tuple {
        Tuple { src: n.into(), dst: 9, sport: n, dport: 80, proto: 6, v6: false }
    }

    proptest! {
        #![proptest_config(ProptestConfig {
            failure_persistence: None, ..ProptestConfig::with_cases(500)
        })]
        #[test]
        fn both_directions_have_one_home_that_all_know(
            (src, dst, sport, dport) in any::<(u128, u128, u16, u16)>(),
            proto in prop::sample::select(vec![1u8, 6, 17, 47, 58, 132]),
            (v6, workers) in (any::<bool>(), 1u8..=64),
        ) {
            let narrow = |a: u128| if v6 { a } else { a & 0xffff_ffff };
            let (src, dst) = (narrow(src), narrow(dst));
            let echo = Tuple { src, dst, sport, dport: 8 << 8, proto, v6 };
            let t = if proto == 1 { echo } else { Tuple { dport, ..echo } };
            let t = if proto == 58 { Tuple { dport: 128 << 8, ..t } } else { t };
            let all = [0, workers - 1].map(|w| among(w, workers, 4));
            prop_assert_eq!(all[0].of(&t), all[1].of(&t.reversed()));
            prop_assert!(all[0].of(&t) < workers);
            if matches!(proto, 6 | 17) && !v6 {
                let addresses = (src as u64) << 32 | dst as u64;
                let ports = u32::from(sport) << 16 | u32::from(t.dport);
                let n = Narrow { addresses, ports, proto };
                prop_assert_eq!(n.tuple(), t);
                prop_assert_eq!(all[0].of_narrow(&n), all[1].of(&t));
            }
        }

        /// Whatever finds room and whatever does not: what is given is withdrawn, once.
        #[test]
        fn no_withdrawal_is_lost(
            ops in prop::collection::vec((0u16..40, any::<bool>(), 0usize..4), 1..200),
            max in 1usize..30,
        ) {
            let (mut us, mut them) = (among(0, 2, max), among(1, 2, max));
            let mut held: Vec<(u8, Tuple, Tuple)> = Vec::new();
            let deliver = |us: &mut Homes, them: &mut Homes, mut room: usize| {
                us.tell(|worker, notice| {
                    let has_room = room > 0;
                    room = room.saturating_sub(1);
                    if has_room {
                        assert_eq!(worker, 1);
                        them.hear(&notice, false);
                    }
                    has_room
                });
            };
            for (n, add, room) in ops {
                us.set_room(1, room);
                if add {
                    let (orig, reply) = (tuple(n), tuple(1000 + n));
                    if let Ok(bits) = us.claim(&orig, &reply, 1) {
                        held.push((bits, orig, reply));
                    }
                } else if !held.is_empty() {
                    let (bits, orig, reply) = held.remove(usize::from(n) % held.len());
                    us.disclaim(bits, &orig, &reply);
                }
                deliver(&mut us, &mut them, room);
                prop_assert!(us.given() <= max);
                let claimed: u32 = held.iter().map(|h| h.0.count_ones()).sum();
                prop_assert!(us.given() >= claimed as usize);
            }
            for (bits, orig, reply) in held {
                us.disclaim(bits, &orig, &reply);
            }
            (0..200).for_each(|_| deliver(&mut us, &mut them, 2));
            prop_assert_eq!((us.given(), us.owes(), them.redirects_len()), (0, false, 0));
        }
    }

    #[test]
    fn homes_are_spread() {
        let homes = among(0, 4, 4);
        let mut counts = [0u32; 4];
        (0..4000).for_each(|n| counts[usize::from(homes.of(&tuple(n)))] += 1);
        assert!(counts.iter().all(|c| (850..1150).contains(c)), "{counts:?}");
    }
}
