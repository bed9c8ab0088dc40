//! Bounded rings between control and one worker: commands and replies; packets for controllers,
//! and their buffers on the way back.
//!
//! Whatever a command carries comes back in its reply, so that control both makes and frees it:
//! programs, ports, the lists that a worker fills. A reply that finds its ring full waits in the
//! worker for the next round (`pending`), never lost, and no command is taken meanwhile.
//!
//! **Packets for controllers** wait in buffers that the lane made at its start (`pipeline::punt`).
//! A round moves so many of them at most, and both rings have room for all there are, so the worker
//! neither waits nor allocates. When control does not give buffers back, further packets are lost
//! and counted (`packet_ins_lost`): nothing else of the switch notices.

use crate::conntrack::{
    BackendFilter, ConnFilter, ConnInfo, CtReport, CtSettings, PoolReport, ZoneReport,
};
use crate::limits::PACKET_INS_MAX;
use crate::packet::key::PortIx;
use crate::pipeline::Resume;
use crate::pipeline::miss::Event;
use crate::pipeline::packet_out::{PacketOut, PacketOutError};
use crate::pipeline::program::Program;
use crate::pipeline::punt::{PacketIn, PacketIns};
use crate::port::{AnyPort, PortStats};
use crate::sys::wait::Waker;
use rtrb::{Consumer, Producer, RingBuffer};
use std::sync::Arc;

/// Commands and replies that can be under way.
const MAIL_MAX: usize = 256;
/// Packets for controllers, and buffers, that one round of the worker moves.
const PACKET_INS_A_ROUND: usize = 32;

/// What control asks of a worker.
pub enum Command {
    /// Judge by this from the next batch on.
    Program(Arc<Program>),
    AddPort(PortIx, Box<AnyPort>),
    /// Close it and give it back.
    RemovePort(PortIx),
    /// Another worker sends what goes to this port; `None`: nobody does any more.
    SendVia(PortIx, Option<u8>),
    /// Credit all counts to the rules.
    Settle,
    /// Fill the list, as far as its capacity goes.
    Ports(Vec<PortReport>),
    /// A slice of the connections that the filter means, from a place on.
    Connections {
        list: Vec<ConnInfo>,
        filter: Box<ConnFilter>,
        from: u32,
    },
    FlushConnections {
        filter: Box<ConnFilter>,
        from: u32,
    },
    /// A slice of the connections to backends that are gone.
    FlushBackends {
        filter: Arc<BackendFilter>,
        from: u32,
    },
    /// Change settings of connection tracking, and say how it stands.
    Conntrack(CtSettings),
    /// A slice of the zones with anything to show.
    CtZones {
        list: Vec<ZoneReport>,
        from: u16,
    },
    CtPools(Vec<PoolReport>),
    /// Send a packet.
    PacketOut(Box<PacketOut>),
    /// Let a paused packet go on.
    Resume(Box<Resume>),
    Stop,
}

/// What a worker says.
#[expect(clippy::large_enum_variant, reason = "made at the start: a worker does not allocate")]
pub enum Reply {
    /// The program that no longer holds, and the version up to which rules that went are named by
    /// no cache entry (`Lane::swept`).
    Program {
        old: Arc<Program>,
        swept: u64,
    },
    /// A port that the worker gives up, closed.
    Port(PortIx, Option<Box<AnyPort>>),
    SendsVia(PortIx),
    Settled,
    Ports {
        list: Vec<PortReport>,
        frames: FramesReport,
    },
    /// `next` is the place to go on from; `None`: that was all.
    Connections {
        list: Vec<ConnInfo>,
        filter: Box<ConnFilter>,
        next: Option<u32>,
    },
    Flushed {
        filter: Box<ConnFilter>,
        gone: usize,
        next: Option<u32>,
    },
    FlushedBackends {
        filter: Arc<BackendFilter>,
        gone: usize,
        next: Option<u32>,
    },
    Conntrack(CtReport),
    CtZones {
        list: Vec<ZoneReport>,
        next: Option<u16>,
    },
    CtPools(Vec<PoolReport>),
    PacketOut(Box<PacketOut>, Result<(), PacketOutError>),
    Resumed(Box<Resume>, Result<(), PacketOutError>),
    /// A port went up or down.
    PortsChanged,
    Event(Event),
}

/// A port as its worker sees it.
#[derive(Clone, Copy, Debug)]
pub struct PortReport {
    pub port: PortIx,
    pub up: bool,
    pub stats: PortStats,
    pub frames_held: usize,
}

/// Where a worker's frames are that no port holds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct FramesReport {
    pub free: usize,
    /// In rings from other workers.
    pub waiting: usize,
    /// As many as it started with.
    pub total: usize,
}

/// Control's end.
pub struct Mailbox {
    commands: Producer<Command>,
    replies: Consumer<Reply>,
    packet_ins: Consumer<PacketIn>,
    buffers: Producer<PacketIn>,
    waker: Waker,
}

/// The worker's end.
pub struct WorkerEnd {
    commands: Consumer<Command>,
    replies: Producer<Reply>,
    packet_ins: Producer<PacketIn>,
    buffers: Consumer<PacketIn>,
    pending: Option<Reply>,
    lost: u64,
}

