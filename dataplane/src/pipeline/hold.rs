//! Fragments at `ct`: they wait, their datagram is judged, and they go on.
//!
//! A walk that meets `ct` with a fragment stops this copy of the packet in front of the action, as
//! `controller(pause)` would behind it (`freeze`): edits made so far are in the bytes, all else is
//! in the continuation, and both wait in [`Holds`]. The fragment that completes a datagram lets all
//! of them go on, in order of offset, each through its own `ct` with the datagram in hand. Copies
//! of the packet that meet no `ct` do not wait.
//!
//! **One verdict.** The first fragment asks connection tracking, the others are told what it was
//! told ([`Verdict`]): a datagram moves a window once. They meet further `ct`s with the datagram
//! still in hand, so nothing waits twice. (Open vSwitch puts it together anew at each `ct`.)
//!
//! **NAT** is written into each fragment's IP header, and into the transport header of the first
//! one. Checksums follow by difference, which is right for the whole without looking at it.
//!
//! **A program that changes** meanwhile finds the fragments as it finds paused packets: lists are
//! run as they were, lookups meet what is there by then. If their bridge is gone, or maps other
//! tunnel options, they are dropped.
//!
//! **Bytes, not frames.** A frame of the UMEM that waits is missed by its rings, so what waits is a
//! copy: a flood of fragments takes nothing from others but the time to copy it. What they wait in
//! is made by first use, and used again.
//!
//! A fragmented ICMP error that two zones translate is invalid to the second one.

use super::execute::Hand;
use super::freeze::{Continuation, Punts};
use super::lane::{Egress, Lane};
use super::miss::{Flow, Stop, Walk};
use super::packet_out::Job;
use super::resume::Paused;
use crate::action::step::Step;
use crate::action::{Ct, PacketInReason};
use crate::clock::Now;
use crate::conntrack::frag::table::{Fragments, Refused, Taken, Waiting};
use crate::conntrack::frag::{FragConfig, FragKey, Payload, Piece};
use crate::conntrack::{Commit, CtPacket, CtResult, Kind, NatRewrite, Tuple};
use crate::counters::{Counters, Drop, Stat};
use crate::limits::{DATAGRAM_VERDICTS_MAX, FRAME_SIZE_BYTES, RECORDED_PUNTS_MAX};
use crate::packet::frame::Frame;
use crate::packet::key::{FRAG_ANY, FRAG_LATER, FlowKey, shape};
use crate::packet::l4sum;
use crate::packet::parse::Layers;
use crate::xsk::pool::FramePool;
use std::ops::Range;

/// What waits of a fragment.
#[derive(Debug)]
struct Held {
    bytes: Vec<u8>,
    /// Its share of the datagram, in `bytes`.
    data: Range<usize>,
    piece: Option<Piece>,
    continuation: Continuation,
}

impl Default for Held {
    fn default() -> Self {
        let continuation = Continuation::empty();
        Self { bytes: Vec::new(), data: 0..0, piece: None, continuation }
    }
}

impl Held {
    fn data(&self) -> &[u8] {
        self.bytes.get(self.data.clone()).unwrap_or(&[])
    }
}

impl Waiting for Held {
    fn clear(&mut self) {
        self.continuation.clear();
    }
}

/// What connection tracking said of a datagram, for all its fragments.
#[derive(Debug)]
struct Verdict {
    zone: u16,
    tuple: Tuple,
    commit: Option<Commit>,
    result: CtResult,
    rewrite: Option<NatRewrite>,
}

/// A datagram whose fragments go on.
#[derive(Debug, Default)]
pub(super) struct Datagram {
    payload: Payload,
    /// Ports and ICMP identifier, as the first fragment has them by now.
    ports: (u16, u16),
    icmp_id: u16,
    /// The first fragment holds the transport header.
    is_complete: bool,
    verdicts: Vec<Verdict>,
    parts: Vec<u32>,
    /// What the last `ct` is to write.
    rewrite: Option<NatRewrite>,
}

impl Datagram {
    /// Bytes from the transport header on.
    pub fn l4_len(&self) -> usize {
        self.payload.l4().len()
    }

    /// Lends a later fragment what only the first one has. None of it is written: the bytes have
    /// no place for it.
    pub fn lend(&self, keys: [&mut FlowKey; 2]) {
        for key in keys {
            if key.ip_frag & FRAG_LATER != 0 {
                ((key.tp_src, key.tp_dst), key.icmp_id) = (self.ports, self.icmp_id);
            }
        }
    }

    fn begin(&mut self, first: &Held) {
        self.verdicts.clear();
        let state = &first.continuation.state;
        self.ports = (state.key.tp_src, state.key.tp_dst);
        self.icmp_id = state.key.icmp_id;
        self.is_complete = state.payload.shape & shape::L4_VALID != 0;
        if let Some(piece) = &first.piece {
            self.payload.begin(piece);
        }
    }

