//! The destinations that a bridge's flows or groups name in `nat(dst=...)`, counted, and which of
//! them nothing names any more.
//!
//! Counts follow the flows through a change step by step, and through its being taken back. What
//! is asked at the end is what counts: a destination that a bundle takes away and names again, or
//! that a file in the place of another has as well, was never gone. The same holds for two changes
//! between which nobody asked.
//!
//! A name costs a look-up in a tree of the different ones; a flow without `nat` costs a look at
//! its actions.

use crate::flow::{FlowAction, NatSide, Zone};
use sluice_dataplane::conntrack::{Backend, IpKey};
use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

/// Names of destinations.
#[derive(Clone, Debug, Default)]
pub struct Backends {
    /// Nothing is counted for who does not ask.
    is_watched: bool,
    /// Of one address each.
    single: BTreeMap<Backend, u32>,
    ranges: BTreeMap<Backend, u32>,
    /// What was named, and is no more, since the last time that was asked.
    unnamed: BTreeSet<Backend>,
    /// How often something was named that was not before.
    arrivals: u64,
}

fn number(address: IpAddr) -> IpKey {
    match address {
        IpAddr::V4(a) => u32::from(a).into(),
        IpAddr::V6(a) => a.into(),
    }
}

/// Calls `f` for each destination that a list names, in other actions too.
fn each(list: &[FlowAction], f: &mut dyn FnMut(Backend)) {
    for a in list {
        match a {
            FlowAction::Ct(ct) => {
                let nat = ct.nat.filter(|nat| nat.side == Some(NatSide::Dst));
                let Some((nat, (first, last))) = nat.and_then(|n| n.addresses.map(|a| (n, a)))
                else {
                    continue;
                };
                let addresses = (number(first), number(last));
                let zone = match ct.zone {
                    Zone::Number(zone) => Some(zone),
                    Zone::Field(_) => None,
                };
                // Zero keeps the address: it leads nowhere else.
                if addresses != (0, 0) {
                    f(Backend { v6: first.is_ipv6(), addresses, ports: nat.ports, zone });
                }
            }
            FlowAction::Clone(inner) | FlowAction::WriteActions(inner) => each(inner, f),
            _ => {}
        }
    }
}

impl Backends {
    /// From now on names are counted; before there are any.
    pub fn watch(&mut self) {
        self.is_watched = true;
    }

    fn counts(&mut self, b: &Backend) -> &mut BTreeMap<Backend, u32> {
        if b.is_single() { &mut self.single } else { &mut self.ranges }
    }

    /// A list of actions came.
    pub fn add(&mut self, list: &[FlowAction]) {
        if !self.is_watched {
            return;
        }
        each(list, &mut |b| {
            let count = self.counts(&b).entry(b).or_default();
            *count += 1;
            if *count == 1 {
                self.unnamed.remove(&b);
                self.arrivals += 1;
            }
        });
    }

    /// A list of actions went that had come.
    pub fn remove(&mut self, list: &[FlowAction]) {
        if !self.is_watched {
            return;
        }
        each(list, &mut |b| {
            let counts = self.counts(&b);
            let Some(count) = counts.get_mut(&b) else { return };
            *count -= 1;
            if *count == 0 {
                counts.remove(&b);
                self.unnamed.insert(b);
            }
        });
    }

    pub fn names(&self, b: &Backend) -> bool {
        self.single.contains_key(b) || self.ranges.contains_key(b)
    }

    /// How often something was named that was not before.
    pub fn arrivals(&self) -> u64 {
        self.arrivals
    }

    /// What was named, and is no more, since the last time.
    pub fn take_unnamed(&mut self) -> BTreeSet<Backend> {
        std::mem::take(&mut self.unnamed)
    }

    /// All named ones that may lead where this one leads.
    pub fn beside<'a>(&'a self, b: &'a Backend) -> impl Iterator<Item = Backend> + 'a {
        let lowest = Backend { v6: b.v6, addresses: (b.addresses.0, 0), ..Backend::default() };
        let highest = Backend {
            v6: b.v6,
            addresses: (b.addresses.1, IpKey::MAX),
            ports: Some((u16::MAX, u16::MAX)),
            zone: Some(u16::MAX),
        };
        let all = self.single.range(lowest..=highest).chain(&self.ranges);
        all.map(|(other, _)| *other).filter(|other| other.meets(b))
    }

