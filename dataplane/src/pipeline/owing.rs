//! Places of a cache that owe counts to rules.
//!
//! A hit counts on its entry, and what is owed is carried to the rules now and then. Not all at
//! once: a worker that goes through a million entries receives nothing meanwhile. Those that owe
//! when a round begins are gone through a slice at a time; what owes anew waits for the next round.

/// The places that owe, each once.
#[derive(Debug)]
pub(super) struct Owing {
    new: Vec<u32>,
    /// What is left of the round.
    round: Vec<u32>,
}

impl Owing {
    /// For a cache of so many places: nothing is allocated later.
    pub fn new(places: usize) -> Self {
        Self { new: Vec::with_capacity(places), round: Vec::with_capacity(places) }
    }

    #[inline]
    pub fn push(&mut self, at: u32) {
        self.new.push(at);
    }

    /// Begins a round, if the last is over.
    pub fn begin(&mut self) {
        if self.round.is_empty() {
            std::mem::swap(&mut self.new, &mut self.round);
        }
    }

    /// The next place of the round, and one that comes soon after.
    pub fn next(&mut self) -> Option<(u32, u32)> {
        let at = self.round.pop()?;
        let soon = self.round.len().checked_sub(8).and_then(|n| self.round.get(n));
        Some((at, soon.copied().unwrap_or(at)))
    }

    /// Whether the round is over.
    pub fn is_over(&self) -> bool {
        self.round.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_round_has_what_owed_when_it_began() {
        let mut o = Owing::new(64);
        assert!(o.is_over() && o.next().is_none());
        (0..20).for_each(|at| o.push(at));
        assert!(o.is_over(), "not begun");
        o.begin();
        let first: Vec<_> = std::iter::from_fn(|| o.next()).take(15).collect();
        assert_eq!(first[0], (19, 11), "one that comes soon is known");
        assert_eq!(first[14], (5, 5), "near the end none is");
        o.push(50);
        o.begin();
        let rest: Vec<_> = std::iter::from_fn(|| o.next()).map(|(at, _)| at).collect();
        assert_eq!(rest, [4, 3, 2, 1, 0], "what came since waits");
        assert!(o.is_over());
        o.begin();
        assert_eq!(o.next(), Some((50, 50)));
    }
}
