//! A lane: all that a worker needs to judge packets, and what it is given from outside.
//!
//! What it does with a batch is in `run`.

use super::adapt::Adapt;
use super::asked::Asked;
use super::check::Check;
use super::commits::Commits;
use super::delta::{Delta, Recent};
use super::events::{Event, Events};
use super::first::{Choice, First};
use super::freeze::Punts;
use super::home::{Hands, Outer};
use super::keymask;
use super::owing::Owing;
use super::pieces::Pieces;
use super::program::Program;
use super::punt::PacketIns;
use super::world::Templates;
use crate::cache::entry::{Masked, NONE};
use crate::cache::recording::Recording;
use crate::cache::traversal::Traversals;
use crate::cache::{KeyMask, Megaflows, Microflows};
use crate::clock::Now;
use crate::conntrack::{Conntrack, CtConfig, CtStats, Guess, Notice, Seat};
use crate::counters::Counters;
use crate::limits::BATCH_MAX;
use crate::packet::frame::Frame;
use crate::packet::key::{PacketKey, PortIx};
use crate::packet::parse::Layers;
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

impl Slot {
    /// Whether there may be a connection that the packet is of.
    #[inline(always)]
    pub(super) fn has_guess(&self) -> bool {
        !self.ct.guess.is_none()
    }
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
    pub(super) fn forget(&mut self) {
        self.recent.forget();
        self.templates.clear();
        self.commits.clear();
    }

    /// No cache entry names a rule that was gone in this version.
    pub fn swept(&self) -> u64 {
        self.swept
    }

    /// Takes in what another worker has told. Notices must have been heard that were on their ring
    /// when a burst had been received, before the burst is judged; and those that were there when
    /// handed frames were taken from their ring, before they are.
    pub fn hear(&mut self, notice: Notice) {
        self.conntrack.hear(&notice);
    }
}
