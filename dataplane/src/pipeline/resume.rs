//! Paused packets that go on (Open vSwitch NXT_RESUME).
//!
//! A packet whose bytes are as they were goes on as if nothing had happened: what was known of it
//! is known again, also what a second look at the bytes would not tell (what is behind labels that
//! the walk has pushed, tags beyond `vlan_limit`). With other bytes, headers are what the bytes
//! say, and metadata what the continuation says. Depth and resubmits are counted anew, as in Open
//! vSwitch: a program that pauses in a circle goes round as often as it is resumed.
//!
//! Tables, groups, meters and ports are the present program's. Only if the bridge maps other tunnel
//! options by now, of which key and actions hold the places, the packet cannot go on.

use super::commit::{stacked_bytes, tag_count};
use super::freeze::{AtCt, Continuation, Frame, Left, Punts};
use super::hold::Datagram;
use super::miss::{Flow, Stop, Walk};
use super::packet_out::PacketOutError;
use super::program::Program;
use super::rule::Rule;
use super::trace::Silent;
use super::world::{Subject, World};
use crate::cache::recording::Recording;
use crate::packet::key::{FlowKey, PacketKey, PortIx};
use crate::packet::parse::{self, Layers};
use std::sync::Arc;

/// A paused packet that is to go on.
#[derive(Debug)]
pub struct Resume {
    pub bytes: Box<[u8]>,
    /// The bytes are not those that were paused.
    pub is_edited: bool,
    pub continuation: Continuation,
}

/// The same, where it lies.
#[derive(Clone, Copy)]
pub(super) struct Paused<'r> {
    pub bytes: &'r [u8],
    pub is_edited: bool,
    pub continuation: &'r Continuation,
}

impl Resume {
    pub(super) fn paused(&self) -> Paused<'_> {
        let Self { bytes, is_edited, continuation } = self;
        Paused { bytes, is_edited: *is_edited, continuation }
    }
}

impl Paused<'_> {
    /// The port that the packet came by, as far as the program has it.
    pub(super) fn port(&self, program: &Program) -> Result<PortIx, PacketOutError> {
        let state = &self.continuation.state;
        let bridge = program.bridges.get(usize::from(state.bridge));
        let bridge = bridge.ok_or(PacketOutError::NoBridge)?;
        if state.tlv.as_ref().is_none_or(|map| *map != bridge.tlv) {
            return Err(PacketOutError::OtherOptions);
        }
        Ok(bridge.port(state.key.in_port).unwrap_or(PortIx::NONE))
    }

    /// Reads the bytes as far as they were read before. Gives where the headers are.
    pub(super) fn parse(
        &self,
        (port, limit): (PortIx, u8),
        key: &mut PacketKey,
        layers: &mut Layers,
    ) -> Result<Layers, PacketOutError> {
        let state = &self.continuation.state;
        let limit = if self.is_edited { limit } else { tag_count(&state.base) as u8 };
        parse::parse_limited(self.bytes, port, limit, key, layers)
            .map_err(PacketOutError::Parse)?;
        Ok(if self.is_edited { *layers } else { state.layers })
    }
}

