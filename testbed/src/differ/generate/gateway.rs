//! Translation in two steps, as gateways have it: a first `ct(nat)` for the connections that are
//! known, a second that makes the new ones, and flows that tell what was translated.

use super::super::chance::Chance;
use super::matches::{self, Drawn};

/// The tables that it takes: that of the packets, of what is tracked, of what is translated.
pub const TABLES: u8 = 3;

/// A flow: table, match, actions.
pub type Part = (u8, String, String);

/// Draws it for packets of one kind that come to table 0; their match comes along.
pub fn draw(c: &mut Chance, ports: u64) -> (Drawn, Vec<Part>) {
    let first = loop {
        let drawn = matches::draw(c, false, ports);
        if matches!(drawn.kind.eth_type, 0x0800 | 0x86dd) {
            break drawn;
        }
    };
    let kind = first.kind.words;
    let zone = c.below(3);
    let (address, side) = match first.kind.eth_type {
        0x0800 => ("10.9.9.9", "src"),
        _ => ("[fd09::9]", c.pick(&["src", "dst"]) as &str),
    };
    // A port that most packets do not have; the second step may leave translation to the first.
    let nat = match c.below(4) {
        0 => String::new(),
        _ => format!(",nat({side}={address}:{})", c.within(6000, 6003)),
    };
    let state = c.pick(&["+new", "-est", "+trk"]) as &str;
    let parts = vec![
        (0, first.text.clone(), format!("ct(table=1,zone={zone},nat)")),
        (1, format!("{kind},ct_state={state}"), format!("ct(commit,table=2,zone={zone}{nat})")),
        (1, kind.to_owned(), "goto_table:2".to_owned()),
        (2, format!("{kind},ct_state=+snat"), format!("output:{}", c.within(1, ports))),
        (2, format!("{kind},ct_state=+dnat"), format!("output:{}", c.within(1, ports))),
        (2, format!("{kind},ct_state=+rpl"), format!("output:{}", c.within(1, ports))),
    ];
    (first, parts)
}
