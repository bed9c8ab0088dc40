//! Each header taken apart from bytes written by hand, and put together again.

use super::*;
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

/// Reads a header from hex, checks that it writes back as read and that one byte less is refused.
fn read<T: FromBytes + IntoBytes + KnownLayout + Immutable + zerocopy::Unaligned>(hex: &str) -> T {
    let digits: String = hex.split_whitespace().collect();
    let bytes: Vec<u8> = (0..digits.len() / 2)
        .map(|i| u8::from_str_radix(&digits[2 * i..2 * i + 2], 16).unwrap())
        .collect();
    assert_eq!(bytes.len(), size_of::<T>());
    assert!(T::ref_from_prefix(&bytes[1..]).is_err());
    let longer = [&bytes[..], &[0xee]].concat();
    let (view, rest) = T::ref_from_prefix(&longer).unwrap();
    assert_eq!((view.as_bytes(), rest), (&bytes[..], &[0xee][..]));
    T::read_from_bytes(&bytes).unwrap()
}

#[test]
fn ethernet_and_tags() {
    let eth: ether::Ethernet = read("0242ac120002 0242ac120003 8100");
    assert_eq!((eth.dst[5], eth.src[5], eth.eth_type.get()), (2, 3, ether::TYPE_VLAN));
    assert!(vlan::is_tpid(0x8100) && vlan::is_tpid(0x88a8) && !vlan::is_tpid(0x0800));
    let tag: vlan::VlanTag = read("a064 0800");
    assert_eq!(tag.tci.get() & vlan::VID_MASK, 100);
    assert_eq!((tag.tci.get() >> vlan::PCP_SHIFT, tag.eth_type.get()), (5, ether::TYPE_IPV4));
    let snap: ether::LlcSnap = read("aaaa03 000000 0806");
    assert_eq!(snap.ethernet_type(), Some(ether::TYPE_ARP));
    assert_eq!(read::<ether::LlcSnap>("aaaa03 00000c 2000").ethernet_type(), None);
    assert_eq!(read::<ether::LlcSnap>("424203 000000 0800").ethernet_type(), None);
    assert_eq!(read::<ether::LlcSnap>("aaaa03 000000 0100").ethernet_type(), None);
}

#[test]
fn arp_packets() {
    let arp: arp::ArpEthIpv4 =
        read("0001 0800 06 04 0002 020000000001 0a000001 020000000002 0a000002");
    assert!(arp.is_eth_ipv4() && arp.as_bytes().starts_with(&arp::ArpEthIpv4::KIND));
    assert_eq!((arp.op.get(), arp.sha[5], arp.spa[3]), (arp::OP_REPLY, 1, 1));
    assert_eq!((arp.tha[5], arp.tpa[3]), (2, 2));
    let ieee: arp::ArpEthIpv4 =
        read("0006 0800 06 04 0002 020000000001 0a000001 020000000002 0a000002");
    assert!(!ieee.is_eth_ipv4());
}

#[test]
fn ipv4_headers() {
    let ip: ipv4::Ipv4 = read("45 b9 0054 1234 4000 40 11 abcd 0a000001 0a000002");
    assert_eq!((ip.version(), ip.header_len(), ip.tos), (4, 20, 0xb9));
    assert_eq!((ip.total_len.get(), ip.ttl, ip.proto), (84, 64, proto::UDP));
    assert_eq!((ip.src, ip.dst, ip.checksum), ([10, 0, 0, 1], [10, 0, 0, 2], [0xab, 0xcd]));
    assert!(!ip.is_fragment() && !ip.is_later_fragment());
    let first: ipv4::Ipv4 = read("46 00 0054 1234 2000 40 11 0000 0a000001 0a000002");
    assert!(first.is_fragment() && !first.is_later_fragment() && first.header_len() == 24);
    let last: ipv4::Ipv4 = read("45 00 0054 1234 00b9 40 11 0000 0a000001 0a000002");
    assert!(last.is_fragment() && last.is_later_fragment());
}

#[test]
fn ipv6_headers() {
    let hex = "6 b9 12345 0010 3a ff 20010db8000000000000000000000001 \
               20010db8000000000000000000000002";
    let mut ip: ipv6::Ipv6 = read(hex);
    assert_eq!((ip.version(), ip.traffic_class(), ip.flow_label()), (6, 0xb9, 0x12345));
    assert_eq!((ip.payload_len.get(), ip.next_header, ip.hop_limit), (16, proto::ICMPV6, 255));
    assert_eq!((ip.src[15], ip.dst[15]), (1, 2));
    ip.set_traffic_class(0x42);
    ip.set_flow_label(0xf_ffff_ffff_u64 as u32);
    assert_eq!((ip.version(), ip.traffic_class(), ip.flow_label()), (6, 0x42, 0xfffff));
    let ext: ipv6::Extension = read("06 01 05020000 0100");
    assert_eq!((ext.next_header, ext.len), (proto::TCP, 1));
    let frag: ipv6::Fragment = read("11 00 05a9 0000002a");
    assert_eq!(frag.offset_more.get() & ipv6::FRAGMENT_OFFSET, 0x05a8);
    assert_eq!((frag.offset_more.get() & ipv6::MORE_FRAGMENTS, frag.id.get()), (1, 42));
}

