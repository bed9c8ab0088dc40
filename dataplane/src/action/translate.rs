//! Writing a connection's translation into a packet.
//!
//! The values are the connection's, not the flow's, so they are no constants of a step. Addresses
//! and ports of IPv4 lie in two words; writing both of each costs less than asking which of them
//! change, and a checksum follows from the difference of the words (RFC 1624, equation 3).

use super::edit::{self, Done};
use super::step::{Step, Which};
use crate::conntrack::NatRewrite;
use crate::packet::frame::Frame;
use crate::packet::parse::Layers;

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
