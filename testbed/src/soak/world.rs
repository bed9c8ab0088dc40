//! The switch of a soak: its configuration, and programs of flows with everything `ct` can do.
//!
//! Clients are inside (port 1), servers outside (port 2). What is done with a client's packet goes
//! by the server's address, for IPv4 and IPv6 alike; replies are told by the addresses they come
//! with. A `Variant` of the program differs in what `ct` is asked, so that going from one to the
//! next leaves nothing in the caches as it was.

use super::Trouble;
use sluice_control::config::Config;
use sluice_control::model::Model;
use std::fmt::Write;
use std::net::{Ipv4Addr, Ipv6Addr};
use std::path::Path;

/// Places of the ports in the program; servers are at the other one.
pub const INSIDE: u16 = 0;

/// What becomes of a connection to a server.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Class {
    Plain,
    Snat,
    Dnat,
    /// To an end, and from another address, in two zones.
    Both,
    /// In a zone that has few places.
    Limited,
    /// FTP and TFTP, with another source.
    Helped,
    /// Taken anew from whichever side speaks.
    Forced,
}

pub const CLASSES: [Class; 7] = [
    Class::Plain,
    Class::Snat,
    Class::Dnat,
    Class::Both,
    Class::Limited,
    Class::Helped,
    Class::Forced,
];

/// Of so many places, one in the zone of `Class::Limited`.
const ZONE_SHARE: u32 = 32;
/// Zones in use, and one that never is.
pub const ZONES: [u16; 9] = [10, 11, 12, 13, 14, 15, 16, 17, 99];
/// Different programs.
pub const VARIANTS: u64 = 4;

/// An address by its version: IPv4 if its upper half is zero.
pub fn client(v6: bool, n: u16) -> u128 {
    if v6 { (0xfd00_u128 << 112) | (u128::from(n) + 1) } else { 0x0a00_0000 | (u128::from(n) + 1) }
}

pub fn server(v6: bool, class: Class, n: u8) -> u128 {
    let (class, n) = (class as u128, u128::from(n) + 1);
    if v6 { 0x2001_0db8_u128 << 96 | class << 80 | n } else { 0xc612_0000 | class << 8 | n }
}

/// An address as people write it.
pub fn text(v6: bool, address: u128) -> String {
    if v6 {
        Ipv6Addr::from_bits(address).to_string()
    } else {
        Ipv4Addr::from_bits(address as u32).to_string()
    }
}

/// `conns_max` of all workers together.
pub fn config(conns_max: u32, self_check: u32) -> Result<Config, Trouble> {
    let limit = conns_max / ZONE_SHARE;
    let text = format!(
        "[daemon]\nself_check = {self_check}\n\
         [conntrack]\nconns_max = {conns_max}\nfragments_max = 64\n\
         fragment_ipv4_min = 400\nfragment_ipv6_min = 400\n\
         [conntrack.timeouts_s]\ntcp_syn_sent = 5\ntcp_syn_recv = 5\ntcp_established = 20\n\
         tcp_fin_wait = 6\ntcp_time_wait = 3\ntcp_close = 2\nudp_first = 4\nudp_single = 4\n\
         udp_multiple = 6\nicmp_first = 3\nicmp_reply = 3\n\
         [[conntrack.zone]]\nid = 11\ntimeouts_s = {{ tcp_established = 8, udp_first = 2 }}\n\
         [[conntrack.zone]]\nid = 13\ntimeouts_s = {{ udp_single = 1, tcp_syn_sent = 1 }}\n\
         [[conntrack.zone]]\nid = 14\nlimit = {limit}\n\
         [[conntrack.zone]]\nid = 16\ntimeouts_s = {{ tcp_established = 700, udp_multiple = 2 }}\n\
         [[bridge]]\nname = \"br0\"\n\
         [[bridge.port]]\nname = \"inside\"\nnumber = 1\ntype = \"memory\"\n\
         [[bridge.port]]\nname = \"outside\"\nnumber = 2\ntype = \"memory\"\n"
    );
    Config::parse(Path::new("soak"), &text).map_err(|e| Trouble::Setup(e.to_string()))
}

/// The model with the first program, both ports up.
pub fn model(config: &Config, seed: u64) -> Result<Model, Trouble> {
    let mut model = Model::new(config, seed).map_err(|e| Trouble::Setup(e.to_string()))?;
    model.bridges.iter_mut().flat_map(|b| b.ports.iter_mut()).for_each(|p| p.up = true);
    load(&mut model, &groups())?;
    change(&mut model, 0)?;
    Ok(model)
}

