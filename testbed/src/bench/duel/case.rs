//! A case: what is played, against whom, what is measured, and what is asked for.
//!
//! A ratio is how many times better ours is: of rates ours by the rival's, of times the rival's by
//! ours. `tables` has the cases.

use serde::Serialize;

use super::rules::Rules;
use super::stream::{Role, Stream, Traffic};

/// Rules, and packets for them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Load {
    pub rules: Rules,
    pub traffic: Traffic,
    pub flows: u64,
    /// Our workers, or the peer's polling threads.
    pub workers: usize,
    /// Connections that a table may have; `None`: as the switch comes.
    pub conns_max: Option<u32>,
}

impl Load {
    pub fn new(rules: Rules, traffic: Traffic, flows: u64) -> Self {
        Self { rules, traffic, flows, workers: 1, conns_max: None }
    }

    pub fn describe(&self) -> String {
        let traffic = self.traffic.name();
        let workers = if self.workers == 1 { "" } else { ", several workers" };
        format!("{}, {} {traffic} flows{workers}", self.rules.name(), self.flows)
    }

    pub fn streams(&self) -> Vec<Stream> {
        self.traffic.streams(self.flows)
    }

    /// The stream that is measured, of traffic that has one.
    pub fn measured(&self) -> Option<Stream> {
        self.streams().into_iter().find(|s| s.role != Role::Warm)
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Rival {
    Peer,
    /// Ours on another load
    Own(Load),
    /// The same run of ours, in turns in which the packets of new connections stay away
    Calm,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Measure {
    /// Packets per second in the steady state
    Rate,
    /// From the first packet until the rate is nine tenths of the steady one
    Cold,
    /// New flows per second while each packet is of a new flow
    SetUp,
    /// From the start of the command until all rules are in force
    LoadRules,
    /// Packets per second while rules change, against none that does
    Churn,
    /// Connections per second while each packet begins one, and as many expire
    Connections,
    /// Packets of established connections per second in a flood of new ones
    Flood,
}

impl Measure {
    pub fn unit(self) -> &'static str {
        match self {
            Self::Rate | Self::Churn | Self::Flood => "Mpps",
            Self::Connections => "M conns/s",
            Self::Cold | Self::LoadRules => "ms",
            Self::SetUp => "M flows/s",
        }
    }

    /// Whether less is better.
    pub fn is_time(self) -> bool {
        matches!(self, Self::Cold | Self::LoadRules)
    }
}

/// A plot that a case is a point of.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Chart {
    FlowsExact,
    FlowsAcl,
    Rules,
    Masks,
    Tables,
    ConnectionsUdp,
    ConnectionsTcp,
}

/// How long a run must be for a case to be in it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Depth {
    Quick,
    Normal,
    Full,
}

#[derive(Clone, Debug)]
pub struct Case {
    pub id: &'static str,
    pub title: String,
    pub load: Load,
    pub rival: Rival,
    pub measure: Measure,
    /// The least ratio that is asked for.
    pub goal: Option<f64>,
    pub charts: Vec<(Chart, u64)>,
    pub depth: Depth,
}

impl Case {
    pub fn new(id: &'static str, title: &str, load: Load) -> Self {
        Self {
            id,
            title: title.to_owned(),
            load,
            rival: Rival::Peer,
            measure: Measure::Rate,
            goal: None,
            charts: Vec::new(),
            depth: Depth::Normal,
        }
    }

    pub fn goal(self, ratio: f64) -> Self {
        Self { goal: Some(ratio), ..self }
    }

    pub fn at(mut self, chart: Chart, x: u64) -> Self {
        self.charts.push((chart, x));
        self
    }

    pub fn depth(self, depth: Depth) -> Self {
        Self { depth, ..self }
    }

    pub fn quick(self) -> Self {
        self.depth(Depth::Quick)
    }

    pub fn measure(self, measure: Measure) -> Self {
        Self { measure, ..self }
    }

    pub fn against_calm(self) -> Self {
        Self { rival: Rival::Calm, ..self }
    }

    pub fn against(self, own: Load) -> Self {
        Self { rival: Rival::Own(own), ..self }
    }
}
