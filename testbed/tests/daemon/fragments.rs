//! Datagrams in fragments, of the kernel's making, through connection tracking and SNAT.

use std::net::SocketAddr;
use std::time::Duration;

use sluice_testbed::root_or_skip;
use sluice_testbed::traffic::{PingOptions, UdpOptions, ping, udp_echo};

use crate::kit::*;

const NAT: &str = "192.0.2.77";
const NAT_SIX: &str = "2001:db8::77";
const FLOWS: &str = "\
    table=0,priority=1,actions=NORMAL\n\
    table=0,priority=9,icmp6,icmp_type=135 actions=NORMAL\n\
    table=0,priority=9,icmp6,icmp_type=136 actions=NORMAL\n\
    table=0,priority=5,ip,in_port=p1 \
    actions=ct(commit,zone=1,nat(src=192.0.2.77:40000-40999),table=1)\n\
    table=0,priority=5,ipv6,in_port=p1 \
    actions=ct(commit,zone=1,nat(src=[2001:db8::77]:40000-40999),table=1)\n\
    table=0,priority=5,ip,in_port=p2 actions=ct(zone=1,nat,table=2)\n\
    table=0,priority=5,ipv6,in_port=p2 actions=ct(zone=1,nat,table=2)\n\
    table=1,ct_state=-inv+trk actions=output:p2\n\
    table=2,ct_state=+est+rpl-inv+trk actions=output:p1\n";

#[test]
fn large_datagrams_go_through_snat_and_come_back() {
    if !root_or_skip("daemon: fragments through SNAT") {
        return;
    }
    let scene = Pair::start(FLOWS);
    let (c1, c2) = (&scene.c1.ns, &scene.c2.ns);
    let mac = "02:00:00:00:00:01";
    c2.ip(&format!("neigh add {NAT} lladdr {mac} dev eth0")).unwrap();
    c2.ip(&format!("neigh add {NAT_SIX} lladdr {mac} dev eth0")).unwrap();
    for (to, as_seen) in [(C2, NAT), (C2_SIX, NAT_SIX)] {
        heals(c1, to);
        let large = PingOptions { payload_bytes: 4000, count: 10, ..PingOptions::default() };
        let report = ping(c1, ip(to), large).unwrap();
        assert!(report.all_answered(), "{to}: {report:?}\n{:?}", scene.daemon.counters());
        for payload_bytes in [1473, 2953, 9000, 40_000] {
            let gap = Duration::from_millis(5);
            let options = UdpOptions { count: 20, payload_bytes, gap, ..UdpOptions::default() };
            let report = udp_echo(c1, c2, SocketAddr::new(ip(to), 5002), options).unwrap();
            let counters = scene.daemon.counters();
            assert_eq!((report.returned, report.damaged), (20, 0), "{to}: {report:?} {counters:?}");
            let seen = report.client_seen.unwrap();
            assert_eq!(seen.ip(), ip(as_seen));
            assert!((40000..=40999).contains(&seen.port()), "{seen}");
        }
    }
    let count = |name| scene.daemon.counter(name);
    // Both ways, of each family: the pings, and four sizes of datagrams.
    assert!(count("ct_datagrams") >= 2 * 2 * (10 + 4 * 20), "{:?}", scene.daemon.counters());
    assert!(count("ct_fragments") >= 4 * (10 * 3 + 20 * (2 + 2 + 7 + 28)));
    for name in ["overlap", "limit", "lost", "duplicate"].map(|n| format!("drop fragment_{n}")) {
        assert_eq!(scene.daemon.counter(&name), 0, "{:?}", scene.daemon.counters());
    }
    counters_add_up(&scene.daemon);
}

#[test]
fn what_lacks_a_fragment_does_not_stay() {
    if !root_or_skip("daemon: a lost fragment") {
        return;
    }
    // First fragments are lost.
    let lossy = FLOWS.replace(
        "table=0,priority=5,ip,in_port=p1",
        "table=0,priority=7,icmp,ip_frag=first,in_port=p1 actions=drop\n\
         table=0,priority=5,ip,in_port=p1",
    );
    let scene = Pair::start(&lossy);
    let (c1, c2) = (&scene.c1.ns, &scene.c2.ns);
    c2.ip(&format!("neigh add {NAT} lladdr 02:00:00:00:00:01 dev eth0")).unwrap();
    heals(c1, C2);
    let large = PingOptions { payload_bytes: 4000, count: 5, ..PingOptions::default() };
    assert_eq!(ping(c1, ip(C2), large).unwrap().received, 0);
    let gone = || (scene.daemon.counter("drop fragment_timeout") >= 10).then_some(());
    let limit = Duration::from_secs(25);
    sluice_testbed::process::wait_until("fragments to time out", limit, gone).unwrap();
    assert!(pings(c1, C2), "others are served");
}
