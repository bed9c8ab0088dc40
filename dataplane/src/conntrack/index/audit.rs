//! The index, entry by entry.

use super::Index;
use crate::conntrack::audit::Findings;

impl Index {
    /// Whether a look-up comes to a bucket: between an entry's home and it, all are full.
    fn is_reached(&self, tag: u32, at: usize) -> bool {
        let mut on_way = self.home(tag);
        while on_way != at {
            if self.bucket(on_way).empty() != 0 {
                return false;
            }
            on_way = self.after(on_way);
        }
        true
    }

    /// Shows every entry (tag, connection, direction), and says which cannot be found. `look` says
    /// what is wrong with it otherwise.
    pub fn audit(&self, f: &mut Findings, mut look: impl FnMut(u32, u32, usize) -> Option<String>) {
        for at in 0..self.buckets {
            let bucket = self.bucket(at);
            for (tag, owner) in bucket.tags.iter().zip(&bucket.owners).filter(|(_, o)| **o != 0) {
                let (ix, dir) = ((owner >> 1).wrapping_sub(1), (owner & 1) as usize);
                if !self.is_reached(*tag, at) {
                    f.wrong(|| format!("the index has place {ix} where nobody looks for it"));
                }
                if let Some(what) = look(*tag, ix, dir) {
                    f.wrong(|| what);
                }
            }
        }
    }
}
