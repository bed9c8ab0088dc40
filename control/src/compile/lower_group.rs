//! Groups and meters from the text's form to the dataplane's.

use super::lower;
use crate::flow::{self, Method};
use sluice_dataplane::action::group::{Bucket, Group, Selection};
use sluice_dataplane::action::meter::{Band, Meter};
use std::sync::Arc;

/// Lowers a group; what it and its buckets have counted is carried over from `old`.
pub fn group(g: &flow::Group, old: Option<&Group>) -> Group {
    let bucket = |b: &flow::Bucket| {
        let id = b.id.unwrap_or(0);
        let before = old.and_then(|g| g.buckets.iter().find(|have| have.id == id));
        Bucket {
            id,
            weight: b.weight,
            watch_port: b.watch_port,
            watch_group: b.watch_group,
            actions: lower::bucket(&b.actions),
            stats: before.map_or_else(Arc::default, |b| b.stats.clone()),
        }
    };
    let stats = old.map_or_else(Arc::default, |g| g.stats.clone());
    let buckets = g.buckets.iter().map(bucket).collect();
    Group::new(g.id, g.kind, selection(&g.selection), buckets, stats)
}

/// `dp_hash` takes its basis from the low half of the parameter, and which hash from the high
/// one (1: both directions alike), as in Open vSwitch. `hash` without fields is the default.
fn selection(s: &flow::Selection) -> Selection {
    match s.method {
        Some(Method::DpHash) => {
            Selection::DpHash { basis: s.param as u32, symmetric: s.param >> 32 == 1 }
        }
        Some(Method::Hash) if !s.fields.is_empty() => {
            let basis = (s.param ^ s.param >> 32) as u32;
            Selection::Hash { basis, fields: s.fields.clone().into() }
        }
        _ => Selection::Default,
    }
}

/// Lowers a meter, full and with zeros.
pub fn meter(m: &flow::Meter) -> Meter {
    Meter::new(m.id, m.unit, m.bands.iter().map(|b| Band::new(b.rate, b.burst_size)))
}
