//! Address and port translation: choosing a tuple, and what to write.
//!
//! A translated connection is one whose reply tuple is not the reverse of its original tuple;
//! nothing else records the translation. `choose` finds a reply tuple that nobody in the zone
//! answers to (RFC 5382 and RFC 4787 call this address and port-dependent mapping).
//!
//! Choice of the address: a hash over the range; of the original tuple with the secret of this
//! start (`hash`, which is the default), of the source address alone and without a secret when
//! `persistent`, so that a source has one address for all its connections, whatever they are and
//! also after a restart; or by chance. If no port is left there, the next address, up to
//! `ADDRESSES_TRIED`. Choice of the port, source NAT: without a range, the packet's own port if
//! that tuple is free, else one of its class (below 512; 600 to 1023; 1024 and up); with a range,
//! the first unused from a hashed place on. Destination NAT: the packet's own port, or one of the
//! range; if the tuple is taken, the client's port gives way. Address zero keeps the address and
//! only resolves clashes. ICMP identifiers are ports of ICMP.
//!
//! **Of several workers** (`home`) source NAT chooses among the tuples whose home is here, ports
//! and addresses alike, so no two workers choose one tuple. A range too narrow to have any is
//! chosen from as if there were no others, and the replies are redirected. So are those of
//! destination NAT, which keeps the client's port; of a range of ends it prefers one at home.
//! `persistent` keeps to its address.

use super::Conntrack;
use super::ct_state::{DNAT, SNAT};
use super::home::Homes;
use super::key::{HashKey, IpKey, Tuple};
use super::nat_ports::{Key, PoolIx, PortPools, Search, remote_of};
use super::table::Table;

/// Which side is translated.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum NatKind {
    Src,
    Dst,
}

/// How the place in a range is chosen.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum NatMode {
    /// By a hash of the connection.
    #[default]
    Hash,
    /// By chance.
    Random,
    /// One address for all connections of a source.
    Persistent,
}

/// `nat(src=...)` or `nat(dst=...)`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct NatSpec {
    pub kind: NatKind,
    /// Of another IP version than the packet: nothing is translated.
    pub v6: bool,
    /// Both zero: the address stays.
    pub addr_min: IpKey,
    pub addr_max: IpKey,
    pub ports: Option<(u16, u16)>,
    pub mode: NatMode,
}

impl NatKind {
    /// The bit of `ct_state` that packets of the original direction get by it.
    #[inline]
    pub fn state_bit(self) -> u8 {
        match self {
            Self::Src => SNAT,
            Self::Dst => DNAT,
        }
    }
}

impl NatSpec {
    /// Whether packets of this IP version are translated by it.
    #[inline]
    pub fn is_for(&self, v6: bool) -> bool {
        self.v6 == v6 || self.keeps_address()
    }

    /// Where choosing begins for a connection from `src`: how many addresses there are, the first
    /// to be tried of them, and what the port hangs on. `hash` is that of the original tuple.
    #[inline]
    pub(super) fn start(&self, src: IpKey, (hash, random): (u64, u64)) -> (u128, u128, u64) {
        let seed = match self.mode {
            NatMode::Hash | NatMode::Persistent => hash,
            NatMode::Random => random,
        };
        let count = self.addr_max.saturating_sub(self.addr_min).saturating_add(1);
        // Of 128 bits a division is a call.
        let first = match (u64::try_from(count), self.mode) {
            // Fixed for good, so a remainder it stays.
            (Ok(count), NatMode::Persistent) => u128::from(persistent(src) % count),
            (Ok(count), _) => u128::from(scaled(seed, count)),
            (Err(_), NatMode::Persistent) => u128::from(persistent(src)),
            (Err(_), _) => u128::from(seed),
        };
        (count, first, seed.rotate_left(32))
    }

    /// The first address and what the port hangs on, of IPv4: as `start` says, in words.
    #[inline(always)]
    pub(super) fn start_narrow(&self, src: u32, hash: u64) -> (u32, u64) {
        let (min, max) = (self.addr_min as u32, self.addr_max as u32);
        let count = u64::from(max.saturating_sub(min)) + 1;
        let first = match self.mode {
            NatMode::Persistent => persistent(IpKey::from(src)) % count,
            _ => scaled(hash, count),
        };
        (min.saturating_add(first as u32), hash.rotate_left(32))
    }

    /// Only resolves clashes.
    pub fn keeps_address(&self) -> bool {
        self.addr_min == 0 && self.addr_max == 0
    }
}

