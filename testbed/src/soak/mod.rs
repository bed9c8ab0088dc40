//! The soak: connections come and go for a long time, and in the end nothing is missing.
//!
//! The real lanes of several workers judge what hosts without memory send each other (`hosts`), by
//! programs with everything that `ct` can do (`world`), under a clock that runs many times as fast
//! as the world's, so that minutes are hours of churn: TCP opened, used, closed, reset and left
//! half open in floods, UDP, echo, fragments, FTP and TFTP, NAT with pools that run out, a zone at
//! its limit, a table at its bound, whose size is changed as well, flushes, changes of the program,
//! timeouts, and packets that nobody should send.
//!
//! **Conservation** is checked by counting anew ([`Audit`]), not by the counts in question: every
//! few seconds all places, index entries, timers, NAT ports, zones, expectations and redirects; the
//! frames of all pools; a share of the cached walks against the tables. From time to time, and at
//! the end, conversations stop: connections time out or are flushed, in turn, and then nothing may
//! be left, and the process may have no more memory than in the first quarter.
//!
//! The same of a whole `sluiced` between kernels is in [`daemon`].

pub mod course;
pub mod daemon;
mod hosts;
pub mod packets;
mod report;
pub mod rig;
pub mod world;

use course::Course;
use hosts::Hosts;
use rig::Rig;
use sluice_dataplane::conntrack::{Audit, ConnFilter, CtStats, TupleFilter};
use sluice_dataplane::counters::Stat;
use std::process::ExitCode;
use std::time::{Duration, Instant};
use world::{CLASSES, VARIANTS, ZONES};

/// Connections come and go for a long time, and everything is counted.
#[derive(Clone, Debug, clap::Parser)]
#[command(name = "cargo xtask soak")]
pub struct Options {
    /// How long it takes
    #[arg(long, default_value_t = 20.0)]
    pub minutes: f64,
    /// Where all choices come from; without it, the time of day
    #[arg(long)]
    pub seed: Option<u64>,
    /// Workers that share the connections
    #[arg(long, default_value_t = 2, value_parser = clap::value_parser!(u8).range(1..=8))]
    pub workers: u8,
    /// Connections that there is room for, of all workers
    #[arg(long, default_value_t = 48_000)]
    pub conns: u32,
    /// Compare one of so many cached walks with the tables
    #[arg(long, default_value_t = 1000)]
    pub self_check: u32,
    /// A real sluiced between kernels that talk, on veth pairs, in real time; needs root. Its
    /// connections and self-checks are its own affair
    #[arg(long, conflicts_with_all = ["conns", "self_check"])]
    pub daemon: bool,
}

/// Why a soak ends early.
#[derive(Debug, thiserror::Error)]
pub enum Trouble {
    #[error("it cannot begin: {0}")]
    Setup(String),
    #[error("not conserved:\n  {}", .0.join("\n  "))]
    Broken(Vec<String>),
}

/// Time between two checkpoints, and between two times that everything goes: parts of the whole.
const CHECKPOINTS: u32 = 400;
const ERAS: u32 = 20;
const CHECKPOINT_MAX: Duration = Duration::from_secs(3);
/// Rounds between two looks at the time.
const ROUNDS: u32 = 256;

