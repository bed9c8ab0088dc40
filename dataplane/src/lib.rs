//! sluice's dataplane: all that touches a packet.
//!
//! Rooms in the order of a packet's road; a room imports only from rooms before it
//! (`cargo xtask tidy` checks):
//!
//! `limits counters clock` <- `wire` <- `packet` <- {`classify` `conntrack` `tunnel` `fdb`} <-
//! `action` <- `cache` <- `pipeline` <- `worker`; and `sys` <- `xsk` <- `port` <- `worker`.
//!
//! Nothing here is async, reads a config file, or knows of `control`.

pub mod action;
pub mod cache;
pub mod classify;
pub mod clock;
pub mod conntrack;
pub mod counters;
pub mod fdb;
pub mod limits;
pub mod packet;
pub mod pipeline;
pub mod port;
pub mod prefetch;
pub mod sys;
pub mod tunnel;
pub mod wire;
pub mod worker;
pub mod xsk;
