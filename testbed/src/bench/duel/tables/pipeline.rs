//! The pipeline's cases, numbered as the scenario table does: P1 to P4 are rates on the same
//! packets and rules, P9 is the way from cold to steady, P10 is rules that change.

use crate::bench::duel::case::{Case, Chart, Depth, Load, Measure};
use crate::bench::duel::rules::Rules;
use crate::bench::duel::stream::{Flows, Traffic};

fn plain(rules: Rules, flows: u64) -> Load {
    Load::new(rules, Traffic::OneWay(Flows::Plain), flows)
}

fn exploding(flows: u64) -> Load {
    Load::new(Rules::Acl(64), Traffic::OneWay(Flows::Exploding), flows)
}

fn routed(flows: u64) -> Load {
    Load::new(Rules::Routes, Traffic::OneWay(Flows::Routed), flows)
}

/// Distinct packets of the traffic that explodes masks.
const EXPLODING: u64 = 500_000;

/// Every case, in the order of the report.
pub fn all() -> Vec<Case> {
    let mut list = few_flows();
    list.extend(many_flows());
    list.extend(access_lists());
    list.extend(tables());
    list.extend(changes());
    list
}

fn few_flows() -> Vec<Case> {
    let exact = |n| plain(Rules::Exact(n), n);
    vec![
        Case::new("P1", "in_port to output, 1000 flows", plain(Rules::Forward, 1000)).quick(),
        Case::new("P1", "1 exact rule and flow", exact(1)).at(Chart::FlowsExact, 1),
        Case::new("P1", "1000 exact rules and flows", exact(1000))
            .goal(1.8)
            .at(Chart::FlowsExact, 1000)
            .at(Chart::Rules, 1000)
            .quick(),
    ]
}

fn many_flows() -> Vec<Case> {
    let exact = |n| plain(Rules::Exact(n), n);
    let wild = |n| plain(Rules::Wildcard, n);
    vec![
        Case::new("P2", "10 k exact rules and flows", exact(10_000))
            .goal(2.0)
            .at(Chart::FlowsExact, 10_000)
            .quick(),
        Case::new("P2", "100 k exact rules and flows", exact(100_000))
            .goal(4.0)
            .at(Chart::FlowsExact, 100_000)
            .quick(),
        Case::new("P2", "10 k exact rules, 1000 flows", plain(Rules::Exact(10_000), 1000))
            .at(Chart::Rules, 10_000),
        Case::new("P2", "100 k exact rules, 1000 flows", plain(Rules::Exact(100_000), 1000))
            .at(Chart::Rules, 100_000),
        Case::new("P2", "1000 routed flows, 10 k prefixes", routed(1000)).depth(Depth::Full),
        Case::new("P2", "10 k routed flows, 10 k prefixes", routed(10_000)).depth(Depth::Full),
        Case::new("P2", "100 k routed flows, 10 k prefixes", routed(100_000)).goal(2.5).quick(),
        Case::new("P2", "1 M microflows on one wildcard rule", wild(1_000_000)),
        Case::new("P2", "1 M microflows on one wildcard rule, of own 1 k", wild(1_000_000))
            .against(wild(1000))
            .goal(0.6)
            .quick(),
    ]
}

fn access_lists() -> Vec<Case> {
    let acl = |masks, flows| plain(Rules::Acl(masks), flows);
    let list = |title, masks, flows| Case::new("P3", title, acl(masks, flows));
    vec![
        list("1000 rules of 64 masks, 1000 flows", 64, 1000).goal(8.0).at(Chart::FlowsAcl, 1000),
        list("1000 rules of 64 masks, 10 k flows", 64, 10_000)
            .goal(8.0)
            .at(Chart::FlowsAcl, 10_000)
            .at(Chart::Masks, 64)
            .quick(),
        list("1000 rules of 64 masks, 100 k flows", 64, 100_000)
            .goal(8.0)
            .at(Chart::FlowsAcl, 100_000),
        list("1000 rules of 1 mask, 10 k flows", 1, 10_000).at(Chart::Masks, 1),
        list("1000 rules of 5 masks, 10 k flows", 5, 10_000).at(Chart::Masks, 5),
        list("1000 rules of 20 masks, 10 k flows", 20, 10_000).at(Chart::Masks, 20),
        list("1000 rules of 20 masks, 1000 flows", 20, 1000).depth(Depth::Full),
        list("1000 rules of 20 masks, 100 k flows", 20, 100_000).depth(Depth::Full),
        Case::new("P3", "500 k flows that explode the masks", exploding(EXPLODING))
            .goal(8.0)
            .quick(),
        Case::new("P3", "500 k flows that explode the masks, of own benign", exploding(EXPLODING))
            .against(acl(64, EXPLODING))
            .goal(0.8)
            .quick(),
    ]
}

fn tables() -> Vec<Case> {
    let chain = |tables| plain(Rules::Chain(tables, 1000), 1000);
    let point = |tables: u8| {
        let name = if tables == 1 { "table" } else { "tables" };
        let title = format!("{tables} {name}, TTL and both MACs, 1000 flows");
        Case::new("P4", &title, chain(tables)).at(Chart::Tables, u64::from(tables))
    };
    vec![
        point(1),
        point(5).goal(2.0).quick(),
        point(10),
        point(20),
        point(40),
        Case::new("P4", "40 tables, of own 1 table", chain(40)).against(chain(1)).goal(0.8).quick(),
    ]
}

fn changes() -> Vec<Case> {
    let exact = |n| plain(Rules::Exact(n), n);
    vec![
        Case::new("P9", "60 k new flows, from cold to 90 % of the steady rate", exact(60_000))
            .measure(Measure::Cold)
            .goal(20.0)
            .quick(),
        Case::new("P9", "set-up of new flows through 5 tables", exact(100_000))
            .measure(Measure::SetUp)
            .goal(5.0)
            .quick(),
        Case::new("P10", "load 100 k rules", exact(100_000))
            .measure(Measure::LoadRules)
            .goal(3.0)
            .quick(),
        Case::new("P10", "10 k rule changes a second, of own undisturbed", exact(10_000))
            .against(exact(10_000))
            .measure(Measure::Churn)
            .goal(0.9)
            .quick(),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bench::duel::case::{Depth, Rival};

    #[test]
    fn every_chart_has_its_points() {
        let all = all();
        let points = |chart| {
            let mut xs: Vec<u64> = all
                .iter()
                .filter(|c| c.depth <= Depth::Normal && c.rival == Rival::Peer)
                .flat_map(|c| c.charts.iter().filter(move |p| p.0 == chart).map(|p| p.1))
                .collect();
            xs.sort_unstable();
            xs
        };
        assert_eq!(points(Chart::FlowsExact), [1, 1000, 10_000, 100_000]);
        assert_eq!(points(Chart::FlowsAcl), [1000, 10_000, 100_000]);
        assert_eq!(points(Chart::Rules), [1000, 10_000, 100_000]);
        assert_eq!(points(Chart::Masks), [1, 5, 20, 64]);
        assert_eq!(points(Chart::Tables), [1, 5, 10, 20, 40]);
    }
}
