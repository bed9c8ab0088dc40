//! No packet, however broken, harms: it leaves or is counted, and no frame is lost.
//!
//! `Switch` checks all that with every batch, and that cache and walk agree about it.

use crate::chance::Chance;
use crate::kit::*;
use crate::packets::*;
use sluice_dataplane::action::Action;
use sluice_dataplane::conntrack::NatKind;
use sluice_dataplane::packet::build::PacketBuilder;
use sluice_dataplane::packet::field::Field;

/// A program that looks at everything and does everything.
fn all_at_once() -> Net {
    let dst = Field::Reg0.info().range(0, 0).unwrap();
    let outside = [203, 0, 113, 1];
    let edits = [
        set(Field::EthDst, 0x0200_0000_0009),
        set(Field::IpDst, 0x0a00_0001),
        set(Field::IpTos, 8),
        set(Field::TcpDst, 81),
        set(Field::UdpDst, 82),
        set(Field::SctpDst, 83),
        set(Field::IcmpCode, 1),
        set(Field::Ipv6Dst, 7),
        set(Field::Ipv6Label, 9),
        set(Field::ArpSpa, 1),
        set(Field::ArpTha, 2),
        set(Field::NdTarget, 3),
        set(Field::NdSll, 4),
        set(Field::NdTll, 5),
    ];
    let vid = Action::ModVlan { vid: Some(9), pcp: Some(1) };
    let track = ct(1).nat().table(1).go();
    let commit = ct(1).commit().nat_to(NatKind::Src, outside, None).table(2).go();
    let mut net = Net::of([
        flow(0, 9).is(Field::EthType, 0x0800).does([track.clone(), out(2), resubmit(3)]),
        flow(0, 9).is(Field::EthType, 0x86dd).does([track, out(2), resubmit(3)]),
        flow(0, 1).does([resubmit(3)]),
        flow(1, 9).masked(Field::CtState, 1, 1).does([commit]),
        flow(1, 1).does([resubmit(2)]),
        flow(2, 1).does([out(3), out(5), out(9)]),
        flow(3, 1).does(
            [Action::CheckPktLarger { len: 60, dst }, Action::DecTtl]
                .into_iter()
                .chain(edits)
                .chain([out(3), vid, out(4), Action::PopVlan, out(5), Action::Normal]),
        ),
    ])
    .flows(1, [always([Action::Normal])])
    .flows(2, [always([Action::Normal])]);
    net.port(1).partial_checksums = true;
    net
}

/// All kinds, and those that come by the tunnel.
fn packets() -> Vec<Vec<u8>> {
    let tunnelled = |inner: &Vec<u8>| {
        let outer = PacketBuilder::eth(PEER_MAC, NIC_MAC).ipv4(PEER_IP, LOCAL_IP).tos(2);
        outer.udp(50_000, 6081).no_checksum().geneve(VNI, inner).build()
    };
    let plain = of_every_kind();
    let inside: Vec<Vec<u8>> = plain.iter().step_by(6).map(tunnelled).collect();
    plain.into_iter().chain(inside).collect()
}

fn feed(s: &mut Switch, packets: &[Vec<u8>]) {
    for batch in packets.chunks(64) {
        for port in [1, NIC] {
            s.batch_seen(port, batch, None, false);
        }
    }
    s.see();
}

#[test]
fn every_truncation() {
    let mut s = Switch::sized(&all_at_once(), 64, 256);
    for p in packets() {
        let cut: Vec<Vec<u8>> = (0..=p.len()).map(|n| p[..n].to_vec()).collect();
        feed(&mut s, &cut);
    }
}

#[test]
fn every_corruption_of_a_byte() {
    let mut s = Switch::sized(&all_at_once(), 64, 256);
    for p in packets() {
        let spoilt = |at: usize, by: u8| {
            let mut q = p.clone();
            q[at] ^= by;
            q
        };
        let all: Vec<Vec<u8>> = (0..p.len().min(130))
            .flat_map(|at| [0xff, 1, 0x80, 0x10].map(|by| spoilt(at, by)))
            .collect();
        feed(&mut s, &all);
    }
}

#[test]
fn noise() {
    let mut c = Chance(1);
    let mut s = Switch::sized(&all_at_once(), 64, 256);
    let kinds = [[8, 0], [0x86, 0xdd], [8, 6], [0x81, 0]];
    let noise: Vec<Vec<u8>> = (0..4000)
        .map(|_| {
            let mut p: Vec<u8> = (0..c.below(200)).map(|_| c.next() as u8).collect();
            if p.len() > 14 && !c.one_in(4) {
                p[12..14].copy_from_slice(&c.of(&kinds));
                p[14] = c.of(&[0x45, 0x60, 0x4f, p[14]]);
            }
            p
        })
        .collect();
    feed(&mut s, &noise);
}
