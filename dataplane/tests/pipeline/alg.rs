//! FTP and TFTP through NAT: what is said, what is expected, and what comes.

use crate::kit::*;
use crate::packets::*;
use sluice_dataplane::action::Nat;
use sluice_dataplane::conntrack::{Alg, NatKind, NatMode, NatSpec};
use sluice_dataplane::counters::Stat;
use sluice_dataplane::packet::build::PacketBuilder;
use sluice_dataplane::packet::field::Field;

/// What NAT shows: longer to write than `IP_A`.
pub const SHOWN: [u8; 4] = [203, 0, 113, 111];
pub const FAR: [u8; 4] = [8, 8, 8, 8];
const SHOWN_6: [u8; 16] = [0xfd, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xab, 0xcd, 0, 0x11];
const FAR_6: [u8; 16] = [0xfd, 0, 0, 8, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 8];

const SYN: u16 = 2;
const ACK: u16 = 16;
const PSH_ACK: u16 = 24;

/// Connections from 1 to 2 are helped and translated; others pass if they are expected.
pub fn program(alg: Alg, spec: Option<NatSpec>) -> Net {
    let mut first = ct(1).commit().alg(alg).exec([set(Field::CtMark, 7), set(Field::CtLabel, 9)]);
    first.0.nat = spec.map(Nat::New);
    let mut known = ct(1).table(1);
    let mut related = ct(1).commit();
    if spec.is_some() {
        (known, related) = (known.nat(), related.nat());
    }
    let state = |bits, mask| flow(1, 5).masked(Field::CtState, bits, mask);
    Net::of([
        flow(0, 1).does([known.go()]),
        state(0x21, 0x35).is(Field::InPort, 1).does([first.table(2).go()]),
        state(0x25, 0x35).is(Field::CtMark, 7).is(Field::CtLabel, 9).does([related.table(2).go()]),
        state(0x22, 0x32).does([resubmit(2)]),
        flow(1, 1).does([out(4)]),
        flow(2, 1).is(Field::InPort, 1).does([out(2)]),
        flow(2, 1).is(Field::InPort, 2).does([out(1)]),
    ])
}

fn spec(kind: NatKind, v6: bool, to: u128) -> NatSpec {
    NatSpec { kind, v6, addr_min: to, addr_max: to, ports: None, mode: NatMode::Hash }
}

pub fn snat() -> NatSpec {
    spec(NatKind::Src, false, u32::from_be_bytes(SHOWN).into())
}

fn dnat() -> NatSpec {
    spec(NatKind::Dst, false, u32::from_be_bytes(IP_B).into())
}

type End = (Ip, u16);

#[derive(Clone, Copy)]
enum Ip {
    Four([u8; 4]),
    Six([u8; 16]),
}

fn segment(from: End, to: End, flags: u16, numbers: (u32, u32), text: &str) -> Vec<u8> {
    let p = match (from.0, to.0) {
        (Ip::Four(a), Ip::Four(b)) => eth().ipv4(a, b),
        (Ip::Six(a), Ip::Six(b)) => eth().ipv6(a, b),
        _ => panic!("two families"),
    };
    let p = p.tcp(from.1, to.1).flags(flags).seq(numbers.0).ack(numbers.1);
    p.payload(text.as_bytes()).build()
}

/// A control connection and how both sides see it.
struct Session {
    s: Switch,
    /// The client as it is and as it is seen, then the server.
    client: [End; 2],
    server: [End; 2],
}

impl Session {
    fn open(nat: Option<NatSpec>, client: [Ip; 2], server: [Ip; 2]) -> Self {
        let s = Switch::new(&program(Alg::Ftp, nat));
        let end = |ips: [Ip; 2], port| ips.map(|ip| (ip, port));
        let mut all = Self { s, client: end(client, 4000), server: end(server, 21) };
        all.there(SYN, (100, 0), "", (100, 0), "");
        all.back(SYN | ACK, (500, 101), "", (500, 101), "");
        all.there(ACK, (101, 501), "", (101, 501), "");
        all
    }

    fn plain() -> Self {
        Self::open(None, [Ip::Four(IP_A); 2], [Ip::Four(FAR); 2])
    }

    fn source() -> Self {
        Self::open(Some(snat()), [Ip::Four(IP_A), Ip::Four(SHOWN)], [Ip::Four(FAR); 2])
    }

