//! Tests of the whole room with examples; `roundtrip` has the random ones, and
//! `control/tests/flow_text.rs` those against the stock tool.

use super::span::Span;
use super::*;
use std::time::{Duration, Instant};

fn names() -> PortMap {
    let list =
        [(2, "eth0"), (3, "patch-breth0_ov"), (4, "1d9246fc93c8f67"), (5, "a,b c"), (6, "q\"#")];
    list.into_iter().collect()
}

/// What `ovs-ofctl --names --no-stats dump-flows` of Open vSwitch 3.1 showed after these lines
/// were added to a bridge with the first three ports.
#[test]
fn ports_print_by_name() {
    let text = include_str!("../../tests/flows_named.txt");
    let lines: Vec<&str> = text.lines().filter(|l| !l.starts_with("# ")).collect();
    assert!(lines.len() >= 14);
    for pair in lines.chunks(2) {
        let (line, want) = (pair[0], pair[1].trim_start_matches("=> "));
        let flow = parse_flow(line, &names()).unwrap_or_else(|e| panic!("{line}: {e}"));
        let text = print_flow(&flow, &names());
        assert_eq!(text, want);
        assert_eq!(parse_flow(&text, &names()), Ok(flow));
    }
}

#[test]
fn statistics_print_as_in_dump_flows() {
    let flow = parse_flow("table=5,cookie=0x5,idle_timeout=10,priority=50,ip actions=1", &NoNames)
        .unwrap();
    let mut stats = FlowStats { duration: Duration::from_millis(73), ..FlowStats::default() };
    assert_eq!(
        print_flow_stats(&flow, &stats, &NoNames),
        "cookie=0x5, duration=0.073s, table=5, n_packets=0, n_bytes=0, idle_timeout=10, \
         priority=50,ip actions=output:1"
    );
    stats = FlowStats {
        duration: Duration::new(7, 1),
        packets: 3,
        bytes: 180,
        idle_age_s: Some(2),
        hard_age_s: Some(5),
    };
    let flow = parse_flow("actions=NORMAL", &NoNames).unwrap();
    assert_eq!(
        print_flow_stats(&flow, &stats, &NoNames),
        "cookie=0x0, duration=7.000000001s, table=0, n_packets=3, n_bytes=180, idle_age=2, \
         hard_age=5, actions=NORMAL"
    );
    stats.hard_age_s = Some(7);
    assert!(!print_flow_stats(&flow, &stats, &NoNames).contains("hard_age"));
}

#[test]
fn a_match_is_key_and_mask() {
    let m = parse_flow("tcp,in_port=LOCAL,nw_dst=10.1.2.3/16,tp_dst=80 actions=drop", &NoNames)
        .unwrap()
        .match_;
    assert_eq!((m.key.in_port, m.mask.in_port), (0xfffe, u32::MAX));
    assert_eq!((m.key.ip_dst, m.mask.ip_dst), (0x0a01_0000, 0xffff_0000));
    assert_eq!((m.key.eth_type, m.key.ip_proto, m.key.tp_dst), (0x0800, 6, 80));
    assert_eq!((m.mask.eth_type, m.mask.ip_proto, m.mask.tp_dst), (0xffff, 0xff, 0xffff));
    assert_eq!(m.mask.tp_src, 0);
    let m = parse_flow("dl_vlan=0xffff actions=drop", &NoNames).unwrap().match_;
    assert_eq!((m.key.vlan_tci, m.mask.vlan_tci), (0, 0xffff));
}

#[test]
fn what_an_action_writes() {
    let write =
        |a: &str| parse_flow(&format!("tcp actions={a}"), &NoNames).unwrap().actions[0].write();
    let w = |field, value, mask| Some(Write { field, value, mask });
    assert_eq!(write("load:5->NXM_NX_REG0[4..7]"), w(Field::Reg0, 0x50, 0xf0));
    assert_eq!(write("set_field:0xff/0xf->reg0"), w(Field::Reg0, 0xf, 0xf));
    assert_eq!(write("set_field:0x20->nw_tos"), w(Field::IpTos, 0x20, 0xfc));
    assert_eq!(write("mod_nw_tos:0x20"), w(Field::IpDscp, 8, 0x3f));
    assert_eq!(write("set_tunnel:7"), w(Field::TunId, 7, u64::MAX as u128));
    assert_eq!(write("dec_ttl"), None);
}

