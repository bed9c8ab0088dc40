//! Fragments that wait at `ct`, case by case.

use crate::kit::*;
use crate::packets::*;
use crate::punts::pause;
use sluice_dataplane::action::Action;
use sluice_dataplane::action::group::GroupKind;
use sluice_dataplane::conntrack::NatKind;
use sluice_dataplane::counters::{Drop, Stat};
use sluice_dataplane::packet::build::PacketBuilder;
use sluice_dataplane::packet::field::Field;
use sluice_dataplane::packet::key::{PacketKey, PortIx};
use sluice_dataplane::packet::l4sum;
use sluice_dataplane::packet::parse::{Layers, parse};
use sluice_dataplane::wire::checksum::Sum;

const OUTSIDE: [u8; 4] = [203, 0, 113, 1];

/// Cuts a frame of Ethernet, IP and data into fragments whose data has these lengths; what is left
/// is the last. IPv6 is cut behind its fixed header and so many bytes of extensions.
pub fn cut(frame: &[u8], extensions: usize, id: u32, lengths: &[usize]) -> Vec<Vec<u8>> {
    let v6 = frame[12..14] == [0x86, 0xdd];
    let head = 14 + if v6 { 40 + extensions } else { usize::from(frame[14] & 15) * 4 };
    let (mut at, mut out) = (head, Vec::new());
    let ends = lengths.iter().map(|len| Some(*len)).chain([None]);
    for len in ends {
        let end = len.map_or(frame.len(), |len| (at + len).min(frame.len()));
        out.push(piece(&frame[..head], &frame[at..end], (at - head) as u16, id, end < frame.len()));
        if end == frame.len() {
            break;
        }
        at = end;
    }
    out
}

/// A fragment of these headers (Ethernet, IP and extensions) with this data.
pub fn piece(head: &[u8], data: &[u8], offset: u16, id: u32, more: bool) -> Vec<u8> {
    let mut p = head.to_vec();
    if head[12..14] == [0x86, 0xdd] {
        let last = if head.len() == 54 { 20 } else { 54 };
        let next = std::mem::replace(&mut p[last], 44);
        p.extend([next, 0]);
        p.extend((offset | u16::from(more)).to_be_bytes());
        p.extend(id.to_be_bytes());
        p.extend(data);
        let len = (p.len() - 54) as u16;
        p[18..20].copy_from_slice(&len.to_be_bytes());
    } else {
        p.extend(data);
        let len = (p.len() - 14) as u16;
        p[16..18].copy_from_slice(&len.to_be_bytes());
        p[18..20].copy_from_slice(&(id as u16).to_be_bytes());
        p[20..22].copy_from_slice(&((offset / 8) | (u16::from(more) << 13)).to_be_bytes());
        p[24..26].fill(0);
        let sum = Sum::of(&p[14..head.len()]).checksum();
        p[24..26].copy_from_slice(&sum);
    }
    p
}

/// The frame that fragments, in order, were cut from, as far as forwarding changes it: addresses
/// and what follows the IP header. Each has to be sound.
pub fn join(fragments: &[Vec<u8>]) -> Vec<u8> {
    let mut whole: Vec<u8> = Vec::new();
    let mut data = Vec::new();
    for f in fragments {
        let (mut key, mut layers) = (PacketKey::default(), Layers::default());
        parse(f, PortIx(1), &mut key, &mut layers).unwrap();
        assert!(l4sum::verify_ipv4_header(f, &layers, &key));
        let v6 = f[12..14] == [0x86, 0xdd];
        let mut head = f[..34].to_vec();
        let (at, flags) = if v6 {
            head = f[..54].to_vec();
            let at = if f[20] == 44 { 54 } else { 54 + 8 * (usize::from(f[55]) + 1) };
            (at + 8, u16::from_be_bytes([f[at + 2], f[at + 3]]) & 0xfff8)
        } else {
            let at = 14 + usize::from(f[14] & 15) * 4;
            (at, u16::from_be_bytes([f[20], f[21]]) << 3)
        };
        assert_eq!(usize::from(flags), data.len(), "in order, and none lacks");
        data.extend_from_slice(&f[at..]);
        whole = head;
    }
    seen(&whole).into_iter().chain(data).collect()
}

