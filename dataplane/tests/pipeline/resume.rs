//! Packets that pause, and go on.

use crate::kit::*;
use crate::packets::*;
use crate::punts::pause;
use sluice_dataplane::action::group::GroupKind;
use sluice_dataplane::action::{Action, PORT_NONE};
use sluice_dataplane::conntrack::NatKind;
use sluice_dataplane::counters::{Drop, Stat};
use sluice_dataplane::packet::build::PacketBuilder;
use sluice_dataplane::packet::field::Field;
use sluice_dataplane::packet::key::FlowKey;
use sluice_dataplane::pipeline::{PacketOut, PacketOutError};
use std::sync::Arc;

fn pop(f: Field) -> Action {
    Action::Pop { dst: f.info().whole(), prereq: f.info().prereq, skip: 0 }
}

fn push(f: Field) -> Action {
    Action::Push { src: f.info().whole(), zeros: 0 }
}

/// The ports that a packet leaves by at once, and then each time that it is resumed.
fn legs(net: &Net) -> Vec<Vec<u16>> {
    let mut s = Switch::new(net);
    let mut all = vec![s.ports(1, &udp())];
    while let Some(sent) = s.resume() {
        all.push(sent.into_iter().map(|(port, _)| port).collect());
    }
    all
}

#[test]
fn what_follows_in_all_lists_that_led_here_waits() {
    // The resubmit without a table means table 3 also after a pause.
    let again = Action::Resubmit { in_port: Some(7), table: None, with_ct: false };
    let flows = [
        always([out(2), resubmit(1), out(3)]),
        flow(1, 1).does([resubmit(3), pause(), out(4)]),
        flow(3, 1).does([pause(), again, out(2)]),
        flow(3, 2).is(Field::InPort, 7).does([pause(), out(3), pause()]),
    ];
    let net = Net::of(flows);
    assert_eq!(legs(&net), [vec![2], vec![], vec![3], vec![2], vec![4, 3]]);
    let mut s = Switch::new(&net);
    s.send(1, &udp());
    s.resume();
    let punts = s.see().packet_ins;
    let tables: Vec<u8> = punts.iter().map(|p| p.0.table).collect();
    assert_eq!(tables, [3, 3]);
    assert!(punts.iter().all(|p| p.0.pause && p.2 == udp()));
    assert_eq!(s.dropped(Drop::NoOutput), 0);
}

#[test]
fn a_packet_that_pauses_last_ends_when_it_is_resumed() {
    assert_eq!(legs(&Net::of([always([out(2), pause()])])), [vec![2], vec![]]);
    let mut s = Switch::new(&Net::of([always([pause(), resubmit(1)])]));
    s.send(1, &udp());
    assert_eq!((s.resume(), s.dropped(Drop::NoMatch)), (Some(vec![]), 1), "nothing ever left");
    assert_eq!(s.resume(), None);
}

#[test]
fn edits_registers_stack_and_queue_are_as_they_were() {
    let list = [
        set(Field::Reg0, 3),
        set(Field::Metadata, 5),
        push(Field::Reg0),
        Action::DecTtl,
        pause(),
        Action::DecTtl,
        Action::OutputField(Field::Reg0.info().whole()),
        pop(Field::Reg1),
        Action::OutputField(Field::Reg1.info().range(0, 15).unwrap()),
        resubmit(1),
    ];
    let mut s = Switch::new(&Net::of([
        always(list),
        flow(1, 1).is(Field::Metadata, 5).is(Field::InPort, 1).does([out(4)]),
    ]));
    assert_eq!(s.ports(1, &udp()), []);
    let less = |ttl| v4().ttl(ttl).udp(1000, 2000).payload(b"hello").build();
    assert_eq!(s.see().packet_ins[0].2, less(63));
    let out = |p| (p, less(62));
    assert_eq!(s.resume(), Some(vec![out(3), out(3), out(4)]));
    assert_eq!(s.plain.counters.stat(Stat::Resumes), 1);
}

#[test]
fn a_clone_pauses_alone() {
    let copy = Action::Clone([set(Field::Reg0, 1), pause(), out(2), resubmit(1)].into());
    let flows = [
        always([copy, out(3), resubmit(1)]),
        flow(1, 1).does([out(4)]),
        flow(1, 2).is(Field::Reg0, 1).does([out(3)]),
    ];
    assert_eq!(legs(&Net::of(flows)), [vec![3, 4], vec![2, 3]]);
    // Each of them has what it is nested in.
    let inner = Action::Clone([pause(), out(4)].into());
    let nested = always([Action::Clone([inner, pause(), out(2)].into()), out(3)]);
    assert_eq!(legs(&Net::of([nested])), [vec![3], vec![4], vec![2]]);
}

