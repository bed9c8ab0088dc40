//! AF_XDP, TAP and AF_PACKET ports against the real kernel, each test in a namespace of its own.
//!
//! ```text
//!   a1 (AF_PACKET, plays the host) ==veth== a0 (AF_XDP) -- us -- b0 (AF_XDP) ==veth== b1
//!   (AF_PACKET)
//! ```

mod live;

use std::os::fd::AsRawFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use live::{Redirect, in_netns, ip, veth};
use sluice_dataplane::port::packet::PacketPort;
use sluice_dataplane::port::tap::{TapConfig, TapPort};
use sluice_dataplane::port::xsk::{XskPort, XskPortConfig};
use sluice_dataplane::port::{Port, PortKind, RxBurst};
use sluice_dataplane::sys::{if_index, poll_readable};
use sluice_dataplane::xsk::pool::FramePool;
use sluice_dataplane::xsk::socket::{BindMode, BindWish};
use sluice_dataplane::xsk::umem::{Umem, UmemConfig};

const FRAMES: u32 = 8192;

fn umem() -> Arc<Umem> {
    Umem::new(UmemConfig { frames: FRAMES, ..UmemConfig::default() }).unwrap()
}

/// A port on `name` with its program, ready for packets.
fn port(name: &str, queues: u32, umem: &Arc<Umem>) -> (XskPort, Redirect) {
    let index = if_index(name).unwrap();
    let port = XskPort::open(&XskPortConfig::new(index, (0..queues).collect()), umem).unwrap();
    println!("{name}: {:?}", port.bind_modes());
    let redirect = Redirect::attach(index);
    port.sockets().iter().for_each(|&(queue, fd)| redirect.set(queue, fd.as_raw_fd()));
    (port, redirect)
}

fn host(name: &str) -> PacketPort {
    PacketPort::open(if_index(name).unwrap()).unwrap()
}

/// UDP over IPv4 with a number in it, of one of 64 flows.
fn packet(number: u32) -> [u8; 64] {
    let mut bytes = [0u8; 64];
    bytes[..6].copy_from_slice(&[2, 0, 0, 0, 0, 1]);
    bytes[6..12].copy_from_slice(&[2, 0, 0, 0, 0, 2]);
    bytes[12..24].copy_from_slice(&[8, 0, 0x45, 0, 0, 50, 0, 0, 0, 0, 64, 17]);
    bytes[26..34].copy_from_slice(&[10, 0, 0, 1, 10, 0, 0, 2]);
    bytes[34..36].copy_from_slice(&(1000 + (number % 64) as u16).to_be_bytes());
    bytes[36..40].copy_from_slice(&[0x12, 0xb5, 0, 30]);
    bytes[60..].copy_from_slice(&number.to_be_bytes());
    bytes
}

fn number_of(bytes: &[u8]) -> Option<u32> {
    let tail = bytes.get(60..64)?;
    (bytes[12..14] == [8, 0]).then(|| u32::from_be_bytes([tail[0], tail[1], tail[2], tail[3]]))
}

fn send(port: &mut impl Port, pool: &mut FramePool, numbers: std::ops::Range<u32>) {
    for number in numbers {
        let mut frame = pool.alloc().unwrap();
        assert!(frame.copy_from(&packet(number)));
        port.tx(pool, frame);
    }
    port.flush(pool);
}

/// Takes what has come, in order.
fn take(port: &mut impl Port, pool: &mut FramePool) -> Vec<u32> {
    let mut burst = RxBurst::new();
    let mut numbers = Vec::new();
    for _ in 0..20 {
        port.rx(pool, &mut burst);
        for frame in burst.drain() {
            numbers.extend(number_of(frame.bytes()));
            pool.free(frame);
        }
    }
    numbers
}

fn forward(from: &mut XskPort, to: &mut XskPort, pool: &mut FramePool) -> usize {
    let mut burst = RxBurst::new();
    let count = from.rx(pool, &mut burst);
    burst.drain().for_each(|frame| to.tx(pool, frame));
    to.flush(pool);
    from.flush(pool);
    count
}

