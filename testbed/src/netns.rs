//! Network namespaces with an owner.
//!
//! A namespace is made by `ip netns add` under a name of its own (`slu-PID-N-LABEL`), so that a
//! person can look into it (`ip -n NAME addr`), and is removed with everything in it on drop.
//!
//! Entering: a network namespace belongs to a thread, and a child inherits that of the thread that
//! forks it. So work inside a namespace is done by a thread that called setns(2) and ends after it;
//! the caller's own thread never moves. `ip netns exec` is not used: it mounts a new /sys and
//! thereby hides bpffs from the programs it runs. The price: /sys/class/net inside shows the host's
//! devices; programs under test ask by netlink.

use std::fs::File;
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Once};

use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};

use crate::cleanup::{self, Ticket};
use crate::{Error, Result};

/// Where iproute2 keeps named namespaces.
const NETNS_DIR: &str = "/run/netns";
const PREFIX: &str = "slu-";
const KEPT_PREFIX: &str = "kept-";

static NEXT: AtomicU32 = AtomicU32::new(1);
static STALE: Once = Once::new();

/// A network namespace, removed on drop unless it is kept.
#[derive(Debug)]
pub struct Namespace {
    name: String,
    file: Arc<File>,
    ticket: Option<Ticket>,
}

impl Namespace {
    /// Makes a namespace with its loopback up. `label` is for people: `node1`, `ns3`.
    pub fn new(label: &str) -> Result<Self> {
        Self::with_prefix(PREFIX, label)
    }

    /// As `new`, under a name that a later run does not take for a leftover; see `keep`.
    pub fn new_keepable(label: &str) -> Result<Self> {
        Self::with_prefix(KEPT_PREFIX, label)
    }

    fn with_prefix(prefix: &str, label: &str) -> Result<Self> {
        cleanup::wait_if_closing();
        STALE.call_once(|| drop(cleanup::remove_stale()));
        let n = NEXT.fetch_add(1, Ordering::Relaxed);
        let name = format!("{prefix}{}-{n}-{label}", std::process::id());
        let ticket = Ticket::namespace(&name);
        run_command(Command::new("ip").args(["netns", "add", &name]))?;
        let path = Path::new(NETNS_DIR).join(&name);
        let file = File::open(&path).map_err(Error::io(format!("open {}", path.display())))?;
        let made = Self { name, file: Arc::new(file), ticket: Some(ticket) };
        made.ip("link set lo up")?;
        Ok(made)
    }

    pub fn name(&self) -> &str {
        &self.name
    }

    /// The bind mount that names it; a path that `ip link set ... netns` and sluiced understand.
    pub fn path(&self) -> PathBuf {
        path_of(&self.name)
    }

    /// Something that can enter this namespace from another thread, for as long as it lives.
    pub fn handle(&self) -> Handle {
        Handle { file: Arc::clone(&self.file) }
    }

    /// Runs `f` on a thread inside and waits for it. A panic in `f` goes on in the caller.
    pub fn run<T: Send>(&self, f: impl FnOnce() -> T + Send) -> T {
        self.handle().run(f)
    }

    /// `ip ARGS` inside; words are split at spaces. Returns what it printed.
    pub fn ip(&self, args: &str) -> Result<String> {
        let mut command = Command::new("ip");
        command.args(["-n", &self.name]).args(args.split_whitespace());
        run_command(&mut command)
    }

    /// Runs a program inside, to its end; an exit code other than 0 is an error.
    pub fn exec(&self, program: &str, args: &[&str]) -> Result<String> {
        self.run(|| run_command(Command::new(program).args(args)))
    }

    /// Runs a program inside, to its end, whatever its exit code.
    pub fn output(&self, command: &mut Command) -> Result<Output> {
        let what = format!("start {command:?}");
        self.run(|| command.stdin(Stdio::null()).output()).map_err(Error::io(what))
    }

    /// Writes a sysctl of this namespace, such as `net.ipv4.ip_forward`.
    pub fn sysctl(&self, key: &str, value: &str) -> Result<()> {
        // /proc/sys/net shows the namespace of the thread that looks.
        let path = format!("/proc/sys/{}", key.replace('.', "/"));
        self.run(|| std::fs::write(&path, value)).map_err(Error::io(format!("write {path}")))
    }

    /// No IPv6, hence no neighbour discovery or MLD packets between those of a test.
    pub fn quiet(&self) -> Result<()> {
        self.sysctl("net.ipv6.conf.all.disable_ipv6", "1")?;
        self.sysctl("net.ipv6.conf.default.disable_ipv6", "1")
    }

    /// Leaves the namespace standing when this value goes.
    pub fn keep(&mut self) {
        self.ticket = None;
    }
}

impl Drop for Namespace {
    fn drop(&mut self) {
        if self.ticket.is_some() {
            remove_by_name(&self.name);
        }
    }
}

/// A way into a namespace. While one lives the kernel keeps the namespace, named or not.
#[derive(Clone, Debug)]
pub struct Handle {
    file: Arc<File>,
}

impl Handle {
    /// See [`Namespace::run`].
    pub fn run<T: Send>(&self, f: impl FnOnce() -> T + Send) -> T {
        let joined = std::thread::scope(|scope| {
            scope
                .spawn(|| {
                    self.enter();
                    f()
                })
                .join()
        });
        joined.unwrap_or_else(|panic| std::panic::resume_unwind(panic))
    }

    /// A thread inside that outlives the caller.
    pub fn spawn<T: Send + 'static>(
        &self,
        f: impl FnOnce() -> T + Send + 'static,
    ) -> std::thread::JoinHandle<T> {
        let inside = self.clone();
        std::thread::spawn(move || {
            inside.enter();
            drop(inside);
            f()
        })
    }

    /// Moves the calling thread in. Only for threads that end inside.
    fn enter(&self) {
        move_into_link_name_space(self.file.as_fd(), Some(LinkNameSpaceType::Network))
            .expect("setns into a namespace that this process holds open, as root");
    }
}

