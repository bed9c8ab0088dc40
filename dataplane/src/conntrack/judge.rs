//! Judging a packet and accepting the judgement: the two halves of a look-up.
//!
//! `judge` finds the packet's connection, runs the state machine on a copy of its sides, and
//! changes nothing. `accept` makes of it what a look-up leaves behind. Between the two a cached
//! walk can find out whether it is the one for this packet; if it is not, nothing has happened.

use super::alg::bit;
use super::conn::{Peer, flag};
use super::ct_state::{EST, INV, NEW, REL, RPL, TRK};
use super::expire::{Class, is_due, ticks};
use super::key::{CtPacket, Kind, Narrow, TCP, Tuple};
use super::nat::{NarrowRewrite, NatRewrite};
use super::tcp::{self, Segment, Verdict};
use super::{ConnRef, Conntrack, CtResult, other};
use crate::clock::Now;

/// A connection and a direction that a packet is likely of: where to look first.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Guess(u32);

impl Guess {
    pub const NONE: Guess = Guess(0);

    #[inline(always)]
    pub(super) fn new(ix: u32, dir: usize) -> Self {
        Self((ix + 1) << 1 | dir as u32 & 1)
    }

    #[inline(always)]
    pub(super) fn place(self) -> Option<(u32, usize)> {
        if self.0 == 0 {
            return None;
        }
        Some(((self.0 >> 1).wrapping_sub(1), (self.0 & 1) as usize))
    }

    #[inline(always)]
    pub fn is_none(self) -> bool {
        self.0 == 0
    }
}

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

impl Default for Judged {
    /// Invalid.
    fn default() -> Self {
        Self {
            state: TRK | INV,
            reply: false,
            is_steady: true,
            is_helped: false,
            turn: Turn::Nothing,
            ix: 0,
            hash: 0,
            peers: [Peer::default(); 2],
        }
    }
}

impl Judged {
    /// Writes all but the sides: copying them for packets that are not of TCP costs more than all
    /// the rest.
    #[inline(always)]
    fn set(&mut self, state: u8, turn: Turn, ix: u32) {
        (self.state, self.reply, self.turn, self.ix) = (state, false, turn, ix);
        (self.is_steady, self.is_helped) = (turn == Turn::Nothing, false);
    }

    /// The packet is none.
    pub fn set_invalid(&mut self) {
        self.set(TRK | INV, Turn::Nothing, 0);
    }

    /// The packet has no connection.
    #[inline(always)]
    fn set_stranger(&mut self, is_new: bool, hash: u64) {
        self.set(stranger(is_new), Turn::Nothing, 0);
        self.hash = hash;
    }

    /// There is no connection, nor was one, and the packet may open one.
    pub fn is_stranger(&self) -> bool {
        self.stranger().is_some()
    }

    /// The packet was looked up by `pass`.
    pub fn passed(&mut self, guess: Guess, state: u8) {
        let Some((ix, dir)) = guess.place() else { return };
        self.set(state, Turn::Keep, ix);
        (self.reply, self.is_steady) = (dir == 1, true);
    }

    /// The packet has opened this connection.
    pub(super) fn opened(&mut self, ix: u32) {
        (self.turn, self.ix) = (Turn::Keep, ix);
    }

    /// The hash of a packet that has no connection; `None` if there is one, or was.
    pub(super) fn stranger(&self) -> Option<u64> {
        (self.turn == Turn::Nothing && self.state & NEW != 0).then_some(self.hash)
    }

