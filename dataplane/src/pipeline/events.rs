//! What a lane tells control unasked.

use super::rule::Rule;
use crate::limits::EVENTS_MAX;
use crate::packet::key::FlowKey;
use std::sync::Arc;

/// What the worker owes control: hints, each given again by the next packet that needs it.
#[expect(clippy::large_enum_variant, reason = "made at the start: a worker does not allocate")]
#[derive(Clone, Debug)]
pub enum Event {
    /// Ask the kernel for this neighbour.
    Resolve { addr: std::net::IpAddr, ifindex: u32 },
    /// A packet met `rule` of this bridge, whose `nth` learn asks for a flow
    /// (`action::learn::{nth, learned}`). The rule may be gone by now: then so is its wish.
    Learn { bridge: u16, rule: Arc<Rule>, nth: u16, key: FlowKey },
}

/// Two lanes meet different copies of one flow, so rules are compared by what they are.
impl PartialEq for Event {
    fn eq(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::Resolve { addr, ifindex }, Self::Resolve { addr: a, ifindex: i }) => {
                (addr, ifindex) == (a, i)
            }
            (
                Self::Learn { bridge, rule, nth, key },
                Self::Learn { bridge: b, rule: r, nth: n, key: k },
            ) => {
                (bridge, nth, key, rule.table, rule.priority) == (b, n, k, r.table, r.priority)
                    && rule.matching == r.matching
            }
            _ => false,
        }
    }
}

/// The queue of events, and what was asked for since control emptied it.
#[derive(Debug)]
pub struct Events {
    list: Vec<Event>,
    /// Hashes of flows to be learned, each in the place that its low bits say.
    asked: Box<[u64; EVENTS_MAX]>,
}

impl Default for Events {
    fn default() -> Self {
        Self { list: Vec::with_capacity(EVENTS_MAX), asked: Box::new([0; EVENTS_MAX]) }
    }
}

impl Events {
    /// Queues a hint unless it is queued already or there is no room.
    pub(super) fn hint(&mut self, event: Event) {
        if self.list.len() < self.list.capacity() && !self.list.contains(&event) {
            self.list.push(event);
        }
    }

    /// Queues an event unless one with this hash was queued lately. False: no room.
    pub(super) fn tell_once(&mut self, hash: u64, event: impl FnOnce() -> Event) -> Option<bool> {
        let place = self.asked.get_mut(hash as usize % EVENTS_MAX)?;
        if *place == hash {
            return None;
        }
        if self.list.len() >= self.list.capacity() {
            return Some(false);
        }
        *place = hash;
        self.list.push(event());
        Some(true)
    }

    pub(super) fn drain(&mut self) -> std::vec::Drain<'_, Event> {
        if !self.list.is_empty() {
            self.asked.fill(0);
        }
        self.list.drain(..)
    }
}