/// Addresses of a range that one commit tries: bounds the work when they are all exhausted.
const ADDRESSES_TRIED: u128 = 16;

/// What `persistent` hashes with, of all starts and all switches.
const PERSISTENT: u64 = 0x7065_7273_6973_7431;

fn persistent(src: IpKey) -> u64 {
    HashKey::new(PERSISTENT).of_words(src, 0)
}

/// A tuple that was chosen.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Choice {
    pub reply: Tuple,
    /// A port of the pool of the reply tuple's destination is held.
    pub pool: bool,
}

/// What choosing looks at.
pub(super) struct Chooser<'a> {
    pub table: &'a Table,
    pub pools: &'a mut PortPools,
    pub homes: &'a Homes,
    /// Of the original tuple.
    pub hash: u64,
    pub random: u64,
    pub zone: u16,
    /// Only what has its home here will do.
    pub at_home: bool,
    /// Something that was tried has.
    pub met_home: bool,
}

impl Conntrack {
    /// Chooses for a connection of a zone whose original tuple has this hash.
    #[inline]
    pub(super) fn chooser(&mut self, zone: u16, hash: u64) -> Chooser<'_> {
        Chooser {
            table: &self.table,
            pools: &mut self.pools,
            homes: &self.homes,
            hash,
            random: self.random,
            zone,
            at_home: false,
            met_home: false,
        }
    }
}

/// The ports that may stand for `port`.
fn class_of(port: u16, icmp: bool) -> (u16, u16) {
    match port {
        _ if icmp => (0, u16::MAX),
        0..512 => (1, 511),
        512..1024 => (600, 1023),
        _ => (1024, u16::MAX),
    }
}

/// The `i`th of the ports `lo..=hi`, going round.
pub(super) fn port_at((lo, hi): (u16, u16), i: u64) -> u16 {
    let span = u64::from(hi.saturating_sub(lo)) + 1;
    lo.saturating_add((i % span) as u16)
}

/// The port that comes first of a range.
#[inline(always)]
pub(super) fn first_port(range: (u16, u16), seed: u64) -> u16 {
    range.0.saturating_add(scaled(seed, span(range)) as u16)
}

/// A hash as a number below a count: its share of all there are. A division costs ten times as
/// much.
#[inline(always)]
fn scaled(hash: u64, count: u64) -> u64 {
    ((u128::from(hash) * u128::from(count)) >> 64) as u64
}

#[inline(always)]
fn span((lo, hi): (u16, u16)) -> u64 {
    u64::from(hi.saturating_sub(lo)) + 1
}

/// What is less than twice the count, within it: of 128 bits a division is a call.
fn wrapped(n: u128, count: u128) -> u128 {
    if n >= count { n - count } else { n }
}

