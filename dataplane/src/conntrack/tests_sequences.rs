//! Random sequences of packets, friendly and hostile, over three conntracks at once: one that is
//! used as cached walks use it (judge, then accept), one that is asked by look-ups, and the slow
//! reference. All three must say the same of every packet, and the first two must hold the same
//! bytes after it.

use std::sync::atomic::{AtomicU64, Ordering};

use super::ct_state::{EST, NEW, RPL};
use super::expire::ticks;
use super::reference::{Conn, Model, Seen};
use super::tcp::{ACK, FIN, PSH, RST, SYN};
use super::*;
use proptest::prelude::*;
use zerocopy::IntoBytes;

/// One step, as numbers that the runner turns into packets by the state of things.
#[derive(Clone, Copy, Debug)]
struct Step {
    verb: u8,
    pick: u8,
    reply: bool,
    shape: u8,
    noise: [u32; 2],
    pause: u8,
}

fn step() -> impl Strategy<Value = Step> {
    let numbers = (any::<u8>(), any::<u8>(), any::<bool>(), any::<u8>(), any::<[u32; 2]>());
    (numbers, any::<u8>()).prop_map(|((verb, pick, reply, shape, noise), pause)| Step {
        verb,
        pick,
        reply,
        shape,
        noise,
        pause,
    })
}

/// How often each thing happened, to see that the sequences reach what they are for.
#[derive(Default)]
struct Reached {
    steady: AtomicU64,
    tcp_steady: AtomicU64,
    invalid: AtomicU64,
    established: AtomicU64,
    exhausted: AtomicU64,
    translated: AtomicU64,
    expired: AtomicU64,
    wrapped: AtomicU64,
    evicted: AtomicU64,
    full: AtomicU64,
}

fn count(c: &AtomicU64) {
    c.fetch_add(1, Ordering::Relaxed);
}

struct Rig<'a> {
    cached: Conntrack,
    plain: Conntrack,
    model: Model,
    now: Now,
    reached: &'a Reached,
}

impl<'a> Rig<'a> {
    fn new(seed: u64, start_ns: u64, reached: &'a Reached) -> Self {
        // Small enough to be full now and then, also of established connections.
        let conns_max = 3 + (seed % 16) as usize;
        let cfg = CtConfig { conns_max, seed, ..CtConfig::default() };
        Self {
            cached: Conntrack::new(&cfg),
            plain: Conntrack::new(&cfg),
            model: Model::default(),
            now: Now::from_ns(start_ns),
            reached,
        }
    }

    fn fresh_tuple(s: &Step) -> Tuple {
        let proto = [6, 6, 17, 1, 47][usize::from(s.shape % 5)];
        let v6 = s.pick.is_multiple_of(7) && proto != 1;
        let (src, dst) = (u128::from(s.pick % 3 + 1), u128::from(s.pick / 3 % 3 + 1));
        let port = |n: u8| 1024 + u16::from(n % 2);
        let (sport, dport) = match proto {
            47 => (0, 0),
            1 => (port(s.pick / 16), 8 << 8),
            _ => (port(s.pick / 16), port(s.pick / 32)),
        };
        Tuple { src, dst, sport, dport, proto, v6 }
    }

    /// A segment that mostly fits the conversation as far as it went.
    fn segment(&self, t: &Tuple, zone: u16, s: &Step) -> Segment {
        let [a, b] = s.noise;
        let known =
            self.model.conns.iter().find(|c| c.zone == zone && (c.orig == *t || c.reply == *t));
        let sides = known.and_then(|c| {
            let [x, y] = c.tcp?;
            Some(if c.orig == *t { (x, y) } else { (y, x) })
        });
        let flags = match s.shape / 5 % 16 {
            0 | 1 => SYN,
            2..=4 => SYN | ACK,
            5..=8 => ACK,
            9..=11 => ACK | PSH,
            12 => FIN | ACK,
            13 => RST,
            14 => RST | ACK,
            _ => ACK | FIN | PSH,
        };
        let near = |base: u32, n: u32| match n % 16 {
            0 => n,
            1 => base.wrapping_add(n >> 4 & 0xffff),
            2 => base.wrapping_sub(n >> 4 & 0xffff),
            3 => base.wrapping_add(1),
            _ => base,
        };
        // Initial numbers near the wrap-around.
        let initial = 0u32.wrapping_sub(a >> 8 & 0xfff);
        let (lo, other_lo) = sides
            .map_or((initial, b), |(x, y)| (if x.seqhi == 1 { initial } else { x.seqlo }, y.seqlo));
        let win = [0, 1, 500, 0xffff][(b >> 12 & 3) as usize];
        let wscale =
            if flags & SYN != 0 && b >> 15 & 1 == 1 { 0x80 | (b >> 16 & 7) as u8 } else { 0 };
        let payload_len = if flags & (SYN | RST) == 0 { b >> 20 & 0x5ff } else { 0 };
        Segment { seq: near(lo, a), ack: near(other_lo, b), payload_len, win, flags, wscale }
    }

