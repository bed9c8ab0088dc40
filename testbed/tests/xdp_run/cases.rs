//! The packets of the XDP test-run, each with the verdict for every length it can be cut to.
//!
//! The node: US (and US6) is its own address, a tunnel endpoint for Geneve and GRE, and a NAT
//! address with ports 40000-49999 and echo ids 1000-1999. WHOLE (WHOLE6) is a NAT address that no
//! kernel owns. PEER sends; OTHER is none of ours.

use std::net::{Ipv4Addr, Ipv6Addr};

use sluice_ebpf_common::Verdict::{self, *};

use crate::packets::*;

pub const US: Ipv4Addr = Ipv4Addr::new(10, 0, 0, 1);
pub const WHOLE: Ipv4Addr = Ipv4Addr::new(203, 0, 113, 7);
pub const PEER: Ipv4Addr = Ipv4Addr::new(10, 0, 0, 2);
const OTHER: Ipv4Addr = Ipv4Addr::new(10, 0, 0, 3);
pub const US6: Ipv6Addr = Ipv6Addr::new(0xfd00, 0, 0, 0, 0, 0, 0, 1);
pub const WHOLE6: Ipv6Addr = Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 7);
const PEER6: Ipv6Addr = Ipv6Addr::new(0xfd00, 0, 0, 0, 0, 0, 0, 2);

pub struct Case {
    pub name: &'static str,
    pub frame: Vec<u8>,
    /// From this length on, this verdict.
    pub cuts: Vec<(usize, Verdict)>,
}

fn case(name: &'static str, frame: Vec<u8>, cuts: &[(usize, Verdict)]) -> Case {
    assert!(cuts.last().is_some_and(|(from, _)| *from <= frame.len()), "{name}");
    // The kernel hands no frame over that has less than an Ethernet header.
    let cuts = [(14, PassTruncated)].into_iter().chain(cuts.iter().copied()).collect();
    Case { name, frame, cuts }
}

fn v4(dst: Ipv4Addr, proto: u8, fragment: u16, l4: &[u8]) -> Vec<u8> {
    ether(0x0800, &ipv4(PEER, dst, proto, fragment, 0, l4))
}

fn v6(dst: Ipv6Addr, first: u8, payload: &[u8]) -> Vec<u8> {
    ether(0x86dd, &ipv6(PEER6, dst, first, payload))
}

pub fn all() -> Vec<Case> {
    [link(), tunnels(), nat(), icmp(), icmp_errors(), tunnels_v6(), nat_v6()]
        .into_iter()
        .flatten()
        .collect()
}

fn link() -> Vec<Case> {
    let geneve = v4(US, UDP, 0, &ports(5000, 6081));
    let mut version = v4(US, UDP, 0, &ports(5000, 6081));
    version[14] = 0x55;
    let mut words = geneve.clone();
    words[14] = 0x44;
    let mut strange_arp = arp(WHOLE);
    strange_arp[18] = 8;
    vec![
        case("one tag", tagged(&geneve, 1), &[(42, RedirectTunnel)]),
        case("two tags", tagged(&geneve, 2), &[(46, RedirectTunnel)]),
        case("three tags", tagged(&geneve, 3), &[(22, PassNotIp)]),
        case("LLDP", ether(0x88cc, &[0; 46]), &[(14, PassNotIp)]),
        case("802.3 length", ether(38, &[0; 46]), &[(14, PassNotIp)]),
        case("version 5", version, &[(34, PassMalformed)]),
        case("header of 16 bytes", words, &[(34, PassMalformed)]),
        case("ARP for the whole address", arp(WHOLE), &[(42, RedirectNatNeighbour)]),
        case("tagged ARP", tagged(&arp(WHOLE), 1), &[(46, RedirectNatNeighbour)]),
        case("ARP for the node", arp(US), &[(42, PassNotOurs)]),
        case("ARP with long addresses", strange_arp, &[(20, PassNotOurs)]),
    ]
}

fn tunnels() -> Vec<Case> {
    let geneve = ports(5000, 6081);
    let options = ether(0x0800, &ipv4(PEER, US, UDP, 0, 12, &geneve));
    let longest = ether(0x0800, &ipv4(PEER, US, UDP, 0, 40, &geneve));
    vec![
        case("Geneve", v4(US, UDP, 0, &geneve), &[(38, RedirectTunnel)]),
        case("Geneve, DF", v4(US, UDP, 0x4000, &geneve), &[(38, RedirectTunnel)]),
        case("Geneve behind options", options, &[(50, RedirectTunnel)]),
        case("Geneve behind 40 bytes of options", longest, &[(78, RedirectTunnel)]),
        case("another port", v4(US, UDP, 0, &ports(5000, 6082)), &[(38, PassNotOurs)]),
        case("TCP to the port", v4(US, TCP, 0, &geneve), &[(38, PassNotOurs)]),
        case("another address", v4(OTHER, UDP, 0, &geneve), &[(34, PassNotOurs)]),
        case("GRE", v4(US, GRE, 0, &gre(0)), &[(38, RedirectTunnel)]),
        case("GRE version 1", v4(US, GRE, 0, &gre(1)), &[(38, PassNotOurs)]),
        case("Geneve, first part", v4(US, UDP, FIRST, &geneve), &[(38, PassTunnelFragment)]),
        case("Geneve, later part", v4(US, UDP, LATER, &geneve), &[(34, PassTunnelFragment)]),
        case("GRE, later part", v4(US, GRE, LATER, &gre(0)), &[(34, PassTunnelFragment)]),
        case("part for another", v4(OTHER, UDP, LATER, &geneve), &[(34, PassNotOurs)]),
    ]
}