/// `ovs-ofctl` makes `mod_vlan_vid` of it, or refuses it, by the version that it speaks.
#[test]
fn a_vlan_id_that_is_set_leaves_the_tag_there() {
    let write = |a: &str| {
        let flow = parse_flow(&format!("dl_vlan=5 actions={a}"), &NoNames).unwrap();
        let Some(Write { value, mask, .. }) = flow.actions[0].write() else { panic!("{a}") };
        (value, mask)
    };
    assert_eq!(write("set_field:100->vlan_vid"), (0x1064, 0x1fff));
    assert_eq!(write("set_field:4196->vlan_vid"), (0x1064, 0x1fff));
    assert_eq!(write("set_field:1/0x1001->vlan_vid"), (0x1001, 0x1001));
    assert_eq!(write("set_field:1/0xf->vlan_vid"), (1, 0xf));
    assert_eq!(write("set_field:0->vlan_tci"), (0, 0xffff));
}

#[test]
fn files_have_sections_comments_and_lines() {
    let (a, b) = (names(), NoNames);
    let ports = |bridge: &str| -> Option<&dyn PortNames> {
        match bridge {
            "br0" => Some(&a),
            "br1" => Some(&b),
            _ => None,
        }
    };
    let text = "# head\n\n add in_port=eth0 actions=1 # why\n[bridge br1]\r\nactions=drop\n\
                  [ bridge  br0 ]\nin_port=\"q\\\"#\",actions=2";
    let flows = parse_file(text, "br0", &ports).unwrap();
    let in_port = |item: &FileItem| match item {
        FileItem::Flow(flow) => flow.match_.key.in_port,
        other => panic!("{other:?}"),
    };
    let seen: Vec<_> =
        flows.iter().map(|f| (f.bridge.as_str(), f.line, in_port(&f.item))).collect();
    assert_eq!(seen, [("br0", 3, 2), ("br1", 5, 0), ("br0", 7, 6)]);
    for (text, message) in [
        (
            "actions=drop\n\nip,tcp_dst=1 actions=drop",
            "line 3, column 4: \"tcp_dst\": tcp_dst needs tcp or tcp6 in the match",
        ),
        (
            "[bridge br9]\nactions=drop",
            "line 1, column 1: \"[bridge br9]\": there is no bridge of this name",
        ),
        (" [br0]", "line 1, column 2: \"[br0]\": expected [bridge NAME]"),
        (
            "[bridge br1]\nin_port=eth0 actions=drop",
            "line 2, column 9: \"eth0\": unknown port; give a number, a port of this bridge, \
             or a name like LOCAL or IN_PORT",
        ),
        (
            "delete ip",
            "line 1, column 1: \"delete ip\": a file says what there is; it can only add",
        ),
    ] {
        assert_eq!(parse_file(text, "br0", &ports).unwrap_err().to_string(), message);
    }
    assert_eq!(
        parse_file("actions=drop\nactions=1", "br7", &ports).unwrap_err().list,
        [Span::new("br7").err(Problem::UnknownBridge).on_line(1)]
    );
}

#[test]
fn filters_select_loosely_and_strictly() {
    let flow = parse_flow(
        "table=3,priority=7,cookie=0x12,tcp,nw_dst=10.1.0.0/16 actions=1,LOCAL",
        &NoNames,
    )
    .unwrap();
    for (text, want) in [
        ("", true),
        ("table=3", true),
        ("table=4", false),
        ("ip", true),
        ("udp", false),
        ("ip,nw_dst=10.0.0.0/8", true),
        ("ip,nw_dst=10.1.2.0/24", false),
        ("cookie=0x10/0xf0", true),
        ("cookie=0x12/-1", true),
        ("cookie=0x13/-1", false),
        ("out_port=1", true),
        ("out_port=LOCAL", true),
        ("out_port=2", false),
    ] {
        assert_eq!(FlowFilter::parse(text, &NoNames).unwrap().selects(&flow), want, "{text}");
    }
    for (text, want) in [
        ("priority=7,tcp,nw_dst=10.1.0.0/16", true),
        ("priority=8,tcp,nw_dst=10.1.0.0/16", false),
        ("priority=7,tcp", false),
        ("tcp,nw_dst=10.1.0.0/16", false),
    ] {
        let m = parse_flow_mod(text, Some(Command::DeleteStrict), &NoNames).unwrap();
        assert_eq!(m.filter.selects(&flow), want, "{text}");
    }
}

