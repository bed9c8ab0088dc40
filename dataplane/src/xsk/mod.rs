//! The AF_XDP door: packet memory, free frames, rings, sockets.
//!
//! One memory area (the UMEM) is shared by all ports of the process, cut into chunks of equal size.
//! A chunk is always in exactly one place:
//!
//! ```text
//!   FramePool --fill ring--> kernel --rx ring--> Frame in a worker's hands --> FramePool
//!       ^                                          |
//!       +---completion ring--- kernel <--tx ring---+
//! ```
//!
//! so `frames = free in pools + in hands + with the kernel` at all times, which tests check.
//! Source: Documentation/networking/af_xdp.rst and net/xdp/ of Linux 6.18.

pub mod burst;
mod held;
#[cfg(test)]
mod peer;
pub mod pool;
mod ring;
pub mod socket;
pub mod umem;
