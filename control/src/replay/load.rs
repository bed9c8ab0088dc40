//! What a bench plays: packets in one block of memory, in an order, in bursts.
//!
//! In file order the entries that the packets meet may lie in memory as they come, and the
//! processor guesses the next one. In stride order the `i`-th packet is number `i * S mod n` of
//! the file, `S` being the least number from 0.618 n on that has no divisor in common with `n`:
//! neighbours in time are far apart in the file, and every pass has every packet once. Each port
//! has its own such order, and whole bursts of the ports alternate, as a worker takes them from
//! the queues of devices that all are busy.

use super::Packet;
use sluice_dataplane::limits::BATCH_MAX;
use sluice_dataplane::packet::key::PortIx;
use std::collections::BTreeMap;
use std::ops::Range;

/// In which order the packets come, pass after pass.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, clap::ValueEnum, serde::Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Order {
    /// As in the files
    #[default]
    File,
    /// Each packet far from the one before it
    Stride,
}

impl Order {
    fn step(self, n: usize) -> usize {
        let gcd = |mut a: usize, mut b: usize| {
            while b != 0 {
                (a, b) = (b, a % b);
            }
            a
        };
        match self {
            Self::File => 1,
            Self::Stride => {
                let least = (n as f64 * 0.618_033_988_7).ceil() as usize;
                (least..n).find(|s| gcd(*s, n) == 1).unwrap_or(1)
            }
        }
    }

    fn of<'a>(self, packets: &[&'a Packet]) -> Vec<&'a Packet> {
        if self == Self::File {
            return packets.to_vec();
        }
        let mut ports: BTreeMap<u16, Vec<&Packet>> = BTreeMap::new();
        packets.iter().for_each(|p| ports.entry(p.port.0).or_default().push(p));
        let strides = ports.values().map(|list| {
            let (n, step) = (list.len(), self.step(list.len()));
            (0..n).filter_map(|i| list.get(i * step % n).copied()).collect::<Vec<_>>()
        });
        let strides: Vec<Vec<&Packet>> = strides.collect();
        let mut queues: Vec<_> = strides.iter().map(|list| list.chunks(BATCH_MAX)).collect();
        let mut out = Vec::with_capacity(packets.len());
        while out.len() < packets.len() {
            queues.iter_mut().filter_map(Iterator::next).for_each(|burst| out.extend(burst));
        }
        out
    }
}

/// The packets, each at the start of a cache line, as in a frame.
pub(super) struct Load {
    bytes: Vec<u8>,
    /// Start and length of each packet.
    packets: Vec<(usize, usize)>,
    /// Port and packets of each burst: a burst is of one port.
    pub bursts: Vec<(PortIx, Range<usize>)>,
}

impl Load {
    pub fn new(list: &[&Packet], order: Order) -> Self {
        let mut load = Self { bytes: Vec::new(), packets: Vec::new(), bursts: Vec::new() };
        for p in order.of(list) {
            let at = load.bytes.len().next_multiple_of(64);
            load.bytes.resize(at, 0);
            load.bytes.extend_from_slice(&p.bytes);
            load.packets.push((at, p.bytes.len()));
            let n = load.packets.len();
            match load.bursts.last_mut() {
                Some((port, range)) if *port == p.port && range.len() < BATCH_MAX => range.end = n,
                _ => load.bursts.push((p.port, n - 1..n)),
            }
        }
        load
    }

    pub fn is_empty(&self) -> bool {
        self.packets.is_empty()
    }

    /// The bytes of each packet of a burst.
    pub fn burst(&self, range: &Range<usize>) -> impl Iterator<Item = &[u8]> {
        self.packets[range.clone()].iter().map(|(at, len)| &self.bytes[*at..*at + *len])
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn packets(n: usize) -> Vec<Packet> {
        let packet = |i: usize| Packet {
            ts_ns: 0,
            port: PortIx(u16::from(i >= n / 2)),
            bytes: (i as u32).to_be_bytes().to_vec(),
        };
        (0..n).map(packet).collect()
    }

    #[test]
    fn every_order_has_every_packet_once() {
        for n in [1, 2, 3, 64, 97, 1000] {
            let own = packets(n);
            let list: Vec<&Packet> = own.iter().collect();
            let mut seen: Vec<_> = Order::Stride.of(&list).iter().map(|p| &p.bytes).collect();
            assert_eq!(seen[0], &own[0].bytes);
            assert!(n < 64 || seen[1] != &own[1].bytes, "{n}: the second is not a neighbour");
            seen.sort();
            assert_eq!(seen, own.iter().map(|p| &p.bytes).collect::<Vec<_>>(), "{n}");
        }
        assert_eq!(Order::Stride.step(1000), 619);
        assert!(Load::new(&[], Order::Stride).is_empty());
    }

    #[test]
    fn bursts_of_ports_alternate() {
        let own: Vec<Packet> = packets(200);
        let load = Load::new(&own.iter().collect::<Vec<_>>(), Order::Stride);
        let sizes: Vec<_> = load.bursts.iter().map(|(p, r)| (p.0, r.len())).collect();
        let whole = [(0, 32), (1, 32)].repeat(3);
        assert_eq!(sizes, [whole, vec![(0, 4), (1, 4)]].concat());
    }

    #[test]
    fn a_burst_is_of_one_port_and_at_most_a_batch() {
        let own = packets(100);
        let load = Load::new(&own.iter().collect::<Vec<_>>(), Order::File);
        let sizes: Vec<_> = load.bursts.iter().map(|(p, r)| (p.0, r.len())).collect();
        assert_eq!(sizes, [(0, 32), (0, 18), (1, 32), (1, 18)]);
        let bytes: Vec<_> = load.bursts.iter().flat_map(|(_, r)| load.burst(r)).collect();
        assert_eq!(bytes, own.iter().map(|p| &p.bytes[..]).collect::<Vec<_>>());
    }
}
