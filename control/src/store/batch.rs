//! What files say there is, gathered before any of it is added.

use super::{Packed, Pool};
use crate::flow::{FileItem, FileLine, GroupMod, MeterMod};
use sluice_dataplane::tunnel::TlvMapping;

/// What is to be added to one bridge.
#[derive(Debug, Default)]
pub struct Additions {
    /// Of the flows.
    pub pool: Pool,
    pub flows: Vec<Packed>,
    pub groups: Vec<GroupMod>,
    pub meters: Vec<MeterMod>,
    /// Tunnel options for the bridge's map.
    pub options: Vec<TlvMapping>,
}

/// What is to be added to bridges. Flows are packed as they come, so that a large file is never
/// there in its typed form.
#[derive(Debug, Default)]
pub struct Batch {
    pub bridges: Vec<(String, Additions)>,
    len: usize,
}

impl Batch {
    /// Lines.
    pub fn len(&self) -> usize {
        self.len
    }

    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Flows for a bridge.
    pub fn flows_of(&self, bridge: &str) -> usize {
        let of = self.bridges.iter().filter(|(name, _)| name == bridge);
        of.map(|(_, to)| to.flows.len()).sum()
    }

    pub fn take(&mut self, line: FileLine) {
        self.len += 1;
        let at = self.bridges.iter().position(|(name, _)| *name == line.bridge);
        let at = at.unwrap_or_else(|| {
            self.bridges.push((line.bridge, Additions::default()));
            self.bridges.len() - 1
        });
        let Some((_, to)) = self.bridges.get_mut(at) else { return };
        match line.item {
            FileItem::Flow(flow) => to.flows.push(to.pool.pack(*flow)),
            FileItem::Group(m) => to.groups.push(m),
            FileItem::Meter(m) => to.meters.push(m),
            FileItem::TlvMap(m) => to.options.extend(m),
        }
    }
}
