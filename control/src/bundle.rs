//! Flows, groups and meters of a bridge changed at once (OpenFlow 1.5.1 section 6.9).
//!
//! Groups and meters are small and changed on copies; flows are changed with the store's journal.
//! The copies take their places when nothing can be refused any more, so a bundle that is refused
//! leaves no trace, and one that is taken reaches the workers in one program.

use crate::flow::{BundleText, refers_to};
use crate::model::{Model, ModelError, check_refs};
use crate::store::{Changed, RemovedReason, Stored};

impl Model {
    /// Makes all changes of a bundle or none. The program must follow.
    pub fn change_bundle(
        &mut self,
        bridge: usize,
        bundle: &BundleText,
        now_ns: u64,
    ) -> Result<Changed, ModelError> {
        let Some(b) = self.bridges.get(bridge) else { return Ok(Changed::default()) };
        let (mut groups, mut meters) = (b.groups.clone(), b.meters.clone());
        let gone_groups = groups.apply(&bundle.groups, now_ns)?;
        let gone_meters = meters.apply(&bundle.meters, now_ns)?;
        let new = bundle.flows.iter().filter(|m| m.command.has_actions());
        check_refs(&groups, &meters, new.map(|m| refers_to(&m.flow.actions)))?;
        let by_group = |f: &Stored| gone_groups.iter().any(|id| f.uses_group(*id));
        let by_meter = |f: &Stored| gone_meters.iter().any(|id| f.uses_meter(*id));
        let users = |gone: &[u32], uses: &dyn Fn(&Stored) -> bool| match gone {
            [] => Vec::new(),
            _ => b.flows.numbers(uses),
        };
        let doomed = [
            (users(&gone_groups, &by_group), RemovedReason::GroupDelete),
            (users(&gone_meters, &by_meter), RemovedReason::MeterDelete),
        ];
        let changed =
            self.change_flows(bridge, now_ns, |f, site| f.bundle(&doomed, &bundle.flows, site))?;
        // From here on nothing is refused.
        if !bundle.groups.is_empty() || !bundle.meters.is_empty() {
            self.set_refs(bridge, groups, meters);
        }
        Ok(changed)
    }
}
