//! Writing a connection's translation into a packet.
//!
//! The values are the connection's, not the flow's, so they are no constants of a step. Addresses
//! and ports of IPv4 lie in two words; writing both of each costs less than asking which of them
//! change, and a checksum follows from the difference of the words (RFC 1624, equation 3).

use super::edit::{self, Done};
use super::step::{Step, Which};
use crate::conntrack::{NarrowRewrite, NatRewrite};
use crate::counters::Drop;
use crate::packet::frame::Frame;
use crate::packet::parse::Layers;
use crate::wire::checksum::Delta;

const TCP: u8 = 6;
const UDP: u8 = 17;

/// Writes a translation into a packet of IPv4 with TCP or UDP, and no fragment.
#[inline(always)]
pub fn translate_narrow(new: NarrowRewrite, bytes: &mut [u8], layers: &Layers) -> Done {
    let (l3, l4) = (usize::from(layers.l3), usize::from(layers.l4));
    let (head, transport) = bytes.split_at_mut_checked(l4).ok_or(Drop::EditFailed)?;
    let ip =
        head.get_mut(l3..).and_then(|ip| ip.first_chunk_mut::<20>()).ok_or(Drop::EditFailed)?;
    let proto = ip[9];
    let (addresses, ports) = (new.addresses.to_be_bytes(), new.ports.to_be_bytes());
    let [.., c0, c1, a, b, c, d, e, f, g, h] = *ip;
    let [n0, n1, n2, n3, m0, m1, m2, m3] = addresses;
    let pseudo = Delta::NONE
        .change_4([a, b, c, d], [n0, n1, n2, n3])
        .change_4([e, f, g, h], [m0, m1, m2, m3]);
    let mut checksum = [c0, c1];
    pseudo.apply(&mut checksum);
    let (_, tail) = ip.split_at_mut(10);
    let tail = tail.first_chunk_mut::<10>().ok_or(Drop::EditFailed)?;
    *tail = [checksum[0], checksum[1], n0, n1, n2, n3, m0, m1, m2, m3];
    let old = transport.first_chunk_mut::<4>().ok_or(Drop::EditFailed)?;
    let change = pseudo.change_4(*old, ports);
    *old = ports;
    match proto {
        TCP => change.apply(edit::chunk(transport, 16)?),
        UDP => change.apply_udp(edit::chunk(transport, 6)?),
        _ => return Err(Drop::EditFailed),
    }
    Ok(())
}

/// Writes a translation. The packet is none of ICMP's errors.
pub fn translate(rewrite: &NatRewrite, frame: &mut Frame, layers: &mut Layers) -> Done {
    let NatRewrite { new_src, new_dst, new_sport, new_dport, new_icmp_id, .. } = *rewrite;
    if rewrite.v6 {
        if let Some(src) = new_src {
            edit::apply(&Step::SetIpv6Src(src.into()), frame, layers)?;
        }
        if let Some(dst) = new_dst {
            edit::apply(&Step::SetIpv6Dst(dst.into()), frame, layers)?;
        }
    } else if new_src.is_some() || new_dst.is_some() {
        let which = Which::of(&[new_src.is_some(), new_dst.is_some()]);
        let (src, dst) = (new_src.unwrap_or(0) as u32, new_dst.unwrap_or(0) as u32);
        edit::apply(&Step::SetIpv4 { src, dst, tos: 0, ttl: 0, which }, frame, layers)?;
    }
    if new_sport.is_some() || new_dport.is_some() {
        let which = Which::of(&[new_sport.is_some(), new_dport.is_some()]);
        let (src, dst) = (new_sport.unwrap_or(0), new_dport.unwrap_or(0));
        edit::apply(&Step::SetPorts { src, dst, which }, frame, layers)?;
    }
    match new_icmp_id {
        Some(id) => edit::apply(&Step::SetIcmpId(id), frame, layers),
        None => Ok(()),
    }
}
