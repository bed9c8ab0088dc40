//! One lane, a private pool, and no ports: the smallest thing that runs the whole pipeline.

use super::{Packet, ReplayError};
use crate::config::{self, Config};
use crate::model::Model;
use crate::store::Wish;
use sluice_dataplane::clock::Now;
use sluice_dataplane::conntrack::{CLASSES, Class, CtConfig, CtZoneConfig, DEFAULT_TIMEOUTS_S};
use sluice_dataplane::counters::Counters;
use sluice_dataplane::limits::{MEGAFLOWS, MICROFLOWS};
use sluice_dataplane::packet::frame::Frame;
use sluice_dataplane::packet::key::PortIx;
use sluice_dataplane::pipeline::miss::Event;
use sluice_dataplane::pipeline::{Egress, First, Lane, LaneConfig, Program, Seat};
use sluice_dataplane::port::RxBurst;
use sluice_dataplane::xsk::pool::FramePool;
use sluice_dataplane::xsk::umem::{Umem, UmemConfig};
use std::sync::Arc;

/// Frames of a replay: a batch in hand, and the copies of a flood.
const FRAMES: u32 = 8192;
/// Work that expiry may do per packet.
const HOUSEKEEP_BUDGET: usize = 64;

/// Between two looks for flows that have timed out, as in the daemon.
const EXPIRY_NS: u64 = 500_000_000;

/// A packet that left.
#[derive(Debug)]
pub struct Sent<'a> {
    pub port: PortIx,
    pub ts_ns: u64,
    pub bytes: &'a [u8],
}

/// The pipeline without devices.
pub struct Engine {
    pub lane: Lane,
    pub pool: FramePool,
    pub burst: RxBurst,
    start_ns: Option<u64>,
    last: Now,
    next_expiry_ns: u64,
}

/// Entries of the caches; `None`: as many as the limits say, 0: the tier is off.
#[derive(Clone, Copy, Debug, Default)]
pub struct Caches {
    pub microflows: Option<usize>,
    pub megaflows: Option<usize>,
    /// Walk one of so many packets that hit, and compare. `None`: as the configuration says.
    pub self_check: Option<u32>,
}

/// The lane's settings that a configuration asks for.
pub fn lane_config(config: &Config, caches: Caches, seed: u64) -> LaneConfig {
    LaneConfig {
        microflows: caches.microflows.unwrap_or(MICROFLOWS),
        megaflows: caches.megaflows.unwrap_or(MEGAFLOWS),
        conntrack: ct_config(&config.conntrack, seed),
        self_check: caches.self_check.unwrap_or(config.daemon.self_check),
        first: First::Measured,
        seed,
        seat: Seat::default(),
    }
}

fn ct_config(c: &config::Conntrack, seed: u64) -> CtConfig {
    let zone = |z: &config::CtZone| CtZoneConfig {
        zone: z.id,
        limit: z.limit,
        timeouts_s: z.timeouts.as_ref().map(timeouts_s),
    };
    CtConfig {
        conns_max: c.conns_max as usize,
        seed,
        timeouts_s: timeouts_s(&c.timeouts),
        tcp_seq_check: c.tcp_seq_check,
        zone_limit: c.zone_limit,
        zones: c.zones.iter().map(zone).collect(),
        fragments: c.fragments,
        zone_counts: None,
    }
}

fn timeouts_s(t: &config::Timeouts) -> [u32; CLASSES] {
    let mut seconds = DEFAULT_TIMEOUTS_S;
    let named = [
        (Class::TcpFirst, t.tcp_syn_sent_s),
        (Class::TcpOpening, t.tcp_syn_recv_s),
        (Class::TcpEstablished, t.tcp_established_s),
        (Class::TcpClosing, t.tcp_fin_wait_s),
        (Class::TcpFinWait, t.tcp_time_wait_s),
        (Class::TcpClosed, t.tcp_close_s),
        (Class::OtherFirst, t.udp_first_s),
        (Class::OtherMultiple, t.udp_single_s),
        (Class::OtherBidir, t.udp_multiple_s),
        (Class::IcmpFirst, t.icmp_first_s),
        (Class::IcmpReply, t.icmp_reply_s),
    ];
    for (class, s) in named {
        seconds[class as usize] = s;
    }
    seconds
}

