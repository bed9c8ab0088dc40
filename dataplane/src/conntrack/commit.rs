//! `ct(commit)`: making an entry, or changing the one there is.
//!
//! A commit is the only thing that makes conntrack remember. Its refusals (table, zone, NAT
//! range, tuple) change nothing: the packet stays new and goes on as it is, and the next one of
//! the flow tries again. Open vSwitch does the same.
//!
//! A full table makes room (`end`) or refuses. A full zone refuses: its limit keeps one tenant from
//! others, and says nothing about who in it is worth less.

use super::conn::{Peer, flag};
use super::ct_state::{INV, NEW, TRK};
use super::expire::{Class, Term, ticks};
use super::home::Untold;
use super::judge::Judged;
use super::key::{self, CtPacket, Kind};
use super::nat::{self, NatKind};
use super::{Commit, Conntrack, CtError, CtResult, other, tcp};
use crate::clock::Now;

impl Conntrack {
    /// `ct(commit)` after `lookup` gave `r`. Creates the entry, or changes mark and label of the
    /// one there is; `force` replaces one that was found in the reply direction. Invalid and
    /// related packets create nothing. The result takes the place of `r`.
    pub fn commit(
        &mut self,
        p: &CtPacket,
        r: &CtResult,
        c: &Commit,
        now: Now,
    ) -> Result<CtResult, CtError> {
        if r.state & TRK == 0 || r.state & INV != 0 || p.kind == Kind::Invalid {
            return Ok(*r);
        }
        let tick = ticks(now);
        let hash = self.table.hash(&p.tuple, p.zone);
        let found = self.find_live(hash, &p.tuple, p.zone, tick);
        self.commit_found(p, (r, hash, found), c, tick)
    }

    /// The same where a look-up that was just judged and accepted came to `r`.
    pub fn commit_judged(
        &mut self,
        p: &CtPacket,
        (j, r): (&Judged, &CtResult),
        c: &Commit,
        now: Now,
    ) -> Result<CtResult, CtError> {
        match j.stranger() {
            // There was none, and there is none now.
            Some(hash) if r.state & INV == 0 => {
                self.commit_found(p, (r, hash, None), c, ticks(now))
            }
            _ => self.commit(p, r, c, now),
        }
    }

    /// The same where the judgement is that there is no connection, and may be: opens it, and makes
    /// the judgement one of its first packet.
    pub fn open(
        &mut self,
        p: &CtPacket,
        j: &mut Judged,
        c: &Commit,
        now: Now,
    ) -> Result<(), CtError> {
        let hash = j.stranger().unwrap_or_else(|| self.hash_of(p));
        let ix = self.create(p, c, hash, ticks(now))?;
        if c.mark.is_some() || c.label.is_some() {
            self.set_mark_label(ix, c);
        }
        j.opened(ix);
        Ok(())
    }

    fn commit_found(
        &mut self,
        p: &CtPacket,
        (r, hash, found): (&CtResult, u64, Option<(u32, usize)>),
        c: &Commit,
        tick: u64,
    ) -> Result<CtResult, CtError> {
        match found {
            Some((ix, 1)) if c.force && p.kind == Kind::Normal => {
                self.remove(ix);
                self.stats.expired += 1;
            }
            Some((ix, dir)) => {
                let mut out = *r;
                self.set_mark_label(ix, c);
                let now_found = self.found(p, ix, dir == 1, r.state);
                (out.conn, out.reply, out.orig) = (now_found.conn, now_found.reply, now_found.orig);
                (out.mark, out.label) = (now_found.mark, now_found.label);
                return Ok(out);
            }
            None if p.kind == Kind::Related => return Ok(*r),
            None => {}
        }
        if !p.may_open() {
            return Ok(self.invalid(p));
        }
        let ix = self.create(p, c, hash, tick)?;
        self.set_mark_label(ix, c);
        Ok(self.found(p, ix, false, TRK | NEW))
    }

    /// xorshift64: chance enough for spreading, and it never is zero.
    #[inline(always)]
    pub(super) fn draw(&mut self) {
        self.random ^= self.random << 13;
        self.random ^= self.random >> 7;
        self.random ^= self.random << 17;
    }

