//! Geneve, out and in.

use crate::kit::*;
use crate::packets::*;
use sluice_dataplane::action::Action;
use sluice_dataplane::counters::Drop;
use sluice_dataplane::packet::build::PacketBuilder;
use sluice_dataplane::packet::field::Field;
use sluice_dataplane::pipeline::PortRole;
use sluice_dataplane::pipeline::miss::Event;
use sluice_dataplane::tunnel::{TunnelConfig, TunnelKey, TunnelRemote};

fn arriving(vni: u32, tos: u8, inner: &[u8]) -> Vec<u8> {
    let outer = PacketBuilder::eth(PEER_MAC, NIC_MAC).ipv4(PEER_IP, LOCAL_IP).tos(tos);
    outer.udp(50_000, 6081).no_checksum().geneve(vni, inner).build()
}

/// Sends all to the tunnel; what comes by it goes to 1.
fn overlay() -> Net {
    Net::of([
        flow(0, 2).is(Field::InPort, TUNNEL.into()).is(Field::TunId, VNI.into()).does([out(1)]),
        always([out(TUNNEL.into())]),
    ])
}

#[test]
fn a_packet_leaves_by_the_underlay_in_geneve() {
    let sent = Switch::new(&overlay()).twice(1, &udp());
    let [(NIC, bytes)] = &sent[..] else { panic!("{sent:?}") };
    let src_port = u16::from_be_bytes([bytes[34], bytes[35]]);
    assert!(src_port >= 0xc000);
    let expect = PacketBuilder::eth(NIC_MAC, PEER_MAC).ipv4(LOCAL_IP, PEER_IP).df();
    let expect = expect.udp(src_port, 6081).no_checksum().geneve(VNI, &udp()).build();
    assert_eq!(*bytes, expect);
}

#[test]
fn what_arrives_goes_to_the_port_that_claims_it() {
    let mut s = Switch::new(&overlay());
    assert_eq!(s.twice(NIC, &arriving(VNI, 0, &udp())), [(1, udp())]);
    assert_eq!(s.twice(NIC, &arriving(VNI + 1, 0, &udp())), []);
    assert_eq!(s.dropped(Drop::TunnelNoPort), 2);
    let to_other = PacketBuilder::eth(PEER_MAC, NIC_MAC).ipv4(PEER_IP, [10, 9, 0, 9]);
    let to_other = to_other.udp(50_000, 6081).geneve(VNI, &udp()).build();
    assert_eq!(s.twice(NIC, &to_other), [], "not for us: an ordinary packet of bridge 2");
    assert_eq!(s.dropped(Drop::NoMatch), 2);
}

#[test]
fn congestion_marks_reach_the_inner_packet_or_end_it() {
    let mut s = Switch::new(&overlay());
    let inner = |tos| v4().tos(tos).udp(1, 2).payload(b"x").build();
    assert_eq!(s.twice(NIC, &arriving(VNI, 3, &inner(2))), [(1, inner(3))]);
    assert_eq!(s.twice(NIC, &arriving(VNI, 3, &inner(0))), []);
    assert_eq!(s.dropped(Drop::TunnelEcn), 2);
}

#[test]
fn a_missing_neighbour_is_asked_for_and_heals() {
    let mut net = overlay();
    net.underlay.neighbours.clear();
    let mut s = Switch::new(&net);
    assert_eq!(s.twice(1, &udp()), []);
    assert_eq!(s.dropped(Drop::TunnelNoNeighbour), 2);
    assert!(s.see().events.contains(&Event::Resolve { addr: PEER_IP.into(), ifindex: 2 }));
    s.program(&overlay());
    assert_eq!(s.twice(1, &udp())[0].0, NIC);
}

#[test]
fn what_is_too_long_for_the_underlay_is_dropped_by_length() {
    // 1500 + 14 - (14 + 20 + 8 + 8) = 1464 bytes of inner frame.
    let of = |len| v4().udp(1, 2).frame_len(len).build();
    let mut s = Switch::new(&overlay());
    for (len, fits) in [(1464, true), (1465, false), (100, true), (1500, false), (1464, true)] {
        assert_eq!(s.send(1, &of(len)).len(), usize::from(fits), "{len}");
    }
    assert_eq!(s.dropped(Drop::TooBig), 2);
    // A tag that the walk put on counts, also when an earlier output wrote it already.
    let mut net = overlay();
    net.flows[0] = vec![always([set(Field::VlanTci, 0x1005), out(2), out(TUNNEL.into())])];
    let mut s = Switch::new(&net);
    for (len, outputs) in [(1460, 2), (1461, 1), (1460, 2)] {
        assert_eq!(s.send(1, &of(len)).len(), outputs, "{len}");
    }
}

#[test]
fn remote_and_key_may_come_from_the_flow() {
    let config =
        TunnelConfig { remote: TunnelRemote::Flow, key: TunnelKey::Flow, ..tunnel_config() };
    let to = set(Field::TunDst, u32::from_be_bytes(PEER_IP).into());
    let net = Net::of([
        flow(0, 2).is(Field::InPort, 1).does([
            to,
            mv(Field::Reg0, Field::TunId),
            set(Field::TunId, 9),
            out(5),
        ]),
        always([out(5)]),
    ])
    .tunnel(config);
    let mut s = Switch::new(&net);
    let sent = s.twice(1, &udp());
    assert_eq!(sent[0].1[46..49], [0, 0, 9], "VNI");
    assert_eq!(s.twice(2, &udp()), []);
    assert_eq!(s.dropped(Drop::TunnelNoRemote), 2);
}