    fn packet(&self, s: &Step) -> CtPacket {
        let zone = u16::from(s.shape >= 200);
        let n = self.model.conns.len();
        let (tuple, zone) = if !s.verb.is_multiple_of(8) && n > 0 {
            let c = &self.model.conns[usize::from(s.pick) % n];
            (if s.reply { c.reply } else { c.orig }, c.zone)
        } else {
            (Self::fresh_tuple(s), zone)
        };
        let kind = match s.verb {
            250.. => Kind::Invalid,
            240..250 => Kind::Related,
            _ => Kind::Normal,
        };
        let seg = if tuple.proto == 6 { self.segment(&tuple, zone, s) } else { Segment::default() };
        CtPacket { tuple, zone, kind, seg, checksum_ok: s.verb != 200 }
    }

    /// What a cache does: it judges, foresees what a repetition would be told, and accepts.
    fn lookup_cached(&mut self, p: &CtPacket) -> CtResult {
        let (hash, before) = (self.cached.hash_of(p), self.lines());
        let judged = self.cached.judge(p, hash, self.now);
        assert_eq!(before, self.lines(), "a judgement changed something");
        let told = (self.cached.mark_of(&judged), self.cached.nat_bits_of(&judged));
        let all = self.cached.told(&judged);
        assert_eq!(all, (judged.state | told.1, told.0.0, told.0.1));
        self.cached.accept(&judged, self.now);
        let r = self.cached.result(&judged, p);
        if let Some(foreseen) = self.cached.repeat(p, &judged) {
            let again = self.cached.judge(p, hash, self.now);
            assert_eq!(format!("{foreseen:?}"), format!("{again:?}"), "judged otherwise");
            let met =
                if p.tuple.proto == 6 { &self.reached.tcp_steady } else { &self.reached.steady };
            if r.conn.is_some() {
                count(met);
            }
        }
        let translation = self.cached.nat_rewrite(&r);
        assert_eq!(self.cached.translation_of(&judged), translation);
        assert_eq!(told, ((r.mark, r.label), translation.map_or(0, |t| t.ct_state)));
        r
    }

    fn lines(&self) -> Vec<Vec<u8>> {
        lines(&self.cached)
    }

    fn commit_of(s: &Step) -> Commit {
        let [a, b] = s.noise;
        let kind = if a & 1 == 0 { NatKind::Src } else { NatKind::Dst };
        let ports = (a & 2 == 0).then_some((3000, 3000 + (a >> 2 & 3 == 0) as u16));
        let low = u128::from(a >> 4 & 3 != 0);
        let nat = NatSpec {
            kind,
            v6: s.pick.is_multiple_of(7),
            addr_min: low,
            addr_max: low + u128::from(a >> 6 & 7 == 0),
            ports,
            mode: NatMode::Hash,
        };
        Commit {
            force: b & 7 == 0,
            nat: (b >> 3 & 1 == 0).then_some(nat),
            mark: (b >> 4 & 3 == 0).then_some((b >> 8, 0xff)),
            label: (b >> 6 & 3 == 0).then_some((u128::from(b) << 60, 0xff << 90)),
            ..Commit::default()
        }
    }

    fn check_choice(&self, p: &CtPacket, c: &Commit, reply: &Tuple) {
        let natural = p.tuple.reversed();
        let Some(n) = c.nat.filter(|n| n.v6 == p.tuple.v6 || n.addr_max == 0) else {
            assert_eq!(*reply, natural);
            return;
        };
        let (kept, chosen, same) = match n.kind {
            NatKind::Src => (natural.dst, reply.dst, reply.src == natural.src),
            NatKind::Dst => (natural.src, reply.src, reply.dst == natural.dst),
        };
        assert!(same);
        if n.addr_max == 0 {
            assert_eq!(kept, chosen);
        } else {
            assert!((n.addr_min..=n.addr_max).contains(&chosen));
        }
        let port = match n.kind {
            NatKind::Src => reply.dest_port(),
            NatKind::Dst => reply.sport,
        };
        let by_port = p.tuple.has_ports() && (n.kind == NatKind::Src || !p.tuple.is_icmp());
        if let Some((lo, hi)) = n.ports.filter(|_| by_port) {
            assert!((lo..=hi).contains(&port), "{port} for {lo}-{hi}");
        }
        if *reply != natural {
            count(&self.reached.translated);
        }
    }

