//! What a bench plays: packets in one block of memory, in an order, in bursts.
//!
//! In file order the entries that the packets meet may lie in memory as they come, and the
//! processor guesses the next one. In stride order the `i`-th packet is number `i * S mod n` of
//! the file, `S` being the least number from 0.618 n on that has no divisor in common with `n`:
//! neighbours in time are far apart in the file, and every pass has every packet once. Each port
//! has its own such order, and whole bursts of the ports alternate, as a worker takes them from
//! the queues of devices that all are busy; a port with fewer packets comes the more rarely, evenly
//! over the pass.

use super::engine::Engine;
use super::{Packet, fresh};
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
        let mut ports: BTreeMap<_, Vec<&Packet>> = BTreeMap::new();
        packets.iter().for_each(|p| ports.entry((p.port.0, p.is_fresh)).or_default().push(p));
        let strides = ports.values().map(|list| {
            let (n, step) = (list.len(), self.step(list.len()));
            (0..n).filter_map(|i| list.get(i * step % n).copied()).collect::<Vec<_>>()
        });
        let strides: Vec<Vec<&Packet>> = strides.collect();
        // The middle of each burst's share of the pass, in 2^32nds of it.
        let bursts = strides.iter().flat_map(|list| {
            let all = list.len().div_ceil(BATCH_MAX) as u64;
            let place = move |i: usize| ((2 * i as u64 + 1) << 31) / all;
            list.chunks(BATCH_MAX).enumerate().map(move |(i, burst)| (place(i), burst))
        });
        let mut bursts: Vec<_> = bursts.collect();
        bursts.sort_by_key(|b| b.0);
        bursts.iter().flat_map(|b| b.1.iter().copied()).collect()
    }
}

/// The packets, each at the start of a cache line, as in a frame.
pub(super) struct Load {
    bytes: Vec<u8>,
    packets: Vec<Place>,
    pub bursts: Vec<Burst>,
}

/// Where a packet lies.
struct Place {
    start: usize,
    len: usize,
    /// What changes with each pass.
    fresh: Option<fresh::Places>,
}

/// Packets of one port, all of them fresh or none.
pub(super) struct Burst {
    pub port: PortIx,
    pub is_fresh: bool,
    pub range: Range<usize>,
}

impl Load {
    pub fn new(list: &[&Packet], order: Order) -> Self {
        let mut load = Self { bytes: Vec::new(), packets: Vec::new(), bursts: Vec::new() };
        for p in order.of(list) {
            let at = load.bytes.len().next_multiple_of(64);
            load.bytes.resize(at, 0);
            load.bytes.extend_from_slice(&p.bytes);
            let fresh = if p.is_fresh { fresh::places(&p.bytes) } else { None };
            load.packets.push(Place { start: at, len: p.bytes.len(), fresh });
            let n = load.packets.len();
            match load.bursts.last_mut() {
                Some(b)
                    if (b.port, b.is_fresh) == (p.port, p.is_fresh)
                        && b.range.len() < BATCH_MAX =>
                {
                    b.range.end = n;
                }
                _ => {
                    let (port, is_fresh) = (p.port, p.is_fresh);
                    load.bursts.push(Burst { port, is_fresh, range: n - 1..n });
                }
            }
        }
        load
    }

    pub fn is_empty(&self) -> bool {
        self.packets.is_empty()
    }

    /// Whether a pass has packets that the one before had not.
    pub fn has_fresh(&self) -> bool {
        self.bursts.iter().any(|b| b.is_fresh)
    }

    /// Each packet of a burst, and what changes in it.
    fn burst(&self, burst: &Burst) -> impl Iterator<Item = (&[u8], Option<fresh::Places>)> {
        let all = self.packets[burst.range.clone()].iter();
        all.map(|p| (&self.bytes[p.start..p.start + p.len], p.fresh))
    }

    /// Copies a burst into fresh frames of the engine, as the `nth` pass has it.
    #[inline]
    pub fn fill(&self, burst: &Burst, nth: u64, e: &mut Engine) {
        let by = fresh::step(nth);
        for (bytes, places) in self.burst(burst) {
            let Some(mut frame) = e.pool.alloc() else { continue };
            frame.copy_from(bytes);
            if let Some(at) = places {
                fresh::freshen(frame.bytes_mut(), at, by);
            }
            if let Err(frame) = e.burst.push(frame) {
                e.pool.free(frame);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn packets(n: usize) -> Vec<Packet> {
        let packet = |i: usize| Packet {
            ts_ns: 0,
            port: PortIx(u16::from(i >= n / 2)),
            is_fresh: false,
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
        let sizes: Vec<_> = load.bursts.iter().map(|b| (b.port.0, b.range.len())).collect();
        let whole = [(0, 32), (1, 32)].repeat(3);
        assert_eq!(sizes, [whole, vec![(0, 4), (1, 4)]].concat());
    }

    #[test]
    fn a_port_with_fewer_packets_comes_evenly_over_the_pass() {
        let mut own = packets(640);
        own.truncate(320 + 64);
        let load = Load::new(&own.iter().collect::<Vec<_>>(), Order::Stride);
        let ports: Vec<_> = load.bursts.iter().map(|b| b.port.0).collect();
        assert_eq!(ports, [0, 0, 0, 1, 0, 0, 0, 0, 0, 1, 0, 0]);
    }

    #[test]
    fn fresh_and_other_packets_of_a_port_are_not_in_one_burst() {
        let mut own = packets(100);
        own.iter_mut().for_each(|p| p.port = PortIx(0));
        own[20..].iter_mut().for_each(|p| p.is_fresh = true);
        for order in [Order::File, Order::Stride] {
            let load = Load::new(&own.iter().collect::<Vec<_>>(), order);
            let mut sizes: Vec<_> =
                load.bursts.iter().map(|b| (b.is_fresh, b.range.len())).collect();
            sizes.sort_unstable();
            assert_eq!(sizes, [(false, 20), (true, 16), (true, 32), (true, 32)]);
            assert!(load.has_fresh());
        }
    }

    #[test]
    fn a_burst_is_of_one_port_and_at_most_a_batch() {
        let own = packets(100);
        let load = Load::new(&own.iter().collect::<Vec<_>>(), Order::File);
        let sizes: Vec<_> = load.bursts.iter().map(|b| (b.port.0, b.range.len())).collect();
        assert_eq!(sizes, [(0, 32), (0, 18), (1, 32), (1, 18)]);
        let bytes: Vec<_> = load.bursts.iter().flat_map(|b| load.burst(b)).map(|p| p.0).collect();
        assert_eq!(bytes, own.iter().map(|p| &p.bytes[..]).collect::<Vec<_>>());
    }
}