/// Addresses, and what routers and senders of fragments do not write.
fn seen(head: &[u8]) -> Vec<u8> {
    match head[12] {
        0x86 => [&head[..18], &head[21..54]].concat(),
        _ => [&head[..16], &head[22..24], &head[26..34]].concat(),
    }
}

/// The same of a packet that was sent in one piece.
pub fn of_whole(frame: &[u8], extensions: usize) -> Vec<u8> {
    let v6 = frame[12..14] == [0x86, 0xdd];
    let (head, at) = match v6 {
        true => (54, 54 + extensions),
        false => (34, 14 + usize::from(frame[14] & 15) * 4),
    };
    seen(&frame[..head]).into_iter().chain(frame[at..].to_vec()).collect()
}

fn big(n: usize) -> Vec<u8> {
    (0..n).map(|i| (i * 7 % 251) as u8).collect()
}

fn datagram() -> Vec<u8> {
    v4().udp(1000, 53).payload(&big(1200)).build()
}

fn pieces() -> Vec<Vec<u8>> {
    cut(&datagram(), 0, 77, &[400; 3])
}

/// Commits with source NAT and sends to 2.
fn snat() -> Vec<Flow> {
    let to = ct(1).commit().nat_to(NatKind::Src, OUTSIDE, Some((5000, 5000)));
    vec![
        always([to.table(1).go()]),
        flow(1, 1).does([out(2)]),
        flow(1, 5).masked(Field::CtState, 0x10, 0x10).does([out(4)]),
    ]
}

fn translated() -> Vec<u8> {
    eth().ipv4(OUTSIDE, IP_B).udp(5000, 53).payload(&big(1200)).build()
}

#[test]
fn a_datagram_in_pieces_is_judged_and_translated_as_a_whole() {
    let f = pieces();
    assert_eq!(f.len(), 4);
    let expect: Vec<_> = cut(&translated(), 0, 77, &[400; 3]).into_iter().map(|f| (2, f)).collect();
    for order in [[0, 1, 2, 3], [3, 2, 1, 0], [2, 0, 3, 1]] {
        let mut s = Switch::new(&Net::of(snat()));
        let mut sent = Vec::new();
        for n in order {
            assert_eq!(sent, [], "all wait for the last to come");
            sent = s.send(1, &f[n]);
        }
        assert_eq!(sent, expect, "in order of offset, checksums exact");
        let seen = s.see();
        assert_eq!(seen.conns.len(), 1);
        assert_eq!((seen.conns[0].orig.sport, seen.conns[0].reply.dport), (1000, 5000));
        assert_eq!((s.plain.lane.fragments_held(), seen.drops), (0, vec![]));
        let count = |stat| s.plain.counters.stat(stat);
        assert_eq!((count(Stat::CtFragments), count(Stat::CtDatagrams)), (4, 1));
        // Rules count each fragment once.
        assert_eq!(seen.rules.iter().map(|r| r.0).collect::<Vec<_>>(), [4, 4, 0]);
    }
}

#[test]
fn replies_in_pieces_come_home() {
    let mut s = Switch::new(&Net::of([
        flow(0, 5).is(Field::InPort, 1).does([ct(1)
            .commit()
            .nat_to(NatKind::Src, OUTSIDE, Some((5000, 5000)))
            .table(1)
            .go()]),
        flow(0, 5).is(Field::InPort, 2).does([ct(1).nat().table(2).go()]),
        flow(1, 1).does([out(2)]),
        flow(2, 1).masked(Field::CtState, 0x2a, 0x2a).does([out(1)]),
    ]));
    s.batch(1, &pieces());
    let back = PacketBuilder::eth(B, A).ipv4(IP_B, OUTSIDE).udp(53, 5000).payload(&big(900));
    let home = PacketBuilder::eth(B, A).ipv4(IP_B, IP_A).udp(53, 1000).payload(&big(900)).build();
    let sent = s.batch(2, &cut(&back.build(), 0, 9, &[400]));
    assert_eq!(sent.iter().map(|s| s.0).collect::<Vec<_>>(), [1, 1]);
    let sent: Vec<_> = sent.into_iter().map(|s| s.1).collect();
    assert_eq!(join(&sent), of_whole(&home, 0));
}

