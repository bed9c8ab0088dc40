//! A switch without devices, three times: one lane with (tiny) caches, one with megaflows alone,
//! one without.
//!
//! Every packet goes through all lanes, and whatever can be seen of them must be equal: bytes
//! out, drops, rule counts, connections, MAC tables. So each test of what the pipeline does is
//! also a test that nobody can tell whether it came out of the cache.
//!
//! The world: bridge 0 has devices 1 to 4, the tunnel 5 and the cable 9 to bridge 1; bridge 1 has
//! the far end of the cable (its number 1) and devices 2 and 3; bridge 2 has the underlay's NIC.

#[path = "specs.rs"]
mod specs;

use sluice_dataplane::action::meter::MeterUnit;
use sluice_dataplane::action::{Action, Ct, Nat, Set, Zone};
use sluice_dataplane::classify::RuleMatch;
use sluice_dataplane::clock::Now;
use sluice_dataplane::conntrack::{ConnInfo, CtConfig, NatKind, NatMode, NatSpec};
use sluice_dataplane::counters::{Counters, Drop, Stat};
use sluice_dataplane::fdb::{Fdb, FdbEntry};
use sluice_dataplane::packet::field::{Field, Prereq};
use sluice_dataplane::packet::frame::Frame;
use sluice_dataplane::packet::key::{FlowKey, PortIx};
use sluice_dataplane::packet::parse::VLAN_LIMIT_DEFAULT;
use sluice_dataplane::pipeline::miss::Event;
use sluice_dataplane::pipeline::program::{BridgeParts, ProgramParts};
use sluice_dataplane::pipeline::punt::Punt;
use sluice_dataplane::pipeline::underlay::{Device, Route};
use sluice_dataplane::pipeline::{
    Egress, Lane, LaneConfig, Port, PortRole, Program, Rule, RuleChange, RuleStats, Underlay,
};
use sluice_dataplane::port::RxBurst;
use sluice_dataplane::tunnel::{Inherit, TlvMap, TlvMapping};
use sluice_dataplane::tunnel::{TunnelConfig, TunnelKey, TunnelRemote};
use sluice_dataplane::xsk::pool::FramePool;
pub use specs::{GroupSpec, MeterSpec, bucket, group};
use specs::{both, group_stats, make_meter, meter_stats};
use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::Arc;

/// Places of the ports that tests name.
pub const TUNNEL: u16 = 5;
pub const CABLE: u16 = 9;
pub const FAR_END: u16 = 10;
pub const FAR_2: u16 = 11;
pub const FAR_3: u16 = 12;
pub const NIC: u16 = 13;

pub const NIC_MAC: [u8; 6] = [2, 0, 0, 0, 9, 1];
pub const PEER_MAC: [u8; 6] = [2, 0, 0, 0, 9, 2];
pub const LOCAL_IP: [u8; 4] = [10, 9, 0, 1];
pub const PEER_IP: [u8; 4] = [10, 9, 0, 2];
pub const VNI: u32 = 77;

/// A flow in the making.
#[derive(Clone, Debug)]
pub struct Flow {
    pub table: u8,
    pub priority: u16,
    pub cookie: u64,
    pub value: FlowKey,
    pub mask: FlowKey,
    pub actions: Vec<Action>,
}

pub fn flow(table: u8, priority: u16) -> Flow {
    let (value, mask) = (FlowKey::ZERO, FlowKey::ZERO);
    Flow { table, priority, cookie: 0, value, mask, actions: Vec::new() }
}

impl Flow {
    /// Whether both have the same table, priority and match.
    pub fn is_the_place_of(&self, other: &Flow) -> bool {
        let of = |f: &Flow| (f.table, f.priority, f.value.and(&f.mask), f.mask);
        of(self) == of(other)
    }

    pub fn is(self, f: Field, v: u128) -> Self {
        self.masked(f, v, u128::MAX)
    }

    pub fn masked(mut self, f: Field, v: u128, m: u128) -> Self {
        f.info().set(&mut self.value, v & m);
        f.info().set(&mut self.mask, m);
        self
    }

    /// On a tunnel option, as control compiles it.
    pub fn option(mut self, n: u8, v: u128, m: u128) -> Self {
        let (field, there) = (tlv().field(n).unwrap(), tlv().present(n).unwrap());
        for key in [&mut self.value, &mut self.mask] {
            there.set(key, 1);
        }
        field.set(&mut self.value, v & m);
        field.set(&mut self.mask, m);
        self
    }

