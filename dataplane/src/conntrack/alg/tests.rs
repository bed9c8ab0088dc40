//! Bounds, and numbers that wrap around.

use super::super::Seat;
use super::super::key::TCP;
use super::*;

fn key(n: u32) -> Key {
    let dport = 1024 + (n % 60_000) as u16;
    Key { zone: 1, src: (n / 60_000).into(), dst: 2, dport, proto: TCP, v6: false }
}

fn expected(parent: u32) -> Expected {
    let to = (9, parent as u16);
    Expected { parent, parent_orig: Tuple::default(), to, from: 1, deadline: 1000 }
}

/// The only worker.
fn alone() -> Homes {
    Homes::new(Seat::default(), 0, 0)
}

#[test]
fn what_is_full_expects_no_more_until_something_goes() {
    let mut all = Algs::default();
    for n in 0..EXPECTATIONS_MAX as u32 {
        assert!(all.begin(n));
        assert!(all.expect(key(n), expected(n), false, 0, &mut alone()).is_some());
    }
    let more = key(1 << 20);
    assert_eq!(all.expect(more, expected(1 << 20), true, 0, &mut alone()), None, "full");
    assert!(all.expect(key(3), expected(3), false, 0, &mut alone()).is_some(), "said again");
    all.forget(3, &mut alone());
    assert!(all.expect(more, expected(1 << 20), false, 0, &mut alone()).is_some());
    assert_eq!(all.expect(key(3), expected(3), false, 1, &mut alone()), None, "full again");
    // All of them are too old.
    assert!(all.expect(key(3), expected(3), false, 5000, &mut alone()).is_some());
    assert_eq!(all.expected.len(), 1);
    let mut helped = Algs::default();
    assert!((0..HELPED_MAX as u32).all(|n| helped.begin(n)));
    assert!(!helped.begin(HELPED_MAX as u32));
}

#[test]
fn one_connection_keeps_its_last_and_takes_its_own_along() {
    let mut all = Algs::default();
    assert!(all.begin(1) && all.begin(2));
    for n in 0..3 * EXPECTATIONS_EACH as u32 {
        assert!(all.expect(key(n), expected(1), false, 0, &mut alone()).is_some());
        assert!(all.expected.len() <= EXPECTATIONS_EACH);
    }
    let taken = key(3 * EXPECTATIONS_EACH as u32 - 1);
    assert_eq!(all.expect(taken, expected(2), false, 0, &mut alone()), None, "another's");
    let near = all.expect(taken, expected(2), true, 0, &mut alone());
    assert_eq!(near, Some(taken.dport + 1));
    all.forget(1, &mut alone());
    assert_eq!(all.expected.len(), 1);
    all.forget(2, &mut alone());
    assert!(all.expected.is_empty() && all.helped.is_empty());
}

#[test]
fn numbers_move_once_and_wrap_around() {
    for start in [5u32, u32::MAX - 3, u32::MAX / 2 - 3] {
        let at = |n: u32| start.wrapping_add(n);
        let mut a = Adjust { pos: at(0).wrapping_sub(9), ..Adjust::default() };
        a.grow(at(10), 3);
        a.grow(at(10), 3);
        assert_eq!((a.of_seq(at(10)), a.of_seq(at(11))), (0, 3));
        assert_eq!((a.of_ack(at(10)), a.of_ack(at(14))), (0, 3));
        a.grow(at(50), 0u32.wrapping_sub(5));
        assert_eq!((a.of_seq(at(50)), a.of_seq(at(51))), (3, 0u32.wrapping_sub(2)));
        // What ended before the second text was counted with the first alone.
        assert_eq!(a.of_ack(at(53)), 3);
        assert_eq!(a.of_ack(at(60)), 0u32.wrapping_sub(2));
        a.grow(at(20), 100);
        assert_eq!(a.of_seq(at(51)), 0u32.wrapping_sub(2), "what is sent again changes nothing");
    }
}
