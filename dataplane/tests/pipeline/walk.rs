//! What flows mean, as Open vSwitch has it.

use crate::kit::*;
use crate::packets::*;
use sluice_dataplane::action::{Action, PORT_NONE};
use sluice_dataplane::counters::Drop;
use sluice_dataplane::fdb::FdbEntry;
use sluice_dataplane::packet::build::PacketBuilder;
use sluice_dataplane::packet::field::Field;
use sluice_dataplane::packet::key::PortIx;

fn switch(flows: impl IntoIterator<Item = Flow>) -> Switch {
    Switch::new(&Net::of(flows))
}

/// Ports by which a UDP packet that comes in at 1 leaves.
fn leaves(flows: impl IntoIterator<Item = Flow>) -> Vec<u16> {
    switch(flows).twice(1, &udp()).into_iter().map(|(p, _)| p).collect()
}

#[test]
fn output_to_the_in_port_is_suppressed_unless_asked_for_by_name() {
    assert_eq!(leaves([always([out(1), out(2)])]), [2]);
    assert_eq!(leaves([always([out(1)])]), []);
    assert_eq!(leaves([always([Action::InPort, out(2)])]), [1, 2]);
    assert_eq!(leaves([always([set(Field::InPort, PORT_NONE.into()), out(1)])]), [1]);
}

#[test]
fn all_and_flood_spare_the_in_port_and_flood_spares_no_flood_ports() {
    let mut net = Net::of([always([Action::All])]);
    net.port(3).flood = false;
    // The cable's far bridge and the tunnel are ports too.
    assert_eq!(Switch::new(&net).ports(1, &udp()), [2, 3, 4, NIC]);
    net.flows[0] = vec![always([Action::Flood])];
    assert_eq!(Switch::new(&net).ports(1, &udp()), [2, 4, NIC]);
    net.port(2).up = false;
    assert_eq!(Switch::new(&net).ports(1, &udp()), [4, NIC]);
}

fn only_devices() -> Net {
    let mut net = Net::of([always([Action::Normal])]);
    net.port(TUNNEL).flood = false;
    net.port(CABLE).flood = false;
    net
}

#[test]
fn normal_learns_forwards_moves_and_ages() {
    let mut s = Switch::new(&only_devices());
    let (ab, ba) = (udp(), PacketBuilder::eth(B, A).ipv4(IP_B, IP_A).udp(2000, 1000).build());
    assert_eq!(s.ports(1, &ab), [2, 3, 4], "B is unknown");
    assert_eq!(s.ports(1, &ab), [2, 3, 4]);
    assert_eq!(s.ports(2, &ba), [1], "A was learned");
    assert_eq!(s.ports(1, &ab), [2], "and B, so what was flooded from the cache is not");
    assert_eq!(s.ports(2, &ab), [], "A moved to 2, where B is too");
    assert_eq!(s.ports(3, &ba), [2]);
    assert_eq!(s.dropped(Drop::SameInPort), 1);
    let learned = |mac, port| FdbEntry { mac, vlan: 0, port: PortIx(port), age_s: 0 };
    let mut fdb = s.see().fdbs[0].clone();
    fdb.sort_by_key(|e| e.mac);
    assert_eq!(fdb, [learned(A, 2), learned(B, 3)]);
    s.wait(299_000);
    assert_eq!(s.ports(4, &arp()), [1, 2, 3], "a group address is flooded");
    assert_eq!(s.ports(1, &ab), [3]);
    s.wait(2_000);
    assert_eq!(s.ports(1, &ab), [2, 3, 4], "B was silent for 300 s");
    for _ in 0..200 {
        s.housekeep();
    }
    assert_eq!(s.see().fdbs[0].len(), 1, "A was heard");
}

#[test]
fn every_bridge_ages_its_addresses() {
    let mut net = only_devices().flows(1, [always([Action::Normal])]);
    net.port(FAR_END).flood = false;
    let mut s = Switch::new(&net);
    let sources: Vec<Vec<u8>> = (0..40u8)
        .map(|n| PacketBuilder::eth([2, 0, 0, 0, 1, n], BROADCAST).ipv4(IP_A, IP_B).build())
        .collect();
    s.batch(1, &sources);
    s.batch(FAR_2, &sources);
    assert_eq!((s.plain.fdbs[0].len(), s.plain.fdbs[1].len()), (40, 40));
    s.wait(400_000);
    for _ in 0..128 {
        s.housekeep();
    }
    assert_eq!((s.plain.fdbs[0].len(), s.plain.fdbs[1].len()), (0, 0));
}

