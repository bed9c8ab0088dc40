//! Programs and packets by chance, over so few values that they meet.

use crate::chance_verbs::{furnish, verb};
use crate::kit::*;
use crate::packets::*;
use sluice_dataplane::action::{Action, PORT_NONE};
use sluice_dataplane::conntrack::NatKind;
use sluice_dataplane::packet::build::PacketBuilder;
use sluice_dataplane::packet::field::{FIELDS, Field};
use sluice_dataplane::packet::key::{PacketKey, PortIx};
use sluice_dataplane::packet::l4sum;
use sluice_dataplane::packet::parse::{Layers, parse};
use sluice_dataplane::pipeline::PortRole;
use sluice_dataplane::tunnel::{TunnelConfig, TunnelKey, TunnelRemote};

/// splitmix64.
pub struct Chance(pub u64);

impl Chance {
    pub fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let z = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    pub fn below(&mut self, n: u64) -> u64 {
        self.next() % n
    }

    pub fn one_in(&mut self, n: u64) -> bool {
        self.below(n) == 0
    }

    pub fn of<T: Clone>(&mut self, list: &[T]) -> T {
        list[self.below(list.len() as u64) as usize].clone()
    }
}

const MACS: [[u8; 6]; 4] = [A, B, [2, 0, 0, 0, 0, 0xc], BROADCAST];
const IPS: [[u8; 4]; 3] = [IP_A, IP_B, [192, 168, 1, 3]];
const L4_PORTS: [u16; 3] = [80, 1000, 2000];
/// Where NAT leads to.
const OUTSIDE: [u8; 4] = [203, 0, 113, 1];

fn number(bytes: &[u8]) -> u128 {
    bytes.iter().fold(0, |n, b| n << 8 | u128::from(*b))
}

/// A value that packets have in this field.
fn value(c: &mut Chance, f: Field) -> u128 {
    use Field::*;
    match f {
        InPort => c.below(6).into(),
        EthDst | EthSrc | ArpSha | ArpTha | NdSll | NdTll => number(&c.of(&MACS)),
        EthType => c.of(&[0x0800, 0x0806, 0x86dd, 0x8847, 0x8100]),
        VlanTci => c.of(&[0, 0x1000, 0x100a, 0x700a, 0x1014]),
        MplsLabel => c.of(&[16, 17, 0]),
        MplsTtl => c.of(&[64, 1, 2]),
        IpProto => c.of(&[1, 6, 17, 58]),
        IpSrc | IpDst | ArpSpa | ArpTpa | CtNwSrc | CtNwDst => number(&c.of(&IPS)),
        TunSrc | TunDst => number(&c.of(&[PEER_IP, LOCAL_IP])),
        Ipv6Src | Ipv6Dst | NdTarget => number(&c.of(&[V6_A, V6_B])),
        TcpSrc | TcpDst | UdpSrc | UdpDst | CtTpSrc | CtTpDst => c.of(&L4_PORTS).into(),
        IcmpType | Icmpv6Type => c.of(&[0, 8, 128, 129, 135]),
        IpFrag => c.below(4).into(),
        TcpFlags => c.of(&[2, 0x10, 0x12, 1]),
        IpTtl => c.of(&[64, 63, 1]),
        Reg0 if c.one_in(8) => c.of(&[0xfff8, 0xfffa, 0xfffb, 0xfffd]),
        TunId => c.of(&[u128::from(VNI), 5]),
        CtState => c.of(&[0x21, 0x22, 0x2a, 0x30, 0x61, 0x62]),
        CtZone => c.below(3).into(),
        _ => c.below(3).into(),
    }
}

fn mask(c: &mut Chance) -> u128 {
    c.of(&[u128::MAX, u128::MAX, u128::MAX, 1, 0xff, !0xff, 0x20, 0x2, 0x1000])
}

const WRITABLE: [Field; 32] = [
    Field::InPort,
    Field::Metadata,
    Field::TunId,
    Field::TunDst,
    Field::CtMark,
    Field::Reg0,
    Field::Reg1,
    Field::Xreg0,
    Field::EthDst,
    Field::EthSrc,
    Field::VlanTci,
    Field::VlanPcp,
    Field::MplsLabel,
    Field::MplsTc,
    Field::MplsTtl,
    Field::IpSrc,
    Field::IpDst,
    Field::Ipv6Src,
    Field::Ipv6Dst,
    Field::Ipv6Label,
    Field::IpTos,
    Field::IpDscp,
    Field::IpTtl,
    Field::ArpOp,
    Field::ArpSpa,
    Field::ArpTha,
    Field::TcpDst,
    Field::UdpSrc,
    Field::UdpDst,
    Field::IcmpCode,
    Field::NdTarget,
    Field::NdSll,
];

