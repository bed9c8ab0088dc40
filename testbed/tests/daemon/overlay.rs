//! Two nodes joined by a wire that both share with their switch: Geneve for the switch, all else
//! for the node.

use sluice_control::api::types::{Reply, Request};
use sluice_testbed::capture::{Capture, Captured};
use sluice_testbed::host::Host;
use sluice_testbed::root_or_skip;
use sluice_testbed::sluiced::Daemon;
use sluice_testbed::veth::{End, VethOptions, join, mac_of};

use crate::kit::*;

struct Node {
    host: Host,
    container: Host,
    daemon: Daemon,
}

struct Overlay {
    one: Node,
    two: Node,
    wire: Host,
}

/// Underlay addresses of both nodes, with their prefix length.
#[derive(Clone, Copy)]
pub struct Underlay(&'static str, &'static str, u8);

const FOUR: Underlay = Underlay("10.0.0.1", "10.0.0.2", 24);
const SIX: Underlay = Underlay("fd00::1", "fd00::2", 64);
const VNI: u32 = 7;
const NORMAL: &str = "actions=NORMAL\n";

fn config(container: &str, remote: &str) -> String {
    format!(
        "[[bridge]]\nname = \"br0\"\nflow_file = \"flows\"\n\
         [[bridge.port]]\nname = \"c\"\n{container}\n\
         [[bridge.port]]\nname = \"tun1\"\ntype = \"geneve\"\n\
         remote_ip = \"{remote}\"\nkey = {VNI}\n\
         [[bridge.port]]\nname = \"under\"\ntype = \"afxdp\"\n\
         mode = \"shared\"\ndevice = \"under0\"\n"
    )
}

/// Node 1 has its container on a TAP, node 2 on a veth.
fn nodes(underlay: Underlay) -> Overlay {
    let Underlay(first, second, bits) = underlay;
    let (n1, n2, c1, c2) = (host("n1"), host("n2"), host("c1"), host("c2"));
    // A bridge between the nodes: at the nodes' own devices XDP takes packets before, and AF_XDP
    // sends them past, the place where a capture looks.
    let wire = host("wire");
    wire.ns.quiet().unwrap();
    wire.ns.ip("link add name wire0 type bridge").unwrap();
    wire.ns.ip("link set wire0 up").unwrap();
    for (node, dev) in [(&n1, "w1"), (&n2, "w2")] {
        let ends = (End { ns: &node.ns, dev: "under0" }, End { ns: &wire.ns, dev });
        join(ends.0, ends.1, VethOptions::default()).unwrap();
        wire.ns.ip(&format!("link set {dev} master wire0")).unwrap();
    }
    n1.address("under0", &format!("{first}/{bits}")).unwrap();
    n2.address("under0", &format!("{second}/{bits}")).unwrap();
    let ends = (End { ns: &n2.ns, dev: "veth2" }, End { ns: &c2.ns, dev: "eth0" });
    join(ends.0, ends.1, VethOptions { mtu_bytes: 1400, ..VethOptions::default() }).unwrap();
    c2.address("eth0", &format!("{C2}/24")).unwrap();
    let tap = format!(
        "type = \"internal\"\ndevice = \"eth0\"\nmtu = 1400\naddress = [\"{C1}/24\"]\n\
         netns = \"{}\"",
        c1.ns.path().display()
    );
    let veth = "type = \"afxdp\"\ndevice = \"veth2\"";
    let d1 = Daemon::start(&n1.ns, &config(&tap, second), NORMAL).unwrap();
    let d2 = Daemon::start(&n2.ns, &config(veth, first), NORMAL).unwrap();
    let node = |host, container, daemon| Node { host, container, daemon };
    Overlay { one: node(n1, c1, d1), two: node(n2, c2, d2), wire }
}

/// The UDP part of a Geneve packet over this underlay.
fn geneve(packet: &[u8]) -> Option<&[u8]> {
    let udp = match packet.get(12..14)? {
        [8, 0] if packet.get(23) == Some(&17) => packet.get(34..)?,
        [0x86, 0xdd] if packet.get(20) == Some(&17) => packet.get(54..)?,
        _ => return None,
    };
    (udp.get(2..4)? == 6081_u16.to_be_bytes()).then_some(udp)
}

