//! Headers that come as lists: IPv6 extension headers, and the options of neighbour discovery.
//!
//! Both are passed up to a number, so that a packet made of them costs no more than another.

use crate::packet::key::{FRAG_ANY, FRAG_LATER, KeyL3};
use crate::wire::{icmp, ipv6, proto};
use zerocopy::FromBytes;

/// IPv6 extension headers that are passed; a packet with more has no valid L3.
pub const EXTENSIONS_MAX: usize = 16;

/// Neighbour discovery options that are looked at; those behind are as if absent.
pub const ND_OPTIONS_MAX: usize = 32;

/// What stands behind the extension headers.
pub(super) struct Extensions {
    pub proto: u8,
    pub ip_frag: u8,
    /// Offset of what they precede, from the end of the IPv6 header.
    pub at: usize,
}

/// Passes the extension headers. `None`: they are cut short, or too many.
pub(super) fn skip_extensions(data: &[u8], first: u8) -> Option<Extensions> {
    let mut found = Extensions { proto: first, ip_frag: 0, at: 0 };
    for _ in 0..EXTENSIONS_MAX {
        let rest = data.get(found.at..)?;
        let len = match found.proto {
            proto::HOPOPTS | proto::ROUTING | proto::DSTOPTS => {
                let (ext, _) = ipv6::Extension::ref_from_prefix(rest).ok()?;
                found.proto = ext.next_header;
                (usize::from(ext.len) + 1) * 8
            }
            proto::AH => {
                let (ext, _) = ipv6::Extension::ref_from_prefix(rest).ok()?;
                found.proto = ext.next_header;
                (usize::from(ext.len) + 2) * 4
            }
            proto::FRAGMENT => {
                let (frag, _) = ipv6::Fragment::ref_from_prefix(rest).ok()?;
                found.proto = frag.next_header;
                if frag.offset_more.get() != 0 {
                    found.ip_frag = FRAG_ANY;
                }
                if frag.offset_more.get() & ipv6::FRAGMENT_OFFSET != 0 {
                    let at = found.at + size_of::<ipv6::Fragment>();
                    return Some(Extensions {
                        proto: proto::FRAGMENT,
                        ip_frag: FRAG_ANY | FRAG_LATER,
                        at,
                    });
                }
                size_of::<ipv6::Fragment>()
            }
            _ => return Some(found),
        };
        // Beyond the end, the next round finds nothing there.
        found.at += len;
    }
    None
}

/// Target and link-layer addresses of a solicitation or advertisement.
pub(super) fn neighbour_discovery(body: &[u8], l3: &mut KeyL3) {
    let Ok((nd, mut options)) = icmp::NdTarget::ref_from_prefix(body) else { return };
    let (mut source, mut target) = ([0u8; 6], [0u8; 6]);
    for _ in 0..ND_OPTIONS_MAX {
        let Ok((option, _)) = icmp::NdOption::ref_from_prefix(options) else { break };
        let len = usize::from(option.len) * 8;
        let Some(behind) = options.get(len..).filter(|_| len > 0) else { break };
        let mac = match option.option_type {
            icmp::ND_OPT_SOURCE_LINK if len == 8 => Some(&mut source),
            icmp::ND_OPT_TARGET_LINK if len == 8 => Some(&mut target),
            _ => None,
        };
        if let Some(mac) = mac {
            if *mac != [0; 6] {
                return;
            }
            *mac = option.mac;
        }
        options = behind;
    }
    l3.nd_target = nd.target;
    l3.arp_sha = source;
    l3.arp_tha = target;
}
