//! Header edits on bytes, checksums kept right.
//!
//! Each edit reads the old words, writes the new ones and applies the difference to the checksums
//! that cover them (RFC 1624, equation 3): the header's own, and that of the transport header,
//! whose pseudo-header covers the addresses; SCTP's CRC is linear and follows in the same way
//! ([`sctp::change_ports`]). Nothing here reads payload, and a checksum that was wrong before stays
//! wrong: the receiver is to see that the packet was damaged.
//!
//! A step was made for packets with these very layers, so a missing layer is a bug of ours or a
//! frame that lies about its length; either way the packet is dropped with a reason, not sent
//! half edited.

use super::step::{Step, V6, Which};
use crate::counters::Drop;
use crate::packet::frame::Frame;
use crate::packet::parse::Layers;
use crate::wire::checksum::Delta;
use crate::wire::mpls::LSE_BYTES;
use crate::wire::{ipv4::Ipv4, sctp};
use zerocopy::FromBytes;

const ETH_BYTES: usize = 14;
const MACS_BYTES: usize = 12;
const TAG_BYTES: usize = 4;
const TCP: u8 = 6;
const UDP: u8 = 17;
const ICMPV6: u8 = 58;
const SCTP: u8 = 132;

/// What became of an edit.
pub type Done = Result<(), Drop>;

#[inline(always)]
pub(super) fn chunk<const N: usize>(bytes: &mut [u8], at: usize) -> Result<&mut [u8; N], Drop> {
    bytes.get_mut(at..).and_then(|b| b.first_chunk_mut::<N>()).ok_or(Drop::EditFailed)
}

/// Runs a header edit of the most frequent kinds: those that neither move headers nor need to
/// know which transport IPv6 carries. `None`: it is none of these.
#[inline(always)]
pub fn apply_common(step: &Step, frame: &mut Frame, layers: &Layers) -> Option<Done> {
    let bytes = frame.bytes_mut();
    match *step {
        Step::SetEth { dst, src, which } => Some(set_eth(bytes, dst, src, which)),
        Step::SetIpv4 { src, dst, tos, ttl, which } => {
            Some(set_ipv4(bytes, layers, Ipv4Edit { src, dst, tos, ttl, which }))
        }
        _ => None,
    }
}

/// Runs one header edit. `layers` follows when a tag moves the headers. Steps that are not edits
/// do nothing here.
#[inline(never)]
pub fn apply(step: &Step, frame: &mut Frame, layers: &mut Layers) -> Done {
    match *step {
        Step::SetEth { dst, src, which } => set_eth(frame.bytes_mut(), dst, src, which),
        Step::SetIpv4 { src, dst, tos, ttl, which } => {
            set_ipv4(frame.bytes_mut(), layers, Ipv4Edit { src, dst, tos, ttl, which })
        }
        Step::SetPorts { src, dst, which } => set_ports(frame.bytes_mut(), layers, src, dst, which),
        Step::PushVlan { tpid, tci } => push_vlan(frame, layers, tpid, tci),
        Step::PopVlan => pop_vlan(frame, layers),
        Step::SetVlan { tpid, tci } => set_vlan(frame.bytes_mut(), tpid, tci),
        Step::PushMpls(lse) => push_mpls(frame, layers, lse),
        Step::PopMpls => pop_mpls(frame, layers),
        Step::SetMpls(lse) => set_mpls(frame.bytes_mut(), layers, lse),
        Step::SetEthType(eth_type) => set_eth_type(frame.bytes_mut(), layers, eth_type),
        Step::SetIpv6Src(v) => set_ipv6_address(frame.bytes_mut(), layers, 8, v),
        Step::SetIpv6Dst(v) => set_ipv6_address(frame.bytes_mut(), layers, 24, v),
        Step::SetIpv6Rest { label, tos, ttl, which } => {
            set_ipv6_rest(frame.bytes_mut(), layers, (label, tos, ttl), which)
        }
        Step::SetIcmp { kind, code, which } => {
            set_icmp(frame.bytes_mut(), layers, [kind, code], which)
        }
        Step::SetIcmpId(id) => set_icmp_id(frame.bytes_mut(), layers, id),
        Step::SetArp { op, spa, tpa, which } => {
            set_arp(frame.bytes_mut(), layers, (op, spa, tpa), which)
        }
        Step::SetArpMacs { sha, tha, which } => {
            set_arp_macs(frame.bytes_mut(), layers, sha, tha, which)
        }
        Step::SetNdTarget(v) => set_nd_target(frame.bytes_mut(), layers, v),
        Step::SetNdMacs { sll, tll, which } => {
            set_nd_macs(frame.bytes_mut(), layers, [sll, tll], which)
        }
        Step::Output(_)
        | Step::TunnelOutput { .. }
        | Step::OutputCut { .. }
        | Step::PacketIn(_)
        | Step::Meter { .. }
        | Step::Sample(_)
        | Step::Translate(_)
        | Step::NatIcmpError(_)
        | Step::Alg(_)
        | Step::Drop(_) => Ok(()),
    }
}