impl Chooser<'_> {
    /// The reply tuple for a new connection; `None` if none is free.
    pub fn choose(&mut self, orig: &Tuple, spec: &NatSpec) -> Option<Choice> {
        let (count, first, seed) = spec.start(orig.src, (self.hash, self.random));
        let addresses = (0..count.min(ADDRESSES_TRIED))
            .map(|i| spec.addr_min.saturating_add(wrapped(first.saturating_add(i), count)));
        if !self.homes.is_shared() {
            return addresses.clone().find_map(|a| self.at(a, orig, spec, seed));
        }
        if spec.mode == NatMode::Persistent {
            return addresses.clone().find_map(|a| self.near_home([a], orig, spec, seed));
        }
        self.near_home(addresses, orig, spec, seed)
    }

    /// A tuple with one of these addresses that has its home here; another one if there are none.
    #[inline(never)]
    fn near_home(
        &mut self,
        addresses: impl IntoIterator<Item = IpKey> + Clone,
        orig: &Tuple,
        spec: &NatSpec,
        seed: u64,
    ) -> Option<Choice> {
        let mut all = addresses.clone().into_iter();
        self.met_home = false;
        let chosen = match spec.kind {
            NatKind::Src => {
                self.at_home = true;
                all.find_map(|a| self.at(a, orig, spec, seed))
            }
            NatKind::Dst if spec.mode == NatMode::Persistent => None,
            NatKind::Dst => {
                self.at_home = true;
                all.find_map(|a| self.end(&reply_from(a, orig, spec), spec.ports, seed))
            }
        };
        self.at_home = false;
        if chosen.is_some() || spec.kind == NatKind::Src && self.met_home {
            return chosen;
        }
        addresses.into_iter().find_map(|a| self.at(a, orig, spec, seed))
    }

    /// A tuple with this address.
    fn at(&mut self, address: IpKey, orig: &Tuple, spec: &NatSpec, seed: u64) -> Option<Choice> {
        let keep = spec.keeps_address();
        let mut reply = orig.reversed();
        match spec.kind {
            NatKind::Src => {
                if !keep {
                    reply.dst = address;
                }
                self.source(orig, reply, spec.ports, seed, !keep)
            }
            NatKind::Dst => self.destination(reply_from(address, orig, spec), spec.ports, seed),
        }
    }

    /// This very tuple, or one with another port of who opened the connection if that may be
    /// translated.
    pub fn near(&mut self, mut reply: Tuple, may_move: bool) -> Option<Choice> {
        if self.is_free_anywhere(&reply) {
            return Some(Choice { reply, pool: false });
        }
        if !may_move {
            return None;
        }
        self.at_home = self.homes.is_shared();
        let range = class_of(reply.dest_port(), reply.is_icmp());
        self.search(&mut reply, range, self.random, None)
    }

    fn is_free(&mut self, reply: &Tuple) -> bool {
        if self.at_home {
            if !self.homes.may_give(reply) {
                return false;
            }
            self.met_home = true;
        }
        self.is_free_anywhere(reply)
    }

    /// The same wherever its home is.
    fn is_free_anywhere(&self, reply: &Tuple) -> bool {
        !self.table.taken(reply, self.zone) && !self.homes.is_taken(reply)
    }

    fn source(
        &mut self,
        orig: &Tuple,
        mut reply: Tuple,
        ports: Option<(u16, u16)>,
        seed: u64,
        pooled: bool,
    ) -> Option<Choice> {
        if !orig.has_ports() {
            return self.is_free(&reply).then_some(Choice { reply, pool: false });
        }
        if self.at_home && !pooled && ports.is_none() && self.is_free_anywhere(&reply) {
            return Some(Choice { reply, pool: false });
        }
        let own = reply.dest_port();
        let range = ports.unwrap_or_else(|| class_of(own, orig.is_icmp()));
        let key = Key { address: reply.dst, zone: self.zone, proto: reply.proto, v6: reply.v6 };
        let pool = if pooled { self.pools.pool(key) } else { None };
        if ports.is_none() && self.is_free(&reply) && self.hold(pool, own) {
            return Some(Choice { reply, pool: pool.is_some() });
        }
        let start = first_port(range, seed);
        let Some(pool) = pool else { return self.search(&mut reply, range, seed, None) };
        let remote = remote_of(&reply);
        // Unused ports are of no use where all at home have been tried: not even looked at.
        let is_futile = self.at_home && self.pools.search_of(pool, remote, range) == Search::Futile;
        if !is_futile && let Some(port) = self.unused(pool, &mut reply, range, start) {
            reply.set_dest_port(port);
            return Some(Choice { reply, pool: true });
        }
        match self.pools.search_of(pool, remote, range) {
            Search::Unknown => {}
            Search::Futile => {
                self.met_home |= self.at_home;
                self.pools.count_exhausted(pool);
                return None;
            }
            Search::Freed(port) => {
                reply.set_dest_port(port);
                if self.is_free(&reply) && self.hold(Some(pool), port) {
                    self.pools.took_freed(pool, remote);
                    return Some(Choice { reply, pool: true });
                }
            }
        }
        let found = self.search(&mut reply, range, seed, Some(pool));
        // Where nothing is at home, nothing is said of what is not.
        if found.is_none() && (!self.at_home || self.met_home) {
            self.pools.search_failed(pool, remote, range);
            self.pools.count_exhausted(pool);
        }
        found
    }

    fn hold(&mut self, pool: Option<PoolIx>, port: u16) -> bool {
        pool.is_none_or(|pool| self.pools.acquire(pool, port))
    }

    /// A port without users. One that is free in the pool can still be taken by a connection
    /// of the address itself, which NAT has not placed.
    fn unused(
        &mut self,
        pool: PoolIx,
        reply: &mut Tuple,
        (lo, hi): (u16, u16),
        start: u16,
    ) -> Option<u16> {
        let mut at = start;
        let first = self.pools.next_unused(pool, lo, hi, at)?;
        let mut port = first;
        loop {
            reply.set_dest_port(port);
            if self.is_free(reply) && self.pools.acquire(pool, port) {
                return Some(port);
            }
            at = if port == hi { lo } else { port + 1 };
            port = self.pools.next_unused(pool, lo, hi, at)?;
            if port == first {
                return None;
            }
        }
    }

    /// Every port of the range in turn, for a whole tuple that is free.
    fn search(
        &mut self,
        reply: &mut Tuple,
        range: (u16, u16),
        seed: u64,
        pool: Option<PoolIx>,
    ) -> Option<Choice> {
        let first = scaled(seed, span(range));
        for i in 0..span(range) {
            let port = port_at(range, first + i);
            reply.set_dest_port(port);
            if self.is_free(reply) && self.hold(pool, port) {
                return Some(Choice { reply: *reply, pool: pool.is_some() });
            }
        }
        None
    }

    fn destination(
        &mut self,
        mut reply: Tuple,
        ports: Option<(u16, u16)>,
        seed: u64,
    ) -> Option<Choice> {
        let end = self.end(&reply, ports, seed);
        if end.is_some() || !reply.has_ports() {
            return end;
        }
        // The client's port gives way; beside the last of the range, as it was tried.
        if let Some(range) = ports.filter(|_| !reply.is_icmp()) {
            reply.sport = port_at(range, scaled(seed, span(range)) + span(range) - 1);
        }
        self.at_home = self.homes.is_shared();
        let range = class_of(reply.dest_port(), reply.is_icmp());
        let found = self.search(&mut reply, range, seed, None);
        self.at_home = false;
        found
    }

    /// The destination's own port, or one of the range.
    fn end(&mut self, reply: &Tuple, ports: Option<(u16, u16)>, seed: u64) -> Option<Choice> {
        let mut reply = *reply;
        let Some(range) = ports.filter(|_| reply.has_ports() && !reply.is_icmp()) else {
            return self.is_free(&reply).then_some(Choice { reply, pool: false });
        };
        let first = scaled(seed, span(range));
        for i in 0..span(range) {
            reply.sport = port_at(range, first + i);
            if self.is_free(&reply) {
                return Some(Choice { reply, pool: false });
            }
        }
        None
    }
}

