//! The soak of a whole `sluiced`: its workers, rings, devices and control, between two kernels.
//!
//! Real TCP and UDP sockets (`churn`) talk through a daemon on veth pairs (`scene`) by stateful
//! flows with source NAT, destination NAT, both, and a zone with few places; short timeouts, floods
//! of half-open connections and small pools of ports make everything come to its end soon.
//! Meanwhile an operator flushes, replaces flows, and changes limits and the table's size.
//!
//! **Conservation** is read from what the daemon says of itself ([`audit`]): from time to time all
//! clients come to rest, and then packets in are packets out and drops, frames are all there,
//! connections made are connections ended and alive, and each translated one has its place in a
//! pool of ports. After each second rest everything goes, by time and by flush in turn, and then no
//! port is held and the daemon has no more memory than in the first quarter.

pub mod audit;
mod churn;
mod scene;

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use sluice_control::api::types::{CtChange, FlowOp, Reply, Request, ZoneLimit};

use super::course::{Course, table};
use super::{Options, Trouble};
use crate::chance::Chance;
use audit::{Seen, Waiting};
use churn::Churn;
use scene::{CONNS, SERVERS, Scene, VARIANTS, ZONES};
use std::sync::atomic::Ordering::SeqCst;

/// Time of talk between two rests.
const TALK: Duration = Duration::from_secs(4);
/// What a flow that has been walked may keep of a worker's tier 1, until rules change: while there
/// is room a table has eight slots of 64 bytes for each. They come by huge pages, where the kernel
/// gives such: 2 MiB more in each worker with every 4096 flows that it has come to know.
const FLOW_BYTES: u64 = 8 * 64;
/// Time between two things that an operator does, in milliseconds.
const OPERATE_MS: (u64, u64) = (20, 250);

/// What came of it.
#[derive(Clone, Debug, Default)]
pub struct Summary {
    pub course: Course,
    /// Conversations by TCP and by UDP, those of both that were answered, and connections that were
    /// left half open.
    pub talked: [u64; 4],
    /// The last rest; everything since the start.
    pub last: Seen,
    /// Most of them that were there at a rest.
    pub conns_most: u64,
    pub ports_most: u64,
    /// Connections that an operator flushed.
    pub flushed: u64,
    pub limits: u64,
}

/// Runs for as long as it is to, or until something does not add up.
pub fn run(options: &Options) -> Result<Summary, Trouble> {
    if !crate::is_root() {
        return Err(Trouble::Setup("network namespaces need root".into()));
    }
    let (seed, workers) = (options.seed.unwrap_or(1), options.workers);
    let whole = Duration::from_secs_f64((options.minutes * 60.0).max(1.0));
    // The daemon may have to be built.
    let scene = Scene::start(workers)?;
    let begin = Instant::now();
    let mut soak = Soak {
        early: begin + whole / 4,
        scene,
        churn: &Churn::default(),
        chance: Chance::new(seed),
        summary: Summary { course: Course::new(options), ..Summary::default() },
    };
    let churn = soak.churn;
    let namespaces = (soak.scene.clients.ns.handle(), soak.scene.servers.ns.handle());
    let done = churn.during((&namespaces.0, &namespaces.1), seed, || -> Result<(), Trouble> {
        while begin.elapsed() < whole {
            soak.talk()?;
            soak.checkpoint(Waiting::Alive)?;
            if soak.summary.course.checkpoints.is_multiple_of(2) {
                soak.empty()?;
            }
            churn.go_on();
        }
        churn.rest().map_err(|e| Trouble::Broken(vec![e.to_string()]))?;
        soak.empty()?;
        soak.empty()
    });
    done.map_err(|e| Trouble::Setup(e.to_string()))??;
    let tally = &churn.tally;
    soak.summary.talked =
        [&tally.tcp, &tally.udp, &tally.answered, &tally.half_open].map(|n| n.load(SeqCst));
    soak.summary.course.took = begin.elapsed();
    Ok(soak.summary)
}

struct Soak<'a> {
    /// Until then it may take memory.
    early: Instant,
    scene: Scene,
    churn: &'a Churn,
    chance: Chance,
    summary: Summary,
}

