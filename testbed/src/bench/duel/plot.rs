//! Plots as SVG text: bars of ratios, and lines over an axis of powers.
//!
//! A ratio's axis is logarithmic, so twice as good and twice as bad are equally far from 1; costs
//! too, on both axes, since what is asked is whether they grow at all. Colours are named in the
//! page's style, once.

use crate::bench::report::Spread;

/// A bar: what, how much, and what was asked for.
pub struct Bar {
    pub label: String,
    pub spread: Spread,
    pub goal: Option<f64>,
}

/// Points of one side: x, and cycles a packet.
pub struct Line {
    pub name: &'static str,
    /// The colour's name in the page's style.
    pub class: &'static str,
    pub points: Vec<(f64, Spread)>,
}

const WIDTH: f64 = 960.0;
const LABELS: f64 = 340.0;
const ROW: f64 = 26.0;
/// Width of a figure's text.
const VALUE: f64 = 44.0;

pub fn escape(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;").replace('"', "&quot;")
}

/// Three digits that count.
pub fn short(value: f64) -> String {
    match value.abs() {
        v if v >= 99.95 => format!("{value:.0}"),
        v if v >= 9.995 => format!("{value:.1}"),
        _ => format!("{value:.2}"),
    }
}

fn with_unit(value: f64) -> String {
    let scaled = |by: f64, unit: &str| {
        let v = value / by;
        if v.fract().abs() < 1e-9 { format!("{v:.0}{unit}") } else { format!("{v:.1}{unit}") }
    };
    match value {
        v if v >= 1e6 => scaled(1e6, " M"),
        v if v >= 1e4 => scaled(1e3, " k"),
        v if v >= 1.0 => scaled(1.0, ""),
        _ => format!("{value}"),
    }
}

/// Maps the logarithm of a range onto pixels.
struct LogAxis {
    low: f64,
    high: f64,
    from: f64,
    to: f64,
}

impl LogAxis {
    fn at(&self, value: f64) -> f64 {
        let share = (value.max(1e-9) / self.low).ln() / (self.high / self.low).ln();
        self.from + share.clamp(0.0, 1.0) * (self.to - self.from)
    }

    /// Round numbers: 1, 2 and 5 times powers of ten; powers alone if these are many.
    fn ticks(&self) -> Vec<f64> {
        // Beyond, a figure is broken; the plot need not be.
        let decades =
            self.low.max(1e-9).log10().floor() as i32..=self.high.min(1e12).log10().ceil() as i32;
        let factors: &[f64] = if self.high / self.low > 400.0 { &[1.0] } else { &[1.0, 2.0, 5.0] };
        let all = decades.flat_map(|d| factors.iter().map(move |f| f * 10f64.powi(d)));
        all.filter(|t| *t >= self.low * 0.999 && *t <= self.high * 1.001).collect()
    }
}

/// An SVG in the making.
struct Svg(String);

impl Svg {
    fn new(width: f64, height: f64, title: &str) -> Self {
        let title = escape(title);
        Self(format!(
            "<svg viewBox=\"0 0 {width} {height}\" width=\"{width}\" height=\"{height}\" \
             role=\"img\" aria-label=\"{title}\">\n"
        ))
    }

    fn line(&mut self, class: &str, from: (f64, f64), to: (f64, f64)) {
        let ((x1, y1), (x2, y2)) = (from, to);
        let place = format!("x1=\"{x1:.1}\" y1=\"{y1:.1}\" x2=\"{x2:.1}\" y2=\"{y2:.1}\"");
        self.0 += &format!("<line class=\"{class}\" {place}/>\n");
    }

    /// `anchor`: which end of the text is at the place.
    fn text(&mut self, class: &str, anchor: &str, (x, y): (f64, f64), words: &str) {
        let place = format!("x=\"{x:.1}\" y=\"{y:.1}\" text-anchor=\"{anchor}\"");
        self.0 += &format!("<text class=\"{class}\" {place}>{}</text>\n", escape(words));
    }