/// Runs `step` until it says true, at most five seconds.
fn until(what: &str, mut step: impl FnMut() -> bool) {
    let start = Instant::now();
    while !step() {
        assert!(start.elapsed() < Duration::from_secs(5), "never happened: {what}");
        std::thread::sleep(Duration::from_micros(200));
    }
}

#[test]
fn packets_cross_both_ways_in_order_and_frames_are_conserved() {
    in_netns(|| {
        veth("a0", "a1", 1);
        veth("b0", "b1", 1);
        let umem = umem();
        let mut pool = FramePool::new(&umem, FRAMES).unwrap();
        let mut hosts_pool = FramePool::private(1024).unwrap();
        let ((mut a, _xa), (mut b, _xb)) = (port("a0", 1, &umem), port("b0", 1, &umem));
        let (mut a1, mut b1) = (host("a1"), host("b1"));
        forward(&mut a, &mut b, &mut pool);
        forward(&mut b, &mut a, &mut pool);
        let (mut at_b, mut at_a) = (Vec::new(), Vec::new());
        for round in 0..100 {
            let numbers = round * 32..(round + 1) * 32;
            send(&mut a1, &mut hosts_pool, numbers.clone());
            send(&mut b1, &mut hosts_pool, numbers.clone());
            until("all packets of the round arrive", || {
                forward(&mut a, &mut b, &mut pool);
                forward(&mut b, &mut a, &mut pool);
                at_b.extend(take(&mut b1, &mut hosts_pool));
                at_a.extend(take(&mut a1, &mut hosts_pool));
                let held = a.frames_held() + b.frames_held();
                assert_eq!(pool.available() + held, pool.total());
                at_a.len().min(at_b.len()) as u32 >= numbers.end
            });
        }
        let expected: Vec<u32> = (0..3200).collect();
        assert_eq!((at_a, at_b), (expected.clone(), expected));
        let stats = a.stats();
        println!("{stats:?}");
        assert_eq!((stats.rx_packets, stats.tx_packets, stats.invalid_descs), (3200, 3200, 0));
        a.close(&mut pool);
        b.close(&mut pool);
        assert_eq!((pool.available(), a.frames_held(), a.is_up()), (pool.total(), 0, false));
    });
}

#[test]
fn closing_under_traffic_brings_every_frame_back_and_the_queue_can_be_opened_again() {
    in_netns(|| {
        veth("a0", "a1", 1);
        veth("b0", "b1", 1);
        let umem = umem();
        let mut pool = FramePool::new(&umem, FRAMES).unwrap();
        let stop = Arc::new(AtomicBool::new(false));
        let stop_it = Arc::clone(&stop);
        let generator = std::thread::spawn(move || {
            let mut pool = FramePool::private(64).unwrap();
            let mut a1 = host("a1");
            while !stop_it.load(Ordering::Relaxed) {
                send(&mut a1, &mut pool, 0..32);
            }
            a1.close(&mut pool);
            assert_eq!(pool.available(), pool.total());
        });
        let mut total = 0;
        for _ in 0..10 {
            let ((mut a, _xa), (mut b, _xb)) = (port("a0", 1, &umem), port("b0", 1, &umem));
            let mut count = 0;
            until("traffic flows", || {
                count += forward(&mut a, &mut b, &mut pool);
                count > 500
            });
            total += count;
            assert!(a.frames_held() > 0);
            a.close(&mut pool);
            b.close(&mut pool);
            assert_eq!(pool.available(), pool.total());
        }
        stop.store(true, Ordering::Relaxed);
        generator.join().unwrap();
        println!("{total} packets over 10 openings");
    });
}

