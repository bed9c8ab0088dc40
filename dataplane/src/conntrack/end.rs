//! How a connection ends: its time is over, it is told to, or a full table needs its place.
//!
//! **A full table** gives up a connection for a new one, in this order: one that is due; the
//! half-open one that would die first; the closed one that would die first (`wheel::Rank`). An
//! established connection is never given up: if there are no others, the commit is refused. So a
//! flood of half-open connections pushes out itself, oldest first, and a client has the time in
//! which the flood fills the table to complete its handshake. (Linux gives up those that are not
//! assured and refuses then; Open vSwitch's userspace refuses at once.)

use super::conn::flag;
use super::expire::is_due;
use super::key::Tuple;
use super::wheel::Rank;
use super::{Conntrack, nat_ports};

/// Steps of expiry that a commit into a full table takes, if the calls of `age` have left any.
const ROOM_STEPS: usize = 8;
/// Connections that a commit into a full table looks at before it takes what comes.
const EVICT_TRIES: usize = 8;

impl Conntrack {
    /// Ends a connection.
    pub(super) fn remove(&mut self, ix: u32) {
        self.wheels.unqueue(&mut self.table, ix);
        self.bury(ix);
    }

    /// The same of one that hangs in no wheel any more.
    pub(super) fn bury(&mut self, ix: u32) {
        self.clear(ix);
        self.table.release(ix);
    }

    /// The same, but its place is kept, for another one.
    #[inline(always)]
    fn clear(&mut self, ix: u32) {
        let hot = self.table.hot(ix);
        let (zone, holds_port, is_known) = (hot.zone, hot.has(flag::POOL), hot.alg | hot.told != 0);
        if holds_port {
            match hot.narrow(1) {
                Some(reply) => self.pools.release_narrow(&reply, zone),
                None => self.release_port(&self.table.tuple(ix, 1), zone),
            }
        }
        if is_known {
            self.make_unknown(ix);
        }
        self.zones.leave(zone);
        self.table.unlink(ix);
    }

    /// Helpers and other workers need not know of a connection any more.
    #[inline(never)]
    fn make_unknown(&mut self, ix: u32) {
        let hot = *self.table.hot(ix);
        if hot.alg != 0 {
            self.algs.forget(ix, &mut self.homes);
        }
        if hot.told != 0 {
            let (orig, reply) = (self.table.tuple(ix, 0), self.table.tuple(ix, 1));
            self.homes.disclaim(hot.told, &orig, &reply);
        }
    }

    /// Gives back the port that NAT chose for a connection.
    pub(super) fn release_port(&mut self, reply: &Tuple, zone: u16) {
        let key = nat_ports::Key { address: reply.dst, zone, proto: reply.proto, v6: reply.v6 };
        self.pools.release(&key, reply.dest_port(), nat_ports::remote_of(reply));
    }

    /// Whether a full table has room, or something that may give way.
    #[inline]
    pub(super) fn can_make_room(&mut self, tick: u64) -> bool {
        !self.wheels.are_done(tick) && self.collect(tick, ROOM_STEPS, 1) > 0
            || self.wheels.any(Rank::HalfOpen)
            || self.wheels.any(Rank::Closed)
    }

    /// Gives up the connection that is worth least. An established one is not among them.
    pub(super) fn evict(&mut self, tick: u64) {
        if let Some(ix) = self.choose_victim(tick) {
            self.bury(ix);
        }
    }

    /// The same, and its place is the next one's.
    #[inline(always)]
    pub(super) fn take_over(&mut self, tick: u64) -> Option<u32> {
        let ix = self.choose_victim(tick)?;
        self.clear(ix);
        self.table.blank(ix)
    }

    #[inline(always)]
    fn choose_victim(&mut self, tick: u64) -> Option<u32> {
        let Self { wheels, table, .. } = self;
        let ix = match wheels.take_nearest(table, Rank::HalfOpen, tick, EVICT_TRIES) {
            Some(ix) => ix,
            None => wheels.take_nearest(table, Rank::Closed, tick, EVICT_TRIES)?,
        };
        let due = is_due(table.hot(ix).deadline, tick);
        *(if due { &mut self.stats.expired } else { &mut self.stats.evicted }) += 1;
        Some(ix)
    }
}
