//! Right files, and the table of wrong ones with the message that each gets.

use super::*;

fn parse(text: &str) -> Result<Config, ConfigErrors> {
    Config::parse(Path::new("/etc/sluice/t.toml"), text)
}

/// A file with one bridge and these ports.
fn ports(ports: &str) -> String {
    format!("[[bridge]]\nname = \"br1\"\n{ports}")
}

/// A bridge with one port, in these keys.
fn port(keys: &str) -> String {
    ports(&format!("[[bridge.port]]\nname = \"p1\"\n{keys}\n"))
}

#[test]
fn the_annotated_example_is_right() {
    let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("examples/node1.toml");
    let config = Config::parse(&file, &std::fs::read_to_string(&file).unwrap()).unwrap();
    let bridge = config.bridge("br1").unwrap();
    let numbers: Vec<(&str, u16)> =
        bridge.ports.iter().map(|p| (p.name.as_str(), p.number)).collect();
    let expected = [("ns1", 1), ("ns2", 2), ("tun1", 10), ("underlay0", 20), ("uplink0", 21)];
    assert_eq!(numbers, expected);
    assert_eq!(bridge.flow_file.as_deref(), Some(file.with_file_name("node1.flows").as_path()));
    let PortType::Afxdp(uplink) = &bridge.port("uplink0").unwrap().kind else { panic!() };
    assert_eq!(uplink.mode, PortMode::Shared);
    assert_eq!(uplink.nat[0].ports, Some((40_000, 49_999)));
    let PortType::Geneve(tunnel) = &bridge.port("tun1").unwrap().kind else { panic!() };
    assert_eq!(tunnel.remote, TunnelRemote::Ip("10.0.0.2".parse().unwrap()));
    assert_eq!((tunnel.key, tunnel.dst_port, tunnel.df), (TunnelKey::Vni(7), 6081, true));
    assert_eq!(config.conntrack.timeouts.udp_multiple_s, 180);
    assert_eq!(config.conntrack.timeouts.udp_first_s, 60);
    assert_eq!(config.conntrack.flush_removed_backends, FlushBackends::Udp);
    assert_eq!(config.port("ns2").unwrap().1.device(), Some("veth-ns2"));
}

#[test]
fn zones_inherit_what_they_do_not_say() {
    let zone = |id: u32, udp: u32| {
        format!("[[conntrack.zone]]\nid = {id}\ntimeouts_s = {{ udp_single = {udp} }}\n")
    };
    let text = "[conntrack]\nconns_max = 16777216\nzone_limit = 1000\n\
        [conntrack.timeouts_s]\nudp_first = 7\n\
        [[conntrack.zone]]\nid = 5\nlimit = 0\n";
    let file = Path::new("a.toml");
    let bridge = "[[bridge]]\nname = \"br1\"\n";
    let ct = Config::parse(file, &format!("{text}{}{bridge}", zone(9, 3))).unwrap().conntrack;
    assert_eq!((ct.conns_max, ct.zone_limit, ct.tcp_seq_check), (1 << 24, 1000, true));
    assert_eq!(ct.zones[0], CtZone { id: 5, limit: Some(0), timeouts: None });
    let timeouts = Timeouts { udp_first_s: 7, udp_single_s: 3, ..Timeouts::default() };
    assert_eq!(ct.zones[1], CtZone { id: 9, limit: None, timeouts: Some(timeouts) });
    // Zones may share as many sets of timeouts as a connection can name.
    let many = |n: u32| (0..n).map(|id| zone(id, id.min(255) + 1)).collect::<String>();
    assert!(Config::parse(file, &format!("{}{bridge}", many(255))).is_ok());
    let error = Config::parse(file, &format!("{}{bridge}", many(400))).unwrap_err().to_string();
    assert!(error.contains("zone 255 has the 256th different timeouts_s"), "{error}");
}

#[test]
fn numbers_are_given_from_one_up_around_those_asked_for() {
    let text = ports(
        "local = true\n\
         [[bridge.port]]\nname = \"a\"\ntype = \"memory\"\n\
         [[bridge.port]]\nname = \"b\"\nnumber = 2\ntype = \"memory\"\n\
         [[bridge.port]]\nname = \"c\"\ntype = \"memory\"\n\
         [[bridge.port]]\nname = \"d\"\nnumber = 1\ntype = \"memory\"\n",
    );
    let config = parse(&text).unwrap();
    let bridge = config.bridge("br1").unwrap();
    let number = |name| bridge.port(name).unwrap().number;
    assert_eq!((number("a"), number("b"), number("c"), number("d")), (3, 2, 4, 1));
    assert_eq!(number("br1"), PORT_LOCAL);
    let local = bridge.port("br1").unwrap();
    assert!(matches!(&local.kind, PortType::Internal(i) if i.mac == Some(bridge.mac)));
}

