//! What must be gone at the end, however the end comes.
//!
//! Guards remove their own thing on drop, which covers a return and a panic. Ctrl-C and a
//! termination signal run no destructors: for them every guard is also entered in one list, and a
//! signal thread removes all that is in it before the process exits. A process that was killed
//! outright leaves its namespaces; names carry its pid, so the next run recognises and removes
//! them.

use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, Once, PoisonError};
use std::time::Duration;

use rustix::process::{Pid, Signal, WaitOptions, kill_process, waitpid};
use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};
use signal_hook::iterator::Signals;

use crate::netns;

/// A thing to remove.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Entry {
    Namespace(String),
    Process(i32),
    Folder(String),
    /// A file of the kernel's and what it said before.
    Setting(String, String),
}

static ENTRIES: Mutex<Vec<Entry>> = Mutex::new(Vec::new());
static HANDLER: Once = Once::new();
/// Set once the signal thread has begun: from then on nothing new may be started.
static CLOSING: AtomicBool = AtomicBool::new(false);

fn with_entries<T>(f: impl FnOnce(&mut Vec<Entry>) -> T) -> T {
    f(&mut ENTRIES.lock().unwrap_or_else(PoisonError::into_inner))
}

/// Keeps one entry in the list while it lives.
#[derive(Debug)]
pub struct Ticket(Entry);

impl Ticket {
    pub fn namespace(name: &str) -> Self {
        Self::enter(Entry::Namespace(name.to_owned()))
    }

    pub fn process(pid: u32) -> Self {
        Self::enter(Entry::Process(pid.cast_signed()))
    }

    pub fn folder(path: &Path) -> Self {
        Self::enter(Entry::Folder(path.to_string_lossy().into_owned()))
    }

    /// That `path`, a setting of the machine, is to say `text` again. Its owner writes it on drop.
    pub fn setting(path: &str, text: &str) -> Self {
        Self::enter(Entry::Setting(path.to_owned(), text.to_owned()))
    }

    fn enter(entry: Entry) -> Self {
        install_handler();
        with_entries(|all| all.push(entry.clone()));
        Self(entry)
    }
}

impl Drop for Ticket {
    fn drop(&mut self) {
        with_entries(|all| {
            if let Some(at) = all.iter().position(|e| *e == self.0) {
                all.swap_remove(at);
            }
        });
    }
}

/// Starts the thread that cleans up on a signal; further calls do nothing.
fn install_handler() {
    HANDLER.call_once(|| match Signals::new([SIGINT, SIGTERM, SIGHUP]) {
        Ok(mut signals) => {
            std::thread::spawn(move || {
                if let Some(signal) = signals.forever().next() {
                    eprintln!("\nsignal {signal}: removing namespaces and processes");
                    remove_all();
                    std::process::exit(128 + signal);
                }
            });
        }
        Err(error) => eprintln!("no cleanup on Ctrl-C: {error}"),
    });
}

/// Waits for ever if the cleanup has begun: what would be started now, nobody would end.
pub fn wait_if_closing() {
    while CLOSING.load(Ordering::SeqCst) {
        std::thread::park();
    }
}

/// Removes everything in the list: processes first (they hold devices), then namespaces.
fn remove_all() {
    CLOSING.store(true, Ordering::SeqCst);
    let entries = with_entries(|all| all.clone());
    for entry in &entries {
        if let Entry::Process(pid) = entry {
            terminate(*pid, Duration::from_millis(1500));
            // So that no zombie is left to whoever inherits it; its owner may have been quicker.
            let _ = waitpid(Pid::from_raw(*pid), WaitOptions::empty());
        }
    }
    for entry in &entries {
        match entry {
            Entry::Namespace(name) => netns::remove_by_name(name),
            // A folder that is gone already is what we want.
            Entry::Folder(path) => drop(std::fs::remove_dir_all(path)),
            Entry::Setting(path, text) => drop(std::fs::write(path, text)),
            Entry::Process(_) => {}
        }
    }
}

