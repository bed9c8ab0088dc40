//! sluice: control.

pub mod config;
