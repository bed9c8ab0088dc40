//! The rules of every scenario, in ovs-ofctl's words, one a line: both sides read the same file.
//!
//! Rules refer to the packets of `packets`: port 1 is where these come in, port 2 where they leave.
//! An exact rule matches one flow; the access list takes its values half from flows that come and
//! half from flows that never do.

use std::ops::Range;

use sluice_benches::acl::{PATTERNS, Pattern};

use super::packets::{Flow, flow, routes};
use super::stream::NAT_ADDRESS;

const SRC_MAC: &str = "02:00:00:00:00:01";
const DST_MAC: &str = "02:00:00:00:00:02";
const NEW_MACS: &str = "mod_dl_src:02:00:00:00:aa:01,mod_dl_dst:02:00:00:00:bb:02";

/// Where connections are tracked.
pub const ZONE: u16 = 1;
pub const ACL_RULES: u64 = 1000;
/// Flows from here on come in no scenario.
const ABSENT: u64 = 10_000_000;

/// The flow whose values rule `k` of the access list has: of even rules one of the first 97000
/// flows, which scenarios with enough flows do send.
pub fn acl_flow(k: u64) -> Flow {
    flow(if k.is_multiple_of(2) { k * 97 } else { ABSENT + k })
}

fn ip(a: u32) -> std::net::Ipv4Addr {
    std::net::Ipv4Addr::from(a)
}

/// The values of a flow, all bits.
fn exact(f: &Flow) -> String {
    let (src, dst) = (ip(f.src), ip(f.dst));
    format!("udp,nw_src={src},nw_dst={dst},tp_src={},tp_dst={}", f.src_port, f.dst_port)
}

/// Flow `i`'s rule in the fourth of five tables.
fn exact_rule(i: u64) -> String {
    format!("table=3,priority=10,{},actions=goto_table:4", exact(&flow(i)))
}

/// Keeps the first `len` bits.
fn prefix(address: u32, len: u32) -> String {
    let kept = u64::from(address) >> (32 - len) << (32 - len);
    format!("{}/{len}", ip(kept as u32))
}

/// Rule `k`'s match under a pattern.
fn acl_match(k: u64, pattern: Pattern) -> String {
    let (src_bits, dst_bits, src_port, dst_port) = pattern;
    let f = acl_flow(k);
    let mut words = vec!["udp".to_owned()];
    if src_bits > 0 {
        words.push(format!("nw_src={}", prefix(f.src, src_bits)));
    }
    if dst_bits > 0 {
        words.push(format!("nw_dst={}", prefix(f.dst, dst_bits)));
    }
    if src_port > 0 {
        words.push(format!("tp_src={:#x}/{src_port:#x}", f.src_port & src_port));
    }
    match dst_port {
        0 => {}
        0xffff => words.push(format!("tp_dst={}", f.dst_port)),
        mask => words.push(format!("tp_dst={:#x}/{mask:#x}", f.dst_port & mask)),
    }
    words.join(",")
}

/// The rules of a scenario.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Rules {
    /// One rule: what comes in by port 1 leaves by port 2
    Forward,
    /// 5 tables; the fourth has an exact rule for each of so many flows
    Exact(u64),
    /// 5 tables; the third is an access list of 1000 rules under so many mask patterns, at most 64
    Acl(usize),
    /// 10000 prefixes, TTL and both MAC addresses rewritten
    Routes,
    /// One rule for a destination prefix that all flows have. Beside it one exact rule that no
    /// packet meets, so that flows differ in what can be seen of them.
    Wildcard,
    /// So many tables, the last with an exact rule for each of so many flows; TTL and both MAC
    /// addresses rewritten
    Chain(u8, u64),
    /// Connection tracking: ports 1 and 3 may begin connections to 2 and 4, which may answer
    Stateful,
    /// The same from port 1 to 2, with sources translated to so many addresses
    Snat(u8),
    /// The same, with the ports that may be used given
    SnatPorts(u8),
    /// So many exact rules for the fourth of five tables; none is for a flow that comes
    Absent(u64),
}

