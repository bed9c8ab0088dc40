//! Random flows print and read back equal; random and damaged text is refused or printed back
//! equal, and never worse.

use super::arb_flow::{arb_flow, arb_group};
use super::value::parse_masked;
use super::*;
use proptest::collection::vec;
use proptest::prelude::*;
use proptest::sample::{Index, select};
use sluice_dataplane::packet::field::{FIELDS, Format, Maskable};

fn config(cases: u32) -> ProptestConfig {
    ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(cases) }
}

const GOLDEN: &str = include_str!("../../tests/flows_golden.txt");
const WRONG: &str = include_str!("../../tests/wrong_flows.txt");

fn seeds() -> Vec<&'static str> {
    GOLDEN.lines().chain(WRONG.lines()).filter(|l| !l.starts_with("=>")).collect()
}

/// Pieces of the language.
const WORDS: &[&str] = &[
    "ip",
    "tcp",
    "ipv6",
    "arp",
    "nw_dst",
    "tp_dst",
    "ct_state",
    "reg0",
    "dl_vlan",
    "in_port",
    "actions=",
    "output",
    "ct(",
    "nat",
    "nat(",
    "src",
    "commit",
    "exec(",
    "load:",
    "set_field:",
    "move:",
    "->",
    "ct_mark",
    "NXM_NX_REG0[]",
    "[0..3]",
    "10.0.0.1",
    "/24",
    "fe80::1",
    "0x10",
    "1",
    "255",
    "65535",
    "LOCAL",
    "goto_table:9",
    "resubmit(",
    "clone(",
    "learn(",
    "controller(",
    "write_actions(",
    "conjunction(",
    "bundle(",
    "members:",
    "push:",
    "table=",
    ")",
    "(",
    ",",
    ",",
    "=",
    ":",
    " ",
    "\"",
    "+trk",
    "-new",
    "|",
    "/",
    "-",
    "*",
    "#",
];

/// What must hold for any text at all.
fn refused_or_stable(text: &str) -> Result<(), TestCaseError> {
    match parse_flow(text, &NoNames) {
        Ok(flow) => {
            let printed = print_flow(&flow, &NoNames);
            let again = parse_flow(&printed, &NoNames);
            prop_assert_eq!(again, Ok(flow), "{:?} printed as {:?}", text, printed);
        }
        Err(e) => {
            prop_assert!(e.column >= 1 && e.column <= text.len() + 1, "{text:?}: {e}");
            prop_assert!(e.to_string().len() < 400, "{text:?}: {e}");
        }
    }
    Ok(())
}

/// Pieces of the language of groups and meters.
const GROUP_WORDS: &[&str] = &[
    "group_id=",
    "type=",
    "select",
    "ff",
    "all",
    "bucket=",
    "actions=",
    "output:1",
    "weight:",
    "watch_port=",
    "watch_group:",
    "bucket_id:",
    "selection_method=hash",
    "fields(",
    "ip_src",
    "meter=",
    "kbps",
    "burst",
    "stats",
    "bands=",
    "type=drop",
    "rate=",
    "burst_size=",
    "{class=",
    "len=4}->tun_metadata",
    "delete ",
    "drop",
    "5",
    ",",
    ",",
    " ",
    "(",
    ")",
    "\"",
];

