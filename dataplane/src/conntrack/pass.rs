//! The shortest look-up: a packet of a connection that both sides have spoken in, found where the
//! last packet of its flow was.
//!
//! Most packets are such. `judge` and `accept` do in two steps what is done here in one, and know
//! every other case: whatever is not as usual leaves everything as it is, and they are asked. A
//! cached walk says what is to come out; a packet of which something else would come out is none of
//! these.

use super::Conntrack;
use super::conn::{Hot, flag};
use super::ct_state::{DNAT, EST, RPL, SNAT, TRK};
use super::expire::{Class, is_due, ticks};
use super::judge::Guess;
use super::key::Narrow;
use super::nat::NarrowRewrite;
use super::tcp::{self, Segment};
use crate::clock::Now;
use crate::packet::l4sum;

/// A narrow packet.
pub struct Plain<'a> {
    pub narrow: Narrow,
    /// Its IPv4 header.
    pub ip: &'a [u8; 20],
    /// The rest of the datagram.
    pub l4: &'a [u8],
    /// Checksums need not be looked at.
    pub checksums_good: bool,
}

/// What is to come out.
#[derive(Clone, Copy)]
pub struct Wanted {
    pub zone: u16,
    /// As in `CtResult::state`, with the bits of a translation if it is `nat`.
    pub state: u8,
    pub nat: bool,
    /// The packet is translated.
    pub turns: bool,
}

impl Plain<'_> {
    /// Whether the packet is valid, as far as its sides do not matter.
    #[inline(always)]
    pub(super) fn is_valid(&self) -> bool {
        if self.narrow.ports & 0xffff == 0 || self.narrow.ports >> 16 == 0 {
            return false;
        }
        if !self.narrow.is_udp() {
            return self.checksums_good || l4sum::both_ok(self.ip, self.l4);
        }
        let Some((covered, sum)) = l4sum::udp_covered(self.l4) else { return false };
        // A datagram may come without a checksum (RFC 768); `judge` looks at those.
        self.checksums_good || sum != [0; 2] && l4sum::both_ok(self.ip, covered)
    }
}

impl Hot {
    /// Whether a packet of this side is one of many: it is answered by the state of an established
    /// connection, and changes no more than windows and the timer.
    #[inline(always)]
    fn is_settled(&self, reply: bool) -> bool {
        let class = self.class;
        if self.is_tcp() {
            class == Class::TcpEstablished as u8 && self.has(flag::ANSWERED) >= reply
        } else {
            class == Class::OtherBidir as u8 && self.has(flag::ANSWERED)
        }
    }

    /// The bits of `ct_state` that tell of the connection's translation, seen from one side.
    #[inline(always)]
    pub(super) fn nat_bits(&self, is_reply: bool) -> u8 {
        if !self.has(flag::SNAT | flag::DNAT) {
            return 0;
        }
        if self.has(flag::SNAT) != is_reply { SNAT } else { DNAT }
    }
}

impl Conntrack {
    /// Looks a packet up, if it is of the connection that is guessed, and what is wanted comes out.
    /// Where it was found, and what it is translated to if that is wanted. `None`: nothing has
    /// changed.
    #[inline(always)]
    pub fn pass(
        &mut self,
        p: &Plain,
        guess: Guess,
        want: Wanted,
        now: Now,
    ) -> Option<(Guess, Option<NarrowRewrite>)> {
        let (ix, dir) = guess.place()?;
        let hot = self.table.hot_mut(ix)?;
        let dir = if hot.is_narrow(&p.narrow, want.zone, dir) {
            dir
        } else if hot.is_narrow(&p.narrow, want.zone, dir ^ 1) {
            // Guessed from the index, which has one entry for both.
            dir ^ 1
        } else {
            return None;
        };
        let (reply, tick) = (dir == 1, ticks(now));
        let own = if want.nat { hot.nat_bits(reply) } else { 0 };
        let state = TRK | EST | if reply { RPL } else { 0 } | own;
        if state != want.state
            || is_due(hot.deadline, tick)
            || hot.alg != 0
            || !hot.is_settled(reply)
            || !p.is_valid()
        {
            return None;
        }
        let rewrite = if want.turns { Some(hot.narrow_rewrite(reply)?) } else { None };
        if hot.is_tcp() {
            let segment = Segment::parse_plain(p.l4)?;
            if !tcp::hit(&mut hot.peers, &segment, reply, self.tcp_seq_check) {
                return None;
            }
        }
        let deadline = self.timeouts.refreshed(hot.term(), hot.deadline, tick);
        // An unconditional store would dirty the line of every UDP packet.
        if deadline != hot.deadline {
            hot.deadline = deadline;
        }
        Some((Guess::new(ix, dir), rewrite))
    }
}

#[cfg(test)]
mod tests;