#[test]
fn every_queue_of_a_device_is_served() {
    in_netns(|| {
        veth("a0", "a1", 2);
        let umem = umem();
        let mut pool = FramePool::new(&umem, FRAMES).unwrap();
        let (mut a, _xa) = port("a0", 2, &umem);
        assert_eq!(a.sockets().len(), 2);
        let (mut a1, mut hosts_pool) = (host("a1"), FramePool::private(1024).unwrap());
        a.rx(&mut pool, &mut RxBurst::new());
        let mut numbers = Vec::new();
        for round in 0..20 {
            send(&mut a1, &mut hosts_pool, round * 64..(round + 1) * 64);
            until("all packets of the round arrive", || {
                numbers.extend(take(&mut a, &mut pool));
                numbers.len() as u32 >= (round + 1) * 64
            });
        }
        let order_in_flow = |flow| numbers.iter().filter(|&n| n % 64 == flow).is_sorted();
        assert!((0..64).all(order_in_flow));
        numbers.sort_unstable();
        assert_eq!(numbers, (0..1280).collect::<Vec<_>>());
        let per_queue = a.queue_stats().map(|s| s.rx_packets).collect::<Vec<_>>();
        println!("packets per queue: {per_queue:?}");
        assert!(per_queue.iter().all(|&n| n > 0), "one queue got all: {per_queue:?}");
        a.close(&mut pool);
        assert_eq!(pool.available(), pool.total());
    });
}

#[test]
fn a_deleted_device_gives_its_frames_back_and_others_go_on() {
    in_netns(|| {
        veth("a0", "a1", 1);
        veth("b0", "b1", 1);
        let umem = umem();
        let mut pool = FramePool::new(&umem, FRAMES).unwrap();
        let ((mut a, _xa), (mut b, _xb)) = (port("a0", 1, &umem), port("b0", 1, &umem));
        let (mut b1, mut hosts_pool) = (host("b1"), FramePool::private(256).unwrap());
        forward(&mut a, &mut b, &mut pool);
        forward(&mut b, &mut a, &mut pool);
        ip("link set a0 down");
        a.check(&mut pool);
        assert!(!a.is_up() && a.frames_held() > 0);
        send(&mut a, &mut pool, 0..5);
        ip("link set a0 up");
        a.check(&mut pool);
        assert!(a.is_up());
        ip("link del a0");
        send(&mut a, &mut pool, 0..5);
        a.check(&mut pool);
        assert!(!a.is_up());
        assert_eq!((a.frames_held(), a.stats().tx_errors), (0, 5));
        assert_eq!(pool.available() + b.frames_held(), pool.total());
        send(&mut b1, &mut hosts_pool, 0..10);
        let mut seen = Vec::new();
        until("the other port goes on", || {
            seen.extend(take(&mut b, &mut pool));
            seen.len() == 10
        });
        // It comes back under the same name.
        veth("a0", "a1", 1);
        let (mut a, _xa) = port("a0", 1, &umem);
        assert!(a.is_up());
        a.close(&mut pool);
        b.close(&mut pool);
        assert_eq!(pool.available(), pool.total());
    });
}

#[test]
fn a_full_ring_and_an_empty_pool_are_counted_and_recovered_from() {
    in_netns(|| {
        veth("a0", "a1", 1);
        let umem = Umem::new(UmemConfig { frames: 512, ..UmemConfig::default() }).unwrap();
        let mut pool = FramePool::new(&umem, 512).unwrap();
        let index = if_index("a0").unwrap();
        let config = XskPortConfig { tx_entries: 64, ..XskPortConfig::new(index, vec![0]) };
        let mut a = XskPort::open(&config, &umem).unwrap();
        for number in 0..100 {
            let mut frame = pool.alloc().unwrap();
            assert!(frame.copy_from(&packet(number)));
            a.tx(&mut pool, frame);
        }
        let mut short = pool.alloc().unwrap();
        assert!(short.copy_from(&[0; 13]));
        a.tx(&mut pool, short);
        let stats = a.stats();
        assert_eq!((stats.tx_packets, stats.tx_ring_full, stats.tx_errors), (64, 36, 1));
        until("all are sent and completed", || {
            a.flush(&mut pool);
            a.frames_held() == 0
        });
        let redirect = Redirect::attach(index);
        a.sockets().iter().for_each(|&(queue, fd)| redirect.set(queue, fd.as_raw_fd()));
        a.rx(&mut pool, &mut RxBurst::new());
        assert_eq!(pool.available(), 256, "the reserve stays with the pool");
        let (mut a1, mut hosts_pool) = (host("a1"), FramePool::private(1024).unwrap());
        let mut hands = Vec::new();
        let mut burst = RxBurst::new();
        until("the kernel has no frame left", || {
            send(&mut a1, &mut hosts_pool, 0..64);
            a.rx(&mut pool, &mut burst);
            hands.extend(burst.drain());
            a.stats().kernel_fill_empty > 0
        });
        hands.into_iter().for_each(|frame| pool.free(frame));
        until("packets flow again", || {
            send(&mut a1, &mut hosts_pool, 0..1);
            !take(&mut a, &mut pool).is_empty()
        });
        a.close(&mut pool);
        assert_eq!((pool.available(), pool.total()), (512, 512));
    });
}

