//! The namespaces, the wires between them and the two daemons.

use std::net::{IpAddr, Ipv4Addr};
use std::path::{Path, PathBuf};

use crate::host::Host;
use crate::scratch::Scratch;
use crate::veth::{End, VethOptions, join};
use crate::{Error, Result};

use super::daemon::Daemon;

pub const NODE1: IpAddr = IpAddr::V4(Ipv4Addr::new(10, 0, 0, 1));
pub const NODE2: IpAddr = IpAddr::V4(Ipv4Addr::new(10, 0, 0, 2));
pub const NS1: IpAddr = IpAddr::V4(Ipv4Addr::new(192, 168, 255, 11));
pub const NS2: IpAddr = IpAddr::V4(Ipv4Addr::new(192, 168, 255, 12));
pub const NS3: IpAddr = IpAddr::V4(Ipv4Addr::new(192, 168, 255, 13));
const GATEWAY: IpAddr = IpAddr::V4(Ipv4Addr::new(192, 168, 255, 1));
/// Node 1's own address on the uplink, also that of its source NAT.
pub const UPLINK: IpAddr = IpAddr::V4(Ipv4Addr::new(198, 51, 100, 1));
pub const INET: IpAddr = IpAddr::V4(Ipv4Addr::new(198, 51, 100, 2));
/// Ports and ICMP identifiers of `UPLINK` that are the switch's.
pub const NAT_PORTS: std::ops::RangeInclusive<u16> = 40_000..=49_999;
pub const NS1_MAC: &str = "02:00:00:00:01:01";
pub const NS2_MAC: &str = "02:00:00:00:01:02";
pub const NS3_MAC: &str = "02:00:00:00:02:03";
/// The device of the cable's bridge that leads to node 1.
pub const WIRE_TO_NODE1: &str = "to-node1";
/// Leaves room for the tunnel's headers in the underlay's 1500.
const CONTAINER_MTU: u32 = 1450;

/// Everything, in the order in which it is taken down: daemons first.
#[derive(Debug)]
pub struct Scene {
    pub sluiced1: Daemon,
    pub sluiced2: Daemon,
    pub node1: Host,
    pub node2: Host,
    pub wire: Host,
    pub inet: Host,
    pub ns1: Host,
    pub ns2: Host,
    pub ns3: Host,
    pub programs: PathBuf,
    pub dir: Scratch,
}

impl Scene {
    pub fn build(keep: bool) -> Result<Self> {
        let host = |label| if keep { Host::keepable(label) } else { Host::new(label) };
        let (node1, node2) = (host("node1")?, host("node2")?);
        let (wire, inet) = (host("wire")?, host("inet")?);
        let (ns1, ns2, ns3) = (host("ns1")?, host("ns2")?, host("ns3")?);
        let dir = Scratch::new("demo")?;
        let own = std::env::current_exe().map_err(Error::io("find this program"))?;
        let programs = own.parent().map(Path::to_owned).unwrap_or_default();

        lay_wire(&wire, &node1, &node2)?;
        join(end(&node1, "uplink0"), end(&inet, "eth0"), VethOptions::default())?;
        node1.mac("uplink0", "02:00:00:00:99:01")?.address("uplink0", "198.51.100.1/24")?;
        inet.mac("eth0", "02:00:00:00:99:02")?.address("eth0", "198.51.100.2/24")?;
        // What the node's own connections must not use, for it is the NAT's.
        let reserved = format!("{}-{}", NAT_PORTS.start(), NAT_PORTS.end());
        node1.ns.sysctl("net.ipv4.ip_local_reserved_ports", &reserved)?;

        let mtu = VethOptions { mtu_bytes: CONTAINER_MTU, ..VethOptions::default() };
        for (node, dev, ns, mac, address) in [
            (&node1, "veth-ns2", &ns2, NS2_MAC, "192.168.255.12/24"),
            (&node2, "veth-ns3", &ns3, NS3_MAC, "192.168.255.13/24"),
        ] {
            join(end(node, dev), end(ns, "eth0"), mtu)?;
            ns.mac("eth0", mac)?.address("eth0", address)?.default_route(GATEWAY)?;
        }

        // ns1 gets its device from sluiced.
        let ns1_path = format!("netns = \"{}\"", ns1.ns.name());
        let names = [("netns = \"ns1\"", ns1_path.as_str())];
        let sluiced1 = Daemon::prepare("node1", dir.path(), &programs, &names)?;
        let sluiced2 = Daemon::prepare("node2", dir.path(), &programs, &[])?;
        let hosts = (node1, node2, wire, inet, ns1, ns2, ns3);
        let (node1, node2, wire, inet, ns1, ns2, ns3) = hosts;
        Ok(Self { sluiced1, sluiced2, node1, node2, wire, inet, ns1, ns2, ns3, programs, dir })
    }

