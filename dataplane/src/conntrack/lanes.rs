//! Eight numbers compared at once.
//!
//! # Boundary of the unsafe code
//! Inside: arithmetic of SSE2 on values, which only needs the processor to have it. No pointer.

#![allow(unsafe_code, reason = "island: instructions of SSE2")]

/// One bit for each place of `list` that holds `value`.
#[cfg(target_arch = "x86_64")]
#[inline(always)]
pub fn places(list: &[u32; 8], value: u32) -> u32 {
    use core::arch::x86_64::{
        _mm_cmpeq_epi32, _mm_movemask_epi8, _mm_packs_epi16, _mm_packs_epi32, _mm_set_epi32,
        _mm_set1_epi32,
    };
    let [a, b, c, d, e, f, g, h] = list.map(u32::cast_signed);
    // SAFETY: SSE2 is part of x86-64, and these instructions touch no memory.
    let bits = unsafe {
        let value = _mm_set1_epi32(value.cast_signed());
        let low = _mm_cmpeq_epi32(_mm_set_epi32(d, c, b, a), value);
        let high = _mm_cmpeq_epi32(_mm_set_epi32(h, g, f, e), value);
        let words = _mm_packs_epi32(low, high);
        _mm_movemask_epi8(_mm_packs_epi16(words, words))
    };
    bits.cast_unsigned() & 0xff
}

/// One bit for each place of `list` that holds `value`.
#[cfg(not(target_arch = "x86_64"))]
pub fn places(list: &[u32; 8], value: u32) -> u32 {
    one_by_one(list, value)
}

#[cfg(any(test, not(target_arch = "x86_64")))]
fn one_by_one(list: &[u32; 8], value: u32) -> u32 {
    list.iter().enumerate().fold(0, |bits, (i, v)| bits | u32::from(*v == value) << i)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #![proptest_config(ProptestConfig {
            failure_persistence: None, ..ProptestConfig::default()
        })]
        #[test]
        fn all_at_once_is_one_by_one(
            list in prop::array::uniform8(
                prop_oneof![Just(0u32), Just(u32::MAX), 0u32..3, any::<u32>()]
            ),
            value in prop_oneof![0u32..3, Just(u32::MAX), any::<u32>()],
        ) {
            prop_assert_eq!(places(&list, value), one_by_one(&list, value));
            for v in list {
                prop_assert_eq!(places(&list, v), one_by_one(&list, v));
            }
        }
    }
}