#[test]
fn buckets_pause_alone() {
    let g = group(
        1,
        GroupKind::All,
        [bucket(1, [resubmit(1)]), bucket(2, [out(2)]), bucket(3, [resubmit(1)])],
    );
    let flows =
        [always([Action::Group(1), out(3)]), flow(1, 1).does([Action::DecTtl, pause(), out(4)])];
    let net = Net::of(flows).group(g);
    assert_eq!(legs(&net), [vec![2, 3], vec![4], vec![4]]);
    let mut s = Switch::new(&net);
    assert_eq!(s.send(1, &udp()), [(2, udp()), (3, udp())]);
    let less = v4().ttl(63).udp(1000, 2000).payload(b"hello").build();
    assert_eq!(s.resume(), Some(vec![(4, less)]));
    // The action set is the whole packet's; what is written behind the pause, the bucket's.
    let write = |port| Action::WriteActions([out(port)].into());
    let flows =
        |first: Action| [always([first, Action::Group(1)]), flow(1, 1).does([pause(), write(4)])];
    let g = || group(1, GroupKind::All, [bucket(1, [resubmit(1)])]);
    assert_eq!(legs(&Net::of(flows(write(2))).group(g())), [vec![2], vec![4]]);
    // A set that leads to the group is being run: nothing that is written then is.
    let net = Net::of([
        always([Action::WriteActions([Action::Group(1)].into()), out(3)]),
        flow(1, 1).does([pause(), write(4), out(2)]),
    ]);
    assert_eq!(legs(&net.group(g())), [vec![3], vec![2]]);
}

#[test]
fn the_action_set_is_run_after_the_last_pause() {
    let write = |list: &[Action]| Action::WriteActions(list.into());
    let flows = [
        always([write(&[out(3)]), pause(), resubmit(1), pause(), out(2)]),
        flow(1, 1).does([write(&[Action::PushVlan { tpid: 0x8100 }]), pause()]),
    ];
    let net = Net::of(flows);
    assert_eq!(legs(&net), [vec![], vec![], vec![], vec![2, 3]]);
    // What the set itself leads to may pause; the set is not run again.
    let flows = [
        always([write(&[resubmit(1), Action::DecTtl]), write(&[Action::PopVlan]), out(4)]),
        flow(1, 1).does([write(&[out(3)]), pause(), out(2)]),
    ];
    assert_eq!(legs(&Net::of(flows)), [vec![4], vec![2]]);
    // A clone runs the set on its copy.
    let of_clone = always([write(&[out(2)]), Action::Clone([pause()].into()), out(3)]);
    assert_eq!(legs(&Net::of([of_clone])), [vec![3, 2], vec![2]]);
    // What it tells, it tells of the rule with the clone, which a controller sees.
    let old = v4().ttl(1).udp(1, 2).build();
    let told = |net: &Net, resumes: usize| {
        let mut s = Switch::new(net);
        s.send(1, &old);
        assert_eq!((0..).take_while(|_| s.resume().is_some()).count(), resumes);
        let punt = s.see().packet_ins.pop().unwrap().0;
        (punt.table, punt.cookie)
    };
    let dec = || write(&[Action::DecTtl, out(2)]);
    let cloning = |inner: &[Action]| Flow {
        cookie: 5,
        ..flow(2, 1).does([dec(), Action::Clone(inner.into())])
    };
    let one = flow(3, 1).does([pause()]);
    let inside = [always([resubmit(2)]), cloning(&[resubmit(3)]), one];
    assert_eq!(told(&Net::of(inside), 1), (2, 5));
    let whole = [always([resubmit(2)]), flow(2, 1).does([pause(), dec(), resubmit(3)])];
    assert_eq!(told(&Net::of(whole), 1), (0, u64::MAX), "the packet's own is of no rule");
    // Written in a clone, behind a pause.
    let inside = Action::Clone([pause(), write(&[out(2)])].into());
    assert_eq!(legs(&Net::of([always([inside, out(3)])])), [vec![3], vec![2]]);
}

#[test]
fn each_bridge_pauses_alone() {
    let flows = [always([pause(), out(9), out(2), pause(), out(3)])];
    let far = [flow(0, 1).does([pause(), out(2), resubmit(1)]), flow(1, 1).does([out(3)])];
    let net = Net::of(flows).flows(1, far.to_vec());
    assert_eq!(legs(&net), [vec![], vec![2], vec![FAR_2, FAR_3], vec![3]]);
}

