//! Groups and meters in text: against the stock tool, and wrong ones with their messages.
//!
//! `groups_golden.txt` holds groups and what `ovs-ofctl parse-group` (3.1) makes of them: the
//! message that it would send, in its own words.

use sluice_control::flow::{
    NoNames, parse_group_mod, parse_meter_mod, print_group, print_group_stats, print_meter,
    print_meter_stats,
};
use sluice_control::groups::Groups;
use sluice_control::meters::Meters;
use std::process::Command;

const GOLDEN: &str = include_str!("groups_golden.txt");

fn pairs() -> Vec<(&'static str, &'static str)> {
    let lines: Vec<&str> = GOLDEN.lines().filter(|l| !l.starts_with("# ")).collect();
    lines.chunks(2).map(|c| (c[0], c[1].trim_start_matches("=> "))).collect()
}

/// Reads, numbers the buckets as the tool does, prints.
fn ours(text: &str) -> String {
    let m = parse_group_mod(text, None, &NoNames).unwrap_or_else(|e| panic!("{text}: {e}"));
    let mut groups = Groups::default();
    groups.apply(&[m], 0).unwrap_or_else(|e| panic!("{text}: {e}"));
    let group = groups.iter().next().unwrap();
    print_group(&group.group, &NoNames)
}

#[test]
fn groups_print_as_the_stock_tool_prints_them() {
    let pairs = pairs();
    assert!(pairs.len() >= 13, "only {}", pairs.len());
    for (text, want) in pairs {
        let got = ours(text);
        assert_eq!(got, want, "{text}");
        assert_eq!(ours(&got), want, "read back: {text}");
    }
}

/// Asks the installed tool again, so that the checked-in answers cannot be ours by mistake.
#[test]
fn the_stock_tool_says_what_the_file_says() {
    let version = Command::new("ovs-ofctl").arg("--version").output();
    let is_3 = |o: &std::process::Output| String::from_utf8_lossy(&o.stdout).contains(") 3.");
    if !version.as_ref().is_ok_and(is_3) {
        println!("skipped: needs ovs-ofctl 3.x (apt-get install openvswitch-switch)");
        return;
    }
    for (text, want) in pairs() {
        let run = Command::new("ovs-ofctl").args(["parse-group", text]).output().unwrap();
        let out = String::from_utf8_lossy(&run.stdout).into_owned();
        let got = out.split_once("\n ADD ").map(|(_, t)| t.trim_end());
        assert_eq!(got, Some(want), "{text}: {out}");
    }
}

const WRONG_GROUPS: &[(&str, &str)] = &[
    ("type=all", "column 1: \"type=all\": a group needs group_id=N"),
    ("group_id=1", "column 1: \"group_id=1\": a group needs type=all, select, indirect or ff"),
    (
        "group_id=1,type=any",
        "column 12: \"type=any\": not a valid type; write all, select, indirect or ff",
    ),
    ("group_id=4294967041,type=all", "column 10: \"4294967041\": group_id must be 0 to 4294967040"),
    ("group_id=1,tpye=all", "column 12: \"tpye\": unknown word of a group; did you mean type?"),
    (
        "group_id=1,type=all,bucket=",
        "column 28: a bucket needs actions=...; write actions=drop to drop",
    ),
    (
        "group_id=1,type=all,bucket=weight:5,actions=1",
        "column 28: \"weight:5,actions=1\": only buckets of select groups have a weight",
    ),
    (
        "group_id=1,type=ff,bucket=actions=1",
        "column 27: \"actions=1\": a bucket of a fast failover group needs watch_port or \
             watch_group",
    ),
    (
        "group_id=1,type=all,bucket=watch_port:2,actions=1",
        "column 28: \"watch_port:2,actions=1\": only select and fast failover groups watch \
             ports and groups",
    ),
    (
        "group_id=1,type=all,bucket=actions=learn(table=1)",
        "column 36: \"learn\": an action set has no place for this: it takes outputs, groups, \
             header changes, set_queue, ct and resubmit",
    ),
    (
        "group_id=1,type=all,bucket=actions=outptu:1",
        "column 36: \"outptu\": unknown action; did you mean output?",
    ),
    (
        "group_id=1,type=all,bucket=actions=1,drop",
        "column 28: \"actions=1,drop\": drop stands alone; remove the other actions or the \
             drop",
    ),
    (
        "group_id=1,type=all,bucket=bucket_id:3,actions=1,bucket=bucket_id:3,actions=2",
        "column 1: \"group_id=1,type=all,bucket=bucket_id:3,actions=1,bucket=buck...\": two \
             buckets have the same bucket_id",
    ),
    (
        "group_id=1,type=indirect",
        "column 1: \"group_id=1,type=indirect\": an indirect group has exactly one bucket",
    ),
    (
        "group_id=1,type=all,selection_method=hash",
        "column 1: \"group_id=1,type=all,selection_method=hash\": only select groups have a \
             selection_method",
    ),
    (
        "group_id=1,type=select,selection_method=rr",
        "column 24: \"selection_method=rr\": not a valid selection_method; write hash or \
             dp_hash",
    ),
    (
        "group_id=1,type=select,fields(ip_src)",
        "column 1: \"group_id=1,type=select,fields(ip_src)\": fields need \
             selection_method=hash",
    ),
    (
        "group_id=1,type=select,selection_method=hash,fields(ip_scr)",
        "column 53: \"ip_scr\": unknown field; did you mean ip_src?",
    ),
    (
        "insert_bucket group_id=1,bucket=actions=1",
        "column 15: \"group_id=1,bucket=actions=1\": say where: command_bucket_id=first, last \
             or an id",
    ),
    ("delete group_id=1,type=all", "column 19: \"type\": this command does not take this word"),
];