#[inline]
fn set_eth(bytes: &mut [u8], dst: [u8; 6], src: [u8; 6], which: Which) -> Done {
    let macs: &mut [[u8; 6]; 2] = zerocopy::transmute_mut!(chunk::<MACS_BYTES>(bytes, 0)?);
    // Both at once is most frequent, and one move.
    *macs = match which.all(ADDRESSES) {
        true => [dst, src],
        false => [which.pick(0, dst, macs[0]), which.pick(1, src, macs[1])],
    };
    Ok(())
}

fn push_vlan(frame: &mut Frame, layers: &mut Layers, tpid: u16, tci: u16) -> Done {
    if frame.len() < ETH_BYTES || frame.prepend(TAG_BYTES).is_none() {
        return Err(Drop::VlanTooMany);
    }
    let bytes = frame.bytes_mut();
    bytes.copy_within(TAG_BYTES..TAG_BYTES + MACS_BYTES, 0);
    set_vlan(bytes, tpid, tci)?;
    shift(layers, TAG_BYTES as i32);
    Ok(())
}

fn pop_vlan(frame: &mut Frame, layers: &mut Layers) -> Done {
    if frame.len() < ETH_BYTES + TAG_BYTES {
        return Err(Drop::EditFailed);
    }
    frame.bytes_mut().copy_within(0..MACS_BYTES, TAG_BYTES);
    frame.trim_front(TAG_BYTES);
    shift(layers, -(TAG_BYTES as i32));
    Ok(())
}

fn set_vlan(bytes: &mut [u8], tpid: u16, tci: u16) -> Done {
    let tag: &mut [u8; TAG_BYTES] = chunk(bytes, MACS_BYTES)?;
    let (p, c) = (tpid.to_be_bytes(), tci.to_be_bytes());
    *tag = [p[0], p[1], c[0], c[1]];
    Ok(())
}

/// A label goes between Ethernet with its tags and what follows.
fn push_mpls(frame: &mut Frame, layers: &mut Layers, lse: u32) -> Done {
    let l3 = usize::from(layers.l3);
    if frame.len() < l3 || frame.prepend(LSE_BYTES).is_none() {
        return Err(Drop::MplsTooMany);
    }
    let bytes = frame.bytes_mut();
    bytes.copy_within(LSE_BYTES..LSE_BYTES + l3, 0);
    shift_payload(layers, LSE_BYTES as i32);
    set_mpls(bytes, layers, lse)
}

fn pop_mpls(frame: &mut Frame, layers: &mut Layers) -> Done {
    let l3 = usize::from(layers.l3);
    if frame.len() < l3 + LSE_BYTES {
        return Err(Drop::EditFailed);
    }
    frame.bytes_mut().copy_within(0..l3, LSE_BYTES);
    frame.trim_front(LSE_BYTES);
    shift_payload(layers, -(LSE_BYTES as i32));
    Ok(())
}