#[test]
fn normal_keeps_vlans_apart_and_reserved_addresses_to_itself() {
    let mut s = Switch::new(&only_devices());
    let tagged = |src, dst, vid| PacketBuilder::eth(src, dst).vlan(vid, 0).ipv4(IP_A, IP_B).build();
    s.send(2, &tagged(B, A, 10));
    assert_eq!(s.ports(1, &tagged(A, B, 10)), [2]);
    assert_eq!(s.ports(1, &tagged(A, B, 11)), [2, 3, 4]);
    let stp = PacketBuilder::eth(A, [1, 0x80, 0xc2, 0, 0, 0]).eth_type(38).build();
    assert_eq!(s.ports(1, &stp), []);
    assert_eq!(s.dropped(Drop::ReservedMac), 1);
}

#[test]
fn a_frame_without_a_tag_is_in_vlan_0_whatever_bits_are_left() {
    let mut net = only_devices();
    // The bit that says "there is a tag" is taken, VLAN 10 stays.
    let untagged = set_masked(Field::VlanTci, 0, 0x1000);
    net.flows[0] = vec![
        flow(0, 2).is(Field::InPort, 2).does([untagged, Action::Normal]),
        always([Action::Normal]),
    ];
    let mut s = Switch::new(&net);
    let tagged = PacketBuilder::eth(B, A).vlan(10, 0).ipv4(IP_A, IP_B).build();
    let plain = PacketBuilder::eth(B, A).ipv4(IP_A, IP_B).build();
    assert_eq!(s.twice(2, &tagged), [(1, plain.clone()), (3, plain.clone()), (4, plain)]);
    let fdb = s.see().fdbs[0].clone();
    assert_eq!(fdb.iter().map(|e| e.vlan).collect::<Vec<_>>(), [0]);
    assert_eq!(s.ports(1, &PacketBuilder::eth(A, B).ipv4(IP_A, IP_B).build()), [2]);
}

#[test]
fn a_packet_of_no_port_floods_and_teaches_nothing() {
    let none = set(Field::InPort, PORT_NONE.into());
    let mut net = only_devices();
    net.flows[0] = vec![always([none, Action::Normal])];
    let mut s = Switch::new(&net);
    assert_eq!(s.ports(1, &udp()), [1, 2, 3, 4]);
    assert!(s.see().fdbs[0].is_empty());
    net.flows[0] = vec![always([set(Field::InPort, 77), Action::Normal])];
    s.program(&net);
    assert_eq!(s.ports(1, &udp()), [], "no such port");
    assert_eq!(s.dropped(Drop::PortBlocked), 1);
}

#[test]
fn the_in_port_of_a_resubmit_holds_for_one_lookup() {
    let at_3 = Action::Resubmit { in_port: Some(3), table: Some(1), with_ct: false };
    let flows = [
        always([at_3, out(4)]),
        flow(1, 2).is(Field::InPort, 3).does([out(1), out(3), Action::InPort, resubmit(2)]),
        flow(1, 1).does([out(2)]),
        flow(2, 2).is(Field::InPort, 3).does([out(2)]),
        flow(2, 1).is(Field::InPort, 1).does([Action::Flood]),
    ];
    let mut net = Net::of(flows);
    net.port(TUNNEL).flood = false;
    net.port(CABLE).flood = false;
    let mut s = Switch::new(&net);
    assert_eq!(s.ports(1, &udp()), [3, 1, 2, 3, 4, 4], "back to 1 only by IN_PORT");
}

#[test]
fn goto_continues_and_does_not_come_back_to_the_table_it_left() {
    let flows = [
        always([set(Field::Reg0, 5), Action::Goto(7)]),
        flow(7, 1).is(Field::Reg0, 5).does([out(2)]),
    ];
    assert_eq!(leaves(flows), [2]);
}

#[test]
fn exit_ends_all_and_a_spent_ttl_ends_its_own_list() {
    assert_eq!(
        leaves([always([resubmit(1), out(3)]), flow(1, 1).does([out(2), Action::Exit])]),
        [2]
    );
    let flows = [always([resubmit(1), out(3)]), flow(1, 1).does([Action::DecTtl, out(2)])];
    let mut s = switch(flows);
    let dying = v4().ttl(1).udp(1, 2).build();
    assert_eq!(s.twice(1, &dying), [(3, dying.clone())]);
    let sent = s.send(1, &v4().ttl(64).udp(1, 2).build());
    let expect = v4().ttl(63).udp(1, 2).build();
    assert_eq!(sent, [(2, expect.clone()), (3, expect)], "checksums are those of a fresh packet");
}

