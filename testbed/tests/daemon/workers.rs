//! Several workers: devices with two queues, and some with one, between two threads.

use std::collections::BTreeSet;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::time::Duration;

use sluice_control::api::types::{
    ConnInfo, ConnQuery, CtChange, CtLimits, Reply, Request, SwitchInfo, ZoneLimit,
};
use sluice_testbed::host::Host;
use sluice_testbed::netns::Namespace;
use sluice_testbed::process::wait_until;
use sluice_testbed::root_or_skip;
use sluice_testbed::sluiced::Daemon;
use sluice_testbed::traffic::UdpOptions;
use sluice_testbed::veth::{End, VethOptions, join};

use crate::kit::*;

const C3: &str = "192.0.2.3";
const NORMAL: &str = "actions=NORMAL\n";

/// A veth pair with two queues: `dev` at the node, `eth0` at the other end.
fn wire_two(node: &Host, dev: &str, other: &Host) {
    let ends = (End { ns: &node.ns, dev }, End { ns: &other.ns, dev: "eth0" });
    join(ends.0, ends.1, VethOptions { queues: 2, ..VethOptions::default() }).unwrap();
    let last = dev.chars().last().and_then(|c| c.to_digit(10)).unwrap_or(0);
    other.mac("eth0", &format!("02:00:00:00:00:{last:02}")).unwrap();
}

/// Two containers on devices with two queues each, and one on a TAP: a port of one worker.
struct Trio {
    daemon: Daemon,
    node: Host,
    c1: Host,
    c2: Host,
    c3: Host,
}

impl Trio {
    fn start(flows: &str) -> Self {
        let [node, c1, c2, c3] = ["node", "c1", "c2", "c3"].map(host);
        wire_two(&node, "veth1", &c1);
        wire_two(&node, "veth2", &c2);
        c1.address("eth0", &format!("{C1}/24")).unwrap();
        c2.address("eth0", &format!("{C2}/24")).unwrap();
        let config = format!(
            "workers = 2\n\
             [[bridge]]\nname = \"br0\"\nflow_file = \"flows\"\n\
             [[bridge.port]]\nname = \"p1\"\ntype = \"afxdp\"\ndevice = \"veth1\"\n\
             [[bridge.port]]\nname = \"p2\"\ntype = \"afxdp\"\ndevice = \"veth2\"\n\
             [[bridge.port]]\nname = \"p3\"\ntype = \"internal\"\ndevice = \"eth0\"\n\
             mac = \"02:00:00:00:00:03\"\nnetns = \"{}\"\naddress = [\"{C3}/24\"]\n",
            c3.ns.path().display()
        );
        let daemon = Daemon::start(&node.ns, &config, flows).unwrap();
        Self { daemon, node, c1, c2, c3 }
    }
}

fn show(daemon: &Daemon) -> SwitchInfo {
    daemon.show().unwrap()
}

/// Packets that each worker took from ports.
fn received(daemon: &Daemon) -> Vec<u64> {
    show(daemon).workers.iter().map(|w| w.rx_packets).collect()
}

/// One datagram and its answer, from so many ports.
fn exchange(from: &Namespace, to: &Namespace, at: &str, ports: usize) {
    let server = to.run(|| UdpSocket::bind((ip(at), 0))).unwrap();
    let at = SocketAddr::new(ip(at), server.local_addr().unwrap().port());
    server.set_read_timeout(Some(SOON)).unwrap();
    let mut buffer = [0; 64];
    // All at once: the kernel may give a port again that was let go.
    let clients: Vec<UdpSocket> =
        (0..ports).map(|_| from.run(|| UdpSocket::bind("0.0.0.0:0")).unwrap()).collect();
    for (n, client) in clients.iter().enumerate() {
        client.set_read_timeout(Some(SOON)).unwrap();
        client.send_to(b"there", at).unwrap();
        let (_, seen) = server.recv_from(&mut buffer).unwrap_or_else(|e| panic!("{n}: {e}"));
        server.send_to(b"back", seen).unwrap();
        client.recv_from(&mut buffer).unwrap_or_else(|e| panic!("answer {n}: {e}"));
    }
}

