//! Where a key's slot is, and how the table grows.
//!
//! **Groups.** Four slots are a group. A key's hash names a group and one slot of it, its *home*.
//! Nearly all entries are at home, so a lookup touches one line. One whose home is taken is in
//! another slot of the group; if the group is full, in a second group that the hash names too.
//!
//! **What a home says.** Three bits of each slot say in which others of the group there are keys
//! whose home it is; all three mean in any, or in the second group. A lookup that does not find
//! its key at home so knows from the same line where else to look, and mostly that it need not
//! look anywhere: a packet of a new flow touches one line as well. Bits are set when an entry
//! comes; when one goes, those of its group are made anew from what is in it. Which keys are in
//! their second group cannot be seen there: they are counted, for each first group (`spilled`).
//!
//! **How many.** A table has two slots for each entry that it may hold, and eight while it can
//! still grow: then one entry in sixteen is away from home, and hardly ever is a group full. In the
//! fullest table one in four is: whoever looks for a batch of keys asks for all their homes, then
//! for what those name (`is_at`, `ask_elsewhere`, `find_elsewhere`).
//!
//! **Growth.** Memory is reserved for all entries at start, and touched as entries come: the table
//! grows by linear hashing (W. Litwin, "Linear hashing: a new tool for file and table addressing",
//! 1980), one group at a time. With `2^k + s` groups, the first `s` have been split: a hash goes to
//! the group of its low `k + 1` bits if that is there, else to that of its low `k` bits. To grow
//! by a group is to move those of group `s` whose next bit is set. So few flows stay on few pages,
//! growth costs each insertion about the same, and a look at all entries costs what is in use.

use super::Microflows;
use crate::cache::entry::{
    ELSEWHERE, ELSEWHERE_SHIFT, EMPTY, Entry, Masked, NONE, OF_THE_PLACE, Tick,
};
use crate::packet::key::{PacketKey, shape};
use crate::prefetch::prefetch;

/// Slots of a group.
pub(super) const WAYS: u32 = 4;
/// Slots for an entry in the fullest table, and while there is room.
pub(super) const SLOTS_AN_ENTRY: u32 = 2;
const ROOM: u32 = 8;
/// Bits of a hash: the group's below, two for the home above.
const HASH_BITS: u32 = 24;
const HOME_SHIFT: u32 = HASH_BITS - WAYS.trailing_zeros();
/// Most slots that these bits can tell apart.
pub(super) const SLOTS_MAX: usize = 1 << HASH_BITS;
pub(super) const ENTRIES_MAX: usize = SLOTS_MAX / SLOTS_AN_ENTRY as usize;
/// Groups to begin with.
pub(super) const GROUPS_MIN: u32 = 256;
/// A count of `spilled` that stays.
const MANY: u8 = u8::MAX;

const _: () = assert!(ELSEWHERE >> ELSEWHERE_SHIFT == (1 << (WAYS - 1)) - 1);

impl Entry {
    /// Says of a place that a key whose home it is may be so many slots further on.
    fn point(&mut self, distance: u32) {
        self.flags |= 1 << (ELSEWHERE_SHIFT + distance - 1);
    }

    fn points_everywhere(&self) -> bool {
        self.flags & ELSEWHERE == ELSEWHERE
    }
}

impl Microflows {
    /// Entries that there can be.
    pub fn capacity(&self) -> usize {
        (self.groups_max * WAYS / SLOTS_AN_ENTRY) as usize
    }

    /// Slots that there can be.
    pub fn slots_max(&self) -> usize {
        (self.groups_max * WAYS) as usize
    }

    /// Slots that are there now: the numbers of all entries are below.
    pub fn slots(&self) -> u32 {
        self.slots.len() as u32
    }

    /// Whether there are as many entries as it may hold, or more.
    pub fn is_full(&self) -> bool {
        self.live as usize >= self.capacity()
    }

    /// Whether a group should be added.
    #[inline]
    pub fn is_crowded(&self) -> bool {
        self.live * ROOM > self.groups * WAYS && self.groups < self.groups_max
    }

