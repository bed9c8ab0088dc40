use super::*;
use crate::sys::wait::Poller;
use crate::xsk::umem::{Umem, UmemConfig};
use std::sync::atomic::AtomicUsize;

const PATIENCE: Duration = Duration::from_secs(5);

fn wakers(n: usize) -> Vec<Waker> {
    (0..n).map(|_| Waker::new().unwrap()).collect()
}

fn pools(frames: &[u32]) -> Vec<FramePool> {
    let all = UmemConfig { frames: frames.iter().sum(), ..UmemConfig::default() };
    let umem = Umem::new(all).unwrap();
    frames.iter().map(|n| FramePool::new(&umem, *n).unwrap()).collect()
}

fn frame(pool: &mut FramePool, tag: u32) -> Frame {
    let mut frame = pool.alloc().unwrap();
    assert!(frame.copy_from(&tag.to_be_bytes()));
    frame
}

fn tag(frame: &Frame) -> u32 {
    u32::from_be_bytes(frame.bytes().try_into().unwrap())
}

fn notice(from: u8) -> Notice {
    Notice::Withdraw { tuple: crate::conntrack::Tuple::default(), from }
}

#[test]
fn parcels_arrive_in_order_and_a_full_ring_gives_them_back() {
    let mut pool = FramePool::private(2048).unwrap();
    let mut peers = Peers::of(&wakers(3));
    let entries = hand_over_entries(3) as u32;
    let mut accepted = 0;
    for n in 0..entries + 10 {
        let port = PortIx(7);
        match peers[0].put(2, Parcel::Send { port, frame: frame(&mut pool, n) }) {
            Ok(()) => accepted += 1,
            Err(back) => {
                assert_eq!(tag(&back), n);
                pool.free(back);
            }
        }
    }
    assert_eq!((accepted, peers[2].waiting()), (entries, entries as usize));
    assert_eq!((peers[1].waiting(), peers[0].waiting()), (0, 0));
    for n in 0..entries {
        assert!(peers[2].take(1).is_none() && peers[2].take(2).is_none());
        let Some(Parcel::Send { port: PortIx(7), frame }) = peers[2].take(0) else {
            panic!("parcel {n} is missing")
        };
        assert_eq!(tag(&frame), n);
        pool.free(frame);
    }
    assert!(peers[2].take(0).is_none());
    assert_eq!(pool.available(), pool.total());
    // To oneself, or to nobody.
    for nobody in [0, 3, 64, 255] {
        let lost = peers[0].put(nobody, Parcel::Spare(frame(&mut pool, 1)));
        pool.free(lost.unwrap_err());
        assert!(!peers[0].notify(nobody, notice(0)));
        assert_eq!(peers[0].notice_room(nobody), 0);
    }
}

#[test]
fn notices_have_their_own_room() {
    let mut peers = Peers::of(&wakers(2));
    let room = peers[0].notice_room(1);
    assert!((0..room).all(|_| peers[0].notify(1, notice(0))));
    assert!(!peers[0].notify(1, notice(0)) && peers[0].notice_room(1) == 0);
    let mut heard = 0;
    peers[1].hear(|n| heard += usize::from(n == notice(0)));
    assert_eq!((heard, peers[0].notice_room(1)), (room, room));
}

/// Whether somebody was woken since the last look.
fn is_woken(waker: &Waker) -> bool {
    let start = Instant::now();
    let mut poller = Poller::default();
    poller.set([waker.fd()].into_iter());
    poller.wait(20);
    waker.clear();
    start.elapsed() < Duration::from_millis(15)
}

#[test]
fn who_sleeps_is_woken_once_and_who_is_awake_is_not() {
    let wakers = wakers(2);
    let mut pool = FramePool::private(8).unwrap();
    let mut peers = Peers::of(&wakers);
    let mut send = |peers: &mut Vec<Peers>| {
        let parcel = Parcel::Spare(pool.alloc().unwrap());
        assert!(peers[0].put(1, parcel).is_ok());
    };
    send(&mut peers);
    peers[0].flush();
    assert!(!is_woken(&wakers[1]), "it was awake");
    assert!(!peers[1].lie_down(), "something waits for it");
    assert!(peers[1].take(0).is_some());
    assert!(peers[1].lie_down());
    peers[0].flush();
    assert!(!is_woken(&wakers[1]), "there is nothing for it");
    send(&mut peers);
    assert!(!is_woken(&wakers[1]), "a round wakes at its end");
    peers[0].flush();
    assert!(is_woken(&wakers[1]));
    send(&mut peers);
    peers[0].flush();
    assert!(!is_woken(&wakers[1]), "woken already");
    while peers[1].take(0).is_some() {}
    assert!(peers[1].lie_down());
    assert!(peers[0].notify(1, notice(0)));
    peers[0].flush();
    assert!(is_woken(&wakers[1]), "notices wake, too");
}

