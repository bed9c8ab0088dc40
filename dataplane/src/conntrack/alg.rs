//! Connections that others announce: FTP's data connections, TFTP's answers.
//!
//! `ct(commit,alg=ftp)` makes a connection a *helped* one. What its packets say is read
//! ([`ftp`]), and the connection they announce is *expected*: its first packet is new and related,
//! and once it is committed all of its packets are related. It has its parent's mark and label when
//! it begins, and shows its parent's addresses as those of the first packet (Open vSwitch does).
//!
//! **Through NAT** both ends must meet: `ct(nat)` rewrites address and port in the payload to what
//! the other side sees, and the expected connection is translated as its parent is. A port that
//! another expectation has gives way to a near one. Texts differ in length, so later sequence
//! numbers of that direction, and acknowledgements of it, move by the difference (`Adjust`);
//! the state machine sees each side in the numbers that this side itself uses.
//!
//! **Not followed**: who names a third party's address (the bounce attack, RFC 2577 section 3), and
//! all that is not said as the RFCs have it.
//!
//! **Bounds.** Helped connections, expectations of all and of each, and their time: `limits.rs`.
//! What a helped connection expects goes when it goes; what has come stays.

mod audit;
pub mod ftp;
#[cfg(test)]
mod tests;

use super::expire::ticks;
use super::home::Homes;
use super::key::{CtPacket, IpKey, Kind, Narrow, Tuple};
use super::nat::Choice;
use super::{Commit, Conntrack, CtError, CtResult, conn::flag, tcp};
use crate::clock::Now;
use crate::limits::{
    EXPECTATION_TIMEOUT_S, EXPECTATIONS_EACH, EXPECTATIONS_MAX, HELPED_CHILDREN_MAX, HELPED_MAX,
};
use ftp::Text;
use std::collections::HashMap;

/// What helps a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Alg {
    Ftp,
    Tftp,
}

impl Alg {
    /// The port of its servers, unless a flow says another.
    pub fn port(self) -> u16 {
        match self {
            Self::Ftp => 21,
            Self::Tftp => 69,
        }
    }

    fn bit(self) -> u8 {
        match self {
            Self::Ftp => bit::FTP,
            Self::Tftp => bit::TFTP,
        }
    }

    fn proto(self) -> u8 {
        match self {
            Self::Ftp => super::key::TCP,
            Self::Tftp => super::key::UDP,
        }
    }
}

/// Bits of `Hot::alg`.
pub(super) mod bit {
    pub const FTP: u8 = 1;
    pub const TFTP: u8 = 2;
    /// It was expected.
    pub const CHILD: u8 = 4;
    pub const HELPED: u8 = FTP | TFTP;
}

/// What is to be written into a packet of a helped connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct AlgEdit {
    /// Added to the sequence number.
    pub seq: u32,
    /// Added to the acknowledgement, and to what SACK tells.
    pub ack: u32,
    /// In the payload, this text stands instead of so many bytes from here on.
    pub at: u16,
    pub old_len: u16,
    pub text: Text,
}

/// How a direction's sequence numbers move: what follows `pos` by `after`, what was before by
/// `before`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Adjust {
    pos: u32,
    before: u32,
    after: u32,
}

fn is_after(a: u32, b: u32) -> bool {
    (a.wrapping_sub(b) as i32) > 0
}

impl Adjust {
    fn of_seq(&self, seq: u32) -> u32 {
        if is_after(seq, self.pos) { self.after } else { self.before }
    }

    /// Of an acknowledgement, which counts in numbers as they were moved.
    fn of_ack(&self, ack: u32) -> u32 {
        let is_behind = is_after(ack.wrapping_sub(self.before), self.pos);
        if is_behind { self.after } else { self.before }
    }

    /// The segment at `seq` has grown. Says nothing new if it is sent again.
    fn grow(&mut self, seq: u32, by: u32) {
        if by != 0 && (self.before == self.after || is_after(seq, self.pos)) {
            *self = Self { pos: seq, before: self.after, after: self.after.wrapping_add(by) };
        }
    }
}

/// How an expected packet arrives.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
struct Key {
    zone: u16,
    src: IpKey,
    dst: IpKey,
    dport: u16,
    proto: u8,
    v6: bool,
}

impl Key {
    /// Its packets' tuple, of any source port.
    fn open(&self) -> Tuple {
        let Self { zone: _, src, dst, dport, proto, v6 } = *self;
        Tuple { src, dst, sport: 0, dport, proto, v6 }
    }
}

