//! Timer wheels: which connection is next to die, and which is the first to go when there is no
//! room.
//!
//! A wheel has 1024 slots of 2^29 ns (0.54 s). A connection hangs in the slot of the deadline it
//! had when it was queued, or in the last slot if that is further than 9 minutes. When the slot
//! comes up, who is due goes, who is not is queued again: a packet never touches a wheel, and no
//! slot is ever scanned twice in a round. A bitmap of the slots in use finds the next one in a few
//! words.
//!
//! **Three wheels**, by what a connection is worth (`Rank`): half-open ones, those that both sides
//! have closed, and all others. The nearest deadline of a rank is therefore found without looking
//! at a connection: a full table gives up the half-open connection that would die first, in
//! bounded work. A connection changes wheels when it is answered, and when it closes; not for a
//! packet.
//!
//! **Eight lists a slot.** The connections of a slot lie anywhere in memory, and a list tells of
//! the next one only when the last has come from memory: one miss each, some 150 ns. So a slot has
//! eight lists in turn, filled and emptied round robin, which is as good as one queue: who came
//! first goes first. What a list shows next is asked for when its last went, eight steps ahead of
//! its use, and its places in the index four steps ahead.

mod audit;

use super::conn::flag;
use super::expire::{Class, is_due, left};
use super::table::Table;

/// What a connection is worth when there is no room for another.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Rank {
    /// TCP before the end of its handshake, anything else before its first answer: gives way to
    /// any other. Linux calls the others *assured* (UDP after some more packets), and so does not
    /// drop them early.
    HalfOpen,
    /// TCP that both sides have closed, or one has reset: gives way when nothing is half-open. It
    /// waits for late segments alone.
    Closed,
    /// Established: never gives way.
    Settled,
}

/// In the order in which they give way.
pub const RANKS: [Rank; 3] = [Rank::HalfOpen, Rank::Closed, Rank::Settled];

impl Rank {
    #[inline]
    pub fn of(class: u8) -> Self {
        const fn bit(c: Class) -> u16 {
            1 << c as u16
        }
        const HALF_OPEN: u16 = bit(Class::TcpFirst)
            | bit(Class::TcpOpening)
            | bit(Class::OtherFirst)
            | bit(Class::OtherMultiple)
            | bit(Class::IcmpFirst);
        const CLOSED: u16 = bit(Class::TcpFinWait) | bit(Class::TcpClosed);
        let bit = 1u16 << (class & 15);
        if bit & HALF_OPEN != 0 {
            Self::HalfOpen
        } else if bit & CLOSED != 0 {
            Self::Closed
        } else {
            Self::Settled
        }
    }
}

const SLOT_SHIFT: u32 = 9;
const SLOTS: u64 = 1024;
/// Of a bitmap of the slots.
const WORDS: usize = SLOTS as usize / 64;
const LANES: usize = 8;
const LISTS: usize = SLOTS as usize * LANES;
const _: () = assert!(RANKS.len() * LISTS <= u16::MAX as usize, "`Cold::slot` names a list");

/// First and last connection of a list: index plus one, zero for none.
#[derive(Clone, Copy, Default)]
struct Ends {
    first: u32,
    last: u32,
}

#[derive(Default)]
struct Wheel {
    /// Slot number, counted from the clock's start, that comes up next.
    cursor: u64,
    /// No slot from the cursor to before this one holds anything.
    near: u64,
    /// Slots that hold anything.
    in_use: [u64; WORDS],
    /// Lists that were filled and emptied last.
    lane_in: usize,
    lane_out: usize,
    len: u32,
}

impl Wheel {
    fn is_used(&self, slot: u64) -> bool {
        self.in_use[slot as usize / 64 % WORDS] >> (slot % 64) & 1 != 0
    }

    /// The next slot in use from the cursor on.
    #[inline(always)]
    fn next_slot(&mut self) -> Option<u64> {
        let near = self.near.max(self.cursor);
        if !self.is_used(near) {
            self.near = self.search_slot()?;
            return Some(self.near);
        }
        Some(near)
    }

    /// The same, without a hint where it may be.
    fn search_slot(&self) -> Option<u64> {
        let at = self.cursor % SLOTS;
        let word = at as usize / 64;
        let ahead = self.in_use[word % WORDS] >> (at % 64);
        if ahead != 0 {
            return Some(self.cursor + u64::from(ahead.trailing_zeros()));
        }
        // The rest of the round; the word of the cursor comes last, for what lies before it.
        for step in 1..=WORDS {
            let bits = self.in_use[(word + step) % WORDS];
            if bits != 0 {
                let ahead = step as u64 * 64 - at % 64 + u64::from(bits.trailing_zeros());
                return Some(self.cursor + ahead);
            }
        }
        None
    }

    /// The slot holds something.
    #[inline(always)]
    fn mark(&mut self, slot: u64) {
        self.in_use[slot as usize / 64 % WORDS] |= 1 << (slot % 64);
        self.near = self.near.min(slot);
    }