#[test]
fn zero_copy_is_refused_by_veth_with_a_hint_and_falls_back() {
    in_netns(|| {
        veth("a0", "a1", 1);
        let umem = umem();
        let config = XskPortConfig::new(if_index("a0").unwrap(), vec![0]);
        let must = XskPortConfig { wish: BindWish::ZeroCopy, ..config.clone() };
        let text = XskPort::open(&must, &umem).err().map(|e| e.to_string()).unwrap_or_default();
        assert!(text.contains("ZeroCopy mode") && text.contains("use copy mode"), "{text}");
        let best = XskPort::open(&config, &umem).unwrap();
        assert_eq!(best.bind_modes(), [(0, BindMode::Copy)]);
        let text = XskPort::open(&config, &umem).err().map(|e| e.to_string()).unwrap_or_default();
        assert!(text.contains("another program"), "{text}");
        let none = XskPortConfig::new(if_index("a0").unwrap(), vec![7]);
        let text = XskPort::open(&none, &umem).err().map(|e| e.to_string()).unwrap_or_default();
        assert!(text.contains("no such queue"), "{text}");
    });
}

#[test]
fn a_tap_port_is_a_wire_to_the_kernel() {
    in_netns(|| {
        let mut pool = FramePool::private(256).unwrap();
        let config = TapConfig {
            name: "slt0".into(),
            mac: Some([2, 0, 0, 0, 0, 9]),
            mtu: Some(1400),
            up: false,
            kind: PortKind::Internal,
        };
        let mut tap = TapPort::create(&config).unwrap();
        let twin = TapPort::create(&config).err().map(|e| e.to_string()).unwrap_or_default();
        assert!(twin.contains("exists already"), "{twin}");
        send(&mut tap, &mut pool, 0..1);
        assert_eq!(tap.stats().tx_errors, 1, "a device that is down takes nothing");
        ip("link set slt0 addrgenmode none");
        ip("link set slt0 up");
        let mut kernel = host("slt0");
        send(&mut kernel, &mut pool, 0..50);
        let mut seen = Vec::new();
        until("the kernel's frames come out", || {
            seen.extend(take(&mut tap, &mut pool));
            seen.len() == 50
        });
        send(&mut tap, &mut pool, 50..100);
        until("our frames come in", || {
            seen.extend(take(&mut kernel, &mut pool));
            seen.len() == 100
        });
        assert_eq!(seen, (0..100).collect::<Vec<_>>());
        let show = std::process::Command::new("ip").args(["link", "show", "slt0"]).output();
        let show = String::from_utf8(show.unwrap().stdout).unwrap();
        assert!(show.contains("mtu 1400") && show.contains("02:00:00:00:00:09"), "{show}");
        ip("link del slt0");
        until("the loss is noticed", || {
            take(&mut tap, &mut pool);
            !tap.is_up()
        });
        kernel.close(&mut pool);
        assert_eq!(pool.available(), pool.total());
    });
}

