//! Asking memory for a line before it is needed.
//!
//! A dependent miss to DRAM costs some 150 ns on the machines we measured, sixteen that are
//! asked for together some 13 ns each. Stages therefore prefetch for a whole batch first.
//!
//! # Boundary of the unsafe code
//! Inside: one instruction that reads nothing and faults on nothing, whatever its address.

#![allow(unsafe_code, reason = "island: the prefetch instruction")]

/// Asks for the cache line that holds the first byte of `value`.
#[inline(always)]
pub fn prefetch<T: ?Sized>(value: &T) {
    #[cfg(target_arch = "x86_64")]
    {
        use core::arch::x86_64::{_MM_HINT_T0, _mm_prefetch};
        let address = std::ptr::from_ref(value).cast::<i8>();
        // SAFETY: prefetch is a hint; it accesses no memory and cannot fault.
        unsafe { _mm_prefetch::<_MM_HINT_T0>(address) };
    }
    #[cfg(not(target_arch = "x86_64"))]
    let _ = value;
}
