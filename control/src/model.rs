//! The whole switch as control knows it: bridges, ports, flows, and the node's network.
//!
//! `Model::program` compiles it; whoever owns the model (the daemon, `replay`) hands the result
//! to the workers. A port keeps its `PortIx` as long as it exists.

mod backends;
mod load;

use crate::compile::{Device, PortState, compile_port, compile_underlay};
use crate::config::{self, Config, PORT_LOCAL};
use crate::flow::{FlowAction, FlowErrors, GroupMod, MeterMod, PortNames, meter_name};
use crate::groups::{GroupError, Groups, StoredGroup};
use crate::meters::{MeterError, Meters};
use crate::netlink::underlay as net;
use crate::store::{
    Changed, Flows, Outcome, Removed, RemovedReason, Site, StoreError, Stored, TableLimit, Wish,
};
use sluice_dataplane::fdb::Fdb;
use sluice_dataplane::limits::{BRIDGES_MAX, PORTS_MAX};
use sluice_dataplane::packet::field::{FIELDS, Field};
use sluice_dataplane::packet::key::PortIx;
use sluice_dataplane::pipeline::program::{BridgeParts, ProgramParts};
use sluice_dataplane::pipeline::{Port, Program, RuleIds, Underlay};
use sluice_dataplane::tunnel::{TlvError, TlvMap, TlvMapping};
use std::collections::VecDeque;
use std::path::PathBuf;
use std::sync::Arc;