    /// Starts both daemons; how their NICs are driven.
    pub fn start(&mut self) -> Result<String> {
        let first = self.sluiced1.start(&self.node1.ns)?;
        let second = self.sluiced2.start(&self.node2.ns)?;
        let ports = [first, second].into_iter().flat_map(|info| info.bridges);
        let ports = ports.flat_map(|bridge| bridge.ports);
        let mut ways: Vec<String> = ports
            .filter(|port| port.device.is_some())
            .map(|port| format!("{} {}", port.kind, port.status))
            .collect();
        ways.sort();
        ways.dedup();
        Ok(ways.join("; "))
    }

    fn hosts_mut(&mut self) -> [&mut Host; 7] {
        let Self { node1, node2, wire, inet, ns1, ns2, ns3, .. } = self;
        [node1, node2, wire, inet, ns1, ns2, ns3]
    }

    pub fn names(&self) -> Vec<String> {
        let Self { node1, node2, wire, inet, ns1, ns2, ns3, .. } = self;
        [node1, node2, wire, inet, ns1, ns2, ns3].map(|host| host.ns.name().to_owned()).into()
    }

    /// What the daemons said last.
    pub fn logs(&self) -> String {
        format!("{}\n{}", self.sluiced1.log_tail(), self.sluiced2.log_tail())
    }

    /// Leaves everything standing.
    pub fn keep(mut self, tell: bool) {
        if tell {
            println!("\nleft standing; enter a namespace by nsenter, which leaves bpffs visible:");
            for name in self.names() {
                println!("  nsenter --net={} bash", crate::netns::path_of(&name).display());
            }
            println!("  {} show", self.sluiced1.shown_command());
            println!("  {} show", self.sluiced2.shown_command());
            println!("remove all by: cargo xtask demo --cleanup");
        }
        self.sluiced1.keep();
        self.sluiced2.keep();
        self.hosts_mut().into_iter().for_each(|host| host.ns.keep());
        self.dir.keep();
    }
}

fn end<'a>(host: &'a Host, dev: &'a str) -> End<'a> {
    End { ns: &host.ns, dev }
}

/// The underlay's cable: a kernel bridge that does nothing but pass frames.
fn lay_wire(wire: &Host, node1: &Host, node2: &Host) -> Result<()> {
    wire.ns.quiet()?;
    wire.ns.ip("link add wire type bridge mcast_snooping 0")?;
    for (node, dev, address) in
        [(node1, WIRE_TO_NODE1, "10.0.0.1/24"), (node2, "to-node2", "10.0.0.2/24")]
    {
        join(end(node, "underlay0"), end(wire, dev), VethOptions::default())?;
        wire.ns.ip(&format!("link set {dev} master wire"))?;
        node.address("underlay0", address)?;
    }
    wire.ns.ip("link set wire up")?;
    Ok(())
}

/// XDP programs of ours in the kernel.
pub fn programs_loaded() -> usize {
    let programs = aya::programs::loaded_programs().flatten();
    programs
        .filter(|program| program.name_as_str().is_some_and(|name| name.starts_with("steer")))
        .count()
}
