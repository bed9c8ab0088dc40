//! What a soak says in the end, for a person to read.

use super::Summary;
use super::course::table;

impl Summary {
    /// Ten lines or so.
    pub fn text(&self) -> String {
        table(self.traffic().into_iter().chain(self.outcome()))
    }

    fn traffic(&self) -> Vec<(&'static str, String)> {
        let (s, moved) = (&self.stats, &self.moved);
        let [one, two, three] = self.hits;
        let long = format!("{}; {} s for the switch", self.course.long(), self.lived_s);
        let packets = format!(
            "{} in, {} out, {} handed over (+{} lost); tier 1 {one}, tier 2 {two}, walks {three}",
            moved.received, moved.sent, moved.handed, moved.lost
        );
        let conns = format!(
            "{} made = {} expired + {} evicted + {} flushed",
            s.created, s.expired, s.evicted, s.flushed
        );
        let refused = format!(
            "table {}, zone {}, NAT {}, tuple {}, untold {}; {} invalid packets",
            s.table_full, s.zone_full, s.nat_exhausted, s.tuple_taken, s.untold, s.invalid
        );
        let helpers = format!(
            "{} expected, {} not; redirects {} late, {} lost",
            s.expected, s.unexpected, s.redirects_late, s.redirects_lost
        );
        vec![
            ("soak", long),
            ("packets", packets),
            ("connections", conns),
            ("refused", refused),
            ("helpers", helpers),
        ]
    }

    fn outcome(&self) -> Vec<(&'static str, String)> {
        let m = &self.most;
        let most = format!(
            "{} connections of {}, {} index entries, {} timers, {} NAT ports, {} expected, \
             {} redirects, {} zones, {} fragments",
            m.live,
            m.places,
            m.index_entries,
            m.queued,
            m.nat_ports,
            m.expected,
            m.redirects,
            m.zones.len(),
            self.fragments_most
        );
        let drops: Vec<_> = self.drops.iter().map(|(name, n)| format!("{name} {n}")).collect();
        let conserved = format!(
            "{}; {} connections made, {} ended",
            self.course.conserved(self.self_checks),
            self.stats.created,
            self.ended()
        );
        vec![
            ("operator", self.course.operator()),
            ("at most", most),
            ("drops", drops.join(", ")),
            ("memory", self.course.memory()),
            ("conserved", conserved),
        ]
    }
}
