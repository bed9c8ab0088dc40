//! What a polling thread of the peer counted: `dpif-netdev/pmd-stats-show`.
//!
//! Its cycles are those of the time stamp counter; idle ones are of rounds in which nothing came.

use std::collections::BTreeMap;

use serde::Serialize;

/// Since the counters were last cleared.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize)]
pub struct PmdStats {
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
    /// The section of the thread on `cpu`; all zero if there is none (yet).
    pub fn parse(text: &str, cpu: usize) -> Self {
        let head = format!("core_id {cpu}:");
        let mut lines = text.lines().skip_while(|l| !(l.starts_with("pmd") && l.ends_with(&head)));
        lines.next();
        // `packets received: 123`, `idle cycles: 5 (0.1%)`, ...
        let number = |line: &str| -> Option<(String, f64)> {
            let (name, rest) = line.split_once(':')?;
            let value = rest.split_whitespace().next()?.parse().ok()?;
            Some((name.trim().to_owned(), value))
        };
        let own = lines.take_while(|l| l.starts_with(' '));
        let all: BTreeMap<String, f64> = own.filter_map(number).collect();
        let of = |name: &str| all.get(name).copied().unwrap_or(0.0);
        let packets = of("packets received");
        let share = |name: &str| if packets > 0.0 { of(name) / packets } else { 0.0 };
        Self {
            packets,
            idle_cycles: of("idle cycles"),
            busy_cycles: of("processing cycles"),
            misses: of("miss with success upcall") + of("miss with failed upcall"),
            emc: share("emc hits"),
            smc: share("smc hits"),
            megaflow: share("megaflow hits"),
            lookups: of("avg. subtable lookups per megaflow hit"),
        }
    }

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
            packets: 1000.0,
            idle_cycles: 100.0,
            busy_cycles: 19900.0,
            misses: 10.0,
            emc: 0.25,
            smc: 0.0,
            megaflow: 0.74,
            lookups: 2.5,
        };
        assert_eq!(PmdStats::parse(TEXT, 1), want);
        assert_eq!(PmdStats::parse(TEXT, 1).cycles(), 20000.0);
        assert_eq!(PmdStats::parse(TEXT, 5), PmdStats::default());
    }
}
