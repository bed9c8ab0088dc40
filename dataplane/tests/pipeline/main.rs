//! The pipeline as a whole, through its public door: programs in, packets in, packets out.

mod chance;
mod changes;
mod drops;
mod headers;
mod kit;
mod nat;
mod packets;
mod robust;
mod same;
mod tunnels;
mod walk;
