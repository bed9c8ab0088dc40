//! Benches: what the rooms cost, one bench file per room.

pub mod tsc;
