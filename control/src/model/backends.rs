//! What the switch as a whole names as NAT's destinations.
//!
//! Connections have a zone and no bridge, so a destination is gone when no bridge names it.

use super::Model;
use crate::store::Backends;
use sluice_dataplane::conntrack::Backend;
use std::collections::BTreeSet;

impl Model {
    /// From now on destinations are counted; before there are flows and groups.
    pub fn watch_backends(&mut self) {
        self.backends_mut().for_each(Backends::watch);
    }

    fn backends(&self) -> impl Iterator<Item = &Backends> {
        self.bridges.iter().flat_map(|b| [b.flows.backends(), b.groups.backends()])
    }

    fn backends_mut(&mut self) -> impl Iterator<Item = &mut Backends> {
        self.bridges.iter_mut().flat_map(|b| [b.flows.backends_mut(), b.groups.backends_mut()])
    }

    /// Destinations that were named, and are no more, since the last time.
    pub fn unnamed_backends(&mut self) -> Vec<Backend> {
        let gone: BTreeSet<Backend> =
            self.backends_mut().flat_map(Backends::take_unnamed).collect();
        gone.into_iter().filter(|b| !self.names_backend(b)).collect()
    }

    pub fn names_backend(&self, backend: &Backend) -> bool {
        self.backends().any(|b| b.names(backend))
    }

    /// What is named and may lead where one of these leads.
    pub fn backends_beside(&self, gone: &[Backend]) -> Vec<Backend> {
        let beside = |g| self.backends().flat_map(move |b| b.beside(g));
        let all: BTreeSet<Backend> = gone.iter().flat_map(beside).collect();
        all.into_iter().collect()
    }

