//! The groups of one bridge, as the operator wrote them.
//!
//! A list of commands is carried out on a copy and taken over whole or not at all. Rules of
//! change: OpenFlow 1.5.1 section 6.7. What a group and its buckets have counted lives as long as
//! they do; a bucket is known by its id.

use crate::compile::lower_group;
use crate::flow::{self, Bucket, BucketPlace, GroupCommand, GroupMod, GroupStats};
use crate::store::Backends;
use sluice_dataplane::action::group::Group;
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;
use std::time::Duration;

/// Groups of a bridge. A group of two buckets takes some 700 bytes here and in the program
/// together, so a full bridge's are about 46 MB.
pub const GROUPS_MAX: usize = 1 << 16;
/// Buckets of a group: what a slot of its table can name twice over.
pub const BUCKETS_MAX: usize = 4096;

/// Why a change was refused; nothing has changed then.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum GroupError {
    #[error("group {0} is there already; modify it, or delete it first")]
    Exists(u32),
    #[error("there is no group {0}")]
    Unknown(u32),
    #[error("there are {GROUPS_MAX} groups already, which is all a bridge holds")]
    Full,
    #[error("group {0} would have more than {BUCKETS_MAX} buckets")]
    TooManyBuckets(u32),
    #[error("group {group} has no bucket {bucket}")]
    UnknownBucket { group: u32, bucket: u32 },
    #[error("group {group} has a bucket {bucket} already")]
    BucketExists { group: u32, bucket: u32 },
    #[error("group {0}: an indirect group has exactly one bucket")]
    NotOneBucket(u32),
    #[error("group {0}: a bucket of a fast failover group needs watch_port or watch_group")]
    NothingWatched(u32),
    #[error("group {0}: only select and fast failover groups watch ports and groups")]
    Watches(u32),
    #[error("group {0}: only buckets of select groups have a weight")]
    Weighs(u32),
}

/// A group with what was made of it.
#[derive(Clone, Debug)]
pub struct StoredGroup {
    /// Every bucket has its id.
    pub group: flow::Group,
    pub lowered: Arc<Group>,
    /// Time of the worker clock.
    pub created_ns: u64,
}

impl StoredGroup {
    /// What it has counted; `ref_count` is for who knows the flows.
    pub fn stats(&self, ref_count: u32, now_ns: u64) -> GroupStats {
        let of = |b: &sluice_dataplane::action::group::Bucket| (b.stats.packets(), b.stats.bytes());
        GroupStats {
            duration: Duration::from_nanos(now_ns.saturating_sub(self.created_ns)),
            ref_count,
            packets: self.lowered.stats.packets(),
            bytes: self.lowered.stats.bytes(),
            buckets: self.lowered.buckets.iter().map(of).collect(),
        }
    }
}

/// The groups of a bridge.
#[derive(Clone, Debug, Default)]
pub struct Groups {
    by_id: BTreeMap<u32, StoredGroup>,
    backends: Backends,
}

impl Groups {
    pub fn get(&self, id: u32) -> Option<&StoredGroup> {
        self.by_id.get(&id)
    }

    /// In the order of their ids.
    pub fn iter(&self) -> impl Iterator<Item = &StoredGroup> {
        self.by_id.values()
    }

    pub fn len(&self) -> usize {
        self.by_id.len()
    }

    pub fn is_empty(&self) -> bool {
        self.by_id.is_empty()
    }

    /// NAT's destinations.
    pub fn backends(&self) -> &Backends {
        &self.backends
    }

    pub fn backends_mut(&mut self) -> &mut Backends {
        &mut self.backends
    }

    /// What the program holds.
    pub fn compiled(&self) -> Arc<HashMap<u32, Arc<Group>>> {
        Arc::new(self.by_id.iter().map(|(id, g)| (*id, g.lowered.clone())).collect())
    }

    /// Carries out commands in order. Gives the ids that were there before and are no more: the
    /// flows that use those have to go too.
    pub fn apply(&mut self, mods: &[GroupMod], now_ns: u64) -> Result<Vec<u32>, GroupError> {
        let mut draft = self.clone();
        mods.iter().try_for_each(|m| draft.one(m, now_ns))?;
        let gone = self.by_id.keys().filter(|id| !draft.by_id.contains_key(id));
        let gone = gone.copied().collect();
        *self = draft;
        Ok(gone)
    }

