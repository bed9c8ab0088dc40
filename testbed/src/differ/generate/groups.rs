//! Groups and meters that a program may name.
//!
//! Only shapes whose outcome is certain: every bucket (`all`), the only one (`indirect`), the first
//! that lives (`ff`; all devices are up), and a choice among buckets that do the same (`select`):
//! which bucket a hash chooses is each switch's own business. Meters have rates that no run
//! reaches.

use super::super::case::Reference;
use super::super::chance::Chance;
use super::values;
use sluice_dataplane::packet::field::{Field, ones};

/// Draws the groups 1 to `count`, and meter 1, of a bridge.
pub fn draw(
    bridge: usize,
    count: u64,
    (tables, ports, clones): (u8, u64, bool),
    c: &mut Chance,
) -> Vec<Reference> {
    let site = Site { tables, ports, clones };
    let mut all: Vec<Reference> = (1..=count)
        .map(|id| Reference { bridge, what: "group", text: site.group(id, c) })
        .collect();
    let unit = c.pick(&["pktps", "kbps"]);
    let text = format!("meter=1,{unit},bands=type=drop,rate=100000000");
    all.push(Reference { bridge, what: "meter", text });
    all
}

struct Site {
    tables: u8,
    ports: u64,
    /// Groups that choose by themselves do not meet clones (`normal`) and what is learned.
    clones: bool,
}

impl Site {
    fn group(&self, id: u64, c: &mut Chance) -> String {
        let (kind, buckets) = match c.below(6) {
            0 | 1 => ("all", (0..c.within(1, 3)).map(|_| self.bucket(id, c)).collect()),
            2 => ("indirect", vec![self.bucket(id, c)]),
            3 => ("ff", (1..=c.within(1, 2)).map(|_| self.watched(id, c)).collect()),
            kind => {
                let same = self.bucket(id, c);
                let method = "select,selection_method=hash,fields(eth_src,eth_dst)";
                let many = c.within(1, 3) as usize;
                (if kind == 4 && !self.clones { "select" } else { method }, vec![same; many])
            }
        };
        let buckets: Vec<String> = buckets.iter().map(|b| format!("bucket={b}")).collect();
        format!("group_id={id},type={kind},{}", buckets.join(","))
    }

    fn watched(&self, id: u64, c: &mut Chance) -> String {
        format!("watch_port:{},{}", c.within(1, self.ports), self.bucket(id, c))
    }

    /// An edit, often, and a way out. Only groups before this one are named, so that none loops.
    fn bucket(&self, id: u64, c: &mut Chance) -> String {
        let mut list = Vec::new();
        if c.percent(50) {
            let word = c.pick(&["mod_dl_src", "mod_dl_dst"]);
            let value = values::draw(Field::EthSrc, c);
            let text = values::write(Field::EthSrc.info(), value, ones(48));
            list.extend(text.map(|(text, _)| format!("{word}:{text}")));
        }
        if c.percent(30) {
            list.push(format!("load:{}->NXM_NX_REG0[]", c.below(4)));
        }
        list.push(match c.below(8) {
            0 if id > 1 => format!("group:{}", c.within(1, id - 1)),
            1 | 2 if self.tables > 1 => {
                format!("resubmit(,{})", c.within(1, u64::from(self.tables) - 1))
            }
            3 => "IN_PORT".to_owned(),
            _ => format!("output:{}", c.within(1, self.ports)),
        });
        format!("actions={}", list.join(","))
    }
}