#[test]
fn errors_about_the_first_fragment_are_related() {
    let flows = snat().into_iter().chain([
        flow(0, 9).is(Field::InPort, 2).does([ct(1).nat().table(2).go()]),
        flow(2, 1).masked(Field::CtState, 0x2c, 0x2c).does([out(1)]),
        flow(2, 1).masked(Field::CtState, 0x30, 0x30).does([out(4)]),
    ]);
    let mut s = Switch::new(&Net::of(flows.collect::<Vec<_>>()));
    let sent = s.batch(1, &pieces());
    let error = |dst, quoted: &[u8]| {
        let p = PacketBuilder::eth(B, A).ipv4([10, 1, 1, 1], dst);
        p.icmp_error(3, 4, [0, 0, 2, 0], &quoted[..14 + 20 + 8]).build()
    };
    assert_eq!(s.twice(2, &error(OUTSIDE, &sent[0].1)), [(1, error(IP_A, &pieces()[0]))]);
    // A later one has no ports to tell the connection by.
    assert_eq!(s.ports(2, &error(OUTSIDE, &sent[1].1)), [4]);
}

#[test]
fn each_copy_waits_for_itself() {
    let wait = |t, z| ct(z).table(t).go();
    let copy = |list: &[Action]| Action::Clone(list.into());
    let net = Net::of([
        always([out(3), copy(&[wait(1, 1), out(3)]), wait(2, 1), Action::DecTtl, out(4)]),
        flow(1, 1).does([out(2)]),
        flow(2, 1).is(Field::CtState, 0x21).does([out(2)]),
    ]);
    let mut s = Switch::new(&net);
    let f = cut(&v4().udp(1, 2).payload(&big(700)).build(), 0, 1, &[400]);
    assert_eq!(s.send(1, &f[0]), [(3, f[0].clone())]);
    let ports: Vec<u16> = s.send(1, &f[1]).into_iter().map(|s| s.0).collect();
    // The fragment itself; then, of both in turn, the copy that leaves last, and the clone.
    assert_eq!(ports, [3, 2, 4, 2, 4, 2, 3, 2, 3]);
    assert_eq!(s.plain.lane.fragments_held(), 0);
}

#[test]
fn registers_and_sets_are_each_fragments_own() {
    let write = |port| Action::WriteActions([out(port)].into());
    let from = |p, port| {
        flow(0, 2).is(Field::InPort, p).does([
            set(Field::Reg0, p),
            write(port),
            ct(1).table(1).go(),
        ])
    };
    let net = Net::of([
        from(1, 2),
        from(3, 4),
        flow(1, 1).is(Field::Reg0, 1).is(Field::CtState, 0x21).does([]),
        flow(1, 1).is(Field::Reg0, 3).is(Field::CtState, 0x21).does([out(2)]),
    ]);
    let mut s = Switch::new(&net);
    let f = cut(&v4().udp(1, 2).payload(&big(700)).build(), 0, 1, &[400]);
    assert_eq!(s.send(1, &f[0]), []);
    // The other came by another port.
    let (a, b) = (&f[0], &f[1]);
    let expect = [(2, a), (2, a), (2, b), (4, b), (4, b)].map(|(port, f)| (port, f.clone()));
    assert_eq!(s.send(3, b), expect, "the set is the copy's and the packet's");
}

#[test]
fn a_fragment_waits_in_a_bucket_and_in_a_set_too() {
    let g = group(1, GroupKind::All, [bucket(1, [ct(1).table(1).go()]), bucket(2, [out(3)])]);
    let in_set = Action::WriteActions([Action::DecTtl, ct(2).table(1).go()].into());
    let net = Net::of([always([Action::Group(1), in_set]), flow(1, 1).does([out(2)])]).group(g);
    let mut s = Switch::new(&net);
    let whole = v4().udp(1, 2).payload(&big(700));
    let f = cut(&whole.clone().build(), 0, 1, &[400]);
    let less = cut(&whole.ttl(63).build(), 0, 1, &[400]);
    assert_eq!(s.send(1, &f[0]), [(3, f[0].clone())]);
    let sent = s.send(1, &f[1]);
    let mut expect = vec![(3, f[1].clone())];
    expect.extend(less.into_iter().map(|f| (2, f)));
    expect.extend(f.into_iter().map(|f| (2, f)));
    assert_eq!(sent, expect);
}

