//! What the windows say together: medians and ranges, and ratios pair by pair.
//!
//! A ratio is taken within a round, between two windows that lie seconds apart, so that what slows
//! the machine down for a while slows both; then the median of the rounds' ratios counts.

use serde::Serialize;

/// Median, least and greatest.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Spread {
    pub median: f64,
    pub min: f64,
    pub max: f64,
}

impl Spread {
    /// `None` of nothing.
    pub fn of(values: &[f64]) -> Option<Self> {
        let mut sorted = values.to_vec();
        sorted.sort_by(f64::total_cmp);
        let (min, max) = (*sorted.first()?, *sorted.last()?);
        let upper = sorted.get(sorted.len() / 2).copied()?;
        let lower = sorted.get((sorted.len() - 1) / 2).copied()?;
        Some(Self { median: f64::midpoint(lower, upper), min, max })
    }

    /// Of `a / b`, round by round.
    pub fn of_ratio(a: &[f64], b: &[f64]) -> Option<Self> {
        let ratios: Vec<f64> = a.iter().zip(b).map(|(a, b)| a / b).collect();
        Self::of(&ratios)
    }
}

impl std::fmt::Display for Spread {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{:>8.3} {:>8.3} {:>8.3}", self.median, self.min, self.max)
    }
}

/// What it ran on.
#[derive(Debug, Serialize)]
pub struct Machine {
    pub kernel: String,
    pub cpu: String,
    pub cpus: usize,
    /// Load average over the last minute: what else was running, and ourselves.
    pub load_1min: f64,
}

impl Machine {
    pub fn look() -> Self {
        let read = |path| std::fs::read_to_string(path).unwrap_or_default();
        let info = read("/proc/cpuinfo");
        let model = info.lines().find_map(|l| l.strip_prefix("model name")?.split(": ").nth(1));
        let load = read("/proc/loadavg");
        Self {
            kernel: read("/proc/sys/kernel/osrelease").trim().to_owned(),
            cpu: model.unwrap_or("unknown").to_owned(),
            cpus: std::thread::available_parallelism().map_or(1, usize::from),
            load_1min: load.split(' ').next().and_then(|l| l.parse().ok()).unwrap_or(0.0),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_median_of_an_even_number_lies_between_the_middle_two() {
        let spread = Spread::of(&[4.0, 1.0, 3.0, 2.0]).unwrap();
        assert_eq!(spread, Spread { median: 2.5, min: 1.0, max: 4.0 });
        assert_eq!(Spread::of(&[]), None);
    }

    #[test]
    fn ratios_are_taken_round_by_round() {
        let spread = Spread::of_ratio(&[1.0, 2.0, 9.0], &[1.0, 4.0, 3.0]).unwrap();
        assert_eq!(spread, Spread { median: 1.0, min: 0.5, max: 3.0 });
    }
}
