//! Running other programs, and where the workspace is.

use std::env;
use std::path::PathBuf;
use std::process::{Command, Stdio};

/// The workspace's top folder.
pub fn root() -> PathBuf {
    let fallback = env!("CARGO_MANIFEST_DIR");
    let own = env::var_os("CARGO_MANIFEST_DIR").map_or_else(|| fallback.into(), PathBuf::from);
    own.parent().map(PathBuf::from).unwrap_or(own)
}

/// The cargo that runs us.
pub fn cargo() -> Command {
    let mut command = Command::new(env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    command.current_dir(root());
    // What cargo told us about ourselves would make it rebuild things for its child.
    for (key, _) in env::vars_os() {
        if key.to_str().is_some_and(|k| k.starts_with("CARGO_PKG_") || k == "CARGO_MANIFEST_DIR") {
            command.env_remove(key);
        }
    }
    command
}

/// Runs to the end with our own input and output.
pub fn run(command: &mut Command) -> Result<(), String> {
    let shown = show(command);
    let status = command.status().map_err(|e| format!("`{shown}` does not start: {e}"))?;
    if status.success() { Ok(()) } else { Err(format!("`{shown}`: {status}")) }
}

/// Runs to the end; its standard output.
pub fn read(command: &mut Command) -> Result<String, String> {
    let shown = show(command);
    let out = command.stderr(Stdio::inherit()).output();
    let out = out.map_err(|e| format!("`{shown}` does not start: {e}"))?;
    if !out.status.success() {
        return Err(format!("`{shown}`: {}", out.status));
    }
    Ok(String::from_utf8_lossy(&out.stdout).into_owned())
}

fn show(command: &Command) -> String {
    let words: Vec<_> = std::iter::once(command.get_program())
        .chain(command.get_args())
        .map(|word| word.to_string_lossy())
        .collect();
    words.join(" ")
}

/// Whether a program of this name is on the path or where administrators' programs are.
pub fn has_program(name: &str) -> bool {
    let path = env::var_os("PATH").unwrap_or_default();
    let extra = ["/usr/sbin", "/sbin"].map(PathBuf::from);
    env::split_paths(&path).chain(extra).any(|dir| dir.join(name).is_file())
}

pub fn is_root() -> bool {
    // No library for one number: the owner of our own entry in /proc is our effective user.
    let owner = std::fs::metadata("/proc/self").map(|m| std::os::unix::fs::MetadataExt::uid(&m));
    owner.is_ok_and(|uid| uid == 0)
}