#[test]
fn going_forward_is_free_and_going_back_costs_depth() {
    // 0 -> 1 -> ... -> 253 forward.
    let chain = |from: u8| flow(from, 1).does([resubmit(from + 1)]);
    let mut flows: Vec<Flow> = (0..253).map(chain).collect();
    flows.push(flow(253, 1).does([out(2)]));
    assert_eq!(leaves(flows), [2]);
    // A register counts how often table 1 calls itself.
    let calls = |n: u128| {
        let mut flows = vec![always([out(2), resubmit(1)])];
        for i in 0..n {
            let again = [set(Field::Reg0, i + 1), resubmit(1)];
            flows.push(flow(1, 1).is(Field::Reg0, i).does(again));
        }
        flows.push(flow(1, 1).is(Field::Reg0, n).does([out(3)]));
        flows
    };
    assert_eq!(leaves(calls(64)), [2, 3]);
    let mut s = switch(calls(65));
    assert_eq!(s.twice(1, &udp()), [], "all is discarded, also what was sent before");
    assert_eq!(s.dropped(Drop::ResubmitDepth), 2);
}

#[test]
fn no_packet_resubmits_more_than_4096_times() {
    // Each table runs the next one eight times: 8^n.
    let eight = |t: u8| flow(t, 1).does((0..8).map(|_| resubmit(t + 1)));
    let mut flows: Vec<Flow> = (0..3).map(eight).collect();
    flows.push(flow(3, 1).does([set(Field::Reg0, 1)]));
    flows.push(flow(3, 0).does([out(2)]));
    flows[0].actions.push(out(2));
    assert_eq!(leaves(flows.clone()), [2], "584 are not too many");
    flows[3] = flow(3, 1).does((0..8).map(|_| resubmit(4)));
    flows.push(flow(4, 1));
    let mut s = switch(flows);
    assert_eq!(s.twice(1, &udp()), []);
    assert_eq!(s.dropped(Drop::ResubmitCount), 2);
}

#[test]
fn the_deepest_walk_fits_the_stack() {
    // Forward through all tables, then back, as long as both bounds allow.
    let mut flows: Vec<Flow> = (0..254).map(|t| flow(t, 1).does([resubmit(t + 1)])).collect();
    flows.push(flow(254, 1).does([ct(1).table(0).go(), out(CABLE.into())]));
    flows[0] = flow(0, 1).does([out(CABLE.into()), resubmit(1)]);
    let net = Net::of(flows).flows(1, [always([out(1)])]);
    let mut s = Switch::new(&net);
    assert_eq!(s.send(1, &udp()), []);
}

#[test]
fn a_cable_clears_metadata_and_gives_nothing_back() {
    let there = [set(Field::EthDst, 9), set(Field::Reg1, 9), Action::DecTtl, out(2)];
    let net = Net::of([
        always([set(Field::Reg0, 1), set(Field::Metadata, 2), out(CABLE.into()), resubmit(1)]),
        flow(1, 1).is(Field::Reg0, 1).is(Field::Metadata, 2).is(Field::Reg1, 0).does([out(2)]),
    ])
    .flows(
        1,
        [flow(0, 2).is(Field::Reg0, 0).is(Field::Metadata, 0).is(Field::InPort, 1).does(there)],
    );
    let changed = PacketBuilder::eth(A, [0, 0, 0, 0, 0, 9]).ipv4(IP_A, IP_B).ttl(63);
    let changed = changed.udp(1000, 2000).payload(b"hello").build();
    let mut s = Switch::new(&net);
    assert_eq!(s.twice(1, &udp()), [(FAR_2, changed), (2, udp())]);
}

#[test]
fn a_clone_gives_nothing_back() {
    let inside = vec![set(Field::UdpDst, 9), resubmit(1)];
    let flows = [
        always([Action::Clone(inside.into()), out(3)]),
        flow(1, 1).does([set(Field::Reg0, 1), out(2)]),
    ];
    let changed = v4().udp(1000, 9).payload(b"hello").build();
    assert_eq!(switch(flows).twice(1, &udp()), [(2, changed), (3, udp())]);
}