    #[cfg(test)]
    pub fn all(&self) -> Vec<(Backend, u32)> {
        self.single.iter().chain(&self.ranges).map(|(b, n)| (*b, *n)).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::flow::{NoNames, parse_flow};

    fn list(actions: &str) -> Vec<FlowAction> {
        parse_flow(&format!("ip,actions={actions}"), &NoNames).unwrap().actions
    }

    fn watched(lists: &[&str]) -> Backends {
        let mut b = Backends::default();
        b.watch();
        lists.iter().for_each(|l| b.add(&list(l)));
        b
    }

    const ONE: &str = "ct(commit,zone=5,nat(dst=10.0.0.1:80))";

    fn one() -> Backend {
        let (addresses, ports) = ((0x0a00_0001, 0x0a00_0001), Some((80, 80)));
        Backend { v6: false, addresses, ports, zone: Some(5) }
    }

    #[test]
    fn actions_name_destinations_wherever_they_stand() {
        let v4 = |zone, ports| Backend { ports, zone, ..one() };
        for (text, want) in [
            (ONE, vec![one()]),
            ("ct(commit,zone=NXM_NX_REG1[0..15],nat(dst=10.0.0.1))", vec![v4(None, None)]),
            (
                "clone(ct(commit,nat(dst=10.0.0.1:1-9)),output:1),clone(clone(ct(commit,zone=5,\
                 nat(dst=10.0.0.1:80))))",
                vec![v4(Some(0), Some((1, 9))), one()],
            ),
            ("ct(commit,nat(src=10.0.0.1)),ct(nat),ct(commit,nat(dst=0.0.0.0))", vec![]),
            ("output:1,ct(commit,nat(dst))", vec![]),
        ] {
            let mut named = Vec::new();
            each(&list(text), &mut |b| named.push(b));
            assert_eq!(named, want, "{text}");
        }
        let six = parse_flow("ipv6,actions=ct(commit,nat(dst=[fd00::1]-[fd00::9]:53))", &NoNames);
        let b = {
            let mut all = Vec::new();
            each(&six.unwrap().actions, &mut |b| all.push(b));
            all[0]
        };
        let first = 0xfd00_u128 << 112 | 1;
        assert_eq!((b.v6, b.addresses, b.ports), (true, (first, first + 8), Some((53, 53))));
    }

    #[test]
    fn only_the_last_name_that_goes_leaves_something_unnamed() {
        let twice = format!("{ONE},clone({ONE})");
        let mut b = watched(&[ONE, &twice]);
        assert_eq!(b.all(), [(one(), 3)]);
        b.remove(&list(&twice));
        assert!(b.names(&one()) && b.take_unnamed().is_empty());
        b.remove(&list(ONE));
        // What comes back in time was never gone.
        b.add(&list(ONE));
        assert!(b.take_unnamed().is_empty());
        b.remove(&list(ONE));
        assert_eq!(b.take_unnamed().into_iter().collect::<Vec<_>>(), [one()]);
        assert!(b.take_unnamed().is_empty() && !b.names(&one()));
        assert_eq!(b.arrivals(), 2);
    }

    #[test]
    fn who_does_not_watch_counts_nothing() {
        let mut b = Backends::default();
        b.add(&list(ONE));
        b.remove(&list(ONE));
        assert!(b.all().is_empty() && b.take_unnamed().is_empty());
    }

    #[test]
    fn what_is_beside_has_addresses_and_zones_in_common() {
        let b = watched(&[
            ONE,
            "ct(commit,zone=6,nat(dst=10.0.0.1:80))",
            "ct(commit,zone=NXM_NX_REG1[0..15],nat(dst=10.0.0.1))",
            "ct(commit,zone=5,nat(dst=10.0.0.2))",
            "ct(commit,zone=5,nat(dst=9.0.0.0-10.0.0.1))",
            "ct(commit,zone=5,nat(dst=10.0.0.2-10.0.0.9))",
        ]);
        let of = |last, zone| {
            let gone = Backend { addresses: (0x0a00_0001, last), zone, ..one() };
            b.beside(&gone).count()
        };
        assert_eq!((of(0x0a00_0001, Some(5)), of(0x0a00_0001, None)), (3, 4));
        assert_eq!((of(0x0a00_0002, Some(5)), of(0x0a00_0002, Some(7))), (5, 1));
    }
}
