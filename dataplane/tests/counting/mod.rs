//! An allocator that counts its calls, of each thread by itself.
//!
//! The tests' runner has a thread of its own, which allocates when it pleases: it says which tests
//! take longer than a minute, and which have ended.

#![allow(unsafe_code, reason = "a global allocator is unsafe to implement; this one only counts")]

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;

struct Counting;

thread_local! {
    // Made without a call of the allocator, and never taken down.
    static CALLS: Cell<u64> = const { Cell::new(0) };
}

/// Allocations and frees of this thread so far.
pub fn calls() -> u64 {
    CALLS.get()
}

// SAFETY: passes every call on to the system's allocator, unchanged.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        CALLS.set(CALLS.get() + 1);
        // SAFETY: the caller's promise is the system allocator's condition.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, at: *mut u8, layout: Layout) {
        CALLS.set(CALLS.get() + 1);
        // SAFETY: `at` came from `alloc` above, that is from the system's allocator.
        unsafe { System.dealloc(at, layout) }
    }
}

#[global_allocator]
static COUNTING: Counting = Counting;