    pub fn does(mut self, actions: impl IntoIterator<Item = Action>) -> Self {
        self.actions.extend(actions);
        self
    }
}

/// A catch-all of table 0.
pub fn always(actions: impl IntoIterator<Item = Action>) -> Flow {
    flow(0, 1).does(actions)
}

pub fn out(number: u32) -> Action {
    Action::Output(number)
}

pub fn set(f: Field, value: u128) -> Action {
    set_masked(f, value, u128::MAX)
}

pub fn set_masked(f: Field, value: u128, mask: u128) -> Action {
    let info = f.info();
    Action::Set(Set { dst: info.whole(), prereq: info.prereq, value, mask })
}

pub fn mv(src: Field, dst: Field) -> Action {
    let (s, d) = (src.info(), dst.info());
    let bits = s.bits.min(d.bits) - 1;
    Action::Move {
        src: s.range(0, bits).unwrap(),
        src_prereq: s.prereq,
        dst: d.range(0, bits).unwrap(),
        dst_prereq: d.prereq,
    }
}

/// Three options; the third lies beyond the tunnel's own line of the key.
pub fn tlv() -> TlvMap {
    let line = |index, class, option_type, len| TlvMapping { index, class, option_type, len };
    let lines = [line(0, 0x102, 0x80, 4), line(1, 0x102, 1, 8), line(7, 0xffff, 2, 16)];
    TlvMap::new(&lines).unwrap()
}

/// Writes a tunnel option, as control compiles it.
pub fn set_option(n: u8, value: u128) -> [Action; 2] {
    let to = |dst, value| Action::Set(Set { dst, prereq: Prereq::None, value, mask: u128::MAX });
    [to(tlv().present(n).unwrap(), 1), to(tlv().field(n).unwrap(), value)]
}

pub fn push_mpls() -> Action {
    Action::PushMpls(0x8847)
}

pub fn resubmit(table: u8) -> Action {
    Action::Resubmit { in_port: None, table: Some(table), with_ct: false }
}

/// `ct(...)`, built by its parts.
#[derive(Clone)]
pub struct CtSpec(Ct);

pub fn ct(zone: u16) -> CtSpec {
    let zone = Zone::Number(zone);
    CtSpec(Ct { commit: false, force: false, zone, table: None, nat: None, exec: Vec::new() })
}

impl CtSpec {
    pub fn commit(mut self) -> Self {
        self.0.commit = true;
        self
    }

    pub fn force(mut self) -> Self {
        self.0.force = true;
        self.commit()
    }

    pub fn table(mut self, t: u8) -> Self {
        self.0.table = Some(t);
        self
    }

    pub fn nat(mut self) -> Self {
        self.0.nat = Some(Nat::Existing);
        self
    }

    pub fn nat_to(mut self, kind: NatKind, addr: [u8; 4], ports: Option<(u16, u16)>) -> Self {
        let addr = u32::from_be_bytes(addr).into();
        let mode = NatMode::Hash;
        let spec = NatSpec { kind, v6: false, addr_min: addr, addr_max: addr, ports, mode };
        self.0.nat = Some(Nat::New(spec));
        self
    }

    pub fn exec(mut self, actions: impl IntoIterator<Item = Action>) -> Self {
        self.0.exec.extend(actions);
        self
    }

    pub fn go(self) -> Action {
        Action::Ct(Box::new(self.0))
    }
}

/// What both lanes' programs are made from.
#[derive(Clone)]
pub struct Net {
    pub ports: Vec<Option<Port>>,
    pub flows: [Vec<Flow>; 3],
    pub underlay: Underlay,
    pub vlan_limit: u8,
    /// Of all bridges.
    pub groups: Vec<GroupSpec>,
    pub meters: Vec<MeterSpec>,
    /// Of bridge 0.
    pub tlv: Arc<TlvMap>,
}

pub fn port(bridge: u16, number: u32, role: PortRole) -> Port {
    Port {
        name: format!("br{bridge}-{number}"),
        bridge,
        number,
        role,
        up: true,
        flood: true,
        mtu: 1500,
        underlay: false,
        partial_checksums: false,
        checksums_good: false,
    }
}