#[test]
fn an_internal_port_with_the_bridges_name_is_the_local_port() {
    let text = ports("[[bridge.port]]\nname = \"br1\"\ntype = \"internal\"\nmtu = 9000\n");
    let config = parse(&text).unwrap();
    assert_eq!(config.bridges[0].ports.len(), 1);
    assert_eq!(config.bridges[0].ports[0].number, PORT_LOCAL);
}

#[test]
fn patch_ports_of_two_bridges_know_each_other() {
    let text = "[[bridge]]\nname = \"a\"\n\
                [[bridge.port]]\nname = \"ab\"\ntype = \"patch\"\npeer = \"ba\"\n\
                [[bridge]]\nname = \"b\"\n\
                [[bridge.port]]\nname = \"ba\"\ntype = \"patch\"\npeer = \"ab\"\n";
    assert_eq!(parse(text).unwrap().bridges.len(), 2);
}

#[test]
fn one_port_at_run_time() {
    let added = parse_port("name = \"veth7\"\ntype = \"afxdp\"", "br1", &[1, 2, 4]).unwrap();
    assert_eq!((added.number, added.device()), (3, Some("veth7")));
    let error = parse_port("name = \"x\"\ntype = \"tap\"\nnumber = 2", "br1", &[2]).unwrap_err();
    assert!(error.to_string().contains("port number 2 is in use"), "{error}");
}

/// What is wrong, the line, and parts of the message and of the hint it gets.
type Wrong = (String, usize, &'static str, &'static str);

fn wrong_tables() -> Vec<Wrong> {
    let w = |text: &str, line, what, hint| (text.to_owned(), line, what, hint);
    vec![
        w("", 0, "the file has no bridge", "add a [[bridge]]"),
        w("a = ", 1, "string values must be quoted", "literal string"),
        w("[daemom]\n", 1, "unknown field `daemom`", "expected one of `daemon`"),
        w("[daemon]\nworker = 1\n", 2, "unknown field `worker`", "`workers`"),
        w("[daemon]\nworkers = 0\n", 2, "workers = 0 is out of range", "use 1 to 64"),
        w("[daemon]\nworkers = \"2\"\n", 2, "invalid type: string \"2\"", "i64"),
        w("[daemon]\nworkers = 2\ncpus = [1]\n", 3, "1 cpus for 2 workers", "one cpu per worker"),
        w("[daemon]\ncpus = [1, 1]\n", 2, "cpu 1 is named twice", "its own"),
        w("[daemon]\nlog = \"a=loud\"\n", 2, "log: ", "use error, warn, info"),
        w("[umem]\nframe_size_bytes = 1500\n", 2, "frame_size_bytes = 1500", "use 2048"),
        w("[umem]\nframes = 100\n", 2, "frames = 100 is out of range", "use 512"),
        w("[conntrack]\nconns_max = -1\n", 2, "conns_max = -1", "use 1"),
        w("[conntrack]\nfragments_max = 5001\n", 2, "fragments_max = 5001", "use 0 to 5000"),
        w("[conntrack]\nfragment_ipv4_min = 1\n", 2, "fragment_ipv4_min = 1", "use 400"),
        w("[conntrack]\nzone_limit = -1\n", 2, "zone_limit = -1", "use 0 to 4294967294"),
        w("[conntrack]\ntcp_seq_check = 1\n", 2, "invalid type: integer `1`", "a boolean"),
        w(
            "[conntrack]\nflush_removed_backends = \"tcp\"\n",
            2,
            "unknown variant `tcp`",
            "`none`, `udp`, `all`",
        ),
        w("[[conntrack.zone]]\nlimit = 1\n", 1, "missing field `id`", ""),
        w("[[conntrack.zone]]\nid = 65536\n", 2, "id = 65536", "use 0 to 65535"),
        w(
            "[[conntrack.zone]]\nid = 4\n[[conntrack.zone]]\nid = 4\n",
            4,
            "zone 4 is there twice",
            "in one [[conntrack.zone]]",
        ),
        w(
            "[[conntrack.zone]]\nid = 4\ntimeouts_s = { udp_first = 0 }\n",
            3,
            "udp_first = 0 is out of range",
            "use 1",
        ),
        w("[conntrack.timeouts_s]\ntcp = 5\n", 2, "unknown field `tcp`", "`tcp_syn_sent`"),
        w("[daemon]\nvlan_limit = 3\n", 2, "vlan_limit = 3 is out of range", "use 0 to 2"),
        (ports("[[bridge.table]]\nnumber = 255\n"), 4, "number = 255", "use 0 to 254"),
        (ports("[[bridge.table]]\nflows_max = 1\n"), 3, "missing field `number`", ""),
        (
            ports("[[bridge.table]]\nnumber = 1\nflows_max = 1048577\n"),
            5,
            "flows_max = 1048577 is out of range",
            "use 0 to 1048576",
        ),
        (
            ports("[[bridge.table]]\nnumber = 1\noverflow_policy = \"drop\"\n"),
            5,
            "unknown variant `drop`",
            "`refuse` or `evict`",
        ),
        (
            ports("[[bridge.table]]\nnumber = 1\n[[bridge.table]]\nnumber = 1\n"),
            6,
            "table 1 has limits already",
            "once",
        ),
        w("[[bridge]]\nmac = \"x\"\n", 1, "missing field `name`", ""),
        w("[[bridge]]\nname = \"a b\"\n", 2, "\"a b\" is not a usable name", "letters"),
        (ports("mac = \"02:zz\"\n"), 3, "\"02:zz\" is not an Ethernet address", "six hex bytes"),
        (ports("mac = \"01:00:5e:00:00:01\"\n"), 3, "cannot be the address", "unicast"),
        (ports("fail_mode = \"open\"\n"), 3, "unknown variant `open`", "`secure` or `standalone`"),
        (format!("{}{}", ports(""), ports("")), 4, "there are two bridges \"br1\"", "its own name"),
    ]
}

