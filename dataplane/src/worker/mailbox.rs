//! Two bounded rings between control and one worker.
//!
//! Whatever a command carries comes back in its reply, so that control both makes and frees it:
//! programs, ports, the lists that a worker fills. A reply that finds its ring full waits in the
//! worker for the next round (`pending`), never lost, and no command is taken meanwhile.

use crate::conntrack::ConnInfo;
use crate::packet::key::PortIx;
use crate::pipeline::miss::Event;
use crate::pipeline::program::Program;
use crate::port::{AnyPort, PortStats};
use crate::sys::wait::Waker;
use rtrb::{Consumer, Producer, RingBuffer};
use std::sync::Arc;

/// Commands and replies that can be under way.
const MAIL_MAX: usize = 256;

/// What control asks of a worker.
pub enum Command {
    /// Judge by this from the next batch on.
    Program(Arc<Program>),
    AddPort(PortIx, Box<AnyPort>),
    /// Close it and give it back.
    RemovePort(PortIx),
    /// Credit all counts to the rules.
    Settle,
    /// Fill the list, as far as its capacity goes.
    Ports(Vec<PortReport>),
    Connections {
        list: Vec<ConnInfo>,
        zone: Option<u16>,
    },
    FlushConnections {
        zone: Option<u16>,
    },
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
    Settled,
    Ports {
        list: Vec<PortReport>,
        free: usize,
        total: usize,
    },
    /// `count` are there; the list holds what its capacity allowed.
    Connections {
        list: Vec<ConnInfo>,
        count: usize,
    },
    Flushed(usize),
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

/// Control's end.
pub struct Mailbox {
    commands: Producer<Command>,
    replies: Consumer<Reply>,
    waker: Waker,
}

/// The worker's end.
pub struct WorkerEnd {
    commands: Consumer<Command>,
    replies: Producer<Reply>,
    pending: Option<Reply>,
    lost: u64,
}

/// Makes both ends.
pub fn mailbox(waker: Waker) -> (Mailbox, WorkerEnd) {
    let (commands, take) = RingBuffer::new(MAIL_MAX);
    let (tell, replies) = RingBuffer::new(MAIL_MAX);
    let worker = WorkerEnd { commands: take, replies: tell, pending: None, lost: 0 };
    (Mailbox { commands, replies, waker }, worker)
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