#[test]
fn the_poorest_gets_frames_until_it_has_half_as_many() {
    let mut pools = pools(&[6000, 0, 1000]);
    let mut peers = Peers::of(&wakers(3));
    let take = |peers: &mut Peers, pool: &mut FramePool| {
        for from in 0..3 {
            while let Some(parcel) = peers.take(from) {
                pool.free(parcel.into_frame());
            }
        }
    };
    let mut given = 0;
    for _ in 0..200 {
        for (peers, pool) in peers.iter_mut().zip(&mut pools) {
            take(peers, pool);
            given += peers.balance(pool);
        }
    }
    let free: Vec<usize> = pools.iter().map(FramePool::available).collect();
    let waiting: usize = peers.iter().map(Peers::waiting).sum();
    assert_eq!(free.iter().sum::<usize>() + waiting, 7000, "{free:?}");
    let (least, most) = (*free.iter().min().unwrap(), *free.iter().max().unwrap());
    assert!(most <= 2 * least + 2 * SPARES_A_ROUND && given < 5000, "{free:?} after {given}");
    // At rest, nothing goes round in circles.
    let again: usize = peers.iter_mut().zip(&mut pools).map(|(p, pool)| p.balance(pool)).sum();
    assert_eq!(again, 0, "{free:?}");
    // Who has few keeps them, however little others have.
    let mut few = self::pools(&[2 * POOL_RESERVE_FRAMES as u32, 0]);
    let mut peers = Peers::of(&wakers(2));
    assert_eq!(peers[0].balance(&mut few[0]), 0);
}

/// Threads that pass frames on at random, sleep as workers do, and end: no frame is lost, nobody
/// sleeps while something waits, and each pair's parcels arrive in order.
#[test]
fn threads_lose_no_frame_and_sleep_through_no_parcel() {
    const WORKERS: usize = 3;
    const ROUNDS: u32 = 4000;
    let wakers = wakers(WORKERS);
    let umem = Umem::new(UmemConfig { frames: 3000, ..UmemConfig::default() }).unwrap();
    let slept_through = AtomicUsize::new(0);
    let free: usize = std::thread::scope(|scope| {
        let ends = Peers::of(&wakers).into_iter().enumerate().zip(&wakers);
        let threads: Vec<_> = ends
            .map(|((me, mut peers), waker)| {
                let (umem, slept_through) = (&umem, &slept_through);
                let mut pool = FramePool::new(umem, 1000).unwrap();
                scope.spawn(move || {
                    let mut poller = Poller::default();
                    poller.set([waker.fd()].into_iter());
                    let (mut sent, mut seen) = ([0u32; WORKERS], [0u32; WORKERS]);
                    let mut random = me as u64 + 1;
                    let mut round = 0;
                    while round < ROUNDS {
                        round += 1;
                        for (from, seen) in seen.iter_mut().enumerate() {
                            while let Some(parcel) = peers.take(from) {
                                if let Parcel::Judge { frame, .. } = &parcel {
                                    assert_eq!(tag(frame), *seen);
                                    *seen += 1;
                                }
                                pool.free(parcel.into_frame());
                            }
                        }
                        random ^= random << 13;
                        random ^= random >> 7;
                        random ^= random << 17;
                        let to = (random % WORKERS as u64) as usize;
                        for _ in 0..random >> 60 {
                            let Some(mut frame) = pool.alloc() else { break };
                            assert!(frame.copy_from(&sent[to].to_be_bytes()));
                            let parcel = Parcel::Judge { in_port: PortIx(1), frame };
                            match peers.put(to as u8, parcel) {
                                Ok(()) => sent[to] += 1,
                                Err(frame) => pool.free(frame),
                            }
                        }
                        peers.flush();
                        peers.balance(&mut pool);
                        peers.flush();
                        if random.is_multiple_of(3) && peers.lie_down() {
                            let before = Instant::now();
                            poller.wait(500);
                            let long = before.elapsed() >= Duration::from_millis(500);
                            let waits = peers.waiting() > 0;
                            slept_through.fetch_add(usize::from(long && waits), Ordering::Relaxed);
                            peers.get_up();
                            waker.clear();
                            // All may sleep at once: then that was all.
                            if long {
                                break;
                            }
                        }
                    }
                    peers.leave(&mut pool, PATIENCE);
                    assert_eq!(peers.waiting(), 0);
                    pool.available()
                })
            })
            .collect();
        threads.into_iter().map(|t| t.join().unwrap()).sum()
    });
    assert_eq!(free, 3000);
    assert_eq!(slept_through.load(Ordering::Relaxed), 0);
}

#[test]
fn who_ends_first_waits_for_the_others_parcels() {
    let mut pools = pools(&[4, 4]);
    let mut peers = Peers::of(&wakers(2));
    let (mut late, mut early) = (peers.remove(0), peers.remove(0));
    let (mut late_pool, mut early_pool) = (pools.remove(0), pools.remove(0));
    let free = std::thread::scope(|scope| {
        let first = scope.spawn(move || {
            early.leave(&mut early_pool, PATIENCE);
            early_pool.available()
        });
        std::thread::sleep(Duration::from_millis(50));
        for n in 0..3 {
            assert!(late.put(1, Parcel::Spare(frame(&mut late_pool, n))).is_ok());
        }
        late.leave(&mut late_pool, PATIENCE);
        (late_pool.available(), first.join().unwrap())
    });
    assert_eq!(free, (1, 7));
}
