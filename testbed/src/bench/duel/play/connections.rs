//! New connections without end, and how many a second a side takes.
//!
//! Ours is measured in the steady state: each packet is of a connection that never was, and as many
//! expire as begin. The peer is measured while it fills an empty table, without expiry. What
//! it makes, keeps and refuses with expiry, after some seconds, is told beside.

use std::thread::sleep;
use std::time::{Duration, Instant};

use serde::Serialize;

use super::{DELAY, Outcome, Player, Session, WARM_UP_FIRST, forever, play_once};
use crate::bench::duel::case::{Case, Load};
use crate::bench::duel::peer::{Build, Ovs};
use crate::bench::duel::stream::Stream;
use crate::{Error, Result};

/// Of its flows, the share that a peer's scan plays.
const SCAN_SHARE: u64 = 4;
/// How long the peer has new connections until it is looked at.
const CHURNED: Duration = Duration::from_secs(6);
/// The least share of the packets that must have made a connection.
const MADE_MIN: f64 = 0.98;

/// A peer that has new connections all the time.
#[derive(Clone, Copy, Debug, Default, Serialize)]
pub struct Churning {
    pub mpps: f64,
    /// Packets that made a connection, a second.
    pub made_per_second: f64,
    /// Packets whose connection the full table refused, a second.
    pub refused_per_second: f64,
    /// Connections in the table at the begin and the end of the window.
    pub live: (u64, u64),
}

impl Player<'_> {
    pub(super) fn connections(&self, case: &Case, out: &mut Outcome) -> Result<()> {
        let load = &case.load;
        let stream = load.measured().ok_or_else(|| wrong("no stream"))?;
        let few = Stream { flows: stream.flows.div_ceil(SCAN_SHARE), ..stream };
        let (mut session, build, setting, mut facts) =
            self.best(&|build| self.empty(build, load, &few), &|ovs, setting| {
                ovs.apply(setting)?;
                Ok(self.fill(ovs, &few)?.0)
            })?;
        out.compared = session.compared;
        let ovs = &mut session.ovs;
        ovs.apply(&setting)?;
        facts.build.clone_from(&build.name);
        facts.setting = setting.name.to_owned();
        facts.settled = true;
        for _ in 0..self.options.rounds {
            let own = ovs.pause(|| self.own_round(load, out))?;
            let made = own.stats.get("ct_created").copied().unwrap_or(0) as f64;
            if made < own.packets as f64 * MADE_MIN {
                let text =
                    format!("{made} connections of {} packets: {:?}", own.packets, own.stats);
                return Err(wrong(&text));
            }
            let (rate, cycles) = self.fill(ovs, &stream)?;
            out.own.push(made / own.seconds / 1e6);
            out.own_cycles.push(own.tsc_cycles_per_packet);
            out.rival.push(rate);
            out.rival_cycles.push(cycles);
        }
        facts.megaflows = ovs.megaflows();
        facts.connections = ovs.connections();
        facts.churning = Some(self.churning(ovs, &stream)?);
        out.peer = Some(facts);
        Ok(())
    }

    /// A peer with rules and without connections, whose caches know the rules.
    fn empty(&self, build: &Build, load: &Load, few: &Stream) -> Result<Session> {
        let mut session = self.prepared(build, load)?;
        session.ovs.add_null_port(2)?;
        self.fill(&mut session.ovs, few)?;
        Ok(session)
    }

    /// Plays a stream once into an empty table: millions of connections a second, cycles each.
    fn fill(&self, ovs: &mut Ovs, stream: &Stream) -> Result<(f64, f64)> {
        ovs.forget_connections()?;
        let stats = play_once(ovs, &self.files.packets(stream)?, stream.port, stream.flows as f64)?;
        let live = ovs.connections();
        if (live as f64) < stream.flows as f64 * MADE_MIN {
            return Err(wrong(&format!("the peer has {live} of {} connections", stream.flows)));
        }
        let rate = stats.packets / (stats.busy_cycles / self.tsc_hz) / 1e6;
        Ok((rate, stats.busy_cycles / stats.packets))
    }

    /// The peer with first packets' connections of a second, for some seconds.
    fn churning(&self, ovs: &mut Ovs, stream: &Stream) -> Result<Churning> {
        ovs.forget_connections()?;
        ovs.shorten_first_timeouts()?;
        ovs.add_replay_port(&self.files.packets(stream)?, stream.port, &forever(stream))?;
        sleep(DELAY + CHURNED);
        ovs.clear_stats()?;
        let (start, refused, live) =
            (Instant::now(), ovs.refused_connections()?, ovs.connections());
        sleep(WARM_UP_FIRST);
        let stats = ovs.stats()?;
        let seconds = start.elapsed().as_secs_f64();
        let refused = (ovs.refused_connections()? - refused) as f64;
        let live = (live, ovs.connections());
        ovs.delete_port(stream.port)?;
        Ok(Churning {
            mpps: self.mpps(&stats),
            made_per_second: (stats.packets - refused).max(0.0) / seconds,
            refused_per_second: refused / seconds,
            live,
        })
    }
}

fn wrong(text: &str) -> Error {
    Error::Unexpected(text.to_owned())
}
