//! The table and its index, counted again.

use super::{Table, flag};
use crate::conntrack::audit::Findings;

impl Table {
    /// Each place is in use, on the free list, or never was used. Gives those on the free list.
    pub fn audit(&self, live: usize, f: &mut Findings) -> usize {
        f.same("connections of the table", self.len(), live);
        let mut seen = vec![false; self.fresh as usize];
        let (mut at, mut freed) = (self.free, 0);
        while at != 0 {
            let ix = at - 1;
            match seen.get_mut(ix as usize) {
                Some(s) if !*s => *s = true,
                _ => {
                    f.wrong(|| format!("the free list comes to place {ix}, twice or unused"));
                    break;
                }
            }
            if self.hot(ix).has(flag::LIVE) {
                f.wrong(|| format!("place {ix} is free and in use"));
            }
            freed += 1;
            at = self.cold(ix).next;
        }
        f.same("places that were used", self.fresh as usize, live + freed);
        freed
    }

    /// Each live connection has one entry, and one of its reply tuple if that is not the reverse of
    /// the original; they can be found, and nothing else has one. Gives the entries.
    pub fn audit_index(&self, f: &mut Findings) -> usize {
        let mut seen = vec![0u8; self.fresh as usize];
        let mut entries = 0;
        self.index.audit(f, |tag, ix, dir| {
            entries += 1;
            let Some(seen) = seen.get_mut(ix as usize) else {
                return Some(format!("the index names place {ix}, which was never used"));
            };
            let (bit, hot) = (1 << dir, self.hot(ix));
            let twice = *seen & bit != 0;
            *seen |= bit;
            let own = self.tuple(ix, dir);
            if !hot.has(flag::LIVE) || twice {
                return Some(format!("the index names place {ix}, direction {dir}, for nothing"));
            }
            let wanted = (self.hash(&own, hot.zone) >> 32) as u32;
            (tag != wanted).then(|| format!("place {ix}, direction {dir}, is indexed as another"))
        });
        let mut wanted = 0;
        for (ix, seen) in seen.iter().enumerate() {
            let ix = ix as u32;
            if self.hot(ix).has(flag::LIVE) {
                let is_turned = self.tuple(ix, 0).reversed() != self.tuple(ix, 1);
                let both: u8 = if is_turned { 3 } else { 1 };
                wanted += both.count_ones() as usize;
                if *seen != both || self.hot(ix).has(flag::TURNED) != is_turned {
                    f.wrong(|| format!("the index does not name place {ix} as it should"));
                }
            }
        }
        f.same("index entries", entries, wanted);
        entries
    }
}
