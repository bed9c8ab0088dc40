//! The bounded header peek: where the IP header is, whom it is for, where layer 4 starts.
//!
//! Theory. The verifier wants every packet access preceded by a comparison with the end of the
//! data, and it follows each value of an offset that is added to a packet pointer. So there are two
//! ways to read. [`Packet::load`] reads in place, at offsets of which there are few: link, IP
//! and layer 4 right behind; that is every packet that matters for speed. [`Packet::fetch`]
//! lets the kernel copy (`bpf_xdp_load_bytes`, Linux 5.18), at offsets computed by walking
//! extension headers or a quoted packet; for the verifier these are plain numbers, and the walk
//! costs it thousands of steps instead of more than its million.
//!
//! In a program with frags, what lies between `data` and `data_end` is the first buffer, and a
//! driver that splits headers may leave little in it. So `load` falls back to `fetch`, and the
//! answer never depends on the buffers.
//!
//! Sources: IEEE 802.1Q (tags), RFC 791 (IPv4), RFC 8200 section 4 (extension headers),
//! RFC 4302 section 2.2 (the length of AH counts in 4 bytes, minus 2).

use aya_ebpf::{bindings::xdp_md, helpers::generated::bpf_xdp_load_bytes, programs::XdpContext};
use sluice_ebpf_common::{Verdict, mapped};

pub const ETHERTYPE_IPV4: u16 = 0x0800;
pub const ETHERTYPE_ARP: u16 = 0x0806;
pub const ETHERTYPE_IPV6: u16 = 0x86dd;
const ETHERTYPE_VLAN: u16 = 0x8100;
const ETHERTYPE_QINQ: u16 = 0x88a8;

/// Two tags, as 802.1ad has them.
const VLAN_TAGS_MAX: usize = 2;
/// RFC 8200 expects at most six different extension headers in a packet.
const EXT_HEADERS_MAX: usize = 6;
/// Link header, two tags, the longest IPv4 header, a few bytes into layer 4: no read in place is
/// further out.
const NEAR_MAX: usize = 14 + 8 + 60 + 16;

pub struct Packet<const FRAGS: bool> {
    ctx: *mut xdp_md,
    data: usize,
    end: usize,
}

/// Is it a part of a datagram, and which one?
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Fragment {
    No,
    First,
    Later,
}

/// What follows the IP header and its extensions.
#[derive(Clone, Copy)]
pub struct Upper {
    pub proto: u8,
    pub offset: usize,
    pub fragment: Fragment,
    /// Right behind the IP header, so that it may be read in place.
    pub near: bool,
}

pub struct Ip {
    pub v6: bool,
    pub src: [u8; 16],
    pub dst: [u8; 16],
    /// Or the verdict that says why it cannot be known.
    pub upper: Result<Upper, Verdict>,
}

impl<const FRAGS: bool> Packet<FRAGS> {
    #[inline(always)]
    pub fn new(ctx: &XdpContext) -> Self {
        Self { ctx: ctx.ctx, data: ctx.data(), end: ctx.data_end() }
    }

    /// N bytes from `offset` on, or `None` when the frame ends before.
    #[inline(always)]
    pub fn load<const N: usize>(&self, offset: usize) -> Option<[u8; N]> {
        if offset > NEAR_MAX {
            return None;
        }
        let start = self.data + offset;
        if start + N <= self.end {
            // SAFETY: the comparison above says that the N bytes lie inside the frame's data.
            return Some(unsafe { (start as *const [u8; N]).read_unaligned() });
        }
        if FRAGS { self.fetch(offset) } else { None }
    }

    /// The same by a copy that the kernel makes, from whatever buffer.
    #[inline(always)]
    pub fn fetch<const N: usize>(&self, offset: usize) -> Option<[u8; N]> {
        let mut out = [0u8; N];
        // SAFETY: the context is the kernel's, and the helper writes at most N bytes to `out`.
        let failed = unsafe {
            bpf_xdp_load_bytes(self.ctx, offset as u32, out.as_mut_ptr().cast(), N as u32)
        };
        if failed == 0 { Some(out) } else { None }
    }