/// Brings a variant of the program into the model.
pub fn change(model: &mut Model, variant: u64) -> Result<(), Trouble> {
    load(model, &flows(variant))
}

fn load(model: &mut Model, text: &str) -> Result<(), Trouble> {
    let loaded = model.load_flows("soak".into(), text, "br0", 0);
    loaded.map_err(|e| Trouble::Setup(format!("{e}\n{text}")))
}

/// Addresses of one version, as flows write them.
struct Family {
    ip: &'static str,
    src: &'static str,
    dst: &'static str,
    v6: bool,
}

const FAMILIES: [Family; 2] = [
    Family { ip: "ip", src: "nw_src", dst: "nw_dst", v6: false },
    Family { ip: "ipv6", src: "ipv6_src", dst: "ipv6_dst", v6: true },
];

impl Family {
    /// The servers of a class.
    fn servers(&self, class: Class) -> String {
        let base = server(self.v6, class, 0) - 1;
        format!("{}/{}", text(self.v6, base), if self.v6 { 48 } else { 24 })
    }

    /// Addresses that NAT gives out, or leads to.
    fn own(&self, block: u32) -> u128 {
        own(self.v6, block)
    }

    fn net(&self, block: u32) -> String {
        format!("{}/{}", text(self.v6, self.own(block)), if self.v6 { 48 } else { 24 })
    }

    /// A range of them, in NAT's words.
    fn range(&self, block: u32, last: u128) -> String {
        let at = |n| match self.v6 {
            true => format!("[{}]", text(true, self.own(block) + n)),
            false => text(false, self.own(block) + n),
        };
        if last == 1 { at(1) } else { format!("{}-{}", at(1), at(last)) }
    }
}

/// An address of a block, to which the number of one is added.
pub fn own(v6: bool, block: u32) -> u128 {
    let block = u128::from(block);
    if v6 { 0x2001_0dba_u128 << 96 | block << 80 } else { 0xcb00_0000 | block << 8 }
}

/// Blocks of addresses of NAT: those that it gives out, and the ends that it leads to.
const POOL: u32 = 113;
const POOL_BOTH: u32 = 114;
const POOL_HELPED: u32 = 115;
pub const ENDS: u32 = 120;
pub const ENDS_BOTH: u32 = 121;

/// The groups of all variants.
fn groups() -> String {
    let mut t = String::new();
    for (f, variant) in FAMILIES.iter().flat_map(|f| (0..VARIANTS).map(move |v| (f, v))) {
        let _ = write!(t, "group add group_id={},type=select", group_of(f, variant));
        for n in 1..=3 + u128::from(variant) {
            let end = text(f.v6, f.own(ENDS) + n);
            let end = if f.v6 { format!("[{end}]") } else { end };
            let _ = write!(t, ",bucket=actions=ct(commit,table=2,zone=12,nat(dst={end}:8080))");
        }
        t.push('\n');
    }
    t
}

fn group_of(f: &Family, variant: u64) -> u64 {
    1 + 2 * variant + u64::from(f.v6)
}

/// Flows of a variant. Their matches are the same but for one, so that they take the place of
/// those before.
pub fn flows(variant: u64) -> String {
    let mut t = String::new();
    for f in &FAMILIES {
        translated(&mut t, f, variant);
        others(&mut t, f, variant);
    }
    for line in [
        "table=2,priority=9,ct_state=+inv actions=drop",
        "table=2,priority=1 actions=output:2",
        "table=3,priority=9,ct_state=+inv actions=drop",
        "table=3,priority=8,ct_state=+new-rel actions=drop",
        "table=3,priority=1 actions=output:1",
        "priority=0 actions=drop",
    ] {
        t += line;
        t.push('\n');
    }
    t
}

