//! What the rounds say: a line a case, a summary, JSON, and the page.

use std::path::Path;
use std::time::Duration;

use serde_json::{Value, json};

use super::case::{Case, Rival};
use super::play::{Churning, Outcome};
use super::plot::short;
use super::{Bench, Options, WORKER_CPU, page};
use crate::bench::report::{Machine, Spread};
use crate::{Error, Result};

/// A case and what came out of it.
pub struct Row {
    pub case: Case,
    pub outcome: Outcome,
}

/// What the peer does with new connections without end.
pub fn churning(c: Churning) -> String {
    format!(
        "; without end it makes {} and refuses {} M conns/s, {} to {} live",
        short(c.made_per_second / 1e6),
        short(c.refused_per_second / 1e6),
        c.live.0,
        c.live.1,
    )
}

impl Row {
    /// How many times better ours is, round by round.
    pub fn ratio(&self) -> Option<Spread> {
        let Outcome { own, rival, .. } = &self.outcome;
        let spread = if self.case.measure.is_time() {
            Spread::of_ratio(rival, own)
        } else {
            Spread::of_ratio(own, rival)
        };
        spread.filter(|s| s.max.is_finite())
    }

    /// Whether the goal is met; `None` without a goal or a figure.
    pub fn is_met(&self) -> Option<bool> {
        Some(self.ratio()?.median >= self.case.goal?)
    }

    /// Who the rival was, with its setting.
    pub fn rival(&self) -> String {
        match (&self.case.rival, &self.outcome.peer) {
            (Rival::Own(load), _) => format!("own {}", load.describe()),
            (Rival::Calm, _) => "own turns without new connections".to_owned(),
            (Rival::Peer, Some(facts)) => format!("{}: {}", facts.build, facts.setting),
            (Rival::Peer, None) => "debian: as it comes".to_owned(),
        }
    }

    fn line(&self) -> String {
        let head = format!("{:<4} {:<60}", self.case.id, self.case.title);
        if let Some(failure) = &self.outcome.failure {
            return format!("{head} FAILED: {failure}");
        }
        let side = |figures: &[f64], cycles: &[f64]| {
            let figure = Spread::of(figures).map_or_else(|| "-".to_owned(), |s| short(s.median));
            let cycles =
                Spread::of(cycles).map_or_else(String::new, |s| format!("{:.0}", s.median));
            format!("{figure:>7} {cycles:>5}")
        };
        let o = &self.outcome;
        let ratio = self.ratio().map_or_else(
            || "-".to_owned(),
            |s| format!("{:>6}x ({}-{})", short(s.median), short(s.min), short(s.max)),
        );
        let goal = match (self.case.goal, self.is_met()) {
            (Some(goal), Some(true)) => format!(">= {goal} ok"),
            (Some(goal), _) => format!(">= {goal} MISSED"),
            _ => String::new(),
        };
        format!(
            "{head} {} | {} {:<9} {ratio:<22} {goal:<14} [{}]",
            side(&o.own, &o.own_cycles),
            side(&o.rival, &o.rival_cycles),
            self.case.measure.unit(),
            self.rival(),
        ) + &o.peer.as_ref().and_then(|p| p.churning).map_or_else(String::new, churning)
    }

    fn json(&self) -> Value {
        let o = &self.outcome;
        let rival = match &self.case.rival {
            Rival::Peer => "peer".to_owned(),
            Rival::Own(load) => load.describe(),
            Rival::Calm => "own turns without new connections".to_owned(),
        };
        json!({
            "id": self.case.id,
            "title": self.case.title,
            "load": self.case.load.describe(),
            "rival": rival,
            "measure": self.case.measure,
            "unit": self.case.measure.unit(),
            "goal": self.case.goal,
            "met": self.is_met(),
            "ratio": self.ratio(),
            "own": Spread::of(&o.own),
            "rival_spread": Spread::of(&o.rival),
            "own_cycles": Spread::of(&o.own_cycles),
            "rival_cycles": Spread::of(&o.rival_cycles),
            "floor_cycles": Spread::of(&o.floor_cycles),
            "charts": self.case.charts,
            "rounds": o,
        })
    }
}

pub struct Report {
    pub bench: Bench,
    pub machine: Machine,
    pub options: Options,
    pub rows: Vec<Row>,
    pub seconds: f64,
}

impl Report {
    pub fn new(bench: Bench, options: &Options) -> Self {
        let options = options.clone();
        Self { bench, machine: Machine::look(), options, rows: Vec::new(), seconds: 0.0 }
    }

    pub fn add(&mut self, case: &Case, outcome: Outcome) {
        self.rows.push(Row { case: case.clone(), outcome });
    }

    pub fn end(&mut self, took: Duration) {
        self.seconds = took.as_secs_f64();
    }

    /// Whether the machine had other work when it began.
    pub fn is_disturbed(&self) -> bool {
        self.machine.load_1min > 1.0
    }

