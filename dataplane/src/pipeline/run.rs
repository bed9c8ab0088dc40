//! The stages of a batch, in order, on one screen: `Lane::run`.
//!
//! All packets of a batch came in by one port. Each stage goes over the whole batch before the
//! next begins, so that the memory a later stage needs is on its way while the earlier one still
//! works: parse and hash all (and ask for the cache lines), find all (and ask for the
//! traversals), then judge in order of arrival.
//!
//! **Order.** Packets are judged and sent in the order in which they came, hits and misses alike,
//! so no flow is ever reordered. A walk may change the cache; from the first walk of a batch on,
//! what was found before is looked up again.

use super::adapt::Adapt;
use super::arrive;
use super::check::Check;
use super::commits::Commits;
use super::delta::{Delta, Recent};
use super::events::{Event, Events};
use super::execute::{Hand, Sent};
use super::first::{Choice, First};
use super::freeze::Punts;
use super::guards::Asked;
use super::hit::Hit;
use super::home::{Hands, Outer, tell_due};
use super::keymask;
use super::miss::{Subject, Templates, World, walk};
use super::owing::Owing;
use super::pieces::Pieces;
use super::program::{Port, Program};
use super::punt::PacketIns;
use super::trace::Silent;
use super::upkeep::credit_item;
use crate::cache::entry::{Masked, NONE};
use crate::cache::traversal::{Recording, Traversals};
use crate::cache::{KeyMask, Megaflows, Microflows};
use crate::clock::Now;
use crate::conntrack::{Conntrack, CtConfig, CtStats, Guess, Notice, Seat};
use crate::counters::{Counters, Drop, Stat};
use crate::limits::BATCH_MAX;
use crate::packet::frame::Frame;
use crate::packet::key::{PacketKey, PortIx};
use crate::packet::l4sum;
use crate::packet::parse::{self, Layers};
use crate::xsk::burst::RxBurst;
use crate::xsk::pool::FramePool;
use std::sync::Arc;

/// Where packets leave to: ports, and other workers.
pub trait Egress {
    fn output(&mut self, port: PortIx, frame: Frame, pool: &mut FramePool);

    /// Gives a frame, as it came in by `in_port`, to the worker that has its connection, for
    /// [`Lane::run_at_home`]. Frames that one lane gives to one worker arrive in order. Without
    /// room it is dropped (`Drop::HandOverFull`, to be counted here).
    fn hand_over(&mut self, worker: u8, in_port: PortIx, frame: Frame, pool: &mut FramePool) {
        let _ = (worker, in_port);
        pool.free(frame);
    }

    /// Tells a worker something, for [`Lane::hear`], before any packet leaves that is output or
    /// handed over later. False: there was no room.
    fn notify(&mut self, worker: u8, notice: Notice) -> bool {
        let _ = (worker, notice);
        false
    }

    /// Notices that there is room for, at least; asked before a batch.
    fn notice_room(&mut self, worker: u8) -> usize {
        let _ = worker;
        0
    }
}

/// Sizes and switches of a lane.
#[derive(Clone, Debug)]
pub struct LaneConfig {
    /// Entries of tier 1; 0 switches it off.
    pub microflows: usize,
    /// Entries of tier 2; 0 switches it off.
    pub megaflows: usize,
    pub conntrack: CtConfig,
    /// Walk one of so many packets that hit, and compare; 0: none.
    pub self_check: u32,
    /// Which tier is asked first.
    pub first: First,
    /// Secret of the hashes: the same for all workers.
    pub seed: u64,
    pub seat: Seat,
}

/// One packet between the stages.
pub(super) struct Slot {
    pub(super) frame: Option<Frame>,
    pub(super) key: PacketKey,
    pub(super) layers: Layers,
    /// The key's first line, masked for tier 1; as it is while tier 2 is asked first.
    pub(super) masked: Masked,
    pub(super) home: u32,
    /// Place of the entry that was found, in the tier that is asked first.
    pub(super) hit: u32,
    pub(super) in_port: PortIx,
    pub(super) checksums_good: bool,
    pub(super) ct: Tracking,
    /// Of a packet that came out of a tunnel.
    pub(super) outer: Outer,
}

