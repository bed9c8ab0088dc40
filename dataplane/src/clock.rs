//! Time is handed in, never asked for: a stage gets `Now` with its batch.
//!
//! A worker reads the clock once per batch; tests and the simulation hand in what they like.

/// Monotonic time.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Default)]
pub struct Now {
    /// Nanoseconds since an arbitrary start.
    pub ns: u64,
}

impl Now {
    #[inline]
    pub const fn from_ns(ns: u64) -> Self {
        Self { ns }
    }

    #[inline]
    pub const fn from_ms(ms: u64) -> Self {
        Self { ns: ms * 1_000_000 }
    }

    #[inline]
    pub const fn from_secs(s: u64) -> Self {
        Self { ns: s * 1_000_000_000 }
    }

    #[inline]
    pub const fn ms(self) -> u64 {
        self.ns / 1_000_000
    }

    /// Whole seconds; wraps after 136 years.
    #[inline]
    pub const fn secs(self) -> u32 {
        (self.ns / 1_000_000_000) as u32
    }

    #[inline]
    pub const fn plus_ms(self, ms: u64) -> Self {
        Self { ns: self.ns + ms * 1_000_000 }
    }
}
