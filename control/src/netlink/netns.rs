//! Standing in another network namespace, for the length of one function.
//!
//! A namespace belongs to a thread. So a fresh thread enters it, does the work, and ends: no pooled
//! thread can ever be left behind in the wrong namespace. Only `setns`, no new mount of `/sys`:
//! a mount would hide the BPF file system.

use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::thread;

use rustix::fs::{Mode, OFlags};
use rustix::thread::LinkNameSpaceType;

/// Opens a namespace: a name below `/run/netns`, or a path.
pub fn open(netns: &Path) -> io::Result<OwnedFd> {
    let path = path_of(netns);
    rustix::fs::open(&path, OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty()).map_err(|errno| {
        let text = format!(
            "network namespace {}: {errno}: make it first, as with `ip netns add`",
            path.display()
        );
        io::Error::new(io::Error::from(errno).kind(), text)
    })
}

/// The file of a namespace.
pub fn path_of(netns: &Path) -> PathBuf {
    if netns.is_absolute() { netns.to_owned() } else { Path::new("/run/netns").join(netns) }
}

/// Runs a function on a thread in that namespace.
pub fn run_in<T: Send>(netns: &OwnedFd, work: impl FnOnce() -> T + Send) -> io::Result<T> {
    on_thread(|| {
        let kind = Some(LinkNameSpaceType::Network);
        rustix::thread::move_into_link_name_space(netns.as_fd(), kind)?;
        Ok(work())
    })
}

/// Runs a function on a thread in a new, empty namespace, which ends with the thread unless
/// something else holds it.
pub fn run_in_new<T: Send>(work: impl FnOnce() -> T + Send) -> io::Result<T> {
    on_thread(|| {
        #[expect(deprecated, reason = "its danger is CLONE_FILES; a network namespace has none")]
        rustix::thread::unshare(rustix::thread::UnshareFlags::NEWNET)?;
        Ok(work())
    })
}

/// The namespace that this thread stands in.
pub fn current() -> io::Result<OwnedFd> {
    open(Path::new("/proc/thread-self/ns/net"))
}

fn on_thread<T: Send>(work: impl FnOnce() -> io::Result<T> + Send) -> io::Result<T> {
    thread::scope(|scope| match scope.spawn(work).join() {
        Ok(result) => result,
        Err(panic) => std::panic::resume_unwind(panic),
    })
}