/// What connection tracking will most likely be asked.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Tracking {
    /// Hash of the packet's tuple in a zone, once it was made.
    pub hash: Option<(u16, u64)>,
    /// The connection that it most likely is.
    pub guess: Guess,
}

impl Tracking {
    #[inline(always)]
    pub fn hash_in(&self, zone: u16) -> Option<u64> {
        match self.hash {
            Some((z, hash)) if z == zone => Some(hash),
            _ => None,
        }
    }
}

/// All that a worker needs to judge packets: hot first, cold after.
pub struct Lane {
    pub(super) batch: Box<[Slot]>,
    pub(super) cache: Microflows,
    pub(super) mega: Megaflows,
    pub(super) adapt: Adapt,
    pub(super) first: Choice,
    pub(super) check: Check,
    pub(super) traversals: Traversals,
    pub(super) recent: Recent,
    pub(super) cache_on: bool,
    /// The program tracks connections.
    pub(super) tracks: bool,
    pub(super) seat: Seat,
    /// Packets have homes: there are several workers, and the program tracks.
    pub(super) has_homes: bool,
    pub(super) hands: Hands,
    pub(super) pieces: Pieces,
    pub(super) program: Arc<Program>,
    pub(super) counters: Arc<Counters>,
    pub(super) conntrack: Conntrack,
    pub(super) asked: Asked,
    /// The zone of the last question of tier 2.
    pub(super) zone_asked: Option<u16>,
    pub(super) commits: Commits,
    pub(super) templates: Templates,
    /// Slots of the cache that owe counts to rules.
    pub(super) owing: Owing,
    /// Megaflows that owe counts to rules.
    pub(super) mega_owing: Owing,
    pub(super) recording: Recording,
    pub(super) events: Events,
    pub(super) punts: Punts,
    pub(super) packet_ins: PacketIns,
    /// What `sample` draws from.
    pub(super) chance: u64,
    pub(super) fdb_cursor: u32,
    pub(super) sweep_cursor: u32,
    /// Version of the program when the present round of sweeping began, and of the last whole one.
    pub(super) sweep_version: u64,
    pub(super) swept: u64,
    /// Conntrack's counts that are in `counters` already.
    pub(super) ct_seen: CtStats,
}

/// `Slot::home` of a common packet while tier 2 is asked first.
pub(super) const UNHASHED: u32 = NONE - 1;

/// Tunnel headers that one program's walks may need at a time.
const TEMPLATES_MAX: usize = 4096;

/// Completes a checksum that the sender left to the device.
fn complete_checksum(frame: &mut Frame, slot: &Slot, counters: &Counters) {
    let done = l4sum::complete_partial_checksum(frame.bytes_mut(), &slot.layers, &slot.key);
    counters.add(Stat::ChecksumsCompleted, u64::from(done));
}

/// Counts packets and their bytes, once: who took them from a port.
#[inline]
fn count_received(counters: &Counters, (packets, bytes): (u64, u64), fresh: bool) {
    if fresh {
        counters.add(Stat::RxPackets, packets);
        counters.add(Stat::RxBytes, bytes);
    } else {
        counters.add(Stat::TakenOver, packets);
    }
}

/// Parses a packet that is not of the common kind, or comes by a port where tunnels end.
#[inline(never)]
fn receive_other(
    slot: &mut Slot,
    frame: &mut Frame,
    program: &Program,
    (port, fresh): (&Port, bool),
    counters: &Counters,
) -> Result<(), Drop> {
    parse::parse_limited(
        frame.bytes(),
        slot.in_port,
        program.vlan_limit,
        &mut slot.key,
        &mut slot.layers,
    )?;
    if port.partial_checksums {
        complete_checksum(frame, slot, counters);
    }
    if port.underlay {
        let unwrapped = arrive::unwrap(program, frame, slot)?;
        counters.add(Stat::TunnelPop, u64::from(unwrapped && fresh));
    }
    Ok(())
}

