//! Packets of established connections in a row: what the last one was served from is tried for the
//! next, and is not for a packet that goes another way. The lane with tier 2 alone serves them so;
//! `Switch` compares it with the others.

use crate::kit::*;
use crate::packets::*;
use sluice_dataplane::action::Action;
use sluice_dataplane::conntrack::NatKind;
use sluice_dataplane::packet::build::PacketBuilder;
use sluice_dataplane::packet::field::Field;

const FAR: [u8; 4] = [198, 51, 100, 7];
/// Connections.
const N: u16 = 12;

/// UDP of client `n`, there.
fn there(n: u16) -> PacketBuilder {
    eth().ipv4([10 + (n % 2) as u8, 0, 0, n as u8], FAR).udp(1000 + n, 53)
}

fn back(n: u16) -> PacketBuilder {
    eth().ipv4(FAR, [10 + (n % 2) as u8, 0, 0, n as u8]).udp(53, 1000 + n)
}

fn all(make: impl Fn(u16) -> PacketBuilder) -> Vec<Vec<u8>> {
    (0..N).map(|n| make(n).build()).collect()
}

fn ask() -> Flow {
    flow(0, 5).is(Field::EthType, 0x0800).does([ct(1).nat().table(1).go()])
}

fn open(commit: Action) -> Flow {
    flow(1, 9).masked(Field::CtState, 0x21, 0x21).does([commit, out(2)])
}

/// Of an established connection, and of this side.
fn known(is_reply: bool) -> Flow {
    flow(1, 5).masked(Field::CtState, if is_reply { 0x2a } else { 0x22 }, 0x2a)
}

/// Connections that are opened so, and where their packets go on both ways.
fn stateful(commit: Action, there: Vec<Action>, back: u32) -> [Flow; 4] {
    [ask(), open(commit), known(false).does(there), known(true).does([out(back)])]
}

/// A switch whose connections both sides have spoken in.
fn settled(list: impl IntoIterator<Item = Flow>) -> Switch {
    let mut s = Switch::sized(&Net::of(list), 64, 512);
    s.batch(1, &all(there));
    s.batch(2, &all(back));
    s
}

/// Some packets in a row, then by turns; which leave by port 3, and the others by port 2.
fn mixed(s: &mut Switch, make: impl Fn(u16, bool) -> PacketBuilder) {
    let turns: [fn(u16) -> bool; 5] = [|_| false, |n| n == 5, |n| n % 2 == 0, |_| true, |n| n > 6];
    for _ in 0..2 {
        for is_other in turns {
            let packets: Vec<_> = (0..N).map(|n| make(n, is_other(n)).build()).collect();
            let wanted: Vec<u16> = (0..N).map(|n| 2 + u16::from(is_other(n))).collect();
            assert_eq!(ports(&s.batch(1, &packets)), wanted);
        }
    }
    assert_eq!(s.see().conns.len(), usize::from(N));
}

#[test]
fn of_two_lengths() {
    let dst = Field::Reg0;
    let long = Action::CheckPktLarger { len: 100, dst: dst.info().range(0, 0).unwrap() };
    let mut s = settled([
        ask(),
        open(ct(1).commit().go()),
        known(false).does([long, resubmit(2)]),
        known(true).does([out(1)]),
        flow(2, 1).masked(dst, 0, 1).does([out(2)]),
        flow(2, 1).masked(dst, 1, 1).does([out(3)]),
    ]);
    mixed(&mut s, |n, long| there(n).payload(&[7; 100][..if long { 100 } else { 5 }]));
}

#[test]
fn of_two_classes() {
    let mut s = settled([
        ask(),
        open(ct(1).commit().go()),
        known(false).is(Field::IpDscp, 0).does([out(2)]),
        known(false).is(Field::IpDscp, 1).does([out(3)]),
        known(true).does([out(1)]),
    ]);
    mixed(&mut s, |n, other| there(n).tos(if other { 4 } else { 0 }));
}

/// A change of rules holds for the next packet.
#[test]
fn between_two_changes() {
    let mut s = settled(stateful(ct(1).commit().go(), vec![out(2)], 1));
    for to in [2, 2, 3, 3, 2] {
        s.change(&[Edit::Modify { number: 2, actions: vec![out(to)] }]);
        for _ in 0..3 {
            assert_eq!(ports(&s.batch(1, &all(there))), [to as u16; N as usize]);
        }
    }
}

/// What leaves translated, by more than the common steps.
#[test]
fn by_steps_of_all_kinds() {
    let outside = [203, 0, 113, 9];
    for actions in [vec![out(2), out(3)], vec![out(2)]] {
        let copies = actions.len();
        let nat = ct(1).commit().nat_to(NatKind::Src, outside, Some((5000, 5999))).go();
        let mut s = Switch::sized(&Net::of(stateful(nat, actions, 1)), 64, 512);
        let opened = s.batch(1, &all(there));
        let answers: Vec<_> = opened.iter().map(|(_, b)| answer_to(b)).collect();
        for _ in 0..3 {
            let came_back = s.batch(2, &answers);
            assert_eq!(ports(&came_back), [1; N as usize]);
            assert!(came_back.iter().all(|(_, b)| b[30] == 10 || b[30] == 11));
            let sent = s.batch(1, &all(there));
            assert_eq!(sent.len(), copies * usize::from(N));
            assert!(sent.iter().all(|(_, b)| b[26..30] == outside));
        }
    }
}

/// Packets of other kinds, or none at all, among those of established connections.
#[test]
fn among_others() {
    let usual = stateful(ct(1).commit().go(), vec![out(2)], 3);
    let mut s = settled(usual.into_iter().chain([flow(1, 1).does([out(4)])]));
    let broken = |n: u16| {
        let mut b = there(n).payload(b"query").build();
        b[45] ^= 0x55;
        b
    };
    for round in 0..3 {
        let stranger = N + 2 * round;
        let one = |n| there(n).build();
        let packets = [
            one(0),
            one(2),
            broken(4),
            one(4),
            one(stranger),
            one(6),
            back(8).build(),
            one(8),
            one(stranger),
            one(10),
            one(10),
        ];
        assert_eq!(ports(&s.batch(1, &packets)), [2, 2, 4, 2, 2, 2, 3, 2, 2, 2, 2]);
    }
    assert_eq!(s.see().conns.len(), usize::from(N) + 3);
}

/// Their time is over while their packets wait, and the next ones begin anew.
#[test]
fn whose_time_is_over() {
    let mut s = settled(stateful(ct(1).commit().go(), vec![out(3)], 1));
    assert_eq!(ports(&s.batch(1, &all(there))), [3; N as usize]);
    s.wait(3_600_000);
    assert_eq!(ports(&s.batch(1, &all(there))), [2; N as usize], "new ones");
}
