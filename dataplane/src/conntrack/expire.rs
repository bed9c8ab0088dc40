//! When connections die: timeout classes, lazy deadlines, and the timer wheel.
//!
//! Time is in ticks of 2^20 ns (1.05 ms), so that no division is needed; a deadline is 32 bits
//! and compares modulo 2^32 (24 days either way).
//!
//! **Lazy deadlines.** A packet gives its connection `timeout` more to live. Writing that down
//! for each packet dirties a line that UDP otherwise only reads. So a deadline is written an
//! eighth too far, and only written again when less than the timeout is left. A connection lives
//! at least its timeout after the last packet, at most 9/8 of it, and a fast flow writes once in
//! an eighth of its timeout.
//!
//! **The wheel** has 1024 slots of 2^29 ns (0.54 s). A connection hangs in the slot of the
//! deadline it had when it was queued, or in the last slot if that is further than 9 minutes.
//! When the slot comes up, who is due goes, who is not is queued again: a packet never touches
//! the wheel, and no slot is ever scanned twice in a round. `expire` does at most `budget` steps;
//! what it leaves is done next time, and a look-up treats a connection past its deadline as
//! gone, so the budget changes when memory comes back, not what packets see.

use super::conn::flag;
use super::table::Table;
use crate::clock::Now;

/// Which timeout is in force; the names are those of Open vSwitch's timeout policies.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Class {
    TcpFirst,
    TcpOpening,
    TcpEstablished,
    TcpClosing,
    TcpFinWait,
    TcpClosed,
    OtherFirst,
    OtherMultiple,
    OtherBidir,
    IcmpFirst,
    IcmpReply,
}

pub const CLASSES: usize = 11;

/// Seconds per class, in their order: the defaults of Open vSwitch's userspace conntrack.
pub const DEFAULT_TIMEOUTS_S: [u32; CLASSES] =
    [30, 30, 24 * 3600, 15 * 60, 45, 30, 60, 60, 30, 60, 30];

/// A longer one would not fit the arithmetic of deadlines.
const TIMEOUT_MAX_S: u32 = 10 * 24 * 3600;

const TICK_SHIFT: u32 = 20;
const SLOT_SHIFT: u32 = 9;
const SLOTS: u64 = 1024;

/// Ticks since the clock's start.
#[inline]
pub fn ticks(now: Now) -> u64 {
    now.ns >> TICK_SHIFT
}

#[inline]
fn left(deadline: u32, tick: u64) -> i32 {
    deadline.wrapping_sub(tick as u32) as i32
}

/// Whether a deadline has passed.
#[inline]
pub fn is_due(deadline: u32, tick: u64) -> bool {
    left(deadline, tick) <= 0
}

/// Timeouts in ticks.
#[derive(Clone, Copy, Debug)]
pub struct Timeouts([u32; 16]);

impl Timeouts {
    pub fn new(seconds: &[u32; CLASSES]) -> Self {
        let mut all = [1; 16];
        for (t, s) in all.iter_mut().zip(seconds) {
            let ns = u64::from((*s).clamp(1, TIMEOUT_MAX_S)) * 1_000_000_000;
            *t = ns.div_ceil(1 << TICK_SHIFT) as u32;
        }
        Self(all)
    }

    #[inline]
    fn of(&self, class: u8) -> u32 {
        self.0[usize::from(class & 15)]
    }

    /// The deadline after a packet at `tick` of a connection in `class`, whose deadline was
    /// `old`, set under the same class: unchanged while it leaves the whole timeout.
    #[inline]
    pub fn refreshed(&self, class: u8, old: u32, tick: u64) -> u32 {
        let timeout = self.of(class);
        if left(old, tick) >= timeout as i32 { old } else { self.fresh(class, tick) }
    }

    /// A new deadline.
    #[inline]
    pub fn fresh(&self, class: u8, tick: u64) -> u32 {
        let timeout = self.of(class);
        (tick as u32).wrapping_add(timeout + (timeout >> 3))
    }

