//! What a new program changes for walks that are cached.
//!
//! Throwing all cached walks away at each change would make a switch whose rules change a
//! thousand times a second walk every packet. So a program says what differs from the version
//! before it: *all* (ports, routes, groups, another key mask), or a list of rules. A worker
//! keeps the last of these changes in a ring, and a cache entry carries the epoch of the last
//! change that it was held against. When the entry is used next, the changes since then are
//! held against it, and only an entry that one of them could concern walks again.
//!
//! **When a change can concern a walk.** The walk must have looked into the table, and its key
//! there must match the changed rule. Both are known well enough without walking: the traversal
//! keeps the set of its tables (as one word, tables 64 apart share a bit), and the fields that
//! differed from the packet's own in any of its lookups (`Dirty`); in all other fields the key
//! *was* the packet's, which the entry has. What is not known - registers, connection state,
//! fields of the second line - is taken to match. So the check errs towards walking again, never
//! the other way. By induction over the changes a walk that none of them concerns would run
//! today as it was recorded.
//!
//! A rule that is added, taken away or given other actions is one change each: whoever was
//! judged by it, or would be now, matches it.
//!
//! **Most changes concern one pair of addresses.** Under ten thousand changes a second a flow meets
//! several between two of its packets, and holding each against it would cost more than the hit.
//! So the latest change of each pair of IPv4 addresses is noted by the pair's hash, and the latest
//! of all others: an entry that was held since both is current without a look at the list, however
//! long ago that was.

use super::keymask::to_packet;
use super::program::Bridge;
use crate::cache::KeyMask;
use crate::cache::entry::Masked;
use crate::classify::RuleMatch;
use crate::limits::CHANGES_MAX;
use crate::packet::key::{FlowKey, KeyBase, Mask, PortIx};
use std::sync::Arc;

/// What differs between a program and the version before it.
#[derive(Clone, Debug)]
pub enum Delta {
    All,
    Rules(Arc<Vec<Change>>),
}

impl Default for Delta {
    fn default() -> Self {
        Self::Rules(Arc::default())
    }
}

/// A rule that came, went or changed, as far as cached walks can be held against it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Change {
    tables: u64,
    value: Masked,
    mask: Masked,
}

/// The bit of a table in a set of tables.
#[inline]
pub fn table_bit(bridge: u16, table: u8) -> u64 {
    1 << ((u32::from(bridge) * 23 + u32::from(table)) & 63)
}

impl Delta {
    /// Adds the change of a rule with this match.
    pub(super) fn add(&mut self, number: u16, table: u8, m: &RuleMatch, bridge: Option<&Bridge>) {
        let Self::Rules(list) = self else { return };
        if list.len() >= CHANGES_MAX {
            *self = Self::All;
            return;
        }
        let (mut value, mut mask) = (to_packet(&m.value), to_packet(&m.mask));
        if m.mask.in_port & 0xffff == 0xffff {
            // No packet came in by a port that is not there.
            let port = bridge.and_then(|b| b.port(m.value.in_port)).unwrap_or(PortIx::NONE);
            (value.base.in_port, mask.base.in_port) = (port.0, u16::MAX);
        }
        Arc::make_mut(list).push(Change {
            tables: table_bit(number, table),
            value: KeyMask::new(&value).base,
            mask: KeyMask::new(&mask).base,
        });
    }
}

/// Packet fields that differed from the packet's own in some lookup of a walk.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Dirty(pub u16);

/// A mask of the fields that a bit of `Dirty` stands for.
type FieldsOf = fn(&mut Mask);

// tidy: wide table
const DIRTY_FIELDS: [FieldsOf; 12] = [
    |m| m.eth_dst = u64::MAX,
    |m| m.eth_src = u64::MAX,
    |m| m.vlan_tci = u16::MAX,
    |m| m.in_port = u32::MAX,
    |m| m.ip_src = u32::MAX,
    |m| m.ip_dst = u32::MAX,
    |m| m.ip_tos = u8::MAX,
    |m| m.ip_ttl = u8::MAX,
    |m| m.tp_src = u16::MAX,
    |m| m.tp_dst = u16::MAX,
    |m| m.eth_type = u16::MAX,
    |m| (m.ip_proto, m.ip_frag, m.tcp_flags) = (u8::MAX, u8::MAX, u16::MAX),
];
// tidy: end of table

