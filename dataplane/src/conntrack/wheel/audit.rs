//! The wheels, link by link.

use super::{LANES, LISTS, RANKS, Rank, SLOTS, Wheels, flag};
use crate::conntrack::audit::Findings;
use crate::conntrack::table::Table;

impl Wheels {
    /// Each live connection hangs once, in the wheel of its rank, in no slot behind its deadline's.
    /// Gives the links.
    pub fn audit(&self, table: &Table, tick: u64, f: &mut Findings) -> usize {
        let mut seen = vec![false; table.places() as usize];
        let mut all = 0;
        for rank in RANKS {
            let mut links = 0;
            for list in 0..LISTS {
                links += self.audit_list(table, (rank, list), tick, &mut seen, f);
            }
            f.same(&format!("connections that are {rank:?}"), self.len(rank) as usize, links);
            all += links;
        }
        for (ix, seen) in seen.iter().enumerate() {
            if table.hot(ix as u32).has(flag::LIVE) && !seen {
                f.wrong(|| format!("place {ix} is on no wheel"));
            }
        }
        all
    }

    fn audit_list(
        &self,
        table: &Table,
        (rank, list): (Rank, usize),
        tick: u64,
        seen: &mut [bool],
        f: &mut Findings,
    ) -> usize {
        let (name, slot) = (rank as usize * LISTS + list, list / LANES);
        let Some(wheel) = self.wheels.get(rank as usize) else { return 0 };
        let Some(ends) = self.lists.get(name / LANES).map(|l| l[name % LANES]) else { return 0 };
        let is_marked = wheel.in_use[slot / 64] & 1 << (slot % 64) != 0;
        if ends.first != 0 && !is_marked {
            f.wrong(|| format!("slot {slot} of {rank:?} holds connections and is not marked"));
        }
        let lanes = self.lists.get(name / LANES);
        if is_marked && lanes.is_some_and(|l| l.iter().all(|e| e.first == 0)) {
            f.wrong(|| format!("slot {slot} of {rank:?} is marked and empty"));
        }
        let (mut at, mut before, mut links) = (ends.first, 0, 0);
        while at != 0 {
            let ix = at - 1;
            match seen.get_mut(ix as usize) {
                Some(s) if !*s => *s = true,
                _ => {
                    f.wrong(|| format!("place {ix} hangs twice, or was never used"));
                    return links;
                }
            }
            let (hot, cold) = (table.hot(ix), table.cold(ix));
            let has_place = hot.has(flag::LIVE) && usize::from(cold.slot) == name;
            // The first of a list has no link back that anybody follows.
            let is_linked = before == 0 || cold.prev == before;
            if !has_place || !is_linked || Rank::of(hot.class) as usize != rank as usize {
                f.wrong(|| format!("place {ix} hangs where it does not belong"));
            }
            let ahead = (slot as u64).wrapping_sub(wheel.cursor) % SLOTS;
            if wheel.cursor + ahead > wheel.slot_of(hot.deadline, tick) {
                f.wrong(|| format!("place {ix} comes up after its time"));
            }
            links += 1;
            (before, at) = (at, cold.next);
        }
        if ends.first != 0 && ends.last != before {
            f.wrong(|| format!("a list of slot {slot} of {rank:?} ends elsewhere"));
        }
        links
    }
}