    /// It holds nothing any more.
    fn unmark(&mut self, slot: u64) {
        self.in_use[slot as usize / 64 % WORDS] &= !(1 << (slot % 64));
    }

    /// The slot for a deadline: none that is past, and within a round.
    fn slot_of(&self, deadline: u32, tick: u64) -> u64 {
        let ahead = left(deadline, tick).max(0) as u64;
        ((tick + ahead) >> SLOT_SHIFT).clamp(self.cursor, self.cursor + SLOTS - 1)
    }

    /// The cursor goes to the first slot that is not done, or to the present. After a long sleep
    /// one round visits every slot; more would be idle.
    fn catch_up(&mut self, tick: u64) {
        let present = tick >> SLOT_SHIFT;
        if self.cursor < present {
            let first = self.next_slot().unwrap_or(present).min(present);
            self.cursor = first.max(present.saturating_sub(SLOTS));
        }
    }
}

/// All wheels.
pub struct Wheels {
    /// Wheel after wheel, slot after slot.
    lists: Box<[[Ends; LANES]]>,
    wheels: [Wheel; RANKS.len()],
}

impl Wheels {
    pub fn new() -> Self {
        let lists = vec![[Ends::default(); LANES]; RANKS.len() * SLOTS as usize];
        Self { lists: lists.into_boxed_slice(), wheels: Default::default() }
    }

    fn ends(&mut self, list: usize) -> Option<&mut Ends> {
        self.lists.get_mut(list / LANES)?.get_mut(list % LANES)
    }

    /// Queues a connection by its class and deadline, behind those of its slot.
    #[inline]
    pub fn queue(&mut self, table: &mut Table, ix: u32, tick: u64) {
        let hot = table.hot(ix);
        let (rank, deadline) = (Rank::of(hot.class), hot.deadline);
        self.queue_as(table, ix, (rank, deadline), tick);
    }

    /// The same of one that has this rank and this deadline.
    #[inline(always)]
    pub fn queue_as(
        &mut self,
        table: &mut Table,
        ix: u32,
        (rank, deadline): (Rank, u32),
        tick: u64,
    ) {
        let rank = rank as usize;
        let wheel = &mut self.wheels[rank];
        wheel.catch_up(tick);
        let slot = wheel.slot_of(deadline, tick);
        wheel.lane_in = (wheel.lane_in + 1) % LANES;
        wheel.mark(slot);
        wheel.len += 1;
        let (slot, lane) = ((slot % SLOTS) as usize, wheel.lane_in);
        let Some(lists) = self.lists.get_mut(rank * SLOTS as usize + slot) else { return };
        let ends = &mut lists[lane];
        let before = std::mem::replace(&mut ends.last, ix + 1);
        if before == 0 {
            ends.first = ix + 1;
        } else if let Some(cold) = table.cold_mut(before - 1) {
            cold.next = ix + 1;
        }
        if let Some(cold) = table.cold_mut(ix) {
            let list = rank * LISTS + slot * LANES + lane;
            (cold.next, cold.prev, cold.slot) = (0, before, list as u16);
        }
    }

    /// Takes a connection out. The first of a list touches no other: its successor's link back is
    /// not kept up, and nobody follows it.
    pub fn unqueue(&mut self, table: &mut Table, ix: u32) {
        let cold = *table.cold(ix);
        let list = usize::from(cold.slot);
        if let Some(wheel) = self.wheels.get_mut(list / LISTS) {
            wheel.len -= 1;
        }
        let Some(ends) = self.ends(list) else { return };
        if ends.first == ix + 1 {
            ends.first = cold.next;
            if cold.next == 0 {
                ends.last = 0;
                self.see_empty(list);
            }
            return;
        }
        if cold.next == 0 {
            ends.last = cold.prev;
        } else if let Some(after) = table.cold_mut(cold.next - 1) {
            after.prev = cold.prev;
        }
        if let Some(before) = table.cold_mut(cold.prev - 1) {
            before.next = cold.next;
        }
    }

    /// A list is empty: so may be its slot.
    #[inline(never)]
    fn see_empty(&mut self, list: usize) {
        let empty = |lanes: &[Ends; LANES]| lanes.iter().all(|e| e.first == 0);
        if self.lists.get(list / LANES).is_some_and(empty)
            && let Some(wheel) = self.wheels.get_mut(list / LISTS)
        {
            wheel.unmark((list % LISTS / LANES) as u64);
        }
    }

    /// Slots from the cursor to the one that the connection hangs in.
    fn ahead(&self, rank: usize, table: &Table, ix: u32) -> u64 {
        let slot = (usize::from(table.cold(ix).slot) % LISTS / LANES) as u64;
        slot.wrapping_sub(self.wheels.get(rank).map_or(0, |w| w.cursor)) % SLOTS
    }