/// An expected connection.
#[derive(Clone, Copy, Debug)]
pub(super) struct Expected {
    parent: u32,
    parent_orig: Tuple,
    /// Where it really goes.
    to: (IpKey, u16),
    /// As whom who opens it is seen there.
    from: IpKey,
    deadline: u64,
}

#[derive(Debug, Default)]
struct Helped {
    /// By direction.
    adjust: [Adjust; 2],
    expects: [Option<Key>; EXPECTATIONS_EACH],
    next: usize,
}

/// All that is known of helped connections.
#[derive(Debug, Default)]
pub(super) struct Algs {
    helped: HashMap<u32, Helped>,
    expected: HashMap<Key, Expected>,
    /// The parents' tuples.
    children: HashMap<u32, Tuple>,
    next_sweep: u64,
}

impl Algs {
    fn find(&self, tuple: &Tuple, zone: u16, tick: u64) -> Option<&Expected> {
        if self.expected.is_empty() {
            return None;
        }
        let Tuple { src, dst, dport, proto, v6, .. } = *tuple;
        let found = self.expected.get(&Key { zone, src, dst, dport, proto, v6 })?;
        (found.deadline > tick).then_some(found)
    }

    fn begin(&mut self, ix: u32) -> bool {
        let has_room = self.helped.len() < HELPED_MAX;
        if has_room {
            self.helped.insert(ix, Helped::default());
        }
        has_room
    }

    /// A connection is gone.
    #[cold]
    pub fn forget(&mut self, ix: u32, homes: &mut Homes) {
        self.children.remove(&ix);
        if let Some(helped) = self.helped.remove(&ix) {
            for key in helped.expects.into_iter().flatten() {
                self.remove_of(ix, &key, homes);
            }
        }
    }

    fn remove_of(&mut self, parent: u32, key: &Key, homes: &mut Homes) {
        if self.expected.get(key).is_some_and(|e| e.parent == parent) {
            self.expected.remove(key);
            homes.renounce(&key.open());
        }
    }

    /// Makes room for an expectation if there is none.
    fn has_room(&mut self, tick: u64, homes: &mut Homes) -> bool {
        if self.expected.len() >= EXPECTATIONS_MAX && tick >= self.next_sweep {
            self.next_sweep = tick + ticks(Now::from_secs(1));
            self.expected.retain(|key, e| {
                if e.deadline <= tick {
                    homes.renounce(&key.open());
                }
                e.deadline > tick
            });
        }
        self.expected.len() < EXPECTATIONS_MAX
    }

    /// Expects a connection. Of the ports from `key.dport` on, the first that no other has is
    /// taken, if another may be. Gives that port.
    fn expect(
        &mut self,
        mut key: Key,
        e: Expected,
        may_move: bool,
        tick: u64,
        homes: &mut Homes,
    ) -> Option<u16> {
        let tries = if may_move { PORTS_TRIED } else { 1 };
        for _ in 0..tries {
            let known = self.expected.get(&key).filter(|k| k.deadline > tick).copied();
            let is_own = known.is_some_and(|k| (k.parent, k.to) == (e.parent, e.to));
            if known.is_none() && !self.has_room(tick, homes) {
                return None;
            }
            let is_others = known.is_none() && homes.is_taken(&key.open());
            if !is_others && (known.is_none() || is_own) {
                // One whose time is over was announced, and not renounced yet.
                if !self.expected.contains_key(&key) {
                    homes.announce(&key.open(), key.zone).ok()?;
                }
                self.expected.insert(key, e);
                self.remember(e.parent, key, homes);
                return Some(key.dport);
            }
            key.dport = key.dport.checked_add(1).unwrap_or(1024);
        }
        None
    }

    fn remember(&mut self, parent: u32, key: Key, homes: &mut Homes) {
        let Some(helped) = self.helped.get_mut(&parent) else { return };
        if helped.expects.contains(&Some(key)) {
            return;
        }
        let at = helped.next % EXPECTATIONS_EACH;
        helped.next = at + 1;
        if let Some(oldest) = helped.expects[at].replace(key) {
            self.remove_of(parent, &oldest, homes);
        }
    }
}

/// Ports beside the announced one that are tried.
const PORTS_TRIED: usize = 16;

/// Operations of TFTP that open a transfer (RFC 1350).
const TFTP_OPENS: [[u8; 2]; 2] = [[0, 1], [0, 2]];

