//! The report as one HTML file: no script, nothing from elsewhere, plots inline.

use std::fmt::Write;

use super::WORKER_CPU;
use super::case::{Chart, Measure, Rival};
use super::plot::{self, Bar, Line, escape, short};
use super::report::{Report, Row, churning};
use crate::bench::report::Spread;

const STYLE: &str = "
:root { --ours: #0f766e; --peer: #c2410c; --floor: #94a3b8; --missed: #b45309; --ink: #1f2937;
  --faint: #6b7280; --rule: #e5e7eb; --paper: #ffffff; --shade: #f8fafc; }
@media (prefers-color-scheme: dark) { :root { --ours: #2dd4bf; --peer: #fb923c; --floor: #64748b;
  --missed: #fbbf24; --ink: #e5e7eb; --faint: #9ca3af; --rule: #334155; --paper: #0f172a;
  --shade: #1e293b; } }
body { font: 15px/1.5 system-ui, sans-serif; color: var(--ink); background: var(--paper);
  max-width: 980px; margin: 2.5rem auto; padding: 0 1rem; }
h1 { font-size: 1.6rem; margin: 0 0 .3rem; } h2 { font-size: 1.15rem; margin: 2.2rem 0 .6rem; }
h3 { font-size: .95rem; margin: 0 0 .2rem; } p { margin: .4rem 0; max-width: 48rem; }
.faint, .tick, .axis { color: var(--faint); fill: var(--faint); }
svg { max-width: 100%; height: auto; font: 12px system-ui, sans-serif; }
svg .label, svg .value { fill: var(--ink); } svg .value { font-weight: 600; }
svg .grid { stroke: var(--rule); } svg .parity { stroke: var(--faint); stroke-width: 1.5; }
svg rect.ours, svg circle.ours, svg .point.ours { fill: var(--ours); }
svg rect.missed { fill: var(--missed); }
svg circle.peer, svg .point.peer { fill: var(--peer); }
svg circle.floor, svg .point.floor { fill: var(--floor); }
svg .line { fill: none; stroke-width: 2; } svg .range { stroke-width: 1.5; }
svg .line.ours, svg .range.ours { stroke: var(--ours); }
svg .line.peer, svg .range.peer { stroke: var(--peer); }
svg .line.floor { stroke: var(--floor); stroke-dasharray: 4 4; }
svg .range.floor { stroke: var(--floor); }
svg .whisker { stroke: var(--ink); stroke-width: 1.5; }
svg .goal { stroke: var(--ink); stroke-width: 2.5; }
.charts { display: grid; grid-template-columns: repeat(auto-fit, minmax(440px, 1fr)); gap: 1.4rem; }
table { border-collapse: collapse; width: 100%; font-size: 13px; }
th { text-align: left; font-weight: 600; border-bottom: 2px solid var(--rule); }
th, td { padding: .32rem .5rem .32rem 0; vertical-align: top; }
td { border-bottom: 1px solid var(--rule); } .n { text-align: right; white-space: nowrap;
  font-variant-numeric: tabular-nums; } tr.failed td { color: var(--missed); }
.key { display: inline-block; width: .8em; height: .8em; border-radius: 2px; margin: 0 .3em 0 1em; }
.met { color: var(--ours); font-weight: 600; } .not { color: var(--missed); font-weight: 600; }
.box { background: var(--shade); border-radius: 6px; padding: .8rem 1rem; margin: 1rem 0; }
";

/// The charts: title, name of the x axis, a sentence.
const CHARTS: [(Chart, &str, &str); 7] = [
    (Chart::FlowsExact, "Flows, one exact rule each, 5 tables", "flows and rules"),
    (Chart::FlowsAcl, "Flows, access list of 1000 rules under 64 masks", "flows"),
    (Chart::Rules, "Exact rules, 1000 flows", "rules"),
    (Chart::Masks, "Mask patterns of 1000 rules, 10 k flows", "mask patterns"),
    (Chart::ConnectionsUdp, "Established UDP, both directions", "connections"),
    (Chart::ConnectionsTcp, "Established TCP, both directions", "connections"),
    (Chart::Tables, "Tables on the way, TTL and both MACs, 1000 flows", "tables"),
];

pub fn html(report: &Report) -> String {
    let mut page = format!(
        "<!doctype html>\n<html lang=\"en\">\n<head>\n<meta charset=\"utf-8\">\n\
         <meta name=\"viewport\" content=\"width=device-width\">\n<title>sluice: the {} bench\
         </title>\n<style>{STYLE}</style>\n</head>\n<body>\n",
        report.bench.name(),
    );
    head(&mut page, report);
    page += &ratios(report);
    page += &charts(report);
    page += &table(report);
    page += &method(report);
    page + "</body>\n</html>\n"
}

fn head(page: &mut String, report: &Report) {
    let m = &report.machine;
    let _ = write!(
        page,
        "<h1>sluice and Open vSwitch with DPDK: {}</h1>\n<p>The same packets and rules from \
         memory, workers against as many polling threads, in turn on the same cores. Figures are \
         gross: the replay's own copy is in them on both sides.</p>\n<div \
         class=\"box\">{}<br><span \
         class=\"faint\">Linux {}, {} x {}, load {:.2} at the start; core {WORKER_CPU}; \
         {} rounds of {} s{}</span></div>\n",
        report.bench.name(),
        escape(&report.summary()),
        escape(&m.kernel),
        m.cpus,
        escape(&m.cpu),
        m.load_1min,
        report.options.rounds,
        report.options.seconds,
        if report.is_disturbed() {
            "; other work was running: do not trust the figures"
        } else {
            ""
        },
    );
}

fn ratios(report: &Report) -> String {
    let bars_of = |wanted: &dyn Fn(&Row) -> bool| -> Vec<Bar> {
        let rows = report.rows.iter().filter(|r| wanted(r));
        rows.filter_map(|r| {
            let label = format!("{}  {}", r.case.id, r.case.title);
            Some(Bar { label, spread: r.ratio()?, goal: r.case.goal })
        })
        .collect()
    };
    let against_peer =
        bars_of(&|r| r.case.rival == Rival::Peer && r.case.measure != Measure::Churn);
    let against_own = bars_of(&|r| r.case.rival != Rival::Peer || r.case.measure == Measure::Churn);
    let mut text = String::new();
    let mut part = |title: &str, words: &str, bars: &[Bar]| {
        if !bars.is_empty() {
            let svg = plot::bars(bars);
            let _ = write!(text, "<h2>{title}</h2>\n<p class=\"faint\">{words}</p>\n{svg}");
        }
    };
    part(
        "How many times better than the peer",
        "Rates: ours by the peer's. Times: the peer's by ours. The bar is the median of the \
         rounds' ratios, the thin line their least and greatest, the upright mark what is asked \
         for.",
        &against_peer,
    );
    part(
        "How much stays of our own rate",
        "Ours on a harder case, by ours on the plain one.",
        &against_own,
    );
    text
}

fn charts(report: &Report) -> String {
    let drawn: Vec<String> = CHARTS.iter().filter_map(|c| chart(report, c)).collect();
    if drawn.is_empty() {
        return String::new();
    }
    format!(
        "<h2>What a packet costs as the switch grows</h2>\n<p class=\"faint\">Cycles of the time \
         stamp counter a packet, both axes logarithmic, with the rounds' least and greatest.\
         <span class=\"key\" style=\"background:var(--ours)\"></span>sluice\
         <span class=\"key\" style=\"background:var(--peer)\"></span>Open vSwitch, best setting\
         <span class=\"key\" style=\"background:var(--floor)\"></span>our replay alone</p>\n\
         <div class=\"charts\">\n{}</div>\n",
        drawn.concat()
    )
}

fn chart(report: &Report, (chart, title, x_name): &(Chart, &str, &str)) -> Option<String> {
    let mut points: Vec<(u64, &Row)> = report
        .rows
        .iter()
        .filter(|r| r.case.rival == Rival::Peer && r.outcome.failure.is_none())
        .filter_map(|r| r.case.charts.iter().find(|p| p.0 == *chart).map(|p| (p.1, r)))
        .collect();
    points.sort_by_key(|p| p.0);
    let line = |name, class, of: &dyn Fn(&Row) -> Option<Spread>| {
        let points = points.iter().filter_map(|(x, r)| Some((*x as f64, of(r)?))).collect();
        Line { name, class, points }
    };
    let list = [
        line("replay alone", "floor", &|r| Spread::of(&r.outcome.floor_cycles)),
        line("Open vSwitch", "peer", &|r| Spread::of(&r.outcome.rival_cycles)),
        line("sluice", "ours", &|r| Spread::of(&r.outcome.own_cycles)),
    ];
    if list[2].points.len() < 2 {
        return None;
    }
    let svg = plot::lines(title, x_name, &list);
    Some(format!("<div><h3>{}</h3>\n{svg}</div>\n", escape(title)))
}

fn table(report: &Report) -> String {
    let mut text = "<h2>Every case</h2>\n<table>\n<tr><th></th><th>case</th><th \
        class=\"n\">ours</th><th class=\"n\">rival</th><th></th><th class=\"n\">cycles, \
        ours</th><th class=\"n\">rival</th><th class=\"n\">replay</th><th class=\"n\">ratio \
        (min-max)</th><th class=\"n\">asked</th><th>rival's setting</th></tr>\n"
        .to_owned();
    report.rows.iter().for_each(|r| table_row(&mut text, r));
    text + "</table>\n"
}

fn table_row(text: &mut String, row: &Row) {
    let (case, o) = (&row.case, &row.outcome);
    let churning = o.peer.as_ref().and_then(|p| p.churning).map_or_else(String::new, churning);
    let (id, title) = (case.id, escape(&case.title));
    if let Some(failure) = &o.failure {
        let why = escape(failure);
        let _ = writeln!(
            text,
            "<tr class=\"failed\"><td>{id}</td><td>{title}</td><td colspan=\"9\">{why}</td></tr>"
        );
        return;
    }
    let median = |v: &[f64]| Spread::of(v).map_or_else(String::new, |s| short(s.median));
    let whole = |v: &[f64]| Spread::of(v).map_or_else(String::new, |s| format!("{:.0}", s.median));
    let ratio = row.ratio().map_or_else(String::new, |s| {
        format!("<b>{}x</b> ({}-{})", short(s.median), short(s.min), short(s.max))
    });
    let goal = match (case.goal, row.is_met()) {
        (Some(g), Some(true)) => format!("<span class=\"met\">&ge; {g}</span>"),
        (Some(g), _) => format!("<span class=\"not\">&ge; {g}</span>"),
        _ => String::new(),
    };
    let unsettled = o.peer.as_ref().is_some_and(|p| !p.settled);
    let note = if unsettled { ", never settled" } else { "" };
    let _ = writeln!(
        text,
        "<tr><td>{id}</td><td>{title}</td><td class=\"n\">{}</td><td class=\"n\">{}</td><td>{}</td>\
         <td class=\"n\">{}</td><td class=\"n\">{}</td><td class=\"n\">{}</td><td \
         class=\"n\">{ratio}</td><td class=\"n\">{goal}</td><td>{}{note}{churning}</td></tr>",
        median(&o.own),
        median(&o.rival),
        case.measure.unit(),
        whole(&o.own_cycles),
        whole(&o.rival_cycles),
        whole(&o.floor_cycles),
        escape(&row.rival()),
    );
}

fn method(report: &Report) -> String {
    let compared: usize = report.rows.iter().map(|r| r.outcome.compared).sum();
    format!(
        "<h2>How it was measured</h2>\n<p>Frames have 64 bytes. Either side takes each from \
         memory into a fresh buffer, judges and rewrites it, and frees it at the port. From the \
         second pass on flows come in an order that no prefetcher can follow, the same on both \
         sides. Ours starts anew in each round; the peer is started once a case and stands still \
         in our turn.</p>\n<p>Before a case is measured a sample of its packets goes through both \
         sides with the output written down, and the bytes are compared: {compared} frames were, \
         and all were equal unless a case above says otherwise. While measuring, counts say that \
         every packet left by its port.</p>\n<p>The peer runs at the best of its settings for the \
         case (exact-match cache at 1/100, at 1/1, signature match cache, or none; with code for \
         AVX512 where a build has it), found by a scan. Its flow limit is lifted, except for the \
         cold start, which it makes as it comes from its package.</p>\n<p>Connections are opened \
         by packets that come once before. Where new connections are measured ours is in the \
         steady state, with as many expiring after a second; the peer fills an empty table, \
         where it is \
         quickest, and what it does without end is told beside.</p>\n"
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bench::duel::Bench;
    use crate::bench::duel::report::tests::sample;

    #[test]
    fn the_page_stands_alone_and_shows_every_case() {
        for (bench, charts) in [(Bench::Pipeline, 5), (Bench::Conntrack, 2)] {
            stands_alone(&sample(bench), charts);
        }
    }

    fn stands_alone(report: &Report, charts: usize) {
        let html = html(report);
        for outside in ["<script", "http://", "https://", "src=", "url(", "@import"] {
            assert!(!html.contains(outside), "{outside}");
        }
        assert_eq!(html.matches("<svg").count(), 2 + charts);
        assert!(report.rows.iter().all(|r| html.contains(&escape(&r.case.title))));
        assert!(html.contains("it &lt;broke&gt;") && !html.contains("NaN"));
        let balanced = |tag: &str| {
            html.matches(&format!("<{tag}")).count() == html.matches(&format!("</{tag}>")).count()
        };
        assert!(["svg", "table", "div", "h2", "text"].into_iter().all(balanced));
    }
}
