use std::path::PathBuf;

use proptest::prelude::*;

use super::*;

const ETH: &str = "eth(src=02:00:00:00:00:01,dst=02:00:00:00:00:02)";

fn built(layers: &str) -> Vec<u8> {
    parse_packet(&format!("{ETH}/{layers}"), &[]).unwrap()
}

/// Texts that come back as they are.
const CANONICAL: &[&str] = &[
    "ipv4(src=10.0.0.1,dst=10.0.0.2)/udp(src=1000,dst=2000)/\"hello\"",
    "ipv4(src=10.0.0.1,dst=10.0.0.2,ttl=9,tos=184,id=7,df=1)/\
     tcp(src=1,dst=2,flags=S,seq=5,opt=020405b4)",
    "ipv4(src=10.0.0.1,dst=10.0.0.2)/tcp(src=1,dst=2,flags=-,ack=4294967295,win=0)/bytes:00ff",
    "ipv4(src=10.0.0.1,dst=10.0.0.2,opt=01010101)/echo(id=3,seq=4)/frame(98)",
    "ipv4(src=10.0.0.1,dst=10.0.0.2)/icmp(type=3,code=4,rest=00000578)/\"x\"",
    "ipv4(src=10.0.0.1,dst=10.0.0.2)/udp(src=1,dst=2,csum=none)/zeros(100)",
    "ipv4(src=10.0.0.1,dst=10.0.0.2)/frag(id=9,offset=1480,more=1)/proto(17)/\"rest\"",
    "ipv4(src=10.0.0.1,dst=10.0.0.2)/proto(47)/bytes:00006558",
    "ipv4(src=10.0.0.1,dst=10.0.0.2)/sctp(src=7,dst=8,tag=9)/\"x\"",
    "vlan(vid=5)/ipv6(src=fd00::1,dst=fd00::2)/udp(src=1,dst=2)/\"six\"",
    "vlan(vid=5,pcp=3,tpid=0x88a8)/vlan(vid=6)/ipv6(src=fd00::1,dst=fd00::2,ttl=1,tos=8,label=77)\
     /echo_reply(id=1,seq=2)",
    "arp(op=1,sha=02:00:00:00:00:01,spa=10.0.0.1,tha=00:00:00:00:00:00,tpa=10.0.0.2)",
    "ipv4(src=10.0.0.1,dst=10.0.0.2,df=1)/udp(src=50000,dst=6081,csum=none)/geneve(vni=7)/\
     eth(src=02:00:00:00:00:03,dst=02:00:00:00:00:04)/vlan(vid=2)/\
     ipv4(src=192.168.0.1,dst=192.168.0.2)/tcp(src=5,dst=6,flags=PA)/frame(200)",
    "ipv4(src=10.0.0.1,dst=10.0.0.2)/udp(src=50000,dst=6081)/geneve(vni=7,opt=0102000101020304)/\
     eth(src=02:00:00:00:00:03,dst=02:00:00:00:00:04)/ipv4(src=1.0.0.1,dst=1.0.0.2)/\
     udp(src=5,dst=6)",
];

#[test]
fn what_is_described_is_what_was_written() {
    for text in CANONICAL {
        let packet = built(text);
        assert_eq!(describe(&packet), format!("{ETH}/{text}"));
    }
    let typed = "eth(src=02:00:00:00:00:01,dst=02:00:00:00:00:02,type=0x88cc)/\"lldp\"";
    assert_eq!(describe(&parse_packet(typed, &[]).unwrap()), typed);
}