/// Asks a child to end, and ends it after `patience`. Does not reap it: its owner does.
pub fn terminate(pid: i32, patience: Duration) {
    let Some(target) = Pid::from_raw(pid) else { return };
    if kill_process(target, Signal::TERM).is_err() {
        return;
    }
    let step = Duration::from_millis(10);
    let mut waited = Duration::ZERO;
    while waited < patience {
        if !is_alive(pid) {
            return;
        }
        std::thread::sleep(step);
        waited += step;
    }
    // It may have ended since the last look; there is nothing left to do then.
    let _ = kill_process(target, Signal::KILL);
}

/// Whether a process exists and is no zombie.
pub fn is_alive(pid: i32) -> bool {
    let Ok(stat) = std::fs::read_to_string(format!("/proc/{pid}/stat")) else { return false };
    // The command's name is in parentheses and may hold anything; the state follows the last one.
    let state = stat.rsplit_once(')').and_then(|(_, rest)| rest.split_whitespace().next());
    !matches!(state, Some("Z" | "X") | None)
}

/// Removes namespaces of runs whose process is gone; returns their names.
pub fn remove_stale() -> Vec<String> {
    let mut removed = Vec::new();
    for name in netns::names() {
        let Some(pid) = netns::owner_of(&name) else { continue };
        if !Path::new(&format!("/proc/{pid}")).exists() {
            netns::remove_by_name(&name);
            removed.push(name);
        }
    }
    removed
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_ticket_is_listed_while_it_lives() {
        let entry = Entry::Namespace("slu-none-1-a".into());
        let listed = || with_entries(|all| all.contains(&entry));
        let ticket = Ticket::namespace("slu-none-1-a");
        assert!(listed());
        drop(ticket);
        assert!(!listed());
    }

    #[test]
    fn a_zombie_is_not_alive() {
        let mut child = std::process::Command::new("sleep").arg("30").spawn().unwrap();
        let pid = child.id().cast_signed();
        assert!(is_alive(pid));
        terminate(pid, Duration::from_secs(5));
        assert!(!is_alive(pid), "ended, though not reaped yet");
        child.wait().unwrap();
    }

    /// Not a test of its own: the child half of the next one.
    #[test]
    fn child_that_waits_to_be_interrupted() {
        if std::env::var_os(CHILD).is_none() {
            return;
        }
        let ns = netns::Namespace::new("interrupted").unwrap();
        let log = std::env::temp_dir().join(format!("{}.log", ns.name()));
        let mut sleeper = std::process::Command::new("sleep");
        let sleeper = crate::process::Process::start(&ns, sleeper.arg("60"), &log).unwrap();
        std::fs::remove_file(log).unwrap();
        // Standard error: the test harness captures only what print! writes.
        rustix::io::write(
            rustix::stdio::stderr(),
            format!("{} {}\n", sleeper.pid(), ns.name()).as_bytes(),
        )
        .unwrap();
        std::thread::sleep(Duration::from_secs(60));
    }

    const CHILD: &str = "SLUICE_TESTBED_INTERRUPTED_CHILD";

    #[test]
    fn an_interrupt_leaves_nothing_behind() {
        if !crate::root_or_skip("cleanup: interrupt") {
            return;
        }
        use std::io::BufRead;
        let mut child = std::process::Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "cleanup::tests::child_that_waits_to_be_interrupted"])
            .env(CHILD, "1")
            .stdout(std::process::Stdio::null())
            .stderr(std::process::Stdio::piped())
            .spawn()
            .unwrap();
        let mut line = String::new();
        std::io::BufReader::new(child.stderr.take().unwrap()).read_line(&mut line).unwrap();
        let (sleeper, name) = line.trim().split_once(' ').unwrap();
        let sleeper: i32 = sleeper.parse().unwrap();
        assert!(is_alive(sleeper) && netns::names().iter().any(|n| n == name));
        kill_process(Pid::from_raw(child.id().cast_signed()).unwrap(), Signal::INT).unwrap();
        assert_eq!(child.wait().unwrap().code(), Some(130));
        assert!(!is_alive(sleeper), "the sleeper lives");
        assert!(!netns::names().iter().any(|n| n == name), "{name} is left");
    }
}
