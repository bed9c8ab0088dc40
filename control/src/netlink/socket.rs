//! A NETLINK_ROUTE socket: one question, its answer.
//!
//! Blocking, with a time limit: the kernel answers at once, and a request that has no answer after
//! two seconds is an error to report rather than a reason to hang. The socket belongs to the
//! network namespace of the thread that opened it, for ever.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::time::Duration;

use rustix::io::Errno;
use rustix::net::netlink::SocketAddrNetlink;
use rustix::net::{
    self, AddressFamily, Protocol, RecvFlags, SendFlags, SocketFlags, SocketType, sockopt,
};

use super::wire::{self, Message, NLM_F_ACK, NLM_F_DUMP, NLM_F_DUMP_INTR, Request};

const ANSWER_TIMEOUT: Duration = Duration::from_secs(2);
/// The kernel fills at most 32 KiB of a dump into one datagram.
const DATAGRAM_BYTES: usize = 64 * 1024;
/// For bursts of events: a full buffer loses them, and everything must be dumped again.
const EVENT_BUFFER_BYTES: usize = 4 << 20;
/// A dump that is disturbed more often than this is taken as it is.
const DUMP_TRIES: usize = 5;

#[derive(Debug, thiserror::Error)]
pub enum NetlinkError {
    #[error("netlink socket: {0}")]
    Socket(#[from] io::Error),
    #[error("{what}: {}{}", .errno, remedy(*.errno))]
    Refused { what: String, errno: Errno },
    #[error("the kernel did not answer to: {what}")]
    NoAnswer { what: String },
    #[error("events were lost: the socket's buffer was full")]
    Lost,
}

impl From<Errno> for NetlinkError {
    fn from(errno: Errno) -> Self {
        Self::Socket(errno.into())
    }
}

impl NetlinkError {
    pub fn errno(&self) -> Option<Errno> {
        match self {
            Self::Refused { errno, .. } => Some(*errno),
            _ => None,
        }
    }
}

fn remedy(errno: Errno) -> &'static str {
    match errno {
        Errno::PERM | Errno::ACCESS => ": run as root, or with CAP_NET_ADMIN",
        Errno::NODEV => ": there is no such device",
        _ => "",
    }
}

#[derive(Debug)]
pub struct Socket {
    fd: OwnedFd,
    seq: u32,
    buffer: Vec<u8>,
}

impl Socket {
    /// For questions.
    pub fn open() -> Result<Self, NetlinkError> {
        Self::with_groups(0)
    }

    /// For events of these groups (`RTMGRP_*` bits).
    pub fn with_groups(groups: u32) -> Result<Self, NetlinkError> {
        Self::with_protocol(None, groups)
    }

    /// No protocol means 0, which is NETLINK_ROUTE.
    pub(crate) fn with_protocol(
        protocol: Option<Protocol>,
        groups: u32,
    ) -> Result<Self, NetlinkError> {
        let kind = SocketType::RAW;
        let fd = net::socket_with(AddressFamily::NETLINK, kind, SocketFlags::CLOEXEC, protocol)?;
        net::bind(&fd, &SocketAddrNetlink::new(0, groups))?;
        if groups == 0 {
            sockopt::set_socket_timeout(&fd, sockopt::Timeout::Recv, Some(ANSWER_TIMEOUT))?;
        } else if sockopt::set_socket_recv_buffer_size_force(&fd, EVENT_BUFFER_BYTES).is_err() {
            // Without CAP_NET_ADMIN the system's limit holds.
            sockopt::set_socket_recv_buffer_size(&fd, EVENT_BUFFER_BYTES)?;
        }
        Ok(Self { fd, seq: 0, buffer: vec![0; DATAGRAM_BYTES] })
    }

    /// A change. `what` is for the error: "set mtu of veth0".
    pub fn change(&mut self, what: &str, request: Request) -> Result<(), NetlinkError> {
        self.talk(what, request).map(|_| ())
    }

