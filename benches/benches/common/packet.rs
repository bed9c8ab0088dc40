//! A bench of a packet on the whole road: nanoseconds by criterion, then its cycles.

use criterion::{Criterion, Throughput};
use sluice_benches::road::Road;
use sluice_benches::tsc::{is_measuring, now};
use sluice_dataplane::limits::BATCH_MAX;

/// Runs the packets of `road` under criterion and prints the cycles of one.
pub fn bench(c: &mut Criterion, name: &str, mut road: Road) {
    road.warm_up(4);
    let mut group = c.benchmark_group(name.split('/').next().unwrap_or(name));
    group.throughput(Throughput::Elements(BATCH_MAX as u64));
    group.bench_function(name.split('/').nth(1).unwrap_or(name), |b| b.iter(|| road.batch()));
    group.finish();
    if !is_measuring() {
        return;
    }
    let mut rounds: Vec<f64> = (0..31).map(|_| cycles_of(&mut road)).collect();
    rounds.sort_by(f64::total_cmp);
    println!("{name:<32} tsc cycles a packet: {:.1} (least {:.1})", rounds[15], rounds[0]);
}

fn cycles_of(road: &mut Road) -> f64 {
    const BATCHES: usize = 4_000;
    let start = now();
    (0..BATCHES).for_each(|_| road.batch());
    (now() - start) as f64 / (BATCHES * BATCH_MAX) as f64
}