    fn destination() -> Self {
        Self::open(Some(dnat()), [Ip::Four(FAR); 2], [Ip::Four(IP_B), Ip::Four(SHOWN)])
    }

    /// The client says `text`; the server hears `heard`.
    fn there(&mut self, flags: u16, n: (u32, u32), text: &str, m: (u32, u32), heard: &str) {
        let sent = self.s.send(1, &segment(self.client[0], self.server[1], flags, n, text));
        let got = segment(self.client[1], self.server[0], flags, m, heard);
        assert_eq!(sent, [(2, got)], "{text:?}");
    }

    fn back(&mut self, flags: u16, n: (u32, u32), text: &str, m: (u32, u32), heard: &str) {
        let sent = self.s.send(2, &segment(self.server[0], self.client[1], flags, n, text));
        let got = segment(self.server[1], self.client[0], flags, m, heard);
        assert_eq!(sent, [(1, got)], "{text:?}");
    }

    /// A connection from the one side's `from` to what it was told, which arrives so at `port`;
    /// and its answer.
    fn data(&mut self, (port, from, told): (u16, End, End), (seen_from, real): (End, End)) {
        let syn = |a, b| segment(a, b, SYN, (7, 0), "");
        let answer = |a, b| segment(a, b, SYN | ACK, (9, 8), "");
        let (far, before) = (3 - port, self.s.see().conns.len());
        assert_eq!(self.s.send(port, &syn(from, told)), [(far, syn(seen_from, real))]);
        assert_eq!(self.s.send(far, &answer(real, seen_from)), [(port, answer(told, from))]);
        let conns = self.s.see().conns;
        assert_eq!(conns.len(), before + 1);
        assert!(conns.iter().all(|c| (c.mark, c.label) == (7, 9)), "of the parent: {conns:?}");
        // Established packets of it are served from the cache.
        let more = segment(from, told, PSH_ACK, (8, 10), "data");
        assert_eq!(
            self.s.twice(port, &more),
            [(far, segment(seen_from, real, PSH_ACK, (8, 10), "data"))]
        );
        // Nobody else's turn.
        let (ip, _) = from;
        assert_eq!(self.s.ports(port, &syn((ip, 9999), told)), [if port == 1 { 2 } else { 4 }]);
    }
}

#[test]
fn active_without_nat() {
    let mut c = Session::plain();
    let text = "PORT 192,168,0,1,4,1\r\n";
    c.there(PSH_ACK, (101, 501), text, (101, 501), text);
    let (a, b) = ((Ip::Four(FAR), 20), (Ip::Four(IP_A), 1025));
    c.data((2, a, b), (a, b));
}

#[test]
fn active_through_source_nat() {
    let mut c = Session::source();
    let (said, heard) = ("PORT 192,168,0,1,4,1\r\n", "PORT 203,0,113,111,4,1\r\n");
    let (short, long) = (said.len() as u32, heard.len() as u32);
    for _ in 0..2 {
        // Also when it is sent again.
        c.there(PSH_ACK, (101, 501), said, (101, 501), heard);
    }
    c.back(PSH_ACK, (501, 101 + long), "200 ok\r\n", (501, 101 + short), "200 ok\r\n");
    c.there(PSH_ACK, (101 + short, 509), "LIST\r\n", (101 + long, 509), "LIST\r\n");
    c.back(ACK, (509, 107 + long), "", (509, 107 + short), "");
    // An acknowledgement of what was said before.
    c.back(ACK, (509, 101), "", (509, 101), "");
    let (a, b) = ((Ip::Four(FAR), 20), (Ip::Four(IP_A), 1025));
    c.data((2, a, (Ip::Four(SHOWN), 1025)), (a, b));
    assert_eq!(c.s.plain.counters.stat(Stat::CtUnexpected), 0);
}

#[test]
fn selective_acknowledgements_move_too() {
    let mut c = Session::source();
    let (said, heard) = ("PORT 192,168,0,1,4,1\r\n", "PORT 203,0,113,111,4,1\r\n");
    c.there(PSH_ACK, (101, 501), said, (101, 501), heard);
    let end = 101 + said.len() as u32;
    let ack = |from: [u8; 4], to: [u8; 4], by: u32, sport, dport| {
        let edges = [end + by + 10, end + by + 20].map(u32::to_be_bytes).concat();
        let options = [&[1, 1, 5, 10][..], &edges].concat();
        let p = eth().ipv4(from, to).tcp(sport, dport).seq(501).ack(end + by);
        p.tcp_options(&options).build()
    };
    let sent = c.s.send(2, &ack(FAR, SHOWN, 2, 21, 4000));
    assert_eq!(sent, [(1, ack(FAR, IP_A, 0, 21, 4000))]);
}

