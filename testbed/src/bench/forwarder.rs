//! The three that forward: sluice, a bare AF_XDP loop, and the stock Open vSwitch.
//!
//! All three take what comes in at `p1` to `p2` and back, over AF_XDP sockets on queue 0 with an
//! XDP program in the driver, and have one thread for it on the same core. Open vSwitch runs with
//! its database, sockets and logs in a folder of its own, so that an Open vSwitch of the machine is
//! neither needed nor touched.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use serde::Serialize;

use super::scene::FORWARDER_CPU;
use crate::cleanup::Ticket;
use crate::netns::{Namespace, run_command};
use crate::process::{Process, wait_until};
use crate::{Error, Result};

/// Where Debian has the database's shape, and programs that are on no user's path.
pub(super) const OVS_SCHEMA: &str = "/usr/share/openvswitch/vswitch.ovsschema";
const SYSTEM_FOLDERS: [&str; 3] = ["/usr/sbin", "/sbin", "/usr/local/sbin"];
/// Longer than any window; the loop is ended by us.
const LOOP_SECONDS: &str = "3600";

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Forwarder {
    Sluice,
    BareLoop,
    OpenVswitch,
}

impl Forwarder {
    pub fn letter(self) -> char {
        match self {
            Self::Sluice => 'A',
            Self::BareLoop => 'B',
            Self::OpenVswitch => 'C',
        }
    }

    pub fn name(self) -> &'static str {
        match self {
            Self::Sluice => "sluice, afxdp ports",
            Self::BareLoop => "bare AF_XDP loop",
            Self::OpenVswitch => "Open vSwitch, type=afxdp",
        }
    }

    /// Why it cannot run here, if so.
    pub fn missing(self) -> Option<String> {
        match self {
            Self::Sluice => absent(&own_program("sluiced"), "cargo build --release --bins"),
            Self::BareLoop => absent(&own_program("xsk_loop"), "cargo build --release --bins"),
            Self::OpenVswitch => {
                let hint = "apt-get install openvswitch-switch";
                let schema = absent(Path::new(OVS_SCHEMA), hint);
                let program = || Some(format!("no ovs-vswitchd: {hint}"));
                schema.or_else(|| system_program("ovs-vswitchd").map_or_else(program, |_| None))
            }
        }
    }

    /// Starts it inside `ns`; it forwards some time after.
    pub fn start(self, ns: &Namespace) -> Result<Running> {
        let folder = Folder::new()?;
        let started = match self {
            Self::Sluice => start_sluice(ns, &folder.0),
            Self::BareLoop => start_loop(ns, &folder.0),
            Self::OpenVswitch => start_ovs(ns, &folder.0),
        };
        match started {
            Ok(processes) => Ok(Running { processes, folder }),
            Err(error) => Err(Error::Unexpected(format!("{error}\n{}", tail(&folder.0)))),
        }
    }
}

/// A forwarder at work; ended on drop.
#[derive(Debug)]
pub struct Running {
    processes: Vec<Process>,
    folder: Folder,
}

impl Running {
    /// That one of its processes has ended, and how.
    pub fn ended(&mut self) -> Option<String> {
        let mut all = self.processes.iter_mut();
        all.find_map(Process::ended).map(|status| format!("it ended: {status}"))
    }

    /// The last lines of all that it wrote.
    pub fn log(&self) -> String {
        tail(&self.folder.0)
    }

    /// The last started ends first.
    pub fn stop(mut self) {
        while let Some(mut process) = self.processes.pop() {
            process.stop();
        }
    }
}