/// TCP connections one after another, with bytes there and back: to `at`, which is `to` for the
/// server. The clients' addresses as the server sees them.
fn many(
    from: &Namespace,
    server: &Namespace,
    (at, to): (SocketAddr, SocketAddr),
    count: usize,
) -> Vec<SocketAddr> {
    let server = server.run(|| TcpListener::bind(to)).unwrap();
    let one = |n: usize| {
        let client = from.run(|| TcpStream::connect_timeout(&at, SOON));
        let mut client = client.unwrap_or_else(|e| panic!("connection {n}: {e}"));
        let (mut end, seen) = server.accept().unwrap();
        for stream in [&client, &end] {
            stream.set_read_timeout(Some(SOON)).unwrap();
        }
        let (sent, mut got) = ([n as u8; 30_000], [0; 30_000]);
        client.write_all(&sent).unwrap();
        end.read_exact(&mut got).unwrap();
        end.write_all(&got).unwrap();
        client.read_exact(&mut got).unwrap();
        assert_eq!(got, sent);
        seen
    };
    (0..count).map(one).collect()
}

#[test]
fn two_workers_forward_between_all_kinds_of_ports() {
    if !root_or_skip("daemon: two workers") {
        return;
    }
    let scene = Trio::start(NORMAL);
    let [c1, c2, c3] = [&scene.c1.ns, &scene.c2.ns, &scene.c3.ns];
    assert!(pings(c1, C2) && pings(c1, C3) && pings(c3, C2));
    for (from, to, at) in [(c1, c2, C2), (c2, c3, C3), (c3, c1, C1)] {
        tcp(from, to, at, 8 << 20);
        let at = SocketAddr::new(ip(at), 5003);
        many(from, to, (at, at), 16);
    }
    exchange(c1, c2, C2, 64);
    exchange(c3, c2, C2, 64);
    let served = |port: &str| scene.daemon.port(port).unwrap().workers;
    assert_eq!((served("p1"), served("p2"), served("p3").len()), (vec![0, 1], vec![0, 1], 1));
    let each = received(&scene.daemon);
    assert!(each.len() == 2 && each.iter().all(|n| *n > 100), "one worker has all: {each:?}");
    // Half of what goes to the TAP comes to the worker that does not have it.
    assert!(scene.daemon.counter("sent_over") > 100);
    assert_eq!(scene.daemon.counter("drop hand_over_full"), 0);
    let Ok(Reply::Fdb(learned)) = scene.daemon.call(Request::FdbShow { bridge: "br0".into() })
    else {
        panic!("no table of addresses")
    };
    let ports: BTreeSet<_> = learned.iter().map(|e| &*e.port).collect();
    assert!(["p1", "p2", "p3"].iter().all(|p| ports.contains(p)), "{learned:?}");
    frames_are_whole(&scene.daemon);
}

/// A flow's packets leave in the order in which they came, also by a port that another worker has.
#[test]
fn order_is_kept_on_the_way_through_another_worker() {
    if !root_or_skip("daemon: order between workers") {
        return;
    }
    let scene = Trio::start(NORMAL);
    assert!(pings(&scene.c1.ns, C3));
    let server = scene.c3.ns.run(|| UdpSocket::bind((ip(C3), 0))).unwrap();
    server.set_read_timeout(Some(Duration::from_millis(500))).unwrap();
    let at = server.local_addr().unwrap();
    for _ in 0..8 {
        let client = scene.c1.ns.run(|| UdpSocket::bind("0.0.0.0:0")).unwrap();
        client.connect(at).unwrap();
        let seen = std::thread::scope(|scope| {
            let reading = scope.spawn(|| {
                let (mut buffer, mut seen) = ([0; 64], Vec::new());
                while let Ok(4) = server.recv(&mut buffer) {
                    seen.push(u32::from_be_bytes(buffer[..4].try_into().unwrap()));
                }
                seen
            });
            for n in 0..2000u32 {
                client.send(&n.to_be_bytes()).unwrap();
            }
            reading.join().unwrap()
        });
        // How many is the socket's affair.
        assert!(seen.len() > 100, "{} arrived", seen.len());
        assert!(seen.is_sorted(), "out of order");
    }
    frames_are_whole(&scene.daemon);
}