fn nat() -> Vec<Case> {
    let reply = ports(443, 40000);
    let below = ports(443, 39999);
    vec![
        case("TCP into the range", v4(US, TCP, 0, &reply), &[(38, RedirectNat)]),
        case("its last port", v4(US, UDP, 0, &ports(53, 49999)), &[(38, RedirectNat)]),
        case("SCTP into the range", v4(US, SCTP, 0, &reply), &[(38, RedirectNat)]),
        case("TCP below the range", v4(US, TCP, 0, &below), &[(38, PassNotOurs)]),
        case("TCP above the range", v4(US, TCP, 0, &ports(443, 50000)), &[(38, PassNotOurs)]),
        case("TCP, first part", v4(US, TCP, FIRST, &reply), &[(38, RedirectNat)]),
        case("TCP, first part below", v4(US, TCP, FIRST, &below), &[(38, PassNotOurs)]),
        case("UDP, first part", v4(US, UDP, FIRST, &reply), &[(38, RedirectNat)]),
        case("TCP, later part", v4(US, TCP, LATER, &reply), &[(34, PassNatFragment)]),
        case("OSPF to the node", v4(US, 89, 0, &reply), &[(34, PassNotOurs)]),
        case("whole, TCP", v4(WHOLE, TCP, 0, &below), &[(34, RedirectNat)]),
        case("whole, Geneve's port", v4(WHOLE, UDP, 0, &ports(1, 6081)), &[(34, RedirectNat)]),
        case("whole, later part", v4(WHOLE, UDP, LATER, &below), &[(34, RedirectNat)]),
        case("whole, OSPF", v4(WHOLE, 89, 0, &below), &[(34, RedirectNat)]),
        case("whole, error", v4(WHOLE, ICMP, 0, &icmp_error(3, &[])), &[(34, RedirectNat)]),
    ]
}

fn icmp() -> Vec<Case> {
    vec![
        case("echo reply, ours", v4(US, ICMP, 0, &echo(0, 1000)), &[(40, RedirectNat)]),
        case("echo reply, the node's", v4(US, ICMP, 0, &echo(0, 999)), &[(40, PassNotOurs)]),
        case("echo request", v4(US, ICMP, 0, &echo(8, 1000)), &[(38, PassNotOurs)]),
        case("redirect", v4(US, ICMP, 0, &icmp_error(5, &[0; 28])), &[(38, PassNotOurs)]),
        case("ICMPv6 in IPv4", v4(US, ICMPV6, 0, &echo(129, 1000)), &[(38, PassNotOurs)]),
        case(
            "echo reply, later part",
            v4(US, ICMP, LATER, &echo(0, 1000)),
            &[(34, PassNatFragment)],
        ),
    ]
}

/// The quoted packet starts at 42, its layer 4 at 62.
fn icmp_errors() -> Vec<Case> {
    let error = |kind, quoted: &[u8]| v4(US, ICMP, 0, &icmp_error(kind, quoted));
    let sent = |src, proto, fragment, l4: &[u8]| ipv4(src, OTHER, proto, fragment, 0, &l4[..8]);
    let ours = sent(US, TCP, 0, &ports(40001, 443));
    let options = ipv4(US, OTHER, UDP, 0, 8, &ports(40001, 53)[..8]);
    let mut malformed = ours.clone();
    malformed[0] = 0x65;
    let theirs = sent(OTHER, TCP, 0, &ports(40001, 443));
    let node = sent(US, TCP, 0, &ports(39999, 443));
    let later = sent(US, TCP, LATER, &ports(40001, 443));
    let ping = sent(US, ICMP, 0, &echo(8, 1999));
    let node_ping = sent(US, ICMP, 0, &echo(8, 2000));
    let other_icmp = sent(US, ICMP, 0, &echo(13, 1999));
    vec![
        case("unreachable", error(3, &ours), &[(64, RedirectNatIcmpError)]),
        case("time exceeded", error(11, &ours), &[(64, RedirectNatIcmpError)]),
        case("parameter problem", error(12, &options), &[(72, RedirectNatIcmpError)]),
        case("about a ping", error(11, &ping), &[(68, RedirectNatIcmpError)]),
        case("about the node's ping", error(11, &node_ping), &[(68, PassNotOurs)]),
        case("about a timestamp", error(11, &other_icmp), &[(68, PassNotOurs)]),
        case("about the node's packet", error(3, &node), &[(64, PassNotOurs)]),
        case("about another's packet", error(3, &theirs), &[(62, PassNotOurs)]),
        case("about a later part", error(3, &later), &[(62, PassNotOurs)]),
        case("about OSPF", error(3, &sent(US, 89, 0, &[0; 8])), &[(62, PassNotOurs)]),
        case("about nonsense", error(3, &malformed), &[(62, PassMalformed)]),
    ]
}

