//! From bytes to offsets and a flow key.

pub mod frame;