/// What came of it.
#[derive(Clone, Debug, Default)]
pub struct Summary {
    pub course: Course,
    /// Time that passed for the switch.
    pub lived_s: u64,
    pub moved: rig::Moved,
    pub opened: u64,
    pub stats: CtStats,
    /// Most that was seen at one checkpoint.
    pub most: Audit,
    pub fragments_most: usize,
    pub hits: [u64; 3],
    pub self_checks: u64,
    pub drops: Vec<(&'static str, u64)>,
}

/// Runs with what the command line says.
pub fn main(options: &Options) -> ExitCode {
    let seed = options.seed.unwrap_or_else(|| {
        let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
        now.map_or(1, |t| t.as_secs())
    });
    println!("soak: {} minutes, {} workers, seed {seed}", options.minutes, options.workers);
    let options = Options { seed: Some(seed), ..options.clone() };
    let told = match options.daemon {
        true => daemon::run(&options).map(|summary| summary.text()),
        false => run(&options).map(|summary| summary.text()),
    };
    match told {
        Ok(text) => {
            print!("{text}");
            ExitCode::SUCCESS
        }
        Err(trouble) => {
            eprintln!("{trouble}\nseed {seed}");
            ExitCode::FAILURE
        }
    }
}

impl Summary {
    /// Connections that ended, of whatever.
    pub fn ended(&self) -> u64 {
        self.stats.expired + self.stats.flushed + self.stats.backend_gone + self.stats.evicted
    }
}

/// Runs for as long as it is to, or until something does not add up.
pub fn run(options: &Options) -> Result<Summary, Trouble> {
    let whole = Duration::from_secs_f64((options.minutes * 60.0).max(1.0));
    let (seed, begin) = (options.seed.unwrap_or(1), Instant::now());
    let config = world::config(options.conns, options.self_check)?;
    let mut soak = Soak {
        rig: Rig::new(&config, options.workers, seed, Hosts::new(seed))?,
        summary: Summary { course: Course::new(options), ..Summary::default() },
        early: begin + whole / 4,
        rate: 8,
    };
    let (mut checkpoint, mut era) = (Duration::ZERO, whole / ERAS);
    while begin.elapsed() < whole {
        (0..ROUNDS).for_each(|_| soak.round());
        soak.operate()?;
        let at = begin.elapsed();
        if at >= checkpoint {
            soak.checkpoint()?;
            checkpoint = at + (whole / CHECKPOINTS).min(CHECKPOINT_MAX);
        }
        if at >= era {
            soak.empty()?;
            era = at + whole / ERAS;
        }
    }
    soak.empty()?;
    soak.empty()?;
    let summary = soak.finish(begin.elapsed());
    let (made, ended) = (summary.stats.created, summary.ended());
    if made != ended {
        let what = format!("{made} connections were made, and {ended} have ended");
        return Err(Trouble::Broken(vec![what]));
    }
    Ok(summary)
}

struct Soak {
    rig: Rig<Hosts>,
    summary: Summary,
    /// Until then it may take memory.
    early: Instant,
    /// Conversations that begin in a round.
    rate: u64,
}

impl Soak {
    fn round(&mut self) {
        let r = &mut self.rig;
        let us = r.ends.chance.within(20, 600);
        r.now = sluice_dataplane::clock::Now::from_ns(r.now.ns + us * 1000);
        let begin = r.ends.chance.within(0, 2 * self.rate);
        (0..begin).for_each(|_| r.ends.open());
        _ = r.round();
    }

    /// What operators do, now and then.
    fn operate(&mut self) -> Result<(), Trouble> {
        match self.rig.ends.chance.below(64) {
            0..8 => self.flush(),
            8..14 => {
                self.rig.change_program()?;
                self.summary.course.changes += 1;
            }
            14..18 => {
                self.rig.ends.turn();
                self.rate = self.rig.ends.chance.within(1, 24);
            }
            18 => {
                let percent = self.rig.ends.chance.within(25, 100);
                self.rig.set_max(percent);
            }
            // Nobody speaks for a while.
            19 => {
                let ms = self.rig.ends.chance.within(1, 8000);
                self.rig.now = self.rig.now.plus_ms(ms);
            }
            _ => {}
        }
        Ok(())
    }

    fn flush(&mut self) {
        let c = &mut self.rig.ends.chance;
        let address = world::server(c.percent(35), *c.pick(&CLASSES), c.below(16) as u8);
        let either = TupleFilter { dst: Some((address, u128::MAX)), ..TupleFilter::default() };
        let filter = match c.below(4) {
            0 => ConnFilter { zone: Some(*c.pick(&ZONES)), ..ConnFilter::default() },
            1 => ConnFilter { mark: Some((c.below(VARIANTS) as u32, 0xff)), ..Default::default() },
            _ => ConnFilter { either, ..ConnFilter::default() },
        };
        self.rig.flush(&filter);
        self.summary.course.flushes += 1;
    }

    fn checkpoint(&mut self) -> Result<(), Trouble> {
        let audit = self.rig.audit()?;
        self.summary.course.checkpoints += 1;
        self.summary.fragments_most = self.summary.fragments_most.max(self.rig.fragments_held());
        if audit.live >= self.summary.most.live {
            self.summary.most = audit;
        }
        Ok(())
    }

    /// Everything goes, by time and by flush in turn.
    fn empty(&mut self) -> Result<(), Trouble> {
        let course = &mut self.summary.course;
        self.rig.drain(course.is_times_turn())?;
        self.rig.audit_bare()?;
        course.has_emptied("self", Instant::now() < self.early, 0)
    }

    fn finish(mut self, took: Duration) -> Summary {
        let rig = &mut self.rig;
        rig.settle();
        self.summary.course.took = took;
        let hits = [Stat::Tier1Hits, Stat::Tier2Hits, Stat::Tier3Walks].map(|s| rig.stat(s));
        Summary {
            lived_s: rig.now.ns / 1_000_000_000 - 1000,
            moved: rig.moved,
            opened: rig.ends.opened,
            stats: rig.stats(),
            hits,
            self_checks: rig.stat(Stat::SelfChecks),
            drops: rig.drops().into_iter().filter(|(_, n)| *n > 0).collect(),
            ..self.summary
        }
    }
}
