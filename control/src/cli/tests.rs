//! The command against a fake switch over a real socket.

use clap::CommandFactory;

use super::*;
use crate::api::fake::Fake;
use crate::api::tests::TestServer;

fn sluice(server: &TestServer, words: &[&str]) -> Result<(bool, String), Failure> {
    let socket = server.path.to_str().unwrap();
    let words = [&["sluice", "--socket", socket], words].concat();
    let cli = Cli::try_parse_from(words).map_err(|e| panic!("{e}")).unwrap();
    let mut out = String::new();
    execute(&cli, &mut out).map(|good| (good, out))
}

fn text(server: &TestServer, words: &[&str]) -> String {
    sluice(server, words).unwrap().1
}

fn usage_error(words: &[&str]) -> i32 {
    Cli::try_parse_from([&["sluice"], words].concat()).unwrap_err().exit_code()
}

#[test]
fn clap_agrees_with_itself() {
    Cli::command().debug_assert();
}

#[test]
fn wrong_usage_is_exit_code_2() {
    for words in [
        &["frobnicate"][..],
        &[],
        &["flow"],
        &["flow", "add"],
        &["conntrack", "flush"],
        &["conntrack", "flush", "--zone", "70000"],
        &["conntrack", "flush", "--zone", "1", "--all"],
        &["conntrack", "flush", "udp", "--all"],
        &["conntrack", "list", "-m", "-s"],
        &["conntrack", "tcp-seq-check", "maybe"],
        &["conntrack", "limit", "set"],
        &["conntrack", "max", "many"],
        &["trace", "br1"],
        &["group"],
        &["group", "add"],
        &["group", "dump"],
        &["group", "dump", "br1", "x"],
        &["meter", "stats"],
        &["meter", "mod"],
        &["tlv-map", "add", "br1"],
        &["tlv-map", "dump"],
        &["monitor"],
        &["packet-out", "br1"],
        &["resume"],
        &["resume", "5f-1", "--set"],
        &["trace", "br1", "--hex", "00"],
        &["port", "add", "br1", "p1"],
        &["doctor", "--running", "eth0"],
        &["check"],
        &["show", "--timeout", "0"],
    ] {
        assert_eq!(usage_error(words), 2, "{words:?}");
    }
}