#[test]
fn transport_headers() {
    let tcp: tcp::Tcp = read("04d2 0050 00000001 00000002 a012 ffff beef 0003");
    assert_eq!((tcp.src.get(), tcp.dst.get(), tcp.header_len()), (1234, 80, 40));
    assert_eq!((tcp.seq.get(), tcp.ack.get(), tcp.window.get()), (1, 2, 0xffff));
    assert_eq!((tcp.flags(), tcp.urgent.get()), (tcp::SYN | tcp::ACK, 3));
    assert_eq!(&tcp.as_bytes()[tcp::CHECKSUM_AT..][..2], &tcp.checksum);
    let udp: udp::Udp = read("1f90 17c1 0010 beef");
    assert_eq!((udp.src.get(), udp.dst.get(), udp.len.get()), (8080, udp::PORT_GENEVE, 16));
    assert_eq!(&udp.as_bytes()[udp::CHECKSUM_AT..], &udp.checksum);
    let icmp: icmp::Icmp = read("08 00 beef 0102 0304");
    assert_eq!((icmp.icmp_type, icmp.echo_id()), (icmp::V4_ECHO_REQUEST, 0x0102));
    assert_eq!(icmp::echo_rest(0x0102, 0x0304), icmp.rest);
    assert_eq!(&icmp.as_bytes()[icmp::CHECKSUM_AT..][..2], &icmp.checksum);
    let option: icmp::NdOption = read("01 01 020000000001");
    assert_eq!((option.option_type, option.mac[5]), (icmp::ND_OPT_SOURCE_LINK, 1));
    let sctp: sctp::Sctp = read("0b59 0b5a 00000001 deadbeef");
    assert_eq!((sctp.src.get(), sctp.dst.get(), sctp.tag.get()), (2905, 2906, 1));
    assert_eq!(&sctp.as_bytes()[sctp::CHECKSUM_AT..], &sctp.checksum);
}

#[test]
fn geneve_headers() {
    let geneve: geneve::Geneve = read("02 c0 6558 0000ff 00");
    assert_eq!((geneve.version(), geneve.options_len(), geneve.vni()), (0, 8, 255));
    assert_eq!(geneve.flags, geneve::OAM | geneve::CRITICAL);
    assert_eq!(geneve.proto.get(), ether::TYPE_TEB);
    assert_eq!(read::<geneve::Geneve>("41 00 6558 000000 00").version(), 1);
    let option: geneve::GeneveOption = read("0102 80 e1");
    assert_eq!((option.class.get(), option.is_critical(), option.data_len()), (0x0102, true, 4));
}

#[test]
fn crc32c_of_known_inputs() {
    // The check value of CRC-32C is e3069283 for "123456789", which has no zeroed field; RFC 3720
    // appendix B.4 gives 8a9136aa for 32 zero bytes.
    assert_eq!(sctp::crc32c(&[0; 32]), 0x8a91_36aa_u32.to_le_bytes());
    let mut packet = *b"123456789....abc";
    let before = sctp::crc32c(&packet);
    packet[8..12].copy_from_slice(&before);
    assert_eq!(sctp::crc32c(&packet), before, "the field itself does not count");
    packet[12] ^= 1;
    assert_ne!(sctp::crc32c(&packet), before);
}

#[test]
fn sctp_ports_change_the_checksum_without_the_rest_being_read() {
    for len in [12usize, 13, 16, 60, 1500] {
        let mut packet: Vec<u8> = (0..len).map(|n| (n * 37 + 5) as u8).collect();
        let right = sctp::crc32c(&packet);
        let flip = [0x12, 0x34, 0, 0xff];
        packet.iter_mut().zip(flip).for_each(|(byte, flip)| *byte ^= flip);
        assert_eq!(sctp::change_ports(right, flip, len), sctp::crc32c(&packet), "{len} bytes");
        let mut wrong = right;
        wrong[0] ^= 1;
        let still_wrong = sctp::change_ports(wrong, flip, len)[0];
        assert_eq!(still_wrong ^ 1, sctp::crc32c(&packet)[0], "damage stays to be seen");
        assert_eq!(sctp::change_ports(right, [0; 4], len), right);
    }
}
