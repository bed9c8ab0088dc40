//! What files say there is, into all bridges or into none.
//!
//! Each bridge's part is made ready: its groups and meters as drafts, its flows in place with a
//! journal to take them back by. When the last bridge's part is ready all are settled, which
//! nothing can refuse; when one is refused those before it are taken back.

use super::{Model, ModelError, check_refs};
use crate::flow::{PortNames, read_file, with_options};
use crate::groups::Groups;
use crate::meters::Meters;
use crate::store::{Additions, Batch, Outcome, Pending, Site};
use sluice_dataplane::tunnel::TlvMap;
use std::path::PathBuf;

/// What was read for one bridge: its flows are added and can be taken back, the rest is to be
/// put in place.
struct Made {
    bridge: usize,
    options: TlvMap,
    groups: Option<Groups>,
    meters: Option<Meters>,
    flows: Pending,
}

impl Model {
    /// Reads a text of flows into the bridges; all of it or nothing.
    pub fn load_flows(
        &mut self,
        file: PathBuf,
        text: &str,
        first_bridge: &str,
        now_ns: u64,
    ) -> Result<(), ModelError> {
        let names = |n: &str| self.bridge(n).map(|b| b as &dyn PortNames);
        let mut batch = Batch::default();
        read_file(text, first_bridge, &names, &mut |line| batch.take(line))
            .map_err(|error| ModelError::Flow { file, error })?;
        self.take(batch, now_ns)
    }

    /// Adds what was read from files, in all bridges or in none: groups and meters, then the flows
    /// that name them.
    pub fn take(&mut self, batch: Batch, now_ns: u64) -> Result<(), ModelError> {
        let mut made = Vec::new();
        for (name, additions) in batch.bridges {
            let at = self.bridges.iter().position(|b| b.config.name == name);
            let Some(at) = at else { continue };
            match self.prepare(at, additions, now_ns) {
                Ok(one) => made.push(one),
                Err(error) => {
                    for Made { bridge, flows, .. } in made.into_iter().rev() {
                        flows.take_back(&mut self.bridges[bridge].flows, &mut self.ids);
                    }
                    return Err(error);
                }
            }
        }
        made.into_iter().for_each(|one| self.settle(one));
        Ok(())
    }

    /// Adds the flows of one bridge, so that it can be taken back.
    fn prepare(
        &mut self,
        bridge: usize,
        additions: Additions,
        now_ns: u64,
    ) -> Result<Made, ModelError> {
        let version = self.draft.version + 1;
        let b = &mut self.bridges[bridge];
        let options = with_options(&b.tlv, &additions.options)?;
        let (mut groups, mut meters) = (b.groups.clone(), b.meters.clone());
        groups.apply(&additions.groups, now_ns)?;
        meters.apply(&additions.meters, now_ns)?;
        check_refs(&groups, &meters, additions.pool.refers_to())?;
        let mut flows = std::mem::take(&mut b.flows);
        let site = Site { bridge: bridge as u16, names: b, ids: &mut self.ids, version, now_ns };
        let done = flows.prepare(additions.flows, site);
        b.flows = flows;
        let groups = (!additions.groups.is_empty()).then_some(groups);
        let meters = (!additions.meters.is_empty()).then_some(meters);
        Ok(Made { bridge, options, groups, meters, flows: done? })
    }

