//! Which prefixes or partial values a table has, and how often: sets that forget.

use super::pages::Pages;

/// How often each of some words was counted: which prefixes or partial values there are.
#[derive(Clone, Debug)]
pub(super) struct Counts(Pages);

/// The hash of a counted word.
#[inline(always)]
fn mix(word: u64) -> u64 {
    let p = u128::from(word ^ 0x9e37_79b9_7f4a_7c15) * 0xd6e8_feb8_6659_fd93;
    (p as u64) ^ ((p >> 64) as u64)
}

impl Counts {
    pub(super) fn new() -> Self {
        Self(Pages::new(1))
    }

    #[inline]
    pub(super) fn contains(&self, word: u64) -> bool {
        self.0.find(mix(word), |v| v.first() == Some(&word)).is_some()
    }

    /// Counts many words, where nothing was counted before; returns the different ones.
    pub(super) fn fill(&mut self, mut words: Vec<u64>) -> Vec<u64> {
        words.sort_unstable();
        let runs: Vec<(u64, u64)> =
            words.chunk_by(|a, b| a == b).map(|run| (run[0], run.len() as u64)).collect();
        let list: Vec<(u64, u64, &[u64])> =
            runs.iter().map(|(w, n)| (mix(*w), *n, std::slice::from_ref(w))).collect();
        for n in self.0.fill(&list) {
            let (hash, count, word) = list[n];
            self.0.insert(hash, count, word, &|v| mix(v[0]));
        }
        words.dedup();
        words
    }

    /// Counts one more; true if it is the first.
    pub(super) fn add(&mut self, word: u64) -> bool {
        let (hash, equals) = (mix(word), |v: &[u64]| v[0] == word);
        match self.0.find(hash, equals) {
            Some(n) => {
                self.0.set(hash, equals, n + 1);
                false
            }
            None => {
                self.0.insert(hash, 1, &[word], &|v| mix(v[0]));
                true
            }
        }
    }

    /// Counts one less; true if it was the last.
    pub(super) fn sub(&mut self, word: u64) -> bool {
        let (hash, equals) = (mix(word), |v: &[u64]| v[0] == word);
        match self.0.find(hash, equals) {
            Some(n) if n > 1 => self.0.set(hash, equals, n - 1),
            Some(_) => return self.0.remove(hash, equals, &|v| mix(v[0])).is_some(),
            None => {}
        }
        false
    }

    pub(super) fn bytes(&self) -> usize {
        self.0.bytes()
    }
}
