//! The 16 bytes that make a packet measurable.
//!
//! ```text
//! 0  mark "SG"    2  flow (32 bits)    6  number in the flow (32)    10  sent, ns (48)
//! ```
//! All in network byte order. The time wraps after 78 hours, which no packet spends on its way.

pub const PROBE_BYTES: usize = 16;
const MARK: [u8; 2] = *b"SG";
const TIME_MASK: u64 = (1 << 48) - 1;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Probe {
    pub flow: u32,
    pub number: u32,
    /// The low 48 bits of the sender's clock.
    pub sent_ns: u64,
}

impl Probe {
    pub fn encode(self) -> [u8; PROBE_BYTES] {
        let mut out = [0; PROBE_BYTES];
        out[0..2].copy_from_slice(&MARK);
        out[2..6].copy_from_slice(&self.flow.to_be_bytes());
        out[6..10].copy_from_slice(&self.number.to_be_bytes());
        out[10..16].copy_from_slice(&self.sent_ns.to_be_bytes()[2..8]);
        out
    }

    pub fn decode(payload: &[u8]) -> Option<Self> {
        let payload = payload.strip_prefix(&MARK)?;
        let (flow, payload) = payload.split_first_chunk()?;
        let (number, payload) = payload.split_first_chunk()?;
        let [a, b, c, d, e, f] = *payload.first_chunk()?;
        Some(Self {
            flow: u32::from_be_bytes(*flow),
            number: u32::from_be_bytes(*number),
            sent_ns: u64::from_be_bytes([0, 0, a, b, c, d, e, f]),
        })
    }

    /// How long it was on its way; 0 when the clocks say it came before it left.
    pub fn latency_ns(self, now_ns: u64) -> u64 {
        let behind = now_ns.wrapping_sub(self.sent_ns) & TIME_MASK;
        if behind > TIME_MASK / 2 { 0 } else { behind }
    }
}

/// The payload of a UDP packet in an Ethernet frame, whatever its VLAN tags; `None` for all else.
pub fn udp_payload(frame: &[u8]) -> Option<&[u8]> {
    let (_, mut rest) = frame.split_at_checked(12)?;
    loop {
        let (kind, after) = rest.split_first_chunk::<2>()?;
        match u16::from_be_bytes(*kind) {
            0x8100 | 0x88a8 => rest = after.get(2..)?,
            0x0800 => return udp_in_ipv4(after),
            0x86dd => return udp_in_ipv6(after),
            _ => return None,
        }
    }
}

fn udp_in_ipv4(packet: &[u8]) -> Option<&[u8]> {
    let (header, _) = packet.split_first_chunk::<20>()?;
    let total = usize::from(u16::from_be_bytes([header[2], header[3]]));
    let later_fragment = u16::from_be_bytes([header[6], header[7]]) & 0x1fff != 0;
    if header[9] != 17 || later_fragment {
        return None;
    }
    // The frame may be padded; the header's length counts.
    packet.get(usize::from(header[0] & 15) * 4..total).and_then(|udp| udp.get(8..))
}

fn udp_in_ipv6(packet: &[u8]) -> Option<&[u8]> {
    let (header, rest) = packet.split_first_chunk::<40>()?;
    let len = usize::from(u16::from_be_bytes([header[4], header[5]]));
    if header[6] != 17 {
        return None;
    }
    rest.get(..len).and_then(|udp| udp.get(8..))
}
