//! Which chunks a socket has lent to the kernel: 2 KiB for 16 Ki frames, so it stays in the
//! first-level cache.

/// A set of chunk numbers: a bit each.
pub(super) struct ChunkSet {
    bits: Vec<u64>,
    count: usize,
}

impl ChunkSet {
    pub(super) fn new(chunks: u32) -> Self {
        Self { bits: vec![0; chunks.div_ceil(64) as usize], count: 0 }
    }

    pub(super) fn len(&self) -> usize {
        self.count
    }

    #[inline]
    pub(super) fn insert(&mut self, index: u32) {
        if let Some(word) = self.bits.get_mut(index as usize / 64) {
            debug_assert!(*word & (1 << (index % 64)) == 0, "chunk lent twice");
            *word |= 1 << (index % 64);
            self.count += 1;
        }
    }

    /// Takes a number out; `false` when it was not there.
    #[inline]
    pub(super) fn take(&mut self, index: u32) -> bool {
        let Some(word) = self.bits.get_mut(index as usize / 64) else { return false };
        let bit = 1 << (index % 64);
        let was = *word & bit != 0;
        *word &= !bit;
        self.count -= usize::from(was);
        was
    }

    pub(super) fn drain(&mut self) -> impl Iterator<Item = u32> {
        self.count = 0;
        self.bits.iter_mut().enumerate().flat_map(|(i, word)| {
            let bits = std::mem::take(word);
            (0..64).filter(move |bit| bits & (1 << bit) != 0).map(move |bit| i as u32 * 64 + bit)
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_chunk_set_gives_back_each_number_once() {
        let mut set = ChunkSet::new(130);
        [0, 63, 64, 129].into_iter().for_each(|i| set.insert(i));
        assert!(set.take(63) && !set.take(63) && !set.take(1) && !set.take(5000));
        assert_eq!(set.len(), 3);
        assert_eq!(set.drain().collect::<Vec<_>>(), [0, 64, 129]);
        assert_eq!((set.len(), set.drain().count()), (0, 0));
    }
}