    /// Adds a group. `owed` hears of the new places of slots that owe counts; slot numbers of
    /// before are void.
    pub fn grow(&mut self, mut owed: impl FnMut(u32)) {
        if self.groups >= self.groups_max {
            return;
        }
        if self.groups > self.wide {
            self.wide = self.wide * 2 + 1;
        }
        let new = self.groups;
        let old = new & (self.wide >> 1);
        self.slots.extend([EMPTY; WAYS as usize]);
        self.groups += 1;
        let said = [0, 1, 2, 3].map(|n| self.slots[(old * WAYS + n) as usize].points_everywhere());
        for from in old * WAYS..(old + 1) * WAYS {
            let slot = self.slots[from as usize];
            if slot.traversal == NONE {
                continue;
            }
            let [first, again] = [slot.tag(), second(slot.tag())].map(|h| self.home(h));
            let home = if [old, new].contains(&(first / WAYS)) { first } else { again };
            if home / WAYS == new
                && let Some(to) = self.empty(home)
            {
                self.slots[to as usize] = slot;
                self.copy_lines(from as usize, to as usize, slot.flags);
                if slot.owes() {
                    owed(to);
                }
                // The number of the old place stays in the list of those that owe.
                self.slots[from as usize] = Entry { flags: slot.flags & OF_THE_PLACE, ..EMPTY };
            }
        }
        self.split_pointers(old, new, said);
    }

    /// After a group was split, makes what the slots of both say: `said` is which of the old one
    /// may have had keys in their second group. Which half those are of cannot be known.
    fn split_pointers(&mut self, old: u32, new: u32, said: [bool; WAYS as usize]) {
        let spilled = self.spilled[old as usize] > 0;
        for group in [old, new] {
            for (at, said) in (group * WAYS..).zip(said) {
                let slot = &mut self.slots[at as usize];
                slot.flags = slot.flags & !ELSEWHERE | if spilled && said { ELSEWHERE } else { 0 };
            }
            if spilled {
                self.spilled[group as usize] = MANY;
            }
            self.point_anew(group);
        }
    }

    fn copy_lines(&mut self, from: usize, to: usize, lines: u8) {
        let all = [(shape::L3, &mut self.l3), (shape::TUNNEL, &mut self.tunnel)];
        for (bit, array) in all.into_iter().chain([(shape::STACK, &mut self.stack)]) {
            if lines & bit != 0 {
                array[to] = array[from];
            }
        }
    }

    /// The home of a hash, with the groups that are there.
    #[inline]
    pub(super) fn home(&self, hash: u32) -> u32 {
        let wide = hash & self.wide;
        let group = if wide < self.groups { wide } else { wide & (self.wide >> 1) };
        group * WAYS + (hash >> HOME_SHIFT)
    }

    /// The slot that holds this key.
    #[inline]
    pub fn find(&self, home: u32, key: &PacketKey, masked: &Masked) -> Option<u32> {
        if self.same(home as usize, key, masked) {
            Some(home)
        } else {
            self.find_away(home, key, masked)
        }
    }

    /// Looks where the home says that keys are.
    #[inline(never)]
    fn find_away(&self, home: u32, key: &PacketKey, masked: &Masked) -> Option<u32> {
        self.find_elsewhere(home, key, masked).or_else(|| {
            let again = self.second_home(home, key)?;
            self.find_in_group(again, key, masked)
        })
    }

    /// Whether this slot holds this key.
    #[inline]
    pub fn is_at(&self, at: u32, key: &PacketKey, masked: &Masked) -> bool {
        self.same(at as usize, key, masked)
    }

    /// The slots of a home's group, without itself, where keys may be whose home it is.
    #[inline]
    fn elsewhere(&self, home: u32) -> impl Iterator<Item = u32> {
        let says = self.slots.get(home as usize).map_or(0, |s| s.flags & ELSEWHERE);
        let mut rest = says >> ELSEWHERE_SHIFT;
        std::iter::from_fn(move || {
            let distance = rest.trailing_zeros() + 1;
            rest &= rest.wrapping_sub(1);
            (distance < WAYS).then_some(home / WAYS * WAYS + (home + distance) % WAYS)
        })
    }

    /// Asks for the lines beside a home that may hold keys whose home it is. False: a key that
    /// is not at home is nowhere.
    #[inline]
    pub fn ask_elsewhere(&self, home: u32) -> bool {
        let mut any = false;
        for at in self.elsewhere(home) {
            any = true;
            self.slots.get(at as usize).into_iter().for_each(prefetch);
        }
        any
    }

