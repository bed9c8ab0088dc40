use std::net::IpAddr;

use etherparse::SlicedPacket;

use super::probe::{PROBE_BYTES, Probe, udp_payload};
use super::*;

fn config() -> StreamConfig {
    StreamConfig {
        src_mac: [2, 0, 0, 0, 0, 1],
        dst_mac: [2, 0, 0, 0, 0, 2],
        vlan: None,
        src_ip: IpAddr::from([10, 0, 0, 1]),
        dst_ip: IpAddr::from([10, 0, 0, 2]),
        dst_port: 9,
        flows: 3,
        sizes_bytes: vec![60, 1514],
        checksum: true,
    }
}

fn packets(config: &StreamConfig, count: usize) -> Vec<Vec<u8>> {
    let mut stream = Stream::new(config).unwrap();
    let one = |n| {
        let mut packet = Vec::new();
        stream.next_into(n as u64 * 1000, &mut packet);
        packet
    };
    (0..count).map(one).collect()
}

#[test]
fn a_probe_survives_its_packet() {
    let probe = Probe { flow: 70_000, number: 0xdead_beef, sent_ns: 0x1234_5678_9abc };
    assert_eq!(Probe::decode(&probe.encode()), Some(probe));
    assert_eq!(Probe::decode(&probe.encode()[..PROBE_BYTES - 1]), None);
    assert_eq!(Probe::decode(&[0; 32]), None);
    assert_eq!(probe.latency_ns(0x1234_5678_9abc + 5), 5);
    // The clock has more bits than the probe, and two processors' clocks may differ a little.
    assert_eq!(probe.latency_ns((7 << 48) + 0x1234_5678_9abc + 5), 5);
    assert_eq!(probe.latency_ns(0x1234_5678_9abc - 5), 0);
}

#[test]
fn packets_are_what_an_independent_parser_takes_them_for() {
    let v6 = StreamConfig {
        src_ip: "fd00::1".parse().unwrap(),
        dst_ip: "fd00::2".parse().unwrap(),
        sizes_bytes: vec![82, 99],
        vlan: Some(7),
        ..config()
    };
    for (config, sizes) in [(config(), [60, 1514]), (v6, [82, 99])] {
        for (n, packet) in packets(&config, 8).iter().enumerate() {
            assert_eq!(packet.len(), sizes[n % 2]);
            let parsed = SlicedPacket::from_ethernet(packet).unwrap();
            let Some(etherparse::TransportSlice::Udp(udp)) = parsed.transport else { panic!() };
            let sum = match parsed.net.unwrap() {
                etherparse::NetSlice::Ipv4(ip) => {
                    let header = ip.header().to_header();
                    udp.to_header().calc_checksum_ipv4(&header, udp.payload()).unwrap()
                }
                etherparse::NetSlice::Ipv6(ip) => {
                    let header = ip.header().to_header();
                    udp.to_header().calc_checksum_ipv6(&header, udp.payload()).unwrap()
                }
                other => panic!("{other:?}"),
            };
            assert_eq!(udp.checksum(), sum, "packet {n}");
            assert_eq!(udp.source_port(), 1024 + (n % 3) as u16);
            assert_eq!(udp.destination_port(), 9);
            let probe = Probe::decode(udp_payload(packet).unwrap()).unwrap();
            let (flow, number) = ((n % 3) as u32, (n / 3) as u32);
            assert_eq!(probe, Probe { flow, number, sent_ns: n as u64 * 1000 });
        }
    }
}

#[test]
fn impossible_streams_are_refused_with_what_would_be_possible() {
    let refused = |config: StreamConfig| Stream::new(&config).unwrap_err().to_string();
    let small = StreamConfig { sizes_bytes: vec![57], ..config() };
    let text = "a frame of 57 bytes: at least 58 (headers and probe), at most 3498";
    assert_eq!(refused(small), text);
    let mixed = StreamConfig { dst_ip: "fd00::2".parse().unwrap(), ..config() };
    assert_eq!(
        refused(mixed),
        "source 10.0.0.1 and destination fd00::2 must both be IPv4 or both IPv6"
    );
    for flows in [0, (1 << 20) + 1] {
        assert!(refused(StreamConfig { flows, ..config() }).starts_with(&format!("{flows} flows")));
    }
    assert_eq!(refused(StreamConfig { sizes_bytes: vec![], ..config() }), "no frame size given");
}

