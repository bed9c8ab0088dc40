//! Opening a connection of the common kind: TCP or UDP over IPv4, which nobody has announced and no
//! other worker need be told of.
//!
//! It comes to what `commit` comes to. Tuples stay in words here, only the first tuple that NAT
//! would try is tried, and whatever is not as usual is left to `commit`, which begins from the
//! start: nothing has changed then. A flood of new connections goes this way, and where it meets a
//! full table, the place of the connection that gives way is taken over.
//!
//! The memory of what is tried can be asked for before: see `prefetch_reply`.

use super::conn::{Peer, flag};
use super::expire::{Class, Term, ticks};
use super::judge::Guess;
use super::key::{CtPacket, IpKey, Narrow, TCP};
use super::nat::{NarrowRewrite, NatKind, NatMode, NatSpec, first_port};
use super::nat_ports::{Key, PoolIx};
use super::pass::Plain;
use super::tcp::{self, Segment};
use super::wheel::Rank;
use super::{Commit, Conntrack, CtError, Judged};
use crate::clock::Now;

/// What the reply tuple is to be.
struct Candidate {
    reply: Narrow,
    /// Hash of a reply tuple that is not the reverse of the original one.
    hash: Option<u64>,
    /// The port to be held.
    port: Option<(PoolIx, u16)>,
    /// `SNAT` or `DNAT`.
    flags: u8,
}

impl Conntrack {
    /// Opens the connection of a packet that was judged to have none, and makes the judgement one
    /// of its first packet. False: nothing has changed, and `open` is to be asked. An error: it was
    /// refused, which is counted, and `open` would say no other.
    #[inline]
    pub fn open_narrow(
        &mut self,
        (n, seg, zone): (&Narrow, &Segment, u16),
        j: &mut Judged,
        c: &Commit,
        now: Now,
    ) -> Result<bool, CtError> {
        let Some(hash) = j.stranger() else { return Ok(false) };
        let opened = self.open_unknown((n, seg, zone), hash, c, now)?;
        opened.into_iter().for_each(|ix| j.opened(ix));
        Ok(opened.is_some())
    }

    /// The same in one go with the question whether there is a connection; `hash` is that of
    /// `hash_of_narrow`. Where to look for it, and what the packet is translated to. `None`:
    /// nothing has changed, and `judge` is to be asked.
    #[inline(always)]
    pub fn open_plain(
        &mut self,
        p: &Plain,
        (zone, hash): (u16, u64),
        c: &Commit,
        now: Now,
    ) -> Result<Option<(Guess, Option<NarrowRewrite>)>, CtError> {
        let segment = match p.is_valid() {
            true if p.narrow.is_udp() => Some(Segment::default()),
            true => CtPacket::narrow_segment(&p.narrow, p.l4).filter(tcp::may_open),
            false => None,
        };
        let Some(segment) = segment else { return Ok(None) };
        if self.table.find_narrow(hash, &p.narrow, zone).is_some() {
            return Ok(None);
        }
        let Some(ix) = self.open_unknown((&p.narrow, &segment, zone), hash, c, now)? else {
            return Ok(None);
        };
        let is_turned = c.nat.is_some();
        let rewrite = if is_turned { self.table.hot(ix).narrow_rewrite(false) } else { None };
        Ok(Some((Guess::new(ix, 0), rewrite)))
    }

    /// Opens the connection of a packet that has none. Its place.
    #[inline(always)]
    fn open_unknown(
        &mut self,
        (n, seg, zone): (&Narrow, &Segment, u16),
        hash: u64,
        c: &Commit,
        now: Now,
    ) -> Result<Option<u32>, CtError> {
        if c.alg.is_some() || !self.is_lone(n, c) {
            return Ok(None);
        }
        let tick = ticks(now);
        if self.table.is_full() && !self.can_make_room(tick) {
            return Err(self.refused(CtError::TableFull));
        }
        if !self.zones.enter(zone) {
            return Err(self.refused(CtError::ZoneFull));
        }
        let packet = (n, seg, zone);
        let ix = match &c.nat {
            Some(spec) if spec.is_for(false) => self.open_translated(packet, hash, spec, tick),
            _ => self.open_as_it_is(packet, hash, tick),
        };
        match ix {
            None => self.zones.leave(zone),
            Some(ix) if c.mark.is_some() || c.label.is_some() => self.set_mark_label(ix, c),
            Some(_) => {}
        }
        Ok(ix)
    }

    /// Opens a connection that is not translated; `None` if its reply tuple is taken.
    #[inline(always)]
    fn open_as_it_is(
        &mut self,
        (n, seg, zone): (&Narrow, &Segment, u16),
        hash: u64,
        tick: u64,
    ) -> Option<u32> {
        let reply = n.reversed();
        let taken = |ct: &Self| ct.table.find_narrow(hash, &reply, zone).is_some();
        // What is judged to have no connection has none by the reverse of its tuple either.
        debug_assert!(self.table.has_turned() || !taken(self));
        if self.table.has_turned() && taken(self) {
            return None;
        }
        let candidate = Candidate { reply, hash: None, port: None, flags: 0 };
        self.settle((n, seg, zone), hash, &candidate, tick)
    }

