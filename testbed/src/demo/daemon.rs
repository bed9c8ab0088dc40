//! A node's `sluiced`, and `sluice` to ask it.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use serde::de::DeserializeOwned;
use sluice_control::api::types::{BridgeInfo, SwitchInfo};

use crate::netns::Namespace;
use crate::process::{Process, wait_until};
use crate::{Error, Result};

/// How long a daemon may take until all its ports are up.
const START_LIMIT: Duration = Duration::from_secs(15);

/// The daemon of one node.
#[derive(Debug)]
pub struct Daemon {
    name: &'static str,
    programs: PathBuf,
    config: PathBuf,
    socket: PathBuf,
    log: PathBuf,
    process: Option<Process>,
}

impl Daemon {
    /// Writes the node's configuration to `dir`: the file of the demo with its names made unique.
    pub fn prepare(
        name: &'static str,
        dir: &Path,
        programs: &Path,
        names: &[(&str, &str)],
    ) -> Result<Self> {
        let source = demo_folder().join(format!("{name}.toml"));
        let read = |path: &Path| {
            std::fs::read_to_string(path).map_err(Error::io(format!("read {}", path.display())))
        };
        let write = |path: &Path, text: &str| {
            std::fs::write(path, text).map_err(Error::io(format!("write {}", path.display())))
        };
        let socket = dir.join(format!("{name}.sock"));
        let own_socket = format!("/run/sluice/{name}.sock");
        let mut text = read(&source)?.replace(&own_socket, &socket.to_string_lossy());
        for (from, to) in names {
            text = text.replace(from, to);
        }
        let config = dir.join(format!("{name}.toml"));
        write(&config, &text)?;
        let flows = format!("{name}.flows");
        write(&dir.join(&flows), &read(&demo_folder().join(&flows))?)?;
        let (log, programs) = (dir.join(format!("{name}.log")), programs.to_owned());
        Ok(Self { name, programs, config, socket, log, process: None })
    }

    /// Starts it in the node's namespace and waits until its ports are up.
    pub fn start(&mut self, node: &Namespace) -> Result<SwitchInfo> {
        let mut command = Command::new(self.programs.join("sluiced"));
        command.arg("--config").arg(&self.config);
        let mut process = Process::start(node, &mut command, &self.log)?;
        let mut last = String::from("no answer yet");
        let ready = wait_until(&format!("{} ready", self.name), START_LIMIT, || {
            if let Some(status) = process.ended() {
                return Some(Err(format!("sluiced ended: {status}")));
            }
            match self.ask::<SwitchInfo>(&["show"]) {
                Ok(info) => {
                    let down = down_ports(&info.bridges);
                    last = format!("down: {}", down.join(", "));
                    down.is_empty().then_some(Ok(info))
                }
                Err(error) => {
                    last = error.to_string();
                    None
                }
            }
        });
        let failed =
            |why: String| Error::Unexpected(format!("{} ({why}): {}", self.name, tail(&self.log)));
        let info = ready.map_err(|_| failed(last.clone()))?.map_err(failed)?;
        self.process = Some(process);
        Ok(info)
    }

    /// `sluice --json WORDS`, as an operator would ask.
    pub fn ask<T: DeserializeOwned>(&self, words: &[&str]) -> Result<T> {
        let mut command = self.command();
        command.arg("--json").args(words);
        let text = crate::netns::run_command(&mut command)?;
        let wrong = |e| Error::Unexpected(format!("sluice {}: {e}: {text}", words.join(" ")));
        serde_json::from_str(&text).map_err(wrong)
    }

    fn command(&self) -> Command {
        let mut command = Command::new(self.programs.join("sluice"));
        command.arg("--socket").arg(&self.socket);
        command
    }

    /// How a person asks it, for `--keep`.
    pub fn shown_command(&self) -> String {
        format!("{} --socket {}", self.programs.join("sluice").display(), self.socket.display())
    }

    /// SIGKILL, as a crash.
    pub fn kill(&mut self) {
        if let Some(process) = &mut self.process {
            process.kill();
        }
        self.process = None;
    }

    pub fn keep(&mut self) {
        if let Some(process) = self.process.take() {
            process.keep();
        }
    }

    /// The end of its log.
    pub fn log_tail(&self) -> String {
        format!("{}:\n{}", self.name, tail(&self.log))
    }
}

/// Tunnel and patch ports have no device that could be down.
fn down_ports(bridges: &[BridgeInfo]) -> Vec<String> {
    let ports = bridges.iter().flat_map(|bridge| &bridge.ports);
    let down = ports.filter(|port| port.device.is_some() && !port.up);
    down.map(|port| format!("{} ({})", port.name, port.status)).collect()
}

fn tail(log: &Path) -> String {
    let text = std::fs::read_to_string(log).unwrap_or_default();
    let lines: Vec<&str> = text.lines().collect();
    lines.get(lines.len().saturating_sub(20)..).unwrap_or_default().join("\n")
}

/// Where the nodes' files are: beside this package's manifest.
fn demo_folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("demo")
}