#[test]
fn more_flows_than_ports_go_on_at_the_next_port() {
    let many = StreamConfig { flows: 60_001, sizes_bytes: vec![60], ..config() };
    let all = packets(&many, 60_001);
    let ports = |packet: &[u8]| [packet[34], packet[35], packet[36], packet[37]];
    let distinct: std::collections::HashSet<_> = all.iter().map(|p| ports(p)).collect();
    assert_eq!(distinct.len(), 60_001);
    assert_eq!(Stream::new(&many).unwrap().period(), 60_001);
    assert_eq!(Stream::new(&config()).unwrap().period(), 6);
}

/// The report on packets of `config` that arrive in the order of `order`.
fn tallied(order: &[usize]) -> SinkReport {
    let one_flow = StreamConfig { flows: 1, sizes_bytes: vec![60], ..config() };
    let all = packets(&one_flow, 200);
    let mut tally = Tally::default();
    for (n, &i) in order.iter().enumerate() {
        tally.take(&all[i], i as u64 * 1000 + 500 + n as u64);
    }
    tally.report(0)
}

#[test]
fn loss_order_and_duplicates_are_told_apart() {
    let counts = |order: &[usize]| {
        let r = tallied(order);
        (r.received, r.lost, r.late, r.duplicates)
    };
    assert_eq!(counts(&[0, 1, 2, 3]), (4, 0, 0, 0));
    assert_eq!(counts(&[0, 1, 4, 5]), (4, 2, 0, 0));
    assert_eq!(counts(&[0, 2, 1, 3]), (4, 0, 1, 0));
    assert_eq!(counts(&[0, 1, 1, 1, 2]), (5, 0, 0, 2));
    // The first packets lost; one comes late, twice.
    assert_eq!(counts(&[3, 4, 1, 1]), (4, 2, 1, 1));
    // A jump beyond the window, and a packet from before it.
    assert_eq!(counts(&[0, 100, 3, 99]), (4, 98, 1, 1));
    assert_eq!(counts(&[0, 63, 64, 127, 1, 64]), (6, 124, 0, 2));
    let worst = tallied(&[0, 5]).worst_flows;
    assert_eq!(worst, [tally::FlowLoss { flow: 0, received: 2, lost: 4 }]);
}

#[test]
fn latency_and_rate_come_from_the_probes() {
    let report = tallied(&(0..101).collect::<Vec<_>>());
    let latency = report.latency_ns.unwrap();
    assert_eq!((latency.min, latency.max), (500, 600));
    // 100 gaps of 1001 ns.
    assert!((report.packets_per_s - 1e9 / 1001.0).abs() < 1.0, "{}", report.packets_per_s);
    assert_eq!((report.flows, report.bytes), (1, 6060));
}

#[test]
fn other_packets_are_counted_as_such() {
    let mut tally = Tally::default();
    let good = packets(&config(), 1).remove(0);
    for cut in 0..good.len() {
        tally.take(&good[..cut], 0);
    }
    let mut unmarked = good.clone();
    unmarked[42] ^= 1;
    tally.take(&unmarked, 0);
    let mut tcp = good.clone();
    tcp[23] = 6;
    tally.take(&tcp, 0);
    // A flow number that no sender uses must not make the sink allocate for it.
    let mut huge = good.clone();
    huge[44..48].fill(0xff);
    tally.take(&huge, 0);
    let report = tally.report(3);
    assert_eq!((report.received, report.foreign, report.queue_drops), (0, 63, 3));
    assert_eq!((report.latency_ns, report.packets_per_s), (None, 0.0));
}

#[test]
fn a_pcap_holds_the_same_packets() {
    let path = std::env::temp_dir().join(format!("sluice-pktgen-{}.pcap", std::process::id()));
    write_pcap(&path, &mut Stream::new(&config()).unwrap(), 7, Some(1_000_000)).unwrap();
    let file = std::io::BufReader::new(std::fs::File::open(&path).unwrap());
    let reader = sluice_dataplane::port::pcap::PcapReader::new(file).unwrap();
    let got: Vec<_> = reader.map(|p| p.unwrap()).collect();
    std::fs::remove_file(&path).unwrap();
    assert_eq!(got.iter().map(|p| p.bytes.clone()).collect::<Vec<_>>(), packets(&config(), 7));
    assert_eq!(got[6].ts_ns, 6000);
}
