//! The running switch: a model, workers, and the devices between them.
//!
//! `Core` is all of it behind one lock. Calls of the control socket take the lock; so does the
//! ticker, a thread that carries news: the kernel's network to the model, workers' hints to
//! the kernel, devices that vanish and come back, flows that time out. Whoever changes the model
//! publishes a program before it lets the lock go, and publishing returns when all workers judge
//! by it.

mod answers;
mod backends;
mod calls;
mod conns;
mod devices;
mod monitor_text;
mod monitors;
mod packet_out;
mod paused;
mod refs;
mod synth;
mod ticker;
mod trace;
mod worker;
mod workers;

use crate::api::{ApiResult, Switch};
use crate::config::PortType;
use crate::daemon::{Failure, Ground};
use crate::model::Model;
use crate::netlink::Resolver;
use crate::replay::{Caches, lane_config};
use devices::{OpenError, Opened, Site};
use sluice_dataplane::clock::Now;
use sluice_dataplane::packet::key::PortIx;
use sluice_dataplane::sys::give_back_freed_memory;
use sluice_dataplane::xsk::umem::{Umem, UmemConfig};
use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::Instant;
use workers::Workers;

/// All of the running switch.
pub struct Core {
    ground: Arc<Ground>,
    model: Model,
    workers: Workers,
    /// By `PortIx`.
    open: BTreeMap<u16, Opened>,
    /// Why a port's device could not be opened.
    closed: BTreeMap<u16, String>,
    umem: Arc<Umem>,
    resolver: Resolver,
    /// Zero of the workers' time.
    start: Instant,
    net_generation: u64,
    /// Failures that the log knows of.
    self_check_failures: u64,
    monitors: monitors::Monitors,
    paused: paused::Paused,
    backend_flush: backends::BackendFlush,
}

/// The switch as the control socket sees it.
pub struct LiveSwitch {
    core: Arc<Mutex<Core>>,
    stop: Arc<AtomicBool>,
    ticker: Option<JoinHandle<()>>,
}

/// Starts everything, in an order in which each part finds what it needs.
pub fn start(ground: Arc<Ground>) -> Result<Arc<dyn Switch>, Failure> {
    let core = Arc::new(Mutex::new(Core::start(ground)?));
    let stop = Arc::new(AtomicBool::new(false));
    let ticker = ticker::start(core.clone(), stop.clone())?;
    Ok(Arc::new(LiveSwitch { core, stop, ticker: Some(ticker) }))
}

impl LiveSwitch {
    /// A panic under the lock leaves the model whole: changes are made on drafts.
    fn core(&self) -> MutexGuard<'_, Core> {
        self.core.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for LiveSwitch {
    fn drop(&mut self) {
        self.stop.store(true, Relaxed);
        if let Some(ticker) = self.ticker.take() {
            _ = ticker.join();
        }
        self.core().shut_down();
    }
}

/// A seed that nobody outside can guess.
fn random_seed() -> u64 {
    use std::hash::{BuildHasher, Hasher};
    std::collections::hash_map::RandomState::new().build_hasher().finish()
}

impl Core {
    fn start(ground: Arc<Ground>) -> Result<Self, Failure> {
        let config = &ground.config;
        let seed = random_seed();
        let mut model = Model::new(config, seed)?;
        let mode = config.conntrack.flush_removed_backends;
        let backend_flush = backends::BackendFlush::new(mode, &mut model);
        let flows =
            std::mem::take(&mut *ground.flows.lock().unwrap_or_else(PoisonError::into_inner));
        model.take(flows, 0)?;
        let umem = Umem::new(UmemConfig {
            frames: config.umem.frames,
            frame_size_bytes: config.umem.frame_size_bytes,
            hugepages: config.umem.hugepages,
        })?;
        let start = Instant::now();
        let settings = lane_config(config, Caches::default(), seed);
        let workers = Workers::start(config, &settings, &umem, start)?;
        let net = ground.underlay.current();
        let net_generation = net.generation;
        model.set_net(net);
        let mut core = Self {
            resolver: Resolver::new()?,
            ground,
            model,
            workers,
            open: BTreeMap::new(),
            closed: BTreeMap::new(),
            umem,
            start,
            net_generation,
            self_check_failures: 0,
            monitors: monitors::Monitors::default(),
            paused: paused::Paused::new(random_seed() as u32),
            backend_flush,
        };
        if let Err(error) = core.open_first() {
            core.shut_down();
            return Err(error);
        }
        core.publish()?;
        // Files of many flows leave much behind.
        give_back_freed_memory();
        Ok(core)
    }