pub fn tunnel_config() -> TunnelConfig {
    TunnelConfig {
        remote: TunnelRemote::Address(PEER_IP.into()),
        local: None,
        key: TunnelKey::Number(VNI),
        dst_port: 6081,
        csum: false,
        tos: Inherit::Fixed(0),
        ttl: Inherit::Fixed(64),
        df: true,
    }
}

impl Default for Net {
    fn default() -> Self {
        let mut ports = vec![None; 14];
        for (place, n) in ports.iter_mut().zip(0..).skip(1).take(4) {
            *place = Some(port(0, n, PortRole::Device));
        }
        ports[usize::from(TUNNEL)] = Some(port(0, 5, PortRole::Tunnel(tunnel_config().into())));
        ports[usize::from(CABLE)] = Some(port(0, 9, PortRole::Patch { peer: PortIx(FAR_END) }));
        ports[usize::from(FAR_END)] = Some(port(1, 1, PortRole::Patch { peer: PortIx(CABLE) }));
        ports[usize::from(FAR_2)] = Some(port(1, 2, PortRole::Device));
        ports[usize::from(FAR_3)] = Some(port(1, 3, PortRole::Device));
        let nic = Port { underlay: true, ..port(2, 1, PortRole::Device) };
        ports[usize::from(NIC)] = Some(nic);
        let mut underlay = Underlay {
            routes: vec![Route {
                prefix: [10, 9, 0, 0].into(),
                prefix_len: 24,
                via: None,
                ifindex: 2,
                source: None,
                metric: 0,
            }],
            neighbours: HashMap::from([((IpAddr::from(PEER_IP), 2), PEER_MAC)]),
            devices: vec![Device {
                ifindex: 2,
                port: Some(PortIx(NIC)),
                mac: NIC_MAC,
                mtu: 1500,
                addresses: vec![LOCAL_IP.into()],
            }],
        };
        underlay.sort();
        let (flows, vlan_limit) = (Default::default(), VLAN_LIMIT_DEFAULT);
        let (groups, meters) = (Vec::new(), Vec::new());
        let tlv = Arc::new(tlv());
        Self { ports, flows, underlay, vlan_limit, groups, meters, tlv }
    }
}

impl Net {
    pub fn of(flows: impl IntoIterator<Item = Flow>) -> Self {
        Self::default().flows(0, flows)
    }

    /// Adds flows; of two for the same place the first stays.
    pub fn flows(mut self, bridge: usize, flows: impl IntoIterator<Item = Flow>) -> Self {
        for f in flows {
            if !self.flows[bridge].iter().any(|have| have.is_the_place_of(&f)) {
                self.flows[bridge].push(f);
            }
        }
        self
    }

    pub fn port(&mut self, ix: u16) -> &mut Port {
        self.ports[usize::from(ix)].as_mut().unwrap()
    }

    pub fn group(mut self, g: GroupSpec) -> Self {
        self.groups.push(g);
        self
    }

    pub fn meter(mut self, id: u32, unit: MeterUnit, bands: &[(u32, u32)]) -> Self {
        self.meters.push((id, unit, bands.to_vec()));
        self
    }

    /// With another tunnel port.
    pub fn tunnel(mut self, config: TunnelConfig) -> Self {
        self.port(TUNNEL).role = PortRole::Tunnel(config.into());
        self
    }

    pub fn program(&self, version: u64, fdbs: &[Arc<Fdb>; 3]) -> Program {
        let bridge = |b: usize| BridgeParts {
            name: format!("br{b}"),
            rules: self.flows[b].iter().map(|f| rule(b as u16, f)).collect(),
            ports: self
                .ports
                .iter()
                .enumerate()
                .filter_map(|(ix, p)| p.as_ref().map(|p| (ix, p)))
                .filter(|(_, p)| usize::from(p.bridge) == b)
                .map(|(ix, p)| (p.number, PortIx(ix as u16)))
                .collect(),
            fdb: fdbs[b].clone(),
            groups: Arc::new(self.groups.iter().map(|g| (g.id, g.make())).collect()),
            meters: Arc::new(self.meters.iter().map(|m| (m.0, make_meter(m))).collect()),
            tlv: if b == 0 { self.tlv.clone() } else { Arc::default() },
        };
        Program::compile(ProgramParts {
            version,
            bridges: (0..3).map(bridge).collect(),
            ports: self.ports.clone(),
            underlay: Arc::new(self.underlay.clone()),
            vlan_limit: self.vlan_limit,
        })
    }
}

