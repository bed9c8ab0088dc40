//! Judging a packet and accepting the judgement: the two halves of a look-up.
//!
//! `judge` finds the packet's connection, runs the state machine on a copy of its sides, and changes
//! nothing. `accept` makes of it what a look-up leaves behind. Between the two a cached walk can
//! find out whether it is the one for this packet; if it is not, nothing has happened.

use super::alg::bit;
use super::conn::{Peer, flag};
use super::ct_state::{EST, INV, NEW, REL, RPL, TRK};
use super::expire::{Class, is_due, ticks};
use super::key::{CtPacket, Kind, Narrow, TCP, Tuple};
use super::nat::NatRewrite;
use super::tcp::{self, Segment, Verdict};
use super::{ConnRef, Conntrack, CtResult, other};
use crate::clock::Now;

/// What accepting changes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Turn {
    /// There is no connection.
    Nothing,
    /// There is a dead one with this tuple, or a finished one that begins anew.
    Remove,
    /// Nothing of the connection that there is.
    Keep,
    /// What is not TCP.
    Refresh,
    /// The sides are these now, and the class, if there is one.
    Tcp(Option<Class>),
}

/// What conntrack says of a packet.
#[derive(Clone, Copy, Debug)]
pub struct Judged {
    /// As in [`CtResult::state`].
    pub state: u8,
    pub reply: bool,
    /// Its connection is in the middle of its life, or there is none: accepting changes no more
    /// than windows and the timer.
    pub is_steady: bool,
    /// A helper is to see the packet: only a walk knows what becomes of it.
    pub is_helped: bool,
    turn: Turn,
    ix: u32,
    hash: u64,
    peers: [Peer; 2],
}

const NO_PEERS: [Peer; 2] =
    [Peer { seqlo: 0, seqhi: 0, max_win: 0, wscale: 0, state: tcp::state::CLOSED }; 2];

impl Default for Judged {
    /// Invalid.
    fn default() -> Self {
        Self::of(TRK | INV, Turn::Nothing, 0)
    }
}

impl Judged {
    fn of(state: u8, turn: Turn, ix: u32) -> Self {
        let is_steady = turn == Turn::Nothing;
        let (reply, is_helped) = (false, false);
        Self { state, reply, is_steady, is_helped, turn, ix, hash: 0, peers: NO_PEERS }
    }

    fn of_stranger(is_new: bool, hash: u64) -> Self {
        Self { hash, ..Self::of(stranger(is_new), Turn::Nothing, 0) }
    }

    /// The hash of a packet that has no connection; `None` if there is one, or was.
    pub(super) fn stranger(&self) -> Option<u64> {
        (self.turn == Turn::Nothing && self.state & NEW != 0).then_some(self.hash)
    }

    /// The place of the connection that there is.
    #[inline]
    fn conn(&self) -> Option<u32> {
        (!matches!(self.turn, Turn::Nothing | Turn::Remove)).then_some(self.ix)
    }
}

/// State of a packet without a connection.
#[inline]
fn stranger(is_new: bool) -> u8 {
    TRK | if is_new { NEW } else { INV }
}

impl Conntrack {
    /// Hash of the packet's tuple in its zone, for `prefetch_index`, `prefetch_guess` and `judge`.
    #[inline]
    pub fn hash_of(&self, p: &CtPacket) -> u64 {
        self.table.hash(&p.tuple, p.zone)
    }

    #[inline]
    pub fn hash_of_tuple(&self, tuple: &Tuple, zone: u16) -> u64 {
        self.table.hash(tuple, zone)
    }

    #[inline(always)]
    pub fn hash_of_narrow(&self, n: &Narrow, zone: u16) -> u64 {
        self.hash.of_narrow(n, zone)
    }

    /// What a look-up would say; `hash` is that of `hash_of`.
    #[inline]
    pub fn judge(&self, p: &CtPacket, hash: u64, now: Now) -> Judged {
        if p.kind == Kind::Invalid || !p.checksum_ok {
            return Judged::of(TRK | INV, Turn::Nothing, 0);
        }
        let is_new = p.kind != Kind::Related && p.may_open();
        let Some((ix, dir)) = self.table.find(hash, &p.tuple, p.zone) else {
            let judged = Judged::of_stranger(is_new, hash);
            return match is_new && self.is_expected(&p.tuple, p.zone, now) {
                true => Judged { state: judged.state | REL, ..judged },
                false => judged,
            };
        };
        if p.kind == Kind::Related && !is_due(self.table.hot(ix).deadline, ticks(now)) {
            let state = TRK | REL | if dir == 1 { RPL } else { 0 };
            return Judged { reply: dir == 1, ..Judged::of(state, Turn::Keep, ix) };
        }
        self.judge_found((ix, dir == 1), &p.seg, is_new, now)
    }

