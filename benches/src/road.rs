//! A lane and its packets, for the benches of the whole road: what `sluice replay --bench` does.

use sluice_dataplane::action::{Action, Ct, Set, Zone};
use sluice_dataplane::classify::RuleMatch;
use sluice_dataplane::clock::Now;
use sluice_dataplane::conntrack::CtConfig;
use sluice_dataplane::counters::Counters;
use sluice_dataplane::fdb::Fdb;
use sluice_dataplane::limits::BATCH_MAX;
use sluice_dataplane::packet::build::PacketBuilder;
use sluice_dataplane::packet::field::Field;
use sluice_dataplane::packet::frame::Frame;
use sluice_dataplane::packet::key::{FlowKey, PortIx};
use sluice_dataplane::packet::parse::VLAN_LIMIT_DEFAULT;
use sluice_dataplane::pipeline::program::{BridgeParts, ProgramParts};
use sluice_dataplane::pipeline::underlay::{Device, Route};
use sluice_dataplane::pipeline::{
    Egress, First, FlowStats, Lane, LaneConfig, Port, PortRole, Program, Rule, Seat, Underlay,
};
use sluice_dataplane::port::RxBurst;
use sluice_dataplane::tunnel::{Inherit, TunnelConfig, TunnelKey, TunnelRemote};
use sluice_dataplane::xsk::pool::FramePool;
use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::Arc;

/// Counts what leaves and lets it go.
#[derive(Default)]
pub struct Sink {
    pub bytes: u64,
}

impl Egress for Sink {
    #[inline]
    fn output(&mut self, _: PortIx, frame: Frame, pool: &mut FramePool) {
        self.bytes += frame.len() as u64;
        pool.free(frame);
    }
}

/// A rule with exact fields.
pub fn rule(table: u8, priority: u16, fields: &[(Field, u128)], actions: Vec<Action>) -> Arc<Rule> {
    let (mut value, mut mask) = (FlowKey::ZERO, FlowKey::ZERO);
    for (f, v) in fields {
        f.info().set(&mut value, *v);
        f.info().set(&mut mask, u128::MAX);
    }
    Arc::new(Rule {
        bridge: 0,
        table,
        priority,
        cookie: 0,
        matching: (&RuleMatch { value, mask, priority, clauses: None }).into(),
        actions: actions.into(),
        stats: FlowStats::default(),
    })
}

/// `set_field` of a whole field.
pub fn set(f: Field, value: u128) -> Action {
    let info = f.info();
    Action::Set(Set { dst: info.whole(), prereq: info.prereq, value, mask: u128::MAX })
}

/// `ct(zone=1)`, to be filled in.
pub fn ct() -> Ct {
    let zone = Zone::Number(1);
    Ct { commit: false, force: false, zone, table: None, nat: None, exec: [].into(), alg: None }
}

fn port(number: u32, role: PortRole) -> Option<Port> {
    Some(Port::new(format!("p{number}"), (0, number), role))
}