fn ct_by_chance(c: &mut Chance, tables: u8) -> Action {
    let mut s = ct(c.below(3) as u16);
    if c.one_in(2) {
        s = s.commit();
    }
    if c.one_in(10) {
        s = s.force();
    }
    if !c.one_in(4) {
        s = s.table(c.below(tables.into()) as u8);
    }
    s = match c.below(6) {
        0 => s.nat_to(NatKind::Src, OUTSIDE, None),
        1 => s.nat_to(NatKind::Src, OUTSIDE, Some((5000, 5001))),
        2 => s.nat_to(NatKind::Dst, IPS[2], Some((80, 80))),
        3 | 4 => s.nat(),
        _ => s,
    };
    if c.one_in(4) {
        let v = c.below(3).into();
        let m = mask(c);
        s = s.exec([set_masked(Field::CtMark, v, m), mv(Field::Reg0, Field::CtLabel)]);
    }
    s.go()
}

pub fn action(c: &mut Chance, tables: u8, deep: bool) -> Action {
    let table = c.below(tables.into()) as u8;
    match c.below(50) {
        0..=5 => out(c.of(&[1, 2, 3, 4, 5, 9, 77])),
        6 => Action::InPort,
        7 => c.of(&[Action::Flood, Action::All]),
        8 | 9 => Action::Normal,
        10..=14 => {
            let f = c.of(&WRITABLE);
            let v = value(c, f);
            let m = mask(c);
            set_masked(f, v, m)
        }
        15 | 16 => {
            let (a, b) = (c.of(FIELDS_OF_PACKETS), c.of(&WRITABLE));
            mv(a, b)
        }
        17 => Action::ModVlan { vid: c.one_in(2).then_some(10), pcp: c.one_in(2).then_some(3) },
        18 => c.of(&[Action::PushVlan { tpid: 0x8100 }, Action::PushVlan { tpid: 0x88a8 }]),
        19 => Action::PopVlan,
        20 => Action::DecTtl,
        21 | 22 => resubmit(table),
        23 => Action::Resubmit {
            in_port: Some(c.of(&[1, 2, 3, PORT_NONE])),
            table: c.one_in(2).then_some(table),
            with_ct: false,
        },
        24 => Action::Goto(tables - 1),
        25 => Action::CheckPktLarger {
            len: c.of(&[40, 60, 100, 1400]),
            dst: Field::Reg0.info().range(0, 0).unwrap(),
        },
        26 => c.of(&[Action::CtClear, Action::Exit]),
        28..=31 => mpls_action(c),
        32 => {
            let v = option_value(c);
            Action::Clone(
                set_option(c.of(&[0, 1, 7]), v).into_iter().chain([out(c.of(&[5, 9]))]).collect(),
            )
        }
        33 => c.of(&[
            Action::DeleteField(Field::TunMetadata0),
            Action::DeleteField(Field::TunMetadata7),
            Action::DeleteField(Field::TunMetadata9),
        ]),
        36.. => verb(c, tables, deep),
        27 if deep => Action::Clone((0..2).map(|_| action(c, tables, false)).collect()),
        _ => ct_by_chance(c, tables),
    }
}

fn option_value(c: &mut Chance) -> u128 {
    c.of(&[0, 1, 2, 0xffff_0000_0000_0001])
}

/// Options as a peer might send them, mapped ones and others.
fn options(c: &mut Chance) -> Vec<u8> {
    let mut all = Vec::new();
    for _ in 0..c.below(4) {
        let (head, len): ([u8; 3], u8) = c.of(&[
            ([1, 2, 0x80], 4),
            ([1, 2, 0x80], 4),
            ([1, 2, 1], 8),
            ([0xff, 0xff, 2], 16),
            ([0, 7, 1], 4),
        ]);
        let len = if c.one_in(30) { 20 } else { len };
        all.extend(head);
        all.push(len / 4);
        let v = option_value(c).to_be_bytes();
        all.extend([&[0; 4][..], &v].concat().split_off(20 - usize::from(len)));
    }
    all
}