#[test]
fn passive_through_source_nat() {
    let mut c = Session::source();
    c.there(PSH_ACK, (101, 501), "PASV\r\n", (101, 501), "PASV\r\n");
    let text = "227 Entering (8,8,8,8,4,1).\r\n";
    c.back(PSH_ACK, (501, 107), text, (501, 107), text);
    let to = (Ip::Four(FAR), 1025);
    c.data((1, (Ip::Four(IP_A), 5000), to), ((Ip::Four(SHOWN), 5000), to));
}

#[test]
fn passive_through_destination_nat() {
    let mut c = Session::destination();
    let (said, heard) = ("227 at (192,168,0,2,4,1)\r\n", "227 at (203,0,113,111,4,1)\r\n");
    c.back(PSH_ACK, (501, 101), said, (501, 101), heard);
    let (short, long) = (501 + said.len() as u32, 501 + heard.len() as u32);
    c.there(ACK, (101, long), "", (101, short), "");
    c.back(PSH_ACK, (short, 101), "more", (long, 101), "more");
    let from = (Ip::Four(FAR), 5000);
    c.data((1, from, (Ip::Four(SHOWN), 1025)), (from, (Ip::Four(IP_B), 1025)));
}

#[test]
fn active_through_destination_nat() {
    let mut c = Session::destination();
    let text = "EPRT |1|8.8.8.8|1025|\r\n";
    c.there(PSH_ACK, (101, 501), text, (101, 501), text);
    let to = (Ip::Four(FAR), 1025);
    c.data((2, (Ip::Four(IP_B), 20), to), ((Ip::Four(SHOWN), 20), to));
}

#[test]
fn both_ways_over_ipv6() {
    let six = spec(NatKind::Src, true, u128::from_be_bytes(SHOWN_6));
    let open = || Session::open(Some(six), [Ip::Six(V6_A), Ip::Six(SHOWN_6)], [Ip::Six(FAR_6); 2]);
    let mut c = open();
    let (said, heard) = ("EPRT |2|fd00::1|1025|\r\n", "EPRT |2|fd00::abcd:11|1025|\r\n");
    c.there(PSH_ACK, (101, 501), said, (101, 501), heard);
    let from = (Ip::Six(FAR_6), 20);
    c.data((2, from, (Ip::Six(SHOWN_6), 1025)), (from, (Ip::Six(V6_A), 1025)));
    let mut c = open();
    let text = "229 Extended (|||1025|)\r\n";
    c.back(PSH_ACK, (501, 101), text, (501, 101), text);
    let to = (Ip::Six(FAR_6), 1025);
    c.data((1, (Ip::Six(V6_A), 5000), to), ((Ip::Six(SHOWN_6), 5000), to));
}

#[test]
fn two_clients_that_say_one_port_get_two() {
    let mut c = Session::source();
    c.there(
        PSH_ACK,
        (101, 501),
        "PORT 192,168,0,1,4,1\r\n",
        (101, 501),
        "PORT 203,0,113,111,4,1\r\n",
    );
    let other = [192, 168, 0, 77];
    let from_other =
        |flags, n, text| segment((Ip::Four(other), 4001), (Ip::Four(FAR), 21), flags, n, text);
    c.s.send(1, &from_other(SYN, (100, 0), ""));
    let shown = (Ip::Four(SHOWN), 4001);
    c.s.send(2, &segment((Ip::Four(FAR), 21), shown, SYN | ACK, (500, 101), ""));
    let sent = c.s.send(1, &from_other(PSH_ACK, (101, 501), "PORT 192,168,0,77,4,1\r\n"));
    let heard = "PORT 203,0,113,111,4,2\r\n";
    assert_eq!(sent, [(2, segment(shown, (Ip::Four(FAR), 21), PSH_ACK, (101, 501), heard))]);
    let from = (Ip::Four(FAR), 20);
    let syn = |to| segment(from, to, SYN, (7, 0), "");
    let arrives = syn((Ip::Four(other), 1025));
    assert_eq!(c.s.send(2, &syn((Ip::Four(SHOWN), 1026))), [(1, arrives)]);
}

