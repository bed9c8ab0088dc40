//! Random sequences of packets; filled next.
