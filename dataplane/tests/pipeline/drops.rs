//! Every reason that the pipeline can give is given here once.

use crate::kit::*;
use crate::packets::*;
use crate::punts::pause;
use sluice_dataplane::action::Action;
use sluice_dataplane::action::group::GroupKind;
use sluice_dataplane::action::meter::MeterUnit;
use sluice_dataplane::counters::Drop;
use sluice_dataplane::packet::build::PacketBuilder;
use sluice_dataplane::packet::field::Field;
use sluice_dataplane::tunnel::{TunnelConfig, TunnelRemote};

/// Reasons of devices and rings, not of the pipeline.
const OF_PORTS: [Drop; 5] =
    [Drop::TxRingFull, Drop::TxTooLong, Drop::TxFailed, Drop::ParseOversize, Drop::HandOverFull];

/// Reasons that take more than one packet: `fragments` has them.
const OF_FRAGMENTS: [Drop; 5] = [
    Drop::FragmentOverlap,
    Drop::FragmentDuplicate,
    Drop::FragmentLimit,
    Drop::FragmentTimeout,
    Drop::FragmentLost,
];

/// A switch and a packet that ends in it for one reason.
struct Case {
    net: Net,
    port: u16,
    packet: Vec<u8>,
    headroom: Option<u16>,
    frames: u32,
}

fn case(net: Net, port: u16, packet: Vec<u8>) -> Case {
    Case { net, port, packet, headroom: None, frames: 8 }
}

/// From port 1 through these actions.
fn acts(actions: impl IntoIterator<Item = Action>) -> Case {
    case(Net::of([always(actions)]), 1, udp())
}

fn to_tunnel(edit: impl FnOnce(&mut Net)) -> Case {
    let mut net = Net::of([always([out(5)])]);
    edit(&mut net);
    case(net, 1, udp())
}

fn from_tunnel(edit: impl FnOnce(&mut Vec<u8>)) -> Case {
    let outer = PacketBuilder::eth(PEER_MAC, NIC_MAC).ipv4(PEER_IP, LOCAL_IP).tos(3);
    let mut packet = outer.udp(50_000, 6081).no_checksum().geneve(VNI, &udp()).build();
    edit(&mut packet);
    case(Net::of([always([out(5)])]), NIC, packet)
}

fn in_a_circle(t: u8, times: usize) -> Vec<Flow> {
    (0..t).map(|t| flow(t, 1).does((0..times).map(|_| resubmit(t + 1)))).collect()
}

fn with_down(p: u16) -> Net {
    let mut net = Net::of([always([out(2)])]);
    net.port(p).up = false;
    net
}

fn tagged_twice(actions: [Action; 2]) -> Case {
    let packet = PacketBuilder::eth(A, B).vlan(5, 0).vlan(6, 0).build();
    Case { packet, ..acts(actions) }
}

fn produce(reason: Drop) -> Option<Case> {
    Some(match reason {
        Drop::NoActions => acts([]),
        Drop::NoMatch => case(Net::default(), 1, udp()),
        Drop::NoOutput => acts([set(Field::Reg0, 1)]),
        Drop::SameInPort => acts([out(1)]),
        Drop::NoSuchPort => acts([out(77)]),
        Drop::PortDown => case(with_down(2), 1, udp()),
        Drop::PortBlocked => case(Net::default(), 0, udp()),
        Drop::FramePoolEmpty => Case { frames: 1, ..acts([out(2), out(3)]) },
        Drop::ParseTruncated => case(Net::default(), 1, vec![0; 13]),
        Drop::ResubmitDepth => acts([resubmit(0)]),
        Drop::ResubmitCount => {
            let mut flows = in_a_circle(4, 9);
            flows.push(flow(4, 1).does([set(Field::Reg0, 1)]));
            case(Net::of(flows), 1, udp())
        }
        Drop::OutputCount => acts((0..2049).map(|i| out(2 + i % 2))),
        Drop::TtlExpired => {
            case(Net::of([always([Action::DecTtl])]), 1, v4().ttl(1).udp(1, 2).build())
        }
        Drop::CtInvalidPacket => case(Net::of([always([ct(1).go()])]), 1, arp()),
        Drop::VlanPartial => tagged_twice([Action::PopVlan, Action::Normal]),
        Drop::ReservedMac => {
            let stp = PacketBuilder::eth(A, [1, 0x80, 0xc2, 0, 0, 0]).eth_type(38).build();
            case(Net::of([always([Action::Normal])]), 1, stp)
        }
        Drop::NormalNoPorts => {
            let mut net = Net::of([always([Action::Flood])]);
            (2..=4).chain([TUNNEL, CABLE]).for_each(|p| net.port(p).flood = false);
            case(net, 1, udp())
        }
        Drop::EditFailed => {
            let solicit = v6().ttl(255).icmp(135, 0, [0; 4]).payload(&[0; 8]).build();
            case(Net::of([always([set(Field::NdTarget, 1), out(2)])]), 1, solicit)
        }
        Drop::VlanTooMany => {
            let push = Action::PushVlan { tpid: 0x8100 };
            Case { headroom: Some(3), ..acts([push, out(2)]) }
        }
        Drop::MplsTooMany => acts([push_mpls(), push_mpls(), push_mpls(), push_mpls(), out(2)]),
        Drop::TooBig => {
            case(Net::of([always([out(5)])]), 1, v4().udp(1, 2).frame_len(1500).build())
        }
        reason => return produce_by_verbs(reason).or_else(|| produce_by_tunnel(reason)),
    })
}

