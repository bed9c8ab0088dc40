//! Packets that leave longer or shorter than they came: bytes are counted as they leave, by a walk
//! and from either cache. That every batch of every test is counted so is the kit's to see.

use crate::kit::*;
use crate::packets::*;
use sluice_dataplane::action::Action;
use sluice_dataplane::counters::Stat;
use sluice_dataplane::packet::build::PacketBuilder;
use sluice_dataplane::packet::field::Field;

/// Flows, where packets come in, one that comes, and by how much what leaves is longer.
type Case = (&'static str, Vec<Flow>, u16, fn(PacketBuilder) -> Vec<u8>, &'static [i64]);

const TAG: i64 = 4;
const LABEL: i64 = 4;
/// Ethernet, IPv4, UDP, Geneve without options.
const OUTER: i64 = 14 + 20 + 8 + 8;

fn tag(vid: u128) -> [Action; 2] {
    [Action::PushVlan { tpid: 0x8100 }, set(Field::VlanVid, 0x1000 | vid)]
}

fn bare(b: PacketBuilder) -> Vec<u8> {
    b.payload(b"hello").build()
}

fn in_geneve(b: PacketBuilder) -> Vec<u8> {
    let outer = PacketBuilder::eth(PEER_MAC, NIC_MAC).ipv4(PEER_IP, LOCAL_IP);
    outer.udp(50_000, 6081).no_checksum().geneve(VNI, &bare(b)).build()
}

fn cases() -> Vec<Case> {
    let list = |actions: &[&[Action]]| vec![always(actions.concat())];
    let from_tunnel = flow(0, 2).is(Field::InPort, TUNNEL.into());
    let (macs, tunnel) = ([set(Field::EthDst, 0x0200_0000_0099)], [out(TUNNEL.into())]);
    vec![
        ("macs", list(&[&macs, &[out(2)]]), 1, bare, &[0]),
        ("a tag", list(&[&tag(7), &[out(2)]]), 1, bare, &[TAG]),
        ("macs and a tag", list(&[&macs, &tag(7), &[out(2)]]), 1, bare, &[TAG]),
        ("without, then with a tag", list(&[&[out(2)], &tag(7), &[out(3)]]), 1, bare, &[0, TAG]),
        ("a label", list(&[&[push_mpls(), out(2)]]), 1, bare, &[LABEL]),
        ("encapsulated", list(&[&tunnel]), 1, bare, &[OUTER]),
        ("encapsulated with a tag", list(&[&tag(7), &tunnel]), 1, bare, &[OUTER + TAG]),
        ("decapsulated", vec![from_tunnel.clone().does([out(1)])], NIC, in_geneve, &[-OUTER]),
        (
            "decapsulated, with a tag",
            vec![from_tunnel.does(tag(7).into_iter().chain([out(1)]))],
            NIC,
            in_geneve,
            &[TAG - OUTER],
        ),
    ]
}

#[test]
fn bytes_are_counted_as_they_leave_wherever_the_walk_was_kept() {
    for (name, flows, port, make, longer) in cases() {
        let mut s = Switch::sized(&Net::of(flows), 64, 64);
        let mut bytes = 0;
        // Each flow twice: the second packet finds the first one's entry. Later flows find the
        // megaflow of earlier ones.
        for flow in 0..40 {
            let packet = make(v4().udp(1000 + flow / 2, 2000));
            let sent = s.send(port, &packet);
            let lengths: Vec<_> =
                sent.iter().map(|(_, b)| b.len() as i64 - packet.len() as i64).collect();
            assert_eq!(lengths, longer, "{name}");
            bytes += sent.iter().map(|(_, b)| b.len() as u64).sum::<u64>();
            for side in s.sides() {
                assert_eq!(side.counters.stat(Stat::TxBytes), bytes, "{name}, packet {flow}");
            }
        }
        let served = |side: &Side, by| side.counters.stat(by);
        assert!(served(&s.cached, Stat::Tier1Hits) >= 20, "{name}: not from tier 1");
        assert!(served(&s.wide, Stat::Tier2Hits) >= 20, "{name}: not from tier 2");
        assert!(served(&s.both, Stat::Tier2Hits) >= 20, "{name}: not from tier 2 first");
        assert_eq!(served(&s.plain, Stat::Tier3Walks), 40, "{name}");
    }
}
