//! Who listens: packets for controllers and flows that went, told to those that asked to hear.
//!
//! Each listener has a bounded queue; what finds it full is counted and told as lost. What nobody
//! hears is counted by name (`packet_ins_unheard`, `flows_removed_unheard`) and forgotten.

use super::Core;
use super::monitor_text::{self, reason_name};
use crate::api::ApiResult;
use crate::api::types::{ApiError, ErrorCode, MonitorEvent, NamedCount, PacketInInfo};
use crate::model::BridgeState;
use sluice_dataplane::limits::PACKET_INS_MAX;
use sluice_dataplane::pipeline::punt::PacketIn;
use tokio::sync::mpsc::{Receiver, Sender, channel};

/// Listeners at a time, and events that wait for one: 8 queues of 256 jumbo frames in hexadecimal
/// are some 50 MB at the worst.
const MONITORS_MAX: usize = 8;
const QUEUE_MAX: usize = 256;

struct Monitor {
    /// The bridge's place in the model.
    bridge: usize,
    queue: Sender<MonitorEvent>,
    /// Events lost since it was last told.
    lost: u64,
}

impl Monitor {
    /// False: nobody listens any more.
    fn tell(&mut self, event: &MonitorEvent) -> bool {
        if self.queue.is_closed() {
            return false;
        }
        if self.lost > 0 && self.queue.try_send(MonitorEvent::Lost { events: self.lost }).is_ok() {
            self.lost = 0;
        }
        // What was lost is told before anything else, so that its place is known.
        if self.lost > 0 || self.queue.try_send(event.clone()).is_err() {
            self.lost += 1;
        }
        true
    }
}

/// All listeners.
#[derive(Default)]
pub(super) struct Monitors {
    list: Vec<Monitor>,
    packet_ins_unheard: u64,
    removed_unheard: u64,
    lost: u64,
}

impl Monitors {
    pub(super) fn open(&mut self, bridge: usize) -> ApiResult<Receiver<MonitorEvent>> {
        self.list.retain(|m| !m.queue.is_closed());
        if self.list.len() >= MONITORS_MAX {
            let message = format!("{MONITORS_MAX} monitors are open already");
            return Err(ApiError::new(ErrorCode::Full, message, "close one first"));
        }
        let (queue, events) = channel(QUEUE_MAX);
        self.list.push(Monitor { bridge, queue, lost: 0 });
        Ok(events)
    }

    /// Whether anybody hears of a bridge.
    fn hears(&self, bridge: usize) -> bool {
        self.list.iter().any(|m| m.bridge == bridge && !m.queue.is_closed())
    }

    fn tell(&mut self, bridge: usize, event: &MonitorEvent) {
        let lost = |list: &[Monitor]| list.iter().map(|m| m.lost).sum::<u64>();
        let before = lost(&self.list);
        self.list.retain_mut(|m| m.bridge != bridge || m.tell(event));
        self.lost += lost(&self.list).saturating_sub(before);
    }
}

impl Core {
    pub(super) fn monitor(&mut self, bridge: &str) -> ApiResult<Receiver<MonitorEvent>> {
        let at = self.model.bridges.iter().position(|b| b.config.name == bridge);
        self.monitors.open(at.ok_or_else(|| ApiError::no_bridge(bridge))?)
    }

    /// Before flows go by a command: their counters are to be exact when their end is told.
    pub(super) fn settle_for_monitors(&mut self) -> ApiResult<()> {
        if self.monitors.list.is_empty() { Ok(()) } else { self.workers.settle() }
    }

