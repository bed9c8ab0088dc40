//! sluice: all that touches a packet.

pub mod packet;
pub mod port;
pub mod sys;
pub mod xsk;
