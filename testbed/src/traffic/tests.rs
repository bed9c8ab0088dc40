use super::*;
use crate::host::{WIRE_PEER, wire_pair};
use crate::root_or_skip;

#[test]
fn the_closing_lines_of_ping_are_read() {
    let good = "PING 10.0.0.2 (10.0.0.2) 56(84) bytes of data.\n\n\
        --- 10.0.0.2 ping statistics ---\n\
        5 packets transmitted, 4 received, 20% packet loss, time 81ms\n\
        rtt min/avg/max/mdev = 0.031/0.042/0.060/0.010 ms\n";
    let want = PingReport { sent: 5, received: 4, rtt_avg_ms: Some(0.042) };
    assert_eq!(parse_ping(good), Some(want));
    assert!(!want.all_answered());
    let lost = "3 packets transmitted, 0 received, +3 errors, 100% packet loss, time 40ms\n";
    assert_eq!(parse_ping(lost), Some(PingReport { sent: 3, received: 0, rtt_avg_ms: None }));
    assert_eq!(parse_ping("connect: Network is unreachable\n"), None);
}

#[test]
fn ping_tcp_and_udp_cross_a_wire() {
    if !root_or_skip("traffic over a wire") {
        return;
    }
    let (a, b) = wire_pair().unwrap();
    let report = ping(&a.ns, WIRE_PEER, PingOptions::default()).unwrap();
    assert!(report.all_answered() && report.rtt_avg_ms.is_some(), "{report:?}");

    let at = SocketAddr::new(WIRE_PEER, 5001);
    let limit = Duration::from_secs(20);
    let tcp = tcp_transfer(&a.ns, &b.ns, at, 8 << 20, limit).unwrap();
    assert_eq!(tcp.client_seen.ip().to_string(), "10.9.0.1");
    assert!(tcp.gbit_per_s() > 0.0);

    let options = UdpOptions { count: 50, payload_bytes: 1400, ..UdpOptions::default() };
    let udp = udp_echo(&a.ns, &b.ns, at, options).unwrap();
    assert_eq!((udp.sent, udp.returned, udp.duplicated, udp.damaged), (50, 50, 0, 0));
    assert_eq!(udp.client_seen.unwrap().ip().to_string(), "10.9.0.1");
}

#[test]
fn a_cut_wire_is_loss_and_a_timeout() {
    if !root_or_skip("traffic over a cut wire") {
        return;
    }
    let (a, b) = wire_pair().unwrap();
    // The far end answers no ARP when it is down on its side of the stack.
    b.ns.ip("addr flush dev eth0").unwrap();
    a.ns.ip("neigh add 10.9.0.2 lladdr 02:00:00:00:00:99 dev eth0").unwrap();
    let options = PingOptions { count: 2, ..PingOptions::default() };
    assert_eq!(ping(&a.ns, WIRE_PEER, options).unwrap().received, 0);
    b.ns.ip("addr add 10.9.0.2/32 dev lo").unwrap();
    let at = SocketAddr::new(WIRE_PEER, 5001);
    let error = tcp_transfer(&a.ns, &b.ns, at, 1000, Duration::from_millis(300)).unwrap_err();
    assert!(error.to_string().starts_with("TCP slu-"), "{error}");
    let options = UdpOptions { count: 3, wait: Duration::from_millis(50), ..UdpOptions::default() };
    let udp = udp_echo(&a.ns, &b.ns, at, options).unwrap();
    assert_eq!((udp.sent, udp.returned), (3, 0));
}

#[test]
fn a_changed_byte_is_noticed() {
    let known = pattern();
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let at = listener.local_addr().unwrap();
    let deadline = Instant::now() + Duration::from_secs(5);
    let mut wrong = known.clone();
    wrong[70_000] ^= 1;
    let sender = std::thread::spawn(move || send_pattern(at, &wrong, 100_000, deadline));
    let (mut stream, _) = accept(&listener, deadline).unwrap();
    let error = receive_pattern(&mut stream, &known, deadline).unwrap_err();
    assert!(error.to_string().starts_with("wrong bytes"), "{error}");
    drop(stream);
    assert!(sender.join().unwrap().is_err());
}