    fn packet(&self, key: &FlowKey, zone: u16) -> CtPacket {
        let whole = FlowKey { ip_frag: 0, ip_proto: self.payload.proto(), ..*key };
        let mut packet = CtPacket::from_key(&whole, self.payload.l4(), zone);
        packet.checksum_ok = self.payload.is_good();
        if packet.tuple.has_ports() && !self.is_complete {
            packet.kind = Kind::Invalid;
        }
        packet
    }
}

/// A lane's fragments.
#[derive(Debug)]
pub(super) struct Holds {
    fragments: Fragments<Held>,
    ready: Vec<FragKey>,
    datagram: Datagram,
}

impl Holds {
    pub fn new(cfg: FragConfig) -> Self {
        let datagram = Datagram {
            payload: Payload::with_room(),
            verdicts: Vec::with_capacity(DATAGRAM_VERDICTS_MAX),
            parts: Vec::with_capacity(cfg.held_max),
            ..Datagram::default()
        };
        let ready = Vec::with_capacity(RECORDED_PUNTS_MAX);
        Self { fragments: Fragments::new(cfg), ready, datagram }
    }

    /// Fragments that wait.
    pub fn held(&self) -> usize {
        self.fragments.held()
    }

    /// Drops what has waited too long, in at most so many datagrams.
    pub fn expire(&mut self, now: Now, most: usize, counters: &Counters) {
        self.fragments.expire(now, most);
        self.count(counters);
    }

    fn count(&mut self, counters: &Counters) {
        let drops = self.fragments.take_drops();
        counters.count_drops(Drop::FragmentOverlap, drops.overlap);
        counters.count_drops(Drop::FragmentDuplicate, drops.duplicate);
        counters.count_drops(Drop::FragmentLimit, drops.limit);
        counters.count_drops(Drop::FragmentTimeout, drops.timeout);
    }

    /// Keeps a fragment, of which this is left.
    fn keep(
        &mut self,
        (punts, at): (&Punts, usize),
        (bytes, layers): (&[u8], Layers),
        now: Now,
        counters: &Counters,
    ) {
        let taken = self.take((punts, at), (bytes, layers), now);
        if taken.is_none() {
            counters.count_drop(Drop::EditFailed);
        }
        if matches!(taken, Some(Ok(_))) {
            counters.add(Stat::CtFragments, 1);
        }
        self.count(counters);
    }

    fn take(
        &mut self,
        (punts, at): (&Punts, usize),
        (bytes, layers): (&[u8], Layers),
        now: Now,
    ) -> Option<Result<Taken, Refused>> {
        // A first fragment that was let go before has the end of its datagram.
        let (l3, end) = (usize::from(layers.l3), usize::from(layers.end).min(bytes.len()));
        let piece = Piece::read(bytes.get(l3..end)?, self.fragments.config())?;
        let (zone, place) = punts.waits(at)?;
        let key = FragKey::new(&piece, zone, place);
        let data = l3 + piece.data.start..l3 + piece.data.end;
        let here = bytes.get(data.clone())?;
        let taken = match self.fragments.take(key, &piece, now, |held| held.data() == here) {
            Ok(taken) => taken,
            Err(refused) => return Some(Err(refused)),
        };
        let held = self.fragments.waiting(taken.part)?;
        held.bytes.clear();
        held.bytes.reserve(bytes.len().max(FRAME_SIZE_BYTES as usize));
        held.bytes.extend_from_slice(bytes);
        (held.data, held.piece) = (data, Some(piece));
        punts.freeze(at, layers, &mut held.continuation);
        if taken.is_whole {
            self.ready.push(key);
        }
        Some(Ok(taken))
    }

    /// Puts a datagram together. Its parts are the caller's.
    fn assemble(&mut self, key: &FragKey) -> Datagram {
        let mut d = std::mem::take(&mut self.datagram);
        self.fragments.release(key, &mut d.parts);
        for n in 0..d.parts.len() {
            let Some(held) = self.fragments.waiting(d.parts[n]) else { continue };
            if n == 0 {
                d.begin(held);
            }
            d.payload.push(held.data());
        }
        d.payload.finish();
        d
    }
}

impl<E: Egress> Hand<'_, E> {
    /// Keeps a fragment until its datagram is whole.
    #[cold]
    pub(super) fn hold(&mut self, punts: (&Punts, usize), frame: &Frame, layers: Layers) {
        let holds = &mut self.packet_ins.holds;
        holds.keep(punts, (frame.bytes(), layers), self.now, self.counters);
    }
}

impl Lane {
    /// Fragments that wait, at a `ct` or for the first of their datagram.
    pub fn fragments_held(&self) -> usize {
        self.packet_ins.holds.held() + self.pieces.held()
    }

    /// Lets the fragments of datagrams go on that are whole by now.
    #[inline]
    pub(super) fn release_fragments<E: Egress>(
        &mut self,
        now: Now,
        pool: &mut FramePool,
        egress: &mut E,
    ) {
        if !self.packet_ins.holds.ready.is_empty() {
            self.release_datagrams(now, pool, egress);
        }
    }

