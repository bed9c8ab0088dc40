//! What a walk keeps aside while a copy of the packet goes its own way, and the packet's stack.
//!
//! A clone and the fork of `ct` begin with the packet's stack and action set as they are, a bridge
//! behind a cable with empty ones; none gives anything back (Open vSwitch `clone_xlate_actions`,
//! the frozen state of a recirculation, `patch_port_output`). Stack and action set are each one
//! list, of which the last segment is in force; a copy works on a new segment at the end.
//!
//! **Scopes.** A packet that a meter drops ends; if that was a copy, only the copy ends. So a
//! `Step::Meter` says how many steps behind it belong to its copy. The steps behind those must find
//! the headers as the copy found them, whether it was dropped or not; so a scope with a meter in it
//! undoes its header changes at its end. Without a meter nothing is undone: the next output emits
//! the difference.

use super::connect::Translated;
use super::miss::{Flow, Stop, Walk};
use super::set::Marks;
use super::tracked::Turns;
use super::veil::Veil;
use crate::action::step::Step;
use crate::counters::Drop;
use crate::limits::STACK_MAX_BYTES;
use crate::packet::field::{Prereq, Subfield, prereq_met};
use crate::packet::key::FlowKey;

/// What comes back when a copy has ended.
pub(super) struct Kept {
    key: FlowKey,
    veil: Option<Veil>,
    turns: Turns,
    translated: Option<Translated>,
    queue: Option<u32>,
    stack: (usize, usize),
    set: Marks,
}

/// The steps of a copy.
pub(super) struct Scope {
    base: FlowKey,
    base_turned: usize,
    first: usize,
    outputs: u16,
    punts: usize,
    metered: bool,
}

impl Walk<'_, '_> {
    /// Begins a copy that sees the stack and the action set.
    pub(super) fn keep(&mut self) -> Result<Kept, Stop> {
        let kept = self.keep_and_clear();
        let (from, to) = kept.stack;
        if to - from > STACK_MAX_BYTES - to {
            return Err(Stop::Error(Drop::StackFull));
        }
        self.rec.stack.extend_from_within(from..to);
        self.set.copy(kept.set)?;
        Ok(kept)
    }

    /// Begins a copy with an empty stack and an empty action set.
    pub(super) fn keep_and_clear(&mut self) -> Kept {
        let stack = (self.stack_base, self.rec.stack.len());
        self.stack_base = stack.1;
        let (key, veil, turns) = (self.key, self.veil, self.before.turns());
        let (translated, queue) = (self.translated, self.queue);
        Kept { key, veil, turns, translated, queue, stack, set: self.set.open() }
    }

    pub(super) fn restore(&mut self, kept: &Kept) {
        (self.key, self.veil) = (kept.key, kept.veil);
        self.key_turns_to(kept.turns);
        self.translated = kept.translated;
        self.queue = kept.queue;
        self.stack_base = kept.stack.0;
        self.rec.stack.truncate(kept.stack.1);
        self.set.close(kept.set);
    }

    pub(super) fn open_scope(&mut self) -> Scope {
        Scope {
            base: self.base,
            base_turned: self.before.base_turned(),
            first: self.rec.steps.len(),
            outputs: self.rec.outputs,
            punts: self.punts.len(),
            metered: std::mem::replace(&mut self.metered, false),
        }
    }

    pub(super) fn close_scope(&mut self, scope: &Scope) -> Flow {
        if self.metered {
            self.room()?;
            self.base_turns_to(scope.base_turned);
            super::commit::commit(&mut self.base, &scope.base, self.payload, &mut self.rec.steps);
            let end = self.rec.steps.len();
            for (at, step) in self.rec.steps.iter_mut().enumerate().skip(scope.first) {
                if let Step::Meter { skip, .. } = step
                    && *skip == u16::MAX
                {
                    *skip = (end - at - 1) as u16;
                }
            }
        }
        self.metered = scope.metered;
        Ok(())
    }

    /// Takes back all that a copy has done.
    pub(super) fn void_scope(&mut self, scope: &Scope) {
        self.rec.steps.truncate(scope.first);
        self.punts.truncate(scope.punts);
        self.rec.outputs = scope.outputs;
        self.base = scope.base;
        self.base_turned_back(scope.base_turned);
        self.metered = scope.metered;
    }

    /// Puts the range on the stack, with `zeros` more bits below it.
    #[inline(never)]
    pub(super) fn push(&mut self, src: Subfield, zeros: u8) -> Flow {
        let bytes = usize::from(src.bits + zeros).div_ceil(8);
        let stack = &mut self.rec.stack;
        if stack.len() + bytes + 1 > STACK_MAX_BYTES {
            return Err(Stop::Error(Drop::StackFull));
        }
        let value = (src.get(&self.key) << zeros).to_le_bytes();
        stack.extend_from_slice(value.get(..bytes).unwrap_or(&value));
        stack.push(bytes as u8);
        Ok(())
    }

    /// Takes the value on top without its lowest `skip` bits, cut or filled up with zeros to the
    /// width of `dst`; from an empty stack nothing.
    #[inline(never)]
    pub(super) fn pop(&mut self, (dst, prereq): (Subfield, Prereq), skip: u8) {
        let stack = &mut self.rec.stack;
        if stack.len() <= self.stack_base {
            self.seen.note("pop from an empty stack: nothing is written");
            return;
        }
        let bytes = usize::from(stack.pop().unwrap_or(0));
        let from = stack.len().saturating_sub(bytes);
        let mut value = [0; 16];
        for (to, byte) in value.iter_mut().zip(stack.drain(from..)) {
            *to = byte;
        }
        if prereq_met(prereq, &self.key) {
            dst.set(&mut self.key, u128::from_le_bytes(value) >> skip);
        }
    }
}
