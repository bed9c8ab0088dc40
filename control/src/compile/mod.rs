//! From what the operator wrote to what a worker reads: flows to rules, configuration to ports,
//! the kernel's tables to the tunnels' underlay.
//!
//! Everything here is a pure function of its input; nothing is opened, asked or changed.

pub mod lower;
pub mod lower_group;
mod lower_verbs;
pub mod outline;
mod ports;
mod underlay;

pub use ports::{Device, PortState, compile_port};
pub use underlay::compile_underlay;