    fn one(&mut self, m: &GroupMod, now_ns: u64) -> Result<(), GroupError> {
        let Some(id) = m.id else {
            // Only a deletion may name all groups.
            while let Some((_, gone)) = self.by_id.pop_first() {
                self.forget(&gone);
            }
            return Ok(());
        };
        let have = self.by_id.get(&id);
        match m.command {
            GroupCommand::Delete => {
                if let Some(gone) = self.by_id.remove(&id) {
                    self.forget(&gone);
                }
            }
            GroupCommand::Add if have.is_some() => return Err(GroupError::Exists(id)),
            GroupCommand::Add if self.by_id.len() >= GROUPS_MAX => return Err(GroupError::Full),
            GroupCommand::AddOrModify if have.is_none() && self.by_id.len() >= GROUPS_MAX => {
                return Err(GroupError::Full);
            }
            GroupCommand::Modify if have.is_none() => return Err(GroupError::Unknown(id)),
            GroupCommand::Add | GroupCommand::Modify | GroupCommand::AddOrModify => {
                let (selection, buckets) = (m.selection.clone(), m.buckets.clone());
                self.put(flow::Group { id, kind: m.kind, selection, buckets }, now_ns)?;
            }
            GroupCommand::InsertBuckets | GroupCommand::RemoveBuckets => {
                let mut group = have.ok_or(GroupError::Unknown(id))?.group.clone();
                if m.command == GroupCommand::InsertBuckets {
                    insert(&mut group, m)?;
                } else {
                    remove(&mut group, m.place)?;
                }
                self.put(group, now_ns)?;
            }
        }
        Ok(())
    }

    fn put(&mut self, mut group: flow::Group, now_ns: u64) -> Result<(), GroupError> {
        number_buckets(&mut group);
        check(&group)?;
        let old = self.by_id.get(&group.id);
        let lowered = lower_group::group(&group, old.map(|g| &*g.lowered));
        let created_ns = old.map_or(now_ns, |g| g.created_ns);
        group.buckets.iter().for_each(|b| self.backends.add(&b.actions));
        let new = StoredGroup { lowered: Arc::new(lowered), group, created_ns };
        if let Some(gone) = self.by_id.insert(new.group.id, new) {
            self.forget(&gone);
        }
        Ok(())
    }

    /// A group is there no more.
    fn forget(&mut self, gone: &StoredGroup) {
        gone.group.buckets.iter().for_each(|b| self.backends.remove(&b.actions));
    }
}

/// Gives every bucket without an id the lowest that is free.
fn number_buckets(group: &mut flow::Group) {
    let mut used: BTreeSet<u32> = group.buckets.iter().filter_map(|b| b.id).collect();
    let mut next = 0;
    for bucket in group.buckets.iter_mut().filter(|b| b.id.is_none()) {
        while !used.insert(next) {
            next += 1;
        }
        bucket.id = Some(next);
    }
}

/// What a command cannot know of the group that it changes.
fn check(group: &flow::Group) -> Result<(), GroupError> {
    use sluice_dataplane::action::group::GroupKind as K;
    let watches = |b: &Bucket| b.watch_port.is_some() || b.watch_group.is_some();
    let all = &group.buckets;
    match group.kind {
        _ if all.len() > BUCKETS_MAX => Err(GroupError::TooManyBuckets(group.id)),
        K::Indirect if all.len() != 1 => Err(GroupError::NotOneBucket(group.id)),
        K::FastFailover if !all.iter().all(watches) => Err(GroupError::NothingWatched(group.id)),
        K::All | K::Indirect if all.iter().any(watches) => Err(GroupError::Watches(group.id)),
        K::All | K::Indirect | K::FastFailover if all.iter().any(|b| b.weight != 0) => {
            Err(GroupError::Weighs(group.id))
        }
        _ => Ok(()),
    }
}

fn place_of(group: &flow::Group, bucket: u32) -> Result<usize, GroupError> {
    let at = group.buckets.iter().position(|b| b.id == Some(bucket));
    at.ok_or(GroupError::UnknownBucket { group: group.id, bucket })
}

fn insert(group: &mut flow::Group, m: &GroupMod) -> Result<(), GroupError> {
    for id in m.buckets.iter().filter_map(|b| b.id) {
        if place_of(group, id).is_ok() {
            return Err(GroupError::BucketExists { group: group.id, bucket: id });
        }
    }
    let at = match m.place {
        BucketPlace::First => 0,
        BucketPlace::Last | BucketPlace::All => group.buckets.len(),
        BucketPlace::Id(id) => place_of(group, id)? + 1,
    };
    group.buckets.splice(at..at, m.buckets.iter().cloned());
    Ok(())
}

