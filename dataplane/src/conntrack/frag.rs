//! Fragments, and the datagrams that they make up (RFC 791 section 3.2, RFC 8200 section 4.5).
//!
//! Connection tracking judges datagrams: ports, checksums and sequence numbers are of the whole.
//! A fragment that meets `ct` therefore waits until all others of its datagram have come
//! ([`table::Fragments`]), the datagram is judged, and the fragments go on as they were sent, with
//! what was found (`pipeline::hold`). Here is what a fragment is.
//!
//! **What is not held** is invalid to `ct`, and for the flows to judge: a fragment of no data; one
//! that is not the last and does not end on a unit of eight bytes; one that reaches beyond the
//! longest datagram; one that is not the last and shorter than any sender has reason to make it
//! ([`FragConfig`]; Open vSwitch `ipf-set-min-frag`). The last bounds how many fragments a datagram
//! can have, and makes sure that the first one holds the transport header.
//!
//! An atomic fragment, a whole datagram with a fragment header (RFC 6946), is no fragment.

pub mod table;
#[cfg(test)]
mod tests;

use super::check::checksum_ok;
use super::key::{IpKey, UDP};
use crate::limits::{FRAGMENT_TIMEOUT_S, FRAGMENTS_MAX, IPV4_FRAGMENT_MIN, IPV6_FRAGMENT_MIN};
use crate::wire::ipv4::{FRAGMENT_OFFSET, HEADER_MIN_BYTES, Ipv4, MORE_FRAGMENTS};
use crate::wire::{ipv6, proto};
use std::ops::Range;
use zerocopy::FromBytes;

/// How fragments are held.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FragConfig {
    /// Fragments that wait at a time. Beyond, the oldest datagram is dropped.
    pub held_max: usize,
    /// Bytes, from the IP header on, of a fragment that is not the last.
    pub ipv4_min: u16,
    pub ipv6_min: u16,
    /// How long a datagram may stay incomplete.
    pub timeout_s: u32,
}

impl Default for FragConfig {
    fn default() -> Self {
        Self {
            held_max: FRAGMENTS_MAX,
            ipv4_min: IPV4_FRAGMENT_MIN,
            ipv6_min: IPV6_FRAGMENT_MIN,
            timeout_s: FRAGMENT_TIMEOUT_S,
        }
    }
}

/// The longest datagram, its header included.
const DATAGRAM_MAX: usize = 65_535;

/// A fragment as its headers say it is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Piece {
    pub v6: bool,
    pub src: IpKey,
    pub dst: IpKey,
    pub id: u32,
    /// What its data begins with, if it is the first.
    pub proto: u8,
    /// Place of its data in the datagram's.
    pub offset: u32,
    /// Its data, in the bytes from the IP header on.
    pub data: Range<usize>,
    /// It is not the last.
    pub more: bool,
}

impl Piece {
    /// Reads a fragment: `ip` goes from the IP header to the end of the datagram. `None` if it is
    /// none that is to be held.
    pub fn read(ip: &[u8], cfg: &FragConfig) -> Option<Self> {
        let piece = if ip.first()? >> 4 == 6 { Self::v6(ip)? } else { Self::v4(ip)? };
        let len = piece.data.len();
        let end = piece.data.start + piece.offset as usize + len;
        let min = if piece.v6 { cfg.ipv6_min } else { cfg.ipv4_min };
        let fits = !piece.more || (len % 8 == 0 && ip.len() >= usize::from(min));
        (len > 0 && end <= DATAGRAM_MAX && fits).then_some(piece)
    }

    fn v4(ip: &[u8]) -> Option<Self> {
        let (header, _) = Ipv4::ref_from_prefix(ip).ok()?;
        let flags = header.flags_fragment.get();
        let is_good = header.is_fragment() && header.header_len() >= HEADER_MIN_BYTES;
        is_good.then_some(Self {
            v6: false,
            src: u32::from_be_bytes(header.src).into(),
            dst: u32::from_be_bytes(header.dst).into(),
            id: header.id.get().into(),
            proto: header.proto,
            offset: u32::from(flags & FRAGMENT_OFFSET) * 8,
            data: header.header_len()..ip.len(),
            more: flags & MORE_FRAGMENTS != 0,
        })
    }

