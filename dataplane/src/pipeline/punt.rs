//! Packets for controllers (OpenFlow 1.5.1 section 7.4.1), and `sample`.
//!
//! A walk says what goes along ([`Punt`]), and what is left of it if it pauses (`freeze`); the
//! packet itself is copied when the step is run, as it is edited by then. The copies wait in
//! buffers that were made at the start ([`PacketIns`]): control takes a full one
//! (`worker::mailbox`), and gives it back when it is done. If none is free the packet is lost and
//! counted. Walks with a copy for a controller are not cached: such traffic is slow anyway.

use super::freeze::{Continuation, Punts};
use super::hold::Holds;
use super::miss::{Flow, Stop, Walk};
use crate::action::step::Step;
use crate::action::{Controller, PacketInReason};
use crate::conntrack::frag::FragConfig;
use crate::counters::{Drop, Stat};
use crate::limits::{PACKET_IN_MAX_BYTES, PACKET_INS_MAX, RECORDED_PUNTS_MAX};
use crate::packet::key::FlowKey;
use crate::packet::parse::Layers;
use std::collections::VecDeque;
use std::sync::Arc;

/// What goes to a controller besides the packet.
#[derive(Clone, Debug, PartialEq)]
pub struct Punt {
    /// Index of the bridge that sends it.
    pub bridge: u16,
    pub reason: PacketInReason,
    pub table: u8,
    /// Of the flow whose action it was; all ones if it was none's.
    pub cookie: u64,
    pub controller_id: u16,
    /// Bytes of the packet that go along. One that is paused goes whole.
    pub max_len: u16,
    pub userdata: Option<Arc<[u8]>>,
    /// The pipeline stopped here.
    pub pause: bool,
    /// Meter of the bridge that the copy has to pass.
    pub meter: Option<u32>,
    /// Metadata, and all other fields, at this point of the pipeline.
    pub key: FlowKey,
}

/// A packet for a controller.
#[derive(Debug)]
pub struct PacketIn {
    punt: Punt,
    total_len: usize,
    len: usize,
    bytes: Box<[u8]>,
    /// What is left of the walk, if it is paused.
    continuation: Continuation,
}

impl PacketIn {
    fn new() -> Self {
        let punt = Punt {
            bridge: 0,
            reason: PacketInReason::Action,
            table: 0,
            cookie: 0,
            controller_id: 0,
            max_len: 0,
            userdata: None,
            pause: false,
            meter: None,
            key: FlowKey::ZERO,
        };
        let (bytes, continuation) = (vec![0; PACKET_IN_MAX_BYTES].into(), Continuation::default());
        Self { punt, total_len: 0, len: 0, bytes, continuation }
    }

    pub fn punt(&self) -> &Punt {
        &self.punt
    }

    /// The packet's first `max_len` bytes, edits of the pipeline included.
    pub fn bytes(&self) -> &[u8] {
        self.bytes.get(..self.len).unwrap_or(&[])
    }

    /// Length of the whole packet.
    pub fn total_len(&self) -> usize {
        self.total_len
    }

    /// Lets go of what is shared: to be called by control before it gives the buffer back, for a
    /// worker does not free.
    pub fn clear(&mut self) {
        self.punt.userdata = None;
        self.continuation.clear();
    }

    /// What is left of a walk that pauses; a resume needs it, and the bytes.
    pub fn take_continuation(&mut self) -> Option<Continuation> {
        self.punt.pause.then(|| std::mem::take(&mut self.continuation))
    }

    fn fill(&mut self, punt: &Punt, packet: &[u8]) {
        self.punt.clone_from(punt);
        self.total_len = packet.len();
        let max_len = if punt.pause { u16::MAX } else { punt.max_len };
        self.len = packet.len().min(usize::from(max_len)).min(self.bytes.len());
        if let (Some(to), Some(from)) = (self.bytes.get_mut(..self.len), packet.get(..self.len)) {
            to.copy_from_slice(from);
        }
    }
}

/// A lane's buffers for packets that stop on their way.
#[derive(Debug)]
pub struct PacketIns {
    free: Vec<PacketIn>,
    full: VecDeque<PacketIn>,
    /// What stops for itself.
    pub(super) holds: Holds,
}

impl Default for PacketIns {
    fn default() -> Self {
        Self::new(FragConfig::default())
    }
}

impl PacketIns {
    pub(super) fn new(fragments: FragConfig) -> Self {
        let free = (0..PACKET_INS_MAX).map(|_| PacketIn::new()).collect();
        let full = VecDeque::with_capacity(PACKET_INS_MAX);
        Self { free, full, holds: Holds::new(fragments) }
    }

    /// Keeps a copy of the packet; false if no buffer is free.
    pub(crate) fn keep(&mut self, punt: &Punt, packet: &[u8]) -> bool {
        let Some(mut buffer) = self.free.pop() else { return false };
        buffer.fill(punt, packet);
        self.full.push_back(buffer);
        true
    }