fn mpls_action(c: &mut Chance) -> Action {
    match c.below(8) {
        0..=2 => Action::PushMpls(c.of(&[0x8847, 0x8848])),
        3..=5 => Action::PopMpls(c.of(&[0x0800, 0x0800, 0x86dd, 0x0806, 0x8847, 0x88cc])),
        6 => Action::DecMplsTtl,
        _ => Action::SetMplsTtl(c.of(&[1, 64])),
    }
}

const FIELDS_OF_PACKETS: &[Field] = &[
    Field::MplsLabel,
    Field::MplsBos,
    Field::InPort,
    Field::EthSrc,
    Field::EthDst,
    Field::VlanTci,
    Field::IpSrc,
    Field::IpDst,
    Field::IpTtl,
    Field::Ipv6Src,
    Field::TcpSrc,
    Field::UdpDst,
    Field::TunId,
    Field::TunSrc,
    Field::Reg0,
    Field::CtMark,
    Field::CtState,
    Field::CtNwDst,
    Field::ArpSha,
    Field::NdTarget,
    Field::Icmpv6Type,
    Field::TcpFlags,
];

/// A few actions, most of the time with a way out at the end.
pub fn actions(c: &mut Chance, tables: u8) -> Vec<Action> {
    let n = c.below(3);
    let mut list: Vec<Action> = (0..n).map(|_| action(c, tables, true)).collect();
    if !c.one_in(4) {
        list.push(match c.below(6) {
            0 => Action::Normal,
            1 => resubmit(tables - 1),
            _ => out(c.of(&[1, 2, 3, 4, 5, 9])),
        });
    }
    list
}

/// A flow of one of the tables that matches on a field or two.
pub fn a_flow(c: &mut Chance, tables: u8) -> Flow {
    use Field::*;
    let mut f = flow(c.below(tables.into()) as u8, 9 + c.below(6) as u16);
    for _ in 0..1 + c.below(2) {
        let field = if c.one_in(3) {
            FIELDS[c.below(FIELDS.len() as u64) as usize].id
        } else {
            c.of(&[InPort, EthType, IpProto, CtState, Reg0, Reg0, CtMark, IpDst, UdpDst])
        };
        let (v, m) = (value(c, field), mask(c));
        f = f.masked(field, v, if field == CtState { v } else { m });
    }
    if c.one_in(8) {
        let v = option_value(c);
        f = f.option(c.of(&[0, 1, 7]), v, c.of(&[0, 1, u128::MAX]));
    }
    f.does(actions(c, tables))
}

fn rules(c: &mut Chance, tables: u8) -> Vec<Flow> {
    let mut list = Vec::new();
    for table in 0..tables {
        for n in 0..c.below(4) {
            list.push(Flow { table, priority: 10 + n as u16, ..a_flow(c, tables) });
        }
        if !c.one_in(8) {
            list.push(flow(table, 1).does(actions(c, tables)));
        }
    }
    list
}

/// A firewall with NAT, somewhat: what is new may be committed, what is established passes.
pub fn stateful(c: &mut Chance) -> Vec<Flow> {
    let zone = c.below(3) as u16;
    let nat = c.one_in(2);
    let with = |s: CtSpec| if nat { s.nat() } else { s };
    let mut commit = ct(zone).commit();
    if nat {
        commit = match c.below(3) {
            0 => commit.nat_to(NatKind::Src, OUTSIDE, None),
            1 => commit.nat_to(NatKind::Src, OUTSIDE, Some((5000, 5003))),
            _ => commit.nat_to(NatKind::Dst, IPS[2], None),
        };
    }
    if c.one_in(3) {
        let v = c.below(3).into();
        commit = commit.exec([set(Field::CtMark, v)]);
    }
    if c.one_in(2) {
        commit = commit.table(2);
    }
    let is = |t, state: u128| flow(t, 50).masked(Field::CtState, state, state);
    let track = with(ct(zone)).table(1).go();
    let mut list = Vec::new();
    for eth_type in [0x0800, 0x86dd] {
        let mut before: Vec<Action> = Vec::new();
        if c.one_in(3) {
            before.push(action(c, 3, true));
        }
        let f = flow(0, 50).is(Field::EthType, eth_type);
        list.push(f.does(before.into_iter().chain([track.clone()])));
    }
    let to = [out(c.of(&[2, 3, 5])), out(c.of(&[1, 9])), Action::Normal];
    list.push(is(1, 0x21).does([commit.go(), c.of(&to)]));
    list.push(is(1, 0x22).does([c.of(&to)]));
    list.push(is(1, 0x30).does([out(4)]));
    list.push(is(1, 0x24).does([c.of(&to)]));
    list.push(flow(2, 1).does([c.of(&to)]));
    list
}

