//! Conntrack: what one packet costs at 1 k, 100 k and 1 M connections.
//!
//! Packets of random connections, so that at 1 M each one finds its lines in memory, not in a
//! cache. `lookup` is what a walk does; `judged` is what a cached walk does, which asks for memory
//! for a batch of 32 first. `churn` is a look-up that finds
//! nothing, a commit, and its share of expiry, with fresh tuples all the time. `flood` is the same
//! at a full table, half of it established: each new connection pushes out a half-open one.
//! `collect` is what one of a million connections costs that are all due, in the calls that a
//! worker makes. In both the connections lie in memory in another order than that in which they
//! go.
//! `ports` is a new connection through source NAT when 10, 50 or 95 % of the ports are used.
//!
//! Run: `cargo bench -p sluice-benches --bench conntrack`.

use std::hint::black_box;
use std::time::{Duration, Instant};

use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use sluice_dataplane::clock::Now;
use sluice_dataplane::conntrack::{
    Commit, Conntrack, CtConfig, CtPacket, Kind, NatKind, NatMode, NatSpec, Segment, Tuple,
};

const BATCH: usize = 32;
/// Packets that are played in turn; more than a cache could learn.
const PACKETS: usize = 1 << 17;
const SIZES: [(usize, &str); 3] = [(1000, "1k"), (100_000, "100k"), (1 << 20, "1M")];

fn packet(n: u64) -> CtPacket {
    let tuple = Tuple {
        src: u128::from(0x0a00_0000 | (n & 0x00ff_ffff)),
        dst: u128::from(0xc0a8_0000 | (n >> 24)),
        sport: 1024 + (n % 50_000) as u16,
        dport: 53,
        proto: 17,
        v6: false,
    };
    CtPacket { tuple, zone: 1, kind: Kind::Normal, seg: Segment::default(), checksum_ok: true }
}

fn random(state: &mut u64) -> u64 {
    *state ^= *state << 13;
    *state ^= *state >> 7;
    *state ^= *state << 17;
    *state
}

/// A table of answered connections, and packets of both directions.
fn established(conns: usize) -> (Conntrack, Vec<CtPacket>) {
    let cfg = CtConfig { conns_max: conns, seed: 42, ..CtConfig::default() };
    let mut ct = Conntrack::new(&cfg);
    let now = Now::from_secs(1);
    for n in 0..conns as u64 {
        let p = packet(n);
        let r = ct.lookup(&p, now);
        ct.commit(&p, &r, &Commit::default(), now).expect("room for all");
        ct.lookup(&CtPacket { tuple: p.tuple.reversed(), ..p }, now);
    }
    let mut seed = 99;
    let packets = (0..PACKETS).map(|_| {
        let v = random(&mut seed);
        let mut p = packet((v >> 8) % conns as u64);
        if v & 1 == 1 {
            p.tuple = p.tuple.reversed();
        }
        p
    });
    let packets = packets.collect();
    (ct, packets)
}

fn lookups(c: &mut Criterion) {
    let mut group = c.benchmark_group("conntrack");
    group.throughput(Throughput::Elements(BATCH as u64)).sample_size(20);
    for (conns, name) in SIZES {
        let (mut ct, packets) = established(conns);
        let now = Now::from_secs(2);
        let mut batches = packets.chunks_exact(BATCH).cycle();
        group.bench_function(BenchmarkId::new("lookup", name), |b| {
            b.iter(|| {
                for p in batches.next().unwrap_or_default() {
                    black_box(ct.lookup(p, now));
                }
            });
        });
        group.bench_function(BenchmarkId::new("judged", name), |b| {
            b.iter(|| {
                let batch = batches.next().unwrap_or_default();
                let mut hashes = [0; BATCH];
                for (hash, p) in hashes.iter_mut().zip(batch) {
                    *hash = ct.hash_of(p);
                    ct.prefetch_index(*hash);
                }
                hashes.iter().for_each(|hash| _ = ct.prefetch_guess(*hash));
                for (hash, p) in hashes.iter().zip(batch) {
                    let judged = ct.judge(p, *hash, now);
                    ct.accept(&judged, now);
                    black_box(judged);
                }
            });
        });
    }
    group.finish();
}

fn churn(c: &mut Criterion) {
    let mut group = c.benchmark_group("conntrack");
    group.throughput(Throughput::Elements(BATCH as u64)).sample_size(20);
    let nat = NatSpec {
        kind: NatKind::Src,
        v6: false,
        addr_min: 0xac10_0001,
        addr_max: 0xac10_0020,
        ports: Some((1024, 65535)),
        mode: NatMode::Hash,
    };
    let commits = [("churn", None), ("churn_snat", Some(nat))];
    for (what, nat) in commits {
        for (conns, name) in [(100_000usize, "100k"), (1 << 20, "1M")] {
            let cfg = CtConfig { conns_max: conns, seed: 42, ..CtConfig::default() };
            let mut ct = Conntrack::new(&cfg);
            let commit = Commit { nat, ..Commit::default() };
            let mut n = 0u64;
            // Time runs so that nine tenths of the table live: entries die after 67.5 s.
            let step_ns = 67_500_000_000 * 10 / (9 * conns as u64);
            let mut batch = move || {
                for _ in 0..BATCH {
                    let now = Now::from_ns(n * step_ns);
                    let p = packet(n);
                    let r = ct.lookup(&p, now);
                    black_box(ct.commit(&p, &r, &commit, now).expect("room for all"));
                    n += 1;
                }
                ct.age(Now::from_ns(n * step_ns));
            };
            (0..2 * conns / BATCH).for_each(|_| batch());
            group.bench_function(BenchmarkId::new(what, name), |b| b.iter(&mut batch));
        }
    }
    group.finish();
}

