//! The packet generator and its sink over a real wire, by AF_PACKET and by AF_XDP.

use std::net::IpAddr;
use std::time::Duration;

use sluice_control::pktgen::{
    Device, DeviceKind, SendOptions, SinkOptions, SinkReport, Stream, StreamConfig, receive, send,
};
use sluice_testbed::host::wire_pair;
use sluice_testbed::root_or_skip;

fn stream() -> Stream {
    Stream::new(&StreamConfig {
        src_mac: [2, 0, 0, 0, 0, 1],
        dst_mac: [2, 0, 0, 0, 0, 2],
        vlan: None,
        src_ip: IpAddr::from([10, 9, 0, 1]),
        dst_ip: IpAddr::from([10, 9, 0, 2]),
        dst_port: 9,
        flows: 16,
        sizes_bytes: vec![60, 1514],
        checksum: true,
    })
    .unwrap()
}

/// 2000 packets over a veth pair.
fn run(sender: DeviceKind, sink: DeviceKind) -> SinkReport {
    let (a, b) = wire_pair().unwrap();
    a.ns.quiet().unwrap();
    b.ns.quiet().unwrap();
    let mut to = b.ns.run(|| Device::open("eth0", sink, true)).unwrap();
    let mut from = a.ns.run(|| Device::open("eth0", sender, false)).unwrap();
    let limit = Duration::from_secs(10);
    let idle = Some(Duration::from_millis(300));
    let wanted = SinkOptions { duration: limit, count: Some(2000), idle };
    let report = std::thread::scope(|scope| {
        let sinking = scope.spawn(|| receive(&mut to, wanted).unwrap());
        let options =
            SendOptions { count: Some(2000), duration: limit, packets_per_s: Some(100_000) };
        let sent = send(&mut from, &mut stream(), options).unwrap();
        assert_eq!((sent.sent, sent.bytes), (2000, 1000 * (60 + 1514)));
        assert!(sent.packets_per_s < 110_000.0, "{sent:?}");
        sinking.join().unwrap()
    });
    // Closed inside the scope of the namespaces: the sockets hold them.
    drop((from, to));
    report
}

fn all_arrived(sender: DeviceKind, sink: DeviceKind) {
    let report = run(sender, sink);
    let counts = (report.received, report.flows, report.lost, report.late, report.duplicates);
    assert_eq!(counts, (2000, 16, 0, 0, 0), "{report:?}");
    assert_eq!(report.bytes, 1000 * (60 + 1514));
    let latency = report.latency_ns.unwrap();
    assert!(latency.min > 0 && latency.p50 < 1_000_000_000, "{latency:?}");
}

#[test]
fn packet_to_packet() {
    if root_or_skip("pktgen: packet to packet") {
        all_arrived(DeviceKind::Packet, DeviceKind::Packet);
    }
}

#[test]
fn xdp_to_packet() {
    if root_or_skip("pktgen: xdp to packet") {
        all_arrived(DeviceKind::Xdp, DeviceKind::Packet);
    }
}

#[test]
fn packet_to_xdp() {
    if root_or_skip("pktgen: packet to xdp") {
        all_arrived(DeviceKind::Packet, DeviceKind::Xdp);
    }
}

#[test]
fn xdp_to_xdp() {
    if root_or_skip("pktgen: xdp to xdp") {
        all_arrived(DeviceKind::Xdp, DeviceKind::Xdp);
    }
}
