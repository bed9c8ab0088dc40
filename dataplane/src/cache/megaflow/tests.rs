use super::*;

fn key(port: u16, dst: [u8; 4]) -> PacketKey {
    let mut k = PacketKey::default();
    k.base.in_port = port;
    k.base.ip_dst = dst;
    k
}

fn mask(bits: u8) -> KeyMask {
    let mut m = PacketKey::default();
    m.base.in_port = 0xffff;
    m.base.ip_dst = (u32::MAX.checked_shl(32 - u32::from(bits)).unwrap_or(0)).to_be_bytes();
    KeyMask::new(&m)
}

fn put(m: &mut Megaflows, k: &PacketKey, bits: u8, traversal: u32) -> Option<u32> {
    let place = m.place(k, &mask(bits), About::Nothing, Tick(1))?;
    m.vacate(place.at);
    m.fill(&place, Kept { traversal, used: Tick(1), epoch: 1 });
    Some(place.at)
}

#[test]
fn what_the_mask_leaves_free_does_not_matter_and_the_rest_does() {
    let mut m = Megaflows::new(64, 5);
    put(&mut m, &key(1, [10, 0, 0, 1]), 8, 7).unwrap();
    let (found, _) = m.find(&key(1, [10, 9, 9, 9]));
    assert_eq!(m.get(found.unwrap()).map(|e| e.traversal), Some(7));
    assert_eq!(m.find(&key(1, [11, 0, 0, 1])).0, None);
    assert_eq!(m.find(&key(2, [10, 0, 0, 1])).0, None);
    let entry = m.get(found.unwrap()).unwrap();
    let (value, bits) = (&entry.key, m.mask_of(entry));
    assert!(value.iter().zip(bits).all(|(v, b)| v & !b == 0));
}

#[test]
fn masks_are_bounded_and_come_free_with_their_last_megaflow() {
    let mut m = Megaflows::new(4096, 5);
    let k = key(1, [10, 1, 2, 3]);
    let places: Vec<_> = (0..=32).map(|bits| put(&mut m, &k, bits, 5)).collect();
    assert_eq!(places.iter().filter(|p| p.is_some()).count(), MEGAFLOW_MASKS);
    assert_eq!(m.masks(), MEGAFLOW_MASKS);
    m.vacate(places[0].unwrap());
    assert!(put(&mut m, &k, 32, 6).is_some());
}

#[test]
fn the_successful_mask_is_tried_first() {
    let mut m = Megaflows::new(64, 5);
    put(&mut m, &key(1, [10, 0, 0, 1]), 8, 7).unwrap();
    put(&mut m, &key(1, [20, 0, 0, 1]), 16, 8).unwrap();
    let seldom = m.find(&key(1, [20, 0, 5, 5]));
    assert_eq!(seldom.1, 2);
    m.rank();
    assert_eq!(m.find(&key(1, [20, 0, 5, 5])).1, 1);
}

proptest::proptest! {
    #![proptest_config(proptest::prelude::ProptestConfig {
        failure_persistence: None, ..Default::default()
    })]
    /// What served the packet before is compared first: that never finds what a lookup of all
    /// masks would not.
    #[test]
    fn comparing_with_the_last_one_finds_what_a_lookup_finds(
        puts in proptest::collection::vec((0u16..3, 0u8..4, 0usize..4, 0u32..3), 1..40),
        looks in proptest::collection::vec((0u16..3, 0u8..8, 0usize..5, 0u32..40), 1..200),
    ) {
        let states = [0u8, 0x21, 0x22, 0x2a, 0x62];
        let mut m = Megaflows::new(64, 5);
        for (n, (port, net, state, mark)) in (0..).zip(puts) {
            let (state, mark_mask) = (states[state], if mark == 2 { 0 } else { 1 });
            let told = About::Told { state, mark, label: 0, mark_mask, label_mask: 0 };
            let asked = if state == 0 { About::Nothing } else { told };
            let k = key(port, [10, net, 0, 1]);
            let Some(place) = m.place(&k, &mask(16 + 8 * (net & 1)), asked, Tick(1)) else {
                continue;
            };
            m.vacate(place.at);
            m.fill(&place, Kept { traversal: n, used: Tick(1), epoch: 1 });
        }
        for (port, net, state, n) in looks {
            let k = key(port, [10, net, 0, 1]);
            let (base, state) = (*crate::cache::mask::base_ref(&k.base), states[state]);
            let told = (state, n & 1, 0);
            let (found, all) = if state == 0 {
                (m.find_words(&base).0, m.probe::<false>(&base, None, (0, 0, 0)).0)
            } else {
                (m.find_answer(&k, told).0, m.probe::<true>(&base, None, told).0)
            };
            proptest::prop_assert_eq!(found.is_some(), all.is_some());
            if let Some(at) = found {
                let e = m.slots[at as usize];
                let t = m.tuples[usize::from(e.tag[0])];
                let kind = t.told.map(|bits| [state, gist((told.1, told.2), bits)]);
                let fits = (0..5).all(|i| base[i] & t.mask.base[i] == e.key[i])
                    && t.told.is_some() == (state != 0)
                    && kind.is_none_or(|k| k == [e.tag[1], e.tag[2]]);
                proptest::prop_assert!(fits);
            }
            if n == 7 && let Some(at) = found {
                m.vacate(at);
            }
        }
    }
}
