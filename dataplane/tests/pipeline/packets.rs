//! The packets that tests send.

use sluice_dataplane::packet::build::PacketBuilder;

pub const A: [u8; 6] = [2, 0, 0, 0, 0, 0xa];
pub const B: [u8; 6] = [2, 0, 0, 0, 0, 0xb];
pub const IP_A: [u8; 4] = [192, 168, 0, 1];
pub const IP_B: [u8; 4] = [192, 168, 0, 2];
pub const V6_A: [u8; 16] = [0xfd, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1];
pub const V6_B: [u8; 16] = [0xfd, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 2];
pub const BROADCAST: [u8; 6] = [0xff; 6];

pub fn eth() -> PacketBuilder {
    PacketBuilder::eth(A, B)
}

pub fn v4() -> PacketBuilder {
    eth().ipv4(IP_A, IP_B)
}

pub fn v6() -> PacketBuilder {
    eth().ipv6(V6_A, V6_B)
}

pub fn udp() -> Vec<u8> {
    v4().udp(1000, 2000).payload(b"hello").build()
}

pub fn arp() -> Vec<u8> {
    PacketBuilder::eth(A, BROADCAST).arp(1, (A, IP_A), ([0; 6], IP_B)).build()
}

/// A packet of every kind that the pipeline tells apart.
pub fn of_every_kind() -> Vec<Vec<u8>> {
    let quoted = udp();
    vec![
        udp(),
        v4().udp(1000, 2000).no_checksum().payload(&[7; 30]).build(),
        v4().udp(1000, 2000).partial_checksum().payload(&[7; 30]).build(),
        v4().tcp(1000, 80).flags(2).payload(&[]).build(),
        v4().tcp(1000, 80).tcp_options(&[1; 12]).payload(b"data").build(),
        v4().ip_options(&[1; 8]).udp(5, 6).payload(b"options").build(),
        v4().sctp(7, 8, 9).payload(&[0; 16]).build(),
        v4().echo_request(3, 4).payload(b"ping").build(),
        v4().icmp(13, 0, [0, 9, 0, 1]).payload(&[0; 12]).build(),
        v4().icmp_error(3, 3, [0; 4], &quoted).build(),
        v4().proto(47).payload(&[0; 20]).build(),
        v4().fragment(1, 0, true).udp(1000, 2000).payload(&[1; 32]).build(),
        v4().fragment(1, 40, false).udp(1000, 2000).payload(&[2; 32]).build(),
        v4().tos(3).ttl(1).udp(9, 10).build(),
        eth().vlan(100, 3).ipv4(IP_A, IP_B).udp(1, 2).payload(b"tagged").build(),
        eth().tag(0x88a8, 5).tag(0x8100, 6).ipv4(IP_A, IP_B).udp(1, 2).build(),
        v4().mpls(16, 5, 64).udp(1000, 2000).payload(b"label").build(),
        v4().mpls(16, 0, 2).mpls(17, 7, 9).vlan(100, 3).tcp(1000, 80).build(),
        v4().mpls(1, 0, 1).mpls(2, 0, 2).mpls(3, 0, 3).udp(1, 2).build(),
        v4().mpls(1, 0, 1).mpls(2, 0, 2).mpls(3, 0, 3).mpls(4, 0, 4).udp(1, 2).build(),
        v6().mpls(18, 1, 64).tcp(1000, 80).payload(b"six").build(),
        v6().mpls(18, 1, 64).nd_solicit(V6_B, Some(A)).build(),
        eth().mpls(19, 0, 64).arp(1, (A, IP_A), ([0; 6], IP_B)).build(),
        eth().mpls(19, 0, 64).payload(b"pseudowire").build(),
        v4().eth_type(0x8848).mpls(20, 0, 64).ttl(1).echo_request(3, 4).build(),
        arp(),
        v6().udp(1000, 2000).payload(b"six").build(),
        v6().tcp(1000, 80).payload(b"six").build(),
        v6().extension(0, &[0; 8]).extension(60, &[0; 8]).udp(3, 4).build(),
        v6().fragment(2, 0, true).udp(3, 4).payload(&[0; 24]).build(),
        v6().fragment(2, 24, false).udp(3, 4).payload(&[0; 24]).build(),
        v6().echo_request(1, 2).build(),
        v6().nd_solicit(V6_B, Some(A)).build(),
        v6().nd_advert(V6_B, Some(B)).build(),
        eth().eth_type(0x88cc).payload(&[0; 46]).build(),
        eth().eth_type(40).payload(&[0xaa, 0xaa, 3, 0, 0, 0, 8, 0, 69, 0]).build(),
    ]
}

/// UDP to 10.0.0.n.
pub fn to_host(n: u8) -> Vec<u8> {
    PacketBuilder::eth(A, B).ipv4([192, 168, 1, 1], [10, 0, 0, n]).udp(1000, 2000).build()
}

/// What answers a packet of UDP or TCP over IPv4: the same, with its ends changed about.
pub fn answer_to(sent: &[u8]) -> Vec<u8> {
    let mut p = sent.to_vec();
    p[26..34].rotate_left(4);
    p[34..38].rotate_left(2);
    p
}

/// The ports by which packets left.
pub fn ports(sent: &[(u16, Vec<u8>)]) -> Vec<u16> {
    sent.iter().map(|(port, _)| *port).collect()
}
