//! The thread that carries news between kernel, model and workers.

use super::Core;
use crate::config::{self, PortType, TunnelRemote};
use crate::store::Wish;
use sluice_dataplane::counters::Stat;
use sluice_dataplane::pipeline::miss::Event;
use sluice_dataplane::worker::PortReport;
use std::io;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

/// Between two rounds: how long a hint or an event may lie.
const ROUND: Duration = Duration::from_millis(20);
/// The same while connections are flushed.
const BUSY_ROUND: Duration = Duration::from_millis(1);
/// Between two looks at what changes slowly: timeouts, closed ports.
const SLOW: Duration = Duration::from_millis(500);
/// Between two confirmations of the tunnels' next hops: the kernel forgets what nobody uses, and
/// it does not see our packets.
const CONFIRM: Duration = Duration::from_secs(20);

pub(super) fn start(core: Arc<Mutex<Core>>, stop: Arc<AtomicBool>) -> io::Result<JoinHandle<()>> {
    std::thread::Builder::new().name("ticker".into()).spawn(move || {
        let (mut slow, mut confirm) = (Instant::now(), Instant::now());
        let mut busy = false;
        while !stop.load(Relaxed) {
            std::thread::sleep(if busy { BUSY_ROUND } else { ROUND });
            let mut core = core.lock().unwrap_or_else(PoisonError::into_inner);
            let mut changed = core.news();
            changed |= core.follow_net();
            if slow.elapsed() >= SLOW {
                slow = Instant::now();
                changed |= core.slow_round();
            }
            if confirm.elapsed() >= CONFIRM {
                confirm = Instant::now();
                core.confirm_hops();
            }
            if changed && let Err(error) = core.publish() {
                tracing::error!("publishing a program: {error}");
            }
            busy = core.flush_backends();
            core.tell_monitors();
        }
    })
}

impl Core {
    /// What the workers said unasked. True: ports or flows changed.
    fn news(&mut self) -> bool {
        let (events, ports_changed) = self.workers.news();
        let now_ns = self.now().ns;
        let mut changed = false;
        for event in events {
            match event {
                Event::Resolve { addr, ifindex } => {
                    if let Err(error) = self.resolver.resolve(ifindex, addr) {
                        tracing::debug!(%addr, "asking for a neighbour: {error}");
                    }
                }
                Event::Learn { bridge, rule, nth, key } => {
                    let wish = Wish { rule: &rule, nth, key: &key };
                    changed |= self.model.learn(bridge, &wish, now_ns);
                }
            }
        }
        changed | (ports_changed && self.look_at_ports())
    }

    /// Closes ports whose device is gone; notes which are up. True: something changed.
    fn look_at_ports(&mut self) -> bool {
        let Ok(answer) = self.workers.ports() else { return false };
        let net = self.ground.underlay.current();
        let mut changed = false;
        for report in &answer.list {
            let ix = report.port;
            let here = self.open.get(&ix.0).is_some_and(|o| is_here(self, report, o.ifindex, &net));
            if !here {
                changed = true;
                let name = self.model.port_mut(ix).map(|p| p.config.name.clone());
                let config = self.model.port_mut(ix).map(|p| p.config.clone());
                let device = config.as_ref().and_then(config::Port::device).unwrap_or_default();
                let why = format!("device {device} is gone; the port comes back with it");
                tracing::warn!(port = name.unwrap_or_default(), "down: {why}");
                self.close_port(ix, &why);
                continue;
            }
            let was = self.model.port_mut(ix).is_some_and(|p| p.up);
            if was != report.up {
                changed = true;
                self.set_up(ix, report.up);
                let name = self.model.port_mut(ix).map(|p| p.config.name.clone());
                let state = if report.up { "up" } else { "down" };
                tracing::info!(port = name.unwrap_or_default(), "{state}");
            }
        }
        changed
    }

    /// Takes over a new snapshot of the node's network. True: the program must follow.
    fn follow_net(&mut self) -> bool {
        let net = self.ground.underlay.current();
        if net.generation == self.net_generation {
            return false;
        }
        self.net_generation = net.generation;
        self.model.set_net(net.clone());
        self.resteer(&net);
        self.look_at_ports();
        self.open_all();
        self.model.is_stale()
    }

    /// Brings the steering programs of shared devices up to date with the addresses.
    pub(super) fn resteer(&mut self, net: &crate::netlink::Underlay) {
        let tunnel_ports = self.tunnel_ports();
        for (_, port) in self.model.ports() {
            let PortType::Afxdp(afxdp) = &port.config.kind else { continue };
            let Some(steer) = self.open.get_mut(&port.ix.0).and_then(|o| o.steer.as_mut()) else {
                continue;
            };
            let Some(link) = net.link_by_name(&afxdp.device) else { continue };
            let (ends, nat) = super::devices::steering(afxdp, link, net, &tunnel_ports);
            let done = steer.update_endpoints(&ends).and_then(|()| steer.update_nat(&nat));
            if let Err(error) = done {
                tracing::error!(port = %port.config.name, "steering: {error}");
            }
        }
    }

    fn slow_round(&mut self) -> bool {
        let now_ns = self.now().ns;
        let mut expired = 0;
        if self.model.has_timeouts() {
            _ = self.workers.settle();
            expired = self.model.expire_flows(now_ns);
        }
        self.tell_self_checks();
        let opened = self.open_all();
        expired > 0 || opened
    }

    /// A cached walk that differs from the tables' is a flaw of ours: say so, once each time.
    fn tell_self_checks(&mut self) {
        let failures = self.workers.stat(Stat::SelfCheckFailures);
        if failures > self.self_check_failures {
            let checks = self.workers.stat(Stat::SelfChecks);
            tracing::error!(failures, checks, "self-check: cached walks differ from the tables");
            self.self_check_failures = failures;
        }
    }

    /// Asks the kernel again for next hops that tunnels use.
    fn confirm_hops(&mut self) {
        let net = self.ground.underlay.current();
        let remotes = self.model.ports().filter_map(|(_, p)| match &p.config.kind {
            PortType::Geneve(g) => match g.remote {
                TunnelRemote::Ip(remote) => Some((remote, g.local)),
                TunnelRemote::Flow => None,
            },
            _ => None,
        });
        for (remote, local) in remotes {
            if let Ok(path) = net.path(remote, local) {
                _ = self.resolver.resolve(path.ifindex, path.next_hop);
            }
        }
    }
}

/// Whether a port's device still exists. One that we made may be in another namespace; it is there
/// as long as its descriptor works, and only a deleted one is ever down.
fn is_here(
    core: &Core,
    report: &PortReport,
    ifindex: Option<u32>,
    net: &crate::netlink::Underlay,
) -> bool {
    let port = core.model.ports().map(|(_, p)| p).find(|p| p.ix == report.port);
    match (port.map(|p| &p.config.kind), ifindex) {
        (Some(PortType::Afxdp(_) | PortType::Packet { .. }), Some(i)) => net.link(i).is_some(),
        (Some(PortType::Internal(_) | PortType::Tap(_)), _) => report.up,
        _ => true,
    }
}
