//! Path MTU discovery through NAT: a router behind the switch has a narrower link, and what it says
//! of it to the translated sender comes to the real one, about the packet that this one sent.
//!
//! RFC 1191 and RFC 8201; the message's inner packet is translated back (RFC 5508, section 4.2).

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};

use sluice_testbed::host::Host;
use sluice_testbed::netns::Namespace;
use sluice_testbed::root_or_skip;
use sluice_testbed::sluiced::Daemon;
use sluice_testbed::veth::{End, VethOptions, join};

use crate::kit::*;

const MTU: u32 = 1300;
const BYTES: usize = 300_000;
const PORT: u16 = 5001;
const MAC_CLIENT: &str = "02:00:00:00:01:01";
const MAC_GATEWAY: &str = "02:00:00:00:ff:01";
const MAC_UP: &str = "02:00:00:00:99:01";
const MAC_ROUTER: &str = "02:00:00:00:99:02";

/// Addresses of one IP version.
struct Plan {
    /// For `ip -6`.
    v6: bool,
    bits: u8,
    client: &'static str,
    gateway: &'static str,
    /// What source NAT makes of the client.
    outside: &'static str,
    router: &'static str,
    /// The router's side of the narrow link.
    far: &'static str,
    server: &'static str,
    /// Where clients of destination NAT connect to.
    service: &'static str,
    inside_net: &'static str,
}

const FOUR: Plan = Plan {
    v6: false,
    bits: 24,
    client: "192.0.2.1",
    gateway: "192.0.2.254",
    outside: "198.51.100.1",
    router: "198.51.100.2",
    far: "203.0.113.1",
    server: "203.0.113.2",
    service: "198.18.0.1",
    inside_net: "192.0.2.0/24",
};

const SIX: Plan = Plan {
    v6: true,
    bits: 64,
    client: "2001:db8:1::1",
    gateway: "2001:db8:1::fe",
    outside: "2001:db8:2::1",
    router: "2001:db8:2::2",
    far: "2001:db8:3::1",
    server: "2001:db8:3::2",
    service: "2001:db8:9::1",
    inside_net: "2001:db8:1::/64",
};

fn flows(p: &Plan) -> String {
    let (ip, dst, icmp) =
        if p.v6 { ("ipv6", "ipv6_dst", "icmp6") } else { ("ip", "nw_dst", "icmp") };
    let of = |a: &str| if p.v6 { format!("[{a}]") } else { a.to_owned() };
    let away = format!("dec_ttl,mod_dl_src:{MAC_UP},mod_dl_dst:{MAC_ROUTER},output:up");
    let home = format!("dec_ttl,mod_dl_src:{MAC_GATEWAY},mod_dl_dst:{MAC_CLIENT},output:c1");
    let (outside, server) = (of(p.outside), of(p.server));
    format!(
        "priority=5,{ip},in_port=c1,{dst}={} \
         actions=ct(commit,table=2,zone=1,nat(src={outside}:40000-49999))\n\
         priority=5,{ip},in_port=up,{dst}={} actions=ct(table=3,zone=1,nat)\n\
         priority=5,{ip},in_port=c1,{dst}={} \
         actions=ct(commit,table=2,zone=2,nat(dst={server}:{PORT}))\n\
         priority=5,{ip},in_port=up,{dst}={} actions=ct(table=3,zone=2,nat)\n\
         table=2,{ip},ct_state=-inv actions={away}\n\
         table=3,priority=9,{icmp},ct_state=+rel+rpl-inv actions={home}\n\
         table=3,priority=8,{ip},ct_state=+est+rpl-inv actions={home}\n",
        p.server, p.outside, p.service, p.client
    )
}

struct Path {
    daemon: Daemon,
    client: Host,
    server: Host,
    _others: [Host; 2],
}

fn wire_up(a: (&Host, &str), b: (&Host, &str)) {
    let ends = (End { ns: &a.0.ns, dev: a.1 }, End { ns: &b.0.ns, dev: b.1 });
    join(ends.0, ends.1, VethOptions::default()).unwrap();
}

