//! Packets of connections that nobody has seen yet, pass after pass, without a file of millions.
//!
//! A `--fresh` packet comes in each pass with another source port: the pass's number is added to it
//! in ones' complement, so that the port is never 0 and the same again only after 65535 passes, and
//! the checksum takes the same sum (RFC 1624, equation 3). The cost is two words read and written a
//! packet; the floor has it too. `benches/peer/memrx.c` does the same to the same bytes.

use super::{Packet, ReplayError};

const ETHERNET: usize = 14;
const TCP: u8 = 6;
const UDP: u8 = 17;

/// Passes after which ports come again.
const PERIOD: u64 = 0xffff;

/// What the `nth` pass adds.
pub(super) fn step(nth: u64) -> u16 {
    (nth % PERIOD) as u16
}

/// Where a packet has what changes.
#[derive(Clone, Copy, Debug)]
pub(super) struct Places {
    /// Source port, where the layer 4 header begins.
    port: usize,
    sum: usize,
}

/// `None` of what cannot be made fresh.
pub(super) fn places(bytes: &[u8]) -> Option<Places> {
    let is_ipv4 = bytes.get(12..15).is_some_and(|t| t[..2] == [8, 0] && t[2] >> 4 == 4);
    let port = ETHERNET + usize::from(*bytes.get(ETHERNET)? & 0xf) * 4;
    let sum = match *bytes.get(ETHERNET + 9)? {
        TCP => port + 16,
        UDP => port + 6,
        _ => return None,
    };
    (is_ipv4 && bytes.len() >= sum + 2).then_some(Places { port, sum })
}

/// Refuses what cannot be made fresh.
pub(super) fn check(packet: &Packet) -> Result<(), ReplayError> {
    places(&packet.bytes).map(|_| ()).ok_or(ReplayError::NotFresh)
}

fn add(a: u16, b: u16) -> u16 {
    let sum = u32::from(a) + u32::from(b);
    ((sum & 0xffff) + (sum >> 16)) as u16
}

fn change(bytes: &mut [u8], at: usize, f: impl FnOnce(u16) -> u16) {
    if let Some(word) = bytes.get_mut(at..).and_then(|b| b.first_chunk_mut()) {
        *word = f(u16::from_be_bytes(*word)).to_be_bytes();
    }
}

/// Adds to the source port of the packet that has these places.
#[inline]
pub(super) fn freshen(bytes: &mut [u8], at: Places, by: u16) {
    change(bytes, at.port, |v| add(v, by));
    // In UDP a sum of 0 says that there is none; the other zero stands for it.
    change(bytes, at.sum, |v| match !add(!v, by) {
        0 => 0xffff,
        v => v,
    });
}

#[cfg(test)]
mod tests {
    use super::*;
    use sluice_dataplane::packet::key::PortIx;

    fn sum_at(b: &[u8]) -> usize {
        if b[23] == TCP { 38 + 16 } else { 38 + 6 }
    }

    /// IPv4 with an option word, and a layer 4 packet of 20 bytes with its sum filled in.
    fn packet(proto: u8, src_port: u16) -> Vec<u8> {
        let mut b = vec![0; 14 + 24 + 20];
        b[12] = 8;
        b[14] = 0x46;
        b[23] = proto;
        b[26..34].copy_from_slice(&[10, 1, 2, 3, 198, 18, 255, 9]);
        b[38..40].copy_from_slice(&src_port.to_be_bytes());
        b[40] = 7;
        let sum = sum_at(&b);
        let value = match !whole_sum(&b) {
            0 => 0xffff,
            v => v,
        };
        b[sum..sum + 2].copy_from_slice(&value.to_be_bytes());
        b
    }

    /// The sum of the pseudo header's addresses, protocol and length, and of layer 4: all ones if
    /// the checksum is right.
    fn whole_sum(b: &[u8]) -> u16 {
        let words = b[26..34].chunks(2).chain(b[38..].chunks(2));
        let sum = words.fold(0, |s, w| add(s, u16::from_be_bytes([w[0], w[1]])));
        add(sum, add(u16::from(b[23]), 20))
    }

    #[test]
    fn every_pass_has_a_port_of_its_own_and_a_right_sum() {
        for proto in [TCP, UDP] {
            for src_port in [1, 1024, 40_000, 0xfffe, 0xffff] {
                let plain = packet(proto, src_port);
                let mut seen = std::collections::HashSet::new();
                for nth in 0..PERIOD {
                    let mut b = plain.clone();
                    freshen(&mut b, places(&plain).unwrap(), step(nth));
                    assert_eq!(whole_sum(&b), 0xffff, "{proto} {src_port} {nth}");
                    let sum = sum_at(&b);
                    assert_ne!(b[sum..sum + 2], [0, 0]);
                    assert_ne!(b[38..40], [0, 0]);
                    assert!(seen.insert([b[38], b[39]]));
                }
                let mut again = plain.clone();
                freshen(&mut again, places(&plain).unwrap(), step(PERIOD));
                assert_eq!(again, plain);
            }
        }
    }

    #[test]
    fn what_has_no_ports_is_refused() {
        let given =
            |bytes: Vec<u8>| check(&Packet { ts_ns: 0, port: PortIx(0), is_fresh: true, bytes });
        assert!(given(packet(UDP, 5)).is_ok() && given(packet(TCP, 5)).is_ok());
        let mut icmp = packet(UDP, 5);
        icmp[23] = 1;
        let wrong = [icmp, packet(UDP, 5)[..43].to_vec(), packet(TCP, 5)[..53].to_vec()];
        for bytes in wrong.into_iter().chain([Vec::new(), vec![0x86; 60]]) {
            assert!(matches!(given(bytes), Err(ReplayError::NotFresh)));
        }
    }
}