impl Conntrack {
    /// Connections that are expected.
    pub fn expected(&self) -> usize {
        self.algs.expected.len()
    }

    /// Whether what the packet says matters to others.
    #[inline]
    pub fn is_helped(&self, r: &CtResult) -> bool {
        r.conn.and_then(|c| self.live(c)).is_some_and(|hot| hot.alg & bit::HELPED != 0)
    }

    /// A segment in the numbers that its sender and its receiver use themselves.
    #[cold]
    pub(super) fn unmoved(&self, ix: u32, reply: bool, seg: &tcp::Segment) -> tcp::Segment {
        let helped = self.algs.helped.get(&ix);
        let by = helped.map_or(0, |h| h.adjust[usize::from(!reply)].of_ack(seg.ack));
        tcp::Segment { ack: seg.ack.wrapping_sub(by), ..*seg }
    }

    /// Reads the payload of a packet of a helped connection, for which `lookup` or `commit` gave
    /// `r`. `nat`: it is translated. Says what is to be written into it.
    pub fn help(
        &mut self,
        r: &CtResult,
        p: &CtPacket,
        payload: &[u8],
        nat: bool,
        now: Now,
    ) -> Option<AlgEdit> {
        let ix = r.conn.filter(|c| self.live(*c).is_some())?.ix;
        let tick = ticks(now);
        if self.table.hot(ix).alg & bit::TFTP != 0 {
            let opens = TFTP_OPENS.iter().any(|o| payload.starts_with(o)) && payload.len() > 4;
            if opens && !r.reply {
                let port = self.table.tuple(ix, 0).sport;
                self.announce(ix, false, port, (nat, false), tick);
            }
            return None;
        }
        let helped = self.algs.helped.get(&ix)?;
        let (own, other) = (usize::from(r.reply), usize::from(!r.reply));
        let mut edit = AlgEdit {
            seq: helped.adjust[own].of_seq(p.seg.seq),
            ack: match p.seg.flags & tcp::ACK {
                0 => 0,
                _ => 0u32.wrapping_sub(helped.adjust[other].of_ack(p.seg.ack)),
            },
            at: 0,
            old_len: 0,
            text: Text::EMPTY,
        };
        if let Some(said) = ftp::read(payload, r.reply)
            && let Some((address, port)) = self.believe(ix, r.reply, &said, nat, tick)
            && let Some(text) = said.with(address, port)
            && payload.get(said.place.clone()) != Some(text.as_bytes())
        {
            (edit.at, edit.old_len) = (said.place.start as u16, said.place.len() as u16);
            edit.text = text;
            let by = (text.as_bytes().len() as u32).wrapping_sub(edit.old_len.into());
            if let Some(helped) = self.algs.helped.get_mut(&ix) {
                helped.adjust[own].grow(p.seg.seq, by);
            }
        }
        let changes = edit.seq != 0 || edit.ack != 0 || edit.old_len != 0;
        changes.then_some(edit)
    }

    /// Expects what a side of an FTP connection says, if it speaks for itself. Gives address and
    /// port as the other side is to see them.
    fn believe(
        &mut self,
        ix: u32,
        reply: bool,
        said: &ftp::Said,
        nat: bool,
        tick: u64,
    ) -> Option<(IpKey, u16)> {
        let (orig, back) = (self.table.tuple(ix, 0), self.table.tuple(ix, 1));
        let (real, shown) = if reply { (back.src, orig.dst) } else { (orig.src, back.dst) };
        let own = |(v6, address)| v6 == orig.v6 && (address == real || address == shown);
        if !said.address.is_none_or(own) {
            self.stats.unexpected += 1;
            return None;
        }
        let port = self.announce(ix, reply, said.port, (nat, true), tick)?;
        Some((shown, port))
    }

    /// Expects a connection to a side of `ix`: to who opened it, or, with `reply`, to the other.
    fn announce(
        &mut self,
        ix: u32,
        reply: bool,
        port: u16,
        (nat, may_move): (bool, bool),
        tick: u64,
    ) -> Option<u16> {
        let (zone, proto) = (self.table.hot(ix).zone, self.table.hot(ix).proto);
        let (orig, back) = (self.table.tuple(ix, 0), self.table.tuple(ix, 1));
        let (real, shown, src, from) = match reply {
            true => (back.src, orig.dst, orig.src, back.dst),
            false => (orig.src, back.dst, back.src, orig.dst),
        };
        let expected = Expected {
            parent: ix,
            parent_orig: orig,
            to: (real, port),
            from,
            deadline: tick + ticks(Now::from_secs(EXPECTATION_TIMEOUT_S)),
        };
        // TFTP answers to the port that it sees.
        let dport = if may_move { port } else { back.dport };
        let key = Key { zone, src, dst: shown, dport, proto, v6: orig.v6 };
        let is_same = (real, src) == (shown, from);
        let got = match nat || is_same {
            true => self.algs.expect(key, expected, nat && may_move, tick, &mut self.homes),
            false => None,
        };
        match got {
            Some(_) => self.stats.expected += 1,
            None => self.stats.unexpected += 1,
        }
        got
    }