    /// Tells what came from the workers and what the store let go.
    pub(super) fn tell_monitors(&mut self) {
        let now = self.now();
        let (bridges, monitors) = (&self.model.bridges, &mut self.monitors);
        let paused = &mut self.paused;
        paused.expire(now);
        self.workers.packet_ins(PACKET_INS_MAX, |worker, packet| {
            let at = usize::from(packet.punt().bridge);
            match bridges.get(at).filter(|_| monitors.hears(at)) {
                Some(b) => {
                    let handle = paused.keep(packet, worker, now);
                    monitors.tell(at, &MonitorEvent::PacketIn(Box::new(info(packet, handle, b))));
                }
                None => {
                    monitors.packet_ins_unheard += 1;
                    paused.not_heard(packet);
                }
            }
        });
        let now_ns = now.ns;
        let (removed, forgotten) = self.model.drain_removed();
        let (bridges, monitors) = (&self.model.bridges, &mut self.monitors);
        monitors.removed_unheard += forgotten;
        for (at, gone) in removed {
            match bridges.get(at).filter(|_| monitors.hears(at)) {
                Some(b) => {
                    let event = MonitorEvent::FlowRemoved(monitor_text::removed(&gone, b, now_ns));
                    monitors.tell(at, &event);
                }
                None => monitors.removed_unheard += 1,
            }
        }
    }

    /// What control counts.
    pub(super) fn control_counts(&self) -> Vec<NamedCount> {
        let m = &self.monitors;
        [
            (
                "packet_ins_unheard",
                m.packet_ins_unheard,
                "Packets for controllers without a monitor.",
            ),
            ("flows_removed_unheard", m.removed_unheard, "Ends of flows that no monitor heard of."),
            ("monitor_events_lost", m.lost, "Events that a monitor was too slow for."),
            (
                "learns_refused",
                self.model.learns_refused(),
                "Flows that learn() asked for and that a full table did not take.",
            ),
        ]
        .map(|(name, count, help)| NamedCount { name: name.into(), count, help: help.into() })
        .into_iter()
        .chain(self.paused.counts())
        .collect()
    }
}

fn info(packet: &PacketIn, handle: Option<String>, b: &BridgeState) -> PacketInInfo {
    let punt = packet.punt();
    let hex = |bytes: &[u8]| bytes.iter().map(|b| format!("{b:02x}")).collect::<String>();
    PacketInInfo {
        table: punt.table,
        cookie: (punt.cookie != u64::MAX).then_some(punt.cookie),
        reason: reason_name(punt.reason).to_owned(),
        controller_id: punt.controller_id,
        in_port: punt.key.in_port,
        total_len_bytes: packet.total_len() as u64,
        userdata: punt.userdata.as_deref().map(hex).unwrap_or_default(),
        paused: punt.pause,
        text: monitor_text::packet_in(packet, handle.as_deref(), b),
        continuation: handle,
        data: hex(packet.bytes()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lost(events: u64) -> MonitorEvent {
        MonitorEvent::Lost { events }
    }

    #[test]
    fn a_slow_listener_loses_and_is_told_how_much_where_it_lost() {
        let mut monitors = Monitors::default();
        let mut events = monitors.open(1).unwrap();
        assert!(monitors.hears(1) && !monitors.hears(0));
        let event = MonitorEvent::PacketIn(Box::default());
        (0..QUEUE_MAX + 5).for_each(|_| monitors.tell(1, &event));
        monitors.tell(0, &event);
        assert_eq!(monitors.lost, 5);
        for _ in 0..QUEUE_MAX {
            assert_eq!(events.try_recv(), Ok(event.clone()));
        }
        monitors.tell(1, &event);
        assert_eq!((events.try_recv(), events.try_recv()), (Ok(lost(5)), Ok(event.clone())));
        assert!(events.try_recv().is_err());
        drop(events);
        monitors.tell(1, &event);
        assert!(monitors.list.is_empty() && !monitors.hears(1));
    }

    #[test]
    fn listeners_are_bounded_and_those_that_left_make_room() {
        let mut monitors = Monitors::default();
        let open: Vec<_> = (0..MONITORS_MAX).map(|_| monitors.open(0).unwrap()).collect();
        assert_eq!(monitors.open(0).unwrap_err().code, ErrorCode::Full);
        drop(open);
        assert!(monitors.open(0).is_ok());
    }
}
