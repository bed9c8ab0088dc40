//! Packets that control sends (OpenFlow 1.5.1 section 7.3.6): bytes and actions, once.
//!
//! The actions are those of a rule that is in no table. They are walked as if a flow had them, with
//! nothing kept for later; what they do not say is not done, so an empty list drops the packet.

use super::execute::{Hand, Sent};
use super::miss::{Subject, World, walk_actions};
use super::rule::Rule;
use super::run::{Egress, Lane};
use super::upkeep::credit_item;
use crate::clock::Now;
use crate::counters::{Drop, Stat};
use crate::packet::key::{PacketKey, PortIx};
use crate::packet::parse::{self, Layers};
use crate::xsk::pool::FramePool;
use std::sync::Arc;

/// A packet and what is to be done with it.
#[derive(Clone, Debug)]
pub struct PacketOut {
    pub bytes: Box<[u8]>,
    /// OpenFlow number of the port that it is to have come by, and the port if it is one of ours.
    pub in_port: u32,
    pub port: Option<PortIx>,
    /// Names the bridge.
    pub rule: Arc<Rule>,
}

/// Why a packet was not sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PacketOutError {
    #[error("no frame is free")]
    NoFrame,
    #[error("a frame holds {0} bytes at most")]
    TooLong(usize),
    #[error("{}", .0.help())]
    Parse(Drop),
}

impl Lane {
    /// Sends a packet. What its actions drop is counted as ever.
    pub fn packet_out<E: Egress>(
        &mut self,
        out: &PacketOut,
        now: Now,
        pool: &mut FramePool,
        egress: &mut E,
    ) -> Result<(), PacketOutError> {
        let (mut key, mut layers) = (PacketKey::default(), Layers::default());
        let (port, limit) = (out.port.unwrap_or(PortIx::NONE), self.program.vlan_limit);
        parse::parse_limited(&out.bytes, port, limit, &mut key, &mut layers)
            .map_err(PacketOutError::Parse)?;
        let mut frame = pool.alloc().ok_or(PacketOutError::NoFrame)?;
        if !frame.copy_from(&out.bytes) {
            let room = frame.len() + frame.tailroom();
            pool.free(frame);
            return Err(PacketOutError::TooLong(room));
        }
        let program = self.program.clone();
        let mut world = World {
            program: &program,
            conntrack: &mut self.conntrack,
            counters: &self.counters,
            templates: &mut self.templates,
            events: &mut self.events,
            now,
            wide: false,
        };
        let bytes = frame.bytes();
        let subject =
            Subject { key: &key, bytes, layers: &layers, in_port: port, checksums_good: true };
        let record = (&mut self.recording, &mut self.punts);
        walk_actions(&mut world, subject, record, (out.in_port, &out.rule));
        let len = frame.len() as u64;
        for rule in &self.recording.rules {
            if let Some(r) = program.rules.get(*rule) {
                r.stats.add(1, len, now.ns);
            }
        }
        for item in &self.recording.credits {
            credit_item(&program, item, (1, len), now);
        }
        let mut sent = Sent::default();
        let mut hand = Hand {
            translations: &self.recording.translations,
            punts: &self.punts,
            packet_ins: &mut self.packet_ins,
            program: &program,
            now,
            chance: &mut self.chance,
            templates: &self.templates,
            counters: &self.counters,
            sent: &mut sent,
            pool,
            egress,
        };
        let steps = self.recording.steps.iter().copied();
        hand.execute(steps, self.recording.steps.len(), frame, &key, layers);
        self.punts.clear();
        self.counters.add(Stat::PacketOuts, 1);
        self.counters.add(Stat::TxPackets, sent.packets);
        self.counters.add(Stat::TxBytes, sent.bytes);
        Ok(())
    }
}
