//! Containers to the outside world and what may come back.

use std::io;
use std::net::{IpAddr, SocketAddr, TcpStream, UdpSocket};
use std::time::Duration;

use sluice_control::api::types::{ConnInfo, FlowInfo};

use super::full_ping;
use super::report::Report;
use super::scene::{INET, NAT_PORTS, NS1, NS3, Scene, UPLINK};
use crate::capture::Capture;
use crate::host::Host;
use crate::traffic::{PingOptions, UdpOptions, tcp_transfer, udp_echo};
use crate::{Error, Result};

const TEN: PingOptions =
    PingOptions { count: 10, payload_bytes: 56, interval_ms: 20, wait_s: 1, id: None };
const LIMIT: Duration = Duration::from_secs(30);

/// (3) Out, with the node's address.
pub fn outbound(scene: &Scene, report: &mut Report) {
    for (name, host, address) in [("ns1", &scene.ns1, NS1), ("ns3", &scene.ns3, NS3)] {
        report.check("3", &format!("{name} -> inet ping"), || full_ping(&host.ns, INET, TEN));
        report.check("3", &format!("{name} -> inet TCP, as inet sees it"), || tcp(host, scene));
        report.check("3", &format!("{name} -> inet UDP, as inet sees it"), || udp(host, scene));
        report.check("3", &format!("{name}'s connections in sluice conntrack list"), || {
            conntrack(scene, address)
        });
    }
}

fn tcp(from: &Host, scene: &Scene) -> Result<String> {
    let at = SocketAddr::new(INET, 5001);
    let report = tcp_transfer(&from.ns, &scene.inet.ns, at, 16 << 20, LIMIT)?;
    let seen = translated(report.client_seen)?;
    Ok(format!("{:.2} Gbit/s from {seen}", report.gbit_per_s()))
}

fn udp(from: &Host, scene: &Scene) -> Result<String> {
    let at = SocketAddr::new(INET, 5002);
    let report = udp_echo(&from.ns, &scene.inet.ns, at, UdpOptions::default())?;
    match report.client_seen {
        Some(seen) if report.returned == report.sent => {
            Ok(format!("{}/{} from {}", report.returned, report.sent, translated(seen)?))
        }
        _ => Err(Error::Unexpected(format!("{report:?}"))),
    }
}

/// The outside may see nothing but the node's address and a reserved port.
fn translated(seen: SocketAddr) -> Result<SocketAddr> {
    if seen.ip() == UPLINK && NAT_PORTS.contains(&seen.port()) {
        return Ok(seen);
    }
    Err(Error::Unexpected(format!("inet saw {seen}")))
}

fn conntrack(scene: &Scene, address: IpAddr) -> Result<String> {
    let all: Vec<ConnInfo> = scene.sluiced1.ask(&["conntrack", "list"])?;
    let (address, uplink) = (address.to_string(), UPLINK.to_string());
    let ours = all.iter().filter(|c| c.orig.src == address && c.reply.dst == uplink);
    let mut protocols: Vec<&str> = ours.map(|conn| conn.proto.as_str()).collect();
    let count = protocols.len();
    protocols.sort_unstable();
    protocols.dedup();
    let text = format!("{count} entries: {}, all answered at {uplink}", protocols.join(", "));
    if protocols.len() == 3 { Ok(text) } else { Err(Error::Unexpected(format!("{text}: {all:?}"))) }
}

/// (3) What is not asked for stays out; what is the node's own goes on.
pub fn inbound(scene: &Scene, report: &mut Report) {
    report.check("3", "unsolicited packets from inet stay out", || unsolicited(scene));
    let own = PingOptions { id: Some(77), ..TEN };
    let (node, inet) = (&scene.node1, &scene.inet);
    report.check("3", "inet -> node1 ping, own address", || full_ping(&inet.ns, UPLINK, own));
    report.check("3", "node1 -> inet ping, own address", || full_ping(&node.ns, INET, own));
    let own_tcp = |from: &Host, to: &Host, at: IpAddr| {
        let at = SocketAddr::new(at, 8080);
        let report = tcp_transfer(&from.ns, &to.ns, at, 16 << 20, LIMIT)?;
        let seen = report.client_seen;
        if NAT_PORTS.contains(&seen.port()) && seen.ip() == UPLINK {
            return Err(Error::Unexpected(format!("node1 itself used the NAT's port: {seen}")));
        }
        Ok(format!("{:.2} Gbit/s from {seen}", report.gbit_per_s()))
    };
    report.check("3", "inet -> node1 TCP, own address", || own_tcp(inet, node, UPLINK));
    report.check("3", "node1 -> inet TCP, own address", || own_tcp(node, inet, INET));
}

/// Packets that the flows of node 1 dropped as belonging to no connection.
fn refused(scene: &Scene) -> Result<u64> {
    let flows: Vec<FlowInfo> = scene.sluiced1.ask(&["flow", "dump", "br1", "table=21"])?;
    let drops = flows.iter().filter(|flow| flow.actions == "drop");
    Ok(drops.map(|flow| flow.n_packets).sum())
}

fn unsolicited(scene: &Scene) -> Result<String> {
    let from_inet =
        |p: &[u8]| p.get(12..14) == Some(&[8, 0]) && p.get(26..30) == Some(&[198, 51, 100, 2]);
    let in_ns1 = Capture::start(&scene.ns1.ns, "eth0", from_inet)?;
    let in_ns3 = Capture::start(&scene.ns3.ns, "eth0", from_inet)?;
    let before = refused(scene)?;
    let knock = || -> io::Result<u64> {
        let socket = UdpSocket::bind(SocketAddr::new(INET, 0))?;
        let ports = [40_000, 45_000, 49_999];
        for port in ports {
            socket.send_to(b"let me in", SocketAddr::new(UPLINK, port))?;
        }
        let at = SocketAddr::new(UPLINK, 45_001);
        match TcpStream::connect_timeout(&at, Duration::from_millis(500)) {
            Ok(_) => Err(io::Error::other("somebody answered at a NAT port")),
            Err(_) => Ok(ports.len() as u64 + 1),
        }
    };
    let knocks = scene.inet.ns.run(knock).map_err(Error::io("knock at the NAT's ports"))?;
    let dropped = refused(scene)? - before;
    let seen = in_ns1.stop()?.len() + in_ns3.stop()?.len();
    let text = format!("{dropped} dropped by the +new and +inv flows, {seen} seen inside");
    if seen == 0 && dropped >= knocks { Ok(text) } else { Err(Error::Unexpected(text)) }
}
