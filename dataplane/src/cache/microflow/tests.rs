use super::place::WAYS;
use super::*;
use crate::cache::entry::{ELSEWHERE, Tick};
use crate::packet::key::shape;
use proptest::collection::vec;
use proptest::prelude::*;

fn key(n: u8) -> PacketKey {
    let mut k = PacketKey::default();
    k.base.ip_src = [10, 0, 0, n];
    k
}

fn kept(traversal: u32, used: u32) -> Kept {
    Kept { traversal, used: Tick(used as u16), epoch: 1 }
}

#[test]
fn found_after_fill_and_not_before() {
    let mut t = Microflows::new(64, 1);
    let (k, mut m) = (key(1), Masked::default());
    let b = t.hash(&k, &mut m);
    assert_eq!(t.find(b, &k, &m), None);
    let at = t.victim(b, &key(9), Tick(99));
    t.fill(at, &k, &m, kept(7, 1));
    assert_eq!(t.find(b, &k, &m), Some(at));
    let (k2, mut m2) = (key(2), Masked::default());
    let b2 = t.hash(&k2, &mut m2);
    assert_eq!(t.find(b2, &k2, &m2), None);
}

#[test]
fn masked_bits_do_not_tell_packets_apart() {
    let mut t = Microflows::new(64, 1);
    let mut mask =
        PacketKey { base: Default::default(), l3: Default::default(), ..Default::default() };
    mask.base.ip_src = [255, 255, 255, 0];
    t.set_mask(KeyMask::new(&mask));
    let (mut m1, mut m2) = (Masked::default(), Masked::default());
    let (b1, b2) = (t.hash(&key(1), &mut m1), t.hash(&key(2), &mut m2));
    assert_eq!((b1, m1), (b2, m2));
}

#[test]
fn the_second_line_counts_when_the_shape_says_so() {
    let mut t = Microflows::new(64, 1);
    let (mut a, mut b) = (key(1), key(1));
    a.base.shape = shape::L3;
    b.base.shape = shape::L3;
    b.l3.ipv6_dst[15] = 1;
    let (mut ma, mut mb) = (Masked::default(), Masked::default());
    let ba = t.hash(&a, &mut ma);
    let at = t.victim(ba, &a, Tick(99));
    t.fill(at, &a, &ma, kept(3, 1));
    let bb = t.hash(&b, &mut mb);
    assert_eq!(t.find(ba, &b, &mb), None);
    assert!(ba != bb || t.find(bb, &a, &ma).is_some());
}

#[test]
fn the_oldest_of_a_group_is_the_victim() {
    let mut t = Microflows::new(4, 1);
    let mut m = Masked::default();
    for n in 1..=4 {
        let b = t.hash(&key(n), &mut m);
        let at = t.victim(b, &key(9), Tick(99));
        t.fill(at, &key(n), &m, kept(n as u32, 10 - n as u32));
    }
    let b = t.hash(&key(5), &mut m);
    let at = t.victim(b, &key(9), Tick(99));
    assert_eq!(t.slot(at).map(|s| s.traversal), Some(4), "used at tick 6, the others later");
    assert!(t.take(at).is_some() && t.take(at).is_none());
    assert_eq!(t.victim(b, &key(9), Tick(99)), at);
}

#[test]
fn growth_keeps_every_entry_and_its_lines_and_says_who_owes() {
    let mut t = Microflows::new(1 << 12, 7);
    let key = |n: u32| {
        let mut k = PacketKey::default();
        k.base.ip_src = n.to_be_bytes();
        if n.is_multiple_of(3) {
            k.base.shape = shape::L3;
            k.l3.ipv6_dst[..4].copy_from_slice(&n.to_be_bytes());
        }
        k
    };
    let (mut m, mut kept_at, mut owing) = (Masked::default(), Vec::new(), Vec::new());
    for n in 0..3000 {
        let home = t.hash(&key(n), &mut m);
        let at = t.victim(home, &key(n), Tick(99));
        if t.take(at).is_none() {
            kept_at.push(n);
        } else {
            // Four of one group, and a fifth: the one that had to go is not looked for.
            kept_at.retain(|k| {
                let home = t.hash(&key(*k), &mut m);
                t.find(home, &key(*k), &m).is_some()
            });
            kept_at.push(n);
            t.hash(&key(n), &mut m);
        }
        t.fill(at, &key(n), &m, kept(n, n));
        if !t.slots[at as usize].owes() {
            t.slots[at as usize].set_owes(true);
            owing.push(at);
        }
        while t.is_crowded() {
            t.grow(|at| owing.push(at));
        }
    }
    assert_eq!(t.slots().next_power_of_two(), 1 << 13, "two slots an entry");
    assert!(kept_at.len() > 2900 && t.live as usize == kept_at.len());
    for n in kept_at {
        let home = t.hash(&key(n), &mut m);
        let at = t.find(home, &key(n), &m).expect("an entry is lost");
        let again = t.second_home(home, &key(n));
        let staged = t.is_at(home, &key(n), &m).then_some(home);
        let staged = staged.or_else(|| t.find_elsewhere(home, &key(n), &m));
        let staged = staged.or_else(|| t.find_in_group(again?, &key(n), &m));
        assert_eq!(staged, Some(at), "in stages as at once");
        assert_eq!(t.is_at(home, &key(n), &m), at == home);
        assert_eq!(t.slot(at).map(|s| s.traversal), Some(n));
        assert!(owing.contains(&at));
    }
    let many = owing.len();
    owing.sort_unstable();
    owing.dedup();
    assert_eq!(owing.len(), many, "a slot is in the list once");
}

