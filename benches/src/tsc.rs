//! Time in cycles of the time stamp counter, the unit of the published figures.
//!
//! The counter runs at a constant rate, not at the core's: it is wall time in a finer unit. What
//! counts is the least of several rounds, since everything that disturbs only adds.
//!
//! # Boundary of the unsafe code
//! Reading the counter: no memory is touched.

#![allow(unsafe_code, reason = "island: the instruction that reads the time stamp counter")]

use std::hint::black_box;

const ROUNDS: usize = 15;
const CALLS: u64 = 200_000;

/// The counter; 0 where there is none.
#[inline]
pub fn now() -> u64 {
    #[cfg(target_arch = "x86_64")]
    // SAFETY: every x86-64 processor has the instruction, and Linux lets users run it.
    unsafe {
        std::arch::x86_64::_rdtsc()
    }
    #[cfg(not(target_arch = "x86_64"))]
    0
}

/// Cycles of one call, loop included: the median and the least of the rounds.
pub fn cycles<T>(mut f: impl FnMut() -> T) -> (f64, f64) {
    let mut rounds = [0.0f64; ROUNDS];
    for round in &mut rounds {
        let start = now();
        for _ in 0..CALLS {
            black_box(f());
        }
        *round = (now() - start) as f64 / CALLS as f64;
    }
    rounds.sort_by(f64::total_cmp);
    (rounds[ROUNDS / 2], rounds[0])
}

/// Whether `cargo bench` runs us; without its word criterion only tests that each bench runs.
pub fn is_measuring() -> bool {
    std::env::args().any(|arg| arg == "--bench")
}
