//! Connection tracking: which packets belong together, and what they are to each other.
//!
//! **What a flow sees** (Open vSwitch, `ovs-fields(7)`, section "Connection tracking"): after
//! `ct(zone=Z)` a packet is tracked and is one of
//! - *new*: no connection is known, or one that was committed and not answered yet;
//! - *established*: the connection was answered (TCP: any valid segment but a repeated SYN);
//! - *related*: an ICMP error about a connection; it creates and refreshes nothing;
//! - *invalid*: exactly that and nothing else: malformed, wrong checksum, out of window, an error
//!   about nothing we know, or an answer to what nobody asked.
//!
//! *Related* is also what another connection has announced (`alg`); that one is new or established
//! as well. A datagram of many fragments is one packet here (`frag`); a fragment that is not held,
//! for what it is, is invalid.
//!
//! *reply* says that it travels against the direction of the first packet. Nothing is remembered
//! until `ct(commit)`. A zone is a name space of its own.
//!
//! **Roads.** `lookup` is the whole truth: find, run the state machine, refresh. It has two halves:
//! `judge` changes nothing, `accept` leaves behind what a look-up leaves. Cached walks judge, and
//! accept if they are the walk for what came out. `commit` makes or changes the entry. Each has a
//! short road for what most packets are, held against it by tests: `pass` judges and accepts those
//! of established connections, `open` commits common first packets.
//!
//! **Ownership.** One worker owns a `Conntrack`: no lock, no atomics. All memory is reserved at
//! start; what is full refuses by name.

pub mod alg;
mod audit;
mod backends;
mod check;
mod collect;
mod commit;
mod conn;
mod dump;
mod end;
mod expire;
mod filter;
pub mod frag;
mod home;
mod icmp_error;
mod index;
mod judge;
mod key;
mod lanes;
mod lines;
mod nat;
mod nat_ports;
mod open;
mod other;
mod pass;
mod redirect;
mod settings;
mod table;
mod tcp;
mod wheel;
mod zone;

pub use alg::{Alg, AlgEdit};
pub use audit::{Audit, Findings};
pub use backends::{Backend, BackendFilter};
pub use check::l4_checksum_ok;
pub use conn::{ConnInfo, TCP_STATES};
pub use expire::{CLASSES, Class, DEFAULT_TIMEOUTS_S};
pub use filter::{ConnFilter, StateFilter, TupleFilter};
pub use home::{Homes, Notice, Seat, tuple_of_packet};
pub use icmp_error::{Malformed, rewrite_echo_id, rewrite_icmp_error};
pub use judge::{Guess, Judged};
pub use key::{CtPacket, IpKey, Kind, Narrow, Tuple};
pub use nat::{NarrowRewrite, NatKind, NatMode, NatRewrite, NatSpec};
pub use pass::{Plain, Wanted};
pub use settings::{CtReport, CtSettings, CtStats, CtZoneConfig};
pub use tcp::Segment;
pub use zone::{ZoneCounts, ZoneReport, Zones};

use crate::clock::Now;
use crate::limits::CONNS_MAX;
use alg::Algs;
use conn::{Hot, flag};
use expire::{Timeouts, is_due};
use frag::FragConfig;
use key::HashKey;
pub use nat_ports::PoolReport;
use nat_ports::PortPools;
use redirect::Entered;
use std::sync::Arc;
use table::Table;
use wheel::Wheels;

/// Bits of `ct_state`, with OpenFlow's values.
pub mod ct_state {
    pub const NEW: u8 = 0x01;
    pub const EST: u8 = 0x02;
    pub const REL: u8 = 0x04;
    pub const RPL: u8 = 0x08;
    pub const INV: u8 = 0x10;
    pub const TRK: u8 = 0x20;
    pub const SNAT: u8 = 0x40;
    pub const DNAT: u8 = 0x80;
}
use ct_state::{EST, INV, NEW, REL, TRK};

