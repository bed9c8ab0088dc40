//! Benches: what the rooms cost, one bench file per room.

pub mod acl;
pub mod road;
pub mod tsc;
