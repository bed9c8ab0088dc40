//! The actions that are generated: one line each, with how often it comes.
//!
//! Each line has an example. What sluice's parser does not take of them is left out of a run, and
//! named at its start, so that a verb is part of the language that both share as soon as sluice
//! reads it.

use sluice_control::replay::Caches;
use sluice_dataplane::packet::field::{FIELDS, Field, ones};

use super::super::case::{Case, CaseFlow, CasePacket};
use super::super::chance::Chance;
use super::matches::{KINDS, Kind, is_metadata, is_option};
use super::values;
use crate::differ::ours;

/// Where an action stands.
#[derive(Clone, Copy, Debug)]
pub struct Spot {
    pub kind: &'static Kind,
    /// The match makes sure of a tag.
    pub tagged: bool,
    pub table: u8,
    /// Tables of the program: 0 to this, without it.
    pub tables: u8,
    /// Devices of the bridge have the numbers from 1 to this.
    pub ports: u64,
    /// Groups of the bridge have the numbers from 1 to this; with any, there is meter 1.
    pub groups: u64,
    /// Lists around this one.
    pub depth: u8,
}

/// A kind of action.
pub struct Verb {
    pub name: &'static str,
    pub weight: u64,
    /// A flow with it, for the question whether sluice reads it.
    pub example: &'static str,
    pub make: fn(&Verbs, &Spot, &mut Chance) -> Option<String>,
}