#[test]
fn a_full_table_gives_up_an_entry_for_each_new_one() {
    let mut t = Microflows::new(1 << 10, 7);
    let key = numbered;
    let mut m = Masked::default();
    for n in 0..10_000 {
        let home = t.hash(&key(n), &mut m);
        let at = t.victim(home, &key(n), Tick(99));
        t.take(at);
        t.fill(at, &key(n), &m, kept(n, n));
        while t.is_crowded() {
            t.grow(|_| {});
        }
        // Two empty groups are taken even so; there are few.
        assert!(t.live as usize <= t.capacity() * 9 / 8, "{} entries", t.live);
    }
    assert_eq!((t.capacity(), t.slots_max()), (1 << 10, 1 << 11));
    assert!(t.live as usize >= t.capacity());
    let home = t.hash(&key(9_999), &mut m);
    assert!(t.find(home, &key(9_999), &m).is_some(), "the last one is there");
}

fn numbered(n: u32) -> PacketKey {
    let mut k = PacketKey::default();
    k.base.ip_src = n.to_be_bytes();
    k
}

/// A table small enough to overflow its groups, and every entry's whereabouts.
struct Life {
    t: Microflows,
    /// Entries taken that were beside their home, and in their second group; lookups that ended
    /// at home with nothing found.
    beside: u32,
    again: u32,
    nowhere: u32,
}

impl Life {
    /// Looks for a key, and holds what is found against a search of all slots. A found one may
    /// be taken away, and a missing one comes.
    fn step(&mut self, n: u32, tick: u32, chance: u8) -> Result<(), TestCaseError> {
        let (t, k, mut m) = (&mut self.t, numbered(n), Masked::default());
        let home = t.hash(&k, &mut m);
        let there = (0..t.slots()).find(|at| t.is_at(*at, &k, &m));
        let found = t.find(home, &k, &m);
        prop_assert_eq!(found, there, "key {}", n);
        match found {
            Some(at) if chance < 80 => {
                let in_group = at / WAYS == home / WAYS;
                self.beside += u32::from(at != home && in_group);
                self.again += u32::from(!in_group);
                t.take(at);
            }
            Some(_) => {}
            None => {
                self.nowhere += u32::from(!t.ask_elsewhere(home));
                let at = t.victim(home, &k, Tick(99));
                t.take(at);
                t.fill(at, &k, &m, kept(n, tick));
            }
        }
        if t.is_crowded() && chance.is_multiple_of(2) {
            t.grow(|_| {});
        }
        Ok(())
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(16))]

    /// What a home says may be too much only while one of its keys is, or may be, in its second
    /// group.
    #[test]
    fn homes_know_where_their_keys_are(
        steps in vec((0..1500u32, any::<u8>()), 5000..6000),
        seed in any::<u64>(),
    ) {
        let mut life = Life { t: Microflows::new(1 << 10, seed), beside: 0, again: 0, nowhere: 0 };
        for (tick, (n, chance)) in (0..).zip(&steps) {
            life.step(*n, tick, *chance)?;
        }
        prop_assert!(life.beside > 100 && life.again > 0 && life.nowhere > 200);
        let mut t = life.t;
        for at in 0..t.slots() {
            t.take(at);
        }
        let says = |at: &u32| t.slots[*at as usize].flags & ELSEWHERE != 0;
        let left = (0..t.slots()).filter(says).map(|at| at / WAYS);
        let unfounded = left.filter(|group| t.spilled[*group as usize] == 0).count();
        prop_assert_eq!(unfounded, 0);
    }
}