    fn v6(ip: &[u8]) -> Option<Self> {
        let (header, _) = ipv6::Ipv6::ref_from_prefix(ip).ok()?;
        let chain = skip(ip, header.next_header, ipv6::HEADER_BYTES)?;
        (chain.0 == proto::FRAGMENT).then_some(())?;
        let (fragment, _) = ipv6::Fragment::ref_from_prefix(ip.get(chain.1..)?).ok()?;
        let offset_more = fragment.offset_more.get();
        Some(Self {
            v6: true,
            src: IpKey::from_be_bytes(header.src),
            dst: IpKey::from_be_bytes(header.dst),
            id: fragment.id.get(),
            proto: fragment.next_header,
            offset: u32::from(offset_more & ipv6::FRAGMENT_OFFSET),
            data: chain.1 + size_of::<ipv6::Fragment>()..ip.len(),
            more: offset_more & ipv6::MORE_FRAGMENTS != 0,
        })
    }
}

/// Extension headers that are passed.
const EXTENSIONS_MAX: usize = 16;

/// Passes extension headers from `at` on, up to a fragment header. Gives what stands there, and
/// where.
fn skip(bytes: &[u8], mut next: u8, mut at: usize) -> Option<(u8, usize)> {
    for _ in 0..EXTENSIONS_MAX {
        let unit = match next {
            proto::HOPOPTS | proto::ROUTING | proto::DSTOPTS => (1, 8),
            proto::AH => (2, 4),
            _ => return (at <= bytes.len()).then_some((next, at)),
        };
        let (ext, _) = ipv6::Extension::ref_from_prefix(bytes.get(at..)?).ok()?;
        next = ext.next_header;
        at += (usize::from(ext.len) + unit.0) * unit.1;
    }
    None
}

/// Whose datagram a fragment is a part of, and where it waits.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct FragKey {
    src: IpKey,
    dst: IpKey,
    id: u32,
    pub zone: u16,
    /// Which of the packet's copies it is that waits, and in which bridge.
    pub place: (u16, u16),
    /// IPv4 alone: there, identifiers are unique for a protocol.
    proto: u8,
    v6: bool,
}

impl FragKey {
    pub fn new(p: &Piece, zone: u16, place: (u16, u16)) -> Self {
        let proto = if p.v6 { 0 } else { p.proto };
        Self { src: p.src, dst: p.dst, id: p.id, zone, place, proto, v6: p.v6 }
    }
}

/// What a whole datagram carries.
#[derive(Debug, Default)]
pub struct Payload {
    bytes: Vec<u8>,
    v6: bool,
    src: IpKey,
    dst: IpKey,
    proto: u8,
    l4: usize,
    is_good: bool,
}

impl Payload {
    /// Room for the longest.
    pub fn with_room() -> Self {
        Self { bytes: Vec::with_capacity(DATAGRAM_MAX), ..Self::default() }
    }

    /// Begins anew, with the first fragment.
    pub fn begin(&mut self, first: &Piece) {
        self.bytes.clear();
        (self.v6, self.src, self.dst) = (first.v6, first.src, first.dst);
        (self.proto, self.l4, self.is_good) = (first.proto, 0, false);
    }

    pub fn push(&mut self, data: &[u8]) {
        if self.bytes.len() + data.len() <= DATAGRAM_MAX {
            self.bytes.extend_from_slice(data);
        }
    }

    /// All is there: finds the transport header and checks what it can.
    pub fn finish(&mut self) {
        let found = if self.v6 { skip(&self.bytes, self.proto, 0) } else { Some((self.proto, 0)) };
        // A fragment of a fragment is nothing.
        let Some((proto, l4)) = found.filter(|f| !self.v6 || f.0 != proto::FRAGMENT) else {
            return;
        };
        (self.proto, self.l4) = (proto, l4);
        self.is_good = checksum_ok((self.v6, self.src, self.dst), proto, self.covered());
    }

    /// What the transport's checksum covers: UDP says itself.
    fn covered(&self) -> &[u8] {
        let l4 = self.l4();
        let len = match l4 {
            [_, _, _, _, a, b, _, _, ..] if self.proto == UDP => u16::from_be_bytes([*a, *b]),
            _ => return l4,
        };
        l4.get(..usize::from(len)).unwrap_or(l4)
    }

    /// From the transport header to the end.
    pub fn l4(&self) -> &[u8] {
        self.bytes.get(self.l4..).unwrap_or(&[])
    }

    pub fn proto(&self) -> u8 {
        self.proto
    }

    /// The headers are whole and the checksum is right.
    pub fn is_good(&self) -> bool {
        self.is_good
    }
}
