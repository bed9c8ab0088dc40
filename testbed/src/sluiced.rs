//! A `sluiced` under test: the built program, started in a namespace and asked over its socket.
//!
//! Tests of a package find only their own package's programs (`CARGO_BIN_EXE_...`), and `sluiced`
//! is another's. So the first test that needs it asks cargo to build it, in the profile and the
//! target folder of the test itself: it never runs a stale one, and when all is built already the
//! question takes a fraction of a second.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::OnceLock;
use std::time::Duration;

use sluice_control::api::types::{
    ApiError, ErrorCode, FlowChange, FlowInfo, FlowOp, FlowSummary, PortInfo, Reply, Request,
    SwitchInfo,
};
use sluice_control::api::{Client, ClientError};

use crate::netns::Namespace;
use crate::process::{Process, wait_until};
use crate::scratch::Scratch;
use crate::{Error, Result};

/// How long a daemon may take until it answers, or ends.
const START_LIMIT: Duration = Duration::from_secs(15);
/// How long one answer may take.
const ANSWER_LIMIT: Duration = Duration::from_secs(10);

/// The program `sluiced`, built if need be.
pub fn program() -> Result<&'static Path> {
    static PROGRAM: OnceLock<std::result::Result<PathBuf, String>> = OnceLock::new();
    let built = PROGRAM.get_or_init(build);
    built.as_deref().map_err(|text| Error::Unexpected(format!("building sluiced: {text}")))
}

fn build() -> std::result::Result<PathBuf, String> {
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let mut command = Command::new(cargo);
    command.args(["build", "--package", "sluice-control", "--bin", "sluiced"]);
    command.args(["--message-format", "json-render-diagnostics", "--profile", &profile()]);
    command.current_dir(env!("CARGO_MANIFEST_DIR")).stdin(Stdio::null());
    let out = command.output().map_err(|e| e.to_string())?;
    if !out.status.success() {
        return Err(String::from_utf8_lossy(&out.stderr).into_owned());
    }
    let text = String::from_utf8_lossy(&out.stdout);
    let messages = text.lines().filter_map(|l| serde_json::from_str::<serde_json::Value>(l).ok());
    let mut programs = messages.filter_map(|m| m["executable"].as_str().map(PathBuf::from));
    let found = programs.find(|p| p.file_name().is_some_and(|n| n == "sluiced"));
    found.ok_or_else(|| format!("cargo named no program: {text}"))
}

/// The profile of the running test, from its place: TARGET/debug/deps/NAME.
fn profile() -> String {
    let path = std::env::current_exe().unwrap_or_default();
    let folders: Vec<_> = path.iter().filter_map(|part| part.to_str()).collect();
    let folder = folders.into_iter().rfind(|name| matches!(*name, "debug" | "release"));
    if folder == Some("release") { "release".to_owned() } else { "dev".to_owned() }
}

/// How a start ended that did not succeed.
#[derive(Debug)]
pub struct Refusal {
    pub code: Option<i32>,
    pub stderr: String,
}

/// A running daemon, ended on drop.
#[derive(Debug)]
pub struct Daemon {
    ns: crate::netns::Handle,
    process: Option<Process>,
    dir: Scratch,
}

/// A test that fails says what its switch had counted.
impl Drop for Daemon {
    fn drop(&mut self) {
        if std::thread::panicking() {
            let counted = self
                .counters()
                .map(|all| all.into_iter().filter(|(_, n)| *n > 0).collect::<BTreeMap<_, _>>());
            eprintln!("counters: {counted:?}\n{}", self.log());
        }
    }
}

impl Daemon {
    /// Starts `sluiced` in a namespace. `config` may begin with lines of `[daemon]`; where it says
    /// `flow_file = "flows"`, it means the text `flows`. Returns when the daemon answers.
    pub fn start(ns: &Namespace, config: &str, flows: &str) -> Result<Self> {
        let mut daemon = Self::prepare(ns, config, flows)?;
        daemon.restart(ns)?;
        Ok(daemon)
    }

    fn prepare(ns: &Namespace, config: &str, flows: &str) -> Result<Self> {
        let dir = Scratch::new("sluiced")?;
        let socket = dir.path().join("s.sock");
        let mut head = format!("[daemon]\ncontrol_socket = \"{}\"\n", socket.display());
        // All tests can be played with several workers.
        if let Ok(workers) = std::env::var("SLUICE_TEST_WORKERS")
            && !config.starts_with("workers")
        {
            head += &format!("workers = {workers}\n");
        }
        dir.write("sluiced.toml", &(head + config))?;
        dir.write("flows", flows)?;
        Ok(Self { ns: ns.handle(), process: None, dir })
    }

    /// A start that must be refused.
    pub fn refused(ns: &Namespace, config: &str, flows: &str) -> Result<Refusal> {
        let mut daemon = Self::prepare(ns, config, flows)?;
        daemon.refused_again(ns)
    }

    /// A start, with what is there, that must be refused.
    pub fn refused_again(&mut self, ns: &Namespace) -> Result<Refusal> {
        let log = self.dir.path().join("refused.log");
        let mut process = Process::start(ns, &mut self.command()?, &log)?;
        let status = process.wait(START_LIMIT)?;
        Ok(Refusal { code: status.code(), stderr: process.output() })
    }

    fn command(&self) -> Result<Command> {
        let mut command = Command::new(program()?);
        command.arg("--config").arg(self.dir.path().join("sluiced.toml"));
        Ok(command)
    }