/// Makes both ends.
pub fn mailbox(waker: Waker) -> (Mailbox, WorkerEnd) {
    let (commands, take) = RingBuffer::new(MAIL_MAX);
    let (tell, replies) = RingBuffer::new(MAIL_MAX);
    let (full, packet_ins) = RingBuffer::new(PACKET_INS_MAX);
    let (buffers, free) = RingBuffer::new(PACKET_INS_MAX);
    let worker = WorkerEnd {
        commands: take,
        replies: tell,
        packet_ins: full,
        buffers: free,
        pending: None,
        lost: 0,
    };
    (Mailbox { commands, replies, packet_ins, buffers, waker }, worker)
}

impl Mailbox {
    /// Sends a command and wakes the worker; gives it back when the ring is full.
    pub fn send(&mut self, command: Command) -> Result<(), Command> {
        let rtrb::PushError::Full(back) = match self.commands.push(command) {
            Ok(()) => {
                self.waker.wake();
                return Ok(());
            }
            Err(e) => e,
        };
        Err(back)
    }

    /// The next thing the worker said.
    pub fn receive(&mut self) -> Option<Reply> {
        self.replies.pop().ok()
    }

    /// Takes up to `max` packets for controllers and gives their buffers back.
    pub fn packet_ins(&mut self, max: usize, mut hear: impl FnMut(&mut PacketIn)) {
        for _ in 0..max {
            let Ok(mut packet) = self.packet_ins.pop() else { return };
            hear(&mut packet);
            packet.clear();
            // There is room for all that there are.
            _ = self.buffers.push(packet);
        }
    }

    /// Whether the worker is gone.
    pub fn is_abandoned(&self) -> bool {
        self.commands.is_abandoned()
    }
}

impl WorkerEnd {
    /// The next command, unless a reply still waits to be taken.
    pub(super) fn next(&mut self) -> Option<Command> {
        if let Some(reply) = self.pending.take()
            && let Err(rtrb::PushError::Full(back)) = self.replies.push(reply)
        {
            self.pending = Some(back);
            return None;
        }
        self.commands.pop().ok()
    }

    /// Hands over packets for controllers and takes buffers back.
    #[inline]
    pub(super) fn exchange(&mut self, held: &mut PacketIns) {
        if !held.is_at_rest() {
            self.exchange_some(held);
        }
    }

    #[cold]
    fn exchange_some(&mut self, held: &mut PacketIns) {
        for _ in 0..PACKET_INS_A_ROUND {
            let Ok(buffer) = self.buffers.pop() else { break };
            held.give_back(buffer);
        }
        for _ in 0..PACKET_INS_A_ROUND {
            if self.packet_ins.is_full() {
                break;
            }
            let Some(packet) = held.take() else { break };
            _ = self.packet_ins.push(packet);
        }
    }

    /// Says something. News that can be had again are dropped when the ring is full; answers wait.
    pub(super) fn tell(&mut self, reply: Reply) {
        let Err(rtrb::PushError::Full(back)) = self.replies.push(reply) else { return };
        match back {
            Reply::Event(_) | Reply::PortsChanged => self.lost += 1,
            // `next` takes no command while one answer waits, so there is never a second.
            answer => self.pending = Some(answer),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::action::PacketInReason;
    use crate::packet::key::FlowKey;
    use crate::pipeline::punt::Punt;

    fn punt() -> Punt {
        Punt {
            bridge: 0,
            reason: PacketInReason::Action,
            table: 3,
            cookie: 7,
            controller_id: 0,
            max_len: u16::MAX,
            userdata: Some([1, 2].into()),
            pause: false,
            meter: None,
            key: FlowKey::ZERO,
        }
    }

    /// Every buffer goes round, a round moves a bounded number, and who does not listen loses
    /// packets and no more.
    #[test]
    fn packets_for_controllers_go_over_and_their_buffers_come_back() {
        let (mut control, mut worker) = mailbox(Waker::new().unwrap());
        let mut held = PacketIns::default();
        assert!(held.is_at_rest());
        for lap in 0..3 * PACKET_INS_MAX {
            assert!(held.keep(&punt(), &[lap as u8; 60]), "lap {lap}");
            worker.exchange(&mut held);
            let mut seen = Vec::new();
            control.packet_ins(8, |p| seen.push((p.bytes()[0], p.punt().cookie, p.total_len())));
            assert_eq!(seen, [(lap as u8, 7, 60)]);
        }
        worker.exchange(&mut held);
        assert!(held.is_at_rest());
        let kept = (0..2 * PACKET_INS_MAX).filter(|_| held.keep(&punt(), &[0; 60])).count();
        assert_eq!(kept, PACKET_INS_MAX);
        worker.exchange(&mut held);
        let mut first = 0;
        control.packet_ins(usize::MAX, |_| first += 1);
        assert_eq!(first, PACKET_INS_A_ROUND);
        for _ in 0..PACKET_INS_MAX {
            worker.exchange(&mut held);
        }
        let mut rest = 0;
        control.packet_ins(usize::MAX, |_| rest += 1);
        assert_eq!(first + rest, PACKET_INS_MAX);
    }
}
