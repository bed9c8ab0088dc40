//! What becomes of fragments is what becomes of the datagram.
//!
//! Random datagrams are cut at random and sent in any order, mixed with each other, some fragments
//! twice and some not at all; beside it, another switch gets each datagram in one piece at the
//! moment it is complete. Connections have to be equal, and what leaves, put together.

use crate::chance::Chance;
use crate::fragments::{cut, join, of_whole};
use crate::kit::*;
use crate::packets::*;
use proptest::prelude::*;
use sluice_dataplane::conntrack::{NatKind, NatMode, NatSpec};
use sluice_dataplane::packet::build::PacketBuilder;
use sluice_dataplane::packet::field::Field;

const OUTSIDE: [u8; 4] = [203, 0, 113, 1];

fn rules(c: &mut Chance) -> Net {
    let v6: u128 = 0xfd00_0000_0000_0000_0000_0000_0000_00aa;
    let six = NatSpec {
        kind: NatKind::Src,
        v6: true,
        addr_min: v6,
        addr_max: v6,
        ports: Some((6000, 6005)),
        mode: NatMode::Hash,
    };
    let mut nat6 = ct(1).commit();
    nat6.0.nat = Some(sluice_dataplane::action::Nat::New(six));
    let nat4 = ct(1).commit().nat_to(NatKind::Src, OUTSIDE, Some((5000, 5005)));
    let next = if c.one_in(2) { ct(2).commit().table(2).go() } else { out(2) };
    let is = |t| flow(0, 5).is(Field::EthType, t);
    Net::of([
        is(0x0800).does([nat4.table(1).go()]),
        is(0x86dd).does([nat6.table(1).go()]),
        flow(1, 5).masked(Field::CtState, 0x10, 0x10).does([out(4)]),
        flow(1, 1).does([next]),
        flow(2, 5).masked(Field::CtState, 0x20, 0x31).does([out(3)]),
        flow(2, 1).does([out(2)]),
    ])
}

/// A datagram, and how many bytes of its extension headers stand before a fragment header.
fn datagram(c: &mut Chance) -> (Vec<u8>, usize) {
    let (mut p, mut before) = (v4(), 0);
    if c.one_in(2) {
        p = v6();
        if c.one_in(3) {
            p = p.extension(0, &[0; 8]);
            before = 8;
        }
        if c.one_in(3) {
            p = p.extension(60, &[0; 8]);
        }
    } else if c.one_in(3) {
        p = p.ip_options(&[1; 4]);
    }
    let port = 1000 + c.below(3) as u16;
    let data: Vec<u8> = (0..400 + c.below(1000)).map(|_| c.next() as u8).collect();
    let p: PacketBuilder = match c.below(5) {
        0 => p.udp(port, 53),
        1 => p.tcp(port, 80).flags(2).seq(5),
        2 => p.sctp(port, 80, 9),
        3 => p.echo_request(port, 1),
        _ => p.proto(47),
    };
    let mut frame = p.payload(&data).build();
    if c.one_in(8) {
        *frame.last_mut().unwrap() ^= 0x40;
    }
    (frame, before)
}

/// Datagrams that were completed.
fn life(seed: u64) -> usize {
    let mut c = Chance(seed);
    let net = rules(&mut c);
    let (mut pieces, mut whole) = (Switch::new(&net), Switch::new(&net));
    let (mut line, mut sources) = (Vec::new(), Vec::new());
    for id in 0..4 {
        let (frame, before) = datagram(&mut c);
        let lengths = [400 + 8 * c.below(30) as usize, 400 + 8 * c.below(9) as usize];
        let parts = cut(&frame, before, id as u32, &lengths);
        let mut have: Vec<(usize, usize)> = (0..parts.len()).map(|n| (id, n)).collect();
        if c.one_in(4) {
            have.remove(c.below(have.len() as u64) as usize);
        }
        if c.one_in(3) && !have.is_empty() {
            have.push(c.of(&have));
        }
        line.extend(have);
        sources.push((frame, before, parts, Vec::new()));
    }
    for n in (1..line.len()).rev() {
        line.swap(n, c.below(n as u64 + 1) as usize);
    }
    let mut completed = 0;
    for (id, n) in line {
        let (frame, before, parts, came) = &mut sources[id];
        if parts.len() == 1 {
            assert_eq!(pieces.send(1, frame), whole.send(1, frame));
            continue;
        }
        let sent = pieces.send(1, &parts[n]);
        if !came.contains(&n) {
            came.push(n);
        }
        if came.len() < parts.len() {
            assert_eq!(sent, []);
            continue;
        }
        came.clear();
        completed += 1;
        let expect = whole.send(1, frame);
        assert!(sent.iter().all(|s| s.0 == expect[0].0), "all by one port");
        let sent: Vec<_> = sent.into_iter().map(|s| s.1).collect();
        assert_eq!(join(&sent), of_whole(&expect[0].1, *before));
        assert_eq!(pieces.see().conns, whole.see().conns);
    }
    pieces.wait(15_000);
    pieces.housekeep();
    assert!(pieces.sides().iter().all(|s| s.lane.fragments_held() == 0), "nothing is left");
    completed
}

proptest! {
    #![proptest_config(ProptestConfig {
        failure_persistence: None, cases: 150, max_shrink_iters: 0, ..ProptestConfig::default()
    })]
    #[test]
    fn fragments_go_as_their_datagram(seed: u64) {
        life(seed);
    }
}

#[test]
fn datagrams_do_complete() {
    let completed: usize = (0..40).map(life).sum();
    assert!(completed > 80, "{completed}");
}
