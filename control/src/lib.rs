//! sluice: control.

pub mod attach;
pub mod config;
pub mod netlink;
pub mod pktgen;
