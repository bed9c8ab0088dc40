//! The pipeline as a whole, through its public door: programs in, packets in, packets out.

mod kit;
mod packets;
mod walk;