    /// Starts it again after `kill` or `terminate`.
    pub fn restart(&mut self, ns: &Namespace) -> Result<()> {
        let mut process = Process::start(ns, &mut self.command()?, &self.log_path())?;
        let up = wait_until("sluiced's answer", START_LIMIT, || match process.ended() {
            Some(status) => Some(Err(status)),
            None => self.show().is_ok().then_some(Ok(())),
        });
        match up {
            Ok(Ok(())) => {
                self.process = Some(process);
                Ok(())
            }
            other => {
                let log = process.output();
                Err(Error::Unexpected(format!("sluiced did not start ({other:?}):\n{log}")))
            }
        }
    }

    pub fn socket(&self) -> PathBuf {
        self.dir.path().join("s.sock")
    }

    pub fn dir(&self) -> &Path {
        self.dir.path()
    }

    fn log_path(&self) -> PathBuf {
        self.dir.path().join("sluiced.log")
    }

    /// All it has logged.
    pub fn log(&self) -> String {
        std::fs::read_to_string(self.log_path()).unwrap_or_default()
    }

    pub fn is_running(&mut self) -> bool {
        self.process.as_mut().is_some_and(|p| p.ended().is_none())
    }

    /// SIGKILL.
    pub fn kill(&mut self) {
        if let Some(mut process) = self.process.take() {
            process.kill();
        }
    }

    /// SIGTERM; the exit code.
    pub fn terminate(&mut self) -> Result<Option<i32>> {
        let Some(mut process) = self.process.take() else { return Ok(None) };
        if let Some(pid) = rustix::process::Pid::from_raw(process.pid().cast_signed()) {
            let sent = rustix::process::kill_process(pid, rustix::process::Signal::TERM);
            sent.map_err(|e| Error::io("SIGTERM")(e.into()))?;
        }
        Ok(process.wait(START_LIMIT)?.code())
    }

    /// One call on a connection of its own. Outer: could not ask. Inner: the daemon refused.
    pub fn call(&self, request: Request) -> std::result::Result<Reply, ApiError> {
        let broken = |e: ClientError| match e {
            ClientError::Refused(error) => error,
            other => ApiError::new(ErrorCode::System, other.to_string(), other.hint()),
        };
        let mut client = Client::connect(&self.socket(), ANSWER_LIMIT).map_err(broken)?;
        client.call(request).map_err(broken)
    }

    pub fn show(&self) -> std::result::Result<SwitchInfo, ApiError> {
        match self.call(Request::Show)? {
            Reply::Show(info) => Ok(*info),
            other => Err(strange(&other)),
        }
    }

    pub fn port(&self, name: &str) -> std::result::Result<PortInfo, ApiError> {
        match self.call(Request::PortList { bridge: None })? {
            Reply::Ports(list) => {
                let found = list.into_iter().find(|p| p.name == name);
                found.ok_or_else(|| ApiError::no_port("?", name))
            }
            other => Err(strange(&other)),
        }
    }

    /// Waits until a port is up, or down.
    pub fn wait_port(&self, name: &str, up: bool) -> Result<PortInfo> {
        let mut last = None;
        let state = if up { "up" } else { "down" };
        wait_until(&format!("port {name} {state}"), Duration::from_secs(5), || {
            last = self.port(name).ok();
            last.clone().filter(|p| p.up == up)
        })
        .map_err(|e| Error::Unexpected(format!("{e}: {last:?}\n{}", self.log())))
    }

    /// Changes flows of `br0`, not strictly.
    pub fn flow(&self, op: FlowOp, text: &str) -> std::result::Result<FlowSummary, ApiError> {
        let (bridge, text) = ("br0".to_owned(), text.to_owned());
        match self.call(Request::Flow(FlowChange { op, bridge, text, strict: false }))? {
            Reply::FlowChanged(summary) => Ok(summary),
            other => Err(strange(&other)),
        }
    }

    /// Flows of `br0`.
    pub fn flows(&self, filter: &str) -> std::result::Result<Vec<FlowInfo>, ApiError> {
        self.flows_of("br0", filter)
    }

    pub fn flows_of(
        &self,
        bridge: &str,
        filter: &str,
    ) -> std::result::Result<Vec<FlowInfo>, ApiError> {
        let (bridge, filter) = (bridge.to_owned(), filter.to_owned());
        match self.call(Request::FlowDump { bridge, filter })? {
            Reply::Flows(list) => Ok(list),
            other => Err(strange(&other)),
        }
    }

    /// All counters by name, drops as `drop NAME`.
    pub fn counters(&self) -> std::result::Result<BTreeMap<String, u64>, ApiError> {
        let workers = match self.call(Request::Counters)? {
            Reply::Counters(workers) => workers,
            other => return Err(strange(&other)),
        };
        let mut all = BTreeMap::new();
        let mut add = |name: String, n: u64| *all.entry(name).or_default() += n;
        for w in workers {
            w.tiers.into_iter().chain(w.other).for_each(|c| add(c.name, c.count));
            w.drops.into_iter().for_each(|c| add(format!("drop {}", c.name), c.count));
        }
        Ok(all)
    }

    /// One counter; 0 if it never moved.
    pub fn counter(&self, name: &str) -> u64 {
        self.counters().ok().and_then(|all| all.get(name).copied()).unwrap_or(0)
    }

    /// What control, not a worker, counted.
    pub fn control_counter(&self, name: &str) -> u64 {
        match self.call(Request::Counters) {
            Ok(Reply::Counters(workers)) => {
                let mut all = workers.into_iter().flat_map(|w| w.control);
                all.find(|c| c.name == name).map_or(0, |c| c.count)
            }
            _ => 0,
        }
    }

    /// A way into the daemon's namespace.
    pub fn ns(&self) -> &crate::netns::Handle {
        &self.ns
    }
}

fn strange(reply: &Reply) -> ApiError {
    ApiError::new(ErrorCode::BadRequest, format!("another reply was expected: {reply:?}"), "")
}
