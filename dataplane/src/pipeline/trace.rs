//! Explaining a packet: the walk with somebody watching.
//!
//! The walk reports to an [`Observer`]. For ordinary packets that is [`Silent`]; `trace` hands
//! in one of control's (tests hand in a [`Story`]), runs the walk *dry* (nothing is learned,
//! committed or refreshed), and prints what it was told. So what trace shows is what the walk
//! does.

use crate::action::Ct;
use crate::action::group::{Bucket, Group, GroupKind};
use crate::action::learn::{Learn, learned};
use crate::action::step::Step;
use crate::conntrack::{CtPacket, CtResult, ct_state};
use crate::counters::Drop;
use crate::packet::key::{FlowKey, Mask};
use crate::pipeline::punt::Punt;
use crate::pipeline::rule::Rule;
use crate::pipeline::underlay::NextHop;
use std::fmt::Write;
use std::net::IpAddr;

/// What made a walk depend on bits of the packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Depends {
    Lookup,
    Actions,
}

/// Who is told what a walk meets.
pub trait Observer {
    fn start(&mut self, _key: &FlowKey, _bridge: &str) {}
    fn bridge(&mut self, _name: &str) {}
    fn rule(&mut self, _rule: &Rule, _depth: u32) {}
    fn miss(&mut self, _table: u8) {}
    fn step(&mut self, _step: &Step) {}
    fn tunnel(&mut self, _port: &str, _remote: IpAddr, _hop: &NextHop) {}
    fn dropped(&mut self, _reason: Drop) {}
    /// In a dry walk, the bits of the packet that the walk depends on after a lookup in a table, or
    /// after the actions of what was met there.
    fn depends(&mut self, _table: u8, _on: Depends, _seen: &Mask) {}
    /// In a dry walk, its end: whether later packets that agree with this one in all bits of the
    /// mask could be served by a megaflow, connection tracking apart.
    fn megaflow(&mut self, _own: &FlowKey, _seen: &Mask, _may_be: bool) {}
    fn note(&mut self, _text: &str) {}
    /// A group is run: all its buckets, or (of kinds that choose) this one or none.
    fn group(&mut self, group: &Group, chosen: Option<&Bucket>) {
        self.note(&told::group(group, chosen));
    }
    fn meter(&mut self, id: u32) {
        self.note(&format!("meter {id}: taken to let it pass"));
    }
    /// A flow is learned from this key; `known`: it is there already.
    fn learn(&mut self, learn: &Learn, key: &FlowKey, known: bool) {
        self.note(&told::learn(learn, key, known));
    }
    fn controller(&mut self, punt: &Punt) {
        self.note(&told::controller(punt));
    }
    /// The queue of the output that comes next, if one was set.
    fn queue(&mut self, queue: Option<u32>) {
        if let Some(n) = queue {
            self.note(&format!("by queue {n}"));
        }
    }
    /// In a dry walk, whether conntrack is to be asked what `ct` finds; nothing changes by it.
    fn asks_conntrack(&self) -> bool {
        false
    }
    /// In a dry walk that does not ask conntrack, what `ct` finds.
    fn ct(&mut self, _zone: u16, _ct: &Ct, packet: &CtPacket) -> CtResult {
        supposed(packet, ct_state::TRK | ct_state::NEW)
    }
}

/// A result that nobody looked up.
fn supposed(packet: &CtPacket, state: u8) -> CtResult {
    let reply = state & ct_state::RPL != 0;
    let orig = packet.tuple;
    CtResult { state, conn: None, reply, mark: 0, label: 0, orig }
}

/// Nobody.
#[derive(Debug, Default)]
pub struct Silent;

impl Observer for Silent {
    fn group(&mut self, _: &Group, _: Option<&Bucket>) {}
    fn meter(&mut self, _: u32) {}
    fn learn(&mut self, _: &Learn, _: &FlowKey, _: bool) {}
    fn controller(&mut self, _: &Punt) {}
    fn queue(&mut self, _: Option<u32>) {}
}

