//! `sluiced` live: real devices, real stacks, the real control socket.
//!
//! Each test has namespaces, a folder and daemons of its own, so that all may run at once. What a
//! test makes goes with it, whether it passes or not.

mod backends;
mod containers;
mod crowd;
mod flows;
mod fragments;
mod ftp;
mod kit;
mod lifecycle;
mod monitor;
mod nat;
mod overlay;
mod pmtu;
mod ports;
mod refused;
mod workers;
