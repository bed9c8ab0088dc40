//! Several workers, and what is more than a packet: fragments of one datagram, and a packet within
//! another.

use crate::fragments::{cut, join, of_whole};
use crate::homes::*;
use crate::kit::*;
use crate::lanes::Lanes;
use crate::packets::*;
use sluice_dataplane::counters::{Drop, Stat};
use sluice_dataplane::packet::build::PacketBuilder;
use sluice_dataplane::packet::field::Field;

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
