//! Benches: what the rooms cost, one bench file per room.

pub mod road;
pub mod tsc;
