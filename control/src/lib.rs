//! sluice: control.