    /// Another number than before when something is named that was not.
    pub fn backend_arrivals(&self) -> u64 {
        self.backends().map(Backends::arrivals).sum()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Config;
    use crate::flow::{
        Command, FlowAction, GroupMod, parse_bundle_text, parse_flow, parse_flow_mod,
        parse_group_mod,
    };
    use crate::store::Pool;
    use proptest::prelude::*;
    use std::path::Path;

    fn model() -> Model {
        let text = "[[bridge]]\nname = \"a\"\n[[bridge.table]]\nnumber = 2\nflows_max = 3\n\
                    overflow_policy = \"evict\"\n[[bridge]]\nname = \"b\"\n";
        let config = Config::parse(Path::new("test"), text).unwrap();
        let mut model = Model::new(&config, 1).unwrap();
        model.watch_backends();
        model
    }

    /// What is named, by looking at everything.
    fn recount(m: &Model) -> BTreeSet<String> {
        let flows = m.bridges.iter().flat_map(|b| b.flows.sorted()).map(|s| s.flow().actions);
        let groups = m.bridges.iter().flat_map(|b| b.groups.iter());
        let buckets = groups.flat_map(|g| g.group.buckets.iter().map(|b| b.actions.clone()));
        let mut all = BTreeSet::new();
        flows.chain(buckets).for_each(|list| note(&list, &mut all));
        all
    }

    fn note(list: &[FlowAction], all: &mut BTreeSet<String>) {
        for a in list {
            if let FlowAction::Ct(ct) = a
                && let Some((first, last)) = ct.nat.and_then(|n| n.addresses)
            {
                all.insert(format!("{first} {last} {:?}", ct.zone));
            }
            note(a.nested(), all);
        }
    }

    fn text_of(b: &Backend) -> String {
        let address = |a| std::net::Ipv4Addr::from(a as u32);
        let zone = b.zone.map(crate::flow::Zone::Number);
        format!("{} {} {:?}", address(b.addresses.0), address(b.addresses.1), zone.unwrap())
    }

    #[derive(Clone, Debug)]
    enum Op {
        Flow(Command, String),
        Bundle(Vec<String>),
        Replace(Vec<String>),
        Group(String),
        Expire,
        Load(String),
    }

    fn flow() -> impl Strategy<Value = String> {
        let ct = |n, last, z| format!("ct(commit,zone={z},nat(dst=10.0.0.{n}-10.0.0.{last}))");
        let ends = (1u8..5, prop_oneof![4 => Just(0u8), 1 => 1u8..3], 0u8..2);
        let acts = prop_oneof![
            4 => ends.prop_map(move |(n, more, z)| ct(n, n + more, z)),
            1 => (1u8..5).prop_map(move |n| format!("clone({0},{0}),output:1", ct(n, n, 0))),
            1 => (1u8..3).prop_map(|g| format!("group:{g}")),
            1 => Just("output:1".to_owned()),
        ];
        let rest =
            prop_oneof![4 => Just(""), 1 => Just(",hard_timeout=1"), 1 => Just(",check_overlap")];
        (0u8..3, 1u8..5, rest, acts).prop_map(|(t, p, rest, acts)| {
            format!("table={t},ip,nw_dst=1.0.0.{p}{rest},actions={acts}")
        })
    }

    fn op() -> impl Strategy<Value = Op> {
        let place = || (0u8..3, 1u8..5).prop_map(|(t, p)| format!("table={t},ip,nw_dst=1.0.0.{p}"));
        let group =
            (1u8..3, 0u8..2, prop::collection::vec(1u8..6, 0..3)).prop_map(|(id, how, ends)| {
                let bucket = |n| format!(",bucket=ct(commit,zone=1,nat(dst=10.0.0.{n}))");
                let buckets: String = ends.into_iter().map(bucket).collect();
                let word = ["add", "add_or_mod"][usize::from(how)];
                format!("{word} group_id={id},type=select{buckets}")
            });
        let in_bundle = prop_oneof![
            flow().prop_map(|f| format!("add {f}")),
            place().prop_map(|p| format!("delete {p}")),
            flow().prop_map(|f| format!("modify {f}")),
            group.clone().prop_map(|g| format!("group {g}")),
            (1u8..3).prop_map(|id| format!("group delete group_id={id}")),
        ];
        prop_oneof![
            4 => flow().prop_map(|f| Op::Flow(Command::Add, f)),
            2 => flow().prop_map(|f| Op::Flow(Command::Modify, f)),
            2 => place().prop_map(|p| Op::Flow(Command::Delete, p)),
            2 => prop::collection::vec(in_bundle, 1..6).prop_map(Op::Bundle),
            1 => prop::collection::vec(flow(), 0..6).prop_map(Op::Replace),
            2 => group.prop_map(Op::Group),
            1 => (1u8..3).prop_map(|id| Op::Group(format!("delete group_id={id}"))),
            1 => Just(Op::Group("delete".to_owned())),
            1 => (1u8..3).prop_map(|id| {
                Op::Group(format!("remove_bucket group_id={id},command_bucket_id=first"))
            }),
            1 => (1u8..3, 1u8..6).prop_map(|(id, n)| {
                let to = format!("actions=ct(commit,zone=1,nat(dst=10.0.0.{n}))");
                Op::Group(format!("insert_bucket group_id={id},command_bucket_id=last,bucket={to}"))
            }),
            1 => Just(Op::Expire),
            1 => flow().prop_map(Op::Load),
        ]
    }

    /// Changes something, or is refused.
    fn change(m: &mut Model, at: usize, op: &Op, now_ns: u64) -> bool {
        match op {
            Op::Flow(command, text) => {
                let of = parse_flow_mod(text, Some(*command), &m.bridges[at]).unwrap();
                let refers = crate::flow::refers_to(&of.flow.actions);
                m.check_refs(at, [refers].into_iter()).is_ok()
                    && m.change_flows(at, now_ns, |f, site| f.apply(&[of], site)).is_ok()
            }
            Op::Bundle(lines) => {
                let bundle = parse_bundle_text(&lines.join("\n"), &m.bridges[at]).unwrap();
                m.change_bundle(at, &bundle, now_ns).is_ok()
            }
            Op::Replace(flows) => {
                let mut pool = Pool::default();
                let of = |f: &String| pool.pack(parse_flow(f, &m.bridges[at]).unwrap());
                let flows = flows.iter().map(of).collect();
                m.check_refs(at, pool.refers_to()).is_ok()
                    && m.change_flows(at, now_ns, |f, site| f.replace(flows, site)).is_ok()
            }
            Op::Group(text) => {
                let one: GroupMod = parse_group_mod(text, None, &m.bridges[at]).unwrap();
                m.change_groups(at, &[one], now_ns).is_ok()
            }
            Op::Expire => m.expire_flows(now_ns + 2_000_000_000) > 0,
            Op::Load(flow) => {
                let good =
                    "group add group_id=9,type=all,bucket=ct(commit,zone=1,nat(dst=10.0.0.7))";
                let wrong = "[bridge b]\nip,actions=group:77";
                let text = format!("{good}\n{flow}\n{wrong}");
                m.load_flows("f".into(), &text, "a", now_ns).is_ok()
            }
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig {
            failure_persistence: None, ..ProptestConfig::with_cases(300)
        })]
        /// Whatever is done, or refused: what is named is what is there, and what is told to be
        /// gone was there when somebody last asked, and is there no more.
        #[test]
        fn names_are_those_of_a_recount(
            ops in prop::collection::vec((0usize..2, op(), prop::bool::weighted(0.4)), 1..40),
        ) {
            let mut m = model();
            let mut met = BTreeSet::new();
            for (n, (at, op, asks)) in ops.iter().enumerate() {
                change(&mut m, *at, op, n as u64);
                let now = recount(&m);
                let named: BTreeSet<String> = m
                    .bridges
                    .iter()
                    .flat_map(|b| [b.flows.backends().all(), b.groups.backends().all()])
                    .flatten()
                    .map(|(b, _)| text_of(&b))
                    .collect();
                prop_assert_eq!(&named, &now, "after {:?}", op);
                met.extend(now.clone());
                if *asks {
                    let told: BTreeSet<String> =
                        m.unnamed_backends().iter().map(text_of).collect();
                    prop_assert!(told.is_disjoint(&now));
                    // Within a change, something may have come and gone.
                    let gone: BTreeSet<String> = met.difference(&now).cloned().collect();
                    prop_assert!(told.is_superset(&gone), "{:?} of {:?}", told, gone);
                    met = now;
                }
            }
        }
    }