/// What a worker's conntrack is made with.
#[derive(Clone, Debug)]
pub struct CtConfig {
    pub conns_max: usize,
    /// Secret of this start.
    pub seed: u64,
    /// Seconds per `Class`.
    pub timeouts_s: [u32; CLASSES],
    /// Whether TCP sequence numbers are judged (Open vSwitch: `ct-enable-tcp-seq-chk`).
    pub tcp_seq_check: bool,
    pub fragments: FragConfig,
    /// Connections of a zone that has no limit of its own; 0: none.
    pub zone_limit: u32,
    pub zones: Vec<CtZoneConfig>,
    /// Where several workers count the connections of zones together.
    pub zone_counts: Option<Arc<ZoneCounts>>,
}

impl Default for CtConfig {
    fn default() -> Self {
        Self {
            conns_max: CONNS_MAX,
            seed: 0,
            timeouts_s: DEFAULT_TIMEOUTS_S,
            tcp_seq_check: true,
            fragments: FragConfig::default(),
            zone_limit: 0,
            zones: Vec::new(),
            zone_counts: None,
        }
    }
}

/// Why a commit was refused. The packet stays new and goes on untranslated.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum CtError {
    #[error(
        "the connection table is full of established ones: raise conns_max or shorten timeouts"
    )]
    TableFull,
    #[error("the zone has as many connections as its limit allows: raise the limit")]
    ZoneFull,
    #[error("no port or identifier of the NAT range is free: widen the range")]
    NatExhausted,
    #[error("another connection's replies already have this tuple: use nat to resolve the clash")]
    TupleTaken,
    #[error("the worker that replies come to cannot be told of the connection now")]
    Untold,
}

/// A connection, weakly: stale once the place has another use or mark or label have changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct ConnRef {
    pub ix: u32,
    pub gen_no: u32,
}

/// What a look-up found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CtResult {
    /// `ct_state` bits, without `SNAT` and `DNAT`: those come with `nat_rewrite`, because only a
    /// `ct(nat)` sets them.
    pub state: u8,
    pub conn: Option<ConnRef>,
    pub reply: bool,
    pub mark: u32,
    pub label: u128,
    /// Tuple of the connection's original direction; of the packet if there is none.
    pub orig: Tuple,
}

/// `ct(commit, ...)`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Commit {
    pub force: bool,
    pub nat: Option<NatSpec>,
    /// Translated as the connection says, or as its parent was.
    pub follows_nat: bool,
    pub alg: Option<Alg>,
    /// Value and mask.
    pub mark: Option<(u32, u32)>,
    /// Value and mask.
    pub label: Option<(u128, u128)>,
}

impl Commit {
    /// Of a connection that is there it changes nothing.
    #[inline]
    pub fn is_plain(&self) -> bool {
        let says = self.mark.is_some() || self.label.is_some();
        !self.force && self.nat.is_none() && self.alg.is_none() && !says
    }

    /// What `exec` makes of mark and label.
    #[inline]
    pub fn exec(&self, (mut mark, mut label): (u32, u128)) -> (u32, u128) {
        if let Some((value, mask)) = self.mark {
            mark = mark & !mask | value & mask;
        }
        if let Some((value, mask)) = self.label {
            label = label & !mask | value & mask;
        }
        (mark, label)
    }
}

/// One worker's connections.
pub struct Conntrack {
    table: Table,
    wheels: Wheels,
    timeouts: Timeouts,
    zones: Zones,
    pools: PortPools,
    hash: HashKey,
    random: u64,
    tcp_seq_check: bool,
    fragments: FragConfig,
    algs: Algs,
    homes: Homes,
    stats: CtStats,
    /// Connections created up to the last `age`, and when that was.
    aged: u64,
    aged_at: u64,
}

