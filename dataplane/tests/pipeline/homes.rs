//! Several workers, rule by rule: who has a connection, and how its packets get there.

use crate::fragments::{cut, join, of_whole};
use crate::kit::*;
use crate::lanes::{Lanes, SEED};
use crate::packets::*;
use sluice_dataplane::action::Nat;
use sluice_dataplane::conntrack::{NatKind, NatMode, NatSpec, Tuple};
use sluice_dataplane::counters::{Drop, Stat};
use sluice_dataplane::packet::build::PacketBuilder;
use sluice_dataplane::packet::field::Field;
use sluice_dataplane::pipeline::{PacketOut, PacketOutError, home_of};
use std::collections::HashSet;

const OUTSIDE: [u8; 4] = [203, 0, 113, 9];
const VIP: [u8; 4] = [10, 96, 0, 1];
const VIP_2: [u8; 4] = [10, 96, 0, 2];
const BACKEND: [u8; 4] = [10, 244, 0, 7];
const FAR: [u8; 4] = [8, 8, 8, 8];
const CLIENTS: u16 = 60;

/// What begins on port 1 may; answers, and errors, come by port 2.
fn guarded(commit: CtSpec) -> Net {
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

fn snat(ports: Option<(u16, u16)>) -> Net {
    guarded(ct(1).commit().nat_to(NatKind::Src, OUTSIDE, ports))
}

fn dnat() -> Net {
    guarded(ct(1).commit().nat_to(NatKind::Dst, BACKEND, None))
}

fn client(n: u16) -> [u8; 4] {
    [10, 0, 1, n as u8]
}

fn query(n: u16, dst: [u8; 4]) -> Vec<u8> {
    eth().ipv4(client(n), dst).udp(1000 + n, 53).payload(b"query").build()
}

fn port_at(p: &[u8], at: usize) -> u16 {
    u16::from_be_bytes([p[at], p[at + 1]])
}

fn address_at(p: &[u8], at: usize) -> [u8; 4] {
    [p[at], p[at + 1], p[at + 2], p[at + 3]]
}

/// The answer of who got this UDP packet.
fn answer(sent: &[u8]) -> Vec<u8> {
    let (src, dst) = (address_at(sent, 26), address_at(sent, 30));
    let p = eth().ipv4(dst, src).udp(port_at(sent, 36), port_at(sent, 34));
    p.payload(b"answer").build()
}

/// All clients ask, each by another worker, and get their answers, of each worker's receiving.
/// Gives what they asked, as it left.
fn converse(s: &mut Lanes, dst: [u8; 4]) -> Vec<Vec<u8>> {
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

fn redirects(s: &Lanes) -> usize {
    s.workers.iter().map(|w| w.lane.conntrack_ref().homes().redirects_len()).sum()
}

fn dropped(s: &Lanes, reason: Drop) -> u64 {
    s.workers.iter().map(|w| w.counters.dropped(reason)).sum()
}

#[test]
fn source_nat_gives_out_what_comes_home() {
    for ports in [None, Some((5000, 5999))] {
        let mut s = Lanes::new(&snat(ports), 3);
        let asked = converse(&mut s, FAR);
        let given: HashSet<u16> = asked.iter().map(|p| port_at(p, 34)).collect();
        assert_eq!(given.len(), usize::from(CLIENTS), "a port each, of all workers");
        assert_eq!((redirects(&s), s.stat(Stat::CtUntold)), (0, 0));
        let has = |at: usize| !s.conns_of(at).is_empty();
        assert!((0..3).all(has), "each has some");
        s.end();
    }
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

#[test]
fn source_nat_of_ipv6_comes_home() {
    let outside = 0xfd00_0000_0000_0000_0000_0000_0000_9999_u128;
    let mut commit = ct(1).commit();
    commit.0.nat = Some(Nat::New(NatSpec {
        kind: NatKind::Src,
        v6: true,
        addr_min: outside,
        addr_max: outside,
        ports: None,
        mode: NatMode::Random,
    }));
    let mut net = guarded(commit);
    for f in &mut net.flows[0] {
        if f.table == 0 {
            *f = f.clone().is(Field::EthType, 0x86dd);
        }
    }
    let mut s = Lanes::new(&net, 3);
    for n in 0..30 {
        let sent = s.send(0, 1, &v6().udp(1000 + n, 53).payload(b"query").build());
        let port = port_at(&sent[0].1, 54);
        let back = eth().ipv6(V6_B, outside.to_be_bytes()).udp(53, port).build();
        for at in 0..3 {
            let got = s.send(at, 2, &back);
            let (port, p) = &got[0];
            assert_eq!((*port, &p[38..54], port_at(p, 56)), (1, &V6_A[..], 1000 + n));
        }
    }
    assert_eq!((s.conns().len(), redirects(&s)), (30, 0));
    s.check();
    s.end();
}

#[test]
fn pings_of_one_identifier_are_told_apart() {
    let mut s = Lanes::new(&snat(None), 3);
    for n in 0..CLIENTS {
        let at = usize::from(n) % 3;
        let sent = s.send(at, 1, &eth().ipv4(client(n), FAR).echo_request(7, n).build());
        let id = port_at(&sent[0].1, 38);
        for at in 0..3 {
            let got = s.send(at, 2, &eth().ipv4(FAR, OUTSIDE).echo_reply(id, n).build());
            let (port, p) = &got[0];
            assert_eq!((*port, address_at(p, 30), port_at(p, 38)), (1, client(n), 7));
        }
    }
    assert_eq!((s.conns().len(), redirects(&s)), (usize::from(CLIENTS), 0));
    s.check();
    s.end();
}

#[test]
fn what_nat_cannot_choose_is_redirected() {
    // Without ports, and with one.
    let gre = |from, to| eth().ipv4(from, to).proto(47).payload(&[0; 20]).build();
    let mut s = Lanes::new(&snat(None), 3);
    for n in 0..12 {
        let far = [8, 8, 8, n as u8];
        assert_eq!(s.send(0, 1, &gre(client(n), far)), [(2, gre(OUTSIDE, far))]);
        for at in 0..3 {
            assert_eq!(s.send(at, 2, &gre(far, OUTSIDE)), [(1, gre(far, client(n)))]);
        }
    }
    assert!(redirects(&s) > 0);
    s.check();
    s.end();
    let mut s = Lanes::new(&snat(Some((5000, 5000))), 3);
    for n in 0..12 {
        let sent = s.send(0, 1, &query(n, [8, 8, 8, n as u8]));
        assert_eq!(port_at(&sent[0].1, 34), 5000);
        let got = s.send(1, 2, &answer(&sent[0].1));
        assert_eq!(address_at(&got[0].1, 30), client(n));
    }
    assert!(redirects(&s) > 0);
    s.check();
    s.end();
}

#[test]
fn a_range_that_is_used_up_fails_and_recovers() {
    // To one end, each port of the range is at home with one worker, and is given out once.
    let mut s = Lanes::new(&snat(Some((5000, 5029))), 3);
    for n in 0..CLIENTS {
        s.send(0, 1, &query(n, FAR));
    }
    let made = s.conns().len() as u64;
    assert!((20..=30).contains(&made), "{made} of 30");
    assert_eq!(s.stat(Stat::CtNatExhausted), u64::from(CLIENTS) - made);
    s.check();
    s.flush();
    for n in 0..CLIENTS {
        s.send(0, 1, &query(CLIENTS + n, FAR));
    }
    assert!((20..=30).contains(&s.conns().len()));
    s.end();
}

#[test]
fn a_source_keeps_its_address() {
    let address = |a: [u8; 4]| u128::from(u32::from_be_bytes(a));
    let mut commit = ct(1).commit();
    commit.0.nat = Some(Nat::New(NatSpec {
        kind: NatKind::Src,
        v6: false,
        addr_min: address(OUTSIDE),
        addr_max: address(OUTSIDE) + 6,
        ports: None,
        mode: NatMode::Persistent,
    }));
    let mut s = Lanes::new(&guarded(commit), 3);
    for n in 0..12 {
        let shown: HashSet<[u8; 4]> = (0..12)
            .map(|far| s.send(0, 1, &query(n, [8, 8, 8, far]))[0].1.clone())
            .map(|p| address_at(&p, 26))
            .collect();
        assert_eq!(shown.len(), 1, "client {n}");
    }
    assert_eq!(redirects(&s), 0);
    s.end();
}

#[test]
fn fragments_come_together() {
    let mut s = Lanes::new(&snat(None), 3);
    let orders = [[0, 1, 2], [0, 2, 1], [1, 0, 2], [1, 2, 0], [2, 0, 1], [2, 1, 0]];
    for (id, order) in (0..).zip(orders.iter().cycle().take(36)) {
        let data: Vec<u8> = (0..1500).map(|i| i as u8).collect();
        let whole = eth().ipv4(client(id), FAR).udp(1000 + id, 53).payload(&data).build();
        let pieces = cut(&whole, 0, id.into(), &[600, 600]);
        let mut sent = Vec::new();
        for n in order {
            assert!(sent.is_empty(), "not before the last has come");
            sent = s.send((n + usize::from(id)) % 3, 1, &pieces[*n]);
        }
        let bytes: Vec<Vec<u8>> = sent.iter().map(|(_, p)| p.clone()).collect();
        assert_eq!(bytes.len(), 3, "datagram {id}");
        let left = join(&bytes);
        let plain = eth().ipv4(client(id), FAR).udp(1000 + id, 53).payload(b"more").build();
        // The same connection as that of packets in one piece.
        let more = s.send(usize::from(id) % 3, 1, &plain)[0].1.clone();
        let (from, port) = (address_at(&more, 26), port_at(&more, 34));
        let mut seen = whole.clone();
        seen[26..30].copy_from_slice(&from);
        seen[34..36].copy_from_slice(&port.to_be_bytes());
        // The checksum is what changed by that.
        let (mut a, mut b) = (left, of_whole(&seen, 0));
        let sum = a.len() - (8 + data.len()) + 6;
        (a[sum], a[sum + 1], b[sum], b[sum + 1]) = (0, 0, 0, 0);
        assert_eq!(a, b);
        let back = eth().ipv4(FAR, from).udp(53, port).payload(&data).build();
        let got: Vec<_> = cut(&back, 0, id.into(), &[800])
            .iter()
            .zip([2, 0])
            .flat_map(|(p, at)| s.send(at, 2, p))
            .collect();
        assert_eq!(got.len(), 2);
        assert!(got.iter().all(|(port, p)| *port == 1 && address_at(p, 30) == client(id)));
    }
    assert_eq!(s.conns().len(), 36, "one each");
    let held: usize = s.workers.iter().map(|w| w.lane.fragments_held()).sum();
    assert_eq!(held, 0);
    s.end();
}

/// A range of one port cannot be chosen from: answers are redirected, those in fragments, too,
/// wherever these meet.
#[test]
fn fragments_are_redirected() {
    let data = [7u8; 1400];
    let mut were_redirected = 0;
    for n in 0..8 {
        let mut s = Lanes::new(&snat(Some((40_001, 40_001))), 3);
        let asked = s.send(usize::from(n) % 3, 1, &query(n, FAR))[0].1.clone();
        assert_eq!((address_at(&asked, 26), port_at(&asked, 34)), (OUTSIDE, 40_001));
        were_redirected += redirects(&s);
        let back = eth().ipv4(FAR, OUTSIDE).udp(53, 40_001).payload(&data).build();
        for (id, order) in (0..24).zip([[0, 1, 2], [1, 0, 2], [2, 1, 0], [0, 2, 1]].iter().cycle())
        {
            let pieces = cut(&back, 0, id, &[480, 480]);
            let got: Vec<_> = order
                .iter()
                .flat_map(|at| s.send((at + id as usize / 4) % 3, 2, &pieces[*at]))
                .collect();
            assert_eq!(got.len(), 3, "connection {n}, datagram {id}");
            assert!(got.iter().all(|(port, p)| *port == 1 && address_at(p, 30) == client(n)));
        }
        assert_eq!(s.conns().len(), 1);
        s.end();
    }
    assert!(were_redirected > 1, "{were_redirected}");
}

#[test]
fn fragments_without_a_first_one_are_given_up() {
    let mut s = Lanes::new(&snat(None), 3);
    let whole = eth().ipv4(IP_A, FAR).udp(1000, 53).payload(&[7; 1200]).build();
    let rest = |id| cut(&whole, 0, id, &[600])[1].clone();
    let held = |s: &Lanes| s.workers.iter().map(|w| w.lane.fragments_held()).sum::<usize>();
    assert_eq!(s.send(0, 1, &rest(1)), []);
    assert_eq!(held(&s), 1);
    s.now = s.now.plus_ms(16_000);
    s.idle();
    assert_eq!((held(&s), dropped(&s, Drop::FragmentTimeout)), (0, 1));
    // What is full gives up its oldest.
    for id in 0..200 {
        s.send(id as usize % 3, 1, &rest(100 + id));
    }
    assert!(held(&s) <= 3 * FRAGMENTS_HELD, "{}", held(&s));
    assert_eq!(held(&s) as u64 + dropped(&s, Drop::FragmentLimit), 200);
    s.now = s.now.plus_ms(16_000);
    s.idle();
    assert_eq!(held(&s), 0);
}

#[test]
fn a_tunnel_packet_is_handed_over_as_it_came() {
    // From the tunnel to port 2, and back.
    let net = || {
        let state = |table, bits| flow(table, 5).masked(Field::CtState, bits, bits);
        Net::of([
            flow(0, 5).is(Field::InPort, 5).does([ct(1).table(1).go()]),
            state(1, 0x21).does([ct(1).commit().go(), out(2)]),
            state(1, 0x22).does([out(2)]),
        ])
        .flows(2, [always([sluice_dataplane::action::Action::Normal])])
    };
    let (mut one, mut three) = (Lanes::new(&net(), 1), Lanes::new(&net(), 3));
    for n in 0..40u16 {
        // Congestion outside over each kind of inside, with a checksum over all of it, and padding.
        let outer_tos = [3, 0, 2, 3][usize::from(n) % 4];
        let inner_tos = [2, 1, 3, 2, 1][usize::from(n) % 5];
        let inner = match n % 3 {
            0 => v6().tos(inner_tos).udp(1000 + n, 53).payload(b"six").build(),
            _ => eth().ipv4(client(n), FAR).tos(inner_tos).udp(1000 + n, 53).build(),
        };
        let outer = PacketBuilder::eth(PEER_MAC, NIC_MAC).ipv4(PEER_IP, LOCAL_IP).tos(outer_tos);
        let outer = outer.udp(50_000, 6081).geneve(VNI, &inner);
        let p = if n % 2 == 0 { outer.build() } else { outer.frame_len(180).build() };
        let want = one.send(0, NIC, &p);
        assert_eq!(want.len(), 1, "packet {n}");
        for at in 0..3 {
            assert_eq!(three.send(at, NIC, &p), want, "packet {n}, worker {at}");
        }
    }
    assert_eq!(three.stat(Stat::TunnelPop), 120, "once each");
    assert!(three.handed > 60, "{}", three.handed);
}
