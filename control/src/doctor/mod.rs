//! What on this host would stop sluice, and what to do about it.

use serde::{Deserialize, Serialize};

/// Findings, in the order of the checks.
#[derive(Clone, Debug, Default, Deserialize, Serialize, PartialEq, Eq)]
pub struct Report {
    pub findings: Vec<Finding>,
}

#[derive(Clone, Debug, Deserialize, Serialize, PartialEq, Eq)]
pub struct Finding {
    pub level: Level,
    /// What was looked at: `kernel`, `device eth0: mtu`.
    pub what: String,
    /// What was found, and why it matters.
    pub why: String,
    /// What to do; empty when nothing is.
    pub fix: String,
}

#[derive(Clone, Copy, Debug, Deserialize, Serialize, PartialEq, Eq, PartialOrd, Ord)]
#[serde(rename_all = "lowercase")]
pub enum Level {
    Ok,
    Warn,
    Fail,
}
