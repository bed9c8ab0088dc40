//! A bench of one call: nanoseconds and statistics by criterion, then its cycles.

use criterion::Criterion;
use sluice_benches::tsc::{cycles, is_measuring};

/// Runs `f` under criterion and prints its cycles.
pub fn bench<T>(c: &mut Criterion, name: &str, mut f: impl FnMut() -> T) {
    c.bench_function(name, |b| b.iter(&mut f));
    if !is_measuring() {
        return;
    }
    let (median, least) = cycles(&mut f);
    println!("{name:<32} tsc cycles: {median:.1} (least {least:.1})");
}