// tidy: wide table
#[rustfmt::skip]
pub const VERBS: &[Verb] = &[
    Verb { name: "output", weight: 30, example: "actions=output:1", make: output },
    Verb { name: "resubmit", weight: 16, example: "actions=resubmit(,1)", make: resubmit },
    Verb { name: "goto_table", weight: 4, example: "actions=goto_table:1", make: goto },
    Verb { name: "set_field", weight: 14, example: "ip,actions=set_field:10.0.0.1->ip_src", make: set_field },
    Verb { name: "load", weight: 10, example: "actions=load:1->NXM_NX_REG0[]", make: load },
    Verb { name: "move", weight: 10, example: "actions=move:NXM_NX_REG0[]->NXM_NX_REG1[]", make: move_ },
    Verb { name: "mod_vlan_vid", weight: 3, example: "actions=mod_vlan_vid:5", make: |_, _, c| Some(format!("mod_vlan_vid:{}", vid(c))) },
    Verb { name: "mod_vlan_pcp", weight: 2, example: "actions=mod_vlan_pcp:5", make: |_, _, c| Some(format!("mod_vlan_pcp:{}", c.below(8))) },
    Verb { name: "strip_vlan", weight: 3, example: "actions=strip_vlan", make: |_, _, _| Some("strip_vlan".into()) },
    Verb { name: "pop_vlan", weight: 2, example: "actions=pop_vlan", make: |_, s, _| s.tagged.then(|| "pop_vlan".into()) },
    Verb { name: "push_vlan", weight: 4, example: "actions=push_vlan:0x8100", make: push_vlan },
    Verb { name: "mod_dl_src", weight: 3, example: "actions=mod_dl_src:02:00:00:00:00:01", make: |_, _, c| mac("mod_dl_src", c) },
    Verb { name: "mod_dl_dst", weight: 3, example: "actions=mod_dl_dst:02:00:00:00:00:01", make: |_, _, c| mac("mod_dl_dst", c) },
    Verb { name: "mod_nw_src", weight: 3, example: "ip,actions=mod_nw_src:10.0.0.1", make: |_, s, c| ipv4("mod_nw_src", s, c) },
    Verb { name: "mod_nw_dst", weight: 3, example: "ip,actions=mod_nw_dst:10.0.0.1", make: |_, s, c| ipv4("mod_nw_dst", s, c) },
    Verb { name: "mod_nw_tos", weight: 2, example: "ip,actions=mod_nw_tos:8", make: |_, s, c| number("mod_nw_tos", Field::IpTos, s, c) },
    Verb { name: "mod_nw_ecn", weight: 2, example: "ip,actions=mod_nw_ecn:1", make: |_, s, c| number("mod_nw_ecn", Field::IpEcn, s, c) },
    Verb { name: "mod_nw_ttl", weight: 2, example: "ip,actions=mod_nw_ttl:8", make: |_, s, c| number("mod_nw_ttl", Field::IpTtl, s, c) },
    Verb { name: "mod_tp_src", weight: 3, example: "tcp,actions=mod_tp_src:8", make: |_, s, c| transport("mod_tp_src", s, c) },
    Verb { name: "mod_tp_dst", weight: 3, example: "tcp,actions=mod_tp_dst:8", make: |_, s, c| transport("mod_tp_dst", s, c) },
    Verb { name: "dec_ttl", weight: 8, example: "ip,actions=dec_ttl", make: |_, s, _| is_ip(s).then(|| "dec_ttl".into()) },
    Verb { name: "NORMAL", weight: 6, example: "actions=NORMAL", make: |_, _, _| Some("NORMAL".into()) },
    Verb { name: "FLOOD", weight: 3, example: "actions=FLOOD", make: |_, _, _| Some("FLOOD".into()) },
    Verb { name: "ALL", weight: 2, example: "actions=ALL", make: |_, _, _| Some("ALL".into()) },
    Verb { name: "IN_PORT", weight: 4, example: "actions=IN_PORT", make: |_, _, _| Some("IN_PORT".into()) },
    Verb { name: "LOCAL", weight: 2, example: "actions=LOCAL", make: |_, _, _| Some("LOCAL".into()) },
    Verb { name: "clone", weight: 4, example: "actions=clone(output:1)", make: clone },
    Verb { name: "exit", weight: 1, example: "actions=exit", make: |_, _, _| Some("exit".into()) },
    Verb { name: "check_pkt_larger", weight: 3, example: "actions=check_pkt_larger(100)->NXM_NX_REG0[0]", make: check_pkt_larger },
    Verb { name: "ct_clear", weight: 1, example: "actions=ct_clear", make: |_, _, _| Some("ct_clear".into()) },
    Verb { name: "ct", weight: 0, example: "ip,actions=ct(table=1)", make: ct },
    Verb { name: "set_tunnel", weight: 1, example: "actions=set_tunnel:5", make: |_, _, c| Some(format!("set_tunnel:{}", c.below(4))) },
    Verb { name: "note", weight: 1, example: "actions=note:01.02", make: |_, _, _| Some("note:01.02.03.04.05.06".into()) },
    Verb { name: "push", weight: 4, example: "actions=push:NXM_NX_REG0[]", make: |_, s, c| Some(format!("push:{}", range(s, c, false)?.0)) },
    Verb { name: "pop", weight: 4, example: "actions=pop:NXM_NX_REG0[]", make: |_, s, c| Some(format!("pop:{}", range(s, c, true)?.0)) },
    Verb { name: "output_reg", weight: 3, example: "actions=output:NXM_NX_REG0[]", make: |_, _, c| Some(format!("output:{}[]", register(c))) },
    Verb { name: "output_trunc", weight: 2, example: "actions=output(port=1,max_len=64)", make: |_, s, c| Some(format!("output(port={},max_len={})", c.within(1, s.ports), c.within(14, 120))) },
    Verb { name: "write_metadata", weight: 2, example: "actions=write_metadata:1", make: |_, s, c| (s.depth == 0).then(|| format!("write_metadata:{}", c.below(4))) },
    Verb { name: "write_actions", weight: 4, example: "actions=write_actions(output:1)", make: write_actions },
    Verb { name: "clear_actions", weight: 1, example: "actions=clear_actions", make: |_, s, _| (s.depth == 0).then(|| "clear_actions".into()) },
    Verb { name: "multipath", weight: 1, example: "actions=multipath(symmetric_l4,50,modulo_n,1,0,NXM_NX_REG0[0..3])", make: multipath },
    Verb { name: "bundle", weight: 2, example: "actions=bundle(symmetric_l4,60,active_backup,ofport,slaves:1)", make: bundle },
    Verb { name: "learn", weight: 0, example: "actions=learn(table=1,NXM_OF_ETH_DST[]=NXM_OF_ETH_SRC[],output:NXM_OF_IN_PORT[])", make: learn },
    Verb { name: "group", weight: 10, example: "actions=group:1", make: |_, s, c| (s.groups > 0).then(|| format!("group:{}", c.within(1, s.groups))) },
    // At the head of lists, see `list`.
    Verb { name: "meter", weight: 0, example: "actions=meter:1,output:1", make: |_, _, _| None },
    Verb { name: "conjunction", weight: 0, example: "actions=conjunction(1,1/2)", make: |_, _, _| None },
    Verb { name: "push_mpls", weight: 3, example: "ip,actions=push_mpls:0x8847", make: |_, _, c| Some(format!("push_mpls:{:#x}", c.pick(&[0x8847, 0x8848]))) },
    Verb { name: "pop_mpls", weight: 3, example: "mpls,actions=pop_mpls:0x0800", make: |_, s, c| is_mpls(s).then(|| format!("pop_mpls:{:#x}", c.pick(&[0x0800, 0x8847, 0x86dd]))) },
    Verb { name: "dec_mpls_ttl", weight: 2, example: "mpls,actions=dec_mpls_ttl", make: |_, s, _| is_mpls(s).then(|| "dec_mpls_ttl".into()) },
    Verb { name: "set_mpls_ttl", weight: 1, example: "mpls,actions=set_mpls_ttl(3)", make: |_, s, c| is_mpls(s).then(|| format!("set_mpls_ttl({})", c.below(4))) },
    Verb { name: "enqueue", weight: 1, example: "actions=enqueue:1:0", make: |_, s, c| Some(format!("enqueue:{}:{}", c.within(1, s.ports), c.below(2))) },
    Verb { name: "set_queue", weight: 1, example: "actions=set_queue:1", make: |_, _, c| Some(format!("set_queue:{}", c.below(3))) },
    Verb { name: "pop_queue", weight: 1, example: "actions=pop_queue", make: |_, _, _| Some("pop_queue".into()) },
    Verb { name: "fin_timeout", weight: 1, example: "tcp,actions=fin_timeout(idle_timeout=100)", make: |_, s, _| (s.kind.ip_proto == 6).then(|| "fin_timeout(idle_timeout=100)".into()) },
    Verb { name: "controller", weight: 1, example: "actions=controller(max_len=64)", make: |_, _, _| Some("controller(max_len=64)".into()) },
    Verb { name: "sample", weight: 1, example: "actions=sample(probability=65535,collector_set_id=1)", make: |_, _, _| Some("sample(probability=65535,collector_set_id=1)".into()) },
];
// tidy: end of table