#[test]
fn a_tap_interface_ends_with_its_port_also_in_another_namespace() {
    in_netns(|| {
        let (started, wait_started) = std::sync::mpsc::channel();
        let (ended, wait_ended) = std::sync::mpsc::channel::<()>();
        // Another namespace, held by a thread.
        let other = std::thread::spawn(move || {
            live::new_netns();
            started.send(live::thread_id()).unwrap();
            wait_ended.recv().unwrap();
            // A child process that another test starts just now holds a copy of every descriptor
            // until its exec, so the end may come a little later than the close.
            until("the interface ends", || if_index("slt1").is_err());
        });
        let mut pool = FramePool::private(64).unwrap();
        let (name, kind) = ("slt1".to_string(), PortKind::Tap);
        let config = TapConfig { name, mac: None, mtu: None, up: true, kind };
        let mut tap = TapPort::create(&config).unwrap();
        ip(&format!("link set slt1 netns {}", wait_started.recv().unwrap()));
        assert!(if_index("slt1").is_err(), "still here");
        tap.close(&mut pool);
        ended.send(()).unwrap();
        other.join().unwrap();
    });
}

#[test]
fn large_frames_hold_large_packets_and_small_ones_drop_them() {
    in_netns(|| {
        veth("a0", "a1", 1);
        ip("link set a0 mtu 3400");
        ip("link set a1 mtu 3400");
        let mut hosts_pool =
            FramePool::new(&Umem::new(large(64)).unwrap(), 64).expect("a pool of 64 frames");
        let mut a1 = host("a1");
        for (config, room) in [(large(FRAMES), true), (UmemConfig::default(), false)] {
            let umem = Umem::new(config).unwrap();
            let mut pool = FramePool::new(&umem, 4096).unwrap();
            let (mut a, _xa) = port("a0", 1, &umem);
            a.rx(&mut pool, &mut RxBurst::new());
            for number in 0..2u8 {
                let mut frame = hosts_pool.alloc().unwrap();
                let mut bytes = vec![number; if number == 0 { 3414 } else { 64 }];
                bytes[..64].copy_from_slice(&packet(u32::from(number)));
                assert!(frame.copy_from(&bytes));
                a1.tx(&mut hosts_pool, frame);
            }
            a1.flush(&mut hosts_pool);
            let mut burst = RxBurst::new();
            until("the small packet arrives", || {
                a.rx(&mut pool, &mut burst);
                burst.iter().any(|frame| frame.len() == 64)
            });
            let lengths: Vec<usize> = burst.iter().map(|frame| frame.len()).collect();
            assert_eq!(lengths, if room { vec![3414, 64] } else { vec![64] });
            assert_eq!(a.stats().kernel_rx_dropped, u64::from(!room));
            assert!(burst.iter().all(|frame| frame.headroom() >= 192));
            burst.clear(&mut pool);
            a.close(&mut pool);
            assert_eq!(pool.available(), pool.total());
        }
    });
}

fn large(frames: u32) -> UmemConfig {
    UmemConfig { frames, frame_size_bytes: 4096, hugepages: false }
}

#[test]
fn a_sleeping_worker_is_woken_by_a_packet() {
    in_netns(|| {
        veth("a0", "a1", 1);
        let umem = umem();
        let mut pool = FramePool::new(&umem, FRAMES).unwrap();
        let (mut a, _xa) = port("a0", 1, &umem);
        a.rx(&mut pool, &mut RxBurst::new());
        let mut fds = Vec::new();
        a.poll_fds(&mut fds);
        assert_eq!(poll_readable(&fds, 20).unwrap(), 0, "nothing was sent yet");
        let (mut a1, mut hosts_pool) = (host("a1"), FramePool::private(8).unwrap());
        send(&mut a1, &mut hosts_pool, 0..1);
        assert_eq!(poll_readable(&fds, 5000).unwrap(), 1);
        assert_eq!(take(&mut a, &mut pool), [0]);
        a.close(&mut pool);
    });
}