fn set_mpls(bytes: &mut [u8], layers: &Layers, lse: u32) -> Done {
    *chunk(bytes, usize::from(layers.l3))? = lse.to_be_bytes();
    Ok(())
}

/// The type is the last of Ethernet, also behind tags and in SNAP.
fn set_eth_type(bytes: &mut [u8], layers: &Layers, eth_type: u16) -> Done {
    let at = usize::from(layers.l3).checked_sub(2).ok_or(Drop::EditFailed)?;
    *chunk(bytes, at)? = eth_type.to_be_bytes();
    Ok(())
}

fn move_one(at: &mut u16, by: i32) {
    if *at != 0 {
        *at = (i32::from(*at) + by) as u16;
    }
}

fn shift(layers: &mut Layers, by: i32) {
    move_one(&mut layers.l3, by);
    shift_payload(layers, by);
}

/// What is behind the labels moves against what is before them.
fn shift_payload(layers: &mut Layers, by: i32) {
    move_one(&mut layers.l4, by);
    move_one(&mut layers.payload, by);
    move_one(&mut layers.end, by);
}

/// The addresses' places in `Which` of `Step::SetIpv4`, and both MACs' in that of `Step::SetEth`.
const ADDRESSES: u8 = 0b11;

struct Ipv4Edit {
    src: u32,
    dst: u32,
    tos: u8,
    ttl: u8,
    which: Which,
}

#[inline]
fn set_ipv4(bytes: &mut [u8], layers: &Layers, new: Ipv4Edit) -> Done {
    let rest = bytes.get_mut(layers.l3 as usize..).ok_or(Drop::EditFailed)?;
    let (ip, _) = Ipv4::mut_from_prefix(rest).map_err(|_| Drop::EditFailed)?;
    if !new.which.any(ADDRESSES) {
        // A router's edit: no other checksum covers what changes.
        let tos = new.which.pick(2, new.tos, ip.tos);
        let ttl = new.which.pick(3, new.ttl, ip.ttl);
        let change = Delta::NONE.change_4([0, ip.tos, ip.ttl, 0], [0, tos, ttl, 0]);
        (ip.tos, ip.ttl) = (tos, ttl);
        change.apply(&mut ip.checksum);
        return Ok(());
    }
    let src = new.which.pick(0, new.src.to_be_bytes(), ip.src);
    let dst = new.which.pick(1, new.dst.to_be_bytes(), ip.dst);
    let tos = new.which.pick(2, new.tos, ip.tos);
    let ttl = new.which.pick(3, new.ttl, ip.ttl);
    let addresses = Delta::NONE.change_4(ip.src, src).change_4(ip.dst, dst);
    let header = addresses
        .change_2([ip.version_ihl, ip.tos], [ip.version_ihl, tos])
        .change_2([ip.ttl, ip.proto], [ttl, ip.proto]);
    let proto = ip.proto;
    ip.src = src;
    ip.dst = dst;
    ip.tos = tos;
    ip.ttl = ttl;
    header.apply(&mut ip.checksum);
    update_transport(bytes, layers, proto, addresses)
}

/// The pseudo-header changed: so does the transport checksum, if there is one.
#[inline]
fn update_transport(bytes: &mut [u8], layers: &Layers, proto: u8, delta: Delta) -> Done {
    let l4 = layers.l4 as usize;
    if l4 == 0 {
        return Ok(());
    }
    match proto {
        TCP => delta.apply(chunk(bytes, l4 + 16)?),
        UDP => delta.apply_udp(chunk(bytes, l4 + 6)?),
        ICMPV6 => delta.apply(chunk(bytes, l4 + 2)?),
        _ => {}
    }
    Ok(())
}

/// Protocol of the transport header, from the layers.
fn transport_proto(bytes: &[u8], layers: &Layers) -> Result<u8, Drop> {
    let l3 = layers.l3 as usize;
    let first = *bytes.get(l3).ok_or(Drop::EditFailed)?;
    if first >> 4 == 4 {
        return bytes.get(l3 + 9).copied().ok_or(Drop::EditFailed);
    }
    if layers.flags & crate::packet::parse::layer::L3_OPTIONS == 0 {
        return bytes.get(l3 + 6).copied().ok_or(Drop::EditFailed);
    }
    last_next_header(bytes, l3, layers.l4 as usize)
}