/// Whether sluice puts a second tag in front of a first one, as Open vSwitch does.
fn stacks() -> bool {
    let text = "actions=push_vlan:0x8100,push_vlan:0x88a8,output:2".to_owned();
    let bytes = vec![0; 60];
    let case = Case {
        flows: vec![CaseFlow { bridge: 0, cookie: 1, text }],
        packets: vec![CasePacket { port: "p1", bytes }],
        ..Case::default()
    };
    let out = ours::play(&case, Caches::default()).ok().and_then(|o| o.out.into_iter().next());
    out.is_some_and(|o| o.get("p2").is_some_and(|p| p.iter().any(|b| b.len() == 68)))
}

/// The verbs of a run.
pub struct Verbs {
    active: Vec<&'static Verb>,
    weights: Vec<u64>,
    /// `ct` comes with NAT, too.
    pub translates: bool,
}

impl Verbs {
    /// Those that sluice reads; and the names of the others.
    pub fn shared() -> (Self, Vec<&'static str>) {
        let reads = |v: &&Verb| ours::runs(v.example) && (v.name != "push_vlan" || stacks());
        let (active, missing): (Vec<&Verb>, Vec<&Verb>) = VERBS.iter().partition(reads);
        (Self::of(active), missing.iter().map(|v| v.name).collect())
    }

