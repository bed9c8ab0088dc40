//! Several workers and NAT: what it gives out leads replies home, and what cannot is redirected.

use crate::homes::*;
use crate::kit::*;
use crate::lanes::Lanes;
use crate::packets::*;
use sluice_dataplane::action::Nat;
use sluice_dataplane::conntrack::{NatKind, NatMode, NatSpec};
use sluice_dataplane::counters::Stat;
use sluice_dataplane::packet::field::Field;
use std::collections::HashSet;

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
