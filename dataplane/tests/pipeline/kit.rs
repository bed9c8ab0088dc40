//! A switch without devices, three times: one lane with (tiny) caches, one with megaflows alone,
//! one without.
//!
//! Every packet goes through all lanes, and whatever can be seen of them must be equal: bytes
//! out, drops, rule counts, connections, MAC tables. So each test of what the pipeline does is
//! also a test that nobody can tell whether it came out of the cache.
//!
//! The world: bridge 0 has devices 1 to 4, the tunnel 5 and the cable 9 to bridge 1; bridge 1 has
//! the far end of the cable (its number 1) and devices 2 and 3; bridge 2 has the underlay's NIC.

#[path = "net.rs"]
mod net;
#[path = "specs.rs"]
mod specs;

pub use net::*;
use sluice_dataplane::action::Action;
use sluice_dataplane::clock::Now;
use sluice_dataplane::conntrack::frag::FragConfig;
use sluice_dataplane::conntrack::{ConnInfo, CtConfig};
use sluice_dataplane::counters::{Counters, Drop, Stat};
use sluice_dataplane::fdb::{Fdb, FdbEntry};
use sluice_dataplane::limits::FRAGMENT_LEAST;
use sluice_dataplane::packet::frame::Frame;
use sluice_dataplane::packet::key::PortIx;
use sluice_dataplane::pipeline::miss::Event;
use sluice_dataplane::pipeline::punt::Punt;
use sluice_dataplane::pipeline::{
    Continuation, Egress, First, FlowStats, Lane, LaneConfig, PacketOutError, Program, Resume,
    Rule, RuleChange, Seat,
};
use sluice_dataplane::port::RxBurst;
use sluice_dataplane::xsk::pool::FramePool;
use specs::{both, group_stats, meter_stats};
pub use specs::{bucket, group};
use std::sync::Arc;

/// Fragments that wait at `ct` in a lane.
pub const FRAGMENTS_HELD: usize = 16;

/// Collects what leaves.
#[derive(Default)]
pub struct Sink(pub Vec<(u16, Vec<u8>)>);

impl Egress for Sink {
    fn output(&mut self, port: PortIx, frame: Frame, pool: &mut FramePool) {
        self.0.push((port.0, frame.bytes().to_vec()));
        pool.free(frame);
    }
}

/// One lane with all that is its own.
pub struct Side {
    pub lane: Lane,
    pub pool: FramePool,
    pub sink: Sink,
    pub counters: Arc<Counters>,
    pub fdbs: [Arc<Fdb>; 3],
    pub events: Vec<Event>,
    master: Program,
    pub packet_ins: Vec<Punted>,
    /// Packets that wait to be resumed.
    pub paused: Vec<(Vec<u8>, Continuation)>,
    burst: RxBurst,
}

/// A packet for a controller: what goes along, its length, and the bytes kept.
pub type Punted = (Punt, usize, Vec<u8>);