    /// After a change of class: another rank needs another wheel, and a deadline that now comes
    /// before the slot it is queued in another slot; a later one is found out when the slot
    /// comes up.
    pub fn requeue(&mut self, table: &mut Table, ix: u32, tick: u64) {
        let hot = table.hot(ix);
        let (rank, deadline) = (Rank::of(hot.class) as usize, hot.deadline);
        if usize::from(table.cold(ix).slot) / LISTS == rank {
            let Some(wheel) = self.wheels.get_mut(rank) else { return };
            wheel.catch_up(tick);
            let wanted = wheel.slot_of(deadline, tick) - wheel.cursor;
            if wanted >= self.ahead(rank, table, ix) {
                return;
            }
        }
        self.unqueue(table, ix);
        self.queue(table, ix, tick);
    }

    /// Whether a slot has come up and is not done.
    pub fn is_behind(&self, tick: u64) -> bool {
        let present = tick >> SLOT_SHIFT;
        let behind = |w: &Wheel| w.cursor < present && w.search_slot().is_some_and(|s| s < present);
        self.wheels.iter().any(behind)
    }

    /// Connections of a rank.
    pub fn len(&self, rank: Rank) -> u32 {
        self.wheels.get(rank as usize).map_or(0, |w| w.len)
    }

    /// Whether there is a connection of a rank.
    pub fn any(&self, rank: Rank) -> bool {
        self.len(rank) > 0
    }

    /// Whether no slot has come up since each wheel was last looked at.
    #[inline(always)]
    pub fn are_done(&self, tick: u64) -> bool {
        let present = tick >> SLOT_SHIFT;
        self.wheels.iter().all(|w| w.cursor >= present)
    }

    /// Takes out the connection of `rank` with the nearest deadline, to half a second, and says
    /// how many slots from the cursor it hung. What the calls after this one will need is asked
    /// for. `late` is a slot number: none from there on.
    #[inline(always)]
    fn take_head(&mut self, table: &Table, rank: usize, late: u64) -> Option<(u32, u64)> {
        let wheel = self.wheels.get_mut(rank)?;
        let slot = wheel.next_slot()?;
        if slot >= late {
            return None;
        }
        let list = rank * SLOTS as usize + (slot % SLOTS) as usize;
        let lists = self.lists.get_mut(list)?;
        let mut lane = (wheel.lane_out + 1) % LANES;
        // Ends: the slot holds something.
        for _ in 0..LANES {
            if lists[lane].first != 0 {
                break;
            }
            lane = (lane + 1) % LANES;
        }
        let ix = lists[lane].first.checked_sub(1)?;
        (wheel.lane_out, wheel.len) = (lane, wheel.len.wrapping_sub(1));
        let ahead = slot - wheel.cursor;
        let next = table.cold(ix).next;
        let soon = lists[(lane + LANES / 2) % LANES].first;
        lists[lane].first = next;
        if next != 0 {
            table.prefetch_place(next - 1);
        } else {
            lists[lane].last = 0;
            self.see_empty(list * LANES);
        }
        if soon != 0 {
            table.prefetch_links(soon - 1);
        }
        Some((ix, ahead))
    }

    /// Takes out the next connection that is due, within `budget` steps.
    pub fn take_due(
        &mut self,
        table: &mut Table,
        rank: Rank,
        tick: u64,
        budget: &mut usize,
    ) -> Option<u32> {
        let now_slot = tick >> SLOT_SHIFT;
        let wheel = self.wheels.get_mut(rank as usize)?;
        wheel.catch_up(tick);
        if wheel.cursor >= now_slot {
            return None;
        }
        while *budget > 0 {
            let (ix, _) = self.take_head(table, rank as usize, now_slot)?;
            *budget -= 1;
            debug_assert!(table.hot(ix).has(flag::LIVE));
            if is_due(table.hot(ix).deadline, tick) {
                return Some(ix);
            }
            self.queue(table, ix, tick);
        }
        None
    }

    /// Takes out the connection of `rank` that would be the first to die. One whose deadline was
    /// put off since it was queued is queued anew, up to `tries` times; then it is whoever comes.
    #[inline(always)]
    pub fn take_nearest(
        &mut self,
        table: &mut Table,
        rank: Rank,
        tick: u64,
        tries: usize,
    ) -> Option<u32> {
        self.wheels.get_mut(rank as usize)?.catch_up(tick);
        for _ in 0..tries {
            let (ix, ahead) = self.take_head(table, rank as usize, u64::MAX)?;
            let deadline = table.hot(ix).deadline;
            let wheel = self.wheels.get(rank as usize)?;
            if wheel.slot_of(deadline, tick) - wheel.cursor <= ahead {
                return Some(ix);
            }
            self.queue(table, ix, tick);
        }
        self.take_head(table, rank as usize, u64::MAX).map(|(ix, _)| ix)
    }
}

impl Default for Wheels {
    fn default() -> Self {
        Self::new()
    }
}