    /// The slot beside its home that holds this key.
    pub fn find_elsewhere(&self, home: u32, key: &PacketKey, masked: &Masked) -> Option<u32> {
        self.elsewhere(home).find(|at| self.is_at(*at, key, masked))
    }

    /// A slot of the second group that a key's hash names, if it may be there.
    pub fn second_home(&self, home: u32, key: &PacketKey) -> Option<u32> {
        let maybe = self.slots.get(home as usize)?.points_everywhere();
        maybe.then(|| self.again(key))
    }

    fn again(&self, key: &PacketKey) -> u32 {
        self.home(second(self.mix(key, &mut Masked::default())))
    }

    /// The slot that holds this key, of the four of a group.
    pub fn find_in_group(&self, home: u32, key: &PacketKey, masked: &Masked) -> Option<u32> {
        group(home).find(|at| self.is_at(*at, key, masked))
    }

    /// Asks for the lines of a group.
    pub fn ask_group(&self, home: u32) {
        group(home).filter_map(|at| self.slots.get(at as usize)).for_each(prefetch);
    }

    /// An empty slot of this group.
    fn empty(&self, home: u32) -> Option<u32> {
        group(home).find(|at| self.slots[*at as usize].traversal == NONE)
    }

    /// The slot a new entry with this home should take: an empty one while there may be more
    /// entries, else the one longest unused of its groups.
    /// The caller must give back what the slot holds before it calls [`Microflows::fill`].
    pub fn victim(&self, home: u32, key: &PacketKey, now: Tick) -> u32 {
        let again = self.again(key);
        if self.live as usize >= self.capacity()
            && let Some(at) = self.oldest(home, again, now)
        {
            return at;
        }
        let empty = self.empty(home).or_else(|| self.empty(again));
        empty.or_else(|| self.oldest(home, again, now)).unwrap_or(home)
    }

    /// Of the entries in two groups, the one longest unused.
    fn oldest(&self, home: u32, again: u32, now: Tick) -> Option<u32> {
        let slot = |at: &u32| &self.slots[*at as usize];
        let both = group(home).chain(group(again)).filter(|at| slot(at).traversal != NONE);
        both.min_by_key(|at| std::cmp::Reverse(slot(at).used.age(now)))
    }

    /// An entry with this hash came to this slot: its home has to know.
    pub(super) fn came(&mut self, at: u32, hash: u32) {
        let home = self.home(hash);
        if at / WAYS != home / WAYS {
            let spilled = &mut self.spilled[(home / WAYS) as usize];
            *spilled = spilled.saturating_add(1);
            self.slots[home as usize].flags |= ELSEWHERE;
        } else if at != home {
            self.slots[home as usize].point(at.wrapping_sub(home) % WAYS);
        }
    }

    /// An entry with this hash is gone from this slot.
    pub(super) fn gone(&mut self, at: u32, hash: u32) {
        let home = self.home(hash);
        if at / WAYS != home / WAYS {
            let spilled = &mut self.spilled[(home / WAYS) as usize];
            *spilled -= u8::from(*spilled != MANY);
        } else if at == home {
            return;
        }
        self.point_anew(home / WAYS);
    }

    /// Makes what the slots of a group say anew from what is in it. If some of its keys are in
    /// their second group, those who say so go on saying it.
    fn point_anew(&mut self, group: u32) {
        let spilled = self.spilled[group as usize] > 0;
        let from = group * WAYS;
        for at in from..from + WAYS {
            let slot = &mut self.slots[at as usize];
            if !(spilled && slot.points_everywhere()) {
                slot.flags &= !ELSEWHERE;
            }
        }
        for at in from..from + WAYS {
            let slot = &self.slots[at as usize];
            let home = self.home(slot.tag());
            if slot.traversal != NONE && home / WAYS == group && home != at {
                self.slots[home as usize].point(at.wrapping_sub(home) % WAYS);
            }
        }
    }
}

/// The slots of a group, from this one on.
#[inline]
fn group(home: u32) -> impl Iterator<Item = u32> {
    (0..WAYS).map(move |n| home / WAYS * WAYS + (home + n) % WAYS)
}

/// The hash that names the second group: all bits of the first decide each of it.
#[inline]
fn second(hash: u32) -> u32 {
    hash.wrapping_mul(0x9e37_79b1).rotate_left(13).wrapping_mul(0x85eb_ca6b) >> (32 - HASH_BITS)
}
