//! Programs that change rule by rule, by chance.

use crate::chance::{Chance, a_flow, actions};
use crate::kit::*;
use crate::packets::to_host;
use sluice_dataplane::action::learn::{learned, nth};
use sluice_dataplane::packet::field::Field;
use sluice_dataplane::pipeline::RuleIds;
use sluice_dataplane::pipeline::miss::Event;

/// The rules of bridge 0 by number, as control knows them.
pub struct Book {
    ids: RuleIds,
    there: Vec<(u32, Flow)>,
}

impl Book {
    /// After a whole program: rules have numbers in the order of bridges and flows.
    pub fn new(net: &Net) -> Self {
        let mut ids = RuleIds::default();
        let first = &net.flows[0];
        let there = first.iter().map(|f| (ids.take(), f.clone())).collect();
        net.flows[1..].iter().flatten().for_each(|_| _ = ids.take());
        Self { ids, there }
    }

    /// Adds, changes and removes up to three rules in one go.
    pub fn change(&mut self, c: &mut Chance, s: &mut Switch) {
        let swept = s.sides().map(|side| side.lane.swept());
        self.ids.swept(swept.into_iter().min().unwrap());
        let mut edits = Vec::new();
        let mut fresh = Vec::new();
        for _ in 0..1 + c.below(3) {
            let at = c.below(self.there.len().max(1) as u64) as usize;
            match c.below(3) {
                0 if !self.there.is_empty() => {
                    let (number, _) = self.there.swap_remove(at);
                    edits.push(Edit::Remove { number });
                }
                1 if !self.there.is_empty() => {
                    let number = self.there[at].0;
                    if !fresh.contains(&number) {
                        edits.push(Edit::Modify { number, actions: actions(c, 3) });
                    }
                }
                _ => {
                    let flow = a_flow(c, 3);
                    if !self.there.iter().any(|(_, f)| f.is_the_place_of(&flow)) {
                        let number = self.ids.take();
                        fresh.push(number);
                        self.there.push((number, flow.clone()));
                        edits.push(Edit::Add { number, flow: flow.into() });
                    }
                }
            }
        }
        let version = s.change(&edits);
        for e in &edits {
            if let Edit::Remove { number } = e {
                self.ids.give_back(*number, version);
            }
        }
    }

    /// Adds what packets asked for since the last time.
    pub fn learn(&mut self, s: &mut Switch) {
        for event in s.take_events() {
            let Event::Learn { bridge: 0, rule, nth: n, key } = event else { continue };
            let f = learned(nth(&rule.actions, n).expect("the learn that asked"), &key);
            let flow = Flow {
                table: f.table,
                priority: f.priority,
                cookie: f.cookie,
                value: f.matching.value,
                mask: f.matching.mask,
                actions: f.actions,
            };
            let have = self.there.iter().find(|(_, there)| there.is_the_place_of(&flow));
            let edit = match have {
                Some((number, _)) => Edit::Modify { number: *number, actions: flow.actions },
                None => {
                    let number = self.ids.take();
                    self.there.push((number, flow.clone()));
                    Edit::Add { number, flow: flow.into() }
                }
            };
            s.change(&[edit]);
        }
    }
}

fn to(port: u32, last: u128, out_port: u32) -> Flow {
    let f = flow(0, 10).is(Field::InPort, port.into()).is(Field::EthType, 0x0800);
    f.is(Field::IpDst, 0x0a00_0000 + last).does([out(out_port)])
}

#[test]
fn a_change_elsewhere_keeps_what_is_cached() {
    let mut s = Switch::new(&Net::of([to(1, 2, 2), to(1, 3, 3)]));
    let packets = [to_host(2), to_host(3)];
    for p in packets.iter().chain(&packets) {
        s.send(1, p);
    }
    let walked = s.walks();
    s.change(&[Edit::Modify { number: 1, actions: vec![out(4)] }]);
    assert_eq!(s.ports(1, &packets[0]), [2]);
    assert_eq!(s.walks(), walked, "the change is of another address");
    assert_eq!(s.ports(1, &packets[1]), [4]);
    assert_eq!(s.walks(), walked + 1);
    let all = flow(0, 20).does([out(3)]);
    s.change(&[Edit::Add { number: 2, flow: all.into() }]);
    assert_eq!((s.ports(1, &packets[0]), s.walks()), (vec![3], walked + 2));
    s.change(&[Edit::Remove { number: 2 }]);
    assert_eq!((s.ports(1, &packets[0]), s.walks()), (vec![2], walked + 3));
}

#[test]
fn counts_outlive_changes_of_actions_and_numbers_wait_for_the_sweep() {
    let mut s = Switch::new(&Net::of([to(1, 2, 2)]));
    let p = to_host(2);
    (0..5).for_each(|_| _ = s.send(1, &p));
    s.change(&[Edit::Modify { number: 0, actions: vec![out(3)] }]);
    (0..5).for_each(|_| _ = s.send(1, &p));
    assert_eq!(s.see().rules[0].0, 10);
    let version = s.change(&[Edit::Remove { number: 0 }]);
    assert!(s.cached.lane.swept() < version, "an entry names the rule still");
    (0..8).for_each(|_| s.housekeep());
    assert_eq!(s.cached.lane.swept(), version);
}