    /// The same of a narrow packet that is valid; `hash` is that of `hash_of_narrow`.
    #[inline(always)]
    pub fn judge_narrow(
        &self,
        (n, seg): (&Narrow, &Segment),
        zone: u16,
        hash: u64,
        now: Now,
    ) -> Judged {
        let is_new = n.proto != TCP || tcp::may_open(seg);
        match self.table.find_narrow(hash, n, zone) {
            Some((ix, dir)) => self.judge_found((ix, dir == 1), seg, is_new, now),
            None => {
                // A walk asks more closely.
                let is_helped =
                    is_new && self.expected() > 0 && self.is_narrow_expected(n, zone, now);
                Judged { is_helped, ..Judged::of_stranger(is_new, hash) }
            }
        }
    }

    #[inline(always)]
    fn judge_found(
        &self,
        (ix, reply): (u32, bool),
        seg: &Segment,
        is_new: bool,
        now: Now,
    ) -> Judged {
        let hot = self.table.hot(ix);
        if is_due(hot.deadline, ticks(now)) {
            return Judged::of(stranger(is_new), Turn::Remove, ix);
        }
        if hot.alg != 0 {
            return self.judge_with_helper((ix, reply), seg, is_new);
        }
        if hot.is_tcp() {
            return self.judge_tcp(ix, reply, seg, is_new);
        }
        self.judge_other(ix, reply)
    }

    /// A connection that is helped, or was expected.
    #[inline(never)]
    fn judge_with_helper(&self, (ix, reply): (u32, bool), seg: &Segment, is_new: bool) -> Judged {
        let hot = self.table.hot(ix);
        let judged = match (hot.is_tcp(), hot.alg & bit::FTP) {
            (false, _) => self.judge_other(ix, reply),
            (true, 0) => self.judge_tcp(ix, reply, seg, is_new),
            (true, _) => self.judge_tcp(ix, reply, &self.unmoved(ix, reply, seg), is_new),
        };
        let is_child = hot.alg & bit::CHILD != 0 && judged.conn().is_some();
        let related = if is_child { REL } else { 0 };
        let is_helped = hot.alg & bit::HELPED != 0;
        Judged { state: judged.state | related, is_helped, ..judged }
    }

    #[inline(always)]
    fn judge_other(&self, ix: u32, reply: bool) -> Judged {
        let hot = self.table.hot(ix);
        let direction = if reply { RPL } else { 0 };
        let answered = reply || hot.has(flag::ANSWERED);
        let state = if answered { TRK | EST | direction } else { TRK | NEW };
        let steady = answered == hot.has(flag::ANSWERED);
        let is_steady = steady && hot.class == other::next(hot.is_icmp(), answered) as u8;
        Judged { reply, is_steady, ..Judged::of(state, Turn::Refresh, ix) }
    }

    #[inline(always)]
    fn judge_tcp(&self, ix: u32, reply: bool, seg: &Segment, is_new: bool) -> Judged {
        let hot = self.table.hot(ix);
        let mut peers = hot.peers;
        if hot.class == Class::TcpEstablished as u8
            && hot.has(flag::ANSWERED) >= reply
            && tcp::hit(&mut peers, seg, reply, self.tcp_seq_check)
        {
            let state = TRK | EST | if reply { RPL } else { 0 };
            let turn = Turn::Tcp(Some(Class::TcpEstablished));
            return Judged { reply, is_steady: true, peers, ..Judged::of(state, turn, ix) };
        }
        self.judge_tcp_change(ix, reply, seg, is_new)
    }

    /// A segment that may change the state.
    #[inline(never)]
    fn judge_tcp_change(&self, ix: u32, reply: bool, seg: &Segment, is_new: bool) -> Judged {
        let direction = if reply { RPL } else { 0 };
        let mut peers = self.table.hot(ix).peers;
        let (verdict, class) = tcp::update(&mut peers, seg, reply, self.tcp_seq_check);
        let turn = Turn::Tcp(class);
        let (state, turn) = match verdict {
            Verdict::Valid => (TRK | EST | direction, turn),
            Verdict::StillNew => (TRK | NEW | direction, turn),
            // The packet is of no connection.
            Verdict::Invalid => (TRK | INV, Turn::Nothing),
            Verdict::Reopen => (stranger(is_new), Turn::Remove),
        };
        let is_steady = turn == Turn::Nothing;
        let reply = reply && verdict != Verdict::Invalid;
        Judged { reply, is_steady, peers, ..Judged::of(state, turn, ix) }
    }

