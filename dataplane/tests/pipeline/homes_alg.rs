//! Several workers and connections that others announce: they begin where their parent is.

use crate::alg::{FAR, SHOWN, program, snat};
use crate::lanes::Lanes;
use crate::packets::*;
use sluice_dataplane::conntrack::Alg;
use sluice_dataplane::counters::Stat;
use sluice_dataplane::packet::build::PacketBuilder;

const SYN: u16 = 2;
const ACK: u16 = 16;
const PSH_ACK: u16 = 24;

type End = ([u8; 4], u16);

fn segment(from: End, to: End, flags: u16, n: (u32, u32), text: &str) -> Vec<u8> {
    let p = eth().ipv4(from.0, to.0).tcp(from.1, to.1).flags(flags).seq(n.0).ack(n.1);
    p.payload(text.as_bytes()).build()
}

fn port_at(p: &[u8], at: usize) -> u16 {
    u16::from_be_bytes([p[at], p[at + 1]])
}

/// Opens a control connection of a client, and gives its port as the server sees it.
fn open(s: &mut Lanes, client: End) -> End {
    let server = (FAR, 21);
    let sent = s.send(0, 1, &segment(client, server, SYN, (100, 0), ""));
    let shown = (SHOWN, port_at(&sent[0].1, 34));
    assert_eq!(s.send(1, 2, &segment(server, shown, SYN | ACK, (500, 101), "")).len(), 1);
    assert_eq!(s.send(2, 1, &segment(client, server, ACK, (101, 501), "")).len(), 1);
    shown
}

/// The port that a `PORT` command tells.
fn told(p: &[u8]) -> u16 {
    let text = String::from_utf8_lossy(&p[54..]);
    let line = text.split("\r\n").next().unwrap_or_default();
    let numbers: Vec<u16> =
        line.trim_start_matches("PORT ").split(',').map(|n| n.parse().unwrap()).collect();
    numbers[4] << 8 | numbers[5]
}

#[test]
fn data_connections_begin_where_the_control_connection_is() {
    let mut s = Lanes::new(&program(Alg::Ftp, Some(snat())), 3);
    for n in 0..20u8 {
        let client = ([10, 0, 1, n], 4000 + u16::from(n));
        open(&mut s, client);
        let (text, own) = (format!("PORT 10,0,1,{n},7,{n}\r\n"), (client.0, 7 << 8 | u16::from(n)));
        let sent = s.send(1, 1, &segment(client, (FAR, 21), PSH_ACK, (101, 501), &text));
        let shown = (SHOWN, told(&sent[0].1));
        let before = s.conns().len();
        // The server comes by any worker.
        let syn = segment((FAR, 20), shown, SYN, (7, 0), "");
        let at = usize::from(n) % 3;
        let got = s.send(at, 2, &syn);
        assert_eq!(got, [(1, segment((FAR, 20), own, SYN, (7, 0), ""))], "{n}");
        let answer = segment(own, (FAR, 20), SYN | ACK, (9, 8), "");
        for at in 0..3 {
            let back = s.send(at, 1, &answer);
            assert_eq!(back, [(2, segment(shown, (FAR, 20), SYN | ACK, (9, 8), ""))], "{n}");
        }
        let conns = s.conns();
        assert_eq!(conns.len(), before + 1);
        assert!(conns.iter().all(|c| (c.mark, c.label) == (7, 9)), "of the parent");
        s.check();
    }
    assert_eq!((s.stat(Stat::CtExpected), s.stat(Stat::CtUnexpected)), (20, 0));
    s.end();
}

#[test]
fn two_workers_do_not_expect_the_same() {
    let mut s = Lanes::new(&program(Alg::Ftp, Some(snat())), 3);
    let clients: Vec<End> = (0..8u8).map(|n| ([10, 0, 1, n], 4000 + u16::from(n))).collect();
    let mut shown = std::collections::HashSet::new();
    for client in &clients {
        open(&mut s, *client);
        let text = format!("PORT 10,0,1,{},7,208\r\n", client.0[3]);
        let sent = s.send(0, 1, &segment(*client, (FAR, 21), PSH_ACK, (101, 501), &text));
        assert!(shown.insert(told(&sent[0].1)), "a port each");
    }
    for port in shown {
        let got = s.send(0, 2, &segment((FAR, 20), (SHOWN, port), SYN, (7, 0), ""));
        assert_eq!((got.len(), got[0].0), (1, 1), "port {port}");
    }
    s.check();
    s.end();
}

#[test]
fn without_room_to_tell_all_nothing_is_expected() {
    let mut s = Lanes::new(&program(Alg::Ftp, Some(snat())), 3);
    let client = ([10, 0, 1, 1], 4000);
    open(&mut s, client);
    s.room = 0;
    s.send(0, 1, &segment(client, (FAR, 21), PSH_ACK, (101, 501), "PORT 10,0,1,1,7,208\r\n"));
    assert_eq!((s.stat(Stat::CtExpected), s.stat(Stat::CtUnexpected)), (0, 1));
    s.room = 256;
    s.end();
}

#[test]
fn tftp_answers_by_any_worker() {
    let mut s = Lanes::new(&program(Alg::Tftp, Some(snat())), 3);
    for n in 0..12u8 {
        let client = ([10, 0, 1, n], 3000 + u16::from(n));
        let ask = eth().ipv4(client.0, FAR).udp(client.1, 69).payload(b"\0\x01file\0octet\0");
        let sent = s.send(usize::from(n) % 3, 1, &ask.build());
        let shown = port_at(&sent[0].1, 34);
        let data = PacketBuilder::eth(A, B).ipv4(FAR, SHOWN).udp(9000 + u16::from(n), shown);
        let got = s.send(usize::from(n / 3) % 3, 2, &data.payload(b"\0\x03\0\x01data").build());
        let (port, p) = &got[0];
        assert_eq!((*port, p[30..34].to_vec(), port_at(p, 36)), (1, client.0.to_vec(), client.1));
    }
    s.check();
    s.end();
}