#[test]
fn other_spellings_build_the_same_packets() {
    let same = |a: &str, b: &str| assert_eq!(built(a), built(b), "{a}");
    same(
        "ipv6(src=fd00::1,dst=fd00::2)/nd_solicit(target=fd00::2,sll=02:00:00:00:00:01)",
        "ipv6(src=fd00::1,dst=fd00::2,ttl=255)/icmp(type=135,code=0)/\
         bytes:fd0000000000000000000000000000020101020000000001",
    );
    // RFC 792: the IP header and eight bytes of what was in it.
    let about = built(CANONICAL[0]);
    let error = built(&format!(
        "ipv4(src=10.0.0.9,dst=10.0.0.1)/icmp_error(type=3,code=1)/{ETH}/{}",
        CANONICAL[0]
    ));
    assert_eq!(error[42..], about[14..42]);
    same("ipv4( src=10.0.0.1, dst=10.0.0.2 )/\"a\\x62\\\\\"", IPV4_AB);
}

const IPV4_AB: &str = "ipv4(src=10.0.0.1,dst=10.0.0.2)/bytes:61625c";

#[test]
fn changes_are_made_to_the_built_packet() {
    let text = format!("{ETH}/{}", CANONICAL[0]);
    let plain = parse_packet(&text, &[]).unwrap();
    assert_eq!(plain.len(), 47);
    let padded = parse_packet(&text, &["pad=60"]).unwrap();
    assert_eq!((padded.len(), &padded[..47]), (60, &plain[..]));
    assert_eq!(describe(&padded), format!("{text} pad=60"));
    assert_eq!(parse_packet(&text, &["cut=20"]).unwrap(), &plain[..20]);
    let changed = parse_packet(&text, &["byte=14:46", "cut=30"]).unwrap();
    assert_eq!((changed.len(), changed[14]), (30, 0x46));
    assert_eq!(parse_packet("hex:00Ff10", &[]).unwrap(), [0, 255, 16]);
}

#[test]
fn a_wrong_packet_says_what_is_wrong() {
    let cases = [
        ("ipv4(src=10.0.0.1,dst=10.0.0.2)/udp(src=1)", "`udp` needs `dst`"),
        ("ipv4(src=10.0.0.1,dst=10.0.0)", "`ipv4`: `dst=10.0.0` is no IPv4 address"),
        ("ipv4(src=10.0.0.1,dst=10.0.0.2,tll=3)", "`ipv4` knows no `tll`"),
        ("ipv4(src=10.0.0.1,src=10.0.0.1)", "`ipv4`: `src` stands there twice"),
        ("vlan(vid=70000)", "`vlan`: `vid=70000` is no number of its size"),
        ("qdp(src=1)", "`qdp`: no such layer"),
        ("udp(src=1,dst=2", "a quote or a parenthesis is not closed"),
        ("\"open", "a quote or a parenthesis is not closed"),
        ("bytes:123", "`123` is no even number of hexadecimal digits"),
        ("tcp(src=1,dst=2,flags=SX)", "`X`: flags are FSRPAUEC"),
        ("udp(src=1,dst=2,csum=bad)", "`csum=bad`: want none or partial"),
        ("\"a\\n\"", "after \\ want"),
    ];
    for (layers, want) in cases {
        let error = parse_packet(&format!("{ETH}/{layers}"), &[]).unwrap_err();
        assert!(error.contains(want), "{layers}: {error}");
    }
    let error = parse_packet("ipv4(src=10.0.0.1,dst=10.0.0.2)", &[]).unwrap_err();
    assert!(error.contains("begins with `eth(...)`"), "{error}");
    for change in ["pad", "cut=x", "byte=1", "byte=1:xyz", "turn=3"] {
        let error = parse_packet("hex:0011", &[change]).unwrap_err();
        assert!(error.contains("want pad=N, cut=N or byte=AT:HEX"), "{change}: {error}");
    }
    assert!(parse_packet("hex:0011", &["byte=2:00"]).unwrap_err().contains("behind the end"));
}

proptest! {
    #![proptest_config(ProptestConfig {
        failure_persistence: None,
        ..ProptestConfig::with_cases(400)
    })]

    /// Whatever the bytes, their description builds them again.
    #[test]
    fn no_description_lies(
        which in 0..CANONICAL.len(),
        edits in proptest::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 0..4),
        cut in any::<prop::sample::Index>(),
    ) {
        let mut packet = built(CANONICAL[which]);
        for (at, to) in edits {
            let at = at.index(packet.len());
            packet[at] = to;
        }
        packet.truncate(cut.index(packet.len() * 2).min(packet.len()));
        let text = describe(&packet);
        let words: Vec<&str> = packet_text::split_words(&text).unwrap();
        let (first, changes) = words.split_first().unwrap();
        prop_assert_eq!(parse_packet(first, changes).unwrap(), packet);
    }
}

