//! Flows and programs in few words: the world that the tests' lanes run in.

use super::specs::{GroupSpec, MeterSpec, make_meter};
use sluice_dataplane::action::meter::MeterUnit;
use sluice_dataplane::action::{Action, Ct, Nat, Set, Zone};
use sluice_dataplane::classify::RuleMatch;
use sluice_dataplane::conntrack::{Alg, NatKind, NatMode, NatSpec};
use sluice_dataplane::fdb::Fdb;
use sluice_dataplane::packet::field::{Field, Prereq};
use sluice_dataplane::packet::key::{FlowKey, PortIx};
use sluice_dataplane::packet::parse::VLAN_LIMIT_DEFAULT;
use sluice_dataplane::pipeline::program::{BridgeParts, ProgramParts};
use sluice_dataplane::pipeline::underlay::{Device, Route};
use sluice_dataplane::pipeline::{FlowStats, Port, PortRole, Program, Rule, Underlay};
use sluice_dataplane::tunnel::{Inherit, TlvMap, TlvMapping};
use sluice_dataplane::tunnel::{TunnelConfig, TunnelKey, TunnelRemote};
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
pub struct CtSpec(pub Ct);

pub fn ct(zone: u16) -> CtSpec {
    let zone = Zone::Number(zone);
    CtSpec(Ct {
        commit: false,
        force: false,
        zone,
        table: None,
        nat: None,
        exec: [].into(),
        alg: None,
    })
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

    pub fn alg(mut self, alg: Alg) -> Self {
        self.0.alg = Some(alg);
        self
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
        self.0.exec = self.0.exec.iter().cloned().chain(actions).collect();
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
    Port::new(format!("br{bridge}-{number}"), (bridge, number), role)
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
        priority: f.priority,
        cookie: f.cookie,
        matching: (&RuleMatch { value, mask: f.mask, priority: f.priority, clauses: None }).into(),
        actions: f.actions.clone().into(),
        stats: FlowStats::default(),
    })
}
