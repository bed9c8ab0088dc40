//! The scene of a daemon's soak: clients and servers, a namespace each, and `sluiced` between them.
//!
//! What is done with a connection goes by the address that its client asks for. A *variant* of the
//! flows differs in marks, in NAT's mode, and in the end that destination NAT leads to, so that
//! with a change a backend goes.

use std::fmt::Write;

use super::super::Trouble;
use crate::host::Host;
use crate::sluiced::Daemon;
use crate::veth::{End, VethOptions, join};

/// Connections that there is room for: fewer than kernels would like to open.
pub const CONNS: u32 = 800;
/// Connections of zone 6, at first.
const LIMIT: u32 = 40;
pub const VARIANTS: u64 = 4;
/// Zones in use, and one that never is.
pub const ZONES: [u16; 7] = [1, 2, 3, 4, 5, 6, 99];

/// Where servers answer.
pub const TCP_PORT: u16 = 7000;
pub const UDP_PORT: u16 = 7001;
/// Where nobody does.
pub const CLOSED_PORT: u16 = 9;

pub const CLIENTS: [&str; 3] = ["192.0.2.1", "192.0.2.21", "192.0.2.22"];
/// What clients ask for: plain, source NAT, destination NAT, both, and a zone that has few places.
pub const ASKED: [&str; 5] = [PLAIN, "192.0.2.3", VIP, VIP_BOTH, LIMITED];
/// Addresses that servers have.
pub const SERVERS: [&str; 6] = [PLAIN, "192.0.2.3", ENDS[0], ENDS[1], END_BOTH, LIMITED];
/// Whose packets the servers' kernel throws away.
pub const NOBODY: &str = "192.0.2.66";
const PLAIN: &str = "192.0.2.2";
const VIP: &str = "192.0.2.8";
const VIP_BOTH: &str = "192.0.2.7";
const LIMITED: &str = "192.0.2.10";
const ENDS: [&str; 2] = ["192.0.2.4", "192.0.2.11"];
const END_BOTH: &str = "192.0.2.5";
/// Addresses that source NAT gives out.
pub const POOLS: [&str; 2] = ["192.0.2.9", "192.0.2.6"];

pub struct Scene {
    pub daemon: Daemon,
    pub clients: Host,
    pub servers: Host,
    _node: Host,
}

impl Scene {
    pub fn start(workers: u8) -> Result<Self, Trouble> {
        let setup = |e: crate::Error| Trouble::Setup(e.to_string());
        let [node, clients, servers] = ["node", "clients", "servers"].map(Host::new);
        let (node, clients, servers) =
            (node.map_err(setup)?, clients.map_err(setup)?, servers.map_err(setup)?);
        for host in [&node, &clients, &servers] {
            host.ns.quiet().map_err(setup)?;
        }
        for (dev, host) in [("veth1", &clients), ("veth2", &servers)] {
            let ends = (End { ns: &node.ns, dev }, End { ns: &host.ns, dev: "eth0" });
            join(ends.0, ends.1, VethOptions { queues: 2, ..Default::default() }).map_err(setup)?;
            host.mac("eth0", &mac(dev)).map_err(setup)?;
            forget_soon(host).map_err(setup)?;
        }
        people(&clients, &CLIENTS, &[&ASKED[..], &[NOBODY]].concat(), "veth2").map_err(setup)?;
        people(&servers, &SERVERS, &[&CLIENTS[..], &POOLS].concat(), "veth1").map_err(setup)?;
        let daemon = Daemon::start(&node.ns, &config(workers), &flows(0)).map_err(setup)?;
        Ok(Self { daemon, clients, servers, _node: node })
    }
}

fn mac(dev: &str) -> String {
    format!("02:00:00:00:00:0{}", dev.trim_start_matches("veth"))
}

/// Gives a host its addresses, and says who has the others'.
fn people(host: &Host, own: &[&str], others: &[&str], behind: &str) -> crate::Result<()> {
    own.iter().try_for_each(|a| host.address("eth0", &format!("{a}/24")).map(drop))?;
    let neighbour = |a: &&str| format!("neigh add {a} lladdr {} dev eth0", mac(behind));
    others.iter().try_for_each(|a| host.ns.ip(&neighbour(a)).map(drop))
}

