//! The end in good order, and what a control socket must bear.

use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::time::Duration;

use sluice_testbed::root_or_skip;
use sluice_testbed::traffic::UdpOptions;

use crate::kit::*;
use crate::nat::Uplink;

#[test]
fn sigterm_leaves_nothing() {
    if !root_or_skip("daemon: SIGTERM") {
        return;
    }
    let mut scene = Uplink::start();
    assert!(pings(&scene.c1.ns, "198.51.100.2"));
    let socket = scene.daemon.socket();
    assert!(socket.exists());
    let mode = std::os::unix::fs::PermissionsExt::mode(&socket.metadata().unwrap().permissions());
    assert_eq!(mode & 0o7777, 0o600);
    assert_eq!(scene.daemon.terminate().unwrap(), Some(0), "{}", scene.daemon.log());
    assert!(!socket.exists());
    let left = std::fs::read_dir(scene.daemon.dir()).unwrap().flatten().map(|e| e.file_name());
    assert!(!left.into_iter().any(|n| n.to_string_lossy().contains("sock")));
    assert!(scene.c1.ns.ip("link show eth0").is_err(), "the TAP stays");
    assert!(!scene.node.ns.ip("link show up0").unwrap().contains("xdp"));
    let reserved = "/proc/sys/net/ipv4/ip_local_reserved_ports";
    assert_eq!(scene.node.ns.run(|| std::fs::read_to_string(reserved)).unwrap(), "\n");
    assert!(pings(&scene.node.ns, "198.51.100.2"));
    assert!(!scene.daemon.log().contains("ERROR"), "{}", scene.daemon.log());
}

#[test]
fn sigterm_under_traffic() {
    if !root_or_skip("daemon: SIGTERM under traffic") {
        return;
    }
    let mut scene = Pair::start("actions=NORMAL\n");
    assert!(scene.pings());
    let (c1, c2) = (scene.c1.ns.handle(), &scene.c2.ns);
    let socket = c2.run(|| std::net::UdpSocket::bind("0.0.0.0:0")).unwrap();
    let done = std::sync::atomic::AtomicBool::new(false);
    let code = std::thread::scope(|scope| {
        scope.spawn(|| {
            while !done.load(std::sync::atomic::Ordering::Relaxed) {
                // Nobody listens; the container's answers do not matter either.
                let _ = socket.send_to(&[0; 1000], (ip(C1), 9));
            }
        });
        std::thread::sleep(Duration::from_millis(200));
        let code = scene.daemon.terminate();
        done.store(true, std::sync::atomic::Ordering::Relaxed);
        code
    });
    assert_eq!(code.unwrap(), Some(0), "{}", scene.daemon.log());
    assert!(c1.run(|| std::process::Command::new("true").status()).unwrap().success());
    assert!(!scene.node.ns.ip("link show veth2").unwrap().contains("xdp"));
    assert!(!scene.daemon.log().contains("ERROR"), "{}", scene.daemon.log());
}

#[test]
fn garbage_on_the_control_socket_does_not_disturb_traffic() {
    if !root_or_skip("daemon: garbage on the control socket") {
        return;
    }
    let mut scene = Pair::start("actions=NORMAL\n");
    assert!(scene.pings());
    let (c1, c2) = (&scene.c1.ns, &scene.c2.ns);
    let options = UdpOptions { count: 1500, ..UdpOptions::default() };
    let path = scene.daemon.socket();
    let report = std::thread::scope(|scope| {
        let sending = scope.spawn(|| udp(c1, c2, C2, options));
        let mut state = 1_u32;
        while !sending.is_finished() {
            state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            throw(&path, state);
        }
        sending.join().unwrap()
    });
    assert_eq!((report.returned, report.duplicated), (1500, 0), "{report:?}");
    assert!(scene.daemon.is_running() && scene.daemon.show().is_ok());
    counters_add_up(&scene.daemon);
}

/// One connection with something that is no call, closed at some moment.
fn throw(path: &std::path::Path, seed: u32) {
    let Ok(mut stream) = UnixStream::connect(path) else { return };
    stream.set_read_timeout(Some(Duration::from_millis(20))).unwrap();
    let noise: Vec<u8> = (0..seed % 4000).map(|i| (seed.rotate_left(i % 31) ^ i) as u8).collect();
    let deep = "[".repeat(20_000);
    let text: &[u8] = match seed >> 8 & 7 {
        0 => &noise,
        1 => b"{\"version\":1,\"id\":1,\"request\":",
        2 => b"{\"version\":9,\"id\":1,\"request\":\"show\"}\n",
        3 => b"{\"version\":1,\"id\":1,\"request\":{\"flow_dump\":{\"bridge\":7}}}\n",
        4 => b"\n\n\n\0\0\0\n",
        5 => deep.as_bytes(),
        6 => {
            b"{\"version\":1,\"id\":1,\"request\":{\"port_del\":{\"bridge\":\"\",\"port\":\"\"}}}\n"
        }
        _ => b"GET / HTTP/1.1\r\n\r\n",
    };
    // The daemon may hang up first.
    let _ = stream.write_all(text).and_then(|()| stream.read(&mut [0; 512]));
}