#[test]
fn a_connection_is_known_on_both_sides_of_a_pause() {
    let is = |t, state: u128| flow(t, 9).masked(Field::CtState, state, state);
    let flows = [
        always([ct(3).table(1).go(), out(4)]),
        is(1, 0x21).does([
            pause(),
            set(Field::Reg0, 1),
            ct(3).commit().exec([set(Field::CtMark, 7)]).table(2).go(),
        ]),
        is(1, 0x22).does([pause(), resubmit(3)]),
        flow(2, 1).is(Field::CtMark, 7).is(Field::Reg0, 1).does([pause(), out(2)]),
        flow(3, 1).is(Field::CtMark, 7).masked(Field::CtState, 0x2a, 0x2a).does([out(1)]),
    ];
    let mut s = Switch::new(&Net::of(flows));
    assert_eq!(s.ports(1, &udp()), [4]);
    assert!(s.see().conns.is_empty(), "not committed before it is resumed");
    assert_eq!(s.resumed_ports(), []);
    assert_eq!(s.see().conns.len(), 1);
    assert_eq!(s.resumed_ports(), [2]);
    let back = PacketBuilder::eth(B, A).ipv4(IP_B, IP_A).udp(2000, 1000).build();
    assert_eq!(s.ports(2, &back), [4]);
    assert_eq!(s.resumed_ports(), [1]);
}

#[test]
fn a_translated_packet_is_known_behind_a_pause() {
    let snat = ct(1).commit().nat_to(NatKind::Src, [203, 0, 113, 1], Some((5000, 5999)));
    let mut s = Switch::new(&Net::of([
        always([ct(1).nat().table(1).go()]),
        flow(1, 1).does([pause(), snat.table(2).go()]),
        flow(2, 2).masked(Field::CtState, 0x40, 0x40).does([out(2)]),
        flow(2, 1).does([out(3)]),
    ]));
    for _ in 0..2 {
        s.send(1, &udp());
        assert_eq!(s.resumed_ports(), [2]);
        assert_eq!(s.see().conns.len(), 1);
    }
}

#[test]
fn tables_of_another_program_are_met_with_the_lists_of_the_old() {
    let flows = [always([resubmit(1), out(2)]), flow(1, 1).does([pause(), resubmit(2), out(3)])];
    let mut s = Switch::new(&Net::of(flows));
    s.send(1, &udp());
    s.send(1, &udp());
    s.change(&[Edit::Remove { number: 1 }, Edit::Modify { number: 0, actions: vec![out(1)] }]);
    let added = flow(2, 1).does([out(4)]);
    s.change(&[Edit::Add { number: 5, flow: Box::new(added) }]);
    assert_eq!(s.resumed_ports(), [4, 3, 2]);
    assert_eq!(s.ports(2, &udp()), [1]);
    // Everything may be gone, ports too.
    let mut bare = Net::of([]);
    bare.ports[3] = None;
    s.program(&bare);
    assert_eq!(s.resumed_ports(), [2]);
    assert_eq!((s.dropped(Drop::NoSuchPort), s.dropped(Drop::NoMatch)), (1, 0));
}

#[test]
fn a_packet_that_nobody_resumes_keeps_nothing_alive() {
    let mut s = Switch::new(&Net::of([always([pause(), out(2)])]));
    let rules: Vec<_> =
        s.sides().map(|x| Arc::downgrade(x.lane.program().rules.get(0).unwrap())).into();
    for _ in 0..3 {
        s.send(1, &udp());
    }
    s.program(&Net::of([]));
    s.change(&[]);
    s.send(1, &arp());
    s.see();
    assert!(rules.iter().all(|r| r.upgrade().is_some()), "three packets can still go on");
    for side in s.sides() {
        side.paused.clear();
    }
    assert!(rules.iter().all(|r| r.upgrade().is_none()));
}

#[test]
fn other_bytes_and_metadata_are_taken_for_what_they_say() {
    let flows = [
        always([set(Field::Reg1, 9), pause(), resubmit(1)]),
        flow(1, 9)
            .is(Field::EthType, 0x0800)
            .is(Field::IpDst, u32::from_be_bytes(IP_B).into())
            .is(Field::Reg0, 0)
            .does([out(2)]),
        flow(1, 9).is(Field::EthType, 0x0806).is(Field::Reg0, 5).is(Field::Reg1, 9).does([
            set(Field::ArpOp, 2),
            out(3),
            Action::InPort,
        ]),
    ];
    let mut s = Switch::new(&Net::of(flows));
    s.send(1, &udp());
    s.send(1, &udp());
    let edited = s.resume_edited(|r| {
        (r.bytes, r.is_edited) = (arp().into(), true);
        let (mut value, mut mask) = (FlowKey::ZERO, FlowKey::ZERO);
        Field::Reg0.info().set(&mut value, 5);
        Field::Reg0.info().set(&mut mask, 7);
        Field::InPort.info().set(&mut value, 4);
        Field::InPort.info().set(&mut mask, u128::MAX);
        r.continuation.set_metadata(&value, &mask);
    });
    let mut reply = arp();
    reply[21] = 2;
    assert_eq!(edited, Some(vec![(3, reply.clone()), (4, reply)]));
    assert_eq!(s.resumed_ports(), [2]);
}

