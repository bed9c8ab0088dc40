//! Outbound SNAT to the node's own address, with ports and ICMP identifiers of its own.

use std::net::{SocketAddr, UdpSocket};
use std::time::Duration;

use sluice_control::api::types::{ConnInfo, ConnQuery, Reply, Request};
use sluice_testbed::host::Host;
use sluice_testbed::root_or_skip;
use sluice_testbed::sluiced::Daemon;
use sluice_testbed::traffic::UdpOptions;
use sluice_testbed::veth::{End, VethOptions, join};

use crate::kit::*;

const OUT: &str = "198.51.100.1";
const INET: &str = "198.51.100.2";
const MAC_UP: &str = "02:00:00:00:99:01";
const MAC_INET: &str = "02:00:00:00:99:02";
const MAC_C1: &str = "02:00:00:00:01:01";
const MAC_GW: &str = "02:00:00:00:ff:01";

pub struct Uplink {
    pub daemon: Daemon,
    pub node: Host,
    pub inet: Host,
    pub c1: Host,
}

impl Uplink {
    pub fn start() -> Self {
        let (node, inet, c1) = (host("node"), host("inet"), host("c1"));
        let ends = (End { ns: &node.ns, dev: "up0" }, End { ns: &inet.ns, dev: "up0" });
        join(ends.0, ends.1, VethOptions::default()).unwrap();
        node.mac("up0", MAC_UP).unwrap().address("up0", &format!("{OUT}/24")).unwrap();
        inet.mac("up0", MAC_INET).unwrap().address("up0", &format!("{INET}/24")).unwrap();
        let config = format!(
            "[[bridge]]\nname = \"br0\"\nflow_file = \"flows\"\n\
             [[bridge.port]]\nname = \"c1\"\ntype = \"internal\"\ndevice = \"eth0\"\n\
             netns = \"{}\"\nmac = \"{MAC_C1}\"\naddress = [\"192.0.2.1/24\"]\n\
             [[bridge.port]]\nname = \"up\"\ntype = \"afxdp\"\nmode = \"shared\"\n\
             device = \"up0\"\n\
             nat = [{{ address = \"{OUT}\", ports = [40000, 49999], \
             icmp_ids = [40000, 49999] }}]\n",
            c1.ns.path().display()
        );
        let daemon = Daemon::start(&node.ns, &config, &flows()).unwrap();
        c1.ns.ip(&format!("neigh add 192.0.2.254 lladdr {MAC_GW} dev eth0")).unwrap();
        c1.default_route(ip("192.0.2.254")).unwrap();
        Self { daemon, node, inet, c1 }
    }

    pub fn conns(&self) -> Vec<ConnInfo> {
        match self.daemon.call(Request::ConntrackList(ConnQuery::default())) {
            Ok(Reply::Conns(page)) => page.list,
            other => panic!("{other:?}"),
        }
    }
}

fn flows() -> String {
    let away = format!("dec_ttl,mod_dl_src:{MAC_UP},mod_dl_dst:{MAC_INET},output:up");
    let home = format!("dec_ttl,mod_dl_src:{MAC_GW},mod_dl_dst:{MAC_C1},output:c1");
    format!(
        "table=0,ip,in_port=c1 actions=ct(table=1,zone=1,nat)\n\
         table=0,ip,in_port=up actions=ct(table=3,zone=1,nat)\n\
         table=1,ct_state=+new+trk,ip \
         actions=ct(commit,table=2,zone=1,nat(src={OUT}:40000-49999))\n\
         table=1,ct_state=-new+trk-inv,ip actions=goto_table:2\n\
         table=2,ip actions={away}\n\
         table=3,ct_state=+trk+rpl-inv,ip,nw_dst=192.0.2.0/24 actions={home}\n\
         table=3,priority=1,ip actions=drop\n"
    )
}

