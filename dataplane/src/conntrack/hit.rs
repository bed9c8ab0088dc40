//! What cached walks ask of a connection, in place of a look-up.
//!
//! `hit` is the hot one: one line, and a yes only where `lookup` would have given the same result
//! and left the same state. `would_hit` and `standing` change nothing; the self-check asks them.

use super::conn::{Hot, flag};
use super::ct_state::{DNAT, EST, NEW, RPL, SNAT, TRK};
use super::expire::{Class, Timeouts, is_due, ticks};
use super::{ConnRef, Conntrack, CtResult, HitPacket, Tuple, key, other, tcp};
use crate::clock::Now;

impl Conntrack {
    /// The cached path. True: the connection lives, `lookup` would have given a result with
    /// `expect_state` and the mark and label of when `c` was taken, and its state is now what
    /// `lookup` would have left. False: nothing was changed, and the caller walks.
    #[inline]
    pub fn hit(
        &mut self,
        c: ConnRef,
        reply: bool,
        expect_state: u8,
        p: &HitPacket,
        now: Now,
    ) -> bool {
        if c.ix as usize >= self.table.capacity() {
            return false;
        }
        let run = HitRun { tick: ticks(now), timeouts: &self.timeouts, check: self.tcp_seq_check };
        self.table.hot_mut(c.ix).is_some_and(|hot| run.hit(hot, c, reply, expect_state, p))
    }

    /// What `hit` would say; nothing is changed.
    pub fn would_hit(
        &self,
        c: ConnRef,
        reply: bool,
        expect_state: u8,
        p: &HitPacket,
        now: Now,
    ) -> bool {
        let run = HitRun { tick: ticks(now), timeouts: &self.timeouts, check: self.tcp_seq_check };
        self.live(c).copied().is_some_and(|mut hot| run.hit(&mut hot, c, reply, expect_state, p))
    }

    /// What `lookup` says of a packet in this direction of a connection, and the tuple and zone
    /// that such a packet has; nothing is run or refreshed.
    pub fn standing(&self, c: ConnRef, reply: bool, state: u8) -> Option<(CtResult, Tuple, u16)> {
        let hot = self.live(c)?;
        let (mark, label) = self.mark_and_label(c.ix);
        let orig = self.table.tuple(c.ix, 0);
        let result = CtResult { state, conn: Some(c), reply, mark, label, orig, cacheable: true };
        Some((result, self.table.tuple(c.ix, usize::from(reply)), hot.zone))
    }
}

/// What `hit` needs besides the connection.
struct HitRun<'a> {
    tick: u64,
    timeouts: &'a Timeouts,
    check: bool,
}

impl HitRun<'_> {
    #[inline]
    fn hit(&self, hot: &mut Hot, c: ConnRef, reply: bool, expect_state: u8, p: &HitPacket) -> bool {
        let good = hot.has(flag::LIVE)
            && hot.gen_no == c.gen_no
            && p.checksum_ok
            && !is_due(hot.deadline, self.tick);
        if !good {
            return false;
        }
        let established = EST | TRK | if reply { RPL } else { 0 };
        let expect = expect_state & !(SNAT | DNAT);
        if hot.is_tcp() {
            if expect != established
                || hot.class != Class::TcpEstablished as u8
                || !tcp::hit(&mut hot.peers, &p.seg, reply, self.check)
            {
                return false;
            }
        } else {
            let answered = hot.has(flag::ANSWERED);
            let state = if answered { established } else { NEW | TRK };
            let icmp = matches!(hot.proto, key::ICMP | key::ICMPV6);
            if icmp
                || (reply && !answered)
                || expect != state
                || hot.class != other::next(icmp, answered) as u8
            {
                return false;
            }
        }
        let deadline = self.timeouts.refreshed(hot.term(), hot.deadline, self.tick);
        // An unconditional store would dirty the line of every UDP packet.
        if deadline != hot.deadline {
            hot.deadline = deadline;
        }
        true
    }
}
