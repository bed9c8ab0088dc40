//! `sluiced`: the order in which a switch starts and stops.
//!
//! 1. Read and check the configuration and all flow files; a mistake ends it before anything is
//!    touched. 2. Take the control socket: its lock says that no other daemon runs on it. 3. Look
//!    at
//!    the host and log what may go wrong. 4. Follow the kernel's underlay. 5. Keep the node's
//!    sockets
//!    off the ports of NAT. 6. Start the switch: memory, devices, program, workers. 7. Serve until
//!    told to stop. Then the same backwards; whatever was set is taken back by its owner's drop.
//!
//! Control has one thread of its own, beside short-lived ones for calls that block.

mod log;
#[cfg(test)]
mod tests;

use std::ffi::OsString;
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::{Arc, Mutex};

use clap::Parser;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::watch;

use crate::api::{ControlSocket, Switch, serve};
use crate::config::{Config, PortType};
use crate::doctor::{self, Level, Wish};
use crate::netlink::{ReservedPorts, UnderlayWatch};
use crate::store::Batch;

#[derive(Debug, Parser)]
#[command(
    name = "sluiced",
    version,
    about = "The switch",
    after_help = "Exit codes: 0 stopped as told, 1 refused or failed, 2 wrong usage."
)]
struct Args {
    /// The configuration (TOML)
    #[arg(long, value_name = "FILE")]
    config: PathBuf,
    /// Check the configuration and its flow files, and end
    #[arg(long)]
    check: bool,
    /// Log as JSON, one object a line
    #[arg(long)]
    log_json: bool,
    /// Log level, or module=level,...; goes before the configuration's
    #[arg(long, env = "SLUICE_LOG", value_name = "FILTER")]
    log: Option<String>,
}

/// What a switch is started from.
#[derive(Debug)]
pub struct Ground {
    pub config: Config,
    /// What the flow files of all bridges say, checked; the switch takes it.
    pub flows: Mutex<Batch>,
    pub underlay: UnderlayWatch,
}

/// Says why something failed.
pub type Failure = Box<dyn std::error::Error + Send + Sync>;

/// The whole daemon, from the words to the exit code. `start` makes the switch; dropping it stops
/// it.
pub fn run(
    words: impl IntoIterator<Item = OsString>,
    start: impl FnOnce(Arc<Ground>) -> Result<Arc<dyn Switch>, Failure>,
) -> ExitCode {
    let args = match Args::try_parse_from(words) {
        Ok(args) => args,
        Err(error) => {
            _ = error.print();
            return ExitCode::from(error.exit_code() as u8);
        }
    };
    let read = Config::load(&args.config).and_then(|config| Ok((config.read_flows()?, config)));
    let (flows, config) = match read {
        Ok(read) => read,
        Err(errors) => {
            eprintln!("sluiced: {errors}");
            return ExitCode::from(1);
        }
    };
    if args.check {
        println!("{}: good, {} flows", args.config.display(), flows.len());
        return ExitCode::SUCCESS;
    }
    let filter = args.log.as_deref().unwrap_or(&config.daemon.log);
    log::start(filter, args.log_json || config.daemon.log_json);
    match run_switch(config, flows, start) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            tracing::error!("{error}");
            ExitCode::from(1)
        }
    }
}

fn run_switch(
    config: Config,
    flows: Batch,
    start: impl FnOnce(Arc<Ground>) -> Result<Arc<dyn Switch>, Failure>,
) -> Result<(), Failure> {
    let socket = ControlSocket::bind(&config.daemon.control_socket)?;
    tracing::info!(
        config = %config.file.display(),
        socket = %socket.path().display(),
        flows = flows.len(),
        "sluiced {} starts", env!("CARGO_PKG_VERSION"),
    );
    log_findings(&config);
    let underlay = UnderlayWatch::start()?;
    let mut reserved = reserve_ports(&config)?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let (stop, _) = watch::channel(false);
    // Handlers first: a signal that comes during the start is not lost.
    runtime.block_on(async { stop_on_signals(&stop) })?;
    let ground = Arc::new(Ground { config, flows: Mutex::new(flows), underlay });
    let switch = start(Arc::clone(&ground))?;
    tracing::info!("ready");
    let served = runtime.block_on(serve(&socket, Arc::clone(&switch), stop));
    tracing::info!("stopping");
    // A call that still blocks keeps its thread and its share of the switch; not for long.
    runtime.shutdown_timeout(std::time::Duration::from_secs(2));
    drop(switch);
    drop(ground);
    if let Some(reserved) = &mut reserved {
        reserved.release()?;
    }
    served?;
    tracing::info!("stopped");
    Ok(())
}

fn stop_on_signals(stop: &watch::Sender<bool>) -> std::io::Result<()> {
    for (kind, name) in [(SignalKind::terminate(), "SIGTERM"), (SignalKind::interrupt(), "SIGINT")]
    {
        let mut signals = signal(kind)?;
        let stop = stop.clone();
        tokio::spawn(async move {
            if signals.recv().await.is_some() {
                tracing::info!("{name}");
                stop.send_replace(true);
            }
        });
    }
    Ok(())
}

/// What the host lacks is logged and not judged: what is really needed fails by itself, with its
/// own reason.
fn log_findings(config: &Config) {
    for finding in doctor::examine(&Wish::of_config(config)).findings {
        let (what, why, fix) = (finding.what, finding.why, finding.fix);
        match finding.level {
            Level::Ok => tracing::debug!("{what}: {why}"),
            Level::Warn => tracing::warn!("{what}: {why}; do: {fix}"),
            Level::Fail => tracing::error!("{what}: {why}; do: {fix}"),
        }
    }
}

/// The port ranges of NAT, kept from the node's own sockets.
fn reserve_ports(config: &Config) -> std::io::Result<Option<ReservedPorts>> {
    let mut ranges = Vec::new();
    for port in config.bridges.iter().flat_map(|bridge| &bridge.ports) {
        if let PortType::Afxdp(afxdp) = &port.kind {
            ranges.extend(afxdp.nat.iter().filter_map(|nat| nat.ports));
        }
    }
    if ranges.is_empty() {
        return Ok(None);
    }
    ReservedPorts::reserve(&ranges).map(Some)
}
