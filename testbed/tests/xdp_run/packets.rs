//! Frames for the XDP tests, built by hand: only what steering reads is right (no checksums).

use std::net::{Ipv4Addr, Ipv6Addr};

pub const TCP: u8 = 6;
pub const UDP: u8 = 17;
pub const ICMP: u8 = 1;
pub const ICMPV6: u8 = 58;
pub const GRE: u8 = 47;
pub const SCTP: u8 = 132;

/// More fragments follow; offset 0.
pub const FIRST: u16 = 0x2000;
/// Offset 185 * 8 bytes.
pub const LATER: u16 = 185;

pub fn ether(ethertype: u16, payload: &[u8]) -> Vec<u8> {
    let mut out = vec![2, 0, 0, 0, 0, 1, 2, 0, 0, 0, 0, 2];
    out.extend(ethertype.to_be_bytes());
    out.extend(payload);
    out
}

/// Puts 802.1Q tags behind the addresses.
pub fn tagged(frame: &[u8], tags: usize) -> Vec<u8> {
    let mut out = frame[..12].to_vec();
    for tag in 0..tags {
        out.extend(if tag == 0 && tags > 1 { [0x88, 0xa8] } else { [0x81, 0x00] });
        out.extend([0, 10 + tag as u8]);
    }
    out.extend(&frame[12..]);
    out
}

pub fn ipv4(
    src: Ipv4Addr,
    dst: Ipv4Addr,
    proto: u8,
    fragment: u16,
    options: usize,
    l4: &[u8],
) -> Vec<u8> {
    let header = 20 + options;
    let mut out = vec![0x40 | (header / 4) as u8, 0];
    out.extend(((header + l4.len()) as u16).to_be_bytes());
    out.extend([0x12, 0x34]);
    out.extend(fragment.to_be_bytes());
    out.extend([64, proto, 0, 0]);
    out.extend(src.octets());
    out.extend(dst.octets());
    out.resize(header, 1);
    out.extend(l4);
    out
}

/// `first` is the next header, which may be an extension at the start of `payload`.
pub fn ipv6(src: Ipv6Addr, dst: Ipv6Addr, first: u8, payload: &[u8]) -> Vec<u8> {
    let mut out = vec![0x60, 0, 0, 0];
    out.extend((payload.len() as u16).to_be_bytes());
    out.extend([first, 64]);
    out.extend(src.octets());
    out.extend(dst.octets());
    out.extend(payload);
    out
}

/// An options or routing header: `units` are 8 bytes beyond the first 8.
pub fn extension(next: u8, units: u8, rest: &[u8]) -> Vec<u8> {
    let mut out = vec![next, units];
    out.resize(8 + 8 * units as usize, 0);
    out.extend(rest);
    out
}

/// An authentication header: `words` are 4 bytes beyond the first 8.
pub fn authentication(next: u8, words: u8, rest: &[u8]) -> Vec<u8> {
    let mut out = vec![next, words];
    out.resize(8 + 4 * words as usize, 0);
    out.extend(rest);
    out
}

pub fn fragment_header(next: u8, offset: u16, more: bool, rest: &[u8]) -> Vec<u8> {
    let mut out = vec![next, 0];
    out.extend((offset << 3 | u16::from(more)).to_be_bytes());
    out.extend([0, 0, 0, 7]);
    out.extend(rest);
    out
}

/// Ports, then zeroes: enough of TCP, UDP or SCTP.
pub fn ports(src: u16, dst: u16) -> Vec<u8> {
    let mut out = src.to_be_bytes().to_vec();
    out.extend(dst.to_be_bytes());
    out.resize(20, 0);
    out
}

pub fn gre(version: u8) -> Vec<u8> {
    let mut out = vec![0x20, version, 0x65, 0x58];
    out.resize(16, 0);
    out
}

pub fn echo(kind: u8, id: u16) -> Vec<u8> {
    let mut out = vec![kind, 0, 0, 0];
    out.extend(id.to_be_bytes());
    out.resize(24, 0);
    out
}

pub fn icmp_error(kind: u8, quoted: &[u8]) -> Vec<u8> {
    let mut out = vec![kind, 1, 0, 0, 0, 0, 0, 0];
    out.extend(quoted);
    out
}

/// A neighbour solicitation from `src`, to the group that `target` listens to.
pub fn solicitation(src: Ipv6Addr, target: Ipv6Addr) -> Vec<u8> {
    let [.., a, b, c] = target.octets();
    let mut group = Ipv6Addr::new(0xff02, 0, 0, 0, 0, 1, 0xff00, 0).octets();
    group[13..].copy_from_slice(&[a, b, c]);
    let mut message = vec![135, 0, 0, 0, 0, 0, 0, 0];
    message.extend(target.octets());
    message.extend([1, 1, 2, 0, 0, 0, 0, 2]);
    ether(0x86dd, &ipv6(src, Ipv6Addr::from(group), ICMPV6, &message))
}

pub fn arp(target: Ipv4Addr) -> Vec<u8> {
    let mut out = vec![0, 1, 8, 0, 6, 4, 0, 1, 2, 0, 0, 0, 0, 2, 10, 0, 0, 2, 0, 0, 0, 0, 0, 0];
    out.extend(target.octets());
    let mut frame = ether(0x0806, &out);
    frame.resize(60, 0);
    frame
}