/// Does something while datagrams go to both other containers. Whether they arrive does not matter.
fn under_traffic<T>(sockets: &[UdpSocket], act: impl FnOnce() -> T) -> T {
    let done = AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            while !done.load(Relaxed) {
                for socket in sockets {
                    let _ = socket.send_to(&[0; 500], (ip(C2), 9));
                    let _ = socket.send_to(&[0; 500], (ip(C3), 9));
                }
            }
        });
        let result = act();
        done.store(true, Relaxed);
        result
    })
}

#[test]
fn ports_come_and_go_under_traffic_and_the_end_is_clean() {
    if !root_or_skip("daemon: ports of two workers under traffic") {
        return;
    }
    let mut scene = Trio::start(NORMAL);
    let [c1, c2] = [&scene.c1.ns, &scene.c2.ns];
    assert!(pings(c1, C2) && pings(c1, C3));
    let sockets: Vec<UdpSocket> =
        (0..8).map(|_| c1.run(|| UdpSocket::bind("0.0.0.0:0")).unwrap()).collect();
    under_traffic(&sockets, || {
        let call = |request| scene.daemon.call(request).unwrap();
        for _ in 0..5 {
            for (name, port) in [
                ("p2", "name = \"p2\"\ntype = \"afxdp\"\ndevice = \"veth2\""),
                ("p1", "name = \"p1\"\ntype = \"afxdp\"\ndevice = \"veth1\""),
            ] {
                call(Request::PortDel { bridge: "br0".into(), port: name.into() });
                call(Request::PortAdd { bridge: "br0".into(), port: port.into() });
            }
        }
    });
    heals(c2, C1);
    heals(c2, C3);
    frames_are_whole(&scene.daemon);
    let code = under_traffic(&sockets, || scene.daemon.terminate());
    assert_eq!(code.unwrap(), Some(0), "{}", scene.daemon.log());
    assert!(!scene.daemon.log().contains("ERROR"), "{}", scene.daemon.log());
    scene.daemon.restart(&scene.node.ns).unwrap();
    heals(&scene.c1.ns, C2);
    heals(&scene.c1.ns, C3);
    frames_are_whole(&scene.daemon);
}

const OUT: &str = "198.51.100.1";
const INET: &str = "198.51.100.2";
const MAC_OUT: &str = "02:00:00:00:00:09";
const MAC_GW: &str = "02:00:00:00:ff:01";

/// A container behind the switch's address: SNAT outwards, and one port led in (DNAT).
struct Nat {
    daemon: Daemon,
    c1: Host,
    inet: Host,
    _node: Host,
}

impl Nat {
    fn start() -> Self {
        let [node, c1, inet] = ["node", "c1", "inet"].map(host);
        wire_two(&node, "veth1", &c1);
        wire_two(&node, "veth2", &inet);
        c1.address("eth0", &format!("{C1}/24")).unwrap();
        c1.ns.ip(&format!("neigh add 192.0.2.254 lladdr {MAC_GW} dev eth0")).unwrap();
        c1.default_route(ip("192.0.2.254")).unwrap();
        inet.address("eth0", &format!("{INET}/24")).unwrap();
        inet.ns.ip(&format!("neigh add {OUT} lladdr {MAC_OUT} dev eth0")).unwrap();
        let config = "workers = 2\n\
             [[bridge]]\nname = \"br0\"\nflow_file = \"flows\"\n\
             [[bridge.port]]\nname = \"c1\"\ntype = \"afxdp\"\ndevice = \"veth1\"\n\
             [[bridge.port]]\nname = \"up\"\ntype = \"afxdp\"\ndevice = \"veth2\"\n";
        let daemon = Daemon::start(&node.ns, config, &Self::flows()).unwrap();
        Self { daemon, c1, inet, _node: node }
    }