    pub fn has_failures(&self) -> bool {
        self.rows.iter().any(|r| r.outcome.failure.is_some())
    }

    pub fn head(&self) -> String {
        let Machine { kernel, cpu, cpus, load_1min } = &self.machine;
        let Options { rounds, seconds, .. } = &self.options;
        let warning = if self.is_disturbed() {
            "\nother work is running on this machine: the figures will be disturbed"
        } else {
            ""
        };
        format!(
            "Linux {kernel}, {cpus} x {cpu}, load {load_1min:.2}; worker and polling thread on \
             core {WORKER_CPU}; {rounds} rounds of {seconds} s in turn{warning}\n\
             {:<65} {:>13} | {:>13} {:<9} {}",
            "case", "ours  cycles", "rival cycles", "unit", "ratio, median (min-max)"
        )
    }

    pub fn last_line(&self) -> String {
        self.rows.last().map_or_else(String::new, Row::line)
    }

    pub fn summary(&self) -> String {
        let goals: Vec<bool> = self.rows.iter().filter_map(Row::is_met).collect();
        let met = goals.iter().filter(|met| **met).count();
        let failed = self.rows.iter().filter(|r| r.outcome.failure.is_some()).count();
        let same: usize = self.rows.iter().map(|r| r.outcome.compared).sum();
        format!(
            "{met} of {} goals met, {failed} cases failed, {same} frames compared and equal, \
             {:.0} s",
            goals.len(),
            self.seconds
        )
    }

    pub fn json(&self) -> Value {
        let Options { rounds, seconds, quick, full, .. } = &self.options;
        json!({
            "bench": self.bench,
            "machine": self.machine,
            "settings": {
                "rounds": rounds,
                "seconds": seconds,
                "quick": quick,
                "full": full,
                "worker_cpu": WORKER_CPU,
                "frame_bytes": super::packets::FRAME_BYTES,
            },
            "took_seconds": self.seconds,
            "summary": self.summary(),
            "cases": self.rows.iter().map(Row::json).collect::<Vec<_>>(),
        })
    }

    /// `results.json` and `report.html` in `folder`.
    pub fn write(&self, folder: &Path) -> Result<()> {
        let what = |path: &Path| Error::io(format!("write {}", path.display()));
        std::fs::create_dir_all(folder).map_err(what(folder))?;
        let (json, html) = (folder.join("results.json"), folder.join("report.html"));
        std::fs::write(&json, format!("{:#}\n", self.json())).map_err(what(&json))?;
        std::fs::write(&html, page::html(self)).map_err(what(&html))?;
        println!("{}\n{}", json.display(), html.display());
        Ok(())
    }
}

#[cfg(test)]
pub mod tests {
    use super::*;
    use clap::Parser;

    /// A report with made-up figures for every case, the first of which failed.
    pub fn sample(bench: Bench) -> Report {
        let options = Options::try_parse_from(["x", "--full"]).unwrap();
        let mut report = Report::new(bench, &options);
        for (i, case) in bench.cases().iter().enumerate() {
            let better = 1.5 + i as f64;
            let (own, rival) = ([10.0, 11.0, 12.0], 10.0 / better);
            let mut outcome = Outcome {
                own: own.to_vec(),
                rival: own.iter().map(|v| v * rival / 10.0).collect(),
                own_cycles: vec![60.0 + i as f64; 3],
                rival_cycles: vec![(60.0 + i as f64) * better; 3],
                floor_cycles: vec![12.0; 3],
                compared: 500,
                ..Outcome::default()
            };
            if case.measure.is_time() {
                std::mem::swap(&mut outcome.own, &mut outcome.rival);
            }
            if i == 0 {
                outcome = Outcome { failure: Some("it <broke>".to_owned()), ..Outcome::default() };
            }
            report.add(case, outcome);
        }
        report
    }

    #[test]
    fn a_ratio_above_one_is_always_ours() {
        let report = sample(Bench::Conntrack);
        for row in &report.rows[1..] {
            let ratio = row.ratio().unwrap();
            assert!(ratio.median > 1.0, "{}: {ratio:?}", row.line());
        }
        assert!(report.has_failures() && report.rows[0].line().contains("FAILED: it <broke>"));
        assert!(report.summary().contains("1 cases failed"), "{}", report.summary());
    }

    #[test]
    fn json_has_each_case_with_its_rounds() {
        let json = sample(Bench::Pipeline).json();
        let cases = json["cases"].as_array().unwrap();
        assert_eq!(cases.len(), Bench::Pipeline.cases().len());
        assert_eq!(cases[1]["rounds"]["own"].as_array().unwrap().len(), 3);
        assert!((cases[1]["ratio"]["median"].as_f64().unwrap() - 2.5).abs() < 1e-9);
        assert_eq!(cases[0]["rounds"]["failure"], "it <broke>");
    }
}