#[test]
fn every_command_speaks_text_and_json() {
    let server = TestServer::start(Fake::with_flows(2));
    text(&server, &["port", "add", "br1", "veth1", "type=afxdp"]);
    for (words, expected) in [
        (&["show"][..], "bridge br1: 02:00:00:00:00:01, secure, 2 flows"),
        (&["show"], "up 01:02:05"),
        (&["bridge"], "NAME  MAC"),
        (&["port", "list"], "br1     1   veth1  afxdp  veth1   up     0,1 "),
        (&["port", "list", "br1"], "veth1"),
        (&["flow", "dump", "br1"], " cookie=0x0, duration=0.000s, table=0, n_packets=0, n_bytes=0"),
        (&["flow", "dump", "br1", "--no-stats"], "priority=1 actions=drop\n"),
        (&["flow", "add", "br1", "actions=drop"], "1 added, 0 modified, 0 deleted"),
        (&["group", "add", "br1", "group_id=1,type=all"], "1 changed, 1 flows deleted with"),
        (&["group", "mod", "br1", "--may-create", "group_id=1,type=all"], "1 changed"),
        (&["group", "del", "br1"], "0 changed, 1 flows deleted"),
        (&["group", "insert-buckets", "br1", "group_id=1,command_bucket_id=last"], "1 changed"),
        (&["group", "remove-buckets", "br1", "group_id=1,command_bucket_id=all"], "1 changed"),
        (&["group", "dump", "br1", "7"], "group_id=7,type=all\n"),
        (&["group", "stats", "br1"], "group_id=1,duration=1s\n"),
        (&["meter", "add", "br1", "meter=1,kbps,bands=type=drop,rate=1"], "1 changed"),
        (&["meter", "mod", "br1", "meter=1,kbps,bands=type=drop,rate=1"], "1 changed"),
        (&["meter", "del", "br1"], "0 changed"),
        (&["meter", "dump", "br1"], "meter=1 kbps bands=\ntype=drop rate=1\n"),
        (&["meter", "stats", "br1", "3"], "meter:3 flow_count:0\n"),
        (&["tlv-map", "add", "br1", "{class=1,type=2,len=4}->tun_metadata0"], ""),
        (&["tlv-map", "del", "br1"], ""),
        (&["tlv-map", "dump", "br1"], " max option space=64\n"),
        (&["packet-out", "br1", "in_port=1", "packet=00", "actions=drop"], ""),
        (&["fdb", "show", "br1"], "p1    0     02:00:00:00:00:07  3"),
        (&["fdb", "flush", "br1"], "1 removed"),
        (
            &["conntrack", "list", "--zone", "9"],
            "tcp,orig=(src=10.0.0.1,dst=10.0.0.2,sport=1000,dport=80),reply=(src=10.0.0.2,\
             dst=192.0.2.1,sport=80,dport=40000),zone=9,mark=2,protoinfo=(state=ESTABLISHED)\n",
        ),
        (&["conntrack", "flush", "--all"], "5 removed"),
        (&["conntrack", "flush", "zone=3", "udp"], "1 removed"),
        (&["conntrack", "stats", "udp"], "Connections Stats:\n    Total: 5\n  TCP: 2\n"),
        (&["conntrack", "stats"], "    Conn per TCP states:\n\t  [SYN_SENT]=2\n"),
        (&["conntrack", "stats"], "udp zone=0: 0 connections on 7 ports"),
        (&["conntrack", "limit", "get"], "default limit=10\nzone=2,limit=3,count=3\n"),
        (
            &["conntrack", "limit", "get", "7", "8"],
            "zone=7,limit=10,count=3\nzone=8,limit=10,count=0",
        ),
        (&["conntrack", "limit", "set", "default=5"], ""),
        (&["conntrack", "limit", "del", "5"], ""),
        (&["conntrack", "tcp-seq-check"], "TCP sequence checking: enabled\n"),
        (&["conntrack", "tcp-seq-check", "off"], ""),
        (&["conntrack", "max"], "77\n"),
        (&["conntrack", "max", "5"], ""),
        (&["tunnel"], "not ready: no route"),
        (&["trace", "br1", "in_port=1,tcp"], "Text(\"in_port=1,tcp\")"),
        (&["trace", "br1", "--hex", "00:01 02", "--in-port", "1"], "Hex(\"000102\")"),
        (&["counters"], "tier microflow"),
        (&["counters"], "90.0 %"),
        (&["counters"], "drop no_match"),
        (&["doctor", "--running"], ""),
    ] {
        let shown = text(&server, words);
        assert!(shown.contains(expected), "{words:?} gave:\n{shown}");
        for flag in ["--json", "-p"] {
            let (good, shown) = sluice(&server, &[words, &[flag]].concat()).unwrap();
            assert!(good);
            let value: serde_json::Value = serde_json::from_str(&shown).unwrap();
            assert!(value.is_array() || value.is_object(), "{words:?}: {shown}");
            assert!(flag == "-p" || shown.lines().count() == 1, "{shown}");
        }
    }
}

