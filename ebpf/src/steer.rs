//! Whose frame is it? The decision, without the act.
//!
//! Mode `all`: ours, unread. Mode `shared`: the NIC stays the host's own, and only two kinds of
//! traffic are ours.
//!
//! *Tunnels.* UDP to an endpoint's address and port, or GRE version 0 to its address. A tunnel's
//! sender sets DF, and a fragment cannot be given back once taken; so fragments to an endpoint stay
//! with the kernel, all of them, under a counter of their own.
//!
//! *Replies to NAT addresses.* An address that is ours whole: everything to it, fragments included,
//! and the ARP requests and neighbour solicitations that ask for it, because no kernel answers
//! them. The node's own address: only what a reserved range of ports and echo ids tells apart from
//! the node's own traffic.
//! - TCP, UDP and SCTP by destination port. Of a fragmented datagram only the first part has it: it
//!   is taken, later parts pass. The kernel then never sees the datagram whole, so it does not
//!   answer for a port that it does not know (a reset would end the connection).
//! - Echo replies by id. Echo requests are the kernel's.
//! - ICMP errors by the packet they quote, which is one that *we* sent: its source is the NAT
//!   address, its source port or echo id lies in the range (RFC 792, RFC 4443 section 2.4,
//!   RFC 5508 section 4 on errors for translated flows). Redirects are for the kernel's routes.

use sluice_ebpf_common::{
    EndpointKey, MODE_ALL, MODE_SHARED, NatKey, NatTake, Verdict, mapped, proto,
};

use crate::{
    CONFIG, ENDPOINTS, NAT,
    peek::{ETHERTYPE_ARP, ETHERTYPE_IPV4, ETHERTYPE_IPV6, Fragment, Ip, Packet, Upper},
};

const ECHO_REPLY: u8 = 0;
const ECHO_REQUEST: u8 = 8;
const ECHO_REQUEST_V6: u8 = 128;
const ECHO_REPLY_V6: u8 = 129;
const NEIGHBOUR_SOLICITATION: u8 = 135;

#[inline(always)]
pub fn decide<const FRAGS: bool>(packet: &Packet<FRAGS>) -> Verdict {
    match CONFIG.get(0).map(|config| config.mode) {
        Some(MODE_ALL) => Verdict::RedirectAll,
        Some(MODE_SHARED) => match shared(packet) {
            Ok(verdict) | Err(verdict) => verdict,
        },
        _ => Verdict::PassNotConfigured,
    }
}

/// `Err` is a verdict like `Ok`: it only lets `?` leave early.
#[inline(always)]
fn shared<const FRAGS: bool>(packet: &Packet<FRAGS>) -> Result<Verdict, Verdict> {
    let (ethertype, offset) = packet.link()?;
    match ethertype {
        ETHERTYPE_IPV4 => Ok(ip(packet, &packet.ipv4(true, offset)?)),
        ETHERTYPE_IPV6 => Ok(ip(packet, &packet.ipv6(true, offset)?)),
        ETHERTYPE_ARP => Ok(arp(packet, offset)),
        _ => Ok(Verdict::PassNotIp),
    }
}

#[inline(always)]
fn ip<const FRAGS: bool>(packet: &Packet<FRAGS>, ip: &Ip) -> Verdict {
    let upper = match ip.upper {
        Ok(upper) => upper,
        Err(_) if is_whole(&ip.dst) => return Verdict::RedirectNat,
        Err(why) => return why,
    };
    // Every layer 4 header we know shows in its first four bytes what to do next.
    let head = match upper.fragment {
        Fragment::Later => None,
        _ => packet.upper::<4>(&upper, 0),
    };
    if let Some(head) = head
        && upper.fragment == Fragment::No
        && is_tunnel(&ip.dst, upper.proto, head)
    {
        return Verdict::RedirectTunnel;
    }
    // SAFETY: the entry may be replaced while we read it; any mix of old and new is a range that
    // the operator gave, and the next packet sees the new one.
    let nat = unsafe { NAT.get(NatKey { addr: ip.dst }) };
    if let Some(take) = nat {
        if take.whole != 0 {
            return Verdict::RedirectNat;
        }
        if let Some(head) = head
            && let Some(verdict) = ranged(packet, ip, &upper, head, take)
        {
            return verdict;
        }
    }
    leftover(packet, ip, &upper, head, nat.is_some())
}

#[inline(always)]
fn is_tunnel(dst: &[u8; 16], proto: u8, head: [u8; 4]) -> bool {
    let key = match proto {
        proto::UDP => EndpointKey { addr: *dst, port: [head[2], head[3]], proto, zero: 0 },
        // The last three bits of the second byte are the version (RFC 2784 section 2.1).
        proto::GRE if head[1] & 7 == 0 => EndpointKey::gre(*dst),
        _ => return false,
    };
    // SAFETY: only the presence of the entry counts.
    unsafe { ENDPOINTS.get(key) }.is_some()
}