fn translated(t: &mut String, f: &Family, variant: u64) {
    let Family { ip, src, dst, .. } = f;
    let mode = ["", ",random", ",hash", ",persistent"][variant as usize % 4];
    let (snat, both) = (f.range(POOL, 2), f.range(POOL_BOTH, 1));
    let (ends, helped) = (f.range(ENDS_BOTH, 5 + u128::from(variant)), f.range(POOL_HELPED, 1));
    let class = |c| f.servers(c);
    let (d, b, h, s) =
        (class(Class::Dnat), class(Class::Both), class(Class::Helped), class(Class::Snat));
    let number = group_of(f, variant);
    let ftp = format!("nat(src={helped}:40000-40999)");
    let tcp = if f.v6 { "tcp6" } else { "tcp" };
    let udp = if f.v6 { "udp6" } else { "udp" };
    let lines = [
        format!(
            "priority=5,{ip},in_port=1,{dst}={s} \
             actions=ct(commit,table=2,zone=11,nat(src={snat}:20000-20031{mode}))"
        ),
        format!("priority=5,{ip},in_port=2,{dst}={} actions=ct(table=3,zone=11,nat)", f.net(POOL)),
        format!("priority=5,{tcp},in_port=1,{dst}={d} actions=group:{number}"),
        format!("priority=5,{udp},in_port=1,{dst}={d} actions=group:{number}"),
        format!("priority=5,{ip},in_port=2,{src}={} actions=ct(table=3,zone=12,nat)", f.net(ENDS)),
        format!(
            "priority=5,{ip},in_port=1,{dst}={b} \
             actions=ct(commit,table=5,zone=13,nat(dst={ends}{mode}))"
        ),
        format!(
            "table=5,{ip},ct_state=-inv \
             actions=ct(commit,table=2,zone=16,nat(src={both}:30000-30031))"
        ),
        format!(
            "priority=5,{ip},in_port=2,{dst}={} actions=ct(table=7,zone=16,nat)",
            f.net(POOL_BOTH)
        ),
        format!("table=7,{ip},ct_state=-inv actions=ct(table=3,zone=13,nat)"),
        format!(
            "priority=6,{tcp},in_port=1,{dst}={h},tp_dst=21 \
             actions=ct(commit,table=2,zone=15,alg=ftp,{ftp})"
        ),
        format!(
            "priority=6,{udp},in_port=1,{dst}={h},tp_dst=69 \
             actions=ct(commit,table=2,zone=15,alg=tftp,{ftp})"
        ),
        format!("priority=5,{ip},in_port=1,{dst}={h} actions=ct(table=9,zone=15,nat)"),
        format!("table=9,priority=5,{ip},ct_state=+new+rel actions=ct(commit,table=2,zone=15,nat)"),
        format!("table=9,priority=4,{ip},ct_state=+est actions=output:2"),
        format!(
            "priority=5,{ip},in_port=2,{dst}={} actions=ct(table=8,zone=15,nat)",
            f.net(POOL_HELPED)
        ),
        format!("table=8,priority=5,{ip},ct_state=+new+rel actions=ct(commit,table=3,zone=15,nat)"),
        format!("table=8,priority=4,{ip} actions=resubmit(,3)"),
    ];
    lines.iter().for_each(|l| {
        t.push_str(l);
        t.push('\n');
    });
}

fn others(t: &mut String, f: &Family, variant: u64) {
    let Family { ip, src, dst, .. } = f;
    let (p, l, c) = (f.servers(Class::Plain), f.servers(Class::Limited), f.servers(Class::Forced));
    let mark = format!("load:{variant:#x}->NXM_NX_CT_MARK[0..7]");
    let lines = [
        format!("priority=5,{ip},in_port=1,{dst}={p} actions=ct(table=1,zone=10)"),
        format!("priority=5,{ip},in_port=2,{src}={p} actions=ct(table=3,zone=10)"),
        format!(
            "table=1,priority=5,{ip},ct_state=+new-inv actions=ct(commit,zone=10,\
             exec({mark},load:0x5->NXM_NX_CT_LABEL[64..71])),output:2"
        ),
        format!("table=1,priority=4,{ip},ct_state=-new-inv,ct_mark={variant} actions=output:2"),
        // What an earlier program has marked.
        format!(
            "table=1,priority=3,{ip},ct_state=+est actions=ct(commit,zone=10,exec({mark})),output:2"
        ),
        format!("table=1,priority=2,{ip},ct_state=+rel actions=output:2"),
        format!("priority=5,{ip},in_port=1,{dst}={l} actions=ct(table=6,zone=14)"),
        format!("priority=5,{ip},in_port=2,{src}={l} actions=ct(table=3,zone=14)"),
        format!("table=6,priority=5,{ip},ct_state=+new-inv actions=ct(commit,zone=14),output:2"),
        format!("table=6,priority=4,{ip},ct_state=+est actions=output:2"),
        format!("priority=5,{ip},in_port=1,{dst}={c} actions=ct(commit,force,table=2,zone=17)"),
        format!("priority=5,{ip},in_port=2,{src}={c} actions=ct(commit,force,zone=17),output:1"),
    ];
    lines.iter().for_each(|l| {
        t.push_str(l);
        t.push('\n');
    });
}
