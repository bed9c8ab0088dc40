//! The demo: sluice's main job on one machine, with real kernels' stacks as traffic ends.
//!
//! ```text
//!   ns1 -internal-+         +- underlay0 -[ wire ]- underlay0 -+         +-afxdp- ns3
//!                 | node1   |  10.0.0.1            10.0.0.2    |  node2  |
//!   ns2 -afxdp----+  br1 ---+                                  +--- br1 -+
//!                     +- uplink0 198.51.100.1 --- 198.51.100.2 inet
//! ```
//! The containers are 192.168.255.11 to .13; inet has no route to them. The underlay's cable is a
//! namespace with a kernel bridge, because that is where a capture can see it: AF_XDP sends past
//! the packet taps of the sender's device, and XDP takes packets before those of the receiver's.
//!
//! `scene` builds and starts, the other files check; every check is a line with what was measured.

mod daemon;
mod overlay;
mod report;
mod restart;
mod scene;
mod snat;

use std::net::IpAddr;
use std::process::ExitCode;
use std::time::Duration;

use crate::netns::Namespace;
use crate::process::wait_until;
use crate::traffic::{PingOptions, PingReport, ping};
use crate::{Error, Result, cleanup, netns, scratch};

use report::Report;
use scene::Scene;

/// Plays the two-node overlay and checks it.
#[derive(Clone, Copy, Debug, clap::Parser)]
#[command(name = "cargo xtask demo")]
pub struct Options {
    /// Print JSON instead of a table
    #[arg(long)]
    pub json: bool,
    /// Leave everything standing and say how to enter it
    #[arg(long)]
    pub keep: bool,
    /// Only remove what earlier runs with --keep left
    #[arg(long)]
    pub cleanup: bool,
}

/// Runs the demo; 0 if every check passed, 1 if one failed or the scene could not be set.
pub fn main(options: &Options) -> ExitCode {
    if options.cleanup {
        for name in netns::kept().into_iter().chain(cleanup::remove_stale()) {
            netns::remove_by_name(&name);
            println!("removed {name}");
        }
        scratch::remove_stale();
        return ExitCode::SUCCESS;
    }
    if !crate::is_root() {
        eprintln!("the demo needs root: it makes network namespaces");
        return ExitCode::FAILURE;
    }
    let mut report = Report::new(options.json);
    let programs = scene::programs_loaded();
    match Scene::build(options.keep) {
        Ok(mut scene) => {
            play(&mut scene, &mut report);
            if options.keep {
                scene.keep(!options.json);
            } else {
                let names = scene.names();
                drop(scene);
                report.check("end", "nothing is left behind", || nothing_left(&names, programs));
            }
        }
        Err(error) => report.fail("start", "two nodes, three containers, inet", &error.to_string()),
    }
    report.close()
}

fn play(scene: &mut Scene, report: &mut Report) {
    report.check("start", "both daemons, all ports up", || scene.start());
    if report.failed() {
        report.note(&scene.logs());
        return;
    }
    overlay::same_node(scene, report);
    overlay::across(scene, report);
    overlay::nodes_own(scene, report);
    snat::outbound(scene, report);
    snat::inbound(scene, report);
    overlay::generator(scene, report);
    overlay::trace(scene, report);
    restart::crash(scene, report);
    if report.failed() {
        report.note(&scene.logs());
    }
}

fn nothing_left(names: &[String], programs: usize) -> Result<String> {
    let left: Vec<String> = netns::names().into_iter().filter(|n| names.contains(n)).collect();
    if !left.is_empty() {
        return Err(Error::Unexpected(format!("namespaces {}", left.join(", "))));
    }
    // The kernel frees a program some time after its last user has gone.
    wait_until("end of the XDP programs", Duration::from_secs(5), || {
        (scene::programs_loaded() <= programs).then_some(())
    })?;
    Ok(format!("{} namespaces, 2 daemons and their XDP programs are gone", names.len()))
}

/// Pings until the first answer: names are resolved and routes learned meanwhile.
fn reachable(from: &Namespace, to: IpAddr, limit: Duration) -> Result<()> {
    let one = PingOptions { count: 1, ..PingOptions::default() };
    wait_until(&format!("ping {to} from {}", from.name()), limit, || {
        ping(from, to, one).ok().filter(PingReport::all_answered).map(drop)
    })
}

/// A ping in which every packet must be answered.
fn full_ping(from: &Namespace, to: IpAddr, options: PingOptions) -> Result<String> {
    reachable(from, to, Duration::from_secs(8))?;
    let report = ping(from, to, options)?;
    let PingReport { sent, received, rtt_avg_ms } = report;
    let text = format!("{received}/{sent}, {:.3} ms", rtt_avg_ms.unwrap_or(f64::NAN));
    if report.all_answered() { Ok(text) } else { Err(Error::Unexpected(text)) }
}