/// Sends everything out of p2, and counts it.
#[derive(Clone, Copy)]
struct Hub {
    drop_after: usize,
    live: bool,
}

impl Backend for Hub {
    fn name(&self) -> &str {
        "hub"
    }

    fn run(&mut self, vector: &Vector) -> Result<Outcome, String> {
        if vector.flows.contains("refuse") {
            return Err("bad flow".into());
        }
        let sent = vector.input.iter().take(self.drop_after).map(|p| p.bytes.clone()).collect();
        let counters = [("rx".to_owned(), vector.input.len() as u64), ("idle".to_owned(), 0)];
        Ok(Outcome { out: [("p2".to_owned(), sent)].into(), counters: counters.into() })
    }

    fn is_live(&self) -> bool {
        self.live
    }
}

const HUB: Hub = Hub { drop_after: 9, live: false };

/// A folder that goes with the test.
struct Folder(PathBuf);

impl Folder {
    fn new(name: &str, files: &[(&str, &str)]) -> Self {
        // A parent of its own: one that tests share goes with whoever ends while another begins.
        let parent = std::env::temp_dir().join(format!("slu-vec-{}-{name}", std::process::id()));
        let path = parent.join(name);
        std::fs::create_dir_all(&path).unwrap();
        for (file, text) in files {
            std::fs::write(path.join(file), text).unwrap();
        }
        Self(path)
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
        let _ = self.0.parent().map(std::fs::remove_dir);
    }
}

const IN: &str = "# two packets\nt=0.5 port=p1 hex:00112233\n\nport=p10 hex:445566\n";
const GOOD: &[(&str, &str)] = &[
    ("why.txt", "a hub sends all\n"),
    ("flows.txt", "actions=FLOOD\n"),
    ("in.txt", IN),
    ("out.txt", "port=p2 hex:00112233\nport=p2 hex:445566\n"),
    ("counters.txt", "2 rx\n"),
];

#[test]
fn a_vector_passes_when_all_is_as_expected() {
    let folder = Folder::new("good", GOOD);
    assert_eq!(run_folder(&folder.0, &mut { HUB }, false), Ok(()));
    let vector = load(&folder.0).unwrap();
    assert_eq!((vector.name.as_str(), vector.why.as_str()), ("good", "a hub sends all"));
    let ports = vector.ports();
    assert_eq!((ports.len(), ports[9].as_str()), (10, "p10"));
    assert_eq!(vector.input_of("p10").count(), 1);
    let times: Vec<_> = vector.input.iter().map(|p| p.at_ns).collect();
    assert_eq!(times, [500_000_000, 501_000_000]);
    let parent = folder.0.parent().unwrap();
    assert!(run_all(&parent.join("none"), &mut { HUB }).is_err());
    assert!(run_all(&folder.0, &mut { HUB }).unwrap_err().starts_with("no vector in"));
}

