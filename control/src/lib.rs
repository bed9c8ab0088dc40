//! sluice: control.

pub mod api;
pub mod attach;
pub mod cli;
pub mod compile;
pub mod config;
pub mod daemon;
pub mod doctor;
pub mod flow;
pub mod groups;
pub mod meters;
pub mod model;
pub mod netlink;
pub mod pktgen;
pub mod replay;
pub mod store;
pub mod switch;