/// The same of groups, meters and maps of options.
fn others_refused_or_stable(text: &str) -> Result<(), TestCaseError> {
    match parse_group_mod(text, None, &NoNames) {
        Ok(m) if m.command == GroupCommand::Add => {
            let (id, kind) = (m.id.unwrap_or(0), m.kind);
            let group =
                Group { id, kind, selection: m.selection.clone(), buckets: m.buckets.clone() };
            let printed = print_group(&group, &NoNames);
            let again = parse_group_mod(&printed, None, &NoNames);
            prop_assert_eq!(again, Ok(m), "{:?} printed as {:?}", text, printed);
        }
        Ok(_) => {}
        Err(e) => prop_assert!(e.column >= 1 && e.column <= text.len() + 1, "{text:?}: {e}"),
    }
    match parse_meter_mod(text, None) {
        Ok(MeterMod::Add(meter)) => {
            let printed = print_meter(&meter).replace('\n', " ");
            let again = parse_meter_mod(&printed, None);
            prop_assert_eq!(again, Ok(MeterMod::Add(meter)), "{:?}: {:?}", text, printed);
        }
        Ok(_) => {}
        Err(e) => prop_assert!(e.column >= 1 && e.column <= text.len() + 1, "{text:?}: {e}"),
    }
    if let Err(e) = parse_tlv_maps(text) {
        prop_assert!(e.column >= 1 && e.column <= text.len() + 1, "{text:?}: {e}");
    }
    Ok(())
}

proptest! {
    #![proptest_config(config(1500))]

    #[test]
    fn a_flow_prints_and_reads_back_equal(flow in arb_flow()) {
        let text = print_flow(&flow, &NoNames);
        let again = parse_flow(&text, &NoNames);
        prop_assert_eq!(again, Ok(flow), "{}", text);
    }

    #[test]
    fn any_text_is_refused_or_stable(text in "\\PC{0,80}") {
        refused_or_stable(&text)?;
        others_refused_or_stable(&text)?;
    }

    #[test]
    fn groups_and_meters_of_any_words_are_refused_or_stable(
        words in vec(select(GROUP_WORDS), 0..14),
    ) {
        others_refused_or_stable(&words.concat())?;
        others_refused_or_stable(&format!("group_id=1,type=select,bucket={}", words.concat()))?;
        others_refused_or_stable(&format!("meter=1,kbps,{}", words.concat()))?;
    }

    #[test]
    fn a_group_prints_and_reads_back_equal(group in arb_group()) {
        let text = print_group(&group, &NoNames);
        let m = parse_group_mod(&text, None, &NoNames);
        let again = m.map(|m| Group {
            id: m.id.unwrap_or(0),
            kind: m.kind,
            selection: m.selection,
            buckets: m.buckets,
        });
        prop_assert_eq!(again, Ok(group), "{}", text);
    }

    #[test]
    fn words_in_any_order_are_refused_or_stable(
        words in vec(select(WORDS), 0..14),
    ) {
        refused_or_stable(&words.concat())?;
    }

    #[test]
    fn damaged_lines_are_refused_or_stable(
        line in any::<Index>(),
        other in any::<Index>(),
        cuts in any::<(Index, Index, Index)>(),
        bytes in vec((any::<Index>(), any::<u8>()), 0..4),
        splice in any::<bool>(),
    ) {
        let seeds = seeds();
        let (a, b) = (line.get(&seeds).as_bytes(), other.get(&seeds).as_bytes());
        let mut text = a.to_vec();
        if splice && !a.is_empty() && !b.is_empty() {
            text = [&a[..cuts.0.index(a.len())], &b[cuts.1.index(b.len())..]].concat();
        }
        for (at, byte) in bytes {
            if !text.is_empty() {
                let at = at.index(text.len());
                text[at] = byte;
            }
        }
        refused_or_stable(&String::from_utf8_lossy(&text))?;
    }

    #[test]
    fn a_value_prints_and_reads_back_equal(ix in any::<Index>(), v: u128, m: u128) {
        let info = ix.get(FIELDS);
        // Ports are 16 bits, flags of a tunnel one, fragments not every number.
        prop_assume!(!matches!(info.format, Format::Port | Format::TunFlags | Format::Frag));
        let full = ones(info.bits);
        let mask = if info.maskable == Maskable::No || m & full == 0 { full } else { m & full };
        let value = v & mask;
        let mut out = String::new();
        value::write_masked(&mut out, info.id, value, mask, &NoNames);
        let again = parse_masked(info.id, span::Span::new(&out), &NoNames);
        prop_assert_eq!(again, Ok((value, mask)), "{} {}", info.name, out);
    }
}