    /// Whether a packet without a connection begins one that a helper expects.
    #[inline]
    pub(super) fn is_expected(&self, tuple: &Tuple, zone: u16, now: Now) -> bool {
        self.algs.find(tuple, zone, ticks(now)).is_some()
    }

    #[cold]
    pub(super) fn is_narrow_expected(&self, n: &Narrow, zone: u16, now: Now) -> bool {
        self.is_expected(&n.tuple(), zone, now)
    }

    /// What such a packet is.
    #[cold]
    pub(super) fn as_expected(&self, p: &CtPacket, state: u8) -> CtResult {
        let mut result = super::result_without(p, state);
        // If its time is over by now, that was said before.
        if let Some(found) = self.algs.find(&p.tuple, p.zone, 0) {
            (result.mark, result.label) = self.mark_and_label(found.parent);
            result.orig = found.parent_orig;
        }
        result
    }

    /// What a new connection is to its helper: the expectation that it meets, and its parent's
    /// mark and label.
    pub(super) fn expectation(&self, p: &CtPacket, tick: u64) -> Option<(Expected, (u32, u128))> {
        let found = self.algs.find(&p.tuple, p.zone, tick).filter(|_| p.kind == Kind::Normal);
        found.map(|e| (*e, self.mark_and_label(e.parent)))
    }

    /// The reply tuple of an expected connection.
    pub(super) fn translate_expected(
        &mut self,
        p: &CtPacket,
        c: &Commit,
        e: &Expected,
    ) -> Result<(Choice, u8), CtError> {
        let mut reply = p.tuple.reversed();
        if c.follows_nat {
            (reply.src, reply.sport) = e.to;
            reply.dst = e.from;
        }
        let is_to = (reply.src, reply.sport) == (p.tuple.dst, p.tuple.dport);
        let flags = match (is_to, reply.dst == p.tuple.src) {
            (true, true) => 0,
            (false, _) => flag::DNAT,
            (true, false) => flag::SNAT,
        };
        match self.chooser(p.zone, 0).near(reply, flags != 0) {
            Some(choice) => Ok((choice, flags)),
            None if flags != 0 => Err(CtError::NatExhausted),
            None => Err(CtError::TupleTaken),
        }
    }

    /// A connection was made: it may be helped, and may have been expected.
    pub(super) fn made(
        &mut self,
        ix: u32,
        p: &CtPacket,
        c: &Commit,
        expected: Option<(Expected, (u32, u128))>,
    ) {
        let mut bits = 0;
        if let Some(alg) = c.alg.filter(|a| a.proto() == p.tuple.proto)
            && self.algs.begin(ix)
        {
            bits |= alg.bit();
        }
        if let Some((e, (mark, label))) = expected {
            bits |= bit::CHILD;
            let Tuple { src, dst, dport, proto, v6, .. } = p.tuple;
            let key = Key { zone: p.zone, src, dst, dport, proto, v6 };
            self.algs.remove_of(e.parent, &key, &mut self.homes);
            if self.algs.children.len() < HELPED_CHILDREN_MAX {
                self.algs.children.insert(ix, e.parent_orig);
            }
            let inherited = Commit {
                mark: Some((mark, u32::MAX)),
                label: Some((label, u128::MAX)),
                ..Commit::default()
            };
            self.set_mark_label(ix, &inherited);
        }
        if let Some(hot) = self.table.hot_mut(ix) {
            hot.alg = bits;
        }
    }

    /// The tuple that flows see as the connection's first: of one that was expected, its parent's.
    pub(super) fn shown_tuple(&self, ix: u32) -> Tuple {
        let is_child = self.table.hot(ix).alg & bit::CHILD != 0;
        let parent = if is_child { self.algs.children.get(&ix) } else { None };
        parent.copied().unwrap_or_else(|| self.table.tuple(ix, 0))
    }
}
