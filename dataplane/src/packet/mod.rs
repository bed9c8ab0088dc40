//! A packet: its bytes (`frame`), what parsing found (`parse`, `key`), and the fields that flows
//! speak of (`field`).

pub mod build;
pub mod field;
pub mod frame;
pub mod key;
pub mod l4sum;
pub mod parse;