/// The node's own address: `None` means that the range does not have it.
#[inline(always)]
fn ranged<const FRAGS: bool>(
    packet: &Packet<FRAGS>,
    ip: &Ip,
    upper: &Upper,
    head: [u8; 4],
    take: &NatTake,
) -> Option<Verdict> {
    match (upper.proto, ip.v6) {
        (proto::TCP | proto::UDP | proto::SCTP, _) => {
            let port = u16::from_be_bytes([head[2], head[3]]);
            take.has_port(port).then_some(Verdict::RedirectNat)
        }
        (proto::ICMP, false) => match head[0] {
            ECHO_REPLY => echo_reply(packet, upper, take),
            3 | 4 | 11 | 12 => icmp_error(packet, ip, packet.ipv4(false, upper.offset + 8), take),
            _ => None,
        },
        (proto::ICMPV6, true) => match head[0] {
            ECHO_REPLY_V6 => echo_reply(packet, upper, take),
            1..=4 => icmp_error(packet, ip, packet.ipv6(false, upper.offset + 8), take),
            _ => None,
        },
        _ => None,
    }
}

#[inline(always)]
fn echo_reply<const FRAGS: bool>(
    packet: &Packet<FRAGS>,
    upper: &Upper,
    take: &NatTake,
) -> Option<Verdict> {
    let Some(id) = packet.upper::<2>(upper, 4) else { return Some(Verdict::PassTruncated) };
    take.has_icmp_id(u16::from_be_bytes(id)).then_some(Verdict::RedirectNat)
}

/// An error quotes at least 8 bytes of the layer 4 header: ports, or type and echo id.
#[inline(always)]
fn icmp_error<const FRAGS: bool>(
    packet: &Packet<FRAGS>,
    ip: &Ip,
    quoted: Result<Ip, Verdict>,
    take: &NatTake,
) -> Option<Verdict> {
    let (src, upper) = match quoted {
        Ok(Ip { src, upper: Ok(upper), .. }) => (src, upper),
        Ok(Ip { upper: Err(why), .. }) | Err(why) => return Some(why),
    };
    if src != ip.dst || upper.fragment == Fragment::Later {
        return None;
    }
    let ours = match (upper.proto, ip.v6) {
        (proto::TCP | proto::UDP | proto::SCTP, _) => {
            let Some(port) = packet.upper::<2>(&upper, 0) else {
                return Some(Verdict::PassTruncated);
            };
            take.has_port(u16::from_be_bytes(port))
        }
        (proto::ICMP, false) | (proto::ICMPV6, true) => {
            let Some(echo) = packet.upper::<6>(&upper, 0) else {
                return Some(Verdict::PassTruncated);
            };
            let is_echo = match ip.v6 {
                false => matches!(echo[0], ECHO_REQUEST | ECHO_REPLY),
                true => matches!(echo[0], ECHO_REQUEST_V6 | ECHO_REPLY_V6),
            };
            is_echo && take.has_icmp_id(u16::from_be_bytes([echo[4], echo[5]]))
        }
        _ => false,
    };
    ours.then_some(Verdict::RedirectNatIcmpError)
}

/// Nobody took it: name the reason.
#[inline(always)]
fn leftover<const FRAGS: bool>(
    packet: &Packet<FRAGS>,
    ip: &Ip,
    upper: &Upper,
    head: Option<[u8; 4]>,
    is_ranged: bool,
) -> Verdict {
    let solicits = upper.proto == proto::ICMPV6 && ip.v6 && upper.fragment == Fragment::No;
    if let Some(head) = head
        && solicits
        && head[0] == NEIGHBOUR_SOLICITATION
    {
        return neighbour(packet.upper::<16>(upper, 8));
    }
    let is_cut = head.is_none() && upper.fragment != Fragment::Later;
    if is_cut && solicits {
        return Verdict::PassTruncated;
    }
    let can_tunnel = matches!(upper.proto, proto::UDP | proto::GRE);
    if can_tunnel && (is_cut || upper.fragment != Fragment::No) && is_endpoint(&ip.dst) {
        return if is_cut { Verdict::PassTruncated } else { Verdict::PassTunnelFragment };
    }
    if is_ranged && upper.fragment == Fragment::Later {
        return Verdict::PassNatFragment;
    }
    let has_ports =
        matches!(upper.proto, proto::TCP | proto::UDP | proto::SCTP | proto::ICMP | proto::ICMPV6);
    if is_ranged && is_cut && has_ports { Verdict::PassTruncated } else { Verdict::PassNotOurs }
}

/// ARP over Ethernet for IPv4 (RFC 826): the target's address is the last field.
#[inline(always)]
fn arp<const FRAGS: bool>(packet: &Packet<FRAGS>, offset: usize) -> Verdict {
    let Some(kind) = packet.load::<6>(offset) else { return Verdict::PassTruncated };
    if kind != [0, 1, 8, 0, 6, 4] {
        return Verdict::PassNotOurs;
    }
    neighbour(packet.load::<4>(offset + 24).map(mapped))
}

#[inline(always)]
fn neighbour(target: Option<[u8; 16]>) -> Verdict {
    match target {
        None => Verdict::PassTruncated,
        Some(target) if is_whole(&target) => Verdict::RedirectNatNeighbour,
        Some(_) => Verdict::PassNotOurs,
    }
}

#[inline(always)]
fn is_whole(addr: &[u8; 16]) -> bool {
    // SAFETY: one byte is read; a replaced entry is as good as the old one.
    unsafe { NAT.get(NatKey { addr: *addr }) }.is_some_and(|take| take.whole != 0)
}

#[inline(always)]
fn is_endpoint(addr: &[u8; 16]) -> bool {
    // SAFETY: only the presence of the entry counts.
    unsafe { ENDPOINTS.get(EndpointKey::address(*addr)) }.is_some()
}