#[test]
fn every_difference_fails_and_is_told() {
    let with = |name: &str, file: &str, text: &str, mut hub: Hub| {
        let folder = Folder::new(name, GOOD);
        std::fs::write(folder.0.join(file), text).unwrap();
        run_folder(&folder.0, &mut hub, false).unwrap_err()
    };
    let told = with("short", "why.txt", "a hub sends all", Hub { drop_after: 1, ..HUB });
    for part in ["vector short on hub: port p2: 1 packets, expected 2", "packet 2:", "nothing"] {
        assert!(told.contains(part), "{told}");
    }
    assert!(told.ends_with("(it proves: a hub sends all)"), "{told}");
    let told = with("byte", "out.txt", "port=p2 hex:00112234\nport=p2 hex:445566\n", HUB);
    assert!(told.contains("first at byte 3: 34 expected, 33 came"), "{told}");
    let told = with("long", "out.txt", "port=p2 hex:00112233\nport=p2 hex:4455\n", HUB);
    assert!(told.contains("length 2 expected, 3 came"), "{told}");
    let told = with("port", "out.txt", "port=p3 hex:00\n", HUB);
    assert!(told.contains("port p2: 2 packets, expected 0"), "{told}");
    assert!(told.contains("port p3: 0 packets, expected 1"), "{told}");
    let told = with("more", "counters.txt", "", HUB);
    assert!(told.contains("counter rx: 2, expected 0"), "{told}");
    let told = with("less", "counters.txt", "2 rx\n1 drop\n", HUB);
    assert!(told.contains("counter drop: 0, expected 1"), "{told}");
    let told = with("refused", "flows.txt", "refuse", HUB);
    assert!(told.contains("vector refused on hub: bad flow"), "{told}");
}

#[test]
fn a_live_backend_is_held_to_the_packets_alone() {
    let folder = Folder::new("live", GOOD);
    std::fs::write(folder.0.join("counters.txt"), "7 rx\n").unwrap();
    assert_eq!(run_folder(&folder.0, &mut Hub { live: true, ..HUB }, false), Ok(()));
    let wrong = Hub { live: true, drop_after: 1 };
    assert!(run_folder(&folder.0, &mut { wrong }, false).is_err());
    // Left out: what it gives is not looked at.
    std::fs::write(folder.0.join("replay-only.txt"), "takes a day\n").unwrap();
    assert_eq!(run_folder(&folder.0, &mut { wrong }, false), Ok(()));
    assert!(run_folder(&folder.0, &mut Hub { live: false, ..wrong }, false).is_err());
}

#[test]
fn regenerating_writes_what_then_passes() {
    let folder = Folder::new("fresh", &GOOD[..3]);
    let told = run_folder(&folder.0, &mut { HUB }, false).unwrap_err();
    assert!(told.contains("port p2: 2 packets, expected 0"), "{told}");
    run_folder(&folder.0, &mut { HUB }, true).unwrap();
    assert_eq!(std::fs::read_to_string(folder.0.join("counters.txt")).unwrap(), "2 rx\n");
    assert_eq!(run_folder(&folder.0, &mut { HUB }, false), Ok(()));
}

#[test]
fn a_folder_that_cannot_be_read_names_the_place() {
    let with = |file: &str, text: &str| {
        let folder = Folder::new("wrong", GOOD);
        std::fs::write(folder.0.join(file), text).unwrap();
        load(&folder.0).unwrap_err().to_string()
    };
    let cases = [
        ("why.txt", " \n", "why.txt:0: say in one sentence"),
        ("in.txt", "\nhex:00\n", "in.txt:2: `port=NAME` must stand before the packet"),
        ("in.txt", "port=p1\n", "in.txt:1: no packet after the port"),
        ("in.txt", "t=1.0000000001 port=p1 hex:00\n", "is no time in seconds"),
        ("in.txt", "t=99999999999999 port=p1 hex:00\n", "is no time in seconds"),
        ("in.txt", "t=2 port=p1 hex:00\nt=1 port=p1 hex:00\n", "not in order of time"),
        ("out.txt", "port=p2 eth()\n", "out.txt:1: `eth` needs `src`"),
        ("counters.txt", "rx 2\n", "counters.txt:1: `rx 2`: want `NUMBER NAME`"),
        ("counters.txt", "1 rx\n2 rx\n", "counters.txt:2: `rx` stands here twice"),
    ];
    for (file, text, want) in cases {
        let got = with(file, text);
        assert!(got.contains(want), "{file} {text:?}: {got}");
    }
    let folder = Folder::new("empty", &GOOD[..1]);
    assert!(load(&folder.0).unwrap_err().to_string().contains("flows.txt:0: "));
}
