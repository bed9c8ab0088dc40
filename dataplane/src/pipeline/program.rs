//! The compiled switch: bridges, tables, ports and the underlay, as one immutable value.
//!
//! Control builds it, workers read it. A change makes a new `Program` that shares what did not
//! change (`Arc`); a batch holds one from its first packet to its last, so no packet ever sees
//! half a change.

use crate::action::group::Group;
use crate::action::meter::Meter;
use crate::cache::KeyMask;
use crate::classify::Table;
use crate::fdb::Fdb;
use crate::limits::TABLES_MAX;
use crate::packet::key::PortIx;
use crate::packet::parse::VLAN_LIMIT_MAX;
use crate::pipeline::delta::Delta;
use crate::pipeline::keymask;
use crate::pipeline::rule::{Rule, RuleBook};
use crate::pipeline::underlay::Underlay;
use crate::tunnel::{TlvMap, TunnelConfig};
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;

/// What a port does with a packet.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum PortRole {
    /// A device of the worker's.
    Device,
    /// The other end of a cable into another bridge.
    Patch {
        peer: PortIx,
    },
    Tunnel(Arc<TunnelConfig>),
}

/// A port of the switch. `PortIx` is its place in `Program::ports`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Port {
    pub name: String,
    /// Index of its bridge.
    pub bridge: u16,
    /// OpenFlow number.
    pub number: u32,
    pub role: PortRole,
    pub up: bool,
    /// FLOOD goes here.
    pub flood: bool,
    /// Largest IP packet that the device takes; 0 if unknown.
    pub mtu: u16,
    /// Tunnel packets for us may arrive here.
    pub underlay: bool,
    /// The sender behind this port may leave TCP and UDP checksums partial (veth).
    pub partial_checksums: bool,
    /// Checksums of received packets were verified by somebody else.
    pub checksums_good: bool,
}