/// One bridge with devices 1 to 3 and the tunnel 4 that leaves by 3.
pub fn program(rules: Vec<Arc<Rule>>) -> Program {
    let (local, remote) = (IpAddr::from([10, 9, 0, 1]), IpAddr::from([10, 9, 0, 2]));
    let tunnel = TunnelConfig {
        remote: TunnelRemote::Address(remote),
        local: None,
        key: TunnelKey::Number(77),
        dst_port: 6081,
        csum: false,
        tos: Inherit::Fixed(0),
        ttl: Inherit::Fixed(64),
        df: true,
    };
    let underlay = Underlay {
        routes: vec![Route {
            prefix: [10, 9, 0, 0].into(),
            prefix_len: 24,
            via: None,
            ifindex: 2,
            source: None,
            metric: 0,
        }],
        neighbours: HashMap::from([((remote, 2), [2, 0, 0, 0, 9, 2])]),
        devices: vec![Device {
            ifindex: 2,
            port: Some(PortIx(3)),
            mac: [2, 0, 0, 0, 9, 1],
            mtu: 1500,
            addresses: vec![local],
        }],
    };
    let devices = (1..=3).map(|n| port(n, PortRole::Device));
    let ports = std::iter::once(None)
        .chain(devices)
        .chain([port(4, PortRole::Tunnel(Arc::new(tunnel)))])
        .collect();
    let numbers = (1..=4).map(|n| (u32::from(n), PortIx(n))).collect();
    let fdb = Arc::new(Fdb::new(1));
    let bridge = BridgeParts {
        name: "br0".into(),
        rules,
        ports: numbers,
        fdb,
        groups: Arc::default(),
        meters: Arc::default(),
        tlv: Arc::default(),
    };
    Program::compile(ProgramParts {
        version: 1,
        bridges: vec![bridge],
        ports,
        underlay: Arc::new(underlay),
        vlan_limit: VLAN_LIMIT_DEFAULT,
    })
}

/// 64-byte UDP packets of `flows` flows, with the check sequence that is not there: 60 bytes.
pub fn udp_flows(flows: u32) -> Vec<Vec<u8>> {
    let packet = |n: u32| {
        let src = (0x0a00_0000 | n).to_be_bytes();
        let eth = PacketBuilder::eth([2, 0, 0, 0, 0, 1], [2, 0, 0, 0, 0, 2]);
        eth.ipv4(src, [10, 255, 0, 1]).udp(1024 + (n % 50_000) as u16, 2000).padded()
    };
    (0..flows).map(packet).collect()
}

/// A lane that gets the same packets again and again.
pub struct Road {
    pub lane: Lane,
    pub sink: Sink,
    pub now: Now,
    pool: FramePool,
    burst: RxBurst,
    /// All packets in one piece of memory, as replay has them.
    bytes: Vec<u8>,
    places: Vec<(usize, usize)>,
    next: usize,
}

impl Road {
    /// `microflows` entries of tier 1; 0 leaves tier 3 alone.
    pub fn new(program: Program, packets: &[Vec<u8>], microflows: usize) -> Self {
        let conntrack = CtConfig { conns_max: 1 << 17, ..CtConfig::default() };
        let config = LaneConfig {
            microflows,
            megaflows: 0,
            conntrack,
            self_check: 0,
            first: First::Measured,
            seed: 7,
            seat: Seat::default(),
        };
        let mut lane = Lane::new(&config, Arc::new(Counters::default()));
        let now = Now::from_secs(1);
        drop(lane.set_program(Arc::new(program), now));
        let mut at = 0;
        let place = |p: &Vec<u8>| {
            at += p.len();
            (at - p.len(), at)
        };
        Self {
            lane,
            sink: Sink::default(),
            now,
            pool: FramePool::private(512).expect("memory for frames"),
            burst: RxBurst::new(),
            places: packets.iter().map(place).collect(),
            bytes: packets.concat(),
            next: 0,
        }
    }

    /// Moves one batch, each packet copied into its frame first.
    #[inline]
    pub fn batch(&mut self) {
        for _ in 0..BATCH_MAX {
            let (from, to) = self.places[self.next];
            self.next = if self.next + 1 == self.places.len() { 0 } else { self.next + 1 };
            let mut frame = self.pool.alloc().expect("a frame");
            frame.copy_from(&self.bytes[from..to]);
            let _ = self.burst.push(frame);
        }
        let (pool, sink) = (&mut self.pool, &mut self.sink);
        self.lane.run(&mut self.burst, PortIx(1), self.now, pool, sink);
    }

    /// Moves all packets `times` over: connections established, caches filled.
    pub fn warm_up(&mut self, times: usize) {
        (0..(self.places.len() * times).div_ceil(BATCH_MAX)).for_each(|_| self.batch());
    }
}
