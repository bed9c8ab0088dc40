//! Latencies in buckets of constant relative width: 16 per power of two, so a percentile is right
//! within 6 per cent, whatever its size, in fixed memory.

use serde::Serialize;

const SUB_BITS: u32 = 4;
const SUBS: usize = 1 << SUB_BITS;
const BUCKETS: usize = (64 - SUB_BITS as usize + 1) * SUBS;

/// Counts of values.
#[derive(Clone, Debug)]
pub struct Histogram {
    buckets: Vec<u64>,
    count: u64,
    sum: u128,
    min: u64,
    max: u64,
}

/// A summary, in nanoseconds where it is about latency.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Percentiles {
    pub min: u64,
    pub mean: u64,
    pub p50: u64,
    pub p90: u64,
    pub p99: u64,
    pub p999: u64,
    pub max: u64,
}

impl Default for Histogram {
    fn default() -> Self {
        Self { buckets: vec![0; BUCKETS], count: 0, sum: 0, min: u64::MAX, max: 0 }
    }
}

impl Histogram {
    pub fn record(&mut self, value: u64) {
        if let Some(bucket) = self.buckets.get_mut(bucket_of(value)) {
            *bucket += 1;
        }
        self.count += 1;
        self.sum += u128::from(value);
        self.min = self.min.min(value);
        self.max = self.max.max(value);
    }

    /// `None` when nothing was recorded.
    pub fn percentiles(&self) -> Option<Percentiles> {
        if self.count == 0 {
            return None;
        }
        let at = |per_mille: u64| self.value_at(per_mille);
        let mean = (self.sum / u128::from(self.count)) as u64;
        let (min, max) = (self.min, self.max);
        let (p50, p90, p99, p999) = (at(500), at(900), at(990), at(999));
        Some(Percentiles { min, mean, p50, p90, p99, p999, max })
    }

    /// The upper end of the bucket in which the value of this rank lies, at most the greatest seen.
    fn value_at(&self, per_mille: u64) -> u64 {
        let rank = (u128::from(self.count) * u128::from(per_mille)).div_ceil(1000) as u64;
        let mut seen = 0;
        let found = self.buckets.iter().position(|n| {
            seen += n;
            seen >= rank.max(1)
        });
        found.map_or(self.max, upper_end).min(self.max)
    }
}

/// The first 16 values have a bucket each; above, the bits after the leading one choose among 16.
fn bucket_of(value: u64) -> usize {
    let bits = 64 - value.leading_zeros();
    if bits <= SUB_BITS {
        return value as usize;
    }
    let shift = bits - SUB_BITS - 1;
    (shift as usize + 1) * SUBS + ((value >> shift) as usize & (SUBS - 1))
}

fn upper_end(bucket: usize) -> u64 {
    if bucket < SUBS {
        return bucket as u64;
    }
    let shift = (bucket / SUBS - 1) as u32;
    let base = (SUBS + bucket % SUBS) as u128;
    (((base + 1) << shift) - 1) as u64
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn buckets_are_contiguous_and_narrow() {
        for bucket in 0..BUCKETS - 1 {
            let top = upper_end(bucket);
            assert_eq!(bucket_of(top), bucket, "{top}");
            assert_eq!(bucket_of(top + 1), bucket + 1, "{top}");
        }
        assert_eq!((bucket_of(u64::MAX), upper_end(BUCKETS - 1)), (BUCKETS - 1, u64::MAX));
    }

    #[test]
    fn percentiles_are_those_of_the_values() {
        let mut histogram = Histogram::default();
        assert_eq!(histogram.percentiles(), None);
        (1..=10_000).for_each(|v| histogram.record(v));
        let p = histogram.percentiles().unwrap();
        assert_eq!((p.min, p.mean, p.max), (1, 5000, 10_000));
        for (got, want) in [(p.p50, 5_000), (p.p90, 9_000), (p.p99, 9_900), (p.p999, 9_990)] {
            assert!(got >= want && got <= want + want / 15, "{got} for {want}");
        }
    }
}