impl Dirty {
    /// Nothing is known of the key.
    pub const ALL: Self = Self((1 << DIRTY_FIELDS.len()) - 1);

    /// Adds the fields in which a lookup's key differs from the packet's.
    #[inline]
    pub fn note(&mut self, own: &FlowKey, key: &FlowKey) {
        let rest = (own.ip_proto, own.ip_frag, own.tcp_flags)
            != (key.ip_proto, key.ip_frag, key.tcp_flags);
        let differs = [
            own.eth_dst != key.eth_dst,
            own.eth_src != key.eth_src,
            own.vlan_tci != key.vlan_tci,
            own.in_port != key.in_port,
            own.ip_src != key.ip_src,
            own.ip_dst != key.ip_dst,
            own.ip_tos != key.ip_tos,
            own.ip_ttl != key.ip_ttl,
            own.tp_src != key.tp_src,
            own.tp_dst != key.tp_dst,
            own.eth_type != key.eth_type,
            rest,
        ];
        self.0 = differs.iter().enumerate().fold(self.0, |d, (n, b)| d | u16::from(*b) << n);
    }

    /// The in_port of another bridge is another port, whatever its number.
    pub fn crossed(&mut self) {
        self.0 |= 1 << 3;
    }

    /// Addresses and ports are what a connection has made of them.
    pub fn translated(&mut self) {
        self.0 |= DIRTY_TUPLE;
    }

    /// The words of a packet's key that say nothing about the lookups.
    fn words(self) -> Masked {
        if self.0 == 0 {
            return [0; 5];
        }
        let mut mask = FlowKey::ZERO;
        let bits = DIRTY_FIELDS.iter().enumerate();
        bits.filter(|(n, _)| self.0 >> n & 1 != 0).for_each(|(_, set)| set(&mut mask));
        let mut packet = to_packet(&mask);
        packet.base.in_port = mask.in_port as u16;
        KeyMask::new(&packet).base
    }
}

/// The word of a key that holds both IPv4 addresses, and nothing else.
const ADDRESSES: usize = 3;
const _: () = assert!(std::mem::offset_of!(KeyBase, ip_src) == 8 * ADDRESSES);
const _: () = assert!(std::mem::offset_of!(KeyBase, ip_dst) == 8 * ADDRESSES + 4);
/// Bits of `Dirty` that stand for them.
const DIRTY_ADDRESSES: u16 = 1 << 4 | 1 << 5;
/// The same with the ports.
const DIRTY_TUPLE: u16 = DIRTY_ADDRESSES | 1 << 8 | 1 << 9;
/// Hashes of pairs that are told apart.
const PAIRS: usize = 1024;

/// Where the latest change of a pair of addresses is noted.
#[inline]
fn pair_of(key: &Masked) -> usize {
    (key[ADDRESSES].wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 54) as usize
}

/// The changes that a worker still knows.
#[derive(Debug)]
pub struct Recent {
    ring: Box<[(u32, Change)]>,
    /// Epoch of the latest change by its pair of addresses, of the latest that is not of one pair,
    /// and of the latest that concerned everything.
    pairs: Box<[u32; PAIRS]>,
    others: u32,
    forgotten: u32,
    /// Changes so far.
    count: usize,
    now: u32,
    /// Entries of before this epoch are stale.
    floor: u32,
}

impl Recent {
    pub fn new() -> Self {
        let none = Change { tables: 0, value: [0; 5], mask: [0; 5] };
        Self {
            ring: vec![(0, none); CHANGES_MAX].into(),
            pairs: Box::new([1; PAIRS]),
            others: 1,
            forgotten: 1,
            count: 0,
            now: 1,
            floor: 1,
        }
    }

    /// The present epoch; counts on modulo 2^32.
    #[inline]
    pub fn epoch(&self) -> u32 {
        self.now
    }

    /// A new epoch, in which nothing of before holds.
    pub fn forget(&mut self) {
        self.now = self.now.wrapping_add(1);
        self.floor = self.now;
        self.forgotten = self.now;
    }