    #[inline(always)]
    fn read<const N: usize>(&self, near: bool, offset: usize) -> Option<[u8; N]> {
        if near { self.load(offset) } else { self.fetch(offset) }
    }

    /// N bytes of layer 4, `skip` bytes after its start.
    #[inline(always)]
    pub fn upper<const N: usize>(&self, upper: &Upper, skip: usize) -> Option<[u8; N]> {
        self.read(upper.near, upper.offset + skip)
    }

    /// Ethertype after at most two tags, and where its payload starts.
    #[inline(always)]
    pub fn link(&self) -> Result<(u16, usize), Verdict> {
        let Some(head) = self.load::<2>(12) else { return Err(Verdict::PassTruncated) };
        let mut ethertype = u16::from_be_bytes(head);
        let mut offset = 14;
        for _ in 0..VLAN_TAGS_MAX {
            if ethertype != ETHERTYPE_VLAN && ethertype != ETHERTYPE_QINQ {
                break;
            }
            let Some(tag) = self.load::<2>(offset + 2) else { return Err(Verdict::PassTruncated) };
            ethertype = u16::from_be_bytes(tag);
            offset += 4;
        }
        Ok((ethertype, offset))
    }

    #[inline(always)]
    pub fn ipv4(&self, near: bool, offset: usize) -> Result<Ip, Verdict> {
        let Some(head) = self.read::<20>(near, offset) else { return Err(Verdict::PassTruncated) };
        let words = (head[0] & 0x0f) as usize;
        if head[0] >> 4 != 4 || words < 5 {
            return Err(Verdict::PassMalformed);
        }
        let flags = u16::from_be_bytes([head[6], head[7]]);
        let fragment = fragment(flags & 0x1fff, flags & 0x2000 != 0);
        Ok(Ip {
            v6: false,
            src: mapped([head[12], head[13], head[14], head[15]]),
            dst: mapped([head[16], head[17], head[18], head[19]]),
            upper: Ok(Upper { proto: head[9], offset: offset + words * 4, fragment, near }),
        })
    }

    #[inline(always)]
    pub fn ipv6(&self, near: bool, offset: usize) -> Result<Ip, Verdict> {
        let Some(fixed) = self.read::<8>(near, offset) else { return Err(Verdict::PassTruncated) };
        let Some(src) = self.read::<16>(near, offset + 8) else {
            return Err(Verdict::PassTruncated);
        };
        let Some(dst) = self.read::<16>(near, offset + 24) else {
            return Err(Verdict::PassTruncated);
        };
        if fixed[0] >> 4 != 6 {
            return Err(Verdict::PassMalformed);
        }
        Ok(Ip { v6: true, src, dst, upper: self.extensions(near, fixed[6], offset + 40) })
    }

    /// Follows hop-by-hop, routing, fragment, authentication and destination options headers.
    #[inline(always)]
    fn extensions(&self, near: bool, mut proto: u8, mut offset: usize) -> Result<Upper, Verdict> {
        if !is_extension(proto) {
            return Ok(Upper { proto, offset, fragment: Fragment::No, near });
        }
        let mut part = Fragment::No;
        for _ in 0..EXT_HEADERS_MAX {
            let Some(head) = self.fetch::<4>(offset) else { return Err(Verdict::PassTruncated) };
            let units = head[1] as usize;
            let mut len = (units + 1) * 8;
            if proto == 44 {
                len = 8;
                let field = u16::from_be_bytes([head[2], head[3]]);
                part = fragment(field >> 3, field & 1 != 0);
            } else if proto == 51 {
                len = (units + 2) * 4;
            }
            proto = head[0];
            offset += len;
            if part == Fragment::Later || !is_extension(proto) {
                return Ok(Upper { proto, offset, fragment: part, near: false });
            }
        }
        Err(Verdict::PassExtHeaders)
    }
}

#[inline(always)]
fn is_extension(proto: u8) -> bool {
    matches!(proto, 0 | 43 | 44 | 51 | 60)
}

/// A fragment header with offset 0 and nothing more to come is a whole datagram (RFC 6946).
#[inline(always)]
fn fragment(offset: u16, more: bool) -> Fragment {
    if offset != 0 {
        Fragment::Later
    } else if more {
        Fragment::First
    } else {
        Fragment::No
    }
}