    fn close(self) -> String {
        self.0 + "</svg>\n"
    }
}

/// Bars from parity to the ratio, each with its least and greatest, and a mark where the goal is.
pub fn bars(list: &[Bar]) -> String {
    let values = list
        .iter()
        .flat_map(|b| [b.spread.min, b.spread.max, b.spread.median].into_iter().chain(b.goal));
    let (low, high) = values.fold((1.0f64, 1.0f64), |(l, h), v| (l.min(v), h.max(v)));
    let axis = LogAxis {
        low: (low * 0.9).min(0.8),
        high: (high * 1.15).max(2.0),
        from: LABELS,
        to: WIDTH - 110.0,
    };
    let height = ROW * list.len() as f64 + 34.0;
    let mut svg = Svg::new(WIDTH, height, "ratios");
    for tick in axis.ticks() {
        let x = axis.at(tick);
        let class = if (tick - 1.0).abs() < 1e-9 { "parity" } else { "grid" };
        svg.line(class, (x, 4.0), (x, height - 26.0));
        svg.text("tick", "middle", (x, height - 10.0), &format!("{}x", with_unit(tick)));
    }
    for (i, bar) in list.iter().enumerate() {
        one_bar(&mut svg, &axis, bar, 8.0 + ROW * i as f64);
    }
    svg.close()
}

fn one_bar(svg: &mut Svg, axis: &LogAxis, bar: &Bar, top: f64) {
    let Spread { median, min, max } = bar.spread;
    let (zero, end) = (axis.at(1.0), axis.at(median));
    let (left, width) = (zero.min(end), (zero - end).abs().max(1.0));
    let missed = bar.goal.is_some_and(|g| median < g);
    let class = if missed { "missed" } else { "ours" };
    svg.text("label", "end", (LABELS - 12.0, top + 13.0), &bar.label);
    let place = format!("x=\"{left:.1}\" y=\"{top}\" width=\"{width:.1}\" height=\"18\"");
    svg.0 += &format!("<rect class=\"{class}\" {place} rx=\"2\"/>\n");
    svg.line("whisker", (axis.at(min), top + 9.0), (axis.at(max), top + 9.0));
    let goal = bar.goal.map_or(end, |g| axis.at(g));
    if bar.goal.is_some() {
        svg.line("goal", (goal, top - 2.0), (goal, top + 20.0));
    }
    // Behind the bar, and behind the mark if that is in the way.
    let right = end.max(axis.at(max)).max(zero) + 8.0;
    let is_in_the_way = (right - 8.0..right + VALUE).contains(&goal);
    let right = if is_in_the_way { right.max(goal + 8.0) } else { right };
    svg.text("value", "start", (right, top + 13.0), &format!("{}x", short(median)));
}

/// A chart of lines with a point for each figure.
pub fn lines(title: &str, x_name: &str, list: &[Line]) -> String {
    const W: f64 = 464.0;
    const H: f64 = 300.0;
    let (left, right, bottom) = (52.0, W - 16.0, H - 46.0);
    let points = || list.iter().flat_map(|l| l.points.iter());
    let xs = points().map(|p| p.0);
    let (x_low, x_high) = xs.fold((f64::MAX, 1.0f64), |(l, h), x| (l.min(x), h.max(x)));
    let ys = points().flat_map(|p| [p.1.min, p.1.max]);
    let (y_low, y_high) = ys.fold((f64::MAX, 1.0f64), |(l, h), y| (l.min(y), h.max(y)));
    let x_axis = LogAxis { low: x_low / 1.3, high: x_high * 1.3, from: left, to: right };
    let y_axis = LogAxis { low: y_low / 1.6, high: y_high * 1.5, from: bottom, to: 14.0 };
    let mut svg = Svg::new(W, H, title);
    for tick in y_axis.ticks() {
        let y = y_axis.at(tick);
        svg.line("grid", (left, y), (right, y));
        svg.text("tick", "end", (left - 6.0, y + 4.0), &with_unit(tick));
    }
    let mut named: Vec<f64> = points().map(|p| p.0).collect();
    named.sort_by(f64::total_cmp);
    named.dedup();
    for x in named {
        let at = x_axis.at(x);
        svg.line("grid", (at, 14.0), (at, bottom));
        svg.text("tick", "middle", (at, bottom + 16.0), &with_unit(x));
    }
    for line in list {
        // The highest at its place has its figure above, the others below: they do not meet.
        let is_top = |x: f64, y: f64| !points().any(|p| p.0 == x && p.1.median > y);
        one_line(&mut svg, line, &x_axis, &y_axis, &is_top);
    }
    svg.text("axis", "middle", (f64::midpoint(left, right), H - 10.0), x_name);
    svg.close()
}

