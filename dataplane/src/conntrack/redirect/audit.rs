//! Redirects, one by one.

use super::{Redirects, TUPLE_SHIFT, USED, worker_of};
use crate::conntrack::audit::{Findings, Redirected};
use crate::conntrack::key::Tuple;

impl Redirects {
    pub fn audit(&self, f: &mut Findings) -> Redirected {
        let mut all = Redirected::new();
        let mut entries = 0;
        for n in 0..self.slots {
            let e = self.at(n);
            if e[4] & USED == 0 {
                continue;
            }
            entries += 1;
            let whole = |low: u64, high: u64| u128::from(high) << 64 | u128::from(low);
            let tuple = Tuple {
                src: whole(e[0], e[1]),
                dst: whole(e[2], e[3]),
                sport: (e[4] >> 48) as u16,
                dport: (e[4] >> 32) as u16,
                proto: (e[4] >> (TUPLE_SHIFT + 1)) as u8,
                v6: e[4] >> TUPLE_SHIFT & 1 != 0,
            };
            let is_new = all.insert((tuple, worker_of(e)), e[5]).is_none();
            let home = self.hash(&tuple) as usize & (self.slots - 1);
            let mut way = (0..self.slots).map(|d| (home + d) & (self.slots - 1));
            let is_reached = way.by_ref().take_while(|at| *at != n).all(|at| self.at(at)[4] != 0);
            if !is_new || !is_reached || e[5] == 0 {
                f.wrong(|| format!("the redirect of {tuple:?} cannot be, or not be found"));
            }
        }
        f.same("redirects of others", self.len, entries);
        all
    }
}