    /// A new epoch with these changes.
    pub fn take(&mut self, delta: &Delta) {
        let Delta::Rules(list) = delta else { return self.forget() };
        if list.is_empty() {
            return;
        }
        self.now = self.now.wrapping_add(1);
        for change in list.iter() {
            let at = self.count % CHANGES_MAX;
            let lost = self.ring[at].0;
            if self.count >= CHANGES_MAX && self.age(lost) < self.age(self.floor) {
                // Entries of before the change that is lost cannot be held against it.
                self.floor = lost;
            }
            self.ring[at] = (self.now, *change);
            self.count += 1;
            match change.mask[ADDRESSES] {
                u64::MAX => self.pairs[pair_of(&change.value)] = self.now,
                _ => self.others = self.now,
            }
        }
    }

    fn age(&self, epoch: u32) -> u32 {
        self.now.wrapping_sub(epoch)
    }

    /// Whether a walk that held at `epoch` holds still.
    #[inline]
    pub fn holds(&self, epoch: u32, key: &Masked, tables: u64, dirty: Dirty) -> bool {
        epoch == self.now
            || self.is_quiet_since(epoch, key, dirty)
            || self.holds_since(epoch, key, &[u64::MAX; 5], tables, dirty)
    }

    /// Whether no change since was of the key's addresses, nor of another kind. An epoch that is
    /// counted round is taken for a late one, which only costs a look at the list.
    #[inline]
    fn is_quiet_since(&self, epoch: u32, key: &Masked, dirty: Dirty) -> bool {
        let age = self.age(epoch);
        dirty.0 & DIRTY_ADDRESSES == 0
            && age <= self.age(self.others)
            && age <= self.age(self.forgotten)
            && self.pairs.get(pair_of(key)).is_some_and(|latest| age <= self.age(*latest))
    }

    /// The same for a megaflow, of which only the bits of a mask are known.
    #[inline]
    pub fn holds_under(
        &self,
        epoch: u32,
        (key, mask): (&Masked, &Masked),
        tables: u64,
        dirty: Dirty,
    ) -> bool {
        epoch == self.now || self.holds_since(epoch, key, mask, tables, dirty)
    }

    #[inline(never)]
    fn holds_since(
        &self,
        epoch: u32,
        key: &Masked,
        known: &Masked,
        tables: u64,
        dirty: Dirty,
    ) -> bool {
        let age = self.age(epoch);
        if age > self.age(self.floor) {
            return false;
        }
        let blind = dirty.words();
        for n in 1..=self.count.min(CHANGES_MAX) {
            let Some((since, c)) = self.ring.get((self.count - n) % CHANGES_MAX) else { break };
            if self.age(*since) >= age {
                break;
            }
            let differs = (0..5)
                .fold(0, |d, w| d | ((key[w] ^ c.value[w]) & c.mask[w] & known[w] & !blind[w]));
            if c.tables & tables != 0 && differs == 0 {
                return false;
            }
        }
        true
    }
}