impl Engine {
    pub fn new(
        config: &Config,
        program: Arc<Program>,
        caches: Caches,
    ) -> Result<Self, ReplayError> {
        let memory = |e: &dyn std::fmt::Display| ReplayError::Memory(e.to_string());
        let umem = Umem::new(UmemConfig {
            frames: FRAMES,
            frame_size_bytes: config.umem.frame_size_bytes,
            ..UmemConfig::default()
        })
        .map_err(|e| memory(&e))?;
        let pool = FramePool::new(&umem, FRAMES).map_err(|e| memory(&e))?;
        let settings = lane_config(config, caches, 0x5107);
        let mut lane = Lane::new(&settings, Arc::new(Counters::default()));
        lane.set_program(program, Now::default());
        Ok(Self {
            lane,
            pool,
            burst: RxBurst::new(),
            start_ns: None,
            last: Now::default(),
            next_expiry_ns: 0,
        })
    }

    /// Time of the lane: it starts with the first packet at one second, so that a time of zero
    /// means "never".
    fn time(&mut self, ts_ns: u64) -> Now {
        let start = *self.start_ns.get_or_insert(ts_ns);
        Now::from_ns(1_000_000_000 + ts_ns.saturating_sub(start))
    }

    /// Runs one packet through; `sent` hears of all that leaves.
    pub fn play(
        &mut self,
        packet: &Packet,
        sent: &mut dyn FnMut(Sent<'_>),
    ) -> Result<(), ReplayError> {
        let now = self.time(packet.ts_ns).max(self.last);
        self.last = now;
        let Some(mut frame) = self.pool.alloc() else {
            return Err(ReplayError::Memory("every frame is in use".into()));
        };
        if !frame.copy_from(&packet.bytes) {
            self.pool.free(frame);
            return Err(ReplayError::TooLong { len: packet.bytes.len() });
        }
        if let Err(frame) = self.burst.push(frame) {
            self.pool.free(frame);
        }
        self.lane.housekeep(now, HOUSEKEEP_BUDGET);
        let mut tell = Tell { sent, ts_ns: packet.ts_ns };
        self.lane.run(&mut self.burst, packet.port, now, &mut self.pool, &mut tell);
        Ok(())
    }

    /// Does what packets asked of control since the last time: learned flows are there before the
    /// next packet, timed out ones gone. Nobody resolves neighbours here.
    pub fn follow(&mut self, model: &mut Model) {
        let events: Vec<Event> = self.lane.drain_events().collect();
        let mut changed = false;
        for event in events {
            if let Event::Learn { bridge, rule, nth, key } = event {
                let wish = Wish { rule: &rule, nth, key: &key };
                changed |= model.learn(bridge, &wish, self.last.ns);
            }
        }
        if self.last.ns >= self.next_expiry_ns && model.has_timeouts() {
            self.next_expiry_ns = self.last.ns + EXPIRY_NS;
            self.lane.settle(self.last);
            changed |= model.expire_flows(self.last.ns) > 0;
        }
        if changed {
            self.lane.set_program(model.program(), self.last);
            model.swept(self.lane.swept());
        }
    }

    /// Credits what is owed, so that counters are exact.
    pub fn finish(&mut self) {
        self.lane.settle(self.last);
    }

    pub fn now(&self) -> Now {
        self.last
    }
}

struct Tell<'a> {
    sent: &'a mut dyn FnMut(Sent<'_>),
    ts_ns: u64,
}

impl Egress for Tell<'_> {
    fn output(&mut self, port: PortIx, frame: Frame, pool: &mut FramePool) {
        (self.sent)(Sent { port, ts_ns: self.ts_ns, bytes: frame.bytes() });
        pool.free(frame);
    }
}
