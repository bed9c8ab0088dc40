//! Warm and fresh packets, with connection tracking behind them.

use super::*;
use sluice_dataplane::packet::build::PacketBuilder;

const RULES: &str = "table=0,priority=10,ip,ct_state=-trk,actions=ct(table=1,zone=1)\n\
    table=1,priority=10,in_port=1,ip,ct_state=+trk+new,actions=ct(commit,zone=1),output:2\n\
    table=1,priority=10,in_port=1,ip,ct_state=+trk+est,actions=output:2\n\
    table=1,priority=10,in_port=2,ip,ct_state=+trk+est,actions=output:1\n";

struct Folder(PathBuf);

impl Folder {
    fn new(name: &str) -> Self {
        let dir = std::env::temp_dir().join(format!("replay-{}-{name}", std::process::id()));
        std::fs::create_dir_all(&dir).unwrap();
        Self(dir)
    }

    fn file(&self, name: &str, bytes: impl AsRef<[u8]>) -> PathBuf {
        let path = self.0.join(name);
        std::fs::write(&path, bytes).unwrap();
        path
    }

    /// UDP packets of `n` connections, there or back.
    fn packets(&self, name: &str, n: u16, is_back: bool) -> PathBuf {
        let mut pcap = PcapWriter::new(Vec::new()).unwrap();
        for i in 0..n {
            let (a, b) = ([10, 0, 0, i as u8], [10, 0, 1, 2]);
            let eth = PacketBuilder::eth([2, 0, 0, 0, 0, 1], [2, 0, 0, 0, 0, 2]);
            let packet = match is_back {
                false => eth.ipv4(a, b).udp(1000 + i, 53),
                true => eth.ipv4(b, a).udp(53, 1000 + i),
            };
            pcap.write(u64::from(i) * 1000, &packet.padded()).unwrap();
        }
        self.file(name, pcap.finish().unwrap())
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

fn input(name: &str, file: PathBuf) -> Vec<(String, PathBuf)> {
    vec![(name.to_owned(), file)]
}

#[test]
fn warm_packets_come_first_and_are_not_counted() {
    let dir = Folder::new("warm");
    let there = dir.packets("there.pcap", 20, false);
    let options = Options {
        flows: dir.file("flows", RULES),
        inputs: input("p2", dir.packets("back.pcap", 20, true)),
        outputs: vec!["p1".to_owned()],
        ..Options::default()
    };
    // Ports are numbered as they are named: p2 is the first.
    let rules = RULES.replace("in_port=1", "in_port=p1").replace("in_port=2", "in_port=p2");
    let rules = rules.replace("output:2", "output:p2").replace("output:1", "output:p1");
    dir.file("flows", rules);
    let alone = run(&options).unwrap();
    assert_eq!((alone.packets, alone.out.len()), (20, 0));
    let bench = Some(BenchOptions { seconds: 0.05, ..BenchOptions::default() });
    for workers in [1, 2] {
        let bench = bench.clone().map(|b| BenchOptions { workers, ..b });
        let warm = input("p1", there.clone());
        let report = run(&Options { warm, bench, ..options.clone() }).unwrap();
        assert_eq!(report.packets, 20);
        assert_eq!(report.out.get("p1").map(|o| o.packets), Some(20));
        assert!(!report.out.contains_key("p2"));
        let bench = report.bench.unwrap();
        assert_eq!((bench.drops.len(), bench.connections), (0, 20), "{workers} workers");
        assert!(bench.fresh.is_none());
    }
}

#[test]
fn each_fresh_packet_is_a_connection_and_the_others_stay() {
    let dir = Folder::new("fresh");
    let config = "[conntrack]\nconns_max = 65536\n[conntrack.timeouts_s]\nudp_first = 1\n\
        [[bridge]]\nname = \"br0\"\nlocal = false\n\
        [[bridge.port]]\nname = \"p1\"\nnumber = 1\ntype = \"memory\"\n\
        [[bridge.port]]\nname = \"p2\"\nnumber = 2\ntype = \"memory\"\n";
    let options = Options {
        flows: dir.file("flows", RULES),
        config: Some(dir.file("config.toml", config)),
        inputs: input("p2", dir.packets("back.pcap", 20, true)),
        warm: input("p1", dir.packets("there.pcap", 20, false)),
        fresh: input("p1", dir.packets("other.pcap", 10, false)),
        bench: Some(BenchOptions {
            seconds: 0.02,
            settle_seconds: 0.01,
            order: Order::Stride,
            ..BenchOptions::default()
        }),
        ..Options::default()
    };
    let report = run(&options).unwrap();
    assert_eq!(report.packets, 30);
    let bench = report.bench.unwrap();
    let fresh = bench.fresh.unwrap();
    assert_eq!(fresh.others_lost, 0);
    assert!(fresh.packets >= 10 && fresh.packets < bench.packets, "{fresh:?}");
    assert_eq!(bench.stats.get("ct_created").copied(), Some(fresh.packets));
    assert!(bench.connections > fresh.packets, "{} live", bench.connections);
    assert!(fresh.turns.is_none());
    // Long enough for a pair of turns wherever others take the processor for a while.
    let by_turns = BenchOptions { seconds: 0.3, fresh_turns_ms: Some(1), ..Default::default() };
    let bench = run(&Options { bench: Some(by_turns), ..options }).unwrap().bench.unwrap();
    let (fresh, all) = (bench.fresh.unwrap(), bench.packets);
    let turns = fresh.turns.unwrap();
    assert!(turns.pairs > 0 && turns.ratio > 0.0 && turns.with_ns > 0.0, "{turns:?}");
    // A third of a pass is fresh.
    assert!(fresh.packets > 0 && fresh.packets < all / 3, "{fresh:?} of {all}");
    assert_eq!(bench.stats.get("ct_created").copied(), Some(fresh.packets));
}
