//! `learn` and `fin_timeout`: what is asked of control, and what is refreshed.

use crate::kit::*;
use crate::packets::*;
use sluice_dataplane::action::Action;
use sluice_dataplane::action::learn::{
    Learn, LearnField, LearnSource, LearnSpec, LearnTarget, learned, nth,
};
use sluice_dataplane::counters::Stat;
use sluice_dataplane::packet::build::PacketBuilder;
use sluice_dataplane::packet::field::Field;
use sluice_dataplane::pipeline::Rule;
use sluice_dataplane::pipeline::miss::Event;

fn field(f: Field) -> LearnField {
    LearnField { field: f, lo: 0, bits: f.info().bits }
}

fn from(src: Field, target: LearnTarget) -> LearnSpec {
    let info = src.info();
    LearnSpec { source: LearnSource::Field { range: info.whole(), prereq: info.prereq }, target }
}

/// A learning switch: packets to this one's source leave by its in_port.
pub fn mac() -> Learn {
    Learn {
        table: 1,
        priority: 10,
        cookie: 7,
        idle_timeout_s: 60,
        specs: [
            from(Field::EthSrc, LearnTarget::Match(field(Field::EthDst))),
            from(Field::InPort, LearnTarget::Output),
        ]
        .into(),
        ..Learn::default()
    }
}

fn learning(learn: Learn) -> Vec<Flow> {
    vec![
        always([Action::Learn(Box::new(learn)), Action::Goto(1)]),
        flow(1, 1).does([Action::Flood]),
    ]
}

fn only_devices(flows: Vec<Flow>) -> Net {
    let mut net = Net::of(flows);
    net.port(TUNNEL).flood = false;
    net.port(CABLE).flood = false;
    net
}

/// What control does with the events since the last time: one change of the program for each.
pub fn obey(s: &mut Switch) -> usize {
    let events = s.take_events();
    for e in &events {
        let Event::Learn { bridge: 0, rule, nth: n, key } = e else { continue };
        let f = learned(nth(&rule.actions, *n).expect("the learn that asked"), key);
        let is = |r: &Rule| {
            let m = &r.matching;
            let same = (m.value(), *m.mask()) == (f.matching.value, f.matching.mask);
            same && (r.bridge, r.table, r.priority) == (0, f.table, f.priority)
        };
        let rules = &s.plain.lane.program().rules;
        let there = rules.iter().find(|(_, r)| is(r)).map(|(number, _)| number);
        let next = rules.iter().map(|(number, _)| number + 1).max().unwrap_or(0);
        let edit = match there {
            Some(number) => Edit::Modify { number, actions: f.actions },
            None => Edit::Add {
                number: next,
                flow: Box::new(Flow {
                    table: f.table,
                    priority: f.priority,
                    cookie: f.cookie,
                    value: f.matching.value,
                    mask: f.matching.mask,
                    actions: f.actions,
                }),
            },
        };
        s.change(&[edit]);
    }
    events.len()
}

fn ab() -> Vec<u8> {
    udp()
}

fn ba() -> Vec<u8> {
    PacketBuilder::eth(B, A).ipv4(IP_B, IP_A).udp(2000, 1000).build()
}

#[test]
fn a_learning_switch_learns_once_and_runs_from_the_cache_then() {
    let mut s = Switch::new(&only_devices(learning(mac())));
    assert_eq!(s.batch(1, &[ab(), ab()]).len(), 6);
    assert_eq!(s.hits(), 0);
    assert_eq!(obey(&mut s), 1, "asked once for two packets");
    assert_eq!(s.ports(2, &ba()), [1], "A was learned");
    assert_eq!(obey(&mut s), 1);
    assert_eq!(s.twice(1, &ab()).len(), 1);
    assert_eq!(s.twice(2, &ba()).len(), 1);
    assert_eq!(s.hits(), 2, "both flows are there: the walks are kept");
    assert_eq!(obey(&mut s), 0);
    let moved = s.ports(3, &ab());
    assert_eq!(moved, [2]);
    assert_eq!(obey(&mut s), 1, "A moved: the flow says so");
    assert_eq!(s.ports(2, &ba()), [3]);
}

