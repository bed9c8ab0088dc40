//! Packets that control sends (OpenFlow 1.5.1 section 7.3.6): bytes and actions, once; and those
//! that it lets go on (`resume`).
//!
//! The actions are those of a rule that is in no table. They are walked as if a flow had them, with
//! nothing kept for later; what they do not say is not done, so an empty list drops the packet.

use super::execute::{Hand, Sent};
use super::hold::Datagram;
use super::home::tell_due;
use super::lane::{Egress, Lane};
use super::miss::walk_actions;
use super::resume::{Paused, Resume, walk_on};
use super::rule::Rule;
use super::upkeep::credit_item;
use super::world::{Subject, World};
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
    #[error("the bridge that it was paused in is gone")]
    NoBridge,
    #[error("the bridge maps other tunnel options than when the packet was paused")]
    OtherOptions,
    #[error("worker {0} has the packet's connection: give it to that one")]
    Elsewhere(u8),
}

/// What is walked.
pub(super) enum Job<'j> {
    Send(&'j PacketOut),
    Resume(Paused<'j>, PortIx),
    Fragment(Paused<'j>, PortIx, &'j mut Datagram),
}

impl Job<'_> {
    fn bytes(&self) -> &[u8] {
        match self {
            Self::Send(out) => &out.bytes,
            Self::Resume(paused, _) | Self::Fragment(paused, ..) => paused.bytes,
        }
    }

    /// Lifts the key, and says where the headers are. Those of `layers` are what the walk sees.
    fn parse(
        &self,
        limit: u8,
        key: &mut PacketKey,
        layers: &mut Layers,
    ) -> Result<Layers, PacketOutError> {
        match self {
            Self::Send(out) => {
                let port = out.port.unwrap_or(PortIx::NONE);
                parse::parse_limited(&out.bytes, port, limit, key, layers)
                    .map_err(PacketOutError::Parse)?;
                Ok(*layers)
            }
            Self::Resume(paused, port) => paused.parse((*port, limit), key, layers),
            Self::Fragment(paused, port, d) => {
                let mut headers = paused.parse((*port, limit), key, layers)?;
                if headers.l4 != 0 {
                    // SCTP's checksum follows its ports by the length of the whole.
                    headers.end = headers.l4.saturating_add(d.l4_len() as u16);
                }
                Ok(headers)
            }
        }
    }

    fn checksums_good(&self) -> bool {
        match self {
            Self::Send(_) => true,
            Self::Resume(p, _) | Self::Fragment(p, ..) => {
                !p.is_edited && p.continuation.checksums_good()
            }
        }
    }
}

impl Lane {
    /// Sends a packet. What its actions drop is counted as ever. Where this worker is the home of
    /// its tuple, and has been told that another one has the connection, it is to go there.
    pub fn packet_out<E: Egress>(
        &mut self,
        out: &PacketOut,
        now: Now,
        pool: &mut FramePool,
        egress: &mut E,
    ) -> Result<(), PacketOutError> {
        if self.has_homes {
            self.see_rooms(egress);
            if let Some(worker) = self.redirect_of(&out.bytes) {
                return Err(PacketOutError::Elsewhere(worker));
            }
        }
        self.walk_once(&mut Job::Send(out), now, pool, egress)?;
        self.release_fragments(now, pool, egress);
        self.counters.add(Stat::PacketOuts, 1);
        Ok(())
    }

    /// Lets a paused packet go on. What its actions drop is counted as ever.
    pub fn resume<E: Egress>(
        &mut self,
        resume: &Resume,
        now: Now,
        pool: &mut FramePool,
        egress: &mut E,
    ) -> Result<(), PacketOutError> {
        let port = resume.paused().port(&self.program)?;
        if self.has_homes {
            self.see_rooms(egress);
        }
        self.walk_once(&mut Job::Resume(resume.paused(), port), now, pool, egress)?;
        self.release_fragments(now, pool, egress);
        self.counters.add(Stat::Resumes, 1);
        Ok(())
    }

    pub(super) fn walk_once<E: Egress>(
        &mut self,
        job: &mut Job<'_>,
        now: Now,
        pool: &mut FramePool,
        egress: &mut E,
    ) -> Result<(), PacketOutError> {
        let (mut key, mut layers) = (PacketKey::default(), Layers::default());
        let headers = job.parse(self.program.vlan_limit, &mut key, &mut layers)?;
        let mut frame = pool.alloc().ok_or(PacketOutError::NoFrame)?;
        if !frame.copy_from(job.bytes()) {
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
            commits: &mut self.commits,
            events: &mut self.events,
            now,
            wide: false,
        };
        let (in_port, checksums_good) = (PortIx(key.base.in_port), job.checksums_good());
        let bytes = frame.bytes();
        let subject = Subject { key: &key, bytes, layers: &layers, in_port, checksums_good };
        let record = (&mut self.recording, &mut self.punts);
        match job {
            Job::Send(out) => {
                walk_actions(&mut world, subject, record, (out.in_port, &out.rule));
            }
            Job::Resume(paused, _) => walk_on(&mut world, subject, record, *paused, None),
            Job::Fragment(paused, _, d) => {
                walk_on(&mut world, subject, record, *paused, Some(d));
            }
        }
        tell_due(&mut self.conntrack, egress);
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
            punts: Some(&self.punts),
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
        hand.execute(steps, self.recording.steps.len(), frame, &key, headers);
        self.punts.clear();
        self.counters.add(Stat::TxPackets, sent.packets);
        self.counters.add(Stat::TxBytes, sent.bytes);
        Ok(())
    }
}