/// What can be seen of a side from outside.
#[derive(Debug, PartialEq)]
pub struct Visible {
    pub sent: Vec<(u16, Vec<u8>)>,
    pub drops: Vec<(&'static str, u64)>,
    pub stats: Vec<(&'static str, u64)>,
    /// Packets and bytes by rule.
    pub rules: Vec<(u64, u64)>,
    pub conns: Vec<ConnInfo>,
    pub fdbs: [Vec<FdbEntry>; 3],
    pub events: Vec<Event>,
    /// What `fin_timeout` made of a flow's timeouts.
    pub timeouts: Vec<(u16, u16)>,
    /// Packets and bytes by group, each followed by its buckets, and by meter with its bands.
    pub groups: Vec<Vec<(u64, u64)>>,
    pub meters: Vec<Vec<(u64, u64)>>,
    pub packet_ins: Vec<Punted>,
}

/// Counts that tell of the cache itself or of time.
const OF_THE_CACHE: [Stat; 12] = [
    Stat::SelfChecks,
    Stat::SelfCheckFailures,
    Stat::Tier2Hits,
    Stat::Tier2Stale,
    Stat::Tier2Inserts,
    Stat::Tier2MasksFull,
    Stat::Tier1Hits,
    Stat::Tier1Stale,
    Stat::Tier1Inserts,
    Stat::Tier1Evictions,
    Stat::Tier3Walks,
    Stat::Tier3Uncacheable,
];

/// Few may be held, and two of the least size fit a frame.
pub fn few_fragments() -> FragConfig {
    FragConfig {
        held_max: FRAGMENTS_HELD,
        ipv4_min: FRAGMENT_LEAST,
        ipv6_min: FRAGMENT_LEAST,
        ..FragConfig::default()
    }
}

/// Random lives in one run; `SLUICE_LIVES` asks for more.
pub fn lives(usual: u32) -> u32 {
    std::env::var("SLUICE_LIVES").ok().and_then(|v| v.parse().ok()).unwrap_or(usual)
}

/// `SLUICE_LIFE=SEED` lives one life again.
pub fn again<T>(live: impl FnOnce(u64) -> T) {
    if let Some(seed) = std::env::var("SLUICE_LIFE").ok().and_then(|v| v.parse().ok()) {
        live(seed);
    }
}

impl Side {
    /// `tiers`: entries of tier 1 and tier 2.
    fn new((microflows, megaflows): (usize, usize), first: First, frames: u32) -> Self {
        let fragments = few_fragments();
        let counters = Arc::new(Counters::default());
        let conntrack = CtConfig { conns_max: 64, seed: 5, fragments, ..CtConfig::default() };
        let seat = Seat::default();
        let config =
            LaneConfig { microflows, megaflows, conntrack, self_check: 3, first, seed: 7, seat };
        Self {
            lane: Lane::new(&config, counters.clone()),
            pool: FramePool::private(frames).unwrap(),
            sink: Sink::default(),
            counters,
            fdbs: [1, 2, 3].map(|seed| Arc::new(Fdb::new(seed))),
            events: Vec::new(),
            master: Program::default(),
            packet_ins: Vec::new(),
            paused: Vec::new(),
            burst: RxBurst::new(),
        }
    }

    pub fn run(&mut self, port: u16, packets: &[Vec<u8>], now: Now, headroom: Option<u16>) {
        for bytes in packets {
            let mut frame = self.pool.alloc().expect("a frame to receive into");
            if let Some(h) = headroom {
                assert!(frame.reset(h));
            }
            assert!(frame.copy_from(bytes));
            assert!(self.burst.push(frame).is_ok());
        }
        let (ix, pool) = (PortIx(port), &mut self.pool);
        self.lane.run(&mut self.burst, ix, now, pool, &mut self.sink);
        assert_eq!(self.pool.available(), self.pool.total(), "frames are conserved");
        assert_eq!(self.pool.foreign(), 0);
    }

    fn rule_change(&self, e: &Edit) -> RuleChange {
        match e {
            Edit::Add { number, flow } => RuleChange::Put { number: *number, rule: rule(0, flow) },
            Edit::Modify { number, actions } => {
                let old = self.master.rules.get(*number).unwrap();
                let rule = Rule {
                    bridge: 0,
                    table: old.table,
                    priority: old.priority,
                    cookie: old.cookie,
                    matching: old.matching.clone(),
                    actions: actions.clone().into(),
                    stats: FlowStats::of(old),
                };
                RuleChange::Put { number: *number, rule: Arc::new(rule) }
            }
            Edit::Remove { number } => RuleChange::Remove { number: *number },
        }
    }

    fn see(&mut self, now: Now) -> Visible {
        self.lane.settle(now);
        self.events.extend(self.lane.drain_events());
        self.hear();
        let mut conns = Vec::new();
        self.lane.conntrack().dump(now, |c| conns.push(c.clone()));
        let stat = |s: &Stat| (s.name(), self.counters.stat(*s));
        Visible {
            sent: self.sink.0.clone(),
            drops: self.counters.drops_by_name().collect(),
            stats: Stat::ALL.iter().filter(|s| !OF_THE_CACHE.contains(s)).map(stat).collect(),
            rules: self.lane.program().rules.iter().map(|(_, r)| both(&r.stats)).collect(),
            timeouts: (self.lane.program().rules.iter())
                .map(|(_, r)| r.stats.timeouts_s(0, 0))
                .collect(),
            groups: self.lane.program().bridges.iter().flat_map(group_stats).collect(),
            meters: self.lane.program().bridges.iter().flat_map(meter_stats).collect(),
            packet_ins: self.packet_ins.clone(),
            conns,
            fdbs: std::array::from_fn(|i| self.fdbs[i].dump(now)),
            events: self.events.clone(),
        }
    }

    /// Takes packets for controllers.
    fn hear(&mut self) {
        let buffers = self.lane.packet_ins();
        while let Some(mut p) = buffers.take() {
            let bytes = p.bytes().to_vec();
            self.packet_ins.push((p.punt().clone(), p.total_len(), bytes.clone()));
            self.paused.extend(p.take_continuation().map(|c| (bytes, c)));
            p.clear();
            buffers.give_back(p);
        }
    }

    /// Lets the packet that has waited longest go on, `edit`ed; what leaves stays in the sink.
    pub fn resume(
        &mut self,
        now: Now,
        edit: impl FnOnce(&mut Resume),
    ) -> Option<Result<(), PacketOutError>> {
        self.hear();
        if self.paused.is_empty() {
            return None;
        }
        let (bytes, continuation) = self.paused.remove(0);
        let mut resume = Resume { bytes: bytes.into(), is_edited: false, continuation };
        edit(&mut resume);
        let done = self.lane.resume(&resume, now, &mut self.pool, &mut self.sink);
        assert_eq!(self.pool.available(), self.pool.total(), "frames are conserved");
        Some(done)
    }

    /// What left, in packets and bytes: as the counters say.
    fn counted(&self) -> (u64, u64) {
        (self.counters.stat(Stat::TxPackets), self.counters.stat(Stat::TxBytes))
    }

    /// Runs this with nothing in the sink; what left by it must be what was counted, byte for byte.
    fn count_what_leaves<T>(&mut self, go: impl FnOnce(&mut Self) -> T) -> T {
        self.sink.0.clear();
        let before = self.counted();
        let done = go(self);
        let bytes: usize = self.sink.0.iter().map(|(_, bytes)| bytes.len()).sum();
        let left = (before.0 + self.sink.0.len() as u64, before.1 + bytes as u64);
        assert_eq!(self.counted(), left, "packets and bytes counted (left), and sent (right)");
        done
    }

    /// Packets that came in, and ends that were counted: leavings and drops.
    fn account(&self) -> (u64, u64) {
        let c = &self.counters;
        let told = c.stat(Stat::PacketIns) + c.stat(Stat::PacketInsLost);
        let held = self.lane.fragments_held() as u64;
        (c.stat(Stat::RxPackets), c.stat(Stat::TxPackets) + told + held + c.drops_total())
    }
}

/// A change of one rule of bridge 0.
pub enum Edit {
    Add {
        number: u32,
        flow: Box<Flow>,
    },
    /// Other actions, the same counters.
    Modify {
        number: u32,
        actions: Vec<Action>,
    },
    Remove {
        number: u32,
    },
}

/// Both lanes.
pub struct Switch {
    pub cached: Side,
    /// With megaflows alone.
    pub wide: Side,
    /// With both, megaflows asked first, each batch of what is tracked taken for a crowd.
    pub both: Side,
    pub plain: Side,
    pub now: Now,
    version: u64,
}

impl Switch {
    pub fn new(net: &Net) -> Self {
        Self::sized(net, 4, 64)
    }

    /// `microflows` entries of tier 1, `frames` frames.
    pub fn sized(net: &Net, microflows: usize, frames: u32) -> Self {
        let mut s = Self {
            cached: Side::new((microflows, 8), First::Measured, frames),
            wide: Side::new((0, 64), First::Measured, frames),
            both: Side::new((microflows, 16), First::Crowds, frames),
            plain: Side::new((0, 0), First::Measured, frames),
            now: Now::from_secs(1000),
            version: 0,
        };
        s.program(net);
        s
    }

    pub fn sides(&mut self) -> [&mut Side; 4] {
        [&mut self.cached, &mut self.wide, &mut self.both, &mut self.plain]
    }

    pub fn program(&mut self, net: &Net) {
        self.version += 1;
        let (version, now) = (self.version, self.now);
        for side in self.sides() {
            side.master = net.program(version - 1, &side.fdbs);
            let first = side.master.publish();
            side.lane.set_program(first, now);
        }
    }

    /// Changes rules of the program that runs. Returns the new version.
    pub fn change(&mut self, changes: &[Edit]) -> u64 {
        self.version += 1;
        let now = self.now;
        for side in self.sides() {
            let changes: Vec<RuleChange> = changes.iter().map(|e| side.rule_change(e)).collect();
            side.master.change(&changes);
            let next = side.master.publish();
            side.lane.set_program(next, now);
        }
        self.version
    }

    pub fn wait(&mut self, ms: u64) {
        self.now = self.now.plus_ms(ms);
    }

    pub fn housekeep(&mut self) {
        let now = self.now;
        for side in self.sides() {
            side.lane.housekeep(now, 256);
            // A round that is not over when the next packets come.
            side.lane.begin_settling();
            side.lane.settle_some(now, 1);
        }
    }

    /// What both sides show, which must be the same.
    pub fn see(&mut self) -> Visible {
        let now = self.now;
        for side in self.sides() {
            let failed = side.counters.stat(Stat::SelfCheckFailures);
            assert_eq!(failed, 0, "self-checks that failed");
        }
        let plain = self.plain.see(now);
        assert_eq!(self.cached.see(now), plain, "with a cache (left) and without (right)");
        assert_eq!(self.wide.see(now), plain, "with megaflows (left) and without (right)");
        assert_eq!(self.both.see(now), plain, "megaflows first (left) and without (right)");
        plain
    }

    /// Sends packets in at a port; what leaves, in order.
    pub fn batch(&mut self, port: u16, packets: &[Vec<u8>]) -> Vec<(u16, Vec<u8>)> {
        self.batch_with(port, packets, None)
    }

    pub fn batch_with(
        &mut self,
        port: u16,
        packets: &[Vec<u8>],
        headroom: Option<u16>,
    ) -> Vec<(u16, Vec<u8>)> {
        self.batch_seen(port, packets, headroom, true)
    }

    /// With `look`, all that can be seen is compared, else only what leaves.
    pub fn batch_seen(
        &mut self,
        port: u16,
        packets: &[Vec<u8>],
        headroom: Option<u16>,
        look: bool,
    ) -> Vec<(u16, Vec<u8>)> {
        let now = self.now;
        for side in self.sides() {
            let (rx, ends) = side.account();
            side.count_what_leaves(|side| side.run(port, packets, now, headroom));
            let (rx_after, ends_after) = side.account();
            assert!(ends_after - ends >= rx_after - rx, "each packet leaves or is counted");
        }
        if look {
            return self.see().sent;
        }
        assert_eq!(self.cached.sink.0, self.plain.sink.0, "with a cache (left) and without");
        assert_eq!(self.wide.sink.0, self.plain.sink.0, "with megaflows (left) and without");
        assert_eq!(self.both.sink.0, self.plain.sink.0, "megaflows first (left) and without");
        self.plain.sink.0.clone()
    }

    /// One packet, twice in a row: a walk and (if it may be) a hit. Both must come to the same.
    pub fn twice(&mut self, port: u16, packet: &[u8]) -> Vec<(u16, Vec<u8>)> {
        let first = self.send(port, packet);
        assert_eq!(self.send(port, packet), first, "the second packet goes as the first");
        first
    }

    pub fn send(&mut self, port: u16, packet: &[u8]) -> Vec<(u16, Vec<u8>)> {
        self.batch(port, &[packet.to_vec()])
    }

    /// One packet; the places of the ports that it leaves by.
    pub fn ports(&mut self, port: u16, packet: &[u8]) -> Vec<u16> {
        self.send(port, packet).into_iter().map(|(p, _)| p).collect()
    }

    /// Lets the oldest paused packet of each lane go on; what leaves, in order.
    pub fn resume(&mut self) -> Option<Vec<(u16, Vec<u8>)>> {
        self.resume_edited(|_| {})
    }

    pub fn resume_edited(&mut self, edit: impl Fn(&mut Resume)) -> Option<Vec<(u16, Vec<u8>)>> {
        let now = self.now;
        let [a, b, c, plain] =
            self.sides().map(|side| side.count_what_leaves(|side| side.resume(now, &edit)));
        let same = [&a, &b, &c].into_iter().all(|one| *one == plain);
        assert!(same, "{a:?} {b:?} {c:?} {plain:?}");
        plain?.expect("it can go on");
        Some(self.see().sent)
    }

    /// Ports that the oldest paused packet leaves by when it goes on.
    pub fn resumed_ports(&mut self) -> Vec<u16> {
        let sent = self.resume().expect("a packet is paused");
        sent.into_iter().map(|(port, _)| port).collect()
    }

    /// The events that wait, which must be the same on both sides.
    pub fn take_events(&mut self) -> Vec<Event> {
        let [a, b, c, plain] = self.sides().map(|side| {
            let mut all = std::mem::take(&mut side.events);
            all.extend(side.lane.drain_events());
            all
        });
        assert_eq!(a, plain, "with a cache (left) and without (right)");
        assert_eq!(b, plain, "with megaflows (left) and without (right)");
        assert_eq!(c, plain, "megaflows first (left) and without (right)");
        plain
    }

    pub fn dropped(&self, reason: Drop) -> u64 {
        self.plain.counters.dropped(reason)
    }

    pub fn walks(&self) -> u64 {
        self.cached.counters.stat(Stat::Tier3Walks)
    }

    /// Packets that a megaflow served, in the lane that has nothing else.
    pub fn mega_hits(&self) -> u64 {
        self.wide.counters.stat(Stat::Tier2Hits)
    }

    pub fn hits(&self) -> u64 {
        self.cached.counters.stat(Stat::Tier1Hits)
    }
}
