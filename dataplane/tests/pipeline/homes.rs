//! Several workers, rule by rule: who has a connection, and how its packets get there.

use crate::kit::*;
use crate::lanes::{Lanes, SEED};
use crate::packets::*;
use sluice_dataplane::conntrack::{NatKind, Tuple};
use sluice_dataplane::counters::{Drop, Stat};
use sluice_dataplane::packet::build::PacketBuilder;
use sluice_dataplane::packet::field::Field;
use sluice_dataplane::pipeline::{PacketOut, PacketOutError, home_of};

pub const OUTSIDE: [u8; 4] = [203, 0, 113, 9];
const VIP: [u8; 4] = [10, 96, 0, 1];
const VIP_2: [u8; 4] = [10, 96, 0, 2];
const BACKEND: [u8; 4] = [10, 244, 0, 7];
pub const FAR: [u8; 4] = [8, 8, 8, 8];
pub const CLIENTS: u16 = 60;

/// What begins on port 1 may; answers, and errors, come by port 2.
pub fn guarded(commit: CtSpec) -> Net {
    let ip = |port| flow(0, 5).is(Field::EthType, 0x0800).is(Field::InPort, port);
    let state = |table, bits| flow(table, 5).masked(Field::CtState, bits, bits);
    Net::of([
        ip(1).does([ct(1).nat().table(1).go()]),
        state(1, 0x21).does([commit.go(), out(2)]),
        state(1, 0x22).does([out(2)]),
        state(1, 0x24).does([out(2)]),
        ip(2).does([ct(1).nat().table(2).go()]),
        state(2, 0x2a).does([out(1)]),
        state(2, 0x24).does([out(1)]),
    ])
}

pub fn snat(ports: Option<(u16, u16)>) -> Net {
    guarded(ct(1).commit().nat_to(NatKind::Src, OUTSIDE, ports))
}

pub fn dnat() -> Net {
    guarded(ct(1).commit().nat_to(NatKind::Dst, BACKEND, None))
}

pub fn client(n: u16) -> [u8; 4] {
    [10, 0, 1, n as u8]
}

pub fn query(n: u16, dst: [u8; 4]) -> Vec<u8> {
    eth().ipv4(client(n), dst).udp(1000 + n, 53).payload(b"query").build()
}

pub fn port_at(p: &[u8], at: usize) -> u16 {
    u16::from_be_bytes([p[at], p[at + 1]])
}

pub fn address_at(p: &[u8], at: usize) -> [u8; 4] {
    [p[at], p[at + 1], p[at + 2], p[at + 3]]
}

/// The answer of who got this UDP packet.
pub fn answer(sent: &[u8]) -> Vec<u8> {
    let (src, dst) = (address_at(sent, 26), address_at(sent, 30));
    let p = eth().ipv4(dst, src).udp(port_at(sent, 36), port_at(sent, 34));
    p.payload(b"answer").build()
}

/// All clients ask, each by another worker, and get their answers, of each worker's receiving.
/// Gives what they asked, as it left.
pub fn converse(s: &mut Lanes, dst: [u8; 4]) -> Vec<Vec<u8>> {
    let workers = s.workers.len();
    let mut asked = Vec::new();
    for n in 0..CLIENTS {
        let sent = s.send(usize::from(n) % workers, 1, &query(n, dst));
        assert_eq!(sent.len(), 1, "client {n}");
        asked.push(sent[0].1.clone());
    }
    for (n, sent) in (0..).zip(&asked) {
        for at in 0..workers {
            let got = s.send(at, 2, &answer(sent));
            assert_eq!(got.len(), 1, "client {n}, worker {at}");
            let (port, p) = &got[0];
            assert_eq!((*port, address_at(p, 30), port_at(p, 36)), (1, client(n), 1000 + n));
            assert_eq!((address_at(p, 26), port_at(p, 34)), (dst, 53));
            assert_eq!(s.send(at, 1, &query(n, dst)), [(2, sent.clone())], "as before");
        }
    }
    assert_eq!(s.conns().len(), usize::from(CLIENTS), "one each");
    s.check();
    asked
}

pub fn redirects(s: &Lanes) -> usize {
    s.workers.iter().map(|w| w.lane.conntrack_ref().homes().redirects_len()).sum()
}

pub fn dropped(s: &Lanes, reason: Drop) -> u64 {
    s.workers.iter().map(|w| w.counters.dropped(reason)).sum()
}

#[test]
fn what_destination_nat_leads_to_finds_back() {
    let mut s = Lanes::new(&dnat(), 3);
    converse(&mut s, VIP);
    // Of three workers, two of three replies have their home elsewhere.
    assert!((20..=60).contains(&redirects(&s)), "{}", redirects(&s));
    s.end();
}

