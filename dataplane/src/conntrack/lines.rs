//! Arrays whose records do not straddle cache lines: zeroed, never grown, and touched page by page
//! as they are used.
//!
//! A new connection looks into such arrays some thirty times, so a look is a comparison and a
//! multiplication: the memory begins at a page, and knows how many records it has.
//!
//! # Boundary of the unsafe code
//! Inside: a view of a private, zeroed mapping as a slice of records. They are of types that any
//! bytes are a value of (`FromBytes`), the mapping is as long as the slice says and lives as long
//! as its owner, and the owner's borrow is the slice's: nobody else has access.

#![allow(unsafe_code, reason = "island: a mapping seen as records")]

use crate::sys::{Mapping, advise_huge_pages};
use std::alloc::{Layout, handle_alloc_error};
use std::marker::PhantomData;
use zerocopy::{FromBytes, Immutable, IntoBytes};

/// The records.
pub(super) struct Lines<T> {
    memory: Mapping,
    len: usize,
    records: PhantomData<T>,
}

impl<T: FromBytes + IntoBytes + Immutable> Lines<T> {
    const FITS: () = assert!(64 % size_of::<T>() == 0 && 64 % align_of::<T>() == 0);

    /// So many, and one at least. Ends the process if there is no room for them in its addresses,
    /// as a vector would.
    pub fn new(len: usize) -> Self {
        let () = Self::FITS;
        let len = len.max(1);
        let Ok(memory) = Mapping::anonymous(len.saturating_mul(size_of::<T>()), false) else {
            handle_alloc_error(Layout::new::<T>())
        };
        let mut lines = Self { memory, len, records: PhantomData };
        advise_huge_pages(lines.all_mut());
        lines
    }

    pub fn bytes(&self) -> usize {
        self.len * size_of::<T>()
    }

    #[inline(always)]
    fn all(&self) -> &[T] {
        // SAFETY: the mapping is `len` records long, page aligned and initialised; any bytes are a
        // `T`; writing takes `&mut self`.
        unsafe { std::slice::from_raw_parts(self.memory.base().cast::<T>().as_ptr(), self.len) }
    }

    #[inline(always)]
    fn all_mut(&mut self) -> &mut [T] {
        // SAFETY: as in `all`, and `self` is borrowed mutably as long as the slice.
        unsafe { std::slice::from_raw_parts_mut(self.memory.base().cast::<T>().as_ptr(), self.len) }
    }

    /// A record; beyond the array, where no index in use is, the first one.
    #[inline(always)]
    pub fn get(&self, ix: usize) -> &T {
        let all = self.all();
        debug_assert!(ix < all.len(), "index beyond the table");
        // SAFETY: there is one at least, by `new`.
        all.get(ix).unwrap_or_else(|| unsafe { all.get_unchecked(0) })
    }

    /// `None` beyond the array.
    #[inline(always)]
    pub fn get_mut(&mut self, ix: usize) -> Option<&mut T> {
        debug_assert!(ix < self.len, "index beyond the table");
        self.all_mut().get_mut(ix)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn records_are_zero_apart_and_begin_at_lines() {
        let mut lines = Lines::<[u64; 8]>::new(100);
        assert_eq!(lines.bytes(), 6400);
        for ix in 0..100 {
            assert_eq!(std::ptr::from_ref(lines.get(ix)).addr() % 64, 0);
            assert_eq!(*lines.get(ix), [0; 8]);
            *lines.get_mut(ix).unwrap() = [ix as u64; 8];
        }
        assert!((0..100).all(|ix| *lines.get(ix) == [ix as u64; 8]));
    }

    #[test]
    fn an_empty_array_has_one_record_for_who_looks_beyond() {
        let lines = Lines::<[u64; 4]>::new(0);
        assert_eq!((*lines.get(0), lines.bytes()), ([0; 4], 32));
    }
}