fn overlay_works(underlay: Underlay) {
    let Overlay { one, two, wire } = nodes(underlay);
    let Underlay(first, second, _) = underlay;
    // Nobody has spoken on the underlay yet: the next hop is resolved by the first packets.
    heals(&one.container.ns, C2);
    assert!(pings(&two.container.ns, C1), "{}", two.daemon.log());
    // The nodes keep their own stacks.
    assert!(pings(&one.host.ns, second) && pings(&two.host.ns, first));
    let capture = Capture::start(&wire.ns, "w1", |p| geneve(p).is_some()).unwrap();
    assert!(pings(&one.container.ns, C2));
    let seen = capture.stop().unwrap();
    assert!(!seen.is_empty(), "no UDP to port 6081 on the underlay");
    seen.iter().for_each(|packet| check(packet, &one, &two));
    // All at once: the overlay's TCP, the nodes' TCP, UDP both ways.
    std::thread::scope(|scope| {
        scope.spawn(|| tcp(&one.container.ns, &two.container.ns, C2, 4 << 20));
        scope.spawn(|| tcp(&one.host.ns, &two.host.ns, second, 4 << 20));
        scope.spawn(|| tcp(&two.host.ns, &one.host.ns, first, 4 << 20));
    });
    tcp(&two.container.ns, &one.container.ns, C1, 4 << 20);
    udp_all_return(&one.container.ns, &two.container.ns, C2);
    udp_all_return(&two.container.ns, &one.container.ns, C1);
    for node in [&one, &two] {
        let all = node.daemon.counters().unwrap();
        assert!(all["tunnel_push"] > 1000 && all["tunnel_pop"] > 1000, "{all:?}");
        counters_add_up(&node.daemon);
        let Ok(Reply::Tunnels(list)) = node.daemon.call(Request::TunnelShow) else { panic!() };
        assert!(list[0].ready && list[0].device.as_deref() == Some("under0"), "{list:?}");
    }
}

/// VNI, inner frame and its addresses.
fn check(packet: &Captured, one: &Node, two: &Node) {
    let udp = geneve(&packet.bytes).unwrap();
    let geneve = &udp[8..];
    assert_eq!(geneve[..4], [0, 0, 0x65, 0x58], "version 0, no options, Ethernet inside");
    assert_eq!(u32::from_be_bytes([0, geneve[4], geneve[5], geneve[6]]), VNI);
    let inner = &geneve[8..];
    let text = |m: &[u8]| m.iter().map(|b| format!("{b:02x}")).collect::<Vec<_>>().join(":");
    let ours = [&one.container.ns, &two.container.ns].map(|ns| mac_of(ns, "eth0").unwrap());
    assert!(ours.contains(&text(&inner[6..12])), "inner source {}", text(&inner[6..12]));
}

#[test]
fn geneve_over_ipv4() {
    if root_or_skip("daemon: overlay over IPv4") {
        overlay_works(FOUR);
    }
}

#[test]
fn geneve_over_ipv6() {
    if root_or_skip("daemon: overlay over IPv6") {
        overlay_works(SIX);
    }
}

#[test]
fn a_lost_neighbour_and_a_lost_route_heal() {
    if !root_or_skip("daemon: neighbour and route heal") {
        return;
    }
    let Overlay { one, two, wire: _wire } = nodes(FOUR);
    heals(&one.container.ns, C2);
    one.host.ns.ip("neigh flush dev under0").unwrap();
    heals(&one.container.ns, C2);

    // An address that changes its Ethernet address: followed, without a word from us.
    two.host.ns.ip("link set under0 address 02:00:00:00:77:02").unwrap();
    one.host.ns.ip("neigh flush dev under0").unwrap();
    heals(&one.container.ns, C2);

    let before = one.daemon.counter("drop tunnel_no_route");
    one.host.ns.ip("route del 10.0.0.0/24").unwrap();
    is_cut_soon(&one.container.ns, C2);
    assert!(one.daemon.counter("drop tunnel_no_route") > before);
    let Ok(Reply::Tunnels(list)) = one.daemon.call(Request::TunnelShow) else { panic!() };
    assert!(!list[0].ready && !list[0].reason.is_empty(), "{list:?}");
    one.host.ns.ip("route add 10.0.0.0/24 dev under0").unwrap();
    heals(&one.container.ns, C2);
    tcp(&one.container.ns, &two.container.ns, C2, 1 << 20);
}

#[test]
fn a_killed_daemon_gives_the_nic_back_and_a_new_one_takes_over() {
    if !root_or_skip("daemon: kill -9") {
        return;
    }
    let Overlay { one, mut two, wire: _wire } = nodes(FOUR);
    heals(&one.container.ns, C2);
    let xdp = |node: &Node| node.host.ns.ip("link show under0").unwrap().contains("xdp");
    assert!(xdp(&two));
    two.daemon.kill();
    assert!(!xdp(&two), "XDP stays on the device of a dead daemon");
    assert!(ping_report(&two.host.ns, "10.0.0.1").all_answered());
    assert!(ping_report(&one.host.ns, "10.0.0.2").all_answered());
    tcp(&one.host.ns, &two.host.ns, "10.0.0.2", 1 << 20);
    assert!(is_cut(&one.container.ns, C2));
    two.daemon.restart(&two.host.ns).unwrap();
    heals(&one.container.ns, C2);
    tcp(&one.container.ns, &two.container.ns, C2, 4 << 20);
    tcp(&two.container.ns, &one.container.ns, C1, 4 << 20);
}
