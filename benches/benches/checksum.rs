//! Sums over payloads, and incremental updates.

#[path = "common/call.rs"]
mod call;

use call::bench;
use criterion::{Criterion, criterion_group, criterion_main};
use sluice_dataplane::wire::checksum::{Delta, Sum};
use std::hint::black_box;

fn checksums(c: &mut Criterion) {
    for len in [20usize, 64, 256, 1500, 9000] {
        let bytes: Vec<u8> = (0..len).map(|i| i as u8).collect();
        bench(c, &format!("checksum/sum_{len}"), || Sum::of(black_box(&bytes)).checksum());
    }
    let mut field = [1, 2];
    bench(c, "checksum/delta_apply", || {
        let delta = Delta::NONE.change_4(black_box([10, 0, 0, 1]), black_box([10, 0, 0, 2]));
        delta.apply(black_box(&mut field));
    });
}

criterion_group! {
    name = benches;
    config = Criterion::default().sample_size(20)
        .warm_up_time(std::time::Duration::from_millis(200))
        .measurement_time(std::time::Duration::from_millis(600));
    targets = checksums
}
criterion_main!(benches);
