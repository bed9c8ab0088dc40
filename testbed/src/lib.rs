//! The testbed: real kernels' network stacks around the switch, on one machine.
//!
//! `netns` makes namespaces that vanish with their owner, `veth` joins them, `process` runs
//! programs in them, `traffic` drives kernel sockets in them, `capture` watches a device. Nothing
//! here touches the host's own interfaces.

pub mod bench;
pub mod books;
pub mod capture;
pub mod chance;
pub mod cleanup;
pub mod demo;
pub mod differ;
pub mod host;
pub mod netns;
pub mod process;
pub mod scratch;
pub mod sluiced;
pub mod soak;
pub mod traffic;
pub mod vector;
pub mod veth;

/// What can go wrong while a scene is set up or played.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("{what}: {source}")]
    Io { what: String, source: std::io::Error },
    #[error("`{command}` failed ({status}): {stderr}")]
    Command { command: String, status: String, stderr: String },
    #[error("{what}: not within {limit_ms} ms")]
    Timeout { what: String, limit_ms: u64 },
    #[error("{0}")]
    Unexpected(String),
}

pub type Result<T, E = Error> = std::result::Result<T, E>;

impl Error {
    /// Wraps an I/O error with the thing that was tried.
    pub fn io(what: impl Into<String>) -> impl FnOnce(std::io::Error) -> Self {
        let what = what.into();
        move |source| Self::Io { what, source }
    }
}

/// Whether this process may make namespaces and devices.
pub fn is_root() -> bool {
    rustix::process::geteuid().is_root()
}

/// For tests that need root: false, with a line that `cargo xtask test` counts as skipped.
pub fn root_or_skip(test: &str) -> bool {
    let root = is_root();
    if !root {
        eprintln!("skipped: {test} needs root (network namespaces)");
    }
    root
}
