//! Rules that change, and how long they take to load.

use super::{Outcome, Player, no_steady};
use crate::bench::duel::case::Case;
use crate::bench::duel::peer::Ovs;
use crate::bench::duel::rules::Rules;
use crate::bench::duel::{loading, ours};
use crate::{Error, Result};

/// Rules that come and go, and how many a second.
const CHURN_RULES: Rules = Rules::Absent(1000);
const CHURN_RATE: u32 = 10_000;

impl Player<'_> {
    pub(super) fn churn(&self, case: &Case, out: &mut Outcome) -> Result<()> {
        let file = self.files.rules(CHURN_RULES)?;
        let (file, rate) = (file.to_string_lossy(), CHURN_RATE.to_string());
        let more = ["--churn", &file, "--churn-rate", &rate];
        for _ in 0..self.options.rounds {
            let calm = self.own_round(&case.load, out)?;
            let bench = ours::bench(&self.files, &case.load, self.options.seconds, &more)?.bench;
            let reached = bench.churn.map_or(0.0, |c| c.changes_per_second);
            if reached < 0.9 * f64::from(CHURN_RATE) {
                let text = format!("only {reached:.0} of {CHURN_RATE} changes a second were made");
                return Err(Error::Unexpected(text));
            }
            out.own.push(bench.mpps);
            out.own_cycles.push(bench.tsc_cycles_per_packet);
            out.rival.push(calm.mpps);
            out.rival_cycles.push(calm.tsc_cycles_per_packet);
        }
        Ok(())
    }

    pub(super) fn load_rules(&self, case: &Case, out: &mut Outcome) -> Result<()> {
        let build = self.builds.first().ok_or_else(no_steady)?;
        let rules = self.files.rules(case.load.rules)?;
        let ovs = Ovs::start(build, &self.memrx, 1)?;
        for _ in 0..self.options.rounds {
            let own = ovs.pause(|| loading::load(&rules))?;
            let rival = ovs.load_rules(&rules)?;
            ovs.delete_rules()?;
            out.own.push(own.as_secs_f64() * 1e3);
            out.rival.push(rival.as_secs_f64() * 1e3);
        }
        Ok(())
    }
}
