//! Packets for controllers, and samples.

use crate::kit::*;
use crate::packets::*;
use sluice_dataplane::action::group::GroupKind;
use sluice_dataplane::action::meter::MeterUnit;
use sluice_dataplane::action::{Action, Controller, PacketInReason, Sample, port};
use sluice_dataplane::counters::{Drop, Stat};
use sluice_dataplane::packet::field::Field;

pub fn plain() -> Controller {
    Controller {
        reason: PacketInReason::Action,
        max_len: u16::MAX,
        controller_id: 0,
        userdata: [].into(),
        pause: false,
        meter: None,
    }
}

fn to(c: Controller) -> Action {
    Action::Controller(Box::new(c))
}

pub fn pause() -> Action {
    to(Controller { pause: true, ..plain() })
}

#[test]
fn a_controller_gets_the_packet_as_it_is_by_then() {
    let first =
        to(Controller { max_len: 20, controller_id: 3, userdata: [1, 2, 3].into(), ..plain() });
    let rule = flow(0, 5).does([set(Field::Reg4, 9), first, Action::DecTtl, to(plain()), out(2)]);
    let mut s = Switch::new(&Net::of([rule]));
    let less = v4().ttl(63).udp(1000, 2000).payload(b"hello").build();
    assert_eq!(s.twice(1, &udp()), [(2, less.clone())]);
    let seen = s.see().packet_ins;
    assert_eq!(seen.len(), 4);
    let (punt, total, bytes) = &seen[0];
    assert_eq!((*total, &bytes[..]), (udp().len(), &udp()[..20]));
    assert_eq!((punt.table, punt.cookie, punt.controller_id), (0, 0, 3));
    assert_eq!(punt.userdata.as_deref(), Some(&[1, 2, 3][..]));
    assert_eq!((punt.key.in_port, Field::Reg4.info().get(&punt.key)), (1, 9));
    assert_eq!((seen[1].0.reason, &seen[1].2), (PacketInReason::Action, &less));
    assert_eq!(s.dropped(Drop::NoOutput), 0);
}

#[test]
fn reasons_tell_whose_action_it_was() {
    use PacketInReason::{ActionSet, Group, InvalidTtl, NoMatch};
    let reasons = |net: Net, packet: &[u8]| -> Vec<PacketInReason> {
        let mut s = Switch::new(&net);
        s.send(1, packet);
        s.see().packet_ins.iter().map(|p| p.0.reason).collect()
    };
    let miss = Net::of([flow(0, 0).does([to(plain())])]);
    assert_eq!(reasons(miss, &udp()), [NoMatch]);
    let set_of = Net::of([always([Action::WriteActions([to(plain())].into())])]);
    assert_eq!(reasons(set_of, &udp()), [ActionSet]);
    let by_number = [
        set(Field::Reg0, port::CONTROLLER.into()),
        Action::OutputField(Field::Reg0.info().whole()),
    ];
    assert_eq!(reasons(Net::of([always(by_number)]), &udp()), [PacketInReason::Action]);
    let one = group(1, GroupKind::All, [bucket(1, [to(plain())]), bucket(2, [resubmit(1)])]);
    let rules = [always([Action::Group(1)]), flow(1, 1).does([to(plain())])];
    let of_group = Net::of(rules).group(one);
    assert_eq!(reasons(of_group, &udp()), [Group, PacketInReason::Action]);
    let old = v4().ttl(1).udp(1, 2).build();
    assert_eq!(reasons(Net::of([always([Action::DecTtl])]), &old), [InvalidTtl]);
    let many = Action::DecTtlFor([4, 5].into());
    assert_eq!(reasons(Net::of([always([many])]), &old), [InvalidTtl, InvalidTtl]);
}

#[test]
fn a_meter_of_the_action_holds_back_the_copy_alone() {
    let c = to(Controller { meter: Some(1), ..plain() });
    let net = Net::of([always([c, out(2)])]).meter(1, MeterUnit::Pktps, &[(1, 2)]);
    let mut s = Switch::new(&net);
    (0..5).for_each(|_| assert_eq!(s.ports(1, &udp()), [2]));
    assert_eq!(s.see().packet_ins.len(), 2);
    assert_eq!(s.dropped(Drop::Meter), 3);
}

#[test]
fn without_a_free_buffer_the_packet_is_lost_and_counted() {
    let net = Net::of([always([to(plain())])]);
    let mut s = Switch::sized(&net, 4, 64);
    for _ in 0..130 {
        s.batch_seen(1, &[udp()], None, false);
    }
    assert_eq!(s.plain.counters.stat(Stat::PacketIns), 128);
    assert_eq!(s.plain.counters.stat(Stat::PacketInsLost), 2);
    assert_eq!(s.see().packet_ins.len(), 128);
    s.send(1, &udp());
    assert_eq!(s.see().packet_ins.len(), 129, "buffers came back");
}

#[test]
fn an_error_discards_copies_for_controllers_too() {
    let mut s = Switch::new(&Net::of([always([to(plain()), resubmit(0)])]));
    s.send(1, &udp());
    assert_eq!(s.see().packet_ins, []);
    assert_eq!(s.dropped(Drop::ResubmitDepth), 1);
}

#[test]
fn a_share_of_the_packets_is_sampled_and_nothing_else_happens() {
    let sample = |probability| {
        let (collector_set, obs_domain, obs_point) = (1, 2, 3);
        Action::Sample(Sample {
            probability,
            collector_set,
            obs_domain,
            obs_point,
            sampling_port: None,
        })
    };
    let taken = |probability| {
        let mut s = Switch::sized(&Net::of([always([sample(probability), out(2)])]), 4, 64);
        for _ in 0..1000 {
            assert_eq!(s.batch_seen(1, &[udp()], None, false), [(2, udp())]);
        }
        s.see();
        s.plain.counters.stat(Stat::Samples)
    };
    assert_eq!((taken(0), taken(65535)), (0, 1000));
    let third = taken(21845);
    assert!(third.abs_diff(333) < 60, "{third}");
}
