//! sluice: control.

pub mod api;
pub mod attach;
pub mod cli;
pub mod config;
pub mod doctor;
pub mod flow;
pub mod netlink;
pub mod pktgen;