pub fn rule(bridge: u16, f: &Flow) -> Arc<Rule> {
    let value = f.value.and(&f.mask);
    Arc::new(Rule {
        bridge,
        table: f.table,
        cookie: f.cookie,
        matching: (&RuleMatch { value, mask: f.mask, priority: f.priority, clauses: None }).into(),
        actions: f.actions.clone().into(),
        stats: Arc::new(RuleStats::default()),
        text: format!("table={}", f.table).into(),
    })
}

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

impl Side {
    fn new(microflows: usize, megaflows: usize, frames: u32, conns_max: usize) -> Self {
        let counters = Arc::new(Counters::default());
        let conntrack = CtConfig { conns_max, seed: 5, ..CtConfig::default() };
        let config = LaneConfig { microflows, megaflows, conntrack, self_check: 3, seed: 7 };
        Self {
            lane: Lane::new(&config, counters.clone()),
            pool: FramePool::private(frames).unwrap(),
            sink: Sink::default(),
            counters,
            fdbs: [1, 2, 3].map(|seed| Arc::new(Fdb::new(seed))),
            events: Vec::new(),
            master: Program::default(),
            packet_ins: Vec::new(),
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
                    cookie: old.cookie,
                    matching: old.matching.clone(),
                    actions: actions.clone().into(),
                    stats: old.stats.clone(),
                    text: old.text.clone(),
                };
                RuleChange::Put { number: *number, rule: Arc::new(rule) }
            }
            Edit::Remove { number } => RuleChange::Remove { number: *number },
        }
    }

    fn see(&mut self, now: Now) -> Visible {
        self.lane.settle(now);
        self.events.extend(self.lane.drain_events());
        let buffers = self.lane.packet_ins();
        while let Some(mut p) = buffers.take() {
            self.packet_ins.push((p.punt().clone(), p.total_len(), p.bytes().to_vec()));
            p.clear();
            buffers.give_back(p);
        }
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

    /// Packets that came in, and ends that were counted: leavings and drops.
    fn account(&self) -> (u64, u64) {
        let c = &self.counters;
        let told = c.stat(Stat::PacketIns) + c.stat(Stat::PacketInsLost);
        (c.stat(Stat::RxPackets), c.stat(Stat::TxPackets) + told + c.drops_total())
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
            cached: Side::new(microflows, 8, frames, 64),
            wide: Side::new(0, 64, frames, 64),
            plain: Side::new(0, 0, frames, 64),
            now: Now::from_secs(1000),
            version: 0,
        };
        s.program(net);
        s
    }

    pub fn sides(&mut self) -> [&mut Side; 3] {
        [&mut self.cached, &mut self.wide, &mut self.plain]
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
        }
    }

    /// What both sides show, which must be the same.
    pub fn see(&mut self) -> Visible {
        let now = self.now;
        let failed = self.cached.counters.stat(Stat::SelfCheckFailures);
        assert_eq!(failed, 0, "self-checks that failed");
        let (a, b, c) = (self.cached.see(now), self.wide.see(now), self.plain.see(now));
        assert_eq!(a, c, "with a cache (left) and without (right)");
        assert_eq!(b, c, "with megaflows (left) and without (right)");
        a
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
            side.sink.0.clear();
            let (rx, ends) = side.account();
            side.run(port, packets, now, headroom);
            let (rx_after, ends_after) = side.account();
            assert!(ends_after - ends >= rx_after - rx, "each packet leaves or is counted");
        }
        if look {
            return self.see().sent;
        }
        assert_eq!(self.cached.sink.0, self.plain.sink.0, "with a cache (left) and without");
        assert_eq!(self.wide.sink.0, self.plain.sink.0, "with megaflows (left) and without");
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

    /// The events that wait, which must be the same on both sides.
    pub fn take_events(&mut self) -> Vec<Event> {
        let [a, b, c] = self.sides().map(|side| {
            let mut all = std::mem::take(&mut side.events);
            all.extend(side.lane.drain_events());
            all
        });
        assert_eq!(a, c, "with a cache (left) and without (right)");
        assert_eq!(b, c, "with megaflows (left) and without (right)");
        a
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
