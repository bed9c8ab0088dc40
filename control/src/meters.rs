//! The meters of one bridge, as the operator wrote them.
//!
//! A list of commands is carried out on a copy and taken over whole or not at all. Rules of
//! change: OpenFlow 1.5.1 section 6.8. A modified meter starts anew, full and with zeros, as in
//! Open vSwitch.

use crate::compile::lower_group;
use crate::flow::{self, MeterMod, MeterStats, meter_name};
use sluice_dataplane::action::meter::Meter;
use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::time::Duration;

/// Meters of a bridge. A meter of one band takes some 300 bytes here and in the program together,
/// so a full bridge's are about 20 MB.
pub const METERS_MAX: usize = 1 << 16;
/// Bands of a meter (Open vSwitch's userspace datapath: `MAX_BANDS`).
pub const BANDS_MAX: usize = 8;

/// Why a change was refused; nothing has changed then.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum MeterError {
    #[error("meter {} is there already; modify it, or delete it first", meter_name(*.0))]
    Exists(u32),
    #[error("there is no meter {}", meter_name(*.0))]
    Unknown(u32),
    #[error("there are {METERS_MAX} meters already, which is all a bridge holds")]
    Full,
    #[error("meter {} has more than {BANDS_MAX} bands", meter_name(*.0))]
    TooManyBands(u32),
}

/// A meter with what was made of it.
#[derive(Clone, Debug)]
pub struct StoredMeter {
    pub meter: flow::Meter,
    pub lowered: Arc<Meter>,
    /// Time of the worker clock.
    pub created_ns: u64,
}

impl StoredMeter {
    /// What it has counted; `flow_count` is for who knows the flows.
    pub fn stats(&self, flow_count: u32, now_ns: u64) -> MeterStats {
        MeterStats {
            flow_count,
            duration: Duration::from_nanos(now_ns.saturating_sub(self.created_ns)),
            packets: self.lowered.stats.packets(),
            bytes: self.lowered.stats.bytes(),
            bands: self
                .lowered
                .bands
                .iter()
                .map(|b| (b.stats.packets(), b.stats.bytes()))
                .collect(),
        }
    }
}

/// The meters of a bridge.
#[derive(Clone, Debug, Default)]
pub struct Meters {
    by_id: BTreeMap<u32, StoredMeter>,
}

impl Meters {
    pub fn get(&self, id: u32) -> Option<&StoredMeter> {
        self.by_id.get(&id)
    }

    /// In the order of their ids.
    pub fn iter(&self) -> impl Iterator<Item = &StoredMeter> {
        self.by_id.values()
    }

    pub fn len(&self) -> usize {
        self.by_id.len()
    }

    pub fn is_empty(&self) -> bool {
        self.by_id.is_empty()
    }

    /// What the program holds.
    pub fn compiled(&self) -> Arc<HashMap<u32, Arc<Meter>>> {
        Arc::new(self.by_id.iter().map(|(id, m)| (*id, m.lowered.clone())).collect())
    }

    /// Carries out commands in order. Gives the ids that were there before and are no more: the
    /// flows that use those have to go too.
    pub fn apply(&mut self, mods: &[MeterMod], now_ns: u64) -> Result<Vec<u32>, MeterError> {
        let mut draft = self.clone();
        mods.iter().try_for_each(|m| draft.one(m, now_ns))?;
        let gone = self.by_id.keys().filter(|id| !draft.by_id.contains_key(id));
        let gone = gone.copied().collect();
        *self = draft;
        Ok(gone)
    }

    fn one(&mut self, m: &MeterMod, now_ns: u64) -> Result<(), MeterError> {
        match m {
            MeterMod::Delete(None) => self.by_id.clear(),
            MeterMod::Delete(Some(id)) => _ = self.by_id.remove(id),
            MeterMod::Add(m) if self.by_id.contains_key(&m.id) => {
                return Err(MeterError::Exists(m.id));
            }
            MeterMod::Add(_) if self.by_id.len() >= METERS_MAX => return Err(MeterError::Full),
            MeterMod::Modify(m) if !self.by_id.contains_key(&m.id) => {
                return Err(MeterError::Unknown(m.id));
            }
            MeterMod::Add(m) | MeterMod::Modify(m) if m.bands.len() > BANDS_MAX => {
                return Err(MeterError::TooManyBands(m.id));
            }
            MeterMod::Add(m) | MeterMod::Modify(m) => {
                let lowered = Arc::new(lower_group::meter(m));
                let stored = StoredMeter { meter: m.clone(), lowered, created_ns: now_ns };
                self.by_id.insert(m.id, stored);
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::flow::parse_meter_mod;

    fn run(meters: &mut Meters, text: &str) -> Result<Vec<u32>, MeterError> {
        let m = parse_meter_mod(text, None).unwrap_or_else(|e| panic!("{text}: {e}"));
        meters.apply(&[m], 7)
    }

    #[test]
    fn meters_are_added_modified_and_deleted() {
        let mut m = Meters::default();
        run(&mut m, "meter=1,kbps,bands=type=drop,rate=10").unwrap();
        run(&mut m, "meter=controller,pktps,bands=type=drop,rate=10").unwrap();
        m.get(1).unwrap().lowered.stats.add(2, 120, 5);
        assert_eq!(m.get(1).unwrap().stats(1, 9).packets, 2);
        assert_eq!(run(&mut m, "meter=1,kbps,bands=type=drop,rate=20"), Err(MeterError::Exists(1)));
        assert_eq!(
            run(&mut m, "modify meter=2,kbps,bands=type=drop,rate=20"),
            Err(MeterError::Unknown(2))
        );
        run(&mut m, "modify meter=1,pktps,burst,bands=type=drop,rate=20,burst_size=5").unwrap();
        let low = &m.get(1).unwrap().lowered;
        assert_eq!((low.bands[0].rate, low.bands[0].burst, low.stats.packets()), (20, 5, 0));
        let nine = "type=drop,rate=1,".repeat(9);
        assert_eq!(
            run(&mut m, &format!("meter=5,pktps,bands={nine}")),
            Err(MeterError::TooManyBands(5))
        );
        assert_eq!(run(&mut m, "delete meter=1"), Ok(vec![1]));
        assert_eq!(run(&mut m, "delete"), Ok(vec![0xffff_fffe]));
        assert!(m.is_empty() && m.compiled().is_empty());
    }
}