/// A folder in the system's place for short-lived files, removed on drop.
#[derive(Debug)]
struct Folder(PathBuf, #[expect(dead_code, reason = "held for its drop")] Ticket);

impl Folder {
    fn new() -> Result<Self> {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let n = NEXT.fetch_add(1, Ordering::Relaxed);
        let path = std::env::temp_dir().join(format!("slu-bench-{}-{n}", std::process::id()));
        std::fs::create_dir(&path).map_err(Error::io(format!("make {}", path.display())))?;
        let ticket = Ticket::folder(&path);
        Ok(Self(path, ticket))
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        // What cannot be removed is a few small files in a folder that the system empties.
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

fn start_sluice(ns: &Namespace, folder: &Path) -> Result<Vec<Process>> {
    let socket = folder.join("sluice.sock");
    let port = |n| {
        format!("[[bridge.port]]\nname = \"p{n}\"\nnumber = {n}\ntype = \"afxdp\"\nqueues = 1\n\n")
    };
    let config = format!(
        "[daemon]\ncontrol_socket = \"{}\"\nworkers = 1\ncpus = [{FORWARDER_CPU}]\n\n\
         [[bridge]]\nname = \"br0\"\nflow_file = \"br0.flows\"\nlocal = false\n\n{}{}",
        socket.display(),
        port(1),
        port(2),
    );
    write(&folder.join("br0.flows"), &(FLOWS.join("\n") + "\n"))?;
    let file = folder.join("sluiced.toml");
    write(&file, &config)?;
    let mut command = Command::new(own_program("sluiced"));
    command.arg("--config").arg(&file);
    Ok(vec![Process::start(ns, &mut command, &folder.join("sluiced.log"))?])
}

const FLOWS: [&str; 2] = ["in_port=1 actions=output:2", "in_port=2 actions=output:1"];

fn start_loop(ns: &Namespace, folder: &Path) -> Result<Vec<Process>> {
    let mut command = Command::new("taskset");
    command.args(["-c", &FORWARDER_CPU.to_string()]);
    command.arg(own_program("xsk_loop")).args(["p1", "p2", LOOP_SECONDS]);
    Ok(vec![Process::start(ns, &mut command, &folder.join("xsk_loop.log"))?])
}

fn start_ovs(ns: &Namespace, folder: &Path) -> Result<Vec<Process>> {
    let tool = |name: &str| {
        let path = system_program(name).unwrap_or_else(|| name.into());
        let mut command = Command::new(path);
        for variable in ["OVS_RUNDIR", "OVS_LOGDIR", "OVS_DBDIR", "OVS_SYSCONFDIR"] {
            command.env(variable, folder);
        }
        command
    };
    let (database, socket) = (folder.join("conf.db"), folder.join("db.sock"));
    let unix = format!("unix:{}", socket.display());
    run_command(tool("ovsdb-tool").arg("create").arg(&database).arg(OVS_SCHEMA))?;
    let mut server = tool("ovsdb-server");
    server.arg(&database).arg(format!("--remote=p{unix}"));
    let mut processes = vec![Process::start(ns, &mut server, &folder.join("ovsdb.log"))?];
    wait_until("ovsdb-server's socket", Duration::from_secs(5), || socket.exists().then_some(()))?;
    let vsctl = |words: &[&str]| {
        let mut command = tool("ovs-vsctl");
        command.arg(format!("--db={unix}")).arg("--timeout=15").args(words);
        ns.run(|| run_command(&mut command))
    };
    let cpus = format!("other_config:pmd-cpu-mask={:#x}", 1u64 << FORWARDER_CPU);
    vsctl(&["--no-wait", "init", "--", "set", "Open_vSwitch", ".", &cpus])?;
    // It raises its limit of locked memory itself. A program of its own per device, as ours; the
    // dispatcher of libxdp would leave pins in the machine's bpffs.
    let mut daemon = tool("ovs-vswitchd");
    daemon.arg(&unix).env("LIBXDP_SKIP_DISPATCHER", "1");
    processes.push(Process::start(ns, &mut daemon, &folder.join("vswitchd.log"))?);
    vsctl(&["add-br", "br0", "--", "set", "bridge", "br0", "datapath_type=netdev", SECURE])?;
    for (dev, number) in [("p1", "ofport_request=1"), ("p2", "ofport_request=2")] {
        let set = ["--", "set", "interface", dev, "type=afxdp", number];
        vsctl(&[&["add-port", "br0", dev], &set[..], &OVS_OPTIONS].concat())?;
    }
    for flow in FLOWS {
        let flow = flow.replace(' ', ",");
        ns.run(|| run_command(tool("ovs-ofctl").args(["add-flow", "br0", &flow])))?;
    }
    Ok(processes)
}

/// No flow of its own accord.
const SECURE: &str = "fail_mode=secure";
const OVS_OPTIONS: [&str; 2] = ["options:n_rxq=1", "options:xdp-mode=native"];

/// A program that was built beside this one.
pub(super) fn own_program(name: &str) -> PathBuf {
    let own = std::env::current_exe().unwrap_or_default();
    own.parent().map_or_else(|| name.into(), |folder| folder.join(name))
}

pub(super) fn system_program(name: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let folders = std::env::split_paths(&path).chain(SYSTEM_FOLDERS.map(PathBuf::from));
    folders.map(|folder| folder.join(name)).find(|file| file.is_file())
}

pub(super) fn absent(path: &Path, hint: &str) -> Option<String> {
    (!path.exists()).then(|| format!("no {}: {hint}", path.display()))
}

fn write(path: &Path, text: &str) -> Result<()> {
    std::fs::write(path, text).map_err(Error::io(format!("write {}", path.display())))
}

fn tail(folder: &Path) -> String {
    let entries = std::fs::read_dir(folder).into_iter().flatten().flatten();
    let logs = entries.map(|e| e.path()).filter(|p| p.extension().is_some_and(|e| e == "log"));
    let texts = logs.map(|log| {
        let text = std::fs::read_to_string(&log).unwrap_or_default();
        let lines: Vec<&str> = text.lines().collect();
        lines.get(lines.len().saturating_sub(15)..).unwrap_or_default().join("\n")
    });
    texts.collect::<Vec<_>>().join("\n")
}