    /// A source range may only be exhausted if every port of every address is taken.
    fn check_exhausted(&self, p: &CtPacket, c: &Commit) {
        count(&self.reached.exhausted);
        let n = c.nat.unwrap();
        if n.kind == NatKind::Dst || !p.tuple.has_ports() {
            return;
        }
        let (lo, hi) = n.ports.expect("without a range there is always a port in these tests");
        for address in n.addr_min..=n.addr_max {
            for port in lo..=hi {
                let mut reply = p.tuple.reversed();
                if n.addr_max != 0 {
                    reply.dst = address;
                }
                reply.set_dest_port(port);
                assert!(self.plain.table.taken(&reply, p.zone), "{port} was free");
            }
        }
    }

    fn commit(&mut self, p: &CtPacket, c: &Commit, r: &CtResult, want: Seen) {
        let tick = ticks(self.now);
        let create = self.model.must_create(p, c, want.state);
        let evicted = self.plain.stats().evicted;
        let got = self.plain.commit(p, r, c, self.now);
        assert_eq!(got, self.cached.commit(p, r, c, self.now));
        let table = &self.plain.table;
        let kept = |c: &Conn| table.taken(&c.orig, c.zone);
        let gone = self.model.give_up(kept) as u64;
        assert_eq!(self.plain.stats().evicted - evicted, gone);
        assert!(gone == 0 || (create && gone == 1 && got.is_ok()));
        self.reached.evicted.fetch_add(gone, Ordering::Relaxed);
        match got {
            Ok(out) => {
                let mut want = want;
                if create {
                    let reply = self.plain.table.tuple(out.conn.unwrap().ix, 1);
                    self.check_choice(p, c, &reply);
                    self.model.create(p, reply, tick);
                    want.state = TRK | NEW;
                }
                // A connection that `force` took away and whose successor was refused by TCP.
                if !create && want.found && !self.model.taken(&p.tuple, p.zone) {
                    assert_eq!(out.state, TRK | INV);
                    return;
                }
                assert_eq!(seen(&out), self.model.exec(p, c, want), "after commit of {p:?}");
            }
            Err(e) => {
                assert!(create, "{e} though nothing was to be created");
                match e {
                    CtError::TableFull => {
                        assert_eq!(self.plain.len(), self.plain.capacity());
                        assert!(self.model.conns.iter().all(|c| c.worth() == 2));
                        count(&self.reached.full);
                    }
                    CtError::NatExhausted => self.check_exhausted(p, c),
                    CtError::TupleTaken => {
                        assert!(self.model.taken(&p.tuple.reversed(), p.zone));
                    }
                    CtError::ZoneFull => panic!("no limit was set"),
                    CtError::Untold => panic!("there is one worker"),
                }
            }
        }
    }

    fn run(&mut self, s: &Step) {
        let pause = [0, 1, 1, 2, 5, 20, 40, 100_000][usize::from(s.pause % 8)];
        if s.pause < 100 {
            self.now = self.now.plus_ms(pause * 997);
        }
        if s.verb % 16 == 9 {
            self.greet(s);
        }
        let p = self.packet(s);
        self.play(&p, s);
        self.compare(ticks(self.now));
    }

    /// A whole handshake and some data, so that later steps meet established TCP.
    fn greet(&mut self, s: &Step) {
        let tuple = Tuple { proto: 6, sport: 1, dport: 2, ..Self::fresh_tuple(s) };
        let [a, b] = s.noise;
        let (x, y) = (0u32.wrapping_sub(a & 0xff), b);
        let talk = [
            (false, SYN, x, 0, 0),
            (true, SYN | ACK, y, x.wrapping_add(1), 0),
            (false, ACK, x.wrapping_add(1), y.wrapping_add(1), 0),
            (false, ACK, x.wrapping_add(1), y.wrapping_add(1), 300),
            (true, ACK, y.wrapping_add(1), x.wrapping_add(301), 0),
            (true, ACK | PSH, y.wrapping_add(1), x.wrapping_add(301), 500),
            (false, ACK, x.wrapping_add(301), y.wrapping_add(501), 0),
        ];
        for (reply, flags, seq, ack, payload_len) in talk {
            let conn = self.model.conns.iter().find(|c| c.orig == tuple && c.zone == 0);
            let tuple = conn.filter(|_| reply).map_or(tuple, |c| c.reply);
            let seg = Segment { seq, ack, payload_len, win: 9000, flags, wscale: 0 };
            let p = CtPacket { tuple, zone: 0, kind: Kind::Normal, seg, checksum_ok: true };
            self.play(&p, &Step { verb: if flags == SYN { 4 } else { 1 }, ..*s });
        }
    }