#[test]
fn what_goes_wrong_beyond_a_cable_stays_there() {
    let here = [out(2), out(CABLE.into()), out(3)];
    let net = Net::of([always(here.clone())]).flows(1, [always([out(2), resubmit(0)])]);
    let mut s = Switch::new(&net);
    let ports = s.ports(1, &udp());
    assert_eq!((ports[0], *ports.last().unwrap()), (2, 3), "the loop beyond hurts nobody here");
    assert_eq!(s.dropped(Drop::ResubmitDepth), 1);
    let net = Net::of([always(here)]).flows(1, [always([Action::Exit])]);
    assert_eq!(Switch::new(&net).ports(1, &udp()), [2, 3]);
}

#[test]
fn two_bridges_that_flood_into_each_other_end() {
    let net = Net::of([always([Action::All])]).flows(1, [always([Action::InPort, out(2)])]);
    let mut s = Switch::new(&net);
    assert!(!s.send(1, &udp()).is_empty());
}

#[test]
fn set_and_move_write_what_they_name_and_nothing_else() {
    let acts = [
        set_masked(Field::IpDst, 0x0a00_0000, 0xff00_0000),
        mv(Field::EthDst, Field::EthSrc),
        mv(Field::UdpSrc, Field::Reg3),
        mv(Field::Reg3, Field::UdpDst),
        set(Field::IpDscp, 10),
        set(Field::TcpDst, 99),
        set(Field::ArpOp, 2),
        set(Field::Ipv6Src, 1),
        out(2),
    ];
    let mut s = switch([always(acts)]);
    let expect = |src_ip| {
        let p = PacketBuilder::eth(B, B).ipv4(src_ip, [10, 168, 0, 2]).tos(40 | 1);
        p.udp(1000, 1000).payload(b"hello").build()
    };
    let packet = |src_ip| eth().ipv4(src_ip, IP_B).tos(1).udp(1000, 2000).payload(b"hello").build();
    // The program cannot see the source address: the second packet is a hit of the first.
    for n in 1..=2 {
        assert_eq!(s.send(1, &packet([192, 168, 0, n])), [(2, expect([192, 168, 0, n]))]);
    }
    assert_eq!(s.hits(), 1);
}

#[test]
fn fields_of_headers_that_are_not_there_are_not_written() {
    let acts = [set(Field::IpDst, 7), set(Field::UdpDst, 7), set(Field::ArpTpa, 7), out(2)];
    let mut s = switch([always(acts)]);
    let mut bad = udp();
    bad[14] = 0x55;
    let short = udp()[..20].to_vec();
    let arp = arp()[..20].to_vec();
    for p in [bad, short, arp, eth().eth_type(0x0800).payload(&[0; 40]).build()] {
        assert_eq!(s.twice(1, &p), [(2, p.clone())]);
    }
}

#[test]
fn tags_come_and_go() {
    let tagged = |vid, pcp| eth().vlan(vid, pcp).ipv4(IP_A, IP_B).udp(1, 2).build();
    let plain = v4().udp(1, 2).build();
    let once = |acts: Vec<Action>, p: &[u8]| {
        let mut s = switch([always(acts.into_iter().chain([out(2)]))]);
        s.twice(1, p).remove(0).1
    };
    let push = Action::PushVlan { tpid: 0x8100 };
    let vid = |v| Action::ModVlan { vid: Some(v), pcp: None };
    let pcp = |v| Action::ModVlan { vid: None, pcp: Some(v) };
    assert_eq!(once(vec![push.clone()], &plain), tagged(0, 0));
    assert_eq!(once(vec![vid(7)], &plain), tagged(7, 0));
    assert_eq!(once(vec![pcp(3)], &plain), tagged(0, 3));
    assert_eq!(once(vec![vid(9)], &tagged(7, 5)), tagged(9, 5));
    assert_eq!(once(vec![Action::PopVlan], &tagged(7, 5)), plain);
    assert_eq!(once(vec![Action::PopVlan], &plain), plain);
    assert_eq!(once(vec![Action::PopVlan, push, vid(3)], &tagged(7, 5)), tagged(3, 0));
    // Edits behind a tag land where the headers are now.
    let edits = vec![vid(4), set(Field::UdpDst, 9)];
    let expect = eth().vlan(4, 0).ipv4(IP_A, IP_B).udp(1, 9).build();
    assert_eq!(once(edits, &plain), expect);
}