    fn flows() -> String {
        let away = format!("mod_dl_src:{MAC_OUT},mod_dl_dst:02:00:00:00:00:02,output:up");
        let home = format!("mod_dl_src:{MAC_GW},mod_dl_dst:02:00:00:00:00:01,output:c1");
        format!(
            "table=0,ip,in_port=c1 actions=ct(table=1,zone=1,nat)\n\
             table=0,ip,in_port=up actions=ct(table=2,zone=1,nat)\n\
             table=1,ct_state=+new+trk,ip \
             actions=ct(commit,zone=1,nat(src={OUT}:40000-49999),table=3)\n\
             table=1,ct_state=-new+trk-inv,ip actions=goto_table:3\n\
             table=2,ct_state=+new+trk,tcp,nw_dst={OUT},tp_dst=8080 \
             actions=ct(commit,zone=1,nat(dst={C1}:5001),table=4)\n\
             table=2,ct_state=-new+trk-inv,ip actions=goto_table:4\n\
             table=3,ip actions={away}\n\
             table=4,ip,nw_dst={C1} actions={home}\n"
        )
    }

    fn conns(&self) -> Vec<ConnInfo> {
        let (mut all, mut from) = (Vec::new(), Some(0));
        while let Some(at) = from {
            let query = ConnQuery { from: at, ..ConnQuery::default() };
            let Ok(Reply::Conns(page)) = self.daemon.call(Request::ConntrackList(query)) else {
                panic!("no page at {at}")
            };
            all.extend(page.list);
            from = page.next;
        }
        all
    }

    fn flush(&self, filter: &str) -> u64 {
        match self.daemon.call(Request::ConntrackFlush { filter: filter.into() }) {
            Ok(Reply::Removed(n)) => n,
            other => panic!("{other:?}"),
        }
    }

    fn limits(&self) -> CtLimits {
        match self.daemon.call(Request::ConntrackLimits) {
            Ok(Reply::CtLimits(limits)) => limits,
            other => panic!("{other:?}"),
        }
    }
}

fn workers_of(conns: &[ConnInfo]) -> BTreeSet<usize> {
    conns.iter().map(|c| c.worker).collect()
}

/// Connections from the container out.
fn many_out(scene: &Nat, count: usize) {
    let at = SocketAddr::new(ip(INET), 5001);
    for seen in many(&scene.c1.ns, &scene.inet.ns, (at, at), count) {
        assert_eq!(seen.ip(), ip(OUT));
        assert!((40_000..50_000).contains(&seen.port()), "{seen}");
    }
}

/// The port that is led in: clients of outside reach the container's server.
fn many_in(scene: &Nat, count: usize) {
    let (at, to) = (SocketAddr::new(ip(OUT), 8080), SocketAddr::new(ip(C1), 5001));
    let seen = many(&scene.inet.ns, &scene.c1.ns, (at, to), count);
    assert!(seen.iter().all(|s| s.ip() == ip(INET)), "{seen:?}");
}