impl Default for Recent {
    fn default() -> Self {
        Self::new()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::packet::field::Field;
    use proptest::collection::vec;
    use proptest::prelude::*;

    fn change(table: u8, field: Field, v: u128) -> Delta {
        let mut m =
            RuleMatch { value: FlowKey::ZERO, mask: FlowKey::ZERO, priority: 1, clauses: None };
        field.info().set(&mut m.value, v);
        field.info().set(&mut m.mask, u128::MAX);
        let mut delta = Delta::default();
        delta.add(0, table, &m, None);
        delta
    }

    fn key(ip_dst: u32) -> Masked {
        KeyMask::new(&to_packet(&FlowKey { ip_dst, ..FlowKey::ZERO })).base
    }

    #[test]
    fn only_what_a_change_can_concern_goes_stale() {
        let mut r = Recent::new();
        let before = r.epoch();
        r.take(&change(3, Field::IpDst, 7));
        let tables = table_bit(0, 3) | table_bit(0, 5);
        assert!(!r.holds(before, &key(7), tables, Dirty(0)));
        assert!(r.holds(before, &key(8), tables, Dirty(0)), "another address");
        assert!(r.holds(before, &key(7), table_bit(0, 5), Dirty(0)), "another table");
        assert!(!r.holds(before, &key(8), tables, Dirty(1 << 5)), "the walk changed the address");
        assert!(r.holds(r.epoch(), &key(7), tables, Dirty(0)), "recorded since");
    }

    #[test]
    fn what_the_ring_has_lost_is_stale() {
        let mut r = Recent::new();
        let first = r.epoch();
        for n in 0..CHANGES_MAX as u128 {
            r.take(&change(0, Field::IpDst, n + 10));
        }
        assert!(r.holds(first, &key(1), table_bit(0, 0), Dirty(0)));
        let second = r.epoch();
        r.take(&change(0, Field::IpDst, 5));
        assert!(!r.holds(first, &key(1), table_bit(0, 0), Dirty(0)));
        assert!(r.holds(second, &key(1), table_bit(0, 0), Dirty(0)));
        r.forget();
        assert!(!r.holds(second, &key(1), 0, Dirty(0)));
    }

    /// All changes there ever were, held one by one against an entry.
    #[derive(Default)]
    struct Plain(Vec<(u32, Change)>);

    impl Plain {
        fn concerned(&self, since: u32, key: &Masked, tables: u64, dirty: Dirty) -> bool {
            let blind = dirty.words();
            let matches =
                |c: &Change| (0..5).all(|w| (key[w] ^ c.value[w]) & c.mask[w] & !blind[w] == 0);
            self.0.iter().any(|(at, c)| *at > since && c.tables & tables != 0 && matches(c))
        }
    }

    proptest! {
        #[test]
        fn whoever_a_change_concerns_is_stale(
            lists in vec(vec((0u8..3, 0u32..4, 0u32..4, 0u8..4), 0..4), 1..300),
            entries in vec((0usize..300, 0u32..4, 0u32..4, 0u16..64), 1..20),
        ) {
            let (mut recent, mut plain) = (Recent::new(), Plain::default());
            let mut held = Vec::new();
            for (n, list) in lists.iter().enumerate() {
                let here = entries.iter().filter(|e| e.0 == n);
                held.extend(here.map(|e| (recent.epoch(), *e)));
                let mut delta = Delta::default();
                for (table, src, dst, kind) in list {
                    let mut m = change_of(*src, *dst);
                    match kind {
                        0 => m.mask.ip_src = 0,
                        1 => m.mask.ip_dst = 1,
                        _ => {}
                    }
                    delta.add(0, *table, &m, None);
                }
                recent.take(&delta);
                if let Delta::Rules(list) = &delta {
                    plain.0.extend(list.iter().map(|c| (recent.epoch(), *c)));
                }
            }
            for (epoch, (_, ip_src, ip_dst, dirty)) in held {
                let key = KeyMask::new(&to_packet(&FlowKey { ip_src, ip_dst, ..FlowKey::ZERO }));
                let (tables, dirty) = (table_bit(0, 1), Dirty(dirty));
                if plain.concerned(epoch, &key.base, tables, dirty) {
                    prop_assert!(!recent.holds(epoch, &key.base, tables, dirty));
                }
            }
        }
    }

    fn change_of(ip_src: u32, ip_dst: u32) -> RuleMatch {
        let all = FlowKey { ip_src: u32::MAX, ip_dst: u32::MAX, ..FlowKey::ZERO };
        let value = FlowKey { ip_src, ip_dst, ..FlowKey::ZERO };
        RuleMatch { value, mask: all, priority: 1, clauses: None }
    }

    #[test]
    fn changes_of_other_addresses_are_outlived() {
        let mut r = Recent::new();
        let first = r.epoch();
        for n in 0..2 * CHANGES_MAX as u32 {
            let mut delta = Delta::default();
            delta.add(0, 0, &change_of(10, n + 10), None);
            r.take(&delta);
        }
        let pairs = (0..100)
            .map(|n| KeyMask::new(&to_packet(&FlowKey { ip_src: 7, ip_dst: n, ..FlowKey::ZERO })));
        let kept = pairs.filter(|k| r.holds(first, &k.base, table_bit(0, 0), Dirty(0))).count();
        assert!(kept > 0, "pairs whose hash no change had");
        assert!(!r.holds(first, &key(7), table_bit(0, 0), Dirty(1 << 4)), "addresses rewritten");
        r.forget();
        assert!(!r.holds(first, &key(7), table_bit(0, 0), Dirty(0)));
    }

    #[test]
    fn many_changes_at_once_change_all() {
        let Delta::Rules(one) = change(0, Field::IpDst, 1) else { unreachable!() };
        let mut delta = Delta::default();
        let m = RuleMatch { value: FlowKey::ZERO, mask: FlowKey::ZERO, priority: 1, clauses: None };
        (0..=CHANGES_MAX).for_each(|_| delta.add(0, 0, &m, None));
        assert!(matches!(delta, Delta::All) && one.len() == 1);
    }
}