impl Path {
    fn start(p: &Plan) -> Self {
        let [node, client, router, server] = ["node", "c1", "router", "server"].map(host);
        wire_up((&node, "veth1"), (&client, "eth0"));
        wire_up((&node, "veth2"), (&router, "eth0"));
        wire_up((&router, "eth1"), (&server, "eth0"));
        client.mac("eth0", MAC_CLIENT).unwrap();
        router.mac("eth0", MAC_ROUTER).unwrap();
        let flag = if p.v6 { "-6 " } else { "" };
        let nodad = if p.v6 { " nodad" } else { "" };
        let address = |host: &Host, dev: &str, a: &str| {
            host.ns.ip(&format!("{flag}addr add {a}/{} dev {dev}{nodad}", p.bits)).unwrap();
        };
        address(&client, "eth0", p.client);
        address(&router, "eth0", p.router);
        address(&router, "eth1", p.far);
        address(&server, "eth0", p.server);
        // Only its own end: the server offers whole segments, so the client has to learn.
        router.ns.ip(&format!("link set eth1 mtu {MTU}")).unwrap();
        let forwarding = if p.v6 { "net.ipv6.conf.all.forwarding" } else { "net.ipv4.ip_forward" };
        router.ns.sysctl(forwarding, "1").unwrap();
        let neighbour = |host: &Host, a: &str, mac: &str| {
            host.ns.ip(&format!("{flag}neigh replace {a} lladdr {mac} dev eth0")).unwrap();
        };
        neighbour(&client, p.gateway, MAC_GATEWAY);
        neighbour(&router, p.outside, MAC_UP);
        neighbour(&router, p.client, MAC_UP);
        client.ns.ip(&format!("{flag}route add default via {} dev eth0", p.gateway)).unwrap();
        router.ns.ip(&format!("{flag}route add {} dev eth0", p.inside_net)).unwrap();
        server.ns.ip(&format!("{flag}route add default via {} dev eth0", p.far)).unwrap();
        let config = "[[bridge]]\nname = \"br0\"\nflow_file = \"flows\"\n\
             [[bridge.port]]\nname = \"c1\"\ntype = \"afxdp\"\ndevice = \"veth1\"\n\
             [[bridge.port]]\nname = \"up\"\ntype = \"afxdp\"\ndevice = \"veth2\"\n";
        let daemon = Daemon::start(&node.ns, config, &flows(p)).unwrap();
        Self { daemon, client, server, _others: [node, router] }
    }

    /// Packets that flows took for related ones.
    fn related(&self) -> u64 {
        let flows = self.daemon.flows("table=3").unwrap();
        flows.iter().filter(|f| f.matches.contains("+rel")).map(|f| f.n_packets).sum()
    }
}

/// Sends a lot one way and gets its sum back.
fn upload(from: &Namespace, to: &Namespace, at: SocketAddr, bound: SocketAddr) {
    let listener = to.run(|| TcpListener::bind(bound)).unwrap();
    std::thread::scope(|scope| {
        let server = scope.spawn(move || {
            let (mut end, _) = listener.accept().unwrap();
            end.set_read_timeout(Some(LIMIT)).unwrap();
            let mut heard = vec![0; BYTES];
            end.read_exact(&mut heard).unwrap();
            assert!(heard.iter().enumerate().all(|(n, b)| *b == (n % 251) as u8), "other bytes");
            end.write_all(b"all").unwrap();
        });
        let mut client = from.run(|| TcpStream::connect_timeout(&at, LIMIT)).unwrap();
        client.set_write_timeout(Some(LIMIT)).unwrap();
        client.set_read_timeout(Some(LIMIT)).unwrap();
        let said: Vec<u8> = (0..BYTES).map(|n| (n % 251) as u8).collect();
        client.write_all(&said).unwrap();
        let mut answer = [0; 3];
        client.read_exact(&mut answer).unwrap();
        assert_eq!(&answer, b"all");
        server.join().unwrap();
    });
}

/// What the sender's kernel has learned of the way to an address.
fn learned(client: &Namespace, p: &Plan, to: &str) -> String {
    client.ip(&format!("{}route get {to}", if p.v6 { "-6 " } else { "" })).unwrap()
}

fn discovers(p: &Plan, to: &str) {
    let path = Path::start(p);
    let client = &path.client.ns;
    let known = format!("mtu {MTU}");
    assert!(!learned(client, p, to).contains(&known), "known before");
    upload(
        client,
        &path.server.ns,
        SocketAddr::new(ip(to), PORT),
        SocketAddr::new(ip(p.server), PORT),
    );
    let route = learned(client, p, to);
    assert!(route.contains(&known), "not learned: {route}{:?}", path.daemon.counters());
    assert!(path.related() > 0, "no related packet: {:?}", path.daemon.flows(""));
    counters_add_up(&path.daemon);
}

#[test]
fn a_narrow_link_is_found_through_source_nat() {
    if root_or_skip("daemon: PMTU through SNAT") {
        [&FOUR, &SIX].into_iter().for_each(|p| discovers(p, p.server));
    }
}

#[test]
fn a_narrow_link_is_found_through_destination_nat() {
    if root_or_skip("daemon: PMTU through DNAT") {
        [&FOUR, &SIX].into_iter().for_each(|p| discovers(p, p.service));
    }
}