/// Numbers below `n` in another order.
fn shuffled(n: usize) -> Vec<u64> {
    let mut all: Vec<u64> = (0..n as u64).collect();
    let mut seed = 7;
    (1..n).for_each(|i| all.swap(i, (random(&mut seed) % (i as u64 + 1)) as usize));
    all
}

/// A full table whose connections are half-open, queued in another order than their places have.
fn half_open(conns: usize, now: Now) -> Conntrack {
    let mut ct = Conntrack::new(&CtConfig { conns_max: conns, seed: 42, ..CtConfig::default() });
    for n in 0..conns as u64 {
        let p = packet(n);
        let r = ct.lookup(&p, now);
        ct.commit(&p, &r, &Commit::default(), now).expect("room for all");
    }
    // Force makes a connection anew in its place.
    let force = Commit { force: true, ..Commit::default() };
    for n in shuffled(conns) {
        let p = CtPacket { tuple: packet(n).tuple.reversed(), ..packet(n) };
        let r = ct.lookup(&p, now);
        ct.commit(&p, &r, &force, now).expect("it was there");
    }
    ct
}

fn flood(c: &mut Criterion) {
    let mut group = c.benchmark_group("conntrack");
    group.throughput(Throughput::Elements(BATCH as u64)).sample_size(20);
    for (conns, name) in [(100_000usize, "100k"), (1 << 20, "1M")] {
        let now = Now::from_secs(1);
        let mut ct = half_open(conns, now);
        for n in shuffled(conns).into_iter().step_by(2) {
            ct.lookup(&packet(n), now);
        }
        let mut n = conns as u64;
        group.bench_function(BenchmarkId::new("flood", name), |b| {
            b.iter(|| {
                let batch: [CtPacket; BATCH] = std::array::from_fn(|i| packet(n + i as u64));
                n += BATCH as u64;
                let hashes = batch.each_ref().map(|p| {
                    let hash = ct.hash_of(p);
                    ct.prefetch_index(hash);
                    hash
                });
                for (p, hash) in batch.iter().zip(hashes) {
                    let r = ct.lookup_hashed(p, hash, now);
                    black_box(ct.commit(p, &r, &Commit::default(), now).expect("one gives way"));
                }
                ct.age(now);
            });
        });
        assert!(ct.stats().evicted > 0 && ct.stats().table_full == 0);
    }
    group.finish();
}

fn collect(c: &mut Criterion) {
    let mut group = c.benchmark_group("conntrack");
    let conns = 1usize << 20;
    group.throughput(Throughput::Elements(conns as u64)).sample_size(10);
    group.bench_function(BenchmarkId::new("collect", "1M"), |b| {
        b.iter_custom(|times| {
            let mut spent = Duration::ZERO;
            for _ in 0..times {
                let mut ct = half_open(conns, Now::from_secs(1));
                let start = Instant::now();
                while ct.age(Now::from_secs(80)) {}
                spent += start.elapsed();
                assert!(ct.is_empty());
            }
            spent
        });
    });
    group.finish();
}

/// New connections through one address of 64 512 ports, to one server, with so many of them used.
fn ports(c: &mut Criterion) {
    let mut group = c.benchmark_group("conntrack");
    let (lo, hi) = (1024u16, u16::MAX);
    let span = u64::from(hi - lo) + 1;
    let burst = span / 100;
    let spec = NatSpec {
        kind: NatKind::Src,
        v6: false,
        addr_min: 0xac10_0001,
        addr_max: 0xac10_0001,
        ports: Some((lo, hi)),
        mode: NatMode::Hash,
    };
    group.throughput(Throughput::Elements(burst)).sample_size(10);
    for percent in [10, 50, 95] {
        let mut ct = Conntrack::new(&CtConfig { conns_max: 1 << 17, ..CtConfig::default() });
        let now = Now::from_secs(1);
        let mut n = 0;
        let mut open = |ct: &mut Conntrack, mark: u32| {
            let mut p = packet(n);
            p.tuple.dst = 0xc0a8_0001;
            n += 1;
            let commit = Commit { nat: Some(spec), mark: Some((mark, !0)), ..Commit::default() };
            let r = ct.lookup(&p, now);
            black_box(ct.commit(&p, &r, &commit, now).expect("a port is free"));
        };
        (0..span * percent / 100).for_each(|_| open(&mut ct, 0));
        group.bench_function(BenchmarkId::new("ports", percent), |b| {
            b.iter_custom(|times| {
                let mut spent = Duration::ZERO;
                for _ in 0..times {
                    let start = Instant::now();
                    (0..burst).for_each(|_| open(&mut ct, 1));
                    spent += start.elapsed();
                    assert_eq!(ct.flush(now, |i| i.mark == 1) as u64, burst);
                }
                spent
            });
        });
    }
    group.finish();
}

criterion_group!(benches, lookups, churn, flood, collect, ports);
criterion_main!(benches);