    fn create(&mut self, p: &CtPacket, c: &Commit, hash: u64, tick: u64) -> Result<u32, CtError> {
        let made = match () {
            () if self.table.is_full() && !self.can_make_room(tick) => Err(CtError::TableFull),
            () if !self.zones.enter(p.zone) => Err(CtError::ZoneFull),
            () => self.create_in_zone(p, c, hash, tick).inspect_err(|_| self.zones.leave(p.zone)),
        };
        made.map_err(|e| self.refused(e))
    }

    /// Counts a refusal.
    pub(super) fn refused(&mut self, e: CtError) -> CtError {
        self.count_refusal(e);
        e
    }

    fn create_in_zone(
        &mut self,
        p: &CtPacket,
        c: &Commit,
        hash: u64,
        tick: u64,
    ) -> Result<u32, CtError> {
        let expected = self.expectation(p, tick);
        let (choice, flags) = match &expected {
            Some((e, _)) => self.translate_expected(p, c, e)?,
            None => self.translate(p, c, hash, tick)?,
        };
        let told = match self.homes.claim(&p.tuple, &choice.reply, p.zone) {
            Ok(told) => told,
            Err(Untold) => {
                if choice.pool {
                    self.release_port(&choice.reply, p.zone);
                }
                return Err(CtError::Untold);
            }
        };
        if self.table.is_full() {
            self.evict(tick);
        }
        let Some(ix) = self.table.insert_hashed(&p.tuple, &choice.reply, p.zone, hash) else {
            return Err(CtError::TableFull);
        };
        let is_tcp = p.tuple.proto == key::TCP;
        let class = if is_tcp { Class::TcpFirst } else { other::first(p.tuple.is_icmp()) } as u8;
        let policy = self.zones.policy(p.zone);
        let deadline = self.timeouts.fresh(Term { policy, class }, tick);
        if let Some(hot) = self.table.hot_mut(ix) {
            hot.flags |= flags | if choice.pool { flag::POOL } else { 0 };
            (hot.class, hot.policy, hot.told) = (class, policy, told);
            hot.deadline = deadline;
            hot.peers = if is_tcp { tcp::open(&p.seg) } else { [Peer::default(); 2] };
        }
        self.made(ix, p, c, expected);
        self.wheels.queue(&mut self.table, ix, tick);
        self.stats.created += 1;
        Ok(ix)
    }

    /// The reply tuple of a new connection.
    fn translate(
        &mut self,
        p: &CtPacket,
        c: &Commit,
        hash: u64,
        tick: u64,
    ) -> Result<(nat::Choice, u8), CtError> {
        let Some(spec) = c.nat.as_ref().filter(|s| s.is_for(p.tuple.v6)) else {
            let reply = p.tuple.reversed();
            let is_taken = self.find_live(hash, &reply, p.zone, tick).is_some();
            let is_others = !is_taken && self.homes.is_taken(&reply);
            self.stats.redirects_late += u64::from(is_others);
            if is_taken || is_others {
                return Err(CtError::TupleTaken);
            }
            return Ok((nat::Choice { reply, pool: false }, 0));
        };
        self.draw();
        let flags = match spec.kind {
            NatKind::Src => flag::SNAT,
            NatKind::Dst => flag::DNAT,
        };
        let choice = self.chooser(p.zone, hash).choose(&p.tuple, spec);
        Ok((choice.ok_or(CtError::NatExhausted)?, flags))
    }

    pub(super) fn set_mark_label(&mut self, ix: u32, c: &Commit) {
        let Some(cold) = self.table.cold_mut(ix) else { return };
        let before = (cold.mark, cold.label());
        let after = c.exec(before);
        cold.mark = after.0;
        cold.set_label(after.1);
        if before != after
            && let Some(hot) = self.table.hot_mut(ix)
        {
            hot.gen_no = hot.gen_no.wrapping_add(1);
            hot.flags &= !flag::MARKED;
            hot.flags |= if after == (0, 0) { 0 } else { flag::MARKED };
        }
    }
}