    /// What a look-up would say of the same packet once more, after the judgement was accepted.
    /// `None`: something else, or that takes a look-up.
    pub fn repeat(&self, p: &CtPacket, j: &Judged) -> Option<Judged> {
        let mut again = *j;
        let is_known = match j.turn {
            Turn::Nothing | Turn::Refresh => true,
            Turn::Tcp(_) => tcp::hit(&mut again.peers, &p.seg, j.reply, self.tcp_seq_check),
            Turn::Keep | Turn::Remove => false,
        };
        (j.is_steady && is_known).then_some(again)
    }

    /// Leaves behind what a look-up of the packet that was judged leaves. Nothing may have changed
    /// since.
    #[inline(always)]
    pub fn accept(&mut self, j: &Judged, now: Now) {
        let Some(hot) = self.table.hot_mut(j.ix).filter(|_| j.is_steady && j.state & EST != 0)
        else {
            return self.accept_change(j, now);
        };
        if let Turn::Tcp(_) = j.turn {
            hot.peers = j.peers;
        }
        let deadline = self.timeouts.refreshed(hot.term(), hot.deadline, ticks(now));
        // An unconditional store would dirty the line of every UDP packet.
        if deadline != hot.deadline {
            hot.deadline = deadline;
        }
    }

    #[inline(never)]
    fn accept_change(&mut self, j: &Judged, now: Now) {
        if j.state & INV != 0 {
            self.stats.invalid += 1;
        }
        let tick = ticks(now);
        match j.turn {
            Turn::Nothing | Turn::Keep => {}
            // Unless another judgement has removed it.
            Turn::Remove if self.table.hot(j.ix).has(flag::LIVE) => {
                self.remove(j.ix);
                self.stats.expired += 1;
            }
            Turn::Remove => {}
            Turn::Refresh => {
                let Some(hot) = self.table.hot_mut(j.ix) else { return };
                if j.reply && !hot.has(flag::ANSWERED) {
                    hot.flags |= flag::ANSWERED;
                }
                let (icmp, answered) = (hot.is_icmp(), hot.has(flag::ANSWERED));
                self.refresh(j.ix, other::next(icmp, answered), tick);
            }
            Turn::Tcp(class) => {
                let Some(hot) = self.table.hot_mut(j.ix) else { return };
                hot.peers = j.peers;
                if j.reply && j.state & EST != 0 {
                    hot.flags |= flag::ANSWERED;
                }
                if let Some(class) = class {
                    self.refresh(j.ix, class, tick);
                }
            }
        }
    }

    /// What a look-up would say; nothing changes.
    pub fn peek(&self, p: &CtPacket, now: Now) -> CtResult {
        self.result(&self.judge(p, self.hash_of(p), now), p)
    }

    /// The result of a look-up, after it was accepted or as if it were.
    pub fn result(&self, j: &Judged, p: &CtPacket) -> CtResult {
        match j.conn() {
            Some(ix) => self.found(p, ix, j.reply, j.state),
            None if j.state & (NEW | REL) == NEW | REL => self.as_expected(p, j.state),
            None => super::result_without(p, j.state),
        }
    }

    /// The connection of the packet that was judged.
    #[inline]
    pub fn conn_of(&self, j: &Judged) -> Option<ConnRef> {
        j.conn().map(|ix| ConnRef { ix, gen_no: self.table.hot(ix).gen_no })
    }

    /// Mark and label of its connection; zero if there is none.
    #[inline]
    pub fn mark_of(&self, j: &Judged) -> (u32, u128) {
        j.conn().map_or((0, 0), |ix| self.mark_and_label(ix))
    }

    /// What a `ct(nat)` does to the packet: see `nat_rewrite`.
    #[inline]
    pub fn translation_of(&self, j: &Judged) -> Option<NatRewrite> {
        self.rewrite(j.conn()?, j.reply, j.state)
    }

    /// The bits that a `ct(nat)` would add to the packet's state.
    #[inline]
    pub fn nat_bits_of(&self, j: &Judged) -> u8 {
        j.conn().map_or(0, |ix| self.nat_bits(ix, j.reply))
    }
}