    fn settle(&mut self, made: Made) {
        let Made { bridge, options, groups, meters, flows } = made;
        self.set_options(bridge, options);
        let b = &mut self.bridges[bridge];
        let sees_more = groups.is_some() || meters.is_some();
        if let (Some(groups), Some(draft)) = (groups, self.draft.bridges.get_mut(bridge)) {
            b.groups = groups;
            draft.groups = b.groups.compiled();
        }
        if let (Some(meters), Some(draft)) = (meters, self.draft.bridges.get_mut(bridge)) {
            b.meters = meters;
            draft.meters = b.meters.compiled();
        }
        if sees_more {
            self.draft.see_afresh();
        }
        let Outcome { changes, removed, .. } = flows.settle(&mut b.flows, &mut self.ids);
        self.draft.change(&changes);
        self.remember_removed(bridge, removed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Config;
    use std::path::Path;

    fn model() -> Model {
        let port =
            |n: u8| format!("[[bridge.port]]\nname = \"p{n}\"\nnumber = {n}\ntype = \"memory\"\n");
        let (one, two) = (port(1), port(2));
        let text = format!("[[bridge]]\nname = \"a\"\n{one}[[bridge]]\nname = \"b\"\n{two}");
        let config = Config::parse(Path::new("test"), &text).unwrap();
        Model::new(&config, 1).unwrap()
    }

    fn load(model: &mut Model, text: &str) -> Result<(), ModelError> {
        model.load_flows("flows".into(), text, "a", 7)
    }

    /// Flows, groups and meters of all bridges, and of the program.
    fn state(model: &mut Model) -> (Vec<String>, Vec<u32>, Vec<u32>, Vec<usize>) {
        let program = model.program();
        let all = model.bridges.iter();
        (
            all.clone().flat_map(|b| b.flows.sorted().into_iter().map(|s| s.text(b))).collect(),
            all.clone().flat_map(|b| b.groups.iter().map(|g| g.group.id)).collect(),
            all.clone().flat_map(|b| b.meters.iter().map(|m| m.meter.id)).collect(),
            program
                .bridges
                .iter()
                .map(|b| b.groups.len() + b.meters.len())
                .chain([program.rules.iter().count()])
                .collect(),
        )
    }

    const GOOD: &str = "group add group_id=1,type=all,bucket=output:1\n\
                        meter add meter=2 kbps band=type=drop rate=100\n\
                        priority=5,ip actions=meter:2,group:1\n\
                        [bridge b]\n\
                        group add group_id=7,type=all,bucket=output:2\n\
                        priority=5,arp actions=group:7\n";

    #[test]
    fn a_file_is_taken_with_its_groups_and_meters() {
        let mut m = model();
        load(&mut m, GOOD).unwrap();
        let (flows, groups, meters, program) = state(&mut m);
        assert_eq!((flows.len(), groups, meters), (2, vec![1, 7], vec![2]));
        assert_eq!(program, [2, 1, 2]);
    }

    #[test]
    fn a_file_that_is_refused_at_its_end_leaves_nothing_behind() {
        let mut m = model();
        let first = "priority=5,ip actions=drop\n[bridge b]\npriority=9,udp actions=drop\n";
        load(&mut m, first).unwrap();
        let before = state(&mut m);
        for wrong in [
            "priority=1,tcp actions=group:8\n",
            "priority=1,tcp actions=meter:8\n",
            "group add group_id=7,type=all,bucket=output:2\n",
            "priority=9,ip,check_overlap actions=drop\n",
        ] {
            assert!(load(&mut m, &format!("{GOOD}{wrong}")).is_err(), "{wrong}");
            assert_eq!(state(&mut m), before, "{wrong}");
        }
        load(&mut m, GOOD).unwrap();
        assert_eq!(state(&mut m).0.len(), 3, "one in the place of an equal one");
    }

    #[test]
    fn a_table_holds_what_its_limit_says() {
        let text = "[daemon]\nvlan_limit = 2\n[[bridge]]\nname = \"a\"\n\
                    [[bridge.table]]\nnumber = 3\nflows_max = 1\n\
                    [[bridge.table]]\nnumber = 4\nflows_max = 1\noverflow_policy = \"evict\"\n";
        let config = Config::parse(Path::new("test"), text).unwrap();
        let mut m = Model::new(&config, 1).unwrap();
        assert_eq!(m.program().vlan_limit, 2);
        let full = load(&mut m, "table=3,ip actions=drop\ntable=3,arp actions=drop\n");
        assert_eq!(full.unwrap_err().to_string(), "table 3 is full: it holds 1 flows");
        let evicts = "table=4,ip,idle_timeout=9 actions=drop\ntable=4,arp actions=drop\n";
        load(&mut m, evicts).unwrap();
        assert_eq!(state(&mut m).0, ["table=4, arp actions=drop"]);
    }
}