/// Where a namespace of this name is mounted.
pub fn path_of(name: &str) -> PathBuf {
    Path::new(NETNS_DIR).join(name)
}

/// Names of all namespaces that iproute2 knows here.
pub fn names() -> Vec<String> {
    let Ok(dir) = std::fs::read_dir(NETNS_DIR) else { return Vec::new() };
    dir.flatten().filter_map(|entry| entry.file_name().into_string().ok()).collect()
}

/// The pid in the name of a namespace that a testbed made and does not keep.
pub fn owner_of(name: &str) -> Option<u32> {
    name.strip_prefix(PREFIX)?.split('-').next()?.parse().ok()
}

/// Names of the namespaces that runs with `--keep` left standing, and that nobody owns any more.
pub fn kept() -> Vec<String> {
    let abandoned = |name: &String| {
        let rest = name.strip_prefix(KEPT_PREFIX);
        let pid = rest.and_then(|r| r.split('-').next()).and_then(|p| p.parse::<u32>().ok());
        pid.is_some_and(|pid| !Path::new(&format!("/proc/{pid}")).exists())
    };
    names().into_iter().filter(abandoned).collect()
}

/// Ends the processes that live in the namespace and removes it. Never fails: it runs in cleanups.
pub fn remove_by_name(name: &str) {
    if !Path::new(NETNS_DIR).join(name).exists() {
        return;
    }
    let own = std::process::id().cast_signed();
    let pids = Command::new("ip").args(["netns", "pids", name]).output();
    let text = pids.map(|out| String::from_utf8_lossy(&out.stdout).into_owned());
    for pid in text.unwrap_or_default().split_whitespace().filter_map(|p| p.parse().ok()) {
        if pid != own {
            cleanup::terminate(pid, std::time::Duration::from_millis(1500));
        }
    }
    if let Err(error) = run_command(Command::new("ip").args(["netns", "del", name])) {
        eprintln!("could not remove namespace {name}: {error}");
    }
}

/// Runs a command to its end and returns its standard output.
pub(crate) fn run_command(command: &mut Command) -> Result<String> {
    let shown = || {
        let words: Vec<_> = std::iter::once(command.get_program())
            .chain(command.get_args())
            .map(|w| w.to_string_lossy().into_owned())
            .collect();
        words.join(" ")
    };
    let shown = shown();
    let out = command.stdin(Stdio::null()).output().map_err(Error::io(format!("run {shown}")))?;
    if !out.status.success() {
        let stderr = String::from_utf8_lossy(&out.stderr).trim().to_owned();
        return Err(Error::Command { command: shown, status: out.status.to_string(), stderr });
    }
    Ok(String::from_utf8_lossy(&out.stdout).into_owned())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::root_or_skip;

    fn exists(name: &str) -> bool {
        names().iter().any(|n| n == name)
    }

    #[test]
    fn it_is_there_while_owned_and_gone_after_a_panic() {
        if !root_or_skip("netns: gone after a panic") {
            return;
        }
        let name = std::sync::Mutex::new(String::new());
        let result = std::panic::catch_unwind(|| {
            let ns = Namespace::new("panic").unwrap();
            name.lock().unwrap().push_str(ns.name());
            assert!(exists(ns.name()));
            let here = std::fs::read_link("/proc/self/ns/net").unwrap();
            let there = ns.run(|| std::fs::read_link("/proc/thread-self/ns/net").unwrap());
            assert_ne!(here, there);
            assert_eq!(here, std::fs::read_link("/proc/thread-self/ns/net").unwrap());
            panic!("expected by the test");
        });
        assert!(result.is_err());
        let name = name.into_inner().unwrap_or_else(|poisoned| poisoned.into_inner());
        assert!(name.starts_with("slu-") && !exists(&name), "{name} is left");
    }

    #[test]
    fn a_leftover_of_a_dead_process_is_removed_and_ours_is_not() {
        if !root_or_skip("netns: leftovers") {
            return;
        }
        let ours = Namespace::new("ours").unwrap();
        // Above the largest pid that Linux gives.
        let stale = format!("slu-{}-1-x", (1 << 22) + 1);
        run_command(Command::new("ip").args(["netns", "add", &stale])).unwrap();
        cleanup::remove_stale();
        assert!(!exists(&stale));
        assert!(exists(ours.name()));
    }

    #[test]
    fn a_program_inside_sees_the_namespace_and_its_failure_is_told() {
        if !root_or_skip("netns: exec") {
            return;
        }
        let ns = Namespace::new("exec").unwrap();
        let links = ns.exec("ip", &["-o", "link"]).unwrap();
        assert_eq!(links.lines().count(), 1, "only the loopback: {links}");
        let error = ns.exec("ip", &["link", "show", "none0"]).unwrap_err().to_string();
        assert!(
            error.contains("ip link show none0") && error.contains("does not exist"),
            "{error}"
        );
        ns.sysctl("net.ipv4.ip_forward", "1").unwrap();
        assert_eq!(ns.exec("cat", &["/proc/sys/net/ipv4/ip_forward"]).unwrap().trim(), "1");
    }

    #[test]
    fn names_tell_their_owner() {
        assert_eq!(owner_of("slu-123-4-node1"), Some(123));
        assert_eq!(owner_of("slu-x-4-node1"), None);
        assert_eq!(owner_of("kept-123-4-node1"), None);
        assert_eq!(owner_of("blue"), None);
    }
}