impl Conntrack {
    pub fn new(cfg: &CtConfig) -> Self {
        let hash = HashKey::new(cfg.seed);
        let mut timeouts = Timeouts::new(&cfg.timeouts_s);
        let zones = settings::zones(cfg, &mut timeouts);
        Self {
            table: Table::new(cfg.conns_max, hash),
            wheels: Wheels::new(),
            timeouts,
            zones,
            pools: PortPools::new(),
            hash,
            random: hash.of_words(0, 1) | 1,
            tcp_seq_check: cfg.tcp_seq_check,
            fragments: cfg.fragments,
            algs: Algs::default(),
            homes: Homes::new(Seat::default(), 0, 0),
            stats: CtStats::default(),
            aged: 0,
            aged_at: 0,
        }
    }

    /// Takes a seat among workers that share this secret.
    pub fn sit(&mut self, seat: Seat, seed: u64) {
        self.homes = Homes::new(seat, seed, self.table.capacity());
    }

    pub fn homes(&self) -> &Homes {
        &self.homes
    }

    pub fn homes_mut(&mut self) -> &mut Homes {
        &mut self.homes
    }

    /// Takes in what another worker has told.
    pub fn hear(&mut self, notice: &Notice) {
        let is_taken = match notice {
            Notice::Redirect { tuple, zone, .. } => {
                let found = self.table.find(self.table.hash(tuple, *zone), tuple, *zone);
                // What has died since the last collection is taken for living.
                found.is_some_and(|(ix, _)| !is_due(self.table.hot(ix).deadline, self.aged_at))
            }
            Notice::Withdraw { .. } => false,
        };
        match self.homes.hear(notice, is_taken) {
            Entered::Counts => {}
            Entered::Late => self.stats.redirects_late += 1,
            Entered::Lost => self.stats.redirects_lost += 1,
        }
    }

    /// Connections, those included that are dead and not yet collected.
    pub fn len(&self) -> usize {
        self.table.len()
    }

    pub fn is_empty(&self) -> bool {
        self.table.len() == 0
    }

    pub fn capacity(&self) -> usize {
        self.table.capacity()
    }

    /// What is a fragment that can be held.
    pub fn fragments(&self) -> &FragConfig {
        &self.fragments
    }

    pub fn stats(&self) -> CtStats {
        self.stats
    }

    pub fn zones(&self) -> &Zones {
        &self.zones
    }

    pub fn zones_mut(&mut self) -> &mut Zones {
        &mut self.zones
    }

    /// Ports and identifiers that NAT has given out.
    pub fn nat_ports_used(&self) -> u64 {
        self.pools.users()
    }

    /// Ports, or identifiers, of one translated address that are in use.
    pub fn nat_ports_used_of(&self, zone: u16, proto: u8, v6: bool, address: IpKey) -> usize {
        self.pools.ports_used(&nat_ports::Key { address, zone, proto, v6 })
    }

    /// First stage of looking a batch up: the place of the index.
    #[inline]
    pub fn prefetch_index(&self, hash: u64) {
        self.table.prefetch_index(hash);
    }

    /// Second stage: the connection that the index most likely means, and its direction.
    #[inline]
    pub fn prefetch_guess(&self, hash: u64) -> Guess {
        match self.table.guess(hash) {
            Some((ix, dir)) => {
                self.table.prefetch(ix);
                Guess::new(ix, dir)
            }
            None => Guess::NONE,
        }
    }

    /// The same where the connection is guessed without the index.
    #[inline(always)]
    pub fn prefetch(&self, guess: Guess) {
        if let Some((ix, _)) = guess.place() {
            self.table.prefetch(ix);
        }
    }

    /// Finds the packet's connection, runs its state machine and refreshes its timer.
    pub fn lookup(&mut self, p: &CtPacket, now: Now) -> CtResult {
        let hash = self.table.hash(&p.tuple, p.zone);
        self.lookup_hashed(p, hash, now)
    }

    /// Last stage of looking a batch up.
    pub fn lookup_hashed(&mut self, p: &CtPacket, hash: u64, now: Now) -> CtResult {
        let judged = self.judge(p, hash, now);
        self.accept(&judged, now);
        self.result(&judged, p)
    }