#[test]
fn what_is_learned_is_put_together_from_the_packet() {
    let specs = [
        LearnSpec {
            source: LearnSource::Value(0x0800),
            target: LearnTarget::Match(field(Field::EthType)),
        },
        LearnSpec {
            source: LearnSource::Value(17),
            target: LearnTarget::Match(field(Field::IpProto)),
        },
        from(Field::IpSrc, LearnTarget::Match(field(Field::IpDst))),
        LearnSpec {
            source: LearnSource::Field {
                range: Field::UdpSrc.info().range(0, 7).unwrap(),
                prereq: Field::UdpSrc.info().prereq,
            },
            target: LearnTarget::Load(LearnField { field: Field::Reg3, lo: 8, bits: 8 }),
        },
        LearnSpec { source: LearnSource::Value(0xfffb), target: LearnTarget::Output },
        LearnSpec { source: LearnSource::Value(0xfffd), target: LearnTarget::Output },
        LearnSpec { source: LearnSource::Value(0x1_0002), target: LearnTarget::Output },
    ];
    let learn = Learn {
        fin_idle_timeout_s: 5,
        fin_hard_timeout_s: 9,
        hard_timeout_s: 30,
        specs: specs.into(),
        ..mac()
    };
    let net = only_devices(learning(learn));
    let mut s = Switch::new(&net);
    s.send(1, &udp());
    let events = s.take_events();
    let [Event::Learn { bridge: 0, rule, nth: 0, key }] = &events[..] else { panic!("{events:?}") };
    let made = learned(nth(&rule.actions, 0).unwrap(), key);
    let expected =
        flow(1, 10).is(Field::EthType, 0x800).is(Field::IpProto, 17).is(Field::IpDst, 0xc0a8_0001);
    assert_eq!((made.matching.value, made.matching.mask), (expected.value, expected.mask));
    assert_eq!((made.table, made.priority, made.cookie), (1, 10, 7));
    assert_eq!((made.idle_timeout_s, made.hard_timeout_s), (60, 30));
    let fin = Action::FinTimeout { idle_s: 5, hard_s: 9 };
    // 1000 is 0x3e8: its low byte goes to the second byte of reg3.
    assert_eq!(made.actions[0], fin);
    let Action::Set(load) = &made.actions[1] else { panic!("{:?}", made.actions) };
    assert_eq!((load.value, load.dst), (0xe8, Field::Reg3.info().range(8, 15).unwrap()));
    assert_eq!(made.actions[2..], [Action::Flood], "neither a controller nor a number too large");
}

#[test]
fn packets_that_would_learn_again_keep_a_flow_young() {
    let mut s = Switch::new(&only_devices(learning(mac())));
    s.send(1, &ab());
    obey(&mut s);
    for _ in 0..3 {
        s.wait(10_000);
        s.send(1, &ab());
    }
    let now = s.now;
    for side in s.sides() {
        side.lane.settle(now);
        let rules = &side.lane.program().rules;
        let (_, learned) = rules.iter().find(|(_, r)| r.cookie == 7).expect("the learned flow");
        assert_eq!(learned.stats.learned_ns(), now.ns, "by hits as by walks");
        assert_eq!(learned.stats.packets(), 0, "nobody met it");
    }
    assert!(s.hits() >= 2);
}

#[test]
fn a_flow_that_went_is_asked_for_again() {
    let mut s = Switch::new(&only_devices(learning(mac())));
    s.send(1, &ab());
    assert_eq!(obey(&mut s), 1);
    s.twice(1, &ab());
    assert_eq!(s.hits(), 1);
    s.change(&[Edit::Remove { number: 2 }]);
    s.send(1, &ab());
    assert_eq!(s.take_events().len(), 1, "the cached walk relied on it");
}

#[test]
fn a_full_queue_counts_what_it_could_not_take() {
    let net = only_devices(learning(mac()));
    let mut s = Switch::sized(&net, 4, 64);
    for n in 0..1030u16 {
        let src = [2, 0, 0, 9, (n >> 8) as u8, n as u8];
        let packet = PacketBuilder::eth(src, B).ipv4(IP_A, IP_B).build();
        s.batch_seen(1, &[packet], None, false);
    }
    let (told, lost) =
        [Stat::LearnsTold, Stat::LearnsLost].map(|x| s.plain.counters.stat(x)).into();
    assert_eq!((told, lost), (1024, 6));
    assert_eq!(s.take_events().len(), 1024);
    s.see();
}

#[test]
fn a_result_tells_whether_there_is_room() {
    let result = Some(Field::Reg0.info().range(0, 0).unwrap());
    let learn = Learn { limit: 1, result, ..mac() };
    let flows = vec![
        always([Action::Learn(Box::new(learn)), resubmit(2)]),
        flow(2, 2).is(Field::Reg0, 1).does([out(2)]),
        flow(2, 1).does([out(3)]),
    ];
    let mut s = Switch::new(&only_devices(flows));
    assert_eq!(s.ports(1, &ab()), [2], "there will be room");
    obey(&mut s);
    for side in s.sides() {
        side.lane.program().rules.get(0).unwrap().stats.set_learn_full(true);
    }
    assert_eq!(s.ports(1, &ab()), [2], "it is there");
    assert_eq!(s.ports(1, &ba()), [3], "there is no room for another");
}

#[test]
fn fin_and_rst_shorten_the_life_of_the_flow_they_meet() {
    let fin = |idle_s, hard_s| Action::FinTimeout { idle_s, hard_s };
    let flows =
        [always([fin(10, 0), resubmit(1), out(2)]), flow(1, 1).does([fin(5, 9), fin(7, 20)])];
    let mut s = Switch::new(&Net::of(flows));
    let tcp = |flags| v4().tcp(1000, 80).flags(flags).build();
    s.twice(1, &tcp(0x10));
    s.twice(1, &udp());
    assert_eq!(s.see().timeouts, [(0, 0), (0, 0)]);
    s.twice(1, &tcp(0x11));
    assert_eq!(s.see().timeouts, [(10, 0), (5, 9)]);
    let stats = &s.plain.lane.program().rules.get(1).unwrap().stats;
    assert_eq!(stats.timeouts_s(3, 60), (3, 9), "a flow's own shorter timeout stays");
    let mut s = Switch::new(&Net::of([always([fin(10, 0), out(2)])]));
    s.send(1, &tcp(4));
    assert_eq!(s.see().timeouts, [(10, 0)]);
}