    fn of(active: Vec<&'static Verb>) -> Self {
        let weights = active.iter().map(|v| v.weight).collect();
        Self { active, weights, translates: false }
    }

    pub fn has(&self, name: &str) -> bool {
        self.active.iter().any(|v| v.name == name)
    }

    /// Whether lists get this verb.
    pub fn draws(&self, name: &str) -> bool {
        self.active.iter().zip(&self.weights).any(|(verb, weight)| verb.name == name && *weight > 0)
    }

    /// The same with other weights: some programs are mostly about one thing.
    pub fn leaning(&self, c: &mut Chance) -> Self {
        let mut own = Self::of(self.active.clone());
        for (weight, verb) in own.weights.iter_mut().zip(&own.active) {
            let factor = match verb.name {
                "ct" if c.percent(15) => {
                    *weight = 12;
                    1
                }
                "learn" if c.percent(10) => {
                    *weight = 6;
                    1
                }
                // Flows are not counted behind it, see `normal`.
                "check_pkt_larger" => u64::from(c.percent(10)),
                "output" | "resubmit" | "group" => 4,
                _ => c.weighted(&[2, 3, 0, 0, 3, 0, 0, 0, 0, 0, 0, 0, 1]) as u64,
            };
            *weight *= factor;
        }
        own.part(c);
        own
    }

    /// Keeps apart what is not to meet. Truncation and changes of length: Open vSwitch cuts as many
    /// bytes as the frame had too many before the tags that are due were written.
    fn part(&mut self, c: &mut Chance) {
        let truncates = c.percent(15);
        for (weight, verb) in self.weights.iter_mut().zip(&self.active) {
            let is_tag = verb.name.contains("vlan") || verb.name.contains("mpls");
            // NORMAL leaves out priority tags.
            let resizes = is_tag || verb.name == "NORMAL";
            let leaves = if truncates { resizes } else { verb.name == "output_trunc" };
            *weight = if leaves { 0 } else { *weight };
        }
        // A packet does not see what it taught, here; in Open vSwitch it does when it runs through
        // the datapath anew.
        if self.draws("learn") {
            self.forgo(&["ct", "pop_mpls"]);
        }
        // What sees a translation, see `normal`.
        self.translates = self.draws("ct") && c.percent(50);
        if self.translates {
            self.forgo(&["clone", "group"]);
        }
    }

    fn forgo(&mut self, names: &[&str]) {
        for (weight, verb) in self.weights.iter_mut().zip(&self.active) {
            *weight = if names.contains(&verb.name) { 0 } else { *weight };
        }
    }

    /// A list of actions.
    pub fn list(&self, spot: &Spot, c: &mut Chance) -> String {
        let wanted = 1 + c.weighted(&[4, 5, 4, 2, 1]);
        let mut list: Vec<String> = Vec::new();
        let mut here = *spot;
        if spot.depth == 0 && spot.groups > 0 && self.has("meter") && c.percent(10) {
            list.push("meter:1".into());
        }
        while list.len() < wanted {
            let verb = self.active[c.weighted(&self.weights)];
            let Some(text) = (verb.make)(self, &here, c) else { continue };
            match verb.name {
                "push_vlan" | "mod_vlan_vid" | "mod_vlan_pcp" => here.tagged = true,
                "pop_vlan" | "strip_vlan" => here.tagged = false,
                // Behind a change of the Ethernet type nothing of the match is certain.
                "push_mpls" | "pop_mpls" => here.kind = &KINDS[0],
                _ => {}
            }
            // What becomes an instruction of its own comes last.
            let ends = matches!(
                verb.name,
                "goto_table" | "exit" | "write_actions" | "clear_actions" | "write_metadata"
            );
            list.push(text);
            if ends {
                return list.join(",");
            }
            if list.last().is_some_and(|text| text.contains("nat")) {
                break;
            }
        }
        if spot.depth == 0 && c.percent(60) {
            list.extend(output(self, spot, c));
        }
        list.join(",")
    }
}