/// Walks the IPv6 extension headers up to the transport header.
fn last_next_header(bytes: &[u8], l3: usize, l4: usize) -> Result<u8, Drop> {
    let mut next = *bytes.get(l3 + 6).ok_or(Drop::EditFailed)?;
    let mut at = l3 + 40;
    for _ in 0..crate::packet::parse::EXTENSIONS_MAX {
        if at >= l4 {
            break;
        }
        let (kind, len) = (bytes.get(at), bytes.get(at + 1));
        let (Some(kind), Some(len)) = (kind, len) else { return Err(Drop::EditFailed) };
        at += match next {
            44 => 8,
            51 => (usize::from(*len) + 2) * 4,
            _ => (usize::from(*len) + 1) * 8,
        };
        next = *kind;
    }
    Ok(next)
}

#[inline]
fn set_ports(bytes: &mut [u8], layers: &Layers, src: u16, dst: u16, which: Which) -> Done {
    let l4 = layers.l4 as usize;
    if l4 == 0 {
        return Err(Drop::EditFailed);
    }
    let proto = transport_proto(bytes, layers)?;
    let ports: &mut [u8; 4] = chunk(bytes, l4)?;
    let old = *ports;
    let s = which.pick(0, src.to_be_bytes(), [old[0], old[1]]);
    let d = which.pick(1, dst.to_be_bytes(), [old[2], old[3]]);
    let new = [s[0], s[1], d[0], d[1]];
    let delta = Delta::NONE.change_4(*ports, new);
    *ports = new;
    match proto {
        TCP => delta.apply(chunk(bytes, l4 + 16)?),
        UDP => delta.apply_udp(chunk(bytes, l4 + 6)?),
        SCTP => {
            // Of a fragment, the end of the whole.
            let len = usize::from(layers.end).saturating_sub(l4);
            let checksum: &mut [u8; 4] = chunk(bytes, l4 + sctp::CHECKSUM_AT)?;
            let flip = std::array::from_fn(|at| old[at] ^ new[at]);
            *checksum = sctp::change_ports(*checksum, flip, len);
        }
        _ => return Err(Drop::EditFailed),
    }
    Ok(())
}

fn set_ipv6_address(bytes: &mut [u8], layers: &Layers, at: usize, new: V6) -> Done {
    let field: &mut [u8; 16] = chunk(bytes, layers.l3 as usize + at)?;
    let new = new.bytes();
    let delta = Delta::NONE.change_16(field, &new);
    *field = new;
    if layers.l4 == 0 {
        return Ok(());
    }
    let proto = transport_proto(bytes, layers)?;
    update_transport(bytes, layers, proto, delta)
}

fn set_ipv6_rest(
    bytes: &mut [u8],
    layers: &Layers,
    (label, tos, ttl): (u32, u8, u8),
    which: Which,
) -> Done {
    const LABEL: u32 = 0xf_ffff;
    const TOS: u32 = 0xff << 20;
    let word: &mut [u8; 4] = chunk(bytes, layers.l3 as usize)?;
    let old = u32::from_be_bytes(*word);
    let label = which.pick(0, label, old) & LABEL;
    let tos = which.pick(1, u32::from(tos) << 20, old) & TOS;
    *word = (old & !(LABEL | TOS) | tos | label).to_be_bytes();
    let hops: &mut [u8; 1] = chunk(bytes, layers.l3 as usize + 7)?;
    *hops = which.pick(2, [ttl], *hops);
    Ok(())
}

fn set_icmp(bytes: &mut [u8], layers: &Layers, new: [u8; 2], which: Which) -> Done {
    icmp_change(bytes, layers, 0, new, which)
}

fn set_icmp_id(bytes: &mut [u8], layers: &Layers, id: u16) -> Done {
    icmp_change(bytes, layers, 4, id.to_be_bytes(), Which::of(&[true, true]))
}