#[test]
fn connections_through_nat_have_one_home_each() {
    if !root_or_skip("daemon: NAT of two workers") {
        return;
    }
    let scene = Nat::start();
    many_out(&scene, 40);
    exchange(&scene.c1.ns, &scene.inet.ns, INET, 40);
    many_in(&scene, 40);
    assert!(pings(&scene.c1.ns, INET));
    let conns = scene.conns();
    assert_eq!(workers_of(&conns).len(), 2, "{conns:?}");
    let info = show(&scene.daemon);
    assert_eq!(info.conns, info.workers.iter().map(|w| w.conns).sum::<u64>());
    assert_eq!(info.conns, conns.len() as u64);
    let of = |proto: &str| conns.iter().filter(|c| c.proto == proto).count();
    assert_eq!((of("tcp"), of("udp")), (80, 40), "{conns:?}");
    let tuple = |c: &ConnInfo| {
        let (c, p) = (c.reply.clone(), c.proto.clone());
        (p, c.src, c.dst, c.sport, c.dport, c.icmp_id)
    };
    let replies: BTreeSet<_> = conns.iter().map(tuple).collect();
    assert_eq!(replies.len(), conns.len(), "a tuple was given twice");
    assert!(info.workers.iter().all(|w| w.handed_over > 0), "{:?}", info.workers);
    assert_eq!(scene.daemon.counter("ct_invalid"), 0);
    counters_add_up(&scene.daemon);
}

#[test]
fn limits_and_flushes_are_of_all_workers() {
    if !root_or_skip("daemon: limits of two workers") {
        return;
    }
    let scene = Nat::start();
    exchange(&scene.c1.ns, &scene.inet.ns, INET, 40);
    let conns = scene.conns();
    assert_eq!((conns.len(), workers_of(&conns).len()), (40, 2));
    assert_eq!(scene.limits().zones[0].count, 40);
    let port = conns[0].orig.sport.unwrap();
    assert_eq!((scene.flush(&format!("sport={port}")), scene.conns().len()), (1, 39));
    assert_eq!((scene.flush("zone=1"), scene.conns().len()), (39, 0));
    assert!(scene.limits().zones.is_empty(), "{:?}", scene.limits());

    let limit = ZoneLimit { zone: 1, limit: Some(25) };
    let change = CtChange { limits: vec![limit], ..CtChange::default() };
    scene.daemon.call(Request::ConntrackSet(change)).unwrap();
    let server = (ip(INET), 9);
    let sockets: Vec<UdpSocket> =
        (0..60).map(|_| scene.c1.ns.run(|| UdpSocket::bind("0.0.0.0:0")).unwrap()).collect();
    sockets.iter().for_each(|s| assert!(s.send_to(b"one", server).is_ok()));
    let refused = || (scene.daemon.counter("ct_zone_full") == 35).then_some(());
    wait_until("35 refused", SOON, refused).unwrap();
    let conns = scene.conns();
    assert_eq!((conns.len(), workers_of(&conns).len()), (25, 2), "{conns:?}");
    assert_eq!((scene.limits().zones[0].count, scene.limits().zones[0].limit), (25, 25));
    // Half of it is free again, whoever had it.
    let gone = scene.flush(&format!("sport={}", conns[0].orig.sport.unwrap()));
    sockets.iter().for_each(|s| assert!(s.send_to(b"two", server).is_ok()));
    let full = || (scene.conns().len() == 25).then_some(());
    wait_until("a full zone", SOON, full).unwrap();
    assert_eq!(gone, 1);
    frames_are_whole(&scene.daemon);
}

#[test]
fn workers_without_a_queue_send_through_others() {
    if !root_or_skip("daemon: more workers than queues") {
        return;
    }
    let scene = Pair::start_with("workers = 5\n", NORMAL);
    assert!(scene.pings());
    tcp(&scene.c1.ns, &scene.c2.ns, C2, 4 << 20);
    tcp(&scene.c2.ns, &scene.c1.ns, C1, 4 << 20);
    udp(&scene.c1.ns, &scene.c2.ns, C2, UdpOptions::default());
    let info = show(&scene.daemon);
    let busy = info.workers.iter().filter(|w| w.rx_packets > 0).count();
    assert_eq!((info.workers.len(), busy), (5, 2), "{:?}", info.workers);
    counters_add_up(&scene.daemon);
}