/// Has flows look at packets where they have been translated, and are not seen so yet.
pub fn look_behind(net: &mut Net, c: &mut Chance) {
    let turns = |a: &Action| matches!(a, Action::Ct(ct) if ct.nat.is_some() && ct.table.is_none());
    for f in net.flows[0].iter_mut().filter(|f| f.table < 2 && f.actions.iter().any(turns)) {
        if c.one_in(3) {
            f.actions.push(action(c, 3, true));
        }
        f.actions.push(resubmit(2));
    }
    for (field, end) in [(Field::IpSrc, OUTSIDE), (Field::IpSrc, IP_A), (Field::IpDst, IPS[2])] {
        if c.one_in(2) {
            let to = c.of(&[2, 3, 9]);
            let f = flow(2, 60).is(Field::EthType, 0x0800).is(field, number(&end));
            net.flows[0].push(f.does([out(to)]));
        }
    }
}

/// A switch by chance.
pub fn net(c: &mut Chance) -> Net {
    let tables = 1 + c.below(4) as u8;
    let mut net = Net::of(rules(c, tables));
    if c.one_in(2) {
        net = net.flows(0, stateful(c));
    }
    net.flows[1] = rules(c, 1 + tables / 2);
    net.flows[2] = vec![flow(0, 1).does([Action::Normal])];
    let remote =
        if c.one_in(3) { TunnelRemote::Flow } else { TunnelRemote::Address(PEER_IP.into()) };
    let key = if c.one_in(2) { TunnelKey::Flow } else { TunnelKey::Number(VNI) };
    let csum = c.one_in(2);
    net.port(TUNNEL).role =
        PortRole::Tunnel(TunnelConfig { remote, key, csum, ..tunnel_config() }.into());
    if c.one_in(6) {
        net.underlay.neighbours.clear();
    }
    net.vlan_limit = c.of(&[1, 1, 2]);
    net = furnish(c, net, tables);
    for p in [1, 2] {
        net.port(p).up = !c.one_in(8);
        net.port(p).partial_checksums = c.one_in(3);
        net.port(p).checksums_good = c.one_in(4);
    }
    net
}

/// A packet by chance, with the port it comes in by.
pub fn packet(c: &mut Chance) -> (u16, Vec<u8>) {
    let p = PacketBuilder::eth(c.of(&MACS[..3]), c.of(&MACS));
    let p = if c.one_in(5) { p.vlan(10, c.below(4) as u8) } else { p };
    let p = if c.one_in(8) { p.tag(c.of(&[0x8100, 0x88a8]), 20) } else { p };
    let labels = if c.one_in(5) { 1 + c.below(4) } else { 0 };
    let p = (0..labels).fold(p, |p, n| p.mpls(16 + n as u32, 0, c.of(&[64, 64, 1])));
    let (sp, dp) = (c.of(&L4_PORTS), c.of(&L4_PORTS));
    let v6 = c.one_in(4);
    let p = if v6 {
        p.ipv6(c.of(&[V6_A, V6_B]), c.of(&[V6_A, V6_B]))
    } else {
        p.ipv4(c.of(&IPS), c.of(&IPS))
    };
    let p = p.tos(c.of(&[0, 0, 1, 3, 40])).ttl(c.of(&[64, 64, 2, 1]));
    let len = c.below(4) as usize * 30;
    let bytes = match c.below(12) {
        0..=4 => p.udp(sp, dp).payload(&vec![1; len]).build(),
        5..=7 => {
            let (seq, ack) = (c.below(3) as u32 * 40, c.below(3) as u32 * 40);
            let flags = c.of(&[2, 0x10, 0x10, 0x12, 0x18, 0x11, 4]);
            p.tcp(sp, dp).seq(seq).ack(ack).flags(flags).payload(&vec![2; len]).build()
        }
        8 => p.echo_request(c.below(2) as u16, 1).payload(&vec![3; len]).build(),
        9 => {
            let all = of_every_kind();
            c.of(&all)
        }
        10 => {
            let at = c.of(&[0, 24]);
            p.fragment(7, at, c.one_in(2)).udp(sp, dp).payload(&[4; 40]).build()
        }
        _ => arp(),
    };
    if c.one_in(8) {
        let outer = PacketBuilder::eth(PEER_MAC, NIC_MAC).ipv4(PEER_IP, LOCAL_IP);
        let outer = outer.udp(50_000, 6081).no_checksum();
        return (NIC, outer.geneve_with(VNI, &options(c), &bytes).build());
    }
    (c.of(&[1, 1, 2, 2, 3, 4, FAR_2]), bytes)
}