fn wrong_ports() -> Vec<Wrong> {
    vec![
        (port("type = \"dpdk\""), 5, "unknown variant `dpdk`", "`afxdp`"),
        (port(""), 3, "missing field `type`", ""),
        (port("type = \"memory\"\nnumber = 65280"), 6, "number = 65280", "use 1 to 65279"),
        (port("type = \"memory\"\nnumber = 65534"), 6, "the bridge's local port", "named \"br1\""),
        (port("type = \"memory\"\nqueues = 2"), 6, "type memory has no \"queues\"", "only name"),
        (
            port("type = \"afxdp\"\nremote_ip = \"1.1.1.1\""),
            6,
            "no \"remote_ip\"",
            "device, queues",
        ),
        (port("type = \"afxdp\"\nqueues = 0"), 6, "queues = 0", "use 1 to 256"),
        (port("type = \"afxdp\"\nxdp = \"hw\""), 6, "unknown variant `hw`", "`native`"),
        (port("type = \"afxdp\"\ndevice = \"an-endless-name0\""), 6, "cannot name", "15"),
        (
            port("type = \"afxdp\"\nnat = [{ address = \"1.1.1.1\" }]"),
            6,
            "\"nat\" is for shared ports",
            "mode = \"shared\"",
        ),
        (
            port("type=\"afxdp\"\nmode=\"shared\"\nnat=[{address=\"1.1.1.1\",ports=[9,3]}]"),
            7,
            "ports is not a range",
            "ports = [40000, 49999]",
        ),
        (
            port(
                "type=\"afxdp\"\nmode=\"shared\"\nnat=[{address=\"1.1.1.1\",ports=[1,5]},\
                 {address=\"1.1.1.1\",ports=[5,9]}]",
            ),
            7,
            "the ranges of 1.1.1.1 overlap",
            "disjoint",
        ),
    ]
}

fn wrong_addresses_and_tunnels() -> Vec<Wrong> {
    vec![
        (port("type = \"internal\"\naddress = [\"10.0.0.1\"]"), 6, "\"10.0.0.1\" is not an", "/24"),
        (port("type = \"internal\"\nmtu = 100"), 6, "mtu = 100", "use 576"),
        (port("type = \"internal\"\nnetns = \"a/b\""), 6, "\"a/b\" does not name", "/run/netns"),
        (
            port(
                "type=\"internal\"\naddress=[\"10.0.0.1/24\"]\n\
                 route=[{to=\"default\",via=\"10.1.0.1\"}]",
            ),
            7,
            "10.1.0.1 is in none of the port's networks",
            "a gateway",
        ),
        (port("type = \"geneve\""), 4, "port \"p1\" has no remote_ip", "\"flow\""),
        (port("type = \"geneve\"\nremote_ip = \"host\""), 6, "\"host\" is not an IP", "10.0.0.1"),
        (port("type = \"geneve\"\nremote_ip = \"224.0.0.1\""), 6, "the far end", "\"flow\""),
        (
            port("type = \"geneve\"\nremote_ip = \"1.1.1.1\"\nkey = 16777216"),
            7,
            "key = 16777216 is not a VNI",
            "0 to 16777215",
        ),
        (port("type=\"geneve\"\nremote_ip=\"1.1.1.1\"\nlocal_ip=\"::1\""), 7, "families", "IPv6"),
        (port("type=\"geneve\"\nremote_ip=\"1.1.1.1\"\nttl=0"), 7, "ttl = 0", "\"inherit\""),
    ]
}

