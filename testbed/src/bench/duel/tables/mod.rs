//! The tables of cases: one a bench.

mod connections;
mod pipeline;

use std::path::PathBuf;

use super::case::Case;

/// Which table.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Bench {
    /// Rules and flows
    Pipeline,
    /// Connection tracking and address translation
    Conntrack,
}

impl Bench {
    pub fn name(self) -> &'static str {
        match self {
            Self::Pipeline => "pipeline",
            Self::Conntrack => "conntrack",
        }
    }

    /// Every case, in the order of the report.
    pub fn cases(self) -> Vec<Case> {
        match self {
            Self::Pipeline => pipeline::all(),
            Self::Conntrack => connections::all(),
        }
    }

    /// The numbers of its cases.
    pub fn numbers(self) -> String {
        let mut ids: Vec<&str> = self.cases().iter().map(|c| c.id).collect();
        ids.dedup();
        ids.join(", ")
    }

    /// Where its results go unless told otherwise.
    pub fn folder(self) -> PathBuf {
        format!("target/bench-{}", self.name()).into()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::HashSet;

    #[test]
    fn no_title_is_there_twice() {
        for bench in [Bench::Pipeline, Bench::Conntrack] {
            let all = bench.cases();
            let titles: HashSet<_> = all.iter().map(|c| (c.id, &c.title)).collect();
            assert_eq!(titles.len(), all.len(), "{bench:?}");
        }
        assert_eq!(Bench::Pipeline.numbers(), "P1, P2, P3, P4, P9, P10");
        assert_eq!(Bench::Conntrack.numbers(), "P5, P6, P6b, P7, P11");
    }
}