#[test]
fn what_cannot_go_on_says_why() {
    let mut s = Switch::new(&Net::of([always([pause(), out(2)])]));
    (0..4).for_each(|_| drop(s.send(1, &udp())));
    let now = s.now;
    let short = s.plain.resume(now, |r| (r.bytes, r.is_edited) = ([0; 9].into(), true));
    assert_eq!(short, Some(Err(PacketOutError::Parse(Drop::ParseTruncated))));
    let long = s.plain.resume(now, |r| (r.bytes, r.is_edited) = ([0; 9000].into(), true));
    assert!(matches!(long, Some(Err(PacketOutError::TooLong(_)))), "{long:?}");
    let mut net = Net::of([]);
    net.tlv = Arc::default();
    s.program(&net);
    assert_eq!(s.plain.resume(now, |_| {}), Some(Err(PacketOutError::OtherOptions)));
    assert_eq!(s.plain.sink.0, []);
}

#[test]
fn too_much_to_be_kept_is_an_error() {
    // Forward in the tables, with something left in each of them: 255 lists, and no more.
    let chain = |clones: usize| {
        let list = |t: u8| {
            let next = if t == 253 { pause() } else { resubmit(t + 1) };
            flow(t, 1).does([next, set(Field::Reg0, t.into())])
        };
        let mut flows: Vec<Flow> = (0..254).map(list).collect();
        let two = Action::Clone([pause(), out(2)].into());
        flows[0].actions.splice(0..0, (0..clones).map(|_| two.clone()));
        Net::of(flows)
    };
    let mut s = Switch::new(&chain(2));
    assert_eq!(s.ports(1, &udp()), []);
    assert_eq!((s.see().packet_ins.len(), s.dropped(Drop::PauseTooLarge)), (3, 0));
    let mut s = Switch::new(&chain(3));
    assert_eq!(s.ports(1, &udp()), []);
    assert_eq!((s.see().packet_ins.len(), s.dropped(Drop::PauseTooLarge)), (0, 1));
    let wide = |n: usize| {
        let pushes = std::iter::repeat_n(push(Field::Ipv6Src), n);
        Net::of([always(pushes.chain([pause(), out(2)]))])
    };
    assert_eq!(legs(&wide(240)), [vec![], vec![2]]);
    let mut s = Switch::new(&wide(241));
    s.send(1, &udp());
    assert_eq!((s.see().packet_ins.len(), s.dropped(Drop::PauseTooLarge)), (0, 1));
    // An error beyond a cable stays there.
    let far = [flow(0, 1).does(wide(241).flows[0][0].actions.clone())];
    let mut s = Switch::new(&Net::of([always([out(9), pause(), out(2)])]).flows(1, far.to_vec()));
    assert_eq!(s.ports(1, &udp()), []);
    assert_eq!((s.see().packet_ins.len(), s.dropped(Drop::PauseTooLarge)), (1, 1));
    assert_eq!(s.resumed_ports(), [2]);
}

#[test]
fn a_pause_without_a_buffer_is_a_drop() {
    let mut s = Switch::new(&Net::of([always([pause(), out(2)])]));
    for _ in 0..130 {
        s.batch_seen(1, &[udp()], None, false);
    }
    assert_eq!(s.dropped(Drop::PauseLost), 2);
    assert_eq!(s.plain.counters.stat(Stat::PacketInsLost), 2);
    // More pauses than one packet has places for.
    let copy = Action::Clone([pause(), out(2)].into());
    let mut s = Switch::new(&Net::of([always(vec![copy; 66])]));
    s.send(1, &udp());
    assert_eq!((s.see().packet_ins.len(), s.dropped(Drop::PauseLost)), (64, 2));
}

#[test]
fn a_packet_of_no_port_and_one_of_a_packet_out_pause_too() {
    let flows = [flow(1, 1).does([pause(), out(3)]), flow(0, 1).does([out(4)])];
    let mut s = Switch::new(&Net::of(flows));
    let again = Action::Resubmit { in_port: None, table: None, with_ct: false };
    let sent = always([pause(), resubmit(1), pause(), out(2), again]);
    let now = s.now;
    for side in s.sides() {
        let (bytes, rule) = (udp().into(), rule(0, &sent));
        let out = PacketOut { bytes, in_port: PORT_NONE, port: None, rule };
        side.lane.packet_out(&out, now, &mut side.pool, &mut side.sink).unwrap();
    }
    assert_eq!(s.resumed_ports(), []);
    assert_eq!(s.resumed_ports(), [3]);
    assert_eq!(s.resumed_ports(), [2, 4]);
    assert_eq!(s.resume(), None);
}