#[test]
fn outbound_with_the_nodes_own_address() {
    if !root_or_skip("daemon: SNAT") {
        return;
    }
    let scene = Uplink::start();
    let (c1, inet, node) = (&scene.c1.ns, &scene.inet.ns, &scene.node.ns);
    let reserved = "/proc/sys/net/ipv4/ip_local_reserved_ports";
    assert_eq!(node.run(|| std::fs::read_to_string(reserved)).unwrap(), "40000-49999\n");
    assert!(pings(c1, INET), "{}\n{:?}", scene.daemon.log(), scene.daemon.counters());
    let is_ours = |seen: SocketAddr| {
        assert_eq!(seen.ip(), ip(OUT), "outside sees the node's address alone");
        assert!((40000..=49999).contains(&seen.port()), "{seen}");
    };
    is_ours(tcp(c1, inet, INET, 4 << 20));
    is_ours(udp_all_return(c1, inet, INET).client_seen.unwrap());

    // The node's own connections, from and to the same address, at the same time.
    assert!(pings(node, INET) && pings(inet, OUT));
    assert!(!is_in_range(tcp(node, inet, INET, 1 << 20)), "a port of NAT's for the node itself");
    tcp(inet, node, OUT, 1 << 20);
    udp_all_return(inet, node, OUT);

    let conns = scene.conns();
    for proto in ["icmp", "tcp", "udp"] {
        let found = conns.iter().find(|c| c.proto == proto && c.zone == 1);
        let c = found.unwrap_or_else(|| panic!("no {proto}: {conns:?}"));
        assert_eq!((&*c.orig.src, &*c.orig.dst), ("192.0.2.1", INET));
        assert_eq!((&*c.reply.src, &*c.reply.dst), (INET, OUT));
    }
    counters_add_up(&scene.daemon);
}

#[test]
fn datagrams_that_leave_before_the_first_answer_have_one_port() {
    if !root_or_skip("daemon: SNAT of a burst") {
        return;
    }
    let scene = Uplink::start();
    let (c1, inet) = (&scene.c1.ns, &scene.inet.ns);
    assert!(pings(c1, INET));
    for _ in 0..10 {
        let burst = UdpOptions { count: 8, gap: Duration::ZERO, ..UdpOptions::default() };
        let report = udp(c1, inet, INET, burst);
        assert_eq!((report.returned, report.damaged), (8, 0), "{report:?}");
    }
    let conns = scene.conns();
    assert!(conns.iter().all(|c| c.orig.src == "192.0.2.1"), "translated twice: {conns:?}");
}

fn is_in_range(address: SocketAddr) -> bool {
    (40000..=49999).contains(&address.port())
}

#[test]
fn what_was_not_asked_for_does_not_get_in_and_a_flush_forgets() {
    if !root_or_skip("daemon: unsolicited") {
        return;
    }
    let scene = Uplink::start();
    assert!(pings(&scene.c1.ns, INET));
    // From outside to a port of the range: taken by the switch, and dropped.
    let before = scene.daemon.counter("drop no_actions");
    let outside = scene.inet.ns.run(|| UdpSocket::bind("0.0.0.0:0")).unwrap();
    for port in 45000..45010 {
        outside.send_to(b"knock", (ip(OUT), port)).unwrap();
    }
    let dropped = || (scene.daemon.counter("drop no_actions") >= before + 10).then_some(());
    sluice_testbed::process::wait_until("ten drops", SOON, dropped).unwrap();
    assert_eq!(scene.daemon.port("c1").unwrap().counters.tx_errors, 0);
    assert!(scene.conns().iter().all(|c| c.proto == "icmp"), "nothing was committed");

    // A flow that is under way, cut by the flush: its replies are strangers then.
    let server = scene.inet.ns.run(|| UdpSocket::bind((ip(INET), 5003))).unwrap();
    let client = scene.c1.ns.run(|| UdpSocket::bind("0.0.0.0:0")).unwrap();
    for socket in [&server, &client] {
        socket.set_read_timeout(Some(Duration::from_millis(500))).unwrap();
    }
    client.send_to(b"one", (ip(INET), 5003)).unwrap();
    let mut buffer = [0; 16];
    let (_, seen) = server.recv_from(&mut buffer).unwrap();
    server.send_to(b"two", seen).unwrap();
    client.recv_from(&mut buffer).unwrap();
    let flushed = scene.daemon.call(Request::ConntrackFlush { filter: "zone=1".into() }).unwrap();
    assert!(matches!(flushed, Reply::Removed(n) if n >= 2), "{flushed:?}");
    assert!(scene.conns().is_empty());
    server.send_to(b"three", seen).unwrap();
    assert!(client.recv_from(&mut buffer).is_err(), "a reply got in without its connection");
    client.send_to(b"four", (ip(INET), 5003)).unwrap();
    let (_, seen) = server.recv_from(&mut buffer).unwrap();
    server.send_to(b"five", seen).unwrap();
    client.recv_from(&mut buffer).unwrap();
}