#[test]
fn what_waits_may_pause_and_meet_further_zones() {
    let net = Net::of([
        always([set(Field::UdpDst, 99), ct(1).commit().table(1).go()]),
        flow(1, 1).does([pause(), Action::CtClear, ct(2).commit().table(2).go()]),
        flow(2, 1).is(Field::CtState, 0x21).does([out(2)]),
    ]);
    let mut s = Switch::new(&net);
    let f = cut(&v4().udp(1, 2).payload(&big(700)).build(), 0, 1, &[400]);
    assert_eq!(s.batch(1, &f), []);
    // Resumed one by one, they wait again.
    assert_eq!(s.resume(), Some(vec![]));
    let sent: Vec<_> = s.resume().unwrap().into_iter().map(|s| s.1).collect();
    let changed = v4().udp(1, 99).payload(&big(700)).build();
    assert_eq!(join(&sent), of_whole(&changed, 0));
    let zones: Vec<_> = s.see().conns.iter().map(|c| (c.zone, c.orig.dport)).collect();
    assert_eq!(zones, [(1, 99), (2, 99)]);
}

#[test]
fn copies_that_paused_apart_wait_apart() {
    let copy = Action::Clone([pause(), ct(1).table(1).go()].into());
    let net = Net::of([
        always([copy, pause(), ct(1).table(2).go()]),
        flow(1, 1).does([out(2)]),
        flow(2, 1).does([out(3)]),
    ]);
    let mut s = Switch::new(&net);
    let f = cut(&v4().udp(1, 2).payload(&big(700)).build(), 0, 1, &[400]);
    assert_eq!(s.batch(1, &f), []);
    let mut ports = Vec::new();
    while let Some(sent) = s.resume() {
        ports.extend(sent.into_iter().map(|s| s.0));
    }
    ports.sort_unstable();
    assert_eq!((ports, s.dropped(Drop::FragmentDuplicate)), (vec![2, 2, 3, 3], 0));
}

#[test]
fn one_datagram_moves_a_window_once() {
    let rst = |seq| v4().tcp(1000, 80).flags(4 | 16).seq(seq).payload(&big(700));
    let net = Net::of([
        always([ct(1).commit().table(1).go()]),
        flow(1, 1).masked(Field::CtState, 0x10, 0x10).does([out(4)]),
        flow(1, 0).does([out(2)]),
    ]);
    let mut s = Switch::new(&net);
    s.send(1, &v4().tcp(1000, 80).flags(2).seq(100).build());
    let sent = s.batch(1, &cut(&rst(101).build(), 0, 3, &[400]));
    assert_eq!(sent.iter().map(|s| s.0).collect::<Vec<_>>(), [2, 2], "of one verdict");
}

#[test]
fn wrong_checksums_are_the_whole_datagrams() {
    let mut whole = datagram();
    *whole.last_mut().unwrap() ^= 1;
    let mut s = Switch::new(&Net::of(snat()));
    let sent = s.batch(1, &cut(&whole, 0, 7, &[400; 3]));
    assert_eq!(sent.iter().map(|s| s.0).collect::<Vec<_>>(), [4; 4]);
    assert_eq!(s.plain.counters.stat(Stat::CtInvalid), 1);
    let lies = v4().udp(1000, 53).payload(&big(700)).build();
    let short = &lies[..lies.len() - 8];
    let sent = s.batch(1, &cut(short, 0, 8, &[400]));
    assert_eq!(sent.iter().map(|s| s.0).collect::<Vec<_>>(), [4; 2], "UDP says more than there is");
}

#[test]
fn what_cannot_be_a_fragment_is_invalid_at_once() {
    let (whole, head) = (datagram(), 34);
    let at = |offset, data: &[u8], more| piece(&whole[..head], data, offset, 5, more);
    let mut damaged = at(0, &big(400), true);
    damaged[22] ^= 1;
    for bad in [
        at(0, &big(376), true),
        at(0, &big(404), true),
        at(8, &[], false),
        at(65_504, &big(400), false),
        damaged,
    ] {
        let mut s = Switch::new(&Net::of(snat()));
        assert_eq!(s.send(1, &bad), [(4, bad)]);
        assert_eq!(s.plain.lane.fragments_held(), 0);
    }
}

#[test]
fn an_atomic_fragment_is_a_packet() {
    let whole = v6().fragment(1, 0, false).udp(1, 2).payload(b"hello").build();
    let net = Net::of([
        always([ct(1).table(1).go()]),
        flow(1, 1).is(Field::CtState, 0x21).does([out(2)]),
    ]);
    assert_eq!(Switch::new(&net).twice(1, &whole), [(2, whole)]);
}