/// What a host behind the port might answer to a packet that was sent to it.
pub fn answer(c: &mut Chance, sent: &[u8]) -> Option<Vec<u8>> {
    let mut bytes = sent.to_vec();
    if c.one_in(12) {
        let quoted = PacketBuilder::eth(B, A).ipv4([192, 168, 9, 9], sent.get(26..30).map(four)?);
        return Some(quoted.icmp_error(3, 1, [0; 4], sent).build());
    }
    reverse(c, &mut bytes)?;
    Some(bytes)
}

fn four(b: &[u8]) -> [u8; 4] {
    [b[0], b[1], b[2], b[3]]
}

fn swap(bytes: &mut [u8], a: usize, b: usize, n: usize) {
    (0..n).for_each(|i| bytes.swap(a + i, b + i));
}

fn reverse(c: &mut Chance, bytes: &mut [u8]) -> Option<()> {
    let (mut key, mut layers) = (PacketKey::default(), Layers::default());
    parse(bytes, PortIx(0), &mut key, &mut layers).ok()?;
    swap(bytes, 0, 6, 6);
    let (l3, l4) = (usize::from(layers.l3), usize::from(layers.l4));
    match key.base.eth_type {
        [8, 0] if layers.end > 0 => swap(bytes, l3 + 12, l3 + 16, 4),
        [0x86, 0xdd] if layers.end > 0 => swap(bytes, l3 + 8, l3 + 24, 16),
        _ => return Some(()),
    }
    if l4 == 0 {
        return Some(());
    }
    match key.base.ip_proto {
        17 if key.base.tp_dst == 6081u16.to_be_bytes() => {
            let options = usize::from(bytes.get(l4 + 8)? & 0x3f) * 4;
            reverse(c, bytes.get_mut(l4 + 16 + options..)?)?;
        }
        17 => swap(bytes, l4, l4 + 2, 2),
        6 => {
            swap(bytes, l4, l4 + 2, 2);
            let seq = u32::from_be_bytes(four(bytes.get(l4 + 4..l4 + 8)?));
            let more = usize::from(layers.end).saturating_sub(usize::from(layers.payload)) as u32;
            let flags = bytes[l4 + 13];
            swap(bytes, l4 + 4, l4 + 8, 4);
            let ack = seq.wrapping_add(more).wrapping_add(u32::from(flags & 3 != 0));
            bytes[l4 + 8..l4 + 12].copy_from_slice(&ack.to_be_bytes());
            bytes[l4 + 13] = match flags & 0x17 {
                2 => 0x12,
                _ if c.one_in(12) => 0x11,
                _ if c.one_in(12) => 4,
                _ => 0x10,
            };
        }
        1 if bytes[l4] == 8 => bytes[l4] = 0,
        58 if bytes[l4] == 128 => bytes[l4] = 129,
        _ => {}
    }
    parse(bytes, PortIx(0), &mut key, &mut layers).ok()?;
    l4sum::write_l4(bytes, &layers, &key);
    Some(())
}

/// Cuts or spoils a packet.
pub fn damage(c: &mut Chance, bytes: &mut Vec<u8>) {
    if c.one_in(2) {
        bytes.truncate(c.below(bytes.len() as u64 + 1) as usize);
    } else if !bytes.is_empty() {
        let at = c.below(bytes.len() as u64) as usize;
        bytes[at] ^= 1 << c.below(8);
    }
}
