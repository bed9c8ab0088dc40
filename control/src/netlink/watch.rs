//! Following the kernel: a thread that keeps the underlay's snapshot current.
//!
//! It listens for events and, when some came, waits a little for their friends, then asks for what
//! may have changed. Routes, addresses and links are asked for whole rather than patched from the
//! events, because the kernel drops IPv4 routes with their link and says nothing about each. Only
//! neighbours, which change all the time, are kept by event. Lost events mean: ask for everything.

use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;
use std::thread::{self, JoinHandle};
use std::time::Duration;

use rustix::event::{EventfdFlags, PollFd, PollFlags, Timespec, eventfd, poll};
use tokio::sync::watch;

use super::decode;
use super::socket::{NetlinkError, Socket};
use super::underlay::Underlay;
use super::wire::{self, Message};

/// RTMGRP_: LINK, NEIGH, IPV4_IFADDR, IPV4_ROUTE, IPV6_IFADDR, IPV6_ROUTE.
const GROUPS: u32 = 0x1 | 0x4 | 0x10 | 0x40 | 0x100 | 0x400;
/// Events of one change come in a row; this is how long the row may be.
const COALESCE: Duration = Duration::from_millis(5);
/// After an error: how long to wait before the next try.
const RETRY: Duration = Duration::from_millis(500);

/// The running thread, and where its snapshots come out. Dropping it stops the thread.
#[derive(Debug)]
pub struct UnderlayWatch {
    snapshots: watch::Receiver<Arc<Underlay>>,
    stop: OwnedFd,
    thread: Option<JoinHandle<()>>,
}

impl UnderlayWatch {
    /// Starts in the network namespace of the calling thread; returns with the first snapshot
    /// taken.
    pub fn start() -> Result<Self, NetlinkError> {
        let events = Socket::with_groups(GROUPS)?;
        let mut follower =
            Follower { events, questions: Socket::open()?, now: Underlay::default() };
        follower.refresh_all()?;
        follower.now.generation = 1;
        let stop = eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?;
        let stopped = stop.try_clone()?;
        let (sender, snapshots) = watch::channel(Arc::new(follower.now.clone()));
        let thread = thread::Builder::new()
            .name("underlay".into())
            .spawn(move || follower.run(&stopped, &sender))?;
        Ok(Self { snapshots, stop, thread: Some(thread) })
    }

    /// Snapshots from now on; the first `borrow` gives the current one.
    pub fn subscribe(&self) -> watch::Receiver<Arc<Underlay>> {
        self.snapshots.clone()
    }

    pub fn current(&self) -> Arc<Underlay> {
        self.snapshots.borrow().clone()
    }
}

impl Drop for UnderlayWatch {
    fn drop(&mut self) {
        if rustix::io::write(&self.stop, &1u64.to_ne_bytes()).is_ok()
            && let Some(thread) = self.thread.take()
        {
            _ = thread.join();
        }
    }
}

struct Follower {
    events: Socket,
    questions: Socket,
    now: Underlay,
}

/// What a batch of events asks for.
#[derive(Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord)]
enum Need {
    #[default]
    Nothing,
    Publish,
    Routes,
    All,
}

impl Follower {
    fn run(mut self, stop: &OwnedFd, out: &watch::Sender<Arc<Underlay>>) {
        loop {
            match self.wait(stop) {
                Ok(true) => return,
                Ok(false) => {}
                Err(error) => tracing::warn!(%error, "waiting for netlink events"),
            }
            if let Err(error) = self.follow(out) {
                tracing::warn!(%error, "the underlay's snapshot is old; trying again");
                thread::sleep(RETRY);
                if self.refresh_all().is_ok() {
                    self.publish(out);
                }
            }
        }
    }

    /// Waits for an event; true: stop.
    fn wait(&self, stop: &OwnedFd) -> io::Result<bool> {
        let mut fds = [
            PollFd::from_borrowed_fd(self.events.as_fd(), PollFlags::IN),
            PollFd::from_borrowed_fd(stop.as_fd(), PollFlags::IN),
        ];
        let forever: Option<&Timespec> = None;
        match poll(&mut fds, forever) {
            Ok(_) | Err(rustix::io::Errno::INTR) => Ok(!fds[1].revents().is_empty()),
            Err(errno) => {
                thread::sleep(RETRY);
                Err(errno.into())
            }
        }
    }

    fn follow(&mut self, out: &watch::Sender<Arc<Underlay>>) -> Result<(), NetlinkError> {
        thread::sleep(COALESCE);
        let mut need = Need::Nothing;
        loop {
            match self.events.events() {
                Ok(messages) if messages.is_empty() => break,
                Ok(messages) => {
                    need = messages.iter().fold(need, |need, m| need.max(self.apply(m)));
                }
                Err(NetlinkError::Lost) => need = Need::All,
                Err(error) => return Err(error),
            }
        }
        match need {
            Need::Nothing => return Ok(()),
            Need::Publish => {}
            Need::Routes => self.refresh_routes()?,
            Need::All => self.refresh_all()?,
        }
        self.publish(out);
        Ok(())
    }

    fn apply(&mut self, message: &Message) -> Need {
        match (message.kind, decode::neighbour(message)) {
            (wire::RTM_NEWNEIGH, Some((at, neighbour))) => {
                self.now.neighbours.insert(at, neighbour);
                Need::Publish
            }
            (wire::RTM_NEWNEIGH | wire::RTM_DELNEIGH, None) => Need::Nothing,
            (wire::RTM_DELNEIGH, Some((at, _))) => {
                self.now.neighbours.remove(&at);
                Need::Publish
            }
            _ => Need::Routes,
        }
    }

    fn refresh_routes(&mut self) -> Result<(), NetlinkError> {
        let q = &mut self.questions;
        self.now.links = q.links()?;
        let addresses = q.dump("list addresses", wire::RTM_GETADDR, &[0; 8])?;
        self.now.addresses = addresses.iter().filter_map(decode::address).collect();
        let mut routes = q.dump("list routes", wire::RTM_GETROUTE, &rtmsg(wire::AF_INET))?;
        // A kernel without IPv6 refuses or answers with what it has.
        if let Ok(six) = q.dump("list routes", wire::RTM_GETROUTE, &rtmsg(wire::AF_INET6)) {
            routes.extend(six.into_iter().filter(|m| m.body.first() == Some(&wire::AF_INET6)));
        }
        self.now.routes = routes.iter().filter_map(decode::route).collect();
        self.now.sort();
        let links = &self.now.links;
        self.now.neighbours.retain(|(ifindex, _), _| links.iter().any(|l| l.ifindex == *ifindex));
        Ok(())
    }

    fn refresh_all(&mut self) -> Result<(), NetlinkError> {
        self.now.neighbours = self.questions.neighbours()?;
        self.refresh_routes()
    }

    /// Sends the snapshot out if it differs from the last one.
    fn publish(&mut self, out: &watch::Sender<Arc<Underlay>>) {
        let last = out.borrow().clone();
        self.now.generation = last.generation;
        if *last != self.now {
            self.now.generation += 1;
            out.send_replace(Arc::new(self.now.clone()));
        }
    }
}

fn rtmsg(family: u8) -> [u8; 12] {
    let mut out = [0; 12];
    out[0] = family;
    out
}