#[test]
fn commands_read_what_is_theirs() {
    let read = |text: &str, command| parse_flow_mod(text, command, &NoNames);
    let m = read("modify_strict table=2,priority=5,cookie=9,ip actions=3", None).unwrap();
    assert_eq!((m.command, m.sets_cookie, m.flow.cookie), (Command::ModifyStrict, true, 9));
    assert_eq!((m.filter.table, m.filter.strict_priority), (Some(2), Some(5)));
    assert_eq!(m.flow.actions, [FlowAction::Output(3)]);
    let m = read("cookie=1/3,cookie=7,ip actions=3", Some(Command::Modify)).unwrap();
    assert_eq!((m.filter.cookie, m.flow.cookie, m.filter.strict_priority), (Some((1, 3)), 7, None));
    assert_eq!(read("delete ip", None).unwrap().command, Command::Delete);
    assert_eq!(read("ip actions=1", None).unwrap().command, Command::Add);
    for (text, command) in [
        ("ip actions=1", Command::Delete),
        ("priority=5,ip", Command::Delete),
        ("cookie=5", Command::Delete),
        ("idle_timeout=5", Command::DeleteStrict),
        ("send_flow_rem", Command::Show),
        ("importance=5 actions=1", Command::Modify),
        ("ip", Command::Modify),
        ("cookie=5/7 actions=1", Command::Add),
    ] {
        assert!(read(text, Some(command)).is_err(), "{text}");
    }
}

/// The longest and deepest lines that can be thought of end soon and without harm.
#[test]
fn hostile_lines_end_soon() {
    let n = LINE_MAX_BYTES;
    let lines = [
        "(".repeat(n),
        "\"".repeat(n),
        "\\".repeat(n),
        ",".repeat(n),
        format!("actions={}", "clone(".repeat(n / 6 - 2)),
        format!("actions={}{}", "clone(".repeat(9000), ")".repeat(9000)),
        format!("actions={}", "1,".repeat(n / 2 - 8)),
        format!("ip actions={}", "ct(commit),".repeat(n / 11 - 2)),
        format!("actions=note:{}", "00".repeat(n / 2 - 8)),
        format!("ct_state={} actions=drop", "+trk".repeat(n / 4 - 8)),
        format!("tcp,tcp_flags={} actions=drop", "syn|".repeat(n / 4 - 8)),
        "reg0=1,".repeat(n / 7),
        "a=".repeat(n / 2),
        "x".repeat(n + 1),
        "é".repeat(n / 2),
    ];
    let start = Instant::now();
    for line in &lines {
        if let Ok(flow) = parse_flow(line, &NoNames) {
            let text = print_flow(&flow, &NoNames);
            assert!(text.len() < 8 * n);
        }
    }
    assert!(start.elapsed() < Duration::from_secs(20), "{:?}", start.elapsed());
    let long = parse_flow(&lines[13], &NoNames).unwrap_err();
    assert_eq!(long.problem, Problem::TooLong(n));
}

/// Lines in the words of `ovs-ofctl bundle`, and all mistakes of a file at once.
#[test]
fn files_hold_groups_meters_and_maps_too() {
    let ports = |b: &str| (b == "br0").then_some(&NoNames as &dyn PortNames);
    let text = "group add group_id=1,type=all,bucket=actions=output:1 # one\n\
                meter add meter=1,kbps,bands=type=drop,rate=5\n\
                group group_id=2,type=select,bucket=actions=2\n\
                tlv-map add {class=1,type=1,len=4}->tun_metadata0\n\
                flow add ip actions=group:1\nflow actions=drop\nadd arp,actions=1\n";
    let lines = parse_file(text, "br0", &ports).unwrap();
    let kinds: String = lines
        .iter()
        .map(|l| match &l.item {
            FileItem::Flow(_) => 'f',
            FileItem::Group(_) => 'g',
            FileItem::Meter(_) => 'm',
            FileItem::TlvMap(_) => 't',
        })
        .collect();
    assert_eq!(kinds, "gmgtfff");
    let wrong = "group add group_id=1\ngroup delete group_id=1\nmeter delete\n[bridge br9]\n\
                 actions=nonsense\nactions=1\n[bridge br0]\nflow delete ip\n";
    assert_eq!(
        parse_file(wrong, "br0", &ports).unwrap_err().to_string(),
        "line 1, column 11: \"group_id=1\": a group needs type=all, select, indirect or ff\n\
         line 2, column 1: \"group delete group_id=1\": a file says what there is; it can only \
         add\n\
         line 3, column 1: \"meter delete\": a file says what there is; it can only add\n\
         line 4, column 1: \"[bridge br9]\": there is no bridge of this name\n\
         line 8, column 1: \"flow delete ip\": a file says what there is; it can only add"
    );
    let many = "x\n".repeat(25);
    let errors = parse_file(&many, "br0", &ports).unwrap_err();
    assert_eq!((errors.list.len(), errors.more), (20, 5));
    assert!(errors.to_string().ends_with("\nand 5 more wrong lines"));
}
