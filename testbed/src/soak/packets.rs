//! Reading the packets that leave, and making those that come.

use sluice_dataplane::packet::build::PacketBuilder;
use std::net::{Ipv4Addr, Ipv6Addr};

pub const TCP: u8 = 6;
pub const UDP: u8 = 17;
pub const ICMP: u8 = 1;
pub const ICMPV6: u8 = 58;

pub const FIN: u16 = 1;
pub const SYN: u16 = 2;
pub const RST: u16 = 4;
pub const PSH: u16 = 8;
pub const ACK: u16 = 16;

const MAC_A: [u8; 6] = [2, 0, 0, 0, 0, 1];
const MAC_B: [u8; 6] = [2, 0, 0, 0, 0, 2];

/// What hosts tell apart.
#[derive(Clone, Debug, Default)]
pub struct Packet {
    pub v6: bool,
    pub src: u128,
    pub dst: u128,
    pub proto: u8,
    /// Of ICMP the type, and the identifier.
    pub sport: u16,
    pub dport: u16,
    pub seq: u32,
    pub ack: u32,
    pub flags: u16,
    /// How long the conversation goes on; travels in the six upper bits of the traffic class.
    pub hops: u8,
    pub payload: Vec<u8>,
}

fn be16(b: &[u8], at: usize) -> Option<u16> {
    Some(u16::from_be_bytes(*b.get(at..)?.first_chunk()?))
}

fn be32(b: &[u8], at: usize) -> Option<u32> {
    Some(u32::from_be_bytes(*b.get(at..)?.first_chunk()?))
}

impl Packet {
    /// Reads a whole TCP, UDP or echo packet; of anything else hosts know nothing.
    pub fn read(frame: &[u8]) -> Option<Self> {
        let ip = frame.get(14..)?;
        let mut p = Self::default();
        let l4 = match be16(frame, 12)? {
            0x0800 => {
                // No options, no fragment.
                if *ip.first()? != 0x45 || be16(ip, 6)? & 0x3fff != 0 {
                    return None;
                }
                (p.src, p.dst) = (be32(ip, 12)?.into(), be32(ip, 16)?.into());
                (p.proto, p.hops) = (*ip.get(9)?, ip.get(1)? >> 2);
                ip.get(20..usize::from(be16(ip, 2)?))?
            }
            0x86dd => {
                p.v6 = true;
                let address = |at: usize| Some(u128::from_be_bytes(*ip.get(at..)?.first_chunk()?));
                (p.src, p.dst) = (address(8)?, address(24)?);
                (p.proto, p.hops) = (*ip.get(6)?, (be16(ip, 0)? >> 6 & 0x3f) as u8);
                ip.get(40..40 + usize::from(be16(ip, 4)?))?
            }
            _ => return None,
        };
        p.read_l4(l4)?;
        Some(p)
    }

    fn read_l4(&mut self, l4: &[u8]) -> Option<()> {
        (self.sport, self.dport) = (be16(l4, 0)?, be16(l4, 2)?);
        let header = match self.proto {
            TCP => {
                (self.seq, self.ack) = (be32(l4, 4)?, be32(l4, 8)?);
                self.flags = be16(l4, 12)? & 0x3f;
                usize::from(l4.get(12)? >> 4) * 4
            }
            UDP => 8,
            ICMP | ICMPV6 => {
                (self.sport, self.dport) = (u16::from(*l4.first()?), be16(l4, 4)?);
                8
            }
            _ => return None,
        };
        self.payload.extend_from_slice(l4.get(header..)?);
        Some(())
    }

    /// What an answer goes by: everything turned round, numbers gone on.
    pub fn turned(&self) -> Self {
        let len = self.payload.len() as u32 + u32::from(self.flags & (SYN | FIN) != 0);
        Self {
            v6: self.v6,
            src: self.dst,
            dst: self.src,
            proto: self.proto,
            sport: self.dport,
            dport: self.sport,
            seq: self.ack,
            ack: self.seq.wrapping_add(len),
            flags: ACK,
            hops: self.hops.saturating_sub(1),
            payload: Vec::new(),
        }
    }

    fn network(&self) -> PacketBuilder {
        let b = PacketBuilder::eth(MAC_A, MAC_B);
        let b = match self.v6 {
            true => b.ipv6(Ipv6Addr::from_bits(self.src), Ipv6Addr::from_bits(self.dst)),
            false => {
                b.ipv4(Ipv4Addr::from_bits(self.src as u32), Ipv4Addr::from_bits(self.dst as u32))
            }
        };
        b.tos(self.hops << 2)
    }

    pub fn build(&self) -> Vec<u8> {
        let b = self.network();
        let b = match self.proto {
            TCP => b.tcp(self.sport, self.dport).seq(self.seq).ack(self.ack).flags(self.flags),
            UDP => b.udp(self.sport, self.dport),
            _ => {
                let [a, c] = self.dport.to_be_bytes();
                b.icmp(self.sport as u8, 0, [a, c, 0, 1])
            }
        };
        b.payload(&self.payload).build()
    }

    /// An error of this packet's receiver about `frame`.
    pub fn error_about(&self, frame: &[u8]) -> Vec<u8> {
        let (kind, code) = if self.v6 { (1, 4) } else { (3, 3) };
        self.turned().network().icmp_error(kind, code, [0; 4], frame).build()
    }

    /// The same in pieces of `size` bytes, a multiple of eight.
    pub fn fragments(&self, id: u32, size: usize) -> Vec<Vec<u8>> {
        let whole = self.build();
        let l4 = whole.get(if self.v6 { 54 } else { 34 }..).unwrap_or_default();
        let pieces = l4.chunks(size.max(8)).enumerate();
        let last = l4.len().div_ceil(size.max(8)) - 1;
        let piece = |(n, bytes): (usize, &[u8])| {
            let b = self.network().proto(self.proto);
            b.fragment(id, (n * size) as u16, n < last).payload(bytes).build()
        };
        pieces.map(piece).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_built_is_read() {
        for v6 in [false, true] {
            for proto in [TCP, UDP, if v6 { ICMPV6 } else { ICMP }] {
                let payload = b"what is said".to_vec();
                let (src, dst, hops) = (7, 9, 33);
                let (seq, ack, flags) =
                    if proto == TCP { (70_000, 80_000, ACK | PSH) } else { (0, 0, 0) };
                let (sport, dport) = (128, 2000);
                let p =
                    Packet { v6, src, dst, proto, sport, dport, seq, ack, flags, hops, payload };
                let read = Packet::read(&p.build()).unwrap();
                assert_eq!(format!("{read:?}"), format!("{p:?}"));
                assert!(Packet::read(&p.fragments(7, 16)[0]).is_none());
            }
        }
    }
}