    #[test]
    fn a_destination_of_another_bridge_or_of_a_group_is_not_gone() {
        let mut m = model();
        let add = |text: &str| Op::Flow(Command::Add, text.to_owned());
        let flow = "ip,actions=ct(commit,zone=1,nat(dst=10.0.0.1))";
        for at in [0, 1] {
            assert!(change(&mut m, at, &add(flow), 1));
        }
        let delete = Op::Flow(Command::Delete, String::new());
        let group = "group_id=1,type=select,bucket=ct(commit,zone=1,nat(dst=10.0.0.1))";
        assert!(change(&mut m, 0, &Op::Group(format!("add {group}")), 2));
        for at in [0, 1] {
            assert!(change(&mut m, at, &delete, 3));
            assert_eq!(m.unnamed_backends(), []);
        }
        assert!(change(&mut m, 0, &Op::Group("delete".to_owned()), 4));
        assert_eq!(
            m.unnamed_backends().iter().map(text_of).collect::<Vec<_>>(),
            ["10.0.0.1 10.0.0.1 Number(1)"]
        );
    }

    #[test]
    fn what_a_bundle_or_another_file_names_again_was_never_gone() {
        let mut m = model();
        let flow = |n| format!("ip,nw_dst=1.0.0.{n},actions=ct(commit,zone=1,nat(dst=10.0.0.1))");
        assert!(change(&mut m, 0, &Op::Flow(Command::Add, flow(1)), 1));
        let both = ["delete ip".to_owned(), format!("add {}", flow(2))];
        assert!(change(&mut m, 0, &Op::Bundle(both.to_vec()), 2));
        assert_eq!(m.unnamed_backends(), []);
        assert!(change(&mut m, 0, &Op::Replace(vec![flow(3)]), 3));
        assert_eq!((m.unnamed_backends(), m.bridges[0].flows.len()), (vec![], 1));
        // Two messages, and nobody asked between.
        assert!(change(&mut m, 0, &Op::Flow(Command::Delete, String::new()), 4));
        assert!(change(&mut m, 0, &Op::Flow(Command::Add, flow(4)), 5));
        assert_eq!(m.unnamed_backends(), []);
        assert!(change(&mut m, 0, &Op::Replace(vec![]), 6));
        assert_eq!(m.unnamed_backends().len(), 1);
    }
}