    /// A connection past its deadline is gone, whether or not the wheel has come to it.
    #[inline]
    fn find_live(&mut self, hash: u64, t: &Tuple, zone: u16, tick: u64) -> Option<(u32, usize)> {
        let found = self.table.find(hash, t, zone)?;
        if is_due(self.table.hot(found.0).deadline, tick) {
            self.remove(found.0);
            self.stats.expired += 1;
            return None;
        }
        Some(found)
    }

    fn refresh(&mut self, ix: u32, class: Class, tick: u64) {
        let class = class as u8;
        let Some(hot) = self.table.hot_mut(ix) else { return };
        if hot.class == class {
            hot.deadline = self.timeouts.refreshed(hot.term(), hot.deadline, tick);
            return;
        }
        hot.class = class;
        hot.deadline = self.timeouts.fresh(hot.term(), tick);
        self.wheels.requeue(&mut self.table, ix, tick);
    }

    fn invalid(&mut self, p: &CtPacket) -> CtResult {
        self.stats.invalid += 1;
        result_without(p, TRK | INV)
    }

    fn mark_and_label(&self, ix: u32) -> (u32, u128) {
        if !self.table.hot(ix).has(flag::MARKED) {
            return (0, 0);
        }
        let cold = self.table.cold(ix);
        (cold.mark, cold.label())
    }

    fn found(&self, p: &CtPacket, ix: u32, reply: bool, state: u8) -> CtResult {
        let hot = self.table.hot(ix);
        let (mark, label) = self.mark_and_label(ix);
        let is_child = hot.alg & alg::bit::CHILD != 0;
        let is_own = p.kind == Kind::Normal && !reply && !is_child;
        let is_met = is_child && state & (NEW | EST) != 0;
        CtResult {
            state: if is_met { state | REL } else { state },
            conn: Some(ConnRef { ix, gen_no: hot.gen_no }),
            reply,
            mark,
            label,
            orig: if is_own { p.tuple } else { self.shown_tuple(ix) },
        }
    }

    /// The live connection that a handle means.
    #[inline]
    fn live(&self, c: ConnRef) -> Option<&Hot> {
        if c.ix as usize >= self.table.capacity() {
            return None;
        }
        let hot = self.table.hot(c.ix);
        (hot.has(flag::LIVE) && hot.gen_no == c.gen_no).then_some(hot)
    }

    /// What to write into this packet so that it continues on the other side of the
    /// connection's translation; `None` if the connection has none. The caller applies it when
    /// the flow says `nat`, and then adds `ct_state` to the packet's.
    pub fn nat_rewrite(&self, r: &CtResult) -> Option<NatRewrite> {
        let c = r.conn?;
        self.live(c)?;
        self.rewrite(c.ix, r.reply, r.state)
    }

    fn rewrite(&self, ix: u32, is_reply: bool, state: u8) -> Option<NatRewrite> {
        let ct_state = self.nat_bits(ix, is_reply);
        if ct_state == 0 {
            return None;
        }
        let (orig, reply) = (self.table.tuple(ix, 0), self.table.tuple(ix, 1));
        let (from, to) = if is_reply { (reply, orig.reversed()) } else { (orig, reply.reversed()) };
        let related = state & (NEW | EST) == 0;
        Some(NatRewrite { ct_state, related, ..NatRewrite::between(&from, &to) })
    }

    /// The bits of `ct_state` that tell of the connection's translation, seen from one side.
    #[inline]
    fn nat_bits(&self, ix: u32, is_reply: bool) -> u8 {
        self.table.hot(ix).nat_bits(is_reply)
    }
}

fn result_without(p: &CtPacket, state: u8) -> CtResult {
    CtResult { state, conn: None, reply: false, mark: 0, label: 0, orig: p.tuple }
}

#[cfg(test)]
mod reference;
#[cfg(test)]
mod tests;
#[cfg(test)]
mod tests_backends;
#[cfg(test)]
mod tests_dump;
#[cfg(test)]
mod tests_full;
#[cfg(test)]
mod tests_nat;
#[cfg(test)]
mod tests_sequences;
#[cfg(test)]
mod tests_translate;