/// Lines as `ovs-appctl dpctl/dump-conntrack` of Open vSwitch 3.1 has them, also with -m and -s;
/// and a list is as long as asked for, over its pages.
#[test]
fn connections_are_printed_as_open_vswitch_does() {
    let server = TestServer::start(Fake::default());
    let line = "tcp,orig=(src=10.0.0.1,dst=10.0.0.2,sport=1000,dport=80),reply=(src=10.0.0.2,\
        dst=192.0.2.1,sport=80,dport=40000)";
    let plain = format!("{line},zone=7,mark=2,protoinfo=(state=ESTABLISHED)\n");
    assert_eq!(text(&server, &["conntrack", "list"]), plain.repeat(2));
    assert_eq!(text(&server, &["conntrack", "list", "--limit", "1"]), plain);
    let more = format!(
        "{line},id=0,zone=7,status=0,mark=2,protoinfo=(state_orig=ESTABLISHED,\
         state_reply=FIN_WAIT_2,flags_orig=0,flags_reply=0)\n"
    );
    assert_eq!(text(&server, &["conntrack", "list", "-m"]), more.repeat(2));
    let left = format!("{line},zone=7,timeout=42,mark=2,protoinfo=(state=ESTABLISHED)\n");
    assert_eq!(text(&server, &["conntrack", "list", "-s"]), left.repeat(2));
    for words in [&["zone=1"][..], &["zone=1,limit=x"], &["default=-1"]] {
        let failure = sluice(&server, &[&["conntrack", "limit", "set"], words].concat());
        let failure = failure.unwrap_err();
        assert!(failure.message.contains(words[0]), "{}", failure.message);
    }
    let words = ["conntrack", "limit", "set", "default=4", "zone=1,limit=0", "zone=2,limit=9"];
    let failure = sluice(&server, &words).unwrap_err().message;
    assert!(failure.contains("zone_limit: Some(4)"), "{failure}");
    assert!(failure.contains("{ zone: 1, limit: Some(0) }, ZoneLimit { zone: 2"), "{failure}");
}

#[test]
fn a_monitor_prints_what_comes_and_resumes_if_asked() {
    let server = TestServer::start(Fake::default());
    let words = ["sluice", "--socket", server.path.to_str().unwrap(), "show"];
    let global = Cli::try_parse_from(words).unwrap().global;
    let hear = |count, resume| {
        let wish = monitor::Wish { bridge: "br1", count, resume };
        let (mut out, mut sink) = (String::new(), Vec::new());
        assert_eq!(monitor::run(&wish, &global, &mut out, &mut sink), Ok(true));
        String::from_utf8(sink).unwrap()
    };
    let paused = "NXT_PACKET_IN2 (xid=0x0): three\n continuation=5f-1\n";
    let all = "NXT_PACKET_IN2 (xid=0x0): one\n(3 events lost: read faster)\n\
               OFPT_FLOW_REMOVED two\n";
    assert_eq!(hear(Some(1), true), "NXT_PACKET_IN2 (xid=0x0): one\n");
    assert_eq!(hear(None, false), [all, paused].concat());
    // Still waiting until somebody asks for it; another time it is stale, and no reason to end.
    assert_eq!(hear(None, true), [all, paused].concat());
    let failure = sluice(&server, &["resume", "5f-1"]).unwrap_err();
    assert_eq!((failure.message.as_str(), failure.hint.as_str()), ("stale", "once"));
    assert_eq!(hear(None, true), [all, paused].concat());
    assert_eq!(text(&server, &["resume", "5f-1", "--set", "reg0=1"]), "");
    let failure = sluice(&server, &["resume", "5f-1", "--set", "reg0=1"]).unwrap_err();
    assert_eq!(failure.message, "stale");
    assert_eq!(text(&server, &["resume", "5f-1", "--packet", "0102"]), "");
}

#[test]
fn ports_come_and_go() {
    let server = TestServer::start(Fake::default());
    let added = text(
        &server,
        &["port", "add", "br1", "tun1", "type=geneve", "remote_ip=10.0.0.2", "key=7", "--json"],
    );
    let value: serde_json::Value = serde_json::from_str(&added).unwrap();
    assert_eq!((&value[0]["type"], &value[0]["number"]), (&json!("geneve"), &json!(1)));
    assert_eq!(text(&server, &["port", "del", "br1", "tun1"]), "1 removed\n");
    let failure = sluice(&server, &["port", "del", "br1", "tun1"]).unwrap_err();
    assert_eq!(failure.message, "bridge \"br1\" has no port \"tun1\"");
    assert!(failure.hint.contains("sluice port list br1"));
    let failure = sluice(&server, &["port", "add", "br1", "x", "afxdp"]).unwrap_err();
    assert!(failure.hint.contains("KEY=VALUE"));
    let failure = sluice(&server, &["port", "add", "br1", "x", "type=afxdp", "quees=1"]);
    assert!(failure.unwrap_err().message.contains("unknown field `quees`"));
}

