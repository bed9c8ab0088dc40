//! Choice of ports, against plain counts.

use super::*;

fn key(n: u128) -> Key {
    Key { address: n, zone: 0, proto: 6, v6: false }
}

#[test]
fn finds_every_port_once_and_then_none() {
    let mut p = PortPools::new();
    let pool = p.pool(key(1)).unwrap();
    let mut seen = std::collections::BTreeSet::new();
    while let Some(port) = p.next_unused(pool, 1000, 1300, 1111) {
        assert!((1000..=1300).contains(&port) && seen.insert(port));
        assert!(p.acquire(pool, port));
    }
    assert_eq!(seen.len(), 301);
    p.release(&key(1), 1064, (0, 0));
    assert_eq!(p.next_unused(pool, 1000, 1300, 1065), Some(1064));
    assert_eq!(p.next_unused(pool, 0, 65535, 65535), Some(65535));
    assert_eq!(p.ports_used(&key(1)), 300);
}

#[test]
fn a_shared_port_is_used_until_its_last_user_goes() {
    let mut p = PortPools::new();
    let pool = p.pool(key(1)).unwrap();
    assert!(p.acquire(pool, 5) && p.acquire(pool, 5));
    p.release(&key(1), 5, (0, 0));
    assert_eq!(p.next_unused(pool, 5, 5, 5), None);
    p.release(&key(1), 5, (0, 0));
    assert_eq!(p.next_unused(pool, 5, 5, 5), Some(5));
}

proptest::proptest! {
    #![proptest_config(proptest::prelude::ProptestConfig {
        failure_persistence: None, ..proptest::prelude::ProptestConfig::with_cases(100)
    })]
    /// Ports of two neighbouring words taken and given back at random, against counts of all.
    #[test]
    fn users_are_those_that_took_and_did_not_give_back(
        ops in proptest::collection::vec((60u16..68, 0u8..5), 1..400),
    ) {
        let mut p = PortPools::new();
        let pool = p.pool(key(1)).unwrap();
        let mut users = std::collections::BTreeMap::<u16, u32>::new();
        for (port, op) in ops {
            let count = users.entry(port).or_default();
            if op > 1 {
                *count += 1;
                assert!(p.acquire(pool, port));
            } else if *count > 0 {
                *count -= 1;
                p.release(&key(1), port, (0, 0));
            }
            let unused = (60..68).find(|p| users.get(p).copied().unwrap_or(0) == 0);
            assert_eq!(p.next_unused(pool, 60, 67, 60), unused);
            assert_eq!(p.users(), users.values().copied().map(u64::from).sum::<u64>());
            assert_eq!(p.ports_used(&key(1)), users.values().filter(|n| **n > 0).count());
        }
    }
}

#[test]
fn a_port_has_so_many_users_and_no_more() {
    let mut p = PortPools::new();
    let pool = p.pool(key(1)).unwrap();
    let most = 1 << 16;
    assert!((0..most).all(|_| p.acquire(pool, 5)));
    assert!(!p.acquire(pool, 5));
    (0..most).for_each(|_| p.release(&key(1), 5, (0, 0)));
    assert_eq!((p.users(), p.ports_used(&key(1))), (0, 0));
    assert_eq!(p.next_unused(pool, 5, 5, 5), Some(5));
}

#[test]
fn an_idle_pool_is_taken_over_and_a_used_one_never() {
    let mut p = PortPools::new();
    for n in 0..NAT_POOLS_MAX as u128 {
        let pool = p.pool(key(n)).unwrap();
        assert!(p.acquire(pool, 7));
    }
    assert_eq!(p.pool(key(1 << 20)), None);
    p.release(&key(3), 7, (0, 0));
    let pool = p.pool(key(1 << 20)).unwrap();
    assert_eq!(p.next_unused(pool, 7, 7, 7), Some(7));
    assert_eq!(p.pool(key(3)), Some(pool), "its new owner has no users yet");
    for n in (0..NAT_POOLS_MAX as u128).filter(|n| *n != 3) {
        assert_eq!(p.ports_used(&key(n)), 1, "pool {n}");
    }
}

#[test]
fn a_failed_search_is_not_made_again_for_nothing() {
    let mut p = PortPools::new();
    let pool = p.pool(key(1)).unwrap();
    let (range, remote) = ((9, 10), (8, 80));
    for port in [9, 9, 10, 10] {
        assert!(p.acquire(pool, port));
    }
    assert_eq!(p.search_of(pool, remote, range), Search::Unknown);
    p.search_failed(pool, remote, range);
    assert_eq!(p.search_of(pool, remote, range), Search::Futile);
    assert_eq!(p.search_of(pool, (8, 81), range), Search::Unknown);
    assert_eq!(p.search_of(pool, remote, (9, 11)), Search::Unknown);
    p.release(&key(1), 9, (7, 7));
    assert_eq!(p.search_of(pool, remote, range), Search::Futile, "not one of its own");
    p.release(&key(1), 10, remote);
    assert_eq!(p.search_of(pool, remote, range), Search::Freed(10));
    p.took_freed(pool, remote);
    assert_eq!(p.search_of(pool, remote, range), Search::Futile);
    // Of two that were freed one is known; then it is searched.
    (0..2).for_each(|_| assert!(p.acquire(pool, 9)));
    p.release(&key(1), 9, remote);
    p.release(&key(1), 10, remote);
    assert_eq!(p.search_of(pool, remote, range), Search::Freed(10));
    p.took_freed(pool, remote);
    assert_eq!(p.search_of(pool, remote, range), Search::Unknown);
    p.search_failed(pool, remote, range);
    for _ in 0..SEARCH_AGAIN {
        assert!(p.acquire(pool, 9));
        p.release(&key(1), 9, (7, 7));
    }
    assert_eq!(p.search_of(pool, remote, range), Search::Unknown, "once in a while");
}