#[test]
fn check_pkt_larger_decides_by_length_not_by_flow() {
    let dst = Field::Reg0.info().range(0, 0).unwrap();
    let mut s = switch([
        always([Action::CheckPktLarger { len: 100, dst }, resubmit(1)]),
        flow(1, 1).masked(Field::Reg0, 1, 1).does([out(3)]),
        flow(1, 1).masked(Field::Reg0, 0, 1).does([out(2)]),
    ]);
    let of = |len, tag: bool| {
        let e = if tag { eth().vlan(5, 0) } else { eth() };
        e.ipv4(IP_A, IP_B).udp(1, 2).frame_len(len).build()
    };
    for (len, port) in [(100, 2), (101, 3), (60, 2), (99, 2), (1000, 3), (100, 2)] {
        assert_eq!(s.ports(1, &of(len, false)), [port], "{len}");
        assert_eq!(s.ports(1, &of(len + 4, true)), [port], "{len}, and a tag that does not count");
    }
}

#[test]
fn a_fork_keeps_its_changes_and_the_original_is_untracked() {
    let flows = [
        always([set(Field::Reg0, 1), ct(3).table(1).go(), resubmit(2)]),
        flow(1, 1)
            .is(Field::CtState, 0x21)
            .is(Field::CtZone, 3)
            .is(Field::CtNwSrc, u32::from_be_bytes(IP_A).into())
            .is(Field::CtTpDst, 2000)
            .is(Field::Reg0, 1)
            .does([set(Field::Reg0, 2), set(Field::UdpDst, 7), out(2)]),
        flow(2, 1).is(Field::CtState, 0).is(Field::CtZone, 0).is(Field::Reg0, 1).does([out(3)]),
    ];
    let forked = v4().udp(1000, 7).payload(b"hello").build();
    assert_eq!(switch(flows).twice(1, &udp()), [(2, forked), (3, udp())]);
}

#[test]
fn an_error_in_a_fork_ends_the_fork() {
    let mut s = switch([
        always([out(4), ct(0).table(1).go(), out(2)]),
        flow(1, 1).does([out(3), resubmit(1)]),
    ]);
    assert_eq!(s.ports(1, &udp()), [4, 2], "and what it did before, as Open vSwitch has it");
    assert_eq!(s.dropped(Drop::ResubmitDepth), 1);
}

#[test]
fn mark_and_label_last_and_show_on_later_packets() {
    let label = set(Field::CtLabel, 0xabc);
    let mark = set_masked(Field::CtMark, 5, 0xf);
    let mut s = switch([
        always([ct(1).table(1).go()]),
        flow(1, 3).is(Field::CtMark, 5).is(Field::CtLabel, 0xabc).does([out(3)]),
        flow(1, 1).does([ct(1).commit().exec([mark, label]).go(), out(2)]),
    ]);
    assert_eq!(s.ports(1, &udp()), [2]);
    assert_eq!(s.twice(1, &udp())[0].0, 3);
    assert!(s.hits() > 0, "a steady connection is served from the cache");
    assert_eq!(s.see().conns.len(), 1);
    let reply = PacketBuilder::eth(B, A).ipv4(IP_B, IP_A).udp(2000, 1000).build();
    assert_eq!(s.twice(2, &reply)[0].0, 3);
    s.wait(70_000);
    assert_eq!(s.ports(1, &udp()), [2], "it timed out");
}

#[test]
fn a_mark_that_another_flow_changes_is_seen_at_once() {
    let mut s = Switch::sized(
        &Net::of([
            flow(0, 2)
                .is(Field::InPort, 4)
                .does([ct(1).commit().exec([set(Field::CtMark, 5)]).go()]),
            always([ct(1).commit().table(1).go()]),
            flow(1, 2).is(Field::CtMark, 5).does([out(3)]),
            flow(1, 1).does([out(2)]),
        ]),
        64,
        64,
    );
    for _ in 0..4 {
        assert_eq!(s.ports(1, &udp()), [2]);
    }
    let hits = s.hits();
    assert!(hits > 0);
    s.send(4, &udp());
    assert_eq!(s.ports(1, &udp()), [3]);
}

#[test]
fn a_part_of_a_field_is_written_and_the_rest_kept() {
    let low = Field::IpDst.info().range(0, 7).unwrap();
    let part = Action::Set(sluice_dataplane::action::Set {
        dst: low,
        prereq: Field::IpDst.info().prereq,
        value: 9,
        mask: 0xff,
    });
    let mut s = switch([always([part, out(2)])]);
    for n in [0u8, 1, 2, 1] {
        let to = |low| eth().ipv4(IP_A, [10, n, n, low]).udp(1, 2).build();
        assert_eq!(s.send(1, &to(3)), [(2, to(9))]);
    }
}
