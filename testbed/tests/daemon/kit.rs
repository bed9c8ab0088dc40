//! Scenes that several tests play in.

use std::net::{IpAddr, SocketAddr};
use std::sync::atomic::{AtomicU16, Ordering::Relaxed};
use std::time::Duration;

use sluice_testbed::books;
use sluice_testbed::host::Host;
use sluice_testbed::netns::Namespace;
use sluice_testbed::process::wait_until;
use sluice_testbed::sluiced::Daemon;
use sluice_testbed::traffic::{
    PingOptions, PingReport, UdpOptions, UdpReport, ping, tcp_transfer, udp_echo,
};
use sluice_testbed::veth::{End, VethOptions, join};

pub const LIMIT: Duration = Duration::from_secs(15);
pub const SOON: Duration = Duration::from_secs(5);

pub fn ip(text: &str) -> IpAddr {
    text.parse().unwrap()
}

/// One node with two containers: `c1` on a TAP that sluiced makes, `c2` on a veth.
pub struct Pair {
    pub daemon: Daemon,
    pub c1: Host,
    pub c2: Host,
    pub node: Host,
}

const MAC1: &str = "02:00:00:00:00:01";
pub const C1: &str = "192.0.2.1";
pub const C2: &str = "192.0.2.2";
pub const C1_SIX: &str = "2001:db8::1";
pub const C2_SIX: &str = "2001:db8::2";

impl Pair {
    pub fn start(flows: &str) -> Self {
        Self::start_with("", flows)
    }

    /// `daemon`: lines of `[daemon]`.
    pub fn start_with(daemon: &str, flows: &str) -> Self {
        let (node, c1, c2) = (host("node"), host("c1"), host("c2"));
        wire(&node, "veth2", &c2);
        c2.address("eth0", &format!("{C2}/24")).unwrap();
        c2.address("eth0", &format!("{C2_SIX}/64")).unwrap();
        let config = daemon.to_owned() + &Self::config(&c1);
        let daemon = Daemon::start(&node.ns, &config, flows).unwrap();
        Self { daemon, c1, c2, node }
    }

    pub fn config(c1: &Host) -> String {
        let netns = c1.ns.path();
        format!(
            "[[bridge]]\nname = \"br0\"\nflow_file = \"flows\"\n\
             [[bridge.port]]\nname = \"p1\"\ntype = \"internal\"\ndevice = \"eth0\"\n\
             mac = \"{MAC1}\"\nnetns = \"{}\"\naddress = [\"{C1}/24\", \"{C1_SIX}/64\"]\n\
             [[bridge.port]]\nname = \"p2\"\ntype = \"afxdp\"\ndevice = \"veth2\"\n",
            netns.display()
        )
    }

    /// Whether the containers reach each other.
    pub fn pings(&self) -> bool {
        pings(&self.c1.ns, C2)
    }
}

pub fn host(label: &str) -> Host {
    Host::new(label).unwrap()
}

/// A veth pair: `dev` at the node, `eth0` in the container, whose Ethernet address ends like `dev`.
pub fn wire(node: &Host, dev: &str, container: &Host) {
    let ends = (End { ns: &node.ns, dev }, End { ns: &container.ns, dev: "eth0" });
    join(ends.0, ends.1, VethOptions::default()).unwrap();
    // One that is made again must be found under the address that others remember.
    let last = dev.chars().last().and_then(|c| c.to_digit(10)).unwrap_or(0);
    container.mac("eth0", &format!("02:00:00:00:00:{last:02}")).unwrap();
}

/// Whether every echo is answered, with a second try: the first may meet an address that is
/// being resolved.
pub fn pings(from: &Namespace, to: &str) -> bool {
    ping_report(from, to).all_answered() || ping_report(from, to).all_answered()
}

pub fn ping_report(from: &Namespace, to: &str) -> PingReport {
    ping(from, ip(to), PingOptions::default()).unwrap()
}

/// Whether not a single echo is answered.
pub fn is_cut(from: &Namespace, to: &str) -> bool {
    let options = PingOptions { count: 3, ..PingOptions::default() };
    ping(from, ip(to), options).unwrap().received == 0
}

/// Waits until no ping goes through any more.
pub fn is_cut_soon(from: &Namespace, to: &str) {
    let cut = || is_cut(from, to).then_some(());
    wait_until(&format!("no ping {} -> {to}", from.name()), SOON, cut).unwrap();
}

/// Waits until a ping goes through.
pub fn heals(from: &Namespace, to: &str) {
    let once = || ping_report(from, to).all_answered().then_some(());
    wait_until(&format!("ping {} -> {to}", from.name()), LIMIT, once).unwrap();
}

/// A megabyte or so of known bytes; panics unless each arrives as it was sent. The server's port is
/// another each time, so that several may go on at once.
pub fn tcp(from: &Namespace, to: &Namespace, at: &str, bytes: u64) -> SocketAddr {
    static NEXT: AtomicU16 = AtomicU16::new(0);
    let port = 20_000 + NEXT.fetch_add(1, Relaxed) % 10_000;
    tcp_transfer(from, to, SocketAddr::new(ip(at), port), bytes, LIMIT).unwrap().client_seen
}

/// Datagrams there and back.
pub fn udp(from: &Namespace, to: &Namespace, at: &str, options: UdpOptions) -> UdpReport {
    udp_echo(from, to, SocketAddr::new(ip(at), 5002), options).unwrap()
}

#[track_caller]
pub fn udp_all_return(from: &Namespace, to: &Namespace, at: &str) -> UdpReport {
    let report = udp(from, to, at, UdpOptions::default());
    let ends = [from, to].map(|ns| (ns.name().to_owned(), snmp(ns)));
    assert_eq!(
        (report.returned, report.duplicated, report.damaged),
        (report.sent, 0, 0),
        "{report:?} {ends:?}"
    );
    report
}

/// What the kernel has counted of UDP in a namespace.
fn snmp(ns: &Namespace) -> String {
    let text = ns.run(|| std::fs::read_to_string("/proc/net/snmp")).unwrap_or_default();
    text.lines().filter(|l| l.starts_with("Udp:")).collect::<Vec<_>>().join(" ")
}

/// No frame is lost.
pub fn frames_are_whole(daemon: &Daemon) {
    add_up(|| books::frames(&daemon.show().unwrap()));
}

/// Every packet that came in went out or was dropped for a reason, and no frame is lost.
pub fn counters_add_up(daemon: &Daemon) {
    frames_are_whole(daemon);
    add_up(|| books::packets(daemon));
}

fn add_up(look: impl Fn() -> Result<(), String>) {
    let mut told = String::new();
    let even = || look().map_err(|odd| told = odd).ok();
    let result = wait_until("even books", SOON, even);
    assert!(result.is_ok(), "{told}");
}
