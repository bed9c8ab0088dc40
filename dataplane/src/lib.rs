//! sluice: all that touches a packet.
