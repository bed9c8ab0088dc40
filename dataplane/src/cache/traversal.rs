//! Flattened walks in records of fixed size.
//!
//! A record is 128 bytes: a head and four items; longer traversals chain records. Items are, in
//! this order, the guards, the steps, and the rules to credit. Walks that come out equal share one
//! traversal (counted references), so a million flows of one rule keep one record. A walk through
//! connection tracking keeps what it asked and what it was told, not which connection that was: a
//! million connections that are treated alike keep one record too.

use super::recording::{Question, Recording};
use crate::action::step::Step;
use crate::conntrack::ConnRef;
use crate::packet::key::PortIx;
use crate::sys::advise_huge_pages;

/// A `ct` of the walk: to be run for each packet that takes it, and to come out as it did.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Track {
    pub zone: u16,
    /// `ct_state` that the walk saw, `SNAT` and `DNAT` included.
    pub state: u8,
    /// It asks for a translation.
    pub nat: bool,
    /// One came of it.
    pub turns: bool,
    /// Later lookups see what came out.
    pub is_read: bool,
    /// It asks of the same packet, in the same zone, what the one before it has asked.
    pub again: bool,
    /// Its commit was refused, and what follows is for packets whose commit is.
    pub refused: bool,
    /// Number of what it commits, or `NO_COMMIT`.
    pub commit: u16,
    /// Mark that the walk saw, as far as it looked.
    pub mark: u32,
    pub mark_mask: u32,
}

impl Track {
    /// It changes nothing but its connection, and nothing else of that was looked at.
    #[inline]
    pub fn is_plain(&self) -> bool {
        self.commit == NO_COMMIT && self.mark_mask == 0
    }

    /// It commits what the one before it has looked for in vain.
    fn opens_after(&self, look: &Track) -> bool {
        look.is_plain()
            && !look.turns
            && self.again
            && self.commit != NO_COMMIT
            && self.mark_mask == 0
    }
}

/// `Track::commit` for none.
pub const NO_COMMIT: u16 = u16::MAX;

/// A MAC table entry that a traversal relied on; or, with `slot` all ones, the whole table's
/// generation in `value`.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct FdbGuard {
    pub value: u64,
    pub slot: u32,
    pub bridge: u16,
    /// The packet comes from this address: keep it young.
    pub touch: bool,
}

/// `FdbGuard::slot` for "no new address at all".
pub const WHOLE_FDB: u32 = u32::MAX;

/// A part of a traversal.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Item {
    Do(Step),
    Ct(Track),
    /// The low half of the label that the walk saw at the `Ct` before this, as far as it looked:
    /// value and mask.
    LabelLow([u64; 2]),
    /// The high half.
    LabelHigh([u64; 2]),
    /// The very connection of the `Ct` before this.
    Pin(ConnRef),
    Fdb(FdbGuard),
    /// Numbers of rules in the program; `u32::MAX` fills up.
    Credit([u32; 4]),
    /// A group to credit with its bucket of this place, or with all (`WHOLE_GROUP`).
    Bucket {
        bridge: u16,
        bucket: u16,
        group: u32,
    },
    /// Number of a rule that the packet would have learned were it not there. It is young again.
    Learned(u32),
}

/// `Item::Bucket::bucket` for all of them.
pub const WHOLE_GROUP: u16 = u16::MAX;

const _: () = assert!(size_of::<Item>() == 24);

/// Items in one record.
const ITEMS: usize = 4;
pub(super) const NONE: u32 = u32::MAX;

/// What the guards are, as far as the commonest kinds go.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    One,
    Opening,
    Refused,
    Other,
}

impl Kind {
    fn of(guards: &[Item]) -> Self {
        match guards {
            [Item::Ct(one)] if one.is_plain() => Self::One,
            [Item::Ct(look), Item::Ct(commit)] if commit.opens_after(look) => {
                match commit.refused {
                    true => Self::Refused,
                    false => Self::Opening,
                }
            }
            _ => Self::Other,
        }
    }
}

/// The same with the guards.
#[derive(Clone, Copy, Debug)]
pub enum Asks<'a> {
    /// One `ct` that `is_plain`.
    One(&'a Track),
    /// A `ct` that finds nothing, and one of the same packet that commits it.
    Opening(&'a Track, &'a Track),
    /// The same, where the commit was refused.
    Refused(&'a Track, &'a Track),
    Other,
}

/// Whether guards are those of `Asks::Refused`.
pub(super) fn are_of_refused(guards: &[Item]) -> bool {
    Kind::of(guards) == Kind::Refused
}

/// What must be known before a traversal is used.
#[derive(Clone, Copy, Debug)]
pub struct Head {
    /// Set of the tables that the walk looked into, as `pipeline::delta` has it.
    pub tables: u64,
    /// Frame lengths for which the walk decides the same.
    pub len_min: u16,
    pub len_max: u16,
    pub guards: u16,
    pub steps: u16,
    pub credits: u16,
    /// Fields that differed from the packet's in some lookup, as `pipeline::delta` has it.
    pub dirty: u16,
    asks: Kind,
    /// All that is done is to send the packet by this port, if it is one.
    only_output: PortIx,
    refs: u32,
    next: u32,
}