impl Port {
    /// A port that is up, takes packets of 1500 bytes, and whose other traits are no.
    pub fn new(name: String, (bridge, number): (u16, u32), role: PortRole) -> Self {
        Self {
            name,
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
}

#[derive(Clone, Debug)]
pub struct Bridge {
    pub name: Arc<str>,
    /// By table number.
    pub tables: Vec<Option<Arc<Table>>>,
    /// OpenFlow number to port, ascending.
    pub ports: Arc<[(u32, PortIx)]>,
    pub fdb: Arc<Fdb>,
    /// By number, as are the meters.
    pub groups: Arc<HashMap<u32, Arc<Group>>>,
    pub meters: Arc<HashMap<u32, Arc<Meter>>>,
    /// Tunnel options that flows know.
    pub tlv: Arc<TlvMap>,
}

impl Bridge {
    pub fn port(&self, number: u32) -> Option<PortIx> {
        let at = self.ports.binary_search_by_key(&number, |p| p.0).ok()?;
        self.ports.get(at).map(|p| p.1)
    }
}

/// A tunnel endpoint of ours: what arriving tunnel packets are looked up by.
#[derive(Debug, Clone)]
pub struct TunnelIn {
    pub port: PortIx,
    pub config: Arc<TunnelConfig>,
}

/// Everything a worker needs to judge packets. A clone shares all that is large.
#[derive(Clone, Debug, Default)]
pub struct Program {
    /// Rises with every change.
    pub version: u64,
    pub bridges: Vec<Bridge>,
    /// `None`: a number that is free.
    pub ports: Arc<[Option<Port>]>,
    /// All rules of all tables.
    pub rules: RuleBook,
    pub tunnels: Arc<[TunnelIn]>,
    pub underlay: Arc<Underlay>,
    /// Packet fields that this program can see; never fewer than its rules need.
    pub visible: KeyMask,
    /// Tags that are read from a packet that arrives.
    pub vlan_limit: u8,
    /// What differs from the version before.
    pub delta: Delta,
}

/// One change of one rule.
#[derive(Clone, Debug)]
pub enum RuleChange {
    /// A rule under a new number; or, in the place of one with the same match, other actions.
    Put {
        number: u32,
        rule: Arc<Rule>,
    },
    Remove {
        number: u32,
    },
}

/// From so many changes on, the tables concerned are built anew.
const AT_ONCE: usize = 1024;

/// What a change means for the table of its rule.
enum InTable {
    Insert,
    Remove,
    /// In the place of this one.
    Replace(Arc<Rule>),
    /// The rule's match is as it was.
    Stay,
}

struct Place {
    number: u32,
    rule: Arc<Rule>,
    in_table: InTable,
}

impl Program {
    #[inline]
    pub fn port(&self, ix: PortIx) -> Option<&Port> {
        self.ports.get(ix.0 as usize).and_then(Option::as_ref)
    }

    /// Builds all of it. Rules get numbers in the order in which they come.
    pub fn compile(parts: ProgramParts) -> Self {
        let vlan_limit = match parts.vlan_limit {
            0 => VLAN_LIMIT_MAX,
            n => n.min(VLAN_LIMIT_MAX),
        };
        let mut program = Self { version: parts.version, vlan_limit, ..Self::default() };
        let mut number = 0;
        for b in parts.bridges {
            let mut by_table: Vec<Vec<(u32, Arc<Rule>)>> = vec![Vec::new(); TABLES_MAX];
            for r in b.rules {
                program.rules.set(number, Some(r.clone()));
                by_table[usize::from(r.table).min(TABLES_MAX - 1)].push((number, r));
                number += 1;
            }
            let tables = by_table.into_iter().map(|list| {
                let matches = list.iter().map(|(n, r)| (*n, r.priority, &r.matching));
                (!list.is_empty()).then(|| Arc::new(Table::build_compact(matches)))
            });
            let mut ports = b.ports;
            ports.sort_unstable();
            program.bridges.push(Bridge {
                name: b.name.into(),
                tables: tables.collect(),
                ports: ports.into(),
                fdb: b.fdb,
                groups: b.groups,
                meters: b.meters,
                tlv: b.tlv,
            });
        }
        program.set_ports(parts.ports, parts.underlay);
        program.see_afresh();
        program
    }

    /// Other ports or another underlay.
    pub fn set_ports(&mut self, ports: Vec<Option<Port>>, underlay: Arc<Underlay>) {
        let tunnel = |(i, p): (usize, &Option<Port>)| match p.as_ref().map(|p| &p.role) {
            Some(PortRole::Tunnel(config)) => {
                Some(TunnelIn { port: PortIx(i as u16), config: config.clone() })
            }
            _ => None,
        };
        self.tunnels = ports.iter().enumerate().filter_map(tunnel).collect();
        self.ports = ports.into();
        self.underlay = underlay;
        self.delta = Delta::All;
    }

    /// Another map of tunnel options; the bridge's flows must be those that it was compiled with.
    pub fn set_tlv(&mut self, bridge: usize, map: Arc<TlvMap>) {
        if let Some(b) = self.bridges.get_mut(bridge) {
            b.tlv = map;
            self.delta = Delta::All;
        }
    }

    /// Computes what the program can see from the rules that are there, no more.
    pub fn see_afresh(&mut self) {
        let mut mask = keymask::Visible::default();
        self.rules.iter().for_each(|(_, r)| mask.add(r));
        self.bridges.iter().flat_map(|b| b.groups.values()).for_each(|g| mask.add_group(g));
        self.visible = mask.key_mask();
        self.delta = Delta::All;
    }

    /// Makes changes of rules, in order. `delta` gathers them until the next version.
    pub fn change(&mut self, changes: &[RuleChange]) {
        let mut seen = keymask::Visible::default();
        let at_once = changes.len() >= AT_ONCE;
        let mut touched = BTreeSet::new();
        for c in changes {
            if let RuleChange::Put { rule, .. } = c {
                seen.add(rule);
            }
            let Some(place) = self.change_book(c) else { continue };
            if at_once {
                touched.insert((place.rule.bridge, place.rule.table));
            } else {
                self.change_table(&place);
            }
        }
        if at_once {
            self.rebuild(&touched);
            self.delta = Delta::All;
        }
        let wider = self.visible.or(&seen.key_mask());
        if wider != self.visible {
            self.visible = wider;
            self.delta = Delta::All;
        }
    }

    /// Brings the book up to date; says what the rule's table has to do.
    fn change_book(&mut self, change: &RuleChange) -> Option<Place> {
        let (number, rule, came) = match change {
            RuleChange::Put { number, rule } => (*number, rule.clone(), true),
            RuleChange::Remove { number } => (*number, self.rules.get(*number)?.clone(), false),
        };
        let old = self.rules.get(number).cloned();
        self.rules.set(number, came.then(|| rule.clone()));
        let in_table = match old {
            None => InTable::Insert,
            Some(_) if !came => InTable::Remove,
            // Clauses of a conjunction may come and go with the actions.
            Some(old) if (old.priority, &old.matching) != (rule.priority, &rule.matching) => {
                InTable::Replace(old)
            }
            Some(_) => InTable::Stay,
        };
        Some(Place { number, rule, in_table })
    }

    fn change_table(&mut self, place: &Place) {
        let Place { number, rule, in_table } = place;
        let m = rule.full_match();
        let bridge = usize::from(rule.bridge);
        self.delta.add(rule.bridge, rule.table, &m, self.bridges.get(bridge));
        let Some(b) = self.bridges.get_mut(bridge) else { return };
        let Some(slot) = b.tables.get_mut(usize::from(rule.table)) else { return };
        match in_table {
            InTable::Stay => {}
            InTable::Insert => Arc::make_mut(slot.get_or_insert_default()).insert(*number, &m),
            InTable::Replace(old) => {
                let table = Arc::make_mut(slot.get_or_insert_default());
                table.remove(*number, &old.full_match());
                table.insert(*number, &m);
            }
            InTable::Remove => {
                let Some(table) = slot else { return };
                Arc::make_mut(table).remove(*number, &m);
                if table.is_empty() {
                    *slot = None;
                }
            }
        }
    }

    /// Builds tables anew from the book: cheaper than many single changes.
    fn rebuild(&mut self, tables: &BTreeSet<(u16, u8)>) {
        let mut lists: BTreeMap<(u16, u8), Vec<u32>> =
            tables.iter().map(|t| (*t, Vec::new())).collect();
        for (number, rule) in self.rules.iter() {
            if let Some(list) = lists.get_mut(&(rule.bridge, rule.table)) {
                list.push(number);
            }
        }
        for ((bridge, table), list) in lists {
            let Some(b) = self.bridges.get_mut(usize::from(bridge)) else { continue };
            let Some(slot) = b.tables.get_mut(usize::from(table)) else { continue };
            let rules = list.iter().filter_map(|n| Some((*n, self.rules.get(*n)?)));
            let rules = rules.map(|(n, r)| (n, r.priority, &r.matching));
            *slot = (!list.is_empty()).then(|| Arc::new(Table::build_compact(rules)));
        }
    }

    /// The program as it stands as the next version, to be published. Changes gather anew.
    pub fn publish(&mut self) -> Arc<Program> {
        self.version += 1;
        let next = Arc::new(self.clone());
        self.delta = Delta::default();
        next
    }
}

/// What `Program::compile` is made from.
#[derive(Debug, Default)]
pub struct ProgramParts {
    pub version: u64,
    pub bridges: Vec<BridgeParts>,
    pub ports: Vec<Option<Port>>,
    pub underlay: Arc<Underlay>,
    /// Open vSwitch's `vlan-limit`: how many tags of an arriving packet flows can know; 0: as many
    /// as possible. Default there: [`crate::packet::parse::VLAN_LIMIT_DEFAULT`].
    pub vlan_limit: u8,
}

#[derive(Debug)]
pub struct BridgeParts {
    pub name: String,
    pub rules: Vec<Arc<Rule>>,
    pub ports: Vec<(u32, PortIx)>,
    pub fdb: Arc<Fdb>,
    pub groups: Arc<HashMap<u32, Arc<Group>>>,
    pub meters: Arc<HashMap<u32, Arc<Meter>>>,
    pub tlv: Arc<TlvMap>,
}