#[test]
fn values_are_toml_where_they_are_and_texts_elsewhere() {
    for (value, toml) in [
        ("7", "7"),
        ("true", "true"),
        ("[\"10.0.0.1/24\"]", "[\"10.0.0.1/24\"]"),
        ("\"7\"", "\"7\""),
        ("10.0.0.2", "\"10.0.0.2\""),
        ("flow", "\"flow\""),
        ("02:00:00:00:00:01", "\"02:00:00:00:00:01\""),
    ] {
        assert_eq!(toml_value(value), toml);
    }
    let injected = toml_value("1\nname = \"other\"");
    let table: toml::Table = toml::from_str(&format!("v = {injected}")).unwrap();
    assert_eq!(table.len(), 1);
}

#[test]
fn flows_from_words_and_files() {
    let server = TestServer::start(Fake::default());
    let file = std::env::temp_dir().join(format!("sluice-flows-{}", std::process::id()));
    std::fs::write(&file, "a actions=drop\nb actions=drop\n").unwrap();
    let path = file.to_str().unwrap();
    assert!(text(&server, &["flow", "replace", "br1", "--file", path]).starts_with("2 added"));
    assert!(text(&server, &["flow", "add", "br1", "c", "d"]).starts_with("2 added"));
    assert!(text(&server, &["flow", "del", "br1"]).contains("4 deleted"));
    std::fs::remove_file(&file).unwrap();
    let failure = sluice(&server, &["flow", "add", "br1", "--file", path]).unwrap_err();
    assert!(failure.message.contains(path) && !failure.hint.is_empty());
    for words in [&["flow", "add", "br1"], &["flow", "replace", "br1"]] {
        assert!(!sluice(&server, words).unwrap_err().hint.is_empty());
    }
    let failure = sluice(&server, &["flow", "dump", "br7"]).unwrap_err();
    assert_eq!(failure.message, "there is no bridge \"br7\"");
}

#[test]
fn without_a_daemon_the_hint_says_where_it_was_sought() {
    let words = ["sluice", "show", "--socket", "/nonexistent/s.sock"];
    let cli = Cli::try_parse_from(words).unwrap();
    let failure = execute(&cli, &mut String::new()).unwrap_err();
    assert!(failure.message.contains("/nonexistent/s.sock"), "{failure:?}");
    assert!(failure.hint.contains("is sluiced running?"), "{failure:?}");
}

#[test]
fn check_says_good_or_why_not() {
    let dir = std::env::temp_dir().join(format!("sluice-check-{}", std::process::id()));
    std::fs::create_dir_all(&dir).unwrap();
    let file = dir.join("s.toml");
    let run = |words: &[&str]| {
        let cli =
            Cli::try_parse_from([&["sluice", "check", file.to_str().unwrap()], words].concat());
        let mut out = String::new();
        execute(&cli.unwrap(), &mut out).map(|good| (good, out))
    };
    std::fs::write(&file, "[[bridge]]\nname = \"br1\"\n").unwrap();
    assert!(run(&[]).unwrap().1.contains("bridge br1, 0 ports, 0 flows: good"));
    std::fs::write(&file, "[[bridge]]\nname = \"br1\"\nfoo = 1\n").unwrap();
    let failure = run(&[]).unwrap_err();
    assert!(failure.message.contains("s.toml:3:1: unknown field `foo`"), "{}", failure.message);
    let (good, out) = run(&["--json"]).unwrap();
    let value: serde_json::Value = serde_json::from_str(&out).unwrap();
    assert!(!good && value["ok"] == json!(false) && value["errors"][0]["line"] == json!(3));
    std::fs::remove_dir_all(&dir).unwrap();
}

#[test]
fn doctor_works_without_a_daemon() {
    let words = ["sluice", "doctor", "sluice-absent", "--json"];
    let cli = Cli::try_parse_from(words).unwrap();
    let mut out = String::new();
    assert_eq!(execute(&cli, &mut out), Ok(false), "the device is not there");
    let value: serde_json::Value = serde_json::from_str(&out).unwrap();
    let findings = value["findings"].as_array().unwrap();
    assert!(findings.iter().any(|f| f["what"] == "sluice-absent" && f["level"] == "fail"));
}