/// Replies of an end that destination NAT leads to.
fn reply_from(address: IpKey, orig: &Tuple, spec: &NatSpec) -> Tuple {
    let reply = orig.reversed();
    if spec.keeps_address() { reply } else { Tuple { src: address, ..reply } }
}

/// What the addresses and ports of a narrow packet become: source above destination.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NarrowRewrite {
    pub addresses: u64,
    pub ports: u32,
}

/// What to write into a packet of one direction of a translated connection.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct NatRewrite {
    pub v6: bool,
    pub new_src: Option<IpKey>,
    pub new_dst: Option<IpKey>,
    pub new_sport: Option<u16>,
    pub new_dport: Option<u16>,
    /// Identifier of an ICMP query.
    pub new_icmp_id: Option<u16>,
    /// `ct_state` bits that a `ct(nat)` adds.
    pub ct_state: u8,
    /// The packet is an ICMP error: the above is for the packets of its connection that travel
    /// its way; `rewrite_icmp_error` applies it.
    pub related: bool,
}

impl NatRewrite {
    /// From what packets of a direction carry to what they shall carry.
    pub(super) fn between(from: &Tuple, to: &Tuple) -> Self {
        let icmp = from.is_icmp();
        let port = |a: u16, b: u16| (a != b && !icmp).then_some(b);
        Self {
            v6: from.v6,
            new_src: (from.src != to.src).then_some(to.src),
            new_dst: (from.dst != to.dst).then_some(to.dst),
            new_sport: port(from.sport, to.sport),
            new_dport: port(from.dport, to.dport),
            new_icmp_id: (icmp && from.sport != to.sport).then_some(to.sport),
            ct_state: 0,
            related: false,
        }
    }

    /// The tuple of a packet after the rewrite.
    pub fn apply(&self, t: &Tuple) -> Tuple {
        Tuple {
            src: self.new_src.unwrap_or(t.src),
            dst: self.new_dst.unwrap_or(t.dst),
            sport: self.new_sport.or(self.new_icmp_id).unwrap_or(t.sport),
            dport: self.new_dport.unwrap_or(t.dport),
            ..*t
        }
    }

    /// Whether it changes nothing.
    pub fn is_identity(&self) -> bool {
        let Self { v6: _, new_src, new_dst, new_sport, new_dport, new_icmp_id, .. } = self;
        (new_src, new_dst) == (&None, &None)
            && (new_sport, new_dport, new_icmp_id) == (&None, &None, &None)
    }
}