    /// Seconds left as an operator sees them: the eighth is not shown.
    pub fn shown_s(&self, class: u8, deadline: u32, tick: u64) -> u32 {
        let left = left(deadline, tick).clamp(0, self.of(class) as i32) as u64;
        ((left << TICK_SHIFT) / 1_000_000_000) as u32
    }
}

/// The timer wheel.
pub struct Wheel {
    /// First connection of each slot: index plus one.
    heads: Box<[u32]>,
    /// Slot number, counted from the clock's start, that comes up next.
    cursor: u64,
}

impl Wheel {
    pub fn new() -> Self {
        Self { heads: vec![0; SLOTS as usize].into_boxed_slice(), cursor: 0 }
    }

    fn slot_of(&self, deadline: u32, tick: u64) -> u64 {
        let ahead = left(deadline, tick).max(0) as u64;
        ((tick + ahead) >> SLOT_SHIFT).clamp(self.cursor, self.cursor + SLOTS - 1)
    }

    /// Queues a connection by its deadline.
    pub fn queue(&mut self, table: &mut Table, ix: u32, tick: u64) {
        self.catch_up(tick);
        let slot = (self.slot_of(table.hot(ix).deadline, tick) % SLOTS) as usize;
        let Some(head) = self.heads.get_mut(slot) else { return };
        let next = std::mem::replace(head, ix + 1);
        if let Some(cold) = table.cold_mut(ix) {
            (cold.next, cold.prev, cold.slot) = (next, 0, slot as u16);
        }
        if next != 0
            && let Some(cold) = table.cold_mut(next - 1)
        {
            cold.prev = ix + 1;
        }
    }

    /// Takes a connection out.
    pub fn unqueue(&mut self, table: &mut Table, ix: u32) {
        let cold = *table.cold(ix);
        if cold.prev == 0 {
            if let Some(head) = self.heads.get_mut(usize::from(cold.slot)) {
                *head = cold.next;
            }
        } else if let Some(before) = table.cold_mut(cold.prev - 1) {
            before.next = cold.next;
        }
        if cold.next != 0
            && let Some(after) = table.cold_mut(cold.next - 1)
        {
            after.prev = cold.prev;
        }
    }

    /// After a change of class: a deadline that now comes before the slot it is queued in needs
    /// another slot; a later one is found out when the slot comes up.
    pub fn requeue_if_sooner(&mut self, table: &mut Table, ix: u32, tick: u64) {
        self.catch_up(tick);
        let wanted = self.slot_of(table.hot(ix).deadline, tick);
        let queued = u64::from(table.cold(ix).slot);
        let ahead = queued.wrapping_sub(self.cursor) % SLOTS;
        if wanted - self.cursor < ahead {
            self.unqueue(table, ix);
            self.queue(table, ix, tick);
        }
    }

    /// After a long sleep one round visits every slot; more would be idle.
    fn catch_up(&mut self, tick: u64) {
        self.cursor = self.cursor.max((tick >> SLOT_SHIFT).saturating_sub(SLOTS));
    }

    /// Whether a slot has come up and is not done.
    pub fn is_behind(&self, tick: u64) -> bool {
        self.cursor < tick >> SLOT_SHIFT
    }

    /// The next connection that is due, within `budget` steps.
    pub fn next_due(&mut self, table: &mut Table, tick: u64, budget: &mut usize) -> Option<u32> {
        self.catch_up(tick);
        let now_slot = tick >> SLOT_SHIFT;
        while *budget > 0 && self.cursor < now_slot {
            *budget -= 1;
            let head = self.heads.get((self.cursor % SLOTS) as usize).copied().unwrap_or(0);
            if head == 0 {
                self.cursor += 1;
                continue;
            }
            let ix = head - 1;
            debug_assert!(table.hot(ix).has(flag::LIVE));
            if is_due(table.hot(ix).deadline, tick) {
                return Some(ix);
            }
            self.unqueue(table, ix);
            self.queue(table, ix, tick);
        }
        None
    }
}

impl Default for Wheel {
    fn default() -> Self {
        Self::new()
    }
}