fn icmp_change(bytes: &mut [u8], layers: &Layers, at: usize, new: [u8; 2], which: Which) -> Done {
    let l4 = layers.l4 as usize;
    if l4 == 0 {
        return Err(Drop::EditFailed);
    }
    let field: &mut [u8; 2] = chunk(bytes, l4 + at)?;
    let new = [which.pick(0, new[0], field[0]), which.pick(1, new[1], field[1])];
    let delta = Delta::NONE.change_2(*field, new);
    *field = new;
    delta.apply(chunk(bytes, l4 + 2)?);
    Ok(())
}

/// Offsets in an ARP packet for Ethernet and IPv4 (RFC 826).
mod arp {
    pub const OP: usize = 6;
    pub const SHA: usize = 8;
    pub const SPA: usize = 14;
    pub const THA: usize = 18;
    pub const TPA: usize = 24;
}

/// Writes a field if it is the n-th of those to be written.
fn put<const N: usize>(bytes: &mut [u8], at: usize, new: [u8; N], which: Which, n: u8) -> Done {
    let field: &mut [u8; N] = chunk(bytes, at)?;
    *field = which.pick(n, new, *field);
    Ok(())
}

fn set_arp(
    bytes: &mut [u8],
    layers: &Layers,
    (op, spa, tpa): (u8, u32, u32),
    which: Which,
) -> Done {
    let l3 = layers.l3 as usize;
    put(bytes, l3 + arp::OP, u16::from(op).to_be_bytes(), which, 0)?;
    put(bytes, l3 + arp::SPA, spa.to_be_bytes(), which, 1)?;
    put(bytes, l3 + arp::TPA, tpa.to_be_bytes(), which, 2)
}

fn set_arp_macs(
    bytes: &mut [u8],
    layers: &Layers,
    sha: [u8; 6],
    tha: [u8; 6],
    which: Which,
) -> Done {
    let l3 = layers.l3 as usize;
    put(bytes, l3 + arp::SHA, sha, which, 0)?;
    put(bytes, l3 + arp::THA, tha, which, 1)
}

/// ICMPv6 neighbour discovery (RFC 4861): target at 8, options from 24 on.
const ND_TARGET: usize = 8;
const ND_OPTIONS: usize = 24;

fn set_nd_target(bytes: &mut [u8], layers: &Layers, new: V6) -> Done {
    let l4 = layers.l4 as usize;
    if l4 == 0 {
        return Err(Drop::EditFailed);
    }
    let field: &mut [u8; 16] = chunk(bytes, l4 + ND_TARGET)?;
    let new = new.bytes();
    let delta = Delta::NONE.change_16(field, &new);
    *field = new;
    delta.apply(chunk(bytes, l4 + 2)?);
    Ok(())
}

fn set_nd_macs(bytes: &mut [u8], layers: &Layers, new: [[u8; 6]; 2], which: Which) -> Done {
    let (l4, end) = (layers.l4 as usize, (layers.end as usize).min(bytes.len()));
    if l4 == 0 {
        return Err(Drop::EditFailed);
    }
    let mut at = l4 + ND_OPTIONS;
    while at + 8 <= end {
        let (kind, units) = (bytes[at], usize::from(bytes[at + 1]));
        if units == 0 {
            break;
        }
        if units == 1 && (kind == 1 || kind == 2) {
            let field: &mut [u8; 6] = chunk(bytes, at + 2)?;
            let n = kind - 1;
            let new = which.pick(n, new[usize::from(n)], *field);
            let pairs = |m: &[u8; 6]| [[m[0], m[1]], [m[2], m[3]], [m[4], m[5]]];
            let (old, now) = (pairs(field), pairs(&new));
            *field = new;
            let delta = (0..3).fold(Delta::NONE, |d, i| d.change_2(old[i], now[i]));
            delta.apply(chunk(bytes, l4 + 2)?);
        }
        at += units * 8;
    }
    Ok(())
}