fn remove(group: &mut flow::Group, place: BucketPlace) -> Result<(), GroupError> {
    match place {
        BucketPlace::All => group.buckets.clear(),
        BucketPlace::First if !group.buckets.is_empty() => _ = group.buckets.remove(0),
        BucketPlace::First => {}
        BucketPlace::Last => _ = group.buckets.pop(),
        BucketPlace::Id(id) => {
            let at = place_of(group, id)?;
            group.buckets.remove(at);
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::flow::{NoNames, parse_group_mod, print_group};

    fn run(groups: &mut Groups, text: &str) -> Result<Vec<u32>, GroupError> {
        let m = parse_group_mod(text, None, &NoNames).unwrap_or_else(|e| panic!("{text}: {e}"));
        groups.apply(&[m], 7)
    }

    fn show(groups: &Groups, id: u32) -> String {
        print_group(&groups.get(id).unwrap().group, &NoNames)
    }

    #[test]
    fn buckets_come_and_go_in_their_places() {
        let mut g = Groups::default();
        run(&mut g, "group_id=1,type=all,bucket=actions=1,bucket=bucket_id=0,actions=2").unwrap();
        assert_eq!(
            show(&g, 1),
            "group_id=1,type=all,bucket=bucket_id:1,actions=output:1,bucket=bucket_id:0,\
             actions=output:2"
        );
        for (text, ids) in [
            ("insert_bucket group_id=1,command_bucket_id=first,bucket=actions=3", "2 1 0"),
            (
                "insert_bucket group_id=1,command_bucket_id=1,bucket=bucket_id=9,actions=4",
                "2 1 9 0",
            ),
            ("remove_bucket group_id=1,command_bucket_id=1", "2 9 0"),
            ("insert_bucket group_id=1,command_bucket_id=last,bucket=actions=5", "2 9 0 1"),
            ("remove_bucket group_id=1,command_bucket_id=first", "9 0 1"),
            ("remove_bucket group_id=1,command_bucket_id=last", "9 0"),
            ("remove_bucket group_id=1", ""),
        ] {
            run(&mut g, text).unwrap();
            let have: Vec<String> =
                g.get(1).unwrap().group.buckets.iter().map(|b| b.id.unwrap().to_string()).collect();
            assert_eq!(have.join(" "), ids, "{text}");
        }
    }

    /// As in Open vSwitch, whose `insert-buckets` knows no type of group: who adds a bucket to a
    /// select group says its weight, or it is there and never chosen.
    #[test]
    fn an_inserted_bucket_weighs_what_the_command_says() {
        let mut g = Groups::default();
        run(&mut g, "group_id=1,type=select,bucket=bucket_id=1,actions=1").unwrap();
        let insert = "insert_bucket group_id=1,command_bucket_id=last,bucket=";
        run(&mut g, &format!("{insert}bucket_id=2,actions=2")).unwrap();
        run(&mut g, &format!("{insert}bucket_id=3,weight=7,actions=3")).unwrap();
        assert_eq!(
            show(&g, 1),
            "group_id=1,type=select,bucket=bucket_id:1,actions=output:1,\
             bucket=bucket_id:2,weight:0,actions=output:2,\
             bucket=bucket_id:3,weight:7,actions=output:3"
        );
        let weights = g.get(1).unwrap().lowered.buckets.iter().map(|b| b.weight);
        assert_eq!(weights.collect::<Vec<_>>(), [1, 0, 7]);
    }

    #[test]
    fn refusals_leave_everything_as_it_was() {
        let mut g = Groups::default();
        run(&mut g, "group_id=1,type=indirect,bucket=actions=1").unwrap();
        for (text, error) in [
            ("group_id=1,type=all", GroupError::Exists(1)),
            ("modify group_id=2,type=all", GroupError::Unknown(2)),
            (
                "insert_bucket group_id=1,command_bucket_id=last,bucket=actions=2",
                GroupError::NotOneBucket(1),
            ),
            (
                "remove_bucket group_id=1,command_bucket_id=5",
                GroupError::UnknownBucket { group: 1, bucket: 5 },
            ),
            (
                "insert_bucket group_id=1,command_bucket_id=last,bucket=bucket_id=0,actions=2",
                GroupError::BucketExists { group: 1, bucket: 0 },
            ),
        ] {
            assert_eq!(run(&mut g, text), Err(error), "{text}");
        }
        let mods: Vec<GroupMod> = ["group_id=5,type=all", "group_id=1,type=all"]
            .map(|t| parse_group_mod(t, None, &NoNames).unwrap())
            .into();
        assert_eq!(g.apply(&mods, 0), Err(GroupError::Exists(1)));
        assert_eq!((g.len(), g.get(5).is_none()), (1, true));
    }

    #[test]
    fn counters_outlive_a_change_and_deleted_ids_are_told() {
        let mut g = Groups::default();
        run(&mut g, "group_id=1,type=select,bucket=actions=1,bucket=actions=2").unwrap();
        run(&mut g, "group_id=2,type=all").unwrap();
        let lowered = g.get(1).unwrap().lowered.clone();
        lowered.stats.add(3, 180, 1);
        lowered.buckets[1].stats.add(2, 120, 1);
        run(&mut g, "modify group_id=1,type=select,bucket=bucket_id=1,actions=3").unwrap();
        let stats = g.get(1).unwrap().stats(4, 2_000_000_007);
        assert_eq!((stats.packets, stats.buckets.clone()), (3, vec![(2, 120)]));
        assert_eq!(stats.duration, Duration::from_secs(2));
        run(&mut g, "add_or_mod group_id=1,type=all").unwrap();
        assert_eq!(run(&mut g, "delete group_id=9"), Ok(vec![]));
        assert_eq!(run(&mut g, "delete group_id=2"), Ok(vec![2]));
        assert_eq!(run(&mut g, "delete"), Ok(vec![1]));
        assert!(g.is_empty() && g.compiled().is_empty());
    }
}
