//! Where lookups of tier 2 ended last, by port and by what connection tracking said.
//!
//! Packets of one batch come by one port, and most of what comes by a port is treated alike: the
//! megaflow that served the packet before serves this one as often as not. Comparing with it takes
//! five words; hashing under a mask takes five times as long. Where megaflows of a port take turns,
//! comparing first would be in vain: a place that failed is then tried now and then only.

use super::entry::NONE;

/// Places; a power of two.
const PLACES: usize = 64;
/// A place that was right so often in a row is worth more tries.
const TRUST_MAX: u8 = 8;
/// What a failure costs.
const DISTRUST: u8 = 2;
/// A place without trust is tried once in so many lookups.
const RETRY: u8 = 16;

#[derive(Clone, Copy, Debug)]
struct Place {
    /// Of the megaflow.
    at: u32,
    trust: u8,
    /// Lookups since it was tried.
    passed: u8,
}

/// The memory of a worker.
#[derive(Debug)]
pub(super) struct Memo {
    places: [Place; PLACES],
}

impl Memo {
    pub fn new() -> Self {
        Self { places: [Place { at: NONE, trust: 1, passed: 0 }; PLACES] }
    }

    /// Where to remember lookups of packets of this port with this answer; 0 for none.
    #[inline(always)]
    pub fn place(port: u64, kind: u8) -> usize {
        // The states of established connections differ in these bits.
        (port as usize ^ usize::from(kind >> 3 ^ kind).wrapping_mul(9)) % PLACES
    }

    /// The megaflow to compare with, if that is likely to pay.
    #[inline(always)]
    pub fn guess(&mut self, place: usize) -> Option<u32> {
        let p = self.places.get_mut(place % PLACES)?;
        if p.trust == 0 {
            p.passed += 1;
            if p.passed < RETRY {
                return None;
            }
            p.passed = 0;
        }
        Some(p.at)
    }

    /// It was right.
    #[inline(always)]
    pub fn right(&mut self, place: usize) {
        if let Some(p) = self.places.get_mut(place % PLACES) {
            p.trust = (p.trust + 1).min(TRUST_MAX);
        }
    }

    /// It was wrong, or not asked: this one is.
    #[inline(always)]
    pub fn put(&mut self, place: usize, guessed: bool, at: u32) {
        if let Some(p) = self.places.get_mut(place % PLACES) {
            p.trust = p.trust.saturating_sub(if guessed { DISTRUST } else { 0 });
            p.at = at;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Lookups that end at these megaflows by turns. How many were guessed right, and wrong.
    fn turns(memo: &mut Memo, kinds: u32, n: u32) -> (u32, u32) {
        let (place, mut right, mut wrong) = (Memo::place(1, 0x22), 0, 0);
        for i in 0..n {
            let at = i % kinds;
            match memo.guess(place) {
                Some(guess) if guess == at => {
                    right += 1;
                    memo.right(place);
                }
                guess => {
                    wrong += u32::from(guess.is_some());
                    memo.put(place, guess.is_some(), at);
                }
            }
        }
        (right, wrong)
    }

    #[test]
    fn what_is_alike_is_guessed_and_what_takes_turns_is_left_alone() {
        let mut memo = Memo::new();
        assert!(turns(&mut memo, 1, 1000).0 > 980);
        let (right, wrong) = turns(&mut memo, 3, 1600);
        assert!(right <= 1 && wrong <= 1600 / u32::from(RETRY) + 5, "{right} {wrong}");
        assert!(turns(&mut memo, 1, 1000).0 > 900, "and comes back");
    }

    /// Both directions of established connections, and new ones, of two ports.
    #[test]
    fn common_kinds_have_places_of_their_own() {
        let mut places: Vec<usize> = [1, 2]
            .iter()
            .flat_map(|port| [0, 0x21, 0x22, 0x2a, 0x62, 0xaa].map(|k| Memo::place(*port, k)))
            .collect();
        let all = places.len();
        places.sort_unstable();
        places.dedup();
        assert!(places.len() + 1 >= all, "{places:?}");
    }
}