impl Lane {
    pub fn new(config: &LaneConfig, counters: Arc<Counters>) -> Self {
        let entries = config.microflows.max(2);
        let slot = || Slot {
            frame: None,
            key: PacketKey::default(),
            layers: Layers::default(),
            masked: Masked::default(),
            home: 0,
            hit: NONE,
            in_port: PortIx::NONE,
            checksums_good: false,
            ct: Tracking::default(),
            outer: Outer::default(),
        };
        let mega = Megaflows::new(config.megaflows, config.seed.rotate_left(17));
        let mut cache = Microflows::new(entries, config.seed);
        cache.set_mask(KeyMask::ALL);
        let mut conntrack = Conntrack::new(&config.conntrack);
        conntrack.sit(config.seat, config.seed);
        let seat = conntrack.homes().seat();
        Self {
            batch: (0..BATCH_MAX).map(|_| slot()).collect(),
            owing: Owing::new(cache.slots_max()),
            traversals: Traversals::new(entries + entries / 2 + config.megaflows + 256),
            mega_owing: Owing::new(mega.capacity()),
            mega,
            adapt: Adapt::default(),
            first: Choice::new(if config.microflows > 0 { config.first } else { First::Tier2 }),
            check: Check::new(config.self_check),
            cache,
            recent: Recent::new(),
            cache_on: config.microflows > 0,
            tracks: false,
            seat,
            has_homes: false,
            hands: Hands::new(),
            pieces: Pieces::new(config.conntrack.fragments, seat.is_shared()),
            program: Arc::new(Program::default()),
            counters,
            conntrack,
            asked: Asked::new(),
            zone_asked: None,
            commits: Commits::new(),
            templates: Templates::new(TEMPLATES_MAX),
            recording: Recording::new(),
            events: Events::default(),
            punts: Punts::default(),
            packet_ins: PacketIns::new(config.conntrack.fragments),
            chance: config.seed | 1,
            fdb_cursor: 0,
            sweep_cursor: 0,
            sweep_version: 0,
            swept: 0,
            ct_seen: CtStats::default(),
        }
    }

    pub fn conntrack(&mut self) -> &mut Conntrack {
        &mut self.conntrack
    }

    pub fn conntrack_ref(&self) -> &Conntrack {
        &self.conntrack
    }

    /// Entries of tier 1; 0 if it is off.
    pub fn microflows(&self) -> usize {
        if self.cache_on { self.cache.capacity() } else { 0 }
    }

    /// Entries of tier 2; 0 if it is off.
    pub fn megaflows(&self) -> usize {
        self.mega.capacity()
    }

    pub fn program(&self) -> &Arc<Program> {
        &self.program
    }

    pub fn counters(&self) -> &Arc<Counters> {
        &self.counters
    }