fn one_line(
    svg: &mut Svg,
    line: &Line,
    x_axis: &LogAxis,
    y_axis: &LogAxis,
    is_top: &dyn Fn(f64, f64) -> bool,
) {
    let (class, name) = (line.class, line.name);
    let at = |(x, spread): &(f64, Spread)| (x_axis.at(*x), y_axis.at(spread.median));
    let path: Vec<String> =
        line.points.iter().map(at).map(|(x, y)| format!("{x:.1},{y:.1}")).collect();
    svg.0 += &format!("<polyline class=\"line {class}\" points=\"{}\"/>\n", path.join(" "));
    for point in &line.points {
        let ((x, y), spread) = (at(point), point.1);
        let range = format!("range {class}");
        svg.line(&range, (x, y_axis.at(spread.min)), (x, y_axis.at(spread.max)));
        let value = short(spread.median);
        let circle = format!("<circle class=\"{class}\" cx=\"{x:.1}\" cy=\"{y:.1}\" r=\"4\">");
        svg.0 += &format!("{circle}<title>{name}: {value}</title></circle>\n");
        let below = if is_top(point.0, spread.median) { -9.0 } else { 18.0 };
        svg.text(&format!("point {class}"), "middle", (x, y + below), &value);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_axis_of_ratios_puts_twice_and_half_equally_far_from_one() {
        let axis = LogAxis { low: 0.25, high: 4.0, from: 0.0, to: 400.0 };
        assert_eq!(axis.at(1.0), 200.0);
        assert!((axis.at(2.0) - 300.0).abs() < 1e-9 && (axis.at(0.5) - 100.0).abs() < 1e-9);
        let got: Vec<String> = axis.ticks().iter().map(|t| with_unit(*t)).collect();
        assert_eq!(got, ["0.5", "1", "2"]);
    }

    #[test]
    fn plots_hold_their_figures_and_no_raw_text() {
        let spread = Spread { median: 3.125, min: 3.0, max: 3.5 };
        let bar = Bar { label: "a <b> & c".to_owned(), spread, goal: Some(4.0) };
        let svg = bars(&[bar]);
        assert!(svg.contains("3.12x") && svg.contains("a &lt;b&gt; &amp; c"), "{svg}");
        assert!(svg.contains("class=\"missed\"") && svg.contains("class=\"goal\""));
        let line = Line { name: "peer", class: "peer", points: vec![(1000.0, spread)] };
        let svg = lines("cost", "flows", &[line]);
        assert!(svg.contains("3.12") && svg.matches("<circle").count() == 1);
        assert!(!svg.contains("NaN") && !lines("nothing", "x", &[]).contains("NaN"));
    }

    #[test]
    fn numbers_have_three_digits() {
        assert_eq!([1.234, 12.34, 123.4, 9.999].map(short), ["1.23", "12.3", "123", "10.0"]);
        assert_eq!([1.0, 5000.0, 10e3, 1e6].map(with_unit), ["1", "5000", "10 k", "1 M"]);
    }
}