fn is_ip(s: &Spot) -> bool {
    matches!(s.kind.eth_type, 0x0800 | 0x86dd)
}

fn is_mpls(s: &Spot) -> bool {
    s.kind.eth_type == 0x8847
}

fn vid(c: &mut Chance) -> u64 {
    u64::from(values::tci(c) & 0xfff)
}

fn output(_: &Verbs, s: &Spot, c: &mut Chance) -> Option<String> {
    let port = match c.below(20) {
        0 => 99,
        1..=4 => 10,
        5 => 11,
        _ => c.within(1, s.ports),
    };
    Some(format!("output:{port}"))
}

fn resubmit(_: &Verbs, s: &Spot, c: &mut Chance) -> Option<String> {
    let back = c.percent(6) || s.table + 1 >= s.tables;
    let table = if back {
        u64::from(s.table) - c.below(u64::from(s.table) + 1)
    } else {
        c.within(u64::from(s.table) + 1, u64::from(s.tables) - 1)
    };
    if back && !c.percent(20) {
        return None;
    }
    match c.below(10) {
        0 => Some(format!("resubmit({},{table})", c.within(1, s.ports))),
        1 if back => Some(format!("resubmit:{}", c.within(1, s.ports))),
        _ => Some(format!("resubmit(,{table})")),
    }
}

fn goto(_: &Verbs, s: &Spot, c: &mut Chance) -> Option<String> {
    let fits = s.depth == 0 && s.table + 1 < s.tables;
    fits.then(|| {
        format!("goto_table:{}", c.within(u64::from(s.table) + 1, u64::from(s.tables) - 1))
    })
}

/// Fields that this list may write (or only read).
fn fields(s: &Spot, c: &mut Chance, written: bool) -> Vec<Field> {
    let rare = c.percent(15);
    let common = |f: Field| {
        !is_metadata(f)
            || rare
            || matches!(f, Field::Reg0 | Field::Reg1 | Field::Metadata | Field::Reg4 | Field::Xreg0)
    };
    let all = FIELDS.iter().filter(|f| {
        let name = f.name;
        let is_ct = name.starts_with("ct_") || name == "conj_id";
        let is_odd = matches!(f.id, Field::TunTos | Field::TunTtl | Field::VlanTpid)
            || is_option(f.id)
            // Open vSwitch takes it by OpenFlow 1.0 and cannot show it by later versions.
            || f.id == Field::InPortOxm;
        let is_tag = name.starts_with("vlan") || name.starts_with("dl_vlan");
        (f.writable || !written)
            && !is_ct
            && !name.starts_with("tun_metadata")
            && !is_odd
            && (!is_tag || s.tagged)
            && s.kind.has(f.id, s.tagged)
            && common(f.id)
    });
    all.map(|f| f.id).filter(|f| *f != Field::InPort || rare).collect()
}

fn set_field(_: &Verbs, s: &Spot, c: &mut Chance) -> Option<String> {
    let fields = fields(s, c, true);
    let field = *c.pick(&fields);
    let info = field.info();
    if matches!(field, Field::TunFlags) || info.aliases.is_empty() {
        return None;
    }
    let value = values::draw(field, c);
    let mask = if c.percent(20) { values::mask(info, c) } else { ones(info.bits) };
    let (text, _) = values::write(info, value, mask)?;
    Some(format!("set_field:{text}->{}", info.name))
}

