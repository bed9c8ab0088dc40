//! Groups as the walk runs them (OpenFlow 1.5.1 section 5.10).
//!
//! A bucket is a list in the order of an action set, run one level deeper, on the packet as it is;
//! what it does to the packet is rolled back, what tables it resubmits to do to stack and action
//! set is not (Open vSwitch `xlate_group_bucket`). Its `exit` ends the bucket alone, and so does a
//! label too many; its pause stops it alone; every other error, being a limit, ends all of the
//! packet. Each bucket counts as a resubmit, so that groups that run groups come to an end; a group
//! that runs itself meets the bound of depth.
//!
//! **Select.** The same packet takes the same bucket as long as the group and the liveness of its
//! ports stay as they are. Both change only with the program, and that makes cached walks stale.

use super::choose::{hash_directed, hash_fields, hash_pair, hash_value};
use super::freeze::Left;
use super::keymask;
use super::miss::{Flow, Stop, Walk};
use crate::action::HashFields;
use crate::action::group::{Bucket, Group, GroupKind, Selection};
use crate::cache::traversal::{Item, WHOLE_GROUP};
use crate::counters::Drop;
use crate::limits::{DEPTH_MAX, LIVENESS_LOOKS_MAX, RESUBMITS_MAX};
use crate::packet::field::prereq_met;

impl<'w> Walk<'_, 'w> {
    #[inline(never)]
    pub(super) fn group(&mut self, id: u32) -> Flow {
        if self.depth >= DEPTH_MAX {
            return Err(Stop::Error(Drop::ResubmitDepth));
        }
        let bridge = self.bridge;
        let Some(group) = bridge.groups.get(&id) else {
            self.drop_copy(Drop::NoSuchGroup);
            return Err(Stop::List);
        };
        let group: &'w Group = group;
        let chosen = match group.kind {
            GroupKind::All | GroupKind::Indirect => {
                self.seen.group(group, None);
                self.credit(self.bucket_item(group, WHOLE_GROUP));
                return group.buckets.iter().try_for_each(|b| self.bucket(b));
            }
            GroupKind::Select => {
                if !matches!(group.selection, Selection::Hash { .. }) {
                    // It is of the packet.
                    self.unveil();
                }
                if self.world.wide {
                    keymask::of_selection(group, &mut self.rec.seen);
                }
                self.select(group)
            }
            GroupKind::FastFailover => self.first_live(group),
        };
        self.seen.group(group, chosen.and_then(|at| group.buckets.get(at)));
        let Some((at, bucket)) = chosen.and_then(|at| Some((at, group.buckets.get(at)?))) else {
            self.reason = Drop::NoLiveBucket;
            return Ok(());
        };
        self.credit(self.bucket_item(group, at as u16));
        self.bucket(bucket)
    }

    fn bucket_item(&self, group: &Group, bucket: u16) -> Item {
        Item::Bucket { bridge: self.bridge_ix, bucket, group: group.id }
    }

    #[inline(never)]
    fn bucket(&mut self, bucket: &'w Bucket) -> Flow {
        if self.resubmits >= RESUBMITS_MAX {
            return Err(Stop::Error(Drop::ResubmitCount));
        }
        self.resubmits += 1;
        if self.world.wide {
            keymask::add_actions(&bucket.actions, &mut self.rec.seen);
        }
        let (key, queue, table) = (self.key, self.queue, self.table);
        let (veil, turns) = (self.veil, self.before.turns());
        let before = std::mem::replace(&mut self.in_bucket, true);
        self.depth += 1;
        let end = self.ordered(std::iter::once(&*bucket.actions));
        self.depth -= 1;
        self.in_bucket = before;
        (self.key, self.queue, self.table) = (key, queue, table);
        self.veil = veil;
        self.key_turns_to(turns);
        match end {
            Err(Stop::Exit) => Ok(()),
            Err(Stop::Pause) => self.freeze(Left::Later),
            Err(Stop::Error(reason @ Drop::MplsTooMany)) => {
                self.drop_copy(reason);
                Ok(())
            }
            end => end,
        }
    }

    fn first_live(&self, group: &Group) -> Option<usize> {
        group.buckets.iter().position(|b| self.is_live(group.kind, b))
    }

    fn select(&self, group: &Group) -> Option<usize> {
        let hash = self.selection_hash(&group.selection);
        let slots = group.slots();
        if let Some(mask) = slots.len().checked_sub(1) {
            // An odd step visits every slot, and another order for every packet.
            let (first, step) = (hash as usize, (hash >> 16) as usize | 1);
            let tries = (0..slots.len()).map(|n| first.wrapping_add(n.wrapping_mul(step)) & mask);
            let mut buckets = tries.filter_map(|at| slots.get(at).map(|b| usize::from(*b)));
            return buckets.find(|at| self.is_live_at(group, *at));
        }
        let live = (0..group.buckets.len()).filter(|at| self.is_live_at(group, *at));
        live.max_by_key(|at| group.buckets.get(*at).map_or(0, |b| score(b, hash)))
    }

    fn is_live_at(&self, group: &Group, at: usize) -> bool {
        group.buckets.get(at).is_some_and(|b| self.is_live(group.kind, b))
    }

    fn selection_hash(&self, selection: &Selection) -> u32 {
        match selection {
            Selection::Default => hash_fields(&self.key, HashFields::SymmetricL3L4, 0),
            Selection::DpHash { basis, symmetric: true } => {
                hash_fields(&self.key, HashFields::SymmetricL3L4, *basis)
            }
            Selection::DpHash { basis, symmetric: false } => hash_directed(&self.key, *basis),
            Selection::Hash { basis, fields } => {
                let here = fields.iter().filter(|(f, _)| prereq_met(f.info().prereq, &self.key));
                let value = |hash, (f, mask): &(crate::packet::field::Field, u128)| {
                    hash_value(hash, f.info().get(&self.key) & mask)
                };
                here.fold(*basis, value)
            }
        }
    }

    fn is_live(&self, kind: GroupKind, bucket: &Bucket) -> bool {
        let mut looks = LIVENESS_LOOKS_MAX;
        self.bucket_lives(kind, bucket, DEPTH_MAX, &mut looks)
    }

    /// Whether the bucket may be used: it watches nothing, or one of what it watches is alive.
    fn bucket_lives(&self, kind: GroupKind, b: &Bucket, depth: u32, looks: &mut u32) -> bool {
        if *looks == 0 || (kind == GroupKind::Select && b.weight == 0) {
            return false;
        }
        *looks -= 1;
        (b.watch_port.is_none() && b.watch_group.is_none())
            || b.watch_port.is_some_and(|n| self.port_is_live(n))
            || (depth > 0 && b.watch_group.is_some_and(|id| self.group_lives(id, depth - 1, looks)))
    }

    fn group_lives(&self, id: u32, depth: u32, looks: &mut u32) -> bool {
        let Some(group) = self.bridge.groups.get(&id) else { return false };
        group.buckets.iter().any(|b| self.bucket_lives(group.kind, b, depth, looks))
    }
}

/// Of several buckets the one that scores highest takes the packet.
fn score(bucket: &Bucket, hash: u32) -> u64 {
    u64::from(hash_pair(bucket.id, hash) & 0xffff) * u64::from(bucket.weight)
}
