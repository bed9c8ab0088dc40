//! Groups and meters for the kit, and what they counted.

use sluice_dataplane::action::Action;
use sluice_dataplane::action::group::{Bucket, Group, GroupKind, Selection};
use sluice_dataplane::action::meter::{Band, Meter, MeterUnit};
use sluice_dataplane::pipeline::{Bridge, RuleStats};
use std::sync::Arc;

/// A bucket in the making: always live, of weight 1.
pub fn bucket(id: u32, actions: impl IntoIterator<Item = Action>) -> Bucket {
    let actions = actions.into_iter().collect();
    Bucket { id, weight: 1, watch_port: None, watch_group: None, actions, stats: Arc::default() }
}

/// A group in the making, of bridge 0 or 1.
#[derive(Clone, Debug)]
pub struct GroupSpec {
    pub id: u32,
    pub kind: GroupKind,
    pub selection: Selection,
    pub buckets: Vec<Bucket>,
}

impl GroupSpec {
    pub fn make(&self) -> Arc<Group> {
        let fresh = |b: &Bucket| Bucket { stats: Arc::default(), ..b.clone() };
        let buckets = self.buckets.iter().map(fresh).collect();
        let (kind, selection) = (self.kind, self.selection.clone());
        Arc::new(Group::new(self.id, kind, selection, buckets, Arc::default()))
    }
}

pub fn group(id: u32, kind: GroupKind, buckets: impl IntoIterator<Item = Bucket>) -> GroupSpec {
    GroupSpec { id, kind, selection: Selection::Default, buckets: buckets.into_iter().collect() }
}

/// A meter in the making: number, unit, rate and burst of each band.
pub type MeterSpec = (u32, MeterUnit, Vec<(u32, u32)>);

pub fn make_meter((id, unit, bands): &MeterSpec) -> Arc<Meter> {
    let bands = bands.iter().map(|(rate, burst)| Band::new(*rate, *burst));
    Arc::new(Meter::new(*id, *unit, bands))
}

pub fn both(s: &RuleStats) -> (u64, u64) {
    (s.packets(), s.bytes())
}

pub fn group_stats(b: &Bridge) -> Vec<Vec<(u64, u64)>> {
    let mut all: Vec<_> = b.groups.values().collect();
    all.sort_by_key(|g| g.id);
    let of = |g: &Group| {
        [&g.stats].into_iter().chain(g.buckets.iter().map(|b| &b.stats)).map(|s| both(s)).collect()
    };
    all.into_iter().map(|g| of(g)).collect()
}

pub fn meter_stats(b: &Bridge) -> Vec<Vec<(u64, u64)>> {
    let mut all: Vec<_> = b.meters.values().collect();
    all.sort_by_key(|m| m.id);
    let of = |m: &Meter| {
        [&m.stats].into_iter().chain(m.bands.iter().map(|b| &b.stats)).map(|s| both(s)).collect()
    };
    all.into_iter().map(|m| of(m)).collect()
}