impl Head {
    /// Whether the walk decides so for a frame of this length.
    #[inline]
    pub fn fits(&self, len: usize) -> bool {
        (usize::from(self.len_min)..=usize::from(self.len_max)).contains(&len)
    }
}

/// 128 bytes, two lines.
#[derive(Clone, Copy)]
#[repr(C, align(64))]
pub struct Traversal {
    pub head: Head,
    items: [Item; ITEMS],
}

const _: () = assert!(size_of::<Traversal>() == 128);

impl Traversal {
    /// The steps that lie in the first record.
    #[inline]
    pub fn first_steps(&self) -> &[Item] {
        let from = usize::from(self.head.guards);
        let to = (from + usize::from(self.head.steps)).min(ITEMS);
        self.items.get(from..to).unwrap_or_default()
    }

    /// What is asked of a packet before it may go this way.
    #[inline(always)]
    pub fn asks(&self) -> Asks<'_> {
        match (self.head.asks, &self.items) {
            (Kind::One, [Item::Ct(one), ..]) => Asks::One(one),
            (Kind::Opening, [Item::Ct(look), Item::Ct(commit), ..]) => Asks::Opening(look, commit),
            (Kind::Refused, [Item::Ct(look), Item::Ct(commit), ..]) => Asks::Refused(look, commit),
            _ => Asks::Other,
        }
    }

    /// Where the packet leaves, if nothing else is done to it.
    #[inline(always)]
    pub fn only_output(&self) -> Option<PortIx> {
        Some(self.head.only_output).filter(|port| *port != PortIx::NONE)
    }

    #[inline]
    pub fn first_item(&self) -> Option<&Item> {
        self.items.first()
    }

    /// The second line.
    #[inline]
    pub fn rest(&self) -> &Item {
        &self.items[ITEMS - 1]
    }

    /// Whether what comes before the credits reaches into the second line.
    #[inline]
    pub fn is_long(&self) -> bool {
        self.head.guards + self.head.steps > 1
    }
}

const BLANK: Item = Item::Credit([NONE; 4]);

/// The pool of records.
pub struct Traversals {
    /// Those that were ever in use; room for all is reserved, and touched by use.
    records: Vec<Traversal>,
    /// Of these, the ones that came back.
    free: Vec<u32>,
    /// Recently stored shareable traversals by content.
    shared: Box<[u32]>,
}

const SHARED: usize = 4096;

const NO_HEAD: Head = Head {
    tables: 0,
    dirty: 0,
    len_min: 0,
    len_max: 0,
    guards: 0,
    steps: 0,
    credits: 0,
    asks: Kind::Other,
    only_output: PortIx::NONE,
    refs: 0,
    next: NONE,
};

impl Traversals {
    pub fn new(records: usize) -> Self {
        let mut list = Vec::with_capacity(records);
        advise_huge_pages(list.spare_capacity_mut());
        Self { records: list, free: Vec::with_capacity(records), shared: vec![NONE; SHARED].into() }
    }

    /// Records that are not in use.
    pub fn free_records(&self) -> usize {
        self.free.len() + self.records.capacity() - self.records.len()
    }

    /// A record that nobody uses.
    fn take(&mut self) -> Option<u32> {
        let again = self.free.pop();
        if again.is_none() && self.records.len() < self.records.capacity() {
            self.records.push(Traversal { head: NO_HEAD, items: [BLANK; ITEMS] });
            return Some(self.records.len() as u32 - 1);
        }
        again
    }

    #[inline]
    pub fn get(&self, at: u32) -> Option<&Traversal> {
        self.records.get(at as usize)
    }

