//! The action set (OpenFlow 1.5.1 section 5.6): what `write_actions` gathers, run at the end of a
//! bridge's pipeline, and of each copy of the packet that has one.
//!
//! **Order**, of the action set and of a group's bucket alike, as Open vSwitch has it: pop_vlan,
//! pop_mpls, push_mpls, push_vlan, dec_ttl, dec_mpls_ttl, each at most once (the last that was
//! written); then all that write fields, in the order written; then one way out, the best of group,
//! output, resubmit, ct_clear, ct, and of equals the last written. Without a way out nothing is run
//! at all. Other actions have no place in a set.
//!
//! `exit` in the pipeline leaves the action set unrun (so does Open vSwitch, against its manual).

use super::freeze::Left;
use super::miss::{Flow, Stop, Walk};
use super::rule::Rule;
use crate::action::Action;
use crate::counters::Drop;
use crate::limits::ACTION_SETS_MAX;
use std::sync::Arc;

/// A `write_actions` that was run, and the rule that it is a part of.
#[derive(Clone, Copy)]
pub(super) struct Written<'w> {
    pub action: &'w Action,
    pub rule: &'w Arc<Rule>,
}

impl<'w> Written<'w> {
    pub fn list(self) -> &'w [Action] {
        match self.action {
            Action::WriteActions(list) => list,
            _ => &[],
        }
    }
}

/// The lists written so far. The last segment is the one in force.
pub(super) struct ActionSet<'w> {
    lists: [Option<Written<'w>>; ACTION_SETS_MAX],
    base: usize,
    len: usize,
}

/// Where a segment lies.
#[derive(Clone, Copy)]
pub(super) struct Marks {
    base: usize,
    len: usize,
}

impl<'w> ActionSet<'w> {
    pub(super) fn new() -> Self {
        Self { lists: [None; ACTION_SETS_MAX], base: 0, len: 0 }
    }

    pub(super) fn write(&mut self, written: Option<Written<'w>>) -> Flow {
        let full = Stop::Error(Drop::ActionSetFull);
        *self.lists.get_mut(self.len).ok_or(full)? = written;
        self.len += 1;
        Ok(())
    }

    /// What is in force, in the order written.
    pub(super) fn written(&self) -> impl Iterator<Item = Written<'w>> {
        self.lists.get(self.base..self.len).unwrap_or(&[]).iter().flatten().copied()
    }

    fn clear(&mut self) {
        self.len = self.base;
    }

    /// Opens an empty segment.
    pub(super) fn open(&mut self) -> Marks {
        let was = Marks { base: self.base, len: self.len };
        self.base = self.len;
        was
    }

    /// Fills the segment in force with what another holds.
    pub(super) fn copy(&mut self, from: Marks) -> Flow {
        for at in from.base..from.len {
            let written = self.lists[at];
            self.write(written)?;
        }
        Ok(())
    }

    pub(super) fn close(&mut self, was: Marks) {
        (self.base, self.len) = (was.base, was.len);
    }
}

/// What an action is to a set.
#[derive(PartialEq)]
enum Class {
    /// One of a kind, with its place.
    Once(u8),
    Write,
    /// A way out, with its rank.
    Final(u8),
    Void,
}

const ONCE: u8 = 6;

fn class(a: &Action) -> Class {
    match a {
        Action::PopVlan => Class::Once(0),
        Action::PopMpls(_) => Class::Once(1),
        Action::PushMpls(_) => Class::Once(2),
        Action::PushVlan { .. } => Class::Once(3),
        Action::DecTtl | Action::DecTtlFor(_) => Class::Once(4),
        Action::DecMplsTtl => Class::Once(5),
        Action::Set(_)
        | Action::Move { .. }
        | Action::ModVlan { .. }
        | Action::SetMplsTtl(_)
        | Action::SetQueue(_) => Class::Write,
        Action::Ct(_) => Class::Final(0),
        Action::CtClear => Class::Final(1),
        Action::Resubmit { .. } => Class::Final(2),
        Action::Output(_) | Action::InPort | Action::Flood | Action::All | Action::Normal => {
            Class::Final(3)
        }
        Action::Controller(c) if c.is_plain_output() => Class::Final(3),
        Action::Group(_) => Class::Final(4),
        _ => Class::Void,
    }
}

impl<'w> Walk<'_, 'w> {
    #[inline(never)]
    pub(super) fn write_actions(&mut self, action: &'w Action) -> Flow {
        let written = self.owner().map(|rule| Written { action, rule });
        self.set.write(written)
    }

    pub(super) fn clear_actions(&mut self) {
        self.set.clear();
    }

    /// Ends a pipeline that came to `end`: runs its action set. One that pauses ends here for now.
    #[inline(never)]
    pub(super) fn conclude(&mut self, end: Flow) -> Flow {
        let (from, to) = (self.set.base, self.set.len);
        if matches!(end, Err(Stop::Pause)) {
            return self.freeze(Left::Whole);
        }
        if from == to || matches!(end, Err(Stop::Exit | Stop::Error(_))) {
            return end;
        }
        self.seen.note("action set:");
        let lists = self.set.lists;
        self.set.clear();
        let before = std::mem::replace(&mut self.in_set, true);
        let lists = lists.get(from..to).unwrap_or(&[]).iter().flatten().map(|w| w.list());
        let end = self.ordered(lists);
        self.in_set = before;
        if matches!(end, Err(Stop::Pause)) { self.freeze(Left::None) } else { end }
    }

    /// The same for a fork or a cable, on the level of its tables: its action set may fork again.
    pub(super) fn conclude_fork(&mut self, end: Flow) -> Flow {
        self.depth += 1;
        let end = self.conclude(end);
        self.depth -= 1;
        end
    }

    /// Runs lists in the order of an action set.
    pub(super) fn ordered(
        &mut self,
        lists: impl DoubleEndedIterator<Item = &'w [Action]> + Clone,
    ) -> Flow {
        let all = || lists.clone().flatten();
        let mut way_out: Option<(u8, &'w Action)> = None;
        for a in all() {
            if let Class::Final(rank) = class(a)
                && way_out.is_none_or(|(best, _)| rank >= best)
            {
                way_out = Some((rank, a));
            }
        }
        let Some((_, last)) = way_out else { return Ok(()) };
        let once = (0..ONCE).filter_map(|n| all().rfind(|a| class(a) == Class::Once(n)));
        let writes = all().filter(|a| class(a) == Class::Write);
        for a in once.chain(writes).chain([last]) {
            match self.action(a) {
                Ok(()) => {}
                Err(Stop::List) => break,
                stop => return stop,
            }
        }
        Ok(())
    }
}