    /// The same for a packet that pauses; also false if it can never go on.
    pub(super) fn keep_paused(
        &mut self,
        (punts, at): (&Punts, usize),
        packet: &[u8],
        layers: Layers,
    ) -> bool {
        let Some(punt) = punts.get(at).filter(|_| packet.len() <= PACKET_IN_MAX_BYTES) else {
            return false;
        };
        let Some(mut buffer) = self.free.pop() else { return false };
        if !punts.freeze(at, layers, &mut buffer.continuation) {
            self.free.push(buffer);
            return false;
        }
        buffer.fill(punt, packet);
        self.full.push_back(buffer);
        true
    }

    /// The oldest packet that waits.
    pub fn take(&mut self) -> Option<PacketIn> {
        self.full.pop_front()
    }

    /// Whether every buffer is here and free.
    #[inline]
    pub fn is_at_rest(&self) -> bool {
        self.free.len() == PACKET_INS_MAX
    }

    /// Takes a buffer back. One that came from elsewhere is dropped.
    pub fn give_back(&mut self, buffer: PacketIn) {
        if self.free.len() + self.full.len() < PACKET_INS_MAX {
            self.free.push(buffer);
        }
    }
}

impl Controller {
    /// Whether this is what `output:CONTROLLER` is.
    pub fn is_plain_output(&self) -> bool {
        self.reason == PacketInReason::Action
            && self.controller_id == 0
            && self.userdata.is_empty()
            && !self.pause
            && self.meter.is_none()
    }
}

impl<'w> Walk<'_, 'w> {
    /// `controller(...)`. With `pause` this copy of the packet goes on when it is resumed; a dry
    /// walk shows at once how.
    #[inline(never)]
    pub(super) fn controller(&mut self, c: &'w Controller) -> Flow {
        let reason = match c.reason {
            PacketInReason::Action if c.is_plain_output() => self.own_reason(),
            PacketInReason::Action if self.is_table_miss() => PacketInReason::NoMatch,
            reason => reason,
        };
        if c.pause {
            // What goes on is looked at anew.
            self.unveil();
        }
        let punt = Punt {
            controller_id: c.controller_id,
            max_len: c.max_len,
            userdata: (!c.userdata.is_empty()).then(|| c.userdata.clone()),
            pause: c.pause,
            meter: c.meter,
            ..self.punt_of(reason)
        };
        let told = self.punts.len();
        self.punt(punt)?;
        match c.pause && !self.dry {
            false => Ok(()),
            true if self.punts.len() > told => self.halt(None),
            true => {
                self.drop_copy(Drop::PauseLost);
                Err(Stop::Pause)
            }
        }
    }

    /// `output` to a range that holds the controller's number.
    #[inline(never)]
    pub(super) fn output_controller(&mut self) -> Flow {
        self.punt(self.punt_of(self.own_reason()))
    }

    /// Why the list that is run sends packets to a controller.
    fn own_reason(&self) -> PacketInReason {
        match (self.in_bucket, self.in_set, self.is_table_miss()) {
            (true, _, _) => PacketInReason::Group,
            (_, true, _) => PacketInReason::ActionSet,
            (_, _, true) => PacketInReason::NoMatch,
            _ => PacketInReason::Action,
        }
    }

    /// Tells controllers of a TTL that must not be decremented.
    #[inline(never)]
    pub(super) fn tell_ttl(&mut self, controllers: &[u16]) -> Flow {
        controllers.iter().try_for_each(|id| {
            let punt = self.punt_of(PacketInReason::InvalidTtl);
            self.punt(Punt { controller_id: *id, ..punt })
        })
    }

    pub(super) fn punt_of(&self, reason: PacketInReason) -> Punt {
        Punt {
            bridge: self.bridge_ix,
            reason,
            table: self.table,
            cookie: self.rule.map_or(u64::MAX, |r| r.cookie),
            controller_id: 0,
            max_len: u16::MAX,
            userdata: None,
            pause: false,
            meter: None,
            key: self.key,
        }
    }

    fn punt(&mut self, punt: Punt) -> Flow {
        self.commit()?;
        self.rec.cacheable = false;
        self.seen.controller(&punt);
        if self.punts.len() >= RECORDED_PUNTS_MAX {
            self.count(Stat::PacketInsLost);
            return Ok(());
        }
        let at = self.punts.len() as u16;
        self.punts.push(punt);
        self.emit(Step::PacketIn(at))
    }

    /// Whether the flow that is met is the table's catch-all of priority 0.
    fn is_table_miss(&self) -> bool {
        self.rule
            .is_some_and(|r| r.priority == 0 && r.matching.mask().words().iter().all(|w| *w == 0))
    }
}
