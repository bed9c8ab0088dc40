//! The node's kernel: what it knows of the underlay, and what is to be set on its devices.
//!
//! Road: `wire` (bytes) <- `socket` (questions, events) <- `decode` (messages to data) <-
//! `underlay` (a snapshot, and the way to an address) <- `watch` (keeps it current). `device` sets,
//! `netns` stands elsewhere, `resolve` asks for neighbours, `reserved_ports` keeps the node off
//! NAT's ports. Nothing here runs in a worker.

pub mod decode;
pub mod device;
pub mod ethtool;
pub mod netns;
pub mod reserved_ports;
pub mod resolve;
pub mod socket;
#[cfg(test)]
mod tests;
pub mod underlay;
pub mod watch;
pub mod wire;

pub use device::configure_internal;
pub use reserved_ports::ReservedPorts;
pub use resolve::Resolver;
pub use socket::{NetlinkError, Socket};
pub use underlay::{
    Address, Link, Neighbour, NeighbourState, NoPath, Path, Route, RouteKind, Underlay,
};
pub use watch::UnderlayWatch;