/// A range of a field, as `load`, `move`, `push` and `pop` name it, and its width.
fn range(s: &Spot, c: &mut Chance, written: bool) -> Option<(String, u8, Field)> {
    let fields = fields(s, c, written);
    let field = *c.pick(&fields);
    let info = field.info();
    let name = info.aliases.first()?;
    // Their text forms have other widths than their bits.
    if matches!(field, Field::VlanVid | Field::TunFlags) {
        return None;
    }
    if c.percent(60) || field == Field::InPort {
        return Some((format!("{name}[]"), info.bits, field));
    }
    let lo = c.below(u64::from(info.bits)) as u8;
    let hi = c.within(u64::from(lo), u64::from(info.bits) - 1) as u8;
    Some((format!("{name}[{lo}..{hi}]"), hi - lo + 1, field))
}

fn load(_: &Verbs, s: &Spot, c: &mut Chance) -> Option<String> {
    let (text, bits, field) = range(s, c, true)?;
    let value = values::draw(field, c) & ones(bits.min(64));
    Some(format!("load:{value:#x}->{text}"))
}

fn move_(_: &Verbs, s: &Spot, c: &mut Chance) -> Option<String> {
    for _ in 0..20 {
        let (src, dst) = (range(s, c, false)?, range(s, c, true)?);
        if src.1 == dst.1 && src.0 != dst.0 {
            return Some(format!("move:{}->{}", src.0, dst.0));
        }
        // The same width by cutting the wider one.
        let bits = src.1.min(dst.1);
        let cut = |r: &(String, u8, Field)| {
            let name = r.2.info().aliases.first().copied().unwrap_or_default();
            format!("{name}[0..{}]", bits - 1)
        };
        if bits > 1 && src.2 != dst.2 {
            return Some(format!("move:{}->{}", cut(&src), cut(&dst)));
        }
    }
    None
}

fn push_vlan(_: &Verbs, s: &Spot, c: &mut Chance) -> Option<String> {
    let tpid = if c.percent(25) { 0x88a8 } else { 0x8100 };
    (!s.tagged || c.percent(30)).then(|| format!("push_vlan:{tpid:#x}"))
}

fn mac(word: &str, c: &mut Chance) -> Option<String> {
    let value = values::draw(Field::EthSrc, c);
    Some(format!("{word}:{}", values::write(Field::EthSrc.info(), value, ones(48))?.0))
}

fn ipv4(word: &str, s: &Spot, c: &mut Chance) -> Option<String> {
    let value = values::draw(Field::IpSrc, c);
    let text = values::write(Field::IpSrc.info(), value, ones(32))?.0;
    (s.kind.eth_type == 0x0800).then(|| format!("{word}:{text}"))
}

fn number(word: &str, field: Field, s: &Spot, c: &mut Chance) -> Option<String> {
    let value = values::draw(field, c);
    let value = if field == Field::IpTos { value & 0xfc } else { value };
    is_ip(s).then(|| format!("{word}:{value}"))
}

fn transport(word: &str, s: &Spot, c: &mut Chance) -> Option<String> {
    let has = matches!(s.kind.ip_proto, 6 | 17 | 132);
    has.then(|| format!("{word}:{}", values::draw(Field::TcpSrc, c)))
}

fn clone(v: &Verbs, s: &Spot, c: &mut Chance) -> Option<String> {
    if s.depth >= 2 {
        return None;
    }
    let inner = Spot { depth: s.depth + 1, ..*s };
    Some(format!("clone({})", v.list(&inner, c)))
}

fn check_pkt_larger(_: &Verbs, _: &Spot, c: &mut Chance) -> Option<String> {
    let bit = c.below(3);
    Some(format!("check_pkt_larger({})->{}[{bit}]", c.within(40, 200), register(c)))
}

fn register(c: &mut Chance) -> &'static str {
    const FEW: [&str; 3] = ["NXM_NX_REG0", "NXM_NX_REG1", "NXM_NX_REG4"];
    FEW[c.below(3) as usize]
}