#[test]
fn a_packet_is_not_sent_back_to_its_tunnel_peer() {
    let mut net = overlay();
    net.flows[0] = vec![always([set(Field::InPort, 3), out(TUNNEL.into())])];
    let PortRole::Tunnel(_) = net.port(TUNNEL).role else { panic!() };
    let mut s = Switch::new(&net);
    assert_eq!(s.twice(NIC, &arriving(VNI, 0, &udp())), []);
    assert_eq!(s.dropped(Drop::TunnelLoop), 2);
}

fn with_options(options: &[u8], inner: &[u8]) -> Vec<u8> {
    let outer = PacketBuilder::eth(PEER_MAC, NIC_MAC).ipv4(PEER_IP, LOCAL_IP);
    outer.udp(50_000, 6081).no_checksum().geneve_with(VNI, options, inner).build()
}

/// What is behind the Geneve header of the one packet that left by the underlay.
fn behind_geneve(sent: &[(u16, Vec<u8>)]) -> (u8, Vec<u8>) {
    let [(NIC, bytes)] = sent else { panic!("{sent:?}") };
    let options = usize::from(bytes[42] & 0x3f) * 4;
    (bytes[43], bytes[50..50 + options].to_vec())
}

const KEY: [u8; 8] = [1, 2, 0x80, 1, 0, 7, 0, 9];
const LONG: [u8; 20] = [0xff, 0xff, 2, 4, 0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15];

#[test]
fn mapped_options_are_fields() {
    let flows = || {
        [
            flow(0, 4).option(0, 7 << 16, 0xffff_0000).does([out(2)]),
            flow(0, 3).option(7, 0x0c0d_0e0f, 0xffff_ffff).does([out(3)]),
            flow(0, 2).option(1, 0, 0).does([out(4)]),
            flow(0, 1).does([out(1)]),
        ]
    };
    let mut s = Switch::new(&Net::of(flows()));
    let mut to = |options: &[u8]| s.twice(NIC, &with_options(options, &udp()));
    assert_eq!(to(&KEY), [(2, udp())]);
    assert_eq!(to(&[&LONG[..], &KEY].concat()), [(2, udp())], "whatever their order");
    assert_eq!(to(&LONG), [(3, udp())]);
    let zero = [1, 2, 1, 2, 0, 0, 0, 0, 0, 0, 0, 0];
    assert_eq!(to(&zero), [(4, udp())], "a mask of nothing asks for the option");
    assert_eq!(to(&[1, 2, 0x80, 1, 0, 8, 0, 9]), [(1, udp())]);
    assert_eq!(to(&[9, 9, 1, 1, 0, 7, 0, 9]), [(1, udp())], "not mapped");
    assert_eq!(to(&[]), [(1, udp())]);
    assert_eq!(to(&[9, 9, 0x81, 1, 0, 7, 0, 9]), [], "not mapped and critical");
    assert_eq!(to(&[1, 2, 0x80, 2, 0, 7, 0, 9, 0, 0, 0, 0]), [], "another length");
}

#[test]
fn options_that_flows_set_go_out_in_the_order_of_their_fields() {
    let long = u128::from_be_bytes(*LONG.last_chunk().unwrap());
    let set = [set_option(7, long), set_option(0, 0x0007_0009)].concat();
    let with = |more: &[Action]| {
        let all = set.iter().chain(more).cloned().chain([out(TUNNEL.into())]);
        behind_geneve(&Switch::new(&Net::of([always(all)])).twice(1, &udp()))
    };
    assert_eq!(with(&[]), (0x40, [&KEY[..], &LONG].concat()), "with the critical mark");
    assert_eq!(with(&[Action::DeleteField(Field::TunMetadata0)]), (0, LONG.to_vec()));
    let none = [Action::DeleteField(Field::TunMetadata0), Action::DeleteField(Field::TunMetadata7)];
    assert_eq!(with(&none), (0, vec![]));
    assert_eq!(with(&[Action::DeleteField(Field::TunMetadata5)]).1.len(), 28, "not mapped");
}

#[test]
fn options_pass_on_to_another_tunnel_and_end_at_a_cable() {
    let on = [set(Field::TunSrc, 0), set(Field::InPort, 99), out(TUNNEL.into())];
    let mut s = Switch::new(&Net::of([always(on)]));
    let sent = s.twice(NIC, &with_options(&[&LONG[..], &KEY].concat(), &udp()));
    assert_eq!(behind_geneve(&sent), (0x40, [&KEY[..], &LONG].concat()));
    let far = [flow(0, 2).option(0, 0, 0).does([out(3)]), flow(0, 1).does([out(2)])];
    let net = Net::of([always([out(CABLE.into())])]).flows(1, far);
    let sent = Switch::new(&net).twice(NIC, &with_options(&KEY, &udp()));
    assert_eq!(sent, [(FAR_2, udp())]);
}
