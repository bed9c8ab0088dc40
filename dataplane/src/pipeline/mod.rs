//! From packet key to outputs.
//!
//! `program` is what control compiled: immutable, shared, one version per batch. `miss` walks its
//! tables for one packet and translates the flows' actions into steps (`verbs`, `headers`,
//! `commit`, `connect`, `tracked`, `normal`, `leave`, `group`, `set`, `stack`, `choose`, `learn`,
//! `punt`, `freeze`).
//! `lane` is all that a worker judges by, `run` the stage list of a batch: it serves packets from
//! the cache, sends the rest to the walk, and executes the steps. `trace` is the walk with an
//! observer that tells what it saw.
//!
//! This room is pure: it knows no port, no socket, no clock. Frames leave through the `Egress`
//! that the worker hands in.

pub mod actions;
mod adapt;
mod arrive;
mod asked;
mod check;
mod choose;
mod commit;
mod commits;
mod connect;
mod crowd;
mod delta;
mod events;
mod execute;
mod find;
mod first;
mod freeze;
mod group;
mod guards;
mod headers;
mod help;
mod hit;
mod hold;
mod home;
pub mod keymask;
pub mod lane;
mod learn;
mod leave;
mod mega;
pub mod miss;
mod normal;
mod opening;
mod owing;
pub mod packet_out;
mod pieces;
pub mod program;
pub mod punt;
mod receive;
mod resume;
pub mod rule;
mod run;
mod set;
mod settled;
mod stack;
pub mod trace;
mod tracked;
pub mod underlay;
mod upkeep;
mod veil;
mod verbs;
pub mod world;

pub use crate::conntrack::{Notice, Seat};
pub use crate::counters::RuleStats;
pub use actions::{Actions, Outline};
pub use first::First;
pub use freeze::{Continuation, METADATA, Punts};
pub use home::home_of;
pub use lane::{Egress, Lane, LaneConfig};
pub use packet_out::{PacketOut, PacketOutError};
pub use program::{Bridge, Port, PortRole, Program, RuleChange};
pub use resume::Resume;
pub use rule::{FlowStats, Rule, RuleIds};
pub use underlay::{NextHop, Underlay};
