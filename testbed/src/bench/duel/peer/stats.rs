//! What polling threads of the peer counted: `dpif-netdev/pmd-stats-show`.
//!
//! Its cycles are those of the time stamp counter; idle ones are of rounds in which nothing came.

use std::collections::BTreeMap;

use serde::Serialize;

/// Since the counters were last cleared.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize)]
pub struct PmdStats {
    pub threads: f64,
    pub packets: f64,
    pub idle_cycles: f64,
    pub busy_cycles: f64,
    /// Packets that no cache knew.
    pub misses: f64,
    /// Shares of the packets that the tiers served.
    pub emc: f64,
    pub smc: f64,
    pub megaflow: f64,
    /// Subtables looked at per packet that the megaflow tier served.
    pub lookups: f64,
}

impl PmdStats {
    /// The sections of the threads on `cpus`, added up; all zero if there is none (yet).
    pub fn parse(text: &str, cpus: &[usize]) -> Self {
        let mut all: BTreeMap<&str, f64> = BTreeMap::new();
        let mut threads = 0.0;
        for cpu in cpus {
            let head = format!("core_id {cpu}:");
            let is_head = |l: &&str| l.starts_with("pmd") && l.ends_with(&head);
            let mut lines = text.lines().skip_while(|l| !is_head(l));
            threads += if lines.next().is_some() { 1.0 } else { 0.0 };
            // `packets received: 123`, `idle cycles: 5 (0.1%)`, ...
            for line in lines.take_while(|l| l.starts_with(' ')) {
                let number = line.split_once(':').and_then(|(name, rest)| {
                    Some((name.trim(), rest.split_whitespace().next()?.parse::<f64>().ok()?))
                });
                number.into_iter().for_each(|(name, n)| *all.entry(name).or_default() += n);
            }
        }
        let of = |name: &str| all.get(name).copied().unwrap_or(0.0);
        let packets = of("packets received");
        let share = |name: &str| if packets > 0.0 { of(name) / packets } else { 0.0 };
        Self {
            threads,
            packets,
            idle_cycles: of("idle cycles"),
            busy_cycles: of("processing cycles"),
            misses: of("miss with success upcall") + of("miss with failed upcall"),
            emc: share("emc hits"),
            smc: share("smc hits"),
            megaflow: share("megaflow hits"),
            lookups: of("avg. subtable lookups per megaflow hit") / threads.max(1.0),
        }
    }

    /// Of all threads.
    pub fn cycles(&self) -> f64 {
        self.idle_cycles + self.busy_cycles
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TEXT: &str = "pmd thread numa_id 0 core_id 0:\n  packets received: 7\n\
        pmd thread numa_id 0 core_id 1:\n  packets received: 1000\n  packet recirculations: 0\n  \
        avg. datapath passes per packet: 1.00\n  emc hits: 250\n  smc hits: 0\n  \
        megaflow hits: 740\n  avg. subtable lookups per megaflow hit: 2.50\n  \
        miss with success upcall: 9\n  miss with failed upcall: 1\n  \
        avg. packets per output batch: 32.00\n  idle cycles: 100 (0.5%)\n  \
        processing cycles: 19900 (99.5%)\n  avg cycles per packet: 20.00 (20000/1000)\n\
        main thread:\n  packets received: 3\n";

    #[test]
    fn the_section_of_the_core_is_read() {
        let want = PmdStats {
            threads: 1.0,
            packets: 1000.0,
            idle_cycles: 100.0,
            busy_cycles: 19900.0,
            misses: 10.0,
            emc: 0.25,
            smc: 0.0,
            megaflow: 0.74,
            lookups: 2.5,
        };
        assert_eq!(PmdStats::parse(TEXT, &[1]), want);
        assert_eq!(PmdStats::parse(TEXT, &[1]).cycles(), 20000.0);
        assert_eq!(PmdStats::parse(TEXT, &[5]), PmdStats::default());
        let both = PmdStats::parse(TEXT, &[0, 1]);
        assert_eq!((both.threads, both.packets, both.lookups), (2.0, 1007.0, 1.25));
    }
}