    fn play(&mut self, p: &CtPacket, s: &Step) {
        let tick = ticks(self.now);
        let want = self.model.lookup(p, tick);
        let got = self.lookup_cached(p);
        let plain = self.plain.lookup(p, self.now);
        assert_eq!(seen(&plain), want, "{p:?}");
        assert_eq!((seen(&got), got.conn), (want, plain.conn), "{p:?}");
        assert_eq!(self.cached.nat_rewrite(&got), self.plain.nat_rewrite(&plain));
        if want.state & INV != 0 {
            count(&self.reached.invalid);
        }
        if want.state & EST != 0 {
            count(&self.reached.established);
        }
        if p.seg.seq > 0xffff_f000 && want.state & RPL != 0 {
            count(&self.reached.wrapped);
        }
        if s.verb.is_multiple_of(4) {
            self.commit(p, &Self::commit_of(s), &plain, want);
        }
        if s.verb % 16 == 5 {
            let budget = usize::from(s.pick) * 16;
            let gone = self.plain.expire(self.now, budget);
            assert_eq!(gone, self.cached.expire(self.now, budget));
            self.reached.expired.fetch_add(gone as u64, Ordering::Relaxed);
        }
    }

    fn compare(&mut self, tick: u64) {
        assert_eq!(lines(&self.plain), self.lines());
        self.model.sweep(tick);
        let mut shown = 0;
        let model = &self.model;
        self.plain.dump(self.now, |info| {
            let c = model.conns.iter().find(|c| c.orig == info.orig && c.zone == info.zone);
            let c = c.expect("the model knows it");
            assert_eq!(
                (c.reply, c.mark, c.label, c.answered),
                (info.reply, info.mark, info.label, info.answered)
            );
            shown += 1;
        });
        assert_eq!(shown, model.conns.len());
    }
}

fn seen(r: &CtResult) -> Seen {
    let CtResult { state, conn, reply, mark, label, orig, .. } = *r;
    Seen { state, found: conn.is_some(), reply, mark, label, orig }
}

fn lines(ct: &Conntrack) -> Vec<Vec<u8>> {
    let line = |ix| [ct.table.hot(ix).as_bytes(), ct.table.cold(ix).as_bytes()].concat();
    (0..ct.table.places()).map(line).collect()
}

#[test]
fn hits_look_ups_and_reference_agree() {
    let reached = Reached::default();
    let config = ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(1500) };
    let mut runner = proptest::test_runner::TestRunner::new_with_rng(
        config,
        proptest::test_runner::TestRng::deterministic_rng(
            proptest::test_runner::RngAlgorithm::ChaCha,
        ),
    );
    // Start also where 32 bits of ticks wrap around.
    let wrap_ns = (1u64 << 52) - 30_000_000_000;
    let start = prop_oneof![Just(0u64), Just(wrap_ns), 0..u64::MAX >> 4];
    let steps = prop::collection::vec(step(), 1..160);
    runner
        .run(&(any::<u64>(), start, steps), |(seed, start_ns, steps)| {
            let mut rig = Rig::new(seed, start_ns, &reached);
            steps.iter().for_each(|s| rig.run(s));
            // Everything ends: after the longest timeout nothing is left anywhere.
            rig.now = rig.now.plus_ms(200_000_000);
            while rig.plain.expire(rig.now, 64) > 0 || rig.plain.wheel_behind(rig.now) {}
            assert_eq!((rig.plain.len(), rig.plain.nat_ports_used()), (0, 0));
            assert_eq!([0, 1].map(|z| rig.plain.zones().count(z)), [0, 0]);
            let s = rig.plain.stats();
            assert_eq!(s.created, s.expired + s.evicted);
            Ok(())
        })
        .unwrap();
    let Reached { steady, tcp_steady, invalid, established, .. } = &reached;
    let Reached { exhausted, translated, expired, wrapped, evicted, full, .. } = &reached;
    let all = [
        steady,
        tcp_steady,
        invalid,
        established,
        exhausted,
        translated,
        expired,
        wrapped,
        evicted,
        full,
    ];
    let all = all.map(|c| c.load(Ordering::Relaxed));
    assert!(all.iter().all(|n| *n > 20), "the sequences do not reach everything: {all:?}");
}