/// What a kernel says again after a conversation's end would begin connections anew, for minutes.
fn forget_soon(host: &Host) -> crate::Result<()> {
    for (key, value) in [
        ("tcp_syn_retries", "1"),
        ("tcp_synack_retries", "1"),
        ("tcp_retries2", "3"),
        ("tcp_orphan_retries", "1"),
        ("tcp_fin_timeout", "1"),
        ("tcp_max_tw_buckets", "64"),
        ("icmp_ratelimit", "0"),
        ("ip_local_port_range", "10000 60000"),
    ] {
        host.ns.sysctl(&format!("net.ipv4.{key}"), value)?;
    }
    Ok(())
}

fn config(workers: u8) -> String {
    let port =
        |n| format!("[[bridge.port]]\nname = \"p{n}\"\ntype = \"afxdp\"\ndevice = \"veth{n}\"\n");
    format!(
        "workers = {workers}\nself_check = 100\n\
         [conntrack]\nconns_max = {CONNS}\n\
         [conntrack.timeouts_s]\ntcp_syn_sent = 2\ntcp_syn_recv = 2\ntcp_established = 5\n\
         tcp_fin_wait = 2\ntcp_time_wait = 1\ntcp_close = 1\nudp_first = 1\nudp_single = 1\n\
         udp_multiple = 2\nicmp_first = 1\nicmp_reply = 1\n\
         [[conntrack.zone]]\nid = 3\ntimeouts_s = {{ udp_single = 2, udp_multiple = 4 }}\n\
         [[conntrack.zone]]\nid = 6\nlimit = {LIMIT}\n\
         [[bridge]]\nname = \"br0\"\nflow_file = \"flows\"\n{}{}",
        port(1),
        port(2)
    )
}

/// Flows of a variant.
pub fn flows(variant: u64) -> String {
    let mut t = String::new();
    let mut line = |text: String| {
        let _ = writeln!(t, "{text}");
    };
    let mode = ["", ",random", ",hash", ",persistent"][(variant % VARIANTS) as usize];
    let mark = format!("exec(load:{variant:#x}->NXM_NX_CT_MARK[])");
    let end = ENDS[(variant % 2) as usize];
    let out = |to: &str, zone: u16, then: &str| {
        format!("priority=9,ip,in_port=p1,nw_dst={to} actions=ct({then},zone={zone})")
    };
    let home = |by: &str, zone: u16, table: u8| {
        format!("priority=9,ip,in_port=p2,{by} actions=ct(table={table},zone={zone},nat)")
    };
    for to in [PLAIN, NOBODY] {
        line(out(to, 1, "table=1"));
    }
    line(out(ASKED[1], 2, &format!("commit,table=10,nat(src={}:20000-20031{mode})", POOLS[0])));
    line(out(VIP, 3, &format!("commit,table=10,nat(dst={end})")));
    line(out(VIP_BOTH, 4, &format!("commit,table=5,nat(dst={END_BOTH})")));
    line(out(LIMITED, 6, "table=6"));
    let both = format!("nat(src={}:30000-30031{mode})", POOLS[1]);
    line(format!("table=5,ip,ct_state=-inv actions=ct(commit,table=10,zone=5,{both})"));
    for (table, zone) in [(1, 1), (6, 6)] {
        let new = format!("ct(commit,zone={zone},{mark}),output:p2");
        line(format!("table={table},ip,ct_state=+new-rel-inv actions={new}"));
        line(format!("table={table},ip,ct_state=+trk-new-inv actions=output:p2"));
        line(format!("table={table},ip,ct_state=+rel-inv actions=output:p2"));
    }
    line(home(&format!("nw_src={PLAIN}"), 1, 11).replace(",nat)", ")"));
    line(home(&format!("nw_src={LIMITED}"), 6, 11).replace(",nat)", ")"));
    line(home(&format!("nw_dst={}", POOLS[0]), 2, 11).replace("priority=9", "priority=10"));
    ENDS.iter().for_each(|end| line(home(&format!("nw_src={end}"), 3, 11)));
    line(home(&format!("nw_dst={}", POOLS[1]), 5, 7).replace("priority=9", "priority=10"));
    line("table=7,ip,ct_state=-inv actions=ct(table=11,zone=4,nat)".to_owned());
    line("table=10,priority=9,ct_state=+inv actions=drop".to_owned());
    line("table=10,priority=1,ip actions=output:p2".to_owned());
    line("table=11,priority=9,ct_state=+inv actions=drop".to_owned());
    line("table=11,priority=8,ct_state=+new-rel actions=drop".to_owned());
    line("table=11,priority=1,ip actions=output:p1".to_owned());
    t
}