/// Why a model cannot be made or changed.
#[derive(Debug, thiserror::Error)]
pub enum ModelError {
    #[error("{file}: {error}", file = file.display())]
    Flow { file: PathBuf, error: FlowErrors },
    #[error("{0}")]
    Group(#[from] GroupError),
    #[error("{0}")]
    Meter(#[from] MeterError),
    #[error("a flow names group {0}, which is not there; add the group first")]
    NoGroup(u32),
    #[error("a flow names meter {}, which is not there; add the meter first", meter_name(*.0))]
    NoMeter(u32),
    #[error("{0}")]
    Options(#[from] TlvError),
    #[error("{mapping} is used by {users} of the bridge's flows and groups; delete those first")]
    OptionUsed { mapping: TlvMapping, users: usize },
    #[error("{0}")]
    Store(#[from] StoreError),
    #[error("there are {0} bridges; a switch has {BRIDGES_MAX} at most")]
    TooManyBridges(usize),
    #[error("there are {PORTS_MAX} ports already; delete one first")]
    TooManyPorts,
}

/// A bridge.
#[derive(Debug)]
pub struct BridgeState {
    pub config: config::Bridge,
    pub flows: Flows,
    pub groups: Groups,
    pub meters: Meters,
    /// Tunnel options that flows know as fields.
    pub tlv: Arc<TlvMap>,
    pub fdb: Arc<Fdb>,
    pub ports: Vec<PortState>,
}

impl BridgeState {
    pub fn port(&self, name: &str) -> Option<&PortState> {
        self.ports.iter().find(|p| p.config.name == name)
    }

    /// Flows and groups that use the field of a tunnel option.
    fn users_of(&self, index: u8) -> usize {
        let is = |f: &Field| f.tun_metadata_index() == Some(index);
        let field = FIELDS.iter().map(|f| f.id).find(is);
        let (Some(field), Some(present)) = (field, self.tlv.present(index)) else { return 0 };
        let acts = |a: &FlowAction| a.any(&|a| a.names_option(field));
        let uses = |s: &Stored| {
            present.get(s.rule.matching.mask()) != 0 || s.form().actions.iter().any(acts)
        };
        let in_group =
            |g: &&StoredGroup| g.group.buckets.iter().any(|b| b.actions.iter().any(acts));
        self.flows.numbers(&uses).len() + self.groups.iter().filter(in_group).count()
    }
}

impl PortNames for BridgeState {
    fn number(&self, name: &str) -> Option<u32> {
        self.port(name).map(|p| u32::from(p.config.number))
    }

    fn name(&self, number: u32) -> Option<&str> {
        // The local port prints as LOCAL, as everywhere in Open vSwitch.
        let known = self.ports.iter().filter(|p| p.config.number != PORT_LOCAL);
        known
            .into_iter()
            .find(|p| u32::from(p.config.number) == number)
            .map(|p| p.config.name.as_str())
    }

    fn options(&self) -> Option<&TlvMap> {
        Some(&self.tlv)
    }
}

pub(crate) fn check_refs(
    have_groups: &Groups,
    have_meters: &Meters,
    mut refers: impl Iterator<Item = (Vec<u32>, Vec<u32>)>,
) -> Result<(), ModelError> {
    refers.try_for_each(|(groups, meters)| {
        if let Some(id) = groups.into_iter().find(|id| have_groups.get(*id).is_none()) {
            return Err(ModelError::NoGroup(id));
        }
        match meters.into_iter().find(|id| have_meters.get(*id).is_none()) {
            Some(id) => Err(ModelError::NoMeter(id)),
            None => Ok(()),
        }
    })
}

/// The switch.
#[derive(Debug, Default)]
pub struct Model {
    pub bridges: Vec<BridgeState>,
    pub net: Arc<net::Underlay>,
    /// The program in the making: rules as the flows have them.
    draft: Program,
    current: Arc<Program>,
    ids: RuleIds,
    removed: VecDeque<(usize, Removed)>,
    removed_lost: u64,
    learns_refused: u64,
    used: Vec<bool>,
    seed: u64,
}

/// Removals of flows that wait to be told.
const REMOVED_MAX: usize = 4096;

fn parts(b: &BridgeState) -> BridgeParts {
    BridgeParts {
        name: b.config.name.clone(),
        rules: Vec::new(),
        ports: numbers(b),
        fdb: b.fdb.clone(),
        groups: Arc::default(),
        meters: Arc::default(),
        tlv: b.tlv.clone(),
    }
}

/// OpenFlow numbers of a bridge's ports, ascending.
fn numbers(b: &BridgeState) -> Vec<(u32, PortIx)> {
    let mut list: Vec<_> = b.ports.iter().map(|p| (u32::from(p.config.number), p.ix)).collect();
    list.sort_unstable();
    list
}

impl Model {
    /// Bridges and ports of a configuration, without flows.
    pub fn new(config: &Config, seed: u64) -> Result<Self, ModelError> {
        if config.bridges.len() > BRIDGES_MAX {
            return Err(ModelError::TooManyBridges(config.bridges.len()));
        }
        let mut model = Self { used: vec![false; PORTS_MAX], seed, ..Self::default() };
        for bridge in &config.bridges {
            let salt = model.bridges.len() as u64;
            let mut flows = Flows::default();
            for t in &bridge.tables {
                let evicts = t.overflow_policy == config::OverflowPolicy::Evict;
                flows.set_limit(t.number, TableLimit { flows_max: t.flows_max, evicts });
            }
            model.bridges.push(BridgeState {
                config: bridge.clone(),
                flows,
                groups: Groups::default(),
                meters: Meters::default(),
                tlv: Arc::new(bridge.tlv_map.clone()),
                fdb: Arc::new(Fdb::new(seed.wrapping_add(salt))),
                ports: Vec::new(),
            });
            for port in &bridge.ports {
                model.add_port(&bridge.name, port.clone())?;
            }
        }
        model.draft = Program::compile(ProgramParts {
            bridges: model.bridges.iter().map(parts).collect(),
            vlan_limit: config.daemon.vlan_limit,
            ..ProgramParts::default()
        });
        Ok(model)
    }

    pub fn bridge(&self, name: &str) -> Option<&BridgeState> {
        self.bridges.iter().find(|b| b.config.name == name)
    }

    pub fn bridge_mut(&mut self, name: &str) -> Option<&mut BridgeState> {
        self.bridges.iter_mut().find(|b| b.config.name == name)
    }

    /// Adds a port to a bridge that exists.
    pub fn add_port(&mut self, bridge: &str, config: config::Port) -> Result<PortIx, ModelError> {
        let free = self.used.iter().position(|u| !u).ok_or(ModelError::TooManyPorts)?;
        let ix = PortIx(free as u16);
        if let Some(b) = self.bridge_mut(bridge) {
            b.ports.push(PortState { config, ix, up: false, device: None });
            self.used[free] = true;
        }
        Ok(ix)
    }

    /// Forgets a port. Its `PortIx` may be given to another from now on.
    pub fn remove_port(&mut self, bridge: &str, name: &str) -> Option<PortState> {
        let b = self.bridge_mut(bridge)?;
        let at = b.ports.iter().position(|p| p.config.name == name)?;
        let gone = b.ports.remove(at);
        b.fdb.flush(Some(gone.ix));
        self.used[usize::from(gone.ix.0)] = false;
        Some(gone)
    }

    /// All ports with the name of their bridge.
    pub fn ports(&self) -> impl Iterator<Item = (&str, &PortState)> {
        self.bridges.iter().flat_map(|b| b.ports.iter().map(|p| (b.config.name.as_str(), p)))
    }

    pub fn port_mut(&mut self, ix: PortIx) -> Option<&mut PortState> {
        self.bridges.iter_mut().flat_map(|b| b.ports.iter_mut()).find(|p| p.ix == ix)
    }

    /// Whether the groups and meters are there that flows name: those that each of `refers` says.
    pub fn check_refs(
        &self,
        bridge: usize,
        refers: impl Iterator<Item = (Vec<u32>, Vec<u32>)>,
    ) -> Result<(), ModelError> {
        let Some(b) = self.bridges.get(bridge) else { return Ok(()) };
        check_refs(&b.groups, &b.meters, refers)
    }

    /// Makes a change of a bridge's groups, whole or not at all. Flows that use a group which is
    /// deleted go with it; says how many.
    pub fn change_groups(
        &mut self,
        bridge: usize,
        mods: &[GroupMod],
        now_ns: u64,
    ) -> Result<u64, ModelError> {
        let Some(b) = self.bridges.get_mut(bridge).filter(|_| !mods.is_empty()) else {
            return Ok(0);
        };
        let gone = b.groups.apply(mods, now_ns)?;
        let compiled = b.groups.compiled();
        let uses = |f: &Stored| gone.iter().any(|id| f.uses_group(*id));
        let doomed = if gone.is_empty() { Vec::new() } else { b.flows.numbers(&uses) };
        if let Some(b) = self.draft.bridges.get_mut(bridge) {
            b.groups = compiled;
        }
        self.draft.see_afresh();
        self.remove_flows(bridge, &doomed, RemovedReason::GroupDelete, now_ns)
    }

    /// As [`Model::change_groups`], of meters.
    pub fn change_meters(
        &mut self,
        bridge: usize,
        mods: &[MeterMod],
        now_ns: u64,
    ) -> Result<u64, ModelError> {
        let Some(b) = self.bridges.get_mut(bridge).filter(|_| !mods.is_empty()) else {
            return Ok(0);
        };
        let gone = b.meters.apply(mods, now_ns)?;
        let compiled = b.meters.compiled();
        let uses = |f: &Stored| gone.iter().any(|id| f.uses_meter(*id));
        let doomed = if gone.is_empty() { Vec::new() } else { b.flows.numbers(&uses) };
        if let Some(b) = self.draft.bridges.get_mut(bridge) {
            b.meters = compiled;
        }
        self.draft.see_afresh();
        self.remove_flows(bridge, &doomed, RemovedReason::MeterDelete, now_ns)
    }

    /// Puts groups and meters in the places of those that are there.
    pub(crate) fn set_refs(&mut self, bridge: usize, groups: Groups, meters: Meters) {
        let Some(b) = self.bridges.get_mut(bridge) else { return };
        (b.groups, b.meters) = (groups, meters);
        let compiled = (b.groups.compiled(), b.meters.compiled());
        if let Some(b) = self.draft.bridges.get_mut(bridge) {
            (b.groups, b.meters) = compiled;
        }
        self.draft.see_afresh();
    }

    /// Maps options to fields, all or none. What is mapped keeps its place, so flows stay as they
    /// are.
    pub fn map_options(&mut self, bridge: usize, more: &[TlvMapping]) -> Result<(), ModelError> {
        let Some(b) = self.bridges.get(bridge) else { return Ok(()) };
        let map = b.tlv.with(more)?;
        self.set_options(bridge, map);
        Ok(())
    }

    /// Takes mappings away, all or none; `None`: every one. Those that flows or groups use are
    /// refused (Open vSwitch: `OFPERR_NXTTMFC_INVALID_TLV_DEL`).
    pub fn unmap_options(
        &mut self,
        bridge: usize,
        gone: Option<&[TlvMapping]>,
    ) -> Result<usize, ModelError> {
        let Some(b) = self.bridges.get(bridge) else { return Ok(0) };
        let gone: Vec<TlvMapping> = gone.map_or_else(|| b.tlv.mappings().collect(), <[_]>::to_vec);
        let map = b.tlv.without(&gone)?;
        for mapping in &gone {
            let users = b.users_of(mapping.index);
            if users > 0 {
                return Err(ModelError::OptionUsed { mapping: *mapping, users });
            }
        }
        self.set_options(bridge, map);
        Ok(gone.len())
    }

    fn set_options(&mut self, bridge: usize, map: TlvMap) {
        let Some(b) = self.bridges.get_mut(bridge).filter(|b| *b.tlv != map) else { return };
        b.tlv = Arc::new(map);
        self.draft.set_tlv(bridge, b.tlv.clone());
    }

    fn remove_flows(
        &mut self,
        bridge: usize,
        numbers: &[u32],
        why: RemovedReason,
        now_ns: u64,
    ) -> Result<u64, ModelError> {
        let done = self.change_flows(bridge, now_ns, |f, site| Ok(f.remove(numbers, why, site)))?;
        Ok(done.deleted)
    }

    /// Makes a change of a bridge's flows and of the program that comes next; all of it or nothing.
    pub fn change_flows(
        &mut self,
        bridge: usize,
        now_ns: u64,
        make: impl FnOnce(&mut Flows, Site<'_>) -> Result<Outcome, StoreError>,
    ) -> Result<Changed, StoreError> {
        let Some(b) = self.bridges.get_mut(bridge) else { return Ok(Changed::default()) };
        let mut flows = std::mem::take(&mut b.flows);
        let site = Site {
            bridge: bridge as u16,
            names: b,
            ids: &mut self.ids,
            version: self.draft.version + 1,
            now_ns,
        };
        let done = make(&mut flows, site);
        b.flows = flows;
        let Outcome { changed, changes, removed } = done?;
        self.draft.change(&changes);
        self.remember_removed(bridge, removed);
        Ok(changed)
    }

    /// Adds the flow that a packet asked for by a `learn`. True: the program must follow. A table
    /// that is full takes no more; the packet's own way does not depend on it.
    pub fn learn(&mut self, bridge: u16, wish: &Wish<'_>, now_ns: u64) -> bool {
        let done = self.change_flows(usize::from(bridge), now_ns, |f, site| f.learn(wish, site));
        match done {
            Ok(changed) => changed != Changed::default(),
            Err(_) => {
                self.learns_refused += 1;
                false
            }
        }
    }

    /// Flows that packets asked for and that a full table did not take.
    pub fn learns_refused(&self) -> u64 {
        self.learns_refused
    }

    fn remember_removed(&mut self, bridge: usize, removed: Vec<Removed>) {
        for r in removed {
            if self.removed.len() >= REMOVED_MAX {
                self.removed.pop_front();
                self.removed_lost += 1;
            }
            self.removed.push_back((bridge, r));
        }
    }

    /// The flows with `send_flow_rem` that went since the last time, with their bridges, and how
    /// many were forgotten because nobody asked.
    pub fn drain_removed(&mut self) -> (Vec<(usize, Removed)>, u64) {
        (self.removed.drain(..).collect(), std::mem::take(&mut self.removed_lost))
    }

    /// Whether any flow can time out.
    pub fn has_timeouts(&self) -> bool {
        self.bridges.iter().any(|b| b.flows.has_timeouts())
    }

    /// Takes away flows that have timed out; says how many.
    pub fn expire_flows(&mut self, now_ns: u64) -> u64 {
        let timed: Vec<usize> =
            (0..self.bridges.len()).filter(|b| self.bridges[*b].flows.has_timeouts()).collect();
        let expire = |b| self.change_flows(b, now_ns, |f, site| Ok(f.expire(site)));
        timed.into_iter().map(expire).map(|done| done.map_or(0, |c| c.deleted)).sum()
    }

    /// No worker's cache names rules any more that were gone in this version.
    pub fn swept(&mut self, version: u64) {
        self.ids.swept(version);
    }

    /// Takes a snapshot of the node's network: devices of ports, routes, neighbours.
    pub fn set_net(&mut self, snapshot: Arc<net::Underlay>) {
        for port in self.bridges.iter_mut().flat_map(|b| b.ports.iter_mut()) {
            let name = device_name(&port.config).to_owned();
            let in_other_netns =
                matches!(&port.config.kind, config::PortType::Internal(p) if p.netns.is_some());
            if in_other_netns {
                continue;
            }
            port.device = snapshot.link_by_name(&name).map(|link| Device {
                ifindex: link.ifindex,
                mac: link.mac.map_or([0; 6], |m| m.0),
                mtu: link.mtu_bytes,
                kind: link.kind.clone(),
                has_addresses: snapshot.addresses_of(link.ifindex).next().is_some(),
            });
        }
        self.net = snapshot;
    }

    pub fn version(&self) -> u64 {
        self.draft.version
    }

    /// The program that was compiled last.
    pub fn current(&self) -> Arc<Program> {
        self.current.clone()
    }

    /// Whether ports or the node's network differ from what the last program was compiled from.
    pub fn is_stale(&self) -> bool {
        *self.current.underlay != self.underlay() || *self.current.ports != *self.compiled_ports()
    }

    /// The switch as it stands, as the next version. Flows are in the draft already; ports and the
    /// underlay are compared with what is there, and bridges keep their places.
    pub fn program(&mut self) -> Arc<Program> {
        let (ports, underlay) = (self.compiled_ports(), self.underlay());
        if *self.draft.ports != *ports || *self.draft.underlay != underlay {
            self.draft.set_ports(ports, Arc::new(underlay));
            for (b, state) in self.draft.bridges.iter_mut().zip(&self.bridges) {
                b.ports = numbers(state).into();
            }
        }
        self.current = self.draft.publish();
        self.current.clone()
    }

    fn compiled_ports(&self) -> Vec<Option<Port>> {
        let mut ports = vec![None; PORTS_MAX];
        let peer =
            |name: &str| self.ports().find(|(_, p)| p.config.name == name).map(|(_, p)| p.ix);
        for (b, bridge) in self.bridges.iter().enumerate() {
            for p in &bridge.ports {
                ports[usize::from(p.ix.0)] = Some(compile_port(p, b as u16, &peer));
            }
        }
        ports
    }

    fn underlay(&self) -> Underlay {
        let by_device = |link: &net::Link| {
            self.ports()
                .find(|(_, p)| p.device.as_ref().is_some_and(|d| d.ifindex == link.ifindex))
                .map(|(_, p)| p.ix)
        };
        compile_underlay(&self.net, &by_device)
    }

    /// Secret of the tables' hashes.
    pub fn seed(&self) -> u64 {
        self.seed
    }
}

/// The kernel's name of a port's device; of a memory port, the port's own name.
pub fn device_name(port: &config::Port) -> &str {
    port.device().unwrap_or(&port.name)
}