/// What observers are told, in words.
mod told {
    use super::{Bucket, FlowKey, Group, GroupKind, Learn, Punt, learned};

    pub fn group(group: &Group, chosen: Option<&Bucket>) -> String {
        let (id, n) = (group.id, group.buckets.len());
        match (group.kind, chosen) {
            (GroupKind::All | GroupKind::Indirect, _) => format!("group {id}: all of {n} buckets"),
            (GroupKind::Select, Some(b)) => {
                format!("group {id}: bucket {}, by hash and weight", b.id)
            }
            (GroupKind::FastFailover, Some(b)) => {
                format!("group {id}: bucket {}, the first live one", b.id)
            }
            (_, None) => format!("group {id}: no live bucket"),
        }
    }

    pub fn learn(learn: &Learn, key: &FlowKey, known: bool) -> String {
        let f = learned(learn, key);
        let verb = if known { "is there" } else { "would be learned" };
        let (value, mask, actions) = (f.matching.value, f.matching.mask, f.actions);
        let (table, priority) = (f.table, f.priority);
        format!("table={table}, priority={priority}, {value:?}/{mask:?} {actions:?} {verb}")
    }

    pub fn controller(punt: &Punt) -> String {
        let (id, reason) = (punt.controller_id, punt.reason);
        let paused =
            if punt.pause { ", and pauses: resumed as it is, it goes on as follows" } else { "" };
        format!("to controller {id} ({reason:?}){paused}")
    }
}

/// Writes the walk down, a line per event.
#[derive(Debug, Default)]
pub struct Story {
    pub text: String,
    /// `ct_state` for each `ct` in turn; then `trk|new`.
    pub ct_next: std::collections::VecDeque<u8>,
    indent: usize,
    /// Names of ports by `PortIx`.
    pub ports: Vec<String>,
}

impl Story {
    fn line(&mut self, text: std::fmt::Arguments<'_>) {
        let _ = writeln!(self.text, "{:width$}{text}", "", width = self.indent);
    }

    fn port(&self, ix: crate::packet::key::PortIx) -> String {
        self.ports.get(ix.0 as usize).cloned().unwrap_or_else(|| format!("#{}", ix.0))
    }
}

impl Observer for Story {
    fn start(&mut self, key: &FlowKey, bridge: &str) {
        self.line(format_args!("Flow: {key:?}"));
        self.line(format_args!("bridge(\"{bridge}\")"));
    }

    fn bridge(&mut self, name: &str) {
        self.indent += 4;
        self.line(format_args!("-> bridge(\"{name}\")"));
    }

    fn rule(&mut self, rule: &Rule, depth: u32) {
        self.indent = 2 + 4 * depth as usize;
        let (table, priority, cookie) = (rule.table, rule.priority, rule.cookie);
        self.line(format_args!("{table:2}. priority={priority}, cookie={cookie:#x}"));
    }

    fn miss(&mut self, table: u8) {
        self.line(format_args!("{table:2}. no match: drop"));
    }

    fn step(&mut self, step: &Step) {
        if let Step::Output(p) = step {
            let name = self.port(*p);
            self.line(format_args!("    >> output to {name}"));
        }
    }

    fn tunnel(&mut self, port: &str, remote: IpAddr, hop: &NextHop) {
        let device = self.port(hop.port);
        let source = hop.source;
        self.line(format_args!("    >> tunnel {port}: {source} -> {remote}, leaves by {device}"));
    }

    fn dropped(&mut self, reason: Drop) {
        self.line(format_args!("    >> dropped: {} ({})", reason.name(), reason.help()));
    }

    fn note(&mut self, text: &str) {
        self.line(format_args!("    -- {text}"));
    }

    fn ct(&mut self, zone: u16, ct: &Ct, packet: &CtPacket) -> CtResult {
        let state = self.ct_next.pop_front().unwrap_or(ct_state::TRK | ct_state::NEW);
        let commit = if ct.commit { " commit" } else { "" };
        self.line(format_args!("    -- ct zone {zone}{commit}: taken to be {state:#04x}"));
        supposed(packet, state)
    }
}