#[test]
fn overlaps_end_the_datagram() {
    let whole = datagram();
    let at = |offset: u16, len: usize, more| {
        let data = &whole[34 + usize::from(offset)..][..len];
        piece(&whole[..34], data, offset, 5, more)
    };
    let mut other = at(0, 400, true);
    *other.last_mut().unwrap() ^= 1;
    let tail = whole.len() - 34;
    for (first, bad, name) in [
        (at(0, 400, true), at(392, 400, true), "it begins in another"),
        (at(392, 400, true), at(0, 400, true), "it ends in another"),
        (at(0, 400, true), other, "the same place with other data"),
        (at(400, 400, true), at(0, 1200, true), "it covers another"),
        (at(800, tail - 800, false), at(800, tail - 808, false), "two ends"),
        (at(800, 400, true), at(400, 400, false), "an end before another"),
        (at(400, 400, false), at(800, 400, true), "behind the end"),
    ] {
        let mut s = Switch::new(&Net::of(snat()));
        assert_eq!(s.batch(1, &[first, bad]), [], "{name}");
        assert_eq!((s.dropped(Drop::FragmentOverlap), s.plain.lane.fragments_held()), (2, 0));
        assert_eq!(s.send(1, &at(0, 400, true)), []);
        assert_eq!(s.dropped(Drop::FragmentOverlap), 3, "{name}: what comes later goes too");
        s.wait(15_000);
        s.housekeep();
        assert_eq!(s.batch(1, &pieces()).len(), 4, "{name}: and is forgotten");
    }
}

#[test]
fn the_same_again_is_dropped_alone() {
    let mut s = Switch::new(&Net::of(snat()));
    let f = pieces();
    s.batch(1, &[f[0].clone(), f[0].clone(), f[3].clone(), f[3].clone(), f[1].clone()]);
    assert_eq!(s.dropped(Drop::FragmentDuplicate), 2);
    assert_eq!(s.send(1, &f[2]).len(), 4);
}

#[test]
fn what_lacks_one_is_dropped_in_time() {
    let mut s = Switch::new(&Net::of(snat()));
    s.batch(1, &pieces()[..3]);
    s.wait(14_999);
    s.housekeep();
    assert_eq!(s.plain.lane.fragments_held(), 3);
    s.wait(1);
    s.housekeep();
    assert_eq!((s.plain.lane.fragments_held(), s.dropped(Drop::FragmentTimeout)), (0, 3));
    assert_eq!(s.send(1, &pieces()[3]), [], "its time was over");
}

#[test]
fn a_flood_drops_the_oldest_and_spares_who_is_quick() {
    let mut s = Switch::new(&Net::of(snat()));
    let first = |id| cut(&datagram(), 0, id, &[400; 3]).remove(0);
    let flood: Vec<_> = (0..64).map(first).collect();
    flood.chunks(16).for_each(|f| assert_eq!(s.batch(1, f), []));
    assert_eq!(s.plain.lane.fragments_held(), FRAGMENTS_HELD);
    assert_eq!(s.dropped(Drop::FragmentLimit), 64 - FRAGMENTS_HELD as u64);
    assert_eq!(s.batch(1, &cut(&datagram(), 0, 1000, &[400; 3])).len(), 4);
    assert_eq!(s.dropped(Drop::FragmentLimit), 64 - FRAGMENTS_HELD as u64 + 4);
}

#[test]
fn a_program_that_goes_takes_them_along() {
    let net = Net::of(snat());
    let mut s = Switch::new(&net);
    let f = pieces();
    s.batch(1, &f[..3]);
    // Rules change: what waits goes on with the actions it met, into the tables of now.
    s.program(&Net::of([always([ct(1).table(3).go()]), flow(1, 1).does([out(3)])]));
    s.program(&Net::of([always([ct(1).table(3).go()]), flow(1, 1).does([out(3)])]));
    let sent = s.send(1, &f[3]);
    let ports: Vec<u16> = sent.iter().map(|s| s.0).collect();
    assert_eq!(ports, [3, 3, 3], "the fourth met another table");
    // Another map of tunnel options.
    s.batch(1, &f[..3]);
    let mut other = net;
    other.tlv = std::sync::Arc::default();
    s.program(&other);
    assert_eq!(s.send(1, &f[3]).len(), 1);
    assert_eq!(s.dropped(Drop::FragmentLost), 3);
}