fn ct(v: &Verbs, s: &Spot, c: &mut Chance) -> Option<String> {
    if !is_ip(s) {
        return None;
    }
    let mut words: Vec<String> = Vec::new();
    let commit = c.percent(50);
    if commit {
        words.push("commit".into());
        if c.percent(10) {
            words.push("force".into());
        }
    }
    if c.percent(50) {
        words.push(format!("zone={}", c.below(3)));
    }
    if c.percent(70) && s.table + 1 < s.tables {
        let table = c.within(u64::from(s.table) + 1, u64::from(s.tables) - 1);
        words.push(format!("table={table}"));
    }
    if v.translates && c.percent(60) {
        words.push(nat(commit, s, c)?);
    }
    if commit && c.percent(40) {
        let value = c.below(4);
        let field = c.pick(&["ct_mark", "ct_label"]);
        words.push(format!("exec(set_field:{value}->{field})"));
    }
    Some(format!("ct({})", words.join(",")))
}

/// A translation to one address, and mostly one port, or that of the connection. Which of several
/// ports one gets is each switch's own business.
fn nat(commit: bool, s: &Spot, c: &mut Chance) -> Option<String> {
    if !commit || c.percent(20) {
        return Some("nat".into());
    }
    let side = c.pick(&["src", "dst"]);
    let v4 = s.kind.eth_type == 0x0800;
    let field = if v4 { Field::IpSrc } else { Field::Ipv6Src };
    let address = values::write(field.info(), values::draw(field, c), ones(field.info().bits))?.0;
    let address = if v4 { address } else { format!("[{address}]") };
    Some(format!("nat({side}={address}:{})", values::draw(Field::TcpSrc, c).max(1)))
}

fn write_actions(v: &Verbs, s: &Spot, c: &mut Chance) -> Option<String> {
    if s.depth > 0 {
        return None;
    }
    let inner = Spot { depth: 9, ..*s };
    let mut list = vec![output(v, s, c)?];
    if c.percent(40) {
        list.insert(0, set_field(v, &inner, c)?);
    }
    Some(format!("write_actions({})", list.join(",")))
}

/// One link: which of several a hash chooses is each switch's own business.
fn multipath(_: &Verbs, _: &Spot, c: &mut Chance) -> Option<String> {
    let how = c.pick(&["modulo_n", "hash_threshold", "hrw"]);
    Some(format!("multipath(symmetric_l4,50,{how},1,0,{}[0..3])", register(c)))
}

fn bundle(_: &Verbs, s: &Spot, c: &mut Chance) -> Option<String> {
    let (a, b) = (c.within(1, s.ports), c.within(1, s.ports));
    Some(format!("bundle(symmetric_l4,60,active_backup,ofport,slaves:{a},{b})"))
}

/// Few actions teach flows of the same priority: which of two such a packet meets is open.
fn learn(_: &Verbs, s: &Spot, c: &mut Chance) -> Option<String> {
    let table = c.within(0, u64::from(s.tables) - 1);
    let priority = 1 + c.below(65535);
    let mut words = vec![match c.below(4) {
        0 => "NXM_OF_ETH_DST[]=NXM_OF_ETH_SRC[]".to_owned(),
        1 => "NXM_OF_ETH_SRC[]".to_owned(),
        2 => "NXM_OF_VLAN_TCI[0..11],NXM_OF_ETH_DST[]".to_owned(),
        _ if s.kind.eth_type == 0x0800 => "eth_type=0x800,NXM_OF_IP_DST[]=NXM_OF_IP_SRC[]".into(),
        _ => format!("NXM_OF_IN_PORT[],NXM_NX_REG0[0..3]={}", c.below(4)),
    }];
    words.extend(match c.below(4) {
        0 => None,
        1 => Some(format!("load:{}->{}[0..3]", c.below(4), register(c))),
        2 => Some(format!("load:NXM_OF_IN_PORT[]->{}[0..15]", register(c))),
        _ => Some("load:NXM_OF_ETH_SRC[]->NXM_OF_ETH_DST[]".into()),
    });
    words.push("output:NXM_OF_IN_PORT[]".into());
    let limit = if c.percent(20) { format!(",limit={}", c.within(1, 3)) } else { String::new() };
    Some(format!("learn(table={table},priority={priority}{limit},{})", words.join(",")))
}
