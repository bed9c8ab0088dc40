//! The control socket: `types` (what is said, with `info` and `event`), `listen` (the file),
//! `server`, `client`, and `switch`, the trait behind which the rest of the daemon stands.

pub mod client;
pub mod conns;
mod event;
#[cfg(test)]
pub mod fake;
mod info;
pub mod listen;
pub mod server;
pub mod switch;
#[cfg(test)]
pub(crate) mod tests;
pub mod types;

pub use client::{Client, ClientError};
pub use listen::{ControlSocket, ListenError};
pub use server::serve;
pub use switch::{ApiResult, Switch};