    /// Where to look first for the connection of the next packet like this.
    #[inline(always)]
    pub fn guess(&self) -> Guess {
        match self.conn() {
            Some(ix) => Guess::new(ix, usize::from(self.reply)),
            None => Guess::NONE,
        }
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
    pub fn judge(&self, p: &CtPacket, hash: u64, now: Now) -> Judged {
        let mut j = Judged::default();
        if p.kind == Kind::Invalid || !p.checksum_ok {
            return j;
        }
        let is_new = p.kind != Kind::Related && p.may_open();
        match self.table.find(hash, &p.tuple, p.zone) {
            None => {
                j.set_stranger(is_new, hash);
                if is_new && self.is_expected(&p.tuple, p.zone, now) {
                    j.state |= REL;
                }
            }
            Some((ix, dir))
                if p.kind == Kind::Related && !is_due(self.table.hot(ix).deadline, ticks(now)) =>
            {
                j.set(TRK | REL | if dir == 1 { RPL } else { 0 }, Turn::Keep, ix);
                j.reply = dir == 1;
            }
            Some((ix, dir)) => self.judge_found((ix, dir == 1), (&p.seg, is_new), now, &mut j),
        }
        j
    }

    /// The same of a narrow packet that is valid, in place. `guess` may be any.
    #[inline(always)]
    pub fn judge_narrow(
        &self,
        (n, seg): (&Narrow, &Segment),
        (zone, hash, guess): (u16, Option<u64>, Guess),
        now: Now,
        j: &mut Judged,
    ) {
        let is_new = n.proto != TCP || tcp::may_open(seg);
        let mut used = 0;
        // Not with combinators: they are not always inlined.
        let found = match guess.place() {
            Some((ix, dir)) if self.table.hot(ix).is_narrow(n, zone, dir) => Some((ix, dir)),
            // Guessed from the index, which has one entry for both.
            Some((ix, dir)) if self.table.hot(ix).is_narrow(n, zone, dir ^ 1) => {
                Some((ix, dir ^ 1))
            }
            _ => {
                used = match hash {
                    Some(hash) => hash,
                    None => self.hash_of_narrow(n, zone),
                };
                self.table.find_narrow(used, n, zone)
            }
        };
        match found {
            Some((ix, dir)) => self.judge_found((ix, dir == 1), (seg, is_new), now, j),
            None => {
                j.set_stranger(is_new, used);
                // A walk asks more closely.
                j.is_helped =
                    is_new && self.expected() > 0 && self.is_narrow_expected(n, zone, now);
            }
        }
    }

    /// `said`: the segment, and whether the packet may open a connection.
    #[inline(always)]
    fn judge_found(
        &self,
        (ix, reply): (u32, bool),
        said: (&Segment, bool),
        now: Now,
        j: &mut Judged,
    ) {
        let hot = self.table.hot(ix);
        if is_due(hot.deadline, ticks(now)) {
            return j.set(stranger(said.1), Turn::Remove, ix);
        }
        if hot.alg != 0 {
            return self.judge_with_helper((ix, reply), said, j);
        }
        if hot.is_tcp() {
            return self.judge_tcp((ix, reply), said, j);
        }
        self.judge_other((ix, reply), j);
    }

    /// A connection that is helped, or was expected.
    #[inline(never)]
    fn judge_with_helper(&self, (ix, reply): (u32, bool), said: (&Segment, bool), j: &mut Judged) {
        let hot = self.table.hot(ix);
        match (hot.is_tcp(), hot.alg & bit::FTP) {
            (false, _) => self.judge_other((ix, reply), j),
            (true, 0) => self.judge_tcp((ix, reply), said, j),
            (true, _) => {
                let unmoved = self.unmoved(ix, reply, said.0);
                self.judge_tcp((ix, reply), (&unmoved, said.1), j);
            }
        }
        if hot.alg & bit::CHILD != 0 && j.conn().is_some() {
            j.state |= REL;
        }
        j.is_helped = hot.alg & bit::HELPED != 0;
    }

    #[inline(always)]
    fn judge_other(&self, (ix, reply): (u32, bool), j: &mut Judged) {
        let hot = self.table.hot(ix);
        let direction = if reply { RPL } else { 0 };
        let answered = reply || hot.has(flag::ANSWERED);
        j.set(if answered { TRK | EST | direction } else { TRK | NEW }, Turn::Refresh, ix);
        j.reply = reply;
        let steady = answered == hot.has(flag::ANSWERED);
        j.is_steady = steady & other::is_steady(hot.class, answered);
    }

    #[inline(always)]
    fn judge_tcp(&self, (ix, reply): (u32, bool), said: (&Segment, bool), j: &mut Judged) {
        let hot = self.table.hot(ix);
        j.peers = hot.peers;
        if hot.class == Class::TcpEstablished as u8
            && hot.has(flag::ANSWERED) >= reply
            && tcp::hit(&mut j.peers, said.0, reply, self.tcp_seq_check)
        {
            let turn = Turn::Tcp(Some(Class::TcpEstablished));
            j.set(TRK | EST | if reply { RPL } else { 0 }, turn, ix);
            (j.reply, j.is_steady) = (reply, true);
            return;
        }
        self.judge_tcp_change((ix, reply), said, j);
    }

    /// A segment that may change the state.
    #[inline(never)]
    fn judge_tcp_change(
        &self,
        (ix, reply): (u32, bool),
        (seg, is_new): (&Segment, bool),
        j: &mut Judged,
    ) {
        let direction = if reply { RPL } else { 0 };
        j.peers = self.table.hot(ix).peers;
        let (verdict, class) = tcp::update(&mut j.peers, seg, reply, self.tcp_seq_check);
        let turn = Turn::Tcp(class);
        match verdict {
            Verdict::Valid => j.set(TRK | EST | direction, turn, ix),
            Verdict::StillNew => j.set(TRK | NEW | direction, turn, ix),
            // The packet is of no connection.
            Verdict::Invalid => j.set(TRK | INV, Turn::Nothing, ix),
            Verdict::Reopen => j.set(stranger(is_new), Turn::Remove, ix),
        }
        j.reply = reply && verdict != Verdict::Invalid;
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

    /// All that a cached walk can have looked at: the state with the bits of a translation, mark
    /// and label.
    #[inline(always)]
    pub fn told(&self, j: &Judged) -> (u8, u32, u128) {
        let Some(ix) = j.conn() else { return (j.state, 0, 0) };
        if !self.table.hot(ix).has(flag::MARKED | flag::SNAT | flag::DNAT) {
            return (j.state, 0, 0);
        }
        let (mark, label) = self.mark_and_label(ix);
        (j.state | self.nat_bits(ix, j.reply), mark, label)
    }

    /// What a `ct(nat)` does to the packet: see `nat_rewrite`.
    #[inline]
    pub fn translation_of(&self, j: &Judged) -> Option<NatRewrite> {
        self.rewrite(j.conn()?, j.reply, j.state)
    }

    /// The same for narrow packets; `None` also if they are not.
    #[inline(always)]
    pub fn narrow_translation_of(&self, j: &Judged) -> Option<NarrowRewrite> {
        self.table.hot(j.conn()?).narrow_rewrite(j.reply)
    }

    /// The same for packets of a connection's original direction.
    #[inline]
    pub fn narrow_translation(&self, c: ConnRef) -> Option<NarrowRewrite> {
        self.live(c)?.narrow_rewrite(false)
    }

    /// The bits that a `ct(nat)` would add to the packet's state.
    #[inline]
    pub fn nat_bits_of(&self, j: &Judged) -> u8 {
        j.conn().map_or(0, |ix| self.nat_bits(ix, j.reply))
    }
}