fn produce_by_verbs(reason: Drop) -> Option<Case> {
    Some(match reason {
        Drop::StackFull => {
            acts((0..4000).map(|_| Action::Push { src: Field::Xxreg0.info().whole(), zeros: 0 }))
        }
        Drop::ActionSetFull => acts((0..65).map(|_| Action::WriteActions([out(2)].into()))),
        Drop::PauseTooLarge => {
            let push = Action::Push { src: Field::Xxreg0.info().whole(), zeros: 0 };
            acts((0..241).map(|_| push.clone()).chain([pause()]))
        }
        Drop::PauseLost => acts((0..65).map(|_| Action::Clone([pause()].into()))),
        Drop::NoSuchGroup => acts([Action::Group(1)]),
        Drop::NoLiveBucket => {
            let net = Net::of([always([Action::Group(1)])]);
            case(net.group(group(1, GroupKind::Select, [])), 1, udp())
        }
        Drop::Meter => {
            let net = Net::of([always([Action::Meter(1), out(2)])]);
            let net = net.meter(1, MeterUnit::Kbps, &[(1, 0)]);
            case(net, 1, v4().udp(1, 2).frame_len(1000).build())
        }
        Drop::TruncateUnsupported => {
            acts([Action::OutputTruncated { port: CABLE.into(), max_len: 64 }])
        }
        Drop::NotTracked => {
            acts([Action::Resubmit { in_port: None, table: Some(1), with_ct: true }])
        }
        _ => return None,
    })
}

fn produce_by_tunnel(reason: Drop) -> Option<Case> {
    Some(match reason {
        Drop::TunnelNoPort => from_tunnel(|p| p[47] ^= 1),
        Drop::TunnelMalformed => from_tunnel(|p| p[42] |= 0x40),
        Drop::TunnelChecksum => from_tunnel(|p| p[40] = 1),
        Drop::TunnelCriticalOption => {
            let mut outer = PacketBuilder::eth(PEER_MAC, NIC_MAC).ipv4(PEER_IP, LOCAL_IP);
            outer = outer.udp(50_000, 6081).no_checksum();
            let geneve = [1, 0, 0x65, 0x58, 0, 0, 77, 0, 0, 1, 0x80, 0];
            case(Net::default(), NIC, outer.payload(&geneve).build())
        }
        Drop::TunnelOptionLength => {
            let outer = PacketBuilder::eth(PEER_MAC, NIC_MAC).ipv4(PEER_IP, LOCAL_IP);
            let outer = outer.udp(50_000, 6081).no_checksum();
            let long = [1, 2, 0x80, 2, 0, 0, 0, 0, 0, 0, 0, 0];
            case(Net::default(), NIC, outer.geneve_with(VNI, &long, &udp()).build())
        }
        Drop::TunnelEcn => from_tunnel(|_| {}),
        Drop::TunnelNoRoute => to_tunnel(|n| n.underlay.routes.clear()),
        Drop::TunnelNoNeighbour => to_tunnel(|n| n.underlay.neighbours.clear()),
        Drop::TunnelNoUnderlay => to_tunnel(|n| n.underlay.devices[0].port = None),
        Drop::TunnelNoRemote => {
            let config = TunnelConfig { remote: TunnelRemote::Flow, ..tunnel_config() };
            case(Net::of([always([out(5)])]).tunnel(config), 1, udp())
        }
        Drop::TunnelLoop => {
            let from = set(Field::TunSrc, u32::from_be_bytes(PEER_IP).into());
            acts([from, out(5)])
        }
        Drop::TunnelNoHeadroom => Case { headroom: Some(20), ..acts([out(5)]) },
        _ => return None,
    })
}

#[test]
fn every_reason_can_be_had() {
    let of_others = |r: &&Drop| !OF_PORTS.contains(r) && !OF_FRAGMENTS.contains(r);
    for reason in Drop::ALL.iter().filter(of_others) {
        let Some(c) = produce(*reason) else { panic!("nothing produces {}", reason.name()) };
        let mut s = Switch::sized(&c.net, 4, c.frames);
        // Twice: out of the walk, and out of the cache if it may be kept.
        for n in 1..=2 {
            s.batch_with(c.port, std::slice::from_ref(&c.packet), c.headroom);
            assert!(s.dropped(*reason) >= n, "{}: {:?}", reason.name(), s.see().drops);
        }
    }
}

#[test]
fn a_label_needs_room_in_front() {
    let c = acts([push_mpls(), out(2)]);
    let mut s = Switch::new(&c.net);
    assert_eq!(s.batch_with(1, &[udp()], Some(3)), []);
    assert_eq!(s.dropped(Drop::MplsTooMany), 1);
}
