//! Several workers: which of them tracks a connection.
//!
//! Each worker has its own connections, and no lock. A packet's *home* is the worker that a hash of
//! its tuple names: the same for both directions of a connection that is not translated, and the
//! same in all workers, for they share the hash's secret. A packet that arrives elsewhere is handed
//! over (`pipeline::home`), so one worker sees all of a connection.

use super::key::Tuple;

/// Which worker of how many.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Seat {
    pub worker: u8,
    pub workers: u8,
}

impl Default for Seat {
    /// The only one.
    fn default() -> Self {
        Self { worker: 0, workers: 1 }
    }
}

impl Seat {
    /// Whether there are others.
    #[inline]
    pub fn is_shared(self) -> bool {
        self.workers > 1
    }
}

/// What one worker tells another. Those of one sender are heard in the order in which they were
/// told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Notice {
    /// Packets of this tuple are the sender's, wherever their home is. A source port of 0 means any.
    Redirect { tuple: Tuple, from: u8 },
    /// One such notice of this sender's holds no longer.
    Withdraw { tuple: Tuple, from: u8 },
}