#[test]
fn wrong_groups_get_their_message() {
    for &(text, want) in WRONG_GROUPS {
        match parse_group_mod(text, None, &NoNames) {
            Ok(m) => panic!("{text}: taken as {m:?}"),
            Err(e) => assert_eq!(e.to_string(), want, "{text}"),
        }
    }
}

/// In the words of `dump-meters`, a line for the meter and one for each band. What Open vSwitch
/// shows of meters needs a bridge, so the tests of the differential run compare with it.
#[test]
fn meters_print_as_the_stock_tool_prints_them() {
    for (text, want) in [
        ("meter=1,kbps,bands=type=drop,rate=1000", "meter=1 kbps bands=\ntype=drop rate=1000"),
        (
            "meter=2 pktps burst stats bands=type=drop rate=10 burst_size=5",
            "meter=2 pktps burst stats bands=\ntype=drop rate=10 burst_size=5",
        ),
        (
            "meter=controller,stats,kbps,band=type=drop,rate=1,type=drop,rate=0x10",
            "meter=controller kbps stats bands=\ntype=drop rate=1\ntype=drop rate=16",
        ),
    ] {
        let m = parse_meter_mod(text, None).unwrap_or_else(|e| panic!("{text}: {e}"));
        let mut meters = Meters::default();
        meters.apply(&[m], 0).unwrap();
        let printed = print_meter(&meters.iter().next().unwrap().meter);
        assert_eq!(printed, want, "{text}");
    }
}

#[test]
fn wrong_meters_get_their_message() {
    for (text, want) in [
        (
            "kbps,bands=type=drop,rate=1",
            "column 1: \"kbps,bands=type=drop,rate=1\": a meter needs meter=N",
        ),
        ("meter=0,kbps,bands=type=drop,rate=1", "column 7: \"0\": meter must be 1 to 4294901760"),
        (
            "meter=1,bands=type=drop,rate=1",
            "column 1: \"meter=1,bands=type=drop,rate=1\": a meter needs kbps or pktps",
        ),
        (
            "meter=1,kbps,pktps,bands=type=drop,rate=1",
            "column 14: \"pktps\": a meter counts kbps or pktps, not both",
        ),
        ("meter=1,kbps", "column 1: \"meter=1,kbps\": a meter needs bands=type=drop rate=N"),
        ("meter=1,kbps,bands=rate=1", "column 20: \"rate\": a band starts with type=drop"),
        (
            "meter=1,kbps,bands=type=drop",
            "column 1: \"meter=1,kbps,bands=type=drop\": every band needs a rate above 0",
        ),
        (
            "meter=1,kbps,burst,bands=type=drop,rate=1",
            "column 1: \"meter=1,kbps,burst,bands=type=drop,rate=1\": with burst, every band \
             needs a burst_size",
        ),
        (
            "meter=1,kbps,bands=type=drop,rate=1,burst_size=1",
            "column 1: \"meter=1,kbps,bands=type=drop,rate=1,burst_size=1\": burst_size needs \
             the word burst before the bands",
        ),
        (
            "meter=1,kbps,bands=type=dscp_remark,rate=1,prec_level=1",
            "column 25: \"dscp_remark\": band type dscp_remark is not supported yet",
        ),
        (
            "meter=1,kpbs,bands=type=drop,rate=1",
            "column 9: \"kpbs\": unknown word of a meter; did you mean kbps?",
        ),
        ("meter=1,kbps,bands=type=drop,rate=x", "column 35: \"x\": rate must be 0 to 4294967295"),
    ] {
        match parse_meter_mod(text, None) {
            Ok(m) => panic!("{text}: taken as {m:?}"),
            Err(e) => assert_eq!(e.to_string(), want, "{text}"),
        }
    }
}

#[test]
fn statistics_print_as_in_the_dumps() {
    use sluice_control::flow::{GroupStats, MeterStats};
    use std::time::Duration;
    let stats = GroupStats {
        duration: Duration::from_millis(5073),
        ref_count: 1,
        packets: 7,
        bytes: 420,
        buckets: vec![(3, 180), (4, 240)],
    };
    assert_eq!(
        print_group_stats(9, &stats),
        "group_id=9,duration=5.073s,ref_count=1,packet_count=7,byte_count=420,\
         bucket0:packet_count=3,byte_count=180,bucket1:packet_count=4,byte_count=240"
    );
    let stats = MeterStats {
        flow_count: 2,
        duration: Duration::from_secs(1),
        packets: 7,
        bytes: 420,
        bands: vec![(3, 180)],
    };
    assert_eq!(
        print_meter_stats(1, &stats),
        "meter:1 flow_count:2 packet_in_count:7 byte_in_count:420 duration:1s bands:\n\
         0: packet_count:3 byte_count:180"
    );
}
