use super::*;

#[test]
fn what_open_vswitch_prints_is_read() {
    let line = " cookie=0x1f, duration=2.9s, table=0, n_packets=51, n_bytes=1836, actions=drop";
    assert_eq!(cookie_of(line), Some(0x1f));
    assert_eq!(number_after(line, "n_packets="), Some(51));
    let shown = "  port 1: p1 (dummy)\n    RX packets:7 errors:?\n    TX packets:9\n  \
                 port 11: p11 (dummy)\n    RX packets:8 errors:?\n";
    assert_eq!((received(shown, "p1"), received(shown, "p11")), (Some(7), Some(8)));
    assert_eq!(received(shown, "p2"), None);
    let dump = "OFPT_FLOW_MOD (OF1.5): ***decode error***\n\
                00000000  06 0e 00 c8 00 00 00 06-00 00 00 00 00 00 00 1a |................|\n";
    assert_eq!(cookie_of_dump(dump), Some(0x1a));
    let nicira = "NXT_FLOW_MOD (xid=0x2c): ***decode error***\n00000000  01 04 00 c0\n\
                  00000010  00 00 00 00 00 00 00 15-01 00 00 00 00 00 14 82 |................|";
    assert_eq!(cookie_of_dump(nicira), Some(0x15));
    let refused = "ovs-ofctl: /tmp/x/flows.txt:12: unknown action foo";
    assert_eq!(refused_line(refused), Some(12));
}

#[test]
fn an_open_vswitch_that_ends_is_started_anew_and_the_case_is_named() {
    if let Some(what) = missing() {
        eprintln!("skipped: needs {what}");
        return;
    }
    let text = "actions=output:2\n# packet 1 in p1: hex:020000000002020000000001080000\n";
    let case = super::super::case::from_text(text).unwrap();
    let mut ovs = Ovs::start().unwrap();
    let whole = ovs.play(&case).unwrap();
    assert_eq!(whole.out[0].keys().collect::<Vec<_>>(), ["p2"]);
    let pid = ovs.daemons[0].child.id();
    ovs.daemons[0].child.kill().unwrap();
    assert!(matches!(ovs.play(&case), Err(Trouble::Died)));
    assert_ne!(ovs.daemons[0].child.id(), pid);
    assert_eq!(ovs.play(&case).unwrap(), whole, "as if nothing had been");

    let mut pair = super::super::Pair { ovs, summary: super::super::Summary::default() };
    let options = clap::Parser::parse_from(["differ"]);
    pair.ovs.daemons[0].child.kill().unwrap();
    pair.one(&case, "first", &options).unwrap();
    pair.one(&case, "second", &options).unwrap();
    assert_eq!(
        (pair.summary.crashes.as_slice(), pair.summary.programs),
        (&["first".into()][..], 1)
    );
    assert!(pair.summary.text().contains("first ended ovs-vswitchd"));
}