    /// Opens a connection that is translated to what would be tried first; `None` if that cannot be
    /// had, or be told in words.
    #[inline(never)]
    fn open_translated(
        &mut self,
        (n, seg, zone): (&Narrow, &Segment, u16),
        hash: u64,
        spec: &NatSpec,
        tick: u64,
    ) -> Option<u32> {
        let candidate = self.translated(n, (hash, zone), spec)?;
        let reply_hash = candidate.hash.unwrap_or(hash);
        let may_be_taken = candidate.hash.is_some() || self.table.has_turned();
        if may_be_taken && self.table.find_narrow(reply_hash, &candidate.reply, zone).is_some() {
            return None;
        }
        if let Some((pool, port)) = candidate.port
            && !self.pools.acquire(pool, port)
        {
            return None;
        }
        // Chance is drawn for each commit that translates, whether or not it is used.
        self.draw();
        self.settle((n, seg, zone), hash, &candidate, tick)
    }

    /// Takes a place, and makes the connection in it.
    #[inline(always)]
    fn settle(
        &mut self,
        packet: (&Narrow, &Segment, u16),
        hash: u64,
        candidate: &Candidate,
        tick: u64,
    ) -> Option<u32> {
        let ix = if self.table.is_full() { self.take_over(tick) } else { self.table.take() }?;
        self.table.link(ix, hash, candidate.hash);
        let deadline = self.write_narrow(ix, packet, candidate, tick);
        self.wheels.queue_as(&mut self.table, ix, (Rank::HalfOpen, deadline), tick);
        self.stats.created += 1;
        Some(ix)
    }

    /// Whether nobody else has to do with it.
    #[inline(always)]
    fn is_lone(&self, n: &Narrow, c: &Commit) -> bool {
        if self.expected() > 0 {
            return false;
        }
        let homes = &self.homes;
        !homes.is_shared()
            || c.nat.is_none() && !homes.redirects() && homes.of_narrow(n) == homes.seat().worker
    }

    /// What `commit` would try first, where that can be told in words.
    #[inline(never)]
    fn translated(&self, n: &Narrow, (hash, zone): (u64, u16), s: &NatSpec) -> Option<Candidate> {
        if s.keeps_address() || s.mode == NatMode::Random {
            return None;
        }
        let (address, seed) = s.start_narrow((n.addresses >> 32) as u32, hash);
        let reply = n.reversed();
        let (reply, port) = match s.kind {
            NatKind::Src => {
                let key = Key { address: IpKey::from(address), zone, proto: n.proto, v6: false };
                let pool = self.pools.find(&key)?;
                let port = match s.ports {
                    None => reply.ports as u16,
                    Some((lo, hi)) => {
                        self.pools.unused_at_once(pool, hi, first_port((lo, hi), seed))?
                    }
                };
                (reply.with_dst(address, port), Some((pool, port)))
            }
            NatKind::Dst => {
                let own = (reply.ports >> 16) as u16;
                let port = s.ports.map_or(own, |range| first_port(range, seed));
                (reply.with_src(address, port), None)
            }
        };
        let is_turned = reply != n.reversed();
        let flags = if s.kind == NatKind::Src { flag::SNAT } else { flag::DNAT };
        let hash = if is_turned { Some(self.hash_of_narrow(&reply, zone)) } else { None };
        Some(Candidate { reply, hash, port, flags })
    }

    #[inline(always)]
    fn write_narrow(
        &mut self,
        ix: u32,
        (n, seg, zone): (&Narrow, &Segment, u16),
        candidate: &Candidate,
        tick: u64,
    ) -> u32 {
        let is_tcp = n.proto == TCP;
        let class = if is_tcp { Class::TcpFirst } else { Class::OtherFirst } as u8;
        let policy = self.zones.policy(zone);
        let deadline = self.timeouts.fresh(Term { policy, class }, tick);
        let Some(hot) = self.table.hot_mut(ix) else { return deadline };
        hot.set_narrow(n, &candidate.reply);
        (hot.zone, hot.proto) = (zone, n.proto);
        hot.flags = flag::LIVE
            | candidate.flags
            | if candidate.hash.is_some() { flag::TURNED } else { 0 }
            | if candidate.port.is_some() { flag::POOL } else { 0 };
        (hot.class, hot.policy, hot.alg, hot.told) = (class, policy, 0, 0);
        hot.deadline = deadline;
        hot.peers = if is_tcp { tcp::open(seg) } else { [Peer::default(); 2] };
        deadline
    }

    /// Asks for the memory that opening such a connection looks at and its look-up did not.
    #[inline]
    pub fn prefetch_reply(&self, n: &Narrow, (hash, zone): (u64, u16), spec: &NatSpec) {
        if let Some(Candidate { hash: Some(hash), .. }) = self.translated(n, (hash, zone), spec) {
            self.table.prefetch_index(hash);
        }
    }
}

#[cfg(test)]
mod tests;