impl Soak<'_> {
    /// Conversations, and what an operator does meanwhile; then rest.
    fn talk(&mut self) -> Result<(), Trouble> {
        let begin = Instant::now();
        while begin.elapsed() < TALK {
            let (lo, hi) = OPERATE_MS;
            std::thread::sleep(Duration::from_millis(self.chance.within(lo, hi)));
            match self.chance.below(8) {
                0..2 => self.flush()?,
                2..4 => self.change()?,
                4..6 => self.limit()?,
                _ => {}
            }
        }
        self.churn.rest().map_err(|e| Trouble::Broken(vec![e.to_string()]))
    }

    fn call(&self, request: Request) -> Result<Reply, Trouble> {
        let what = format!("{request:?}");
        let answer = self.scene.daemon.call(request);
        answer.map_err(|e| Trouble::Broken(vec![format!("{what}: {e}")]))
    }

    fn flush(&mut self) -> Result<(), Trouble> {
        let c = &mut self.chance;
        let filter = match c.below(5) {
            0 => String::new(),
            1 => format!("mark={}", c.below(VARIANTS)),
            2 => format!("dst={}", c.pick(&SERVERS)),
            _ => format!("zone={}", c.pick(&ZONES)),
        };
        if let Reply::Removed(n) = self.call(Request::ConntrackFlush { filter })? {
            self.summary.flushed += n;
        }
        self.summary.course.flushes += 1;
        Ok(())
    }

    fn change(&mut self) -> Result<(), Trouble> {
        let text = scene::flows(self.chance.below(VARIANTS));
        let done = self.scene.daemon.flow(FlowOp::Replace, &text);
        done.map_err(|e| Trouble::Broken(vec![format!("{e}\n{text}")]))?;
        self.summary.course.changes += 1;
        Ok(())
    }

    fn limit(&mut self) -> Result<(), Trouble> {
        let c = &mut self.chance;
        let mut change = CtChange::default();
        match c.below(4) {
            0 => change.conns_max = Some(c.within(u64::from(CONNS) / 8, CONNS.into()) as u32),
            1 => change.zone_limit = Some(*c.pick(&[0, 0, 300])),
            _ => {
                let limit = Some(c.within(0, 80) as u32);
                change.limits = vec![ZoneLimit { zone: 6, limit }];
            }
        }
        self.call(Request::ConntrackSet(change))?;
        self.summary.limits += 1;
        Ok(())
    }

    fn checkpoint(&mut self, waiting: Waiting) -> Result<(), Trouble> {
        let wrong = self.churn.wrong();
        if !wrong.is_empty() {
            return Err(Trouble::Broken(wrong));
        }
        let seen = audit::settled(&self.scene.daemon, waiting).map_err(Trouble::Broken)?;
        let s = &mut self.summary;
        s.course.checkpoints += 1;
        s.conns_most = s.conns_most.max(seen.conns);
        s.ports_most = s.ports_most.max(seen.pooled);
        s.last = seen;
        Ok(())
    }

    /// Everything goes, by time and by flush in turn.
    fn empty(&mut self) -> Result<(), Trouble> {
        let by_time = self.summary.course.is_times_turn();
        self.checkpoint(if by_time { Waiting::Gone } else { Waiting::Flushed })?;
        let (pid, cached) =
            (self.summary.last.pid.to_string(), self.summary.last.walks * FLOW_BYTES);
        self.summary.course.has_emptied(&pid, Instant::now() < self.early, cached)
    }
}

impl Summary {
    /// Ten lines or so.
    pub fn text(&self) -> String {
        table(self.happened().into_iter().chain(self.outcome()))
    }

    fn happened(&self) -> [(&'static str, String); 5] {
        let (s, last) = (self, &self.last);
        let [tcp, udp, answered, half_open] = s.talked;
        let talk = format!(
            "{tcp} by TCP and {udp} by UDP, {answered} answered; {half_open} SYNs to nobody"
        );
        let packets = format!(
            "{} in, {} out, {} dropped, {} handed over, {} in pieces; tier 1 {}, walks {}",
            last.rx, last.tx, last.dropped, last.handed_over, last.datagrams, last.hits, last.walks
        );
        let connections = named(&last.events);
        [
            ("soak", s.course.long()),
            ("talk", talk),
            ("packets", packets),
            ("drops", named(&last.drops)),
            ("connections", connections),
        ]
    }

    fn outcome(&self) -> [(&'static str, String); 4] {
        let (s, last) = (self, &self.last);
        let operator = format!(
            "{}; {} connections flushed, {} limits",
            s.course.operator(),
            s.flushed,
            s.limits
        );
        let most = format!("{} connections, {} with a NAT port", s.conns_most, s.ports_most);
        let conserved = format!(
            "{}; {} connections made, {} ended, {} alive; {} frames, {} NAT ports held",
            s.course.conserved(last.self_checks),
            last.created,
            last.ended,
            last.conns,
            last.frames,
            last.pooled
        );
        [
            ("operator", operator),
            ("at most", most),
            ("memory", s.course.memory()),
            ("conserved", conserved),
        ]
    }
}

/// What is above zero.
fn named(all: &BTreeMap<String, u64>) -> String {
    let some = all.iter().filter(|(_, n)| **n > 0);
    some.map(|(name, n)| format!("{name} {n}")).collect::<Vec<_>>().join(", ")
}
