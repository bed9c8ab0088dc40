//! A program that runs in a namespace in the background, with its output in a file.
//!
//! The child gets a process group of its own, so that Ctrl-C reaches only us and we end it in
//! order.

use std::fs::File;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use crate::cleanup::{self, Ticket, terminate};
use crate::netns::Namespace;
use crate::{Error, Result};

/// How long an asked process may take to end before it is killed.
const PATIENCE: Duration = Duration::from_secs(3);

/// A running child, ended on drop.
#[derive(Debug)]
pub struct Process {
    child: Child,
    label: String,
    log: PathBuf,
    ticket: Option<Ticket>,
}

impl Process {
    /// Starts `command` inside `ns`; both its outputs go to `log`.
    pub fn start(ns: &Namespace, command: &mut Command, log: &Path) -> Result<Self> {
        cleanup::wait_if_closing();
        let label = command.get_program().to_string_lossy().into_owned();
        let opened = File::options().create(true).append(true).open(log);
        let out = opened.map_err(Error::io(format!("open {}", log.display())))?;
        let err = out.try_clone().map_err(Error::io("duplicate the log's descriptor"))?;
        command.stdin(Stdio::null()).stdout(out).stderr(err).process_group(0);
        let child = ns.run(|| command.spawn()).map_err(Error::io(format!("start {label}")))?;
        let ticket = Some(Ticket::process(child.id()));
        Ok(Self { child, label, log: log.to_owned(), ticket })
    }

    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// What it has written so far.
    pub fn output(&self) -> String {
        std::fs::read(&self.log)
            .map(|b| String::from_utf8_lossy(&b).into_owned())
            .unwrap_or_default()
    }

    /// Its exit status, if it has ended.
    pub fn ended(&mut self) -> Option<ExitStatus> {
        self.child.try_wait().ok().flatten()
    }

    /// Waits until it ends by itself.
    pub fn wait(&mut self, limit: Duration) -> Result<ExitStatus> {
        wait_until(&format!("end of {}", self.label), limit, || self.ended())
    }

    /// SIGKILL, as a crash would look; returns when it is gone.
    pub fn kill(&mut self) {
        // Both fail only for a child that has been reaped already.
        let _ = self.child.kill();
        let _ = self.child.wait();
        self.ticket = None;
    }

    /// SIGTERM, then SIGKILL; returns when it is gone.
    pub fn stop(&mut self) {
        if self.ended().is_none() {
            terminate(self.pid().cast_signed(), PATIENCE);
        }
        self.kill();
    }

    /// Leaves it running when this value goes.
    pub fn keep(mut self) {
        self.ticket = None;
        std::mem::forget(self);
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        self.stop();
    }
}

/// Asks `probe` every 10 ms until it gives something.
pub fn wait_until<T>(
    what: &str,
    limit: Duration,
    mut probe: impl FnMut() -> Option<T>,
) -> Result<T> {
    let start = Instant::now();
    loop {
        if let Some(found) = probe() {
            return Ok(found);
        }
        if start.elapsed() >= limit {
            let limit_ms = limit.as_millis().try_into().unwrap_or(u64::MAX);
            return Err(Error::Timeout { what: what.to_owned(), limit_ms });
        }
        std::thread::sleep(Duration::from_millis(10));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cleanup::is_alive;
    use crate::root_or_skip;

    #[test]
    fn it_ends_with_its_owner_and_its_output_is_kept() {
        if !root_or_skip("process") {
            return;
        }
        let ns = Namespace::new("proc").unwrap();
        let log = std::env::temp_dir().join(format!("{}.log", ns.name()));
        let mut sleeper = Command::new("sh");
        sleeper.args(["-c", "echo begun; exec sleep 60"]);
        let process = Process::start(&ns, &mut sleeper, &log).unwrap();
        let pid = process.pid().cast_signed();
        let begun = || process.output().contains("begun").then_some(());
        wait_until("first line", Duration::from_secs(5), begun).unwrap();
        assert!(is_alive(pid));
        drop(process);
        assert!(!is_alive(pid));
        std::fs::remove_file(log).unwrap();
    }

    #[test]
    fn waiting_gives_up() {
        let never = || None::<()>;
        let error = wait_until("a sign", Duration::from_millis(20), never).unwrap_err();
        assert_eq!(error.to_string(), "a sign: not within 20 ms");
    }
}