impl Rules {
    pub fn name(self) -> String {
        match self {
            Self::Forward => "forward".to_owned(),
            Self::Exact(n) => format!("exact-{n}"),
            Self::Acl(masks) => format!("acl-{masks}"),
            Self::Routes => "routes".to_owned(),
            Self::Wildcard => "wildcard".to_owned(),
            Self::Chain(tables, n) => format!("chain-{tables}-{n}"),
            Self::Stateful => "stateful".to_owned(),
            Self::Snat(n) => format!("snat-{n}"),
            Self::SnatPorts(n) => format!("snat-ports-{n}"),
            Self::Absent(n) => format!("absent-{n}"),
        }
    }

    /// Bytes of a frame that a switch chooses: with several addresses to translate to, the source
    /// address and port, and the checksums of IPv4, UDP and TCP, which follow from them.
    pub fn free_bytes(self) -> &'static [Range<usize>] {
        match self {
            Self::Snat(2..) | Self::SnatPorts(_) => &[24..30, 34..36, 40..42, 50..52],
            _ => &[],
        }
    }

    pub fn lines(self) -> Vec<String> {
        match self {
            Self::Forward => vec!["in_port=1,actions=output:2".to_owned()],
            Self::Exact(n) => five_tables(Vec::new(), (0..n).map(exact_rule).collect()),
            Self::Acl(masks) => {
                let all = vec!["table=3,priority=10,ip,actions=goto_table:4".to_owned()];
                five_tables(acl(masks), all)
            }
            Self::Routes => routed(),
            Self::Wildcard => vec![
                format!("priority=20,{},actions=drop", exact(&flow(ABSENT))),
                "priority=10,udp,nw_dst=198.18.0.0/15,actions=output:2".to_owned(),
            ],
            Self::Chain(tables, n) => chain(tables, n),
            Self::Stateful => stateful("", "", &[1, 3]),
            Self::Snat(n) => snat(n, ""),
            Self::SnatPorts(n) => snat(n, ":1024-65535"),
            Self::Absent(n) => (ABSENT..ABSENT + n).map(exact_rule).collect(),
        }
    }
}

/// In port; source addresses; access list; flows; destination MAC.
fn five_tables(acl: Vec<String>, flows: Vec<String>) -> Vec<String> {
    let mut rules = vec![
        "table=0,in_port=1,ip,actions=goto_table:1".to_owned(),
        format!("table=1,priority=10,ip,dl_src={SRC_MAC},nw_src=10.0.0.0/8,actions=goto_table:2"),
    ];
    rules.extend(acl);
    rules.push("table=2,priority=1,actions=goto_table:3".to_owned());
    rules.extend(flows);
    rules.push(format!("table=4,priority=10,dl_dst={DST_MAC},actions=output:2"));
    rules
}

/// The usual pair of rules for each pair of ports: what is new may come by the first one, what is
/// established by both. `track` and `commit` are further words of the two `ct()`.
fn stateful(track: &str, commit: &str, begin: &[u32]) -> Vec<String> {
    let rule = |port: u32, state: &str, actions: &str, out: u32| {
        format!(
            "table=1,priority=10,in_port={port},ip,ct_state=+trk+{state},actions={actions}\
             output:{out}"
        )
    };
    let commit = format!("ct(commit,zone={ZONE}{commit}),");
    let mut rules = vec![format!(
        "table=0,priority=10,ip,ct_state=-trk,actions=ct(table=1,zone={ZONE}{track})"
    )];
    for port in begin {
        rules.push(rule(*port, "new", &commit, port + 1));
        rules.push(rule(*port, "est", "", port + 1));
        rules.push(rule(port + 1, "est", "", *port));
    }
    rules
}

fn snat(addresses: u8, ports: &str) -> Vec<String> {
    let first = u32::from(NAT_ADDRESS);
    let last = ip(first + u32::from(addresses.max(1)) - 1);
    stateful(",nat", &format!(",nat(src={NAT_ADDRESS}-{last}{ports})"), &[1])
}

/// Pattern after pattern, and priorities 1000 to 1999 so permuted that patterns interleave.
fn acl(masks: usize) -> Vec<String> {
    let used = &PATTERNS[..masks.clamp(1, PATTERNS.len())];
    let rule = |k: u64| {
        let text = acl_match(k, used[k as usize % used.len()]);
        format!("table=2,priority={},{text},actions=goto_table:3", 1000 + k * 617 % 1000)
    };
    (0..ACL_RULES).map(rule).collect()
}

