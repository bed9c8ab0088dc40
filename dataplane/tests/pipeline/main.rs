//! The pipeline as a whole, through its public door: programs in, packets in, packets out.

mod alg;
mod alg_streams;
mod atomic;
mod chance;
mod chance_verbs;
mod changes;
mod drops;
mod fragments;
mod fragments_whole;
mod groups;
mod headers;
mod kit;
mod learn;
mod meters;
mod nat;
mod packets;
mod punts;
mod resume;
mod resume_same;
mod robust;
mod same;
mod tracked;
mod tunnels;
mod turns;
mod verbs;
mod walk;
