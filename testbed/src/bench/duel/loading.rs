//! How long rules take until they are in force, by our daemon's own control socket.
//!
//! The time is that of the operator's command, from its start: it reads the file, the daemon parses
//! it, makes the change, compiles, and hands the program over, and answers when its worker judges
//! by it. As a proof that the last rule is in force a packet for it is traced.

use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use super::WORKER_CPU;
use crate::bench::forwarder::own_program;
use crate::netns::{Namespace, run_command};
use crate::process::{Process, wait_until};
use crate::scratch::Scratch;
use crate::{Error, Result};

const START_LIMIT: Duration = Duration::from_secs(15);

/// Loads a file of rules into a fresh daemon.
pub fn load(rules: &Path) -> Result<Duration> {
    let (ns, folder) = (Namespace::new("loading")?, Scratch::new("loading")?);
    let socket = folder.path().join("sluice.sock");
    let port = |n| format!("[[bridge.port]]\nname = \"p{n}\"\nnumber = {n}\ntype = \"internal\"\n");
    let config = format!(
        "[daemon]\ncontrol_socket = \"{}\"\nworkers = 1\ncpus = [{WORKER_CPU}]\n\n\
         [[bridge]]\nname = \"br0\"\nlocal = false\n{}{}",
        socket.display(),
        port(1),
        port(2),
    );
    let file = folder.write("sluiced.toml", &config)?;
    let mut daemon = Command::new(own_program("sluiced"));
    daemon.arg("--config").arg(file);
    let mut process = Process::start(&ns, &mut daemon, &folder.path().join("sluiced.log"))?;
    let sluice = |words: &[&str]| {
        let mut command = Command::new(own_program("sluice"));
        command.arg("--socket").arg(&socket).args(["--timeout", "120"]).args(words);
        ns.run(|| run_command(&mut command))
    };
    let up = wait_until("sluiced's answer", START_LIMIT, || match process.ended() {
        Some(status) => Some(Err(status)),
        None => sluice(&["show"]).is_ok().then_some(Ok(())),
    });
    if !matches!(up, Ok(Ok(()))) {
        let log = process.output();
        return Err(Error::Unexpected(format!("sluiced did not start ({up:?}):\n{log}")));
    }
    let start = Instant::now();
    sluice(&["flow", "add", "br0", "--file", &rules.to_string_lossy()])?;
    let took = start.elapsed();
    prove(rules, &sluice)?;
    Ok(took)
}

/// Traces a packet that the last exact rule of the file is for.
fn prove(rules: &Path, sluice: &dyn Fn(&[&str]) -> Result<String>) -> Result<()> {
    let text = std::fs::read_to_string(rules).map_err(Error::io(rules.display().to_string()))?;
    let exact = text.lines().rev().find(|l| l.contains("tp_dst="));
    let fields = exact.and_then(|l| l.split_once("udp,")?.1.split_once(",actions"));
    let Some((fields, _)) = fields else {
        return Err(Error::Unexpected("no exact rule to trace".to_owned()));
    };
    let packet = format!(
        "in_port=1,dl_src=02:00:00:00:00:01,dl_dst=02:00:00:00:00:02,udp,{fields},nw_ttl=64"
    );
    let trace = sluice(&["trace", "br0", &packet])?;
    if trace.contains(fields) {
        return Ok(());
    }
    Err(Error::Unexpected(format!("the last rule ({fields}) is not in force:\n{trace}")))
}
