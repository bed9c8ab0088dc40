//! Bytes of rtnetlink: building requests, walking messages and attributes.
//!
//! Theory: a netlink message is a 16-byte header (length, type, flags, sequence, port id), a fixed
//! struct that depends on the type, and attributes: length, type, value, padded to 4 bytes; an
//! attribute may hold attributes. All integers are in the machine's order. Source: rtnetlink(7),
//! netlink(7), the kernel's `linux/rtnetlink.h`, `if_link.h`, `if_addr.h`, `neighbour.h`.
//!
//! The little that the switch needs is less code here than an asynchronous netlink library is in
//! the dependency tree, and it can run on a thread that stands in another network namespace.

use std::net::IpAddr;

pub const NLMSG_ERROR: u16 = 2;
pub const NLMSG_DONE: u16 = 3;
pub const RTM_NEWLINK: u16 = 16;
pub const RTM_DELLINK: u16 = 17;
pub const RTM_GETLINK: u16 = 18;
pub const RTM_SETLINK: u16 = 19;
pub const RTM_NEWADDR: u16 = 20;
pub const RTM_GETADDR: u16 = 22;
pub const RTM_NEWROUTE: u16 = 24;
pub const RTM_GETROUTE: u16 = 26;
pub const RTM_NEWNEIGH: u16 = 28;
pub const RTM_DELNEIGH: u16 = 29;
pub const RTM_GETNEIGH: u16 = 30;

pub const NLM_F_REQUEST: u16 = 1;
pub const NLM_F_ACK: u16 = 4;
/// The table changed while it was dumped: the dump is to be taken again.
pub const NLM_F_DUMP_INTR: u16 = 0x10;
pub const NLM_F_REPLACE: u16 = 0x100;
pub const NLM_F_EXCL: u16 = 0x200;
pub const NLM_F_DUMP: u16 = 0x300;
pub const NLM_F_CREATE: u16 = 0x400;

pub const AF_UNSPEC: u8 = 0;
pub const AF_INET: u8 = 2;
pub const AF_INET6: u8 = 10;

/// Flag bits of an attribute's type (nested, network byte order).
const TYPE_MASK: u16 = 0x3fff;
const HEADER_BYTES: usize = 16;

pub fn family(address: IpAddr) -> u8 {
    if address.is_ipv4() { AF_INET } else { AF_INET6 }
}

/// A request under construction.
#[derive(Debug)]
pub struct Request {
    bytes: Vec<u8>,
}

impl Request {
    /// A request with its fixed part; `NLM_F_REQUEST` is added.
    pub fn new(kind: u16, flags: u16, fixed: &[u8]) -> Self {
        let mut bytes = Vec::with_capacity(256);
        bytes.extend_from_slice(&[0; 4]);
        bytes.extend_from_slice(&kind.to_ne_bytes());
        bytes.extend_from_slice(&(flags | NLM_F_REQUEST).to_ne_bytes());
        bytes.extend_from_slice(&[0; 8]);
        bytes.extend_from_slice(fixed);
        Self { bytes }
    }

    pub fn attr(mut self, kind: u16, value: &[u8]) -> Self {
        push_attr(&mut self.bytes, kind, value);
        self
    }

    pub fn attr_u32(self, kind: u16, value: u32) -> Self {
        self.attr(kind, &value.to_ne_bytes())
    }

    /// A string, ended by zero.
    pub fn attr_text(self, kind: u16, value: &str) -> Self {
        let mut bytes = value.as_bytes().to_vec();
        bytes.push(0);
        self.attr(kind, &bytes)
    }

    pub fn attr_ip(self, kind: u16, value: IpAddr) -> Self {
        match value {
            IpAddr::V4(a) => self.attr(kind, &a.octets()),
            IpAddr::V6(a) => self.attr(kind, &a.octets()),
        }
    }

    /// The finished bytes, with length and sequence number.
    pub fn finish(mut self, seq: u32) -> Vec<u8> {
        let len = self.bytes.len() as u32;
        if let Some(at) = self.bytes.get_mut(0..4) {
            at.copy_from_slice(&len.to_ne_bytes());
        }
        if let Some(at) = self.bytes.get_mut(8..12) {
            at.copy_from_slice(&seq.to_ne_bytes());
        }
        self.bytes
    }
}

/// Appends an attribute; for nested ones, which are built apart.
pub fn push_attr(bytes: &mut Vec<u8>, kind: u16, value: &[u8]) {
    let len = (4 + value.len()) as u16;
    bytes.extend_from_slice(&len.to_ne_bytes());
    bytes.extend_from_slice(&kind.to_ne_bytes());
    bytes.extend_from_slice(value);
    bytes.resize(bytes.len().next_multiple_of(4), 0);
}

