//! The compiled switch: bridges, tables, ports and the underlay, as one immutable value.
//!
//! Control builds it, workers read it. A change makes a new `Program` that shares what did not
//! change (`Arc`); a batch holds one from its first packet to its last, so no packet ever sees
//! half a change.

use crate::action::Action;
use crate::action::group::Group;
use crate::action::meter::Meter;
use crate::classify::{RuleMatch, Table};
use crate::counters::RuleStats;
use crate::fdb::Fdb;
use crate::limits::TABLES_MAX;
use crate::packet::key::PortIx;
use crate::pipeline::keymask;
use crate::pipeline::underlay::Underlay;
use crate::tunnel::TunnelConfig;
use std::collections::HashMap;
use std::sync::Arc;

/// A flow as the dataplane has it.
#[derive(Debug)]
pub struct Rule {
    pub table: u8,
    pub cookie: u64,
    pub matching: RuleMatch,
    pub actions: Box<[Action]>,
    /// Lives as long as the flow, through all programs.
    pub stats: Arc<RuleStats>,
    /// The flow as text, for `trace`.
    pub text: Box<str>,
}

/// One OpenFlow table: the classifier, and the program-wide number of its first rule.
#[derive(Debug)]
pub struct TableSpec {
    pub classifier: Table,
    pub first_rule: u32,
}

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

#[derive(Debug)]
pub struct Bridge {
    pub name: String,
    /// By table number.
    pub tables: Box<[Option<TableSpec>]>,
    /// OpenFlow number to port, ascending.
    pub ports: Vec<(u32, PortIx)>,
    pub fdb: Arc<Fdb>,
    /// By number, as are the meters.
    pub groups: Arc<HashMap<u32, Arc<Group>>>,
    pub meters: Arc<HashMap<u32, Arc<Meter>>>,
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

/// Everything a worker needs to judge packets.
#[derive(Debug, Default)]
pub struct Program {
    /// Rises with every change.
    pub version: u64,
    pub bridges: Vec<Bridge>,
    /// `None`: a number that is free.
    pub ports: Vec<Option<Port>>,
    /// All rules of all tables; a table's rules lie together.
    pub rules: Vec<Arc<Rule>>,
    pub tunnels: Vec<TunnelIn>,
    pub underlay: Arc<Underlay>,
    /// Packet fields that this program can see.
    pub visible: crate::cache::KeyMask,
}

impl Program {
    #[inline]
    pub fn port(&self, ix: PortIx) -> Option<&Port> {
        self.ports.get(ix.0 as usize).and_then(Option::as_ref)
    }

    /// Builds bridges' tables from rules, which must be sorted by bridge and table by the caller's
    /// doing: `rules[bridge]` holds that bridge's rules in any order of tables.
    pub fn compile(parts: ProgramParts) -> Self {
        let mut rules: Vec<Arc<Rule>> = Vec::new();
        let mut bridges = Vec::new();
        for b in parts.bridges {
            let mut by_table: Vec<Vec<Arc<Rule>>> = vec![Vec::new(); TABLES_MAX];
            for r in b.rules {
                by_table[(r.table as usize).min(TABLES_MAX - 1)].push(r);
            }
            let tables = by_table
                .into_iter()
                .map(|list| {
                    (!list.is_empty()).then(|| {
                        let matches = (0..).zip(list.iter().map(|r| &r.matching));
                        let classifier = Table::build(matches);
                        let first_rule = rules.len() as u32;
                        rules.extend(list);
                        TableSpec { classifier, first_rule }
                    })
                })
                .collect();
            let mut ports = b.ports;
            ports.sort_unstable();
            bridges.push(Bridge {
                name: b.name,
                tables,
                ports,
                fdb: b.fdb,
                groups: b.groups,
                meters: b.meters,
            });
        }
        let visible = keymask::visible(&rules);
        let tunnels = parts
            .ports
            .iter()
            .enumerate()
            .filter_map(|(i, p)| match p.as_ref().map(|p| &p.role) {
                Some(PortRole::Tunnel(config)) => {
                    Some(TunnelIn { port: PortIx(i as u16), config: config.clone() })
                }
                _ => None,
            })
            .collect();
        Self {
            version: parts.version,
            bridges,
            ports: parts.ports,
            rules,
            tunnels,
            underlay: parts.underlay,
            visible,
        }
    }
}

/// What `Program::compile` is made from.
#[derive(Debug, Default)]
pub struct ProgramParts {
    pub version: u64,
    pub bridges: Vec<BridgeParts>,
    pub ports: Vec<Option<Port>>,
    pub underlay: Arc<Underlay>,
}

#[derive(Debug)]
pub struct BridgeParts {
    pub name: String,
    pub rules: Vec<Arc<Rule>>,
    pub ports: Vec<(u32, PortIx)>,
    pub fdb: Arc<Fdb>,
    pub groups: Arc<HashMap<u32, Arc<Group>>>,
    pub meters: Arc<HashMap<u32, Arc<Meter>>>,
}
