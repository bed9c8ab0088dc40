//! A packet generator and sink over AF_PACKET sockets.

pub mod socket;