/// Walks on, and leaves the result in `rec`, which is good for this once.
pub(super) fn walk_on<'a, 'w>(
    world: &'a mut World<'w>,
    packet: Subject<'a>,
    (rec, punts): (&'a mut Recording, &'a mut Punts),
    resume: Paused<'w>,
    datagram: Option<&'a mut Datagram>,
) {
    rec.clear();
    punts.clear();
    rec.cacheable = false;
    let paused = resume.continuation;
    let state = &paused.state;
    let Some(bridge) = world.program.bridges.get(usize::from(state.bridge)) else { return };
    let (place, mut nobody) = ((state.bridge, state.key.in_port), Silent);
    let mut w = Walk::new(world, packet, (rec, punts), &mut nobody, place, bridge);
    if resume.is_edited {
        (w.base, w.key) = (w.key.with_metadata_of(&state.key), w.key.with_metadata_of(&state.key));
    } else {
        (w.base, w.key, w.payload) = (state.base, state.key, state.payload);
        (w.came_with, w.len_untagged) = (stacked_bytes(&state.base), state.len_untagged);
    }
    (w.queue, w.in_set, w.has_left) = (state.queue, state.in_set, state.has_left);
    (w.translated, w.lineage) = (state.translated, state.lineage);
    if let Some(d) = &datagram {
        d.lend([&mut w.base, &mut w.key]);
    }
    w.datagram = datagram;
    w.rec.stack.extend_from_slice(&paused.stack);
    let end = paused.written().try_for_each(|written| w.set.write(Some(written)));
    let end = end.and_then(|()| w.at_ct(state.at.as_ref()));
    let end = end.and_then(|()| w.frames(&paused.frames));
    w.stand_in(state.maker.as_ref().map(|(rule, is_sent)| (rule, *is_sent)));
    let end = match end {
        end if state.runs_set => w.conclude(end),
        Err(Stop::Pause) => w.freeze(Left::None),
        end => end,
    };
    w.finish(end);
}

impl<'w> Walk<'_, 'w> {
    /// Runs the `ct` that a fragment has waited at.
    fn at_ct(&mut self, at: Option<&'w AtCt>) -> Flow {
        let Some(at) = at else { return Ok(()) };
        self.stand_in(at.owner.as_ref().map(|(rule, is_sent)| (rule, *is_sent)));
        self.ct(&at.ct)
    }

    /// Runs what is left of lists, from the inside out.
    fn frames(&mut self, frames: &'w [Frame]) -> Flow {
        let mut rest = frames.iter();
        while let Some(frame) = rest.next() {
            self.stand_in(Some((&frame.rule, frame.is_sent)));
            match self.list(frame.actions()) {
                Ok(()) => {}
                Err(Stop::Pause) => {
                    let mut outer = rest.cloned();
                    return outer.try_for_each(|f| self.keep_outer(f)).and(Err(Stop::Pause));
                }
                stop => return stop,
            }
        }
        Ok(())
    }

    /// Makes this the rule that is run.
    fn stand_in(&mut self, rule: Option<(&'w Arc<Rule>, bool)>) {
        self.table = rule.map_or(0, |(r, _)| r.table);
        (self.rule, self.sender) = match rule {
            Some((r, true)) => (None, Some(r)),
            Some((r, false)) => (Some(r), None),
            None => (None, None),
        };
    }

    /// Adds a list that was left before. Only an error ends this.
    fn keep_outer(&mut self, frame: Frame) -> Flow {
        match self.keep_frame(frame) {
            Err(Stop::Pause) => Ok(()),
            end => end,
        }
    }
}

impl FlowKey {
    /// The packet's fields of this key, and what no packet carries of another.
    fn with_metadata_of(&self, other: &Self) -> Self {
        Self {
            eth_dst: self.eth_dst,
            eth_src: self.eth_src,
            eth_type: self.eth_type,
            vlan_tci: self.vlan_tci,
            vlan_tpid: self.vlan_tpid,
            inner_tci: self.inner_tci,
            inner_tpid: self.inner_tpid,
            mpls_lse: self.mpls_lse,
            ip_src: self.ip_src,
            ip_dst: self.ip_dst,
            ipv6_src: self.ipv6_src,
            ipv6_dst: self.ipv6_dst,
            ipv6_label: self.ipv6_label,
            nd_target: self.nd_target,
            arp_sha: self.arp_sha,
            arp_tha: self.arp_tha,
            ip_proto: self.ip_proto,
            ip_tos: self.ip_tos,
            ip_ttl: self.ip_ttl,
            ip_frag: self.ip_frag,
            tp_src: self.tp_src,
            tp_dst: self.tp_dst,
            tcp_flags: self.tcp_flags,
            icmp_id: self.icmp_id,
            l3_lost: self.l3_lost,
            ..*other
        }
    }
}