fn wrong_references() -> Vec<Wrong> {
    vec![
        (port("type = \"patch\""), 4, "has no peer", "peer ="),
        (port("type = \"patch\"\npeer = \"zz\""), 6, "there is no such port", "another bridge"),
        (
            format!(
                "{}{}",
                port("type = \"memory\""),
                "[[bridge.port]]\nname = \"p1\"\ntype = \"tap\""
            ),
            7,
            "port \"p1\" is already in bridge \"br1\"",
            "unique",
        ),
        (
            format!(
                "{}{}",
                port("type=\"tap\"\nnumber=3"),
                "[[bridge.port]]\nname=\"p2\"\nnumber=3\ntype=\"tap\""
            ),
            9,
            "port number 3 is already that of \"p1\"",
            "unique",
        ),
        (
            format!(
                "{}{}",
                port("type=\"tap\""),
                "[[bridge.port]]\nname=\"q\"\ntype=\"tap\"\ndevice=\"p1\""
            ),
            9,
            "device \"p1\" is already that of \"p1\"",
            "one port only",
        ),
        (
            format!(
                "{}{}",
                port("type=\"geneve\"\nremote_ip=\"1.1.1.1\""),
                "[[bridge.port]]\nname=\"q\"\ntype=\"geneve\"\nremote_ip=\"1.1.1.1\""
            ),
            8,
            "\"q\" receives the same packets as \"p1\"",
            "differ in",
        ),
        (
            format!(
                "{}[[route]]\ndestination=\"10.0.0.0/8\"\ndevice=\"eth9\"",
                port("type=\"tap\"")
            ),
            8,
            "no port has the name or the device \"eth9\"",
            "name one",
        ),
        (
            format!("{}[[route]]\ndestination=\"10.0.0.1/8\"\ndevice=\"p1\"", port("type=\"tap\"")),
            7,
            "10.0.0.1/8 has bits set beyond",
            "use 10.0.0.0/8",
        ),
        (
            format!(
                "{}[[neighbour]]\naddress=\"1.1.1.1\"\ndevice=\"p1\"\nmac=\"\"",
                port("type=\"tap\"")
            ),
            9,
            "\"\" is not an Ethernet address",
            "six hex bytes",
        ),
    ]
}

#[test]
fn wrong_files_are_refused_with_line_reason_and_hint() {
    let parts = [wrong_tables(), wrong_ports(), wrong_addresses_and_tunnels(), wrong_references()];
    let table: Vec<Wrong> = parts.into_iter().flatten().collect();
    assert!(table.len() >= 25);
    for (text, line, what, hint) in table {
        let errors = parse(&text).map(|_| ()).expect_err(&text).0;
        let found =
            errors.iter().any(|e| e.line == line && e.what.contains(what) && e.hint.contains(hint));
        let shown = ConfigErrors(errors);
        assert!(found, "for:\n{text}\nexpected line {line}: {what} / {hint}\ngot:\n{shown}");
    }
}

#[test]
fn all_mistakes_of_a_file_are_shown_in_order() {
    let text =
        "[daemon]\nworkers = 99\n[umem]\nframes = 1\n[[bridge]]\nname = \"br1\"\nmac = \"q\"\n";
    let lines: Vec<usize> = parse(text).unwrap_err().0.iter().map(|e| e.line).collect();
    assert_eq!(lines, [2, 4, 7]);
}

#[test]
fn a_missing_file_and_a_missing_flow_file_are_refused() {
    let error = Config::load(Path::new("/nonexistent/s.toml")).unwrap_err();
    assert!(error.to_string().contains("/nonexistent/s.toml: cannot read"), "{error}");
    let dir = std::env::temp_dir().join(format!("sluice-config-{}", std::process::id()));
    std::fs::create_dir_all(&dir).unwrap();
    let file = dir.join("s.toml");
    std::fs::write(&file, ports("flow_file = \"none.flows\"\n")).unwrap();
    let error = Config::load(&file).unwrap_err();
    std::fs::remove_dir_all(&dir).unwrap();
    assert_eq!(error.0[0].line, 3);
    assert!(error.0[0].what.contains("none.flows"), "{error}");
}

proptest::proptest! {
    #![proptest_config(proptest::prelude::ProptestConfig {
        failure_persistence: None, cases: 256, ..Default::default()
    })]

    /// Whatever is broken in the example, the answer is an answer.
    #[test]
    fn a_damaged_example_never_panics(at in 0usize..3000, cut in 0usize..40, with in ".{0,8}") {
        let text = include_str!("../../examples/node1.toml");
        let start = text.floor_char_boundary(at.min(text.len()));
        let end = text.floor_char_boundary((start + cut).min(text.len()));
        let damaged = format!("{}{with}{}", &text[..start], &text[end..]);
        if let Err(errors) = parse(&damaged) {
            proptest::prop_assert!(!errors.0.is_empty() && !errors.to_string().is_empty());
        }
    }
}
