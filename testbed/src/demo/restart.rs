//! (6) A daemon that is killed gives the NIC back at once, and a new one takes up where it was.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use super::report::Report;
use super::scene::{NODE1, NODE2, NS1, NS3, Scene};
use super::{full_ping, reachable};
use crate::traffic::{PingOptions, Session, ping};
use crate::{Error, Result};

const FIVE: PingOptions =
    PingOptions { count: 5, payload_bytes: 56, interval_ms: 20, wait_s: 1, id: None };

pub fn crash(scene: &mut Scene, report: &mut Report) {
    let at = SocketAddr::new(NODE2, 22);
    let session = Session::open(&scene.node1.ns, &scene.node2.ns, at);
    scene.sluiced2.kill();
    report.check("6", "kill -9: the NIC is the kernel's at once", || {
        let answered = ping(&scene.node1.ns, NODE2, FIVE)?;
        let link = scene.node2.ns.ip("-d link show dev underlay0")?;
        let text = format!("{}/{} pings", answered.received, answered.sent);
        if !answered.all_answered() || link.contains("prog/xdp") {
            return Err(Error::Unexpected(format!("{text}; {link}")));
        }
        Ok(format!("{text} {NODE1} -> {NODE2}, no XDP program left"))
    });
    report.check("6", "kill -9: a TCP session of the node lives on", || {
        let took = session?.exchange()?;
        Ok(format!("a line each way in {:.3} ms", took.as_secs_f64() * 1e3))
    });
    report.check("6", "kill -9: the overlay to ns3 is down", || {
        let lost = ping(&scene.ns1.ns, NS3, PingOptions { count: 2, ..FIVE })?;
        let text = format!("{}/{} answered", lost.received, lost.sent);
        if lost.received == 0 { Ok(text) } else { Err(Error::Unexpected(text)) }
    });
    report.check("6", "restart: the overlay is back", || restart(scene));
    report.check("6", "restart: ns3 -> ns1 ping", || full_ping(&scene.ns3.ns, NS1, FIVE));
}

/// Starts node 2's daemon again; nothing else is touched.
fn restart(scene: &mut Scene) -> Result<String> {
    let start = Instant::now();
    scene.sluiced2.start(&scene.node2.ns)?;
    let ready = start.elapsed();
    reachable(&scene.ns1.ns, NS3, Duration::from_secs(10))?;
    let seconds = |time: Duration| time.as_secs_f64();
    let total = start.elapsed();
    Ok(format!("ports up after {:.2} s, first ping after {:.2} s", seconds(ready), seconds(total)))
}