    /// The items of a traversal, in order.
    #[inline]
    pub fn items(&self, at: u32) -> Items<'_> {
        Items { all: self, record: self.get(at), at: 0 }
    }

    /// Keeps a recording; `None` when the pool cannot hold it.
    pub fn store(&mut self, rec: &Recording) -> Option<u32> {
        let place = (!rec.pinned).then(|| rec.content_hash() as usize % SHARED);
        if let Some(have) = place.and_then(|p| self.shared.get(p).copied())
            && self.is_same(have, rec)
        {
            self.records[have as usize].head.refs += 1;
            return Some(have);
        }
        let needed = rec.item_count().div_ceil(ITEMS).max(1);
        if self.free_records() < needed {
            return None;
        }
        let first = self.write(rec)?;
        if let Some(p) = place {
            self.shared[p] = first;
        }
        Some(first)
    }

    /// Keeps a question: a guard that holds for nobody but says where to ask.
    pub fn store_question(&mut self, q: &Question) -> Option<u32> {
        let track = Track {
            zone: q.zone,
            state: 0,
            nat: false,
            turns: false,
            is_read: true,
            again: false,
            refused: false,
            commit: NO_COMMIT,
            mark: 0,
            mark_mask: 0,
        };
        let at = self.take()?;
        let head = Head {
            tables: q.tables,
            dirty: q.dirty,
            guards: 1,
            asks: Kind::One,
            refs: 1,
            len_max: u16::MAX,
            ..NO_HEAD
        };
        let mut items = [BLANK; ITEMS];
        items[0] = Item::Ct(track);
        *self.records.get_mut(at as usize)? = Traversal { head, items };
        Some(at)
    }

    fn write(&mut self, rec: &Recording) -> Option<u32> {
        let first = self.take()?;
        let mut at = first;
        let mut n = 0;
        self.records[first as usize].items = [BLANK; ITEMS];
        for item in rec.items() {
            if n == ITEMS {
                let next = self.take()?;
                self.records[at as usize].head.next = next;
                self.records[next as usize].items = [BLANK; ITEMS];
                at = next;
                n = 0;
            }
            self.records[at as usize].items[n] = item;
            n += 1;
        }
        self.records[at as usize].head.next = NONE;
        let head = &mut self.records[first as usize].head;
        let next = head.next;
        *head = Head {
            tables: rec.tables,
            dirty: rec.dirty,
            len_min: rec.len_min,
            len_max: rec.len_max,
            guards: rec.guards.len() as u16,
            steps: rec.steps.len() as u16,
            credits: rec.credit_count() as u16,
            asks: Kind::of(&rec.guards),
            only_output: match rec.steps[..] {
                [Step::Output(port)] => port,
                _ => PortIx::NONE,
            },
            refs: 1,
            next,
        };
        Some(first)
    }

    fn is_same(&self, at: u32, rec: &Recording) -> bool {
        let Some(have) = self.get(at) else { return false };
        let h = &have.head;
        h.refs > 0
            && (h.tables, h.dirty) == (rec.tables, rec.dirty)
            && (h.len_min, h.len_max) == (rec.len_min, rec.len_max)
            && h.guards as usize == rec.guards.len()
            && h.steps as usize == rec.steps.len()
            && h.credits as usize == rec.credit_count()
            && self.items(at).take(rec.item_count()).eq(rec.items())
    }

    /// Takes one reference more.
    pub fn share(&mut self, first: u32) {
        if let Some(t) = self.records.get_mut(first as usize) {
            t.head.refs += 1;
        }
    }

    /// Gives one reference back.
    pub fn release(&mut self, first: u32) {
        let Some(t) = self.records.get_mut(first as usize) else { return };
        debug_assert!(t.head.refs > 0, "released more often than stored");
        t.head.refs = t.head.refs.saturating_sub(1);
        if t.head.refs > 0 {
            return;
        }
        let mut at = first;
        while at != NONE {
            let next = self.records[at as usize].head.next;
            self.records[at as usize].head.next = NONE;
            self.free.push(at);
            at = next;
        }
    }
}

/// Walks the chain of records.
#[derive(Clone)]
pub struct Items<'a> {
    all: &'a Traversals,
    record: Option<&'a Traversal>,
    at: usize,
}

impl Iterator for Items<'_> {
    type Item = Item;

    #[inline]
    fn next(&mut self) -> Option<Item> {
        if self.at == ITEMS {
            self.record = self.all.get(self.record?.head.next);
            self.at = 0;
        }
        let item = self.record?.items.get(self.at).copied();
        self.at += 1;
        item
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::packet::key::PortIx;

    fn recording(steps: usize, rule: u32) -> Recording {
        let mut r = Recording::new();
        r.clear();
        r.steps.extend((0..steps).map(|n| Step::Output(PortIx(n as u16))));
        r.outputs = steps as u16;
        r.rules.extend([rule, rule + 1, rule + 2, rule + 3, rule + 4]);
        r
    }

    #[test]
    fn a_long_traversal_reads_back_in_order() {
        let mut t = Traversals::new(64);
        let r = recording(23, 100);
        let at = t.store(&r).unwrap();
        let items: Vec<Item> = t.items(at).take(25).collect();
        assert_eq!(items[22], Item::Do(Step::Output(PortIx(22))));
        assert_eq!(items[23], Item::Credit([100, 101, 102, 103]));
        assert_eq!(items[24], Item::Credit([104, NONE, NONE, NONE]));
        t.release(at);
        assert_eq!(t.free_records(), 64);
    }

    #[test]
    fn equal_walks_share_and_others_do_not() {
        let mut t = Traversals::new(64);
        let a = t.store(&recording(1, 5)).unwrap();
        let b = t.store(&recording(1, 5)).unwrap();
        assert_eq!(a, b);
        let elsewhere = Recording { tables: 2, ..recording(1, 5) };
        let c = t.store(&elsewhere).unwrap();
        let d = t.store(&recording(1, 6)).unwrap();
        assert!(c != a && d != c);
        for x in [a, b, c, d] {
            t.release(x);
        }
        assert_eq!(t.free_records(), 64);
    }

    #[test]
    fn a_full_pool_refuses_and_loses_nothing() {
        let mut t = Traversals::new(3);
        assert!(t.store(&recording(30, 1)).is_none());
        assert_eq!(t.free_records(), 3);
    }
}
