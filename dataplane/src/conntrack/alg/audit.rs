//! Helped connections and what they expect, counted again.

use super::{Algs, Tuple, bit};
use crate::conntrack::audit::{Audit, Findings};

impl Algs {
    /// `bits`: those of `Hot::alg` of a live connection, else 0. `with_help`: live connections that
    /// say they are helped.
    pub fn audit(&self, bits: impl Fn(u32) -> u8, with_help: usize, a: &mut Audit) {
        a.expected += self.expected.len();
        a.helped += self.helped.len();
        a.children += self.children.len();
        let f: &mut Findings = &mut a.findings;
        for ix in self.helped.keys().filter(|ix| bits(**ix) & bit::HELPED == 0) {
            f.wrong(|| format!("place {ix} is helped and no helped connection"));
        }
        for ix in self.children.keys().filter(|ix| bits(**ix) & bit::CHILD == 0) {
            f.wrong(|| format!("place {ix} has a parent and was not expected"));
        }
        f.same("helped connections", self.helped.len(), with_help);
        for (key, e) in &self.expected {
            if !self.helped.get(&e.parent).is_some_and(|h| h.expects.contains(&Some(*key))) {
                f.wrong(|| format!("{key:?} is expected by place {}, which does not", e.parent));
            }
        }
    }

    /// Tuples of any source port that are expected.
    pub fn awaited(&self) -> impl Iterator<Item = Tuple> {
        self.expected.keys().map(|key| key.open())
    }
}
