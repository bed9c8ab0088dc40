//! From a packet in the making to bytes.

use super::{Checksum, Net, PacketBuilder, Transport};
use crate::wire::checksum::{Sum, pseudo_v4, pseudo_v6};
use crate::wire::udp::Udp;
use crate::wire::{ether, icmp, ipv6, mpls, proto, sctp, tcp};
use zerocopy::IntoBytes;

impl PacketBuilder {
    /// The frame, with the padding that a wire would add.
    pub fn padded(self) -> Vec<u8> {
        let mut frame = self.build();
        frame.resize(frame.len().max(ether::FRAME_MIN_BYTES), 0);
        frame
    }

    /// The frame.
    pub fn build(self) -> Vec<u8> {
        let l4 = self.transport_bytes();
        let mut out = [self.dst, self.src].concat();
        for (tpid, tci) in &self.tags {
            out.extend(tpid.to_be_bytes());
            out.extend(tci.to_be_bytes());
        }
        let eth_type = self.eth_type.unwrap_or(match self.net {
            _ if !self.labels.is_empty() => ether::TYPE_MPLS,
            Net::None => 0x88b5,
            Net::V4(..) => ether::TYPE_IPV4,
            Net::V6(_) => ether::TYPE_IPV6,
            Net::Arp(_) => ether::TYPE_ARP,
        });
        out.extend(eth_type.to_be_bytes());
        for (n, lse) in self.labels.iter().enumerate() {
            let bottom = if n + 1 == self.labels.len() { mpls::BOS } else { 0 };
            out.extend((lse | bottom).to_be_bytes());
        }
        self.push_net(&mut out, l4.len());
        out.extend(l4);
        out
    }

    /// The frame cut into IP fragments of at most `data_max` bytes of data each, a multiple of
    /// eight. Tags and extension headers before are kept.
    pub fn fragments(self, id: u32, data_max: usize) -> Vec<Vec<u8>> {
        let data = self.transport_bytes();
        let step = data_max & !7;
        let count = data.len().div_ceil(step);
        data.chunks(step)
            .enumerate()
            .map(|(n, part)| {
                let mut one = self.clone();
                one.transport = Transport::Other(self.ip_proto());
                one.payload = part.to_vec();
                one.fragment(id, (n * step) as u16, n + 1 < count).build()
            })
            .collect()
    }

    fn ip_proto(&self) -> u8 {
        match self.transport {
            Transport::None => proto::NO_NEXT,
            Transport::Other(number) => number,
            Transport::Tcp(..) => proto::TCP,
            Transport::Udp(_) => proto::UDP,
            Transport::Sctp(_) => proto::SCTP,
            Transport::Icmp(_) if self.is_v6() => proto::ICMPV6,
            Transport::Icmp(_) => proto::ICMP,
        }
    }

    fn is_later_fragment(&self) -> bool {
        match &self.net {
            Net::V4(ip, _) => ip.is_later_fragment(),
            Net::V6(_) => self.extensions.iter().any(|(kind, bytes)| {
                *kind == proto::FRAGMENT
                    && u16::from_be_bytes([bytes[2], bytes[3]]) & ipv6::FRAGMENT_OFFSET != 0
            }),
            Net::None | Net::Arp(_) => false,
        }
    }

    fn push_net(&self, out: &mut Vec<u8>, l4_len: usize) {
        match &self.net {
            Net::None => {}
            Net::Arp(arp) => out.extend(arp.as_bytes()),
            Net::V4(ip, options) => {
                let mut ip = *ip;
                ip.proto = self.ip_proto();
                ip.total_len.set((ip.header_len() + l4_len) as u16);
                ip.checksum = [0; 2];
                let header = [ip.as_bytes(), options].concat();
                ip.checksum = Sum::of(&header).checksum();
                out.extend(ip.as_bytes());
                out.extend(options);
            }
            Net::V6(ip) => {
                let mut ip = *ip;
                let extensions: usize = self.extensions.iter().map(|(_, b)| b.len()).sum();
                ip.payload_len.set((extensions + l4_len) as u16);
                ip.next_header = self.extensions.first().map_or(self.ip_proto(), |(k, _)| *k);
                out.extend(ip.as_bytes());
                for (n, (_, bytes)) in self.extensions.iter().enumerate() {
                    out.push(self.extensions.get(n + 1).map_or(self.ip_proto(), |(k, _)| *k));
                    out.extend(&bytes[1..]);
                }
            }
        }
    }

    /// Transport header and payload, with the checksum.
    fn transport_bytes(&self) -> Vec<u8> {
        if self.is_later_fragment() {
            return self.payload.clone();
        }
        let (header, field_at) = match &self.transport {
            Transport::None | Transport::Other(_) => return self.payload.clone(),
            Transport::Tcp(header, options) => {
                ([header.as_bytes(), options].concat(), tcp::CHECKSUM_AT)
            }
            Transport::Udp(header) => {
                let mut header = *header;
                header.len.set((size_of::<Udp>() + self.payload.len()) as u16);
                (header.as_bytes().to_vec(), crate::wire::udp::CHECKSUM_AT)
            }
            Transport::Sctp(header) => {
                let mut bytes = [header.as_bytes(), &self.payload].concat();
                if self.checksum == Checksum::Full {
                    let crc = sctp::crc32c(&bytes);
                    bytes[sctp::CHECKSUM_AT..sctp::HEADER_BYTES].copy_from_slice(&crc);
                }
                return bytes;
            }
            Transport::Icmp(header) => (header.as_bytes().to_vec(), icmp::CHECKSUM_AT),
        };
        let mut bytes = [&header[..], &self.payload].concat();
        let pseudo = self.pseudo(bytes.len() as u16);
        let field = match (self.checksum, &self.transport) {
            (Checksum::None, _) => [0; 2],
            (Checksum::Partial, _) => pseudo.folded_bytes(),
            (Checksum::Full, Transport::Udp(_)) => pseudo.plus(Sum::of(&bytes)).udp_checksum(),
            (Checksum::Full, _) => pseudo.plus(Sum::of(&bytes)).checksum(),
        };
        bytes[field_at..field_at + 2].copy_from_slice(&field);
        bytes
    }

    fn pseudo(&self, len: u16) -> Sum {
        match &self.net {
            Net::V4(ip, _) if !matches!(self.transport, Transport::Icmp(_)) => {
                pseudo_v4(&ip.src, &ip.dst, self.ip_proto(), len)
            }
            Net::V6(ip) => pseudo_v6(&ip.src, &ip.dst, self.ip_proto(), len),
            _ => Sum::ZERO,
        }
    }
}