fn tunnels_v6() -> Vec<Case> {
    let udp = ports(5000, 6081);
    let geneve = v6(US6, UDP, &udp);
    let mut version = geneve.clone();
    version[14] = 0x40;
    let chain = extension(43, 0, &extension(60, 2, &extension(UDP, 0, &udp)));
    let secured = authentication(UDP, 4, &udp);
    let part = |offset, more| v6(US6, 44, &fragment_header(UDP, offset, more, &udp));
    let deep = |count: usize| {
        (0..count).fold((UDP, udp.clone()), |(next, rest), _| (60, extension(next, 0, &rest))).1
    };
    vec![
        case("Geneve over IPv6", geneve.clone(), &[(58, RedirectTunnel)]),
        case("Geneve over IPv6, tagged twice", tagged(&geneve, 2), &[(66, RedirectTunnel)]),
        case("version 4 in IPv6", version, &[(54, PassMalformed)]),
        case("other port, IPv6", v6(US6, UDP, &ports(1, 2)), &[(58, PassNotOurs)]),
        case("other address, IPv6", v6(PEER6, UDP, &udp), &[(54, PassNotOurs)]),
        case("three extensions", v6(US6, 0, &chain), &[(98, RedirectTunnel)]),
        case("authentication", v6(US6, 51, &secured), &[(82, RedirectTunnel)]),
        case("atomic fragment", part(0, false), &[(66, RedirectTunnel)]),
        case("first part, IPv6", part(0, true), &[(66, PassTunnelFragment)]),
        case("later part, IPv6", part(100, true), &[(58, PassTunnelFragment)]),
        case("six extensions", v6(US6, 60, &deep(6)), &[(106, RedirectTunnel)]),
        case("seven extensions", v6(US6, 60, &deep(7)), &[(98, PassExtHeaders)]),
    ]
}

/// Layer 4 starts at 54, a quoted packet at 62, its layer 4 at 102.
fn nat_v6() -> Vec<Case> {
    let error = |kind, quoted: &[u8]| v6(US6, ICMPV6, &icmp_error(kind, quoted));
    let sent = |src, first, payload: &[u8]| ipv6(src, PEER6, first, payload);
    let tcp = ports(40001, 443);
    let ours = sent(US6, TCP, &tcp);
    let hops = sent(US6, 0, &extension(TCP, 0, &tcp));
    let ping = sent(US6, ICMPV6, &echo(128, 1500));
    let later = fragment_header(TCP, 100, false, &tcp);
    let deep = extension(60, 200, &extension(60, 200, &extension(TCP, 0, &tcp)));
    let ask = solicitation(PEER6, WHOLE6);
    let ping_v4 = v6(US6, ICMP, &echo(0, 1000));
    vec![
        case("TCP, IPv6", v6(US6, TCP, &ports(443, 40000)), &[(58, RedirectNat)]),
        case("TCP below, IPv6", v6(US6, TCP, &ports(443, 39999)), &[(58, PassNotOurs)]),
        case("echo reply, IPv6", v6(US6, ICMPV6, &echo(129, 1000)), &[(60, RedirectNat)]),
        case("echo reply, node", v6(US6, ICMPV6, &echo(129, 1)), &[(60, PassNotOurs)]),
        case("echo request, IPv6", v6(US6, ICMPV6, &echo(128, 1000)), &[(58, PassNotOurs)]),
        case("ICMP in IPv6", ping_v4, &[(58, PassNotOurs)]),
        case("later part, NAT", v6(US6, 44, &later), &[(58, PassNatFragment)]),
        case("too big", error(2, &ours), &[(104, RedirectNatIcmpError)]),
        case("about hop-by-hop", error(1, &hops), &[(112, RedirectNatIcmpError)]),
        case("about a ping, IPv6", error(3, &ping), &[(108, RedirectNatIcmpError)]),
        case("about another, IPv6", error(1, &sent(PEER6, TCP, &tcp)), &[(102, PassNotOurs)]),
        case(
            "about the node, IPv6",
            error(1, &sent(US6, TCP, &ports(1, 2))),
            &[(104, PassNotOurs)],
        ),
        case("long extensions", v6(US6, 60, &deep), &[(54 + 2 * 1608 + 12, PassNotOurs)]),
        case("whole, IPv6", v6(WHOLE6, TCP, &tcp), &[(54, RedirectNat)]),
        case("whole, extensions", v6(WHOLE6, 60, &deep), &[(54, RedirectNat)]),
        case("solicits the whole address", ask.clone(), &[(78, RedirectNatNeighbour)]),
        case("the same, tagged", tagged(&ask, 1), &[(82, RedirectNatNeighbour)]),
        case("solicits the node", solicitation(PEER6, US6), &[(78, PassNotOurs)]),
    ]
}