#[test]
fn who_names_another_is_not_believed() {
    for (text, reply) in [
        ("PORT 192,168,0,3,4,1\r\n", false),
        ("EPRT |1|192.168.0.3|1025|\r\n", false),
        ("EPRT |2|fd00::1|1025|\r\n", false),
        ("227 (192,168,0,1,4,1)\r\n", true),
        ("227 (8,8,8,9,4,1)\r\n", true),
    ] {
        let mut c = Session::source();
        match reply {
            false => c.there(PSH_ACK, (101, 501), text, (101, 501), text),
            true => c.back(PSH_ACK, (501, 101), text, (501, 101), text),
        }
        assert_eq!(c.s.plain.lane.conntrack().expected(), 0, "{text:?}");
        c.s.see();
        assert_eq!(c.s.plain.counters.stat(Stat::CtUnexpected), 1, "{text:?}");
        let syn = segment((Ip::Four(FAR), 20), (Ip::Four(SHOWN), 1025), SYN, (7, 0), "");
        assert_eq!(c.s.ports(2, &syn), [4]);
    }
}

#[test]
fn what_is_expected_ends_with_its_parent_its_time_and_its_number() {
    let say = |c: &mut Session| {
        let text = "PORT 192,168,0,1,4,1\r\n";
        c.there(PSH_ACK, (101, 501), text, (101, 501), text);
    };
    let expected = |c: &mut Session| c.s.plain.lane.conntrack().expected();
    let syn = segment((Ip::Four(FAR), 20), (Ip::Four(IP_A), 1025), SYN, (7, 0), "");
    let mut c = Session::plain();
    say(&mut c);
    let now = c.s.now;
    c.s.sides().iter_mut().for_each(|s| assert_eq!(s.lane.conntrack().flush(now, |_| true), 1));
    assert_eq!((expected(&mut c), c.s.ports(2, &syn)), (0, vec![4]));
    let mut c = Session::plain();
    say(&mut c);
    c.s.wait(301_000);
    assert_eq!(c.s.ports(2, &syn), [4], "too late");
    let mut c = Session::plain();
    let mut seq = 101;
    for port in 1..=9 {
        let text = format!("PORT 192,168,0,1,4,{port}\r\n");
        c.there(PSH_ACK, (seq, 501), &text, (seq, 501), &text);
        seq += text.len() as u32;
    }
    assert_eq!(expected(&mut c), 4);
    assert_eq!(c.s.ports(2, &syn), [4], "the oldest gave way");
}

#[test]
fn other_ports_and_protocols_are_not_helped() {
    let mut s = Switch::new(&program(Alg::Ftp, None));
    let far = (Ip::Four(FAR), 2121);
    let me = (Ip::Four(IP_A), 4000);
    s.send(1, &segment(me, far, SYN, (100, 0), ""));
    s.send(2, &segment(far, me, SYN | ACK, (500, 101), ""));
    let say = segment(me, far, PSH_ACK, (101, 501), "PORT 192,168,0,1,4,1\r\n");
    assert_eq!(s.twice(1, &say), [(2, say)]);
    assert!(s.hits() > 0, "it is served from the cache");
    assert_eq!(s.plain.lane.conntrack().expected(), 0);
}

#[test]
fn a_tftp_server_answers_from_any_port() {
    let request = |from: [u8; 4], op| {
        eth().ipv4(from, FAR).udp(4000, 69).payload(&[0, op, b'f', 0, b'o', 0]).build()
    };
    let answer = |from: u16, to: [u8; 4]| {
        PacketBuilder::eth(B, A).ipv4(FAR, to).udp(from, 4000).payload(&[0, 3, 0, 1]).build()
    };
    for op in [1, 2] {
        let mut s = Switch::new(&program(Alg::Tftp, Some(snat())));
        assert_eq!(s.send(1, &request(IP_A, op)), [(2, request(SHOWN, op))]);
        assert_eq!(s.send(2, &answer(7777, SHOWN)), [(1, answer(7777, IP_A))]);
        assert_eq!(s.see().conns.len(), 2);
        assert_eq!(s.ports(2, &answer(7778, SHOWN)), [4], "one server, one answer");
    }
    let mut s = Switch::new(&program(Alg::Tftp, Some(snat())));
    s.send(1, &request(IP_A, 3));
    assert_eq!(s.ports(2, &answer(7777, SHOWN)), [4], "no request");
}
