//! Choices that a seed decides: the same seed, the same programs on every machine.
//!
//! The generator is SplitMix64 (Steele, Lea and Flood, 2014): one word of state, every seed good.

/// A source of choices.
#[derive(Clone, Debug)]
pub struct Chance(u64);

impl Chance {
    pub fn new(seed: u64) -> Self {
        Self(seed)
    }

    /// The choices of one case of a run, which no other case disturbs.
    pub fn of_case(seed: u64, case: u64) -> Self {
        let mut own = Self::new(seed ^ case.wrapping_mul(0xd134_2543_de82_ef95));
        own.bits();
        own
    }

    pub fn bits(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    pub fn wide(&mut self) -> u128 {
        u128::from(self.bits()) << 64 | u128::from(self.bits())
    }

    /// A number below `n`; 0 if there is none.
    pub fn below(&mut self, n: u64) -> u64 {
        if n == 0 { 0 } else { self.bits() % n }
    }

    pub fn within(&mut self, lo: u64, hi: u64) -> u64 {
        lo + self.below(hi + 1 - lo)
    }

    /// True `percent` times in a hundred.
    pub fn percent(&mut self, percent: u64) -> bool {
        self.below(100) < percent
    }

    /// One of a list that is not empty.
    pub fn pick<'a, T>(&mut self, list: &'a [T]) -> &'a T {
        &list[self.below(list.len() as u64) as usize]
    }

    /// The index of a weight, drawn by the weights.
    pub fn weighted(&mut self, weights: &[u64]) -> usize {
        let mut left = self.below(weights.iter().sum());
        for (at, w) in weights.iter().enumerate() {
            if left < *w {
                return at;
            }
            left -= w;
        }
        0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_seed_is_a_sequence_and_weights_count() {
        let (mut a, mut b) = (Chance::of_case(7, 3), Chance::of_case(7, 3));
        assert!((0..100).all(|_| a.bits() == b.bits()));
        assert_ne!(Chance::of_case(7, 4).bits(), Chance::of_case(7, 3).bits());
        let mut seen = [0; 3];
        (0..1000).for_each(|_| seen[a.weighted(&[0, 1, 9])] += 1);
        assert!(seen[0] == 0 && seen[1] > 50 && seen[2] > 700, "{seen:?}");
    }
}