/// A received message: type, flags, and what follows the header.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Message {
    pub kind: u16,
    pub flags: u16,
    pub seq: u32,
    pub body: Vec<u8>,
}

impl Message {
    /// Attributes behind a fixed part of `fixed` bytes.
    pub fn attrs(&self, fixed: usize) -> Attrs<'_> {
        Attrs { bytes: self.body.get(fixed.next_multiple_of(4)..).unwrap_or(&[]) }
    }

    /// The error number in an NLMSG_ERROR or NLMSG_DONE message: 0 is an acknowledgement.
    pub fn errno(&self) -> i32 {
        -(get_u32(&self.body, 0).unwrap_or(0) as i32)
    }
}

/// The messages of one datagram. What is cut off at the end is left out.
pub fn messages(mut bytes: &[u8]) -> Vec<Message> {
    let mut out = Vec::new();
    while let (Some(len), Some(kind), Some(flags), Some(seq)) =
        (get_u32(bytes, 0), get_u16(bytes, 4), get_u16(bytes, 6), get_u32(bytes, 8))
    {
        let len = len as usize;
        let Some(body) = bytes.get(HEADER_BYTES..len) else { break };
        out.push(Message { kind, flags, seq, body: body.to_vec() });
        bytes = bytes.get(len.next_multiple_of(4)..).unwrap_or(&[]);
    }
    out
}

/// Attributes, one after the other: type and value.
#[derive(Clone, Copy, Debug)]
pub struct Attrs<'a> {
    pub bytes: &'a [u8],
}

impl<'a> Iterator for Attrs<'a> {
    type Item = (u16, &'a [u8]);

    fn next(&mut self) -> Option<Self::Item> {
        let len = usize::from(get_u16(self.bytes, 0)?);
        let kind = get_u16(self.bytes, 2)? & TYPE_MASK;
        let value = self.bytes.get(4..len)?;
        self.bytes = self.bytes.get(len.next_multiple_of(4)..).unwrap_or(&[]);
        Some((kind, value))
    }
}

pub fn get_u16(bytes: &[u8], at: usize) -> Option<u16> {
    Some(u16::from_ne_bytes(bytes.get(at..at + 2)?.try_into().ok()?))
}

pub fn get_u32(bytes: &[u8], at: usize) -> Option<u32> {
    Some(u32::from_ne_bytes(bytes.get(at..at + 4)?.try_into().ok()?))
}

/// An address of either family, by its length.
pub fn get_ip(bytes: &[u8]) -> Option<IpAddr> {
    match bytes.len() {
        4 => Some(IpAddr::from(<[u8; 4]>::try_from(bytes).ok()?)),
        16 => Some(IpAddr::from(<[u8; 16]>::try_from(bytes).ok()?)),
        _ => None,
    }
}

/// A string that may end with a zero.
pub fn get_text(bytes: &[u8]) -> String {
    let end = bytes.iter().position(|&b| b == 0).unwrap_or(bytes.len());
    String::from_utf8_lossy(bytes.get(..end).unwrap_or(bytes)).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_built_can_be_walked() {
        let request = Request::new(RTM_GETLINK, NLM_F_ACK, &[7; 16]).attr_text(3, "veth0");
        let bytes = request.attr_u32(4, 1500).attr(1, &[1, 2, 3, 4, 5, 6]).finish(9);
        let mut two = bytes.clone();
        two.extend_from_slice(&bytes);
        let found = messages(&two);
        assert_eq!(found.len(), 2);
        assert_eq!((found[0].kind, found[0].flags, found[0].seq), (18, 5, 9));
        let attrs: Vec<_> = found[1].attrs(16).collect();
        assert_eq!(attrs[0], (3, &b"veth0\0"[..]));
        assert_eq!(get_u32(attrs[1].1, 0), Some(1500));
        assert_eq!(attrs[2], (1, &[1u8, 2, 3, 4, 5, 6][..]));
    }

    #[test]
    fn damaged_messages_end_the_walk() {
        let bytes = Request::new(RTM_GETLINK, 0, &[0; 16]).attr_u32(4, 1).finish(1);
        for cut in 0..bytes.len() {
            assert!(messages(&bytes[..cut]).is_empty(), "{cut}");
        }
        for at in 0..bytes.len() {
            for value in [0, 1, 3, 0x7f, 0xff] {
                let mut bad = bytes.clone();
                bad[at] = value;
                for message in messages(&bad) {
                    assert!(message.attrs(16).count() <= 2);
                }
            }
        }
    }
}
