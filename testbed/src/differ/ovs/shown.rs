//! Meters as sluice prints them, put on a bridge of Open vSwitch and dumped: the same.

use std::collections::BTreeMap;
use std::fmt::Write;

use sluice_control::flow::{parse_meter_mod, print_meter};
use sluice_control::meters::Meters;

use super::super::chance::Chance;
use super::*;

/// Open vSwitch, unless it is not here.
fn peer() -> Option<Ovs> {
    match missing() {
        Some(what) => {
            eprintln!("skipped: needs {what}");
            None
        }
        None => Some(Ovs::start().unwrap()),
    }
}

impl Ovs {
    fn ofctl(&self, words: &[&str]) -> Result<String> {
        let mut tool = tool(self.folder.path(), "ovs-ofctl");
        tool.args(["-O", "OpenFlow15", words[0]]).arg(self.management(0)).args(&words[1..]);
        run(&mut tool)
    }

    /// What a dump shows, by number: from the lines that begin with `word` on.
    fn shown(&self, command: &str, word: &str) -> BTreeMap<String, String> {
        let dump = self.ofctl(&[command]).unwrap();
        let mut all: BTreeMap<String, String> = BTreeMap::new();
        let mut last = String::new();
        for line in dump.lines().skip(1).map(str::trim).filter(|l| !l.is_empty()) {
            if let Some(rest) = line.strip_prefix(word) {
                last = rest.split([' ', ',']).next().unwrap_or_default().to_owned();
            }
            let text = all.entry(last.clone()).or_default();
            let gap = if text.is_empty() { "" } else { "\n" };
            let _ = write!(text, "{gap}{line}");
        }
        all
    }
}

fn meter(id: u64, c: &mut Chance) -> String {
    let mut text = format!("meter={id}");
    let bursts = c.percent(40);
    text += *c.pick(&[",kbps", ",pktps"]);
    text += if bursts { ",burst" } else { "" };
    text += if c.percent(40) { ",stats" } else { "" };
    text += ",bands=";
    for n in 0..c.within(1, 3) {
        let _ =
            write!(text, "{}type=drop,rate={}", if n > 0 { "," } else { "" }, c.within(1, 1 << 30));
        if bursts {
            let _ = write!(text, ",burst_size={}", c.within(1, 1 << 30));
        }
    }
    text
}

#[test]
fn random_meters_are_shown_alike() {
    let Some(ovs) = peer() else { return };
    let mut c = Chance::new(11);
    let mut ours = BTreeMap::new();
    for id in 1..=60u64 {
        let text = meter(id * id, &mut c);
        ovs.ofctl(&["add-meter", &text]).unwrap();
        let mut meters = Meters::default();
        meters.apply(&[parse_meter_mod(&text, None).unwrap()], 0).unwrap();
        let printed = print_meter(&meters.iter().next().unwrap().meter);
        // What sluice prints is read alike, too.
        ovs.ofctl(&["mod-meter", &printed.replace('\n', " ")]).unwrap();
        ours.insert((id * id).to_string(), printed);
    }
    assert_eq!(ours, ovs.shown("dump-meters", "meter="));
}