    /// Time of the workers.
    fn now(&self) -> Now {
        Now::from_ns(self.start.elapsed().as_nanos() as u64)
    }

    /// Compiles the model and hands it to the workers.
    fn publish(&mut self) -> ApiResult<()> {
        let program = self.model.program();
        let swept = self.workers.publish(&program)?;
        self.model.swept(swept);
        Ok(())
    }

    fn tunnel_ports(&self) -> Vec<u16> {
        let mut ports: Vec<u16> = self
            .model
            .ports()
            .filter_map(|(_, p)| match &p.config.kind {
                PortType::Geneve(g) => Some(g.dst_port),
                _ => None,
            })
            .collect();
        ports.sort_unstable();
        ports.dedup();
        ports
    }

    /// Ports that are not open.
    fn waiting(&self) -> Vec<PortIx> {
        let ports = self.model.ports().map(|(_, p)| p.ix);
        ports.filter(|ix| !self.open.contains_key(&ix.0)).collect()
    }

    /// Opens what can be opened at the start. A device that is not there yet is waited for; one
    /// that somebody else has taken ends the start.
    fn open_first(&mut self) -> Result<(), Failure> {
        for ix in self.waiting() {
            match self.try_open(ix) {
                Ok(_) => {}
                Err(OpenError::Taken(error)) => {
                    let name = self.model.port_mut(ix).map(|p| p.config.name.clone());
                    return Err(format!("port {}: {error}", name.unwrap_or_default()).into());
                }
                Err(other) => self.note_closed(ix, other.to_string()),
            }
        }
        Ok(())
    }

    /// Tries every port that is not open.
    fn open_all(&mut self) -> bool {
        self.waiting().into_iter().fold(false, |any, ix| self.open_port(ix) | any)
    }

    /// Tries one port. Says whether something changed.
    fn open_port(&mut self, ix: PortIx) -> bool {
        self.try_open(ix).unwrap_or_else(|error| {
            self.note_closed(ix, error.to_string());
            false
        })
    }

    /// Remembers why a port is closed. Said once, not at every retry.
    fn note_closed(&mut self, ix: PortIx, why: String) {
        if self.closed.get(&ix.0) != Some(&why) {
            let name = self.model.port_mut(ix).map(|p| p.config.name.clone());
            tracing::warn!(port = name.unwrap_or_default(), "down: {why}");
            self.closed.insert(ix.0, why);
        }
    }

    /// Opens a port's device and gives it to its workers. Says whether there was one to open.
    fn try_open(&mut self, ix: PortIx) -> Result<bool, OpenError> {
        let config = self.model.port_mut(ix).map(|p| p.config.clone());
        let Some(config) = config else { return Ok(false) };
        let tunnel_ports = self.tunnel_ports();
        let net = self.ground.underlay.current();
        let site = Site {
            umem: &self.umem,
            net: &net,
            tunnel_ports: &tunnel_ports,
            workers: self.workers.len(),
            nth: usize::from(ix.0),
        };
        let Some((parts, opened)) = devices::open(&config, &site)? else { return Ok(false) };
        self.workers.add_port(ix, parts).map_err(|e| OpenError::Other(e.to_string()))?;
        tracing::info!(port = %config.name, "open: {}", opened.status);
        self.closed.remove(&ix.0);
        self.open.insert(ix.0, opened);
        self.set_up(ix, true);
        self.warn_of_frames();
        Ok(true)
    }

    fn set_up(&mut self, ix: PortIx, up: bool) {
        if let Some(p) = self.model.port_mut(ix) {
            p.up = up;
        }
    }

    fn warn_of_frames(&self) {
        let wanted: u32 = self.open.values().map(|o| o.frames_wanted).sum();
        if wanted > self.umem.frames() {
            let have = self.umem.frames();
            tracing::warn!("rings can hold {wanted} frames, there are {have}: raise [umem] frames");
        }
    }

    /// Takes a device from its workers and lets it go. The kernel has a NIC back when this returns.
    fn close_port(&mut self, ix: PortIx, why: &str) {
        let Some(mut opened) = self.open.remove(&ix.0) else { return };
        if let Some(steer) = &mut opened.steer {
            for queue in 0..opened.queues {
                _ = steer.clear_socket(queue);
            }
        }
        if let Err(error) = self.workers.remove_port(ix) {
            tracing::error!("closing port {}: {error}", ix.0);
        }
        drop(opened);
        self.set_up(ix, false);
        self.closed.insert(ix.0, why.to_owned());
    }

    fn shut_down(&mut self) {
        let open: Vec<u16> = self.open.keys().copied().collect();
        for ix in open {
            self.close_port(PortIx(ix), "stopping");
        }
        self.workers.stop();
    }
}