fn routed() -> Vec<String> {
    let mut rules = vec!["table=0,in_port=1,ip,actions=goto_table:1".to_owned()];
    rules.extend(routes().iter().map(|r| {
        let (dst, len, hop) = (ip(r.prefix), r.len, r.next_hop);
        format!(
            "table=1,priority={len},ip,nw_dst={dst}/{len},actions=dec_ttl,\
             mod_dl_src:02:00:00:00:aa:01,mod_dl_dst:02:00:00:00:bb:{hop:02x},output:2"
        )
    }));
    rules
}

/// Each table but the last lets pass what has one field as it should be; every field is looked at
/// in the last one as well, so one table sees as much of a packet as forty.
fn chain(tables: u8, flows: u64) -> Vec<String> {
    let guards = [
        "in_port=1,ip".to_owned(),
        format!("ip,dl_src={SRC_MAC},nw_src=10.0.0.0/8"),
        "udp,nw_dst=198.18.0.0/15".to_owned(),
        format!("ip,dl_dst={DST_MAC}"),
    ];
    let last = tables.max(1) - 1;
    let guard = |t: u8| {
        let fields = &guards[usize::from(t) % guards.len()];
        format!("table={t},priority=10,{fields},actions=goto_table:{}", t + 1)
    };
    let rule = |i: u64| {
        let fields = exact(&flow(i));
        format!(
            "table={last},priority=10,in_port=1,dl_src={SRC_MAC},dl_dst={DST_MAC},{fields},\
             actions=dec_ttl,{NEW_MACS},output:2"
        )
    };
    (0..last).map(guard).chain((0..flows).map(rule)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use sha2::{Digest, Sha256};
    use std::collections::HashSet;

    fn digest(rules: Rules) -> String {
        let text = rules.lines().join("\n") + "\n";
        Sha256::digest(text).iter().map(|b| format!("{b:02x}")).collect()
    }

    /// Digests of the rules as another implementation printed them.
    #[test]
    fn rules_are_those_of_the_other_generator() {
        assert_eq!(
            digest(Rules::Forward),
            "bc1ce3ffabe2d1c7373073211a1b62313f2cac58fa0aeba4258bb6cdeea79e03"
        );
        assert_eq!(
            digest(Rules::Exact(1000)),
            "e9936bcf4e3a957e3cdeef602b65e51074f3e2020bc61f39af8e5509cdb6395d"
        );
        assert_eq!(
            digest(Rules::Acl(20)),
            "7cf87a4329b339b266fe8f392e56bce66cd6b8d00473762f020c2e0319eae87c"
        );
        assert_eq!(
            digest(Rules::Routes),
            "0d338ba77feb5cbdd753036178926f6d70444ee621b06b169b0f2834a578b9f1"
        );
    }

    #[test]
    fn every_scenario_is_read_by_our_own_parser() {
        use sluice_control::flow::{NoNames, parse_file};
        let all = [
            Rules::Forward,
            Rules::Exact(10),
            Rules::Acl(64),
            Rules::Routes,
            Rules::Wildcard,
            Rules::Chain(1, 10),
            Rules::Chain(40, 10),
            Rules::Stateful,
            Rules::Snat(64),
            Rules::SnatPorts(16),
            Rules::Absent(10),
        ];
        for rules in all {
            let names =
                |n: &str| (n == "br0").then_some(&NoNames as &dyn sluice_control::flow::PortNames);
            let lines = rules.lines();
            let read = parse_file(&lines.join("\n"), "br0", &names);
            assert_eq!(read.map(|l| l.len()).unwrap_or(0), lines.len(), "{}", rules.name());
        }
    }

    #[test]
    fn the_access_list_has_as_many_patterns_as_asked_for() {
        assert_eq!(PATTERNS.iter().collect::<HashSet<_>>().len(), 64);
        // What a rule says without its values.
        let shape = |rule: &String| {
            let fields = rule.split(',').skip(2).map(|word| match word.split_once('=') {
                Some((name, value)) => {
                    format!("{name}/{}", value.split_once('/').map_or("", |v| v.1))
                }
                None => word.to_owned(),
            });
            fields.filter(|f| !f.starts_with("actions")).collect::<Vec<_>>().join(",")
        };
        for masks in [1, 5, 20, 64] {
            let shapes: HashSet<_> = acl(masks).iter().map(shape).collect();
            assert_eq!(shapes.len(), masks);
        }
    }
}
