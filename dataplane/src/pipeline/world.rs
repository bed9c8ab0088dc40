//! What a walk works with: the world around it, and the packet as it sees that.
//!
//! The *world* is the worker's, lent for one walk: the program, what walks change besides their own
//! state (connections, the tunnel headers in use, what control is to be told), and the time. The
//! *subject* is the packet, which a walk never changes.

use super::commits::Commits;
use super::events::Events;
use super::program::Program;
use crate::clock::Now;
use crate::conntrack::Conntrack;
use crate::counters::{Counters, Drop};
use crate::packet::key::{FlowKey, PacketKey, PortIx, is_mpls};
use crate::packet::parse::Layers;
use crate::tunnel::{EncapTemplate, GeneveParams};
use std::collections::HashMap;

/// What a walk may use and change besides its own state.
pub struct World<'a> {
    pub program: &'a Program,
    pub conntrack: &'a mut Conntrack,
    pub counters: &'a Counters,
    pub templates: &'a mut Templates,
    pub commits: &'a mut Commits,
    pub events: &'a mut Events,
    pub now: Now,
    /// Note the bits of the packet that the walk depends on, for tier 2.
    pub wide: bool,
}

/// The packet as the walk sees it.
#[derive(Clone, Copy)]
pub struct Subject<'a> {
    pub key: &'a PacketKey,
    pub bytes: &'a [u8],
    pub layers: &'a Layers,
    pub in_port: PortIx,
    /// Checksums need no check.
    pub checksums_good: bool,
}

impl Subject<'_> {
    /// Key and layers of the packet as if its MPLS labels were off; `room` is for the key if there
    /// are any.
    #[inline]
    pub(super) fn behind_labels<'k>(
        &'k self,
        room: &'k mut Option<PacketKey>,
    ) -> (&'k PacketKey, Layers) {
        if is_mpls(u16::from_be_bytes(self.key.base.eth_type)) {
            return self.without_labels(room);
        }
        (self.key, *self.layers)
    }

    #[cold]
    fn without_labels<'k>(&self, room: &'k mut Option<PacketKey>) -> (&'k PacketKey, Layers) {
        let mut layers = *self.layers;
        let key = room.insert(*self.key);
        let (eth_type, shape) = self.key.innermost();
        key.base.eth_type = eth_type.to_be_bytes();
        key.base.shape |= shape;
        layers.l3 += 4 * FlowKey::from_packet(self.key, 0).mpls_labels() as u16;
        (key, layers)
    }
}

/// Tunnel headers in use under the present program, found again by what they were made from.
#[derive(Debug)]
pub struct Templates {
    known: HashMap<GeneveParams, u32>,
    list: Vec<EncapTemplate>,
    max: usize,
}

impl Templates {
    pub fn new(max: usize) -> Self {
        Self { known: HashMap::with_capacity(max), list: Vec::with_capacity(max), max }
    }

    /// Number and length of the header for `params`, built if need be.
    pub fn geneve(&mut self, params: &GeneveParams) -> Result<(u32, usize), Drop> {
        let have = self.known.get(params).copied();
        if let Some((at, t)) = have.and_then(|at| self.get(at).map(|t| (at, t))) {
            return Ok((at, t.len()));
        }
        if self.list.len() >= self.max {
            return Err(Drop::TunnelNoHeadroom);
        }
        let template = EncapTemplate::geneve(params).map_err(|_| Drop::TunnelNoRoute)?;
        let len = template.len();
        let at = self.list.len() as u32;
        self.known.insert(params.clone(), at);
        self.list.push(template);
        Ok((at, len))
    }

    #[inline]
    pub fn get(&self, at: u32) -> Option<&EncapTemplate> {
        self.list.get(at as usize)
    }

    pub fn clear(&mut self) {
        self.known.clear();
        self.list.clear();
    }

    /// Whether the list is so full that a fresh start is due.
    pub fn is_full(&self) -> bool {
        self.list.len() >= self.max
    }
}