#[test]
fn a_reply_takes_two_steps_at_most() {
    let mut s = Lanes::new(&dnat(), 3);
    let mut most = 0;
    for n in 0..CLIENTS {
        let sent = s.send(0, 1, &query(n, VIP));
        for at in 0..3 {
            let before = s.handed;
            assert_eq!(s.send(at, 2, &answer(&sent[0].1)).len(), 1);
            most = most.max(s.handed - before);
        }
    }
    assert_eq!(most, 2, "home, and from there to where it is redirected");
    let (handed, taken) = (s.stat(Stat::HandedOver), s.stat(Stat::TakenOver));
    assert_eq!((handed, taken), (s.handed, s.handed));
    // Who took a packet from a port has counted it, and nobody else.
    assert_eq!(s.stat(Stat::RxPackets), 4 * u64::from(CLIENTS));
    s.end();
}

#[test]
fn bursts_stay_in_order() {
    let mut s = Lanes::new(&dnat(), 3);
    let numbered = |client_n: u16, number: u8| {
        let p = eth().ipv4(client(client_n), VIP).udp(1000 + client_n, 53);
        p.payload(&[number; 9]).build()
    };
    for round in 0..4 {
        // More than a batch, of flows of all homes, mixed.
        let burst: Vec<Vec<u8>> = (0..60u16)
            .map(|i| numbered(i * 7 % 10, (round * 6 + i / 10) as u8))
            .chain([arp()])
            .collect();
        s.sent.clear();
        s.receive(usize::from(round) % 3, 1, &burst);
        s.quiet();
        assert_eq!(s.sent.len(), 60);
        for n in 0..10 {
            let of_it = s.sent.iter().filter(|(_, p)| address_at(p, 26) == client(n));
            let numbers: Vec<u8> = of_it.map(|(_, p)| p[42]).collect();
            let from = round as u8 * 6;
            assert_eq!(numbers, (from..from + 6).collect::<Vec<u8>>(), "client {n}");
        }
    }
    s.end();
}

#[test]
fn a_redirect_is_there_before_the_reply() {
    // The reply is on its way to its home in the burst in which its connection begins.
    let mut s = Lanes::new(&dnat(), 2);
    for n in 0..CLIENTS {
        s.sent.clear();
        let at = usize::from(n) % 2;
        s.receive(at, 1, &[query(n, VIP)]);
        (0..2).for_each(|at| _ = s.take_over(at));
        let reply = answer(&s.sent[0].1);
        s.receive(0, 2, std::slice::from_ref(&reply));
        s.receive(1, 2, &[reply]);
        s.quiet();
        assert_eq!(s.sent.len(), 3, "client {n}");
    }
    s.end();
}

#[test]
fn the_first_of_two_that_want_the_same_replies_has_them() {
    let mut s = Lanes::new(&dnat(), 3);
    let mut met = 0;
    for n in 0..CLIENTS {
        let late = s.stat(Stat::CtRedirectsLate);
        let first = s.send(0, 1, &query(n, VIP));
        let second = s.send(0, 1, &query(n, VIP_2));
        let got = s.send(1, 2, &answer(&first[0].1));
        assert_eq!(address_at(&got[0].1, 26), VIP, "client {n}");
        if s.stat(Stat::CtRedirectsLate) > late {
            met += 1;
            continue;
        }
        // Where one worker sees both, the client's port gives way.
        assert_ne!(port_at(&first[0].1, 34), port_at(&second[0].1, 34));
        let got = s.send(1, 2, &answer(&second[0].1));
        assert_eq!(address_at(&got[0].1, 26), VIP_2);
    }
    assert!((10..50).contains(&met), "{met}");
    s.end();
}

#[test]
fn without_room_for_the_notice_nothing_is_committed() {
    let mut s = Lanes::new(&dnat(), 2);
    s.room = 0;
    for n in 0..CLIENTS {
        let sent = s.send(0, 1, &query(n, VIP));
        assert_eq!(sent.len(), 1, "the packet goes on");
    }
    let (made, refused) = (s.conns().len() as u64, s.stat(Stat::CtUntold));
    assert_eq!(made + refused, u64::from(CLIENTS));
    assert!(refused > 10 && made > 10, "{refused} and {made}");
    assert_eq!(redirects(&s), 0);
    s.room = 256;
    for n in 0..CLIENTS {
        s.send(0, 1, &query(n, VIP));
    }
    assert_eq!(s.conns().len(), usize::from(CLIENTS), "the next packet tries again");
    // Source NAT needs to tell nobody.
    let mut s = Lanes::new(&snat(None), 2);
    s.room = 0;
    converse(&mut s, FAR);
    s.end();
}