    /// Takes the hints to control that have gathered.
    pub fn drain_events(&mut self) -> std::vec::Drain<'_, Event> {
        self.events.drain()
    }

    /// Packets for controllers: control takes them, and gives their buffers back.
    pub fn packet_ins(&mut self) -> &mut PacketIns {
        &mut self.packet_ins
    }

    /// From the next packet on, this program holds. Gives the old one back, to be freed elsewhere.
    pub fn set_program(&mut self, program: Arc<Program>, now: Now) -> Arc<Program> {
        let follows = program.version == self.program.version.wrapping_add(1);
        match &program.delta {
            delta @ Delta::Rules(_) if follows => self.recent.take(delta),
            _ => {
                // Rules may have other numbers from now on.
                self.settle(now);
                self.forget();
            }
        }
        self.cache.set_mask(program.visible);
        self.tracks = keymask::is_tracking(&program.visible);
        self.has_homes = self.tracks && self.seat.is_shared();
        if !self.cache_on && self.mega.capacity() == 0 {
            self.swept = program.version;
        }
        std::mem::replace(&mut self.program, program)
    }

    /// Makes every cached traversal stale.
    fn forget(&mut self) {
        self.recent.forget();
        self.templates.clear();
        self.commits.clear();
    }

    /// No cache entry names a rule that was gone in this version.
    pub fn swept(&self) -> u64 {
        self.swept
    }

    /// Judges a batch that came in by `in_port`. Takes all frames out of `burst`. Of several
    /// workers, packets that are another one's are handed over.
    pub fn run<E: Egress>(
        &mut self,
        burst: &mut RxBurst,
        in_port: PortIx,
        now: Now,
        pool: &mut FramePool,
        egress: &mut E,
    ) {
        self.run_batches((burst, in_port), true, now, pool, egress);
    }

    /// Judges frames that another worker has handed over, all of which came in by `in_port`. What
    /// was told before they were handed over must have been heard.
    pub fn run_at_home<E: Egress>(
        &mut self,
        burst: &mut RxBurst,
        in_port: PortIx,
        now: Now,
        pool: &mut FramePool,
        egress: &mut E,
    ) {
        self.run_batches((burst, in_port), false, now, pool, egress);
    }

    /// Takes in what another worker has told. Notices must have been heard that were on their ring
    /// when a burst had been received, before the burst is judged; and those that were there when
    /// handed frames were taken from their ring, before they are.
    pub fn hear(&mut self, notice: Notice) {
        self.conntrack.hear(&notice);
    }

    /// `fresh`: from a port, and not handed over.
    fn run_batches<E: Egress>(
        &mut self,
        (burst, in_port): (&mut RxBurst, PortIx),
        fresh: bool,
        now: Now,
        pool: &mut FramePool,
        egress: &mut E,
    ) {
        if self.has_homes {
            self.see_rooms(egress);
        }
        let mut rest = burst.drain();
        loop {
            let cache = (!self.first.is_tier2()).then_some(&self.cache);
            let mut n = Self::receive(
                &mut self.batch,
                &self.program,
                &self.counters,
                cache,
                &mut rest,
                (in_port, fresh),
                pool,
            );
            if n == 0 {
                break;
            }
            if self.has_homes {
                n = self.go_home(n, (in_port, fresh), now, pool, egress);
            }
            if n > 0 {
                self.run_batch(n, now, pool, egress);
            }
        }
        if self.has_homes {
            self.end_at_home(now, pool, egress);
        }
        if self.templates.is_full() {
            self.forget();
        }
    }

    /// Judges the packets that `receive` has brought.
    #[inline(always)]
    fn run_batch<E: Egress>(&mut self, n: usize, now: Now, pool: &mut FramePool, egress: &mut E) {
        self.find(n);
        let missed = self.judge(n, now, pool, egress);
        if self.first.samples() {
            self.sample(n, missed);
        }
        if self.cache.is_crowded() {
            self.grow();
        }
        if self.tracks {
            self.conntrack.keep_up(now);
        }
    }

    /// Judges fragments that have waited for another one of this burst, and tells other workers
    /// what they need no longer know.
    #[inline(never)]
    fn end_at_home<E: Egress>(&mut self, now: Now, pool: &mut FramePool, egress: &mut E) {
        while self.pieces.are_ready()
            && let Some((frame, in_port)) = self.next_part(pool)
        {
            let cache = (!self.first.is_tier2()).then_some(&self.cache);
            let mut one = std::iter::once(frame);
            let from = (in_port, false);
            let (batch, program, counters) = (&mut self.batch, &self.program, &self.counters);
            let n = Self::receive(batch, program, counters, cache, &mut one, from, pool);
            if n > 0 {
                self.run_batch(n, now, pool, egress);
            }
        }
        self.tell(egress);
    }

    /// Gives the cache the room that the last batch's new entries ask for: two groups each.
    #[cold]
    fn grow(&mut self) {
        for _ in 0..2 * BATCH_MAX {
            if self.cache.is_crowded() {
                self.cache.grow(|at| self.owing.push(at));
            }
        }
    }

    /// Parses up to a batch of frames, out of their tunnels where they came by one, and hashes
    /// their keys for tier 1 while they are at hand, unless tier 2 is asked first.
    #[inline]
    fn receive(
        batch: &mut [Slot],
        program: &Program,
        counters: &Counters,
        cache: Option<&Microflows>,
        frames: &mut impl Iterator<Item = Frame>,
        (in_port, fresh): (PortIx, bool),
        pool: &mut FramePool,
    ) -> usize {
        let Some(port) = program.port(in_port) else {
            // Its port is here before the program that knows it.
            for frame in frames {
                count_received(counters, (1, frame.len() as u64), fresh);
                counters.count_drop(Drop::PortBlocked);
                pool.free(frame);
            }
            return 0;
        };
        let (mut n, mut bytes, mut taken, mut others) = (0, 0, 0, 0);
        while let Some(slot) = batch.get_mut(n) {
            let Some(mut frame) = frames.next() else { break };
            taken += 1;
            bytes += frame.len() as u64;
            slot.in_port = in_port;
            slot.checksums_good = port.checksums_good;
            match parse::parse_common(frame.bytes(), in_port).filter(|_| !port.underlay) {
                Some(common) => {
                    common.write(&mut slot.key, &mut slot.layers);
                    if port.partial_checksums {
                        complete_checksum(&mut frame, slot, counters);
                    }
                    if let Some(cache) = cache {
                        slot.home = cache.hash_words(common.words, &mut slot.masked);
                    } else {
                        (slot.home, slot.masked) = (UNHASHED, common.words);
                    }
                }
                None => {
                    let parsed = receive_other(slot, &mut frame, program, (port, fresh), counters);
                    if let Err(reason) = parsed {
                        counters.count_drop(reason);
                        pool.free(frame);
                        continue;
                    }
                    slot.home = NONE;
                    others += 1;
                }
            }
            slot.frame = Some(frame);
            n += 1;
        }
        if others > 0
            && let Some(cache) = cache
        {
            // Not at once: the key was written in pieces, and reading it would wait for them.
            for slot in batch.iter_mut().take(n).filter(|s| s.home == NONE) {
                slot.home = cache.hash(&slot.key, &mut slot.masked);
            }
        }
        if taken > 0 {
            count_received(counters, (taken, bytes), fresh);
            counters.add(Stat::Batches, 1);
        }
        n
    }

    /// Judges the batch. Says how many packets the tier that is asked first did not have.
    fn judge<E: Egress>(
        &mut self,
        n: usize,
        now: Now,
        pool: &mut FramePool,
        egress: &mut E,
    ) -> usize {
        if self.check.is_due(n) {
            self.self_check(n, now);
        }
        if self.first.is_tier2() {
            self.judge_as::<E, true>(n, now, pool, egress)
        } else {
            self.judge_as::<E, false>(n, now, pool, egress)
        }
    }

    /// Judges the batch, with what was found in the tier that is asked first.
    #[inline(always)]
    fn judge_as<E: Egress, const TIER2: bool>(
        &mut self,
        n: usize,
        now: Now,
        pool: &mut FramePool,
        egress: &mut E,
    ) -> usize {
        let (mut stale, mut missed, mut walks, mut hits2) = (0, 0, 0, 0);
        let mut sent = Sent::default();
        for i in 0..n {
            if TIER2 {
                if missed > 0 {
                    self.find_mega(i);
                }
                if self.serve_from_mega(i, now, &mut sent, pool, egress) {
                    hits2 += 1;
                    continue;
                }
                self.find_behind(i);
            } else if missed > 0
                && self.cache_on
                && let Some(slot) = self.batch.get_mut(i)
            {
                // The walk may have taken or made entries.
                slot.hit = self.cache.find(slot.home, &slot.key, &slot.masked).unwrap_or(NONE);
            }
            match self.serve::<E, false>(i, now, &mut sent, pool, egress) {
                Hit::Served => continue,
                Hit::Stale => stale += 1,
                Hit::None => {}
            }
            missed += 1;
            walks += u64::from(self.miss::<E, TIER2>(i, now, &mut sent, pool, egress));
        }
        self.counters.add(Stat::TxPackets, sent.packets);
        self.counters.add(Stat::TxBytes, sent.bytes);
        let hits = n as u64 - missed - hits2;
        self.counters.add(Stat::Tier1Hits, hits);
        self.counters.add(Stat::Tier1Stale, stale);
        self.counters.add(Stat::Tier2Hits, hits2);
        self.counters.add(Stat::Tier3Walks, walks);
        self.adapt.tier1_hits(hits as u32);
        missed as usize
    }

    /// Serves a packet that the tier asked first does not have: from tier 2, or by a walk. True: it
    /// walked.
    #[cold]
    #[inline(never)]
    fn miss<E: Egress, const TIER2: bool>(
        &mut self,
        i: usize,
        now: Now,
        sent: &mut Sent,
        pool: &mut FramePool,
        egress: &mut E,
    ) -> bool {
        if self.adapt.missed() {
            self.mega.rank();
            self.first.missed();
        }
        if !TIER2 && self.uses_tier2() && self.serve_mega(i, now, sent, pool, egress) {
            self.counters.add(Stat::Tier2Hits, 1);
            return false;
        }
        self.walk(i, now, sent, pool, egress);
        true
    }

    /// Walks the tables for a packet, sends it, and keeps the traversal.
    fn walk<E: Egress>(
        &mut self,
        i: usize,
        now: Now,
        sent: &mut Sent,
        pool: &mut FramePool,
        egress: &mut E,
    ) {
        let wide = self.uses_tier2();
        let Some(slot) = self.batch.get_mut(i) else { return };
        let Some(frame) = slot.frame.take() else { return };
        let mut world = World {
            program: &self.program,
            conntrack: &mut self.conntrack,
            counters: &self.counters,
            templates: &mut self.templates,
            commits: &mut self.commits,
            events: &mut self.events,
            now,
            wide,
        };
        let subject = Subject {
            key: &slot.key,
            bytes: frame.bytes(),
            layers: &slot.layers,
            in_port: slot.in_port,
            checksums_good: slot.checksums_good,
        };
        let record = (&mut self.recording, &mut self.punts);
        walk(&mut world, subject, record, &mut Silent, false);
        tell_due(&mut self.conntrack, egress);
        let len = frame.len() as u64;
        for rule in &self.recording.rules {
            if let Some(r) = self.program.rules.get(*rule) {
                r.stats.add(1, len, now.ns);
            }
        }
        for item in &self.recording.credits {
            credit_item(&self.program, item, (1, len), now);
        }
        let mut hand = Hand {
            translations: &self.recording.translations,
            punts: Some(&self.punts),
            packet_ins: &mut self.packet_ins,
            program: &self.program,
            now,
            chance: &mut self.chance,
            templates: &self.templates,
            counters: &self.counters,
            sent,
            pool,
            egress,
        };
        let steps = self.recording.steps.iter().copied();
        let count = self.recording.steps.len();
        hand.execute(steps, count, frame, &slot.key, slot.layers);
        self.punts.clear();
        self.release_fragments(now, pool, egress);
        if !self.recording.cacheable {
            self.counters.add(Stat::Tier3Uncacheable, 1);
        } else {
            self.keep(i, now);
        }
    }
}