    #[cold]
    fn release_datagrams<E: Egress>(&mut self, now: Now, pool: &mut FramePool, egress: &mut E) {
        while let Some(key) = self.packet_ins.holds.ready.pop() {
            let mut d = self.packet_ins.holds.assemble(&key);
            self.counters.add(Stat::CtDatagrams, 1);
            for n in 0..d.parts.len() {
                let part = d.parts[n];
                let fragments = &mut self.packet_ins.holds.fragments;
                let Some(held) = fragments.waiting(part).map(std::mem::take) else { continue };
                self.go_on(&held, &mut d, now, pool, egress);
                let fragments = &mut self.packet_ins.holds.fragments;
                if let Some(place) = fragments.waiting(part) {
                    *place = held;
                }
                fragments.free(part);
            }
            self.packet_ins.holds.datagram = d;
        }
    }

    fn go_on<E: Egress>(
        &mut self,
        held: &Held,
        d: &mut Datagram,
        now: Now,
        pool: &mut FramePool,
        egress: &mut E,
    ) {
        let bytes = &held.bytes;
        let paused = Paused { bytes, is_edited: false, continuation: &held.continuation };
        let went = paused.port(&self.program).and_then(|port| {
            self.walk_once(&mut Job::Fragment(paused, port, d), now, pool, egress)
        });
        if went.is_err() {
            self.counters.count_drop(Drop::FragmentLost);
        }
    }
}

impl Walk<'_, '_> {
    /// Whether the packet is a fragment that has to wait for the others of its datagram.
    pub(super) fn has_to_wait(&mut self) -> bool {
        self.key.ip_frag & FRAG_ANY != 0 && self.datagram.is_none() && self.is_piece()
    }

    #[cold]
    fn is_piece(&mut self) -> bool {
        let p = self.packet;
        let mut room = None;
        let (bare, layers) = p.behind_labels(&mut room);
        if self.payload.shape & shape::L3_VALID == 0
            || !p.checksums_good && !l4sum::verify_ipv4_header(p.bytes, &layers, bare)
        {
            return false;
        }
        let ip = p.bytes.get(usize::from(layers.l3)..usize::from(layers.end)).unwrap_or(&[]);
        let is_piece = Piece::read(ip, self.world.conntrack.fragments()).is_some();
        if is_piece && self.dry {
            self.seen.note("a fragment: it waits here for the others of its datagram");
        }
        is_piece && !self.dry
    }

    /// Stops this copy of the packet in front of a `ct`.
    #[cold]
    #[inline(never)]
    pub(super) fn hold(&mut self, ct: &Ct, zone: u16) -> Flow {
        self.rec.cacheable = false;
        if self.punts.len() >= RECORDED_PUNTS_MAX {
            self.drop_copy(Drop::FragmentLimit);
            return Err(Stop::Pause);
        }
        let at = self.punts.len() as u16;
        let punt = self.punt_of(PacketInReason::Action);
        self.punts.push(punt);
        self.emit(Step::PacketIn(at))?;
        self.halt_at_ct(ct, zone)
    }

    /// The datagram as connection tracking sees it.
    pub(super) fn whole_packet(&self, key: &FlowKey, zone: u16) -> Option<CtPacket> {
        let d = self.datagram.as_ref()?;
        let mut packet = d.packet(key, zone);
        if self.packet.checksums_good {
            packet.checksum_ok = true;
        }
        Some(packet)
    }

    /// What connection tracking says of the datagram: to its first fragment, and again to others.
    #[cold]
    pub(super) fn track_datagram(&mut self, ct: &Ct, packet: &CtPacket) -> CtResult {
        self.rec.cacheable = false;
        let (zone, tuple) = (packet.zone, packet.tuple);
        let commit = ct.commit.then(|| self.commit_of(ct));
        let known = self.datagram.as_mut().and_then(|d| {
            let is_it = |v: &&Verdict| (v.zone, v.tuple, v.commit) == (zone, tuple, commit);
            let known = d.verdicts.iter().find(is_it)?;
            d.rewrite = known.rewrite;
            Some(known.result)
        });
        if let Some(result) = known {
            return result;
        }
        let result = self.track(ct, packet).0;
        let rewrite = self.world.conntrack.nat_rewrite(&result);
        if let Some(d) = &mut self.datagram {
            d.rewrite = rewrite;
            if d.verdicts.len() < DATAGRAM_VERDICTS_MAX {
                d.verdicts.push(Verdict { zone, tuple, commit, result, rewrite });
            }
        }
        result
    }

    /// What a `ct(nat)` is to write.
    pub(super) fn rewrite_of(&self, result: &CtResult) -> Option<NatRewrite> {
        match &self.datagram {
            Some(d) => d.rewrite,
            None => self.world.conntrack.nat_rewrite(result),
        }
    }
}