#[test]
fn a_withdrawal_waits_until_there_is_room() {
    let mut s = Lanes::new(&dnat(), 2);
    for n in 0..CLIENTS {
        s.send(0, 1, &query(n, VIP));
    }
    let before = redirects(&s);
    assert!(before > 10);
    s.room = 0;
    s.flush();
    s.idle();
    assert_eq!((redirects(&s), s.conns().len()), (before, 0), "still there");
    s.room = 3;
    s.idle();
    assert_eq!(redirects(&s), before - 6, "three of each worker");
    s.room = 256;
    s.idle();
    assert_eq!(redirects(&s), 0);
    s.end();
}

#[test]
fn errors_go_by_what_they_quote() {
    for (net, dst) in [(snat(None), FAR), (dnat(), VIP)] {
        let mut s = Lanes::new(&net, 3);
        for n in 0..20 {
            let sent = s.send(0, 1, &query(n, dst))[0].1.clone();
            for at in 0..3 {
                let router = PacketBuilder::eth(B, A).ipv4([192, 168, 9, 9], address_at(&sent, 26));
                let got = s.send(at, 2, &router.icmp_error(3, 1, [0; 4], &sent).build());
                assert_eq!(got.len(), 1, "client {n}, worker {at}");
                let (port, p) = &got[0];
                assert_eq!((*port, address_at(p, 30)), (1, client(n)));
                // It quotes what the client has sent.
                let quoted = (address_at(p, 54), address_at(p, 58), port_at(p, 62));
                assert_eq!(quoted, (client(n), dst, 1000 + n));
            }
        }
        s.end();
    }
}

/// The tuple of a client's query.
fn query_tuple(n: u16) -> Tuple {
    let [src, dst] = [client(n), FAR].map(|a| u128::from(u32::from_be_bytes(a)));
    Tuple { src, dst, sport: 1000 + n, dport: 53, proto: 17, v6: false }
}

#[test]
fn what_a_controller_begins_is_where_it_was_sent() {
    let mut s = Lanes::new(&snat(None), 3);
    for n in 0..20 {
        let actions = flow(0, 0).does([ct(1).commit().go(), out(2)]);
        let bytes = query(n, FAR).into();
        let out = PacketOut { bytes, in_port: 1, port: None, rule: rule(0, &actions) };
        let home = home_of(SEED, 3, &query(n, FAR));
        assert_eq!(usize::from(home), s.home(&query_tuple(n)));
        // That worker is seldom its home.
        assert_eq!(s.packet_out(0, &out), [(2, query(n, FAR))]);
        for at in 0..3 {
            assert_eq!(s.send(at, 2, &answer(&query(n, FAR))).len(), 1, "{n}");
            assert_eq!(s.send(at, 1, &query(n, FAR)), [(2, query(n, FAR))], "{n}");
        }
    }
    assert_eq!(s.conns_of(0).len(), 20);
    assert!(redirects(&s) > 10);
    s.check();
    s.end();
}

/// The home of its tuple says who has the connection, and there it is found.
#[test]
fn a_packet_out_comes_to_the_connection_that_is_redirected() {
    let mut s = Lanes::new(&snat(None), 3);
    let commit = flow(0, 0).does([ct(1).commit().go(), out(2)]);
    let look = flow(0, 0).does([ct(1).table(9).go()]);
    let sent = |actions: &Flow, bytes: Vec<u8>| PacketOut {
        bytes: bytes.into(),
        in_port: 1,
        port: None,
        rule: rule(0, actions),
    };
    let (mut redirected, mut there) = (0, 0);
    for n in 0..20 {
        s.packet_out(0, &sent(&commit, query(n, FAR)));
        for bytes in [query(n, FAR), answer(&query(n, FAR))] {
            let home = home_of(SEED, 3, &bytes);
            let again = s.try_packet_out(home.into(), &sent(&look, bytes.clone()));
            if home == 0 {
                there += 1;
                assert!(again.is_ok());
            } else {
                redirected += 1;
                assert_eq!(again, Err(PacketOutError::Elsewhere(0)), "{n}");
                s.packet_out(0, &sent(&look, bytes));
            }
        }
    }
    assert!(redirected > 10 && there > 3, "{redirected} {there}");
    s.check();
    s.flush();
    // Of a connection that is gone nobody is told.
    for n in 0..20 {
        s.packet_out(home_of(SEED, 3, &query(n, FAR)).into(), &sent(&look, query(n, FAR)));
    }
    s.end();
}