    /// A question with one answer (or a few): what came before the acknowledgement.
    pub fn talk(&mut self, what: &str, request: Request) -> Result<Vec<Message>, NetlinkError> {
        let seq = self.send(request)?;
        let mut answers = Vec::new();
        loop {
            for message in self.receive(what)?.into_iter().filter(|m| m.seq == seq) {
                match (message.kind, message.errno()) {
                    (wire::NLMSG_ERROR, 0) => return Ok(answers),
                    (wire::NLMSG_ERROR, errno) => return Err(refused(what, errno)),
                    _ => answers.push(message),
                }
            }
        }
    }

    /// A whole table.
    pub fn dump(
        &mut self,
        what: &str,
        kind: u16,
        fixed: &[u8],
    ) -> Result<Vec<Message>, NetlinkError> {
        let mut answers = Vec::new();
        for _ in 0..DUMP_TRIES {
            let (found, disturbed) = self.dump_once(what, kind, fixed)?;
            answers = found;
            if !disturbed {
                break;
            }
        }
        Ok(answers)
    }

    fn dump_once(
        &mut self,
        what: &str,
        kind: u16,
        fixed: &[u8],
    ) -> Result<(Vec<Message>, bool), NetlinkError> {
        let seq = self.send(Request::new(kind, NLM_F_DUMP, fixed))?;
        let mut answers = Vec::new();
        let mut disturbed = false;
        loop {
            for message in self.receive(what)?.into_iter().filter(|m| m.seq == seq) {
                disturbed |= message.flags & NLM_F_DUMP_INTR != 0;
                match message.kind {
                    wire::NLMSG_DONE | wire::NLMSG_ERROR if message.errno() != 0 => {
                        return Err(refused(what, message.errno()));
                    }
                    wire::NLMSG_DONE => return Ok((answers, disturbed)),
                    _ => answers.push(message),
                }
            }
        }
    }

    /// Events that wait, without blocking; empty when there are none.
    pub fn events(&mut self) -> Result<Vec<Message>, NetlinkError> {
        let got = net::recv(&self.fd, &mut self.buffer[..], RecvFlags::DONTWAIT);
        match got {
            Ok((len, _)) => Ok(wire::messages(self.buffer.get(..len).unwrap_or(&[]))),
            Err(Errno::AGAIN | Errno::INTR) => Ok(Vec::new()),
            Err(Errno::NOBUFS) => Err(NetlinkError::Lost),
            Err(errno) => Err(errno.into()),
        }
    }

    fn send(&mut self, request: Request) -> Result<u32, NetlinkError> {
        self.seq = self.seq.wrapping_add(1).max(1);
        let mut bytes = request.finish(self.seq);
        // Every request is acknowledged, except dumps, which end by themselves.
        let flags = wire::get_u16(&bytes, 6).unwrap_or(0);
        if flags & NLM_F_DUMP != NLM_F_DUMP || is_change(&bytes) {
            let flags = (flags | NLM_F_ACK).to_ne_bytes();
            bytes.get_mut(6..8).into_iter().for_each(|at| at.copy_from_slice(&flags));
        }
        let kernel = SocketAddrNetlink::new(0, 0);
        net::sendto(&self.fd, &bytes, SendFlags::empty(), &kernel)?;
        Ok(self.seq)
    }

    fn receive(&mut self, what: &str) -> Result<Vec<Message>, NetlinkError> {
        loop {
            match net::recv(&self.fd, &mut self.buffer[..], RecvFlags::empty()) {
                Ok((len, _)) => {
                    return Ok(wire::messages(self.buffer.get(..len).unwrap_or(&[])));
                }
                Err(Errno::INTR) => {}
                Err(Errno::AGAIN) => return Err(NetlinkError::NoAnswer { what: what.into() }),
                Err(errno) => return Err(errno.into()),
            }
        }
    }
}

/// The dump bits mean replace and exclusive in a change; changes have odd places in the type space:
/// types come in fours, new, delete, get, set, and only get can be a dump.
fn is_change(bytes: &[u8]) -> bool {
    wire::get_u16(bytes, 4).is_some_and(|kind| kind % 4 != 2)
}

fn refused(what: &str, errno: i32) -> NetlinkError {
    NetlinkError::Refused { what: what.into(), errno: Errno::from_raw_os_error(errno) }
}

impl AsFd for Socket {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}
